"""The plane that patterns are laid out on, and the raster that they are made at.

The raster has a diagonal of about 1024 px whatever the picture's size, so that a pattern costs the same at any size,
and is then resized to the picture. Nothing is lost: what has narrow penumbras is made on all of the
raster, the rest on a coarser one, and none is narrower than about 3 px there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.patterns.params import Params

Field: TypeAlias = NDArray[np.float32]

_DIAGONAL = 1024  # px
_FRACTION_BITS = 4  # of the positions that OpenCV draws at
# pattern coordinates of the farthest corner: half a diagonal and the shift, at the smallest scale
REACH = (0.5 + 0.1 * math.sqrt(2)) / 0.8


class Plane(NamedTuple):
    """A raster over the picture, and how the pattern lies on it: turned, scaled and shifted about the middle."""

    shape_hw: tuple[int, int]
    step_yx: tuple[float, float]  # diagonals from one pixel to the next; alike but for rounding to whole pixels
    turn: tuple[float, float]  # cosine and sine
    scale: float
    shift_xy: tuple[float, float]

    @classmethod
    def of(cls, params: Params, size_hw: tuple[int, int], *, diagonal_px: int = _DIAGONAL) -> Self:
        picture_diagonal = math.hypot(*size_hw)
        height, width = (max(1, round(side * diagonal_px / picture_diagonal)) for side in size_hw)
        angle = math.radians(params["rotation_deg"])
        return cls(
            shape_hw=(height, width),
            step_yx=(size_hw[0] / picture_diagonal / height, size_hw[1] / picture_diagonal / width),
            turn=(math.cos(angle), math.sin(angle)),
            scale=params["scale"],
            shift_xy=(params["shift_x"], params["shift_y"]),
        )

    def coarser(self, factor: int) -> Self:
        """The same with so many times fewer pixels a side, for what has no detail that would need them."""
        height, width = (max(1, round(side / factor)) for side in self.shape_hw)
        (full_height, full_width), (step_y, step_x) = self.shape_hw, self.step_yx
        return self._replace(
            shape_hw=(height, width), step_yx=(step_y * full_height / height, step_x * full_width / width)
        )

    def length_px(self, length: float) -> float:
        """Pixels of a length of the picture."""
        return length / math.sqrt(self.step_yx[0] * self.step_yx[1])

    def places(self) -> tuple[Field, Field]:
        """x (to the right) and y (down) of every pixel's centre in the pattern, [h, w] each, in diagonals."""
        (height, width), (step_y, step_x) = self.shape_hw, self.step_yx
        x = (np.arange(width) + 0.5 - width / 2) * step_x - self.shift_xy[0]
        y = (np.arange(height) + 0.5 - height / 2) * step_y - self.shift_xy[1]
        cosine, sine = (part / self.scale for part in self.turn)
        return (
            np.add.outer((sine * y).astype(np.float32), (cosine * x).astype(np.float32)),
            np.add.outer((cosine * y).astype(np.float32), (-sine * x).astype(np.float32)),
        )

    def pixels_of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 2] x and y in the pattern to column and row indices of the raster: the way back of `places`."""
        (height, width), (step_y, step_x), (cosine, sine) = self.shape_hw, self.step_yx, self.turn
        x, y = points[..., 0] * self.scale, points[..., 1] * self.scale
        column = (cosine * x - sine * y + self.shift_xy[0]) / step_x + (width - 1) / 2
        row = (sine * x + cosine * y + self.shift_xy[1]) / step_y + (height - 1) / 2
        return np.stack([column, row], axis=-1)

    def seen(self, outlines: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of [N, K, 2] outlines, in the pattern, may touch the raster."""
        pixels = self.pixels_of(outlines)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        touches: NDArray[np.bool_] = np.logical_and(high > -1, low < np.array(self.shape_hw[::-1])).all(axis=1)
        return touches

    def fill(self, outlines: Sequence[NDArray[np.float64]] | NDArray[np.float64], *, convex: bool) -> NDArray[np.uint8]:
        """[h, w]: 255 inside any of the outlines [K, 2] (in the pattern), 0 outside, in between along their edges."""
        canvas = np.zeros(self.shape_hw, np.uint8)
        if not len(outlines):
            return canvas
        pixels = self.pixels_of(np.concatenate(outlines)) * 2**_FRACTION_BITS
        ends = np.cumsum([len(outline) for outline in outlines])
        for points in np.split(np.rint(pixels).astype(np.int32), ends[:-1]):
            if convex:
                cv2.fillConvexPoly(canvas, points, (255,), lineType=cv2.LINE_AA, shift=_FRACTION_BITS)
            else:
                cv2.fillPoly(canvas, [points], (255,), lineType=cv2.LINE_AA, shift=_FRACTION_BITS)
        return canvas


def from_middle(x: Field, spacing: float) -> Field:
    """The distance to the nearest multiple of `spacing`."""
    share = x * np.float32(1 / spacing)
    share -= np.rint(share)
    np.abs(share, out=share)
    share *= np.float32(spacing)
    return share


def penumbra(inside: Field, softness: float) -> Field:
    """0 to 1, smoothly, as the signed distance to an edge goes from -softness / 2 to softness / 2."""
    share = inside * np.float32(1 / softness)
    share += np.float32(0.5)
    np.clip(share, 0, 1, out=share)
    slope = share * np.float32(-2)
    slope += 3
    share *= share
    share *= slope
    return share


def sun_blur(drawn: NDArray[np.uint8], diameter_px: float) -> Field:
    """What is drawn in 0..255, seen through the sun's disc: 0..1 float32.

    Every gap becomes an image of the sun, however small and of whatever shape (Minnaert, The Nature of Light and Colour
    in the Open Air, 1954).
    """
    radius = math.ceil(diameter_px / 2)
    offset = np.arange(-radius, radius + 1)
    distance = np.hypot(offset[:, None], offset)
    disc = np.clip(diameter_px / 2 + 0.5 - distance, 0, 1)
    kernel = (disc / (255 * disc.sum())).astype(np.float32)
    return np.asarray(cv2.filter2D(drawn, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT), np.float32)


def resized(field: Field, size_hw: tuple[int, int]) -> Field:
    """[h, w] to [H, W], averaged over areas where that is smaller; values are kept within 0..1."""
    if field.shape != size_hw:
        smaller = size_hw[0] <= field.shape[0] and size_hw[1] <= field.shape[1]
        interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        field = np.asarray(cv2.resize(field, size_hw[::-1], interpolation=interpolation), np.float32)
    return np.clip(field, 0, 1, out=field)
