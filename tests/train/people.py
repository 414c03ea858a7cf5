"""Tiny people to be told apart: two colours each, shirt over shorts, under noise; and their batches."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from lightmill.train.batches import ReidBatches, Score
from lightmill.train.options import ReidOptions

torch.set_num_threads(1)  # networks of this size gain nothing from more, and wait for them where the machine is busy

SIZE_HW = (32, 16)
# no bfloat16 with crops of this size; the same on any machine
OPTIONS = ReidOptions(
    backbone="random:resnet-tiny", embedding=16, size_hw=SIZE_HW, epochs=4, amp="off", tensorboard=False, rate=3e-3
)


class People:
    """`count` crops of `known` people in turn, the last `nobody` of them without anyone."""

    def __init__(self, count: int = 96, known: int = 6, nobody: int = 0, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        colours = np.random.default_rng(99).integers(0, 256, (known, 2, 3))
        self.classes = np.arange(count) % known
        self.classes[count - nobody :] = -1
        plain = np.empty((count, *SIZE_HW, 3))
        plain[:, :16], plain[:, 16:] = (colours[self.classes, part][:, None, None] for part in (0, 1))
        plain[count - nobody :] = (40, 160, 60)  # grass
        self.crops = torch.from_numpy((plain + chance.normal(0, 20, plain.shape)).clip(0, 255).astype(np.uint8))
        self.labels = tuple(f"player {number}" for number in range(known))

    def batches(
        self, *, size: int = 16, shuffle: bool = True, valid: "Loader | None" = None, score: Score | None = None
    ) -> ReidBatches:
        return ReidBatches(
            train=Loader(self, size, shuffle=shuffle),
            classes=self.classes,
            labels=self.labels,
            valid=valid,
            score=score,
        )

    @cached_property
    def rank1(self) -> Score:
        """The share of those whose nearest other is of their class."""

        def score(embeddings: np.ndarray, rows: np.ndarray) -> dict[str, float]:
            similar, classes = embeddings @ embeddings.T, self.classes[rows]
            np.fill_diagonal(similar, -2)
            return {"score": float((classes[similar.argmax(1)] == classes).mean())}

        return score


class Loader:
    """Batches of (uint8 [B, h, w, 3], rows), in another order each epoch."""

    def __init__(self, people: People, size: int, *, shuffle: bool) -> None:
        self.people, self.size, self.shuffle = people, size, shuffle
        self.epochs: list[int] = []  # that it was told of

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return len(self.people.crops) // self.size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = np.arange(len(self.people.crops))
        if self.shuffle:
            order = np.random.default_rng(self.epochs[-1]).permutation(order)
        for number in range(len(self)):
            rows = torch.from_numpy(order[number * self.size : (number + 1) * self.size])
            yield self.people.crops[rows], rows
