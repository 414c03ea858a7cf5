"""Shape from a mask, and what follows from shape: normals and ambient occlusion.

Heights are in pixels of the picture, towards the viewer. Normals are unit vectors: x right, y up, z towards the viewer;
rows of a picture run down, so `dz/dy = -dz/drow`.
"""

import math
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = TypeVar("Floats", NDArray[np.float32], NDArray[np.float64])

_SOLVED_SIDE = 256  # px: the equation is solved at about this size, and only smoothed above it
_COARSEST_SIDE = 16
_SWEEPS, _COARSEST_SWEEPS, _CYCLES = 4, 64, 6
_SOURCE = np.float32(4 / 3)  # by which the mean of nine pixels falls short of the middle one: a third of 4
_FOREGROUND = 128  # of 255
_SHEET_LEAN = math.radians(30)  # of a picture's corners, where all of it is foreground

_FINE_SHARE, _COARSE_SHARE = 0.001, 0.012  # of the diagonal: the band of detail, as standard deviations
_HALF_CONTRAST = 0.25  # of log luminance: detail of this contrast gets half of the height there is

_AO_SIDE = 256
_AO_DIRECTIONS, _AO_STEPS = 8, 10


def inflate(
    mask: NDArray[np.uint8],
    *,
    detail_from: NDArray[np.float32] | None = None,
    bulge: float = 1.0,
    max_detail_slope: float = 0.25,
) -> NDArray[np.float32]:
    """A mask blown up like a balloon: height [H, W] float32 in px, 0 outside the mask.

    mask: uint8 [H, W]; 128 and more is inside. The height is `bulge` times the square root of what solves
    `laplace(u) = -4` inside with `u = 0` outside: at a bulge of 1 a disc becomes a half sphere, and an ellipse half an
    ellipsoid. (Poisson inflation as in "Notes on inflating curves", Baran and Lehtinen, 2009.) At the picture's frame
    the shape goes on: a figure that the frame cuts is not rounded off there. Where the whole picture is foreground it
    becomes a sheet, gently convex: part of a sphere that leans 30 degrees at the corners. An empty mask is flat.

    detail_from: linear luminance, float32 [H, W]. Its fine detail is added to what is inside, as if bright were high,
    with slopes of at most `max_detail_slope` (see `shading_detail`).

    Raises ValueError for a mask of another kind, and for luminance of another size.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is uint8 [H, W], got {mask.dtype} {list(mask.shape)}")
    if detail_from is not None and detail_from.shape != mask.shape:
        raise ValueError(f"luminance must be {list(mask.shape)} as the mask is, got {list(detail_from.shape)}")
    inside = mask >= _FOREGROUND
    if inside.all():
        height = _sheet(mask.shape)
    elif inside.any():
        height = np.sqrt(_solve_poisson(inside))
    else:
        return np.zeros(mask.shape, np.float32)
    height *= bulge
    if detail_from is not None and max_detail_slope > 0:
        height += shading_detail(detail_from, mask=mask, max_slope=max_detail_slope)
    return height


def shading_detail(luminance: NDArray[np.float32], *, mask: NDArray[np.uint8], max_slope: float) -> NDArray[np.float32]:
    """Fine detail of a picture as height [H, W] float32 in px, 0 outside the mask: bright is high.

    luminance: linear, float32 [H, W]. What is taken is a band of its logarithm: without what is coarser than 1.2 % of
    the diagonal (measured inside the mask only, so that the background does not count), and finer than 0.1 %.

    Slopes are at most `max_slope`, whatever the picture: contrast is limited to -1..1 before it is smoothed, and the
    slope of anything within those bounds after a Gaussian of deviation s is at most sqrt(2 / pi) / s.
    """
    height, width = luminance.shape
    diagonal = math.hypot(height, width)
    fine_px = max(_FINE_SHARE * diagonal, 0.7)
    inside = (mask >= _FOREGROUND).astype(np.float32)
    band = np.log(np.maximum(luminance, np.float32(1 / 4096)))
    band -= _mean_inside(band, inside, sigma_px=max(_COARSE_SHARE * diagonal, 2.0))
    band /= np.abs(band) + np.float32(_HALF_CONTRAST)
    # from 1 to 0 over the last pixels before the mask's border, where what lies outside would come in
    band *= np.clip(2 * cv2.GaussianBlur(inside, (0, 0), 2 * fine_px) - 1, 0, 1)
    amplitude = max_slope * fine_px * math.sqrt(math.pi / 2)
    return np.asarray(cv2.GaussianBlur(band, (0, 0), fine_px), np.float32) * inside * np.float32(amplitude)


def normals_from_height(height: Floats) -> NDArray[Any]:
    """Normals [H, W, 3] of a height field [H, W], of its dtype.

    By central differences, one-sided at the frame: exact for planes.

    >>> normals_from_height(np.array([[0.0, 1.0], [0.0, 1.0]]))[0, 0].round(3).tolist()
    [-0.707, 0.0, 0.707]
    """
    along_columns, along_rows = _slopes(height)
    scale = 1 / np.sqrt(along_columns * along_columns + along_rows * along_rows + 1)
    normals = np.empty((*height.shape, 3), height.dtype)
    np.multiply(-along_columns, scale, out=normals[..., 0])
    np.multiply(along_rows, scale, out=normals[..., 1])
    normals[..., 2] = scale
    return normals


def normals_from_depth(
    depth: Floats, *, focal_px: float, principal_px: tuple[float, float] | None = None
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Normals [H, W, 3], of its dtype, and height [H, W] float32 in px, of a depth map seen by a pinhole camera.

    depth: distance along the camera's axis in any unit, above 0, larger is further. principal_px: (x, y) where the axis
    meets the picture, first pixel centre (0.5, 0.5); None for its middle. Pixels are put where they lie in space, and
    normals are cross products of differences there: neither the unit nor the resolution counts, and planes are exact.
    The height is `depth` turned to pixels as they are at the median depth, which is 0.

    Raises ValueError for depths that are not finite or not above 0, and for a focal length that is not above 0.
    """
    if not focal_px > 0:
        raise ValueError(f"the focal length must be above 0 px, got {focal_px}")
    if not (np.isfinite(depth).all() and (depth > 0).all()):
        raise ValueError("depths must be finite and above 0; some are not")
    rows, columns = depth.shape
    x, y = principal_px or (columns / 2, rows / 2)
    right = (np.arange(columns) + 0.5 - x).astype(depth.dtype) / focal_px
    up = (y - 0.5 - np.arange(rows)).astype(depth.dtype)[:, None] / focal_px
    x_along, x_down = _slopes(depth * right)
    y_along, y_down = _slopes(depth * up)
    z_along, z_down = _slopes(-depth)
    normals = np.stack(
        [  # down × along: towards the viewer
            y_down * z_along - z_down * y_along,
            z_down * x_along - x_down * z_along,
            x_down * y_along - y_down * x_along,
        ],
        axis=-1,
    )
    normals /= np.maximum(np.sqrt((normals * normals).sum(axis=-1, keepdims=True)), np.finfo(depth.dtype).tiny)
    middle = float(np.median(depth))
    return normals.astype(depth.dtype, copy=False), ((middle - depth) * (focal_px / middle)).astype(np.float32)


