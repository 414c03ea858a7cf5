"""relight with models from folders, through the real loading code: tiny ones with random weights."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models import tiny
from tests.models.tiny_diffusion import (
    LIGHTING,
    save_clip,
    save_depth_anything,
    save_marigold_intrinsics,
    save_marigold_normals,
)

import lightmill
from lightmill.codecs.decode import decode
from lightmill.errors import ChangedConfig, ModelError, UsageError
from lightmill.models.clip import open_clip
from lightmill.sample.portraits import write_portraits

SIZE = (96, 96)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, 3, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders."""
    folder = tmp_path_factory.mktemp("models")
    save_depth_anything(folder / "depth")
    save_marigold_normals(folder / "normals")
    save_marigold_intrinsics(folder / "intrinsics", LIGHTING)
    save_clip(folder / "clip")
    tiny.sam3(folder / "sam3")
    return folder


def metadata(made: Any, key: str) -> Any:
    return json.loads((made.out / made.rows[key]["outputs"]["metadata"]).read_text("utf-8"))


@pytest.mark.parametrize("normals", ["depth", "normals"])
def test_models_on_the_device_go_through_the_same_pipeline(
    tmp_path: Path, portraits: Path, models: Path, relight: Callable[..., Any], normals: str
) -> None:
    """In batches; and what they made comes back byte for byte from the metadata, which name and version are in."""
    names = {"albedo": str(models / "intrinsics"), "normals": str(models / normals)}
    made = relight(portraits / "portraits.csv", masks=str(portraits / "masks"), degrade="specular", **names)
    assert made.result.ok == 3
    found = metadata(made, "portrait_001.jpg")["models"]
    assert {role: about["model"] for role, about in found.items()} == names
    assert all(about["version"].startswith("blake2:") for about in found.values())
    path = made.out / made.rows["portrait_001.jpg"]["outputs"]["metadata"]
    again = lightmill.relight(path, tmp_path / "again", replay=True)
    assert again.remarks[0].startswith("made again, byte for byte")


def test_other_weights_are_another_config(
    tmp_path: Path, portraits: Path, models: Path, relight: Callable[..., Any]
) -> None:
    shutil.copytree(models / "depth", tmp_path / "depth")
    options = {"masks": str(portraits / "masks"), "normals": str(tmp_path / "depth")}
    relight(portraits / "portrait_000.jpg", **options)
    save_depth_anything(tmp_path / "depth", metric=True)
    with pytest.raises(ChangedConfig, match="models"):
        relight(portraits / "portrait_000.jpg", **options)


def test_words_find_the_foreground(portraits: Path, models: Path, relight: Callable[..., Any]) -> None:
    """A random SAM 3 finds anything or nothing; either way no picture is lit without a foreground."""
    made = relight(portraits / "portraits.csv", mask_model=str(models / "sam3"), mask_prompt=["person"], mask_score=0.0)
    assert made.result.ok + made.result.filtered == 3
    for row in made.rows.values():
        assert bool(row["outputs"]) == (row["status"] == "ok")
        assert row["status"] == "ok" or "foreground" in row["error"]


def test_prompt_scores_are_columns_and_choose(portraits: Path, models: Path, relight: Callable[..., Any]) -> None:
    options = {"score_model": str(models / "clip"), "score_prompt": ["good light", "dark face"]}
    made = relight(
        portraits / "portraits.csv", masks=str(portraits / "masks"), keep_top=1, by="clip:good light", **options
    )
    with open(made.out / "portraits_with_relighting_outputs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scorer = open_clip(str(models / "clip"), prompts=["good light", "dark face"])
    scorer.load("cpu")
    pictures = [decode((portraits / row["image_path"]).read_bytes()).pixels for row in rows]
    expected = scorer(pictures)
    for row, scores in zip(rows, expected, strict=True):
        assert {name: float(row[name]) for name in scores} == pytest.approx(scores, abs=1e-5)
    best = max(rows, key=lambda row: float(row["clip:good light"]))
    assert [row["status"] for row in rows] == ["ok" if row is best else "filtered" for row in rows]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"normals": "intrinsics"}, UsageError, "it is a model of the kind marigold-intrinsics, and this option takes"),
        ({"albedo": "depth"}, UsageError, "it is a model of the kind depth-anything, and this option takes"),
        ({"albedo": "broken"}, ModelError, "broken"),
    ],
)
def test_a_model_of_another_kind_is_refused_before_anything_is_written(
    tmp_path: Path,
    portraits: Path,
    models: Path,
    relight: Callable[..., Any],
    options: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    (models / "broken").mkdir(exist_ok=True)
    (models / "broken" / "config.json").write_text("{}")
    named = {name: str(models / folder) for name, folder in options.items()}
    with pytest.raises(error, match=said):
        relight(portraits, masks=str(portraits / "masks"), **named)
    assert not (tmp_path / "out").exists()
