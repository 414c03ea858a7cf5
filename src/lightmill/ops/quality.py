"""How good a picture is, as numbers that compare pictures of one scene."""

import cv2
import numpy as np

from lightmill.ops.sphere import Pixels
from lightmill.ops.srgb import to_linear

_JUDGED_WIDTH = 640


def sharpness(pixels: Pixels) -> float:
    """The variance of the Laplacian of the luminance, on a copy that is at most 640 px wide: higher is sharper.

    pixels: [H, W, 3] RGB or [H, W] grey, uint8. The copy makes frames of all sizes comparable, and averages noise
    away, which would otherwise pass for detail. It is made by whole factors; columns and rows that are left over are
    not looked at. Exposure counts: twice the contrast is four times the sharpness, so compare frames of one scene
    only. The measure is that of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.

    Raises ValueError for arrays of another kind, and for pictures without a single whole box.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        raise ValueError(f"sharpness is measured on uint8 [H, W, 3] or [H, W], got {pixels.dtype} {list(pixels.shape)}")
    _, deviation = cv2.meanStdDev(cv2.Laplacian(_reduced_luminance(pixels), cv2.CV_32F))
    return float(deviation[0, 0]) ** 2


def _reduced_luminance(pixels: Pixels) -> Pixels:
    """[h, w] at most 640 px wide."""
    height, width = pixels.shape[:2]
    factor = max(1, -(-width // _JUDGED_WIDTH))
    if factor > 3:  # two rows of every box are enough to average; reading the rest would take most of the time
        factor += factor % 2
    stride = factor // 2 if factor > 3 else 1
    reduced = np.empty((height // factor, width // factor), np.uint8)
    if not reduced.size:
        raise ValueError(f"sharpness needs a picture of at least {factor} rows at this width, got {width}x{height}")
    read = pixels[: height // factor * factor : stride, : width // factor * factor]
    grey = read if read.ndim == 2 else cv2.cvtColor(read, cv2.COLOR_RGB2GRAY)
    cv2.resize(grey, reduced.shape[::-1], dst=reduced, interpolation=cv2.INTER_AREA)
    return reduced


def clipped_share(pixels: Pixels) -> float:
    """The share of pixels (0..1) with a channel at 0 or 255: what no later step can bring back.

    pixels: [H, W, 3] or [H, W], uint8.
    """
    channels = pixels if pixels.ndim == 3 else pixels[..., None]
    ends = (channels == 0) | (channels == 255)
    return float(ends.any(axis=2).mean())


def contrast(pixels: Pixels) -> float:
    """Root-mean-square contrast: the standard deviation of the grey levels, 0..0.5 of full scale.

    pixels: [H, W, 3] RGB or [H, W] grey, uint8. Peli, "Contrast in complex images", 1990.
    """
    _, deviation = cv2.meanStdDev(_grey(pixels))
    return float(deviation[0, 0]) / 255


def evenness(pixels: Pixels) -> float:
    """How even the light is, 0..1: the darkest over the brightest of 4 x 4 fields by their mean luminance.

    Fields are compared as light, not as levels; 1 is a picture of one brightness. It also falls where things, not the
    light, are dark: compare pictures of one kind of subject. pixels: [H, W, 3] RGB or [H, W] grey, uint8.
    """
    fields = cv2.resize(to_linear(_grey(pixels)), (4, 4), interpolation=cv2.INTER_AREA)
    brightest = float(fields.max())
    return float(fields.min()) / brightest if brightest > 0 else 1.0


def _grey(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
