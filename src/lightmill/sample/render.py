"""Pictures of the sample scene, as a panoramic camera and as any pinhole camera inside of it would take them.

Conventions: `lightmill.ops.rig` for cameras; panorama column `(atan2(x, z) / 2pi + 1/2) W`, row
`(1/2 + asin(y) / pi) H`, the first pixel's centre at (0.5, 0.5).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import UsageError
from lightmill.ops.rig import Camera
from lightmill.sample.courtyard import PERSON, camera_centre
from lightmill.sample.scene import Hits, Scene, trace
from lightmill.types import Size

__all__ = ["Rendered", "camera_centre", "panorama", "pinhole", "to_srgb", "world_from_pano"]

_Rays: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
_TILE_HW = (128, 128)  # small, so that few solids are in sight of each
_STEP = 36  # pixels that differ from a neighbour by more than this, of 255, are drawn again, finer


@dataclass(frozen=True)
class Rendered:
    """A picture and what is true of it, pixel by pixel."""

    pixels: NDArray[np.uint8]  # [H, W, 3] sRGB
    mask: NDArray[np.uint8]  # [H, W] 0 where the centre of the pixel shows the person, 255 elsewhere
    depth: NDArray[np.float32]  # [H, W] metres along the ray through the centre of the pixel, inf for the sky


def world_from_pano(time_s: float) -> NDArray[np.float64]:  # noqa: ARG001 (part of the pose, whatever it depends on)
    """[3, 3] rotation from panorama axes to the world's: the camera never turns."""
    return np.eye(3)


def panorama(scene: Scene, *, time_s: float, width: int, supersample: int = 3) -> Rendered:
    """The equirectangular picture, width x width/2. `supersample`: rays a side in pixels that hold an edge.

    Raises UsageError for a width that is odd or below 16, or a supersample below 1.
    """
    if width < 16 or width % 2:
        raise UsageError(f"a panorama is twice as wide as high: its width is even and at least 16, got {width}")

    def rays(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        yaw, down = (x / width - 0.5) * math.tau, (2 * y / width - 0.5) * math.pi
        level = np.cos(down)
        in_pano = np.broadcast_arrays(level * np.sin(yaw), np.sin(down), level * np.cos(yaw))
        return np.stack(in_pano, axis=-1) @ world_from_pano(time_s).T

    picture = _Picture(scene, time_s, rays, math.tau / width)
    return picture.drawn(Size(width, width // 2), wraps=True, supersample=supersample)


def pinhole(scene: Scene, camera: Camera, size: Size, *, time_s: float, supersample: int = 3) -> Rendered:
    """What `split360` should make for this camera of a perfect panorama at that time."""
    focal_px = camera.focal_px(size.width)
    world_from_cam = world_from_pano(time_s) @ camera.pano_from_cam()

    def rays(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        in_cam = np.broadcast_arrays(x - size.width / 2, y - size.height / 2, focal_px)
        return np.stack(in_cam, axis=-1) @ world_from_cam.T

    picture = _Picture(scene, time_s, rays, 1 / focal_px)
    return picture.drawn(size, wraps=False, supersample=supersample)


def to_srgb(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Linear light 0..1 (clipped) as 8-bit sRGB (IEC 61966-2-1), same shape."""
    return _SRGB[(np.clip(linear, 0, 1) * np.float32(65535) + np.float32(0.5)).astype(np.uint16)]


def _srgb_table() -> NDArray[np.uint8]:
    linear = np.linspace(0, 1, 65536)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


_SRGB = _srgb_table()


@dataclass(frozen=True)
class _Picture:
    """One view of the scene: which ray goes through which point of the picture."""

    scene: Scene
    time_s: float
    rays: _Rays  # x, y in pixels, of shapes that broadcast to [...] -> [..., 3] in the world, any length
    pixel_angle: float  # how wide a pixel is, in radians

    def drawn(self, size: Size, *, wraps: bool, supersample: int) -> Rendered:
        if supersample < 1:
            raise UsageError(f"supersample is the number of rays a side, 1 or more, got {supersample}")
        shape = (size.height, size.width)
        linear, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
        object_id = np.empty(shape, np.int16)
        for tile in _tiles(size):
            y, x = np.ogrid[tile]
            hits = self._trace(x + 0.5, y + 0.5, self.pixel_angle)
            linear[tile], depth[tile], object_id[tile] = hits.rgb, hits.depth, hits.object_id
        pixels = to_srgb(linear)
        if supersample > 1:
            self._refine(pixels, _edges(pixels, object_id, wraps=wraps), supersample)
        return Rendered(pixels, np.where(object_id == PERSON, np.uint8(0), np.uint8(255)), depth)

    def _trace(self, x: NDArray[np.float64], y: NDArray[np.float64], pixel_angle: float) -> Hits:
        centre = camera_centre(self.time_s)
        return trace(self.scene, self.rays(x, y), centre, self.time_s, pixel_angle=pixel_angle)

    def _refine(self, pixels: NDArray[np.uint8], edges: NDArray[np.bool_], supersample: int) -> None:
        """Draw the marked pixels anew, each from supersample x supersample rays."""
        size = Size(edges.shape[1], edges.shape[0])
        steps = (np.arange(supersample) + 0.5) / supersample
        inside_y, inside_x = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
        for tile in _tiles(size):
            y, x = np.nonzero(edges[tile])
            y, x = y + tile[0].start, x + tile[1].start
            if x.size:
                hits = self._trace(x[:, None] + inside_x, y[:, None] + inside_y, self.pixel_angle / supersample)
                pixels[y, x] = to_srgb(np.minimum(hits.rgb, 1).mean(axis=1))


def _tiles(size: Size) -> Iterator[tuple[slice, slice]]:
    high, wide = _TILE_HW
    for top in range(0, size.height, high):
        for left in range(0, size.width, wide):
            yield slice(top, min(top + high, size.height)), slice(left, min(left + wide, size.width))


def _edges(pixels: NDArray[np.uint8], object_id: NDArray[np.int16], *, wraps: bool) -> NDArray[np.bool_]:
    """[H, W] whether a pixel differs from one beside, above or below it, in colour or in what it shows."""
    level = pixels.astype(np.int16)
    edges = np.zeros(object_id.shape, bool)
    for axis in (0, 1):
        change = np.abs(level - np.roll(level, -1, axis)) > _STEP
        differs = change[..., 0] | change[..., 1] | change[..., 2]
        differs |= object_id != np.roll(object_id, -1, axis)
        if axis == 0:
            differs[-1] = False
        elif not wraps:
            differs[:, -1] = False
        edges |= differs | np.roll(differs, 1, axis)
    return edges
