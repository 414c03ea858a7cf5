import math

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch.nn.functional import normalize

from lightmill.train.losses import arcface, consistency, cosines_to, outliers, triplet, with_margin

MARGIN = math.radians(28.6)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(loss: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, of)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("turned", [1.0, -1.0])  # -1: angles near 180 degrees, where angle + margin is beyond
def test_arcface_is_that_of_pytorch_metric_learning(seed: int, turned: float) -> None:
    classes = torch.arange(12) % 5
    centres = drawn(5, 8, seed=seed).requires_grad_()
    embeddings = (turned * 3 * centres.detach()[classes] + drawn(12, 8, seed=seed + 50)).requires_grad_()
    theirs = ArcFaceLoss(num_classes=5, embedding_size=8, margin=28.6, scale=30)
    theirs.W.data = centres.detach().T.clone()
    wanted = theirs(embeddings, classes)
    ours = arcface(cosines_to(centres, embeddings), classes, margin=MARGIN, scale=30)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)
    to_embeddings, to_centres = gradients(ours, embeddings, centres)
    wanted_to_embeddings, wanted_to_centres = gradients(wanted, embeddings, theirs.W)
    torch.testing.assert_close(to_embeddings, wanted_to_embeddings, atol=1e-6, rtol=0)
    torch.testing.assert_close(to_centres, wanted_to_centres.T, atol=1e-6, rtol=0)


def test_the_margin_never_helps() -> None:
    """A4.21: beyond 180 degrees the cosine of angle + margin rises again; what is learnt from must go on falling."""
    angles = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
    cosines = torch.stack([angles.cos(), torch.zeros_like(angles)], dim=1)
    own = with_margin(cosines, torch.zeros(500, dtype=torch.long), margin=0.5)[:, 0]
    assert (own.diff() < 0).all()
    assert (own < cosines[:, 0]).all()
    torch.testing.assert_close(own[:50], (angles[:50] + 0.5).cos())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_arcface_is_finite_for_embeddings_at_their_centre_and_opposite(dtype: torch.dtype) -> None:
    """A4.21: in float16, acos of 1 has a gradient without limit."""
    centres = drawn(4, 16, dtype=dtype).requires_grad_()
    embeddings = torch.cat([centres.detach(), -centres.detach()]).requires_grad_()
    classes = torch.arange(8) % 4
    loss = arcface(cosines_to(centres, embeddings), classes, margin=0.5, scale=64)
    assert loss.dtype == torch.float32
    assert all(bool(each.isfinite().all()) for each in (loss, *gradients(loss, embeddings, centres)))


def test_a_step_brings_an_embedding_nearer_to_its_centre() -> None:
    centres = normalize(drawn(3, 6))
    embedding = drawn(1, 6, seed=9).requires_grad_()
    loss = arcface(cosines_to(centres, embedding), torch.tensor([1]), margin=0.3, scale=16)
    moved = embedding.detach() - 0.01 * gradients(loss, embedding)[0]
    assert cosines_to(centres, moved)[0, 1] > cosines_to(centres, embedding)[0, 1]


def test_outliers_do_not_count_in_arcface_and_the_known_not_among_outliers() -> None:
    """A4.19: negatives take part, by a loss of their own."""
    centres, embeddings = drawn(4, 8), drawn(6, 8, seed=1)
    classes = torch.tensor([0, -1, 2, -1, 3, 1])
    cosines = cosines_to(centres, embeddings)
    known = classes >= 0
    torch.testing.assert_close(
        arcface(cosines, classes, margin=0.3, scale=20), arcface(cosines[known], classes[known], margin=0.3, scale=20)
    )
    highest = [max(0.0, float(cosines[row].max()) - 0.1) for row in (1, 3)]
    assert float(outliers(cosines, classes, bound=0.1)) == pytest.approx(sum(highest) / 2)


def test_an_outlier_is_pushed_from_the_class_it_is_nearest_to() -> None:
    """A4.19."""
    centres = normalize(drawn(3, 5))
    embedding = (centres[1:2] + 0.2 * drawn(1, 5, seed=3)).requires_grad_()
    loss = outliers(cosines_to(centres, embedding), torch.tensor([-1]), bound=0.0)
    moved = embedding.detach() - 0.1 * gradients(loss, embedding)[0]
    assert cosines_to(centres, moved)[0, 1] < cosines_to(centres, embedding)[0, 1]


def brute_triplet(features: torch.Tensor, classes: list[int], margin: float) -> float:
    found = []
    for anchor, name in enumerate(classes):
        near = [float((features[anchor] - other).norm()) for other in features]
        same = [near[at] for at, other in enumerate(classes) if other == name and at != anchor and name >= 0]
        others = [near[at] for at, other in enumerate(classes) if other != name]
        if same and others:
            found.append(max(0.0, max(same) - min(others) + margin))
    return sum(found) / len(found) if found else 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [0.3, 3.0])
def test_triplet_is_the_hardest_of_the_batch(seed: int, margin: float) -> None:
    classes = [0, 0, 0, 1, 1, 2, 2, 3, -1, -1]  # 3 has no positive
    features = drawn(10, 4, seed=seed)
    found = triplet(features, torch.tensor(classes), margin=margin)
    assert float(found) == pytest.approx(brute_triplet(features, classes, margin), abs=1e-6)


def test_triplet_gradients_are_those_of_finite_differences() -> None:
    classes = torch.tensor([0, 0, 1, 1, -1])
    features = drawn(5, 3, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: triplet(each, classes, margin=2.0), (features,), atol=1e-6)


@pytest.mark.parametrize("classes", [[0, 1, 2], [-1, -1, -1], [0, 0, 0], [0, -1, -1]])
def test_anchors_without_a_positive_or_another_give_no_loss(classes: list[int]) -> None:
    """A4.20: three labels, three crops: nothing to be learnt from distances."""
    features = drawn(3, 4).requires_grad_()
    loss = triplet(features, torch.tensor(classes), margin=0.3)
    assert float(loss.detach()) == 0
    assert not gradients(loss, features)[0].any()


def test_consistency_is_the_mean_over_pairs_of_a_moment() -> None:
    """A4.2: views of one instant, however many there are."""
    embeddings, moments = drawn(7, 5), [3, 8, 3, -1, 8, 3, -1]
    pairs = [(a, b) for a in range(7) for b in range(a) if moments[a] == moments[b] >= 0]
    units = normalize(embeddings)
    wanted = sum(1 - float(units[a] @ units[b]) for a, b in pairs) / len(pairs)
    assert len(pairs) == 4
    assert float(consistency(embeddings, torch.tensor(moments))) == pytest.approx(wanted)


def test_losses_of_nothing_are_zero_and_can_be_learnt_from() -> None:
    embeddings = drawn(3, 4).requires_grad_()
    cosines, nobody = cosines_to(drawn(2, 4, seed=1), embeddings), torch.full((3,), -1)
    nothing = [
        arcface(cosines, nobody, margin=0.3, scale=20),
        outliers(cosines, torch.zeros(3, dtype=torch.long), bound=0.0),
        consistency(embeddings, nobody),
    ]
    total = torch.stack(nothing).sum()
    assert float(total.detach()) == 0
    assert not gradients(total, embeddings)[0].any()
