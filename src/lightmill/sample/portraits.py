"""Simple portraits and still lifes with exact ground truth: mask, albedo, shading, normals and height.

Looked at along parallel rays. x right, y up, z towards the viewer; the origin is the picture's middle, and the unit
its shorter side. A figure is made of ellipsoids and turned shapes, lit by one far lamp and light from all sides
(Lambert); the background is a flat picture behind it.
"""

import csv
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.errors import OutputError, UsageError
from lightmill.ops.srgb import to_levels
from lightmill.sample.figures import FIGURES, Part, one_of
from lightmill.sample.finish import Colour, Finish, Floats, Noise, noise_of, reflectance
from lightmill.types import Size

SUBJECTS = ("person", "animal", "vase", "bottle")
TABLE = "portraits.csv"
_SHARES = (0.55, 0.15, 0.15, 0.15)  # how often each subject is drawn
_RAYS, _STEP = 89, 55  # of pixels that hold an edge, as a lattice; two Fibonacci numbers make it even
_TILE = 128
_EVERY_FIFTH = 5  # picture is for validation

_WALLS: tuple[Colour, ...] = ((0.55, 0.52, 0.47), (0.20, 0.27, 0.33), (0.36, 0.20, 0.13), (0.07, 0.075, 0.08))
_Plane: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Portrait:
    """A picture and what is true of it: [H, W] or [H, W, 3] each."""

    subject: str  # one of SUBJECTS
    pixels: NDArray[np.uint8]  # sRGB of albedo * shading, exactly
    mask: NDArray[np.uint8]  # 255 times the share of the pixel that the figure covers, by 89 rays along edges
    albedo: NDArray[np.float32]  # linear reflectance, averaged over the pixel
    shading: NDArray[np.float32]  # linear light
    normals: NDArray[np.float32]  # unit, in the pixel's centre; (0, 0, 1) on the background
    height: NDArray[np.float32]  # px towards the viewer, in the pixel's centre; the background is a plane


@dataclass(frozen=True)
class _Light:
    towards: NDArray[np.float32]  # [3] unit, from the scene to the lamp
    lamp: NDArray[np.float32]  # [3] light of a surface that faces it
    ambient: NDArray[np.float32]  # [3]

    def on(self, normal: Floats) -> Floats:
        """[3, N] light on surfaces that face along unit normals [3, N]."""
        facing = np.maximum(self.towards @ normal, 0)
        light: Floats = self.ambient[:, None] + self.lamp[:, None] * facing
        return light


class _Hits:
    """What rays at N points meet."""

    def __init__(self, parts: list[Part], x: Floats, y: Floats, *, noise: Noise, pixel: float) -> None:
        self.top = np.full(x.shape, -np.inf, np.float32)
        self.part = np.full(x.shape, -1, np.int16)
        for i, part in enumerate(parts):
            left, right, low, high = part.solid.bound
            if x.max() >= left and x.min() <= right and y.max() >= low and y.min() <= high:
                top = part.solid.top(x, y)
                nearer = top > self.top
                self.top[nearer], self.part[nearer] = top[nearer], i
        self.normal = np.zeros((3, x.size), np.float32)
        self.normal[2] = 1
        self.albedo = np.zeros((3, x.size), np.float32)
        for i in np.unique(self.part[self.part >= 0]):
            of = np.flatnonzero(self.part == i)
            normal = parts[i].solid.normal(x[of], y[of], self.top[of])
            self.normal[:, of] = normal / np.sqrt((normal * normal).sum(axis=0))
            self.albedo[:, of] = parts[i].albedo(x[of], y[of], noise, pixel)


