"""One picture of a sample match: hall, shadows, people from far to near, motion blur, the light of the day, noise."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.srgb import LEVEL_OF_LINEAR, to_linear
from lightmill.sample.match_body import Moment, Parts, Shape, pose
from lightmill.sample.match_camera import Camera, Reals
from lightmill.sample.match_court import Hall, Levels, Piece, hoops
from lightmill.sample.match_looks import Look
from lightmill.sample.match_paint import paint_of
from lightmill.sample.match_raster import STEPS, Box, Floats, Lamps, Paint, Sprite, draw

_SHADOW, _SHADOW_M, _SHADOW_REACH = 0.5, 0.3, 2.2  # depth; radius; of its soft edge, in radii
_SHOULDER = 0.8  # of linear light: above it highlights roll off
_BALL_M = 0.122
_BALL_COLOUR = (0.52, 0.17, 0.045)  # linear
_SMALL_PX, _LARGE_PX = 70, 400  # bodies below get three samples a side of a pixel, above one, between two


@dataclass(frozen=True)
class Person:
    """A look made ready to draw."""

    shape: Shape
    paint: Paint

    @classmethod
    def of(cls, look: Look) -> "Person":
        """Paint its surfaces."""
        return cls(look.shape, paint_of(look))


@dataclass(frozen=True)
class Light:
    """What the hall's light and the camera's settings make of colours: they change by quarter and session."""

    lamps: Lamps
    exposure: float  # 1: as painted
    warmth: float  # of white: above 0 red, below 0 blue
    contrast: float
    shutter_s: float
    noise: float  # standard deviation, levels

    @classmethod
    def of(cls, quarter: np.random.Generator, session: np.random.Generator) -> "Light":
        """Mostly the quarter's, a little the session's."""

        def drawn(wide: float) -> float:
            return float(quarter.normal(0, wide) + session.normal(0, 0.35 * wide))

        turn = float(quarter.uniform(0, 2 * math.pi))
        towards = np.array([[0.5 * math.cos(turn + k), 0.5 * math.sin(turn + k), 0.86] for k in (0.0, 2.3)], np.float32)
        lamps = Lamps(towards.T.copy(), np.array([0.42, 0.26], np.float32), 0.66, 0.30)
        return cls(
            lamps=lamps,
            exposure=2 ** float(np.clip(drawn(0.38), -0.9, 0.6)),
            warmth=float(np.clip(drawn(0.1), -0.24, 0.24)),
            contrast=1 + float(np.clip(drawn(0.06), -0.14, 0.14)),
            shutter_s=1 / float(session.uniform(90, 220)),
            noise=float(session.uniform(1.5, 4.0)),
        )

    def curves(self, steps: Floats) -> Levels:
        """[3, N] the levels that linear light 0..1 [N] becomes, per channel."""
        gains = self.exposure * np.array([[1 + self.warmth], [1.0], [1 - self.warmth]])
        lit = gains * steps.astype(np.float64) ** self.contrast
        soft = np.where(
            lit < _SHOULDER, lit, _SHOULDER + (1 - _SHOULDER) * np.tanh((lit - _SHOULDER) / (1 - _SHOULDER))
        )
        return np.asarray(LEVEL_OF_LINEAR.take(np.rint(np.clip(soft, 0, 1) * 65535).astype(int)), np.uint8)


class Seen(NamedTuple):
    """Where a person is in a picture."""

    person: int  # its place in the list of people
    box: Box  # px: left, top, right, bottom of the whole body, also of what is hidden or outside the picture
    visible: float  # share of its pixels that are in the picture with nobody before them


class Shot:
    """One camera in one session: what stands still is drawn once."""

    def __init__(self, camera: Camera, *, light: Light, hall: Hall) -> None:
        self.camera, self._light = camera, light
        self._curve = light.curves(np.linspace(0, 1, STEPS, dtype=np.float32))
        levels = light.curves(to_linear(np.arange(256, dtype=np.uint8)))
        self._behind = np.asarray(cv2.LUT(hall.seen(camera), np.ascontiguousarray(levels.T[None])), np.uint8)
        self._hoops = hoops(camera, levels)
        run = np.resize(_NOISE, _NOISE.size + _RUN) * np.float32(light.noise)
        self._grain = np.clip(np.rint(run), -127, 127).astype(np.int8)

    def frame(
        self,
        people: list[tuple[Person, Moment]],
        ball: tuple[float, float, float] | None,
        *,
        rng: np.random.Generator,
    ) -> tuple[Levels, list[Seen]]:
        """[H, W, 3] sRGB, and where each of the people is, in their order; those out of sight are left out."""
        picture = self._behind.copy()
        owner = np.full(picture.shape[:2], -1, np.int16)
        for _, moment in people:
            self._shade(picture, moment.at)
        drawn = [(i, *self._sprite(pose(moment, person.shape), person.paint, moment)) for i, (person, moment)
                 in enumerate(people)]  # fmt: skip
        layers: list[tuple[float, int, Sprite | Piece]] = [
            (depth, i, sprite) for i, depth, sprite in drawn if sprite is not None
        ]
        layers += [(piece.depth, len(people), piece) for piece in self._hoops]
        if ball is not None:
            depth, sprite = self._sprite(_ball(ball), _BALL_PAINT, None)
            layers += [] if sprite is None else [(depth, len(people), sprite)]
        areas: dict[int, tuple[Box, int]] = {}
        for _, i, layer in sorted(layers, key=lambda each: -each[0]):
            if isinstance(layer, Piece):
                _put_piece(picture, owner, layer, i)
            else:
                areas[i] = layer.box, _put(picture, owner, layer, i)
        left = np.bincount(owner[owner >= 0], minlength=len(people) + 1)
        seen = [
            Seen(i, box, float(left[i]) / max(area, 1)) for i, (box, area) in sorted(areas.items()) if i < len(people)
        ]
        return self._finished(picture, rng), seen

    def _sprite(self, parts: Parts, paint: Paint, moment: Moment | None) -> tuple[float, Sprite | None]:
        places, depth = self.camera.project(parts.centre)
        if depth.min() < 1:
            return 0.0, None
        tall = float(np.ptp(places[:, 1])) if len(places) > 1 else 20.0
        samples = 3 if tall < _SMALL_PX else 2 if tall < _LARGE_PX else 1
        sprite = draw(parts, paint, camera=self.camera, lamps=self._light.lamps, curve=self._curve, samples=samples)
        distance = float(np.linalg.norm(parts.centre.mean(axis=0) - self.camera.eye))
        if sprite is None or moment is None:
            return distance, sprite
        step = self.camera.slopes(parts.centre[:1])[0, :2, :2] @ np.array(moment.velocity)
        return distance, _moved(sprite, step * self._light.shutter_s)

    def _shade(self, picture: Levels, at: tuple[float, float]) -> None:
        """Darken the floor beneath a body, softly."""
        under = np.array([[at[0], at[1], 0.0]])
        places, depth = self.camera.project(under)
        if depth[0] < 1:
            return
        floor_from_px = np.linalg.inv(self.camera.slopes(under)[0, :2, :2]) / _SHADOW_M
        reach = _SHADOW_REACH * np.linalg.norm(np.linalg.inv(floor_from_px), axis=1)
        low, high = np.floor(places[0] - reach).astype(int), np.ceil(places[0] + reach).astype(int)
        into, _ = _overlap(picture.shape, int(low[0]), int(low[1]), (int(high[1] - low[1]), int(high[0] - low[0])))
        x = (np.arange(into[1].start, into[1].stop) + 0.5 - places[0, 0]).astype(np.float32)
        y = (np.arange(into[0].start, into[0].stop) + 0.5 - places[0, 1]).astype(np.float32)[:, None]
        (ax, ay), (bx, by) = floor_from_px.astype(np.float32)
        far = (ax * x + ay * y) ** 2 + (bx * x + by * y) ** 2
        lit = 1 - np.float32(_SHADOW) * np.maximum(1 - far / np.float32(_SHADOW_REACH**2), 0) ** 2
        picture[into] = (picture[into] * lit[..., None]).astype(np.uint8)

    def _finished(self, picture: Levels, rng: np.random.Generator) -> Levels:
        samples = picture.reshape(-1)
        starts = range(0, samples.size, _RUN)
        for at, start in zip(starts, rng.integers(_NOISE.size, size=len(starts)), strict=True):
            some = samples[at : at + _RUN]
            cv2.add(some, self._grain[start : start + some.size], some, dtype=cv2.CV_8U)
        return picture


def _overlap(
    shape: tuple[int, ...], left: int, top: int, size_hw: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where something lies in a picture, and which part of it does."""
    y0, y1 = max(top, 0), min(top + size_hw[0], shape[0])
    x0, x1 = max(left, 0), min(left + size_hw[1], shape[1])
    y1, x1 = max(y0, y1), max(x0, x1)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _put(picture: Levels, owner: NDArray[np.int16], sprite: Sprite, index: int) -> int:
    """Lay a sprite over a picture; returns its area in px, of what is outside too."""
    into, of = _overlap(picture.shape, sprite.left, sprite.top, sprite.levels.shape)
    layer = sprite.levels[of]
    clear = layer[..., 3:] * np.float32(-1 / 255) + np.float32(1)
    mixed = picture[into] * clear
    mixed += layer[..., :3]
    picture[into] = np.minimum(mixed + np.float32(0.5), 255)
    owner[into][layer[..., 3] > 127] = index
    return int(np.count_nonzero(sprite.levels[..., 3] > 127))


