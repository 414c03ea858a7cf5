"""Draws solids with a painted surface: the nearest one in each sample, lit, brought down to pixels with their cover.

Every part is seen along parallel rays of its own, those through its centre: perspective from part to part, none within.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.sample.match_body import Parts
from lightmill.sample.match_camera import Camera

Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]

_FLAT = 1e-3  # of the quadratic's leading term: a cone seen along itself shows what closes it, not its side
_BELOW_1 = np.float32(1 - 2**-12)  # so that rounding takes it to no next texel
STEPS = 4096  # of linear light, 0 to 1


@dataclass(frozen=True)
class Paint:
    """What each part's surface looks like, unrolled: rows go along the part, columns around it, the middle is ahead."""

    texels: Floats  # [T, 3] linear reflectance, the parts' pictures one after the other
    offset: NDArray[np.int32]  # [N]
    rows: NDArray[np.int32]  # [N]
    columns: NDArray[np.int32]  # [N]

    @classmethod
    def of(cls, pictures: list[Floats]) -> "Paint":
        """pictures: [rows, columns, 3] each, linear; the first row is the part's low end."""
        sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
        ends = np.cumsum(sizes[:, 0] * sizes[:, 1], dtype=np.int32)
        texels = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(np.float32)
        return cls(texels, ends - sizes[:, 0] * sizes[:, 1], sizes[:, 0].copy(), sizes[:, 1].copy())

    def at(self, counts: NDArray[np.intp], along: Floats, around: Floats) -> Floats:
        """[M, 3] reflectance of `counts` [N] points of each part, part after part; along and around: 0..1 [M]."""
        row = np.clip(along, 0, _BELOW_1) * np.repeat(self.rows.astype(np.float32), counts)
        column = np.clip(around, 0, _BELOW_1) * np.repeat(self.columns.astype(np.float32), counts)
        texel = row.astype(np.int32)
        texel *= np.repeat(self.columns, counts)
        texel += column.astype(np.int32)
        texel += np.repeat(self.offset, counts)
        return self.texels.take(texel, axis=0)


class Lamps(NamedTuple):
    """Light in a hall: lamps far above, and what walls and floor send back."""

    towards: Floats  # [3, K] unit
    strength: Floats  # [K]
    above: float  # light on a surface that faces up, from all around
    below: float

    def on(self, normal: Floats) -> Floats:
        """[M] light on surfaces that face along unit normals [M, 3]."""
        around = (self.above + self.below) / 2 + (self.above - self.below) / 2 * normal[:, 2]
        light: Floats = around + np.maximum(normal @ self.towards, 0) @ self.strength
        return light


class Sprite(NamedTuple):
    """Something drawn, and where it lies in the picture; it may reach beyond the picture's borders."""

    left: int
    top: int
    levels: NDArray[np.uint8]  # [h, w, 4] sRGB times cover, and 255 times cover
    box: Box  # px: left, top, right, bottom of what is drawn


def draw(
    parts: Parts, paint: Paint, *, camera: Camera, lamps: Lamps, curve: NDArray[np.uint8], samples: int
) -> Sprite | None:
    """What the camera sees of the parts, or None where none of them can be in the picture.

    curve: [3, STEPS] sRGB level of linear light, per channel. samples: per side of a pixel. The box is exact to
    1 / samples px.
    """
    view = _View(parts, camera)
    left, top, right, bottom = view.bound()
    if right <= 0 or bottom <= 0 or left >= camera.size.width or top >= camera.size.height:
        return None
    canvas = _Canvas(view, left, top, (bottom - top) * samples, (right - left) * samples, samples)
    met = np.flatnonzero(canvas.part >= 0)
    if not met.size:
        return None
    sample = met.take(np.argsort(canvas.part.ravel().take(met), kind="stable"))  # part after part
    counts, places, normal = canvas.hits(sample)
    colour = paint.at(counts, *_unrolled(places, np.repeat(parts.round, counts)))
    colour *= lamps.on(normal)[:, None]
    steps = np.minimum(colour * np.float32(STEPS - 1), STEPS - 1).astype(np.int32)
    steps += np.arange(3, dtype=np.int32) * STEPS
    high, wide = canvas.part.shape
    levels = np.full((sample.size, 4), 255, np.uint8)
    levels[:, :3] = curve.ravel().take(steps)
    drawn = np.zeros(high * wide, np.uint32)  # of four levels each: one write a sample is four times as fast
    drawn[sample] = levels.view(np.uint32).ravel()
    size = (right - left, bottom - top)
    small = cv2.resize(drawn.view(np.uint8).reshape(high, wide, 4), size, interpolation=cv2.INTER_AREA)
    rows, columns = met[[0, -1]] // wide, np.flatnonzero((canvas.part >= 0).any(axis=0))[[0, -1]]
    box = (left + columns[0] / samples, top + rows[0] / samples)
    far = (left + (columns[1] + 1) / samples, top + (rows[1] + 1) / samples)
    return Sprite(left, top, np.asarray(small, np.uint8), (float(box[0]), float(box[1]), float(far[0]), float(far[1])))


