"""CMC, mAP and mINP against a loop over queries, torchmetrics and pytorch-metric-learning."""

import os
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from lightmill.ops.identities import Items, encoded
from lightmill.ops.retrieval import Retrieval, retrieval
from lightmill.ops.similarity import Cosine, Negated, nearest

Floats = NDArray[np.floating[Any]]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn. LIGHTMILL_REQUIRE_CUDA=1 says that one without a GPU is a fault of the machine."""
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        if os.environ.get("LIGHTMILL_REQUIRE_CUDA") == "1":
            pytest.fail("LIGHTMILL_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("torch finds no CUDA device")
    return name


class OnDevice:
    """Scores as an accelerator gives them, as tensors: on the CPU too, where otherwise numpy would do the work."""

    def __init__(self, scores: Any, device: str) -> None:
        self.inner, self.device, self.shape, self.on_host = scores, device, scores.shape, False

    def rows(self, rows: slice) -> torch.Tensor:
        return torch.as_tensor(self.inner.rows(rows), device=self.device)


def unit(rng: np.random.Generator, count: int, size: int = 16, *, dtype: Any = np.float32) -> Floats:
    vectors = rng.standard_normal((count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def by_loop(
    scores: Floats, queries: Items, gallery: Items, exclude: NDArray[np.int64] | None = None, max_rank: int = 10
) -> tuple[Floats, float, float, int]:
    """CMC, mAP, mINP and the number of dropped queries, straight from the definitions; wrong ones first among ties."""
    hits, precisions, penalties, dropped = [], [], [], 0
    for i, label in enumerate(queries.labels):
        ranking = []
        for j, other in enumerate(gallery.labels):
            same = label == other and label not in ("", -1)
            twin = same and any(
                mine is not None and theirs is not None and mine[i] == theirs[j]
                for mine, theirs in ((queries.cameras, gallery.cameras), (queries.tracks, gallery.tracks))
            )
            if not twin and (exclude is None or exclude[i] != j):
                ranking.append((-scores[i, j], same))
        right = [same for _, same in sorted(ranking)]  # False before True
        ranks = [rank for rank, same in enumerate(right, 1) if same]
        if not ranks:
            dropped += 1
            continue
        hits.append([ranks[0] <= k for k in range(1, max_rank + 1)])
        precisions.append(np.mean([(place + 1) / rank for place, rank in enumerate(ranks)]))
        penalties.append(len(ranks) / ranks[-1])
    return np.mean(hits, axis=0), float(np.mean(precisions)), float(np.mean(penalties)), dropped


def check(found: Retrieval, wanted: tuple[Floats, float, float, int]) -> None:
    np.testing.assert_allclose(found.cmc, wanted[0], rtol=0, atol=1e-12)
    assert found.mean_ap == pytest.approx(wanted[1], abs=1e-12)
    assert found.mean_inp == pytest.approx(wanted[2], abs=1e-12)
    assert found.dropped == wanted[3]
    assert found.queries + found.dropped == len(found.first_rank)


def sides(rng: np.random.Generator, queries: int, items: int, *, ids: int = 7, cameras: int = 3) -> tuple[Items, Items]:
    def side(count: int) -> Items:
        return Items(
            labels=rng.choice([*(f"p{i}" for i in range(ids)), ""], count),
            cameras=rng.choice([f"c{i}" for i in range(cameras)], count),
        )

    return side(queries), side(items)


@pytest.mark.parametrize("kind", ["host", "device"])
@pytest.mark.parametrize("memory_bytes", [1, 20_000, 2**28])
@pytest.mark.parametrize("levels", [None, 5])  # 5: most scores are equal to others
def test_same_camera_rule_as_a_loop(kind: str, memory_bytes: int, levels: int | None, device: str) -> None:
    if kind == "host" and device == "cuda":
        pytest.skip("numpy works on the host")
    rng = np.random.default_rng(3)
    distances = rng.random((40, 55)) if levels is None else rng.integers(0, levels, (40, 55)).astype(np.float64)
    queries, gallery = sides(rng, 40, 55)
    scores: Any = Negated(distances) if kind == "host" else OnDevice(Negated(distances), device)
    found = retrieval(scores, queries=queries, gallery=gallery, max_rank=10, memory_bytes=memory_bytes)
    check(found, by_loop(-distances, queries, gallery))


def test_toy_case_of_the_literature() -> None:
    distances = Negated(np.array([[0.1, 0.2, 0.3, 0.4]]))
    found = retrieval(distances, queries=Items(labels=[1]), gallery=Items(labels=[2, 1, 3, 1]), max_rank=4)
    assert found.cmc.tolist() == [0, 1, 1, 1]
    assert (found.mean_ap, found.mean_inp, found.dropped) == (0.5, 0.5, 0)


def test_gallery_smaller_than_max_rank() -> None:
    found = retrieval(
        Negated(np.array([[0.1, 0.2, 0.3]])), queries=Items(labels=["a"]), gallery=Items(labels=["b", "c", "a"])
    )
    assert found.cmc.shape == (50,)
    assert found.cmc[[1, 2, 49]].tolist() == [0, 1, 1]


@pytest.mark.parametrize("kind", ["host", "device"])
def test_one_set_filmed_by_one_camera(kind: str, device: str) -> None:
    """A single camera: the query itself is left out by its place, its neighbours in time by their track."""
    if kind == "host" and device == "cuda":
        pytest.skip("numpy works on the host")
    rng = np.random.default_rng(5)
    labels, own = rng.integers(-1, 6, 60), np.arange(60)
    whole = Items(labels=labels, tracks=labels * 3 + rng.integers(0, 2, 60))
    distances = rng.random((60, 60))
    scores: Any = Negated(distances) if kind == "host" else OnDevice(Negated(distances), device)
    for items, exclude in ((Items(labels=labels), own), (whole, own), (whole, None)):
        found = retrieval(scores, queries=items, gallery=items, exclude=exclude, max_rank=10, memory_bytes=9000)
        check(found, by_loop(-distances, items, items, exclude))


def test_one_camera_for_all_drops_all_and_says_so() -> None:
    """The usual rule leaves nothing to be found; that is counted, not asserted."""
    items = Items(labels=["a", "a", "b"], cameras=["x", "x", "x"])
    found = retrieval(Negated(np.zeros((3, 3))), queries=items, gallery=items)
    assert (found.queries, found.dropped) == (0, 3)
    assert np.isnan([found.mean_ap, found.mean_inp, *found.cmc]).all()
    assert found.first_rank.tolist() == [0, 0, 0]


def test_an_excluded_item_of_another_label_is_left_out() -> None:
    scores = Negated(np.array([[0.1, 0.2]]))
    query, gallery = Items(labels=["a"]), Items(labels=["b", "a"])
    assert retrieval(scores, queries=query, gallery=gallery).mean_ap == 0.5
    assert retrieval(scores, queries=query, gallery=gallery, exclude=np.array([0])).mean_ap == 1
    assert retrieval(scores, queries=query, gallery=gallery, exclude=np.array([-1])).mean_ap == 0.5


def test_unknown_items_are_wrong_answers_and_never_match() -> None:
    """A4.8: who is unknown is neither the player 0 nor another unknown."""
    scores = Negated(np.array([[0.1, 0.2], [0.1, 0.2]]))
    found = retrieval(scores, queries=Items(labels=[0, -1]), gallery=Items(labels=[-1, 0]))
    assert found.first_rank.tolist() == [2, 0]
    assert found.dropped == 1


def test_a_camera_that_is_not_known_is_like_no_other() -> None:
    scores, query = Negated(np.array([[0.1]])), Items(labels=["a"], cameras=[""])
    assert retrieval(scores, queries=query, gallery=Items(labels=["a"], cameras=[""])).dropped == 0


def test_a_collapsed_network_does_not_look_good() -> None:
    """Of equal scores the wrong ones rank first, in whatever order the gallery lies."""
    labels = ["a"] * 3 + ["b"] * 7
    found = retrieval(
        Negated(np.zeros((10, 10))), queries=Items(labels=labels), gallery=Items(labels=labels), max_rank=1
    )
    assert found.first_rank.tolist() == [8] * 3 + [4] * 7


def test_perfect_embeddings_score_one() -> None:
    labels = np.arange(30) % 5
    embeddings = np.eye(5, dtype=np.float32)[labels]
    items = Items(labels=labels)
    found = retrieval(Cosine(embeddings, embeddings), queries=items, gallery=items, exclude=np.arange(30))
    assert (found.cmc[0], found.mean_ap, found.mean_inp) == (1, 1, 1)


def test_random_embeddings_score_what_chance_says() -> None:
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(20), 30)
    embeddings = unit(rng, 600, 32)
    found = retrieval(
        Cosine(embeddings, embeddings),
        queries=Items(labels=labels),
        gallery=Items(labels=labels),
        exclude=np.arange(600),
    )
    assert found.cmc[0] == pytest.approx(29 / 599, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_give_what_arrays_give(dtype: torch.dtype, device: str) -> None:
    rng = np.random.default_rng(11)
    q, g = (torch.from_numpy(unit(rng, n, 64, dtype=np.float64)).to(dtype) for n in (50, 70))
    queries, gallery = sides(rng, 50, 70)
    found = retrieval(Cosine(q.to(device), g.to(device)), queries=queries, gallery=gallery, max_rank=10)
    cosines = q.double().numpy() @ g.double().numpy().T
    check(found, by_loop(cosines, queries, gallery))


def test_tiles_do_not_change_the_figures() -> None:
    rng = np.random.default_rng(13)
    queries, gallery = sides(rng, 300, 400)
    scores = Cosine(unit(rng, 300), unit(rng, 400))
    whole = retrieval(scores, queries=queries, gallery=gallery)
    for memory_bytes in (1, 50_000, 1_000_000):
        part = retrieval(scores, queries=queries, gallery=gallery, memory_bytes=memory_bytes)
        np.testing.assert_allclose(part.cmc, whole.cmc, rtol=0, atol=1e-6)
        assert (part.mean_ap, part.mean_inp) == pytest.approx((whole.mean_ap, whole.mean_inp), abs=1e-6)


def test_a_tile_stays_within_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rows = Negated.rows
    monkeypatch.setattr(Negated, "rows", lambda self, at: seen.append(at.stop - at.start) or rows(self, at))
    rng = np.random.default_rng(17)
    queries, gallery = sides(rng, 500, 300)
    retrieval(Negated(rng.random((500, 300))), queries=queries, gallery=gallery, memory_bytes=400_000)
    assert sum(seen) == 500
    assert max(seen) * 300 * 8 <= 400_000


def test_the_order_of_the_gallery_means_nothing() -> None:
    rng = np.random.default_rng(19)
    distances = rng.integers(0, 4, (30, 50)).astype(np.float32)
    queries, gallery = sides(rng, 30, 50)
    order = rng.permutation(50)
    turned = Items(labels=np.asarray(gallery.labels)[order], cameras=np.asarray(gallery.cameras)[order])
    one = retrieval(Negated(distances), queries=queries, gallery=gallery)
    other = retrieval(Negated(distances[:, order]), queries=queries, gallery=turned)
    np.testing.assert_array_equal(one.average_precision, other.average_precision)
    np.testing.assert_array_equal(one.first_rank, other.first_rank)


def test_as_torchmetrics() -> None:
    rng = np.random.default_rng(23)
    queries, gallery = sides(rng, 40, 60, cameras=1000)
    scores = Cosine(unit(rng, 40), unit(rng, 60))
    found = retrieval(scores, queries=Items(labels=queries.labels), gallery=Items(labels=gallery.labels), max_rank=5)
    codes = encoded(queries.labels, gallery.labels).codes
    right = torch.from_numpy((codes[0][:, None] == codes[1]) & (codes[0][:, None] >= 0)).flatten()
    values = torch.from_numpy(np.asarray(scores.rows(slice(0, 40)))).flatten() + 2  # it counts no match at or below 0
    index = torch.arange(40).repeat_interleave(60)
    assert found.mean_ap == pytest.approx(
        float(RetrievalMAP(empty_target_action="skip")(values, right, index)), abs=1e-6
    )
    for k in (1, 5):
        hit = RetrievalHitRate(empty_target_action="skip", top_k=k)(values, right, index)
        assert found.cmc[k - 1] == pytest.approx(float(hit), abs=1e-6)


def test_as_pytorch_metric_learning() -> None:
    """Precision at 1 is CMC@1; its mean average precision over the whole gallery is ours, the query left out."""
    rng = np.random.default_rng(29)
    labels = rng.integers(0, 6, 80)
    embeddings = unit(rng, 80)
    items = Items(labels=labels)
    found = retrieval(Cosine(embeddings, embeddings), queries=items, gallery=items, exclude=np.arange(80))
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k=None,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    wanted = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))
    assert found.cmc[0] == pytest.approx(wanted["precision_at_1"], abs=1e-6)
    assert found.mean_ap == pytest.approx(wanted["mean_average_precision"], abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["host", "device"])
def test_nothing_to_look_for_or_in(shape: tuple[int, int], kind: str) -> None:
    scores: Any = Negated(np.zeros(shape))
    scores = scores if kind == "host" else OnDevice(scores, "cpu")
    queries, gallery = (Items(labels=["a"] * count) for count in shape)
    found = retrieval(scores, queries=queries, gallery=gallery)
    assert (found.queries, found.dropped) == (0, shape[0])
    assert np.isnan(found.mean_ap)
    answers = nearest(scores, queries=queries, gallery=gallery)
    assert answers.labels.tolist() == [""] * shape[0]


@pytest.mark.parametrize("kind", ["host", "device"])
@pytest.mark.parametrize("memory_bytes", [1, 2**28])
def test_nearest_labels_as_a_loop(kind: str, memory_bytes: int, device: str) -> None:
    if kind == "host" and device == "cuda":
        pytest.skip("numpy works on the host")
    rng = np.random.default_rng(31)
    queries, gallery = sides(rng, 40, 50)
    exclude = rng.integers(-1, 50, 40)
    distances = rng.random((40, 50))
    scores: Any = Negated(distances) if kind == "host" else OnDevice(Negated(distances), device)
    found = nearest(scores, queries=queries, gallery=gallery, exclude=exclude, memory_bytes=memory_bytes)
    for i in range(40):
        best: dict[str, float] = {}
        for j, label in enumerate(gallery.labels):
            twin = label == queries.labels[i] and gallery.cameras[j] == queries.cameras[i]
            if label and not twin and exclude[i] != j:
                best[label] = max(best.get(label, -np.inf), -distances[i, j])
        (first, score), (second, behind) = sorted(best.items(), key=lambda pair: -pair[1])[:2]
        assert (found.labels[i], found.runners_up[i]) == (first, second)
        assert (found.scores[i], found.runner_up_scores[i]) == (score, behind)


def test_answers_do_not_depend_on_the_truth() -> None:
    """A4.6: what is judged never saw the label that it is judged by."""
    rng = np.random.default_rng(37)
    scores, gallery = Cosine(unit(rng, 30), unit(rng, 40)), Items(labels=rng.integers(0, 5, 40))
    one = nearest(scores, queries=Items(labels=rng.integers(0, 5, 30)), gallery=gallery)
    other = nearest(scores, queries=Items(labels=np.full(30, -1)), gallery=gallery)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_labels_as_tables_give_them() -> None:
    """Strings of a data frame, with nulls: nobody is known there."""
    table = pl.DataFrame({"label": ["b", None, "a"]})
    found = encoded(table["label"].to_numpy(), ["a", ""])
    assert found.names.tolist() == ["a", "b"]
    assert [codes.tolist() for codes in found.codes] == [[1, -1, 0], [0, -1]]
    assert found.named(found.codes[0]).tolist() == ["b", "", "a"]


def test_nearest_without_a_runner_up() -> None:
    gallery = Items(labels=[7, -1])
    found = nearest(Negated(np.array([[0.5, 0.1]])), queries=Items(labels=[3]), gallery=gallery)
    assert (found.labels.tolist(), found.scores.tolist()) == ([7], [-0.5])
    assert (found.runners_up.tolist(), found.runner_up_scores.tolist()) == ([-1], [-np.inf])


@pytest.mark.parametrize(
    ("queries", "gallery", "match"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), r"\[Q, D\] and \[N, D\]"),
        (np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), "length 1, got 1.732 in row 0 of the queries"),
        (np.array([[1.0, 0.0], [np.nan, 0.0]]), np.eye(2), "got nan in row 1 of the queries"),
        (np.eye(2), np.zeros((1, 2)), "got 0 in row 0 of the gallery"),
        (np.eye(2, dtype=np.int64), np.eye(2), "must be floats"),
        (np.eye(2), np.eye(2, dtype=np.float32), "float64 and float32"),
        (np.eye(2), torch.eye(2), "numpy array on one side"),
    ],
)
def test_embeddings_that_do_not_fit(queries: Any, gallery: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Cosine(queries, gallery)


def test_what_does_not_fit_the_scores() -> None:
    scores, two = Negated(np.zeros((2, 2))), Items(labels=["a", "b"])
    with pytest.raises(ValueError, match="one a row and column of the scores, 2 and 2, got 3 and 2"):
        retrieval(scores, queries=Items(labels=["a", "b", "c"]), gallery=two)
    with pytest.raises(ValueError, match="max_rank must be 1 or more"):
        retrieval(scores, queries=two, gallery=two, max_rank=0)
    with pytest.raises(ValueError, match="items of the gallery, 0 to 1"):
        retrieval(scores, queries=two, gallery=two, exclude=np.array([0, 2]))
    with pytest.raises(ValueError, match="exclude must be 2 integers"):
        retrieval(scores, queries=two, gallery=two, exclude=np.array([0]))
    with pytest.raises(ValueError, match="cameras are known of the queries alone"):
        retrieval(scores, queries=Items(labels=["a", "b"], cameras=["x", "y"]), gallery=two)
    with pytest.raises(ValueError, match="tracks must be one a label: 2 and 2, got 1 and 2"):
        retrieval(
            scores, queries=Items(labels=["a", "b"], tracks=["x"]), gallery=Items(labels=["a", "b"], tracks=["x", "y"])
        )
    with pytest.raises(ValueError, match="strings on one side and integers on another"):
        retrieval(scores, queries=Items(labels=[1, 2]), gallery=two)
    with pytest.raises(ValueError, match=r"got 1\.5 at place 1"):
        retrieval(scores, queries=Items(labels=np.array(["a", 1.5], object)), gallery=two)
    with pytest.raises(ValueError, match="not finite in the queries 0 to 1"):
        retrieval(Negated(np.array([[0, np.nan], [0, 0]])), queries=two, gallery=two)
    with pytest.raises(ValueError, match="distances must be floats"):
        Negated(np.zeros((2, 2), np.int64))
