"""How well a gallery is searched: CMC, mAP and mINP over a whole set, as re-identification counts them.

A query's ranking holds the items of the gallery that are not left out for it (`lightmill.ops.identities.Items`). With
its M matches at the ranks r_1 < ... < r_M, counted from 1:

    CMC@k  share of queries with r_1 <= k                             (Zheng et al. 2015, Market-1501)
    AP     mean over j of j / r_j, the precision at each match        (same place; mAP is the mean over queries)
    INP    M / r_M, what must be looked through to see every match    (Ye et al. 2021, AGW)

Queries without a match left are dropped, and counted. Of equal scores the wrong items rank first: a network that gives
the same to all pictures does not look good by the order of its rows. So figures do not depend on that order at all.

Ranks are exact. The rank of a match is its place among the matches and the number of wrong items that score at least
as high, found by bisection in the sorted scores of the wrong ones. Scores of a tile are sorted without their indices:
numpy takes 3.5 ns a score for that (AVX-512, rows of 20,000), comparing with each of 660 matches would take 400, and
bisection of every score among the matches 60.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.arrays import namespace
from lightmill.ops.identities import Items, Pairing
from lightmill.ops.similarity import MEMORY_BYTES, Scores, Tile, tiles


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """What a search gave, over all queries and one by one."""

    cmc: NDArray[np.float64]  # [max_rank]: cmc[k - 1] is the share of queries with a match among the first k
    mean_ap: float
    mean_inp: float
    queries: int  # that had a match left: what means are taken over; with none they are NaN
    dropped: int  # queries without a match left
    first_rank: NDArray[np.int64]  # [Q], r_1; 0 where dropped
    average_precision: NDArray[np.float64]  # [Q]; NaN where dropped
    inverse_negative_penalty: NDArray[np.float64]  # [Q]; NaN where dropped


def retrieval(
    scores: Scores,
    *,
    queries: Items,
    gallery: Items,
    exclude: NDArray[Any] | None = None,
    max_rank: int = 50,
    memory_bytes: int = MEMORY_BYTES,
) -> Retrieval:
    """CMC, mAP and mINP of scores, from `similarity.Cosine(queries, gallery)` or `similarity.Negated(distances)`.

    exclude: [Q], the place of the query itself in the gallery, -1 for none; it is left out whatever its label.
    The gallery may be smaller than `max_rank`. Memory beside the embeddings: at most `memory_bytes` (a single query's
    scores at least), whatever the number of queries, and 24 bytes a query.
    Raises ValueError for lists whose lengths do not fit the scores.

    >>> from lightmill.ops.similarity import Negated
    >>> distances = Negated(np.array([[0.1, 0.2, 0.3, 0.4]]))
    >>> found = retrieval(distances, queries=Items(labels=[1]), gallery=Items(labels=[2, 1, 3, 1]), max_rank=4)
    >>> found.cmc, found.mean_ap
    (array([0., 1., 1., 1.]), 0.5)
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be 1 or more, got {max_rank}")
    pairing = Pairing(queries=queries, gallery=gallery, exclude=exclude)
    total = scores.shape[0]
    first = np.zeros(total, np.int64)
    precision, penalty = np.full((2, total), np.nan)
    for tile in tiles(scores, pairing, memory_bytes=memory_bytes):
        found = _found(tile)
        first[tile.rows], precision[tile.rows], penalty[tile.rows] = found
    counted = first > 0
    return Retrieval(
        cmc=_cmc(first[counted], max_rank),
        mean_ap=_mean(precision[counted]),
        mean_inp=_mean(penalty[counted]),
        queries=int(counted.sum()),
        dropped=int(total - counted.sum()),
        first_rank=first,
        average_precision=precision,
        inverse_negative_penalty=penalty,
    )


class _Found(NamedTuple):
    first: NDArray[np.int64]  # [T]; 0 where there is no match
    precision: NDArray[np.float64]  # [T]; NaN where there is none
    penalty: NDArray[np.float64]


def _found(tile: Tile) -> _Found:
    """The queries of one tile."""
    matches = np.bincount(tile.pairs.match_row, minlength=tile.scores.shape[0])
    ends = np.cumsum(matches)
    if isinstance(tile.scores, np.ndarray):
        wrong_before = _wrong_before(tile.scores, tile.match_scores, ends)
    else:
        wrong_before = _wrong_before_on_device(tile.scores, tile.match_scores, tile.pairs.match_row, ends)
    row = tile.pairs.match_row
    # matches of a row lie from the least alike to the most
    place = ends[row] - np.arange(row.size)
    rank = place + wrong_before
    some = np.flatnonzero(matches)
    first, precision, penalty = np.zeros(len(matches), np.int64), *np.full((2, len(matches)), np.nan)
    first[some] = rank[ends[some] - 1]
    precision[some] = np.bincount(row, place / rank, len(matches))[some] / matches[some]
    penalty[some] = matches[some] / rank[ends[some] - matches[some]]
    return _Found(first, precision, penalty)


def _wrong_before(scores: NDArray[Any], match_scores: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many wrong items score as high or higher: a figure for each match, in the ascending order of their scores.

    Sorts both arrays in place.
    """
    scores.sort(axis=1)
    before = np.empty(match_scores.size, np.int64)
    start = 0
    for row, end in zip(scores, ends.tolist(), strict=True):
        part = match_scores[start:end]
        part.sort()
        before[start:end] = row.size - row.searchsorted(part, "left")
        start = end
    return before


def _wrong_before_on_device(
    scores: Any, match_scores: Any, match_row: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The same with torch, for all rows at once."""
    torch = namespace(scores)
    most = int(np.diff(ends, prepend=0).max(initial=0))
    starts = np.append(0, ends[:-1]) if ends.size else ends
    row = torch.as_tensor(match_row, device=scores.device)
    place = torch.as_tensor(np.arange(match_row.size) - starts[match_row], device=scores.device)
    padded = scores.new_full((len(scores), most), torch.inf)
    padded[row, place] = match_scores
    ordered = torch.sort(scores, dim=1).values
    found = torch.searchsorted(ordered, torch.sort(padded, dim=1).values)
    before: NDArray[np.int64] = np.asarray((scores.shape[1] - found)[row, place].cpu())
    return before


def _cmc(first: NDArray[np.int64], max_rank: int) -> NDArray[np.float64]:
    if not first.size:
        return np.full(max_rank, np.nan)
    return np.bincount(first, minlength=max_rank + 1)[1 : max_rank + 1].cumsum() / first.size


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
