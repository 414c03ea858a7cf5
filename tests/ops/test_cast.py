"""Cast shadows against geometry, a ray marcher in plain loops, and sampled lights."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lightmill.ops.cast import SHAPES, Occluder, Shape, draw_occluder, occluder_shadow, self_shadow
from lightmill.ops.relief import inflate
from lightmill.ops.shading import cap_direction

Singles = NDArray[np.float32]


def light_from(azimuth_deg: float, elevation_deg: float) -> NDArray[np.float64]:
    """Azimuth 0 = from the right, 90 = from above the picture; elevation over the picture's plane."""
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])


def tower(side: int, *, half: int, height: float) -> Singles:
    """A square tower in the middle of a plane."""
    field = np.zeros((side, side), np.float32)
    field[side // 2 - half : side // 2 + half, side // 2 - half : side // 2 + half] = height
    return field


def hills(rows: int, columns: int, *, seed: int = 1, height: float = 60) -> Singles:
    noise = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), min(rows, columns) / 16) * np.float32(height)


# ---------------------------------------------------------------------------------------------------------------------
# a height field's own shadow


@pytest.mark.parametrize("side", [240, 960])
@pytest.mark.parametrize("elevation", [25, 45, 60])
@pytest.mark.parametrize("azimuth", [0, 90, 180, 270])
def test_a_tower_casts_a_shadow_of_its_height_over_the_tangent(side: int, elevation: float, azimuth: float) -> None:
    """Away from the light, counted from the tower's far wall; y is up, rows run down."""
    scale = side / 240
    half, height = int(10 * scale), 40 * scale
    lit = self_shadow(tower(side, half=half, height=height), light=light_from(azimuth, elevation), softness_deg=0)
    assert lit.dtype == np.float32
    assert lit.shape == (side, side)
    right, down = -round(math.cos(math.radians(azimuth))), round(math.sin(math.radians(azimuth)))

    def at(distance: float, *, aside: float = 0) -> float:
        """Lit share so far from the far wall, on the side that light does not come from."""
        along = half + distance
        x = side / 2 - 0.5 + along * right + aside * down
        y = side / 2 - 0.5 + along * down + aside * right
        return float(lit[round(y), round(x)])

    length = height / math.tan(math.radians(elevation))
    margin = 2.5 * scale
    assert at(margin) < 0.2
    assert at(length / 2) < 0.2
    assert at(length - margin) < 0.2
    assert at(length + margin) > 0.8
    assert at(length / 2, aside=half + margin) > 0.8
    assert at(length / 2, aside=half - margin) < 0.2
    assert at(-2 * half - margin) > 0.8  # before the lit wall
    assert at(-half) > 0.8  # on the roof


def test_oblique_light_casts_obliquely() -> None:
    """From the upper right: the shadow runs to the lower left, as far as from any other side."""
    lit = self_shadow(tower(240, half=6, height=40), light=light_from(45, 45), softness_deg=0)
    dark_row, dark_column = (float(axis.mean()) for axis in np.nonzero(lit < 0.5))
    assert dark_row > 125
    assert dark_column < 115
    step = math.sqrt(0.5)
    for distance, expected in ((15, 0), (35, 0), (60, 1)):  # from the middle; the roof's far corner is 8.5 px from it
        assert lit[round(119.5 + distance * step), round(119.5 - distance * step)] == pytest.approx(expected, abs=0.1)


def test_against_a_ray_marcher_in_plain_loops() -> None:
    field = hills(72, 96)
    for azimuth, elevation in ((20, 25), (140, 15), (250, 35), (325, 10)):
        light = light_from(azimuth, elevation)
        lit = self_shadow(field, light=light, softness_deg=0)
        expected = np.ones_like(field)
        step = light / math.hypot(light[0], light[1])
        for row, column in np.ndindex(*field.shape):
            t = np.arange(1, 150, 0.5)
            x, y = column + t * step[0], row - t * step[1]
            inside = (x >= 0) & (x <= 95) & (y >= 0) & (y <= 71)
            x, y = x[inside].astype(np.float32), y[inside].astype(np.float32)
            if x.size:
                there = cv2.remap(field, x[None], y[None], cv2.INTER_LINEAR)[0]
                expected[row, column] = (there <= field[row, column] + t[inside] * step[2]).all()
        assert 0.05 < (expected == 0).mean() < 0.9
        assert ((lit > 0.5) == (expected > 0.5)).mean() > 0.97


