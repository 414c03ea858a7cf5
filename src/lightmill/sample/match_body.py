"""How a player stands, walks and runs: from a moment of motion to some 26 ellipsoids and cones in the world.

Lengths are shares of the body's height as Drillis and Contini (1966) give them; the gait is a pair of sines.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.sample.match_camera import Reals

PARTS = (
    "pelvis", "torso", "yoke", "neck", "head", "hair",
    "shorts_l", "shorts_r", "thigh_l", "thigh_r", "knee_l", "knee_r", "shank_l", "shank_r", "foot_l", "foot_r",
    "shoulder_l", "shoulder_r", "arm_l", "arm_r", "elbow_l", "elbow_r", "forearm_l", "forearm_r", "hand_l", "hand_r",
)  # fmt: skip
_CONES = ("torso", "neck", "shorts", "thigh", "shank", "arm", "forearm")  # all others are ellipsoids
_HEAD_M = (0.082, 0.122, 0.102)  # half: across, up, ahead; heads hardly grow with the body


class Moment(NamedTuple):
    """One person at one time."""

    at: tuple[float, float]  # m, on the floor
    velocity: tuple[float, float]  # m/s
    heading: float  # radians, counter-clockwise from x as seen from above
    phase: float  # radians of the gait; a cycle is two steps
    crouch: float  # 0..1: how low the knees are bent
    arms: float  # 0..1: hanging .. spread and raised
    gaze: float  # radians that the head is turned from the heading, to the left

    @property
    def speed(self) -> float:
        """m/s."""
        return math.hypot(*self.velocity)


@dataclass(frozen=True)
class Shape:
    """What of a body its clothes do not change."""

    height_m: float
    build: float  # 1: of usual width
    hair: str  # its style, one of HAIR


class Parts(NamedTuple):
    """N solids qx² + round·qy² + qz² = (1 + taper·qy)², of which `low` ≤ qy ≤ `high` is there.

    q are a part's own axes: y along it, z to its front, x to the left of one who stands upright.
    """

    centre: Reals  # [N, 3] m, world
    axes: Reals  # [N, 3, 3] m: columns are the own axes
    taper: Reals  # [N]
    round: NDArray[np.bool_]  # [N] an ellipsoid; else a cone
    low: Reals  # [N]
    high: Reals  # [N]


# of the hair's own ellipsoid, in half heads: across, up, ahead from the head's middle; radii
HAIR: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "bald": ((0, 0, 0), (0.1, 0.1, 0.1)),
    "short": ((0, 0.16, -0.08), (1.02, 0.95, 1.02)),
    "afro": ((0, 0.35, -0.28), (1.5, 1.08, 1.3)),
    "tall": ((0, 0.75, -0.1), (0.85, 0.75, 0.85)),
    "bun": ((0, 0.85, -0.75), (0.48, 0.42, 0.48)),
    "long": ((0, -0.35, -0.65), (0.95, 1.15, 0.55)),
}


class _Builder:
    """Collects parts as joints and radii; the axes of all are worked out at once."""

    def __init__(self, heading: float) -> None:
        c, s = math.cos(heading), math.sin(heading)
        self._world = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])  # from ahead, left, up
        self._rows: list[tuple[object, ...]] = []

    def add(
        self,
        start: Reals,
        end: Reals,
        radius: float,
        *,
        tip: float = 1.0,
        flat: float = 1.0,
        front: Reals | None = None,
    ) -> None:
        """radius: across, at the start; `tip` times as much at the end; `flat` times as much ahead."""
        self._rows.append((start, end, radius, tip, flat, _AHEAD if front is None else front))

    def parts(self, at: tuple[float, float]) -> Parts:
        start, end, front = (np.array([row[i] for row in self._rows], float) for i in (0, 1, 5))
        radius, tip, flat = (np.array([row[i] for row in self._rows], float) for i in (2, 3, 4))
        along = end - start
        z = front - along * ((front * along).sum(1) / (along * along).sum(1))[:, None]
        z /= np.linalg.norm(z, axis=1)[:, None] + 1e-9
        x = np.cross(along / np.linalg.norm(along, axis=1)[:, None], z)
        y = np.where(_ROUND[:, None], along / 2, along)
        axes = self._world @ np.stack([x * radius[:, None], y, z * (radius * flat)[:, None]], axis=2)
        centre = np.where(_ROUND[:, None], (start + end) / 2, start) @ self._world.T + np.array([*at, 0.0])
        return Parts(centre, axes, np.where(_ROUND, 0, tip - 1), _ROUND, _LOW, _HIGH)


_AHEAD, _LEFT, _UP = np.eye(3)
_ROUND = np.array([name.split("_")[0] not in _CONES for name in PARTS])
_LOW, _HIGH = np.where(_ROUND, -2.0, 0.0), np.where(_ROUND, 2.0, 1.0)


def pose(moment: Moment, shape: Shape) -> Parts:
    """The parts of a body, in the order of PARTS; its lower foot stands on the floor."""
    tall, speed = shape.height_m, moment.speed
    stride = min(0.12 + 0.11 * speed, 0.75) * min(speed / 0.5, 1)
    lean = 0.04 + 0.35 * moment.crouch + min(0.035 * speed, 0.25)
    legs = [_leg(moment, side, stride, shape) for side in (1, -1)]
    hip_up = 0.039 * tall - min(float(ankle[2]) for _, _, ankle, _ in legs)
    hip = np.array([0, 0, hip_up])
    spine = np.array([math.sin(lean), 0, math.cos(lean)])
    builder = _Builder(moment.heading)
    _add_trunk(builder, hip, spine, shape=shape, gaze=moment.gaze)
    _add_legs(builder, [(hip + top, hip + knee, hip + ankle, sole) for top, knee, ankle, sole in legs], shape)
    shoulder = hip + 0.285 * tall * spine
    arms = [_arm(moment, side, stride, shape) for side in (1, -1)]
    _add_arms(builder, [(shoulder + top, shoulder + elbow, shoulder + wrist) for top, elbow, wrist in arms], shape)
    return builder.parts(moment.at)


def _leg(moment: Moment, side: int, stride: float, shape: Shape) -> tuple[Reals, Reals, Reals, float]:
    """Hip, knee and ankle from the middle of the hips, and the pitch of the foot; side: 1 left, -1 right."""
    tall, phase = shape.height_m, moment.phase + (0 if side > 0 else math.pi)
    thigh = 0.10 + 0.62 * moment.crouch + stride * math.sin(phase)
    swing = (0.5 + 0.5 * math.cos(phase + 0.6)) ** 2
    shank = thigh - 0.15 - 1.05 * moment.crouch - min(2.2 * stride, 1.5) * swing
    spread = side * (0.045 + 0.24 * moment.crouch)
    top = np.array([0, side * 0.055 * tall, 0])
    knee = top + 0.245 * tall * np.array([math.sin(thigh), spread, -math.cos(thigh)])
    ankle = knee + 0.246 * tall * np.array([math.sin(shank), 0.6 * spread, -math.cos(shank)])
    return top, knee, ankle, -0.8 * max(0.0, -shank - 0.45)


def _arm(moment: Moment, side: int, stride: float, shape: Shape) -> tuple[Reals, Reals, Reals]:
    """Shoulder, elbow and wrist from the middle of the shoulders."""
    tall, phase = shape.height_m, moment.phase + (0 if side < 0 else math.pi)
    raised = moment.arms * (1.0 if side > 0 else 0.85)
    ahead = 0.1 + 1.0 * stride * math.sin(phase) * (1 - raised) + 0.45 * raised
    out = 0.12 + 1.75 * raised
    bend = 0.25 + min(1.9 * stride, 1.2) + 0.35 * moment.crouch

    def towards(pitch: float, out: float) -> Reals:
        return np.array([math.sin(pitch), side * math.cos(pitch) * math.sin(out), -math.cos(pitch) * math.cos(out)])

    top = np.array([0, side * 0.108 * tall * shape.build, 0])
    elbow = top + 0.172 * tall * towards(ahead, out)
    return top, elbow, elbow + 0.157 * tall * towards(ahead + bend * (1 - 0.5 * raised), out + 0.5 * raised)


def _add_trunk(builder: _Builder, hip: Reals, spine: Reals, *, shape: Shape, gaze: float) -> None:
    tall, build = shape.height_m, shape.build
    front = np.cross(_LEFT, spine)
    shoulder = hip + 0.285 * tall * spine
    builder.add(hip - 0.055 * tall * spine, hip + 0.075 * tall * spine, 0.098 * tall * build, flat=0.8)
    low, high = hip + 0.02 * tall * spine, hip + 0.255 * tall * spine
    builder.add(low, high, 0.083 * tall * build, tip=1.19, flat=0.68, front=front)
    wide = 0.118 * tall * build * _LEFT
    yoke = hip + 0.262 * tall * spine
    builder.add(yoke - wide, yoke + wide, 0.047 * tall, flat=1.25 * build, front=front)
    throat = shoulder + 0.055 * tall * spine
    builder.add(shoulder - 0.02 * tall * spine, throat + 0.02 * tall * spine, 0.032 * tall * build, tip=0.9, flat=0.95)
    c, s = math.cos(gaze), math.sin(gaze)
    face, left = np.array([c, s, 0]), np.array([-s, c, 0])
    up = np.array([0.12 * c, 0.12 * s, 1.0]) / math.hypot(0.12, 1)
    middle = throat + 0.095 * _UP + 0.02 * face
    across, half, ahead = _HEAD_M
    builder.add(middle - half * up, middle + half * up, across, flat=ahead / across, front=face)
    (right, over, before), radii = HAIR[shape.hair]
    at = middle + right * across * left + over * half * up + before * ahead * face
    builder.add(
        at - half * radii[1] * up, at + half * radii[1] * up, across * radii[0],
        flat=ahead * radii[2] / (across * radii[0]), front=face,
    )  # fmt: skip


def _add_legs(builder: _Builder, legs: list[tuple[Reals, Reals, Reals, float]], shape: Shape) -> None:
    tall, thick = shape.height_m, shape.height_m * shape.build
    for top, knee, _, _ in legs:
        builder.add(top + 0.01 * tall * _UP, top + 0.74 * (knee - top), 0.056 * thick, tip=1.06)
    for top, knee, _, _ in legs:
        builder.add(top, knee, 0.046 * thick, tip=0.66)
    for _, knee, _, _ in legs:
        builder.add(knee - 0.031 * tall * _UP, knee + 0.031 * tall * _UP, 0.031 * thick)
    for _, knee, ankle, _ in legs:
        builder.add(knee, ankle, 0.031 * thick, tip=0.62, flat=1.12)
    for _, _, ankle, pitch in legs:
        toe = np.array([math.cos(pitch), 0, math.sin(pitch)])
        sole = ankle - 0.012 * tall * _UP
        builder.add(sole - 0.042 * tall * toe, sole + 0.118 * tall * toe, 0.030 * tall, flat=0.85, front=_UP)


def _add_arms(builder: _Builder, arms: list[tuple[Reals, Reals, Reals]], shape: Shape) -> None:
    tall, thick = shape.height_m, shape.height_m * shape.build
    for top, _, _ in arms:
        builder.add(top - 0.036 * tall * _UP, top + 0.032 * tall * _UP, 0.034 * thick)
    for top, elbow, _ in arms:
        builder.add(top, elbow, 0.031 * thick, tip=0.72)
    for _, elbow, _ in arms:
        builder.add(elbow - 0.022 * tall * _UP, elbow + 0.022 * tall * _UP, 0.0215 * thick)
    for _, elbow, wrist in arms:
        builder.add(elbow, wrist, 0.0225 * thick, tip=0.66)
    for _, elbow, wrist in arms:
        way = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        builder.add(wrist - 0.01 * tall * way, wrist + 0.085 * tall * way, 0.022 * tall, flat=0.6)
