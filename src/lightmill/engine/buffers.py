"""Arrays whose memory is used again, and a limit on how much of it items may hold at once.

Fresh arrays of 88 MB are page-faulted in at every use, which costs more than decoding into them. `Buffers.take` hands
out arrays on memory that earlier items have given back; an array gives its memory back when its last view is dropped.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALL = 1 << 16  # below this a fresh array costs less than the bookkeeping


class _Lease:
    """Owns a block of pooled memory for as long as an array stands on it (numpy keeps it as the array's base)."""

    def __init__(self, pool: "Buffers", block: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pool = pool
        self._block = block
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.ctypes.data, False),
        }

    def __del__(self) -> None:
        self._pool._give_back(self._block)


class Buffers:
    """A pool of memory blocks, shared by all threads of a run. At most `keep_bytes` lie idle in it."""

    def __init__(self, *, keep_bytes: int = 1 << 30) -> None:
        self._idle: dict[int, list[NDArray[np.uint8]]] = {}
        self._idle_bytes = 0
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """A C-contiguous array with arbitrary contents; its memory returns to the pool with its last view."""
        wanted = np.dtype(dtype)
        size = prod(shape) * wanted.itemsize
        if size < _SMALL:
            return np.empty(shape, wanted)
        with self._lock:
            blocks = self._idle.get(size)
            block = blocks.pop() if blocks else None
            if block is not None:
                self._idle_bytes -= size
        if block is None:
            block = np.empty(size, np.uint8)
        return np.asarray(_Lease(self, block, shape, wanted))

    def _give_back(self, block: NDArray[np.uint8]) -> None:
        with self._lock:
            if self._idle_bytes + block.nbytes > self._keep_bytes:
                return
            self._idle.setdefault(block.nbytes, []).append(block)
            self._idle_bytes += block.nbytes

    @property
    def idle_bytes(self) -> int:
        """How much memory waits to be used again."""
        return self._idle_bytes


class MemoryBudget:
    """Admits work as long as what is at work stays below a limit; one piece of work always passes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount_bytes: int) -> Iterator[None]:
        """Wait until `amount_bytes` fit (or nothing else is held), and keep them for the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + amount_bytes <= self.limit_bytes)
            self._used += amount_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount_bytes
                self._changed.notify_all()


def nbytes(value: Any) -> int:
    """About how much memory a field's value takes: arrays, tensors, bytes, and containers of them."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return len(value)
    if isinstance(value, dict):
        return sum(nbytes(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(nbytes(part) for part in value)
    return int(getattr(value, "nbytes", 64))


def free_memory_bytes() -> int:
    """How much memory this process may still take: the system's, or its control group's where that is less."""
    free = [8 << 30]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
        limit = _read_number("/sys/fs/cgroup/memory.max")
        used = _read_number("/sys/fs/cgroup/memory.current")
        if limit is not None and used is not None:
            free.append(max(limit - used, 0))
    except (OSError, KeyError, ValueError):
        pass  # not Linux: the plain assumption above
    return min(free)


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
