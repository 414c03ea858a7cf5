"""Random numbers that depend on what they are for, and not on what was drawn before them.

A stream begins at a hash of its key (BLAKE2b). Its n-th number is computed without those before it: SplitMix64 (Steele,
Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014) is a mixed counter. So thousands of streams are
drawn from at once, and each gives what it gives alone.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Bits: TypeAlias = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Streams:
    """Uniform numbers, each a function of its stream's start, the slot, the try and its place alone.

    starts [S] uint64; slot [S] whole numbers from 0 to 2^32 - 1, which tell streams of one start apart.
    """

    def __init__(self, starts: Bits, slot: Indices) -> None:
        self._starts, self._slot = starts, slot.astype(np.uint64) << np.uint64(32)

    def uniform(self, which: Indices, number: int, count: int) -> Floats:
        """[count, len(which)] in [0, 1), of 53 bits, for the try of that number, of some streams; count up to 255."""
        at = self._slot[which] + np.uint64(number << 8)
        places = np.arange(1, count + 1, dtype=np.uint64)[:, None]
        words = mixed(self._starts[which] + (at + places) * _GOLDEN)
        return np.asarray((words >> np.uint64(11)) * 2.0**-53)


def starts_of(keys: Sequence[str], purpose: str, seed: int) -> Bits:
    """[len(keys)] where the stream of each key begins, for one purpose of several."""
    place = f"{purpose}\0{seed}\0".encode()
    digests = (blake2b(place + key.encode("utf-8", "surrogateescape"), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def fingerprints(rows: Floats) -> Bits:
    """[N] a hash of the numbers of each row of [N, K]; equal rows have equal ones."""
    words = (rows + 0.0).view(np.uint64)  # 0.0 and -0.0 are one
    found = np.zeros(len(rows), np.uint64)
    for column in range(rows.shape[1]):
        found = mixed((found ^ words[:, column]) + _GOLDEN)
    return found


def mixed(words: Bits) -> Bits:
    """The finalizer of SplitMix64.

    >>> hex(mixed(np.array([0x9E3779B97F4A7C15], np.uint64))[0])  # the first number of seed 0
    '0xe220a8397b1dcdaf'
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
