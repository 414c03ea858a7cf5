"""Where "unknown" begins: a threshold chosen by a stated target, on held-out answers.

An answer is accepted where its score is at least the threshold; else it says "unknown". Every threshold that makes a
difference is tried, not a few: between two neighbouring scores all are alike, so there is one for each gap. What comes
back lies in the middle of its gap, where rounding on another machine does not turn an answer round. Where everything is
accepted it is the lowest score, where nothing is it is the next float32 above the highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.errors import UsageError
from lightmill.ops.identities import UNKNOWN, Labels, encoded
from lightmill.ops.open_set import allowed

Floats = NDArray[np.float64]

POOLED = ""  # the name of what holds for every view
FEWEST = 30  # answers of known people, and of unknown ones, from which on a view has a threshold of its own
_EQUAL = 12  # decimals: targets that differ by less are equally good


@dataclass(frozen=True)
class Fpir:
    """The lowest threshold at which at most this share of unknown people is taken for somebody."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise UsageError(f"fpir is a share from 0 to 1, got {self.rate:g}; for one in a hundred write fpir=0.01")


@dataclass(frozen=True)
class F1:
    """The highest macro F1 over all people, with "unknown" as one class among them."""


@dataclass(frozen=True)
class Cost:
    """The lowest mean cost of an answer; a right one costs nothing."""

    miss: float  # somebody of the gallery is called unknown
    false_alarm: float  # an unknown one is taken for somebody
    confusion: float  # somebody of the gallery is taken for somebody else

    def __post_init__(self) -> None:
        prices = (self.miss, self.false_alarm, self.confusion)
        if not all(0 <= price < float("inf") for price in prices) or not any(prices):
            raise UsageError(f"costs are numbers from 0, one of them above 0, got {prices}")


Target: TypeAlias = Fpir | F1 | Cost


def parse_target(text: str) -> Target:
    """A target as a user writes it: `fpir=0.01`, `f1` or `cost=MISS,FALSE_ALARM,CONFUSION`.

    Raises UsageError for anything else.

    >>> parse_target("cost=1,5,2")
    Cost(miss=1.0, false_alarm=5.0, confusion=2.0)
    """
    name, _, value = text.strip().lower().partition("=")
    try:
        numbers = [float(part) for part in value.split(",")] if value else []
    except ValueError:
        numbers = []
    if name == "fpir" and len(numbers) == 1:
        return Fpir(numbers[0])
    if name == "f1" and "=" not in text:
        return F1()
    if name == "cost" and len(numbers) == 3:
        return Cost(*numbers)
    raise UsageError(f"a target is fpir=RATE, f1 or cost=MISS,FALSE_ALARM,CONFUSION (as cost=1,5,2), got {text!r}")


