"""The sample scene: light, sky, and what a ray meets.

Colours are linear, sRGB primaries; the sun lights Lambert surfaces and throws hard shadows, the sky and the ground
light the rest, less of it in corners. No reflections: a place looks the same from everywhere but for a little haze.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.sample.courtyard import FIRST_OTHER, GROUND, PAVING, PERSON, SKY, courtyard, person
from lightmill.sample.finish import Floats, Noise, noise_of, reflectance
from lightmill.sample.shapes import Chart, Solid, column, dot

_HORIZON_M = 1e4  # where the ground ends
_BLOCK = 1 << 14  # rays at a time: their arrays stay in the cache
_SUN_YAW, _SUN_HEIGHT = math.radians(-128), math.radians(43)
_SUN = column((
    math.cos(_SUN_HEIGHT) * math.sin(_SUN_YAW), -math.sin(_SUN_HEIGHT), math.cos(_SUN_HEIGHT) * math.cos(_SUN_YAW)
))  # fmt: skip
_SUNLIGHT, _SKYLIGHT, _BOUNCE = column((1.38, 1.20, 0.94)), column((0.30, 0.37, 0.50)), column((0.21, 0.17, 0.13))
_ZENITH, _HORIZON, _CLOUD = column((0.07, 0.20, 0.56)), column((0.50, 0.66, 0.84)), column((0.94, 0.93, 0.91))
_HILL, _GLOW = column((0.17, 0.25, 0.30)), column((1.0, 0.85, 0.6))
_CORNER_M = ((0.15, 0.40), (0.6, 0.55))  # how far corners darken, and how much of it each distance makes


@dataclass(frozen=True)
class Scene:
    """A courtyard; the seed decides the grain of its surfaces and the clouds."""

    seed: int = 1


@dataclass(frozen=True)
class Hits:
    """What rays [..., 3] meet."""

    rgb: Floats  # [..., 3] linear light, sRGB primaries; 1 is the white of an 8-bit picture
    depth: Floats  # [...] metres along the ray, inf for the sky
    object_id: NDArray[np.int16]  # [...] SKY, GROUND, PERSON, or FIRST_OTHER and more
    normal: Floats  # [..., 3] unit, outward, in the world; 0 for the sky


@dataclass(frozen=True)
class _World:
    """The solids of one moment, with the boxes around them."""

    solids: tuple[Solid, ...]
    object_ids: tuple[int, ...]
    centres: Floats  # [3, M]
    halves: Floats  # [3, M]


@lru_cache(maxsize=32)
def _world(time_s: float) -> _World:
    standing, walking = courtyard(), tuple(person(time_s))
    solids = standing + walking
    ids = (*range(FIRST_OTHER, FIRST_OTHER + len(standing)), *[PERSON] * len(walking))
    bounds = [solid.bound for solid in solids]
    centres, halves = (np.concatenate(each, axis=1) for each in zip(*bounds, strict=True))
    return _World(solids, ids, centres, halves)


def trace(
    scene: Scene, rays_in_world: ArrayLike, centre: ArrayLike, time_s: float, *, pixel_angle: float = 0.0
) -> Hits:
    """What rays from one point meet at one moment.

    rays_in_world [..., 3]: any length but 0. centre [3]: outside of every solid, above the ground (y < 0).
    pixel_angle: how wide a ray is, in radians; textures are averaged over it. Neighbouring rays are best given
    together: what lies outside of the cone around them is not tried.
    """
    rays = np.asarray(rays_in_world, np.float64)
    shape = rays.shape[:-1]
    flat = np.ascontiguousarray(rays.reshape(-1, 3).T)
    flat = (flat / np.sqrt(dot(flat, flat))).astype(np.float32)
    flat[flat == 0] = 1e-30  # so that slabs never divide by 0
    origin = np.asarray(centre, np.float32).reshape(3, 1)
    rgb, normal = np.empty_like(flat), np.zeros_like(flat)
    depth, object_id = np.empty(flat.shape[1], np.float32), np.empty(flat.shape[1], np.int16)
    world = _world(time_s)
    for begin in range(0, flat.shape[1], _BLOCK):
        block = slice(begin, begin + _BLOCK)
        ray = np.ascontiguousarray(flat[:, block])
        depth[block], winner = _first(world, origin, ray)
        ids = np.array([*world.object_ids, GROUND, SKY], np.int16)
        object_id[block] = ids[winner]
        rgb[:, block], normal[:, block] = _look(scene, world, origin, ray, depth[block], winner, pixel_angle)
    return Hits(
        rgb.T.reshape(*shape, 3), depth.reshape(shape), object_id.reshape(shape), normal.T.reshape(*shape, 3)
    )  # fmt: skip


def _in_sight(world: _World, origin: Floats, ray: Floats) -> NDArray[np.intp]:
    """Indices of the solids that these rays may meet: some t > 0 and some ray between the least and the greatest do."""
    least, greatest = ray.min(axis=1, keepdims=True), ray.max(axis=1, keepdims=True)
    middle = world.centres - origin
    to_low, to_high = (middle - world.halves) / greatest, (middle + world.halves) / least
    start = np.maximum(np.where(greatest > 0, to_low, 0), np.where(least < 0, to_high, 0))
    stop = np.minimum(np.where(greatest < 0, to_low, np.inf), np.where(least > 0, to_high, np.inf))
    return np.flatnonzero(np.maximum(start.max(axis=0), 0) <= stop.min(axis=0))


def _first(world: _World, origin: Floats, ray: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Depth [N], and which solid it is [N]: an index, or one more for the ground, or two more for the sky."""
    ground, sky = len(world.solids), len(world.solids) + 1
    falling = ray[1] * _HORIZON_M > -origin[1]
    depth = np.where(falling, -origin[1] / np.where(falling, ray[1], 1), np.inf).astype(np.float32)
    winner = np.where(falling, ground, sky)
    for i in _in_sight(world, origin, ray):
        reach = world.solids[i].reach(origin, ray)
        nearer = reach < depth
        winner[nearer] = i
        np.minimum(depth, reach, out=depth)
    return depth, winner


