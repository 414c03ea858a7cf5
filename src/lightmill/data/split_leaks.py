"""What is on two sides of splits and should not be: equal files, pictures that are nearly the same, groups.

Beside `leaks`, which looks for what boxes of players can share; the hashes and their search are the same.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.data.file_list import Files
from lightmill.ops.duplicates import Group, near_groups, same_groups

Kind: TypeAlias = Literal["same file", "near picture", "group"]
Small: TypeAlias = NDArray[np.uint8]

BITS = 6  # of 64, by which the hashes of near pictures differ
LEVELS = 4.0  # by which their small copies differ on average
_END_BYTES = 4096  # of a file: another picture of the same size has others there
_ORDER = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SplitLeak:
    """One row that another split answers for."""

    kind: Kind
    row: int  # of the later split: val, say
    other: int  # of the earlier: train
    share: str = ""  # what they share, of a group its name


def equal_files(digests: Sequence[str], splits: Sequence[str]) -> list[SplitLeak]:
    """Rows whose file is one of another split. digests: [N] of the bytes, "" where they are not known.

    >>> equal_files(["a", "b", "a", "a"], ["val", "train", "train", "val"])
    [SplitLeak(kind='same file', row=0, other=2, share=''), SplitLeak(kind='same file', row=3, other=2, share='')]
    """
    rows = [row for row, digest in enumerate(digests) if digest and splits[row]]
    groups = same_groups([digests[row] for row in rows])
    return [
        SplitLeak("same file", later, earlier[0])
        for group in groups
        for later, earlier in _across([rows[member] for member in group.members], splits)
    ]


def shared_files(pictures: Files, sizes: ArrayLike, *, train: Sequence[int], val: Sequence[int]) -> list[SplitLeak]:
    """Rows of `val` whose file is one of `train`, byte for byte. sizes: [N] bytes of the files of all rows.

    Files of a size that only one side has are not opened, and only those with equal ends are read whole, so it takes
    microseconds a picture where decoding takes milliseconds. What cannot be read is no leak.
    """
    sides = dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    keys = dict(zip(sides, map(str, np.asarray(sizes)[list(sides)].tolist()), strict=True))
    for most in (_END_BYTES, None):
        both = set.intersection(*({keys[row] for row in side if row in keys} for side in (train, val)))
        keys = {row: _digest(pictures.path(row), last=most) for row, key in keys.items() if key in both}
    rows = list(keys)
    found = equal_files([keys[row] for row in rows], [sides[row] for row in rows])
    return [SplitLeak(leak.kind, rows[leak.row], rows[leak.other]) for leak in found]


def _digest(path: str, *, last: int | None) -> str:
    """Of the last so many bytes of a file, or of all; "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if last is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last))
            return blake2b(file.read(), digest_size=16).hexdigest()
    except OSError:
        return ""


def shared_groups(groups: Sequence[str], splits: Sequence[str]) -> list[SplitLeak]:
    """Rows of a group that another split has, too. groups: [N], "" for none."""
    rows = [row for row, group in enumerate(groups) if group and splits[row]]
    found = same_groups([groups[row] for row in rows])
    return [
        SplitLeak("group", later, earlier[0], groups[later])
        for group in found
        for later, earlier in _across([rows[member] for member in group.members], splits)
    ]


def near_pictures(
    hashes: ArrayLike, rows: Sequence[int], splits: Sequence[str], *, small: Callable[[int], Small | None]
) -> list[SplitLeak]:
    """Rows that are nearly the same as one of another split: hashes within 6 bits, and small copies that agree.

    hashes: [R] uint64, perceptual ones of `rows`, in their order. small: a row -> [h, w, 3] uint8, one size for all, or
    None where it cannot be had; asked only for rows whose hashes are near.
    """
    words = np.asarray(hashes, np.uint64)
    places = [place for place, row in enumerate(rows) if splits[row]]
    word_of = {rows[place]: words[place] for place in places}
    copies: dict[int, NDArray[np.int16] | None] = {}

    def copy(row: int) -> NDArray[np.int16] | None:
        if row not in copies:
            found = small(row)
            copies[row] = None if found is None else found.astype(np.int16)
        return copies[row]

    leaks = []
    for group in _near([words[place] for place in places]):
        copies.clear()
        members = [rows[places[member]] for member in group.members]
        for later, earlier in _across(members, splits):
            near = _by_nearness(word_of[later], earlier, word_of)
            twin = next((other for other in near if _agree(copy(later), copy(other))), None)
            if twin is not None:
                leaks.append(SplitLeak("near picture", later, twin))
    return leaks


def _near(words: Sequence[np.uint64]) -> list[Group]:
    return near_groups(words, distance=BITS) if words else []


def _across(members: Sequence[int], splits: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """(a row, all rows of splits before its own) for those that have any: train comes before val before test."""
    sides: dict[str, list[int]] = {}
    for row in members:
        sides.setdefault(splits[row], []).append(row)
    earlier: list[int] = []
    for split in sorted(sides, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        if earlier:
            yield from ((row, earlier) for row in sides[split])
        earlier = earlier + sides[split]


def _by_nearness(word: np.uint64, others: Sequence[int], word_of: dict[int, np.uint64]) -> list[int]:
    """Those within BITS, the nearest first."""
    differing = np.array([word_of[row] for row in others], np.uint64) ^ word
    bits = np.unpackbits(differing.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
    order = np.argsort(bits, kind="stable")
    return [others[place] for place in order[bits[order] <= BITS].tolist()]


def _agree(one: NDArray[np.int16] | None, other: NDArray[np.int16] | None) -> bool:
    return one is not None and other is not None and bool(np.abs(one - other).mean() <= LEVELS)