def ambient_occlusion(
    height: NDArray[np.float32],
    *,
    radius_share: float = 0.05,
    strength: float = 1.0,
    mask: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """How much of an even sky each point of a height field sees: [H, W] float32, 1 = all of what its plane would see.

    Horizon-based (Bavoil et al., "Image-space horizon-based ambient occlusion", 2008): in eight directions, the
    steepest rise above the point's own plane within `radius_share` of the diagonal. A horizon whose tangent is t leaves
    `1 / (1 + t²)` of a sky that counts by its cosine. Planes are 1 everywhere, however they lean; beyond the frame the
    field goes on as it came. Worked out at a long side of 256 px at most. `strength` 0..1 blends with 1.

    mask: uint8 [H, W], where the thing ends, so that the step at its border is not taken for a valley: values of its
    inside are carried over the border. Outside they mean nothing.
    """
    small, scale = _reduced(height, _AO_SIDE)
    small = small / np.float32(scale)
    rows, columns = small.shape
    radius = max(radius_share * math.hypot(rows, columns), 2.0)
    margin = math.ceil(radius)
    around = np.pad(small, margin, mode="reflect", reflect_type="odd")
    along_columns, along_rows = _slopes(small)
    seen = np.zeros_like(small)
    for angle in np.arange(_AO_DIRECTIONS) * (2 * math.pi / _AO_DIRECTIONS):
        horizon = np.zeros_like(small)
        for right, down in sorted(_offsets(angle, radius)):
            length = math.hypot(right, down)
            rise = around[margin + down : margin + down + rows, margin + right : margin + right + columns] - small
            rise -= right * along_columns + down * along_rows
            np.maximum(horizon, rise / np.float32(length), out=horizon)
        seen += 1 / (1 + horizon * horizon)
    seen *= np.float32(1 / _AO_DIRECTIONS)
    if mask is not None:
        seen = _carried_out(seen, _reduced((mask >= _FOREGROUND).astype(np.float32), _AO_SIDE)[0])
    return _enlarged(1 - np.float32(strength) * (1 - seen), height.shape)


# ---------------------------------------------------------------------------------------------------------------------
# the equation of the balloon


def _sheet(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Part of a sphere that leans 30 degrees at the corners; 0 there."""
    rows, columns = shape
    right = np.arange(columns, dtype=np.float32) + np.float32(0.5 - columns / 2)
    down = np.arange(rows, dtype=np.float32) + np.float32(0.5 - rows / 2)
    corner = math.hypot(rows, columns) / 2
    radius = corner / math.sin(_SHEET_LEAN)
    height: NDArray[np.float32] = np.sqrt(np.float32(radius**2) - (right**2 + (down**2)[:, None]))
    return height - np.float32(math.sqrt(radius**2 - corner**2))


def _solve_poisson(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[H, W] float32: `laplace(u) = -4` inside, 0 outside, no flow through the frame. Some pixels must lie outside.

    By cycles over levels of halved size, then carried up to the full size with a few sweeps on each level, so that the
    border follows the mask's own pixels.
    """
    levels, solved = _levels(inside)
    u = np.zeros_like(levels[-1])
    for k in range(len(levels) - 1, solved - 1, -1):
        # coarser levels than that which is solved only have to give it a start
        for _ in range(_CYCLES if k == solved else 1):
            u = _cycle(u, _SOURCE, levels[k:])
        u = _finer(u, levels[k - 1]) if k else u
    for k in range(solved - 1, -1, -1):
        u = _sweep(u, _SOURCE, levels[k], times=_SWEEPS)
        u = _finer(u, levels[k - 1]) if k else u
    return np.ascontiguousarray(u[: inside.shape[0], : inside.shape[1]])


def _levels(inside: NDArray[np.bool_]) -> tuple[list[NDArray[np.float32]], int]:
    """What is inside at the full size, a half, a quarter, ...: 1 or 0. And which of them is the one that is solved.

    Padded by its own edge to a size that can be halved that often. A pixel is inside where all of it is: then the
    centre of the first one outside, where u is 0, lies on the border on average. And a correction that reached over
    the border would make cycles diverge.
    """
    longest = max(inside.shape)
    halvings = max(0, math.ceil(math.log2(longest / _COARSEST_SIDE)))
    solved = min(halvings, max(0, round(math.log2(longest / _SOLVED_SIDE))))
    pads = [(0, -side % 2**halvings) for side in inside.shape]
    levels = [np.pad(inside, pads, mode="edge").astype(np.float32)]
    for _ in range(halvings):
        share = cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append((share >= 1).astype(np.float32))
    return levels, solved


def _cycle(
    u: NDArray[np.float32], source: NDArray[np.float32] | np.float32, levels: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """One V-cycle of multigrid on the finest of the levels."""
    inside, *coarser = levels
    if not coarser:
        return _sweep(u, source, inside, times=_COARSEST_SWEEPS)
    u = _sweep(u, source, inside, times=_SWEEPS)
    left = (_mean_of_nine(u, into=np.empty_like(u)) - u + source) * inside
    shrunk = cv2.resize(left, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    shrunk = 4 * shrunk * coarser[0]
    correction = _cycle(np.zeros_like(shrunk), shrunk, coarser)
    return _sweep(u + _doubled(correction) * inside, source, inside, times=_SWEEPS)


def _sweep(
    u: NDArray[np.float32], source: NDArray[np.float32] | np.float32, inside: NDArray[np.float32], *, times: int
) -> NDArray[np.float32]:
    """Jacobi steps: the mean of nine pixels exceeds the middle one by a third of the Laplacian. Overwrites u."""
    following = np.empty_like(u)
    for _ in range(times):
        _mean_of_nine(u, into=following)
        following += source
        following *= inside
        u, following = following, u
    return u


def _mean_of_nine(u: NDArray[np.float32], *, into: NDArray[np.float32]) -> NDArray[np.float32]:
    cv2.blur(u, (3, 3), dst=into, borderType=cv2.BORDER_REFLECT)  # reflected: no flow through the frame
    return into


def _doubled(u: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(u, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), np.float32)


def _finer(u: NDArray[np.float32], inside: NDArray[np.float32]) -> NDArray[np.float32]:
    """u on the next finer level: a pixel there is half as long, so u, which is a square, is four times as large."""
    finer = _doubled(u)
    finer *= 4
    finer *= inside
    return finer


# ---------------------------------------------------------------------------------------------------------------------
# small helpers


def _slopes(field: Floats) -> tuple[Floats, Floats]:
    """Differences a pixel along columns and along rows (down): central, one-sided at the frame."""
    along, down = np.zeros_like(field), np.zeros_like(field)
    if field.shape[1] > 1:
        np.subtract(field[:, 2:], field[:, :-2], out=along[:, 1:-1])
        along[:, 1:-1] *= 0.5
        along[:, 0], along[:, -1] = field[:, 1] - field[:, 0], field[:, -1] - field[:, -2]
    if field.shape[0] > 1:
        np.subtract(field[2:], field[:-2], out=down[1:-1])
        down[1:-1] *= 0.5
        down[0], down[-1] = field[1] - field[0], field[-1] - field[-2]
    return along, down


def _offsets(angle: float, radius: float) -> set[tuple[int, int]]:
    """Steps (right, down) in whole pixels in one direction, closer together near the point."""
    lengths = np.geomspace(1, radius, _AO_STEPS)
    return {(round(length * math.cos(angle)), round(length * math.sin(angle))) for length in lengths}


def _reduced(field: NDArray[np.float32], longest: int) -> tuple[NDArray[np.float32], float]:
    """The field at a long side of at most so many px, and how many px of it one of these is."""
    rows, columns = field.shape
    scale = max(rows, columns) / longest
    if scale <= 1:
        return field, 1.0
    size = (max(1, round(columns / scale)), max(1, round(rows / scale)))
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA), np.float32), scale


def _enlarged(field: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A field of 0..1 at a larger size, smoothly."""
    if field.shape == shape:
        return field
    large = cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(large, 0, 1, out=np.asarray(large, np.float32))


def _carried_out(field: NDArray[np.float32], inside: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is well inside (two pixels) as it is, the rest as the mean of what is near there; 1 where nothing is."""
    sure = cv2.erode((inside >= 1).astype(np.float32), np.ones((3, 3), np.uint8), iterations=2)
    near = cv2.GaussianBlur(sure, (0, 0), 2)
    mean = (cv2.GaussianBlur(field * sure, (0, 0), 2) + np.float32(1e-4)) / (near + np.float32(1e-4))
    return np.where(sure > 0, field, np.asarray(mean, np.float32))


def _mean_inside(field: NDArray[np.float32], inside: NDArray[np.float32], *, sigma_px: float) -> NDArray[np.float32]:
    """A Gaussian mean of what is inside, made on a small copy."""
    weighted, scale = _reduced(field * inside, _SOLVED_SIDE)
    weights, _ = _reduced(inside, _SOLVED_SIDE)
    sigma = sigma_px / scale
    mean = cv2.GaussianBlur(weighted, (0, 0), sigma) / np.maximum(cv2.GaussianBlur(weights, (0, 0), sigma), 1e-6)
    return np.asarray(cv2.resize(mean, field.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
