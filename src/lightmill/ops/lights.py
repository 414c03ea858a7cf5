"""A light, as plain numbers: drawn at random, written into metadata, and read from there to shine once more.

Every kind is one formula with other numbers (radiance says it): ambient light, up to three lamps, a spherical-harmonic
environment, a highlight, and a shadow that takes away light of the first lamp. So lights of all kinds share a batch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.cast import Occluder, draw_occluder
from lightmill.ops.patterns import Pattern, draw_pattern
from lightmill.ops.shading import cap_direction, indoor, sky, studio

Vector: TypeAlias = tuple[float, float, float]
Range: TypeAlias = tuple[float, float]

WHITE: Vector = (1.0, 1.0, 1.0)
SUN = np.array([1.0, 0.96, 0.88])
WINDOW = np.array([0.85, 0.95, 1.1])
# how often each pattern is drawn where only `patterns` is asked for
PATTERN_SHARES: Mapping[str, float] = {
    Pattern.FOLIAGE: 0.20,
    Pattern.VENETIAN: 0.18,
    Pattern.WINDOW: 0.15,
    Pattern.BRANCH: 0.12,
    Pattern.CURTAIN: 0.10,
    Pattern.FENCE: 0.08,
    Pattern.VORONOI: 0.07,
    Pattern.LATTICE: 0.05,
    Pattern.CLOUD: 0.03,
    Pattern.SCREEN: 0.02,
}


class Kind(StrEnum):
    """What `--degrade` chooses from, besides the ten patterns by their names."""

    SOFT = "soft"  # one lamp and ambient light
    HARD = "hard"  # one lamp, and the shadow that the thing itself or something outside the picture casts
    SPECULAR = "specular"  # soft, with a highlight
    ADVANCED = "advanced"  # an environment, a rig of lamps, ambient occlusion


KINDS: tuple[str, ...] = (*map(str, Kind), *map(str, Pattern))


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Between which numbers lights are drawn, uniformly."""

    ambient: Range = (0.25, 0.6)  # share of the light that comes from everywhere
    elevation: Range = (10.0, 80.0)  # degrees above the plane of the picture; 90 is the camera's own direction
    opacity: Range = (0.4, 0.9)  # of shadows: 1 takes away all light of the lamp
    gloss: Range = (0.02, 0.12)  # share of the lamp's light that is mirrored
    shininess: Range = (10.0, 100.0)  # Blinn-Phong exponent


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """Light from one direction."""

    direction: Vector  # unit vector towards the lamp: x right, y up, z towards the viewer
    colour: Vector = WHITE  # radiance on a surface that faces it, linear RGB


CASTERS = ("self", "occluder")  # of shadows, besides the patterns


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """What stands in the way of the first lamp."""

    caster: str  # one of CASTERS, or a pattern's name
    opacity: float
    softness_deg: float = 0.0  # half of the angle that the lamp fills as seen from the thing; patterns have their own
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the occluder or the pattern


