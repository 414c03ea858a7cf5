"""From a guess to a soft mask, step by step: beside scipy, plain loops, and pictures whose edges are known."""

import cv2
import numpy as np
import pytest
import scipy.ndimage

from lightmill.ops.matting import grab_cut, guided, upsampled, without_specks


def test_grab_cut_finds_what_the_guess_left_out() -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:120, :160]
    disc = np.hypot(x - 80, y - 60) < 35
    image = np.where(disc[..., None], (180, 60, 40), (60, 110, 170)) + rng.normal(0, 12, (120, 160, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    trimap = np.full((120, 160), cv2.GC_PR_BGD, np.uint8)
    trimap[40:80, 55:90] = cv2.GC_PR_FGD
    found = grab_cut(image, trimap)
    assert (found != disc).mean() < 0.002
    assert (trimap[40:80, 55:90] == cv2.GC_PR_FGD).all()  # the guess is left as it was


@pytest.mark.parametrize("colours", [1, 2, 3])
def test_grab_cut_of_few_colours(colours: int) -> None:
    palette = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
    image = palette[np.arange(40 * 40).reshape(40, 40) // 500 % colours]
    trimap = np.full((40, 40), cv2.GC_PR_BGD, np.uint8)
    trimap[10:30, 10:30] = cv2.GC_FGD
    assert grab_cut(image, trimap)[10:30, 10:30].all()


@pytest.mark.parametrize(("label", "expected"), [(cv2.GC_PR_BGD, False), (cv2.GC_FGD, True)])
def test_grab_cut_with_nothing_to_tell_apart(label: int, expected: bool) -> None:
    found = grab_cut(np.zeros((5, 5, 3), np.uint8), np.full((5, 5), label, np.uint8))
    assert (found == expected).all()


def test_specks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(6)
    mask = scipy.ndimage.gaussian_filter(rng.normal(size=(150, 150)), 3) > 0.04
    found = without_specks(mask, share=0.1)

    def pieces(of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, count = scipy.ndimage.label(of)
        return number, np.bincount(number.ravel(), minlength=count + 1)[1:]

    number, size = pieces(mask)
    least = 0.1 * size.max()
    expected = np.isin(number, 1 + np.flatnonzero(size >= least))
    number, size = pieces(~expected)
    expected |= np.isin(number, 1 + np.flatnonzero(size < least))
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, mask)


def test_guided_coefficients_are_those_of_each_window() -> None:
    rng = np.random.default_rng(8)
    guide, target = rng.random((12, 11, 3)).astype(np.float32), rng.random((12, 11)).astype(np.float32)
    radius = 2
    fits = np.zeros((12, 11, 4))
    for y in range(2, 10):
        for x in range(2, 9):
            window = np.s_[y - 2 : y + 3, x - 2 : x + 3]
            colours, values = guide[window].reshape(-1, 3).astype(float), target[window].ravel().astype(float)
            system = np.cov(colours.T, bias=True) + 1e-4 * np.eye(3)
            slope = np.linalg.solve(system, ((colours - colours.mean(0)) * (values - values.mean())[:, None]).mean(0))
            fits[y, x] = (*slope, values.mean() - slope @ colours.mean(0))
    expected = fits[4 - 2 : 4 + 3, 5 - 2 : 5 + 3].mean(axis=(0, 1))
    np.testing.assert_allclose(guided(guide, target, radius)[4, 5], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", [102, 103])  # 2 px of the picture beside its edge, to both sides
def test_upsampling_snaps_to_the_edge_of_the_picture(start: int) -> None:
    image = np.full((400, 800, 3), (60, 90, 120), np.uint8)
    image[:, 410:] = (200, 150, 90)
    small = cv2.resize(image, (200, 100), interpolation=cv2.INTER_AREA)
    mask = np.zeros((100, 200), bool)
    mask[:, start:] = True
    alpha = upsampled(mask, small, image)
    crossing = np.argmax(alpha >= 128, axis=1)
    assert np.abs(crossing - 410).max() <= 1
    assert alpha[:, :390].max() == 0
    assert alpha[:, 430:].min() == 255
