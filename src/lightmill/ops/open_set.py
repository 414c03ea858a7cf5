"""Whether strangers are told from the people of a gallery: rates over a whole set, exact at every threshold.

A score is accepted where it is at least the threshold. Rates are steps, as counted: nothing is interpolated, and
nothing is the mean of batches.

    FMR, FNMR      shares of impostor pairs accepted and of genuine pairs rejected      (ISO/IEC 19795-1)
    FPIR           share of queries that are of nobody in the gallery and are accepted  (same place)
    DIR            share of queries of somebody in the gallery whose best label is right, and accepted: detection and
                   identification rate at rank 1                                        (Phillips et al. 2011)
    AUROC          chance that a genuine score is above an impostor one, ties counted half   (Hanley and McNeil 1982)
    macro F1       mean over classes of 2 TP / (2 TP + FP + FN), "unknown" a class like others

Labels are strings or integers; "" and negative numbers are "unknown", a class of its own that is no player.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.identities import UNKNOWN, Labels, encoded

Floats = NDArray[np.float64]


class Identification(NamedTuple):
    """DIR at a threshold, and what it costs."""

    threshold: float  # the least score that is accepted; +inf where none is
    dir: float  # NaN where no query is of somebody in the gallery
    fpir: float  # reached: at most what was asked for
    known: int  # queries of somebody in the gallery
    unknown: int  # all others


class Verification(NamedTuple):
    """FNMR where the FMR is at most what was asked for."""

    threshold: float  # the least score that is accepted; +inf where none is
    fnmr: float
    fmr: float  # reached


class Curve(NamedTuple):
    """Error rates at every threshold where they change, ascending: ROC is 1 - fnmr over fmr, DET fnmr over fmr."""

    thresholds: Floats  # [C]; -inf accepts all; then each score that occurs; +inf accepts none
    fmr: Floats  # [C], falling
    fnmr: Floats  # [C], rising


class ClassFigures(NamedTuple):
    """One row of a table of classes."""

    label: str | int  # "" or -1: unknown
    precision: float  # 0 where nothing was called so
    recall: float  # 0 where nothing is so
    f1: float
    support: int  # how many are
    predicted: int  # how many were called so


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Labels found against true ones. Classes are those that occur on either side, ascending, unknown first."""

    labels: list[str] | list[int]
    confusion: NDArray[np.int64]  # [K, K], rows true, columns found
    classes: list[ClassFigures]
    accuracy: float  # NaN where there is nothing
    macro_f1: float  # NaN where there is nothing


def classified(*, truth: Labels, predicted: Labels) -> Classified:
    """The table of confusion, and what follows from it.

    Raises ValueError for lists of different lengths.

    >>> found = classified(truth=["", "7", "7", "9"], predicted=["7", "7", "7", ""])
    >>> found.labels, found.confusion.tolist(), found.accuracy
    (['', '7', '9'], [[0, 1, 0], [0, 2, 0], [1, 0, 0]], 0.5)
    """
    labels = encoded(truth, predicted)
    true, found = labels.codes
    _check_lengths(truth=true, predicted=found)
    present = np.unique(np.concatenate([true, found]))
    count = len(present)
    places = np.searchsorted(present, true) * count + np.searchsorted(present, found)
    confusion = np.bincount(places, minlength=count * count).reshape(count, count)
    names = labels.named(present).tolist()
    classes = [_figures(name, place, confusion) for place, name in enumerate(names)]
    return Classified(
        labels=names,
        confusion=confusion,
        classes=classes,
        accuracy=_ratio(int(np.trace(confusion)), true.size),
        macro_f1=float(np.mean([row.f1 for row in classes])) if classes else float("nan"),
    )


def _figures(name: str | int, place: int, confusion: NDArray[np.int64]) -> ClassFigures:
    right = int(confusion[place, place])
    support, predicted = int(confusion[place].sum()), int(confusion[:, place].sum())
    return ClassFigures(
        label=name,
        precision=right / max(predicted, 1),
        recall=right / max(support, 1),
        f1=2 * right / (support + predicted),
        support=support,
        predicted=predicted,
    )


def dir_at_fpir(
    scores: ArrayLike,
    *,
    predicted: Labels,
    truth: Labels,
    fpir: float,
    enrolled: Labels | None = None,
) -> Identification:
    """DIR at the lowest threshold whose FPIR is at most `fpir`.

    scores [Q]: to the label `predicted` of the gallery, the best one; -inf where there was none. truth: "" or negative
    for whoever is in no gallery; where `enrolled` (the gallery's labels) is given, that is so of all others as well.
    Raises ValueError where there is no query of an unknown, for NaN, and for lists of different lengths.
    """
    judged = Judged.of(scores, predicted=predicted, truth=truth, enrolled=enrolled)
    strangers = judged.scores[~judged.known]
    threshold = _threshold_for(strangers, rate=fpir, among=judged.scores, what="queries of unknown people")
    accepted = judged.scores >= threshold
    return Identification(
        threshold,
        _ratio(int((accepted & judged.right).sum()), int(judged.known.sum())),
        float(accepted[~judged.known].mean()),
        int(judged.known.sum()),
        strangers.size,
    )


class Judged(NamedTuple):
    """Answers to queries, with what they are worth."""

    scores: Floats  # [Q]
    known: NDArray[np.bool_]  # [Q] of somebody in the gallery
    right: NDArray[np.bool_]  # [Q] known, and the best label is theirs

    @classmethod
    def of(cls, scores: ArrayLike, *, predicted: Labels, truth: Labels, enrolled: Labels | None = None) -> Judged:
        """Raises ValueError for NaN and for lists of different lengths."""
        found, true, gallery = encoded(predicted, truth, truth if enrolled is None else enrolled).codes
        values = _scores(scores, "scores")
        _check_lengths(scores=values, predicted=found, truth=true)
        known = (true != UNKNOWN) & np.isin(true, gallery)
        return cls(values, known, known & (found == true))