@dataclass(frozen=True, kw_only=True)
class Light:
    """All that is needed to light a picture again."""

    kind: str
    ambient: Vector
    lamps: tuple[Lamp, ...]
    environment: tuple[Vector, ...] | None = None  # [9] coefficients by channel
    surroundings: str = ""  # what the environment is, for people
    occlusion: float = 0.0  # strength of ambient occlusion
    gloss: float = 0.0
    shininess: float = 1.0
    shadow: Shadow | None = None

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`; `from_json` gives back an equal light."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Raises ValueError where a number is missing or there is one too many."""
        try:
            shadow, coefficients = found["shadow"], found["environment"]
            light = cls(
                **{
                    **found,
                    "ambient": _vector(found["ambient"]),
                    "lamps": tuple(
                        Lamp(direction=_vector(lamp["direction"]), colour=_vector(lamp["colour"]))
                        for lamp in found["lamps"]
                    ),
                    "environment": None if coefficients is None else tuple(map(_vector, coefficients)),
                    "shadow": None if shadow is None else Shadow(**shadow),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no light that this release of Lightmill can read: {error}") from error
        if not light.lamps:
            raise ValueError("this is no light: it has no lamp")
        if light.shadow and light.shadow.caster not in (*CASTERS, *Pattern):
            raise ValueError(f"nothing that this release of Lightmill knows is called {light.shadow.caster!r}")
        return light


def draw_kind(rng: np.random.Generator, *, weights: Mapping[str, float]) -> str:
    """One of the kinds, by weight. `weights`: kind or pattern -> a number from 0 on; their sum is above 0."""
    kinds = list(weights)
    shares = np.array([weights[kind] for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def draw_light(kind: str, rng: np.random.Generator, *, ranges: Ranges) -> Light:
    """A light of that kind. Directions are area-uniform between the two elevations."""
    if kind in tuple(Pattern):
        return _patterned(Pattern(kind), rng, ranges)
    draw = {Kind.SOFT: _soft, Kind.HARD: _hard, Kind.SPECULAR: _specular, Kind.ADVANCED: _advanced}[Kind(kind)]
    return draw(rng, ranges)


def _soft(rng: np.random.Generator, ranges: Ranges) -> Light:
    return _one_lamp(Kind.SOFT, rng, ranges)


def _specular(rng: np.random.Generator, ranges: Ranges) -> Light:
    gloss, shininess = _drawn(rng, ranges.gloss), _drawn(rng, ranges.shininess)
    return _one_lamp(Kind.SPECULAR, rng, ranges, gloss=gloss, shininess=shininess)


def _hard(rng: np.random.Generator, ranges: Ranges) -> Light:
    """Half of them cast by the thing itself, half by something outside the picture."""
    light = _one_lamp(Kind.HARD, rng, ranges)
    opacity = _drawn(rng, ranges.opacity)
    if rng.random() < 0.5:
        return replace(light, shadow=Shadow(caster="self", opacity=opacity, softness_deg=_drawn(rng, (1.0, 8.0))))
    occluder = draw_occluder(rng, light=light.lamps[0].direction)
    softness = _drawn(rng, (0.5, 3.0))
    shadow = Shadow(caster="occluder", opacity=opacity, softness_deg=softness, parameters=_as_json(asdict(occluder)))
    return replace(light, shadow=shadow)


def _patterned(pattern: Pattern, rng: np.random.Generator, ranges: Ranges) -> Light:
    shadow = Shadow(
        caster=pattern.value, opacity=_drawn(rng, ranges.opacity), parameters=dict(draw_pattern(pattern, rng))
    )
    return _one_lamp(pattern.value, rng, ranges, shadow=shadow)


def _one_lamp(kind: str, rng: np.random.Generator, ranges: Ranges, **more: Any) -> Light:
    """Ambient light and one lamp that add up to 1 on a surface that faces the lamp."""
    ambient = _drawn(rng, ranges.ambient)
    direct = 1 - ambient
    lamp = Lamp(direction=_direction(rng, ranges), colour=(direct, direct, direct))
    return Light(kind=kind, ambient=(ambient, ambient, ambient), lamps=(lamp,), **more)


# a key lamp's colour, and those of what may come with it: slight tints, as lamps and windows have them
_TINTS: Mapping[str, tuple[Vector, ...]] = {
    "studio": ((1.0, 1.0, 1.0), (0.96, 0.98, 1.0), (1.0, 0.98, 0.94)),
    "indoor": ((1.0, 0.93, 0.83), (1.0, 0.96, 0.9)),
    "outdoor": ((1.0, 0.97, 0.92),),
}
_STRENGTHS: tuple[Range, ...] = ((0.8, 1.2), (0.2, 0.5), (0.4, 0.8))  # key, fill, rim


def _advanced(rng: np.random.Generator, ranges: Ranges) -> Light:
    """(environment, from 20 to 50 %) × occlusion + (lamps, the rest), and now and then a highlight."""
    surroundings = str(rng.choice(list(_TINTS)))
    share = _drawn(rng, (0.2, 0.5))
    tints = _TINTS[surroundings][: int(rng.integers(1, len(_TINTS[surroundings]) + 1))]
    strengths = [_drawn(rng, strength) for strength in _STRENGTHS[: len(tints)]]
    scale = (1 - share) / sum(strengths)
    lamps = tuple(
        Lamp(direction=_direction(rng, ranges), colour=_vector(np.multiply(tint, scale * strength)))
        for tint, strength in zip(tints, strengths, strict=True)
    )
    coefficients = share * _environment(surroundings, rng)
    shines = rng.random() < 0.2
    return Light(
        kind=Kind.ADVANCED,
        ambient=(0.0, 0.0, 0.0),
        lamps=lamps,
        environment=tuple(_vector(row) for row in coefficients),
        surroundings=surroundings,
        occlusion=_drawn(rng, (0.2, 0.5)),
        gloss=_drawn(rng, ranges.gloss) if shines else 0.0,
        shininess=_drawn(rng, ranges.shininess) if shines else 1.0,
    )


def _environment(surroundings: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Coefficients [9, 3] of an environment that is about 1 on the mean."""
    key = cap_direction(rng, max_angle_deg=80)
    strength = _drawn(rng, (0.8, 1.5))
    if surroundings == "outdoor":
        blue = np.array([0.7, 0.85, 1.1]) * _drawn(rng, (0.8, 1.2))
        ground = np.array([0.35, 0.32, 0.28]) * _drawn(rng, (0.5, 1.5))
        return sky(zenith=blue, horizon=0.5 + 0.5 * blue, ground=ground, sun=key, sun_colour=strength * SUN)
    if surroundings == "indoor":
        warm = np.array([1.0, 0.92, 0.8]) * _drawn(rng, (0.6, 1.0))
        ceiling, walls, floor = (level * warm for level in (1.2, 0.8, 0.4))
        return indoor(ceiling=ceiling, walls=walls, floor=floor, window=key, window_colour=strength * WINDOW)
    rim = cap_direction(rng, max_angle_deg=80)
    fill = np.full(3, _drawn(rng, (0.2, 0.5)))
    return studio(lights=[key, rim], colours=[strength * np.ones(3), 0.5 * np.ones(3)], fill=fill)


def _direction(rng: np.random.Generator, ranges: Ranges) -> Vector:
    """Between two elevations above the picture's plane, which are angles to the viewer's axis the other way round."""
    low, high = ranges.elevation
    return _vector(cap_direction(rng, min_angle_deg=90 - high, max_angle_deg=90 - low))


def _drawn(rng: np.random.Generator, between: Range) -> float:
    return float(rng.uniform(*between))


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON, which has lists and no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def occluder_of(shadow: Shadow) -> Occluder:
    """The thing outside the picture whose shadow it is."""
    return Occluder(**shadow.parameters)
