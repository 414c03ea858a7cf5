"""Boxes that show nobody: background beside the players of a frame, and parts of players too small to know them by.

What is drawn for a frame depends on the seed, the frame's key and its boxes alone: not on other frames, not on the
order of frames or of boxes, not on how many threads there are. So the boxes of one frame drawn alone are those that a
draw of the whole table has for it.

Whether boxes come too near to a player is judged by coverage of either box: intersection / own area and intersection /
the player's area. Intersection over union would let a large box contain a whole small player.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.streams import Streams, fingerprints, mixed, starts_of

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Range: TypeAlias = tuple[float, float]

SHARE: Range = (0.1, 0.25)  # of a player's box that a partial has
CORE = (0.2, 0.0, 0.8, 0.6)  # left, top, right, bottom of a player's box: face and number, in whatever view
CORE_SEEN = 0.1  # of which a partial shows that much at most
_SPREAD = 1.25  # background is up to that much larger or smaller than a player's box
_TILT = 1.5  # partials are up to that much wider or taller than their player's shape
_PAIRS_AT_ONCE = 1 << 17  # a negative and a player: what is computed of them stays in the cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Negatives:
    """Boxes that show nobody, in the order of their frames, or for partials of their players."""

    frame: Indices  # [M] of `keys`
    box: Floats  # [M, 4] x, y, w, h in whole px, inside the frame (partials: inside their player's box)
    parent: Indices  # [M] the box that a partial is part of; -1 for background
    overlap: Floats  # [M] background: greatest coverage with a player's box; partial: share of the parent's area
    missing: Indices  # [F] how many of the wanted boxes found no place in each frame

    def __len__(self) -> int:
        return len(self.frame)


def draw_background(
    sizes_hw: ArrayLike,
    boxes: ArrayLike,
    frame_of_box: ArrayLike,
    *,
    keys: Sequence[str],
    per_frame: int = 1,
    seed: int = 0,
    expand: float = 1.0,
    limit: float = 0.0,
    like: ArrayLike | None = None,
    size_range: tuple[Range, Range] | None = None,
    tries: int = 64,
) -> Negatives:
    """Boxes beside all players, uniform over the places that are free.

    sizes_hw [F, 2]: height and width of each frame in px. boxes [N, 4]: x, y, w, h of every player in px, those that
    were thrown out as outliers too: somebody is there. frame_of_box [N]: places in `keys`, which has the F frames.

    A box has the size of a player of the same frame, times `expand` (by which players' crops are enlarged: negatives
    are cut as they are, so they come out alike), times a factor from 0.8 to 1.25. `like` [N] bool: the boxes whose size
    is meant (default: all). `size_range`: width and height as shares of the frame's instead, between two bounds each.
    Intersection / own area and intersection / a player's area are both at most `limit`; 0: no pixel is shared. Boxes of
    one frame may overlap each other.

    Size and place are drawn anew up to `tries` times. Where nothing fits, or no size is known, `missing` counts it.
    Raises ValueError: shapes that do not match, boxes without area, places outside `keys`.
    """
    crowd = _Crowd.of(boxes, frame_of_box, len(keys))
    hw = np.asarray(sizes_hw, np.float64)
    if hw.shape != (len(keys), 2) or not (hw >= 1).all():
        raise ValueError(f"sizes_hw is a height and a width of each of {len(keys)} frames, got {hw.shape}")
    sizes = _Sizes(hw, crowd, like, size_range, expand)
    frame = np.repeat(np.arange(len(keys)), per_frame)
    slot = np.tile(np.arange(per_frame), len(keys))
    draws = Streams(starts_of(keys, "background", seed)[frame], slot)
    box = np.zeros((len(frame), 4))
    overlap = np.zeros(len(frame))
    found = np.zeros(len(frame), np.bool_)
    left = np.flatnonzero(sizes.known[frame])
    for number in range(tries):
        if not len(left):
            break
        tried = sizes.place(frame[left], draws.uniform(left, number, 5))
        covered = crowd.coverage(tried, frame[left])
        good = covered <= limit
        box[left[good]], overlap[left[good]] = tried[good], covered[good]
        found[left[good]] = True
        left = left[~good]
    parent = np.full(len(frame), -1)
    return _kept(frame, box, parent, overlap, found, len(keys))


def draw_partial(
    boxes: ArrayLike,
    frame_of_box: ArrayLike,
    *,
    keys: Sequence[str],
    per_box: int = 1,
    share: Range = SHARE,
    seed: int = 0,
    limit: float = 0.1,
    of: ArrayLike | None = None,
    core: tuple[float, float, float, float] | None = CORE,
    tries: int = 64,
) -> Negatives:
    """Boxes inside players' boxes that show too little of anybody to know them by.

    boxes [N, 4]: x, y, w, h of every player in px, clamped to the frame; frame_of_box [N]: places in `keys`. `of` [N]
    bool: the players that partials are cut from (default: all); the others are still kept out of them.

    A partial has between share[0] and share[1] of its player's area, exactly, after rounding to whole px. It covers at
    most a tenth of the `core` (left, top, right, bottom as shares of the player's box), where face and number are: a
    quarter of the box from anywhere often shows the whole number, and shares above 0.4 find hardly any place. None:
    wherever it lies. Of any other player's box, intersection / the partial's area and intersection / that player's area
    are both at most `limit`: otherwise it would be another player's picture.

    Drawn anew up to `tries` times. Where nothing fits (a player behind another, a box of a few pixels), `missing`
    counts it. Equal boxes in one frame get equal partials.
    Raises ValueError: shapes that do not match, boxes without area, places outside `keys`, shares outside (0, 1].
    """
    low, high = share
    if not 0 < low <= high <= 1:
        raise ValueError(f"shares of a player's area are two numbers above 0 and up to 1, the lower first, got {share}")
    crowd = _Crowd.of(boxes, frame_of_box, len(keys))
    chosen = np.arange(len(crowd)) if of is None else np.flatnonzero(_mask(of, len(crowd)))
    parent = np.repeat(chosen, per_box)
    frame = crowd.frame[parent]
    starts = mixed(starts_of(keys, "partial", seed)[frame] ^ crowd.print[parent])
    draws = Streams(starts, np.tile(np.arange(per_box), len(chosen)))
    box = np.zeros((len(parent), 4))
    found = np.zeros(len(parent), np.bool_)
    left = np.arange(len(parent))
    for number in range(tries):
        if not len(left):
            break
        players = crowd.boxes[parent[left]]
        tried, fits = _parts(players, draws.uniform(left, number, 4), share, core)
        fits[fits] = crowd.coverage(tried[fits], frame[left[fits]], without=parent[left[fits]]) <= limit
        box[left[fits]] = tried[fits]
        found[left[fits]] = True
        left = left[~fits]
    overlap = _area(box) / _area(crowd.boxes[parent])
    return _kept(frame, box, parent, overlap, found, len(keys))


def _kept(
    frame: Indices, box: Floats, parent: Indices, overlap: Floats, found: NDArray[np.bool_], frames: int
) -> Negatives:
    return Negatives(
        frame=frame[found],
        box=box[found],
        parent=parent[found],
        overlap=overlap[found],
        missing=np.bincount(frame[~found], minlength=frames),
    )


# --- where players are -----------------------------------------------------------------------------------------------


class _Crowd:
    """The players of every frame, looked up by frame."""

    def __init__(self, boxes: Floats, frame: Indices, frames: int) -> None:
        self.boxes, self.frame = boxes, frame
        self.print = fingerprints(boxes)
        self.order = np.lexsort((self.print, frame))  # of one frame in an order that is the boxes' own
        self.begins = np.searchsorted(frame[self.order], np.arange(frames + 1))
        x, y, w, h = np.ascontiguousarray(boxes[self.order].T)
        self._left, self._top, self._right, self._bottom, self._areas = x, y, x + w, y + h, w * h

    @classmethod
    def of(cls, boxes: ArrayLike, frame_of_box: ArrayLike, frames: int) -> "_Crowd":
        """Raises ValueError."""
        given = np.asarray(boxes, np.float64).reshape(-1, 4)
        frame = np.asarray(frame_of_box, np.int64)
        if frame.shape != (len(given),):
            raise ValueError(f"there are {len(given)} boxes and frames of {frame.size}")
        if len(frame) and (frame.min() < 0 or frame.max() >= frames):
            raise ValueError(f"boxes are in frames 0 to {frames - 1}, got {frame.min()} to {frame.max()}")
        bad = np.flatnonzero(~(np.isfinite(given).all(axis=1) & (given[:, 2:] > 0).all(axis=1)))
        if len(bad):
            raise ValueError(f"box {bad[0]} has no area: {given[bad[0]].tolist()}")
        return cls(given, frame, frames)

    def __len__(self) -> int:
        return len(self.boxes)

    def coverage(self, boxes: Floats, frame: Indices, *, without: Indices | None = None) -> Floats:
        """[C] the greatest coverage of either box, of each box with any player of its frame; 0 without players.

        boxes [C, 4], frame [C]; without [C]: a player that does not count, by its place in `boxes`.
        """
        result = np.zeros(len(boxes))
        counts = self.begins[frame + 1] - self.begins[frame]
        crowded = np.flatnonzero(counts)
        ends = counts[crowded].cumsum()
        begin = 0
        while begin < len(crowded):
            done = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
            part = crowded[begin:end]
            result[part] = self._worst(boxes[part], frame[part], None if without is None else without[part])
            begin = end
        return result

    def _worst(self, boxes: Floats, frame: Indices, without: Indices | None) -> Floats:
        """`coverage` of a few; every frame has players."""
        counts = self.begins[frame + 1] - self.begins[frame]
        firsts = counts.cumsum() - counts
        players = np.arange(counts.sum()) + np.repeat(self.begins[frame] - firsts, counts)
        x, y, w, h = np.ascontiguousarray(boxes.T)
        left, top, right, bottom, areas = (np.repeat(one, counts) for one in (x, y, x + w, y + h, w * h))
        wide = np.minimum(right, self._right[players]) - np.maximum(left, self._left[players])
        high = np.minimum(bottom, self._bottom[players]) - np.maximum(top, self._top[players])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        cover = shared / np.minimum(areas, self._areas[players])  # of the smaller: the greater of the two coverages
        if without is not None:
            cover[self.order[players] == np.repeat(without, counts)] = 0
        return np.asarray(np.maximum.reduceat(cover, firsts), np.float64)


# --- sizes and places ------------------------------------------------------------------------------------------------


class _Sizes:
    """How large background is, and where it may lie."""

    def __init__(
        self,
        sizes_hw: Floats,
        crowd: _Crowd,
        like: ArrayLike | None,
        size_range: tuple[Range, Range] | None,
        expand: float,
    ) -> None:
        self._hw, self._range = sizes_hw, size_range
        order = crowd.order if like is None else crowd.order[_mask(like, len(crowd))[crowd.order]]
        self._players = crowd.boxes[order, 2:] * expand
        self._begins = np.searchsorted(crowd.frame[order], np.arange(len(sizes_hw) + 1))
        counts = np.diff(self._begins)
        self.known = np.ones(len(sizes_hw), np.bool_) if size_range else counts > 0  # [F] whether a size is known

    def place(self, frame: Indices, numbers: Floats) -> Floats:
        """[C, 4] boxes in whole px inside their frames; numbers [5, C] in [0, 1)."""
        height, width = self._hw[frame].T
        wanted = self._alike(frame, numbers[:2]) if self._range is None else self._ranged(frame, numbers[:2])
        w = np.clip(np.rint(wanted[0]), 1, np.floor(width))
        h = np.clip(np.rint(wanted[1]), 1, np.floor(height))
        x = np.floor(numbers[2] * (np.floor(width) - w + 1))
        y = np.floor(numbers[3] * (np.floor(height) - h + 1))
        return np.stack([x, y, w, h], axis=1)

    def _alike(self, frame: Indices, numbers: Floats) -> Floats:
        begins = self._begins[frame]
        player = begins + np.floor(numbers[0] * (self._begins[frame + 1] - begins)).astype(np.int64)
        return np.asarray(self._players[player].T * _within(numbers[1], _SPREAD))

    def _ranged(self, frame: Indices, numbers: Floats) -> Floats:
        assert self._range is not None
        lows, highs = np.array(self._range).T[:, :, None]
        return np.asarray((lows + (highs - lows) * numbers) * self._hw[frame].T[::-1])


def _parts(
    players: Floats, numbers: Floats, share: Range, core: tuple[float, float, float, float] | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """([C, 4] parts of players [C, 4] in whole px, [C] whether they are what was asked for); numbers [4, C]."""
    x, y, w, h = players.T
    area = share[0] + (share[1] - share[0]) * numbers[0]
    wide = np.clip(np.sqrt(area) * _within(numbers[1], _TILT), area, 1)
    part_w, part_h = np.maximum(np.rint(wide * w), 1), np.maximum(np.rint(area / wide * h), 1)
    first_x, first_y = np.ceil(x), np.ceil(y)
    room_x, room_y = np.floor(x + w) - part_w - first_x + 1, np.floor(y + h) - part_h - first_y + 1
    left, top = first_x + np.floor(numbers[2] * room_x), first_y + np.floor(numbers[3] * room_y)
    parts = np.stack([left, top, part_w, part_h], axis=1)
    fits = (room_x >= 1) & (room_y >= 1)
    shares = _area(parts) / _area(players)
    fits &= (share[0] <= shares) & (shares <= share[1])
    if core is not None:
        corners = (np.array(core) * np.stack([w, h, w, h], axis=1)) + np.stack([x, y, x, y], axis=1)
        seen_w = np.minimum(left + part_w, corners[:, 2]) - np.maximum(left, corners[:, 0])
        seen_h = np.minimum(top + part_h, corners[:, 3]) - np.maximum(top, corners[:, 1])
        seen = np.maximum(seen_w, 0) * np.maximum(seen_h, 0)
        fits &= seen <= CORE_SEEN * (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return parts, fits


def _within(numbers: Floats, factor: float) -> Floats:
    """Factors from 1 / factor to factor, uniform in their logarithm, of numbers in [0, 1)."""
    return np.asarray(np.exp((2 * numbers - 1) * math.log(factor)))


def _area(boxes: Floats) -> Floats:
    return np.asarray(boxes[:, 2] * boxes[:, 3])


def _mask(given: ArrayLike, count: int) -> NDArray[np.bool_]:
    mask = np.asarray(given, np.bool_)
    if mask.shape != (count,):
        raise ValueError(f"there are {count} boxes, and true or false for {mask.size}")
    return mask
