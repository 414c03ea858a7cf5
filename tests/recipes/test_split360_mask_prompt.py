"""Masks that a model makes inside `split360`: in the views or in the panorama, on the CPU or as batches."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.recipes.colours import RED, Colours, is_colour, painted
from tests.recipes.conftest import Made

from lightmill.engine.run import run
from lightmill.engine.stages import Fan
from lightmill.errors import UsageError
from lightmill.ops.masks import moved
from lightmill.recipes.split360 import MODEL_OPTIONS, Split360

DISCS = ((0.0, 0.5, 0.12, RED), (0.3, 0.75, 0.1, RED), (0.6, 0.2, 0.1, RED))
CAMERAS = [f"cam{number:02d}" for number in range(6)]


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    """in/walk/a.png: grey, with a red disc across the seam and two others; in/b.png: grey."""
    (tmp_path / "in" / "walk").mkdir(parents=True)
    Image.fromarray(painted(256, 512, *DISCS)).save(tmp_path / "in" / "walk" / "a.png")
    Image.fromarray(painted(256, 512)).save(tmp_path / "in" / "b.png")
    return tmp_path / "in"


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Any]:
    """`found(source, segmenter, out="out", **options)`: split360 with that segmenter, views in PNG."""

    def do(source: Path, segmenter: Any, out: str = "out", device: str = "cpu", **options: Any) -> Any:
        plain = {"rig": "cube6", "size": "96x96", "format": "png", "mask_model": "x", "device": "cpu"}
        recipe = Split360.from_values({"progress": "none", "threads": 2} | plain | options)
        job = recipe.job_with(segmenter, source, tmp_path / out)
        if device != "cpu":
            pipeline = partial(recipe.pipeline, recipe.resolved_rig(), None, segmenter, video=False, device=device)
            job = replace(job, make_pipeline=pipeline, device=device)
        return Made(run(job, recipe.run_options()))

    return do


def removed(made: Any, key: str) -> dict[str, Any]:
    """Camera -> [h, w] bool, where its mask is 0."""
    masks = {camera: made.mask(key, f"{camera}_mask") for camera in CAMERAS}
    assert all(set(np.unique(mask)) <= {0, 255} for mask in masks.values())
    return {camera: mask == 0 for camera, mask in masks.items()}


# --- where it is looked for ------------------------------------------------------------------------------------------


def test_in_the_views_what_they_show_is_removed(panorama: Path, found: Callable[..., Any]) -> None:
    made = found(panorama, Colours())
    for camera, mask in removed(made, "walk/a.png").items():
        view = made.view("walk/a.png", camera).astype(int)
        assert np.array_equal(mask, np.abs(view - RED).max(axis=2) <= 24), camera
    assert made.rows["walk/a.png"]["outputs"]["cam00_mask"] == "masks/cam00/walk/a.png"
    assert made.rows["walk/a.png"]["meta"]["found"] >= 3
    assert not any(mask.any() for mask in removed(made, "b.png").values())
    assert made.rows["b.png"]["meta"]["found"] == 0


def test_in_the_panorama_masks_are_those_of_a_folder(
    panorama: Path, found: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    made = found(panorama, Colours(), mask_on="pano")
    assert made.rows["walk/a.png"]["meta"]["found"] == 3  # that across the seam is one
    (tmp_path / "masks").mkdir()
    inside = is_colour(painted(256, 512, *DISCS), RED)
    Image.fromarray(np.where(inside, np.uint8(0), np.uint8(255))).save(tmp_path / "masks" / "a.png")
    options = {"rig": "cube6", "size": "96x96", "format": "png"}
    given = split(panorama, "given", masks=str(tmp_path / "masks"), **options)
    assert made.contents.keys() == given.contents.keys()
    names = [name for name in made.contents if name.startswith(("images/", "masks/"))]
    assert len(names) == 2 * 12
    assert all(made.contents[name] == given.contents[name] for name in names)


@pytest.mark.parametrize("mask_on", ["views", "pano"])
def test_growth_is_a_share_of_what_is_looked_at(mask_on: str, panorama: Path, found: Callable[..., Any]) -> None:
    plain = removed(found(panorama, Colours(), "plain", mask_on=mask_on), "walk/a.png")
    grown = removed(found(panorama, Colours(), "grown", mask_on=mask_on, mask_grow=0.02), "walk/a.png")
    for camera, mask in plain.items():
        assert not (mask & ~grown[camera]).any()
        if mask_on == "views":
            wanted = moved(np.where(mask, np.uint8(255), np.uint8(0)), by_px=0.02 * np.hypot(96, 96))
            assert np.array_equal(grown[camera], wanted == 255)
    assert sum(mask.sum() for mask in grown.values()) > 1.2 * sum(mask.sum() for mask in plain.values())


# --- on the device ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_on", ["views", "pano"])
def test_a_model_on_the_device_gives_the_same_files(mask_on: str, panorama: Path, found: Callable[..., Any]) -> None:
    on_cpu = found(panorama, Colours(), "cpu", mask_on=mask_on, export="colmap,nerfstudio")
    segmenter = Colours(on_device=True)
    on_device = found(panorama, segmenter, "device", mask_on=mask_on, export="colmap,nerfstudio")
    assert on_device.contents == on_cpu.contents
    assert sum(segmenter.batches) == (12 if mask_on == "views" else 2)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("mask_on", ["views", "pano"])
def test_views_that_torch_cuts_are_masked_too(
    mask_on: str, on_device: bool, panorama: Path, found: Callable[..., Any]
) -> None:
    with_opencv = found(panorama, Colours(), "opencv", mask_on=mask_on)
    made = found(panorama, Colours(on_device=on_device), "torch", mask_on=mask_on, device="torch:cpu")
    assert made.result.ok == 2
    assert made.files == with_opencv.files
    theirs = removed(with_opencv, "walk/a.png")
    for camera, mask in removed(made, "walk/a.png").items():
        assert (mask != theirs[camera]).mean() <= 0.001, camera


def test_views_are_given_to_the_model_in_as_large_batches_as_fit(panorama: Path, found: Callable[..., Any]) -> None:
    whole = found(panorama, Colours(on_device=True), "whole")
    short = Colours(on_device=True, most=2)
    assert found(panorama, short, "short").contents == whole.contents
    assert max(short.batches) == 2
    assert sum(short.batches) == 12


# --- with everything else --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("mask_on", ["views", "pano"])
def test_with_masks_of_a_folder_both_count(
    mask_on: str, on_device: bool, panorama: Path, found: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    half = np.zeros((64, 128), np.uint8)  # of another size than the panorama
    half[32:] = 255
    Image.fromarray(half).save(tmp_path / "masks" / "a.png")
    options = {"rig": "cube6", "size": "96x96", "format": "png", "masks": str(tmp_path / "masks")}
    given = removed(split(panorama, "given", **options), "walk/a.png")
    alone = removed(found(panorama, Colours(), "alone", mask_on=mask_on), "walk/a.png")
    both = found(panorama, Colours(on_device=on_device), "both", mask_on=mask_on, masks=str(tmp_path / "masks"))
    for camera, mask in removed(both, "walk/a.png").items():
        assert np.array_equal(mask, given[camera] | alone[camera]), camera


def test_masks_are_written_as_masks_of_a_folder_are(panorama: Path, found: Callable[..., Any]) -> None:
    options = {"export": "colmap,nerfstudio", "mask_naming": "colmap", "mask_polarity": "keep-black"}
    made = found(panorama, Colours(), **options)
    assert made.rows["walk/a.png"]["outputs"]["cam03_mask"] == "masks/cam03/walk/a.png.png"
    frames = json.loads((made.out / "transforms.json").read_text("utf-8"))["frames"]
    assert all((made.out / frame["mask_path"]).is_file() for frame in frames)
    plain = removed(found(panorama, Colours(), "plain"), "walk/a.png")
    for camera, mask in plain.items():
        assert np.array_equal(made.mask("walk/a.png", f"{camera}_mask") == 255, mask)  # black is kept
        owned = made.mask("b.png", f"{camera}_colmap_mask") == 255  # where nothing is found
        colmap = made.mask("walk/a.png", f"{camera}_colmap_mask") == 255
        assert np.array_equal(colmap, owned & ~mask)


def test_the_person_in_the_courtyard(
    courtyard: Any, found: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    picture = courtyard.truth.pixels.copy()
    picture[courtyard.truth.mask == 0] = RED
    Image.fromarray(picture).save(tmp_path / "courtyard.png")
    made = found(tmp_path / "courtyard.png", Colours(), mask_on="pano", rig="ring8", size="320x320")
    given = {"masks": str(courtyard.masks), "rig": "ring8", "size": "320x320"}
    wanted = split(tmp_path / "courtyard.png", "given", **given)
    for number in range(8):
        name = f"cam{number:02d}_mask"
        assert np.array_equal(made.mask("courtyard.png", name), wanted.mask("courtyard.png", name))
    assert (made.mask("courtyard.png", "cam02_mask") == 0).mean() > 0.01


# --- options ---------------------------------------------------------------------------------------------------------


def test_without_a_model_nothing_of_it_is_in_the_pipeline(panorama: Path, tmp_path: Path) -> None:
    recipe = Split360.from_values({"masks": "alpha", "export": "colmap", "device": "cpu"})
    job = recipe.job(panorama, tmp_path / "out")
    pipeline = job.make_pipeline()
    assert [stage.name for stage in pipeline.stages] == ["read", "decode", "read mask", "each camera", "save"]
    (fan,) = (stage for stage in pipeline.stages if isinstance(stage, Fan))
    inside = ["cut", "preview", "encode", "cut mask", "encode mask", "colmap mask"]
    assert [stage.name for stage in fan.stages] == inside
    assert not set(MODEL_OPTIONS) & set(job.config)  # an OUT that was made before there were models goes on


def test_the_model_is_part_of_the_config(panorama: Path, tmp_path: Path) -> None:
    job = Split360.from_values({"mask_model": "builtin:salient", "device": "cpu"}).job(panorama, tmp_path / "out")
    assert job.config["mask_model"] == "builtin:salient"
    assert job.config["mask_model_version"]
    assert set(MODEL_OPTIONS) < set(job.config)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask_on": "pano"}, "--mask-on, --mask-score and --mask-grow need --mask-prompt or --mask-model"),
        ({"mask_grow": 0.1}, "need --mask-prompt or --mask-model"),
        ({"mask_score": 0.5}, "need --mask-prompt or --mask-model"),
        ({"mask_model": "builtin:salient", "mask_prompt": "person"}, "builtin:salient finds what stands out"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: dict[str, Any], says: str, panorama: Path, split: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        split(panorama, **options)
    assert not (tmp_path / "out").exists()
