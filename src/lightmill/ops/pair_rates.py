"""FMR and FNMR over all pairs of two sets, counted tile by tile: the pairs' scores are never held."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.arrays import namespace
from lightmill.ops.identities import UNKNOWN, Items, Pairing
from lightmill.ops.similarity import MEMORY_BYTES, Scores, tiles


class PairRates(NamedTuple):
    """Exact counts of pairs at thresholds, and their shares."""

    thresholds: NDArray[np.float64]  # [C] as given; a score at or above is accepted
    fmr: NDArray[np.float64]  # [C] share of impostor pairs accepted; NaN where there are none
    fnmr: NDArray[np.float64]  # [C] share of genuine pairs rejected; NaN where there are none
    genuine: int  # pairs with one label
    impostor: int  # pairs with two


def pair_rates(
    scores: Scores,
    *,
    queries: Items,
    gallery: Items,
    thresholds: ArrayLike,
    exclude: NDArray[Any] | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> PairRates:
    """FMR and FNMR at some thresholds, over every pair of a query and an item of the gallery.

    What the rules of `Items` and `exclude` leave out is no pair. Nor is what holds somebody whom nobody knows: two
    such may well be one person. Each threshold costs a pass over each tile; scores are compared in their own dtype.
    Raises ValueError for lists whose lengths do not fit the scores, and NaN among the thresholds.
    """
    at = np.asarray(thresholds, np.float64)
    if at.ndim != 1 or np.isnan(at).any():
        raise ValueError("thresholds must be a list of numbers")
    pairing = Pairing(queries=queries, gallery=gallery, exclude=exclude)
    nobody = np.flatnonzero(pairing.gallery == UNKNOWN)
    rejected, accepted = np.zeros((2, at.size), np.int64)
    genuine = impostor = 0
    for tile in tiles(scores, pairing, memory_bytes=memory_bytes):
        known = np.flatnonzero(pairing.query[tile.rows] != UNKNOWN)
        wrong = tile.scores[known]
        wrong[:, nobody] = -np.inf
        genuine += len(tile.match_scores)
        impostor += _count(wrong > -np.inf)
        rejected += [_count(tile.match_scores < threshold) for threshold in at.tolist()]
        accepted += [_count((wrong >= threshold) & (wrong > -np.inf)) for threshold in at.tolist()]
    with np.errstate(invalid="ignore"):
        return PairRates(at, np.divide(accepted, impostor), np.divide(rejected, genuine), genuine, impostor)


def _count(which: Any) -> int:
    return int(namespace(which).count_nonzero(which))
