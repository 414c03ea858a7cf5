"""Against aliasing where a view is coarser than its panorama.

A linear kernel reads two pixels along each axis. Where the view's pixels lie further apart than that, the rest is
skipped, and fine detail comes out as moiré. So each pixel of such a view is the mean of several points inside it, close
enough together that every pixel of the panorama takes part.

Averaging the view's own pixels is exact wherever it is done, since it knows how fine the view is there. Shrinking the
panorama first is not: the minification falls from the middle of a view to its edges (at 45 degrees to one half), so
what is right in the middle takes detail away at the edges. On a panorama of waves of all directions and lengths, seen
with 90 degrees, the squared error against the true view was, for minifications of 2.1, 2.5, 3.0 and 4.1: without a
filter 19, 47, 105, 266; shrunk by the whole number 196, 124, 252, 224; by the mean of these points 11, 7, 6, 3.
"""

import math
from enum import StrEnum

from lightmill.ops.rig import Camera
from lightmill.ops.sphere import LONGEST_SIDE
from lightmill.types import Size

_REACH = 2  # pixels of the panorama that the narrowest kernel reads along each axis


class Antialias(StrEnum):
    """Whether the pixels of views that are coarser than the panorama are averaged over their area."""

    AUTO = "auto"  # where the minification is above 2: below, no pixel of the panorama is skipped
    OFF = "off"


def minification(camera: Camera, size: Size, *, pano_width: int) -> float:
    """Pixels of the panorama per pixel of the view at the view's centre, `W tan(hfov / 2) / (pi w)`.

    Towards a view's edge, at an angle t from its axis, it falls with cos(t) squared.

    >>> round(minification(Camera(name="a", yaw=0, pitch=0), Size(1920, 1080), pano_width=7680), 3)
    1.273
    """
    return pano_width * math.tan(math.radians(camera.hfov) / 2) / (math.pi * size.width)


def samples_per_side(antialias: Antialias, camera: Camera, size: Size, *, pano_width: int) -> int:
    """How many points along each side of a view's pixel are averaged: `ViewMaps.cut(..., samples=)`; 1 is no filter.

    The fewest that lie at most 2 px of the panorama apart; never so many that cv2.remap could not make them.
    """
    if antialias is Antialias.OFF:
        return 1
    needed = math.ceil(minification(camera, size, pano_width=pano_width) / _REACH)
    return max(1, min(needed, LONGEST_SIDE // max(size.width, size.height)))
