import itertools
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (the name that torch's documents give it)

from lightmill.models.student_network import enlarged
from lightmill.train import label_losses
from lightmill.train.label_losses import Seen
from lightmill.train.segment_losses import SegmentLoss, features, labels_at, looked_at, soft_labels, total

WEIGHTS = (0.5, 2.0, 1.0, 3.0)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_labels(*shape: int, classes: int, seed: int = 0, void: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < void] = 255
    return labels.to(torch.uint8)


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, of)
    return found


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, **weights: Any) -> torch.Tensor:
    return label_losses.cross_entropy(Seen(logits, labels, **weights))


def focal(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float = 2.0, **weights: Any) -> torch.Tensor:
    return label_losses.focal(Seen(logits, labels, **weights), gamma=gamma)


def dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return label_losses.dice(Seen(logits, labels))


def lovasz(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return label_losses.lovasz(Seen(logits, labels))


# --- cross entropy and focal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_cross_entropy_is_that_of_torch(weights: tuple[float, ...]) -> None:
    logits, labels = drawn(3, 4, 6, 5).requires_grad_(), some_labels(3, 6, 5, classes=4)
    theirs = torch.tensor(weights, dtype=torch.float64) if weights else None
    wanted = F.cross_entropy(logits, labels.long(), weight=theirs, ignore_index=255)
    found = cross_entropy(logits, labels, class_weights=weights)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, logits), gradient(wanted, logits))