def portrait(seed: int, *, size_wh: tuple[int, int] = (768, 768), subject: str | None = None) -> Portrait:
    """The portrait of a seed. Equal arguments give equal pictures.

    subject: one of SUBJECTS; None draws one too. A person is cut off by the lower border, as in portraits.
    Raises UsageError for a side below 32 px, or a subject that there is not.
    """
    if min(size_wh) < 32:
        raise UsageError(f"a portrait is 32x32 or larger, got {size_wh[0]}x{size_wh[1]}")
    if subject is not None and subject not in SUBJECTS:
        raise UsageError(f"there is no subject {subject!r}; there are {', '.join(SUBJECTS)}")
    rng = np.random.default_rng([seed, 0x706F72])
    drawn = str(rng.choice(SUBJECTS, p=_SHARES))
    scene = _Scene.of(subject or drawn, rng, half_height=size_wh[1] / min(size_wh) / 2)
    return _Canvas(scene, Size(*size_wh), noise_of(seed % 4, falloff=1.3)).portrait(rng)


@dataclass(frozen=True)
class _Scene:
    subject: str
    parts: list[Part]
    light: _Light
    table: float | None  # height of the edge of the table that a still life stands on
    backdrop: str  # one of _BACKDROPS

    @classmethod
    def of(cls, subject: str, rng: np.random.Generator, *, half_height: float) -> "_Scene":
        parts = list(FIGURES[subject](rng, half_height))
        still = subject in ("vase", "bottle")
        table = -half_height + float(rng.uniform(0.2, 0.4)) * half_height + 0.12 if still else None
        return cls(subject, parts, _light(rng), table, str(rng.choice(sorted(_BACKDROPS))))


def _light(rng: np.random.Generator) -> _Light:
    """One lamp above the camera or beside it, warm or cold; no surface gets more light than 1."""
    towards = np.array([rng.uniform(-1.4, 1.4), rng.uniform(0.0, 0.9), rng.uniform(0.5, 1.1)])
    ambient = rng.uniform(0.2, 0.45)
    tint = 1 - rng.uniform(0, 0.15) * (np.array([0, 0.4, 1]) if rng.random() < 0.5 else np.array([1, 0.4, 0]))
    return _Light(
        (towards / np.linalg.norm(towards)).astype(np.float32),
        ((1 - ambient) * tint).astype(np.float32),
        (ambient * tint[::-1]).astype(np.float32),
    )


