"""`mask` with a checkpoint of `train segment`: every kind of INPUT, classes by name, panoramas, and what is refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.models.students import HW, colour_student, config_of, random_student
from tests.recipes.colours import GREEN, RED, is_colour, painted

import lightmill
from lightmill.cli import run_command_line
from lightmill.errors import ChangedConfig, ModelError, UsageError
from lightmill.sample.clip import write_clip


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_student(tmp_path_factory.mktemp("runs") / "best")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """in/two.png: a large red disc and a small green one; in/walk/none.jpg: nothing."""
    folder = tmp_path / "in"
    (folder / "walk").mkdir(parents=True)
    Image.fromarray(painted(60, 80, (0.3, 0.5, 0.3, RED), (0.8, 0.3, 0.12, GREEN))).save(folder / "two.png")
    Image.fromarray(painted(40, 50)).save(folder / "walk" / "none.jpg")
    return folder


class Made:
    """A run that has ended."""

    def __init__(self, out: Path) -> None:
        lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
        self.out = out
        self.rows: dict[str, Any] = {row["key"]: row for row in map(json.loads, lines)}

    def mask(self, key: str, output: str = "mask") -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.out / self.rows[key]["outputs"][output]).convert("L"))


@pytest.fixture
def mask(tmp_path: Path, colours: Path) -> Callable[..., Made]:
    def run(source: Path, out: str = "out", **options: Any) -> Made:
        result = lightmill.mask(
            source, tmp_path / out, **{"model": str(colours), "threads": 2, "device": "cpu"} | options
        )
        assert result.exit_code == 0, (tmp_path / out / "manifest.csv").read_text("utf-8")
        return Made(tmp_path / out)

    return run


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


# --- every INPUT -----------------------------------------------------------------------------------------------------


def test_folders_zips_and_tables_get_the_same_masks(pictures: Path, mask: Callable[..., Made]) -> None:
    folder = mask(pictures)
    two = np.asarray(Image.open(pictures / "two.png"))
    assert overlap(folder.mask("two.png") == 255, is_colour(two, RED) | is_colour(two, GREEN)) > 0.95
    assert not folder.mask("walk/none.jpg").any()
    assert folder.mask("walk/none.jpg").shape == (40, 50)
    assert folder.rows["walk/none.jpg"]["meta"]["found"] == 0
    archive = pictures.parent / "in.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(pictures.rglob("*.*")):
            file.write(path, path.relative_to(pictures).as_posix())
    table = pictures / "list.csv"
    table.write_text("image_path,who\ntwo.png,Ada\nwalk/none.jpg,\n", "utf-8")
    for source, out in ((archive, "zipped"), (table, "listed")):
        other = mask(source, out)
        assert set(other.rows) == set(folder.rows)
        for key in folder.rows:
            assert np.array_equal(other.mask(key), folder.mask(key))
    assert (pictures.parent / "listed" / "list_with_masks.csv").is_file()


def test_frames_of_a_video_get_masks(tmp_path: Path, mask: Callable[..., Made]) -> None:
    clip = write_clip(tmp_path, seconds=1, fps=4, width=128, supersample=1)
    got = mask(clip, tile="auto")
    assert len(got.rows) == 4
    assert all(got.mask(key).shape == (64, 128) for key in got.rows)


@pytest.mark.parametrize("tile", ["off", "auto"])
def test_a_thing_across_the_seam_of_a_panorama_is_one(tile: str, tmp_path: Path, mask: Callable[..., Made]) -> None:
    (tmp_path / "panos").mkdir()
    across = painted(128, 256, (0.0, 0.5, 0.25, RED))
    Image.fromarray(across).save(tmp_path / "panos" / "seam.png")
    Image.fromarray(np.ascontiguousarray(np.roll(across, 128, axis=1))).save(tmp_path / "panos" / "middle.png")
    got = mask(tmp_path / "panos", tile=tile)
    seam, middle = (got.mask(key) == 255 for key in ("seam.png", "middle.png"))
    assert overlap(seam, is_colour(across, RED)) > (0.9 if tile == "off" else 0.97)
    assert overlap(seam, np.roll(middle, 128, axis=1)) > (0.9 if tile == "off" else 0.97)
    assert got.rows["seam.png"]["meta"]["found"] == 1
    assert seam[:, 0].any()
    assert seam[:, -1].any()


def test_a_turned_jpeg_gets_an_upright_mask(tmp_path: Path, mask: Callable[..., Made]) -> None:
    """B4.24: EXIF orientation."""
    upright = painted(64, 48, (0.3, 0.2, 0.15, RED))
    tags = Image.Exif()
    tags[0x0112] = 6  # stored lying on its left side
    (tmp_path / "in").mkdir()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(tmp_path / "in" / "a.jpg", exif=tags, quality=95, subsampling=0)
    got = mask(tmp_path / "in")
    assert overlap(got.mask("a.jpg") == 255, is_colour(upright, RED)) > 0.9


def test_views_of_a_panorama_are_masked_by_it(tmp_path: Path, colours: Path) -> None:
    (tmp_path / "panos").mkdir()
    Image.fromarray(painted(128, 256, (0.5, 0.5, 0.2, RED))).save(tmp_path / "panos" / "a.png")
    options: dict[str, Any] = {"rig": "cube6", "size": "64x64", "threads": 2, "device": "cpu"}
    result = lightmill.split360(tmp_path / "panos", tmp_path / "out", mask_model=str(colours), **options)
    assert result.exit_code == 0
    shares = [
        (np.asarray(Image.open(path).convert("L")) == 0).mean()
        for path in sorted((tmp_path / "out").rglob("masks/**/*.png"))
    ]
    assert len(shares) == 6
    assert shares[0] > 0.2  # what is in front is left out
    assert sum(shares[1:]) == 0


# --- classes by name -------------------------------------------------------------------------------------------------


def test_prompts_are_names_of_classes(pictures: Path, mask: Callable[..., Made]) -> None:
    two = np.asarray(Image.open(pictures / "two.png"))
    for prompt, inside in (("Green", is_colour(two, GREEN)), ("red", is_colour(two, RED))):
        got = mask(pictures, prompt, prompt=prompt)
        assert overlap(got.mask("two.png") == 255, inside) > 0.9
    both = mask(pictures, "both", prompt="red,green", instances="each")
    assert both.rows["two.png"]["meta"]["labels"] == ["red", "green"]
    assert overlap(both.mask("two.png", "instance_01") == 255, is_colour(two, GREEN)) > 0.9
    assert mask(pictures, "all").rows["two.png"]["meta"]["labels"] == ["red", "green"]
    removed = mask(pictures, "removed", prompt="red", remove=True)
    assert np.array_equal(removed.mask("two.png"), 255 - mask(pictures, "red", prompt="red").mask("two.png"))


def test_soft_edges_are_probabilities(pictures: Path, mask: Callable[..., Made]) -> None:
    soft, hard = mask(pictures, "soft", soft=True).mask("two.png"), mask(pictures, "hard").mask("two.png")
    assert np.array_equal(soft >= 128, hard == 255)
    assert len(np.unique(soft)) > 20


def test_the_command_line_takes_the_folder_or_the_weights(
    pictures: Path, tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(colours.parent)
    shared = ["--progress", "none", "--device", "cpu", "--threads", "2", "--prompt", "red", "--tile", "64", "--flips"]
    for number, model in enumerate(("best", "best/model.safetensors")):
        assert run_command_line(["mask", str(pictures), str(tmp_path / f"o{number}"), "--model", model, *shared]) == 0
    one, other = (Made(tmp_path / f"o{number}") for number in (0, 1))
    assert np.array_equal(one.mask("two.png"), other.mask("two.png"))


# --- again, and what is refused --------------------------------------------------------------------------------------


def test_tiles_flips_and_weights_are_part_of_the_config(
    pictures: Path, mask: Callable[..., Made], tmp_path: Path
) -> None:
    checkpoint = random_student(tmp_path / "best", config_of())
    mask(pictures, model=str(checkpoint), tile=64)
    mask(pictures, model=str(checkpoint / "model.safetensors"), tile="64")  # the same run
    for other in ({"tile": "auto"}, {"tile": 64, "flips": True}):
        with pytest.raises(ChangedConfig, match="flips" if "flips" in other else "tile"):
            mask(pictures, model=str(checkpoint), **other)
    random_student(checkpoint, config_of(), seed=5)
    with pytest.raises(ChangedConfig, match="model_version"):
        mask(pictures, model=str(checkpoint), tile=64)


def test_what_is_refused_is_refused_before_anything_is_written(pictures: Path, colours: Path, tmp_path: Path) -> None:
    street = random_student(tmp_path / "street", config_of(("sky", "road"), size_hw=HW))
    damaged = random_student(tmp_path / "damaged", config_of())
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[:1000])
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"prompt": "blue"}, UsageError, "knows no class 'blue'.* its classes: background, red, green"),
        ({"model": str(street)}, UsageError, "say with --prompt which are looked for: sky, road"),
        ({"score": 0.5}, UsageError, "leave --score out"),
        ({"points": "0.5,0.5"}, UsageError, "and not by places"),
        ({"model": "builtin:salient", "tile": "auto"}, UsageError, "--tile is for checkpoints of"),
        ({"tile": "large"}, UsageError, "--tile 'large': it is off, auto, or a number of pixels"),
        (
            {"model": str(damaged)},
            ModelError,
            r"damaged/model\.safetensors cannot be read .*; get the student once more",
        ),
        ({"model": str(tmp_path / "gone.safetensors")}, ModelError, r"there is no file .*gone\.safetensors"),
    ]
    for options, kind, says in refused:
        with pytest.raises(kind, match=says):
            lightmill.mask(pictures, tmp_path / "out", **{"model": str(colours), "device": "cpu"} | options)
    assert not (tmp_path / "out").exists()
