"""The way back: views of a rig blended into one equirectangular panorama.

Geometry and conventions are those of `lightmill.ops.sphere`, read in the other direction: for every pixel of the
panorama and every camera, where its centre lies in the view.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.cache import ByteCache
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import LONGEST_SIDE, Pixels
from lightmill.types import Size

_TILE_HW = (
    256,
    512,
)  # the panorama is worked on in tiles: those a camera does not see cost nothing, the rest stay in cache


class Joined(NamedTuple):
    """A panorama made of views, and where there was anything to make it of."""

    pixels: Pixels  # [H, W, 3] or [H, W] uint8; 0 where no camera sees anything
    covered: Pixels  # [H, W] uint8: 255 where any camera sees it, else 0


@dataclass(frozen=True)
class _Tile:
    """Where the pixels of a part of the panorama lie in a view; those that the view does not show lie outside it."""

    box: tuple[slice, slice]  # rows and columns of the panorama
    xy: NDArray[np.int16]  # [h, w, 2] whole pixels of the view
    fraction: NDArray[np.uint16]  # [h, w] 1/32 px, as cv2.convertMaps packs it

    @property
    def nbytes(self) -> int:
        return self.xy.nbytes + self.fraction.nbytes


def _boxes(pano_hw: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    (height, width), (tile_height, tile_width) = pano_hw, _TILE_HW
    for top in range(0, height, tile_height):
        for left in range(0, width, tile_width):
            yield slice(top, min(top + tile_height, height)), slice(left, min(left + tile_width, width))


def _tiles(camera: Camera, size: Size, pano_hw: tuple[int, int]) -> tuple[_Tile, ...]:
    """The parts of the panorama that a camera sees, with the place of each pixel's centre in the view."""
    longitude = ((np.arange(pano_hw[1]) + 0.5) / pano_hw[1] - 0.5) * 2 * np.pi
    latitude = ((np.arange(pano_hw[0]) + 0.5) / pano_hw[0] - 0.5) * np.pi  # positive downwards, as y
    cam_from_pano, focal = camera.pano_from_cam().T, camera.focal_px(size.width)
    seen = math.atan(math.hypot(size.width, size.height) / 2 / focal)  # from the axis to the view's corners
    tiles = []
    for box in _boxes(pano_hw):
        south, east = latitude[box[0]], longitude[box[1]]
        if _angle_to_axis(cam_from_pano[2], south, east) > seen + math.hypot(np.ptp(south), np.ptp(east)) / 2:
            continue
        column, row = _place_in_view(cam_from_pano, south, east, size, focal)
        if (column >= 0).any():
            xy, fraction = np.empty((*column.shape, 2), np.int16), np.empty(column.shape, np.uint16)
            cv2.convertMaps(column, row, cv2.CV_16SC2, dstmap1=xy, dstmap2=fraction)
            tiles.append(_Tile(box, xy, fraction))
    return tuple(tiles)


def _angle_to_axis(axis: NDArray[np.float64], south: NDArray[np.float64], east: NDArray[np.float64]) -> float:
    """Radians between a camera's axis (in panorama axes) and the middle of a box of latitudes and longitudes."""
    down, across = (south[0] + south[-1]) / 2, (east[0] + east[-1]) / 2
    middle = math.cos(down) * math.sin(across), math.sin(down), math.cos(down) * math.cos(across)
    return math.acos(min(1.0, max(-1.0, float(axis @ middle))))


