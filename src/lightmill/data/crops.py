"""Crops of one size for training, wherever they are: in a pack, in loose files, or still in their frames.

A sample is (pixels, index): uint8 RGB [h, w, 3] and a row of the data set's `table`. What the table says of crops stays
there; workers get numpy columns and the path of a mapped file, so that nothing of size is copied for each of them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.data.blocks import Place, Sent, SharedBlocks
from lightmill.data.pack import Context, Pixels
from lightmill.engine.wording import times
from lightmill.errors import InputError, ItemError, MissingExtra, UsageError

if TYPE_CHECKING:
    import polars as pl
    import torch

Rows: TypeAlias = NDArray[np.int64]
SizeHW: TypeAlias = tuple[int, int]
Window: TypeAlias = tuple[int, int, int, int]  # left, top, width, height in px
Draws: TypeAlias = NDArray[np.float64]  # [..., 4] uniform in -1 to 1

SIZE_HW: SizeHW = (256, 128)
ATTEMPTS = 32  # at one sample: where so many crops in a row cannot be read, the rest is no better


class CropSource(Protocol):
    """Where crops come from. May be pickled, and used from many threads."""

    def __len__(self) -> int: ...

    @property
    def table(self) -> "pl.DataFrame":
        """One row a crop, with the columns of a pack (all but `crop`)."""
        ...

    def pixels(self, index: int) -> Pixels:
        """[h, w, 3] RGB of one crop, as it was cut. Raises ItemError where it cannot be read whole."""
        ...

    def context(self, index: int) -> Context:
        """The crop with what is known around it. Raises ItemError as `pixels` does."""
        ...


@dataclass(frozen=True, slots=True)
class Jitter:
    """Boxes as another detector would have drawn them.

    `shift`: how far the centre moves at most, a share of the side; `scale`: each side becomes exp(-scale) to exp(scale)
    of itself, uniform in the exponent. What the source does not show is left out: a pack shows only what was cut, so
    its crops lose a margin, and frames show all.
    """

    shift: float = 0.05
    scale: float = 0.1

    def apply(self, cut: Window, draws: Draws, *, inside: Window) -> Window:
        """The window instead of `cut`, in whole px, at least one each way, within `inside`."""
        sides = [side * math.exp(self.scale * draw) for side, draw in zip(cut[2:], draws[2:], strict=True)]
        moved = [self.shift * draw * side for side, draw in zip(cut[2:], draws[:2], strict=True)]
        centre = [first + side / 2 + by for first, side, by in zip(cut[:2], cut[2:], moved, strict=True)]
        spans = [
            _span(middle - side / 2, middle + side / 2, low, low + length)
            for middle, side, low, length in zip(centre, sides, inside[:2], inside[2:], strict=True)
        ]
        return spans[0][0], spans[1][0], spans[0][1] - spans[0][0], spans[1][1] - spans[1][0]


def _span(first: float, end: float, low: int, high: int) -> tuple[int, int]:
    """[first, end) in whole numbers, at least one long, within [low, high)."""
    begin = min(max(math.floor(first + 0.5), low), high - 1)
    return begin, min(max(math.floor(end + 0.5), begin + 1), high)


class Unreadable(NamedTuple):
    """A crop in whose place others were drawn."""

    row: int  # of the data set's table
    times: int  # that it was asked for
    reason: str


class Samples(list[tuple[Pixels, int]]):
    """A batch of samples that lie one after the other in memory."""

    pixels: "torch.Tensor"  # uint8 [B, ..., h, w, 3]
    rows: Rows  # [B] of the data set's table
    place: "Place | None" = None  # where the pixels are, if that is shared with the training process


class CropDataset:
    """A map-style data set of torch over one source of crops; `len` counts its samples.

    A crop that cannot be read whole is replaced: another of its kind and label is drawn (any, where there is none), and
    the sample's index says which. It is never the frame, and never black. `unreadable` names them.

    All draws hang on the seed and on what is asked for together: the same batches give the same crops, with any number
    of workers.
    """

    def __init__(
        self,
        source: CropSource,
        *,
        size_hw: SizeHW = SIZE_HW,
        rows: Iterable[int] | NDArray[np.integer[Any]] | None = None,
        where: "pl.Expr | None" = None,
        jitter: Jitter | None = None,
        seed: int = 0,
    ) -> None:
        """`rows`: which of the source, in which order (None: all); `where`: an expression on the table, on top of that.

        Raises UsageError where no crop is left or a row is none of the source's, MissingExtra without torch.
        """
        cv2.setNumThreads(1)  # a forked worker would wait for ever for threads that were not forked with it
        self.source = source
        self.size_hw = size_hw
        self.jitter = jitter
        self.seed = seed
        self.rows = _chosen(source, rows, where)
        self._table: pl.DataFrame | None = None
        self._alike = _Alike(self.table)
        self._failures = _shared_counts(len(self.rows))
        self.blocks: SharedBlocks | None = None  # in a worker: where its batches go

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_table": None}  # made again where it is asked for

    @property
    def table(self) -> "pl.DataFrame":
        """One row a sample, with the columns of a pack (all but `crop`)."""
        if self._table is None:
            self._table = self.source.table[self.rows]
        return self._table

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """(uint8 [h, w, 3], row of the table). Raises InputError where crop after crop cannot be read."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """A batch at once: what torch's loader asks for. Raises as for one."""
        return read_samples(self, indices, shape=(*self.size_hw, 3), seed=self.seed)

    def read(self, index: int, out: Pixels, draws: Draws) -> None:
        """One crop into `out` [h, w, 3]. Raises ItemError, once it is counted, where it cannot be read whole."""
        row = int(self.rows[index])
        try:
            found = self.source.pixels(row) if self.jitter is None else self._jittered(row, self.jitter, draws)
        except ItemError:
            self._failures[index] += 1
            raise
        resize_into(found, out)

    def _jittered(self, row: int, jitter: Jitter, draws: Draws) -> Pixels:
        context = self.source.context(row)
        return _part(context, jitter.apply(context.cut, draws, inside=context.shown))

    def another(self, index: int, rng: np.random.Generator) -> int:
        """A sample for one that cannot be read: of its kind and label, where there is one that is not known as bad."""
        return self._alike.draw(index, rng, bad=self.known_bad)

    @property
    def known_bad(self) -> NDArray[np.bool_]:
        """[N] which samples could not be read so far."""
        return np.asarray(self._failures.numpy() > 0)

    def unreadable(self, *, forget: bool = False) -> list[Unreadable]:
        """What was replaced so far, by all workers, with the reasons. `forget`: count anew, as at an epoch's end.

        A count may be one too low where two workers met one crop in the same instant; no crop is left out.
        """
        counts = self._failures.numpy()
        found = [Unreadable(row, int(counts[row]), self._reason(row)) for row in np.flatnonzero(counts).tolist()]
        if forget:
            self._failures.zero_()
        return found

    def _reason(self, index: int) -> str:
        try:
            self.source.pixels(int(self.rows[index]))
        except ItemError as error:
            return str(error)
        return "it could not be read then, and can be now"


