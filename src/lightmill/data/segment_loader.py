"""Batches of pictures and maps, in the order of each epoch, and an end to training where too many cannot be read.

This module needs torch when it is imported; it is imported where something is trained.
"""

import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch  # noqa: TID253 (imported only where something is trained; a batch is tensors)
from torch.utils.data import DataLoader  # noqa: TID253 (as above)

from lightmill.data.crops import collate
from lightmill.data.segment_samples import SizeHW
from lightmill.engine.wording import count_of
from lightmill.errors import InputError, TooManyFailures, UsageError
from lightmill.types import Budget

if TYPE_CHECKING:
    from lightmill.data.segments import SegmentDataset


@dataclass(frozen=True, eq=False)
class SegmentBatch:
    """Samples side by side. `to` moves all of it at once; Lightning does so by itself."""

    block: torch.Tensor  # uint8 [B, H * W * 4]
    rows: torch.Tensor  # int64 [B] of the index
    size_hw: SizeHW

    @property
    def images(self) -> torch.Tensor:
        """uint8 [B, H, W, 3] RGB, a view."""
        return self.block[:, : 3 * self._pixels].view(-1, *self.size_hw, 3)

    @property
    def maps(self) -> torch.Tensor:
        """uint8 [B, H, W] class numbers, 255 = ignore; a view."""
        return self.block[:, 3 * self._pixels :].view(-1, *self.size_hw)

    @property
    def _pixels(self) -> int:
        return self.size_hw[0] * self.size_hw[1]

    def __len__(self) -> int:
        return len(self.block)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same on a device."""
        block, rows = (each.to(device, non_blocking=non_blocking) for each in (self.block, self.rows))
        return type(self)(block, rows, self.size_hw)


class EpochOrder:
    """Batches of places in a data set: torch's batch sampler.

    Shuffled, every epoch has an order of its own, given by the seed and the epoch alone, and all batches are full; what
    is left over comes in other epochs. Else all come once, in order. Of `ranks` processes each gets its own part.
    """

    def __init__(
        self, length: int, *, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        if batch_size < 1 or not 0 <= rank < ranks:
            raise UsageError(f"a batch has 1 sample or more, and ranks count from 0; got {batch_size}, {rank}/{ranks}")
        self.length, self.shuffle, self.seed, self.rank, self.ranks = length, shuffle, seed, rank, ranks
        own = length // ranks if shuffle else len(range(rank, length, ranks))
        self.batch_size = min(batch_size, own) if shuffle else batch_size
        if not self.batch_size:
            raise UsageError(f"{count_of(length, 'picture')} cannot be shared out to {ranks} processes")
        self._batches = own // self.batch_size if shuffle else -(-own // batch_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which order the next pass has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        own = order[self.rank :: self.ranks].tolist()
        for number in range(self._batches):
            yield own[number * self.batch_size : (number + 1) * self.batch_size]


class SegmentLoader:
    """Batches of one epoch. Ends the training, after any batch, where more cannot be read than `max_bad` allows.

    `waited_s`: how long, in the epoch so far, whoever trains has waited for batches.
    """

    def __init__(
        self, dataset: "SegmentDataset", order: EpochOrder, *, max_bad: Budget, options: dict[str, Any]
    ) -> None:
        self.dataset, self.order, self.max_bad = dataset, order, max_bad
        self.waited_s = 0.0
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]  # a data set of torch by what it can do
            batch_sampler=order,
            collate_fn=collate,
            **options,
        )

    def set_epoch(self, epoch: int) -> None:
        """Which order the next pass has."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[SegmentBatch]:
        """Raises TooManyFailures, and InputError where one picture after the other cannot be read."""
        self.waited_s = 0.0
        batches = iter(self._loader)
        while (found := self._next(batches)) is not None:
            block, rows = found
            read = rows >= 0
            if not read.all():
                block, rows = block[read], rows[read]
            if len(rows):
                yield SegmentBatch(block, rows, self.dataset.maker.size_hw)

    def _next(self, batches: "Iterator[tuple[torch.Tensor, torch.Tensor]]") -> tuple[torch.Tensor, torch.Tensor] | None:
        began = time.perf_counter()
        found, is_lost = None, False
        try:
            found = next(batches, None)
        except InputError as error:  # of a worker, whose traceback is among the words
            is_lost = True
            traceback.clear_frames(error.__traceback__)  # they hold each other, and workers, that end late then
        self._refuse_bad()
        if is_lost:
            raise InputError(f"one picture after the other cannot be read. {self.dataset.note()}")
        self.waited_s += time.perf_counter() - began
        return found

    def _refuse_bad(self) -> None:
        bad, total = self.dataset.bad, len(self.dataset)
        if not bad or self.max_bad.allows(bad, total, total):
            return
        raise TooManyFailures(
            f"{self.dataset.note()}. That is more than --max-bad {self.max_bad} of {total:,} allows; `lightmill check` "
            "names all of them"
        )