@pytest.mark.parametrize("weights", [(), (0.5, 2.0)])
def test_with_one_logit_it_is_the_binary_one_of_torch_and_the_sigmoid_comes_once(weights: tuple[float, ...]) -> None:
    """B4.4."""
    logits, labels = drawn(3, 1, 6, 5).requires_grad_() * 20, some_labels(3, 6, 5, classes=2)
    counts = labels != 255
    each = torch.tensor(weights or (1.0, 1.0), dtype=torch.float64)[labels[counts].long()]
    known = logits[:, 0][counts], labels[counts].double()
    wanted = F.binary_cross_entropy_with_logits(*known, weight=each, reduction="sum") / each.sum()
    torch.testing.assert_close(cross_entropy(logits, labels, class_weights=weights), wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_focal_follows_its_formula(channels: int) -> None:
    logits, labels = drawn(2, channels, 4, 4), some_labels(2, 4, 4, classes=max(channels, 2))
    shares = logits.softmax(1) if channels > 1 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    for gamma in (0.0, 0.5, 2.0):
        own = [
            float(shares[b, int(labels[b, y, x]), y, x])
            for b, y, x in itertools.product(range(2), range(4), range(4))
            if labels[b, y, x] != 255
        ]
        wanted = sum(-((1 - p) ** gamma) * math.log(p) for p in own) / len(own)
        assert float(focal(logits, labels, gamma=gamma)) == pytest.approx(wanted, rel=1e-12)


# --- dice ------------------------------------------------------------------------------------------------------------


def dice_by_loops(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """As its documentation has it."""
    binary = logits.shape[1] == 1
    shares = logits.sigmoid() if binary else logits.softmax(1)
    pictures = []
    for share, label in zip(shares, labels, strict=True):
        counts = label != 255
        if not counts.any():
            continue
        terms, mistaken, absent = [], 0.0, False
        for number, p in enumerate(share, start=1 if binary else 0):
            t = (label[counts] == number).double()
            if t.any():
                terms.append(float(1 - 2 * (p[counts] * t).sum() / (p[counts].sum() + t.sum())))
            else:
                mistaken, absent = mistaken + float(p[counts].mean()), True
        if absent:
            terms.append(mistaken / (mistaken + 0.05))
        pictures.append(sum(terms) / len(terms))
    return sum(pictures) / max(len(pictures), 1)


@pytest.mark.parametrize("channels", [1, 4])
def test_dice_follows_its_rule(channels: int) -> None:
    logits, labels = drawn(5, channels, 6, 7), some_labels(5, 6, 7, classes=max(channels, 2))
    labels[1] = 0  # one class alone, or an empty mask
    labels[2] = 255  # nothing known
    labels[3][labels[3] == 1] = 0
    assert float(dice(logits, labels)) == pytest.approx(dice_by_loops(logits, labels), rel=1e-12)


def test_a_picture_that_is_missed_costs_its_whole_share() -> None:
    """B4.12: over the whole batch, a small thing that is missed hides behind the large ones of other pictures."""
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    labels[:3] = 1
    labels[3, :2, :2] = 1
    logits = torch.where(labels == 1, 30.0, -30.0)[:, None].double()
    logits[3] = -30
    assert float(dice(logits, labels)) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("level", [-4.0, -1.0, 0.0, 3.0])
def test_an_empty_mask_has_gradients_that_empty_what_is_predicted(level: float) -> None:
    """B4.12, and what others ask for: the more is predicted where nothing is, the worse; nothing predicted costs 0."""
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    logits = torch.full((1, 1, 16, 16), level, dtype=torch.float64, requires_grad=True)
    loss = dice(logits, labels)
    assert (gradient(loss, logits) > 1e-6).all()
    assert float(dice(torch.full_like(logits, level + 0.5), labels)) > float(loss.detach())
    assert float(dice(torch.full_like(logits, -40.0), labels)) < 1e-12


def test_collapse_is_never_the_best() -> None:
    """B4.12: nothing predicted anywhere must cost more than the truth, however rare what is to be found."""
    labels = torch.zeros(8, 32, 32, dtype=torch.uint8)
    labels[0, 3:6, 3:6] = 1
    truth = torch.where(labels == 1, 12.0, -12.0)[:, None]
    nothing = torch.full_like(truth, -12.0)
    assert float(dice(nothing, labels)) - float(dice(truth, labels)) == pytest.approx(1 / 8, abs=2e-3)


def test_classes_that_a_picture_does_not_show_are_learnt_to_be_absent() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    logits = drawn(1, 6, 8, 8).requires_grad_()
    slopes = gradient(dice(logits, labels), logits)
    assert (slopes[:, 0] < 0).all()
    assert (slopes[:, 1:] > 0).all()


# --- lovasz ----------------------------------------------------------------------------------------------------------


def jaccard_loss(wrong: frozenset[int], truth: frozenset[int]) -> float:
    """Equation 4 of Berman et al. 2018: of the pixels that are predicted wrongly."""
    either = len(truth | wrong)
    return len(wrong) / either if either else 0.0


def extension(errors: list[float], truth: frozenset[int]) -> float:
    """The Lovász extension by its definition, Equation 7: each error times what its pixel adds to the loss."""
    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
    sets = [frozenset(order[: count + 1]) for count in range(len(order))]
    losses = [0.0, *(jaccard_loss(wrong, truth) for wrong in sets)]
    return sum(errors[pixel] * (losses[at + 1] - losses[at]) for at, pixel in enumerate(order))


def lovasz_by_definition(logits: torch.Tensor, labels: torch.Tensor) -> float:
    pictures = []
    for each, label in zip(logits.flatten(2), labels.flatten(1), strict=True):
        counts = label != 255
        known, values = label[counts].tolist(), each[:, counts]
        if logits.shape[1] == 1:
            truth = frozenset(at for at, value in enumerate(known) if value)
            signs = [1 if value else -1 for value in known]
            pictures.append(
                extension([max(0.0, 1 - float(v) * s) for v, s in zip(values[0], signs, strict=True)], truth)
            )
            continue
        shares, classes = values.softmax(0), []
        for number in sorted(set(known)):
            truth = frozenset(at for at, value in enumerate(known) if value == number)
            errors = [abs((at in truth) - float(share)) for at, share in enumerate(shares[number])]
            classes.append(extension(errors, truth))
        pictures.append(sum(classes) / len(classes))
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize("channels", [1, 3])
def test_lovasz_is_the_extension_of_the_jaccard_loss(channels: int) -> None:
    logits, labels = drawn(3, channels, 3, 4), some_labels(3, 3, 4, classes=max(channels, 2))
    labels[1][labels[1] == 1] = 0  # an empty mask, or a class that is absent
    assert float(lovasz(logits, labels)) == pytest.approx(lovasz_by_definition(logits, labels), rel=1e-12)


def test_where_all_is_decided_lovasz_is_one_less_iou() -> None:
    labels = some_labels(1, 9, 9, classes=2, void=0)
    predicted = some_labels(1, 9, 9, classes=2, void=0, seed=1)
    logits = torch.where(F.one_hot(predicted.long(), 2).movedim(-1, 1) == 1, 200.0, -200.0)
    ious = [
        int(((labels == k) & (predicted == k)).sum()) / int(((labels == k) | (predicted == k)).sum()) for k in (0, 1)
    ]
    assert float(lovasz(logits, labels)) == pytest.approx(1 - sum(ious) / 2, rel=1e-6)


# --- what all share --------------------------------------------------------------------------------------------------

LOSSES: dict[str, Any] = {"cross_entropy": cross_entropy, "dice": dice, "focal": focal, "lovasz": lovasz}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_numeric_ones(name: str, channels: int) -> None:
    labels = some_labels(2, 3, 3, classes=max(channels, 2), seed=4)
    logits = drawn(2, channels, 3, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: LOSSES[name](values, labels), (logits,))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_ignored_has_no_gradient_and_all_ignored_is_nothing(name: str, channels: int) -> None:
    labels = some_labels(2, 4, 4, classes=max(channels, 2), void=0.5)
    logits = drawn(2, channels, 4, 4).requires_grad_()
    slopes = gradient(LOSSES[name](logits, labels), logits)
    assert (slopes.movedim(1, -1)[labels == 255] == 0).all()
    changed = logits.detach().clone()
    changed.movedim(1, -1)[labels == 255] = 77
    torch.testing.assert_close(LOSSES[name](changed, labels), LOSSES[name](logits, labels).detach())
    nothing = LOSSES[name](logits, torch.full_like(labels, 255))
    assert nothing.detach() == 0
    assert (gradient(nothing, logits) == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_they_are_worked_out_in_float32_and_stay_finite(name: str, channels: int, dtype: torch.dtype) -> None:
    """Sums over a picture overflow in float16, and a logit of 60 is certain in it; under autocast as well."""
    labels = some_labels(1, 272, 272, classes=max(channels, 2), void=0.05)
    logits = (drawn(1, channels, 272, 272) * 60).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](logits.detach().double(), labels).float(), rtol=1e-4, atol=1e-6)
    assert gradient(loss, logits).isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sum_is_that_of_its_parts(channels: int) -> None:
    logits, labels = drawn(2, channels, 8, 8), some_labels(2, 8, 8, classes=max(channels, 2))
    weights = (1.0, 3.0) if channels == 1 else (1.0, 2.0, 3.0)
    loss = SegmentLoss(cross_entropy=0.5, dice=2, focal=3, lovasz=0.25, gamma=1.5, class_weights=weights)
    found = loss(logits, labels)
    torch.testing.assert_close(found["cross_entropy"], 0.5 * cross_entropy(logits, labels, class_weights=weights))
    torch.testing.assert_close(found["dice"], 2 * dice(logits, labels))
    torch.testing.assert_close(found["focal"], 3 * focal(logits, labels, gamma=1.5, class_weights=weights))
    torch.testing.assert_close(found["lovasz"], 0.25 * lovasz(logits, labels))
    assert list(SegmentLoss(dice=0)(logits, labels)) == ["cross_entropy"]


def test_one_sum_of_both_losses_has_the_gradients_of_both() -> None:
    """They share what goes back; class weights and a class that is not shown included."""
    labels = some_labels(3, 5, 6, classes=3, seed=2)
    labels[1] = 255
    labels[2][labels[2] == 1] = 0
    logits = drawn(3, 4, 5, 6).requires_grad_()
    loss = SegmentLoss(cross_entropy=0.7, dice=1.3, class_weights=WEIGHTS)
    assert torch.autograd.gradcheck(lambda values: total(loss(values, labels)), (logits,))
    wanted = 0.7 * gradient(cross_entropy(logits, labels, class_weights=WEIGHTS), logits) + 1.3 * gradient(
        dice(logits, labels), logits
    )
    torch.testing.assert_close(gradient(total(loss(logits, labels)), logits), wanted)


def test_deep_supervision_is_the_loss_of_each_coarse_map_by_its_weight() -> None:
    labels = some_labels(2, 16, 24, classes=3)
    coarse, deep = drawn(2, 3, 8, 12, seed=2), [drawn(2, 3, 2, 3), drawn(2, 3, 4, 6, seed=1)]
    loss = SegmentLoss(deep=(0.5, 0.25))
    found = loss.supervised(coarse, deep, labels, chances=torch.Generator().manual_seed(0))
    wanted = 0.5 * total(loss(deep[0], labels[:, 4::8, 4::8])) + 0.25 * total(loss(deep[1], labels[:, 2::4, 2::4]))
    torch.testing.assert_close(found.pop("deep"), wanted)
    quarters = [loss(*looked_at(coarse, labels, first=(top, left))) for top in (0, 1) for left in (0, 1)]
    assert found in quarters
    assert "deep" not in SegmentLoss(deep=()).supervised(coarse, deep, labels, chances=torch.Generator())


@pytest.mark.parametrize("size", [(16, 24), (14, 21)])
def test_a_quarter_of_the_pixels_is_looked_at_and_all_four_are_all(size: tuple[int, int]) -> None:
    """Each pixel with its own label and the logit that the served network has there."""
    labels = some_labels(2, *size, classes=3)
    coarse = drawn(2, 3, -(-size[0] // 2), -(-size[1] // 2))
    whole = enlarged(coarse)[..., : size[0], : size[1]].contiguous()
    first_class = whole[:, 0].flatten().round(decimals=9).tolist()  # each number is like no other
    wanted = set(zip(first_class, labels.flatten().tolist(), strict=True))
    found: list[tuple[float, int]] = []
    for first in ((0, 0), (0, 1), (1, 0), (1, 1)):
        logits, picked = looked_at(coarse, labels, first=first)
        assert picked.shape == (2, *coarse.shape[2:])
        within = whole[:, :, first[0] :: 2, first[1] :: 2], labels[:, first[0] :: 2, first[1] :: 2]
        torch.testing.assert_close(cross_entropy(logits, picked), cross_entropy(*within))
        torch.testing.assert_close(dice(logits, picked), dice(*within))
        found += zip(logits[:, 0].flatten().round(decimals=9).tolist(), picked.flatten().tolist(), strict=True)
    assert wanted <= set(found)
    assert sum(label != 255 for _, label in found) == int((labels != 255).sum())


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 9), (13, 21), (20, 5)])
def test_labels_are_picked_and_never_mixed(size: tuple[int, int]) -> None:
    """B4.8: what is 255 stays 255, and no value comes up that was not there."""
    labels = some_labels(2, 13, 21, classes=5)
    found = labels_at(labels, size_hw=size)
    wanted = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(labels.dtype)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dice": -1.0}, "weights of losses are 0 or more"),
        ({"cross_entropy": 0.0, "dice": 0.0}, "and one is more"),
        ({"deep": (0.4, -0.1)}, "weights of losses are 0 or more"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentLoss(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits are \[1, 3, 4, 4\] and labels \[1, 4, 5\]"):
        dice(drawn(1, 3, 4, 4), some_labels(1, 4, 5, classes=3))
    with pytest.raises(ValueError, match="there are 2 weights of classes, and 3 classes"):
        cross_entropy(drawn(1, 3, 4, 4), some_labels(1, 4, 4, classes=3), class_weights=(1.0, 2.0))


# --- teachers --------------------------------------------------------------------------------------------------------


def divergence(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """torch's own, of two sets of logits [B, C, H, W]."""
    ours, theirs = (logits / temperature for logits in (student, teacher))
    each = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="none", log_target=True).sum(1)
    return each.mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_labels_are_the_divergence_of_torch(temperature: float) -> None:
    student, teacher = drawn(2, 4, 5, 5).requires_grad_(), drawn(2, 4, 5, 5, seed=1)
    found = soft_labels(student, teacher.softmax(1), temperature=temperature)
    torch.testing.assert_close(found, divergence(student, teacher, temperature=temperature))
    assert torch.autograd.gradcheck(lambda v: soft_labels(v, teacher.softmax(1), temperature=temperature), (student,))
    assert float(soft_labels(teacher, teacher.softmax(1), temperature=temperature)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_binary_soft_labels_are_those_of_two_classes(temperature: float) -> None:
    student, teacher = drawn(2, 1, 5, 5), drawn(2, 1, 5, 5, seed=1)
    both = [torch.cat([torch.zeros_like(each), each], 1) for each in (student, teacher)]
    found = soft_labels(student, teacher.sigmoid(), temperature=temperature)
    torch.testing.assert_close(found, divergence(*both, temperature=temperature))


def test_a_teacher_that_is_certain_is_like_labels() -> None:
    logits, labels = drawn(2, 3, 5, 5).requires_grad_(), some_labels(2, 5, 5, classes=3)
    certain = F.one_hot(labels.where(labels != 255, 0).long(), 3).movedim(-1, 1).double()
    found, wanted = soft_labels(logits, certain, counts=labels != 255), cross_entropy(logits, labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, logits), gradient(wanted, logits))
    assert soft_labels(logits, certain, counts=torch.zeros(2, 5, 5, dtype=torch.bool)).detach() == 0
    half = soft_labels(logits.detach().half() * 60, certain.half(), temperature=4.0)
    assert half.dtype == torch.float32
    assert half.isfinite()


def test_features_are_compared_by_huber_or_by_squares() -> None:
    ours, theirs = drawn(2, 3, 4, 4).requires_grad_() * 3, drawn(2, 3, 4, 4, seed=1)
    away = (ours - theirs).abs()
    wanted = torch.where(away <= 0.5, away.square() / 2, 0.5 * (away - 0.25)).mean()
    torch.testing.assert_close(features(ours, theirs, delta=0.5), wanted)
    torch.testing.assert_close(features(ours, theirs, kind="mse"), away.square().mean())
    assert features(ours.half(), theirs.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"the teacher's features are \[2, 3, 4, 3\]"):
        features(ours, theirs[..., :3])
    with pytest.raises(ValueError, match=r"probabilities are \[2, 3, 4, 4\], the logits \[2, 1, 4, 4\]"):
        soft_labels(ours[:, :1], theirs)
