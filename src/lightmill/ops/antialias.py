"""Against aliasing where a view is coarser than its panorama: the panorama is shrunk first, then cut.

A kernel of two to eight pixels reads only a few of the panorama's pixels for each one of the view. Where the view's
pixels lie several of the panorama's apart, the rest is skipped, and fine detail comes out as moiré. Averaging the
panorama over boxes beforehand keeps it from that, and every view of the same fineness shares the result.
"""

import math
from enum import StrEnum

import cv2
import numpy as np

from lightmill.ops.rig import Camera
from lightmill.ops.sphere import Pixels, continue_poles, inner, padded_shape
from lightmill.types import Size

_FULL_FROM = 1.25  # below, a view shows practically all that the panorama has, and shrinking would only blur


class Antialias(StrEnum):
    """When a panorama is shrunk before a view is cut out of it."""

    AUTO = "auto"  # by whole numbers only, so from a minification of 2 on
    FULL = "full"  # by the very minification, from 1.25 on
    OFF = "off"


def minification(camera: Camera, size: Size, *, pano_width: int) -> float:
    """Pixels of the panorama per pixel of the view at the view's centre, `W tan(hfov / 2) / (pi w)`.

    Towards a view's edge, at an angle t from its axis, it falls with cos(t) squared.

    >>> round(minification(Camera(name="a", yaw=0, pitch=0), Size(1920, 1080), pano_width=7680), 3)
    1.273
    """
    return pano_width * math.tan(math.radians(camera.hfov) / 2) / (math.pi * size.width)


def shrink_factor(antialias: Antialias, camera: Camera, size: Size, *, pano_width: int) -> float:
    """By how much the panorama is to be shrunk for this view; 1 leaves it as it is."""
    factor = minification(camera, size, pano_width=pano_width)
    if antialias is Antialias.AUTO and factor >= 2:
        return float(math.floor(factor))
    if antialias is Antialias.FULL and factor > _FULL_FROM:
        return factor
    return 1.0


def shrunk(padded: Pixels, *, factor: float) -> Pixels:
    """The padded panorama averaged over boxes of `factor` x `factor` pixels, its poles continued.

    [H + 2 MARGIN, W, 3] or [H + 2 MARGIN, W] uint8 to the same kind with round(W / factor) columns and
    round(H / factor) rows, at least one. Sides that `factor` does not divide get boxes of their own proportion, so
    nothing is shifted. Raises ValueError for a factor below 1.
    """
    if not factor >= 1:
        raise ValueError(f"a panorama is shrunk by a factor of at least 1, got {factor:g}")
    whole = inner(padded)
    height, width = (max(1, round(side / factor)) for side in whole.shape[:2])
    small = np.empty(padded_shape(height, width)[: padded.ndim], np.uint8)
    cv2.resize(whole, (width, height), dst=inner(small), interpolation=cv2.INTER_AREA)
    continue_poles(small)
    return small


class Pyramid:
    """One panorama at the sizes that its views need; each size is made once. For one item, and one thread."""

    def __init__(self, padded: Pixels, *, antialias: Antialias) -> None:
        self._antialias = antialias
        self._levels = {1.0: padded}

    def level(self, camera: Camera, size: Size) -> Pixels:
        """The padded panorama that the view of `camera` is to be cut out of."""
        factor = shrink_factor(self._antialias, camera, size, pano_width=self._levels[1.0].shape[1])
        if factor not in self._levels:
            self._levels[factor] = shrunk(self._levels[1.0], factor=factor)
        return self._levels[factor]
