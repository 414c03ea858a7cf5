"""Pinhole views cut out of an equirectangular panorama, exactly and fast.

Where a ray (x right, y down, z forward) meets a panorama of W x H pixels: column `(atan2(x, z) / 2 pi + 1/2) W`, row
`(1/2 + asin(y / |ray|) / pi) H`, with the first pixel's centre at (0.5, 0.5). W and H count each for its own axis, so
a panorama that is a few pixels off 2:1 is still read where it should be. Sampling wraps at the seam and continues
over the poles: the pixel above row 0 is the one of row 0 on the other side of the pole, half a turn away.

Panoramas come *padded*: the decoder writes into the middle rows of a buffer that has MARGIN rows more above and below,
so that nothing needs to be copied for the poles; the seam costs nothing, since cv2.remap wraps columns itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.cache import ByteCache
from lightmill.ops.rig import Camera, Rig
from lightmill.types import Size

MARGIN = 4  # rows beyond each pole; the widest kernel (Lanczos) reaches 3 rows up and 4 down

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.floating]
Sampling: TypeAlias = Literal["kernel", "nearest"]

LONGEST_SIDE = 32766  # cv2.remap asserts that every side is below 32767
_CHUNK = 65536  # elements computed at a time, so that intermediate arrays stay in the processor's cache
_REACH = MARGIN + 1  # the kernel's reach, and one for rounding up to the next pixel


class Interpolation(StrEnum):
    """The kernel that a view's pixels are interpolated with."""

    LINEAR = "linear"
    CUBIC = "cubic"
    LANCZOS = "lanczos"


_KERNELS = {
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
    Interpolation.LANCZOS: cv2.INTER_LANCZOS4,
}


# --- padded panoramas -----------------------------------------------------------------------------------------------


def padded_shape(height: int, width: int) -> tuple[int, int, int]:
    """The shape of the buffer that a panorama of `height` x `width` RGB pixels is decoded into.

    >>> padded_shape(3840, 7680)
    (3848, 7680, 3)
    """
    return height + 2 * MARGIN, width, 3


def inner(padded: Pixels) -> Pixels:
    """[H + 2 MARGIN, W, ...] -> the view [H, W, ...] of the panorama itself, C-contiguous where `padded` is."""
    return padded[MARGIN:-MARGIN]


def continue_poles(padded: Pixels) -> None:
    """Fill the margin rows of `padded`, [H + 2 MARGIN, W] or [H + 2 MARGIN, W, C], from the panorama between them.

    Row -1 - i is row i, and row H + i is row H - 1 - i, each turned by W // 2 columns.
    """
    height, half_turn = len(padded) - 2 * MARGIN, padded.shape[1] // 2
    first, last = MARGIN, MARGIN + height - 1
    for i in range(MARGIN):  # outwards from the poles, so that panoramas of fewer than MARGIN rows are right too
        padded[first - 1 - i] = np.roll(padded[first + i], -half_turn, axis=0)
        padded[last + 1 + i] = np.roll(padded[last - i], -half_turn, axis=0)


# --- where a view's pixels lie in the panorama ----------------------------------------------------------------------


class _Places(NamedTuple):
    """Where the pixels of a view lie, as indices (index i is the pixel whose centre is at i + 0.5).

    The column is counted from the one the camera's yaw points at, so cameras that differ in yaw share it.
    """

    column: NDArray[np.float32]  # [h, w], or [1, w] where it is the same in every row; -W/2 .. W/2
    row: NDArray[np.float32]  # [h, w], in the padded panorama: MARGIN - 0.5 .. H + MARGIN - 0.5

    @property
    def nbytes(self) -> int:
        return self.column.nbytes + self.row.nbytes


def _axis(turn: Floats, x: Floats, y: Floats, focal: float) -> Floats:
    """One component of the rays `turn . (x, y, focal)`: [1 or h, 1 or w], no larger than it must be."""
    total: Floats = np.full((1, 1), turn[2] * focal)
    if turn[0]:
        total = total + turn[0] * x
    if turn[1]:
        total = total + turn[1] * y
    return total


