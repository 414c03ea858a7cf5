"""The way back: panoramas out of the views that split360 made of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightmill.errors import ChangedConfig, InputError, UsageError


def directions(width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Yaw [W] and degrees below the horizon [H, 1] of a panorama's pixel centres, in degrees."""
    yaw = ((np.arange(width) + 0.5) / width - 0.5) * 360
    down = ((np.arange(width // 2) + 0.5) / (width // 2) - 0.5)[:, None] * 180
    return yaw, down


@pytest.fixture
def full(split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path) -> Any:
    """full18 of two panoramas, in views of 128 x 128, lossless."""
    write_waves(tmp_path / "in" / "a.png", seed=1)
    write_waves(tmp_path / "in" / "walk" / "b.png", seed=2)
    return split(tmp_path / "in", rig="full18", size="128x128", format="png")


@pytest.mark.parametrize("where", ["images", ""])
def test_views_give_their_panorama_back(
    where: str, full: Any, join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    joined = join(full.out / where, rig=str(full.out / "rig.json"), width=256)
    assert list(joined.rows) == ["a.png", "walk/b.png"]
    assert joined.result.ok == 2
    for key, seed in (("a.png", 1), ("walk/b.png", 2)):
        truth = write_waves(tmp_path / "again.png", seed=seed).panorama(256).astype(float)
        assert joined.rows[key]["outputs"] == {"file": key}
        picture = joined.open(key, "file")
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (256, 128))
        difference = np.abs(np.asarray(picture) - truth)
        assert difference.mean() < 0.5
        assert difference.max() <= 4


@pytest.mark.parametrize("size", ["128x128", "96x64"])
def test_width_is_by_default_as_fine_as_the_views(
    size: str, split: Callable[..., Any], join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    """2 pi f, as an even number: a pixel in the middle of a view is a pixel of the panorama."""
    waves = write_waves(tmp_path / "a.png", seed=3)
    made = split(tmp_path / "a.png", rig="full18", size=size, format="png")
    joined = join(made.out / "images", rig=str(made.out / "rig.json"))
    width, height = joined.open("a.png", "file").size
    assert width == 2 * height
    assert abs(width - 2 * np.pi * made.rig["cameras"][0]["fx"]) <= 1
    assert np.abs(joined.view("a.png", "file") - waves.panorama(width).astype(float)).mean() < 0.7


def test_the_courtyard_there_and_back(courtyard: Any, split: Callable[..., Any], join: Callable[..., Any]) -> None:
    """A picture with edges: what two interpolations take from it, and no more."""
    options = {"rig": "full18", "size": "320x320", "format": "png", "masks": str(courtyard.masks)}
    made = split(courtyard.path, **options)
    joined = join(made.out / "images", rig=str(made.out / "rig.json"), width=1024)
    difference = np.abs(joined.view("courtyard.png", "file").astype(float) - courtyard.truth.pixels)
    assert difference.mean() < 3
    assert np.median(difference) <= 1
    by_a_pixel = np.abs(np.roll(joined.view("courtyard.png", "file").astype(float), 1, axis=1) - courtyard.truth.pixels)
    assert by_a_pixel.mean() > 1.5 * difference.mean()
    masks = join(made.out / "masks", "masks", rig=str(made.out / "rig.json"), width=1024, kind="mask")
    mask = masks.mask("courtyard.png", "file")
    assert set(np.unique(mask)) == {0, 255}
    assert (mask != courtyard.truth.mask).mean() < 0.004
    assert (courtyard.truth.mask == 0).mean() > 0.01  # who walks behind the camera


def test_masks_of_the_folder_that_split360_made(
    split: Callable[..., Any], join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    """OUT as a whole may be given, as for pictures; directions that no camera sees are kept."""
    write_waves(tmp_path / "a.jpg")
    (tmp_path / "given").mkdir()
    yaw, down = directions(256)
    dropped = (np.abs(yaw - 30) < 40) & (down > -20)
    Image.fromarray(np.where(dropped, np.uint8(0), np.uint8(255))).save(tmp_path / "given" / "a.png")
    made = split(tmp_path / "a.jpg", rig="horizon4", size="128x128", masks=str(tmp_path / "given"))
    joined = join(made.out, rig=str(made.out / "rig.json"), kind="mask", width=256)
    mask = joined.mask("a.png", "file")
    assert joined.open("a.png", "file").format == "PNG"
    is_sure = (np.abs(np.abs(yaw - 30) - 40) > 2) & (np.abs(down + 20) > 2)
    unseen = np.abs(down) > 50  # of every view at most 45 degrees up and down
    seen = np.abs(down) < 34
    assert np.array_equal((mask == 0)[is_sure & seen], dropped[is_sure & seen])
    assert (mask[np.broadcast_to(unseen, mask.shape)] == 255).all()


@pytest.mark.parametrize("naming", ["key", "index"])
def test_flat_layout(
    naming: str, split: Callable[..., Any], join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "in" / "walk" / "b.png", seed=2)
    made = split(tmp_path / "in", rig="cube6", size="128x128", format="png", layout="flat", naming=naming)
    joined = join(made.out / "images", rig=str(made.out / "rig.json"), width=256)
    key = "walk/b.png" if naming == "key" else "00000.png"
    assert list(joined.rows) == [key]
    assert np.abs(joined.view(key, "file") - waves.panorama(256).astype(float)).mean() < 0.6


def test_a_missing_view_is_recovered_from_the_others_and_said(
    full: Any, join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for lost in ("cam03/a.png", "cam09/a.png"):
        (full.out / "images" / lost).unlink()
    joined = join(full.out / "images", rig=str(full.out / "rig.json"), width=256)
    assert (joined.result.ok, joined.result.recovered, joined.result.exit_code) == (1, 1, 0)
    row = joined.rows["a.png"]
    assert (row["status"], row["error"]) == ("recovered", "there is no view of cam03, cam09")
    truth = write_waves(tmp_path / "again.png", seed=1).panorama(256).astype(float)
    picture = joined.open("a.png", "file")
    assert picture.mode == "RGB"  # their neighbours saw everything too
    assert np.abs(np.asarray(picture) - truth).mean() < 0.5


def test_a_view_of_another_size_fails_alone(full: Any, join: Callable[..., Any]) -> None:
    path = full.out / "images" / "cam05" / "a.png"
    Image.open(path).resize((64, 64)).save(path)
    joined = join(full.out / "images", rig=str(full.out / "rig.json"), width=256)
    assert (joined.result.ok, joined.result.failed, joined.result.exit_code) == (1, 1, 3)
    row = joined.rows["a.png"]
    assert (row["status"], row["stage"], row["outputs"]) == ("failed", "join", {})
    assert row["error"] == (
        "the view of cam05 is 64x64, and the rig says 128x128; give the rig.json of the run that made the views"
    )


def test_a_view_that_is_no_picture_fails_alone(full: Any, join: Callable[..., Any]) -> None:
    (full.out / "images" / "cam05" / "a.png").write_bytes(b"no picture")
    joined = join(full.out / "images", rig=str(full.out / "rig.json"), width=256)
    assert (joined.result.ok, joined.rows["a.png"]["status"]) == (1, "failed")


@pytest.mark.parametrize(("form", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("tiff", "RGBA"), ("jpg", "RGB")])
def test_what_no_camera_sees_is_transparent_or_black(
    form: str,
    mode: str,
    split: Callable[..., Any],
    join: Callable[..., Any],
    write_waves: Callable[..., Any],
    tmp_path: Path,
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=4)
    made = split(tmp_path / "a.png", rig="horizon4", size="128x96", format="png")
    joined = join(made.out / "images", rig=str(made.out / "rig.json"), width=256, format=form)
    (path,) = joined.rows["a.png"]["outputs"].values()
    assert path == f"a.{form}"
    picture = joined.open("a.png", "file")
    assert picture.mode == mode
    yaw, down = directions(256)
    aside = (yaw + 45) % 90 - 45  # from the axis of the camera that sees it best
    reach = np.degrees(np.arctan(np.cos(np.radians(aside)) * 48 / 64))  # the border of a view, 96/128 high
    seen, unseen = np.abs(down) < reach - 1, np.abs(down) > reach + 1
    pixels = np.asarray(picture.convert("RGBA"))
    if mode == "RGBA":
        assert (pixels[seen][:, 3] == 255).all()
        assert (pixels[unseen][:, 3] == 0).all()
    else:
        assert pixels[unseen][:, :3].mean() < 3
    assert np.abs(pixels[seen][:, :3] - waves.panorama(256)[seen].astype(float)).mean() < 3


def test_a_preset_takes_the_size_of_the_views(
    split: Callable[..., Any], join: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png", seed=4)
    made = split(tmp_path / "a.png", rig="cube6", size="80x80", format="png")
    by_name = join(made.out / "images", "by-name", rig="cube6", width=256)
    by_file = join(made.out / "images", "by-file", rig=str(made.out / "rig.json"), width=256)
    assert (by_name.out / "a.png").read_bytes() == (by_file.out / "a.png").read_bytes()


def test_folders_that_hold_no_views_are_refused(full: Any, join: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*absent; give the folder `images` or `masks`"):
        join(tmp_path / "absent", rig="full18")
    (tmp_path / "other").mkdir()
    shutil.copytree(full.out / "images" / "cam00", tmp_path / "other" / "front")
    with pytest.raises(
        InputError, match="other holds no views of the cameras cam00, cam01, cam02, cam03, …; is it the right rig"
    ):
        join(tmp_path / "other", rig="full18")
    with pytest.raises(UsageError, match=r"no rig is called 'full81'\. Did you mean full18"):
        join(full.out / "images", rig="full81")
    assert not (tmp_path / "joined").exists()


def test_the_same_again_does_nothing_and_another_rig_is_refused(full: Any, join: Callable[..., Any]) -> None:
    rig_json = full.out / "rig.json"
    joined = join(full.out / "images", rig=str(rig_json), width=256)
    stamps = {name: (joined.out / name).stat().st_mtime_ns for name in joined.files}
    join(full.out / "images", rig=str(rig_json), width=256)
    assert {name: (joined.out / name).stat().st_mtime_ns for name in joined.files} == stamps
    rig = json.loads(rig_json.read_text("utf-8"))
    rig["name"] = "another"
    rig_json.write_text(json.dumps(rig))
    with pytest.raises(ChangedConfig, match=r"the content of rig has changed\. Choose another OUT, or start anew"):
        join(full.out / "images", rig=str(rig_json), width=256)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 1}, "--width 1: input should be greater than or equal to 2"),
        ({"width": 70000}, "--width 70000: input should be less than or equal to 65500"),
        ({"kind": "depth"}, "--kind 'depth': input should be 'image' or 'mask'"),
        ({}, "rig"),
    ],
)
def test_options_out_of_bounds(options: dict[str, Any], says: str, full: Any, join: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=says):
        join(full.out / "images", **({"rig": "full18"} if options else {}), **options)
