"""Thresholds against a sweep that counts everything anew at every candidate."""

import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from numpy.typing import NDArray

from lightmill.errors import UsageError
from lightmill.ops.open_set import classified, dir_at_fpir
from lightmill.ops.threshold_plot import threshold_svg
from lightmill.ops.thresholds import F1, Cost, Fpir, choose_by_view, choose_threshold, parse_target, threshold_of

Answers = dict[str, Any]


def answers(seed: int, *, count: int = 120, levels: int = 10_000, people: int = 4, skill: float = 0.4) -> Answers:
    """Held-out answers; right ones score higher by `skill`. The last label of the gallery is in no truth."""
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(people + 1)]
    truth = rng.choice(["", *names[:-1]], count)
    predicted = np.where((rng.random(count) < 0.6) & (truth != ""), truth, rng.choice(names, count))
    scores = np.floor((rng.random(count) * 0.5 + skill * (truth == predicted)) * levels) / levels
    return {"scores": scores, "predicted": predicted, "truth": truth}


def called(found: Answers, threshold: float) -> NDArray[np.str_]:
    """What would be said at a threshold."""
    names: NDArray[np.str_] = np.where(found["scores"] >= threshold, found["predicted"], "")
    return names


def counted(found: Answers, threshold: float) -> dict[str, float]:
    truth, said = found["truth"], called(found, threshold)
    known = truth != ""
    return {
        "fpir": float((said[~known] != "").mean()),
        "dir": float((said[known] == truth[known]).mean()),
        "miss": float((said[known] == "").mean()),
        "confusion": float(((said[known] != "") & (said[known] != truth[known])).mean()),
        "accuracy": float((said == truth).mean()),
        "macro_f1": classified(truth=truth, predicted=said).macro_f1,
    }


