"""Where a process stands among those that train together, and what they tell each other.

Alone, a process talks to nobody: all of this gives back what it got.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Rank `rank`, from 0, of `ranks` processes. What they tell each other, all of them must call, in one order."""

    rank: int = 0
    ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the process that writes, and decides."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.ranks == 1

    def agreed(self, value: T) -> T:
        """What the first process says, in all of them. Pickled, so small and plain."""
        if self.is_alone:
            return value
        import torch.distributed as dist

        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def gathered(self, value: T) -> list[T]:
        """What each process says, by rank, in all of them. Pickled."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        said = [value] * self.ranks
        dist.all_gather_object(said, value)
        return said

    def add(self, counts: "torch.Tensor") -> None:
        """Counts of all processes in the place of one's own, in all of them."""
        if not self.is_alone:
            import torch.distributed as dist

            dist.all_reduce(counts)

    def mean(self, values: "torch.Tensor") -> "torch.Tensor":
        """The mean over processes, worked out in float64, in the type that it had."""
        if self.is_alone:
            return values
        together = values.detach().cpu().double()
        self.add(together)
        return (together / self.ranks).to(values.dtype)

    def share(self, tensors: "Iterable[torch.Tensor]") -> None:
        """Tensors as the first process has them, in all of them; in place. By one message for each type of number."""
        if self.is_alone:
            return
        import torch
        import torch.distributed as dist

        by_kind: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for alike in by_kind.values():
            together = torch.cat([each.reshape(-1) for each in alike])
            dist.broadcast(together, src=0)
            at = 0
            for each in alike:
                each.copy_(together[at : at + each.numel()].view(each.shape))
                at += each.numel()


ALONE = Place()