@pytest.mark.parametrize("softness", [0, 2, 10])
def test_flat_fields_and_planes_that_face_the_light_cast_none(softness: float) -> None:
    down, right = np.mgrid[:200, :300].astype(np.float32)
    for slope_right, slope_down in ((0, 0), (0.3, 0.1), (-0.2, 0.25)):
        plane = slope_right * right + slope_down * down
        for azimuth in range(0, 360, 40):
            lit = self_shadow(plane, light=light_from(azimuth, 40), softness_deg=softness)
            assert lit.min() > 0.98


def test_high_is_near_a_bump_shades_what_is_behind_and_a_pit_its_own_wall() -> None:
    """Light from the right: a bump's shadow lies to its left, a pit's against its right wall."""
    down, right = np.mgrid[:200, :200] - 99.5
    bump = (60 * np.exp(-(right**2 + down**2) / (2 * 12**2))).astype(np.float32)
    light = light_from(0, 30)
    behind, inside = self_shadow(bump, light=light), self_shadow(-bump, light=light)
    assert behind[100, 60] < 0.1
    assert behind[100, 140] > 0.9
    assert inside[100, 115] < 0.1
    assert inside[100, 80] > 0.9


def test_penumbras_are_as_wide_as_the_light_and_the_distance_say() -> None:
    """Behind a wall of height h the light is cut at its middle at h / tan(e), and gone or whole at e ± softness."""
    field = np.zeros((240, 240), np.float32)
    field[:, 180:186] = 60  # light from the right
    columns = np.arange(180) - 0.0
    middle = self_shadow(field, light=light_from(0, 45), softness_deg=0)[120, :180]
    soft = self_shadow(field, light=light_from(0, 45), softness_deg=8)[120, :180]
    assert np.interp(0.5, soft[::-1], columns[::-1]) == pytest.approx(
        np.interp(0.5, middle[::-1], columns[::-1]), abs=2
    )
    nearest, furthest = (60 / math.tan(math.radians(45 + sign * 8)) for sign in (1, -1))
    assert soft[round(180 - nearest) + 2] < 0.02
    assert soft[round(180 - furthest) - 2] > 0.98
    assert soft[round(180 - nearest) - 4] > 0.02
    assert soft[round(180 - furthest) + 4] < 0.98
    assert (np.diff(soft[60:178]) <= 1e-4).all()


def test_turned_fields_under_turned_light() -> None:
    field = hills(128, 128)
    lit = self_shadow(field, light=light_from(30, 25), softness_deg=3)
    turned = self_shadow(np.rot90(field).copy(), light=light_from(120, 25), softness_deg=3)
    assert np.abs(turned - np.rot90(lit)).mean() < 0.01


def test_light_from_the_viewer_casts_no_shadow() -> None:
    assert (self_shadow(hills(100, 90), light=(0, 0, 1), softness_deg=0) == 1).all()
    assert self_shadow(hills(100, 90, height=10), light=(0.02, 0, 1), softness_deg=1).min() > 0.95


def test_a_balloon_is_dark_where_it_faces_away() -> None:
    down, right = np.mgrid[:400, :400] - 199.5
    ball = inflate(np.where(right**2 + down**2 < 120**2, 255, 0).astype(np.uint8))
    lit = self_shadow(ball, light=light_from(90, 30), softness_deg=1)
    assert lit[199 - 90, 199] > 0.95
    assert lit[199 + 100, 199] < 0.05


