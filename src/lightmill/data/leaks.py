"""Whether a fold keeps apart what it should: looked for before training, in the fold as it is, whoever made it.

A random split of samples puts neighbouring frames of one track, nearly the same picture, on both sides: validation then
measures memory. Unknown players who are trained on are not unknown. Both pass unnoticed in every figure.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.data.folds import Fold, parent_labels, time_distance
from lightmill.errors import ItemError, UsageError
from lightmill.ops.duplicates import near_groups
from lightmill.ops.phash import phash

if TYPE_CHECKING:
    import polars as pl

Indices: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["row", "frame", "neighbour", "identity", "copy"]

EXAMPLES = 5
_BITS = 6  # of 64, by which the hashes of copies may differ
_LEVELS = 4.0  # by which their small grey pictures may differ on average
_SMALL = (16, 32)  # width, height of those
_PAIRS_AT_ONCE = 1 << 20
_PICTURES_AT_ONCE = 1 << 14
_BITS_OF_BYTE = np.array([byte.bit_count() for byte in range(256)], np.uint8)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One way in which validation can be answered by memory."""

    kind: Kind
    count: int  # rows of the validation side; of identity: rows of the training side
    message: str  # what was met, for people
    examples: tuple[tuple[str, str], ...]  # (of training, of validation): frames, with what tells them apart; a few

    def __str__(self) -> str:
        shown = "; ".join(f"{one} | {other}" for one, other in self.examples)
        return f"{self.message} (training | validation: {shown})"


class HasPixels(Protocol):
    """What crops are read from: a CropPack."""

    def pixels(self, index: int, /) -> NDArray[np.uint8]:
        """[h, w, 3] uint8 RGB."""
        ...


def check_leaks(
    fold: Fold, table: "pl.DataFrame", *, gap: float | None = None, pack: HasPixels | None = None, threads: int = 1
) -> list[Leak]:
    """What is on both sides of a fold and should not be; an empty list where all is well.

    table: the pack's: label, frame, group, time, x, y, w, h, and of negatives kind, row and parent. Looked for are

    - row: the same row on both sides, or an equal one (frame and box);
    - frame: crops of one frame on both sides;
    - neighbour: rows of one group on both sides, nearer than `gap` in time, in whatever view. `gap` is the fold's own
      where it is not given; where that has none, or times are missing, a group may not be on both sides at all;
    - identity: an unknown player who is trained on, in person or as the parent of a partial;
    - copy, where there is a `pack`: players' crops that are the same picture but for size and compression, found by
      perceptual hashes and confirmed on small grey pictures. Every crop of a player is decoded, in `threads` threads.

    Raises UsageError where the fold is not of this table.
    """
    sides = [fold.train_side, fold.val_side]
    if any(len(side) and not (side.min() >= 0 and side.max() < table.height) for side in sides):
        raise UsageError(f"the fold has rows beyond the {table.height} of the table: it was made of another one")
    found = _Rows(fold, table)
    gap = fold.gap if gap is None else gap
    leaks = [found.equal_rows(), found.shared_frames(), found.neighbours(gap), found.identities()]
    if pack is not None:
        leaks.append(found.copies(pack, threads))
    return [leak for leak in leaks if leak]


def refuse_leaks(leaks: Sequence[Leak], fold: Fold) -> None:
    """Raises UsageError that names every leak, where there are any."""
    if leaks:
        listed = "".join(f"\n- {leak.kind}: {leak}" for leak in leaks)
        raise UsageError(
            f"fold {fold.number} leaks from training into validation; make folds by group (open_set_folds):{listed}"
        )


