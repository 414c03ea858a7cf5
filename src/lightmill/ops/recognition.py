"""Who is who: tracklets against a gallery of those who are known, where most may be nobody of it.

Three steps. A gallery has for every label and view one point or some, the means of its crops' embeddings. A tracklet is
the mean of its own, and as like to a label as to the nearest of its points in that view. Then labels are given to all
tracklets together: nobody is in a picture twice, and who is not alike enough is unknown.

Embeddings are of length 1, and similarity is their cosine. A label is a text; the empty one means that nobody known is
to be seen: a stranger, a piece of background or of a player.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.crop_quality import Floats, Texts, codes
from lightmill.ops.labelling import give_labels
from lightmill.ops.thresholds import POOLED

NOBODY = ""
_ROUNDS = 20  # of k-means


# --- means -----------------------------------------------------------------------------------------------------------


def tracklet_embeddings(embeddings: ArrayLike, tracklets: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """[T, D]: the weighted mean of each tracklet's embeddings ([N, D]), brought back to length 1.

    tracklets: [N] numbers from 0 to T − 1, none left out; weights: [N] above 0, such as their quality. Where embeddings
    cancel out to nothing, the one of the greatest weight stands for all.
    """
    points = np.asarray(embeddings, np.float64)
    place = np.asarray(tracklets, np.intp)
    weight = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    if not len(points) == len(place) == len(weight):
        raise ValueError(f"there are {len(points)} embeddings, {len(place)} tracklets and {len(weight)} weights")
    count = int(place.max(initial=-1)) + 1
    if len(np.unique(place)) != count:
        raise ValueError("tracklets are numbered from 0 on, and each has a box")
    sums = np.zeros((count, points.shape[1] if points.ndim == 2 else 0))
    np.add.at(sums, place, points * weight[:, None])
    empty = np.linalg.norm(sums, axis=1) < 1e-9 * np.bincount(place, weight, count)
    for one in np.flatnonzero(empty):
        own = np.flatnonzero(place == one)
        sums[one] = points[own[weight[own].argmax()]]
    return _unit(sums)


def _unit(points: Floats) -> Floats:
    length: Floats = np.linalg.norm(points, axis=-1, keepdims=True)
    return points / np.maximum(length, 1e-12)


# --- the gallery -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Those who are known, as points of length 1."""

    labels: tuple[str, ...]  # sorted
    points: Floats  # [P, D]
    label: NDArray[np.intp]  # [P] whose point it is
    view: NDArray[np.str_]  # [P] where it was seen
    nobodies: Floats  # [M, D] every crop of nobody known: never averaged, since they have nothing in common

    @classmethod
    def of(
        cls,
        embeddings: ArrayLike,
        *,
        labels: Texts,
        views: Texts,
        weights: ArrayLike | None = None,
        points: int = 1,
    ) -> "Gallery":
        """From crops: embeddings [N, D] of length 1, labels [N], views [N], weights [N] such as `ops.crop_quality`.

        Of every label and view there are up to `points` points: weighted means, brought back to length 1, of as many
        clusters (k-means on the sphere, begun at crops that are far from each other). Raises ValueError where no crop
        has a label.
        """
        crops = np.asarray(embeddings, np.float64)
        label, view = np.asarray(labels, dtype=np.str_), np.asarray(views, dtype=np.str_)
        weight = np.ones(len(crops)) if weights is None else np.asarray(weights, np.float64)
        if not len(crops) == len(label) == len(view) == len(weight):
            raise ValueError(
                f"there are {len(crops)} embeddings, {len(label)} labels, {len(view)} views, {len(weight)} weights"
            )
        known = sorted(set(label.tolist()) - {NOBODY})
        if not known:
            raise ValueError("a gallery needs crops with a label: there is none")
        made: list[tuple[Floats, int, str]] = []
        for place, name in enumerate(known):
            for where in np.unique(view[label == name]).tolist():
                own = (label == name) & (view == where)
                made += [(centre, place, where) for centre in _clusters(crops[own], weight[own], points)]
        return cls(
            tuple(known),
            np.stack([centre for centre, _, _ in made]),
            np.array([place for _, place, _ in made], np.intp),
            np.array([where for _, _, where in made]),
            crops[label == NOBODY],
        )

    def similarity(self, embeddings: ArrayLike, *, views: Texts) -> Floats:
        """[T, L]: how like each of T embeddings, seen in `views` ([T]), is to each label: the nearest of its points.

        Only those of the same view are looked at, since a player from above is like nobody from the side (A4.24); of a
        label that has none there, all.
        """
        given = np.asarray(embeddings, np.float64)
        where = np.asarray(views, dtype=np.str_)
        if len(given) != len(where):
            raise ValueError(f"there are {len(given)} embeddings, and {len(where)} views")
        found = np.empty((len(given), len(self.labels)))
        cosine = given @ self.points.T
        for view in np.unique(where):
            own = self.view == view
            own |= ~np.isin(self.label, self.label[own])
            rows = where == view
            best = np.full((len(self.labels), int(rows.sum())), -np.inf)
            np.maximum.at(best, self.label[own], cosine[np.ix_(rows, own)].T)
            found[rows] = best.T
        return found

    def likeness_to_nobody(self, embeddings: ArrayLike, *, nearest: int = 5) -> Floats:
        """[T]: the mean similarity to the `nearest` of the nobodies, of all views; −1 where there are not so many."""
        given = np.asarray(embeddings, np.float64)
        if len(self.nobodies) < nearest:
            return np.full(len(given), -1.0)
        found = np.empty(len(given))
        for start in range(0, len(given), 1024):  # a tile of all pairs at a time
            cosine = given[start : start + 1024] @ self.nobodies.T
            found[start : start + 1024] = np.partition(cosine, -nearest, axis=1)[:, -nearest:].mean(axis=1)
        return found


