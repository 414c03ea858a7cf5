"""Shading against formulas point by point, numeric integrals over the sphere, and the same on torch."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from lightmill.ops.shading import (
    area_light,
    blinn_phong,
    cap_direction,
    clipped_share,
    compose,
    directional_rig,
    indoor,
    lambert,
    project_environment,
    sh_irradiance,
    sky,
    soft,
    studio,
)
from lightmill.ops.srgb import to_levels, to_linear

Doubles = NDArray[np.float64]

UP, DOWN, VIEWER = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)
LIGHTS = [(0.0, 0.0, 1.0), (0.6, 0.64, 0.48), (-0.48, -0.6, 0.64), (0.8, 0.0, -0.6)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        if os.environ.get("LIGHTMILL_REQUIRE_CUDA") == "1":
            pytest.fail("LIGHTMILL_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("torch finds no CUDA device")
    return name


def sphere(side: int = 41) -> Doubles:
    """Normals [H, W, 3] of a half sphere that fills the picture; what faces the viewer where the sphere is not."""
    down, right = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    inside = right**2 + down**2 < 1
    z = np.sqrt(np.where(inside, 1 - right**2 - down**2, 1))
    return np.stack([np.where(inside, right, 0), np.where(inside, -down, 0), z], -1)


def all_around(heights: int = 400, azimuths: int = 800) -> tuple[Doubles, float]:
    """Directions [N, 3] of the whole sphere, each of the same area, and that area."""
    z = (np.arange(heights) + 0.5) / heights * 2 - 1
    azimuth = (np.arange(azimuths) + 0.5) / azimuths * 2 * np.pi
    across = np.sqrt(1 - z * z)[:, None]
    grid = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z[:, None] + 0 * azimuth], -1)
    return grid.reshape(-1, 3), 4 * np.pi / (heights * azimuths)


# ---------------------------------------------------------------------------------------------------------------------
# one light


@pytest.mark.parametrize("light", LIGHTS, ids=str)
def test_lambert_on_a_sphere_is_the_cosine_of_the_angle(light: tuple[float, float, float]) -> None:
    """By the law of cosines on chords: no dot product."""
    normals = sphere()
    shading = lambert(normals, light=light)
    assert shading.dtype == np.float64
    for row, column in np.ndindex(41, 41):
        angle = 2 * math.asin(min(1.0, math.dist(normals[row, column], light) / 2))
        assert shading[row, column] == pytest.approx(max(0.0, math.cos(angle)), abs=1e-9)


@pytest.mark.parametrize("shininess", [1.0, 12.5, 200.0])
@pytest.mark.parametrize("light", LIGHTS, ids=str)
def test_blinn_phong_on_a_sphere(light: tuple[float, float, float], shininess: float) -> None:
    """By angles: H lies halfway between light and viewer on a great circle."""
    normals = sphere()
    highlight = blinn_phong(normals, light=light, shininess=shininess)
    between = math.acos(light[2])
    across = math.hypot(light[0], light[1]) or 1.0
    h = (
        light[0] / across * math.sin(between / 2),
        light[1] / across * math.sin(between / 2),
        math.cos(between / 2),
    )
    energy = (shininess + 2) * (shininess + 4) / (8 * (2 ** (-shininess / 2) + shininess))
    for row, column in np.ndindex(41, 41):
        to_light = 2 * math.asin(min(1.0, math.dist(normals[row, column], light) / 2))
        to_h = 2 * math.asin(min(1.0, math.dist(normals[row, column], h) / 2))
        expected = energy * max(0.0, math.cos(to_h)) ** shininess * max(0.0, math.cos(to_light))
        assert highlight[row, column] == pytest.approx(expected, abs=1e-6)
        if math.cos(to_light) <= 0:
            assert highlight[row, column] == 0


def test_planes() -> None:
    """A plane that leans 30 degrees to the right, lit from 60 degrees to the right: 30 degrees off on either side."""
    plane = np.broadcast_to([math.sin(math.pi / 6), 0, math.cos(math.pi / 6)], (3, 4, 3))
    light = (math.sin(math.pi / 3), 0, math.cos(math.pi / 3))
    np.testing.assert_allclose(lambert(plane, light=light), math.cos(math.pi / 6), atol=1e-12)
    np.testing.assert_allclose(soft(plane, light=light, ambient=0.25), 0.25 + 0.75 * math.cos(math.pi / 6), atol=1e-12)
    n = 40.0  # H is the normal itself
    expected = (n + 2) * (n + 4) / (8 * (2 ** (-n / 2) + n)) * math.cos(math.pi / 6)
    np.testing.assert_allclose(blinn_phong(plane, light=light, shininess=n), expected, atol=1e-12)


@pytest.mark.parametrize("shininess", [0.5, 1.0, 10.0, 60.0, 400.0])
def test_shininess_changes_the_size_of_a_highlight_and_not_its_energy(shininess: float) -> None:
    """Light from all sides, seen along the normal: by reciprocity what light along the normal sends to all sides."""
    directions, area = all_around(8000, 4)
    reflected = blinn_phong(np.broadcast_to(VIEWER, (1, 1, 3)), light=directions, shininess=shininess)
    assert reflected.shape == (32000, 1, 1)
    assert reflected.sum() * area / math.pi == pytest.approx(1, abs=1e-4)


def test_a_shinier_sphere_has_a_smaller_and_brighter_highlight_of_as_much_light() -> None:
    dull, shiny = (blinn_phong(sphere(301), light=LIGHTS[1], shininess=n) for n in (60.0, 600.0))
    assert shiny.max() > 7 * dull.max()
    assert (shiny > 0.1 * shiny.max()).mean() < 0.2 * (dull > 0.1 * dull.max()).mean()
    assert shiny.sum() == pytest.approx(dull.sum(), rel=0.08)


def test_a_light_straight_behind_gives_nothing() -> None:
    assert not blinn_phong(sphere(), light=(0, 0, -1), shininess=5.0).any()


def test_a_rig_is_the_sum_of_its_lights() -> None:
    colours = np.array([[1, 0.5, 0.2], [0.1, 0.2, 0.9], [2, 2, 2]])
    alone = [lambert(sphere(), light=light)[..., None] * c for light, c in zip(LIGHTS[1:], colours, strict=True)]
    np.testing.assert_allclose(directional_rig(sphere(), lights=LIGHTS[1:], colours=colours), sum(alone), atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# the picture


def test_two_lights_add_in_linear_light() -> None:
    albedo = np.random.default_rng(1).random((41, 41, 3))
    n, (a, b) = sphere(), LIGHTS[1:3]

    def picture(*lights: tuple[float, float, float]) -> Doubles:
        return compose(
            albedo,
            shading=sum(lambert(n, light=light) for light in lights),
            specular=sum(0.2 * blinn_phong(n, light=light, shininess=20.0) for light in lights),
        )

    np.testing.assert_allclose(picture(a, b), picture(a) + picture(b), atol=1e-6)
    single = compose(albedo.astype(np.float32), shading=lambert(n, light=a) + lambert(n, light=b))
    assert single.dtype == np.float32
    np.testing.assert_allclose(
        single, sum(compose(albedo.astype(np.float32), shading=lambert(n, light=light)) for light in (a, b)), atol=1e-6
    )


def test_albedo_by_shading_plus_highlight_makes_the_picture_again() -> None:
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    shading = rng.uniform(0.2, 1.5, (60, 80, 1)).astype(np.float32)
    highlight = (0.3 * to_linear(levels)).astype(np.float32)
    albedo = (to_linear(levels) - highlight) / shading
    again = to_levels(compose(albedo, shading=shading, specular=highlight))
    assert np.abs(again.astype(int) - levels).max() <= 1


def test_shadows_take_the_direct_light_and_nothing_else() -> None:
    albedo = np.full((2, 3, 3), 0.5)
    lit = np.array([[1.0, 0.25, 0.0], [1.0, 0.25, 0.0]])
    picture = compose(
        albedo, shading=np.full((2, 3), 0.8), specular=np.full((2, 3), 0.1), ambient=[0.1, 0.2, 0.3], transmittance=lit
    )
    for column, t in enumerate((1.0, 0.25, 0.0)):
        expected = 0.5 * (np.array([0.1, 0.2, 0.3]) + t * 0.8) + t * 0.1
        np.testing.assert_allclose(picture[:, column], np.stack([expected, expected]), atol=1e-12)


def test_soft_edges_mix_in_linear_light() -> None:
    """The light of half of each, which is level 188 of black and white; mixing levels would give 128."""
    picture = compose(
        np.ones((1, 3, 3), np.float32),
        shading=np.ones((1, 3), np.float32),
        mask=np.array([[0, 0.5, 1]]),
        background=np.zeros(3),
    )
    assert to_levels(picture)[0, :, 0].tolist() == [0, 188, 255]


def test_outside_the_mask_the_background_is_untouched() -> None:
    background = np.random.default_rng(3).random((5, 6, 3)).astype(np.float32)
    picture = compose(np.ones_like(background), shading=7.0, mask=np.zeros((5, 6)), background=background)
    assert np.array_equal(picture, background)
    assert not compose(np.ones_like(background), shading=7.0, mask=np.zeros((5, 6))).any()


def test_clipped_share_counts_pixels_by_the_mask() -> None:
    linear = np.full((2, 2, 3), 0.5)
    linear[0, 0, 1] = 1.2
    linear[1, 1] = 1.001  # still level 255
    assert float(clipped_share(linear)) == 0.25
    assert float(clipped_share(linear, mask=np.array([[0.5, 0], [0, 0.5]]))) == 0.5
    assert float(clipped_share(linear, mask=np.zeros((2, 2)))) == 0
    assert clipped_share(np.stack([linear, 0 * linear])).tolist() == [0.25, 0]


# ---------------------------------------------------------------------------------------------------------------------
# environments


def test_irradiance_is_the_integral_over_the_hemisphere() -> None:
    """Of an environment that nine coefficients hold in full: a random polynomial of directions, above 0."""
    weights = np.random.default_rng(5).uniform(-0.3, 0.3, (10, 3))

    def radiance(d: Doubles) -> Doubles:
        x, y, z = d.T
        terms = np.stack([1 + 0 * x, x, y, z, x * x, y * y, z * z, x * y, y * z, z * x], -1)
        return terms @ weights + 2.0

    directions, area = all_around(200, 400)
    light = radiance(directions)
    assert light.min() > 0
    normals = sphere(9)
    got = sh_irradiance(normals, coefficients=project_environment(radiance))
    for row, column in np.ndindex(9, 9):
        cosine = np.maximum(directions @ normals[row, column], 0)
        np.testing.assert_allclose(got[row, column], cosine @ light * area / np.pi, rtol=1e-3)


def test_nine_coefficients_are_enough_for_a_sky() -> None:
    """Ramamoorthi and Hanrahan: some percent off for skies with a sun."""
    sun = np.array([0.5, 0.7, 0.5])
    sun /= np.linalg.norm(sun)
    options: dict[str, Any] = {"zenith": [0.2, 0.4, 1], "horizon": [0.8, 0.9, 1], "ground": [0.2, 0.15, 0.1]}
    directions, area = all_around(200, 400)
    y = directions[:, 1:2]
    light = np.where(y > 0, np.array([[0.8, 0.9, 1]]) * (1 - y) + np.array([[0.2, 0.4, 1]]) * y, [[0.2, 0.15, 0.1]])
    disc = (directions @ sun > math.cos(math.radians(10)))[:, None]
    light = light + disc * np.array([[0.9, 0.8, 0.7]]) / math.sin(math.radians(10)) ** 2
    normals = sphere(15)
    got = sh_irradiance(normals, coefficients=sky(**options, sun=sun, sun_colour=[0.9, 0.8, 0.7], sun_radius_deg=10.0))
    exact = np.maximum(normals.reshape(-1, 3) @ directions.T, 0) @ light * (area / np.pi)
    off = np.abs(got.reshape(-1, 3) - exact)
    assert off.mean() < 0.05 * exact.max()
    assert off.max() < 0.12 * exact.max()


def test_an_even_environment_lights_all_sides_alike() -> None:
    even = studio(lights=[], colours=[], fill=[1, 0.5, 0.25])
    np.testing.assert_allclose(
        sh_irradiance(sphere(), coefficients=even), np.broadcast_to([1, 0.5, 0.25], (41, 41, 3)), atol=1e-9
    )


@pytest.mark.parametrize(
    "coefficients",
    [
        sky(zenith=[0.3, 0.5, 1], horizon=[0.8] * 3, ground=[0.1] * 3),
        indoor(ceiling=[1, 0.9, 0.8], walls=[0.4] * 3, floor=[0.2] * 3),
        sky(zenith=[0.1] * 3, horizon=[0.1] * 3, ground=[0.1] * 3, sun=UP),
    ],
    ids=["sky", "indoor", "noon"],
)
def test_what_is_above_lights_what_faces_up(coefficients: Doubles) -> None:
    up, down, front = sh_irradiance(np.array([[UP, DOWN, VIEWER]]), coefficients=coefficients)[0]
    assert (up > front).all()
    assert (front > down).all()


def test_a_hemisphere_of_light_has_a_closed_form() -> None:
    """(1 + cos) / 2 all around, and so much for any radius as a disc integrated numerically."""
    direction = np.array(LIGHTS[1])
    shading = sh_irradiance(sphere(), coefficients=area_light(direction, colour=[1, 1, 1], radius_deg=90.0))
    np.testing.assert_allclose(shading[..., 0], (1 + sphere() @ direction) / 2, atol=1e-9)
    directions, area = all_around()
    disc = (directions @ direction > math.cos(math.radians(35)))[:, None] / math.sin(math.radians(35)) ** 2
    x, y, z = directions.T
    basis = [0.282095 + 0 * x, 0.488603 * y, 0.488603 * z, 0.488603 * x]
    basis += [1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z]
    basis += [0.546274 * (x * x - y * y)]  # the constants as they are printed in the paper
    expected = np.stack(basis) @ (disc * [2.0, 1.0, 0.5]) * area
    np.testing.assert_allclose(area_light(direction, colour=[2, 1, 0.5], radius_deg=35.0), expected, atol=5e-3)


def test_a_window_and_studio_lights_come_from_their_side() -> None:
    room = indoor(ceiling=[0.1] * 3, walls=[0.1] * 3, floor=[0.1] * 3, window=(1, 0, 0))
    lamp = studio(lights=[(1, 0, 0)], colours=[[1, 1, 1]], fill=[0.1] * 3)
    for coefficients in (room, lamp):
        right, left = sh_irradiance(np.array([[[1.0, 0, 0], [-1.0, 0, 0]]]), coefficients=coefficients)[0]
        assert (right > 0.9).all()
        assert (left < 0.25).all()
    with pytest.raises(ValueError, match="above 0 and at most 90 degrees, got 0"):
        area_light(UP, colour=[1, 1, 1], radius_deg=0)


# ---------------------------------------------------------------------------------------------------------------------
# directions


@pytest.mark.parametrize(("low", "high"), [(0, 90), (0, 60), (10, 80), (30, 150)])
def test_directions_are_even_by_area(low: float, high: float) -> None:
    rng = np.random.default_rng(11)
    drawn = np.array([cap_direction(rng, min_angle_deg=low, max_angle_deg=high) for _ in range(4000)])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-12)
    top, bottom = math.cos(math.radians(low)), math.cos(math.radians(high))
    assert scipy.stats.kstest(drawn[:, 2], scipy.stats.uniform(bottom, top - bottom).cdf).pvalue > 0.01
    azimuth = np.arctan2(drawn[:, 1], drawn[:, 0])
    assert scipy.stats.kstest(azimuth, scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


def test_directions_are_not_those_that_are_even_in_angle() -> None:
    """Elevations 10 to 80 degrees: mean height 0.579 by area (peers: 0.581), where even angles give 0.663."""
    rng = np.random.default_rng(12)
    z = np.array([cap_direction(rng, min_angle_deg=10, max_angle_deg=80)[2] for _ in range(20000)])
    assert z.mean() == pytest.approx(0.581, abs=0.008)
    by_angle = np.sin(np.radians(rng.uniform(10, 80, 20000)))
    top, bottom = math.cos(math.radians(10)), math.cos(math.radians(80))
    assert scipy.stats.kstest(by_angle, scipy.stats.uniform(bottom, top - bottom).cdf).pvalue < 1e-6


def test_directions_of_some_azimuths() -> None:
    rng = np.random.default_rng(13)
    drawn = np.array([cap_direction(rng, max_angle_deg=70, azimuth_deg=(30, 150)) for _ in range(500)])
    assert (drawn[:, 1] >= 0).all()  # from above
    with pytest.raises(ValueError, match="0 <= min <= max <= 180 degrees, got 50 and 40"):
        cap_direction(rng, min_angle_deg=50, max_angle_deg=40)


# ---------------------------------------------------------------------------------------------------------------------
# numpy and torch


def batch() -> dict[str, Any]:
    rng = np.random.default_rng(21)

    def unit(*shape: int) -> Doubles:
        vectors = rng.standard_normal((*shape, 3))
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    return {
        "normals": unit(2, 5, 7),
        "light": unit(2),
        "lights": unit(2, 4),
        "colours": rng.random((2, 4, 3)),
        "coefficients": rng.standard_normal((2, 9, 3)) + 1,
        "ambient": rng.random(2),
        "shininess": rng.uniform(5, 90, 2),
        "mask": rng.random((2, 5, 7)),
    }


FORMULAS: dict[str, Callable[[Any], Any]] = {
    "lambert": lambda b: lambert(b["normals"], light=b["light"]),
    "soft": lambda b: soft(b["normals"], light=b["light"], ambient=b["ambient"]),
    "blinn_phong": lambda b: blinn_phong(b["normals"], light=b["light"], shininess=b["shininess"]),
    "rig": lambda b: directional_rig(b["normals"], lights=b["lights"], colours=b["colours"]),
    "sh": lambda b: sh_irradiance(b["normals"], coefficients=b["coefficients"]),
    "compose": lambda b: compose(
        abs(b["normals"]),
        shading=lambert(b["normals"], light=b["light"]),
        specular=b["mask"],
        ambient=0.2,
        transmittance=b["mask"],
        mask=b["mask"],
        background=[0.1, 0.2, 0.3],
    ),
    "clipped": lambda b: clipped_share(b["normals"] + 0.5, mask=b["mask"]),
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_torch_gives_what_numpy_gives(formula: Callable[[Any], Any], device: str) -> None:
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-6)):
        arrays = {name: values.astype(dtype) for name, values in batch().items()}
        tensors = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
        on_numpy, on_torch = formula(arrays), formula(tensors)
        assert on_numpy.dtype == dtype
        assert on_torch.device.type == device
        assert on_torch.cpu().numpy().dtype == dtype
        np.testing.assert_allclose(on_torch.cpu().numpy(), on_numpy, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_batches_give_what_single_pictures_give(formula: Callable[[Any], Any]) -> None:
    arrays = batch()
    together = formula(arrays)
    for i in range(2):
        alone = formula({name: values[i] for name, values in arrays.items()})
        np.testing.assert_allclose(together[i], alone, atol=1e-12)


def test_constants_of_numpy_go_with_tensors(device: str) -> None:
    normals = torch.from_numpy(sphere().astype(np.float32)).to(device)
    shading = lambert(normals, light=np.broadcast_to(LIGHTS[1], (3,)))  # read-only
    assert isinstance(shading, torch.Tensor)
    np.testing.assert_allclose(shading.cpu(), lambert(sphere(), light=LIGHTS[1]), atol=1e-6)


def test_shading_does_not_import_torch() -> None:
    code = (
        "import sys, lightmill.ops.shading, lightmill.ops.cast, lightmill.ops.relief; sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
