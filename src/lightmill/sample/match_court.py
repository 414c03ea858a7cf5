"""The hall of a sample match: floor with its lines, boards, stands with people, hoops."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.sample.match_camera import Camera, Reals

Levels = NDArray[np.uint8]

LENGTH_M, WIDTH_M = 28.0, 15.0  # FIBA's court
HOOP_X_M = LENGTH_M / 2 - 1.575
_REACH_M = (21.0, 11.5)  # of the floor, half
_FLOOR_PX, _LINE_M = 80, 0.05  # px a metre
_ARC_M, _KEY_M, _CIRCLE_M = 6.75, (5.8, 4.9), 1.8
_WOODS = ((206, 164, 112), (196, 150, 100), (214, 178, 132))
_PAINTS = ((46, 74, 120), (140, 44, 44), (52, 96, 84), (92, 66, 112))
_BOARD_PX, _STAND_PX = 40, 26
_LINE = (244, 242, 236)


class Wall(NamedTuple):
    """A flat picture in the world."""

    picture: Levels
    corners: Reals  # [4, 3] m of its top left, top right, bottom right and bottom left


class Piece(NamedTuple):
    """Something flat that players may be hidden by: polygons of one colour each, and how far it is."""

    depth: float
    polygons: list[tuple[NDArray[np.int32], tuple[int, int, int]]]  # [N, 2] px times 16, RGB


@dataclass(frozen=True)
class Hall:
    """All that stands still, from far to near."""

    walls: tuple[Wall, ...]

    @classmethod
    def of(cls, seed: int) -> "Hall":
        """Floor, boards and crowd of a seed."""
        rng = np.random.default_rng([seed, 0x68616C6C])
        x, y = _REACH_M
        floor = np.array([[-x, y, 0], [x, y, 0], [x, -y, 0], [-x, -y, 0]])
        walls = [
            Wall(_crowd(rng, 60.0, 14.0), np.array([[-30, 24, 9], [30, 24, 9], [30, 11.4, 0.8], [-30, 11.4, 0.8]]))
        ]
        for side in (-1, 1):
            far, near = (31 * side, 18, 8), (31 * side, -14, 8)
            ends = np.array([near, far, (19.5 * side, 11.4, 0.8), (19.5 * side, -11.4, 0.8)], float)
            walls.append(Wall(_crowd(rng, 24.0, 12.0), ends if side < 0 else ends[[1, 0, 3, 2]]))
        walls.append(Wall(_floor(rng), floor))
        walls.append(Wall(_boards(rng, 36.0), _upright((-18, 10.6), (18, 10.6), 0.95)))
        walls.append(Wall(_boards(rng, 17.0), _upright((18.6, 8.5), (18.6, -8.5), 0.95)))
        walls.append(Wall(_boards(rng, 17.0), _upright((-18.6, -8.5), (-18.6, 8.5), 0.95)))
        return cls(tuple(walls))

    def seen(self, camera: Camera) -> Levels:
        """[H, W, 3] sRGB."""
        size = (camera.size.width, camera.size.height)
        picture = np.full((size[1], size[0], 3), (38, 38, 44), np.uint8)
        for wall in self.walls:
            high, wide = wall.picture.shape[:2]
            corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
            places, depth = camera.project(wall.corners)
            if depth.min() > 0:
                matrix = cv2.getPerspectiveTransform(corners - np.float32(0.5), (places - 0.5).astype(np.float32))
                cv2.warpPerspective(wall.picture, matrix, size, picture, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
        return picture


def hoops(camera: Camera, levels: Levels) -> list[Piece]:
    """Posts, boards and rings of both ends; levels: [3, 256] what each level of red, green, blue becomes."""
    pieces = []
    for side in (-1, 1):
        board = side * (LENGTH_M / 2 - 1.2)
        shapes = [
            (_upright((side * 15.6, -0.15), (side * 15.6, 0.15), 3.2), (52, 54, 60)),
            (_beam(side), (52, 54, 60)),
            (_upright((board, -0.9), (board, 0.9), 1.05, foot=2.9), (226, 230, 234)),
            (_upright((board, -0.3), (board, 0.3), 0.45, foot=3.05), (206, 96, 72)),
            (_upright((board, -0.25), (board, 0.25), 0.36, foot=3.09), (226, 230, 234)),
            (_net(side), (214, 214, 210)),
            (_ring(side), (222, 92, 36)),
        ]
        placed = [(camera.project(corners), colour) for corners, colour in shapes]
        if min(float(depth.min()) for (_, depth), _ in placed) > 0:
            polygons = [
                (np.rint((places - 0.5) * 16).astype(np.int32), _in_light(colour, levels))
                for (places, _), colour in placed
            ]
            pieces.append(Piece(float(placed[2][0][1].mean()), polygons))
    return pieces


def _in_light(colour: tuple[int, int, int], levels: Levels) -> tuple[int, int, int]:
    r, g, b = (int(levels[channel, level]) for channel, level in enumerate(colour))
    return r, g, b


def _upright(start: tuple[float, float], end: tuple[float, float], high: float, *, foot: float = 0.0) -> Reals:
    return np.array([[*start, foot + high], [*end, foot + high], [*end, foot], [*start, foot]])


def _beam(side: int) -> Reals:
    return np.array([[15.6, 0, 3.2], [12.8, 0, 3.45], [12.8, 0, 3.25], [15.6, 0, 2.9]]) * (side, 1, 1)


def _turn(side: int, radius: float, up: float, count: int) -> Reals:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = side * HOOP_X_M + radius * np.cos(angle), radius * np.sin(angle)
    return np.stack([x, y, np.full(count, up)], axis=1)


def _ring(side: int) -> Reals:
    """Both rims of the ring as one band."""
    outer, inner = _turn(side, 0.245, 3.05, 24), _turn(side, 0.205, 3.05, 24)
    return np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1]])


def _net(side: int) -> Reals:
    """Zigzag threads as one thin polygon."""
    high, low = _turn(side, 0.22, 3.03, 12), _turn(side, 0.14, 2.65, 12)
    thread = np.stack([high, low], axis=1).reshape(-1, 3)
    return np.concatenate([thread, thread[::-1] + np.array([0, 0, 0.025])])


def _floor(rng: np.random.Generator) -> Levels:
    """Planks along the court, painted keys, lines."""
    wide, high = (round(2 * reach * _FLOOR_PX) for reach in _REACH_M)
    wood = _WOODS[rng.integers(len(_WOODS))]
    planks = cv2.resize(rng.normal(1, 0.035, (high // 8, 24)), (wide, high), interpolation=cv2.INTER_NEAREST)
    grain = cv2.resize(rng.normal(0, 0.022, (high, wide // 40)), (wide, high))
    shade = (planks + grain).astype(np.float32)
    picture = np.dstack([cv2.convertScaleAbs(shade, alpha=level) for level in wood]).astype(np.uint8, copy=False)
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    _paint_around(picture, paint)
    for side in (-1, 1):
        _box(picture, (side * (LENGTH_M / 2 - _KEY_M[0]), -_KEY_M[1] / 2), (side * LENGTH_M / 2, _KEY_M[1] / 2), paint)
    cv2.circle(picture, _px(0, 0), round(_CIRCLE_M * _FLOOR_PX), paint, -1, cv2.LINE_AA)
    _lines(picture)
    return picture


def _px(x: float, y: float) -> tuple[int, int]:
    return round((x + _REACH_M[0]) * _FLOOR_PX), round((_REACH_M[1] - y) * _FLOOR_PX)


def _paint_around(picture: Levels, paint: tuple[int, int, int]) -> None:
    """Beyond the lines the floor is painted, as in halls."""
    (left, top), (right, bottom) = _px(-LENGTH_M / 2, WIDTH_M / 2), _px(LENGTH_M / 2, -WIDTH_M / 2)
    court = picture[top:bottom, left:right].copy()
    cv2.addWeighted(picture, 0.35, np.full_like(picture, paint), 0.65, 0, picture)
    picture[top:bottom, left:right] = court


def _box(
    picture: Levels, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int], line: int = -1
) -> None:
    cv2.rectangle(picture, _px(*start), _px(*end), colour, line, cv2.LINE_AA)


def _lines(picture: Levels) -> None:
    thick = round(_LINE_M * _FLOOR_PX)
    half = LENGTH_M / 2, WIDTH_M / 2
    _box(picture, (-half[0], -half[1]), half, _LINE, thick)
    cv2.line(picture, _px(0, -half[1]), _px(0, half[1]), _LINE, thick, cv2.LINE_AA)
    cv2.circle(picture, _px(0, 0), round(_CIRCLE_M * _FLOOR_PX), _LINE, thick, cv2.LINE_AA)
    for side in (-1, 1):
        free_throw = side * (half[0] - _KEY_M[0])
        _box(picture, (free_throw, -_KEY_M[1] / 2), (side * half[0], _KEY_M[1] / 2), _LINE, thick)
        cv2.circle(picture, _px(free_throw, 0), round(_CIRCLE_M * _FLOOR_PX), _LINE, thick, cv2.LINE_AA)
        reach = np.arcsin((half[1] - 0.9) / _ARC_M)
        arc = np.linspace(-reach, reach, 65)
        bend = [_px(side * (HOOP_X_M - _ARC_M * np.cos(a)), _ARC_M * np.sin(a)) for a in arc]
        ends = [_px(side * half[0], float(np.sign(a)) * (half[1] - 0.9)) for a in arc[[0, -1]]]
        cv2.polylines(picture, [np.array([ends[0], *bend, ends[1]], np.int32)], False, _LINE, thick, cv2.LINE_AA)


def _boards(rng: np.random.Generator, wide_m: float) -> Levels:
    """Panels of advertising: one colour and a word's worth of bars each."""
    high, wide = round(0.95 * _BOARD_PX), round(wide_m * _BOARD_PX)
    picture = np.zeros((high, wide, 3), np.uint8)
    for left in range(0, wide, 3 * _BOARD_PX):
        dark, light = rng.integers(10, 110, 3), rng.integers(160, 250, 3)
        panel = picture[:, left : left + 3 * _BOARD_PX]
        panel[:] = dark
        for bar in range(rng.integers(3, 8)):
            start = round((0.3 + 0.33 * bar) * _BOARD_PX)
            tall = rng.integers(high // 3, 2 * high // 3)
            panel[high // 2 - tall // 2 : high // 2 + tall // 2, start : start + rng.integers(4, 11)] = light
    return picture


def _crowd(rng: np.random.Generator, wide_m: float, deep_m: float) -> Levels:
    """Rows of seats, two thirds of them taken."""
    high, wide = round(deep_m * _STAND_PX), round(wide_m * _STAND_PX)
    picture = np.full((high, wide, 3), (54, 56, 66), np.uint8)
    row, seat = round(0.85 * _STAND_PX), round(0.55 * _STAND_PX)
    for y in range(row, high, row):
        cv2.line(picture, (0, y), (wide, y), (36, 36, 42), 3)
        for x in range(seat // 2, wide, seat):
            if rng.random() < 0.68:
                cloth = rng.integers(25, 190, 3) * rng.uniform(0.4, 0.9)
                skin = np.array((214, 168, 138)) * rng.uniform(0.4, 1)
                at = (x + int(rng.integers(-1, 2)), y - row // 3)
                cv2.ellipse(picture, at, (seat // 3, row // 3), 0, 0, 360, cloth.tolist(), -1, cv2.LINE_AA)
                cv2.circle(picture, (at[0], y - 2 * row // 3), seat // 4, skin.tolist(), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur((picture * 0.72).astype(np.uint8), (0, 0), 1.2), np.uint8)
