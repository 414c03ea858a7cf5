"""The bodies of a sample match: they stand on the floor, move smoothly and keep apart."""

import math

import numpy as np
import pytest

from lightmill.sample.match_body import HAIR, PARTS, Moment, Parts, Shape, pose
from lightmill.sample.match_camera import ANGLES, camera
from lightmill.sample.match_court import LENGTH_M, WIDTH_M
from lightmill.sample.match_looks import players_of
from lightmill.sample.match_paint import paint_of
from lightmill.sample.match_play import FRAMES_PER_S, play
from lightmill.sample.match_raster import STEPS, Lamps, draw
from lightmill.types import Size

_STANDING = Moment((1.0, -2.0), (0.0, 0.0), 0.7, 0.0, 0.0, 0.0, 0.0)


def surface(parts: Parts, count: int = 40) -> np.ndarray:
    """[N, count², 3] points of each part's surface in the world, by its own definition."""
    turn, along = np.meshgrid(np.linspace(0, 2 * np.pi, count), np.linspace(0, 1, count))
    points = []
    for i, axes in enumerate(parts.axes):
        if parts.round[i]:
            radius, y = np.sin(np.pi * along), -np.cos(np.pi * along)
        else:
            radius, y = 1 + parts.taper[i] * along, along
        own = np.stack([radius * np.sin(turn), y, radius * np.cos(turn)], axis=-1).reshape(-1, 3)
        points.append(parts.centre[i] + own @ axes.T)
    return np.stack(points)


@pytest.mark.parametrize("hair", HAIR)
def test_a_body_stands_on_the_floor_and_is_as_tall_as_it_says(hair: str) -> None:
    points = surface(pose(_STANDING, Shape(1.95, 1.0, hair)))
    foot, head = PARTS.index("foot_l"), PARTS.index("head")
    assert points[foot, :, 2].min() == pytest.approx(0, abs=0.03)
    assert points[head, :, 2].max() == pytest.approx(1.95, abs=0.06)
    middle = points[: PARTS.index("shorts_l"), :, :2].mean(axis=(0, 1))
    assert np.hypot(*(middle - _STANDING.at)) < 0.15


@pytest.mark.parametrize("speed", [0.0, 1.4, 3.0, 6.0])
def test_limbs_stay_joined_and_keep_their_length_at_all_times_of_the_gait(speed: float) -> None:
    lengths = []
    for phase in np.linspace(0, 2 * math.pi, 12):
        parts = pose(Moment((0, 0), (speed, 0), 0.0, phase, 0.3, 0.4, 0.2), Shape(2.0, 1.1, "afro"))
        of = {name: i for i, name in enumerate(PARTS)}
        for side in "lr":
            knee, ankle = (parts.centre[of[f"{part}_{side}"]] for part in ("knee", "foot"))
            shank = parts.centre[of[f"shank_{side}"]], parts.axes[of[f"shank_{side}"]][:, 1]
            np.testing.assert_allclose(shank[0], knee, atol=1e-9)
            assert np.linalg.norm(shank[0] + shank[1] - ankle) < 0.15
            lengths.append(np.linalg.norm(shank[1]))
        assert surface(parts)[..., 2].min() > -0.08
    assert np.ptp(lengths) < 0.03


def test_a_heading_turns_the_whole_body() -> None:
    ahead = surface(pose(Moment((0, 0), (0, 0), 0.0, 1.0, 0.4, 0.6, 0.3), Shape(1.9, 1.0, "bun")))
    turned = surface(pose(Moment((0, 0), (0, 0), 0.9, 1.0, 0.4, 0.6, 0.3), Shape(1.9, 1.0, "bun")))
    c, s = math.cos(0.9), math.sin(0.9)
    np.testing.assert_allclose(turned, ahead @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]), atol=1e-9)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("turn", [0.0, 1.5, 3.0, 4.5])
def test_the_box_of_what_is_drawn_is_that_of_the_surface_projected_point_by_point(
    angle: str, samples: int, turn: float
) -> None:
    look = players_of(0, 1)[0]
    parts = pose(Moment((1.5 - turn, turn - 2), (0.0, 0.0), turn, turn, 0.5, turn / 5, 0.4), look.shape)
    eye = camera(angle, play_x=0.0, rng=np.random.default_rng(3), size=Size(1920, 1080))
    lamps = Lamps(np.eye(3, 1, -2, dtype=np.float32), np.ones(1, np.float32), 0.5, 0.5)
    curve = np.tile(np.linspace(0, 255, STEPS).astype(np.uint8), (3, 1))
    sprite = draw(parts, paint_of(look), camera=eye, lamps=lamps, curve=curve, samples=samples)
    assert sprite is not None
    places, _ = eye.project(surface(parts).reshape(-1, 3))
    np.testing.assert_allclose(sprite.box, [*places.min(axis=0), *places.max(axis=0)], atol=1 + 1 / samples)
    row, column = np.nonzero(sprite.levels[..., 3])
    left, top = sprite.left, sprite.top
    filled = left + column.min(), top + row.min(), left + column.max() + 1, top + row.max() + 1
    np.testing.assert_array_equal(filled, [*np.floor(sprite.box[:2]), *np.ceil(sprite.box[2:])])


@pytest.mark.parametrize("seed", range(6))
def test_people_move_smoothly_stay_in_the_hall_and_keep_apart(seed: int) -> None:
    session = play(5, 5, 2, frames=12, rng=np.random.default_rng(seed))
    at = np.array([[moment.at for moment in row] for row in session.moments])  # [frame, person, 2]
    speed = np.array([[moment.velocity for moment in row] for row in session.moments])
    heading = np.array([[moment.heading for moment in row] for row in session.moments])
    step = np.diff(at, axis=0) * FRAMES_PER_S
    assert np.hypot(*np.moveaxis(step, -1, 0)).max() < 8  # m/s
    # a step of the way is what the speeds at its ends say: nobody is swapped or jumps
    assert np.abs(step - (speed[1:] + speed[:-1]) / 2).max() < 1.2
    assert np.abs(np.diff(heading, axis=0)).max() < 6 / FRAMES_PER_S
    assert np.abs(at).max(axis=(0, 1)) == pytest.approx([LENGTH_M / 2, WIDTH_M / 2], abs=8)
    assert (np.abs(at) < [LENGTH_M / 2 + 3, WIDTH_M / 2 + 3]).all()
    apart = np.linalg.norm(at[:, :, None] - at[:, None], axis=-1) + 9 * np.eye(12)
    assert apart.min() > 0.3


def test_play_is_the_same_for_equal_random_numbers_and_works_with_one_team() -> None:
    first, second = (play(2, 0, 1, frames=3, rng=np.random.default_rng(5)) for _ in range(2))
    assert first == second
    assert len(first.moments) == len(first.balls) == 3
    assert len(play(0, 1, 0, frames=1, rng=np.random.default_rng(0)).moments[0]) == 1
