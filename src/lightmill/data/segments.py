"""What a student of segmentation is trained and judged on: a data set, its loaders, and a data module of Lightning.

Batches stay uint8 until they are on the device (SegmentBatch); data/segment_augment.py does the rest there. What is
read, replaced and named here goes the way that crops go (data/crops.py).

This module needs torch and Lightning when it is imported; it is imported where something is trained.
"""

from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import torch  # noqa: TID253 (imported only where something is trained; a data module needs Lightning, which needs it)
from lightning.pytorch import LightningDataModule  # noqa: TID253 (as above)
from numpy.typing import ArrayLike, NDArray

from lightmill.data.blocks import SharedBlocks
from lightmill.data.crops import ATTEMPTS, Draws, Samples, Unreadable, begin_work, read_samples
from lightmill.data.index import Index
from lightmill.data.labels import Labels
from lightmill.data.sample_cache import SampleCache, open_cache
from lightmill.data.segment_loader import EpochOrder, SegmentLoader
from lightmill.data.segment_samples import Bytes, SampleMaker, SizeHW, split_sample
from lightmill.engine.wording import count_of, times, told_once
from lightmill.errors import InputError, ItemError, UsageError
from lightmill.types import Budget

Rows: TypeAlias = NDArray[np.int64]
Start: TypeAlias = Literal["fork", "spawn", "forkserver"]

MAX_BAD = Budget(share=0.001)
_SHOWN = 5


class SegmentDataset:
    """A map-style data set of torch over rows of an index; a sample is (picture, map, row of the index).

    A sample that cannot be read is never black, and its map never empty. In training (`replace`) another one is drawn,
    from all of them, by the seed and the batch alone, so with any number of workers it is the same. Else it is left
    out, so that it counts in no score. `unreadable` names them.
    """

    def __init__(
        self,
        maker: SampleMaker,
        rows: ArrayLike,
        *,
        cache: SampleCache | None = None,
        first: int = 0,
        replace: bool = True,
        seed: int = 0,
    ) -> None:
        """`cache`: keeps the samples under numbers from `first` on, in the order of `rows`.

        Raises UsageError where there are no rows, or one has no mask: that is never background.
        """
        self.maker, self.cache, self.first, self.replace, self.seed = maker, cache, first, replace, seed
        self.rows: Rows = np.asarray(rows, np.int64).reshape(-1)
        if not len(self.rows):
            raise UsageError("there are no pictures to train or judge on")
        self._failures = torch.zeros(len(self.rows), dtype=torch.int32)
        self._failures.share_memory_()  # type: ignore[no-untyped-call] # torch leaves this one without types
        self._left_out: set[int] = set()  # of the batch that is being read
        self.blocks: SharedBlocks | None = None  # in a worker: where its batches go

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Bytes, Bytes, int]:
        """(uint8 [H, W, 3] RGB, uint8 [H, W], row of the index). Raises InputError where nothing can be read."""
        samples = self.__getitems__([index])
        row = int(samples.rows[0])
        if row < 0:
            raise InputError(f"sample {index} cannot be read: {self._reason(index)}")
        return *split_sample(samples.pixels[0].numpy(), self.maker.size_hw), row

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """A batch: what torch's loader asks for; samples that are left out have row -1. Raises as for one."""
        self._left_out.clear()
        try:
            samples = read_samples(self, indices, shape=(self.maker.sample_bytes,), seed=self.seed)
        except InputError:  # its words are for crops
            raise InputError(f"{ATTEMPTS} pictures in a row cannot be read. {self.note()}") from None
        lost = np.isin(samples.rows, list(self._left_out))
        samples.rows = np.where(lost, -1, self.rows[samples.rows])
        return samples

    def read(self, index: int, out: Bytes, _: Draws) -> None:
        """One sample into `out` [H * W * 4]. Raises ItemError, once it is counted, where it is to be replaced."""
        if self.cache is not None and self.cache.read(self.first + index, out):
            return
        try:
            as_listed = self.maker.make(int(self.rows[index]), out)
        except ItemError:
            self._failures[index] += 1
            if self.replace:
                raise
            self._left_out.add(index)
            return
        if self.cache is not None and as_listed:
            self.cache.write(self.first + index, out)

    def another(self, _: int, rng: np.random.Generator) -> int:
        """A sample for one that cannot be read."""
        return int(rng.integers(len(self.rows)))

    @property
    def bad(self) -> int:
        """How many samples could not be read so far."""
        return int(torch.count_nonzero(self._failures))

    def unreadable(self, *, forget: bool = False, most: int | None = None) -> list[Unreadable]:
        """What could not be read so far, by all workers, with the reasons; at `most` the first so many of it.

        `forget`: count anew, as at an epoch's end. A count may be one too low where two workers met one sample in the
        same instant; no sample is left out.
        """
        counts = self._failures.numpy()
        found = [
            Unreadable(int(self.rows[index]), int(counts[index]), self._reason(index))
            for index in np.flatnonzero(counts)[:most].tolist()
        ]
        if forget:
            self._failures.zero_()
        return found

    def note(self, *, forget: bool = False) -> str:
        """One sentence for people: how many pictures, which and why; "" for none."""
        bad, drawn = self.bad, int(self._failures.sum())
        found = self.unreadable(forget=forget, most=_SHOWN)
        if not found:
            return ""
        more = f"; and {bad - _SHOWN} more" if bad > _SHOWN else ""
        done = f"others were drawn in their place {times(drawn)}" if self.replace else "no score counts them"
        reasons, advice = told_once([one.reason for one in found])
        named = "; ".join(reasons) + more + (f" ({advice})" if advice else "")
        return f"{count_of(bad, 'picture')} cannot be read, {done}: {named}"

    def _reason(self, index: int) -> str:
        row = int(self.rows[index])
        try:
            self.maker.make(row, np.empty(self.maker.sample_bytes, np.uint8))
        except ItemError as error:
            return str(error)
        return f"{self.maker.pictures.name(row)}: it could not be read then, and can be now"