class _Canvas:
    """One scene drawn at one size."""

    def __init__(self, scene: _Scene, size: Size, noise: Noise) -> None:
        self._scene, self._noise = scene, noise
        self._pixel = 1 / min(size.width, size.height)
        self.x: _Plane = ((np.arange(size.width, dtype=np.float32) + 0.5 - size.width / 2) * self._pixel).astype("f4")
        self.y: _Plane = ((size.height / 2 - np.arange(size.height, dtype=np.float32) - 0.5) * self._pixel).astype("f4")
        self._shape = (size.height, size.width)

    def portrait(self, rng: np.random.Generator) -> Portrait:
        behind = self._backdrop(rng)
        albedo, shading = (each.copy() for each in behind)
        part, top = np.full(self._shape, -1, np.int16), np.full(self._shape, -np.inf, np.float32)
        normals = np.zeros((*self._shape, 3), np.float32)
        for tile in self._tiles():
            y, x = (each.ravel() for each in np.meshgrid(self.y[tile[0]], self.x[tile[1]], indexing="ij"))
            hits = self._hits(x, y, self._pixel)
            shape, met = part[tile].shape, hits.part >= 0
            part[tile], top[tile] = hits.part.reshape(shape), hits.top.reshape(shape)
            normals[tile] = hits.normal.T.reshape(*shape, 3)
            albedo[tile][met.reshape(shape)] = hits.albedo.T[met]
            shading[tile][met.reshape(shape)] = self._scene.light.on(hits.normal).T[met]
        mask = np.where(part >= 0, np.float32(1), np.float32(0))
        self._refine(part, behind=behind, albedo=albedo, shading=shading, mask=mask)
        return Portrait(
            subject=self._scene.subject,
            pixels=to_levels(albedo * shading),
            mask=np.rint(255 * mask).astype(np.uint8),
            albedo=albedo,
            shading=shading,
            normals=normals,
            height=self._height(top),
        )

    def _height(self, top: _Plane) -> _Plane:
        met = np.isfinite(top)
        return np.where(met, top - top[met].min(), 0).astype(np.float32) / np.float32(self._pixel)

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        for row in range(0, self._shape[0], _TILE):
            for column in range(0, self._shape[1], _TILE):
                yield slice(row, row + _TILE), slice(column, column + _TILE)

    def _hits(self, x: Floats, y: Floats, pixel: float) -> _Hits:
        return _Hits(self._scene.parts, x, y, noise=self._noise, pixel=pixel)

    def _refine(
        self,
        part: NDArray[np.int16],
        *,
        behind: tuple[_Plane, _Plane],
        albedo: _Plane,
        shading: _Plane,
        mask: _Plane,
    ) -> None:
        """Draw anew, with many rays each, the pixels near another part. `behind`: albedo and light of the backdrop."""
        edge = np.zeros(part.shape, np.uint8)
        edge[:, 1:] |= part[:, 1:] != part[:, :-1]
        edge[1:] |= part[1:] != part[:-1]
        edge = np.asarray(cv2.dilate(edge, np.ones((3, 3), np.uint8)))
        edge[[0, -1]] = edge[:, [0, -1]] = 1  # a part may begin between the last centres and the border
        off_x, off_y = (each * self._pixel for each in _places())
        for tile in self._tiles():
            row, column = np.nonzero(edge[tile])
            if not row.size:
                continue
            row, column = row + tile[0].start, column + tile[1].start
            x, y = (self.x[column, None] + off_x).ravel(), (self.y[row, None] + off_y).ravel()
            hits = self._hits(x, y, self._pixel / math.sqrt(_RAYS))
            samples = (row.size, _RAYS, 3)
            met = (hits.part >= 0).reshape(samples[:2])
            colour = np.where(met[..., None], hits.albedo.T.reshape(samples), behind[0][row, column][:, None])
            light = self._scene.light.on(hits.normal).T.reshape(samples)
            light = np.where(met[..., None], light, behind[1][row, column][:, None])
            mask[row, column] = met.mean(axis=1)
            albedo[row, column] = colour.mean(axis=1)
            shading[row, column] = (colour * light).mean(axis=1) / np.maximum(albedo[row, column], 1e-6)

    def _backdrop(self, rng: np.random.Generator) -> tuple[_Plane, _Plane]:
        """Albedo and light [H, W, 3] of what is behind the figure."""
        y, x = (np.ascontiguousarray(each) for each in np.meshgrid(self.y, self.x, indexing="ij"))
        albedo = _BACKDROPS[self._scene.backdrop](rng, x, y, self._noise)
        if self._scene.table is not None:
            wood = Finish(colour=one_of(rng, _WALLS), grain=0.12, grain_m=1.7)
            below = self.y < self._scene.table
            albedo[below] = _covered(wood, x[below], 4 * y[below], self._noise, self._pixel)
        albedo = np.clip(albedo, 0.005, 0.9).astype(np.float32)
        light = self._scene.light
        falls = np.clip(0.65 + 0.35 * (light.towards[0] * x + light.towards[1] * y) / 0.7, 0.2, 1)
        return albedo, (light.ambient + light.lamp * falls[..., None]).astype(np.float32)


def _places() -> tuple[_Plane, _Plane]:
    """x and y, -0.5..0.5, of the rays of a pixel: edges of any direction pass them one by one."""
    k = np.arange(_RAYS)
    x, y = (k + 0.5) / _RAYS - 0.5, (k * _STEP % _RAYS + 0.5) / _RAYS - 0.5
    return x.astype(np.float32), y.astype(np.float32)


def _covered(finish: Finish, x: Floats, y: Floats, noise: Noise, pixel: float) -> Floats:
    """[H, W, 3] a surface that faces the viewer."""
    wide = np.full(x.size, pixel, np.float32)
    colour = reflectance(finish, u=x.ravel(), v=y.ravel(), wide_u=wide, wide_v=wide, noise=noise)
    return colour.T.reshape(*x.shape, 3).copy()


def _pixel_of(x: Floats) -> float:
    return float(abs(x[0, 1] - x[0, 0]))


