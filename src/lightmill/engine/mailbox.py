"""Between the threads that do the work and the driver that writes it down."""

import threading
from collections import deque
from dataclasses import dataclass

from lightmill.engine.journal import End
from lightmill.engine.work import Event


@dataclass(frozen=True)
class Found:
    """A streaming source came to an item that nobody had listed."""

    key: str
    position: int


class Mailbox:
    """Events on their way from the executor's threads to the journal.

    What is finished and not yet in the journal is done again after a kill: at most `most_ends` such items may wait,
    then the threads do. The driver is woken when half of them do, so that a transaction holds a few items, not one.
    """

    def __init__(self, most_ends: int) -> None:
        self._events: deque[Event | Found] = deque()  # append and popleft are atomic
        self._free = threading.Semaphore(most_ends)
        self._worth_waking = most_ends // 2
        self._ends = 0
        self._wake = threading.Event()
        self.closed = False

    def put(self, event: Event | Found) -> None:
        if isinstance(event, End):
            self._free.acquire()
            self._ends += 1  # only a hint: a lost update delays a commit by one tick
        self._events.append(event)
        if self._ends >= self._worth_waking:
            self._wake.set()

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._wake.set()

    def take(self, timeout_s: float) -> list[Event | Found]:
        """All that is there, after a while or as soon as it is worth a transaction."""
        self._wake.wait(timeout_s)
        self._wake.clear()
        self._ends = 0
        return [self._events.popleft() for _ in range(len(self._events))]

    def settle(self, ends: int) -> None:
        """So many ends are in the journal: as many more may come."""
        self._free.release(ends) if ends else None
