"""Sharpness ranks frames as a person would, whatever their size and noise."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from lightmill.ops.quality import sharpness


def scene(height: int, width: int) -> np.ndarray:
    """Overlapping bright and dark rectangles: edges, and flat parts between them."""
    rng = np.random.default_rng(7)
    picture = np.full((height, width, 3), 120, np.uint8)
    for _ in range(120):
        x, y, w, h = rng.uniform(0, 1, 4) * (width, height, width / 5, height / 5)
        shade = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), shade, -1)
    return picture


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (720, 1280), (300, 600), (600, 3001)])
def test_blur_lowers_it_step_by_step(height: int, width: int) -> None:
    picture = scene(height, width)
    scores = [sharpness(picture)]
    scores += [sharpness(cv2.GaussianBlur(picture, (0, 0), width / 640 * sigma)) for sigma in (0.7, 1.5, 3, 6)]
    assert all(first > 1.3 * second for first, second in pairwise(scores)), scores


@pytest.mark.parametrize("axis", [0, 1])
def test_motion_blur_lowers_it_along_either_axis(axis: int) -> None:
    picture = scene(1080, 1920)
    length = (1, 31) if axis == 0 else (31, 1)
    assert sharpness(cv2.blur(picture, length)) < 0.8 * sharpness(picture)


def test_noise_does_not_pass_for_sharpness() -> None:
    picture = scene(1440, 2560)
    blurred = cv2.GaussianBlur(picture, (0, 0), 8)
    noisy = np.clip(blurred + np.random.default_rng(0).normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    assert sharpness(noisy) < 0.5 * sharpness(picture)


def test_it_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    around = np.pad(grey.astype(np.float64), 1, mode="reflect")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * around[1:-1, 1:-1]
    assert sharpness(grey) == pytest.approx(laplacian.var(), rel=1e-6)


def test_grey_and_rgb_of_one_picture_agree() -> None:
    grey = cv2.cvtColor(scene(1080, 1920), cv2.COLOR_RGB2GRAY)
    assert sharpness(np.repeat(grey[..., None], 3, axis=2)) == pytest.approx(sharpness(grey), rel=1e-9)


def test_a_flat_picture_has_none() -> None:
    assert sharpness(np.full((2160, 3840, 3), 90, np.uint8)) == 0


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\] or \[H, W\], got float64 \[4, 4\]"):
        sharpness(np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 6 rows at this width, got 3840x2"):
        sharpness(np.zeros((2, 3840), np.uint8))
