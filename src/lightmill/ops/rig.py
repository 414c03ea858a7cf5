"""Cameras inside a panorama: where each one looks, and what it sees.

Convention: camera axes as COLMAP's (x right, y down, z forward). `pano_from_cam = Ry(yaw) @ Rx(pitch) @ Rz(roll)`:
yaw > 0 looks right, pitch > 0 looks up, roll > 0 turns the camera clockwise. Angles in degrees. The focal length
follows from the horizontal field of view, `f = w / (2 tan(hfov / 2))`, pixels are square, the principal point is
`(w / 2, h / 2)` with the first pixel's centre at (0.5, 0.5).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightmill.types import Size


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One pinhole camera of a rig, in degrees."""

    name: str
    yaw: float
    pitch: float
    roll: float = 0.0
    hfov: float = 90.0

    def __post_init__(self) -> None:
        if not 0 < self.hfov < 180:
            raise ValueError(f"camera {self.name}: hfov must be above 0 and below 180 degrees, got {self.hfov:g}")

    def focal_px(self, width: int) -> float:
        """The focal length in pixels of a view `width` pixels wide."""
        return width / (2 * math.tan(math.radians(self.hfov) / 2))

    def pano_from_cam(self) -> NDArray[np.float64]:
        """[3, 3] rotation that takes a ray in camera axes to panorama axes."""
        (cy, cp, cr), (sy, sp, sr) = (fn(np.radians([self.yaw, self.pitch, self.roll])) for fn in (np.cos, np.sin))
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        rotation: NDArray[np.float64] = about_y @ about_x @ about_z
        return rotation


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Cameras that share one centre, and the size of every view."""

    name: str
    size: Size
    cameras: tuple[Camera, ...]
