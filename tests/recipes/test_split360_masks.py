"""Masks of panoramas, cut with the rig of the views: where they are looked for, and how they are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightmill.errors import UsageError


def band(width: int = 256, *, above: float = 0.0) -> NDArray[np.uint8]:
    """[H, W] 255 where a panorama looks more than `above` degrees below the horizon, else 0."""
    down = ((np.arange(width // 2) + 0.5) / (width // 2) - 0.5) * 180
    return np.repeat(np.where(down > above, np.uint8(255), np.uint8(0))[:, None], width, axis=1)


def below(
    camera: dict[str, Any], size: list[int], *, above: float = 0.0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[h, w] which pixels of a view look more than `above` degrees down, and which are sure of it by 1.5 degrees."""
    x = (np.arange(size[0]) + 0.5 - camera["cx"]) / camera["fx"]
    y = ((np.arange(size[1]) + 0.5 - camera["cy"]) / camera["fy"])[:, None]
    rays = np.stack(np.broadcast_arrays(x, y, 1.0), axis=-1) @ np.array(camera["pano_from_cam"]).T
    down = np.degrees(np.arcsin(rays[..., 1] / np.linalg.norm(rays, axis=-1)))
    return down > above, np.abs(down - above) > 1.5


def check(made: Any, key: str, *, above: float = 0.0, keep: int = 255) -> None:
    """Every mask of an item is the band, as its camera sees it."""
    for camera in made.rig["cameras"]:
        wanted, is_sure = below(camera, made.rig["size"], above=above)
        mask = made.mask(key, f"{camera['name']}_mask")
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal((mask == keep)[is_sure], wanted[is_sure])


@pytest.mark.parametrize(
    "where",
    [
        "walk/a.png",
        "walk/a.jpg.png",
        "walk/a_mask.png",
        "walk/a.mask.png",
        "walk/a.jpg_mask.png",
        "a.png",
        "a_mask.tif",
    ],
)
def test_masks_are_found_under_the_names_that_people_give_them(
    where: str, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "walk" / "a.jpg")
    path = tmp_path / "masks" / where
    path.parent.mkdir(parents=True)
    Image.fromarray(band(above=10)).save(path)
    made = split(tmp_path / "in", rig="cube6", masks=str(tmp_path / "masks"))
    check(made, "walk/a.jpg", above=10)
    row = made.rows["walk/a.jpg"]
    assert "mask" not in row["meta"]
    assert row["outputs"]["cam00"] == "images/cam00/walk/a.jpg"
    assert row["outputs"]["cam00_mask"] == "masks/cam00/walk/a.png"


