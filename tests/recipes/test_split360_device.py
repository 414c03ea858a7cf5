"""Views cut by torch, through the engine: the same pictures, names and files as with OpenCV."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightmill.engine.run import RunResult, run
from lightmill.errors import UsageError
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.split360 import Split360

RIG = """\
cameras:
- {name: seam, yaw: 179, pitch: 5, hfov: 90}
- {name: up, yaw: 20, pitch: 85, roll: 10, hfov: 100}
- {name: down, yaw: -60, pitch: -90, hfov: 70}
- {name: tilted, yaw: 77, pitch: 30, roll: -25, hfov: 110}
"""


def run_with_torch(source: Path, out: Path, **options: Any) -> RunResult:
    """What `--device cuda` does, with torch on the CPU in its place."""
    recipe = Split360.from_values({"progress": "none", "threads": 2, "device": "cpu"} | options)
    make_pipeline = partial(recipe.pipeline, recipe.resolved_rig(), None, video=False, device="torch:cpu")
    job = replace(recipe.job(source, out), make_pipeline=make_pipeline, device="torch:cpu")
    return run(job, recipe.run_options())


@pytest.mark.parametrize("pano_width", [256, 640], ids=["as-fine", "minified"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "lanczos"])
def test_views_are_within_one_level_of_opencvs(
    interpolation: str, pano_width: int, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "waves.png", width=pano_width)
    noise = np.random.default_rng(1).integers(0, 256, (pano_width // 2, pano_width, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "noise.png")
    (tmp_path / "rig.yaml").write_text(RIG)
    options = {
        "rig": str(tmp_path / "rig.yaml"),
        "size": "64x48",
        "format": "png",
        "interpolation": interpolation,
    }
    with_opencv = split(tmp_path / "in", "opencv", **options)
    with_torch = type(with_opencv)(run_with_torch(tmp_path / "in", tmp_path / "torch", **options))
    assert with_torch.result.ok == 2
    assert with_torch.files == with_opencv.files
    assert with_torch.rig == with_opencv.rig
    for key, row in with_opencv.rows.items():
        assert with_torch.rows[key] == row
        for camera in row["outputs"]:
            difference = with_torch.view(key, camera).astype(int) - with_opencv.view(key, camera)
            assert np.abs(difference).max() <= 1


def test_masks_exports_and_failures_go_the_same_way(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "a.png")
    Image.new("RGB", (90, 90)).save(tmp_path / "in" / "b.png")
    write_waves(tmp_path / "in" / "c.png", seed=1, width=318)
    options = {"rig": "horizon4", "size": "64x48", "export": "colmap,nerfstudio,realityscan", "masks": "alpha"}
    with_opencv = split(tmp_path / "in", "opencv", **options)
    with_torch = type(with_opencv)(run_with_torch(tmp_path / "in", tmp_path / "torch", **options))
    assert (with_torch.result.ok, with_torch.result.failed) == (2, 1)
    assert with_torch.rows == with_opencv.rows
    views = {path for row in with_opencv.rows.values() for path in row["outputs"].values() if path.endswith(".jpg")}
    theirs = with_opencv.contents
    for name, data in with_torch.contents.items():
        if name not in views:
            assert data == theirs[name], name


def test_devices() -> None:
    import torch

    assert chosen_device("cpu") == "cpu"
    if torch.cuda.is_available():
        assert chosen_device("cuda") == chosen_device("auto") == "cuda"
        return
    assert chosen_device("auto") == "cpu"
    with pytest.raises(UsageError, match=r"--device cuda: torch finds no CUDA device here; .* give --device cpu"):
        chosen_device("cuda")
