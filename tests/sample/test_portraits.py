"""Sample portraits: what they say about themselves holds, pixel by pixel."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightmill.errors import OutputError, UsageError
from lightmill.ops.srgb import to_levels
from lightmill.sample.__main__ import main
from lightmill.sample.portraits import SUBJECTS, portrait, write_portraits


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


def test_the_command_writes_what_the_function_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some"
    assert main(["portraits", str(folder), "--count", "3", "--size", "64x48", "--seed", "7"]) == 0
    table, masks = folder / "portraits.csv", folder / "masks"
    assert capsys.readouterr().out == f"wrote 3 portraits, {table}, and their masks in {masks}\n"
    expected = tmp_path / "expected"
    write_portraits(expected, 3, seed=7, size=(64, 48))
    files = sorted(path.relative_to(expected) for path in expected.rglob("*.*"))
    assert files == sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(files) == 3 + 3 + 1
    assert all((folder / file).read_bytes() == (expected / file).read_bytes() for file in files)


def test_the_command_is_found_by_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightmill.sample", "portraits", str(tmp_path), "--size", "31x32"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: a portrait is 32x32 or larger, got 31x32\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--count", "0"], "a whole number from 1 on is wanted, got '0'"),
        (["--seed", "-1"], "a whole number from 0 on is wanted, got '-1'"),
        (["--count", "many"], "a whole number from 1 on is wanted, got 'many'"),
        (["--size", "64"], "a size is written WIDTHxHEIGHT, as in 1920x1080, got '64'"),
        (["--seconds", "3"], "unrecognized arguments: --seconds 3"),
    ],
)
def test_what_the_command_does_not_take(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["portraits", str(tmp_path / "some"), *given])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "some").exists()


def test_the_help_of_the_clip_tells_of_portraits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m lightmill.sample portraits FOLDER" in " ".join(capsys.readouterr().out.split())