def _wall(rng: np.random.Generator, x: Floats, y: Floats, noise: Noise) -> Floats:
    return _covered(Finish(colour=one_of(rng, _WALLS), grain=0.03), x, y, noise, _pixel_of(x))


def _bricks(rng: np.random.Generator, x: Floats, y: Floats, noise: Noise) -> Floats:
    wide = rng.uniform(0.12, 0.2)
    finish = Finish(
        colour=one_of(rng, ((0.40, 0.16, 0.095), (0.45, 0.42, 0.38))), line=(0.42, 0.37, 0.31),
        cell_m=(wide, 0.4 * wide), line_m=0.05 * wide, bond=0.5, variation=0.2, grain=0.08,
    )  # fmt: skip
    return _blurred(_covered(finish, x, y, noise, _pixel_of(x)), rng.uniform(0.002, 0.008) / _pixel_of(x))


def _foliage(rng: np.random.Generator, x: Floats, y: Floats, noise: Noise) -> Floats:
    """Light and dark leaves out of focus."""
    leaf, gap = np.array([[0.12, 0.22, 0.05], [0.02, 0.045, 0.015]]) * rng.uniform(0.7, 1.3)
    wide = np.full(x.size, 0.01, np.float32)
    level = noise.at(x.ravel() * 0.8 + rng.random(), y.ravel() * 0.8, wide).reshape(*x.shape, 1)
    mixed = gap + (leaf - gap) / (1 + np.exp(-3 * level))
    return _blurred(mixed.astype(np.float32), rng.uniform(0.012, 0.03) / _pixel_of(x))


def _bokeh(rng: np.random.Generator, x: Floats, y: Floats, noise: Noise) -> Floats:
    """Discs of lamps far out of focus, over the dark."""
    picture = _covered(Finish(colour=(0.03, 0.03, 0.045), grain=0.3), x, y, noise, 0.05)
    soft = 2 * _pixel_of(x)
    for _ in range(rng.integers(14, 30)):
        at_x, at_y, radius = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(0.02, 0.055)
        cover = np.clip((radius - np.hypot(x - at_x, y - at_y)) / soft, 0, 1)[..., None]
        picture += cover * rng.uniform(0.05, 0.25) * np.array([1, rng.uniform(0.5, 0.9), rng.uniform(0.15, 0.7)])
    return picture


def _blurred(picture: Floats, sigma_px: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(sigma_px, 0.3), borderType=cv2.BORDER_REFLECT))


_BACKDROPS: dict[str, Callable[[np.random.Generator, Floats, Floats, Noise], Floats]] = {
    "wall": _wall, "bricks": _bricks, "foliage": _foliage, "bokeh": _bokeh,
}  # fmt: skip


def write_portraits(
    folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (768, 768), table: bool = True
) -> list[Path]:
    """Write folder/portrait_000.jpg and folder/masks/portrait_000.png and so on, of seeds seed, seed + 1, ...

    table: write folder/portraits.csv too, with the columns image_path (from the folder), subject, and split (train, and
    val for every fifth). Returns the paths of the JPEGs. Equal arguments give equal files.
    Raises UsageError for a size that makes no portrait, OutputError for a folder that cannot be made.
    """
    try:
        (folder / "masks").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {folder}: {exc.strerror}; choose another one") from exc

    def write(i: int) -> tuple[Path, str]:
        made = portrait(seed + i, size_wh=size)
        path = folder / f"portrait_{i:03d}.jpg"
        path.write_bytes(encode(made.pixels, format=ImageFormat.JPG))
        (folder / "masks" / f"{path.stem}.png").write_bytes(encode_mask(made.mask))
        return path, made.subject

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = list(pool.map(write, range(count)))
    if table:
        with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["image_path", "subject", "split"])
            for i, (path, subject) in enumerate(written):
                rows.writerow([path.name, subject, "val" if i % _EVERY_FIFTH == _EVERY_FIFTH - 1 else "train"])
    return [path for path, _ in written]
