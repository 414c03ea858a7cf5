"""The surface that comes back from its differences is the one of a dense least-squares solve."""

import cv2
import numpy as np
import pytest
import scipy.fft

from lightmill.ops.poisson import differences, integrate, integrate_within

SIZES = [(8, 12), (9, 12), (8, 13), (9, 13), (1, 6), (7, 1), (1, 1)]


def random_field(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences that no surface has exactly."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(height, width - 1)), rng.normal(size=(height - 1, width))


def dense(right: np.ndarray, down: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The shortest solution of the equations themselves, one a pair of pixels that are both inside."""
    number = np.arange(inside.size).reshape(inside.shape)
    rows, wanted = [], []
    for one, other, change in (
        (number[:, :-1], number[:, 1:], right),
        (number[:-1], number[1:], down),
    ):
        for a, b, value in zip(one.flat, other.flat, change.flat, strict=True):
            if inside.flat[a] and inside.flat[b]:
                row = np.zeros(inside.size)
                row[a], row[b] = -1, 1
                rows.append(row)
                wanted.append(value)
    return np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0].reshape(inside.shape)


def spectral(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """By scipy's DCT."""
    height, width = right.shape[0], down.shape[1]
    divergence = np.diff(right, axis=1, prepend=0, append=0) + np.diff(down, axis=0, prepend=0, append=0)
    u, v = np.cos(np.pi * np.arange(height) / height)[:, None], np.cos(np.pi * np.arange(width) / width)
    eigenvalues = 2 * u + 2 * v - 4
    eigenvalues[0, 0] = 1
    waves = scipy.fft.dctn(divergence) / eigenvalues
    waves[0, 0] = 0
    return scipy.fft.idctn(waves)


def disc(height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    return cv2.ellipse(canvas, (width // 2, height // 2), (width // 3, height // 4), 30, 0, 360, 1, -1) > 0


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 5e-6)])
def test_integrating_undoes_differences(height: int, width: int, dtype: type, atol: float) -> None:
    surface = np.random.default_rng(1).normal(size=(height, width)).astype(dtype)
    again = integrate(*differences(surface))
    assert again.dtype == dtype
    np.testing.assert_allclose(again, surface - surface.mean(), atol=atol)


@pytest.mark.parametrize(("height", "width"), SIZES[:-1])
def test_a_field_that_is_no_surface_gives_the_nearest_one(height: int, width: int) -> None:
    right, down = random_field(2, height, width)
    found = integrate(right, down)
    np.testing.assert_allclose(found, dense(right, down, np.ones((height, width), bool)), atol=1e-12)
    assert abs(found.mean()) < 1e-14


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 61)])
def test_it_agrees_with_a_dct_of_another_library(height: int, width: int) -> None:
    right, down = random_field(3, height, width)
    np.testing.assert_allclose(integrate(right, down), spectral(right, down), atol=1e-11)


def test_float32_holds_on_a_large_picture() -> None:
    right, down = random_field(4, 1024, 1024)
    found = integrate(right.astype(np.float32), down.astype(np.float32))
    assert np.abs(found - integrate(right, down)).max() < 2e-4  # of slopes of 1


@pytest.mark.parametrize(("height", "width"), [(17, 20), (18, 23)])
def test_within_a_region_it_is_the_nearest_surface_there(height: int, width: int) -> None:
    inside = disc(height, width)
    right, down = random_field(5, height, width)
    found = integrate_within(right, down, inside, tolerance=1e-12, max_steps=200)[inside]
    wanted = dense(right, down, inside)[inside]
    np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), atol=1e-9)


def test_a_region_that_is_everything_needs_one_step() -> None:
    right, down = random_field(6, 16, 24)
    found = integrate_within(right, down, np.ones((16, 24), bool), max_steps=1)
    np.testing.assert_allclose(found, integrate(right, down), atol=1e-12)


def test_at_the_usual_tolerance_the_error_is_small_within_few_steps() -> None:
    height = width = 192
    inside = disc(height, width)
    y, x = np.mgrid[:height, :width] / height
    surface = (np.sin(5 * x) + np.cos(4 * y + 2 * x)).astype(np.float32)
    found = integrate_within(*differences(surface), inside, max_steps=6)[inside]
    off = (found - found.mean()) - (surface[inside] - surface[inside].mean())
    assert np.abs(off).max() < 2e-3


def test_differences_outside_have_no_influence_at_all() -> None:
    inside = disc(40, 50)
    right, down = random_field(7, 40, 50)
    other_right = np.where(inside[:, 1:] & inside[:, :-1], right, np.nan)
    other_down = np.where(inside[1:] & inside[:-1], down, 1e9)
    np.testing.assert_array_equal(
        integrate_within(right, down, inside), integrate_within(other_right, other_down, inside)
    )


def test_parts_that_do_not_touch_each_get_their_own_surface() -> None:
    inside = np.ones((20, 31), bool)
    inside[:, 15] = False
    surface = np.random.default_rng(8).normal(size=inside.shape)
    found = integrate_within(*differences(surface), inside, tolerance=1e-12, max_steps=100)
    for half in (np.s_[:, :15], np.s_[:, 16:]):
        off = found[half] - surface[half]
        assert np.ptp(off) < 1e-9


def test_an_empty_region_is_flat() -> None:
    right, down = random_field(9, 6, 8)
    np.testing.assert_array_equal(integrate_within(right, down, np.zeros((6, 8), bool)), np.zeros((6, 8)))


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differences of a surface are \[H, W - 1\] and \[H - 1, W\]"):
        integrate(np.zeros((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"inside must be \[4, 5\], as the surface is, got \[5, 4\]"):
        integrate_within(np.zeros((4, 4)), np.zeros((3, 5)), np.ones((5, 4), bool))
