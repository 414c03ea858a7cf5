"""How alike queries and gallery are, a tile of queries at a time: the whole matrix never exists.

Embeddings may be numpy arrays or torch tensors; tensors on an accelerator are worked on there. A higher score is more
alike. torch is imported by nobody here: who hands in a tensor has done so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.arrays import namespace
from lightmill.ops.identities import Items, Pairing, Pairs

if TYPE_CHECKING:
    from torch import Tensor

Matrix: TypeAlias = "NDArray[Any] | Tensor"

MEMORY_BYTES = 2**28  # of a tile and all that is worked out from it, beside embeddings
_LENGTH_ERROR = 0.01  # how far from 1 the length of an embedding may be: float16 and bfloat16 round
_HOST_BYTES, _DEVICE_BYTES = 16, 40  # for each score of a tile; sorting on a device takes indices and room beside it
_PAIR_BYTES = 64  # for each pair of equal labels in a tile


class Scores(Protocol):
    """Scores of all queries against all items of a gallery, given tile by tile."""

    shape: tuple[int, int]  # queries, items
    on_host: bool  # numpy does the work

    def rows(self, rows: slice) -> Matrix:
        """Scores [T, N] of some queries, finite, in memory of their own."""


class Cosine:
    """Cosine similarities of embeddings, worked out in float32, or float64 where they are given so.

    Where embeddings are neither, a float32 copy of both sides is kept.
    """

    def __init__(self, queries: Matrix, gallery: Matrix) -> None:
        """Embeddings [Q, D] and [N, D] of length 1, both numpy arrays or both tensors on one device.

        Raises ValueError for other shapes, numbers that are not finite, and embeddings whose length is not 1.
        """
        if isinstance(queries, np.ndarray) != isinstance(gallery, np.ndarray):
            raise ValueError("embeddings are a numpy array on one side and a tensor on the other; use one of them")
        if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            raise ValueError(
                f"embeddings must be [Q, D] and [N, D], got {list(queries.shape)} and {list(gallery.shape)}"
            )
        self._queries, self._gallery = _ready(queries, "queries"), _ready(gallery, "gallery")
        if self._queries.dtype != self._gallery.dtype:
            raise ValueError(f"embeddings are {self._queries.dtype} and {self._gallery.dtype}; use one of them")
        self.shape = (queries.shape[0], gallery.shape[0])
        self.on_host = isinstance(self._gallery, np.ndarray)

    def rows(self, rows: slice) -> Matrix:
        """Cosines [T, N] of some queries."""
        scores: Matrix = self._queries[rows] @ self._gallery.T
        return scores


class Negated:
    """A matrix of distances [Q, N] as scores: the nearest is the most alike. Ranks are exact, in the matrix's dtype."""

    def __init__(self, distances: Matrix) -> None:
        """Raises ValueError for a matrix of another shape; for integers use a float dtype."""
        if distances.ndim != 2 or "float" not in str(distances.dtype):
            raise ValueError(f"distances must be floats [Q, N], got {distances.dtype} {list(distances.shape)}")
        self._distances = _on_host(distances)
        self.shape = (distances.shape[0], distances.shape[1])
        self.on_host = isinstance(self._distances, np.ndarray)

    def rows(self, rows: slice) -> Matrix:
        """Minus the distances [T, N] of some queries. Raises ValueError where they are not finite."""
        scores: Any = -self._distances[rows]
        if not bool(namespace(scores).isfinite(scores).all()):
            raise ValueError(f"distances are not finite in the queries {rows.start} to {rows.stop - 1}")
        negated: Matrix = scores
        return negated


def _on_host(matrix: Matrix) -> Matrix:
    """Tensors in the host's memory as numpy arrays, in float32 where numpy has no such dtype or it is slow."""
    if isinstance(matrix, np.ndarray):
        return matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix
    matrix = matrix.detach()
    if str(matrix.dtype) in ("torch.float16", "torch.bfloat16"):
        matrix = matrix.float()
    return matrix if matrix.device.type != "cpu" else np.asarray(matrix)


def _ready(embeddings: Matrix, side: str) -> Any:
    if "float" not in str(embeddings.dtype):
        raise ValueError(f"embeddings must be floats, got {embeddings.dtype} for the {side}")
    ready: Any = _on_host(embeddings)
    lengths = namespace(ready).einsum("ij,ij->i", ready, ready) ** 0.5
    wrong = ~(abs(lengths - 1) <= _LENGTH_ERROR)  # of NaN as well
    if bool(wrong.any()):
        row = int(namespace(wrong).nonzero(wrong)[0][0])
        raise ValueError(
            f"embeddings must have length 1, got {float(lengths[row]):.4g} in row {row} of the {side}; divide by the "
            "length, or give distances"
        )
    return ready


