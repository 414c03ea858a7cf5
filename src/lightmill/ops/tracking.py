"""Tracklets: the boxes of one thing in consecutive frames, as far as that is sure.

Frame by frame, boxes are given to the tracks under way: by the assignment with the greatest sum of affinities, not one
after the other. The affinity of a track and a box is a mix of how much the box overlaps with where a Kalman filter
expects the track to be, and of how alike they look. As in SORT (Bewley et al., 2016) and DeepSORT (Wojke et al., 2017);
boxes are enlarged before their overlap is measured (C-BIoU, Yang et al., "Hard to Track Objects with Irregular Motions
and Similar Appearances? Make It Easier by Buffering the Matching Space", 2023), since at a few frames a second those
who run do not overlap with themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.assignment import best_pairs
from lightmill.ops.kalman import Floats, Motion, Noise, begin, correct, joined, predict


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """How tracks are told. A step is the time between two frames."""

    appearance: float = 0.4  # 0..1: the share of looks in the affinity; the rest is overlap
    reach: float = 0.3  # how far boxes are enlarged on each side, in longer sides, for a step; after more, by its root
    least_overlap: float = 0.1  # a box that overlaps less is not the track's (IoU, once enlarged)
    least_likeness: float = 0.0  # nor is one that looks less alike (cosine)
    max_steps: float = 5.0  # a track that is not seen for longer has ended
    max_time: float | None = None  # likewise, in the unit of the times
    step: float | None = None  # in the unit of the times; default: the median between two frames of all sequences
    memory: float = 0.8  # 0..1: how much of a track's looks stays when a box is added
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        shares = (self.appearance, self.least_overlap, self.memory)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"appearance, least_overlap and memory are 0..1, got {self}")
        if self.reach < 0 or self.max_steps <= 0 or (self.step is not None and not self.step > 0):
            raise ValueError(f"reach is 0 or more, max_steps and step are above 0, got {self}")


def tracklets(
    boxes: ArrayLike,
    *,
    sequences: Sequence[str] | NDArray[np.generic],
    frames: Sequence[str] | NDArray[np.generic],
    times: ArrayLike,
    embeddings: NDArray[np.floating] | None = None,
    options: Tracking | None = None,
) -> NDArray[np.int64]:
    """The tracklet of every box: [N] numbers from 0, in order of sequence, then of first appearance.

    boxes: [N, 4] x, y, w, h in px, of positive area. sequences: [N] what is tracked for itself, such as the group and
    view. frames: [N] the picture a box is in: two boxes of one picture are never of one tracklet. times: [N], in any
    unit; of a frame whose boxes differ the earliest counts, and a box of a frame without one (NaN) is a tracklet of its
    own, since nobody knows what came before it. embeddings: [N, D], of length 1; without, looks do not count.

    The order of the boxes does not matter. The work is proportional to frames times boxes of a frame squared.
    Raises ValueError for arrays that do not fit together, MissingExtra without scipy.
    """
    options = options or Tracking()
    scene = _Scene.of(boxes, sequences=sequences, frames=frames, times=times, embeddings=embeddings)
    step = options.step or scene.step
    found = np.full(len(scene.boxes), -1, np.int64)
    count = 0
    for parts in scene.sequences():
        tracks = _Tracks(options, step=step, first=count)
        for part in parts:
            found[part] = tracks.see(scene, part)
        count = tracks.count
    return found


@dataclass(frozen=True, slots=True)
class _Scene:
    boxes: Floats
    sequence: NDArray[np.intp]
    frame: NDArray[np.intp]
    time: Floats  # of a box's frame
    looks: NDArray[np.floating] | None
    order: NDArray[np.intp]  # by sequence, time, frame and place: the same whatever the order of the rows

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        *,
        sequences: Sequence[str] | NDArray[np.generic],
        frames: Sequence[str] | NDArray[np.generic],
        times: ArrayLike,
        embeddings: NDArray[np.floating] | None,
    ) -> "_Scene":
        told = np.asarray(boxes, np.float64).reshape(-1, 4)
        count = len(told)
        sequence = np.unique(np.asarray(sequences), return_inverse=True)[1].reshape(-1)
        frame = np.unique(np.asarray(frames), return_inverse=True)[1].reshape(-1)
        time = np.asarray(times, np.float64).reshape(-1)
        sizes = {"sequences": len(sequence), "frames": len(frame), "times": len(time)}
        if embeddings is not None:
            sizes["embeddings"] = len(embeddings)
        if wrong := {name: size for name, size in sizes.items() if size != count}:
            raise ValueError(f"there are {count} boxes, and {wrong}")
        frame = np.unique(sequence * (frame.max(initial=0) + 1) + frame, return_inverse=True)[1].reshape(-1)
        earliest = np.full(frame.max(initial=-1) + 1, np.inf)
        np.fmin.at(earliest, frame, time)
        time = np.where(np.isfinite(earliest), earliest, np.nan)[frame]
        order = np.lexsort((*told.T[::-1], frame, time, sequence))  # NaN comes last
        return cls(told, sequence, frame, time, embeddings, order)

    @property
    def step(self) -> float:
        """The median time between two frames of one sequence; 1 where there are none."""
        first = np.flatnonzero(np.diff(self.frame[self.order], prepend=-1))
        rows = self.order[first]
        gaps = np.diff(self.time[rows])[np.diff(self.sequence[rows]) == 0]
        gaps = gaps[gaps > 0]
        return float(np.median(gaps)) if len(gaps) else 1.0

    def sequences(self) -> Iterator[list[NDArray[np.intp]]]:
        """Of every sequence, the rows of its frames in order of time."""
        for rows in _runs(self.order, self.sequence):
            yield _runs(rows, self.frame)


def _runs(rows: NDArray[np.intp], of: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Rows cut where the code changes."""
    cuts = np.flatnonzero(np.diff(of[rows])) + 1
    return np.split(rows, cuts) if len(rows) else []


