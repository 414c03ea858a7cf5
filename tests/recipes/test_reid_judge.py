"""What an embedder is judged by on held-out crops: every figure counted anew, by loops that look at all pairs."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from lightmill.data.folds import Fold, open_set_folds
from lightmill.ops.crop_quality import covered, quality
from lightmill.ops.open_set import oscr
from lightmill.ops.thresholds import parse_target
from lightmill.recipes.reid_judge import Answers, Judge, choose, rate_of, spread_rows

Floats = NDArray[np.float64]


def a_table(players: int = 6, sessions: int = 4, frames: int = 4, seed: int = 0) -> pl.DataFrame:
    """A pack's columns: everybody in every frame of two views; some background, and a box that nobody knows."""
    rng = np.random.default_rng(seed)
    rows = []
    for session, frame, view in product(range(sessions), range(frames), ("side", "top")):
        where = {"frame": f"{session}-{view}-{frame}.jpg", "group": f"s{session}", "view": view, "time": float(frame)}
        boxes = np.stack([60.0 * np.arange(players) + rng.uniform(0, 20, players), rng.uniform(0, 5, players)], 1)
        for player, (x, y) in enumerate(boxes.tolist()):
            size = {"w": float(rng.uniform(20, 50)), "h": float(rng.uniform(50, 90))}
            rows.append({"kind": "player", "label": f"p{player}", "x": x, "y": y, **size, **where})
        rows.append({"kind": "background", "label": "", "x": 0.0, "y": 150.0, "w": 30.0, "h": 60.0, **where})
    rows.append(rows[0] | {"label": "", "x": 500.0})
    return pl.DataFrame(rows)


def a_fold(table: pl.DataFrame, unknown: int = 2) -> Fold:
    return open_set_folds(table, folds=2, unknown_per_fold=unknown)[0]


def some_embeddings(judge: Judge, noise: float, seed: int = 0) -> NDArray[np.float32]:
    """[M, 8] of length 1: around a centre for each player, known or not."""
    rng = np.random.default_rng(seed)
    centres = {name: rng.normal(size=8) for name in np.unique(judge.people).tolist()}
    found = np.array([centres[name] for name in judge.people.tolist()]) + rng.normal(0, noise, (len(judge.rows), 8))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


# --- the figures -----------------------------------------------------------------------------------------------------


def looped_oscr(answers: Answers) -> float:
    """Over all pairs of somebody known and somebody unknown: named rightly, and above; ties count half."""
    won = pairs = 0.0
    for (score, name, truth), (other, _, stranger) in product(
        *[list(zip(answers.scores, answers.nearest, answers.truth, strict=True))] * 2
    ):
        if truth and not stranger:
            pairs += 1
            won += (name == truth) * ((score > other) + (score == other) / 2)
    return won / pairs


