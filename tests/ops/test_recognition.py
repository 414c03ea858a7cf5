"""Galleries and who is who: held against plain loops, sklearn's k-means, and all ways to give labels."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightmill.ops.recognition import (
    Gallery,
    mean_thresholds,
    recognise,
    tracklet_embeddings,
)
from lightmill.ops.thresholds import threshold_of

Floats = NDArray[np.float64]


def unit(points: Floats) -> Floats:
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def crops_of(seed: int, count: int = 120, labels: int = 4) -> tuple[Floats, NDArray[np.str_], NDArray[np.str_], Floats]:
    """Embeddings around one point a label and view, their labels ("" for some), views and weights."""
    rng = np.random.default_rng(seed)
    who, where = rng.integers(-1, labels, count), rng.integers(0, 2, count)
    centres = unit(rng.normal(size=(labels + 1, 2, 16)))
    names = np.where(who < 0, "", np.char.add("p", who.astype(str)))
    return (
        unit(centres[who, where] + 0.1 * rng.normal(size=(count, 16))),
        names,
        np.array(["side", "top"])[where],
        rng.uniform(0.1, 1, count),
    )


# --- means -----------------------------------------------------------------------------------------------------------


def test_tracklets_are_weighted_means_of_length_one() -> None:
    """A4.24: what is averaged is brought back to length 1; a poor crop counts little."""
    rng = np.random.default_rng(1)
    points, weights = unit(rng.normal(size=(30, 8))), rng.uniform(0.1, 1, 30)
    place = np.concatenate([np.arange(5), rng.integers(0, 5, 25)])
    found = tracklet_embeddings(points, place, weights)
    for one in range(5):
        total = sum(weights[i] * points[i] for i in range(30) if place[i] == one)
        np.testing.assert_allclose(found[one], total / np.linalg.norm(total))
    np.testing.assert_allclose(tracklet_embeddings(points, np.arange(30)), points)
    np.testing.assert_allclose(tracklet_embeddings(points, place, 7 * weights), found)


def test_what_cancels_out_is_the_best_crop() -> None:
    found = tracklet_embeddings([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], [0, 0, 0], [0.2, 0.4, 0.2])
    np.testing.assert_array_equal(found, [[-1.0, 0.0]])


# --- galleries -------------------------------------------------------------------------------------------------------


def test_a_gallery_has_a_mean_a_label_and_view() -> None:
    """A4.24: centroids of both views, weighted by quality, re-normalised."""
    crops, labels, views, weights = crops_of(2)
    gallery = Gallery.of(crops, labels=labels, views=views, weights=weights)
    assert gallery.labels == ("p0", "p1", "p2", "p3")
    found = {
        (gallery.labels[label], str(view)): point
        for label, view, point in zip(gallery.label, gallery.view, gallery.points, strict=True)
    }
    assert found.keys() == {(label, view) for label in gallery.labels for view in ("side", "top")}
    for (label, view), point in found.items():
        own = (labels == label) & (views == view)
        np.testing.assert_allclose(point, unit((crops[own] * weights[own, None]).sum(axis=0)))


def test_nobodies_stay_what_they_are() -> None:
    """A4.10: negatives are not averaged to one point."""
    crops, labels, views, _ = crops_of(3)
    gallery = Gallery.of(crops, labels=labels, views=views)
    np.testing.assert_array_equal(gallery.nobodies, crops[labels == ""])
    assert len(gallery.nobodies) > 10
    alike = gallery.likeness_to_nobody(crops[:7], nearest=5)
    for one, crop in zip(alike, crops[:7], strict=True):
        assert one == pytest.approx(np.mean(sorted(gallery.nobodies @ crop)[-5:]))
    mean = unit(gallery.nobodies.mean(axis=0))
    opposite = unit(np.stack([crops[labels == ""][0], -mean]))
    assert gallery.likeness_to_nobody(opposite, nearest=1)[0] == pytest.approx(1)
    assert gallery.likeness_to_nobody(crops, nearest=10**6).tolist() == [-1.0] * len(crops)


def test_similarity_is_the_nearest_point_of_the_view() -> None:
    crops, labels, views, _ = crops_of(4)
    keep = ~((labels == "p2") & (views == "top"))  # nobody has seen p2 from above
    gallery = Gallery.of(crops[keep], labels=labels[keep], views=views[keep], points=3)
    queries = crops_of(5)[0]
    seen_in = np.array(["side", "top", "behind"])[np.arange(len(queries)) % 3]
    found = gallery.similarity(queries, views=seen_in)
    for (i, j), value in np.ndenumerate(found):
        own = [p for p in range(len(gallery.points)) if gallery.label[p] == j]
        in_view = [p for p in own if gallery.view[p] == seen_in[i]]
        assert value == pytest.approx(max(float(queries[i] @ gallery.points[p]) for p in in_view or own))


def test_views_matter() -> None:
    """A4.24: from above a player is like nobody from the side; in the wrong view the wrong one is nearer."""
    side, top = unit(np.array([[1.0, 0, 0, 0.2], [0, 1, 0, 0]])), unit(np.array([[0, 1.0, 0.2, 0], [0, 0, 1, 0]]))
    gallery = Gallery.of(np.concatenate([side, top]), labels=["a", "b", "a", "b"], views=["side", "side", "top", "top"])
    seen = unit(np.array([[0.1, 1.0, 0.1, 0]]))
    assert gallery.similarity(seen, views=["top"]).argmax() == 0
    assert gallery.similarity(seen, views=["side"]).argmax() == 1


def test_clusters_are_found_and_are_those_of_k_means() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(6)
    centres = unit(rng.normal(size=(3, 12)))
    crops = unit(np.repeat(centres, 40, axis=0) + 0.06 * rng.normal(size=(120, 12)))
    gallery = Gallery.of(crops, labels=["a"] * 120, views=["v"] * 120, points=3)
    oracle = unit(KMeans(3, n_init=5, random_state=0).fit(crops).cluster_centers_)  # alike on the sphere, where tight
    assert gallery.points.shape == (3, 12)
    assert ((gallery.points @ oracle.T).max(axis=1) > 0.9999).all()
    assert len({*(gallery.points @ oracle.T).argmax(axis=1).tolist()}) == 3


def test_there_are_no_more_clusters_than_crops() -> None:
    gallery = Gallery.of([[1.0, 0], [1.0, 0], [0, 1.0]], labels=["a"] * 3, views=["v"] * 3, points=9)
    np.testing.assert_allclose(sorted(gallery.points.tolist()), [[0, 1], [1, 0]])


# --- who is who ------------------------------------------------------------------------------------------------------


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Floats, Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Similarities, thresholds, and the tracklet and frame of every box."""
    count, labels = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    boxes = [(one, frame) for one in range(count) for frame in rng.choice(6, int(rng.integers(1, 5)), replace=False)]
    place, frame = np.array(boxes).T
    return rng.uniform(-0.2, 1, (count, labels)), rng.uniform(0, 0.6, count), place, frame


