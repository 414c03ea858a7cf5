"""Pictures that are there twice: the same to the pixel, or nearly the same by their perceptual hashes.

Near ones are looked up by multi-index hashing (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with
Multi-Index Hashing", 2012): of two hashes within d bits of each other, one of four quarters differs by d / 4 bits or
fewer, so only hashes that share such a quarter are compared.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Hashes: TypeAlias = NDArray[np.uint64]
Pairs: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]

NEAR = 6  # of 64 bits
_QUARTERS, _QUARTER_BITS = 4, 16
_KEYS = 1 << _QUARTER_BITS
_FARTHEST = 15  # beyond, too many quarters are near each other
_AT_ONCE = 1 << 21  # pairs that are compared at a time: about 100 MB
_BITS_OF_BYTE = np.array([byte.bit_count() for byte in range(256)], np.uint8)
_FEW = 1 << 19  # pairs that are compared sooner than it is found out which are of one group already


@dataclass(frozen=True, slots=True)
class Group:
    """Two pictures or more that are the same, by their places in what was given."""

    leader: int  # the one to keep
    members: tuple[int, ...]  # all of them, in order


def pixel_digest(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None) -> str:
    """32 hex digits that two pictures share only if their shape and every level are the same: BLAKE2b of 128 bits.

    pixels: uint8 [H, W, ...], upright sRGB; alpha: uint8 [H, W].
    """
    digest = blake2b(digest_size=16)
    for levels in (pixels, alpha):
        if levels is not None:
            digest.update(repr(levels.shape).encode())
            digest.update(np.ascontiguousarray(levels).data)
    return digest.hexdigest()


def same_groups(keys: Sequence[Hashable], *, priority: ArrayLike | None = None) -> list[Group]:
    """Groups of equal keys, such as digests; in order of their first members.

    priority: [N] numbers; the leader is the member with the highest, of equals the first. Without, the first leads.

    >>> same_groups(["a", "b", "a", "c", "b"], priority=[1, 1, 2, 1, 1])
    [Group(leader=2, members=(0, 2)), Group(leader=1, members=(1, 4))]
    """
    first: dict[Hashable, int] = {}
    labels = np.array([first.setdefault(key, place) for place, key in enumerate(keys)], np.intp)
    return _groups(labels, priority)


def near_groups(hashes: ArrayLike, *, distance: int = NEAR, priority: ArrayLike | None = None) -> list[Group]:
    """Groups of 64-bit hashes, each within `distance` bits of another of its group; equal ones included.

    hashes: [N] whole numbers from 0 to 2^64 - 1. Nearness is passed on: the ends of a group may lie farther apart.
    `priority` and order as in `same_groups`. Memory is bounded by N and a constant. Of 100,000 hashes and 6 bits, a
    thousandth of all pairs is compared; it is more where many hashes share a quarter and are of different groups.

    Raises ValueError for a distance above 15, where there is no quick way.
    """
    if not 0 <= distance <= _FARTHEST:
        raise ValueError(f"a distance is 0 to {_FARTHEST} bits of 64, got {distance}")
    unique, place = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    search = _Search(unique, distance)
    for quarter in range(_QUARTERS):
        keys = ((unique >> np.uint64(quarter * _QUARTER_BITS)) & np.uint64(_KEYS - 1)).astype(np.intp)
        search.join_by(keys)
    return _groups(search.labels[place], priority)


class _Search:
    """Joins hashes that are near each other. A group's label is the lowest place of its members."""

    def __init__(self, hashes: Hashes, distance: int) -> None:
        self.labels = np.arange(len(hashes))
        self._hashes = hashes
        self._distance = distance

    def join_by(self, keys: NDArray[np.intp]) -> None:
        """Joins those whose keys, a quarter of their bits, are near enough."""
        order = _Order(keys, self.labels)
        for flips in _flips(self._distance // _QUARTERS):
            rows = np.flatnonzero(keys <= keys ^ flips)
            while len(rows):
                taken, one, other = order.next_pairs(rows, flips)
                self._join(one, other)
                rows = rows[taken:]
                if len(rows):  # many: what is one group by now need not be compared any more
                    order = _Order(keys, self.labels)

    def _join(self, one: NDArray[np.intp], other: NDArray[np.intp]) -> None:
        near = _differing_bits(self._hashes[one] ^ self._hashes[other]) <= self._distance
        one, other = self.labels[one[near]], self.labels[other[near]]
        while (new := one != other).any():  # at the least every second label of a group is gone after each round
            one, other = one[new], other[new]
            label = np.arange(len(self.labels))
            np.minimum.at(label, np.maximum(one, other), np.minimum(one, other))
            while (label != (further := label[label])).any():
                label = further
            self.labels, one, other = label[self.labels], label[one], label[other]


class _Order:
    """Places sorted by key, and by label among those of one key: pairs are looked up by slices."""

    def __init__(self, keys: NDArray[np.intp], labels: NDArray[np.intp]) -> None:
        self._keys, self._labels = keys, labels
        codes = keys * len(keys) + labels
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]
        self._begins = np.searchsorted(self._codes, np.arange(_KEYS + 1) * len(keys))

    def next_pairs(self, rows: NDArray[np.intp], flips: int) -> tuple[int, NDArray[np.intp], NDArray[np.intp]]:
        """(how many rows are done, one, other): the first rows, with all of other labels whose keys differ by `flips`.

        About `_AT_ONCE` pairs at most, but one row at the least.
        """
        keys = self._keys[rows] ^ flips
        first, last = self._begins[keys], self._begins[keys + 1]
        mine = beyond = last
        if (last - first).sum() > _FEW:  # leave out those of its own label, from `mine` to `beyond`
            own = keys * len(self._keys) + self._labels[rows]
            mine, beyond = (np.searchsorted(self._codes, own, side=side) for side in ("left", "right"))
        counts = (mine - first) + (last - beyond)
        taken = max(1, int(np.searchsorted(counts.cumsum(), _AT_ONCE, side="right")))
        before = self._slices(rows[:taken], first[:taken], mine[:taken])
        behind = self._slices(rows[:taken], beyond[:taken], last[:taken])
        return taken, np.concatenate([before[0], behind[0]]), np.concatenate([before[1], behind[1]])

    def _slices(self, rows: NDArray[np.intp], first: NDArray[np.intp], last: NDArray[np.intp]) -> Pairs:
        counts = last - first
        step = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        return np.repeat(rows, counts), self._order[np.repeat(first, counts) + step]


def _flips(bits: int) -> Iterator[int]:
    """Every number of 16 bits of which at most `bits` are 1."""
    for count in range(bits + 1):
        for places in combinations(range(_QUARTER_BITS), count):
            yield sum(1 << place for place in places)


def _differing_bits(words: Hashes) -> NDArray[np.uint8]:
    """How many bits are 1 in each uint64."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(words), np.uint8)
    bytes_of = words.view(np.uint8).reshape(-1, 8)
    return np.asarray(_BITS_OF_BYTE[bytes_of].sum(axis=1), np.uint8)


def _groups(labels: NDArray[np.intp], priority: ArrayLike | None) -> list[Group]:
    """Of places with equal labels, two or more."""
    order = np.argsort(labels, kind="stable")
    weights = np.zeros(len(labels)) if priority is None else np.asarray(priority, np.float64)
    if weights.shape != labels.shape:
        raise ValueError(f"there are {len(labels)} pictures and {weights.size} priorities")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    groups = [Group(int(part[weights[part].argmax()]), tuple(part.tolist())) for part in parts if len(part) > 1]
    return sorted(groups, key=lambda group: group.members)
