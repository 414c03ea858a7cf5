"""Open-set figures against exhaustive sweeps and scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score, roc_curve

from lightmill.ops.identities import Items
from lightmill.ops.open_set import (
    allowed,
    auroc,
    classified,
    curve,
    dir_at_fpir,
    dir_curve,
    error_rates,
    fnmr_at_fmr,
    macro_f1,
)
from lightmill.ops.pair_rates import pair_rates
from lightmill.ops.similarity import Negated

Floats = NDArray[np.float64]


class Tensors:
    """Scores as an accelerator gives them: tensors, whoever works on them."""

    on_host = False

    def __init__(self, distances: Floats) -> None:
        self.inner, self.shape = Negated(distances), (distances.shape[0], distances.shape[1])

    def rows(self, rows: slice) -> torch.Tensor:
        return torch.as_tensor(self.inner.rows(rows))


def scores_with_ties(rng: np.random.Generator, count: int, *, levels: int) -> Floats:
    return rng.integers(0, levels, count) / levels


def by_sweep(scores: Floats, predicted: Any, truth: Any, fpir: float) -> tuple[float, float]:
    """(DIR, FPIR) at the first of all candidate thresholds, ascending, that keeps the rate."""
    for threshold in [*np.unique(scores), np.inf]:
        accepted = [score >= threshold for score in scores]
        alarms = [a for a, true in zip(accepted, truth, strict=True) if true == ""]
        if sum(alarms) / len(alarms) <= fpir:
            hits = [
                a and guess == true for a, guess, true in zip(accepted, predicted, truth, strict=True) if true != ""
            ]
            return sum(hits) / len(hits), sum(alarms) / len(alarms)
    raise AssertionError


@pytest.mark.parametrize("levels", [3, 20, 10_000])
@pytest.mark.parametrize("fpir", [0.0, 0.01, 0.1, 0.29, 0.5, 1.0])
def test_dir_as_an_exhaustive_sweep(levels: int, fpir: float) -> None:
    rng = np.random.default_rng(levels)
    scores = scores_with_ties(rng, 300, levels=levels)
    truth, predicted = rng.choice(["a", "b", "c", ""], 300), rng.choice(["a", "b", "c"], 300)
    found = dir_at_fpir(scores, predicted=predicted, truth=truth, fpir=fpir)
    assert (found.dir, found.fpir) == pytest.approx(by_sweep(scores, predicted, truth, fpir), abs=1e-15)
    assert found.fpir <= fpir
    assert (found.known, found.unknown) == ((truth != "").sum(), (truth == "").sum())


def test_chance_gives_what_chance_says() -> None:
    """Scores that know nothing: DIR is the FPIR times the chance of the right name."""
    rng = np.random.default_rng(1)
    count, people = 40_000, 5
    truth = np.where(rng.random(count) < 0.5, -1, rng.integers(0, people, count))
    found = dir_at_fpir(rng.random(count), predicted=rng.integers(0, people, count), truth=truth, fpir=0.1)
    assert found.fpir == pytest.approx(0.1, abs=1e-3)
    assert found.dir == pytest.approx(0.1 / people, abs=3e-3)


def test_perfect_answers_are_found_without_a_false_alarm() -> None:
    truth = np.array(["a", "b", "", ""])
    found = dir_at_fpir([0.9, 0.8, 0.3, 0.2], predicted=["a", "b", "a", "b"], truth=truth, fpir=0)
    assert found == (0.8, 1.0, 0.0, 2, 2)


def test_a_tie_with_a_stranger_is_not_accepted() -> None:
    """No threshold parts equal scores: keeping out the stranger keeps out the player."""
    found = dir_at_fpir([0.9, 0.9], predicted=["a", "a"], truth=["a", ""], fpir=0)
    assert found == (np.inf, 0.0, 0.0, 1, 1)


def test_who_is_not_enrolled_is_unknown() -> None:
    scores, predicted, truth = [0.9, 0.8, 0.7], ["a", "a", "a"], ["b", "a", ""]
    named = dir_at_fpir(scores, predicted=predicted, truth=truth, fpir=0.5, enrolled=["a", "c"])
    assert (named.known, named.unknown, named.dir, named.fpir) == (1, 2, 1.0, 0.5)
    assert dir_at_fpir(scores, predicted=predicted, truth=truth, fpir=0.5).known == 2


def test_the_player_zero_is_not_unknown() -> None:
    """A4.8: accepting every unknown as player 0 must not score at all."""
    truth = np.array([-1] * 50 + [0] * 50)
    everybody = np.zeros(100, np.int64)
    found = classified(truth=truth, predicted=everybody)
    assert found.labels == [-1, 0]
    assert (found.accuracy, found.classes[0].f1) == (0.5, 0.0)
    assert macro_f1(truth=truth, predicted=everybody) == pytest.approx(1 / 3)
    assert dir_at_fpir(np.ones(100), predicted=everybody, truth=truth, fpir=0.5).dir == 0


def test_classes_as_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.choice(["", "1", "10", "2"], 500), rng.choice(["", "1", "10", "7"], 500)
    found = classified(truth=truth, predicted=predicted)
    assert found.labels == ["", "1", "10", "2", "7"]
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, predicted, labels=found.labels))
    assert found.accuracy == pytest.approx(np.mean(truth == predicted), abs=1e-15)
    assert found.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    options: dict[str, Any] = {"labels": found.labels, "average": None, "zero_division": 0}
    for name, wanted in (
        ("precision", precision_score(truth, predicted, **options)),
        ("recall", recall_score(truth, predicted, **options)),
        ("f1", f1_score(truth, predicted, **options)),
        ("support", [(truth == label).sum() for label in found.labels]),
        ("predicted", [(predicted == label).sum() for label in found.labels]),
    ):
        np.testing.assert_allclose([getattr(row, name) for row in found.classes], wanted, rtol=0, atol=1e-12)


def test_the_figure_of_a_set_is_not_the_mean_of_its_batches() -> None:
    """A4.7: sorted by label, a batch holds one class or two, and a wrong answer makes classes that score 0."""
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(20), 100)
    predicted = np.where(rng.random(2000) < 0.92, truth, rng.integers(0, 20, 2000))
    batches = [macro_f1(truth=truth[i : i + 32], predicted=predicted[i : i + 32]) for i in range(0, 2000, 32)]
    whole = macro_f1(truth=truth, predicted=predicted)
    assert whole == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert whole > 0.9
    assert np.mean(batches) < 0.6


def test_rates_as_counted() -> None:
    rng = np.random.default_rng(4)
    genuine, impostor = scores_with_ties(rng, 90, levels=9), scores_with_ties(rng, 70, levels=9) - 0.3
    thresholds = [-np.inf, -0.2, 0.0, 1 / 9, 0.5, 2.0]
    fmr, fnmr = error_rates(genuine, impostor, thresholds=thresholds)
    assert fmr.tolist() == [np.mean([s >= t for s in impostor]) for t in thresholds]
    assert fnmr.tolist() == [np.mean([s < t for s in genuine]) for t in thresholds]


@pytest.mark.parametrize("levels", [4, 50, 10_000])
@pytest.mark.parametrize("fmr", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_fnmr_at_fmr_as_an_exhaustive_sweep(levels: int, fmr: float) -> None:
    rng = np.random.default_rng(levels)
    genuine, impostor = scores_with_ties(rng, 80, levels=levels) + 0.2, scores_with_ties(rng, 100, levels=levels)
    wanted = min(
        (genuine < t).mean() for t in [*genuine, *impostor, np.inf] if (impostor >= t).mean() <= fmr
    )  # the lowest threshold rejects the fewest
    found = fnmr_at_fmr(genuine, impostor, fmr=fmr)
    assert found.fnmr == wanted
    assert found.fmr == (impostor >= found.threshold).mean() <= fmr


def test_fnmr_at_fmr_of_the_documented_example() -> None:
    positive, negative = -np.array([0, 0, 1, 1, 2, 2, 5, 5, 9, 9]), -np.array([3, 3, 4, 4, 6, 6, 7, 7, 8, 8])
    assert [fnmr_at_fmr(positive, negative, fmr=fmr).fnmr for fmr in (0.1, 0.5)] == [0.4, 0.2]


def test_auroc_and_curve_as_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    for levels in (5, 10_000):
        genuine, impostor = scores_with_ties(rng, 120, levels=levels) + 0.2, scores_with_ties(rng, 200, levels=levels)
        truth, scores = np.repeat([1, 0], [120, 200]), np.concatenate([genuine, impostor])
        assert auroc(genuine, impostor) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        points = curve(genuine, impostor)
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        np.testing.assert_allclose(np.unique(points.fmr), np.unique(fpr), rtol=0, atol=1e-15)
        np.testing.assert_allclose(np.unique(1 - points.fnmr), np.unique(tpr), rtol=0, atol=1e-15)
        assert (points.fmr[0], points.fnmr[0], points.fmr[-1], points.fnmr[-1]) == (1, 0, 0, 1)
        area = np.trapezoid(1 - points.fnmr[::-1], points.fmr[::-1])
        assert area == pytest.approx(auroc(genuine, impostor), abs=1e-12)


def test_scores_that_are_all_equal_are_worth_nothing() -> None:
    assert auroc(np.ones(5), np.ones(7)) == 0.5


def test_nothing_to_count() -> None:
    found = classified(truth=[], predicted=[])
    assert (found.labels, found.classes, found.confusion.shape) == ([], [], (0, 0))
    assert np.isnan([found.accuracy, found.macro_f1, auroc([], [1]), auroc([1], [])]).all()
    assert np.isnan(error_rates([], [], thresholds=[0.5])).all()
    assert np.isnan(dir_at_fpir([0.1], predicted=["a"], truth=[""], fpir=1).dir)


def test_answers_without_anybody() -> None:
    """A query for which the gallery had nothing: -inf, rejected by every threshold that is a score."""
    found = dir_at_fpir([0.9, -np.inf, -np.inf], predicted=["a", "", ""], truth=["a", "b", ""], fpir=0)
    assert (found.threshold, found.dir) == (0.9, 0.5)


def test_several_rates_at_once() -> None:
    rates = [
        found.fpir for found in dir_curve([0.4, 0.3, 0.2], predicted=[1, 1, 1], truth=[-1, -1, 1], fpirs=[0, 0.5, 1])
    ]
    assert rates == [0, 0.5, 1]


def test_a_share_counts_as_it_is_written() -> None:
    assert [allowed(rate, count=100) for rate in np.arange(101) / 100] == list(range(101))
    assert allowed(0.0099, count=100) == 0


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="one length, got truth 2, predicted 1"):
        classified(truth=["a", "b"], predicted=["a"])
    with pytest.raises(ValueError, match="one length, got scores 1, predicted 2, truth 2"):
        dir_at_fpir([0.1], predicted=["a", "b"], truth=["a", ""], fpir=0.1)
    with pytest.raises(ValueError, match="no queries of unknown people"):
        dir_at_fpir([0.1], predicted=["a"], truth=["a"], fpir=0.1)
    with pytest.raises(ValueError, match=r"a rate must be from 0 to 1, got 1\.5"):
        dir_at_fpir([0.1], predicted=["a"], truth=[""], fpir=1.5)
    with pytest.raises(ValueError, match="no impostor pairs"):
        fnmr_at_fmr([0.1], [], fmr=0.1)
    with pytest.raises(ValueError, match="needs genuine pairs"):
        fnmr_at_fmr([], [0.1], fmr=0.1)
    with pytest.raises(ValueError, match="impostor must be numbers, got NaN at place 1"):
        auroc([0.1], [0.2, np.nan])
    with pytest.raises(ValueError, match="genuine must be a list of numbers"):
        auroc([[0.1]], [0.2])


@pytest.mark.parametrize("kind", ["host", "device"])
@pytest.mark.parametrize("memory_bytes", [1, 30_000, 2**28])
def test_rates_of_all_pairs_as_a_loop(kind: str, memory_bytes: int) -> None:
    rng = np.random.default_rng(8)
    distances = rng.integers(0, 12, (30, 40)) / 8  # thresholds fall on scores
    labels, others = rng.choice(["a", "b", ""], 30), rng.choice(["a", "b", ""], 40)
    tracks, other_tracks = rng.choice(["s", "t"], 30), rng.choice(["s", "t"], 40)
    exclude = rng.integers(-1, 40, 30)
    genuine, impostor = [], []
    for i, j in np.ndindex(30, 40):
        if "" in (labels[i], others[j]) or exclude[i] == j:
            continue
        if labels[i] != others[j]:
            impostor.append(-distances[i, j])
        elif tracks[i] != other_tracks[j]:
            genuine.append(-distances[i, j])
    thresholds = np.array([-np.inf, -1.0, -0.5, -0.05, 0.0, np.inf])
    found = pair_rates(
        Negated(distances) if kind == "host" else Tensors(distances),
        queries=Items(labels=labels, tracks=tracks),
        gallery=Items(labels=others, tracks=other_tracks),
        thresholds=thresholds,
        exclude=exclude,
        memory_bytes=memory_bytes,
    )
    fmr, fnmr = error_rates(genuine, impostor, thresholds=thresholds)
    assert (found.genuine, found.impostor) == (len(genuine), len(impostor))
    np.testing.assert_array_equal(found.fmr, fmr)
    np.testing.assert_array_equal(found.fnmr, fnmr)
    with pytest.raises(ValueError, match="thresholds must be a list of numbers"):
        pair_rates(Negated(distances), queries=Items(labels=labels), gallery=Items(labels=others), thresholds=[np.nan])


def test_rates_of_no_pairs() -> None:
    nobody = Items(labels=["", ""])
    found = pair_rates(Negated(np.zeros((2, 2))), queries=nobody, gallery=nobody, thresholds=[0.5])
    assert (found.genuine, found.impostor) == (0, 0)
    assert np.isnan([*found.fmr, *found.fnmr]).all()
