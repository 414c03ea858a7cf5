"""Saliency: shortest ways against scipy, the optimum against least squares, and pictures whose subject is known."""

import numpy as np
import pytest
import scipy.sparse.csgraph

from lightmill.ops.saliency import (
    Patches,
    boundary_connectivity,
    geodesic_distances,
    optimised,
    saliency,
    shortest_paths,
)
from lightmill.ops.superpixels import slic

WALL, COAT = (75.0, 2.0, 6.0), (25.0, 15.0, -20.0)  # CIELAB


def scene(subject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CIELAB of a coat-coloured subject, a bool picture, before a wall with a little noise; and its patches."""
    lab = np.where(subject[..., None], COAT, WALL)
    lab = (lab + np.random.default_rng(0).normal(0, 0.8, lab.shape)).astype(np.float32)
    return lab, slic(lab, count=200)


def cells(rows: int, columns: int, side: int = 5) -> np.ndarray:
    """Patches that are squares."""
    number = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return np.repeat(np.repeat(number, side, axis=0), side, axis=1)


def test_shortest_paths_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    cost = np.where(rng.random((60, 60)) < 0.08, rng.uniform(0.1, 5, (60, 60)), np.inf)
    cost = np.minimum(cost, cost.T).astype(np.float32)
    expected = scipy.sparse.csgraph.shortest_path(np.where(np.isfinite(cost), cost, 0), directed=False)
    np.testing.assert_allclose(shortest_paths(cost), expected, rtol=1e-5)


def test_geodesic_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(5)
    label = cells(9, 11)
    patches = Patches(label, rng.uniform(10, 90, (99, 3)).astype(np.float32))
    graph = np.zeros((99, 99))
    touch = np.zeros((99, 99), bool)
    for i in range(99):
        for j in range(99):
            (r, c), (r2, c2) = divmod(i, 11), divmod(j, 11)
            touch[i, j] = abs(r - r2) + abs(c - c2) == 1
            linked = all(row == 0 or column in (0, 10) for row, column in ((r, c), (r2, c2)))
            if touch[i, j] or (linked and i != j):
                graph[i, j] = np.linalg.norm(patches.colour[i] - patches.colour[j])
    clip = np.mean([min(graph[i, j] for j in range(99) if touch[i, j]) for i in range(99)])
    graph = np.where(graph > 0, np.maximum(graph - clip, 1e-6), 0)  # scipy takes 0 for no edge
    expected = scipy.sparse.csgraph.shortest_path(graph, directed=False)
    np.testing.assert_allclose(geodesic_distances(patches), expected, rtol=1e-4, atol=1e-4)


def test_boundary_connectivity_of_one_colour_is_border_over_root_of_area() -> None:
    patches = Patches(cells(12, 16), np.full((192, 3), 50, np.float32))
    length = 16 + 2 * 12 + 0.15 * 16  # the top and both sides in full, the lower border for less
    np.testing.assert_allclose(boundary_connectivity(patches), length / np.sqrt(192), rtol=1e-6)


def test_boundary_connectivity_tells_an_island_from_the_sea() -> None:
    colour = np.full((12, 16, 3), WALL, np.float32)
    colour[4:8, 5:10] = COAT
    connectivity = boundary_connectivity(Patches(cells(12, 16), colour.reshape(-1, 3))).reshape(12, 16)
    assert connectivity[4:8, 5:10].max() < 1e-6
    assert connectivity[0].min() > 2


def test_the_optimum_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(7)
    patches = Patches(cells(6, 7), rng.uniform(20, 60, (42, 3)).astype(np.float32))
    background, foreground = rng.random(42), rng.random(42)
    rows, right = [], []
    for i in range(42):
        rows += [np.sqrt(5 * background[i]) * np.eye(42)[i], np.sqrt(foreground[i]) * np.eye(42)[i]]
        right += [0, np.sqrt(foreground[i])]
    for i, j in patches.edges:
        far = np.linalg.norm(patches.colour[i].astype(float) - patches.colour[j])
        rows.append(np.sqrt(np.exp(-(far**2) / 200) + 0.1) * (np.eye(42)[i] - np.eye(42)[j]))
        right.append(0)
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    np.testing.assert_allclose(optimised(patches, background, foreground), expected, atol=1e-6)


def test_an_island_stands_out() -> None:
    y, x = np.mgrid[:150, :200]
    disc = np.hypot(x - 90, y - 80) < 35
    found = saliency(*scene(disc))
    assert found.dtype == np.float32
    assert found[disc].mean() > 0.85
    assert found[~disc].mean() < 0.05


def test_shoulders_stand_out_and_a_floor_does_not() -> None:
    y, x = np.mgrid[:200, :150]
    head = np.hypot(x - 75, y - 60) < 30
    shoulders = y > 110 + 0.8 * np.abs(x - 75)  # over the whole width at the bottom
    floor = y > 150
    of_person, of_floor = saliency(*scene(head | shoulders)), saliency(*scene(head | floor))
    assert of_person[shoulders].mean() > 0.65
    assert of_person[~(head | shoulders)].mean() < 0.1
    assert of_floor[floor].mean() < 0.35 * of_floor[head].mean()


@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_nothing_stands_out_of_one_colour(deviation: float) -> None:
    lab = np.random.default_rng(2).normal(WALL, deviation, (150, 150, 3)).astype(np.float32)
    assert saliency(lab, slic(lab, count=200)).max() < 0.15


def test_one_patch_has_no_saliency() -> None:
    assert saliency(np.full((3, 3, 3), 40, np.float32), np.zeros((3, 3), np.int32)).max() == 0