class Tile(NamedTuple):
    """Some queries with all that counts for them."""

    rows: slice
    scores: Any  # [T, N]; -inf for matches, and for what is left out
    match_scores: Any  # [P], in the order of `pairs.match_row`
    pairs: Pairs


def tiles(scores: Scores, pairing: Pairing, *, memory_bytes: int = MEMORY_BYTES) -> Iterator[Tile]:
    """All queries, as many at a time as `memory_bytes` allow, and always one."""
    queries, items = scores.shape
    if (pairing.query.size, pairing.gallery.size) != scores.shape:
        raise ValueError(
            f"labels must be one a row and column of the scores, {queries} and {items}, "
            f"got {pairing.query.size} and {pairing.gallery.size}"
        )
    row_bytes = items * (_HOST_BYTES if scores.on_host else _DEVICE_BYTES) + pairing.most * _PAIR_BYTES
    step = max(1, memory_bytes // max(1, row_bytes))
    for first in range(0, queries, step):
        rows = slice(first, min(first + step, queries))
        yield _tile(rows, scores.rows(rows), pairing.tile(rows))


def _tile(rows: slice, scores: Any, pairs: Pairs) -> Tile:
    def placed(places: NDArray[np.int64]) -> Any:
        return places if isinstance(scores, np.ndarray) else namespace(scores).as_tensor(places, device=scores.device)

    match_scores = scores[placed(pairs.match_row), placed(pairs.match_item)]
    scores[placed(pairs.blank_row), placed(pairs.blank_item)] = -np.inf
    return Tile(rows, scores, match_scores, pairs)


class Nearest(NamedTuple):
    """Whom queries resemble most; "" or -1 with a score of -inf where there is nobody."""

    labels: NDArray[Any]  # [Q]
    scores: NDArray[Any]  # [Q], to the label's most alike item
    runners_up: NDArray[Any]  # [Q] the next best label
    runner_up_scores: NDArray[Any]  # [Q]


def nearest(
    scores: Scores,
    *,
    queries: Items,
    gallery: Items,
    exclude: NDArray[Any] | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Nearest:
    """The two labels of the gallery that a query resembles most, each by its most alike item.

    The rules of `Items` and `exclude` (the query's own place in the gallery, -1 for none) hold; items of the gallery
    whom nobody knows are no answer. Of labels with the same score the first in ascending order wins.
    Raises ValueError for lists whose lengths do not fit the scores.
    """
    pairing = Pairing(queries=queries, gallery=gallery, exclude=exclude)
    total = scores.shape[0]
    codes = np.full((2, total), -1, np.int64)
    best = np.full((2, total), -np.inf)
    if len(pairing.labels.names) and pairing.most:
        for tile in tiles(scores, pairing, memory_bytes=memory_bytes):
            by_label = _best_of_labels(tile, pairing)
            for place in range(2):
                code = by_label.argmax(1)
                found = np.take_along_axis(by_label, code[:, None], axis=1)[:, 0]
                codes[place, tile.rows] = np.where(found > -np.inf, code, -1)
                best[place, tile.rows] = found
                np.put_along_axis(by_label, code[:, None], -np.inf, axis=1)
    names = [pairing.labels.named(code) for code in codes]
    return Nearest(names[0], best[0], names[1], best[1])


def _best_of_labels(tile: Tile, pairing: Pairing) -> NDArray[Any]:
    """[T, labels], in float64; -inf where the gallery has nothing of a label."""
    labels = len(pairing.labels.names)
    scores, pairs = tile.scores, tile.pairs
    if not isinstance(scores, np.ndarray):
        torch = namespace(scores)
        code = torch.as_tensor(np.where(pairing.gallery < 0, labels, pairing.gallery), device=scores.device)
        found = torch.full((len(scores), labels + 1), -torch.inf, dtype=scores.dtype, device=scores.device)
        found.scatter_reduce_(1, code.expand(len(scores), -1), scores, "amax")
        best = np.asarray(found[:, :labels].cpu(), np.float64)
        match_scores = np.asarray(tile.match_scores.cpu())
    else:
        best = np.full((len(scores), labels), -np.inf)
        items, present, starts = pairing.by_label()
        best[:, present] = np.maximum.reduceat(scores[:, items], starts, axis=1)
        match_scores = tile.match_scores
    np.maximum.at(best, (pairs.match_row, pairing.gallery[pairs.match_item]), match_scores)
    return best
