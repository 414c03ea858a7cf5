"""Patterns that grow: foliage and branches, drawn as outlines and seen through the sun's disc."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.noise import fractal_noise
from lightmill.ops.patterns.params import Params
from lightmill.ops.patterns.plane import REACH, Field, Plane, sun_blur

_Points = NDArray[np.float64]  # [..., 2] x and y in the pattern

_STEPS = 16  # of a wood, from end to end
_ORDERS = 3  # branches, their twigs, and the twigs of those


def foliage(params: Params, plane: Plane) -> Field:
    """Gaps between far leaves, each an image of the sun, behind leaves that hang near."""
    plane, sun = plane.coarser(2), params["softness"]
    rng = np.random.default_rng(params["seed"])
    gaps = _scattered(rng, params, length=params["gap"], slim=0.7, density=params["open"])
    leaves = _scattered(rng, params, length=params["leaf"], slim=0.45, density=params["near"])
    lit = sun_blur(plane.fill(gaps[plane.seen(gaps)], convex=True), plane.length_px(sun))
    lit *= 1 - sun_blur(plane.fill(leaves[plane.seen(leaves)], convex=True), plane.length_px(sun / 4))
    return 1 - lit


def _scattered(rng: np.random.Generator, params: Params, *, length: float, slim: float, density: float) -> _Points:
    """[N, K, 2] pointed ovals all over the plane, in heaps; `density` is about their area by that of the plane."""
    oval = _oval(slim)
    across, down = oval.T
    area = abs(across @ np.roll(down, 1) - down @ np.roll(across, 1)) / 2 * length * length
    count = round(2 * density * (2 * REACH) ** 2 / area)  # about one half is kept
    middle = rng.uniform(-REACH, REACH, (count, 2))
    x, y = middle.T.astype(np.float32)
    heap = fractal_noise(x, y, cell=params["clump"], octaves=3, persistence=0.6, seed=int(rng.integers(2**32)))
    kept = rng.random(count) < 0.5 + 0.5 * params["clumping"] * heap
    angle, size = rng.uniform(0, 2 * np.pi, count)[kept], length * rng.uniform(0.6, 1.4, count)[kept]
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, 2, 2)
    outlines: _Points = across[:, None] * turn[:, :1] + down[:, None] * turn[:, 1:]
    outlines *= size[:, None, None]
    outlines += middle[kept][:, None]
    return outlines


def _oval(slim: float) -> _Points:
    """[12, 2] a convex outline with two tips: 1 long along x, `slim` wide."""
    along = np.linspace(0, np.pi, 7)
    upper = np.stack([-np.cos(along) / 2, slim / 2 * np.sin(along) ** 1.2], axis=-1)
    return np.concatenate([upper, upper[-2:0:-1] * (1, -1)])


class _Woods(NamedTuple):
    """Branches or twigs before they have grown."""

    start: _Points  # [N, 2]
    heading: NDArray[np.float64]  # [N] radians
    length: NDArray[np.float64]  # [N]
    thickness: NDArray[np.float64]  # [N] at the start


def branch(params: Params, plane: Plane) -> Field:
    """Crooked branches that taper, with twigs on their twigs."""
    rng = np.random.default_rng(params["seed"])
    woods, drawn = _branches(rng, params), []
    for _ in range(_ORDERS):
        headings = woods.heading[:, None] + np.cumsum(
            rng.normal(0, params["crooked"], (len(woods.heading), _STEPS)), axis=1
        )
        spine, width = _grown(woods, headings)
        drawn.append(_strips(spine, width))
        woods = _twigs(rng, params["twigs"], woods, headings, spine, width)
    strips = np.concatenate(drawn)
    return sun_blur(plane.fill(strips[plane.seen(strips)], convex=False), plane.length_px(params["softness"]))


def _branches(rng: np.random.Generator, params: Params) -> _Woods:
    """From outside the picture, on the side where the tree stands, towards somewhere near its middle."""
    count: int = params["count"]
    bearing = math.radians(params["from_deg"]) + rng.uniform(-0.6, 0.6, count)
    start = REACH * np.stack([np.cos(bearing), -np.sin(bearing)], axis=-1)
    ahead = rng.uniform(-0.3, 0.3, (count, 2)) - start
    return _Woods(
        start=start,
        heading=np.arctan2(ahead[:, 1], ahead[:, 0]),
        length=rng.uniform(0.9, 1.4, count),
        thickness=params["thickness"] * rng.uniform(0.6, 1.2, count),
    )


def _grown(woods: _Woods, headings: NDArray[np.float64]) -> tuple[_Points, NDArray[np.float64]]:
    """The middle lines [N, K + 1, 2] and how thick they are [N, K + 1], for the headings [N, K] of their steps."""
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=-1) * (woods.length / _STEPS)[:, None, None]
    spine = woods.start[:, None] + np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0), (0, 0)))
    return spine, woods.thickness[:, None] * np.linspace(1, 0.15, _STEPS + 1)


def _twigs(
    rng: np.random.Generator,
    count: int,
    woods: _Woods,
    headings: NDArray[np.float64],
    spine: _Points,
    width: NDArray[np.float64],
) -> _Woods:
    """What grows from each wood: `count` to the left and right in turn, shorter and thinner the farther out."""
    shape = len(headings), count
    place = np.sort(rng.integers(_STEPS // 5, _STEPS, shape), axis=1)
    wood = np.arange(shape[0])[:, None]
    side = np.where(np.arange(count) % 2, 1, -1) * rng.choice([-1, 1], (shape[0], 1))
    length = woods.length[:, None] * rng.uniform(0.25, 0.45, shape) * (1.2 - 0.6 * place / _STEPS)
    return _Woods(
        start=spine[wood, place].reshape(-1, 2),
        heading=(headings[wood, place] + side * rng.uniform(0.4, 1.0, shape)).ravel(),
        length=length.ravel(),
        thickness=0.6 * width[wood, place].ravel(),
    )


def _strips(spine: _Points, width: NDArray[np.float64]) -> _Points:
    """[N, 2 K, 2] the outlines of lines [N, K, 2], as wide as [N, K] says."""
    ahead = np.gradient(spine, axis=1)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    aside = ahead[..., ::-1] * (-1, 1) * (width / 2)[..., None]
    return np.concatenate([spine + aside, (spine - aside)[:, ::-1]], axis=1)