@pytest.mark.parametrize("levels", [6, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sweep_is_every_candidate_counted_anew(seed: int, levels: int) -> None:
    """A4.11: all thresholds, not five."""
    found = answers(seed, levels=levels)
    sweep = choose_threshold(**found, target=F1()).sweep
    assert len(sweep.thresholds) == len(np.unique(found["scores"])) + 1
    assert (np.diff(sweep.thresholds) > 0).all()
    for place, threshold in enumerate(sweep.thresholds):
        for name, value in counted(found, threshold).items():
            assert getattr(sweep, name)[place] == pytest.approx(value, abs=1e-12), (name, place)


def test_the_sweep_without_anybody_unknown() -> None:
    """Where all is accepted nobody is called unknown, and there is no such class."""
    found = answers(5, count=40)
    known = found["truth"] != ""
    found = {name: values[known] for name, values in found.items()}
    sweep = choose_threshold(**found, target=F1()).sweep
    for place, threshold in enumerate(sweep.thresholds):
        wanted = classified(truth=found["truth"], predicted=called(found, threshold)).macro_f1
        assert sweep.macro_f1[place] == pytest.approx(wanted, abs=1e-12)


def test_of_equally_good_thresholds_the_highest() -> None:
    prices = Cost(miss=1, false_alarm=1, confusion=1)
    chosen = choose_threshold([0.9, 0.5, 0.3], predicted=["a"] * 3, truth=["a", "", "a"], target=prices)
    assert chosen.threshold == pytest.approx(0.7)  # one mistake, as where all is accepted


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_all_is_chosen(seed: int) -> None:
    found = answers(seed)
    candidates = [*np.unique(found["scores"]), 2.0]
    f1 = choose_threshold(**found, target=F1())
    assert counted(found, f1.threshold)["macro_f1"] == pytest.approx(
        max(counted(found, t)["macro_f1"] for t in candidates), abs=1e-12
    )
    prices = Cost(miss=1, false_alarm=5, confusion=2)
    known, unknown = (found["truth"] != "").sum(), (found["truth"] == "").sum()

    def cost(threshold: float) -> float:
        at = counted(found, threshold)
        return float((at["miss"] + 2 * at["confusion"]) * known + 5 * at["fpir"] * unknown)

    chosen = choose_threshold(**found, target=prices)
    assert cost(chosen.threshold) == pytest.approx(min(map(cost, candidates)), abs=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("levels", [6, 10_000])
def test_an_fpir_is_kept_with_the_highest_dir(rate: float, levels: int) -> None:
    found = answers(3, levels=levels)
    chosen = choose_threshold(**found, target=Fpir(rate))
    at, wanted = counted(found, chosen.threshold), dir_at_fpir(**found, fpir=rate)
    assert (at["fpir"], at["dir"]) == pytest.approx((wanted.fpir, wanted.dir), abs=1e-12)
    assert chosen.sweep.fpir[chosen.at] <= rate


def test_the_threshold_lies_in_the_middle_of_its_gap() -> None:
    scores, predicted, truth = np.float32([0.9, 0.8, 0.5, 0.3]), ["a"] * 4, ["a", "a", "", ""]
    chosen = choose_threshold(scores, predicted=predicted, truth=truth, target=Fpir(0.0))
    assert chosen.threshold == pytest.approx(0.65)
    assert json.loads(json.dumps(chosen.threshold)) == chosen.threshold


def test_scores_next_to_each_other_are_still_parted() -> None:
    low = np.float64(0.5)
    scores = [np.nextafter(low, 1), low]
    chosen = choose_threshold(scores, predicted=["a", "a"], truth=["a", ""], target=Fpir(0.0))
    assert low < chosen.threshold <= scores[0]


def test_where_nothing_may_be_accepted_the_threshold_is_a_number() -> None:
    for dtype in (np.float32, np.float64):
        scores = np.array([0.1, 0.9], dtype)
        chosen = choose_threshold(scores, predicted=["a", "a"], truth=["a", ""], target=Fpir(0.0))
        assert np.isfinite(chosen.threshold)
        assert not (scores >= chosen.threshold).any()


def test_perfect_answers() -> None:
    found = {"scores": [0.9, 0.8, 0.2], "predicted": ["a", "b", "a"], "truth": ["a", "b", ""]}
    for target in (Fpir(0.0), F1(), Cost(miss=1, false_alarm=1, confusion=1)):
        chosen = choose_threshold(**found, target=target)
        assert chosen.threshold == 0.5
        assert (chosen.sweep.dir[chosen.at], chosen.sweep.fpir[chosen.at], chosen.sweep.macro_f1[chosen.at]) == (
            1,
            0,
            1,
        )


def test_accepting_all_as_player_zero_is_not_chosen() -> None:
    """A4.8: were unknown and player 0 one class, a threshold of 0 would score 1.0."""
    truth = np.array([-1] * 40 + [0] * 40)
    scores = np.concatenate([np.linspace(0, 0.4, 40), np.linspace(0.6, 1, 40)])
    chosen = choose_threshold(scores, predicted=np.zeros(80, np.int64), truth=truth, target=F1())
    assert 0.4 < chosen.threshold < 0.6
    assert chosen.sweep.macro_f1[0] == pytest.approx(1 / 3)


def test_who_is_not_enrolled_is_unknown() -> None:
    found = answers(7)
    gone = np.where(found["truth"] == "p1", "", found["truth"])
    enrolled = ["p0", "p2", "p3", "p4"]
    named = choose_threshold(**found, target=F1(), enrolled=enrolled)
    blank = choose_threshold(found["scores"], predicted=found["predicted"], truth=gone, target=F1())
    assert named.threshold == blank.threshold
    np.testing.assert_array_equal(named.sweep.macro_f1, blank.sweep.macro_f1)


def test_a_view_has_its_own_threshold_where_it_has_enough() -> None:
    one, two = answers(1, count=400), answers(2, count=400)
    both = {name: np.concatenate([one[name], two[name]]) for name in one}
    both["scores"][400:] += 1  # another camera, other scores
    views = np.repeat(["side", "top"], 400)
    chosen = choose_by_view(**both, views=views, target=F1())
    assert sorted(chosen) == ["", "side", "top"]
    assert chosen["side"].threshold == choose_threshold(**one, target=F1()).threshold
    assert chosen["top"].threshold == pytest.approx(choose_threshold(**two, target=F1()).threshold + 1)
    assert chosen[""].known + chosen[""].unknown == 800


def test_a_view_with_too_few_answers_falls_back() -> None:
    found = answers(4, count=500)
    views = np.array(["top"] * 40 + ["side"] * 460)
    chosen = choose_by_view(**found, views=views, target=F1())
    assert sorted(chosen) == ["", "side"]
    thresholds = {view: choice.threshold for view, choice in chosen.items()}
    assert threshold_of("top", thresholds) == chosen[""].threshold
    assert threshold_of("side", thresholds) == chosen["side"].threshold


def test_a_rate_must_be_seen_by_a_view() -> None:
    """One in a hundred takes a hundred unknown answers: with fewer the view uses the threshold for all."""
    scores, truth = np.linspace(0, 1, 300), np.array([""] * 100 + ["a"] * 200)
    for strangers, own in ((100, True), (99, False)):
        truth[:100] = [""] * strangers + ["a"] * (100 - strangers)
        chosen = choose_by_view(scores, predicted=["a"] * 300, truth=truth, views=["v"] * 300, target=Fpir(0.01))
        assert ("v" in chosen) == own


@pytest.mark.parametrize(
    ("text", "target"),
    [("fpir=0.01", Fpir(0.01)), (" F1 ", F1()), ("cost=1,5,2.5", Cost(miss=1, false_alarm=5, confusion=2.5))],
)
def test_targets_as_written(text: str, target: Any) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("f2", "a target is fpir=RATE"),
        ("f1=1", "a target is fpir=RATE"),
        ("fpir", "a target is fpir=RATE"),
        ("fpir=a", "a target is fpir=RATE"),
        ("cost=1,2", "a target is fpir=RATE"),
        ("fpir=1.5", r"a share from 0 to 1, got 1\.5"),
        ("fpir=nan", "a share from 0 to 1, got nan"),
        ("cost=0,0,0", "one of them above 0"),
        ("cost=1,-1,0", "numbers from 0"),
    ],
)
def test_targets_that_are_none(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_target(text)


def test_answers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="without answers"):
        choose_threshold([], predicted=[], truth=[], target=F1())
    with pytest.raises(ValueError, match="one length, got 1, 2 and 2"):
        choose_threshold([0.1], predicted=["a", "b"], truth=["a", "b"], target=F1())
    with pytest.raises(ValueError, match="scores must be finite, got -inf"):
        choose_threshold([-np.inf], predicted=["a"], truth=["a"], target=F1())
    with pytest.raises(ValueError, match="must name somebody"):
        choose_threshold([0.1], predicted=[""], truth=["a"], target=F1())
    with pytest.raises(ValueError, match="no answers about unknown people"):
        choose_threshold([0.1], predicted=["a"], truth=["a"], target=Fpir(0.1))
    with pytest.raises(ValueError, match="views must be one a score, 1, got 2"):
        choose_by_view([0.1], predicted=["a"], truth=["a"], views=["x", "y"], target=F1())


def test_only_known_people() -> None:
    """Nobody unknown is held out: F1 and costs say to accept all that is right."""
    scores, predicted = [0.9, 0.5], ["a", "b"]
    for target in (F1(), Cost(miss=1, false_alarm=1, confusion=1)):
        chosen = choose_threshold(scores, predicted=predicted, truth=["a", "b"], target=target)
        assert chosen.threshold == 0.5
        assert np.isnan(chosen.sweep.fpir).all()


@pytest.mark.parametrize("scheme", ["auto", "light", "dark"])
def test_the_plot_shows_both_kinds_and_the_line(scheme: str) -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(0.7, 0.1, 400), rng.normal(0.3, 0.1, 100)
    svg = threshold_svg(known, unknown, threshold=0.5, title="view <top>", scheme=scheme)
    root = ET.fromstring(svg)
    texts = " ".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "threshold 0.500" in texts
    assert "view <top>" in texts
    assert f"known people: {(known >= 0.5).mean():.1%} of 400 accepted" in texts
    assert ("prefers-color-scheme" in svg) == (scheme == "auto")
    cut = next(node for node in root.iter() if node.get("class") == "cut")
    at = float(re.match(r"M([\d.]+) ", cut.get("d", "")).group(1))  # type: ignore[union-attr]  # the test fails on None
    ticks = {
        float(node.text or "nan"): float(node.get("x", "nan"))
        for node in root.iter("{http://www.w3.org/2000/svg}text")
        if node.get("text-anchor") == "middle"
    }
    assert at == pytest.approx((ticks[0.4] + ticks[0.6]) / 2, abs=0.2)


def test_the_plot_of_one_kind_alone() -> None:
    svg = threshold_svg([0.5, 0.5], [], threshold=0.5)
    assert "unknown people: none" in svg
    assert svg.count('class="area') == 1


def test_what_cannot_be_plotted() -> None:
    with pytest.raises(ValueError, match="scores of unknown people must be finite, got inf"):
        threshold_svg([0.5], [np.inf], threshold=0.5)
    with pytest.raises(ValueError, match="needs scores and a finite threshold"):
        threshold_svg([], [], threshold=0.5)
    with pytest.raises(ValueError, match="needs scores and a finite threshold"):
        threshold_svg([0.1], [], threshold=np.inf)
    with pytest.raises(ValueError, match="scheme is auto, light or dark"):
        threshold_svg([0.1], [], threshold=0.1, scheme="blue")