def _look(
    scene: Scene,
    world: _World,
    origin: Floats,
    ray: Floats,
    depth: Floats,
    winner: NDArray[np.intp],
    pixel_angle: float,
) -> tuple[Floats, Floats]:
    """Colour and normal, [3, N] each."""
    rgb, normal = np.empty_like(ray), np.zeros_like(ray)
    for i in np.flatnonzero(np.bincount(winner)):
        own = np.flatnonzero(winner == i)
        met = np.take(ray, own, axis=1)
        if i > len(world.solids):
            rgb[:, own] = sky(scene, met)
        else:
            rgb[:, own], normal[:, own] = _surface(scene, world, int(i), origin, met, depth[own], pixel_angle)
    return rgb, normal


def _surface(
    scene: Scene, world: _World, index: int, origin: Floats, ray: Floats, depth: Floats, pixel_angle: float
) -> tuple[Floats, Floats]:
    """Colour and normal, [3, N] each, of one solid or the ground."""
    point = origin + depth * ray
    if index == len(world.solids):
        normal, finish = np.repeat(column((0, -1, 0)), point.shape[1], axis=1), PAVING
        chart = Chart(point[0], point[2], np.abs(ray[0]), np.abs(ray[2]))
    else:
        solid = world.solids[index]
        normal, finish = solid.normal(point), solid.finish
        chart = solid.chart(point, ray, normal)
    slant = 1 / np.maximum(np.abs(dot(normal, ray)), 0.02) ** 2 - 1
    wide_u, wide_v = (depth * pixel_angle * np.sqrt(1 + tilt * tilt * slant) for tilt in (chart.tilt_u, chart.tilt_v))
    noise = noise_of(scene.seed, falloff=1.15)
    colour = reflectance(finish, u=chart.u, v=chart.v, wide_u=wide_u, wide_v=wide_v, noise=noise)
    colour *= _light(world, point, normal, own=index)
    haze = 1 - np.exp(depth * (-1 / 260))
    return colour + haze * (_HORIZON - colour), normal


def _light(world: _World, point: Floats, normal: Floats, *, own: int) -> Floats:
    """[3, N] light on the surface of the solid `own`: what white paint there would send out."""
    from_sun = np.maximum(dot(normal, _SUN), 0)
    lit = np.flatnonzero(from_sun > 0)
    if lit.size:
        from_sun[lit] *= ~_shadowed(world, np.take(point, lit, axis=1), own=own)
    up = 0.5 - 0.5 * normal[1]
    around = _BOUNCE + up * (_SKYLIGHT - _BOUNCE)
    light: Floats = around * _openness(world, point, normal, own=own) + from_sun * _SUNLIGHT
    return light