def _row_chunks(height: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // width)
    return (slice(first, min(first + step, height)) for first in range(0, height, step))


def _places(camera: Camera, size: Size, pano_hw: tuple[int, int]) -> _Places:
    """Where the pixels of a view lie, to within 0.002 px (along the sphere) of a panorama that is 16384 px wide.

    Rays are added in float64 and rounded once; angles are taken in float32. A camera without roll sees the same on
    both sides of its middle column, so only the right half is computed. One that also looks at the horizon has
    columns that do not depend on the row.
    """
    width, height = size.width, size.height
    turn = replace(camera, yaw=0.0).pano_from_cam()
    mirrored = not (turn[0, 1] or turn[1, 0] or turn[2, 0])
    left = width // 2 if mirrored else 0
    x = np.arange(left, width)[None, :] + 0.5 - width / 2
    y = np.arange(height)[:, None] + 0.5 - height / 2
    focal = camera.focal_px(width)
    level = mirrored and not turn[2, 1]
    column = np.empty((1 if level else height, width), np.float32)
    row = np.empty((height, width), np.float32)
    per_radian_x, per_radian_y = np.float32(pano_hw[1] / (2 * np.pi)), np.float32(pano_hw[0] / np.pi)
    for rows in _row_chunks(height, width):
        ray_x, ray_y, ray_z = (_axis(turn[i], x, y[rows], focal).astype(np.float32) for i in range(3))
        column[slice(0, 1) if level else rows, left:] = np.arctan2(ray_x, ray_z) * per_radian_x
        # asin(y / |ray|), without its loss of accuracy near the poles
        row[rows, left:] = np.arctan2(ray_y, np.sqrt(ray_x * ray_x + ray_z * ray_z)) * per_radian_y
        row[rows, left:] += np.float32(pano_hw[0] / 2 + MARGIN - 0.5)
    if mirrored:
        column[:, :left] = -column[:, ::-1][:, :left]
        row[:, :left] = row[:, ::-1][:, :left]
    return _Places(column, row)


def _turned(column: NDArray[np.float32], *, yaw: float, pano_width: int) -> NDArray[np.float32]:
    """Columns counted from the camera's yaw -> column indices of the panorama, -0.5 .. W - 0.5."""
    start = ((yaw / 360 + 0.5) % 1.0) * pano_width - 0.5
    turned = column + np.float32(start)
    if start < pano_width / 2:
        np.add(turned, np.float32(pano_width), out=turned, where=turned < -0.5)
    else:
        np.subtract(turned, np.float32(pano_width), out=turned, where=turned >= pano_width - 0.5)
    return turned


def _column_indices(places: _Places, rows: slice, *, yaw: float, pano_width: int) -> NDArray[np.float32]:
    """[rows, w] column indices of the panorama, -0.5 .. W - 0.5, C-contiguous."""
    shared = len(places.column) == 1
    turned = _turned(places.column if shared else places.column[rows], yaw=yaw, pano_width=pano_width)
    return np.ascontiguousarray(np.broadcast_to(turned, places.row[rows].shape))


def _rounded(index: NDArray[np.float32]) -> NDArray[np.float32]:
    """Indices rounded to 1/32 px as cv2.convertMaps rounds them: half of a step goes to the even one."""
    steps: NDArray[np.float32] = np.rint(index * np.float32(32))
    return steps / np.float32(32)


def view_positions(camera: Camera, size: Size, pano_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Where `ViewMaps.cut` reads a panorama: [h, w, 2] (column, row), as indices (the first pixel's centre at 0).

    Multiples of 1/32 px; columns -0.5 .. W - 0.5, rows -0.5 .. H - 0.5, in the panorama without margin.
    """
    places = _places(camera, size, pano_hw)
    positions = np.empty((size.height, size.width, 2), np.float32)
    for rows in _row_chunks(size.height, size.width):
        column = _column_indices(places, rows, yaw=camera.yaw, pano_width=pano_hw[1])
        positions[rows, :, 0] = _rounded(column)
        positions[rows, :, 1] = _rounded(places.row[rows]) - np.float32(MARGIN)
    return positions


# --- maps for cv2.remap -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """What one part of the panorama gives to a view. Parts are there because cv2.remap takes no side above 32766."""

    view_box: tuple[slice, slice]  # rows and columns of the view
    pano_rows: slice  # of the padded panorama
    first_column: int  # of the panorama
    columns: int  # how many, going on behind the seam
    xy: NDArray[np.int16]  # [h, w, 2] whole pixels inside the part
    fraction: NDArray[np.uint16]  # [h, w] 1/32 px, as cv2.convertMaps packs it; [0, 0] for nearest
    chosen: NDArray[np.bool_] | None  # [h, w] the pixels of the box that lie in the part; None for all

    @property
    def nbytes(self) -> int:
        return self.xy.nbytes + self.fraction.nbytes + (0 if self.chosen is None else self.chosen.nbytes)

    def fill(self, view: Pixels, padded: Pixels, flag: int) -> None:
        if self.chosen is None:
            cv2.remap(padded, self.xy, self.fraction, flag, dst=view, borderMode=cv2.BORDER_WRAP)
            return
        part = cv2.remap(self._source(padded), self.xy, self.fraction, flag, borderMode=cv2.BORDER_REPLICATE)
        view[self.view_box][self.chosen] = part[self.chosen]

    def _source(self, padded: Pixels) -> Pixels:
        rows, last = padded[self.pano_rows], self.first_column + self.columns
        if last <= padded.shape[1]:
            return rows[:, self.first_column : last]
        return np.take(rows, range(self.first_column, last), axis=1, mode="wrap")


def _fixed_point(
    column: NDArray[np.float32],
    row: NDArray[np.float32],
    sampling: Sampling,
    *,
    xy: NDArray[np.int16],
    fraction: NDArray[np.uint16],
) -> None:
    """Indices [h, w] -> whole pixels and 1/32 px (rounded to nearest), or the pixel that contains the point.

    The latter needs a map of its own: cv2.remap takes fractions *below* one half for the next pixel where it is asked
    for the nearest one by a fixed-point map.
    """
    if sampling == "nearest":
        np.floor(column + np.float32(0.5), out=xy[..., 0], casting="unsafe")
        np.floor(row + np.float32(0.5), out=xy[..., 1], casting="unsafe")
    else:
        cv2.convertMaps(column, row, cv2.CV_16SC2, dstmap1=xy, dstmap2=fraction)


def _empty_maps(size_hw: tuple[int, ...], sampling: Sampling) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    return np.empty((*size_hw, 2), np.int16), np.empty((0, 0) if sampling == "nearest" else size_hw, np.uint16)


def _whole(places: _Places, *, yaw: float, pano_hw: tuple[int, int], sampling: Sampling) -> tuple[_Piece, ...]:
    """The map of a view out of a panorama that cv2.remap takes as it is."""
    height, width = places.row.shape
    xy, fraction = _empty_maps((height, width), sampling)
    for rows in _row_chunks(height, width):
        column = _column_indices(places, rows, yaw=yaw, pano_width=pano_hw[1])
        _fixed_point(column, places.row[rows], sampling, xy=xy[rows], fraction=fraction[rows])
    box = slice(0, height), slice(0, width)
    return (_Piece(box, slice(0, pano_hw[0] + 2 * MARGIN), 0, pano_hw[1], xy, fraction, None),)


def _in_pieces(places: _Places, *, yaw: float, pano_hw: tuple[int, int], sampling: Sampling) -> tuple[_Piece, ...]:
    """The map of a view out of a panorama with a side that is too long for cv2.remap."""
    height, width = pano_hw
    column, row = _column_indices(places, slice(None), yaw=yaw, pano_width=width), places.row
    if sampling == "kernel":  # before the parts are told apart, so that no part rounds otherwise than the others
        column, row = _rounded(column), _rounded(row)
    to_pixel = np.float32(0.5 if sampling == "nearest" else 0)
    whole_column = np.floor(column + to_pixel).astype(np.int32)
    whole_row = np.floor(row + to_pixel).astype(np.int32)
    pieces = []
    for first_column, columns in _column_parts(width):
        inside = (whole_column - first_column) % width
        local_column = inside + (column - whole_column) + np.float32(_REACH)
        for first_row, last_row in _row_parts(height):
            chosen = (inside < columns) & (first_row <= whole_row) & (whole_row <= last_row)
            if not chosen.any():
                continue
            box = _bounding_box(chosen)
            rows = slice(max(first_row - _REACH, 0), min(last_row + 1 + _REACH, height + 2 * MARGIN))
            xy, fraction = _empty_maps(chosen[box].shape, sampling)
            _fixed_point(
                np.clip(local_column[box], 0, columns + 2 * _REACH - 1).astype(np.float32),
                np.clip(row[box] - np.float32(rows.start), 0, rows.stop - rows.start - 1),
                sampling,
                xy=xy,
                fraction=fraction,
            )
            first = (first_column - _REACH) % width
            pieces.append(_Piece(box, rows, first, columns + 2 * _REACH, xy, fraction, chosen[box]))
    return tuple(pieces)


def _column_parts(width: int) -> Iterator[tuple[int, int]]:
    """First column and number of columns of every part: a narrow one across the seam, then long ones off the seam."""
    yield (width - _REACH) % width, min(2 * _REACH, width)
    step = LONGEST_SIDE - 2 * _REACH
    for first in range(_REACH, width - _REACH, step):
        yield first, min(step, width - _REACH - first)


def _row_parts(height: int) -> Iterator[tuple[int, int]]:
    """First and last row, in the padded panorama, of every part."""
    step, end = LONGEST_SIDE - 2 * _REACH, height + MARGIN
    for first in range(MARGIN - 1, end, step):
        yield first, min(first + step, end) - 1


def _bounding_box(chosen: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


class _Kind(NamedTuple):
    """What a map is made for, besides its camera."""

    pano_hw: tuple[int, int]
    sampling: Sampling
    samples: int  # along each side of a view's pixel


class ViewMaps:
    """The maps of a rig's views, made once per camera and size of panorama, and shared by all threads.

    A map takes 6 bytes for every pixel that is sampled (4 for masks); maps are kept while `capacity_bytes` allows.
    """

    def __init__(self, rig: Rig, *, capacity_bytes: int = 2**30) -> None:
        self._rig = rig
        for_shared = capacity_bytes // 8  # needed only until the maps of a ring are made
        self._for_maps = capacity_bytes - for_shared
        self._maps: ByteCache[tuple[_Piece, ...]] = ByteCache(capacity_bytes=self._for_maps)
        self._shared: ByteCache[_Places] = ByteCache(capacity_bytes=for_shared)

    @property
    def used_bytes(self) -> int:
        """The bytes of everything that is kept."""
        return self._maps.used_bytes + self._shared.used_bytes

    def cut(
        self,
        padded: Pixels,
        camera: Camera,
        *,
        interpolation: Interpolation,
        samples: int = 1,
        out: Pixels | None = None,
    ) -> Pixels:
        """The view of `camera`, [h, w, 3] or [h, w] uint8, out of `padded`, [H + 2 MARGIN, W, 3] or [H + 2 MARGIN, W].

        Positions are rounded to 1/32 px. Each pixel is the mean of `samples` x `samples` points inside it, which keeps
        views that are coarser than the panorama from aliasing (`lightmill.ops.antialias` says how many are needed).
        `out`: C-contiguous, written and returned. The camera need not be one of the rig; its view has the rig's size.
        Raises ValueError for arrays of other kinds and shapes, and where a side of the view would take more than 32766
        points, which cv2.remap does not make.
        """
        check_padded(padded)
        size = self._rig.size
        view = _view_buffer((size.height, size.width, *padded.shape[2:]), out)
        kind = _Kind((len(padded) - 2 * MARGIN, padded.shape[1]), "kernel", samples)
        if samples == 1:
            return self._fill(view, padded, camera, kind, _KERNELS[interpolation])
        fine = np.empty((size.height * samples, size.width * samples, *padded.shape[2:]), np.uint8)
        self._fill(fine, padded, camera, kind, _KERNELS[interpolation])
        cv2.resize(fine, (size.width, size.height), dst=view, interpolation=cv2.INTER_AREA)
        return view

    def cut_mask(self, padded: Pixels, camera: Camera, *, out: Pixels | None = None) -> Pixels:
        """The view [h, w] uint8 of a mask [H + 2 MARGIN, W]: of every point the pixel that contains it, not rounded.

        `out` and errors as for `cut`.
        """
        check_padded(padded)
        view = _view_buffer((self._rig.size.height, self._rig.size.width, *padded.shape[2:]), out)
        kind = _Kind((len(padded) - 2 * MARGIN, padded.shape[1]), "nearest", 1)
        return self._fill(view, padded, camera, kind, cv2.INTER_NEAREST)

    def _fill(self, view: Pixels, padded: Pixels, camera: Camera, kind: _Kind, flag: int) -> Pixels:
        if max(view.shape[:2]) > LONGEST_SIDE:
            raise ValueError(
                f"a view's sides are at most {LONGEST_SIDE} px (with {kind.samples} samples to a pixel's side, "
                f"{LONGEST_SIDE // kind.samples}), got {self._rig.size}; ask for a smaller size"
            )
        if self._maps.is_being_made((camera, kind)) and self._all_fit(view):
            self._make_others(camera, kind)
        for piece in self._pieces(camera, kind):
            piece.fill(view, padded, flag)
        return view

    def _make_others(self, awaited: Camera, kind: _Kind) -> None:
        """While another thread makes the map of `awaited`, make those of the rig that nobody makes yet."""
        for camera in self._rig.cameras:
            if not self._maps.is_being_made((awaited, kind)):
                return
            # cameras with another field of view may well be asked for with another number of samples
            if camera.hfov == awaited.hfov and not self._maps.is_known((camera, kind)):
                self._pieces(camera, kind)

    def _all_fit(self, view: Pixels) -> bool:
        points = math.prod(view.shape[:2])
        return len(self._rig.cameras) * points * 6 <= self._for_maps

    def _pieces(self, camera: Camera, kind: _Kind) -> tuple[_Piece, ...]:
        def make() -> tuple[_Piece, ...]:
            longest = max(kind.pano_hw[0] + 2 * MARGIN, kind.pano_hw[1])
            build = _whole if longest <= LONGEST_SIDE else _in_pieces
            return build(self._places(camera, kind), yaw=camera.yaw, pano_hw=kind.pano_hw, sampling=kind.sampling)

        return self._maps.get(
            (camera, kind), group=kind.pano_hw, make=make, nbytes=lambda pieces: sum(p.nbytes for p in pieces)
        )

    def _places(self, camera: Camera, kind: _Kind) -> _Places:
        def make() -> _Places:
            return _places(camera, size, kind.pano_hw)

        size = Size(self._rig.size.width * kind.samples, self._rig.size.height * kind.samples)
        looks = camera.pitch, camera.roll, camera.hfov
        if sum((other.pitch, other.roll, other.hfov) == looks for other in self._rig.cameras) < 2:
            return make()
        key = looks, size, kind.pano_hw
        return self._shared.get(key, group=key, make=make, nbytes=lambda places: places.nbytes)


def check_padded(padded: Pixels) -> None:
    """Raises ValueError for what is no padded panorama."""
    if padded.dtype != np.uint8 or padded.shape[2:] not in ((), (3,)) or padded.ndim < 2 or len(padded) <= 2 * MARGIN:
        raise ValueError(
            f"a padded panorama is uint8 [H + {2 * MARGIN}, W, 3] or [H + {2 * MARGIN}, W], "
            f"got {padded.dtype} {list(padded.shape)}"
        )


def _view_buffer(shape: tuple[int, ...], out: Pixels | None) -> Pixels:
    view = np.empty(shape, np.uint8) if out is None else out
    if view.shape != shape or view.dtype != np.uint8 or not view.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous uint8 {list(shape)}, got {view.dtype} {list(view.shape)}")
    return view
