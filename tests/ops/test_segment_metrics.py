import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as theirs
from numpy.typing import NDArray

from lightmill.ops.segment_metrics import (
    boundary_counts,
    boundary_f1,
    confusion,
    map_of_logits,
    map_of_probabilities,
    mean,
    scores,
)

Labels = NDArray[np.uint8]


def maps(*shape: int, classes: int, seed: int = 0, void: float = 0.1) -> tuple[Labels, Labels]:
    """A truth with some that is not known, and a prediction that is right in about half."""
    rng = np.random.default_rng(seed)
    truth, other = rng.integers(0, classes, (2, *shape)).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.4, truth, other)
    truth[rng.random(shape) < void] = 255
    return truth, predicted


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
def test_counts_are_those_of_torchmetrics_and_of_a_loop(classes: int) -> None:
    truth, predicted = maps(3, 17, 13, classes=classes)
    found = confusion(truth, predicted, classes=classes)
    assert found.dtype == np.int64
    by_loop = np.zeros((classes, classes), np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != 255:
            by_loop[t, p] += 1
    assert np.array_equal(found, by_loop)
    tensors = torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()
    wanted = theirs.multiclass_confusion_matrix(*tensors, num_classes=classes, ignore_index=255)
    assert np.array_equal(found, wanted.numpy())
    on_tensors = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), classes=classes)
    assert on_tensors.dtype == torch.int64
    assert np.array_equal(on_tensors.numpy(), found)


def test_counts_of_pictures_add_up_to_those_of_the_set() -> None:
    truth, predicted = maps(6, 9, 11, classes=4)
    parts = [confusion(t, p, classes=4) for t, p in zip(truth, predicted, strict=True)]
    assert np.array_equal(sum(parts), confusion(truth, predicted, classes=4))


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_torchmetrics(seed: int) -> None:
    """With a class that is nowhere, one that is only in the truth, and one that is only predicted."""
    truth, predicted = maps(2, 15, 15, classes=7, seed=seed)
    truth[truth == 4], predicted[predicted == 4] = 0, 0
    predicted[predicted == 5] = 1
    truth[truth == 6] = 2
    found = scores(confusion(truth, predicted, classes=7))
    tensors = torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()
    options: dict[str, Any] = {"num_classes": 7, "ignore_index": 255}
    for name, theirs_of in {
        "iou": theirs.multiclass_jaccard_index,
        "dice": theirs.multiclass_f1_score,
        "precision": theirs.multiclass_precision,
        "recall": theirs.multiclass_recall,
    }.items():
        mine = getattr(found, name)
        wanted = theirs_of(*tensors, average="none", **options).numpy()
        assert np.isnan(mine).tolist() == [False] * 4 + [True] + [False] * 2
        np.testing.assert_allclose(np.nan_to_num(mine), wanted, atol=1e-6)
        assert mean(mine) == pytest.approx(float(theirs_of(*tensors, average="macro", **options)), abs=1e-6)
    accuracy = theirs.multiclass_accuracy(*tensors, average="micro", **options)
    assert found.accuracy == pytest.approx(float(accuracy), abs=1e-6)
    assert found.pixels.tolist() == [int((truth == number).sum()) for number in range(7)]
    assert found.dice[5] == found.iou[5] == found.precision[5] == found.recall[6] == 0


def test_a_binary_map_is_two_classes() -> None:
    truth, predicted = maps(4, 12, 12, classes=2)
    found = scores(confusion(truth, predicted, classes=2))
    tensors = torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()
    for name, theirs_of in {
        "iou": theirs.binary_jaccard_index,
        "dice": theirs.binary_f1_score,
        "precision": theirs.binary_precision,
        "recall": theirs.binary_recall,
    }.items():
        assert getattr(found, name)[1] == pytest.approx(float(theirs_of(*tensors, ignore_index=255)), abs=1e-6)


def test_what_is_empty_in_both_is_neither_right_nor_wrong() -> None:
    """The rule for empty/empty: no score, and out of the mean; a set that has the class elsewhere is not changed."""
    empty = np.zeros((8, 8), np.uint8)
    full = empty.copy()
    full[2:5, 2:5] = 1
    alone = scores(confusion(empty, empty, classes=2))
    assert math.isnan(alone.iou[1])
    assert alone.mean_iou == 1
    assert "iou/thing" not in alone.as_dict(names=("rest", "thing"))
    together = confusion(empty, empty, classes=2) + confusion(full, full, classes=2)
    assert scores(together).iou.tolist() == [1, 1]
    assert scores(confusion(empty, full, classes=2)).iou[1] == 0
    nothing = scores(np.zeros((3, 3), np.int64))
    assert math.isnan(nothing.mean_iou)
    assert math.isnan(nothing.accuracy)
    assert nothing.as_dict(names=("a", "b", "c")) == {}


