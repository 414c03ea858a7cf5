"""Results that are made once, kept while there is room for them, and shared between threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class _Slot(Generic[V]):
    """One result, or the place where it is being made."""

    __slots__ = ("group", "lock", "nbytes", "value")

    def __init__(self, group: Hashable) -> None:
        self.lock = Lock()  # held by the thread that makes the value
        self.group = group
        self.value: V | None = None
        self.nbytes = 0


class ByteCache(Generic[V]):
    """Values by key, bounded in bytes.

    Two threads never make the same value; different values are made in parallel. Where room is short, the values that
    were not used for longest go, but only those of other groups: one pass after another over a group that is larger
    than the cache would otherwise throw away each value just before it is needed. What finds no room is made for one
    use. Values that callers still hold are not counted.
    """

    def __init__(self, *, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._lock = Lock()  # guards what follows; never held while a value is made
        self._slots: OrderedDict[Hashable, _Slot[V]] = OrderedDict()
        self._used = 0

    @property
    def used_bytes(self) -> int:
        """The bytes of all values that are kept."""
        return self._used

    def get(self, key: Hashable, *, group: Hashable, make: Callable[[], V], nbytes: Callable[[V], int]) -> V:
        """The value of `key`: kept, awaited from the thread that makes it, or made here.

        `group`: what is used together; `nbytes` tells how many bytes a value takes. What `make` raises passes through,
        and the next caller tries again.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot(group))
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.value is None:
                slot.value = make()
                self._settle(key, slot, nbytes(slot.value))
            return slot.value

    def is_being_made(self, key: Hashable) -> bool:
        """Whether another thread is making the value of `key`: `get` would wait."""
        with self._lock:
            slot = self._slots.get(key)
            return slot is not None and slot.value is None and slot.lock.locked()

    def is_known(self, key: Hashable) -> bool:
        """Whether the value of `key` is kept or being made."""
        with self._lock:
            return key in self._slots

    def _settle(self, key: Hashable, slot: _Slot[V], nbytes: int) -> None:
        with self._lock:
            leaving, room = [], self._capacity - self._used
            for other_key, other in self._slots.items():
                if room >= nbytes:
                    break
                if other.group != slot.group and other.nbytes:
                    leaving.append(other_key)
                    room += other.nbytes
            if room < nbytes:
                del self._slots[key]
                return
            for other_key in leaving:
                self._used -= self._slots.pop(other_key).nbytes
            slot.nbytes = nbytes
            self._used += nbytes
