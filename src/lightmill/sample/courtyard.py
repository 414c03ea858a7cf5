"""What stands in the sample scene: a courtyard with an arcade, and somebody who walks behind the camera.

World axes are a camera's: x right, y down, z forward, in metres; the ground is y = 0, so heights are negative.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightmill.sample.finish import Colour, Finish
from lightmill.sample.shapes import Ball, Box, Capsule, Point, Solid

SKY, GROUND, PERSON, FIRST_OTHER = 0, 1, 2, 3  # object ids
CAMERA_HEIGHT_M = 1.7
_CIRCLE_M, _TURN_PER_S, _STEPS_PER_S = 2.9, 0.25, 0.9  # of the walk: radius, radians, pairs of steps
_BEHIND = 0.44  # radians of the circle between the camera and the person

_STONE: Colour = (0.52, 0.47, 0.39)
_MORTAR: Colour = (0.40, 0.36, 0.31)
PAVING = Finish(
    colour=(0.47, 0.41, 0.33), other=(0.36, 0.25, 0.18), line=(0.17, 0.15, 0.13),
    cell_m=(0.8, 0.8), line_m=0.022, variation=0.09, grain=0.11, grain_m=3.1,
)  # fmt: skip
_MARBLE = Finish(colour=(0.62, 0.58, 0.52), grain=0.09, grain_m=2.3)
_ASHLAR = Finish(
    colour=_STONE, line=_MORTAR, cell_m=(0.9, 0.42), line_m=0.018, bond=0.5, variation=0.10, grain=0.12, grain_m=2.7
)
_BRICK = Finish(
    colour=(0.40, 0.16, 0.095), line=(0.42, 0.37, 0.31),
    cell_m=(0.42, 0.14), line_m=0.018, bond=0.5, variation=0.28, grain=0.12, grain_m=2.1,
)  # fmt: skip
_PLASTER = Finish(colour=(0.58, 0.36, 0.17), grain=0.10, grain_m=4.3)
_HOUSE = Finish(
    colour=(0.07, 0.10, 0.13), line=(0.56, 0.33, 0.24), cell_m=(1.9, 2.2), line_m=1.05, grain=0.07, grain_m=3.7
)
_ROOF = Finish(
    colour=(0.42, 0.15, 0.08), line=(0.20, 0.07, 0.04), cell_m=(0.24, 0.5), line_m=0.05, variation=0.22, grain=0.14
)
_LEAVES = Finish(colour=(0.085, 0.16, 0.04), grain=0.55, grain_m=1.3)
_CYPRESS = Finish(colour=(0.045, 0.09, 0.035), grain=0.5, grain_m=1.9)
_GRASS = Finish(colour=(0.13, 0.19, 0.055), grain=0.35, grain_m=4.7)
_POT = Finish(colour=(0.43, 0.17, 0.09), line=(0.30, 0.11, 0.06), cell_m=(9.0, 0.2), line_m=0.03, grain=0.12)
_WOOD = Finish(colour=(0.26, 0.13, 0.06), line=(0.07, 0.04, 0.02), cell_m=(0.12, 9.0), line_m=0.012, variation=0.2)


def camera_centre(time_s: float) -> NDArray[np.float64]:
    """[3] where the camera is in the world, m: it circles the sculpture at 0.7 m/s."""
    turn = _turn(time_s)
    return np.array([_CIRCLE_M * math.sin(turn), -CAMERA_HEIGHT_M, _CIRCLE_M * math.cos(turn)])


def _turn(time_s: float) -> float:
    return math.pi - 0.35 + _TURN_PER_S * time_s


@lru_cache(maxsize=1)
def courtyard() -> tuple[Solid, ...]:
    """All that stands still; the object id of each is FIRST_OTHER plus its place here."""
    return *_walls(), *_arcade(), *_sculptures(), *_greenery()


def _walls() -> Iterator[Solid]:
    yield Box(_HOUSE, (-11.0, -4.4, -9.0), (-8.4, 0.0, 6.6))  # west: a house with its roof
    yield Box(_MARBLE, (-11.0, -4.62, -9.2), (-8.1, -4.4, 6.8))
    yield Box(_ROOF, (-11.0, -4.95, -9.1), (-8.6, -4.62, 6.7))
    yield Box(_BRICK, (-8.4, -2.5, -8.0), (2.2, 0.0, -7.6))  # south: two stretches and a gate
    yield Box(_MARBLE, (-8.4, -2.62, -8.06), (2.26, -2.5, -7.54))
    yield Box(_ASHLAR, (2.2, -3.3, -8.2), (2.9, 0.0, -7.5))
    yield Box(_ASHLAR, (5.1, -3.3, -8.2), (5.8, 0.0, -7.5))
    yield Box(_MARBLE, (2.0, -3.75, -8.3), (6.0, -3.3, -7.4))
    yield Box(_BRICK, (5.8, -2.5, -8.0), (9.0, 0.0, -7.6))
    yield Box(_MARBLE, (5.74, -2.62, -8.06), (9.0, -2.5, -7.54))
    yield Box(_ASHLAR, (8.6, -1.25, -7.6), (9.0, 0.0, 6.6))  # east: a low wall, a tower beyond
    yield Box(_MARBLE, (8.52, -1.38, -7.6), (9.08, -1.25, 6.6))
    yield Box(_ASHLAR, (17.0, -11.5, -1.0), (20.6, 0.0, 2.6))
    yield Box(_MARBLE, (16.75, -11.9, -1.25), (20.85, -11.5, 2.85))
    yield Box(_GRASS, (9.0, -0.03, -300.0), (300.0, 0.0, 300.0))
    yield Box(_GRASS, (-300.0, -0.03, -300.0), (9.0, 0.0, -8.0))
    yield Box(_ROOF, (17.4, -13.4, -0.6), (20.2, -11.9, 2.2))


def _arcade() -> Iterator[Solid]:
    yield Box(_PLASTER, (-9.5, -3.9, 9.4), (9.5, 0.0, 9.8))
    yield Box(_ASHLAR, (-9.5, -0.9, 9.3), (9.5, 0.0, 9.4))
    yield Box(_ASHLAR, (-9.5, -3.9, 6.7), (-8.9, 0.0, 9.8))
    yield Box(_ASHLAR, (8.9, -3.9, 6.7), (9.5, 0.0, 9.8))
    yield Box(_MARBLE, (-9.5, -3.65, 6.72), (9.5, -3.05, 7.28))
    yield Box(_MARBLE, (-9.6, -3.82, 6.6), (9.6, -3.65, 7.4))
    yield Box(_ROOF, (-9.7, -4.15, 6.5), (9.7, -3.82, 9.9))
    for k in range(8):
        x = -8.05 + 2.3 * k
        yield Box(_MARBLE, (x - 0.30, -0.22, 6.70), (x + 0.30, 0.0, 7.30))
        yield Capsule(_MARBLE, (x, 0.0, 7.0), (x, -3.0, 7.0), 0.19)
        yield Box(_MARBLE, (x - 0.28, -3.05, 6.72), (x + 0.28, -2.87, 7.28))


def _panels(colour: Colour, other: Colour, radius: float) -> Finish:
    """Twelve meridians, six parallels, on a ball of that radius."""
    cell_m = math.tau * radius / 12
    return Finish(colour=colour, other=other, cell_m=(cell_m, cell_m), grain=0.05, grain_m=1.1)


def _sculptures() -> Iterator[Solid]:
    white: Colour = (0.60, 0.58, 0.54)
    yield Box(_ASHLAR, (-0.85, -0.45, -0.85), (0.85, 0.0, 0.85))  # in the middle
    yield Box(_MARBLE, (-0.95, -0.55, -0.95), (0.95, -0.45, 0.95))
    yield Ball(_panels((0.62, 0.20, 0.04), white, 0.72), (0.0, -1.27, 0.0), 0.72)
    yield Ball(_panels((0.03, 0.25, 0.36), white, 0.26), (0.60, -0.81, -0.62), 0.26)
    yield Box(_MARBLE, (-5.2, -0.9, 3.3), (-4.3, 0.0, 4.2))  # a blue ball
    yield Ball(Finish(colour=(0.05, 0.13, 0.42), grain=0.10, grain_m=1.0), (-4.75, -1.38, 3.75), 0.48)
    yield Box(Finish(colour=(0.02, 0.24, 0.25), grain=0.08), (4.0, -0.75, 3.7), (4.9, 0.0, 4.6))  # a totem
    yield Ball(Finish(colour=(0.66, 0.42, 0.05), grain=0.06), (4.45, -1.13, 4.15), 0.38)
    yield Box(Finish(colour=(0.56, 0.10, 0.06), grain=0.06), (4.05, -1.86, 3.75), (4.85, -1.51, 4.55))
    yield Ball(Finish(colour=white, grain=0.06), (4.45, -2.11, 4.15), 0.25)
    yield Box(_WOOD, (-2.4, -0.48, 5.3), (0.2, -0.40, 5.8))  # a bench
    yield Box(_ASHLAR, (-2.2, -0.40, 5.35), (-1.9, 0.0, 5.75))
    yield Box(_ASHLAR, (-0.3, -0.40, 5.35), (0.0, 0.0, 5.75))
    yield Ball(_panels((0.55, 0.07, 0.16), (0.64, 0.45, 0.08), 0.36), (-3.3, -0.36, 4.9), 0.36)


def _greenery() -> Iterator[Solid]:
    for x, z in ((-6.2, -5.4), (-2.2, -6.3), (1.2, -6.3), (6.9, -5.6), (6.9, -1.6), (6.9, 2.4), (-6.6, 0.4)):
        yield Box(_POT, (x - 0.4, -0.62, z - 0.4), (x + 0.4, 0.0, z + 0.4))
        yield Capsule(_WOOD, (x, -0.6, z), (x, -1.2, z), 0.05)
        yield Ball(_LEAVES, (x, -1.45, z), 0.52)
    for x, z, height in ((11.5, 5.2, 5.6), (12.4, 2.9, 4.6), (11.4, -3.6, 6.2), (12.6, -5.8, 5.0), (3.0, -14.5, 6.4)):
        yield Capsule(_CYPRESS, (x, 0.0, z), (x, -height, z), 0.55)


_SKIN = Finish(colour=(0.50, 0.27, 0.17), grain=0.03)
_HAIR = Finish(colour=(0.045, 0.028, 0.02), grain=0.15, grain_m=0.7)
_JACKET = Finish(colour=(0.62, 0.30, 0.03), grain=0.06, grain_m=1.2)
_PACK = Finish(colour=(0.04, 0.12, 0.13), grain=0.08)
_JEANS = Finish(colour=(0.05, 0.08, 0.17), grain=0.10, grain_m=0.8)
_SHOES = Finish(colour=(0.55, 0.53, 0.50), grain=0.04)


class _Body:
    """Points of a body that stands on the circle and looks along it: to its right, up, and ahead, in metres."""

    def __init__(self, turn: float) -> None:
        self._ahead = (math.cos(turn), -math.sin(turn))  # x and z
        self._at = (_CIRCLE_M * math.sin(turn), _CIRCLE_M * math.cos(turn))

    def __call__(self, right: float, up: float, ahead: float) -> Point:
        (ahead_x, ahead_z), (x, z) = self._ahead, self._at
        return x + ahead * ahead_x + right * ahead_z, -up, z + ahead * ahead_z - right * ahead_x


def person(time_s: float) -> Iterator[Solid]:
    """Who walks behind the camera, 1.27 m away, at that time."""
    phase = math.tau * _STEPS_PER_S * time_s
    body = _Body(_turn(time_s) - _BEHIND)
    bob = 0.02 * math.cos(2 * phase)
    for side, swing in ((-1, math.sin(phase)), (1, -math.sin(phase))):
        yield from _leg(body, side=side, swing=swing, lift=max(0.0, side * math.cos(phase)))
        yield from _arm(body, side=side, swing=-swing, bob=bob)
    for right in (-0.05, 0.05):
        yield Capsule(_JACKET, body(right, 1.00 + bob, 0.0), body(1.4 * right, 1.30 + bob, 0.01), 0.135)
    yield Capsule(_JACKET, body(-0.14, 1.375 + bob, 0.0), body(0.14, 1.375 + bob, 0.0), 0.075)
    yield Capsule(_JEANS, body(-0.07, 0.92 + bob, 0.0), body(0.07, 0.92 + bob, 0.0), 0.115)
    yield Capsule(_PACK, body(0.0, 1.08 + bob, -0.17), body(0.0, 1.34 + bob, -0.15), 0.13)
    yield Capsule(_SKIN, body(0.0, 1.40 + bob, 0.02), body(0.0, 1.56 + bob, 0.04), 0.06)
    yield Ball(_SKIN, body(0.0, 1.61 + bob, 0.05), 0.105)
    yield Ball(_HAIR, body(0.0, 1.645 + bob, 0.022), 0.112)


def _leg(body: _Body, *, side: int, swing: float, lift: float) -> Iterator[Solid]:
    thigh, shin = 0.45 * swing + 0.10, 0.45 * swing - 0.10 - 0.75 * lift  # angles from straight down
    hip_up, knee_ahead = 0.93, 0.43 * math.sin(thigh)
    knee_up = hip_up - 0.43 * math.cos(thigh)
    ankle_up, ankle_ahead = knee_up - 0.41 * math.cos(shin), knee_ahead + 0.41 * math.sin(shin)
    right = 0.095 * side
    yield Capsule(_JEANS, body(right, hip_up, 0.0), body(right, knee_up, knee_ahead), 0.076)
    yield Capsule(_JEANS, body(right, knee_up, knee_ahead), body(right, ankle_up, ankle_ahead), 0.064)
    toe_up = max(0.05, ankle_up - 0.04 + 0.16 * math.sin(shin + 0.1))
    yield Capsule(
        _SHOES, body(right, max(0.055, ankle_up - 0.04), ankle_ahead), body(right, toe_up, ankle_ahead + 0.17), 0.05
    )


def _arm(body: _Body, *, side: int, swing: float, bob: float) -> Iterator[Solid]:
    upper, fore = 0.45 * swing, 0.45 * swing + 0.45
    shoulder_up, elbow_ahead = 1.38 + bob, 0.28 * math.sin(upper)
    elbow_up = shoulder_up - 0.28 * math.cos(upper)
    hand_up, hand_ahead = elbow_up - 0.25 * math.cos(fore), elbow_ahead + 0.25 * math.sin(fore)
    yield Capsule(_JACKET, body(0.19 * side, shoulder_up, 0.0), body(0.24 * side, elbow_up, elbow_ahead), 0.058)
    yield Capsule(_JACKET, body(0.24 * side, elbow_up, elbow_ahead), body(0.24 * side, hand_up, hand_ahead), 0.047)
    yield Ball(_SKIN, body(0.24 * side, hand_up - 0.03, hand_ahead + 0.03), 0.052)
