"""Patterns of straight and hanging parts: blind, window, curtain, fence, lattice."""

import math

import numpy as np

from lightmill.ops.noise import fractal_noise
from lightmill.ops.patterns.params import Params
from lightmill.ops.patterns.plane import Field, Plane, from_middle, penumbra


def _into_bars(x: Field, *, spacing: float, width: float) -> Field:
    """The distance into bars whose middles are at the multiples of `spacing`; below 0 between them."""
    return np.float32(width / 2) - from_middle(x, spacing)


def venetian(params: Params, plane: Plane) -> Field:
    """Slats, which may run together to one side, and the cords that carry them."""
    x, y = plane.places()
    if params["direction"] == "vertical":
        x, y = y, x
    soft, spacing = params["softness"] / plane.scale, params["spacing"]
    across_slats = y / (1 + np.float32(params["converge"]) * x)
    slats = penumbra(_into_bars(across_slats, spacing=spacing, width=spacing * params["ratio"]), soft)
    cords = penumbra(_into_bars(x, spacing=params["cord"], width=0.004), 0.006)
    return np.maximum(slats, cords, out=slats)


def window(params: Params, plane: Plane) -> Field:
    """Lit panes between mullions; all around them lies in shadow."""
    x, y = plane.places()
    soft = params["softness"] / plane.scale
    x += np.float32(params["lean"]) * y
    return 1 - _panes(x, params["width"], params["columns"], params["mullion"], soft) * _panes(
        y, params["height"], params["rows"], params["mullion"], soft
    )


def _panes(x: Field, side: float, count: int, mullion: float, soft: float) -> Field:
    """Light along one side of a window: 1 within it, but for its frame and the bars between its panes."""
    bars = _into_bars(x + np.float32(side / 2), spacing=side / count, width=mullion)
    within = np.float32((side - mullion) / 2) - np.abs(x)  # the frame's outside must stay dark, however soft its bar
    return penumbra(np.minimum(within, -bars), soft)


def curtain(params: Params, plane: Plane) -> Field:
    """Two sheets with an opening between them; their folds, each as wide as it likes, fall apart downwards."""
    x, y = plane.coarser(3).places()
    fold, opening = params["fold"], params["opening"]
    x /= 1 + np.float32(params["flare"]) * y
    wander = fractal_noise(x, y * np.float32(0.2), cell=3 * fold, octaves=1, persistence=0, seed=params["seed"])
    x += np.float32(params["irregularity"] * fold) * wander
    sheet = penumbra(np.abs(x) - np.float32(opening / 2), params["softness"] / plane.scale)
    # the phase runs ahead and falls behind, so that a fold has a steep and a gentle side
    phase = np.abs(x) * np.float32(2 * np.pi / fold)
    lit: Field = np.float32(0.5) + np.float32(0.5) * np.cos(phase + np.float32(0.6) * np.sin(phase))
    lit *= np.clip(0.75 + 0.25 * wander, 0.3, 1)  # some folds stand out more than others
    sheet *= 1 - np.float32(params["depth"]) * lit
    return sheet


def fence(params: Params, plane: Plane) -> Field:
    """Pointed pickets and the rails that they are nailed to, with the sky above."""
    x, y = plane.places()
    soft, half = params["softness"] / plane.scale, params["picket"] / 2
    beside = from_middle(x, params["picket"] + params["gap"])
    below_tip = y + np.float32(params["top"]) - np.float32(params["point"]) * beside
    inside = np.minimum(np.float32(half) - beside, below_tip)
    first, step = 0.09 - params["top"], 0.3 if params["rails"] == 2 else 0.18
    for rail in range(params["rails"]):
        middle = np.float32(first + rail * step)
        np.maximum(inside, np.float32(params["rail"] / 2) - np.abs(y - middle), out=inside)
    return penumbra(inside, soft)


def lattice(params: Params, plane: Plane) -> Field:
    """Bars that cross: upright, slanting or both."""
    x, y = plane.places()
    spacing, soft, layout = params["spacing"], params["softness"] / plane.scale, params["layout"]
    width, root = spacing * params["bar"], np.float32(math.sqrt(0.5))
    directions: list[tuple[Field, float]] = []  # a coordinate across bars, and from bar to bar
    if layout != "diagonal":
        directions += [(x, spacing), (y, spacing)]
    if layout != "grid":
        step = spacing if layout == "diagonal" else spacing * math.sqrt(2)  # then they meet the others' crossings
        directions += [((x + y) * root, step), ((x - y) * root, step)]
    inside: Field = np.maximum.reduce([_into_bars(across, spacing=step, width=width) for across, step in directions])
    return penumbra(inside, soft)
