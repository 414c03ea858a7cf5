"""A picture taken apart into albedo and shading without learned weights, in linear light.

`retinex` is the one to use; `msr` and `lab` are here to be compared with it. On the six scenes of
`lightmill.sample.mondrian`, which are made of what Retinex assumes, the means are

              si-MSE     LMSE       WHDR
    picture   0.020719   0.002187   0.278
    msr       0.021896   0.045784   0.250
    lab       0.055401   0.080952   0.466
    retinex   0.000001   0.000000   0.002

All take a picture [H, W, 3] of linear light, float32, give albedo and shading with albedo * shading = picture but for
rounding, and share these rules:

- A picture tells albedo and light apart only up to a factor. Here the log of the shading is 0 on the mean over the
  foreground, so that an albedo is about as bright as its picture. Nothing is clipped: an albedo may be above 1.
- `mask` uint8 [H, W]: 128 and more is foreground; None: all of it is. What is not has no influence on the result in
  the foreground. What is given there is the picture under some light that continues that of the foreground.
- The log of light is taken of at least 1/1000 of the foreground's mean brightness: black has the albedo 0 under light
  that is finite, and twice the exposure is twice the albedo. Without foreground, or where all of it is black, the
  light is 1 and the albedo is the picture.
- Lengths are shares of the picture's diagonal.

All raise ValueError for a picture or a mask of another shape or dtype.
"""

import math
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.poisson import differences, integrate, integrate_within
from lightmill.ops.srgb import luminance

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.uint8]
Bools: TypeAlias = NDArray[np.bool_]

_DARKEST = 1e-3  # of the mean brightness: what black counts as in logs
_DIM = 5e-2  # of the mean brightness: at which changes of colour count half, for in the dark they are noise
_RARE = 5e-2  # share of the pixels around an edge that counts against what the others say of the light
_SIGMA_PX = 6.0  # wider blurs are made on a smaller picture
_FAR = np.float32(1e-4)


class Parts(NamedTuple):
    """picture = albedo * shading, linear float32."""

    albedo: Floats  # [H, W, 3]
    shading: Floats  # [H, W, 1] where light has no colour, or [H, W, 3]; above 0


def retinex(
    linear: Floats,
    *,
    mask: Mask | None = None,
    brightness_step: float = 0.1,
    colour_step: float = 0.05,
    edge: float = 0.0007,
    around: float = 0.01,
    tolerance: float = 1e-2,
    max_steps: int = 4,
) -> Parts:
    """Colour Retinex (Grosse et al. 2009, after Land and McCann 1971): what jumps is paint, what creeps is light.

    A change from pixel to pixel is the albedo's where the log of the brightness (mean of the channels) changes by more
    than `brightness_step`, or the colour (logs of the channels, at right angles to grey) by more than `colour_step`;
    0.1 is about 10 %. All other changes of brightness are the light's. The log of the light is the surface whose
    differences come nearest to those (`ops.poisson`). It is grey: the albedo has the picture's chromaticity.

    Other than in the paper, light is not taken to be constant across an edge of the albedo, but to change as it does on
    the mean within `around` of it. So little is lost where light changes and edges are many: on the six scenes the
    squared error falls to a twentieth. Pixels within `edge` of an edge, at least 1 px, belong to it, since lenses and
    JPEG spread it. Changes of colour count less in the dark.

    What it cannot know: the edge of a hard shadow counts as paint, paint that fades slowly counts as light, and a
    highlight, which has the colour of the light, leaves a grey patch in the albedo.
    tolerance, max_steps: where the solve ends that a mask needs, as of `integrate_within`.
    """
    region = _region(linear, mask)
    if region is None:
        return _unlit(linear)
    part, inside = linear[region.box], region.inside
    bright = np.log(np.maximum(_mean_of_channels(part), _DARKEST * region.mean))
    logs = np.log(np.maximum(part, 0) + _DIM * region.mean)
    red_to_green, green_to_blue = differences(logs[..., 0] - logs[..., 1]), differences(logs[..., 1] - logs[..., 2])
    pairs = inside[:, 1:] & inside[:, :-1], inside[1:] & inside[:-1]
    spread, window = (max(1, round(share * region.diagonal)) for share in (edge, around))
    light = []
    for change, one, two, counts in zip(differences(bright), red_to_green, green_to_blue, pairs, strict=True):
        # at right angles to grey: a third of the squares of the three differences between channels
        colour = (one * one + two * two + one * two) * np.float32(2 / 3)
        jumps = ((np.abs(change) > brightness_step) | (colour > colour_step**2)) & counts
        known = counts & ~_grown(jumps, spread)
        light.append(np.where(known, change, _mean_around(change, known, window)) * counts)
    if inside.all():
        log_shading = integrate(light[0], light[1])
    else:
        log_shading = integrate_within(light[0], light[1], inside, tolerance=tolerance, max_steps=max_steps)
    return _parts(linear, log_shading[..., None], region)


def msr(linear: Floats, *, mask: Mask | None = None, scales: tuple[float, ...] = (0.01, 0.055, 0.17)) -> Parts:
    """Multi-scale Retinex (Jobson et al. 1997): each channel divided by the geometric mean of its Gaussian blurs.

    scales: standard deviations. Blurs are means over the foreground alone. No stretching or colour balance follows, as
    it often does, so the product stays the picture. The shading has colour, [H, W, 3].

    It is no estimate of albedo: large surfaces go grey, and edges have halos. Of the metrics above, two are worse than
    those of the picture itself, and WHDR is a little better.
    """
    region = _region(linear, mask)
    if region is None:
        return _unlit(linear)
    part = np.maximum(linear[region.box], _DARKEST * region.mean)
    log_shading = np.zeros_like(part)
    for scale in scales:
        log_shading += np.log(_blurred(part, region.inside, scale * region.diagonal))
    log_shading /= len(scales)
    return _parts(linear, log_shading, region)