def test_same_bytes_by_any_number_of_threads() -> None:
    field, light = hills(300, 200), light_from(70, 20)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: self_shadow(field, light=light), range(8)))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_wrong_lights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a light is a direction \[3\], got \[0.0, 0.0, 0.0\]"):
        self_shadow(hills(8, 8), light=(0, 0, 0))
    with pytest.raises(ValueError, match=r"softness must be 0..45 degrees, got 50"):
        self_shadow(hills(8, 8), light=(0, 0, 1), softness_deg=50)
    with pytest.raises(ValueError, match=r"viewer's side \(z > 0\), got z = -0.600"):
        occluder_shadow(hills(8, 8), light=(0.8, 0, -0.6), occluder=Occluder(shape="disc"))


# ---------------------------------------------------------------------------------------------------------------------
# an occluder


def hidden_share(occluder: Occluder, x: float, y: float, radius: float, samples: NDArray[np.float64]) -> float:
    """Of a disc of the light around a point of the occluder's plane, by samples; lengths in diagonals."""
    x, y = x + radius * samples[:, 0] - occluder.x, y + radius * samples[:, 1] - occluder.y
    angle = math.radians(occluder.angle_deg)
    along = x * math.cos(angle) + y * math.sin(angle)
    if occluder.shape == "edge":
        return float((along < 0).mean())
    if occluder.shape == "bar":
        return float((np.abs(along) < occluder.size).mean())
    if occluder.shape == "disc":
        return float((np.hypot(x, y) < occluder.size).mean())
    corners = np.radians(np.array(occluder.corners_deg) + occluder.angle_deg)
    outline = np.stack([np.cos(corners), np.sin(corners)], -1) * occluder.size
    before = np.roll(outline, 1, axis=0)
    cross = (outline - before)[:, :1] * (y - before[:, 1:]) - (outline - before)[:, 1:] * (x - before[:, :1])
    return float((cross > 0).all(axis=0).mean())


TRIANGLE = (0.0, 100.0, 230.0)


@pytest.mark.parametrize(
    ("occluder", "tolerance"),
    [
        (Occluder(shape="edge", x=0.05, y=-0.1, angle_deg=35, distance=0.8), 0.02),
        (Occluder(shape="bar", x=-0.05, angle_deg=110, size=0.08, distance=0.8), 0.02),
        (Occluder(shape="bar", x=0.1, y=0.1, angle_deg=-20, size=0.015, distance=0.8), 0.02),
        (Occluder(shape="disc", x=0.05, y=0.05, size=0.2, distance=0.8), 0.06),
        (Occluder(shape="polygon", y=0.1, angle_deg=20, size=0.25, distance=0.8, corners_deg=TRIANGLE), 0.12),
    ],
    ids=["edge", "bar", "narrow bar", "disc", "triangle"],
)
def test_shadows_against_sampled_lights(occluder: Occluder, tolerance: float) -> None:
    """On a relief; the largest errors are at sharp corners."""
    rows, columns = 90, 120
    field, light, softness = hills(rows, columns, height=80), light_from(70, 50), 3.0
    lit = occluder_shadow(field, light=light, occluder=occluder, softness_deg=softness)
    rng = np.random.default_rng(0)
    turn, reach = rng.uniform(0, 2 * np.pi, 4000), np.sqrt(rng.random(4000))
    samples = np.stack([reach * np.cos(turn), reach * np.sin(turn)], -1)
    diagonal, off = math.hypot(rows, columns), []
    for row, column in rng.integers(0, (rows, columns), (400, 2)):
        z = field[row, column] / diagonal
        x, y = (column + 0.5 - columns / 2) / diagonal, (rows / 2 - row - 0.5) / diagonal
        x, y = x - z * light[0] / light[2], y - z * light[1] / light[2]  # where its light meets height 0
        radius = (occluder.distance - z) / light[2] * math.tan(math.radians(softness))
        off.append(abs(1 - hidden_share(occluder, x, y, radius, samples) - lit[row, column]))
    assert max(off) < tolerance
    assert np.mean(off) < 0.012
    assert lit.min() < 0.7
    assert lit.max() > 0.95