def error_rates(genuine: ArrayLike, impostor: ArrayLike, *, thresholds: ArrayLike) -> tuple[Floats, Floats]:
    """(FMR, FNMR) at thresholds, a figure each; NaN where there is no pair of that kind."""
    same, other = np.sort(_scores(genuine, "genuine")), np.sort(_scores(impostor, "impostor"))
    at = np.asarray(thresholds, np.float64)
    accepted = other.size - np.searchsorted(other, at, "left")
    rejected = np.searchsorted(same, at, "left")
    return _shares(accepted, other.size), _shares(rejected, same.size)


def fnmr_at_fmr(genuine: ArrayLike, impostor: ArrayLike, *, fmr: float) -> Verification:
    """FNMR at the lowest threshold whose FMR is at most `fmr`.

    Raises ValueError where there is no pair of one kind, and for NaN.

    >>> distances = np.array([0, 0, 1, 1, 2, 2, 5, 5, 9, 9]), np.array([3, 3, 4, 4, 6, 6, 7, 7, 8, 8])
    >>> [fnmr_at_fmr(-distances[0], -distances[1], fmr=rate).fnmr for rate in (0.1, 0.5)]
    [0.4, 0.2]
    """
    same, other = _scores(genuine, "genuine"), _scores(impostor, "impostor")
    if not same.size:
        raise ValueError("FNMR needs genuine pairs, got none")
    threshold = _threshold_for(other, rate=fmr, among=np.concatenate([same, other]), what="impostor pairs")
    return Verification(threshold, float((same < threshold).mean()), float((other >= threshold).mean()))


def curve(genuine: ArrayLike, impostor: ArrayLike) -> Curve:
    """Every point of ROC and DET. Raises ValueError for NaN."""
    same, other = _scores(genuine, "genuine"), _scores(impostor, "impostor")
    thresholds = np.unique(np.concatenate([[-np.inf], same, other, [np.inf]]))
    fmr, fnmr = error_rates(same, other, thresholds=thresholds)
    return Curve(thresholds, fmr, fnmr)


def auroc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Share of (genuine, impostor) pairs of scores in which the genuine one is higher; equal ones count half.

    NaN where there is none of a kind. For queries: the scores of known people against those of unknown ones.

    >>> auroc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    same, other = _scores(genuine, "genuine"), np.sort(_scores(impostor, "impostor"))
    below = np.searchsorted(other, same, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(other, same, "right").sum(dtype=np.int64)
    return _ratio(int(below + not_above), 2 * same.size * other.size)


def oscr(scores: ArrayLike, *, predicted: Labels, truth: Labels) -> float:
    """The area below the curve of correct identification over false positives: the open-set classification rate.

    Dhamija et al. 2018: the chance that somebody known, drawn at random, is named rightly and scores higher than
    somebody unknown, drawn likewise; ties count half. NaN where either side is missing.

    >>> oscr([0.9, 0.8, 0.3], predicted=["a", "b", "a"], truth=["a", "a", ""])
    0.5
    """
    judged = Judged.of(scores, predicted=predicted, truth=truth)
    if not judged.known.any() or judged.known.all():
        return float("nan")
    if not judged.right.any():
        return 0.0
    share = float(judged.right.sum() / judged.known.sum())
    return share * auroc(judged.scores[judged.right], judged.scores[~judged.known])


def allowed(rate: float, *, count: int) -> int:
    """How many of `count` may pass where at most the share `rate` may. Raises ValueError outside 0 to 1.

    >>> allowed(0.29, count=100)  # 0.29 * 100 is a little less than 29
    29
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate must be from 0 to 1, got {rate}")
    return min(count, int(rate * count * (1 + 1e-12) + 1e-12))


def _threshold_for(wrong: Floats, *, rate: float, among: Floats, what: str) -> float:
    """The lowest score of `among` from which on at most the share `rate` of `wrong` lies; +inf where none is so."""
    passing = allowed(rate, count=wrong.size)
    if not wrong.size:
        raise ValueError(f"there are no {what}, so no threshold follows from their rate")
    if passing == wrong.size:
        return float(among.min())
    highest_kept_out = np.partition(wrong, wrong.size - passing - 1)[wrong.size - passing - 1]
    above = among[among > highest_kept_out]
    return float(above.min()) if above.size else float("inf")


def _scores(values: ArrayLike, name: str) -> Floats:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, got the shape {list(scores.shape)}")
    if np.isnan(scores).any():
        raise ValueError(f"{name} must be numbers, got NaN at place {int(np.isnan(scores).argmax())}")
    return scores


def _check_lengths(**lists: NDArray[Any]) -> None:
    if len({values.size for values in lists.values()}) > 1:
        said = ", ".join(f"{name} {values.size}" for name, values in lists.items())
        raise ValueError(f"lists must be of one length, got {said}")


def _shares(counts: NDArray[np.int64], total: int) -> Floats:
    return counts / total if total else np.full(np.shape(counts), np.nan)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def macro_f1(*, truth: Labels, predicted: Labels) -> float:
    """The mean F1 of all classes that occur on either side, unknown among them; NaN where there is nothing."""
    return classified(truth=truth, predicted=predicted).macro_f1


def dir_curve(
    scores: ArrayLike, *, predicted: Labels, truth: Labels, fpirs: Sequence[float], enrolled: Labels | None = None
) -> list[Identification]:
    """`dir_at_fpir` at several rates."""
    return [dir_at_fpir(scores, predicted=predicted, truth=truth, fpir=fpir, enrolled=enrolled) for fpir in fpirs]