def _unrolled(places: Floats, is_round: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Where points of parts, in their own axes, lie on their pictures: along and around."""
    along = np.where(is_round, (places[:, 1] + 1) / 2, places[:, 1])
    return along, np.arctan2(places[:, 0], places[:, 2]) * np.float32(0.5 / np.pi) + np.float32(0.5)


class _View:
    """Parts as a camera sees them: their axes and their inverse in px and metres of nearness."""

    def __init__(self, parts: Parts, camera: Camera) -> None:
        self.parts = parts
        self.at, self.depth = camera.project(parts.centre)  # [N, 2] px, [N] m
        self.axes = camera.slopes(parts.centre) @ parts.axes  # [N, 3, 3]
        self.own = np.linalg.inv(self.axes)
        self.normals = np.linalg.inv(parts.axes)  # world normal = own gradient @ normals
        across = np.hypot(self.axes[:, :2, 0], self.axes[:, :2, 2])
        along = self.axes[:, :2, 1]
        reach = np.where(parts.round[:, None], np.hypot(across, along), across)
        tip = reach * (1 + parts.taper[:, None])
        shift = np.where(parts.round[:, None], 0, along)
        self.low = self.at + np.minimum(-reach, shift - tip)  # [N, 2] px
        self.high = self.at + np.maximum(reach, shift + tip)

    def bound(self) -> tuple[int, int, int, int]:
        left, top = np.floor(self.low.min(axis=0)).astype(int)
        right, bottom = np.ceil(self.high.max(axis=0)).astype(int)
        return int(left), int(top), int(right), int(bottom)


class _Canvas:
    """The nearest part in each sample, and how near it is."""

    def __init__(self, view: _View, left: int, top: int, high: int, wide: int, samples: int) -> None:
        self._view, self._origin = view, np.array([left, top])
        self._x = (np.arange(wide, dtype=np.float32) + 0.5) / samples + left  # px
        self._y = (np.arange(high, dtype=np.float32) + 0.5) / samples + top
        self.near = np.full((high, wide), -np.inf, np.float32)
        self.part = np.full((high, wide), -1, np.int8)
        low = np.maximum(((view.low - self._origin) * samples).astype(int), 0)
        beyond = ((view.high - self._origin) * samples).astype(int) + 1
        for i in range(len(view.at)):
            self._add(i, slice(low[i, 1], beyond[i, 1]), slice(low[i, 0], beyond[i, 0]))

    def _add(self, i: int, rows: slice, columns: slice) -> None:
        """A ray meets the part at the nearness n where a·n² + 2·b·n + c = 0; b is linear in x and y, c quadratic."""
        view = self._view
        (px, py, pz), (qx, qy, qz), (rx, ry, rz) = view.own[i].T.tolist()  # a step in x, in y, in n in own axes
        k, bent = float(view.parts.taper[i]), float(view.parts.round[i]) - float(view.parts.taper[i]) ** 2
        a = rx * rx + bent * ry * ry + rz * rz
        if a < _FLAT * (rx * rx + ry * ry + rz * rz):
            return
        bx, by, b = (px * rx + bent * py * ry + pz * rz) / a, (qx * rx + bent * qy * ry + qz * rz) / a, -k * ry / a
        cxx, cyy = (px * px + bent * py * py + pz * pz) / a, (qx * qx + bent * qy * qy + qz * qz) / a
        cxy, cx, cy, c = 2 * (px * qx + bent * py * qy + pz * qz) / a, -2 * k * py / a, -2 * k * qy / a, -1 / a
        x, y = self._x[columns] - np.float32(view.at[i, 0]), (self._y[rows] - np.float32(view.at[i, 1]))[:, None]
        room = ((2 * bx * by - cxy) * y) * x
        room += (bx * bx - cxx) * x * x + (2 * bx * b - cx) * x + (b * b - c)
        room += (by * by - cyy) * y * y + (2 * by * b - cy) * y
        met = room > 0
        near = np.sqrt(np.maximum(room, 0, out=room), out=room)
        near -= bx * x + b
        near -= by * y
        if not view.parts.round[i]:
            along = ry * near
            along += py * x
            along += qy * y
            met &= along >= 0
            met &= along <= 1
        near -= np.float32(view.depth[i])
        met &= near > self.near[rows, columns]
        np.copyto(self.near[rows, columns], near, where=met)
        np.copyto(self.part[rows, columns], np.int8(i), where=met)

    def hits(self, sample: NDArray[np.intp]) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Of samples, part after part: how many of each part [N], places in its axes [M, 3], unit normals [M, 3]."""
        view, parts = self._view, self._view.parts
        part = self.part.ravel().take(sample)
        row, column = np.divmod(sample.astype(np.int32), np.int32(self.part.shape[1]))
        seen = np.empty((sample.size, 3), np.float32)
        seen[:, 0], seen[:, 1] = self._x.take(column), self._y.take(row)
        seen[:, 2] = self.near.ravel().take(sample)
        shift = np.column_stack([view.at, -view.depth]).astype(np.float32)
        own, normals = view.own.transpose(0, 2, 1).astype(np.float32), view.normals.astype(np.float32)
        places, normal = np.empty_like(seen), np.empty_like(seen)
        ends = np.searchsorted(part, np.arange(len(view.at) + 1))
        for i in np.flatnonzero(np.diff(ends)).tolist():
            of = slice(ends[i], ends[i + 1])
            place = np.matmul(seen[of] - shift[i], own[i], out=places[of])
            k = float(parts.taper[i])
            slope = place * np.array([1, float(parts.round[i]) - k * k, 1], np.float32)
            slope[:, 1] -= np.float32(k)
            np.matmul(slope, normals[i], out=normal[of])
        normal /= np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None] + np.float32(1e-9)
        return np.diff(ends), places, normal
