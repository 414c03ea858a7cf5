"""Boxes around things in pictures: larger, inside the frame, compared, and made plausible along tracks.

A box is x, y, w, h: its left upper corner, width and height in px of the full frame, y down; the first pixel covers 0
to 1. Arrays are [..., 4].
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Clean: TypeAlias = Literal["drop", "interpolate", "off"]

_DIGITS = 6  # behind the point of a px: what is nearer than that to a whole number is that number


def areas(boxes: ArrayLike) -> Floats:
    """[...] in px; 0 for a box whose width or height is not above 0.

    >>> areas([[0, 0, 2, 3], [5, 5, -2, -3]])
    array([6., 0.])
    """
    sides = np.maximum(np.asarray(boxes, np.float64)[..., 2:], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def enlarge(boxes: ArrayLike, factor: float) -> Floats:
    """Width and height times `factor`, about the same centre; not rounded, and not kept inside a frame.

    >>> enlarge([10, 20, 40, 100], 1.5)
    array([ 0., -5., 60., 150.])
    """
    found = np.asarray(boxes, np.float64)
    corner, sides = found[..., :2], found[..., 2:]
    return np.concatenate([corner - sides * ((factor - 1) / 2), sides * factor], axis=-1)


def intersections(one: ArrayLike, other: ArrayLike) -> Floats:
    """[...] the area that boxes share, in px. The two are broadcast: `one[:, None]` and `other` give all pairs."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    first = np.maximum(a[..., :2], b[..., :2])
    last = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.maximum(last - first, 0)
    return np.asarray(shared[..., 0] * shared[..., 1])


def iou(one: ArrayLike, other: ArrayLike) -> Floats:
    """[...] intersection over union, 0..1; 0 where neither has an area. Broadcast as in `intersections`.

    >>> iou([0, 0, 2, 2], [[1, 0, 2, 2], [5, 5, 1, 1]]).round(3)
    array([0.333, 0.   ])
    """
    shared = intersections(one, other)
    return _ratio(shared, areas(one) + areas(other) - shared)


def coverage(one: ArrayLike, other: ArrayLike) -> tuple[Floats, Floats]:
    """[...] the shares of `one`, and of `other`, that lie in the respective other, 0..1; of a box without area, 0.

    Unlike intersection over union, the second is 1 where `one` contains a far smaller box. Broadcast likewise.
    """
    shared = intersections(one, other)
    return _ratio(shared, areas(one)), _ratio(shared, areas(other))


def _ratio(part: Floats, whole: Floats) -> Floats:
    # a sliver's product may round above the whole
    return np.minimum(np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole > 0)), 1)


# --- into the frame --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where crops are cut, in whole pixels of the frame."""

    places: Indices  # [N, 4] left, top, width, height; all 0 where `inside` is false
    inside: Flags  # [N] whether any of the box itself lies in the frame
    clamped: Flags  # [N] whether only a part of the box itself does


def places_in(boxes: ArrayLike, size_hw: ArrayLike, *, expand: float = 1.0) -> Places:
    """Boxes [N, 4] enlarged by `expand`, rounded outward to whole pixels, and cut off at the frame.

    size_hw: height and width in px, [2] of one frame or [N, 2] of each box's. Rounded outward: every pixel that the
    enlarged box touches is in, so that a crop is at least 1 px wide and high and never loses an edge. What is within a
    millionth of a px of a whole number counts as that.
    """
    found = np.asarray(boxes, np.float64).reshape(-1, 4)
    limit = np.broadcast_to(np.asarray(size_hw, np.float64)[..., ::-1], (len(found), 2))
    frame = np.concatenate([np.zeros_like(limit), limit], axis=1)
    shared = intersections(found, frame)
    inside = shared > 0
    sticks_out = (found[:, :2] < 0) | (found[:, :2] + found[:, 2:] > limit)
    larger = enlarge(found, expand)
    first = np.floor(np.round(larger[:, :2], _DIGITS))
    last = np.ceil(np.round(larger[:, :2] + larger[:, 2:], _DIGITS))
    first, last = np.clip(first, 0, limit), np.clip(last, 0, limit)
    places = np.where(inside[:, None], np.concatenate([first, last - first], axis=1), 0).astype(np.int64)
    return Places(places=places, inside=inside, clamped=inside & sticks_out.any(axis=1))