_SUN_RIGHT = np.cross(_SUN, column((0, 1, 0)), axis=0) / math.cos(_SUN_HEIGHT)
_ACROSS_SUN = np.concatenate([_SUN_RIGHT, np.cross(_SUN, _SUN_RIGHT, axis=0), _SUN], axis=1).T.astype(np.float32)


def _shadowed(world: _World, point: Floats, *, own: int) -> NDArray[np.bool_]:
    """[N] whether another solid stands between a point of `own`, which is convex, and the sun."""
    seen, centres, halves = _ACROSS_SUN @ point, _ACROSS_SUN @ world.centres, np.abs(_ACROSS_SUN) @ world.halves
    low, high = seen.min(axis=1, keepdims=True), seen.max(axis=1, keepdims=True)
    over = centres + halves >= low
    over[:2] &= centres[:2] - halves[:2] <= high[:2]
    dark = np.zeros(point.shape[1], bool)
    for i in np.flatnonzero(over.all(axis=0)):
        if i != own:
            dark |= np.isfinite(world.solids[i].reach(point, _SUN))
    return dark


def _openness(world: _World, point: Floats, normal: Floats, *, own: int) -> Floats:
    """[N] how much of its surroundings a point of `own`, which is convex, sees, 0..1.

    That is 1 less the shortfalls of the free room at a small and a large distance above it.
    """
    low, high = point.min(axis=1, keepdims=True), point.max(axis=1, keepdims=True)
    off = np.maximum(np.abs(world.centres - (low + high) / 2) - world.halves - (high - low) / 2, 0)
    apart = np.sqrt(dot(off, off))
    openness = np.ones(point.shape[1], np.float32)
    for distance, weight in _CORNER_M:
        above = point + distance * normal
        gap = np.minimum(-above[1], distance)  # to the ground
        for i in np.flatnonzero(apart < 2 * distance):
            if i != own:
                np.minimum(gap, world.solids[i].gap(above), out=gap)
        openness -= weight * (1 - np.maximum(gap, 0) / distance)
    return openness


def sky(scene: Scene, ray: Floats) -> Floats:
    """[3, N] what unit rays [3, N] above the horizon see: air, clouds, the sun, hills."""
    clouds = noise_of(scene.seed + 1, falloff=1.6)
    height = -ray[1]
    colour: Floats = _HORIZON + np.sqrt(np.maximum(height, 0)) * (_ZENITH - _HORIZON)
    near_sun = dot(ray, _SUN)
    colour += (0.30 * np.exp(14 * (near_sun - 1)) + 0.45 * np.exp(220 * (near_sun - 1))) * _GLOW
    u, v = (0.085 * axis / (height + 0.16) for axis in (ray[0], ray[2]))
    spread = 0.002 / (height + 0.16)
    thick = clouds.at(u + 0.37, v + 0.11, spread)
    cover = _smooth((thick + 0.1) / 1.6) * _smooth(height / 0.25)
    shade = clouds.at(u + 0.37 + 0.012 * _SUN[0], v + 0.11 + 0.012 * _SUN[2], spread) - thick
    cloud = _CLOUD * (1 - 0.12 * np.clip(0.6 * thick + 3 * shade, 0, 2))
    colour += 0.9 * cover * (cloud - colour)
    colour += 20 * _smooth((near_sun - math.cos(0.024)) * 1.5e4) * _GLOW
    if height.min() < 0.25:
        _add_hills(colour, ray, clouds)
    return colour


def _add_hills(colour: Floats, ray: Floats, noise: Noise) -> None:
    yaw = np.arctan2(ray[0], ray[2]) / math.tau
    for distance, high, row in ((0.62, 0.075, 0.2), (0.25, 0.05, 0.7)):
        ridge = high * (1 + 0.45 * noise.at(yaw, np.full_like(yaw, row), np.full_like(yaw, 0.004)))
        behind = _smooth((ridge + ray[1]) / 0.003)
        colour += behind * (_HILL + distance * (_HORIZON - _HILL) - colour)


def _smooth(x: Floats) -> Floats:
    """[N] 0 below 0, 1 above 1, and a smooth cubic between."""
    x = np.clip(x, 0, 1)
    smooth: Floats = x * x * (3 - 2 * x)
    return smooth
