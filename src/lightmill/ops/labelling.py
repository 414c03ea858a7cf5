"""Labels for things of which some must not have the same: the best that can be given to all of them together.

Things that are in a group must have labels of their own. Without groups that overlap this is an assignment, which the
Hungarian method solves. With them (a long tracklet meets one that ends, and later one that begins) it is no more: what
is then solved is the whole-number program that says just this, by branch and bound on its linear relaxation (HiGHS,
Huangfu and Hall, "Parallelizing the dual revised simplex method", 2018). For groups that follow each other in time the
relaxation has whole numbers nearly always, so that this is quick.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.assignment import best_pairs, scipy_optimize

Places: TypeAlias = NDArray[np.intp]

_MOST_NODES = 2000  # of the tree that is searched; then the best that was found is taken


def give_labels(gain: ArrayLike, *, groups: Iterable[ArrayLike]) -> Places:
    """[T] labels from 0 to L − 1, or −1 for none, with the greatest sum of gains.

    gain: [T, L]; only what is above 0 is given. groups: lists of things that must not have the same label, of any
    number and order. No two things of a group ever have the same. The sum is the greatest there is, unless the search
    was given up after 2000 nodes: then it is at least that of giving out the greatest gains first.

    >>> give_labels([[5, 4], [9, 1], [3, 2]], groups=[[0, 1], [1, 2]])
    array([1, 0, 1])

    Raises MissingExtra without scipy.
    """
    worth = np.asarray(gain, np.float64)
    label = np.full(len(worth), -1, np.intp)
    for members, cliques in _components(len(worth), groups):
        if len(cliques) <= 1:
            own, given = best_pairs(worth[members])
            label[members[own]] = given
        else:
            label[members] = _program(worth[members], [np.searchsorted(members, clique) for clique in cliques])
    return label


def _components(count: int, groups: Iterable[ArrayLike]) -> list[tuple[Places, list[Places]]]:
    """Things that have to do with each other, directly or not, sorted; and their groups, none within another."""
    leader = list(range(count))

    def found(one: int) -> int:
        while leader[one] != one:
            leader[one] = one = leader[leader[one]]
        return one

    distinct = {tuple(np.unique(np.asarray(group, np.intp)).tolist()) for group in groups}
    for group in distinct:
        for other in group[1:]:
            first, second = sorted((found(group[0]), found(other)))
            leader[second] = first
    cliques: dict[int, list[tuple[int, ...]]] = {}
    for group in sorted(distinct):
        if group:
            cliques.setdefault(found(group[0]), []).append(group)
    members = sorted(range(count), key=lambda one: (found(one), one))
    return [
        (np.array(list(own), np.intp), [np.array(clique, np.intp) for clique in _widest(cliques.get(which, []))])
        for which, own in groupby(members, key=found)
    ]


def _widest(groups: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those that are not part of another."""
    kept: list[tuple[int, ...]] = []
    of: dict[int, list[set[int]]] = {}  # of each thing, the groups that were kept
    for group in sorted(groups, key=lambda one: (-len(one), one)):
        own = set(group)
        if not any(own <= other for other in of.get(group[0], [])):
            kept.append(group)
            for one in group:
                of.setdefault(one, []).append(own)
    return kept


def _program(gain: NDArray[np.float64], cliques: Sequence[Places]) -> Places:
    """Labels of things in groups that overlap."""
    from scipy.sparse import csr_array

    things, labels = np.nonzero(gain > 0)
    label = np.full(len(gain), -1, np.intp)
    if not len(things):
        return label
    optimize = scipy_optimize()
    limits = _limits(things, labels, cliques)
    rows = np.repeat(np.arange(len(limits)), [len(limit) for limit in limits])
    columns = np.fromiter(chain.from_iterable(limits), np.intp)
    at_most_one = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(limits), len(things)))
    found = optimize.milp(
        -gain[things, labels],
        integrality=np.ones(len(things)),
        bounds=optimize.Bounds(0, 1),
        constraints=optimize.LinearConstraint(at_most_one, -np.inf, 1),
        options={"node_limit": _MOST_NODES, "mip_rel_gap": 0},
    )
    chosen = greatest_first(gain[things, labels], limits)
    if found.x is not None:
        better = np.flatnonzero(found.x > 0.5)
        chosen = max(chosen, better, key=lambda some: float(gain[things[some], labels[some]].sum()))
    label[things[chosen]] = labels[chosen]
    return label


def _limits(things: Places, labels: Places, cliques: Sequence[Places]) -> list[Places]:
    """Sets of choices of which at most one may be made: all of a thing, and all of a group with one label."""
    order = np.argsort(things, kind="stable")
    limits = np.split(order, np.flatnonzero(np.diff(things[order])) + 1)
    for clique in cliques:
        inside = np.flatnonzero(np.isin(things, clique))
        inside = inside[np.argsort(labels[inside], kind="stable")]
        limits += np.split(inside, np.flatnonzero(np.diff(labels[inside])) + 1)
    return [limit for limit in limits if len(limit)]


def greatest_first(gain: NDArray[np.float64], limits: Sequence[Places]) -> Places:
    """Choices taken by their gains, greatest first, wherever none of their limits is used up; in order."""
    within: dict[int, list[int]] = {}
    for number, limit in enumerate(limits):
        for choice in limit.tolist():
            within.setdefault(choice, []).append(number)
    used: set[int] = set()
    chosen = []
    for choice in np.argsort(-gain, kind="stable").tolist():
        if used.isdisjoint(within.get(choice, ())):
            used.update(within.get(choice, ()))
            chosen.append(choice)
    return np.array(sorted(chosen), np.intp)