# --- along tracks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Cleaned:
    """What became of boxes that do not suit their track."""

    boxes: Floats  # [N, 4] as they were, but for those that were mended
    outlier: Flags  # [N] whether the area was above the limit
    mended: Flags  # [N] of those: whether the box was made anew of its neighbours in time
    ratio: Floats  # [N] area over the median area of the track; NaN for boxes without a track or an area

    @property
    def dropped(self) -> Flags:
        """[N] outliers that were not mended: nothing sure is known of where they are."""
        return self.outlier & ~self.mended


def clean_tracks(boxes: ArrayLike, tracks: ArrayLike, times: ArrayLike, *, how: Clean, limit: float = 2.0) -> Cleaned:
    """Find boxes that are grossly too large: more than `limit` times the median area of their track.

    boxes [N, 4]; tracks [N] whole numbers, below 0 for a box of no track, which is left as it is; times [N] in any
    unit, NaN where unknown. Boxes without area count nowhere.

    `drop` only says which; `interpolate` makes x, y, w and h anew, linear in time between the nearest good boxes of the
    track before and behind; where there is one on one side only, it is taken as it is. An outlier whose time is
    unknown cannot be mended. `off` finds none. Raises ValueError for a limit below 1 and for shapes that do not match.
    """
    found, track, time = np.array(boxes, np.float64).reshape(-1, 4), np.asarray(tracks), np.asarray(times, np.float64)
    if not track.shape == time.shape == (len(found),):
        raise ValueError(f"there are {len(found)} boxes, tracks of {track.shape} and times of {time.shape}")
    if not limit >= 1:
        raise ValueError(f"a limit is 1 or more times the median area, got {limit}")
    ratio = _over_median(areas(found), track)
    outlier = ratio > limit if how != "off" else np.zeros(len(found), np.bool_)
    mended = np.zeros(len(found), np.bool_)
    if how == "interpolate":
        mended = _mend(found, track, time, outlier, ~np.isnan(ratio))
    return Cleaned(boxes=found, outlier=outlier, mended=mended, ratio=ratio)


def _over_median(area: Floats, track: NDArray[np.integer]) -> Floats:
    """[N] each area over the median of its track; NaN where there is no track or no area."""
    ratio = np.full(len(area), np.nan)
    chosen = np.flatnonzero((track >= 0) & (area > 0))
    order = chosen[np.lexsort((area[chosen], track[chosen]))]
    if not len(order):
        return ratio
    first = np.flatnonzero(np.diff(track[order], prepend=track[order[0]] - 1))
    count = np.diff(first, append=len(order))
    sorted_area = area[order]
    median = (sorted_area[first + (count - 1) // 2] + sorted_area[first + count // 2]) / 2
    ratio[order] = sorted_area / np.repeat(median, count)
    return ratio


def _mend(boxes: Floats, track: NDArray[np.integer], time: Floats, outlier: Flags, known: Flags) -> Flags:
    """Writes interpolated boxes over outliers, in place. Returns which."""
    mended = np.zeros(len(boxes), np.bool_)
    chosen = np.flatnonzero(known & np.isfinite(time))
    order = chosen[np.lexsort((time[chosen], track[chosen]))]
    if not len(order):
        return mended
    good, at = ~outlier[order], np.arange(len(order))
    before = np.maximum.accumulate(np.where(good, at, -1))
    behind = np.minimum.accumulate(np.where(good, at, len(order))[::-1])[::-1]
    bad = np.flatnonzero(~good)
    before, behind, rows = before[bad], behind[bad], order[bad]
    has_before = (before >= 0) & (track[order[before]] == track[rows])
    last = np.minimum(behind, len(order) - 1)
    has_behind = (behind < len(order)) & (track[order[last]] == track[rows])
    one = np.where(has_before, order[before], order[last])
    other = np.where(has_behind, order[last], order[before])
    span = time[other] - time[one]
    share = np.divide(time[rows] - time[one], span, out=np.zeros(len(rows)), where=span > 0)[:, None]
    sure = has_before | has_behind
    made = boxes[one] * (1 - share) + boxes[other] * share
    boxes[rows[sure]] = made[sure]
    mended[rows[sure]] = True
    return mended
