"""The colour histogram, held against counting by hand."""

import colorsys

import numpy as np

from lightmill.ops.colour_histogram import HUES, LENGTH, SATURATIONS, VALUES, colour_histogram


def test_pixels_fall_into_the_bins_of_their_colours() -> None:
    """Each pixel's hue, saturation and value by the standard library's formula; colours amid their bins."""
    rng = np.random.default_rng(3)
    bins = rng.integers(0, [HUES, SATURATIONS, VALUES], (30, 12, 3))
    bins[..., 1] = np.maximum(bins[..., 1], 2)  # of grey and of black no hue can be told
    bins[..., 2] = np.maximum(bins[..., 2], 3)
    amid = (bins + 0.5) / (HUES, SATURATIONS, VALUES)
    crop = np.array([[colorsys.hsv_to_rgb(*colour) for colour in row] for row in amid])
    wanted = []
    for stripe in np.array_split(bins, 3):
        hues, values = np.zeros((HUES, SATURATIONS)), np.zeros(VALUES)
        for hue, saturation, value in stripe.reshape(-1, 3):
            hues[hue, saturation] += 1
            values[value] += 1
        wanted += [hues.ravel() / 120, values / 120]
    shares = colour_histogram(np.rint(crop * 255).astype(np.uint8)) ** 2 * 6  # six parts, each of sum 1
    assert shares.shape == (LENGTH,)
    np.testing.assert_allclose(shares, np.concatenate(wanted), atol=1e-5)


def test_small_crops_have_one_too() -> None:
    for shape in ((1, 1, 3), (2, 5, 3), (4, 1, 3)):
        assert np.isclose(np.linalg.norm(colour_histogram(np.zeros(shape, np.uint8))), 1)
