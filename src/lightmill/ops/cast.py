"""Cast shadows as transmittance: [H, W] float32, 1 = lit, 0 = none of the light gets there.

Heights are in pixels, towards the viewer; a light is the unit vector [3] towards it: x right, y up, z towards the
viewer. Lights are round: `softness_deg` is their radius as seen from the scene (the sun 0.27, a large lamp some
degrees), so shadows are sharp where they begin, and softer further on.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape: TypeAlias = Literal["edge", "bar", "disc", "polygon"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_MARCHED_SIDE = 256  # px: shadows are found at about this size
_STEEPEST_DEG = 89.0  # a light that stands higher casts no shadow that could be seen
_SEGMENTS = 4  # of a strip of the light, between the elevations that are marched
_STRIPS = 5  # of the light, by azimuth
_FADE = 0.25  # of a step's rise, over which a shadow's border goes from dark to lit where the light is a point
_NOTHING = np.float32(-1e30)  # a height that shades nothing
_LEAST_PENUMBRA_PX = 0.7  # against jagged borders
_FURTHEST = 4.0  # diagonals: an occluder of a light from the front would have to be ever further away


def self_shadow(height: NDArray[np.float32], *, light: ArrayLike, softness_deg: float = 2.0) -> NDArray[np.float32]:
    """The shadows that a height field [H, W] casts on itself, those on sides that face away from the light included.

    A point is lit by the share of the light that stands above its horizon. The light is cut into five strips by
    azimuth; for each, the field is turned so that light comes from above, and a running maximum down its columns finds
    the horizon's edge of five elevations, between which the share is linear. Worked out at a long side of 256 px at
    most, then enlarged smoothly: a thing thinner than that resolution casts too weak a shadow. What is outside the
    picture casts none.

    Raises ValueError for a light that is not a direction, and for a softness that is not 0..45 degrees.
    """
    towards = _direction(light)
    _check_softness(softness_deg)
    across = math.hypot(towards[0], towards[1])
    elevation = math.degrees(math.atan2(towards[2], across))
    if elevation - softness_deg >= _STEEPEST_DEG or not np.ptp(height):
        return np.ones(height.shape, np.float32)
    rows, columns = height.shape
    scale = max(1.0, max(rows, columns) / _MARCHED_SIDE)
    size = (max(1, round(columns / scale)), max(1, round(rows / scale)))
    small = cv2.resize(height, size, interpolation=cv2.INTER_AREA) / np.float32(scale)
    azimuth = math.degrees(math.atan2(towards[1], towards[0]))
    strips = [(0.0, 1.0)] if softness_deg == 0 else _strips(softness_deg)
    lit = np.zeros_like(small)
    area = sum(chord for _, chord in strips)
    for aside, chord in strips:
        turned = azimuth + math.degrees(math.atan2(math.radians(aside), across))
        spread = chord * softness_deg
        lit += np.float32(chord / area) * _march(
            small, azimuth_deg=turned, low=elevation - spread, high=elevation + spread
        )
    if scale > 1:
        lit = cv2.resize(cv2.GaussianBlur(lit, (0, 0), 0.6), (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.clip(lit, 0, 1, out=np.asarray(lit, np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Occluder:
    """An opaque thing between the light and what is seen, by the shadow that it throws on height 0.

    Lengths are shares of the picture's diagonal, from the picture's middle; x right, y up. It is JSON by
    `dataclasses.asdict`, and made again by `Occluder(**values)`.

    edge: all of one half-plane; bar: a stripe without ends; disc; polygon: convex.
    """

    shape: Shape
    x: float = 0.0  # a point of the edge, or the middle
    y: float = 0.0
    angle_deg: float = 0.0  # edge: which way its lit side lies; bar: across it; polygon: turned by; 0 right, 90 up
    size: float = 0.1  # half the width of a bar; the radius of a disc and of the circle around a polygon; edge: unused
    distance: float = 1.0  # of the occluder from height 0, along the viewer's axis
    corners_deg: tuple[float, ...] = ()  # polygon: where its corners lie on the circle around it, rising, 0..360

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"the shape of an occluder is one of {', '.join(SHAPES)}, got {self.shape!r}")
        if not (self.size > 0 and self.distance > 0):
            raise ValueError(f"size and distance must be above 0, got {self.size} and {self.distance}")
        object.__setattr__(self, "corners_deg", tuple(self.corners_deg))  # JSON has lists
        if self.shape == "polygon" and (
            len(self.corners_deg) < 3 or sorted(set(self.corners_deg)) != list(self.corners_deg)
        ):
            raise ValueError(f"a polygon has three or more corners in rising order, got {list(self.corners_deg)}")


def draw_occluder(rng: np.random.Generator, *, light: ArrayLike, shapes: tuple[Shape, ...] = SHAPES) -> Occluder:
    """An occluder drawn at random whose shadow falls into the picture.

    It stands between the light and the picture, and far enough for it to be outside of what the viewer sees; for lights
    that come nearly from the viewer that would be ever further away, so 4 diagonals are the limit.
    """
    towards = _direction(light)
    shape = shapes[int(rng.integers(len(shapes)))]
    x, y = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    size = rng.uniform(0.03, 0.08) if shape == "bar" else rng.uniform(0.1, 0.25)
    angle = rng.uniform(0, 360)
    if shape == "edge":  # its dark side is on the light's side: that is where the occluder is
        angle = math.degrees(math.atan2(-towards[1], -towards[0])) + rng.uniform(-60, 60)
    corners = _corners(rng) if shape == "polygon" else ()
    slant = math.hypot(towards[0], towards[1]) / max(towards[2], 1e-3)
    outside = (0.5 + math.hypot(x, y) + size) / max(slant, 1e-3)
    distance = min(max(rng.uniform(0.3, 1.0), outside), _FURTHEST)
    return Occluder(shape=shape, x=x, y=y, angle_deg=angle % 360, size=size, distance=distance, corners_deg=corners)


def occluder_shadow(
    height: NDArray[np.float32], *, light: ArrayLike, occluder: Occluder, softness_deg: float = 1.0
) -> NDArray[np.float32]:
    """The shadow of an occluder, projected along the light onto a height field [H, W]: transmittance.

    The light is seen as a disc cut by a straight border: exact for an edge and for a bar. What the sides of a polygon
    hide is multiplied, which is right at right angles and off by up to a tenth at sharp ones; a disc or polygon that is
    smaller than its penumbra is shaded by area. The penumbra grows with the distance from the occluder. What lies above
    the occluder is lit.

    Raises ValueError for a light that does not come from the viewer's side (z <= 0), and for a softness that is not
    0..45 degrees.
    """
    towards = _direction(light)
    _check_softness(softness_deg)
    if towards[2] <= 0:
        raise ValueError(f"an occluder's light must come from the viewer's side (z > 0), got z = {towards[2]:.3f}")
    diagonal = math.hypot(*height.shape)
    below = np.float32(occluder.distance * diagonal) - height  # px, along the viewer's axis
    spread = math.tan(math.radians(softness_deg)) / towards[2]
    penumbra = np.maximum(below * np.float32(spread), np.float32(_LEAST_PENUMBRA_PX))
    slant = towards[0] / towards[2], towards[1] / towards[2]
    lit = _OUTLINES[occluder.shape](_Projected(height, slant, occluder, diagonal), penumbra)
    lit[below <= 0] = 1
    return lit


# ---------------------------------------------------------------------------------------------------------------------
# a height field's own shadow


def _strips(softness_deg: float) -> list[tuple[float, float]]:
    """(degrees from the middle, share of the radius that half its length is), for strips of equal width."""
    middles = (np.arange(_STRIPS) + 0.5) * (2 / _STRIPS) - 1
    return [(float(m * softness_deg), math.sqrt(1 - float(m) ** 2)) for m in middles]


def _march(small: NDArray[np.float32], *, azimuth_deg: float, low: float, high: float) -> NDArray[np.float32]:
    """The lit share [h, w] under a strip of light from elevation `low` to `high`, both in degrees."""
    rows, columns = small.shape
    side = math.ceil(math.hypot(rows, columns)) + 2
    turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), 90 - azimuth_deg, 1.0)
    turn[0, 2] += (side - columns) / 2
    turn[1, 2] += (side - rows) / 2
    field = np.asarray(
        cv2.warpAffine(small, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    there = cv2.warpAffine(np.ones_like(small), turn, (side, side), flags=cv2.INTER_NEAREST)
    casting = np.where(there > 0, field, _NOTHING)
    count = 1 if low == high else _SEGMENTS + 1
    tangents = [math.tan(math.radians(min(e, _STEEPEST_DEG))) for e in np.linspace(low, high, count)]
    margins = [_margin(field, casting, tangent) for tangent in tangents]
    fade = np.float32(_FADE * max(abs(tangents[count // 2]), 0.01))
    if count == 1:
        lit = np.clip(margins[0] / fade, 0, 1)
    else:
        lit = np.zeros(field.shape, np.float32)
        for lower, upper in pairwise(margins):
            lit += np.clip(upper / np.maximum(upper - lower, fade / _SEGMENTS), 0, 1)
        lit *= np.float32(1 / _SEGMENTS)
    back = cv2.warpAffine(
        lit,
        turn,
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(back, np.float32)


def _margin(field: NDArray[np.float32], casting: NDArray[np.float32], tangent: float) -> NDArray[np.float32]:
    """How far each point is above the shadow of all that stands before it, in px; light comes from the first row."""
    ramp = (np.arange(len(field), dtype=np.float32) * np.float32(tangent))[:, None]
    shadow = np.maximum.accumulate(casting + ramp, axis=0)
    margin = np.full_like(field, -_NOTHING)
    np.subtract(field[1:], shadow[:-1] - ramp[1:], out=margin[1:])
    return margin


# ---------------------------------------------------------------------------------------------------------------------
# an occluder's shadow


@dataclass(frozen=True, slots=True)
class _Projected:
    """Where points of a relief lie, followed along the light to height 0, about the occluder's shadow there."""

    height: NDArray[np.float32]
    slant: tuple[float, float]  # how far light goes right and up, a px of height
    occluder: Occluder
    diagonal: float  # px

    @property
    def size_px(self) -> float:
        return self.occluder.size * self.diagonal

    def along(self, angle_deg: float) -> NDArray[np.float32]:
        """How far [H, W] px they lie from the shadow's middle in a direction."""
        rows, columns = self.height.shape
        right, up = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
        x = np.arange(columns, dtype=np.float32) + np.float32(0.5 - columns / 2 - self.occluder.x * self.diagonal)
        y = np.float32(rows / 2 - 0.5 - self.occluder.y * self.diagonal) - np.arange(rows, dtype=np.float32)
        flat = (np.float32(up) * y)[:, None] + np.float32(right) * x
        flat -= self.height * np.float32(right * self.slant[0] + up * self.slant[1])
        return flat


