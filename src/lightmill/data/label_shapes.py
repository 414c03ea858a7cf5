"""Shapes that labels are written in, painted into class maps: polygons, COCO's run lengths, boxes.

A pixel belongs to a shape where its centre (+0.5) lies inside; the border is not widened. `cv2.fillPoly` paints every
pixel that the border touches, half a pixel too many all around, so it is not used.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Map: TypeAlias = NDArray[np.uint8]  # [H, W]
Points: TypeAlias = NDArray[np.float64]  # [N, 2] x, y in px, corners of the picture at 0 and its size

_MORE, _MINUS, _FIVE_BITS = 0x20, 0x10, 0x1F  # of a character of compressed runs, after 48 is taken off


def paint_polygon(out: Map, points: ArrayLike, value: int) -> None:
    """Writes `value` wherever a pixel's centre lies inside the closed polygon of `points` [N, 2], N >= 3.

    Inside is what a ray leaves after an odd number of edges; what lies beyond `out` is cut off. Centres that lie on an
    edge belong to the shape on the right of it, or below: of two shapes that share an edge each pixel is in one.
    """
    start = np.asarray(points, np.float64)
    end = np.roll(start, -1, axis=0)
    height, width = out.shape
    first, last = (np.clip(np.ceil(edge - 0.5), 0, height).astype(np.int64) for edge in _vertical_span(start, end))
    lengths = last - first  # rows whose centres an edge passes
    edges = np.repeat(np.arange(len(start)), lengths)
    if not len(edges):
        return
    rows = np.arange(len(edges)) - np.repeat(lengths.cumsum() - lengths, lengths) + first[edges]
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max()
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.bitwise_xor.at(toggles, (rows - top, columns - left), 1)
    inside = np.bitwise_xor.accumulate(toggles[:, :-1], axis=1).astype(bool)
    out[top:bottom, left:right][inside] = value


def _vertical_span(start: Points, end: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])


def polygon_area(points: ArrayLike) -> float:
    """px², by the shoelace formula.

    >>> polygon_area([[0, 0], [4, 0], [4, 3], [0, 3]])
    12.0
    """
    x, y = np.asarray(points, np.float64).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def box_corners(left: float, top: float, width: float, height: float) -> Points:
    """The polygon of a box, px."""
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float64)


def paint_runs(out: Map, counts: ArrayLike, value: int) -> None:
    """Writes `value` where COCO's run lengths say 1: down the columns, a run of 0 first.

    Raises ValueError for runs that are not as long, all together, as the picture is large.
    """
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (len(runs) and runs.min() < 0) or runs.sum() != out.size:
        said = f"{int(runs.sum()):,}" if runs.dtype.kind in "iu" else "no whole numbers"
        raise ValueError(f"its runs make {said} of {out.size:,} pixels")
    levels = (np.arange(len(runs)) % 2).astype(bool)
    out.T[np.repeat(levels, runs).reshape(out.shape[::-1])] = value


def unpacked_runs(text: str) -> NDArray[np.int64]:
    """Run lengths out of the text that COCO's own tools pack them into. Raises ValueError for other text.

    Each number is written in groups of five bits, the low ones first, one character (48 and more) a group: bit 0x20
    says that another follows, bit 0x10 of the last that the number is negative. From the fourth number on, what is
    written is the difference to the number two places before it.

    >>> unpacked_runs("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    groups = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if len(groups) and (groups.min() < 0 or groups.max() > 0x3F or groups[-1] & _MORE):
        raise ValueError("its runs are no text that COCO's tools write, or cut off")
    ends = np.flatnonzero((groups & _MORE) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 8:
        raise ValueError("its runs are longer than any picture")
    if not len(lengths):
        return np.zeros(0, np.int64)
    places = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & _FIVE_BITS) << (5 * places), starts)
    numbers -= np.where(groups[ends] & _MINUS, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
