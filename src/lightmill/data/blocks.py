"""Places for batches in memory that workers share with the training process, used again and again.

torch moves what a worker made through new shared memory, batch for batch. New memory costs a page fault every 4 KiB and
is cleared before it is written; for small crops at 256 x 128 that was met to take as long as decoding them. Here the
worker writes into a place that was used before, and sends its number. Nothing is copied.
"""

import itertools
import math
import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_open: "weakref.WeakValueDictionary[int, SharedBlocks]" = weakref.WeakValueDictionary()  # of this process, by number
_numbers = itertools.count()


class SharedBlocks:
    """`each` places for every worker, of `length` bytes. A place is taken by its worker, and given back by the garbage
    collector of the process that made this: when the last tensor that looks at it is gone, views of it included.

    Each flag is raised by one process alone and lowered by one other alone, so there are no locks; a worker that finds
    no free place uses memory of its own, and torch moves that as ever.
    """

    def __init__(self, *, workers: int, each: int, length: int) -> None:
        import torch

        self.each = each
        self._places = torch.empty((workers * each, length), dtype=torch.uint8)
        self._taken = torch.zeros(workers * each, dtype=torch.uint8)
        for shared in (self._places, self._taken):
            shared.share_memory_()  # type: ignore[no-untyped-call] # torch leaves this one without types
        self.number = next(_numbers)
        _open[self.number] = self

    @classmethod
    def if_room(cls, *, workers: int, each: int, length: int) -> "SharedBlocks | None":
        """None where shared memory has too little room, as in containers that were given 64 MB of it."""
        with suppress(OSError):  # where there is no such folder, shared memory is elsewhere
            found = os.statvfs("/dev/shm")
            if workers * each * length > found.f_bavail * found.f_frsize / 2:
                return None
        return cls(workers=workers, each=each, length=length)

    def take(self, worker: int, shape: tuple[int, ...]) -> "Place | None":
        """In a worker: a free place for a batch of this shape; None where there is none, or it is too large."""
        length = math.prod(shape)
        first = worker * self.each
        free = np.flatnonzero(self._taken.numpy()[first : first + self.each] == 0)
        if not len(free) or length > self._places.shape[1]:
            return None
        at = first + int(free[0])
        self._taken[at] = 1
        return Place(self.number, at, self._places[at, :length].view(shape))

    def arrived(self, at: int, shape: tuple[int, ...]) -> "torch.Tensor":
        """In the process that made this: the batch at a place, which is free again when nobody holds it any more."""
        import torch

        view: NDArray[np.uint8] = self._places[at].numpy()[: math.prod(shape)].reshape(shape)
        tensor = torch.from_numpy(view)  # its memory holds `view`, and so does that of every tensor made of it
        weakref.finalize(view, self._give_back, at).atexit = False
        return tensor

    def _give_back(self, at: int) -> None:
        self._taken[at] = 0


class Place(NamedTuple):
    """A place that a worker writes a batch into."""

    number: int  # of the blocks, in the process that made them
    at: int
    tensor: "torch.Tensor"


class Sent:
    """A batch on its way out of a worker. Unpickled it is (pixels, rows), both tensors; the rows travel with it."""

    def __init__(self, place: Place, rows: NDArray[np.int64]) -> None:
        self.place = place
        self.rows = rows

    def __reduce__(self) -> tuple[object, ...]:
        return _arrive, (self.place.number, self.place.at, tuple(self.place.tensor.shape), self.rows)


def _arrive(
    number: int, at: int, shape: tuple[int, ...], rows: NDArray[np.int64]
) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    return _open[number].arrived(at, shape), torch.from_numpy(rows)
