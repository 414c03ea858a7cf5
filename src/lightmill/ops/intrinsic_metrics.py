"""How far an estimated albedo is from the truth: si-MSE, LMSE and WHDR, as published, computed in float64.

None of them sees the scale of the estimate: a picture tells albedo and light apart only up to a factor. Lower is
better, 0 is perfect, for all of them. Pictures are linear light, [H, W, channels] or [H, W].
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[Any]  # [H, W, channels] or [H, W], linear, of any real dtype
Mask: TypeAlias = NDArray[np.uint8]  # [H, W]: 128 and more counts
Darker: TypeAlias = Literal["1", "2", "E"]

DELTA = 0.10  # WHDR: reflectances whose ratio is at most 1 + DELTA count as equal
_WINDOW, _STEP = 20, 10  # px, LMSE
_DARKEST = 1e-10  # WHDR: what 0 counts as


class Judgement(NamedTuple):
    """What people said of the surfaces at two points, as in Intrinsic Images in the Wild (Bell et al. 2014)."""

    first: tuple[float, float]  # (x, y) as shares of width and height, 0 <= x, y < 1
    second: tuple[float, float]
    darker: Darker  # the surface that is darker, "E" for about equal
    weight: float = 1.0  # `darker_score`; judgements of weight 0 and below do not count


def si_mse(estimate: Picture, truth: Picture, *, mask: Mask | None = None) -> float:
    """Mean squared error after the best scale: min over a of mean((truth - a * estimate)^2).

    One scale for the picture, shared by its channels, so that a wrong colour is an error. The mean runs over the
    pixels of `mask` and all channels; it is not divided by the size of `truth`.
    Raises ValueError for shapes that differ, and for a mask in which nothing counts.

    >>> si_mse(np.array([[1.0, 2.0]]), np.array([[3.0, 6.0]]))
    0.0
    """
    found, true, counts = _checked(estimate, truth, mask)
    chosen, wanted = found[counts], true[counts]
    return float(np.mean((wanted - _best_scale(chosen, wanted) * chosen) ** 2))


def lmse(estimate: Picture, truth: Picture, *, mask: Mask | None = None) -> float:
    """Local mean squared error (Grosse et al. 2009): windows of 20 x 20 px every 10 px, each with its own best scale.

    The sum over all windows of the squared error, divided by the sum over all windows of truth^2: 1 for an estimate
    that says nothing. (The script that came with the data set adds to the denominator once a row of windows, by a slip
    of indentation, so its figures are larger. Say which one is meant.) Channels share a window's scale.
    What lies outside `mask` counts neither above nor below.
    Raises ValueError for shapes that differ, pictures below 20 px a side, and where the truth is 0 all over.
    """
    found, true, counts = _checked(estimate, truth, mask)
    if min(counts.shape) < _WINDOW:
        raise ValueError(f"LMSE needs {_WINDOW} px a side or more, got {list(counts.shape)}")
    found, true = found * counts[..., None], true * counts[..., None]
    error = total = 0.0
    for estimates, truths in zip(_windows(found), _windows(true), strict=True):
        energy = np.sum(estimates**2, axis=1)
        scale = np.sum(estimates * truths, axis=1) / np.where(energy > 0, energy, 1)
        error += float(np.sum((truths - scale[:, None] * estimates) ** 2))
        total += float(np.sum(truths**2))
    if total == 0:
        raise ValueError("LMSE is not defined where the truth is 0 in every window; check truth and mask")
    return error / total


def lmse_score(
    *, albedo: Picture, shading: Picture, true_albedo: Picture, true_shading: Picture, mask: Mask | None = None
) -> float:
    """The score of Grosse et al. 2009: half the LMSE of the reflectance and half that of the shading."""
    return (lmse(albedo, true_albedo, mask=mask) + lmse(shading, true_shading, mask=mask)) / 2


def whdr(albedo: Picture, judgements: Iterable[Judgement], *, delta: float = DELTA) -> float:
    """Weighted human disagreement rate (Bell et al. 2014): the weighted share of judgements that `albedo` contradicts.

    Reflectance is the mean of the channels of linear albedo at the pixel (floor(x W), floor(y H)). A surface is darker
    where the other's reflectance is more than (1 + delta) times its own, else the two are equal.
    Leave out points that are marked as not opaque, as the paper does.
    Raises ValueError where no judgement weighs anything, and for points outside the picture.

    >>> whdr(np.array([[0.2, 0.5]]), [Judgement((0, 0), (0.5, 0), "1", 3.0), Judgement((0, 0), (0.5, 0), "E")])
    0.25
    """
    reflectance = _channels(albedo).mean(axis=2)
    wrong = total = 0.0
    for judgement in judgements:
        if judgement.weight <= 0:
            continue
        total += judgement.weight
        if _seen(_at(reflectance, judgement.first), _at(reflectance, judgement.second), delta) != judgement.darker:
            wrong += judgement.weight
    if total == 0:
        raise ValueError("WHDR needs at least one judgement of a weight above 0, got none")
    return wrong / total


def _seen(first: float, second: float, delta: float) -> Darker:
    if second / first > 1 + delta:
        return "1"
    return "2" if first / second > 1 + delta else "E"


def _at(reflectance: NDArray[np.float64], point: tuple[float, float]) -> float:
    x, y = point
    if not (0 <= x < 1 and 0 <= y < 1):
        raise ValueError(f"points are shares of width and height, from 0 to below 1, got {point}")
    height, width = reflectance.shape
    return max(_DARKEST, float(reflectance[int(y * height), int(x * width)]))


def _windows(picture: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """All windows of an [H, W, channels] picture, a row of them at a time: [windows, 20 * 20 * channels]."""
    for top in range(0, picture.shape[0] - _WINDOW + 1, _STEP):
        strip = picture[top : top + _WINDOW]
        across = sliding_window_view(strip, _WINDOW, axis=1)[:, ::_STEP]  # [20, windows, channels, 20]
        yield across.transpose(1, 0, 3, 2).reshape(across.shape[1], -1)


def _best_scale(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    energy = float(np.sum(estimate**2))
    return float(np.sum(estimate * truth)) / energy if energy > 0 else 0.0


def _channels(picture: Picture) -> NDArray[np.float64]:
    values = picture.astype(np.float64)
    return values[..., None] if values.ndim == 2 else values


def _checked(
    estimate: Picture, truth: Picture, mask: Mask | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Both as float64 [H, W, channels], and which pixels count [H, W]."""
    if estimate.shape != truth.shape or estimate.ndim not in (2, 3):
        wanted = "two pictures of one shape, [H, W] or [H, W, channels]"
        raise ValueError(f"needs {wanted}, got {list(estimate.shape)} and {list(truth.shape)}")
    counts = np.ones(truth.shape[:2], bool) if mask is None else mask >= 128
    if counts.shape != truth.shape[:2]:
        raise ValueError(f"the mask of a picture {list(truth.shape)} must be [H, W], got {list(counts.shape)}")
    if not counts.any():
        raise ValueError("nothing is left to compare: no pixel of the mask is 128 or more")
    return _channels(estimate), _channels(truth), counts
