"""Figures that are made of ellipsoids and turned shapes: what sample portraits show.

x right, y up, z towards the viewer, who looks along parallel rays; the origin is the picture's middle, and the unit its
shorter side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightmill.sample.finish import Colour, Finish, Floats, Noise, reflectance

_SKIN: tuple[Colour, ...] = ((0.62, 0.38, 0.27), (0.50, 0.28, 0.18), (0.30, 0.15, 0.09), (0.16, 0.075, 0.045))
_HAIR: tuple[Colour, ...] = ((0.03, 0.02, 0.015), (0.12, 0.06, 0.03), (0.42, 0.27, 0.10), (0.40, 0.38, 0.36))
_CLOTH: tuple[Colour, ...] = (
    (0.55, 0.08, 0.06), (0.05, 0.12, 0.32), (0.03, 0.03, 0.035), (0.68, 0.66, 0.62),
    (0.60, 0.40, 0.06), (0.06, 0.25, 0.14),
)  # fmt: skip
_FUR: tuple[Colour, ...] = ((0.48, 0.22, 0.07), (0.06, 0.05, 0.05), (0.62, 0.58, 0.52), (0.22, 0.20, 0.19))
_GLAZE: tuple[Colour, ...] = ((0.05, 0.16, 0.36), (0.62, 0.57, 0.45), (0.40, 0.10, 0.05), (0.04, 0.22, 0.10))
_DARK: Colour = (0.02, 0.015, 0.012)


class Solid(Protocol):
    """A closed shape, as parallel rays see it."""

    @property
    def bound(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top."""
        ...

    def top(self, x: Floats, y: Floats) -> Floats:
        """[N] z of its surface, -inf beside it."""
        ...

    def normal(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """[3, N] outward, of any length, at points of its surface."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned by `roll` about z: counter-clockwise, radians."""

    at: tuple[float, float, float]
    radii: tuple[float, float, float]
    roll: float = 0.0

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    @cached_property
    def _form(self) -> NDArray[np.float64]:
        """[3, 3] Q of the surface p Q p = 1."""
        return np.asarray(self._axes @ np.diag(np.array(self.radii) ** -2.0) @ self._axes.T)

    @cached_property
    def bound(self) -> tuple[float, float, float, float]:
        reach = np.sqrt(np.diag(self._axes @ np.diag(np.array(self.radii) ** 2) @ self._axes.T))
        return self.at[0] - reach[0], self.at[0] + reach[0], self.at[1] - reach[1], self.at[1] + reach[1]

    def top(self, x: Floats, y: Floats) -> Floats:
        (xx, xy, _), (_, yy, _), (_, _, zz) = self._form.tolist()
        x, y = x - self.at[0], y - self.at[1]
        room = (1 - xx * x * x - 2 * xy * x * y - yy * y * y) / zz
        return np.where(room >= 0, np.sqrt(np.maximum(room, 0)) + self.at[2], -np.inf).astype(np.float32)

    def normal(self, x: Floats, y: Floats, z: Floats) -> Floats:
        off = np.stack([x - self.at[0], y - self.at[1], z - self.at[2]])
        normal: Floats = self._form.astype(np.float32) @ off
        return normal


@dataclass(frozen=True)
class Turned:
    """What comes off a lathe: radii at even steps up an axis, joined by one polynomial; flat at both ends.

    The axis lies across the view and leans by `roll` about z: counter-clockwise, radians.
    """

    at: tuple[float, float, float]  # the foot of the axis
    length: float
    radii: tuple[float, ...]
    roll: float = 0.0

    @cached_property
    def _profile(self) -> tuple[Floats, Floats]:
        """Radius, and its change with the way up the axis, at 1025 places."""
        fit = np.polynomial.Polynomial.fit(np.linspace(0, 1, len(self.radii)), self.radii, len(self.radii) - 1)
        up = np.linspace(0, 1, 1025)
        return np.maximum(fit(up), 1e-4).astype(np.float32), (fit.deriv()(up) / self.length).astype(np.float32)

    @cached_property
    def bound(self) -> tuple[float, float, float, float]:
        widest = float(self._profile[0].max())
        tip_x = self.at[0] - math.sin(self.roll) * self.length
        tip_y = self.at[1] + math.cos(self.roll) * self.length
        (left, right), (low, high) = sorted((self.at[0], tip_x)), sorted((self.at[1], tip_y))
        return left - widest, right + widest, low - widest, high + widest

    def _in_frame(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Across the axis, and up it as a share of its length."""
        c, s = math.cos(self.roll), math.sin(self.roll)
        x, y = x - self.at[0], y - self.at[1]
        return c * x + s * y, (c * y - s * x) / self.length

    def _at(self, values: Floats, up: Floats) -> Floats:
        place = np.clip(up, 0, 1) * (len(values) - 1)
        low = np.minimum(place.astype(np.int32), len(values) - 2)
        between: Floats = values[low] + (place - low) * (values[low + 1] - values[low])
        return between.astype(np.float32)

    def top(self, x: Floats, y: Floats) -> Floats:
        across, up = self._in_frame(x, y)
        room = self._at(self._profile[0], up) ** 2 - across * across
        inside = (room >= 0) & (up >= 0) & (up <= 1)
        return np.where(inside, np.sqrt(np.maximum(room, 0)) + self.at[2], -np.inf).astype(np.float32)

    def normal(self, x: Floats, y: Floats, z: Floats) -> Floats:
        across, up = self._in_frame(x, y)
        along = -self._at(self._profile[0], up) * self._at(self._profile[1], up)
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.stack([c * across - s * along, s * across + c * along, z - self.at[2]])


@dataclass(frozen=True)
class Part:
    """A shape and its surface."""

    solid: Solid
    colour: Colour
    grain: float = 0.04
    other: Colour | None = None  # of stripes across the picture
    stripe: float = 0.05  # of two stripes

    def albedo(self, x: Floats, y: Floats, noise: Noise, pixel: float) -> Floats:
        """[3, N] linear reflectance."""
        finish = Finish(colour=self.colour, grain=self.grain, grain_m=0.7)
        if self.other is not None:
            finish = Finish(
                colour=self.colour, line=self.other, cell_m=(1e3, self.stripe), line_m=self.stripe / 3, grain=self.grain
            )
            x = x + 500  # away from the line between two cells
        wide = np.full_like(x, pixel)
        return np.clip(reflectance(finish, u=x, v=y, wide_u=wide, wide_v=wide, noise=noise), 0, 0.9)


def one_of(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """A colour of a palette, a little lighter or darker."""
    chosen = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.8, 1.2)
    return float(chosen[0]), float(chosen[1]), float(chosen[2])


def _face(right: float, up: float) -> float:
    """How far ahead the face is there, in half heads."""
    return 0.85 * math.sqrt(1 - (right / 0.74) ** 2 - up**2)


def _person(rng: np.random.Generator, half_height: float) -> Iterator[Part]:
    """Head and shoulders; the body goes on below the picture."""
    s = rng.uniform(0.125, 0.2)  # half a head
    x, y = rng.uniform(-0.12, 0.12), half_height - rng.uniform(1.35, 1.9) * s
    roll, look = rng.uniform(-0.15, 0.15), rng.uniform(-0.25, 0.25)
    skin, hair, cloth = one_of(rng, _SKIN), one_of(rng, _HAIR), one_of(rng, _CLOTH)
    stripes = one_of(rng, _CLOTH) if rng.random() < 0.3 else None

    def head(
        right: float, up: float, ahead: float, radii: tuple[float, float, float], colour: Colour, grain: float = 0.03
    ) -> Part:
        c, sn = math.cos(roll), math.sin(roll)
        at = (x + s * (c * right - sn * up), y + s * (sn * right + c * up), s * ahead)
        return Part(Ellipsoid(at, (s * radii[0], s * radii[1], s * radii[2]), roll=roll), colour, grain)

    def body(right: float, down: float, ahead: float, radii: tuple[float, float, float], lean: float = 0.0) -> Part:
        at = (x + s * right, y - s * down, s * ahead)
        solid = Ellipsoid(at, (s * radii[0], s * radii[1], s * radii[2]), roll=lean)
        return Part(solid, cloth, 0.06, stripes, stripe=0.35 * s)

    yield head(0, 0, 0, (0.74, 1.0, 0.85), skin)
    yield head(look, -0.1, _face(look, -0.1), (0.13, 0.26, 0.2), skin)
    for side in (-1, 1):
        yield head(0.76 * side + 0.1 * look, -0.05, -0.1, (0.12, 0.24, 0.15), skin)
        eye = 0.3 * side + look
        yield head(eye, 0.12, _face(eye, 0.12), (0.12, 0.08, 0.06), _DARK)
        yield head(eye, 0.32, _face(eye, 0.32), (0.18, 0.04, 0.08), hair)
    yield head(look, -0.5, _face(look, -0.5), (0.24, 0.07, 0.06), (skin[0], 0.45 * skin[1], 0.5 * skin[2]))
    style = rng.integers(4)  # 0: bald
    if style:
        yield head(0, 0.2, -0.35, (0.9, 1.0, 0.85), hair, 0.2)
        yield head(0.1 * style - 0.2, 0.72, 0.15, (0.74, 0.42, 0.8), hair, 0.2)
    if style == 3:  # long
        for side in (-1, 1):
            yield head(0.7 * side, -0.6, -0.3, (0.34, 1.15, 0.4), hair, 0.2)
    yield Part(Turned((x, y - 1.8 * s, -0.3 * s), 1.4 * s, (0.62 * s, 0.42 * s, 0.42 * s)), skin)
    tall = max(2.6, 0.75 * ((y + half_height) / s - 1.2))  # half the body: wide still where the picture ends
    yield body(0, 1.2 + tall, -0.4, (1.75, tall, 0.9))
    for side in (-1, 1):
        yield body(1.05 * side, 2.15, -0.4, (1.05, 0.62, 0.65), lean=-0.35 * side)
        yield body(1.85 * side, 1.9 + tall, -0.3, (0.5, tall, 0.55), lean=0.05 * side)


def _animal(rng: np.random.Generator, half_height: float) -> Iterator[Part]:
    """Something like a cat that sits and looks here."""
    s = rng.uniform(0.12, 0.17)
    x, y = rng.uniform(-0.15, 0.15), half_height - rng.uniform(1.9, 2.4) * s
    fur, belly = one_of(rng, _FUR), one_of(rng, _FUR)
    tilt = rng.uniform(-0.2, 0.2)

    def part(
        right: float, up: float, ahead: float, radii: tuple[float, float, float], colour: Colour, roll: float = 0.0
    ) -> Part:
        at = (x + s * right, y + s * up, s * ahead)
        return Part(Ellipsoid(at, (s * radii[0], s * radii[1], s * radii[2]), roll=roll), colour, 0.15)

    yield part(0, 0, 0.4, (1.05, 0.88, 0.9), fur, tilt)
    yield part(0, -0.28, 1.05, (0.42, 0.32, 0.4), belly)
    yield part(0, -0.15, 1.45, (0.12, 0.08, 0.08), _DARK)
    for side in (-1, 1):
        yield part(0.68 * side, 0.85 + 0.68 * side * tilt, 0.2, (0.3, 0.62, 0.2), fur, -0.35 * side + tilt)
        yield part(0.4 * side, 0.15, 1.1, (0.16, 0.18, 0.14), _DARK)
        yield part(0.55 * side, -3.1, 0.75, (0.36, 1.25, 0.4), fur)
        yield part(0.6 * side, -4.2, 1.0, (0.45, 0.28, 0.5), belly)
    yield part(0, -2.5, 0, (1.25, 1.95, 1.0), fur)
    yield part(1.5, -3.9, -0.2, (1.1, 0.26, 0.3), fur, 0.5)


def _standing(rng: np.random.Generator, half_height: float) -> tuple[float, float]:
    """x and y of the foot of what stands on a table."""
    return rng.uniform(-0.15, 0.15), -half_height + rng.uniform(0.08, 0.14)


def _vase(rng: np.random.Generator, half_height: float) -> Iterator[Part]:
    """A vase, with fruit beside it now and then."""
    x, y = _standing(rng, half_height)
    wide, length = rng.uniform(0.13, 0.22), half_height * rng.uniform(0.9, 1.4)
    radii = tuple(wide * share for share in (0.55, rng.uniform(0.8, 1.1), 1.0, rng.uniform(0.3, 0.6), 0.5))
    glaze = one_of(rng, _GLAZE)
    band = one_of(rng, _GLAZE) if rng.random() < 0.5 else None
    yield Part(Turned((x, y, 0), length, radii), glaze, 0.05, band, stripe=length / 4)
    yield Part(Ellipsoid((x, y, 0), (radii[0], 0.25 * radii[0], radii[0])), glaze, 0.05)
    if rng.random() < 0.5:
        for side in (-1, 1):
            r = rng.uniform(0.06, 0.09)
            yield Part(Ellipsoid((x + side * (wide + 0.5 * r), y - 0.02, 0.3), (r, r, r)), (0.6, 0.16, 0.03), 0.08)


def _bottle(rng: np.random.Generator, half_height: float) -> Iterator[Part]:
    """A bottle with a label and a cork."""
    x, y = _standing(rng, half_height)
    wide, length = rng.uniform(0.08, 0.13), half_height * rng.uniform(0.7, 0.85)
    glass, neck = one_of(rng, _GLAZE), 0.35 * wide
    yield Part(Turned((x, y, 0), length, (wide, wide)), glass, 0.03)
    yield Part(Ellipsoid((x, y, 0), (wide, 0.25 * wide, wide)), glass, 0.03)
    yield Part(Ellipsoid((x, y + length, 0), (wide, 1.3 * wide, wide)), glass, 0.03)
    yield Part(Turned((x, y + length, 0), 0.55 * length, (neck, neck)), glass, 0.03)
    yield Part(Turned((x, y + 1.5 * length, 0), 0.1 * length, (0.9 * neck, 0.8 * neck)), (0.4, 0.26, 0.13), 0.2)
    yield Part(Turned((x, y + 0.3 * length, 0), 0.45 * length, (1.01 * wide, 1.01 * wide)), (0.62, 0.58, 0.48), 0.05)


FIGURES: dict[str, Callable[[np.random.Generator, float], Iterator[Part]]] = {
    "person": _person, "animal": _animal, "vase": _vase, "bottle": _bottle,
}  # fmt: skip