def _clusters(crops: Floats, weight: Floats, most: int) -> Floats:
    """[k, D] the means of up to `most` clusters, of length 1."""
    if most < 1:
        raise ValueError(f"a label has at least one point, got {most}")
    centres = _unit((crops * weight[:, None]).sum(axis=0, keepdims=True))
    if most == 1:
        return centres
    begins = [int((crops @ centres[0]).argmax())]
    nearest = crops @ crops[begins[0]]
    while len(begins) < most and nearest.min() < 1 - 1e-9:
        begins.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, crops @ crops[begins[-1]])
    centres = crops[begins]
    for _ in range(_ROUNDS):
        own = (crops @ centres.T).argmax(axis=1)
        own = np.unique(own, return_inverse=True)[1]  # clusters that lost all of theirs are gone
        centres = tracklet_embeddings(crops, own, weight)
    return centres


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Recognised:
    """What became of T tracklets. Labels are places in the gallery's list; −1 is nobody."""

    label: NDArray[np.intp]  # [T]
    score: Floats  # [T] similarity to the label; of the unknown, to the nearest
    runner_up: NDArray[np.intp]  # [T] the nearest of all other labels; of the unknown, the nearest of all
    runner_up_score: Floats  # [T] its similarity: above `score` where that label was needed by another of the frame


def recognise(
    similarity: ArrayLike,
    *,
    thresholds: ArrayLike,
    tracklets: ArrayLike,
    frames: Texts,
    weights: ArrayLike | None = None,
) -> Recognised:
    """Labels for T tracklets, by their similarity ([T, L]) to L labels: no label is in a frame twice.

    thresholds: [T] or one number, the least similarity that is accepted. tracklets, frames: [N], the tracklet from 0
    and the frame of every box. weights: [T] above 0, by default the number of boxes. Of all ways to
    give labels the one with the greatest sum of weight · (similarity − threshold) is taken; unknown counts 0.

    Raises ValueError where two boxes of a tracklet are in one frame, MissingExtra without scipy.
    """
    alike = np.asarray(similarity, np.float64)
    place = np.asarray(tracklets, np.intp)
    frame = codes(frames, len(place), "frames")
    count = np.bincount(place, minlength=len(alike))
    if alike.ndim != 2 or len(count) != len(alike):
        raise ValueError(f"there are {len(count)} tracklets, and similarities of {list(alike.shape)}")
    if len(np.unique(np.stack([frame, place]), axis=1).T) != len(place):
        raise ValueError("two boxes of a tracklet are in one frame")
    worth = count if weights is None else np.asarray(weights, np.float64)
    least = np.broadcast_to(np.asarray(thresholds, np.float64), len(alike))
    least = np.nextafter(least, -np.inf)  # what is just as alike gains next to nothing, but not nothing
    label = give_labels((alike - least[:, None]) * worth[:, None], groups=_together(place, frame))
    return _told(alike, label)


def _together(place: NDArray[np.intp], frame: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The tracklets of every frame."""
    order = np.argsort(frame, kind="stable")
    return np.split(place[order], np.flatnonzero(np.diff(frame[order])) + 1)


def _told(alike: Floats, label: NDArray[np.intp]) -> Recognised:
    rows, known = np.arange(len(alike)), label >= 0
    others = alike.copy()
    others[rows[known], label[known]] = -np.inf
    if not alike.shape[1]:
        nothing = np.full(len(alike), np.nan)
        return Recognised(label, nothing, label, nothing)
    runner_up, second = others.argmax(axis=1), others.max(axis=1)
    runner_up[~np.isfinite(second)] = -1
    score = np.where(known, alike[rows, label], second)
    return Recognised(label, score, runner_up, np.where(np.isfinite(second), second, np.nan))


# --- thresholds and ensembles ----------------------------------------------------------------------------------------


def mean_thresholds(folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several models whose similarities are averaged: for every view that any of them names, the mean of all theirs.

    Mean similarity above the mean threshold is the same as a mean margin above 0. Raises ValueError where one has
    neither a threshold for a view that another names nor one for all (`""`).

    >>> mean_thresholds([{"": 0.25, "side": 0.5}, {"": 0.75}])
    {'': 0.5, 'side': 0.625}
    """
    views = dict.fromkeys(view for fold in folds for view in fold)
    if lacking := [view for view in views for fold in folds if view not in fold and POOLED not in fold]:
        raise ValueError(f"there is no threshold for the view {lacking[0]!r}, and none for all")
    return {view: float(np.mean([fold.get(view, fold.get(POOLED)) for fold in folds])) for view in views}