def test_raised_things_meet_the_shadow_earlier() -> None:
    """Light from the right at 45 degrees: at height h the edge lies h further to the right, where it came from."""
    field = np.zeros((100, 200), np.float32)
    field[50:] = 30
    edge = Occluder(shape="edge", angle_deg=180, distance=2)  # its lit side is the left one
    lit = occluder_shadow(field, light=light_from(0, 45), occluder=edge, softness_deg=0)
    assert np.flatnonzero(lit[25] < 0.5)[0] == 100
    assert np.flatnonzero(lit[75] < 0.5)[0] == 130


def test_what_is_further_from_its_occluder_has_a_softer_shadow() -> None:
    field = np.zeros((300, 400), np.float32)
    widths = []
    for distance in (0.2, 0.8):
        edge = Occluder(shape="edge", angle_deg=90, distance=distance)
        lit = occluder_shadow(field, light=light_from(90, 60), occluder=edge, softness_deg=2)
        widths.append(((lit[:, 0] > 0.01) & (lit[:, 0] < 0.99)).sum())
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.15)


def test_shares_of_the_picture_mean_the_same_at_any_resolution() -> None:
    disc = Occluder(shape="disc", x=0.1, y=-0.05, size=0.2)
    light = light_from(200, 50)
    large = occluder_shadow(np.zeros((600, 800), np.float32), light=light, occluder=disc)
    small = occluder_shadow(np.zeros((150, 200), np.float32), light=light, occluder=disc)
    assert np.abs(cv2.resize(large, (200, 150), interpolation=cv2.INTER_AREA) - small).max() < 0.05


def test_what_stands_above_the_occluder_is_lit() -> None:
    field = np.zeros((60, 80), np.float32)
    field[20:40, 30:50] = 60
    lit = occluder_shadow(field, light=(0, 0, 1), occluder=Occluder(shape="disc", size=5, distance=0.5))
    assert (lit[20:40, 30:50] == 1).all()
    assert (lit[:15] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_drawn_occluders_are_json_and_throw_their_shadow_into_the_picture(shape: Shape) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        light = cap_direction(rng, min_angle_deg=20, max_angle_deg=70)
        occluder = draw_occluder(rng, light=light, shapes=(shape,))
        assert Occluder(**json.loads(json.dumps(asdict(occluder)))) == occluder
        lit = occluder_shadow(np.zeros((96, 128), np.float32), light=light, occluder=occluder)
        assert lit.min() < 0.7
        assert lit.max() > 0.95
        assert 0.01 < (lit < 0.7).mean() < 0.9
        slant = math.hypot(light[0], light[1]) / light[2]
        place = np.array([occluder.x, occluder.y]) + occluder.distance * light[:2] / light[2]
        if slant * 4 > 1.1 and shape in ("disc", "polygon"):
            assert np.hypot(*place) - occluder.size >= 0.5 - 1e-6 - math.hypot(occluder.x, occluder.y)


def test_the_same_seed_draws_the_same_occluder() -> None:
    one, other = (draw_occluder(np.random.default_rng(9), light=(0.5, 0.5, 0.7)) for _ in range(2))
    assert one == other
    shapes = {draw_occluder(np.random.default_rng(seed), light=(0.5, 0.5, 0.7)).shape for seed in range(40)}
    assert shapes == set(SHAPES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": "star"}, "one of edge, bar, disc, polygon, got 'star'"),
        ({"shape": "disc", "size": 0}, "size and distance must be above 0, got 0 and 1.0"),
        ({"shape": "polygon", "corners_deg": (0, 90)}, r"three or more corners in rising order, got \[0, 90\]"),
        ({"shape": "polygon", "corners_deg": (0, 190, 90)}, "in rising order"),
    ],
)
def test_wrong_occluders_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Occluder(**values)