def _edge(points: _Projected, penumbra: NDArray[np.float32]) -> NDArray[np.float32]:
    return _seen(points.along(points.occluder.angle_deg) / penumbra)


def _bar(points: _Projected, penumbra: NDArray[np.float32]) -> NDArray[np.float32]:
    across = points.along(points.occluder.angle_deg)
    half = np.float32(points.size_px)
    return 1 - (_seen((across + half) / penumbra) - _seen((across - half) / penumbra))


def _disc(points: _Projected, penumbra: NDArray[np.float32]) -> NDArray[np.float32]:
    outside = cv2.magnitude(points.along(0), points.along(90)) - np.float32(points.size_px)
    return _blob(1 - _seen(outside / penumbra), points, penumbra)


def _polygon(points: _Projected, penumbra: NDArray[np.float32]) -> NDArray[np.float32]:
    corners = np.array(points.occluder.corners_deg) + points.occluder.angle_deg
    hidden = np.ones_like(penumbra)
    for corner, following in zip(corners, np.append(corners[1:], corners[0] + 360), strict=True):
        inner = points.size_px * math.cos(math.radians(following - corner) / 2)
        outside = points.along((corner + following) / 2) - np.float32(inner)
        hidden *= 1 - _seen(outside / penumbra)
    return _blob(hidden, points, penumbra)