def unreadable_note(found: Sequence[Unreadable], table: "pl.DataFrame", *, shown: int = 5) -> str:
    """One sentence for people: how many crops, how often others were drawn, which they are and why. "" for none."""
    if not found:
        return ""
    names = [f"{table['frame'][one.row]} (row {one.row}): {one.reason}" for one in found[:shown]]
    more = f"; and {len(found) - shown} more" if len(found) > shown else ""
    drawn = times(sum(one.times for one in found))
    counted = f"crops that cannot be read: {len(found)}; others were drawn in their place {drawn}"
    return f"{counted}: {'; '.join(names)}{more}"


# ---------------------------------------------------------------------------------------------------------------------
# reading a batch


class Reader(Protocol):
    """What samples are read with."""

    blocks: SharedBlocks | None

    def read(self, index: int, out: Pixels, draws: Draws) -> None:
        """A sample into its place. Raises ItemError."""
        ...

    def another(self, index: int, rng: np.random.Generator) -> int:
        """Which sample takes the place of one that cannot be read."""
        ...


def read_samples(reader: Reader, indices: Sequence[int], *, shape: tuple[int, ...], seed: int) -> Samples:
    """Read samples of a shape [..., h, w, 3] into one block, with others drawn for those that raise ItemError.

    Raises InputError where one after the other cannot be read.
    """
    samples = Samples()
    samples.rows = np.array(indices, np.int64)
    content = int.from_bytes(blake2b(samples.rows.tobytes(), digest_size=8).digest())
    rng = np.random.default_rng([seed, content])
    draws = rng.uniform(-1, 1, (len(indices), *shape[:-3], 4))
    samples.place, samples.pixels = _block((len(indices), *shape), reader.blocks)
    for number, (out, own) in enumerate(zip(samples.pixels.numpy(), draws, strict=True)):
        index = _read_one(reader, indices[number], out, own, rng)
        samples.rows[number] = index
        samples.append((out, index))
    return samples


def _read_one(reader: Reader, index: int, out: Pixels, draws: Draws, rng: np.random.Generator) -> int:
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            reader.read(index, out, draws)
            return index
        except ItemError as error:
            reason, index = str(error), reader.another(index, rng)
    again = "make the crops again with `lightmill crop`"
    raise InputError(f"{ATTEMPTS} crops in a row cannot be read, the last because: {reason}; {again}")