@given(sessions())
@settings(max_examples=100, deadline=None)
def test_labels_are_the_best_of_all_ways_and_never_twice_in_a_frame(
    session: tuple[Floats, Floats, NDArray[np.intp], NDArray[np.intp]],
) -> None:
    alike, least, place, frame = session
    found = recognise(alike, thresholds=least, tracklets=place, frames=frame)
    boxes = np.bincount(place)

    def worth(way: tuple[int, ...]) -> float:
        for picture in range(6):
            given_out = [way[one] for one in place[frame == picture] if way[one] >= 0]
            if len(set(given_out)) < len(given_out):
                return -np.inf
        return sum(boxes[i] * (alike[i, one] - least[i]) for i, one in enumerate(way) if one >= 0)

    mine = worth(tuple(found.label.tolist()))
    assert mine == pytest.approx(max(map(worth, product(range(-1, alike.shape[1]), repeat=len(alike)))))
    assert all(one < 0 or alike[i, one] >= least[i] for i, one in enumerate(found.label))


@given(sessions())
@settings(max_examples=50, deadline=None)
def test_scores_and_runners_up(session: tuple[Floats, Floats, NDArray[np.intp], NDArray[np.intp]]) -> None:
    alike, least, place, frame = session
    found = recognise(alike, thresholds=least, tracklets=place, frames=frame)
    for i, label in enumerate(found.label.tolist()):
        others = {one: alike[i, one] for one in range(alike.shape[1]) if one != label}
        if not others:
            assert found.runner_up[i] == -1
            assert np.isnan(found.runner_up_score[i])
            continue
        second = max(others, key=lambda one: others[one])
        assert (found.runner_up[i], found.runner_up_score[i]) == (second, alike[i, second])
        assert found.score[i] == (alike[i, label] if label >= 0 else alike[i].max())


