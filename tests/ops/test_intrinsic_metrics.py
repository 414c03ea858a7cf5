"""The metrics against their published formulas, written down once more as plain loops."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from lightmill.ops.intrinsic_metrics import Judgement, lmse, lmse_score, si_mse, whdr


def pair(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(shape)
    return (truth * rng.uniform(0.5, 2, shape)).astype(np.float32), truth.astype(np.float32)


def half_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[3:-2, : width // 2 + 3] = 255
    mask[0, 0], mask[0, 1] = 127, 128
    return mask


def lmse_by_loops(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Grosse et al. 2009, equation 5 and the text below it."""
    error = total = 0.0
    height, width = mask.shape
    for top in range(0, height - 19, 10):
        for left in range(0, width - 19, 10):
            window = np.s_[top : top + 20, left : left + 20]
            counts = mask[window] >= 128
            e, t = estimate[window][counts].astype(np.float64), truth[window][counts].astype(np.float64)
            scale = (e * t).sum() / (e * e).sum() if (e * e).sum() > 0 else 0.0
            error += ((t - scale * e) ** 2).sum()
            total += (t * t).sum()
    return error / total


def whdr_by_loops(albedo: np.ndarray, judgements: list[Judgement]) -> float:
    """Bell et al. 2014, equations 2 and 3."""
    wrong = total = 0.0
    for (x1, y1), (x2, y2), darker, weight in judgements:
        if weight > 0:
            one, two = (
                max(1e-10, albedo[int(y * albedo.shape[0]), int(x * albedo.shape[1])].astype(np.float64).mean())
                for x, y in ((x1, y1), (x2, y2))
            )
            says = "1" if two / one > 1.10 else "2" if one / two > 1.10 else "E"
            wrong += weight * (says != darker)
            total += weight
    return wrong / total


def random_judgements(seed: int, count: int) -> list[Judgement]:
    rng = np.random.default_rng(seed)
    return [
        Judgement(
            tuple(rng.random(2).tolist()),
            tuple(rng.random(2).tolist()),
            rng.choice(["1", "2", "E"]).item(),
            rng.uniform(-0.2, 2),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3)])
def test_si_mse_is_the_least_over_all_scales(shape: tuple[int, ...]) -> None:
    estimate, truth = pair(1, *shape)
    mask = half_mask(30, 40)
    e, t = estimate[mask >= 128].astype(np.float64), truth[mask >= 128].astype(np.float64)
    least = minimize_scalar(lambda a: np.mean((t - a * e) ** 2), bracket=(0, 1), tol=1e-12).fun
    assert si_mse(estimate, truth, mask=mask) == pytest.approx(least, rel=1e-9)


def test_si_mse_shares_one_scale_among_the_channels() -> None:
    truth = np.full((4, 4, 3), 0.5)
    assert si_mse(truth * [1.0, 2.0, 0.5], truth) > 0.01


