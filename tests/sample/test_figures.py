"""The solids of sample portraits are where their equations hold."""

import numpy as np
import pytest

from lightmill.sample.figures import Ellipsoid, Turned

ELLIPSOID = Ellipsoid((0.1, -0.2, 0.3), (0.5, 0.3, 0.4), roll=0.6)
CONE = Turned((0.1, -0.4, 0.2), 0.8, (0.4, 0.15), roll=-0.3)
VASE = Turned((0.0, -0.4, 0.0), 0.9, (0.2, 0.4, 0.35, 0.15))


def grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[-0.6:0.6:49j, -0.6:0.6:53j].astype(np.float32)
    return x.ravel(), y.ravel()


def test_an_ellipsoid_is_where_its_equation_holds() -> None:
    x, y = grid()
    z = ELLIPSOID.top(x, y)
    met = np.isfinite(z)
    off = np.stack([x, y, z], axis=1)[met].astype(float) - ELLIPSOID.at
    c, s = np.cos(0.6), np.sin(0.6)
    own = np.stack([c * off[:, 0] + s * off[:, 1], c * off[:, 1] - s * off[:, 0], off[:, 2]], axis=1)
    np.testing.assert_allclose(((own / ELLIPSOID.radii) ** 2).sum(axis=1), 1, atol=1e-4)
    dx, dy = x.astype(float) - 0.1, y.astype(float) + 0.2
    assert np.array_equal(met, ((c * dx + s * dy) / 0.5) ** 2 + ((c * dy - s * dx) / 0.3) ** 2 <= 1)


def test_a_cone_is_where_its_equation_holds() -> None:
    x, y = grid()
    z = CONE.top(x, y)
    dx, dy = x.astype(float) - 0.1, y.astype(float) + 0.4
    c, s = np.cos(-0.3), np.sin(-0.3)
    across, up = c * dx + s * dy, (c * dy - s * dx) / 0.8
    room = (0.4 - 0.25 * up) ** 2 - across**2
    inside = (room > 0) & (up > 0) & (up < 1)
    assert (np.isfinite(z) != inside).mean() < 1e-3
    both = inside & np.isfinite(z)
    np.testing.assert_allclose((z[both] - 0.2) ** 2, room[both], atol=1e-5)


@pytest.mark.parametrize("solid", [ELLIPSOID, CONE, VASE])
def test_normals_are_across_the_surface_and_the_bound_holds_it(solid: Ellipsoid | Turned) -> None:
    x, y = grid()
    z = solid.top(x, y)
    left, right, low, high = solid.bound
    met = np.isfinite(z)
    assert met.sum() > 200
    assert left <= x[met].min() <= x[met].max() <= right
    assert low <= y[met].min() <= y[met].max() <= high
    step = np.float32(2e-3)
    with np.errstate(invalid="ignore"):  # beside it: -inf less -inf
        slope_x = (solid.top(x + step, y) - solid.top(x - step, y)) / (2 * step)
        slope_y = (solid.top(x, y + step) - solid.top(x, y - step)) / (2 * step)
    steep = np.stack([-slope_x, -slope_y, np.ones_like(x)])
    flat = met & (np.abs(slope_x) < 1.5) & (np.abs(slope_y) < 1.5)
    assert flat.sum() > 100
    normal = solid.normal(x[flat], y[flat], z[flat])
    cosine = (steep[:, flat] * normal).sum(0) / np.linalg.norm(steep[:, flat], axis=0) / np.linalg.norm(normal, axis=0)
    assert cosine.min() > 0.999
