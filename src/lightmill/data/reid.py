"""What an embedder is trained and judged on, as a data module of Lightning.

Batches are what `train.reid` takes: (uint8 [B, h, w, 3] RGB, int64 [B] rows of the data set's table), or [B, V, ...]
with several views. They stay uint8 until they are on the device, which does the rest.

This module needs torch and Lightning when it is imported; it is imported where something is trained.
"""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch  # noqa: TID253 (imported only where something is trained; the class below needs its base)
from lightning.pytorch import LightningDataModule  # noqa: TID253 (as above)
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader  # noqa: TID253 (as above)

from lightmill.data.blocks import SharedBlocks
from lightmill.data.crops import (
    SIZE_HW,
    CropDataset,
    CropSource,
    Jitter,
    SizeHW,
    begin_work,
    collate,
    unreadable_note,
)
from lightmill.data.samplers import IdentitySampler
from lightmill.data.views import MultiViewDataset, moments_of
from lightmill.errors import UsageError

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Start: TypeAlias = Literal["fork", "spawn", "forkserver"]


class ReidData(LightningDataModule):  # type: ignore[misc]  # lightning is untyped here
    """Loaders for training, validation and the gallery, from one source of crops.

    Training deals `identities` x `samples` crops of players a batch, each epoch in an order of its own, and `negatives`
    crops of nobody (background, partial) beside them. Validation and gallery come once, in the order of their rows.
    Players whose label is "" are in no batch of training.

    labels       sorted: who there is to learn
    classes      int64 [N], of each row of `train_set.table` its place in `labels`; -1 for nobody
    moments      int64 [N], likewise: a number for each player at each instant; -1 where unknown
    """

    def __init__(
        self,
        source: CropSource,
        *,
        train: ArrayLike,
        val: ArrayLike = (),
        gallery: ArrayLike = (),
        size_hw: SizeHW = SIZE_HW,
        identities: int = 16,
        samples: int = 4,
        negatives: int = 0,
        spread: str | Sequence[str] | None = "view",
        within: str | Sequence[str] | None = None,
        views: Sequence[str] | None = None,
        jitter: Jitter | None = None,
        batch_size: int = 128,
        workers: int = 2,
        prefetch: int = 2,
        start: Start | None = None,
        seed: int = 0,
    ) -> None:
        """`train`, `val`, `gallery`: rows of the source, as a fold has them.

        `spread`: the columns in which an identity's samples differ where they can; `within`: those in which a batch
        agrees where it can (see IdentitySampler). `views`: train on players seen in all of these at once; a batch has
        `identities` x `samples` instants then, and V crops of each. `batch_size`: of validation and gallery.
        `workers`: processes that read crops; 0 reads them in this one. `start`: how they are started (None: as the
        system does). `prefetch`: batches that each has ready.

        Raises UsageError where the rows cannot make such batches.
        """
        super().__init__()
        self.workers, self.prefetch, self.start = workers, prefetch, start
        self.batch_size = batch_size
        self.train_set = CropDataset(source, rows=np.asarray(train), size_hw=size_hw, jitter=jitter, seed=seed)
        self.val_set = _plain(source, val, size_hw)
        self.gallery_set = _plain(source, gallery, size_hw)
        self.labels, self.classes = _classes(self.train_set)
        if not self.labels:
            raise UsageError(f"none of the {len(self.train_set)} crops to train on is a player whose label is known")
        self.moments: NDArray[np.int64] = moments_of(self.train_set.table)
        nobody = np.flatnonzero(_is_negative(self.train_set))
        self.views = MultiViewDataset(self.train_set, views=views, nobody=nobody) if views else None
        first = self.views.crops[:, 0] if self.views else np.arange(len(self.train_set))
        self.sampler = IdentitySampler(
            self.classes[first],
            identities=identities,
            samples=samples,
            spread=self._values(spread, first),
            within=self._values(within, first),
            pool=np.flatnonzero(~self.views.is_player) if self.views else nobody,
            negatives=negatives,
            seed=seed,
        )
        self._rank, self._ranks = 0, 1

    def of_rank(self, rank: int, ranks: int) -> "ReidData":
        """The part of one of several processes that train together; what cannot be read is counted for all of them.

        In training all have equally many batches, each as large as here; of the validation and the gallery each crop
        is in one of them alone.
        """
        own = copy(self)
        own.sampler = self.sampler.of_rank(rank, ranks)
        own._rank, own._ranks = rank, ranks
        return own

    def train_dataloader(self) -> "DataLoader[Batch]":
        """Batches of identities; `set_epoch` of its batch sampler says in which order."""
        return DataLoader(
            self.views or self.train_set,  # type: ignore[arg-type]  # a data set of torch by what it can do
            batch_sampler=self.sampler,
            **self._loading(self.sampler.batch_size * (len(self.views.views) if self.views else 1)),
        )

    def val_dataloader(self) -> "DataLoader[Batch] | list[DataLoader[Batch]]":
        """Every crop of `val` once, in their order; an empty list where there are none."""
        return self._once(self.val_set) if self.val_set else []

    def gallery_dataloader(self) -> "DataLoader[Batch]":
        """Every crop of `gallery` once, in their order. Raises UsageError where none was given."""
        if self.gallery_set is None:
            raise UsageError("no crops were given for the gallery")
        return self._once(self.gallery_set)

    def set_epoch(self, epoch: int) -> None:
        """Which order the next pass over the training has."""
        self.sampler.set_epoch(epoch)

    def epoch_note(self) -> str:
        """To be called at an epoch's end: which crops could not be read in it, by name and count; "" for none."""
        sets = [one for one in (self.train_set, self.val_set, self.gallery_set) if one is not None]
        return "; ".join(filter(None, [unreadable_note(one.unreadable(forget=True), one.table) for one in sets]))

    def _once(self, dataset: CropDataset) -> "DataLoader[Batch]":
        return DataLoader(
            dataset,  # type: ignore[arg-type]  # as above
            batch_size=self.batch_size,
            sampler=range(self._rank, len(dataset), self._ranks),
            **self._loading(self.batch_size),
        )

    def _loading(self, crops: int) -> dict[str, Any]:
        """Options of a loader of batches with so many crops."""
        options: dict[str, Any] = {"num_workers": self.workers, "collate_fn": collate}
        options["pin_memory"] = torch.cuda.is_available()
        if not self.workers:
            return options
        height, width = self.train_set.size_hw
        # beside those that are ready: one that is looked at, and one that comes next
        length = crops * height * width * 3
        blocks = SharedBlocks.if_room(workers=self.workers, each=self.prefetch + 2, length=length)
        return options | {
            "persistent_workers": True,
            "prefetch_factor": self.prefetch,
            "multiprocessing_context": self.start,
            "worker_init_fn": partial(begin_work, blocks=blocks),
        }

    def _values(self, columns: str | Sequence[str] | None, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Of the samples, numbers that are equal where all the columns are."""
        import polars as pl

        if not columns:
            return None
        names = [columns] if isinstance(columns, str) else list(columns)
        table = self.train_set.table
        if missing := [name for name in names if name not in table.columns]:
            raise UsageError(f"crops have no column {', '.join(missing)}; they have {', '.join(table.columns)}")
        codes = table.select(pl.struct(names).rank("dense")).to_series().to_numpy()
        return np.asarray(codes[rows], np.int64)


def _plain(source: CropSource, rows: ArrayLike, size_hw: SizeHW) -> CropDataset | None:
    chosen = np.asarray(rows, np.int64)
    return CropDataset(source, rows=chosen, size_hw=size_hw) if len(chosen) else None


def _classes(dataset: CropDataset) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    names = dataset.table["label"].fill_null("").to_numpy().astype(str)
    known = (names != "") & ~_is_negative(dataset)
    labels, codes = np.unique(names[known], return_inverse=True)
    classes = np.full(len(names), -1, np.int64)
    classes[known] = codes
    return tuple(labels.tolist()), classes


def _is_negative(dataset: CropDataset) -> NDArray[np.bool_]:
    if "kind" not in dataset.table.columns:
        return np.zeros(len(dataset), np.bool_)
    return np.asarray(dataset.table["kind"].to_numpy() != "player")
