"""What a crop is coloured like: the plainest way to tell people apart, and what any embedder has to beat."""

import cv2
import numpy as np
from numpy.typing import NDArray

STRIPES, HUES, SATURATIONS, VALUES = 3, 8, 8, 8
LENGTH = STRIPES * (HUES * SATURATIONS + VALUES)


def colour_histogram(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[216] float32 of length 1, of a crop uint8 [h, w, 3] sRGB.

    Of each third of the height the shares of pixels in 8 x 8 bins of hue and saturation, and in 8 of value. The square
    roots are taken, so that the dot product of two is the Bhattacharyya coefficient of their shares.

    >>> one = colour_histogram(np.full((30, 10, 3), (200, 30, 30), np.uint8))
    >>> round(float(one @ one), 4), one.shape
    (1.0, (216,))
    """
    parts = []
    for stripe in np.array_split(cv2.cvtColor(crop, cv2.COLOR_RGB2HSV), STRIPES):
        pixels = max(stripe.shape[0] * stripe.shape[1], 1)
        colours = cv2.calcHist([stripe], [0, 1], None, [HUES, SATURATIONS], [0, 180, 0, 256])
        values = cv2.calcHist([stripe], [2], None, [VALUES], [0, 256])
        parts += [colours.ravel() / pixels, values.ravel() / pixels]
    found = np.sqrt(np.concatenate(parts))
    return np.asarray(found / np.linalg.norm(found), np.float32)
