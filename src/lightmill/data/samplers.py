"""Batches of P identities with K samples each, and what else a batch of training is made of.

pytorch-metric-learning's MPerClassSampler draws the identities of each batch at random from a generator of the whole
process: some of them are not seen for epochs, equal seeds give no equal order, and it knows no groups. So this is a
batch sampler of our own.
"""

import itertools
from collections.abc import Iterator, Sequence
from copy import copy
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.errors import UsageError

Codes: TypeAlias = NDArray[np.int64]


class IdentitySampler:
    """Batches of exactly `identities` x `samples` indices, each identity's side by side, then `negatives` others.

    In every epoch every identity is seen, all of them about equally often. An identity's samples are dealt like cards:
    none comes again before all have come, and none twice in a batch unless the identity has fewer than `samples`.
    Every epoch has an order of its own, given by the seed and the epoch alone. For torch's DataLoader, as
    `batch_sampler`; Lightning sets the epoch by itself.
    """

    def __init__(
        self,
        labels: ArrayLike,
        *,
        identities: int,
        samples: int,
        spread: ArrayLike | None = None,
        within: ArrayLike | None = None,
        pool: ArrayLike = (),
        negatives: int = 0,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        """`labels`: of each sample who it is, any whole number; below 0 for nobody, who is in no batch.

        `spread` (of each sample, any value): the samples of an identity come from as many of these as there are, and
        as evenly, as with the view, or the group. `within` (likewise): the identities of a batch, and their samples,
        come from one of these where it has enough of them, so that they are compared under one light; what is missing
        is filled up from others. `pool`: indices of which every batch gets `negatives`, dealt likewise.
        `batches` per epoch: None for as many as it takes to deal every sample once, were all identities alike.

        Raises UsageError where there are fewer than P identities, no samples to a batch, or an empty pool to draw from.
        """
        self._labels = np.asarray(labels, np.int64).reshape(-1)
        known = np.flatnonzero(self._labels >= 0)
        self._pool = np.asarray(pool, np.int64).reshape(-1)
        self.identities, self.samples, self.negatives = identities, samples, negatives
        self.seed, self.epoch = seed, 0
        names, who = np.unique(self._labels[known], return_inverse=True)
        self._check(len(names))
        self._hands = _Hands(known, who, self._codes(within, known), self._codes(spread, known))
        self._batches = self._enough(len(names), len(known), batches)  # of all processes
        self._rank, self._ranks = 0, 1

    @property
    def batch_size(self) -> int:
        """How many indices every batch has."""
        return self.identities * self.samples + self.negatives

    @property
    def sampler(self) -> "IdentitySampler":
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Which order the next pass has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches // self._ranks

    def of_rank(self, rank: int, ranks: int) -> "IdentitySampler":
        """The part of one of several processes that train together: every so many-th batch, all have equally many.

        Up to `ranks` - 1 batches more are dealt than for one process, so that all identities are still seen.
        """
        own = copy(self)
        own._rank, own._ranks, own._batches = rank, ranks, -(-self._batches // ranks) * ranks
        return own

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self._dealt(), self._rank, None, self._ranks)

    def _dealt(self) -> Iterator[list[int]]:
        """The batches of all processes."""
        rng = np.random.default_rng([self.seed, self.epoch])
        decks = _Decks(rng)
        identities, groups = self._hands.present.shape
        seen, visited = np.zeros(identities, np.int64), np.zeros(groups, np.int64)
        for left in range(self._batches, 0, -1):
            group = int(np.lexsort((rng.random(groups), visited))[0])
            visited[group] += 1
            chosen = self._choose(group, seen, left, rng)
            seen[chosen] += 1
            batch = [index for who in chosen.tolist() for index in self._hand(who, group, decks)]
            yield batch + decks.deal("pool", self._pool, self.negatives)

    def _choose(self, group: int, seen: Codes, left: int, rng: np.random.Generator) -> Codes:
        """[P] identities: those of the group first, of those the least seen.

        So many that nobody has seen yet are put among them that the batches which are left can hold the others.
        """
        order = np.lexsort((rng.random(len(seen)), seen, ~self._hands.present[:, group]))
        chosen, rest = order[: self.identities], order[self.identities :]
        owed = np.count_nonzero(seen == 0) - (left - 1) * self.identities
        missing = max(0, int(owed - np.count_nonzero(seen[chosen] == 0)))
        fresh = rest[seen[rest] == 0][:missing]
        kept = chosen[np.argsort(seen[chosen], kind="stable")][: self.identities - len(fresh)]
        return np.concatenate([kept, fresh])

    def _hand(self, who: int, group: int, decks: "_Decks") -> list[int]:
        """K samples of an identity: those of the group, then of its other groups, then some of them again."""
        found = self._deal(who, group, self.samples, decks)
        if len(found) == self.samples:
            return found
        groups = np.flatnonzero(self._hands.present[who])
        for other in decks.rng.permutation(groups[groups != group]).tolist():
            found += self._deal(who, other, self.samples - len(found), decks)
        again = itertools.cycle(decks.rng.permutation(found).tolist())
        return found + list(itertools.islice(again, self.samples - len(found)))

    def _deal(self, who: int, group: int, count: int, decks: "_Decks") -> list[int]:
        """Up to `count` samples of an identity in a group, from as many cells as there are, as evenly as can be."""
        cells = self._hands.cells.get((who, group), [])
        shares = _even_shares([len(cell) for cell in cells], count, decks.rng)
        return [
            index
            for number, (cell, share) in enumerate(zip(cells, shares, strict=True))
            for index in decks.deal((who, group, number), cell, share)
        ]

    def _check(self, names: int) -> None:
        if self.identities < 1 or self.samples < 1 or self.negatives < 0:
            raise UsageError(
                f"a batch has 1 or more identities with 1 or more samples each, got {self.identities} x {self.samples}"
                f" and {self.negatives} negatives"
            )
        if names < self.identities:
            raise UsageError(
                f"a batch of {self.identities} identities needs as many, and there are {names}; ask for fewer"
            )
        if self.negatives and not len(self._pool):
            raise UsageError(f"{self.negatives} negatives a batch are asked for, and there are none; ask for 0")

    def _enough(self, names: int, known: int, batches: int | None) -> int:
        least = -(-names // self.identities)
        if batches is None:
            return max(least, -(-known // (self.identities * self.samples)))
        if batches < least:
            raise UsageError(f"{batches} batches of {self.identities} identities cannot show all {names} of them")
        return batches

    def _codes(self, values: ArrayLike | None, known: Codes) -> Codes:
        """Of each known sample which of the values it has, counted from 0."""
        if values is None:
            return np.zeros(len(known), np.int64)
        given = np.asarray(values)
        if given.shape != self._labels.shape:
            raise ValueError(f"there are {len(self._labels)} labels, and values of shape {given.shape} to go by")
        return np.unique(given[known], return_inverse=True)[1].astype(np.int64)


class _Hands:
    """The samples of each identity, by group and cell."""

    def __init__(self, known: Codes, who: Codes, group: Codes, cell: Codes) -> None:
        self.present = np.zeros((who.max(initial=-1) + 1, group.max(initial=-1) + 1), np.bool_)  # [identity, group]
        self.present[who, group] = True
        self.cells: dict[tuple[int, int], list[Codes]] = {}
        order = np.lexsort((cell, group, who))
        keys = np.stack([who, group, cell], axis=1)[order]
        cuts = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
        for first, members in zip([0, *cuts.tolist()], np.split(known[order], cuts), strict=True):
            self.cells.setdefault((int(keys[first, 0]), int(keys[first, 1])), []).append(members)


class _Decks:
    """Cards that are dealt in random order, all of a deck before any comes again."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._left: dict[object, list[int]] = {}

    def deal(self, name: object, cards: Codes, count: int) -> list[int]:
        """`count` cards, each once where there are as many."""
        left = self._left.get(name, [])
        while len(left) < count:
            fresh = self.rng.permutation(cards).tolist()
            held = set(left)  # in this hand already: they go below the others
            left = left + [card for card in fresh if card not in held] + [card for card in fresh if card in held]
        self._left[name] = left[count:]
        return left[:count]


def _even_shares(sizes: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """How many to take of each, in all `count` or all there are: one of each in turn, in a random order."""
    if len(sizes) == 1:
        return [min(count, sizes[0])]
    shares = [0] * len(sizes)
    order = rng.permutation(len(sizes)).tolist()
    while count > 0 and (open_ := [number for number in order if shares[number] < sizes[number]]):
        for number in open_[:count]:
            shares[number] += 1
        count -= len(open_)
    return shares