class _Rows:
    """The two sides of a fold."""

    def __init__(self, fold: Fold, table: "pl.DataFrame") -> None:
        self._fold, self._table = fold, table
        self._train, self._val = fold.train_side, fold.val_side
        self._frames = table["frame"].to_numpy()
        self._labels = table["label"].fill_null("").to_numpy()

    def equal_rows(self) -> Leak | None:
        pairs = self._shared([name for name in ("frame", "x", "y", "w", "h") if name in self._table.columns])
        same = np.intersect1d(self._train, self._val)
        pairs = {int(row): int(row) for row in same} | pairs
        return self._leak("row", f"{len(pairs)} boxes are on both sides", pairs.items(), len(pairs))

    def shared_frames(self) -> Leak | None:
        pairs = self._shared(["frame"])
        frames = len(set(self._frames[list(pairs)]))
        return self._leak("frame", f"{frames} frames are on both sides", pairs.items(), len(pairs))

    def neighbours(self, gap: float | None) -> Leak | None:
        names, groups = np.unique(self._table["group"].fill_null("").to_numpy().astype(str), return_inverse=True)
        times = self._times()
        untimed = np.isnan(times)
        if gap is None:
            limit = np.full(len(names), np.inf)
        else:
            limit = np.full(len(names), gap)
            limit[groups[untimed]] = np.inf  # nobody knows how near they are
        times = np.where(np.isinf(limit[groups]), 0.0, times)
        distance = time_distance(groups[self._val], times[self._val], groups[self._train], times[self._train])
        near = self._val[distance < limit[groups[self._val]]]
        pairs = ((self._nearest(row, groups, times), row) for row in near[:: max(1, len(near) // EXAMPLES)].tolist())
        how = (
            "of groups that are trained on" if gap is None else f"nearer than {gap:g} in time to one that is trained on"
        )
        message = f"{len(near)} boxes of validation are {how}"
        return self._leak("neighbour", message, ((val, train) for train, val in pairs), len(near))

    def identities(self) -> Leak | None:
        unknown = set(self._fold.unknown_labels) | set(self._labels[self._fold.val_unknown])
        unknown.discard("")
        parents = parent_labels(self._table)
        train = self._train
        rows = train[np.isin(self._labels[train], list(unknown)) | np.isin(parents[train], list(unknown))]
        names = sorted({self._labels[row] or parents[row] for row in rows})
        message = f"{len(rows)} boxes of {len(names)} unknown players are trained on: {', '.join(names[:EXAMPLES])}"
        examples = ((row, self._row_of(self._labels[row] or parents[row])) for row in rows.tolist())
        return self._leak("identity", message, ((val, train) for train, val in examples), len(rows))

    def copies(self, pack: HasPixels, threads: int) -> Leak | None:
        train = self._fold.train
        val = np.concatenate([self._fold.val_known, self._fold.val_unknown])
        rows = np.unique(np.concatenate([train, val]))
        hashes, small, readable = _looked_at(pack, rows, threads)
        rows, hashes, small = rows[readable], hashes[readable], small[readable]
        in_train, in_val = np.isin(rows, train), np.isin(rows, val)
        pairs: dict[int, int] = {}
        for group in near_groups(hashes, distance=_BITS):
            members = np.array(group.members)
            for one, other in _near_pairs(members[in_val[members]], members[in_train[members]], hashes):
                same = np.abs(small[one] - small[other]).mean(axis=1) <= _LEVELS
                pairs |= dict(zip(rows[one[same]].tolist(), rows[other[same]].tolist(), strict=True))
        message = f"{len(pairs)} crops of validation are copies of ones that are trained on"
        return self._leak("copy", message, sorted(pairs.items()), len(pairs))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _shared(self, columns: list[str]) -> dict[int, int]:
        """Rows of validation, and one of training each, that are equal in these columns."""
        import polars as pl

        keys = self._table.select(columns).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("at "))
        train = keys[self._train].unique(subset=columns, keep="first", maintain_order=True)
        both = keys[self._val].join(train, on=columns, how="inner", suffix="train", maintain_order="left")
        return dict(zip(both["at "].to_list(), both["at train"].to_list(), strict=True))

    def _times(self) -> NDArray[np.float64]:
        if "time" not in self._table.columns:
            return np.full(self._table.height, np.nan)
        return np.asarray(self._table["time"].to_numpy().astype(np.float64))

    def _nearest(self, row: int, groups: Indices, times: NDArray[np.float64]) -> int:
        """Of the training rows of the same group."""
        own = self._train[groups[self._train] == groups[row]]
        return int(own[np.abs(times[own] - times[row]).argmin()])

    def _row_of(self, label: str) -> int:
        """Of validation; -1 where there is none."""
        rows = self._val[self._labels[self._val] == label]
        return int(rows[0]) if len(rows) else -1

    def _leak(self, kind: Kind, message: str, pairs: Iterable[tuple[int, int]], count: int) -> Leak | None:
        """`pairs`: (of validation, of training)."""
        if not count:
            return None
        shown = [(self._named(train), self._named(val)) for val, train in _first(pairs)]
        return Leak(kind=kind, count=count, message=message, examples=tuple(shown))

    def _named(self, row: int) -> str:
        if row < 0:
            return "none"
        label = f" of {self._labels[row]}" if self._labels[row] else ""
        return f"{self._frames[row]}{label}, row {row}"


def _first(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return [pair for pair, _ in zip(pairs, range(EXAMPLES), strict=False)]


def _looked_at(
    pack: HasPixels, rows: Indices, threads: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]:
    """([R] hashes, [R, 512] small grey pictures, [R] whether the crop can be read at all)."""

    def look(row: int) -> tuple[int, NDArray[Any]] | None:
        try:
            pixels = pack.pixels(row)
        except ItemError:  # training leaves it out as well
            return None
        grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
        return phash(grey), cv2.resize(grey, _SMALL, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()

    with ThreadPoolExecutor(threads) as pool:
        seen = list(pool.map(look, rows.tolist()))
    nothing = (0, np.zeros(_SMALL[0] * _SMALL[1], np.float32))
    hashes, small = zip(*(one or nothing for one in seen), strict=True) if seen else ((), ())
    readable = np.array([one is not None for one in seen], np.bool_)
    return np.array(hashes, np.uint64), np.array(small, np.float32).reshape(len(seen), -1), readable


def _near_pairs(ones: Indices, others: Indices, hashes: NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """Pairs whose hashes are near, some at a time."""
    step = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    for begin in range(0, len(ones) if len(others) else 0, step):
        part = ones[begin : begin + step]
        differing = (hashes[part, None] ^ hashes[None, others]).view(np.uint8).reshape(len(part), len(others), 8)
        one, other = np.nonzero(_BITS_OF_BYTE[differing].sum(axis=2) <= _BITS)
        for first in range(0, len(one), _PICTURES_AT_ONCE):
            few = slice(first, first + _PICTURES_AT_ONCE)
            yield part[one[few]], others[other[few]]