def lab(linear: Floats, *, mask: Mask | None = None, reach: float = 0.003, contrast: float = 30.0) -> Parts:
    """CIE lightness divided by its bilateral blur, which is taken for the light.

    White is the 99th percentile of the foreground's luminance; `reach` is the radius of the blur, `contrast` its
    standard deviation in L*. Blur and percentile see the foreground alone. The colour is scaled along with the
    lightness, so the shading is grey.

    It is no estimate of albedo: a blur that respects edges takes flat surfaces for light, whatever their paint, and
    leaves little more than texture. All three metrics are worse than those of the picture itself.
    """
    region = _region(linear, mask)
    if region is None:
        return _unlit(linear)
    inside = region.inside
    bright = np.maximum(luminance(linear[region.box]), _DARKEST * region.mean)
    bright /= np.percentile(bright[inside], 99)
    lightness = _lightness(bright)
    apart = np.where(inside, lightness, np.float32(-10 * contrast))  # so far from all others that it weighs nothing
    radius = max(1, round(reach * region.diagonal))
    light = cv2.bilateralFilter(apart, 2 * radius + 1, contrast, radius)
    light = np.where(inside, light, lightness)
    even = _from_lightness(lightness / light * light[inside].mean())
    log_shading = np.where(inside, np.log(bright / even), 0)
    return _parts(linear, log_shading[..., None], region)


class _Region(NamedTuple):
    """The foreground of a picture."""

    box: tuple[slice, slice]  # rows and columns: no more than what holds all of it
    inside: Bools  # [h, w] in the box
    mean: float  # brightness
    diagonal: float  # of the whole picture, px


def _region(linear: Floats, mask: Mask | None) -> _Region | None:
    """None where there is no light to be found."""
    if linear.ndim != 3 or linear.shape[2] != 3 or linear.dtype != np.float32:
        raise ValueError(f"needs a picture [H, W, 3] of float32, got {linear.dtype} {list(linear.shape)}")
    if mask is None:
        mask = np.full(linear.shape[:2], 255, np.uint8)
    if mask.shape != linear.shape[:2] or mask.dtype != np.uint8:
        wanted = list(linear.shape[:2])
        raise ValueError(f"needs a mask {wanted} of uint8, as the picture is, got {mask.dtype} {list(mask.shape)}")
    inside = mask >= 128
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    mean = sum(cv2.mean(linear, mask=inside.view(np.uint8))[:3]) / 3
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    lit = mean * _DARKEST > np.finfo(np.float32).tiny
    return _Region(box, inside[box], mean, math.hypot(*mask.shape)) if lit else None


def _parts(linear: Floats, log_shading: Floats, region: _Region) -> Parts:
    """The picture divided by a shading [h, w, 1 or 3] of the region's box, which goes on outside as at the border."""
    log_shading = log_shading - log_shading[region.inside].mean(dtype=np.float64).astype(np.float32)
    rows, columns = region.box
    height, width = linear.shape[:2]
    around = rows.start, height - rows.stop, columns.start, width - columns.stop
    spread = cv2.copyMakeBorder(np.exp(log_shading), *around, cv2.BORDER_REPLICATE)
    shading = np.asarray(spread, np.float32).reshape(height, width, -1)
    return Parts(linear / shading, shading)


def _unlit(linear: Floats) -> Parts:
    return Parts(linear.copy(), np.ones((*linear.shape[:2], 1), np.float32))


def _mean_of_channels(linear: Floats) -> Floats:
    return np.asarray(cv2.transform(linear, np.full((1, 3), 1 / 3, np.float32)), np.float32)


def _grown(where: Bools, radius: int) -> Bools:
    if not where.size:  # a picture or a box of one row or column has no pairs across; OpenCV takes no empty arrays
        return where
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return cv2.dilate(where.view(np.uint8), square).view(np.bool_)


def _mean_around(values: Floats, known: Bools, radius: int) -> Floats:
    """The mean of the known ones in the square around each pixel; nearer to 0 the fewer they are."""
    if not values.size:
        return values
    side = 2 * radius + 1, 2 * radius + 1
    total = cv2.blur(np.where(known, values, np.float32(0)), side, borderType=cv2.BORDER_CONSTANT)
    share = cv2.blur(known.astype(np.float32), side, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / (share + np.float32(_RARE)), np.float32)


def _blurred(values: Floats, inside: Bools, sigma: float) -> Floats:
    """Gaussian blur of [h, w, 3] over the pixels inside alone; far from all of them, their mean."""
    weight = inside.astype(np.float32)
    mean = values[inside].mean(axis=0)
    height, width = inside.shape
    shrink = max(1.0, sigma / _SIGMA_PX)
    small = max(1, round(width / shrink)), max(1, round(height / shrink))

    def blur(field: Floats) -> Floats:
        shrunk = cv2.resize(field, small, interpolation=cv2.INTER_AREA)
        smooth = cv2.GaussianBlur(shrunk, (0, 0), sigma / shrink, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    blurred: Floats = (blur(values * weight[..., None]) + _FAR * mean) / (blur(weight)[..., None] + _FAR)
    return blurred


def _lightness(luminance_of_white: Floats) -> Floats:
    """CIE 1976 L*, 0..100 up to white, of luminance where white is 1."""
    return np.where(
        luminance_of_white > 216 / 24389,
        116 * np.cbrt(luminance_of_white) - 16,
        luminance_of_white * np.float32(24389 / 27),
    )


def _from_lightness(lightness: Floats) -> Floats:
    return np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * np.float32(27 / 24389))