@dataclass(frozen=True, slots=True)
class _State:
    """Of T tracks that may go on, as they were when they were last seen."""

    number: NDArray[np.int64]
    motion: Motion
    seen: Floats  # times
    looks: NDArray[np.floating] | None

    def __getitem__(self, places: NDArray[np.bool_] | NDArray[np.intp]) -> "_State":
        looks = None if self.looks is None else self.looks[places]
        return _State(self.number[places], self.motion[places], self.seen[places], looks)

    def with_more(self, other: "_State") -> "_State":
        both = None if self.looks is None or other.looks is None else np.concatenate([self.looks, other.looks])
        return _State(
            np.concatenate([self.number, other.number]),
            joined(self.motion, other.motion),
            np.concatenate([self.seen, other.seen]),
            both,
        )


class _Tracks:
    """The tracks of one sequence."""

    def __init__(self, options: Tracking, *, step: float, first: int) -> None:
        self.count = first  # the number of the next track
        self._options = options
        self._step = step
        self._alive: _State | None = None

    def see(self, scene: _Scene, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """The numbers of the tracks that the boxes of the next frame belong to."""
        time = float(scene.time[rows[0]])
        looks = None if scene.looks is None else scene.looks[rows]
        if np.isnan(time):
            return self._new(len(rows))
        found = np.full(len(rows), -1, np.int64)
        if self._alive is not None:
            self._alive = self._alive[self._may_go_on(time)]
            mine, theirs = self._match(self._alive, scene.boxes[rows], looks, time)
            found[theirs] = self._alive.number[mine]
        fresh = found < 0
        found[fresh] = self._new(int(fresh.sum()))
        born = _State(
            found[fresh],
            begin(scene.boxes[rows][fresh], noise=self._options.noise),
            np.full(int(fresh.sum()), time),
            None if looks is None else looks[fresh].astype(np.float64),
        )
        self._alive = born if self._alive is None else self._alive.with_more(born)
        return found

    def _new(self, count: int) -> NDArray[np.int64]:
        self.count += count
        return np.arange(self.count - count, self.count)

    def _may_go_on(self, time: float) -> NDArray[np.bool_]:
        assert self._alive is not None, "asked where there are tracks"
        gap = time - self._alive.seen
        most = self._options.max_time
        tolerated = self._options.max_steps * self._step * (1 + 1e-9)  # times are sums of what is not exact
        return (gap <= tolerated) & (True if most is None else gap <= most * (1 + 1e-9))

    def _match(
        self, state: _State, boxes: Floats, looks: NDArray[np.floating] | None, time: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of tracks and boxes; the tracks take their boxes up."""
        steps = (time - state.seen) / self._step
        ahead = predict(state.motion, steps=steps, noise=self._options.noise)
        mine, theirs = best_pairs(affinity(ahead.boxes, boxes, state.looks, looks, steps=steps, options=self._options))
        seen = correct(ahead[mine], boxes[theirs], noise=self._options.noise)
        motion = Motion(state.motion.state.copy(), state.motion.covariance.copy())
        motion.state[mine], motion.covariance[mine] = seen.state, seen.covariance
        last = state.seen.copy()
        last[mine] = time
        after = state.looks
        if after is not None and looks is not None:
            after = after.copy()
            after[mine] = self._options.memory * after[mine] + (1 - self._options.memory) * looks[theirs]
        self._alive = replace(state, motion=motion, seen=last, looks=after)
        return mine, theirs


def affinity(
    expected: Floats,
    boxes: Floats,
    looks: NDArray[np.floating] | None = None,
    looks_of_boxes: NDArray[np.floating] | None = None,
    *,
    steps: ArrayLike,
    options: Tracking,
) -> Floats:
    """[T, B]: how well a box fits a track, above 0 to 1; 0 where it cannot be the track's.

    expected: [T, 4] where the tracks should be, `steps` ([T]) after they were seen; boxes: [B, 4]; looks: [T, D] of any
    length and [B, D] of length 1. With overlap o (IoU of the enlarged boxes, over the root of the steps: who may be
    anywhere fits nowhere well), likeness c (cosine) and share a of looks, (1 - a) o + a max(c, 0); without looks, o.
    """
    spread = np.sqrt(np.maximum(np.asarray(steps, np.float64), 1.0))[:, None]
    overlap = _enlarged_iou(expected, boxes, options.reach * spread)
    fits = overlap >= max(options.least_overlap, 1e-9)
    overlap = overlap / spread
    if looks is None or looks_of_boxes is None:
        return np.where(fits, overlap, 0.0)
    length = np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-12)
    likeness = np.asarray((looks / length) @ looks_of_boxes.T, np.float64)
    fits &= likeness >= options.least_likeness
    return np.where(fits, (1 - options.appearance) * overlap + options.appearance * np.maximum(likeness, 0), 0.0)


def _enlarged_iou(one: Floats, other: Floats, margin: Floats) -> Floats:
    """[T, B]: intersection over union of boxes that are larger on every side by `margin` ([T, 1]) longer sides."""
    left, top, right, bottom = zip(_enlarged(one[:, None], margin), _enlarged(other[None], margin), strict=True)
    width = np.minimum(*right) - np.maximum(*left)
    height = np.minimum(*bottom) - np.maximum(*top)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(right[i] - left[i]) * (bottom[i] - top[i]) for i in range(2)]
    iou: Floats = common / (areas[0] + areas[1] - common)
    return iou


def _enlarged(boxes: Floats, margin: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    x, y, w, h = np.moveaxis(boxes, -1, 0)
    by = margin * np.maximum(w, h)
    return x - by, y - by, x + w + by, y + h + by
