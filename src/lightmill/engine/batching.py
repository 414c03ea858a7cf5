"""How many items go to the device at once: out of memory is a size, not an end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lightmill.errors import ModelError

REGROW_AFTER = 8  # clean full batches before the next try at a larger one

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's (or the host's) memory did not suffice.

    torch's class is known by its name, so that nothing here has to import torch.
    """
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & {"torch.OutOfMemoryError", "builtins.MemoryError"})


def signature(values: Sequence[Any]) -> str:
    """Shapes and types of an item's fields: items of one signature may share a batch."""
    return " ".join(
        f"{getattr(value, 'dtype', type(value).__name__)}{list(getattr(value, 'shape', ()))}" for value in values
    )


@dataclass
class LearntSizes:
    """The batch size that is known to fit, by stage, shapes, types and device. Shrinks at once, grows back slowly."""

    sizes: dict[str, int] = field(default_factory=dict)
    _clean: dict[str, int] = field(default_factory=dict)

    def size(self, what: str, most: int) -> int:
        return min(self.sizes.get(what, most), most)

    def shrink(self, what: str, failed: int) -> int:
        """Half of what failed; remembered."""
        self.sizes[what] = max(failed // 2, 1)
        self._clean[what] = 0
        return self.sizes[what]

    def grow(self, what: str, done: int, most: int) -> None:
        """A batch of `done` items went well; after several full ones, a tenth more is tried."""
        if what not in self.sizes or done < self.sizes[what]:
            return
        self._clean[what] = self._clean.get(what, 0) + 1
        if self._clean[what] >= REGROW_AFTER:
            self._clean[what] = 0
            self.sizes[what] = min(self.sizes[what] + max(self.sizes[what] // 10, 1), most)


def run_in_batches(
    work: Callable[[list[T]], list[Any]],
    items: list[T],
    *,
    what: str,
    most: int,
    learnt: LearntSizes,
    free_memory: Callable[[], None],
    alone: Callable[[T], Any],
    failed: Callable[[T, BaseException], Any],
) -> list[Any]:
    """`work` over all items in batches that fit, one result an item, in order.

    Out of memory: leave the handler (its traceback keeps tensors alive), free, halve, retry the same items; at one
    item ask `alone` (the CPU). ModelError goes on to the caller: no item is to blame, and none would do better. Any
    other error of a batch: its items one by one; `failed` makes the result of each that fails.
    """
    results: list[Any] = []
    while len(results) < len(items):
        size = learnt.size(what, most)
        chunk = items[len(results) : len(results) + size]
        outcome, error = _attempt(work, chunk)
        if error is None:
            results += outcome
            learnt.grow(what, len(chunk), most)
        elif is_out_of_memory(error):
            del error
            free_memory()
            if len(chunk) > 1:
                learnt.shrink(what, len(chunk))
            else:
                results.append(_one(alone, chunk[0], failed))
        elif len(chunk) > 1:
            results += _one_by_one(work, chunk, free_memory, alone, failed)
        else:
            results.append(failed(chunk[0], error))
    return results


def _one_by_one(
    work: Callable[[list[T]], list[Any]],
    chunk: list[T],
    free_memory: Callable[[], None],
    alone: Callable[[T], Any],
    failed: Callable[[T, BaseException], Any],
) -> list[Any]:
    results = []
    for item in chunk:
        outcome, error = _attempt(work, [item])
        if error is None:
            results += outcome
        elif is_out_of_memory(error):
            del error
            free_memory()
            results.append(_one(alone, item, failed))
        else:
            results.append(failed(item, error))
    return results


def _one(alone: Callable[[T], Any], item: T, failed: Callable[[T, BaseException], Any]) -> Any:
    try:
        return alone(item)
    except Exception as error:  # noqa: BLE001 (one item fails alone, whatever its model raised)
        return failed(item, error)


def _attempt(work: Callable[[list[T]], list[Any]], chunk: list[T]) -> tuple[list[Any], BaseException | None]:
    """The results, or the error without its frames: those would keep the batch's tensors alive."""
    try:
        return work(chunk), None
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 (told apart by the caller: out of memory, or an item that cannot be done)
        return [], error.with_traceback(None)
