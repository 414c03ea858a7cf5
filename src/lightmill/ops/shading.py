"""Light on surfaces, in linear light: Lambert, Blinn-Phong, spherical harmonics, and the picture that they make.

Every formula works on numpy arrays and on torch tensors, of any floating dtype, and gives what it was given. Pictures
may come in batches: normals are [..., H, W, 3], and what belongs to one picture (a light [..., 3], a number [...]) has
the same leading axes or none. Numbers and arrays of other kinds are brought to the kind of the first argument.

Directions and normals are unit vectors: x right, y up, z towards the viewer. A light is the direction towards it. The
viewer is far away, at V = (0, 0, 1). The unit of light: a white matte surface that faces a light of colour 1 is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.arrays import Array, namespace, same_kind

Doubles = NDArray[np.float64]

_WHITE_AND_HALF_A_LEVEL = 1 + 0.5 / 255 * 2.4 / 1.055  # by the slope of the sRGB curve at white


def lambert(normals: Array, *, light: ArrayLike | Array) -> Array:
    """max(0, N·L): [..., H, W] of normals [..., H, W, 3] and a light [..., 3]."""
    cosine: Array = _dot(normals, light).clip(min=0)
    return cosine


def soft(normals: Array, *, light: ArrayLike | Array, ambient: ArrayLike | Array) -> Array:
    """a + (1 - a) max(0, N·L): [..., H, W]; `ambient` a, 0..1, is a number or [...]."""
    base = _per_picture(ambient, reference=normals)
    shading: Array = base + (1 - base) * lambert(normals, light=light)
    return shading


def blinn_phong(normals: Array, *, light: ArrayLike | Array, shininess: ArrayLike | Array) -> Array:
    """The highlight of a light of colour 1 on a surface that reflects all of it: [..., H, W].

    `c(n) (N·H)^n max(0, N·L)` with H halfway between L and V, n = `shininess` above 0, a number or [...], and

        c(n) = (n + 2) (n + 4) / (8 (2^(-n/2) + n))

    This is π times the reflectance of Blinn ("Models of light reflection", 1977), as light has the factor π in it, with
    the exact factor of Giesen ("Phong and Blinn-Phong normalization factors", 2009): what is reflected to all sides of
    light that comes along the normal is 1, whatever n is. A larger n makes a highlight smaller and brighter. Nothing
    is divided by its own maximum. Zero where N·L <= 0.
    """
    towards = same_kind(light, reference=normals)
    halfway = towards + same_kind([0.0, 0.0, 1.0], reference=normals)
    halfway = halfway / ((halfway * halfway).sum(-1) ** 0.5).clip(min=1e-12)[..., None]
    n = _per_picture(shininess, reference=normals)
    energy = (n + 2) * (n + 4) / (8 * (2 ** (-n / 2) + n))
    highlight: Array = energy * _dot(normals, halfway).clip(min=0) ** n * lambert(normals, light=towards)
    return highlight


def directional_rig(normals: Array, *, lights: ArrayLike | Array, colours: ArrayLike | Array) -> Array:
    """The sum of several Lambert lights: [..., H, W, 3] of lights [..., K, 3] and their colours [..., K, 3]."""
    towards, tints = same_kind(lights, reference=normals), same_kind(colours, reference=normals)
    total = 0 * normals
    for k in range(towards.shape[-2]):
        total = total + lambert(normals, light=towards[..., k, :])[..., None] * tints[..., k, None, None, :]
    return total


def compose(
    albedo: Array,
    *,
    shading: ArrayLike | Array,
    specular: ArrayLike | Array | None = None,
    ambient: ArrayLike | Array | None = None,
    transmittance: ArrayLike | Array | None = None,
    mask: ArrayLike | Array | None = None,
    background: ArrayLike | Array | None = None,
) -> Array:
    """The picture: `albedo × (ambient + T × shading) + T × specular`, then `m × picture + (1 - m) × background`.

    albedo: [..., H, W, 3] linear. shading, specular: the direct light, [..., H, W] or [..., H, W, 1 or 3]. ambient:
    light that no shadow takes away; the same, or numbers. transmittance T: [..., H, W], 1 = lit; None is 1. mask m:
    [..., H, W] of 0..1 (a level of 255 / 255), None is 1. background: linear, a colour [3] or [..., H, W, 3]; None is
    black.

    Nothing is clipped: `clipped_share` says how much of it a picture file cannot hold.
    """
    direct = _as_light(shading, reference=albedo)
    lit = None if transmittance is None else same_kind(transmittance, reference=albedo)[..., None]
    total = direct if lit is None else direct * lit
    if ambient is not None:
        total = total + _as_light(ambient, reference=albedo)
    picture: Array = albedo * total
    if specular is not None:
        highlight = _as_light(specular, reference=albedo)
        picture = picture + (highlight if lit is None else highlight * lit)
    if mask is None:
        return picture
    share = same_kind(mask, reference=albedo)[..., None]
    behind = same_kind(0.0 if background is None else background, reference=albedo)
    joined: Array = picture * share + behind * (1 - share)
    return joined


def clipped_share(linear: Array, *, mask: ArrayLike | Array | None = None) -> Array:
    """The share of pixels, weighted by the mask, that are too bright for a picture file: [...] of [..., H, W, 3].

    Counted is a pixel of which a channel is above white by more than half an sRGB level. mask: [..., H, W] of 0..1;
    where all of it is 0, the share is 0.
    """
    above = same_kind((linear > _WHITE_AND_HALF_A_LEVEL).any(-1), reference=linear)
    weights = above * 0 + (1 if mask is None else same_kind(mask, reference=linear))
    clipped: Array = (above * weights).sum((-2, -1)) / weights.sum((-2, -1)).clip(min=1e-12)
    return clipped


def cap_direction(
    rng: np.random.Generator,
    *,
    max_angle_deg: float,
    min_angle_deg: float = 0.0,
    azimuth_deg: tuple[float, float] = (0.0, 360.0),
) -> Doubles:
    """A direction [3] drawn evenly by AREA from a cap around the viewer's axis, or from a zone of it.

    Between two angles from the axis z (0 = from the viewer, 90 = from the side) and two azimuths (0 = right, 90 = up).
    Its cosine to the axis is uniform (Archimedes). Raises ValueError for angles that are not 0 <= min <= max <= 180.
    """
    if not 0 <= min_angle_deg <= max_angle_deg <= 180:
        raise ValueError(f"angles must be 0 <= min <= max <= 180 degrees, got {min_angle_deg} and {max_angle_deg}")
    z = rng.uniform(math.cos(math.radians(max_angle_deg)), math.cos(math.radians(min_angle_deg)))
    azimuth = math.radians(rng.uniform(*azimuth_deg))
    across = math.sqrt(max(0.0, 1 - z * z))
    return np.array([across * math.cos(azimuth), across * math.sin(azimuth), z])


# ---------------------------------------------------------------------------------------------------------------------
# environments: light from all around, on the first nine spherical harmonics

# of 1, y, z, x, xy, yz, 3z² - 1, xz, x² - y²: real, orthonormal; in the order (l, m) 00, 1-1, 10, 11, 2-2, ..., 22
_NORMS = np.sqrt(np.array([1 / 4, 3 / 4, 3 / 4, 3 / 4, 15 / 4, 15 / 4, 5 / 16, 15 / 4, 15 / 16]) / math.pi)
# what a matte surface keeps of each order, divided by π (Ramamoorthi and Hanrahan, "An efficient representation for
# irradiance environment maps", 2001)
_KEPT = np.array([1.0] + 3 * [2 / 3] + 5 * [1 / 4])


def sh_irradiance(normals: Array, *, coefficients: ArrayLike | Array) -> Array:
    """What a white matte surface shows under an environment: [..., H, W, 3], irradiance / π, not below 0.

    coefficients: [..., 9, 3], the environment's radiance on the first nine real orthonormal spherical harmonics, as
    `project_environment`, `sky`, `studio` and `indoor` make them. y is up: a sky lights what faces up.
    """
    polynomials = _polynomials(normals)
    weights = same_kind(coefficients, reference=normals) * same_kind((_NORMS * _KEPT)[:, None], reference=normals)
    channels = []
    for channel in range(3):
        total = 0
        for k, polynomial in enumerate(polynomials):
            total = total + polynomial * weights[..., k, channel, None, None]
        channels.append(total)
    stacked: Array = namespace(normals).stack(channels, -1).clip(min=0)
    return stacked


def project_environment(radiance: Callable[[Doubles], Doubles]) -> Doubles:
    """The coefficients [9, 3] of an environment: `radiance` says for directions [N, 3] the light [N, 3] from there.

    By 24 Gauss-Legendre heights above the horizon, as many below, and 64 azimuths: exact for polynomials, on each side.
    """
    nodes, weights = np.polynomial.legendre.leggauss(24)
    heights, shares = np.concatenate([nodes / 2 - 0.5, nodes / 2 + 0.5]), np.concatenate([weights / 2, weights / 2])
    azimuths = (np.arange(64) + 0.5) * (2 * math.pi / 64)
    y, azimuth = (grid.ravel() for grid in np.meshgrid(heights, azimuths, indexing="ij"))
    across = np.sqrt(1 - y * y)
    directions = np.stack([across * np.cos(azimuth), y, across * np.sin(azimuth)], -1)
    area = np.repeat(shares * (2 * math.pi / 64), 64)[:, None]
    basis = np.stack(_polynomials(directions), -1) * _NORMS
    return np.asarray(basis.T @ (radiance(directions) * area), np.float64)


def area_light(direction: ArrayLike, *, colour: ArrayLike, radius_deg: float) -> Doubles:
    """The coefficients [9, 3] of a round light in a direction, in closed form (Funk-Hecke).

    colour [3]: what a white matte surface that faces it would show (of which nine coefficients keep the smooth part).
    radius_deg: as seen from the scene, above 0 and up to 90.
    """
    if not 0 < radius_deg <= 90:
        raise ValueError(f"the radius of a light must be above 0 and at most 90 degrees, got {radius_deg}")
    cosine = math.cos(math.radians(radius_deg))
    towards = np.asarray(direction, np.float64)
    orders = 2 * math.pi * np.array([1 - cosine] + 3 * [(1 - cosine**2) / 2] + 5 * [(cosine - cosine**3) / 2])
    basis = np.stack(_polynomials(towards / np.linalg.norm(towards)), -1) * _NORMS
    radiance = np.asarray(colour, np.float64) / (1 - cosine**2)
    return np.asarray((basis * orders)[:, None] * radiance, np.float64)


def sky(
    *,
    zenith: ArrayLike,
    horizon: ArrayLike,
    ground: ArrayLike,
    sun: ArrayLike | None = None,
    sun_colour: ArrayLike = (1.0, 1.0, 1.0),
    sun_radius_deg: float = 5.0,
) -> Doubles:
    """Outdoors, as coefficients [9, 3]: a sky from `zenith` to `horizon`, even light from the `ground`, and a sun.

    Colours [3] of the sky and the ground are radiance: an environment of 1 all around makes a white surface 1. `sun`:
    the direction towards it, None for none; its colour is as that of `area_light`.
    """
    coefficients = _layers(zenith, horizon, ground)
    if sun is not None:
        coefficients = coefficients + area_light(sun, colour=sun_colour, radius_deg=sun_radius_deg)
    return coefficients


def studio(
    *, lights: Sequence[ArrayLike], colours: Sequence[ArrayLike], fill: ArrayLike, radius_deg: float = 20.0
) -> Doubles:
    """A studio, as coefficients [9, 3]: round area lights, and `fill` [3] from all around."""
    even = _layers(fill, fill, fill)
    pairs = zip(lights, colours, strict=True)
    return sum((area_light(light, colour=colour, radius_deg=radius_deg) for light, colour in pairs), start=even)


def indoor(
    *,
    ceiling: ArrayLike,
    walls: ArrayLike,
    floor: ArrayLike,
    window: ArrayLike | None = None,
    window_colour: ArrayLike = (1.0, 1.0, 1.0),
    window_radius_deg: float = 25.0,
) -> Doubles:
    """A room, as coefficients [9, 3]: radiance from `walls` at eye level to `ceiling` and `floor`, and a window."""
    coefficients = _layers(ceiling, walls, floor, gradual_floor=True)
    if window is not None:
        coefficients = coefficients + area_light(window, colour=window_colour, radius_deg=window_radius_deg)
    return coefficients


def _layers(up: ArrayLike, level: ArrayLike, down: ArrayLike, *, gradual_floor: bool = False) -> Doubles:
    """Radiance that goes from `level` to `up` with y; `down` below the horizon, at once or as gradually."""
    above, middle, below = (np.asarray(colour, np.float64) for colour in (up, level, down))

    def radiance(directions: Doubles) -> Doubles:
        y = directions[:, 1:2]
        lower = middle + (below - middle) * -y if gradual_floor else below + 0 * y
        return np.asarray(np.where(y > 0, middle + (above - middle) * y, lower), np.float64)

    return project_environment(radiance)


# ---------------------------------------------------------------------------------------------------------------------
# small helpers


def _polynomials(directions: Array) -> list[Any]:
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    return [0 * x + 1, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]


def _dot(normals: Array, direction: ArrayLike | Array) -> Array:
    """[..., H, W], by components: sums of three have one order, whatever the number of threads."""
    d = same_kind(direction, reference=normals)[..., None, None, :]
    cosine: Array = normals[..., 0] * d[..., 0] + normals[..., 1] * d[..., 1] + normals[..., 2] * d[..., 2]
    return cosine


def _per_picture(value: ArrayLike | Array, *, reference: Array) -> Array:
    spread: Array = same_kind(value, reference=reference)[..., None, None]
    return spread


def _as_light(light: ArrayLike | Array, *, reference: Array) -> Array:
    """[..., H, W, 1 or 3] of [..., H, W], [..., H, W, 1 or 3], a colour [3] or a number."""
    values = same_kind(light, reference=reference)
    grey = 1 < values.ndim < reference.ndim and values.shape[-2:] == reference.shape[-3:-1]
    return values[..., None] if grey else values
