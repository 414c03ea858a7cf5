"""Relief against half spheres, a sparse solver, planes and spheres seen by a pinhole, and brute-force horizons."""

import math

import cv2
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from lightmill.ops.relief import ambient_occlusion, inflate, normals_from_depth, normals_from_height, shading_detail

Doubles = NDArray[np.float64]


def centres(rows: int, columns: int) -> tuple[Doubles, Doubles]:
    """Pixel centres: right and down, from the first pixel's corner."""
    down, right = np.mgrid[:rows, :columns] + 0.5
    return right, down


def disc(shape: tuple[int, int], *, middle: tuple[float, float], radius: float) -> NDArray[np.uint8]:
    right, down = centres(*shape)
    return np.where((right - middle[0]) ** 2 + (down - middle[1]) ** 2 < radius**2, 255, 0).astype(np.uint8)


def blob(side: int) -> NDArray[np.uint8]:
    """Something with necks, arms and islands."""
    noise = np.random.default_rng(4).random((side, side)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), side / 20)
    smooth[:, : side // 16] = 0
    return np.where(smooth > np.quantile(smooth, 0.55), 255, 0).astype(np.uint8)


def degrees_between(a: NDArray[np.floating], b: Doubles) -> Doubles:
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


# ---------------------------------------------------------------------------------------------------------------------
# inflation


@pytest.mark.parametrize(
    ("shape", "middle", "radius"),
    [((256, 256), (131, 123), 90), ((701, 900), (400, 360), 300), ((1024, 1024), (512, 500), 380)],
    ids=["256", "701x900", "1024"],
)
def test_a_disc_becomes_a_half_sphere(shape: tuple[int, int], middle: tuple[float, float], radius: float) -> None:
    right, down = centres(*shape)
    x, y = (right - middle[0]) / radius, (middle[1] - down) / radius
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    height = inflate(disc(shape, middle=middle, radius=radius))
    assert height.dtype == np.float32
    inside = x * x + y * y < 0.95**2  # away from the rim
    assert np.abs(height / radius - z)[inside].max() < 0.03
    off = degrees_between(normals_from_height(height), np.stack([x, y, z], -1))
    assert off[inside].max() < 4
    assert off[inside].mean() < 0.6
    assert (height[x * x + y * y >= 1] == 0).all()


def test_against_a_sparse_solver() -> None:
    """The same equation on the same nine pixels, solved directly; beyond the frame lies the frame's own pixel."""
    mask = blob(128)
    row, column = np.nonzero(mask)
    index = np.full(mask.shape, -1)
    index[row, column] = np.arange(row.size)
    system = scipy.sparse.lil_matrix((row.size, row.size))
    for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        neighbour = index[np.clip(row + down, 0, 127), np.clip(column + right, 0, 127)]
        here, there = np.flatnonzero(neighbour >= 0), neighbour[neighbour >= 0]
        system[np.arange(row.size), np.arange(row.size)] = system.diagonal() + 1 / 3
        system[here, there] = system[here, there].toarray()[0] - 1 / 3
    u = scipy.sparse.linalg.spsolve(system.tocsc(), np.full(row.size, 4.0))
    height = inflate(mask)
    assert np.abs(height[row, column] - np.sqrt(u)).max() < 0.005 * math.sqrt(u.max())
    assert not height[mask == 0].any()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_masks_give_turned_heights(turns: int) -> None:
    mask = blob(256)
    height = inflate(mask)
    np.testing.assert_allclose(inflate(np.rot90(mask, turns).copy()), np.rot90(height, turns), atol=1e-3 * height.max())


def test_twice_the_size_is_twice_the_height() -> None:
    small = disc((200, 300), middle=(140, 90), radius=60)
    large = disc((800, 1200), middle=(560, 360), radius=240)
    shrunk = cv2.resize(inflate(large), (300, 200), interpolation=cv2.INTER_AREA) / 4
    inner = disc((200, 300), middle=(140, 90), radius=55) > 0
    assert np.abs(inflate(small) - shrunk)[inner].max() < 0.03 * 60


def test_the_frame_does_not_round_a_shape_off() -> None:
    """A disc cut in half by the frame is half of what the whole disc is."""
    whole = inflate(disc((256, 256), middle=(128, 128), radius=90))
    half = inflate(disc((128, 256), middle=(128, 128), radius=90))
    assert np.abs(half - whole[:128]).max() < 0.03 * 90
    np.testing.assert_allclose(half[-1, 64:192], whole[127, 64:192], rtol=0.01)


def test_bulge_scales_the_height() -> None:
    mask = disc((64, 64), middle=(32, 32), radius=20)
    np.testing.assert_allclose(inflate(mask, bulge=0.5), 0.5 * inflate(mask), rtol=1e-6)


def test_an_empty_mask_is_flat_and_a_full_one_a_gentle_sheet() -> None:
    assert not inflate(np.full((40, 50), 127, np.uint8), detail_from=np.ones((40, 50), np.float32)).any()
    normals = normals_from_height(inflate(np.full((301, 401), 255, np.uint8)))
    np.testing.assert_allclose(normals[150, 200], [0, 0, 1], atol=1e-4)
    lean = np.degrees(np.arccos(normals[..., 2]))
    assert lean[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx(30, abs=0.3)
    assert lean.max() < 30.3
    assert normals[0, 200, 1] > 0.2  # the top faces up
    assert normals[150, -1, 0] > 0.2  # the right side faces right


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (17, 3), (40, 1000)], ids=str)
def test_masks_of_any_shape_give_finite_heights(shape: tuple[int, int]) -> None:
    mask = np.full(shape, 255, np.uint8)
    mask[0, 0] = 0
    height = inflate(mask, detail_from=np.zeros(shape, np.float32))
    assert height.shape == shape
    assert np.isfinite(height).all()
    assert height[0, 0] == 0
    assert (height >= 0).all()
    assert np.isfinite(ambient_occlusion(height)).all()


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask is uint8 \[H, W\], got bool \[4, 5\]"):
        inflate(np.ones((4, 5), bool))  # type: ignore[arg-type] # what is refused
    with pytest.raises(ValueError, match=r"luminance must be \[4, 5\] as the mask is, got \[5, 4\]"):
        inflate(np.ones((4, 5), np.uint8), detail_from=np.ones((5, 4), np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# detail


@pytest.mark.parametrize("cell", [1, 2, 5, 11])
def test_the_slope_of_detail_is_bounded_even_for_black_and_white_noise(cell: int) -> None:
    noise = np.random.default_rng(cell).integers(0, 2, (600 // cell + 1, 800 // cell + 1)).astype(np.float32)
    luminance = np.ascontiguousarray(np.kron(noise, np.ones((cell, cell), np.float32))[:600, :800])
    detail = shading_detail(luminance, mask=np.full((600, 800), 255, np.uint8), max_slope=0.2)
    along_rows, along_columns = np.gradient(detail)
    steepest = np.hypot(along_rows, along_columns).max()
    assert steepest <= 0.2 * 1.01
    assert steepest > 0.03


def test_detail_is_fine_is_bright_up_and_does_not_know_the_exposure() -> None:
    right, down = centres(500, 500)
    gradual = 0.1 + 0.4 * right / 500
    spot = np.exp(-((right - 250) ** 2 + (down - 250) ** 2) / (2 * 2.5**2))
    mask = disc((500, 500), middle=(250, 250), radius=200)
    luminance = (gradual * (1 + spot)).astype(np.float32)
    luminance[mask == 0] = 1  # a bright background has no part in it
    detail = shading_detail(luminance, mask=mask, max_slope=0.25)
    assert detail[250, 250] > 4 * np.abs(detail[50:200, 100:400][mask[50:200, 100:400] > 0]).max()
    assert (detail[mask == 0] == 0).all()
    np.testing.assert_allclose(shading_detail(luminance / 2, mask=mask, max_slope=0.25), detail, atol=2e-5)


def test_inflate_adds_detail_inside_only() -> None:
    mask = disc((300, 300), middle=(150, 150), radius=100)
    luminance = np.random.default_rng(0).random((300, 300)).astype(np.float32)
    plain, detailed = inflate(mask), inflate(mask, detail_from=luminance)
    np.testing.assert_allclose(detailed - plain, shading_detail(luminance, mask=mask, max_slope=0.25), atol=1e-4)
    assert np.array_equal(inflate(mask, detail_from=luminance, max_detail_slope=0), plain)


# ---------------------------------------------------------------------------------------------------------------------
# normals


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normals_of_planes_are_exact_to_the_frame(dtype: type) -> None:
    right, down = centres(7, 9)
    normals = normals_from_height((0.75 * right - 2.0 * down).astype(dtype))
    assert normals.dtype == dtype
    expected = np.array([-0.75, -2.0, 1.0]) / math.sqrt(0.75**2 + 2**2 + 1)  # it rises to the right and up
    np.testing.assert_allclose(
        normals, np.broadcast_to(expected, normals.shape), atol=1e-14 if dtype is np.float64 else 1e-6
    )


@pytest.mark.parametrize("width", [64, 512], ids=str)
@pytest.mark.parametrize("normal", [(0, 0, 1), (0.6, 0, 0.8), (-0.3, 0.7, 0.65), (0.1, -0.8, 0.6)], ids=str)
def test_a_plane_seen_by_a_pinhole_at_any_resolution(width: int, normal: tuple[float, float, float]) -> None:
    """Depth of a slanted plane 3 m away: a ramp over the whole range of depths, never nearly flat."""
    n = np.array(normal) / np.linalg.norm(normal)
    height, focal = width * 3 // 4, 1.2 * width
    right, down = centres(height, width)
    rays = np.stack([(right - width / 2) / focal, (height / 2 - down) / focal, -np.ones_like(right)], -1)
    depth = -3 * n[2] / (rays @ n)  # where n·(depth * ray) = n·(0, 0, -3)
    assert (depth > 0).all()
    normals, heights = normals_from_depth(depth, focal_px=focal)
    np.testing.assert_allclose(normals, np.broadcast_to(n, normals.shape), atol=1e-9)
    assert normals.dtype == np.float64
    assert heights.dtype == np.float32
    metres, _ = normals_from_depth(1000 * depth, focal_px=focal)
    np.testing.assert_allclose(metres, normals, atol=1e-9)


def test_a_sphere_seen_by_a_pinhole_off_its_axis() -> None:
    side, focal, principal = 400, 500.0, (180.0, 230.0)
    middle, radius = np.array([0.2, 0.1, -4.0]), 1.0
    right, down = centres(side, side)
    rays = np.stack([(right - principal[0]) / focal, (principal[1] - down) / focal, -np.ones_like(right)], -1)
    a, b = (rays * rays).sum(-1), rays @ middle
    under_root = b * b - a * (middle @ middle - radius**2)
    depth = np.where(under_root > 0, (b - np.sqrt(np.maximum(under_root, 0))) / a, 6.0)
    expected = (rays * depth[..., None] - middle) / radius
    facing = (under_root > 0) & (expected[..., 2] > 0.5)
    normals, height = normals_from_depth(depth, focal_px=focal, principal_px=principal)
    assert facing.mean() > 0.1
    assert degrees_between(normals, expected)[facing].max() < 0.2
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-9)
    assert height[facing].min() > height[under_root <= 0].max()  # near is high
    single, _ = normals_from_depth(depth.astype(np.float32), focal_px=focal, principal_px=principal)
    assert single.dtype == np.float32
    assert degrees_between(single, expected)[facing].max() < 0.3


def test_height_from_depth_is_in_pixels_at_the_median_depth() -> None:
    depth = np.full((11, 11), 2.0)
    depth[5, 5] = 1.5
    _, height = normals_from_depth(depth, focal_px=100.0)
    assert height[0, 0] == 0
    assert height[5, 5] == pytest.approx(0.5 * 100 / 2)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_depths_that_are_none_are_refused(bad: float) -> None:
    depth = np.ones((4, 4))
    depth[1, 2] = bad
    with pytest.raises(ValueError, match="depths must be finite and above 0"):
        normals_from_depth(depth, focal_px=10)
    with pytest.raises(ValueError, match="focal length must be above 0 px, got 0"):
        normals_from_depth(np.ones((4, 4)), focal_px=0)


# ---------------------------------------------------------------------------------------------------------------------
# ambient occlusion


@pytest.mark.parametrize("slope", [(0, 0), (0.5, -1.5)], ids=["flat", "slanted"])
@pytest.mark.parametrize("shape", [(200, 150), (900, 1200)], ids=str)
def test_planes_are_open(slope: tuple[float, float], shape: tuple[int, int]) -> None:
    right, down = centres(*shape)
    plane = (slope[0] * right + slope[1] * down).astype(np.float32)
    np.testing.assert_allclose(ambient_occlusion(plane), 1, atol=1e-3)


def test_the_middle_of_a_round_pit_sees_the_sky_above_its_rim() -> None:
    """Radius r, depth d: 1 / (1 + (d / r)²); coarse steps see the rim a little late."""
    for radius, depth in ((10, 10), (12, 24), (14, 7)):
        pit = np.where(disc((256, 256), middle=(128.5, 128.5), radius=radius) > 0, -depth, 0).astype(np.float32)
        seen = ambient_occlusion(pit, radius_share=0.07)
        assert seen[128, 128] == pytest.approx(1 / (1 + (depth / radius) ** 2), abs=0.13)
        assert seen[20, 20] == 1
    hill = ambient_occlusion(-pit)
    assert hill[128, 128] == 1


def test_occlusion_against_dense_horizons() -> None:
    """Points of rolling ground, by 64 directions and every half pixel."""
    noise = np.random.default_rng(2).standard_normal((96, 96)).astype(np.float32)
    ground = cv2.GaussianBlur(noise, (0, 0), 4) * 60
    radius = 0.08 * math.hypot(96, 96)
    seen = ambient_occlusion(ground, radius_share=0.08)
    along_rows, along_columns = np.gradient(ground)
    for row, column in np.random.default_rng(3).integers(16, 80, (40, 2)):
        total = 0.0
        for angle in np.arange(64) * (2 * np.pi / 64):
            lengths = np.arange(1, radius, 0.5)
            x = (column + lengths * np.cos(angle)).astype(np.float32)
            y = (row + lengths * np.sin(angle)).astype(np.float32)
            there = cv2.remap(ground, x[None], y[None], cv2.INTER_LINEAR)[0]
            slope = along_columns[row, column] * np.cos(angle) + along_rows[row, column] * np.sin(angle)
            horizon = max(0.0, ((there - ground[row, column]) / lengths - slope).max())
            total += 1 / (1 + horizon**2)
        assert seen[row, column] == pytest.approx(total / 64, abs=0.06)


def test_the_border_of_a_mask_is_no_valley() -> None:
    mask = disc((800, 800), middle=(400, 380), radius=250)
    height = inflate(mask)
    assert ambient_occlusion(height)[mask > 0].min() < 0.7
    assert ambient_occlusion(height, mask=mask)[mask > 0].min() > 0.9


def test_strength_blends_with_one() -> None:
    pit = -100 * np.exp(-(((np.mgrid[:200, :200] - 100) / 12) ** 2).sum(0)).astype(np.float32)
    full = ambient_occlusion(pit)
    np.testing.assert_allclose(ambient_occlusion(pit, strength=0.25), 1 - 0.25 * (1 - full), atol=1e-6)
    assert (ambient_occlusion(pit, strength=0) == 1).all()
