"""How far the crops of players can be relied on."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Texts: TypeAlias = Sequence[str] | NDArray[np.generic]  # what is compared only for being the same; numbers will do

_LEAST = 0.02  # even the worst crop counts for something: it may be all there is


def quality(boxes: ArrayLike, *, views: Texts, hidden: ArrayLike, sharpness: ArrayLike | None = None) -> Floats:
    """How far the crop of each box can be relied on: [N] above 0, at most 1.

    q = max(0.02, min(1, √(a / A)) · min(1, √(s / S)) · (1 − c)): its area a and sharpness s (such as `ops.quality`
    measures; left out where it is not given) against the medians A and S of its view, and the share c of it that is
    hidden, such as what `covered` says.

    boxes: [N, 4] x, y, w, h in px, of positive area; views, hidden, sharpness: [N].
    """
    told = np.asarray(boxes, np.float64).reshape(-1, 4)
    view = codes(views, len(told), "views")
    found = 1 - np.broadcast_to(np.asarray(hidden, np.float64), len(told))
    found *= np.sqrt(_against_median(told[:, 2] * told[:, 3], view))
    if sharpness is not None:
        found *= np.sqrt(_against_median(np.asarray(sharpness, np.float64), view))
    return np.maximum(found, _LEAST)


def covered(boxes: ArrayLike, *, frames: Texts) -> Floats:
    """[N] 0..1: the share of each box that other boxes of its frame cover.

    1 − Π (1 − c) for the shares c that each of the others covers, as if they lay at random: no more than their sum, and
    no less than the largest. Who is in front is not known, and both are in the crop anyhow.

    >>> covered([[0, 0, 10, 10], [5, 0, 10, 10], [5, 0, 10, 10]], frames=["a", "a", "b"])
    array([0.5, 0.5, 0. ])
    """
    told = np.asarray(boxes, np.float64).reshape(-1, 4)
    frame = codes(frames, len(told), "frames")
    found = np.zeros(len(told))
    order = np.argsort(frame, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(frame[order])) + 1):
        first, last = told[rows, :2], told[rows, :2] + told[rows, 2:]
        sides = np.minimum(last[:, None], last[None]) - np.maximum(first[:, None], first[None])
        share = np.maximum(sides, 0).prod(axis=2) / told[rows, 2:].prod(axis=1)[:, None]
        np.fill_diagonal(share, 0)
        found[rows] = 1 - (1 - np.minimum(share, 1)).prod(axis=1)
    return found


def _against_median(values: Floats, view: NDArray[np.intp]) -> Floats:
    """Values over the median of their view, at most 1."""
    shares = np.ones(len(values))
    for code in np.unique(view):
        own = view == code
        middle = float(np.median(values[own]))
        if middle > 0:
            shares[own] = np.clip(values[own] / middle, 0, 1)
    return shares


def codes(values: Texts, count: int, name: str) -> NDArray[np.intp]:
    """Numbers from 0 for N values, equal for equal ones. Raises ValueError where there are more or fewer than N."""
    found = np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)
    if len(found) != count:
        raise ValueError(f"there are {count} boxes, and {len(found)} {name}")
    return found