class Sweep(NamedTuple):
    """What each threshold gives, from the one that accepts everything to the one that accepts nothing."""

    thresholds: Floats  # [C] ascending
    fpir: Floats  # [C] share of unknown people taken for somebody; NaN where there are none
    dir: Floats  # [C] share of known people taken for themselves; NaN where there are none
    miss: Floats  # [C] share of known people called unknown
    confusion: Floats  # [C] share of known people taken for others
    accuracy: Floats  # [C] share of answers that are right, "unknown" for unknown people among them
    macro_f1: Floats  # [C] as `open_set.classified` has it at that threshold


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A threshold, and why."""

    threshold: float  # finite; the least score that is accepted
    at: int  # its place in the sweep
    sweep: Sweep
    known: int  # held-out answers about people of the gallery
    unknown: int  # and about all others


def choose_threshold(
    scores: ArrayLike, *, predicted: Labels, truth: Labels, target: Target, enrolled: Labels | None = None
) -> Chosen:
    """The best threshold for held-out answers: the lowest that keeps an FPIR, else the highest of equally good ones.

    scores [N]: finite, of the best label of the gallery, `predicted`. truth: "" or negative for unknown people; where
    `enrolled` (the gallery's labels) is given, everybody else is unknown too, and all of them are one class.
    Raises ValueError for lists of different lengths, no answers, scores that are not finite, an answer that names
    nobody, and an FPIR where nobody is unknown.
    """
    answers = _Answers.of(scores, predicted=predicted, truth=truth, enrolled=enrolled)
    sweep = answers.sweep()
    return Chosen(
        threshold=float(sweep.thresholds[(at := _best(sweep, answers, target))]),
        at=at,
        sweep=sweep,
        known=answers.known,
        unknown=answers.unknown,
    )


def choose_by_view(
    scores: ArrayLike,
    *,
    predicted: Labels,
    truth: Labels,
    views: Labels,
    target: Target,
    enrolled: Labels | None = None,
    fewest: int = FEWEST,
) -> dict[str, Chosen]:
    """A threshold for all answers together, under "", and one for each view that has enough of its own.

    Enough are `fewest` answers about known people and as many about unknown ones; for an FPIR also as many unknown
    ones as it takes to see that rate at all: 100 for 0.01. Every other view is to use the one for all; `threshold_of`
    does so. Raises ValueError as `choose_threshold` does.
    """
    values, names = np.asarray(scores, np.float64), np.asarray(views, np.str_)
    found, true = np.asarray(predicted), np.asarray(truth)
    if names.shape != values.shape:
        raise ValueError(f"views must be one a score, {values.size}, got {names.size}")
    chosen = {POOLED: choose_threshold(values, predicted=found, truth=true, target=target, enrolled=enrolled)}
    stranger = ~_is_known(true, enrolled)
    for name in np.unique(names[names != POOLED]).tolist():
        own = names == name
        if (own & ~stranger).sum() >= fewest and (own & stranger).sum() >= _fewest_unknown(target, fewest):
            chosen[name] = choose_threshold(
                values[own], predicted=found[own], truth=true[own], target=target, enrolled=enrolled
            )
    return chosen


def threshold_of(view: str, thresholds: Mapping[str, float]) -> float:
    """The threshold of a view, or else the one for all, kept under "".

    >>> threshold_of("top", {"": 0.5, "side": 0.6})
    0.5
    """
    return thresholds[view] if view in thresholds else thresholds[POOLED]


def _fewest_unknown(target: Target, fewest: int) -> float:
    return max(fewest, (1 - 1e-9) / target.rate) if isinstance(target, Fpir) and target.rate > 0 else fewest


def _is_known(truth: Labels, enrolled: Labels | None) -> NDArray[np.bool_]:
    true, gallery = encoded(truth, truth if enrolled is None else enrolled).codes
    known: NDArray[np.bool_] = (true != UNKNOWN) & np.isin(true, gallery)
    return known


def _best(sweep: Sweep, answers: _Answers, target: Target) -> int:
    if isinstance(target, Fpir):
        if not answers.unknown:
            raise ValueError("there are no answers about unknown people, so no threshold follows from an FPIR")
        accepted = np.rint(sweep.fpir * answers.unknown)
        return int(np.argmax(accepted <= allowed(target.rate, count=answers.unknown)))
    if isinstance(target, F1):
        gain = sweep.macro_f1
    else:
        known = sweep.miss * target.miss + sweep.confusion * target.confusion
        gain = -(_weighted(known, answers.known) + _weighted(sweep.fpir * target.false_alarm, answers.unknown))
        gain = gain / (answers.known + answers.unknown)
    best = np.flatnonzero(np.round(gain, _EQUAL) == np.round(gain, _EQUAL).max())
    return int(best[-1])


def _weighted(shares: Floats, count: int) -> Floats:
    return shares * count if count else np.zeros_like(shares)  # shares of nobody are NaN


class _Answers(NamedTuple):
    """Answers in falling order of their scores: at the k-th candidate the first `taken[k]` of them are accepted."""

    scores: Floats  # [N]
    predicted: NDArray[np.int64]  # [N] codes
    truth: NDArray[np.int64]  # [N] codes, UNKNOWN for all who are not in the gallery
    taken: NDArray[np.int64]  # [C] rising

    @classmethod
    def of(cls, scores: ArrayLike, *, predicted: Labels, truth: Labels, enrolled: Labels | None) -> _Answers:
        values = np.asarray(scores, np.float64)
        found, true = encoded(predicted, truth).codes
        if values.shape != found.shape or values.shape != true.shape:
            raise ValueError(f"lists must be of one length, got {values.size}, {found.size} and {true.size}")
        if not values.size:
            raise ValueError("a threshold cannot be chosen without answers")
        if not np.isfinite(values).all():
            raise ValueError(f"scores must be finite, got {values[~np.isfinite(values)][0]}")
        if (found == UNKNOWN).any():
            raise ValueError("answers must name somebody of the gallery; what is unknown is for the threshold to say")
        true = np.where(_is_known(truth, enrolled), true, UNKNOWN)
        order = np.argsort(-values, kind="stable")
        values = values[order]
        ends = np.append(np.flatnonzero(np.diff(values)) + 1, values.size)
        return cls(values, found[order], true[order], np.append(0, ends))

    @property
    def known(self) -> int:
        return int((self.truth != UNKNOWN).sum())

    @property
    def unknown(self) -> int:
        return self.truth.size - self.known

    def sweep(self) -> Sweep:
        stranger, right = self.truth == UNKNOWN, self.truth == self.predicted
        alarms, hits = self._until(stranger), self._until(right)
        misses = self.known - self._until(~stranger)
        confused = self._until(~stranger & ~right)
        total = self.truth.size
        figures = (
            self._thresholds(),
            _share(alarms, self.unknown),
            _share(hits, self.known),
            _share(misses, self.known),
            _share(confused, self.known),
            (hits + self.unknown - alarms) / total,
            self._macro_f1(),
        )
        return Sweep(*(figure[::-1] for figure in figures))

    def _until(self, which: NDArray[Any]) -> Floats:
        """The sum of what is accepted at each candidate."""
        return np.append(0.0, np.cumsum(which))[self.taken]

    def _thresholds(self) -> Floats:
        """In the middle between the last score that is accepted and the first that is not."""
        lowest = self.scores[self.taken[1:] - 1]
        middle = lowest[:-1] + (lowest[1:] - lowest[:-1]) / 2
        middle = np.where(middle > lowest[1:], middle, lowest[:-1])  # next to each other as floats
        above = np.nextafter(np.float32(self.scores[0]), np.float32(np.inf))
        return np.concatenate([[max(float(above), np.nextafter(self.scores[0], np.inf))], middle, lowest[-1:]])

    def _macro_f1(self) -> Floats:
        """Macro F1 at each candidate, from what each further answer changes.

        Accepting an answer moves it from "unknown" to its label: two classes change, so the sum over classes is a
        running sum, and all candidates together cost one sort.
        """
        changes, appears = self._changes()
        taken = np.arange(self.truth.size + 1)
        stranger = self.truth == UNKNOWN
        unknown_right = self.unknown - np.append(0, np.cumsum(stranger))
        size = self.unknown + (self.truth.size - taken)  # support and predicted
        of_unknown = 2 * unknown_right / np.maximum(size, 1)
        among = np.unique(self.truth[~stranger]).size + np.append(0, np.cumsum(appears)) + (size > 0)
        total = np.append(0.0, np.cumsum(changes)) + of_unknown
        figures: Floats = (total / among)[self.taken]
        return figures

    def _changes(self) -> tuple[Floats, NDArray[np.bool_]]:
        """What each accepted answer adds to the F1 of its label, and whether that label was in no list before."""
        order = np.argsort(self.predicted, kind="stable")
        label, right = self.predicted[order], (self.truth == self.predicted)[order]
        first = np.flatnonzero(np.diff(label, prepend=-2))
        start = np.repeat(first, np.diff(np.append(first, label.size)))
        so_far = np.append(0, np.cumsum(right))
        hits = so_far[1:] - so_far[start]
        named = np.arange(label.size) - start + 1
        support = np.bincount(self.truth[self.truth != UNKNOWN], minlength=int(label.max()) + 1)[label]
        after = 2 * hits / (named + support)
        before = np.append(0.0, after[:-1])
        before[first] = 0.0
        changes, appears = np.empty(label.size), np.zeros(label.size, np.bool_)
        changes[order] = after - before
        appears[order[first]] = support[first] == 0
        return changes, appears


def _share(counts: Floats, total: int) -> Floats:
    return counts / total if total else np.full(counts.shape, np.nan)
