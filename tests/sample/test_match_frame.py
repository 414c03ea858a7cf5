"""Pictures of a sample match: boxes hold what is drawn, numbers can be read, who hides whom is counted."""

import math

import cv2
import numpy as np
import pytest

from lightmill.sample.match_body import Moment
from lightmill.sample.match_camera import ANGLES, Camera, camera
from lightmill.sample.match_court import Hall
from lightmill.sample.match_frame import Light, Person, Shot
from lightmill.sample.match_looks import Look, players_of
from lightmill.sample.match_paint import digits
from lightmill.types import Size

_SIZE = Size(960, 540)


@pytest.fixture(scope="module")
def hall() -> Hall:
    return Hall.of(0)


@pytest.fixture(scope="module")
def looks() -> list[Look]:
    return players_of(0, 6)


def _light() -> Light:
    return Light.of(np.random.default_rng(1), np.random.default_rng(2))


def _camera(angle: str, size: Size = _SIZE) -> Camera:
    return camera(angle, play_x=0.0, rng=np.random.default_rng(3), size=size)


def _frame(shot: Shot, *people: tuple[Person, Moment]) -> tuple[np.ndarray, list]:
    return shot.frame(list(people), None, rng=np.random.default_rng(4))


@pytest.mark.parametrize("angle", ANGLES)
def test_cameras_project_as_opencv_does(angle: str) -> None:
    eye = _camera(angle)
    points = np.random.default_rng(0).uniform((-6, -5, 0), (6, 5, 2), (50, 3))
    middle = np.array([[eye.focal_px, 0, _SIZE.width / 2], [0, eye.focal_px, _SIZE.height / 2], [0, 0, 1]])
    turn, _ = cv2.Rodrigues(eye.cam_from_world)
    expected, _ = cv2.projectPoints(points, turn, -eye.cam_from_world @ eye.eye, middle, None)
    np.testing.assert_allclose(eye.project(points)[0], expected[:, 0], atol=1e-6)
    higher, _ = eye.project(points + np.array([0, 0, 0.5]))
    assert (higher[:, 1] < expected[:, 0, 1]).all()  # up is up