def resize_into(pixels: Pixels, out: Pixels) -> None:
    """Stretch [H, W, 3] to the size of `out` [h, w, 3]: area where a side gets shorter, linear where it gets longer."""
    height, width = out.shape[:2]
    smaller = min(pixels.shape[1], width), min(pixels.shape[0], height)
    if smaller != pixels.shape[1::-1]:
        pixels = np.asarray(cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA), np.uint8)
    if smaller == (width, height):
        out[:] = pixels
    else:
        cv2.resize(pixels, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)


def _part(context: Context, window: Window) -> Pixels:
    """What a window of the frame shows; a pack's pixels may be of another size than what they were cut from."""
    pixels, (left, top, width, height), _ = context
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    columns = _span((window[0] - left) * across, (window[0] + window[2] - left) * across, 0, pixels.shape[1])
    rows = _span((window[1] - top) * down, (window[1] + window[3] - top) * down, 0, pixels.shape[0])
    return pixels[slice(*rows), slice(*columns)]


def _block(shape: tuple[int, ...], blocks: SharedBlocks | None) -> "tuple[Place | None, torch.Tensor]":
    """Memory for a batch: a place that is shared where there is one."""
    import torch

    worker = torch.utils.data.get_worker_info()
    place = blocks.take(worker.id, shape) if blocks and worker else None
    return place, place.tensor if place else torch.empty(shape, dtype=torch.uint8)


def collate(samples: "Samples | list[tuple[Pixels, int]]") -> "tuple[torch.Tensor, torch.Tensor] | Sent":
    """(pixels, rows) of a batch, for a loader, or what becomes that on its way; pixels of Samples are not copied."""
    import torch

    if isinstance(samples, Samples):
        if samples.place:
            return Sent(samples.place, samples.rows)
        return samples.pixels, torch.from_numpy(samples.rows)
    pixels, rows = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(rows)


def begin_work(_: int, *, blocks: SharedBlocks | None = None) -> None:
    """What a worker of a loader does first."""
    import torch

    cv2.setNumThreads(1)  # it is one of several processes, and this one is ours alone
    worker = torch.utils.data.get_worker_info()
    if worker:
        worker.dataset.blocks = blocks  # type: ignore[attr-defined] # of this process's own copy, which has it


# ---------------------------------------------------------------------------------------------------------------------
# what a data set is made with


class _Alike:
    """Which samples may stand in for each other: those of one kind and label."""

    def __init__(self, table: "pl.DataFrame") -> None:
        import polars as pl

        names = [name for name in ("kind", "label") if name in table.columns]
        if names:
            joined = table.select(pl.concat_str(names, separator="\0").fill_null("").cast(pl.Categorical).to_physical())
            self._class = joined.to_series().to_numpy().astype(np.int64)
        else:
            self._class = np.zeros(len(table), np.int64)
        _, self._class = np.unique(self._class, return_inverse=True)
        self._order = np.argsort(self._class, kind="stable")
        self._ends = np.cumsum(np.bincount(self._class))

    def draw(self, index: int, rng: np.random.Generator, *, bad: NDArray[np.bool_]) -> int:
        """One of those like `index` that is not bad; one of all that are not; one of all."""
        number = self._class[index]
        alike = self._order[self._ends[number - 1] if number else 0 : self._ends[number]]
        for candidates in (alike, self._order):
            good = candidates[~bad[candidates]]
            if len(good):
                return int(good[rng.integers(len(good))])
        return int(self._order[rng.integers(len(self._order))])


def _chosen(source: CropSource, rows: Iterable[int] | NDArray[Any] | None, where: "pl.Expr | None") -> Rows:
    total = len(source)
    chosen = np.arange(total) if rows is None else np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
    chosen = chosen.astype(np.int64)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < total:
        raise UsageError(f"rows {chosen.min()} to {chosen.max()} were asked for, of a source of {total} crops")
    if where is not None:
        chosen = chosen[source.table[chosen].select(where).to_series().fill_null(value=False).to_numpy()]
    if not len(chosen):
        asked = f" and {where}" if where is not None else ""
        raise UsageError(f"no crop is left of {total}, with {'all' if rows is None else 'the given'} rows{asked}")
    return chosen


def _shared_counts(length: int) -> "torch.Tensor":
    """Zeros in memory that workers share."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("training data needs torch; run: pip install 'lightmill[train]'") from error
    counts = torch.zeros(length, dtype=torch.int32)
    counts.share_memory_()  # type: ignore[no-untyped-call] # torch leaves this one without types
    return counts
