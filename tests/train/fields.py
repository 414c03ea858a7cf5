"""Tiny pictures to be segmented: blobs of two colours on a dark ground, under noise; and their batches."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lightmill.data.labels import IGNORE
from lightmill.data.segment_augment import SegmentAugment
from lightmill.data.segment_loader import SegmentBatch
from lightmill.train.segment import SegmentBatches
from lightmill.train.segment_options import SegmentOptions

torch.set_num_threads(1)  # networks of this size gain nothing from more, and wait for them where the machine is busy

SIZE_HW = (48, 64)
NAMES = ("ground", "red", "blue")
COLOURS = np.array([(40, 60, 40), (200, 60, 50), (50, 60, 210)])
OPTIONS = SegmentOptions(
    size="nano",
    names=NAMES,
    size_hw=SIZE_HW,
    epochs=4,
    rate=4e-3,
    ema=0.9,
    amp="off",
    tensorboard=False,
    augment=SegmentAugment().strength(0.5),
)


class Fields:
    """`count` pictures [H, W, 3] and maps [H, W]; a strip of every map is ignored."""

    def __init__(self, count: int = 24, seed: int = 0, *, binary: bool = False) -> None:
        chance = np.random.default_rng(seed)
        y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
        self.maps = np.zeros((count, *SIZE_HW), np.uint8)
        for classes in self.maps:
            for number in (1, 2):
                top, left, radius = chance.uniform(0.2, 0.8, 3) * (*SIZE_HW, 22)
                classes[(y - top) ** 2 + (x - left) ** 2 < radius**2] = number
        noise = chance.normal(0, 12, (*self.maps.shape, 3))
        self.images = (COLOURS[self.maps] + noise).clip(0, 255).astype(np.uint8)
        if binary:
            self.maps = (self.maps == 1).astype(np.uint8)
        self.maps[:, :3] = IGNORE

    def batches(self, *, size: int = 4, valid: "Fields | None" = None, rows: str = "") -> SegmentBatches:
        return SegmentBatches(
            train=Loader(self, size, shuffle=True),
            valid=None if valid is None else Loader(valid, size, shuffle=False),
            rows=rows,
        )


class Loader:
    """Batches in another order each epoch; the last one may be smaller where nothing is shuffled."""

    def __init__(self, fields: Fields, size: int, *, shuffle: bool) -> None:
        self.fields, self.size, self.shuffle = fields, size, shuffle
        self.epochs: list[int] = []  # that it was told of

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        count = len(self.fields.maps)
        return count // self.size if self.shuffle else -(-count // self.size)

    def __iter__(self) -> Iterator[Any]:
        order = np.arange(len(self.fields.maps))
        if self.shuffle:
            order = np.random.default_rng(self.epochs[-1]).permutation(order)
        for number in range(len(self)):
            yield batch_of(self.fields, order[number * self.size : (number + 1) * self.size])


def batch_of(fields: Fields, rows: np.ndarray) -> SegmentBatch:
    block = [fields.images[rows].reshape(len(rows), -1), fields.maps[rows].reshape(len(rows), -1)]
    return SegmentBatch(torch.from_numpy(np.concatenate(block, 1)), torch.from_numpy(rows), SIZE_HW)
