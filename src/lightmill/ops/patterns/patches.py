"""Patterns of patches: gaps of irregular cells, a perforated panel, clouds."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.noise import fractal_noise
from lightmill.ops.patterns.params import Params
from lightmill.ops.patterns.plane import REACH, Field, Plane, from_middle, penumbra, sun_blur

_ROOT = np.float32(math.sqrt(0.5))


def voronoi(params: Params, plane: Plane) -> Field:
    """Gaps in the shape of Voronoi cells, some of them closed."""
    plane = plane.coarser(2)
    rng = np.random.default_rng(params["seed"])
    half = math.ceil(REACH / params["cell"]) + 1  # the outermost have no cell of their own
    cells = _cells(rng, half, params["jitter"])
    middles = np.array([cell.mean(axis=0) for cell in cells])
    shut = rng.random(len(cells)) < params["closed"]
    shown = ~shut & plane.seen(params["cell"] * (middles[:, None] + np.array([[-1, -1], [1, 1]])))
    gaps = [
        params["cell"] * (middles[index] + (1 - params["wall"]) * (cells[index] - middles[index]))
        for index in np.flatnonzero(shown)
    ]
    return 1 - sun_blur(plane.fill(gaps, convex=True), plane.length_px(params["softness"]))


def _cells(rng: np.random.Generator, half: int, jitter: float) -> list[NDArray[np.float64]]:
    """The outlines [K, 2] of the Voronoi cells of a jittered grid of step 1, which reaches `half` to each side."""
    side = np.arange(-half, half + 1)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    seeds = grid + jitter * (rng.random(grid.shape) - 0.5)
    diagram = cv2.Subdiv2D((-half - 1, -half - 1, 2 * half + 2, 2 * half + 2))
    diagram.insert(seeds.astype(np.float32).tolist())
    outlines, _ = diagram.getVoronoiFacetList([])
    return [np.asarray(outline, np.float64) for outline in outlines]


def screen(params: Params, plane: Plane) -> Field:
    """A panel with holes in rows."""
    x, y = plane.places()
    cell, soft = params["cell"], params["softness"] / plane.scale
    return 1 - penumbra(_HOLES[params["holes"]](x, y, cell, params["wall"] * cell), soft)


def _octagons(x: Field, y: Field, cell: float, wall: float) -> Field:
    """The distance into the nearest hole: regular octagons, with squares on their corners where four meet."""
    x, y = from_middle(x, cell), from_middle(y, cell)
    slant = (x + y) * _ROOT
    octagon = np.float32((cell - wall) / 2) - np.maximum(np.maximum(x, y), slant)
    square = slant - np.float32((cell + wall) / 2)
    hole: Field = np.maximum(octagon, square)
    return hole


def _stars(x: Field, y: Field, cell: float, wall: float) -> Field:
    """The distance into the nearest hole: eight-pointed stars of two squares, and small squares between them."""
    x, y = from_middle(x, cell), from_middle(y, cell)
    slant = (x + y) * _ROOT
    reach = (cell - 0.7 * wall) / math.sqrt(8)  # half a side of the squares, whose points nearly meet
    star = np.float32(reach) - np.minimum(np.maximum(x, y), slant)
    square = slant - np.float32(reach * math.sqrt(2) + 0.6 * wall)
    hole: Field = np.maximum(star, square)
    return hole


def _hexagons(x: Field, y: Field, cell: float, wall: float) -> Field:
    """The distance into the nearest hole of a honeycomb, whose middles are `cell` apart."""
    tall, to_side = math.sqrt(3) * cell, np.float32(math.sqrt(3) / 2)
    nearest = []
    for shift_x, shift_y in ((0.0, 0.0), (cell / 2, tall / 2)):
        across, along = from_middle(x + np.float32(shift_x), cell), from_middle(y + np.float32(shift_y), tall)
        along *= to_side
        along += across * np.float32(0.5)
        nearest.append(np.maximum(across, along))
    return np.float32((cell - wall) / 2) - np.minimum(*nearest)


_HOLES = {"geometric": _octagons, "star": _stars, "hexagon": _hexagons}


def cloud(params: Params, plane: Plane) -> Field:
    """Fractal noise: the larger, the stronger."""
    x, y = plane.coarser(4).places()  # the smallest detail still has 5 px
    octaves = 1 + int(math.log2(params["cell"] / params["softness"]))
    noise = fractal_noise(
        x, y, cell=params["cell"], octaves=octaves, persistence=params["persistence"], seed=params["seed"]
    )
    return penumbra(noise + np.float32(params["cover"]), params["edge"])