class SegmentData(LightningDataModule):  # type: ignore[misc]  # lightning is untyped here
    """Loaders for training and validation of one index, and the samples that both keep."""

    def __init__(
        self,
        index: Index,
        labels: Labels,
        *,
        train: ArrayLike,
        val: ArrayLike = (),
        size_hw: SizeHW,
        batch_size: int = 16,
        cache: Literal["auto", "off"] = "auto",
        cache_folder: Path | None = None,
        max_bad: Budget = MAX_BAD,
        workers: int = 2,
        prefetch: int = 2,
        start: Start | None = None,
        seed: int = 0,
    ) -> None:
        """`train`, `val`: rows of the index. `cache_folder`: where samples are kept; None: nowhere.

        `max_bad`: how many of a set may be unreadable, in one epoch, before it ends. `workers`: processes that read; 0
        reads in this one. `start`: how they are started (None: as the system does). `prefetch`: batches that each has
        ready.

        Raises UsageError where there is nothing to train on, or a row has no mask.
        """
        super().__init__()
        self.batch_size, self.max_bad = batch_size, max_bad
        self.workers, self.prefetch, self.start = workers, prefetch, start
        self.maker = SampleMaker(index.pictures, labels, size_hw)
        train, val = (np.asarray(rows, np.int64).reshape(-1) for rows in (train, val))
        _refuse_without_mask(index, np.concatenate([train, val]))
        self.cache, remark = self._open_cache(cache, cache_folder, np.concatenate([train, val]))
        self.remarks: tuple[str, ...] = (remark,) if remark else ()
        self.train_set = SegmentDataset(self.maker, train, cache=self.cache, seed=seed)
        self.val_set = (
            SegmentDataset(self.maker, val, cache=self.cache, first=len(train), replace=False) if len(val) else None
        )
        self.seed = seed
        self._share_out(0, 1)

    def of_rank(self, rank: int, ranks: int) -> "SegmentData":
        """The part of one of several processes that train together; what cannot be read is counted for all of them.

        In training all have equally many full batches; of the validation each sample is in one of them alone. Raises
        UsageError where there are fewer samples to train on than processes.
        """
        cv2.setNumThreads(1)
        own = copy(self)
        own._share_out(rank, ranks)
        return own

    def _share_out(self, rank: int, ranks: int) -> None:
        size, val = self.batch_size, len(self.val_set or ())
        self._train_order = EpochOrder(
            len(self.train_set), batch_size=size, shuffle=True, seed=self.seed, rank=rank, ranks=ranks
        )
        self._val_order = EpochOrder(val, batch_size=size, shuffle=False, rank=rank, ranks=ranks)

    def train_dataloader(self) -> SegmentLoader:
        """Full batches, each epoch in an order of its own; `set_epoch` says which."""
        return self._loader(self.train_set, self._train_order)

    def val_dataloader(self) -> "SegmentLoader | list[SegmentLoader]":
        """Every row of `val` once, in their order; an empty list where there are none."""
        return self._loader(self.val_set, self._val_order) if self.val_set else []

    def set_epoch(self, epoch: int) -> None:
        """Which order training has next."""
        self._train_order.set_epoch(epoch)

    def epoch_note(self) -> str:
        """To be called at an epoch's end: what could not be read in it, by name and count; "" for nothing."""
        notes = [one.note(forget=True) for one in (self.train_set, self.val_set) if one is not None]
        return "; ".join(filter(None, [*notes, self.cache.note() if self.cache else ""]))

    def _open_cache(
        self, mode: Literal["auto", "off"], folder: Path | None, rows: Rows
    ) -> tuple[SampleCache | None, str]:
        if folder is None:
            return None, ""
        keys = [self.maker.key(row) for row in rows.tolist()] if mode == "auto" else []
        return open_cache(folder, keys, mode=mode, sample_bytes=self.maker.sample_bytes, rules=self.maker.rules)

    def _loader(self, dataset: SegmentDataset, order: EpochOrder) -> SegmentLoader:
        options: dict[str, Any] = {"num_workers": self.workers, "pin_memory": torch.cuda.is_available()}
        if self.workers:
            # workers do this too; one that was forked from a process with OpenCV's threads would wait for them for ever
            cv2.setNumThreads(1)
            # beside those that are ready: one that is looked at, and one that comes next
            length = order.batch_size * self.maker.sample_bytes
            blocks = SharedBlocks(workers=self.workers, each=self.prefetch + 2, length=length)
            options |= {
                "persistent_workers": True,
                "prefetch_factor": self.prefetch,
                "multiprocessing_context": self.start,
                "worker_init_fn": partial(begin_work, blocks=blocks),
            }
        return SegmentLoader(dataset, order, max_bad=self.max_bad, options=options)


def _refuse_without_mask(index: Index, rows: Rows) -> None:
    masks = index.arrow["mask"].take(rows).to_pylist()
    lacking = [index.pictures.name(row) for row, mask in zip(rows.tolist(), masks, strict=True) if not mask]
    if lacking:
        some = ", ".join(lacking[:_SHOWN])
        raise UsageError(f"{count_of(len(lacking), 'picture')} without a mask, which is not background: {some}")
