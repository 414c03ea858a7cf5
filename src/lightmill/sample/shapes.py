"""The solids that the sample scene is made of: where a ray meets them, how far they are, how they are unrolled.

World axes are a camera's: x right, y down, z forward, in metres; the ground is y = 0. Points and rays are float32
[3, N], rays of length 1 without a component that is 0 exactly; a [3, 1] origin or ray stands for all N.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from lightmill.sample.finish import Finish, Floats

Point: TypeAlias = tuple[float, float, float]


class Chart(NamedTuple):
    """A surface unrolled: where each point lies on it, and how much each axis runs along the ray that met it."""

    u: Floats  # [N] metres
    v: Floats  # [N] metres
    tilt_u: Floats  # [N] 0: across the ray, 1: along it
    tilt_v: Floats  # [N]


class Solid(Protocol):
    """One closed shape with one finish."""

    @property
    def finish(self) -> Finish:
        """What its surface looks like."""
        ...

    @property
    def bound(self) -> tuple[Floats, Floats]:
        """Centre and half size, [3, 1] each, of the box along the axes around it."""
        ...

    def reach(self, origin: Floats, ray: Floats) -> Floats:
        """[N] distance from an origin outside to the first meeting, inf where there is none."""
        ...

    def gap(self, point: Floats) -> Floats:
        """[N] distance to the surface, at most 0 inside."""
        ...

    def normal(self, point: Floats) -> Floats:
        """[3, N] unit normal, outward, at points of the surface."""
        ...

    def chart(self, point: Floats, ray: Floats, normal: Floats) -> Chart:
        """The surface unrolled at these points."""
        ...


def dot(a: Floats, b: Floats) -> Floats:
    """Of [3, N] with [3, N] or [3, 1]: [N]."""
    total: Floats = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def largest(a: Floats) -> Floats:
    """[N] the largest of each point's three numbers; `a.max(axis=0)` is ten times slower."""
    most: Floats = np.maximum(np.maximum(a[0], a[1]), a[2])
    return most


def column(point: Point) -> Floats:
    """A point as a [3, 1] column."""
    return np.array(point, np.float32)[:, None]


def _reach_ball(centre: Floats, radius: float, origin: Floats, ray: Floats) -> Floats:
    # from the foot of the perpendicular: the textbook discriminant loses half of float32's digits on small far balls
    towards = centre - origin
    along = dot(ray, towards)
    off = towards - along * ray
    room = radius**2 - dot(off, off)
    t = along - np.sqrt(np.maximum(room, 0))
    return np.where((room > 0) & (t > 0), t, np.inf)


@dataclass(frozen=True)
class Ball:
    """A sphere."""

    finish: Finish
    at: Point
    radius: float

    @cached_property
    def bound(self) -> tuple[Floats, Floats]:
        return column(self.at), np.full((3, 1), self.radius, np.float32)

    def reach(self, origin: Floats, ray: Floats) -> Floats:
        return _reach_ball(self.bound[0], self.radius, origin, ray)

    def gap(self, point: Floats) -> Floats:
        off = point - self.bound[0]
        return np.sqrt(dot(off, off)) - self.radius

    def normal(self, point: Floats) -> Floats:
        return (point - self.bound[0]) / self.radius

    def chart(self, point: Floats, ray: Floats, normal: Floats) -> Chart:  # noqa: ARG002 (the protocol's)
        latitude = np.arcsin(np.clip(normal[1], -1, 1))
        half = np.full_like(latitude, 0.7)
        narrowing = np.minimum(1 / np.maximum(np.cos(latitude), 0.05), 20)  # meridians close in on the poles
        return Chart(np.arctan2(normal[0], normal[2]) * self.radius, latitude * self.radius, half * narrowing, half)


