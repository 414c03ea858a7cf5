"""Duplicates: held against every pair looked at one by one."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightmill.ops.duplicates import Group, near_groups, pixel_digest, same_groups

Hashes = NDArray[np.uint64]


def noise(count: int, seed: int = 1) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def changed(word: int, bits: int, rng: np.random.Generator) -> int:
    for place in rng.choice(64, bits, replace=False):
        word ^= 1 << int(place)
    return word


def planted(count: int, copies: int, most: int, seed: int = 1) -> Hashes:
    """Random hashes, and some that differ by 0 to `most` bits from others."""
    rng, hashes = np.random.default_rng(seed), noise(count, seed)
    for _ in range(copies):
        source, target = rng.integers(0, count, 2)
        hashes[target] = changed(int(hashes[source]), int(rng.integers(0, most + 1)), rng)
    return hashes


def one_by_one(hashes: Hashes, distance: int) -> list[tuple[int, ...]]:
    """Groups of two or more, by walking from each hash to those near it."""
    words = [int(word) for word in hashes]
    near: dict[int, set[int]] = {place: set() for place in range(len(words))}
    for i, j in combinations(range(len(words)), 2):
        if (words[i] ^ words[j]).bit_count() <= distance:
            near[i].add(j)
            near[j].add(i)
    groups, seen = [], set[int]()
    for start in range(len(words)):
        if start in seen:
            continue
        group, ahead = {start}, [start]
        while ahead:
            ahead.extend(fresh := near[ahead.pop()] - group)
            group |= fresh
        seen |= group
        if len(group) > 1:
            groups.append(tuple(sorted(group)))
    return groups


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 7, 9, 12])
def test_all_near_ones_are_found(distance: int) -> None:
    hashes = planted(700, 300, 14, seed=distance)
    groups = near_groups(hashes, distance=distance)
    assert [group.members for group in groups] == one_by_one(hashes, distance)
    assert groups
    assert all(group.leader == group.members[0] for group in groups)


@pytest.mark.parametrize("bits", [3, 5])
def test_crowds_are_found(bits: int) -> None:
    """Hundreds about the same few hashes, among others: one group is built in many steps."""
    rng = np.random.default_rng(5)
    crowd = [changed(int(centre), bits, rng) for centre in noise(3) for _ in range(250)]
    hashes = rng.permutation(np.concatenate([np.array(crowd, np.uint64), noise(200)]))
    assert [group.members for group in near_groups(hashes)] == one_by_one(hashes, 6)


def test_crowds_beyond_what_is_compared_at_once() -> None:
    """One quarter for all, two halves far from each other: 4,000^2 pairs are too many for one step."""
    rng = np.random.default_rng(6)
    low = rng.integers(0, 2**16, 2000, dtype=np.uint64)
    hashes = np.unique(np.concatenate([low, low | np.uint64(0xFFFF << 32)]))
    side = hashes >= 1 << 32
    # 16 bits that are dense enough to be one group each, and 16 bits apart from the other
    groups = near_groups(rng.permutation(hashes), distance=6)
    assert sorted(len(group.members) for group in groups) == sorted([int(side.sum()), int((~side).sum())])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 7))
def test_order_does_not_matter(words: list[int], distance: int) -> None:
    hashes = np.array(words + [word ^ 0b101 for word in words], np.uint64)
    groups = {
        frozenset(int(hashes[place]) for place in group.members) for group in near_groups(hashes, distance=distance)
    }
    back = hashes[::-1].copy()
    turned = {frozenset(int(back[place]) for place in group.members) for group in near_groups(back, distance=distance)}
    assert groups == turned
    assert [group.members for group in near_groups(hashes, distance=distance)] == one_by_one(hashes, distance)


def test_the_leader_has_the_highest_priority() -> None:
    hashes = [7, 2**63, 7, 6, 2**63 + 1, 0xFFFF]
    assert near_groups(hashes, distance=1, priority=[1, 5, 3, 3, 9, 100]) == [
        Group(leader=2, members=(0, 2, 3)),
        Group(leader=4, members=(1, 4)),
    ]
    assert same_groups([*"abcab"], priority=[0, 0, 0, 0, 1]) == [Group(0, (0, 3)), Group(4, (1, 4))]
    assert same_groups([]) == near_groups([]) == near_groups([5]) == []
    with pytest.raises(ValueError, match="there are 2 pictures and 3 priorities"):
        same_groups("ab", priority=[1, 2, 3])


@pytest.mark.parametrize("distance", [-1, 16])
def test_distances_that_cannot_be_looked_up(distance: int) -> None:
    with pytest.raises(ValueError, match=f"a distance is 0 to 15 bits of 64, got {distance}"):
        near_groups([1, 2], distance=distance)


def test_without_numpys_own_counting_of_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = planted(500, 200, 8)
    groups = near_groups(hashes)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_groups(hashes) == groups


@pytest.mark.slow
def test_100_000_are_looked_up_in_seconds() -> None:
    hashes = planted(100_000, 20_000, 6)
    begin = time.process_time()
    groups = near_groups(hashes)
    assert time.process_time() - begin < 10
    assert len(groups) > 10_000


def test_digests_are_of_levels_and_shape() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    alpha = np.full((2, 4), 255, np.uint8)
    other = pixels.copy()
    other[1, 2, 0] ^= 1
    variants = [
        (pixels, None),
        (other, None),
        (pixels.reshape(4, 2, 3), None),
        (pixels.reshape(8, 3), None),
        (pixels, alpha),
        (pixels, alpha - np.uint8(1)),
    ]
    assert len({pixel_digest(*variant) for variant in variants}) == len(variants)
    assert pixel_digest(np.asfortranarray(pixels)) == pixel_digest(pixels)
    assert len(pixel_digest(pixels)) == 32
