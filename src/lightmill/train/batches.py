"""What is trained on, batch by batch; of an embedder, who is shown in them, and by what it is judged."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

Score: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64]], Mapping[str, float]]


class Batches(Protocol):
    """Batches of one epoch; a DataLoader.

    Where it, its sampler or its batch sampler has `set_epoch`, that is called with the number of the epoch, from 0,
    before each.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Loader(Batches, Protocol):
    """Batches of crops: uint8 [B, h, w, 3] (or [B, V, h, w, 3]) and int64 rows [B] (or [B, V])."""

    def __iter__(self) -> "Iterator[Batch]": ...


@dataclass(frozen=True, kw_only=True)
class ReidBatches:
    """What an embedder is trained on, and by what it is judged.

    `classes`: int64 [N], for each row of the training's data set who it is, as a place in `labels`; -1 for nobody (a
    negative). `moments`: int64 [N], one number for one player at one instant, -1 for none; for views that are to agree.

    `score` is called after each epoch with the embeddings [M, D] (float32, length 1) and the rows [M] of everything
    that `valid` gives, in its order, at once; of several processes in the first alone, with what the others saw behind
    that. `best` is chosen by the highest value of its `best_by`.
    """

    train: Loader
    classes: NDArray[np.int64]
    labels: tuple[str, ...]
    moments: NDArray[np.int64] | None = None
    valid: Loader | None = None
    score: Score | None = None
    best_by: str = "score"

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not belong together."""
        if (self.valid is None) != (self.score is None):
            raise ValueError("a validation needs both what to look at and a score")
        if len(self.classes) and not -1 <= int(self.classes.min()) <= int(self.classes.max()) < len(self.labels):
            raise ValueError(f"classes are places in the {len(self.labels)} labels, or -1")


class Epochs:
    """A loader as Lightning gets it: told the epoch when it begins, and ended after `limit` batches (0: all).

    It says that it has one batch where it has none: else Lightning would leave out what comes before and behind it,
    and other processes would wait for that.
    """

    def __init__(self, loader: Batches, epoch: Callable[[], int], *, limit: int) -> None:
        self._loader, self._epoch, self._limit = loader, epoch, limit

    def __len__(self) -> int:
        return max(limited(len(self._loader), self._limit), 1)

    def __iter__(self) -> Iterator[Any]:
        told: list[object] = []
        for part in (
            self._loader,
            getattr(self._loader, "sampler", None),
            getattr(self._loader, "batch_sampler", None),
        ):
            tell = getattr(part, "set_epoch", None)
            if tell is not None and not any(part is other for other in told):
                tell(self._epoch())
                told.append(part)
        yield from islice(self._loader, len(self))


def limited(length: int, limit: int) -> int:
    """How many batches an epoch has; a `limit` of 0 is none."""
    return min(length, limit) if limit else length