@pytest.mark.parametrize("angle", ANGLES)
def test_slopes_are_the_derivative_of_the_projection(angle: str) -> None:
    eye, point, h = _camera(angle), np.array([[1.0, 2.0, 1.5]]), 1e-5
    steps = h * np.eye(3)
    (ahead, far), (behind, near) = eye.project(point + steps), eye.project(point - steps)
    slopes = eye.slopes(point)[0]
    np.testing.assert_allclose(slopes[:2], (ahead - behind).T / (2 * h), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(slopes[2], (near - far) / (2 * h), atol=1e-6)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("speed", [0.0, 5.0])
def test_what_a_player_changes_in_the_picture_fills_the_box_and_stays_in_it(
    angle: str, speed: float, hall: Hall, looks: list[Look]
) -> None:
    shot = Shot(_camera(angle), light=_light(), hall=hall)
    empty, none = _frame(shot)
    moment = Moment((0.5, 1.0), (speed, 0.0), 0.4, 2.0, 0.2, 0.3, 0.0)
    drawn, [seen] = _frame(shot, (Person.of(looks[1]), moment))
    assert none == []
    left, top, right, bottom = seen.box
    blur = 2 + math.ceil(speed * 0.02 * shot.camera.focal_px / 14)
    outside = np.ones(empty.shape[:2], bool)
    outside[math.floor(top) - blur : math.ceil(bottom) + blur, math.floor(left) - blur : math.ceil(right) + blur] = (
        False
    )
    change = drawn.astype(int) - empty
    assert change[outside].max() <= 0  # nothing but the shadow, which is dark
    turns = np.linspace(0, 2 * np.pi, 30)
    ring, _ = shot.camera.project(np.stack([0.5 + 0.75 * np.cos(turns), 1 + 0.75 * np.sin(turns), 0 * turns], axis=1))
    row, column = np.nonzero(outside & change.any(axis=2))
    assert (ring.min(axis=0) <= [column.min(), row.min()]).all()
    assert (ring.max(axis=0) >= [column.max(), row.max()]).all()
    strong = np.abs(change).max(axis=2) > 12
    strong[: math.floor(top)] = strong[math.ceil(bottom) :] = False
    rows, columns = (np.flatnonzero(strong[:, math.floor(left) : math.ceil(right)].any(axis=axis)) for axis in (1, 0))
    slack = 1.5 + speed  # where motion blur leaves little of a hand
    assert abs(rows[0] - top) < slack
    assert abs(rows[-1] + 1 - bottom) < slack
    assert abs(columns[0]) < slack
    assert abs(columns[-1] + 1 - (right - left)) < slack


def test_the_one_in_front_hides_the_one_behind_whose_box_stays(hall: Hall, looks: list[Look]) -> None:
    shot = Shot(_camera("side"), light=_light(), hall=hall)
    front, behind = (Moment((0.0, y), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0) for y in (0.0, 1.0))
    first, second = (Person.of(look) for look in looks[:2])
    _, [alone] = _frame(shot, (second, behind))
    for order in ([(first, front), (second, behind)], [(second, behind), (first, front)]):
        _, seen = _frame(shot, *order)
        in_front, hidden = sorted(seen, key=lambda each: each.box[3], reverse=True)
        assert in_front.visible == 1
        assert 0.2 < hidden.visible < 0.75
        assert hidden.box == alone.box


def test_what_is_outside_the_picture_is_not_visible(hall: Hall, looks: list[Look]) -> None:
    eye = _camera("side")
    shot = Shot(eye, light=_light(), hall=hall)
    edge = next(x for x in np.arange(8, 16, 0.01) if eye.project(np.array([x, 0.0, 1.0]))[0][0] >= _SIZE.width)
    _, [cut] = _frame(shot, (Person.of(looks[0]), Moment((edge, 0.0), (0, 0), math.pi / 2, 0, 0, 0, 0)))
    assert cut.visible == pytest.approx(0.5, abs=0.15)
    assert cut.box[2] > _SIZE.width
    _, gone = _frame(shot, (Person.of(looks[0]), Moment((edge + 3, 0.0), (0, 0), 0, 0, 0, 0, 0)))
    assert gone == []


@pytest.mark.parametrize("heading", [-math.pi / 2, math.pi / 2], ids=["front", "back"])
@pytest.mark.parametrize("index", range(4))
def test_the_number_reads_from_left_to_right_ahead_and_behind(
    heading: float, index: int, hall: Hall, looks: list[Look]
) -> None:
    look = looks[index]
    shot = Shot(_camera("side", Size(1920, 1080)), light=_light(), hall=hall)
    moment = Moment((0.0, -1.0), (0.0, 0.0), heading, 0.0, 0.0, 0.0, 0.0)
    drawn, [seen] = _frame(shot, (Person.of(look), moment))
    left, top, right, bottom = (round(side) for side in seen.box)
    high = round(0.235 / look.shape.height_m * (bottom - top))
    trunk = drawn[top + (bottom - top) // 6 : (top + bottom) // 2, left:right]
    grey = cv2.cvtColor(trunk, cv2.COLOR_RGB2GRAY).astype(np.float32) * (-1 if look.team == 0 else 1)

    def match(number: int, *, mirrored: bool) -> float:
        block = digits(str(number)).astype(np.float32)
        block = np.pad(block[:, ::-1] if mirrored else block, 12)
        like = cv2.resize(block, (round(block.shape[1] * high / 100), round(1.24 * high)))
        return float(cv2.matchTemplate(grey, like, cv2.TM_CCOEFF_NORMED).max())

    alike = range(10) if look.number < 10 else range(10, 100)
    best = max(alike, key=lambda number: match(number, mirrored=False))
    assert best == look.number
    assert match(best, mirrored=False) > match(best, mirrored=True)


def test_players_differ_within_a_team_and_the_first_do_not_depend_on_the_count() -> None:
    few, many = players_of(7, 8), players_of(7, 30)
    assert many[:8] == few
    for team in (0, 1):
        mates = [look for look in many if look.team == team]
        assert len(mates) == 15
        assert len({look.number for look in mates}) == 15
        assert len({look.kit for look in mates}) == 1
        assert len({(look.shape.hair, look.skin, look.shoes, look.sleeves) for look in mates}) == 15
    assert many[0].kit != many[1].kit


def test_light_is_much_the_quarters_and_a_little_the_sessions() -> None:
    def drawn(quarter: int, session: int) -> np.ndarray:
        light = Light.of(np.random.default_rng(quarter), np.random.default_rng(1000 + session))
        return light.curves(np.linspace(0, 0.6, 32, dtype=np.float32)).astype(int)

    same = np.mean([np.abs(drawn(q, 0) - drawn(q, 1)).mean() for q in range(20)])
    other = np.mean([np.abs(drawn(q, 0) - drawn(q + 1, 0)).mean() for q in range(20)])
    assert 0 < same < 0.7 * other
    assert (np.diff(drawn(0, 0), axis=1) >= 0).all()