_OUTLINES = {"edge": _edge, "bar": _bar, "disc": _disc, "polygon": _polygon}


def _blob(hidden: NDArray[np.float32], points: _Projected, penumbra: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lit share; what is smaller than the light hides no more of it than its share of the area."""
    share = np.float32(points.size_px) / penumbra
    return 1 - np.minimum(hidden, share * share)


def _seen(s: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of a unit disc that is seen past a straight edge, s from its middle: 0 at -1, 1 at 1."""
    s = np.clip(s, -1, 1)
    share: NDArray[np.float32] = np.float32(0.5) + (np.arcsin(s) + s * np.sqrt(1 - s * s)) * np.float32(1 / math.pi)
    return share


def _corners(rng: np.random.Generator) -> tuple[float, ...]:
    """Three to six corners, with gaps below 180 degrees, so that the middle is inside."""
    count = int(rng.integers(3, 7))
    gaps = rng.uniform(1, 1.9, count)
    turns = np.cumsum(gaps / gaps.sum() * 360)
    return tuple(round(float(turn), 3) for turn in turns - turns[0])


# ---------------------------------------------------------------------------------------------------------------------
# small helpers


def _direction(light: ArrayLike) -> tuple[float, float, float]:
    """Unit length, to the last bit."""
    towards = np.asarray(light, np.float64)
    length = float(np.linalg.norm(towards))
    if towards.shape != (3,) or not 0 < length < math.inf:
        raise ValueError(f"a light is a direction [3], got {towards.tolist()}")
    x, y, z = (towards / length).tolist()
    return x, y, z


def _check_softness(softness_deg: float) -> None:
    if not 0 <= softness_deg <= 45:
        raise ValueError(f"softness must be 0..45 degrees, got {softness_deg}")