def test_each_picture_gets_the_mask_of_its_own_sub_folder(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for folder, above in (("one", -20.0), ("two", 20.0)):
        write_waves(tmp_path / "in" / folder / "a.jpg")
        (tmp_path / "masks" / folder).mkdir(parents=True)
        Image.fromarray(band(above=above)).save(tmp_path / "masks" / folder / "a.png")
    made = split(tmp_path / "in", rig="cube6", masks=str(tmp_path / "masks"))
    check(made, "one/a.jpg", above=-20)
    check(made, "two/a.jpg", above=20)


def test_a_picture_without_a_mask_is_kept_whole_and_the_manifest_says_so(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("masked.jpg", "bare.jpg"):
        write_waves(tmp_path / "in" / name)
    (tmp_path / "masks").mkdir()
    Image.fromarray(band()).save(tmp_path / "masks" / "masked.png")
    made = split(tmp_path / "in", rig="horizon4", masks=str(tmp_path / "masks"))
    assert made.result.ok == 2
    assert made.rows["bare.jpg"]["meta"]["mask"] == "none found, all kept"
    assert "mask" not in made.rows["masked.jpg"]["meta"]
    assert all((made.mask("bare.jpg", f"cam0{i}_mask") == 255).all() for i in range(4))
    check(made, "masked.jpg")


@pytest.mark.parametrize("layout", ["by-camera", "flat"])
@pytest.mark.parametrize(
    ("naming", "form", "ending"), [("stem", "jpg", "png"), ("colmap", "jpg", "jpg.png"), ("colmap", "tiff", "tiff.png")]
)
def test_masks_are_named_as_trainers_look_for_them(
    layout: str,
    naming: str,
    form: str,
    ending: str,
    split: Callable[..., Any],
    write_waves: Callable[..., Any],
    tmp_path: Path,
) -> None:
    write_waves(tmp_path / "walk" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(band()).save(tmp_path / "masks" / "a.png")
    options = {"masks": str(tmp_path / "masks"), "mask_naming": naming, "format": form, "layout": layout}
    made = split(tmp_path / "walk", rig="horizon4", **options)
    assert made.rows["a.png"]["outputs"]["cam01_mask"] == (
        f"masks/cam01/a.{ending}" if layout == "by-camera" else f"masks/a_cam01.{ending}"
    )
    picture = made.open("a.png", "cam01_mask")
    assert (picture.format, picture.size) == ("PNG", (64, 48))


def test_polarity(split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path) -> None:
    write_waves(tmp_path / "a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(band()).save(tmp_path / "masks" / "a.png")
    for polarity, keep in (("keep-white", 255), ("keep-black", 0)):
        made = split(tmp_path / "a.jpg", polarity, rig="cube6", masks=str(tmp_path / "masks"), mask_polarity=polarity)
        check(made, "a.jpg", keep=keep)


def test_alpha_of_the_input_is_its_mask(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    waves = write_waves(tmp_path / "in" / "plain.png", seed=2)
    clear = np.dstack([waves.panorama(256), band(above=-15)])
    Image.fromarray(clear).save(tmp_path / "in" / "clear.png")
    made = split(tmp_path / "in", rig="cube6", masks="alpha", format="png")
    check(made, "clear.png", above=-15)
    assert all((made.mask("plain.png", f"cam0{i}_mask") == 255).all() for i in range(6))
    for camera in made.rig["cameras"]:  # the colours are not multiplied by it
        assert np.array_equal(made.view("clear.png", camera["name"]), made.view("plain.png", camera["name"]))
    assert made.open("clear.png").mode == "RGB"


def test_masks_may_be_of_another_size_than_their_panorama(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.jpg", width=256)
    (tmp_path / "masks").mkdir()
    Image.fromarray(band(1024, above=5)).save(tmp_path / "masks" / "a.png")
    check(split(tmp_path / "a.jpg", rig="cube6", masks=str(tmp_path / "masks")), "a.jpg", above=5)


def test_grey_levels_of_a_mask_are_its_own(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    """Nearest neighbour: no level comes out that did not go in."""
    write_waves(tmp_path / "a.jpg")
    (tmp_path / "masks").mkdir()
    levels = np.random.default_rng(1).choice(np.array([0, 90, 200, 255], np.uint8), (128, 256))
    Image.fromarray(levels).save(tmp_path / "masks" / "a.png")
    made = split(tmp_path / "a.jpg", rig="cube6", masks=str(tmp_path / "masks"))
    found = np.concatenate([made.mask("a.jpg", f"cam0{i}_mask").ravel() for i in range(6)])
    assert set(found.tolist()) == {0, 90, 200, 255}


def test_a_damaged_mask_fails_its_picture_and_is_named(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_waves(tmp_path / "in" / name)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(band()).save(tmp_path / "masks" / f"{name}.png")
    whole = (tmp_path / "masks" / "b.jpg.png").read_bytes()
    (tmp_path / "masks" / "b.jpg.png").write_bytes(whole[: len(whole) // 2])
    made = split(tmp_path / "in", rig="horizon4", masks=str(tmp_path / "masks"))
    row = made.rows["b.jpg"]
    assert (made.result.ok, row["status"], row["stage"]) == (1, "failed", "read mask")
    assert row["error"].startswith("its mask b.jpg.png cannot be read: ")
    assert row["outputs"] == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"--masks .*masks: there is no such folder \(or write `--masks alpha` for the input's own alpha\)"),
        ("nothing", r"--masks .*masks: there is no picture in it"),
        ("notes.txt", r"--masks .*masks: there is no picture in it"),
    ],
)
def test_a_folder_without_masks_is_refused_before_anything_is_written(
    content: str | None, says: str, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.jpg")
    if content:
        (tmp_path / "masks").mkdir()
    if content == "notes.txt":
        (tmp_path / "masks" / content).write_text("x")
    with pytest.raises(UsageError, match=says):
        split(tmp_path / "a.jpg", masks=str(tmp_path / "masks"))
    assert not (tmp_path / "out").exists()


def test_frames_of_a_video_find_their_masks_by_the_name_of_their_views(
    shared_data: Path, split: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    Image.fromarray(band()).save(tmp_path / "masks" / "theta_00000_000.png")
    clip = shared_data / "pano" / "theta.mp4"
    made = split(clip, rig="horizon4", masks=str(tmp_path / "masks"), fps=2, limit=2)
    first, second = made.rows
    check(made, first)
    assert made.rows[first]["outputs"]["cam02_mask"] == "masks/cam02/theta_00000_000.png"
    assert made.rows[second]["meta"]["mask"] == "none found, all kept"
