"""Sample portraits: what they say about themselves holds, pixel by pixel."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightmill.errors import OutputError, UsageError
from lightmill.ops.srgb import to_levels
from lightmill.sample.portraits import SUBJECTS, Ellipsoid, Turned, portrait, write_portraits

ELLIPSOID = Ellipsoid((0.1, -0.2, 0.3), (0.5, 0.3, 0.4), roll=0.6)
CONE = Turned((0.1, -0.4, 0.2), 0.8, (0.4, 0.15), roll=-0.3)
VASE = Turned((0.0, -0.4, 0.0), 0.9, (0.2, 0.4, 0.35, 0.15))


def grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[-0.6:0.6:49j, -0.6:0.6:53j].astype(np.float32)
    return x.ravel(), y.ravel()


def test_an_ellipsoid_is_where_its_equation_holds() -> None:
    x, y = grid()
    z = ELLIPSOID.top(x, y)
    met = np.isfinite(z)
    off = np.stack([x, y, z], axis=1)[met].astype(float) - ELLIPSOID.at
    c, s = np.cos(0.6), np.sin(0.6)
    own = np.stack([c * off[:, 0] + s * off[:, 1], c * off[:, 1] - s * off[:, 0], off[:, 2]], axis=1)
    np.testing.assert_allclose(((own / ELLIPSOID.radii) ** 2).sum(axis=1), 1, atol=1e-4)
    dx, dy = x.astype(float) - 0.1, y.astype(float) + 0.2
    assert np.array_equal(met, ((c * dx + s * dy) / 0.5) ** 2 + ((c * dy - s * dx) / 0.3) ** 2 <= 1)


def test_a_cone_is_where_its_equation_holds() -> None:
    x, y = grid()
    z = CONE.top(x, y)
    dx, dy = x.astype(float) - 0.1, y.astype(float) + 0.4
    c, s = np.cos(-0.3), np.sin(-0.3)
    across, up = c * dx + s * dy, (c * dy - s * dx) / 0.8
    room = (0.4 - 0.25 * up) ** 2 - across**2
    inside = (room > 0) & (up > 0) & (up < 1)
    assert (np.isfinite(z) != inside).mean() < 1e-3
    both = inside & np.isfinite(z)
    np.testing.assert_allclose((z[both] - 0.2) ** 2, room[both], atol=1e-5)


@pytest.mark.parametrize("solid", [ELLIPSOID, CONE, VASE])
def test_normals_are_across_the_surface_and_the_bound_holds_it(solid: Ellipsoid | Turned) -> None:
    x, y = grid()
    z = solid.top(x, y)
    left, right, low, high = solid.bound
    met = np.isfinite(z)
    assert met.sum() > 200
    assert left <= x[met].min() <= x[met].max() <= right
    assert low <= y[met].min() <= y[met].max() <= high
    step = np.float32(2e-3)
    with np.errstate(invalid="ignore"):  # beside it: -inf less -inf
        slope_x = (solid.top(x + step, y) - solid.top(x - step, y)) / (2 * step)
        slope_y = (solid.top(x, y + step) - solid.top(x, y - step)) / (2 * step)
    steep = np.stack([-slope_x, -slope_y, np.ones_like(x)])
    flat = met & (np.abs(slope_x) < 1.5) & (np.abs(slope_y) < 1.5)
    assert flat.sum() > 100
    normal = solid.normal(x[flat], y[flat], z[flat])
    cosine = (steep[:, flat] * normal).sum(0) / np.linalg.norm(steep[:, flat], axis=0) / np.linalg.norm(normal, axis=0)
    assert cosine.min() > 0.999


def test_equal_seeds_make_equal_pictures_and_others_do_not() -> None:
    one, again, other = (portrait(seed, size_wh=(96, 96)) for seed in (3, 3, 4))
    assert np.array_equal(one.pixels, again.pixels)
    assert np.array_equal(one.mask, again.mask)
    assert not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_picture_is_albedo_times_shading(subject: str) -> None:
    made = portrait(5, size_wh=(160, 128), subject=subject)
    assert made.subject == subject
    assert made.pixels.shape == (128, 160, 3)
    assert np.array_equal(made.pixels, to_levels(made.albedo * made.shading))
    assert (made.albedo.dtype, made.shading.dtype, made.normals.dtype) == (np.float32,) * 3
    assert 0 < made.albedo.min() <= made.albedo.max() < 1
    assert 0 < made.shading.min() <= made.shading.max() <= 1 + 1e-6
    assert 0.03 < (made.mask >= 128).mean() < 0.8
    np.testing.assert_allclose(np.linalg.norm(made.normals, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_the_mask_is_the_share_that_a_finer_picture_shows(seed: int) -> None:
    coarse, fine = (portrait(seed, size_wh=(side, side)).mask for side in (96, 768))
    expected = fine.reshape(96, 8, 96, 8).mean(axis=(1, 3))
    off = np.abs(coarse - expected)
    assert off.max() <= 0.06 * 255  # 89 rays, and tips that no centre of a pixel meets
    assert off.mean() < 0.15
    assert ((coarse > 0) & (coarse < 255)).sum() > 100


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_normals_are_those_of_the_height(seed: int) -> None:
    made = portrait(seed, size_wh=(384, 384))
    down, right = np.gradient(made.height)
    slope = np.stack([-right, down, np.ones_like(right)], axis=-1)
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    inside = cv2.erode(made.mask, np.ones((9, 9), np.uint8)) == 255
    agrees = (slope * made.normals).sum(axis=-1) > 0.995
    assert agrees[inside].mean() > 0.9  # not where two parts meet
    behind = made.mask == 0
    assert (made.height[behind] == 0).all()
    assert (made.normals[behind] == (0, 0, 1)).all()


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_shading_is_lamberts(seed: int) -> None:
    made = portrait(seed, size_wh=(256, 256))
    span = cv2.dilate(made.normals, np.ones((5, 5))) - cv2.erode(made.normals, np.ones((5, 5)))
    within = (cv2.erode(made.mask, np.ones((5, 5), np.uint8)) == 255) & (span.max(axis=-1) < 0.4)  # one part
    assert within.mean() > 0.1
    normals, shading = made.normals[within].astype(float), made.shading[within].astype(float)
    lit = shading[:, 1] > shading[:, 1].min() + 0.05
    design = np.column_stack([normals, np.ones(len(normals))])
    fit = np.linalg.lstsq(design[lit], shading[lit], rcond=None)[0]  # lamp's colour times its direction, and ambient
    off = np.abs(np.maximum(normals @ fit[:3], 0) + fit[3] - shading)
    assert (off < 5e-3).mean() > 0.995  # the rest are eyes and the like, smaller than what was kept clear of edges
    assert np.linalg.matrix_rank(fit[:3], tol=0.02) == 1


def test_persons_are_cut_off_at_the_bottom() -> None:
    for seed in range(6):
        for size_wh in ((96, 96), (80, 140), (140, 80)):
            mask = portrait(seed, size_wh=size_wh, subject="person").mask
            assert (mask[-1] == 255).mean() > 0.2
            assert mask[0].max() == 0


def test_seeds_give_variety() -> None:
    made = [portrait(seed, size_wh=(48, 48)) for seed in range(40)]
    assert {each.subject for each in made} == set(SUBJECTS)
    colours = np.array([each.pixels[each.mask == 255].mean(axis=0) for each in made])
    assert colours.std(axis=0).min() > 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size_wh": (31, 100)}, "32x32 or larger, got 31x100"),
        ({"subject": "dragon"}, "no subject 'dragon'; there are"),
    ],
)
def test_what_makes_no_portrait_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        portrait(1, **given)


def test_a_folder_of_portraits(tmp_path: Path) -> None:
    written = write_portraits(tmp_path / "one", 6, seed=10, size=(128, 96))
    assert [path.name for path in written] == [f"portrait_{i:03d}.jpg" for i in range(6)]
    with (tmp_path / "one" / "portraits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_path", "subject", "split"]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val", "train"]
    for i, row in enumerate(rows):
        true = portrait(10 + i, size_wh=(128, 96))
        pixels = cv2.imread(str(tmp_path / "one" / row["image_path"]))[..., ::-1].astype(int)
        mask = cv2.imread(str(tmp_path / "one" / "masks" / f"portrait_{i:03d}.png"), cv2.IMREAD_UNCHANGED)
        assert row["subject"] == true.subject
        assert np.abs(pixels - true.pixels).mean() < 4
        assert np.array_equal(mask, true.mask)
    write_portraits(tmp_path / "two", 6, seed=10, size=(128, 96), table=False)
    for path in written:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert not (tmp_path / "two" / "portraits.csv").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot make the folder .*; choose another one"):
        write_portraits(tmp_path / "file", 1)