@pytest.mark.parametrize("shape", [(20, 20), (47, 63), (64, 40, 1), (47, 63, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_lmse_is_the_published_sum(shape: tuple[int, ...], masked: bool) -> None:
    estimate, truth = pair(2, *shape)
    mask = half_mask(*shape[:2]) if masked else np.full(shape[:2], 255, np.uint8)
    found = lmse(estimate, truth, mask=mask if masked else None)
    assert found == pytest.approx(lmse_by_loops(estimate, truth, mask), rel=1e-12)


def test_lmse_lets_each_window_have_its_scale() -> None:
    truth = np.random.default_rng(3).random((20, 50)) + 0.1
    estimate = truth.copy()
    estimate[:, 30:] *= 3  # of the windows at 0, 10, 20 and 30, the one at 20 alone has both scales
    assert 0 < lmse(estimate, truth) < si_mse(estimate, truth) / np.mean(truth**2)


def test_lmse_of_an_estimate_that_says_nothing_is_at_most_one() -> None:
    _, truth = pair(4, 40, 40, 3)
    assert lmse(np.zeros_like(truth), truth) == 1
    assert lmse(np.ones_like(truth), truth) < 1


def test_the_score_is_half_reflectance_and_half_shading() -> None:
    albedo, true_albedo = pair(5, 40, 40, 3)
    shading, true_shading = pair(6, 40, 40, 1)
    found = lmse_score(albedo=albedo, shading=shading, true_albedo=true_albedo, true_shading=true_shading)
    everywhere = np.full((40, 40), 255, np.uint8)
    halves = lmse_by_loops(albedo, true_albedo, everywhere), lmse_by_loops(shading, true_shading, everywhere)
    assert found == pytest.approx(sum(halves) / 2, rel=1e-12)


@pytest.mark.parametrize("shape", [(31, 44), (31, 44, 3)])
def test_whdr_is_the_published_share(shape: tuple[int, ...]) -> None:
    albedo, _ = pair(7, *shape)
    albedo[:10] = 0
    judgements = random_judgements(8, 400)
    as_channels = albedo if albedo.ndim == 3 else albedo[..., None]
    assert whdr(albedo, judgements) == pytest.approx(whdr_by_loops(as_channels, judgements), rel=1e-12)


def test_whdr_counts_a_ratio_of_delta_as_equal() -> None:
    albedo = np.array([[1.0, 1.1, 1.11]])
    one, ten, eleven = (0.0, 0.0), (0.4, 0.0), (0.9, 0.0)
    assert whdr(albedo, [Judgement(one, ten, "E")]) == 0
    assert whdr(albedo, [Judgement(one, eleven, "1"), Judgement(eleven, one, "2")]) == 0
    assert whdr(albedo, [Judgement(one, eleven, "1")], delta=0.2) == 1


@pytest.mark.parametrize("scale", [1.0, 0.037, 512.0])
def test_the_truth_at_any_scale_is_perfect(scale: float) -> None:
    _, truth = pair(9, 40, 50, 3)
    estimate = truth.astype(np.float64) * scale
    assert si_mse(estimate, truth) < 1e-30
    assert lmse(estimate, truth) < 1e-30
    brightness = truth.astype(np.float64).mean(axis=2)
    said = [
        Judgement((x / 50, 0.0), (x / 50, 0.5), "1" if b / a > 1.1 else "2" if a / b > 1.1 else "E", 1.0)
        for x, (a, b) in enumerate(zip(brightness[0], brightness[20], strict=True))
    ]
    assert whdr(estimate, said) == 0


def test_what_cannot_be_compared_is_refused() -> None:
    picture = np.ones((30, 30, 3))
    with pytest.raises(ValueError, match=r"two pictures of one shape.*got \[30, 30, 3\] and \[30, 30\]"):
        si_mse(picture, picture[..., 0])
    with pytest.raises(ValueError, match="no pixel of the mask is 128 or more"):
        si_mse(picture, picture, mask=np.full((30, 30), 127, np.uint8))
    with pytest.raises(ValueError, match=r"the mask of a picture \[30, 30, 3\] must be \[H, W\], got \[30, 29\]"):
        lmse(picture, picture, mask=np.full((30, 29), 255, np.uint8))
    with pytest.raises(ValueError, match=r"LMSE needs 20 px a side or more, got \[19, 30\]"):
        lmse(picture[:19], picture[:19])
    with pytest.raises(ValueError, match="not defined where the truth is 0"):
        lmse(picture, np.zeros_like(picture))
    with pytest.raises(ValueError, match="at least one judgement of a weight above 0"):
        whdr(picture, [Judgement((0, 0), (0.5, 0.5), "E", 0.0)])
    with pytest.raises(ValueError, match=r"from 0 to below 1, got \(1.0, 0\)"):
        whdr(picture, [Judgement((0, 0), (1.0, 0), "E")])