def looped_dir(answers: Answers, fpir: float) -> float:
    """The highest share of right answers at any threshold that lets at most `fpir` of the unknown pass."""
    known, best = answers.truth != "", 0.0
    for threshold in [*np.unique(answers.scores), np.inf]:
        passed = answers.scores >= threshold
        if passed[~known].mean() <= fpir:
            best = max(best, float((passed & (answers.nearest == answers.truth))[known].mean()))
    return best


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_double_loops(seed: int, levels: int) -> None:
    """`levels`: scores that tie."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(["a", "b", ""], 60)
    scores = rng.uniform(size=60) + 0.3 * (truth != "")
    answers = Answers(
        scores=np.round(scores * levels) / levels if levels else scores,
        nearest=np.where(rng.random(60) < 0.7, np.where(truth == "", "a", truth), "b"),
        truth=truth,
        views=np.full(60, "side"),
    )
    told = answers.figures(fpir=0.1)
    assert told["oscr"] == pytest.approx(looped_oscr(answers))
    assert told["dir"] == pytest.approx(looped_dir(answers, 0.1))
    assert told["rank_1"] == pytest.approx(np.mean([n == t for n, t in zip(answers.nearest, truth, strict=True) if t]))


def test_oscr_of_the_best_and_the_worst() -> None:
    perfect = {"predicted": ["a", "b", "a"], "truth": ["a", "b", ""]}
    assert oscr([0.9, 0.8, 0.1], **perfect) == 1
    assert oscr([0.1, 0.2, 0.9], **perfect) == 0
    assert oscr([0.9, 0.8, 0.1], predicted=["b", "a", "a"], truth=["a", "b", ""]) == 0
    assert np.isnan(oscr([0.9], predicted=["a"], truth=["a"]))


def test_an_embedder_that_accepts_everybody_is_worth_nothing() -> None:
    """A4.8: who takes every unknown for player 0 does not look good: unknown is a class of its own, and no player."""
    truth = np.array(["0"] * 20 + [""] * 80)
    answers = Answers(scores=np.ones(100), nearest=np.full(100, "0"), truth=truth, views=np.full(100, "side"))
    told = answers.figures()
    assert told["rank_1"] == 1
    assert (told["dir"], told["auroc"], told["oscr"]) == (0, 0.5, 0.5)


def test_of_nobody_unknown_only_the_closed_figures_are_told() -> None:
    answers = Answers(
        scores=np.array([0.9, 0.5]),
        nearest=np.array(["a", "b"]),
        truth=np.array(["a", "a"]),
        views=np.array(["side", "top"]),
    )
    assert answers.figures() == {"rank_1": 0.5}
    strangers = Answers(scores=answers.scores, nearest=answers.nearest, truth=np.array(["", ""]), views=answers.views)
    assert np.isnan(strangers.figures()["rank_1"])


def test_the_rate_is_that_of_the_target() -> None:
    assert [rate_of(parse_target(text)) for text in ("fpir=0.05", "f1", "cost=1,2,3")] == [0.05, 0.01, 0.01]


# --- the crops -------------------------------------------------------------------------------------------------------


def test_a_judge_has_the_gallery_of_training_and_held_out_crops_alone() -> None:
    """A4.4 and A4.9: nothing that is judged was trained on, and the gallery is what was."""
    table = a_table()
    fold = a_fold(table)
    judge = Judge.of(table, fold, most=3)
    gallery, held = judge.rows[: judge.gallery], judge.rows[judge.gallery :]
    assert set(gallery.tolist()) <= set(fold.train.tolist())
    assert held.tolist() == [*fold.val_known.tolist(), *fold.val_unknown.tolist()]
    assert not set(table["group"][gallery.tolist()]) & set(table["group"][held.tolist()])
    assert set(judge.people[: judge.gallery]) & set(fold.unknown_labels) == set()
    unknown = np.isin(judge.people, fold.unknown_labels)
    assert (judge.labels == np.where(unknown, "", judge.people)).all()
    assert judge.is_open
    assert not Judge.of(table, a_fold(table, unknown=0)).is_open


def test_the_gallery_is_spread_evenly_over_players_and_views() -> None:
    table = a_table()
    people, views = (table[name].to_numpy().astype(np.str_) for name in ("label", "view"))
    rows = np.flatnonzero(people != "")
    kept = spread_rows(rows, people=people, views=views, most=5)
    for who, view in product(np.unique(people[rows]), ("side", "top")):
        own = rows[(people[rows] == who) & (views[rows] == view)]
        places = np.flatnonzero(np.isin(own, kept))
        assert len(places) == 5
        assert np.diff(places).max() - np.diff(places).min() <= 1
    assert (np.diff(kept) > 0).all()
    assert spread_rows(rows, people=people, views=views, most=10**6).tolist() == rows.tolist()


def test_a_quick_look_takes_the_same_share_of_known_and_unknown() -> None:
    table = a_table()
    fold = a_fold(table)
    judge = Judge.of(table, fold, held=30)
    truth = judge.labels[judge.gallery :]
    share = 30 / (len(fold.val_known) + len(fold.val_unknown))
    assert (truth != "").sum() == np.ceil(share * len(fold.val_known))
    assert (truth == "").sum() == np.ceil(share * len(fold.val_unknown))


def nearest_points(judge: Judge, embeddings: NDArray[np.float32], own: Floats, view: str) -> dict[str, float]:
    """Label -> cosine to the weighted mean of its crops in that view, by loops."""
    found = {}
    for name in sorted(set(judge.labels[: judge.gallery].tolist())):
        mean = np.zeros(embeddings.shape[1])
        for at in range(judge.gallery):
            if judge.labels[at] == name and judge.views[at] == view:
                mean += embeddings[at].astype(np.float64) * judge.worth[at]
        found[name] = float(own @ mean / np.linalg.norm(mean))
    return found


def test_each_crop_gets_the_nearest_of_all_points() -> None:
    table = a_table()
    judge = Judge.of(table, a_fold(table), most=4)
    embeddings = some_embeddings(judge, 0.6)
    answers = judge.of_crops(embeddings)
    for at in range(len(answers.scores)):
        place = judge.gallery + at
        scores = nearest_points(judge, embeddings, embeddings[place].astype(np.float64), judge.views[place])
        assert answers.nearest[at] == max(scores, key=lambda name: scores[name])
        assert answers.scores[at] == pytest.approx(max(scores.values()))
        assert (answers.truth[at], answers.views[at]) == (judge.labels[place], judge.views[place])


def test_crops_count_by_their_quality_among_all_boxes_of_their_frame() -> None:
    """Also those that are not judged: they may cover others."""
    table = a_table()
    judge = Judge.of(table, a_fold(table), most=2)
    boxes = table.select("x", "y", "w", "h").to_numpy()
    players = (table["kind"] == "player").to_numpy()
    hidden = np.zeros(table.height)
    for at in np.flatnonzero(players).tolist():
        frame = np.flatnonzero(players & (table["frame"] == table["frame"][at]).to_numpy())
        hidden[at] = covered(boxes[frame], frames=["one"] * len(frame))[frame.tolist().index(at)]
    wanted = quality(boxes[judge.rows], views=judge.views, hidden=hidden[judge.rows])
    np.testing.assert_allclose(judge.worth, wanted)
    assert np.ptp(judge.worth) > 0.1


def test_tracklets_are_judged_as_wholes() -> None:
    """Players on lanes of their own: one tracklet of each in a group and view, with the truth of its crops."""
    table = a_table()
    judge = Judge.of(table, a_fold(table), most=4)
    crops = judge.of_crops(some_embeddings(judge, 0.5))
    whole = judge.of_tracklets(some_embeddings(judge, 0.5))
    held = slice(judge.gallery, None)
    parts = {(s, p) for s, p in zip(judge.sequences[held].tolist(), judge.people[held].tolist(), strict=True)}
    assert len(whole.scores) == len(parts)
    assert (whole.truth == "").mean() == pytest.approx((crops.truth == "").mean())
    assert whole.figures()["rank_1"] >= crops.figures()["rank_1"]


def test_closed_figures_are_those_of_ranked_lists() -> None:
    table = a_table()
    judge = Judge.of(table, a_fold(table), most=4)
    embeddings = some_embeddings(judge, 0.9).astype(np.float64)
    kept = np.arange(judge.gallery)
    hits, precisions, penalties = [], [], []
    for at in range(judge.gallery, len(judge.rows)):
        if judge.labels[at]:
            cosine = embeddings[kept] @ embeddings[at]
            right = judge.labels[kept] == judge.labels[at]
            ranked = right[np.argsort(-cosine, kind="stable")]
            hits.append([ranked[:rank].any() for rank in (1, 5, 10)])
            precisions.append(average_precision_score(right, cosine))
            penalties.append(right.sum() / (np.flatnonzero(ranked)[-1] + 1))
    found = judge.retrieval(some_embeddings(judge, 0.9))
    assert [found[f"cmc_{rank}"] for rank in (1, 5, 10)] == pytest.approx(np.mean(hits, axis=0).tolist())
    assert found["mAP"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert found["mINP"] == pytest.approx(np.mean(penalties), abs=1e-6)


def test_thresholds_keep_their_rate_on_what_they_were_chosen_on() -> None:
    table = a_table(sessions=8, frames=6)
    judge = Judge.of(table, a_fold(table))
    answers = judge.of_crops(some_embeddings(judge, 0.8))
    for rate in (0.01, 0.1):
        chosen = choose(answers, parse_target(f"fpir={rate}"))
        assert (answers.scores >= chosen[""].threshold)[~answers.known].mean() <= rate
    by_view = choose(answers, parse_target("f1"))
    assert set(by_view) <= {"", "side", "top"}
