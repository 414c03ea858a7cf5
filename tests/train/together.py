"""What processes that train together are given in tests; all of it is picklable, as they are started anew."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from lightmill.data.segment_loader import EpochOrder
from lightmill.train.batches import Batches
from lightmill.train.loop import Trained, Work, train
from lightmill.train.loop_options import LoopOptions
from lightmill.train.module import LoopModule, Losses
from lightmill.train.place import Place
from lightmill.train.ranks import OnEpoch, OnStep

SIDES = 6, 3  # numbers in, numbers out


class Settings(BaseModel):
    scores: dict[str, float] = {}


class Line(LoopModule[torch.nn.Linear]):
    """A linear network without batch norm, learnt by plain gradient descent; it notes which rows it saw."""

    def __init__(self, options: LoopOptions, *, held: int, unused: bool, steps: int) -> None:
        super().__init__(torch.nn.Linear(*SIDES), options, steps=steps)
        self.leaves_out = unused
        self.unused = torch.nn.Linear(*SIDES) if unused else None
        self.register_buffer("counts", torch.zeros(held, dtype=torch.int64), persistent=False)
        self.seen: list[list[int]] = []
        self.drawn: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=self.options.rate)

    def losses(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Losses:
        rows, numbers = batch
        self.seen.append(rows.tolist())
        self.drawn.append(float(torch.rand(1, generator=self.chances)))
        wanted = numbers[:, : SIDES[1]] ** 2
        return {"square": ((self.network(numbers) - wanted) ** 2).mean()}

    def begin_validation(self) -> None:
        self.counts.zero_()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.counts[batch[0]] += 1

    def validated(self) -> Mapping[str, float]:
        self.place.add(self.counts)
        return {"once": float((self.counts == 1).sum()), "all": float(self.counts.sum())}


class Numbers:
    """Batches of (rows, numbers) for one process."""

    def __init__(self, count: int, size: int, place: Place, *, shuffle: bool) -> None:
        self.order = EpochOrder(count, batch_size=size, shuffle=shuffle, rank=place.rank, ranks=place.ranks)
        self.numbers = torch.from_numpy(np.random.default_rng(5).normal(size=(count, SIDES[0])).astype(np.float32))

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        for rows in self.order:
            yield torch.tensor(rows), self.numbers[rows]


@dataclass(frozen=True)
class Learnt:
    """What came of a training, in every process."""

    trained: Trained
    weights: np.ndarray  # of this process
    seen: list[list[list[int]]]  # by rank and batch: rows
    drawn: list[list[float]]  # by rank and batch
    steps: list[int]  # by rank


def learn(
    place: Place, out: Path, *, size: int, held: int = 3, count: int = 24, unused: bool = False, **other: Any
) -> Learnt:
    """Trains a line into `out`, by batches of `size`."""
    given = {"ema": 0.0, "amp": "off", "rate": 0.1, "tensorboard": False, "size_hw": (64, 64), "epochs": 1}
    options = LoopOptions.model_validate(given | other | {"devices": place.ranks})
    made: list[Line] = []

    def make(steps: int) -> tuple[Line, Settings]:
        made.append(Line(options, held=held, unused=unused, steps=steps))
        return made[0], Settings()

    batches: list[Batches] = [Numbers(count, size, place, shuffle=True), Numbers(held, 2, place, shuffle=False)]
    work = Work(train=batches[0], valid=batches[1], best_by="once", labels=("line",), label_kind="lines")
    trained = train(options, work, out, make, place=place)
    (module,) = made
    return Learnt(
        trained,
        module.network.weight.detach().numpy().copy(),
        place.gathered(module.seen),
        place.gathered(module.drawn),
        place.gathered(module.step),
    )


@dataclass
class Trials:
    """Several trainings by the same processes, which take longer to start than to train; what rank 0 says of each."""

    out: Path

    def __call__(self, place: Place, *, on_epoch: OnEpoch | None, on_step: OnStep | None) -> dict[str, Any]:
        tensors = [torch.full((2, 3), float(place.rank)), torch.full((4,), place.rank)]
        place.share(tensors)
        counts = torch.tensor([1, 10]) * (place.rank + 1)
        place.add(counts)
        return {
            "said": (place.agreed(f"rank {place.rank}"), place.gathered(place.rank), counts.tolist()),
            "shared": place.gathered([each.tolist() for each in tensors]),
            "mean": place.mean(torch.tensor([1.0, float(place.rank)])).tolist(),
            "step": learn(place, self.out / "step", size=4, count=8),
            "epochs": learn(place, self.out / "epochs", size=4, epochs=2, accumulate=3, unused=True),
            "few": learn(place, self.out / "few", size=4, held=1),
            "time": learn(place, self.out / "time", size=4, epochs=100_000, max_time_s=1.0),
        }
