"""The two cameras of a sample match, and where they see what.

World: metres; x along the court, y away from the side camera, z up; the origin is the court's middle. Pixels: x right,
y down; the first pixel's centre is (0.5, 0.5).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightmill.types import Size

Reals = NDArray[np.float64]

ANGLES = ("side", "top")
_EYES = {"side": (0.0, -25.0, 8.5), "top": (0.0, -7.0, 14.0)}  # behind the near stand; under the roof
_AIMS = {"side": (0.0, -0.4, 0.9), "top": (0.0, 0.3, 0.5)}
_WIDE_M = {"side": 23.0, "top": 20.5}  # of the world, across the picture's middle


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    eye: Reals  # [3] m
    cam_from_world: Reals  # [3, 3], rows: right, down, forward
    focal_px: float
    size: Size

    @classmethod
    def looking(cls, eye: Reals, aim: Reals, *, wide_m: float, size: Size) -> "Camera":
        """Upright; `wide_m` metres of the plane through `aim` fill the picture's width."""
        forward = aim - eye
        far = float(np.linalg.norm(forward))
        forward = forward / far
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return cls(eye, np.stack([right, np.cross(forward, right), forward]), size.width * far / wide_m, size)

    def project(self, points: Reals) -> tuple[Reals, Reals]:
        """[..., 3] world to px [..., 2], and depth [...] in m along the forward axis."""
        seen = (points - self.eye) @ self.cam_from_world.T
        depth = seen[..., 2]
        middle = np.array([self.size.width / 2, self.size.height / 2])
        return middle + self.focal_px * seen[..., :2] / depth[..., None], depth

    def slopes(self, points: Reals) -> Reals:
        """[N, 3, 3] how px (x, y) and nearness (m) change with a step in the world from points [N, 3]."""
        seen = (points - self.eye) @ self.cam_from_world.T
        depth = seen[:, 2]
        of_seen = np.zeros((len(points), 3, 3))
        of_seen[:, 0, 0] = of_seen[:, 1, 1] = self.focal_px / depth
        of_seen[:, :2, 2] = -self.focal_px * seen[:, :2] / depth[:, None] ** 2
        of_seen[:, 2, 2] = -1
        slopes: Reals = of_seen @ self.cam_from_world
        return slopes


def camera(angle: str, *, play_x: float, rng: np.random.Generator, size: Size) -> Camera:
    """The camera of one session: turned to where the play is, and zoomed by hand, so never twice the same.

    angle: one of ANGLES. play_x: m.
    """
    eye, aim = np.array(_EYES[angle]), np.array(_AIMS[angle])
    eye[0] += play_x * (0.3 if angle == "side" else 0.9)
    aim[0] += play_x
    eye += rng.normal(0, 0.15, 3)
    aim += rng.normal(0, 0.2, 3)
    wide = _WIDE_M[angle] * math.exp(rng.normal(0, 0.04))
    return Camera.looking(eye, aim, wide_m=wide * max(1.0, size.width / size.height / (16 / 9)), size=size)
