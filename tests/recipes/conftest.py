"""Panoramas whose every view is known, recipes run on them, and what they wrote read back by Pillow."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import lightmill
from lightmill.engine.run import RunResult
from lightmill.sample.render import Rendered, panorama
from lightmill.sample.scene import Scene

SHARED = {".lightmill", "report.html", "report.json"}


@dataclass(frozen=True)
class Made:
    """A run that has ended, and its files."""

    result: RunResult

    @property
    def out(self) -> Path:
        return self.result.out

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Key -> its line of manifest.jsonl, in order."""
        lines = (self.out / "manifest.jsonl").read_text("utf-8").splitlines()
        return {row["key"]: row for row in map(json.loads, lines)}

    @cached_property
    def rig(self) -> Any:
        """What rig.json holds."""
        return json.loads((self.out / "rig.json").read_text("utf-8"))

    @property
    def files(self) -> list[str]:
        """Every file, relative to OUT; not the journal nor the report."""
        paths = (path.relative_to(self.out) for path in self.out.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in paths if path.parts[0] not in SHARED)

    @property
    def contents(self) -> dict[str, bytes]:
        return {name: (self.out / name).read_bytes() for name in self.files}

    def open(self, key: str, output: str = "cam00") -> Image.Image:
        """The output of that name (a camera, `cam00_mask`, …), by Pillow."""
        picture = Image.open(self.out / self.rows[key]["outputs"][output])
        picture.load()
        return picture

    def view(self, key: str, output: str = "cam00") -> NDArray[np.uint8]:
        """[h, w, 3] its pixels."""
        return np.asarray(self.open(key, output).convert("RGB"))

    def mask(self, key: str, output: str) -> NDArray[np.uint8]:
        """[h, w] its levels."""
        return np.asarray(self.open(key, output).convert("L"))


class Waves:
    """Smooth colours that are a function of the direction alone: seam and poles are no special places of it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(3, 3))
        self._waves = 6 * directions / np.linalg.norm(directions, axis=0)
        self._phase = rng.uniform(0, 6, 3)

    def along(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 3] directions in panorama axes, of any length, to [..., 3] levels from 18 to 238."""
        unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        levels: NDArray[np.float64] = 128 + 110 * np.sin(unit @ self._waves + self._phase)
        return levels

    def panorama(self, width: int, height: int = 0) -> NDArray[np.uint8]:
        """[H, W, 3] sRGB, by the contract's formula: column (atan2(x, z) / 2 pi + 1/2) W, row (1/2 + asin(y) / pi) H"""
        height = height or width // 2
        yaw = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
        down = ((np.arange(height) + 0.5) / height - 0.5)[:, None] * np.pi
        rays = np.broadcast_arrays(np.cos(down) * np.sin(yaw), np.sin(down), np.cos(down) * np.cos(yaw))
        return np.rint(self.along(np.stack(rays, axis=-1))).astype(np.uint8)

    def view(self, camera: dict[str, Any], width: int, height: int) -> NDArray[np.float64]:
        """[h, w, 3] what a camera of a rig.json shows: its own fx, fy, cx, cy and pano_from_cam are used."""
        x = (np.arange(width) + 0.5 - camera["cx"]) / camera["fx"]
        y = ((np.arange(height) + 0.5 - camera["cy"]) / camera["fy"])[:, None]
        rays_in_cam = np.stack(np.broadcast_arrays(x, y, 1.0), axis=-1)
        return self.along(rays_in_cam @ np.array(camera["pano_from_cam"]).T)


@dataclass(frozen=True)
class Courtyard:
    """The sample scene, as a panorama on disk."""

    scene: Scene
    path: Path  # courtyard.png
    masks: Path  # a folder with courtyard.png: 255 keep, 0 the person
    truth: Rendered


@pytest.fixture(scope="session")
def courtyard(tmp_path_factory: pytest.TempPathFactory) -> Courtyard:
    """The sample scene at 0 s, 1024 x 512, with its mask."""
    folder = tmp_path_factory.mktemp("courtyard")
    scene = Scene(1)
    truth = panorama(scene, time_s=0, width=1024)
    (folder / "masks").mkdir()
    Image.fromarray(truth.pixels).save(folder / "courtyard.png")
    Image.fromarray(truth.mask).save(folder / "masks" / "courtyard.png")
    return Courtyard(scene, folder / "courtyard.png", folder / "masks", truth)


@pytest.fixture
def split(tmp_path: Path) -> Callable[..., Made]:
    """`split(source, out="out", **options)`: lightmill.split360 into a folder of the test, views of 64 x 48."""

    def run(source: Path, out: str = "out", **options: Any) -> Made:
        return Made(lightmill.split360(source, tmp_path / out, **{"size": "64x48", "threads": 2} | options))

    return run


@pytest.fixture
def join(tmp_path: Path) -> Callable[..., Made]:
    """`join(views, rig=..., out="joined", **options)`: lightmill.join360 into a folder of the test."""

    def run(views: Path, out: str = "joined", **options: Any) -> Made:
        return Made(lightmill.join360(views, tmp_path / out, **{"threads": 2} | options))

    return run


@pytest.fixture
def relight(tmp_path: Path) -> Callable[..., Made]:
    """`relight(source, out="out", **options)`: lightmill.relight into a folder of the test; None leaves one out."""

    def run(source: Path, out: str = "out", **options: Any) -> Made:
        given = {name: value for name, value in ({"threads": 2} | options).items() if value is not None}
        return Made(lightmill.relight(source, tmp_path / out, **given))

    return run


@pytest.fixture
def write_waves() -> Callable[..., Waves]:
    """`write_waves(path, seed, width=256, **how_to_save)`: a panorama of waves on disk, made by Pillow."""

    def write(path: Path, seed: int = 0, width: int = 256, **how: Any) -> Waves:
        waves = Waves(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(waves.panorama(width)).save(path, **how)
        return waves

    return write