def test_a_set_is_counted_whole_and_not_by_batches() -> None:
    """The mean of pictures' scores is another number: 0.5 here, where 1 of 101 pixels was found."""
    found = scores(np.array([[0, 0], [0, 1]]) + np.array([[0, 0], [100, 0]]))
    assert found.iou[1] == pytest.approx(1 / 101)


def test_scores_have_names() -> None:
    found = scores(np.array([[6, 2], [1, 3]])).as_dict(names=("rest", "thing"))
    assert found["accuracy"] == pytest.approx(9 / 12)
    assert found["iou/thing"] == pytest.approx(3 / 6)
    assert found["mean_iou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert found["precision/thing"] == pytest.approx(3 / 5)
    assert found["recall/rest"] == pytest.approx(6 / 8)


def test_values_that_are_no_classes_are_refused() -> None:
    """A 0/255 mask that was taken for 0/1 gives others an IoU above 1."""
    truth, predicted = maps(5, 5, classes=2, void=0)
    with pytest.raises(ValueError, match=r"the prediction holds 0 to 255, classes are 0..1"):
        confusion(truth, predicted * np.uint8(255), classes=2)
    with pytest.raises(ValueError, match=r"the truth holds 0 to 3, classes are 0..1"):
        confusion(torch.from_numpy(truth * np.uint8(3)), torch.from_numpy(predicted), classes=2)
    with pytest.raises(ValueError, match=r"the truth is \[5, 5\] and what was predicted \[5, 4\]"):
        confusion(truth, predicted[:, :4], classes=2)


# --- class maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_logits_and_probabilities_give_one_map(threshold: float) -> None:
    logits = torch.randn(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    found = map_of_logits(logits, threshold=threshold)
    assert found.dtype == torch.uint8
    assert torch.equal(found, map_of_probabilities(logits.sigmoid(), threshold=threshold))
    assert np.array_equal(map_of_logits(logits.numpy(), threshold=threshold), found.numpy())
    assert torch.equal(found, (logits.sigmoid() >= threshold)[:, 0].to(torch.uint8))
    many = torch.randn(2, 5, 9, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(map_of_logits(many), many.argmax(1).to(torch.uint8))
    assert torch.equal(map_of_probabilities(many.softmax(1)), map_of_logits(many))
    with pytest.raises(ValueError, match=r"one number a class and pixel is wanted"):
        map_of_logits(many[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_classes_that_are_level_the_first_is_taken(layout: torch.memory_format, dtype: torch.dtype) -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (3, 11, 17, 19)))
    wanted = [[next(c for c in range(11) if own[c] == own.max()) for own in one.reshape(11, -1).T] for one in values]
    given = values.to(dtype).contiguous(memory_format=layout)
    assert map_of_logits(given).flatten(1).tolist() == [[int(each) for each in one] for one in wanted]
    assert np.array_equal(map_of_logits(given.float().numpy()), map_of_logits(given).numpy())
    endless = torch.tensor([-torch.inf, torch.inf, 1.0, torch.inf]).reshape(1, 4, 1, 1).to(dtype)
    assert map_of_logits(endless).tolist() == [[[1]]]


def test_a_pictures_map_does_not_depend_on_the_others_of_its_batch() -> None:
    """B4.11: whether numbers are logits was guessed from the range of a batch; logits of 0.3 were then no foreground,
    or were, as another picture had it."""
    low, high = np.full((1, 1, 4, 4), 0.3, np.float32), np.full((1, 1, 4, 4), 5.0, np.float32)
    assert map_of_logits(low).all()
    assert np.array_equal(map_of_logits(np.concatenate([low, high]))[:1], map_of_logits(low))
    assert not map_of_probabilities(low).any()


# --- boundaries ------------------------------------------------------------------------------------------------------


def boundary_by_loops(truth: Labels, predicted: Labels, *, classes: int, near: float) -> NDArray[np.int64]:
    """Every pixel against every other."""
    high, wide = truth.shape
    furthest = near * math.hypot(high, wide)

    def edge(labels: Labels, number: int) -> list[tuple[int, int]]:
        found = []
        for y, x in itertools.product(range(high), range(wide)):
            if labels[y, x] != number or truth[y, x] == 255:
                continue
            beside = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            beside = [(v, u) for v, u in beside if 0 <= v < high and 0 <= u < wide and truth[v, u] != 255]
            if any(labels[v, u] != number for v, u in beside):
                found.append((y, x))
        return found

    def matched(mine: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
        return sum(any(math.dist(one, other) <= furthest for other in others) for one in mine)

    counts = np.zeros((classes, 4), np.int64)
    for number in range(classes):
        true, ours = edge(truth, number), edge(predicted, number)
        counts[number] = matched(ours, true), len(ours), matched(true, ours), len(true)
    return counts


def blobs(*, seed: int) -> tuple[Labels, Labels]:
    """Class maps of a few rectangles, the second moved a little, and some that is not known."""
    rng = np.random.default_rng(seed)
    truth, predicted = np.zeros((2, 31, 40), np.uint8)
    for number in (1, 2, 3):
        y, x = rng.integers(2, 20, 2)
        h, w = rng.integers(4, 12, 2)
        truth[y : y + h, x : x + w] = number
        dy, dx = rng.integers(-2, 3, 2)
        predicted[y + dy : y + h + dy, x + dx : x + w + dx] = number
    truth[:3, :9] = 255
    return truth, predicted


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("near", [0.0075, 0.03, 0.0601])
def test_boundaries_are_those_of_a_loop_over_all_pairs(seed: int, near: float) -> None:
    truth, predicted = blobs(seed=seed)
    found = boundary_counts(truth, predicted, classes=5, near=near)
    assert np.array_equal(found, boundary_by_loops(truth, predicted, classes=5, near=near))
    score = boundary_f1(found)
    assert math.isnan(score[4])
    near_true, ours, near_ours, true = found[1].tolist()
    precision, recall = near_true / ours, near_ours / true
    assert score[1] == pytest.approx(2 * precision * recall / (precision + recall) if precision + recall else 0)


def test_a_boundary_that_is_just_near_enough_counts_and_one_further_off_does_not() -> None:
    """A square of 20 px that moved by 3 px: its upper and lower edges stay near, its sides are 3 px off."""
    truth, predicted = np.zeros((2, 60, 80), np.uint8)  # the diagonal is 100 px
    truth[20:40, 20:40], predicted[20:40, 23:43] = 1, 1
    exact = boundary_f1(boundary_counts(truth, predicted, classes=2, near=0.03))
    assert exact[1] == 1
    less = boundary_f1(boundary_counts(truth, predicted, classes=2, near=0.0299))
    assert less[1] < 0.6
    assert boundary_f1(boundary_counts(truth, truth, classes=2, near=0)).tolist() == [1, 1]


def test_how_near_is_a_share_of_the_diagonal() -> None:
    truth, predicted = blobs(seed=0)
    large = [np.kron(each, np.ones((4, 4), np.uint8)) for each in (truth, predicted)]
    small_f1 = boundary_f1(boundary_counts(truth, predicted, classes=4, near=0.03))
    large_f1 = boundary_f1(boundary_counts(*large, classes=4, near=0.03))
    np.testing.assert_allclose(large_f1, small_f1, atol=0.12)


def test_a_boundary_on_one_side_alone_scores_0_and_on_none_nothing() -> None:
    empty, full = np.zeros((2, 20, 20), np.uint8)
    full[5:9, 5:9] = 1
    missed, invented = boundary_counts(full, empty, classes=3), boundary_counts(empty, full, classes=3)
    assert boundary_f1(missed)[1] == boundary_f1(invented)[1] == 0
    assert np.isnan(boundary_f1(boundary_counts(empty, empty, classes=3))).all()
    assert missed[1].tolist() == [0, 0, 0, 12]
    assert invented[1].tolist() == [0, 12, 0, 0]
    both = missed + boundary_counts(full, full, classes=3)
    assert boundary_f1(both)[1] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_what_is_not_known_has_no_boundary() -> None:
    truth = np.zeros((20, 20), np.uint8)
    predicted = truth.copy()
    predicted[5:9, 5:9] = 1
    truth[4:10, 4:10] = 255
    assert not boundary_counts(truth, predicted, classes=2).any()
    with pytest.raises(ValueError, match=r"not \[H, W\]"):
        boundary_counts(truth[None], predicted[None], classes=2)