def test_one_frame_is_assigned_not_taken_greedily() -> None:
    """Two who are both most like p0: the one who is like nobody else gets it, the other is p1."""
    found = recognise([[0.9, 0.8], [0.85, 0.1]], thresholds=0.3, tracklets=[0, 1], frames=["f", "f"])
    assert found.label.tolist() == [1, 0]
    np.testing.assert_array_equal(found.score, [0.8, 0.85])
    assert found.runner_up.tolist() == [0, 1]
    np.testing.assert_array_equal(found.runner_up_score, [0.9, 0.1])


def test_who_is_not_in_a_frame_with_the_other_may_be_the_same() -> None:
    found = recognise([[0.9, 0.8], [0.85, 0.1]], thresholds=0.3, tracklets=[0, 1], frames=["f", "g"])
    assert found.label.tolist() == [0, 0]


def test_the_unknown_stay_unknown() -> None:
    """A4.8: unknown is no label of its own number, and it is never pushed on to the label that is left."""
    alike = [[0.9, 0.2], [0.7, 0.25], [0.29, 0.28]]
    found = recognise(alike, thresholds=[0.3, 0.3, 0.3], tracklets=[0, 1, 2], frames=["f", "f", "g"])
    assert found.label.tolist() == [0, -1, -1]
    assert found.runner_up.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found.score, [0.9, 0.7, 0.29])
    np.testing.assert_array_equal(found.runner_up_score, [0.2, 0.7, 0.29])


def test_many_boxes_count_for_more_than_one() -> None:
    alike, place = [[0.8, 0.1], [0.9, 0.1]], [0, 0, 0, 1]
    found = recognise(alike, thresholds=0.3, tracklets=place, frames=["a", "b", "c", "c"])
    assert found.label.tolist() == [0, -1]
    alone = recognise(alike, thresholds=0.3, tracklets=place, frames=["a", "b", "c", "c"], weights=[1, 1])
    assert alone.label.tolist() == [-1, 0]


def test_the_threshold_itself_is_enough() -> None:
    """As thresholds are chosen: an answer is accepted where its score is at least the threshold."""
    found = recognise([[0.3], [0.3]], thresholds=[0.3, 0.3000001], tracklets=[0, 1], frames=["f", "g"])
    assert found.label.tolist() == [0, -1]


def test_nobody_to_recognise() -> None:
    found = recognise(np.empty((0, 3)), thresholds=0.5, tracklets=[], frames=[])
    assert len(found.label) == len(found.score) == 0


# --- thresholds ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_an_ensemble_decides_by_its_mean_margin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    folds = [{"": float(rng.uniform()), "side": float(rng.uniform())}, {"": float(rng.uniform())}]
    alike = rng.uniform(0, 1, (2, 5))
    for view in ("side", "top"):
        margin = np.mean([scores - threshold_of(view, fold) for scores, fold in zip(alike, folds, strict=True)], axis=0)
        np.testing.assert_allclose(alike.mean(axis=0) - threshold_of(view, mean_thresholds(folds)), margin)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="no threshold for the view 'side', and none for all"):
        mean_thresholds([{"side": 0.5}, {"top": 0.5}])
    with pytest.raises(ValueError, match="needs crops with a label"):
        Gallery.of([[1.0, 0.0]], labels=[""], views=["a"])
    with pytest.raises(ValueError, match="there are 1 embeddings, 2 labels"):
        Gallery.of([[1.0, 0.0]], labels=["a", "b"], views=["a"])
    with pytest.raises(ValueError, match="at least one point"):
        Gallery.of([[1.0, 0.0]], labels=["a"], views=["a"], points=0)
    with pytest.raises(ValueError, match="two boxes of a tracklet are in one frame"):
        recognise([[0.5]], thresholds=0.1, tracklets=[0, 0], frames=["f", "f"])
    with pytest.raises(ValueError, match="there are 2 tracklets"):
        recognise([[0.5]], thresholds=0.1, tracklets=[0, 1], frames=["f", "f"])
    with pytest.raises(ValueError, match="numbered from 0 on"):
        tracklet_embeddings([[1.0]], [1])