@dataclass(frozen=True)
class Capsule:
    """All that is within `radius` of the line between two points."""

    finish: Finish
    start: Point
    end: Point
    radius: float

    @cached_property
    def _frame(self) -> tuple[Floats, Floats, Floats, Floats, float]:
        """Start, axis and two directions across it, each [3, 1], and the length."""
        start, along = column(self.start), column(self.end) - column(self.start)
        length = float(np.linalg.norm(along))
        axis = along / length
        helper = column((1, 0, 0)) if abs(axis[0, 0]) < 0.7 else column((0, 0, 1))
        across = np.cross(axis, helper, axis=0)
        across /= np.linalg.norm(across)
        return start, axis, across, np.cross(axis, across, axis=0), length

    @cached_property
    def bound(self) -> tuple[Floats, Floats]:
        start, end = column(self.start), column(self.end)
        return (start + end) / 2, np.abs(end - start) / 2 + self.radius

    def reach(self, origin: Floats, ray: Floats) -> Floats:
        start, axis, _, _, length = self._frame
        from_start = origin - start
        ray_along, origin_along = dot(ray, axis), dot(from_start, axis)
        ray_across, origin_across = ray - ray_along * axis, from_start - origin_along * axis
        steep = np.maximum(dot(ray_across, ray_across), 1e-12)
        foot = -dot(ray_across, origin_across) / steep
        off = origin_across + foot * ray_across
        room = self.radius**2 - dot(off, off)
        t = foot - np.sqrt(np.maximum(room, 0) / steep)
        height = origin_along + t * ray_along
        reach = np.where((room > 0) & (t > 0) & (height >= 0) & (height <= length), t, np.inf)
        if not np.any(room > 0):
            return reach
        for cap in (start, start + axis * length):
            np.minimum(reach, _reach_ball(cap, self.radius, origin, ray), out=reach)
        return reach

    def _from_axis(self, point: Floats) -> Floats:
        start, axis, _, _, length = self._frame
        off = point - start
        return off - np.clip(dot(off, axis), 0, length) * axis

    def gap(self, point: Floats) -> Floats:
        off = self._from_axis(point)
        return np.sqrt(dot(off, off)) - self.radius

    def normal(self, point: Floats) -> Floats:
        return self._from_axis(point) / self.radius

    def chart(self, point: Floats, ray: Floats, normal: Floats) -> Chart:  # noqa: ARG002 (the protocol's)
        start, axis, across, beside, _ = self._frame
        half = np.full_like(normal[0], 0.7)
        around = np.arctan2(dot(normal, across), dot(normal, beside))
        return Chart(around * self.radius, dot(point - start, axis), half, half)


@dataclass(frozen=True)
class Box:
    """A box along the axes; `low` holds the smaller number of each axis, so its y is the top."""

    finish: Finish
    low: Point
    high: Point

    @cached_property
    def bound(self) -> tuple[Floats, Floats]:
        low, high = column(self.low), column(self.high)
        return (low + high) / 2, (high - low) / 2

    def reach(self, origin: Floats, ray: Floats) -> Floats:
        centre, half = self.bound
        inverse = 1 / ray
        to_middle, to_side = (centre - origin) * inverse, half * np.abs(inverse)
        enter, leave = largest(to_middle - to_side), -largest(-to_middle - to_side)
        return np.where((enter < leave) & (enter > 0), enter, np.inf)

    def gap(self, point: Floats) -> Floats:
        centre, half = self.bound
        off = np.abs(point - centre) - half
        outside = np.maximum(off, 0)
        return np.sqrt(dot(outside, outside)) + np.minimum(largest(off), 0)

    def normal(self, point: Floats) -> Floats:
        centre, half = self.bound
        off = (point - centre) / half
        face = np.abs(off).argmax(axis=0)
        normal = np.zeros_like(off)
        lanes = np.arange(off.shape[1])
        normal[face, lanes] = np.sign(off[face, lanes])
        return normal

    def chart(self, point: Floats, ray: Floats, normal: Floats) -> Chart:
        lies, faces_x = normal[1] != 0, normal[0] != 0
        u, tilt_u = (np.where(faces_x, of[2], of[0]) for of in (point, ray))
        v, tilt_v = (np.where(lies, of[2], of[1]) for of in (point, ray))
        return Chart(u, v, np.abs(tilt_u), np.abs(tilt_v))
