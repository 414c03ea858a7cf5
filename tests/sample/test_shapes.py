"""Solids against float64 geometry written out here, patterns against means of point samples."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightmill.sample.finish import Finish, Noise, reflectance
from lightmill.sample.shapes import Ball, Box, Capsule, Solid

PLAIN = Finish(colour=(0.5, 0.5, 0.5), grain=0.0)
BALL = Ball(PLAIN, (0.3, -0.2, 4.0), 0.7)
CAPSULE = Capsule(PLAIN, (-0.6, 0.5, 3.0), (0.7, -0.9, 4.5), 0.25)
BOX = Box(PLAIN, (-0.5, -0.8, 3.0), (0.9, 0.4, 4.2))


def gap_of(solid: Solid, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance of [..., 3] in float64."""
    if isinstance(solid, Ball):
        return np.linalg.norm(points - solid.at, axis=-1) - solid.radius
    if isinstance(solid, Capsule):
        start, along = np.array(solid.start), np.subtract(solid.end, solid.start)
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        return np.linalg.norm(points - start - share[..., None] * along, axis=-1) - solid.radius
    assert isinstance(solid, Box)
    outside = np.maximum(np.array(solid.low) - points, points - np.array(solid.high))
    return np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0)


def rays_towards(count: int = 400) -> NDArray[np.float64]:
    rays = np.random.default_rng(0).normal((0, 0, 3.5), (0.6, 0.6, 0.4), (count, 3))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


@pytest.mark.parametrize("solid", [BALL, CAPSULE, BOX], ids=lambda solid: type(solid).__name__)
def test_rays_end_on_the_surface_and_not_before(solid: Solid) -> None:
    rays = rays_towards()
    reach = solid.reach(np.zeros((3, 1), np.float32), rays.T.astype(np.float32)).astype(np.float64)
    met = np.isfinite(reach)
    assert 50 < met.sum() < 350
    assert np.abs(gap_of(solid, rays[met] * reach[met, None])).max() < 2e-6 * 8
    steps = np.linspace(0, 1, 400)[:, None, None]
    before = gap_of(solid, steps * (rays * np.where(met, reach - 1e-3, 12)[:, None]))
    assert before.min() > 0


@pytest.mark.parametrize("solid", [BALL, CAPSULE, BOX], ids=lambda solid: type(solid).__name__)
def test_normals_are_the_gradient_of_the_gap(solid: Solid) -> None:
    rays = rays_towards()
    reach = solid.reach(np.zeros((3, 1), np.float32), rays.T.astype(np.float32)).astype(np.float64)
    points = (rays * reach[:, None])[np.isfinite(reach)]
    step = 1e-5 * np.eye(3)
    slope = np.stack([gap_of(solid, points + d) - gap_of(solid, points - d) for d in step], axis=-1) / 2e-5
    inner = np.abs(np.linalg.norm(slope, axis=1) - 1) < 1e-3  # not on the edges of the box
    normal = solid.normal(points.T.astype(np.float32)).T
    assert inner.mean() > 0.95
    np.testing.assert_allclose(normal[inner], slope[inner], atol=2e-3)


@pytest.mark.parametrize("solid", [BALL, CAPSULE, BOX], ids=lambda solid: type(solid).__name__)
def test_gap_and_bound(solid: Solid) -> None:
    points = np.random.default_rng(1).uniform((-2, -2, 2), (2, 2, 6), (2000, 3))
    gap = gap_of(solid, points)
    np.testing.assert_allclose(np.maximum(solid.gap(points.T.astype(np.float32)), 0), np.maximum(gap, 0), atol=3e-6)
    centre, half = (each[:, 0] for each in solid.bound)
    assert (np.abs(points[gap < 0] - centre) <= half).all()


CHESS = {"colour": (0.6, 0.5, 0.4), "other": (0.1, 0.2, 0.3)}
LINES = {"line": (0.9, 0.0, 0.9), "line_m": 0.06}


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 3.7])
@pytest.mark.parametrize(
    ("of", "error"),
    # both: averaged one after the other, so where lines and squares share a footprint the mean is near, not exact
    [(CHESS, 0.01), ({"colour": (0.6, 0.5, 0.4), **LINES}, 0.015), ({**CHESS, **LINES}, 0.13)],
    ids=["chess", "lines", "both"],
)
def test_patterns_are_averaged_over_the_footprint(width: float, of: dict[str, Any], error: float) -> None:
    finish = Finish(cell_m=(0.5, 0.8), grain=0.0, **of)
    noise = Noise(0, falloff=1.0)
    offset = ((np.arange(400) + 0.5) / 400 - 0.5) * width
    u, v = np.meshgrid(offset, offset)

    def seen(u: NDArray[np.float64], v: NDArray[np.float64], wide: float) -> NDArray[np.floating[Any]]:
        flat = [np.asarray(each, np.float32).ravel() for each in (u, v)]
        wide_u = np.full(flat[0].size, wide, np.float32)
        return reflectance(finish, u=flat[0], v=flat[1], wide_u=wide_u, wide_v=wide_u, noise=noise)

    for x, y in np.random.default_rng(2).uniform(-5, 5, (8, 2)):
        exact = seen(u + x, v + y, 0.0).mean(axis=1)
        np.testing.assert_allclose(seen(np.array(x), np.array(y), width)[:, 0], exact, atol=error)


def test_noise_has_unit_deviation_repeats_and_fades() -> None:
    noise = Noise(3, falloff=1.2)
    u, v = np.random.default_rng(4).uniform(0, 1, (2, 20_000)).astype(np.float32)
    fine, coarse = (noise.at(u, v, np.full_like(u, footprint)) for footprint in (0.0, 1.0))
    assert abs(fine.mean()) < 0.05
    assert 0.9 < fine.std() < 1.1
    np.testing.assert_allclose(coarse, 0, atol=1e-4)
    np.testing.assert_allclose(noise.at(u + 1, v - 2, np.zeros_like(u)), fine, atol=2e-2)