def _place_in_view(
    cam_from_pano: NDArray[np.float64], south: NDArray[np.float64], east: NDArray[np.float64], size: Size, focal: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row indices in the view, [h, w] each; -2 for what the view does not show.

    Points within half a pixel of the border count as on the outermost pixels' centres: they read the same there, and
    no rounding can push them out of one view without pushing them into the next.
    """

    def component(turn: NDArray[np.float64]) -> NDArray[np.float64]:
        around: NDArray[np.float64] = turn[0] * np.sin(east) + turn[2] * np.cos(east)
        along: NDArray[np.float64] = turn[1] * np.sin(south)
        return np.cos(south)[:, None] * around + along[:, None]

    x, y, z = (component(turn) for turn in cam_from_pano)
    scale = focal / np.where(z > 0, z, 1)
    column, row = x * scale + (size.width - 1) / 2, y * scale + (size.height - 1) / 2
    inside = (z > 0) & _within(column, size.width) & _within(row, size.height)
    return (
        np.where(inside, np.clip(column, 0, size.width - 1), -2).astype(np.float32),
        np.where(inside, np.clip(row, 0, size.height - 1), -2).astype(np.float32),
    )


def _within(index: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    return np.abs(index - (side - 1) / 2) <= side / 2 + 1e-6  # px; views that only meet must not leave a gap


def _feather(size: Size) -> NDArray[np.float32]:
    """[h, w] the weight of a view's pixels, `((1 - x^2) (1 - y^2))^2` with x and y from -1 to 1: above 0 everywhere."""
    across, down = ((1 - ((np.arange(side) + 0.5) * 2 / side - 1) ** 2) ** 2 for side in (size.width, size.height))
    return (down[:, None] * across).astype(np.float32)


class JoinMaps:
    """Where a panorama's pixels lie in the views of a rig, made once per camera and size, shared by all threads.

    Takes about 6 bytes per pixel of the panorama that a camera sees; kept while `capacity_bytes` allows.
    """

    def __init__(self, rig: Rig, *, capacity_bytes: int = 2**30) -> None:
        """Raises ValueError for views with a side above 32766 px, which cv2.remap does not read."""
        if max(rig.size.width, rig.size.height) > LONGEST_SIDE:
            raise ValueError(f"a view's sides are at most {LONGEST_SIDE} px, got {rig.size}; use smaller views")
        self.rig = rig
        self.feather = _feather(rig.size)
        self._tiles: ByteCache[tuple[_Tile, ...]] = ByteCache(capacity_bytes=capacity_bytes)

    def tiles(self, camera: Camera, pano_hw: tuple[int, int]) -> tuple[_Tile, ...]:
        """What `camera` sees of a panorama of that size."""
        return self._tiles.get(
            (camera, pano_hw),
            group=pano_hw,
            make=lambda: _tiles(camera, self.rig.size, pano_hw),
            nbytes=lambda tiles: sum(tile.nbytes for tile in tiles),
        )


class PanoJoin:
    """Blends views, one at a time, into a panorama [H, W, channels].

    Views are read with a linear kernel at positions rounded to 1/32 px, and weighted by their distance to their own
    border, so that there is no step where one ends. Needs 4 (channels + 1) bytes per pixel of the panorama. For one
    thread; threads may share `maps`.
    """

    def __init__(
        self, rig: Rig, pano_hw: tuple[int, int], *, channels: Literal[1, 3] = 3, maps: JoinMaps | None = None
    ) -> None:
        self._maps = maps or JoinMaps(rig)
        self._size = rig.size
        self._pano_hw = pano_hw
        self._total = np.zeros(pano_hw if channels == 1 else (*pano_hw, channels), np.float32)
        self._weight = np.zeros(pano_hw, np.float32)

    def add(self, camera: Camera, view: Pixels) -> None:
        """Blend in the view of `camera`: [h, w, 3], or [h, w] where there is one channel; uint8, of the rig's size.

        Raises ValueError for a view of another kind or size.
        """
        wanted = (self._size.height, self._size.width, *self._total.shape[2:])
        if view.shape != wanted or view.dtype != np.uint8:
            raise ValueError(
                f"the view of camera {camera.name} must be uint8 {list(wanted)}, got {view.dtype} {list(view.shape)}"
            )
        for tile in self._maps.tiles(camera, self._pano_hw):
            part = cv2.remap(view, tile.xy, tile.fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            weight = cv2.remap(self._maps.feather, tile.xy, tile.fraction, cv2.INTER_LINEAR, borderValue=0)
            self._total[tile.box] += part * (weight if part.ndim == 2 else weight[..., None])
            self._weight[tile.box] += weight

    def result(self) -> Joined:
        """The weighted mean of all views added so far, rounded."""
        pixels = np.zeros(self._total.shape, np.uint8)
        for box in _boxes(self._pano_hw):
            pixels[box] = np.rint(self._mean(box))
        return Joined(pixels, self._covered())

    def result_mask(self) -> Joined:
        """255 where the weighted mean of the masks added so far is at least one half of 255, else 0."""
        half = 127.5 - 1e-3  # sums in float32 miss an exact half by less
        pixels = np.zeros(self._total.shape, np.uint8)
        for box in _boxes(self._pano_hw):
            pixels[box] = np.where(self._mean(box) >= half, 255, 0)
        return Joined(pixels, self._covered())

    def clear(self) -> None:
        """Begin the next panorama in the same memory."""
        self._total[:] = 0
        self._weight[:] = 0

    def _mean(self, box: tuple[slice, slice]) -> NDArray[np.float32]:
        weight = self._weight[box]
        weight = np.where(weight > 0, weight, np.float32(1))
        return self._total[box] / (weight if self._total.ndim == 2 else weight[..., None])

    def _covered(self) -> Pixels:
        return np.where(self._weight > 0, np.uint8(255), np.uint8(0))


def join_views(
    rig: Rig, pano_hw: tuple[int, int], views: Mapping[str, Pixels], *, maps: JoinMaps | None = None
) -> Joined:
    """Blend views [h, w, 3], by the name of their camera, into a panorama; a rig's cameras may be left out."""
    join = PanoJoin(rig, pano_hw, maps=maps)
    for camera, view in _matched(rig, views):
        join.add(camera, view)
    return join.result()


def join_masks(
    rig: Rig, pano_hw: tuple[int, int], masks: Mapping[str, Pixels], *, maps: JoinMaps | None = None
) -> Joined:
    """Join masks [h, w] of 0 and 255, by the name of their camera: 255 where their weighted mean is at least half."""
    join = PanoJoin(rig, pano_hw, channels=1, maps=maps)
    for camera, mask in _matched(rig, masks):
        join.add(camera, mask)
    return join.result_mask()


def _matched(rig: Rig, views: Mapping[str, Pixels]) -> Iterator[tuple[Camera, Pixels]]:
    cameras = {camera.name: camera for camera in rig.cameras}
    for name, view in views.items():
        if name not in cameras:
            raise ValueError(f"the rig {rig.name} has no camera {name!r}; it has {', '.join(cameras)}")
        yield cameras[name], view
