"""Who is on a crop: labels as numbers, and which crops count as a match of which.

A label is a string, "" where nobody is known, or an integer, negative where nobody is known. What is unknown equals
nothing: no player, not the player 0, and no other unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = Sequence[str] | Sequence[int] | NDArray[Any]  # [N]; None counts as ""
Codes: TypeAlias = NDArray[np.int64]

UNKNOWN = -1  # the code of whoever is not known


@dataclass(frozen=True, kw_only=True)
class Items:
    """What is known of crops beside their embeddings, one entry a crop.

    An item of the gallery is left out of a query's ranking where it has the query's label and its camera (the usual
    rule of re-identification), or its label and its track: frames of one track are nearly the same picture. Where all
    was filmed by one camera, leave `cameras` out and give `tracks`, else nothing is left to be found.
    """

    labels: Labels
    cameras: Labels | None = None
    tracks: Labels | None = None


class Encoded(NamedTuple):
    """Labels of several sides, as numbers that mean the same on each."""

    names: NDArray[Any]  # [K] known labels, ascending; strings or integers
    codes: tuple[Codes, ...]  # a side each: places in `names`, UNKNOWN for whoever is not known

    def named(self, codes: Codes) -> NDArray[Any]:
        """Labels again; "" or -1 for UNKNOWN."""
        return np.append(self.names, self.nobody)[codes]  # UNKNOWN is the last place

    @property
    def nobody(self) -> NDArray[Any]:
        """[1], the label of whoever is not known: "" or -1."""
        return np.asarray([""] if self.names.dtype.kind == "U" else [-1])


def encoded(*sides: Labels) -> Encoded:
    """Labels as places in the ascending list of all known ones.

    Raises ValueError for labels that are neither strings nor integers, or strings on one side and integers on another.

    >>> encoded(["b", "", "a"], ["b"]).codes
    (array([ 1, -1,  0]), array([1]))
    """
    arrays = [_checked(side) for side in sides]
    kinds = {array.dtype.kind for array in arrays if array.size}
    if len(kinds) > 1:
        raise ValueError("labels are strings on one side and integers on another; use one of them")
    whole = np.concatenate([array for array in arrays if array.size] or arrays[:1])
    known = whole != "" if whole.dtype.kind == "U" else whole >= 0
    codes = np.full(whole.shape, UNKNOWN, np.int64)
    names, codes[known] = np.unique(whole[known], return_inverse=True)
    return Encoded(names, tuple(np.split(codes, np.cumsum([array.size for array in arrays])[:-1])))


def _checked(labels: Labels) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be a list, one a crop, got the shape {list(array.shape)}")
    if array.size == 0:
        return np.zeros(0, np.str_)
    if array.dtype.kind in "OT":
        array = _strings(array.tolist())
    if array.dtype.kind not in "Uiu":
        raise ValueError(f"labels must be strings or integers, got {array.dtype}")
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def _strings(values: Iterable[object]) -> NDArray[Any]:
    texts = []
    for place, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"labels must be strings or integers, got {value!r} at place {place}")
        texts.append(value or "")
    return np.asarray(texts, np.str_)


class Pairs(NamedTuple):
    """What concerns the rows of a tile beside their scores; places are (row of the tile, item of the gallery)."""

    blank_row: Codes  # what has no part among the wrong ones: matches and all that is left out
    blank_item: Codes
    match_row: Codes  # matches, rows ascending
    match_item: Codes


class Pairing:
    """Which items of a gallery are matches of a query, and which are left out of its ranking."""

    def __init__(self, *, queries: Items, gallery: Items, exclude: NDArray[Any] | None = None) -> None:
        """exclude: [Q], the item of the gallery that the query itself is, -1 for none.

        Raises ValueError for lists of different lengths, cameras or tracks on one side alone, and an `exclude` that
        is no item.
        """
        self.labels = encoded(queries.labels, gallery.labels)
        self.query, self.gallery = self.labels.codes
        self._apart = [
            _both(name, getattr(queries, name), getattr(gallery, name), self.query.size, self.gallery.size)
            for name in ("cameras", "tracks")
            if getattr(queries, name) is not None or getattr(gallery, name) is not None
        ]
        self._exclude = None if exclude is None else _places(exclude, self.query.size, self.gallery.size)
        self._order = np.argsort(self.gallery, kind="stable")
        bounds = np.arange(len(self.labels.names) + 1)
        self._starts = np.searchsorted(self.gallery[self._order], bounds)
        self.most = int(np.diff(self._starts).max(initial=0))  # items of one label

    def by_label(self) -> tuple[Codes, Codes, Codes]:
        """Items of known labels in the order of their codes, the codes that occur, and where each begins."""
        occurring = np.flatnonzero(np.diff(self._starts))
        return self._order[self._starts[0] :], occurring, self._starts[occurring] - self._starts[0]

    def tile(self, rows: slice) -> Pairs:
        """The pairs of the queries `rows`."""
        code = self.query[rows]
        known = code != UNKNOWN
        start = np.where(known, self._starts[np.where(known, code, 0)], 0)
        count = np.where(known, self._starts[np.where(known, code + 1, 0)] - start, 0)
        row = np.repeat(np.arange(code.size), count)
        item = self._order[np.arange(row.size) + np.repeat(start - (np.cumsum(count) - count), count)]
        counts = np.ones(row.size, np.bool_)
        for query, gallery in self._apart:
            counts &= (query[rows][row] != gallery[item]) | (gallery[item] == UNKNOWN)
        blank_row, blank_item = row, item
        if self._exclude is not None:
            own = self._exclude[rows]
            counts &= item != own[row]
            named = np.flatnonzero(own >= 0)
            blank_row, blank_item = np.append(row, named), np.append(item, own[named])
        return Pairs(blank_row, blank_item, row[counts], item[counts])


def _both(name: str, query: Labels | None, gallery: Labels | None, queries: int, items: int) -> tuple[Codes, ...]:
    if query is None or gallery is None:
        raise ValueError(f"{name} are known of the {'gallery' if query is None else 'queries'} alone; give both")
    codes = encoded(query, gallery).codes
    if (codes[0].size, codes[1].size) != (queries, items):
        raise ValueError(f"{name} must be one a label: {queries} and {items}, got {codes[0].size} and {codes[1].size}")
    return codes


def _places(exclude: NDArray[Any], queries: int, items: int) -> Codes:
    places = np.asarray(exclude)
    if places.shape != (queries,) or (places.size and places.dtype.kind not in "iu"):
        raise ValueError(f"exclude must be {queries} integers, one a query, got {places.dtype} {list(places.shape)}")
    if places.size and not (places.min() >= -1 and places.max() < items):
        raise ValueError(f"exclude must be items of the gallery, 0 to {items - 1}, or -1 for none")
    return places.astype(np.int64)
