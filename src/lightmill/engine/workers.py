"""What a run needs of whoever does its work: the threads of this process, or worker processes."""

from collections.abc import Iterable
from typing import Protocol

from lightmill.engine.batching import LearntSizes
from lightmill.engine.items import Item
from lightmill.engine.record import QueueFill, StageTime


class Workers(Protocol):
    """Takes items through a pipeline. What happens to them leaves as events."""

    fatal: BaseException | None  # why the run was stopped
    learnt: LearntSizes

    @property
    def threads(self) -> int:
        """CPU threads, of all processes together."""
        ...

    def run(self, items: Iterable[Item]) -> None:
        """Take all items through; returns when the last has ended, or the run was stopped. Check `fatal` afterwards."""
        ...

    def stop(self) -> None:
        """Take up nothing more; what is under way is finished. May be called by a signal handler."""
        ...

    def fail(self, error: BaseException) -> None:
        """Stop, because of an error that no item could escape."""
        ...

    def stage_times(self) -> list[StageTime]:
        """Busy time of every stage so far: over all threads for the CPU, a device's mean for a device."""
        ...

    def sample_queues(self) -> str | None:
        """The name of a queue that is full, if any. Called about ten times a second."""
        ...

    def queue_fills(self) -> list[QueueFill]:
        """How full the queues were, in the order of the pipeline."""
        ...

    @property
    def source_wait_share(self) -> float:
        """The share of the time that a thread was idle because the source had nothing ready."""
        ...

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that this process and its workers held: the sum of their peaks."""
        ...