def _put_piece(picture: Levels, owner: NDArray[np.int16], piece: Piece, index: int) -> None:
    for corners, colour in piece.polygons:
        cv2.fillPoly(picture, [corners], colour, cv2.LINE_AA, 4)
        cv2.fillPoly(owner, [corners], index, cv2.LINE_8, 4)


def _moved(sprite: Sprite, step: Reals) -> Sprite:
    """Blurred along its way in px while the shutter is open; the box stays that of the body itself."""
    length = float(np.hypot(*step))
    if length < 0.6:
        return sprite
    half = math.ceil(length / 2)
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 8 * half + 1):
        x, y = half + share * step[0], half + share * step[1]
        for row, column in ((math.floor(y), math.floor(x)), (math.ceil(y), math.ceil(x))):
            kernel[row, column] += 1
    kernel /= kernel.sum()
    wide = cv2.copyMakeBorder(sprite.levels, half, half, half, half, cv2.BORDER_CONSTANT, value=0)
    levels = np.asarray(cv2.filter2D(wide, -1, kernel, borderType=cv2.BORDER_CONSTANT), np.uint8)
    return Sprite(sprite.left - half, sprite.top - half, levels, sprite.box)


_RUN = 49_999  # samples that get noise in one go
_NOISE: Floats = np.random.default_rng(0x6E6F69).standard_normal(1 << 16).astype(np.float32)


def _ball(at: tuple[float, float, float]) -> Parts:
    one = np.ones(1)
    return Parts(np.array([at]), np.eye(3)[None] * _BALL_M, 0 * one, np.array([True]), -2 * one, 2 * one)


_BALL_PAINT = Paint.of([np.full((4, 4, 3), _BALL_COLOUR, np.float32)])
