"""Fractal noise: a function of place, with most of its strength in its largest cells."""

import math

import numpy as np
import pytest

from lightmill.ops.noise import fractal_noise


def grid(side_px: int, extent: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    place = ((np.arange(side_px) + 0.5) * extent / side_px).astype(np.float32)
    return place[None], place[:, None]


def by_the_formula(x: float, y: float, seed: int, octave: int) -> float:
    """Perlin's noise of 2002 at one place with cells of 1, in float64, corner by corner."""
    angle = np.random.default_rng((seed, octave)).random(64 * 64) * 2 * math.pi
    left, top, total = math.floor(x), math.floor(y), 0.0
    for corner_x in (left, left + 1):
        for corner_y in (top, top + 1):
            dx, dy = x - corner_x, y - corner_y
            turn = angle[(corner_y % 64) * 64 + corner_x % 64]
            weights = (1 - (6 * d**5 - 15 * d**4 + 10 * d**3) for d in (abs(dx), abs(dy)))
            total += math.prod(weights) * (math.cos(turn) * dx + math.sin(turn) * dy)
    return total


def test_it_is_the_published_formula_summed_over_octaves() -> None:
    rng, persistence = np.random.default_rng(3), 0.6
    x, y = rng.uniform(-30, 30, (2, 40)).astype(np.float32)
    noise = fractal_noise(x, y, cell=0.7, octaves=3, persistence=persistence, seed=11)
    wanted = np.array(
        [
            sum(persistence**o * by_the_formula(u * 2**o / 0.7, v * 2**o / 0.7, 11, o) for o in range(3))
            for u, v in zip(x.tolist(), y.tolist(), strict=True)
        ]
    )
    ratio = wanted @ noise / (noise @ noise)  # the formula leaves the scale open; that is the next test's
    np.testing.assert_allclose(noise * ratio, wanted, atol=2e-5)


@pytest.mark.parametrize(("octaves", "persistence"), [(1, 0.5), (5, 0.5), (4, 1), (3, 0)])
def test_it_has_mean_0_and_standard_deviation_1(octaves: int, persistence: float) -> None:
    x, y = grid(700, extent=61.7)  # places that keep no step with the cells
    noise = fractal_noise(x, y, cell=1.0, octaves=octaves, persistence=persistence, seed=5)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.03


def test_the_largest_octave_is_the_strongest() -> None:
    """Power by bands of frequency, an octave each: falls from the first cell's frequency on."""
    side = 512
    power = np.zeros((side, side))
    window = np.hanning(side)[:, None] * np.hanning(side)
    x, y = grid(side, extent=8.0)
    for seed in range(4):
        noise = fractal_noise(x, y, cell=1.0, octaves=5, persistence=0.5, seed=seed)
        power += np.abs(np.fft.fft2(noise * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 8.0 / side)] * 2))  # cycles a cell
    bands = [power[(frequency >= low) & (frequency < 2 * low)].sum() for low in (0.5, 1, 2, 4, 8)]
    assert bands == sorted(bands, reverse=True)
    assert bands[0] > 0.5 * sum(bands)


def test_the_resolution_has_no_say() -> None:
    """Every third of three times as many places is the same place."""
    options = {"cell": 0.4, "octaves": 4, "persistence": 0.5, "seed": 9}
    coarse = fractal_noise(*grid(100), **options)
    fine = fractal_noise(*grid(300), **options)
    np.testing.assert_allclose(fine[1::3, 1::3], coarse, atol=1e-4)


def test_seeds_differ_and_are_repeated() -> None:
    noises = [
        fractal_noise(*grid(64), cell=0.5, octaves=3, persistence=0.5, seed=seed) for seed in (1, 1, 2, 2**32 - 1)
    ]
    assert noises[0].tobytes() == noises[1].tobytes()
    for other in noises[2:]:
        assert abs(np.corrcoef(noises[0].ravel(), other.ravel())[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cell": 0.0}, "cell of noise must be above 0, got 0.0"),
        ({"cell": math.nan}, "cell of noise must be above 0, got nan"),
        ({"octaves": 0}, "at least one octave, got 0"),
        ({"persistence": 1.5}, "persistence of noise must be from 0 to 1, got 1.5"),
    ],
    ids=str,
)
def test_options_that_make_no_noise_are_refused(wrong: dict[str, float], message: str) -> None:
    options = {"cell": 0.5, "octaves": 3, "persistence": 0.5, "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        fractal_noise(*grid(8), **options)
