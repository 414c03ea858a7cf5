"""Flat patches under smooth light: pictures whose albedo, light and order of brightness are known exactly.

E. Land's Mondrians (Land and McCann 1971), on which estimates of albedo are compared. The six scenes that figures are
given for are those of the seeds 0 to 5 at 384 x 384 px.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.intrinsic_metrics import DELTA, Darker, Judgement

_PATCHES = 60
_SIDE = 0.10, 0.45  # of the picture's side
_BRIGHTNESS = 0.04, 0.80
_GREY_SHARE = 0.25  # of the patches: what only brightness tells apart
_COLOUR = 0.6  # standard deviation of the log of each channel of the others
_WAVES = 4
_LIGHT = 0.12, 1.0


class Scene(NamedTuple):
    """A picture and what it is the product of, linear float32: picture = albedo * shading."""

    albedo: NDArray[np.float32]  # [H, W, 3] 0..1
    shading: NDArray[np.float32]  # [H, W, 1] 0.12..1, grey
    picture: NDArray[np.float32]  # [H, W, 3] 0..1


def mondrian(seed: int, size: int = 384) -> Scene:
    """A square scene of `size` px a side; equal arguments give equal scenes.

    Rectangles, a quarter of them grey, lie on one another under light of one colour that varies by the factor 8 over
    the picture, smoothly: neighbouring pixels of the six scenes at 384 px differ by at most 2.3 % in light.
    """
    rng = np.random.default_rng(seed)
    albedo = np.empty((size, size, 3), np.float32)
    albedo[:] = _paint(rng)
    for _ in range(_PATCHES):
        height, width = np.rint(rng.uniform(*_SIDE, 2) * size).astype(int)
        top, left = np.rint(rng.uniform(-0.1, 1, 2) * size).astype(int)
        albedo[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = _paint(rng)
    shading = _light(rng, size)
    return Scene(albedo, shading, albedo * shading)


def judgements(scene: Scene, *, seed: int, count: int = 2000) -> list[Judgement]:
    """What an observer who sees the true albedo says of `count` pairs of points, as in Bell et al. 2014.

    Half of the pairs lie anywhere, half within a tenth of the picture of each other. All weigh 1.
    """
    rng = np.random.default_rng(seed)
    first = rng.random((count, 2))
    near = np.clip(first + rng.uniform(-0.1, 0.1, (count, 2)), 0, np.nextafter(1, 0))
    second = np.where(np.arange(count)[:, None] % 2 == 0, rng.random((count, 2)), near)
    brightness = scene.albedo.astype(np.float64).mean(axis=2)
    height, width = brightness.shape

    def at(points: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = brightness[
            (points[:, 1] * height).astype(int), (points[:, 0] * width).astype(int)
        ]
        return values

    return [
        Judgement((float(a[0]), float(a[1])), (float(b[0]), float(b[1])), _said(one, two))
        for a, b, one, two in zip(first, second, at(first), at(second), strict=True)
    ]


def _said(one: float, two: float) -> Darker:
    if two / one > 1 + DELTA:
        return "1"
    return "2" if one / two > 1 + DELTA else "E"


def _paint(rng: np.random.Generator) -> NDArray[np.float32]:
    """[3] a colour of mean brightness even in log, no channel above 1."""
    brightness = math.exp(rng.uniform(math.log(_BRIGHTNESS[0]), math.log(_BRIGHTNESS[1])))
    spread = 0.0 if rng.random() < _GREY_SHARE else _COLOUR
    colour = np.exp(rng.normal(0, spread, 3))
    colour *= brightness / colour.mean()
    return np.minimum(colour, 1).astype(np.float32)


def _light(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """[size, size, 1] the exponential of a few long waves, stretched to the whole range of the light."""
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    log = np.zeros((size, size))
    for _ in range(_WAVES):
        direction, phase = rng.uniform(0, 2 * math.pi, 2)
        periods = rng.uniform(0.4, 1.2)
        along = x * math.cos(direction) + y * math.sin(direction)
        log += rng.uniform(0.5, 1) * np.cos(2 * math.pi * periods * along + phase)
    low, high = np.log(_LIGHT)
    log = low + (log - log.min()) / np.ptp(log) * (high - low)
    light: NDArray[np.float32] = np.exp(log).astype(np.float32)[..., None]
    return light
