"""What a rig sees of the sphere, and which of its cameras owns each direction.

A camera sees a direction that meets its view, borders included. The owner of a direction is, among the cameras that see
it, the one whose optical axis is nearest; between equally near ones the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.rig import Camera, Rig

# rounding moves a plane's coefficients by about 1e-16; what is below this is meant to be zero
_ZERO = 1e-12


@dataclass(frozen=True)
class Coverage:
    """How much of the sphere a rig sees."""

    share: float  # of all directions, those that at least one camera sees; 0 to 1
    mean_overlap: float  # how many cameras see a direction, the mean over all directions, unseen ones included


def coverage(cameras: Sequence[Camera], *, aspect: float = 1.0, samples: int = 200_000) -> Coverage:
    """What a rig sees of the sphere, counted on evenly spread directions.

    `aspect` is width / height of the views. `mean_overlap` is the sum of the cameras' solid angles / 4π: the six views
    of a cube have 1. With 200 000 samples both are good to about 0.0001.
    """
    rays = fibonacci_sphere(samples)
    count = np.zeros(samples, np.int32)
    for camera in cameras:
        count += _sees(camera, rays, aspect)
    return Coverage(share=float(np.mean(count > 0)), mean_overlap=float(np.mean(count)))


def fibonacci_sphere(count: int) -> NDArray[np.float64]:
    """[N, 3] unit directions, evenly spread: equal steps in height, turned by the golden angle from one to the next."""
    i = np.arange(count)
    y = 1 - (2 * i + 1) / count
    around = i * (np.pi * (3 - np.sqrt(5)))
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.sin(around), y, radius * np.cos(around)], axis=-1)


def owners(cameras: Sequence[Camera], rays_in_pano: NDArray[np.float64], *, aspect: float = 1.0) -> NDArray[np.int32]:
    """[N] index of the camera that owns each of [N, 3] unit directions, or -1 where none sees it.

    `aspect` is width / height of the views.
    """
    owner = np.full(len(rays_in_pano), -1, np.int32)
    nearest = np.full(len(rays_in_pano), -np.inf)
    for index, camera in enumerate(cameras):
        along_axis = rays_in_pano @ camera.pano_from_cam()[:, 2]
        better = _sees(camera, rays_in_pano, aspect) & (along_axis > nearest + _ZERO)
        owner[better], nearest[better] = index, along_axis[better]
    return owner


def ownership_mask(rig: Rig, index: int) -> NDArray[np.uint8]:
    """[h, w] uint8: 255 where camera `index` owns what its pixel's centre shows, 0 where another camera does.

    With these masks a feature in the overlap of several views is found in one of them only. The masks of a rig split
    all that it sees without gap or overlap.
    """
    # In the plane of this view another camera's border, and the line of equal distance to both axes, are straight: what
    # it owns is a convex polygon, so one run of pixels in every row.
    starts_ends = np.zeros((rig.size.height, rig.size.width + 1), np.int16)
    rows = np.arange(rig.size.height)
    for other in range(len(rig.cameras)):
        if other == index:
            continue
        start, end = _lost_runs(rig, index, other)
        starts_ends[rows, start] += 1
        starts_ends[rows, end] -= 1
    lost_to = np.cumsum(starts_ends[:, :-1], axis=1, dtype=np.int16)
    return np.where(lost_to == 0, np.uint8(255), np.uint8(0))


def _sees(camera: Camera, rays_in_pano: NDArray[np.float64], aspect: float) -> NDArray[np.bool_]:
    x, y, z = (rays_in_pano @ camera.pano_from_cam()).T
    half_width = 1 / (2 * camera.focal_px(1))  # at distance 1
    half_height = half_width / aspect
    seen: NDArray[np.bool_] = (z > 0) & (np.abs(x) <= z * half_width + _ZERO) & (np.abs(y) <= z * half_height + _ZERO)
    return seen


def _lost_runs(rig: Rig, index: int, other: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of every row of camera `index`, the pixels that `other` has the better claim to.

    [h] first column and [h] column after the last; both the same where there are none.
    """
    width, height = rig.size.width, rig.size.height
    focal_px = rig.cameras[index].focal_px(width)
    planes = _planes(rig, index, other)
    v = (np.arange(height) + 0.5 - height / 2) / focal_px
    start, end = np.zeros(height), np.full(height, float(width))
    for (a, b, c), strictly in planes:  # pixels where a u + b v + c >= 0 (or > 0)
        rest = b * v + c
        if a == 0:
            outside = rest <= _ZERO if strictly else rest < -_ZERO
            end[outside] = 0
            continue
        column = -rest / a * focal_px + width / 2 - 0.5  # where the line crosses the row
        if a > 0:
            start = np.maximum(start, np.floor(column + 1e-9) + 1 if strictly else np.ceil(column - 1e-9))
        else:
            end = np.minimum(end, np.ceil(column - 1e-9) if strictly else np.floor(column + 1e-9) + 1)
    start = np.minimum(start, width)
    return start.astype(np.intp), np.maximum(end, start).astype(np.intp)


def _planes(rig: Rig, index: int, other: int) -> list[tuple[NDArray[np.float64], bool]]:
    """Half spaces whose intersection `other` takes from camera `index`.

    Each is a normal [3] in the axes of `index`, and whether the plane itself is left out.
    """
    camera, rival = rig.cameras[index], rig.cameras[other]
    rival_from_cam = rival.pano_from_cam().T @ camera.pano_from_cam()
    right, down, forward = rival_from_cam
    half_width = 1 / (2 * rival.focal_px(1))  # at distance 1
    half_height = half_width * rig.size.height / rig.size.width
    sides = ((right, half_width), (down, half_height))
    borders = [reach * forward + sign * side for side, reach in sides for sign in (1, -1)]
    nearer = forward - np.array([0.0, 0.0, 1.0])
    planes = [(border, False) for border in borders] + [(nearer, other > index)]
    return [(np.where(np.abs(normal) < _ZERO, 0.0, normal), strictly) for normal, strictly in planes]
