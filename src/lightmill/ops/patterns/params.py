"""What makes up each pattern, and between which values it is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeAlias

import numpy as np

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Params: TypeAlias = Mapping[str, Any]  # checked: every parameter is there, of its type and in its range

_DIGITS = 6  # of a number: a millionth of a diagonal is below a pixel


class Pattern(StrEnum):
    """What stands between the light and the scene."""

    FOLIAGE = "foliage"  # dappled light under a tree
    VENETIAN = "venetian"  # slats of a blind
    WINDOW = "window"  # lit panes with mullions, all else in shadow
    BRANCH = "branch"  # bare branches with twigs
    CURTAIN = "curtain"  # folds of one or two sheets
    FENCE = "fence"  # pickets and rails
    VORONOI = "voronoi"  # gaps of irregular cells
    LATTICE = "lattice"  # crossing bars
    CLOUD = "cloud"  # large and soft
    SCREEN = "screen"  # a perforated panel

    @classmethod
    def of(cls, kind: str) -> Self:
        """The pattern of that name. Raises ValueError that lists the names."""
        try:
            return cls(kind)
        except ValueError:
            raise ValueError(f"there is no shadow pattern {kind!r}; there are {', '.join(cls)}") from None


@dataclass(frozen=True)
class _Span:
    """A real number from low to high."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> Json:
        return round(float(rng.uniform(self.low, self.high)), _DIGITS)

    def allows(self, value: Json) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class _Count:
    """A whole number from low to high, both included."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> Json:
        return int(rng.integers(self.low, self.high, endpoint=True))

    def allows(self, value: Json) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class _Choice:
    """One of some words."""

    words: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> Json:
        return self.words[int(rng.integers(len(self.words)))]

    def allows(self, value: Json) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


_SEED = _Count(0, 2**32 - 1)
# the same for all; lengths are shares of the picture's diagonal
_PLACE: dict[str, _Span | _Count | _Choice] = {
    "rotation_deg": _Span(-15, 15),
    "scale": _Span(0.8, 1.2),
    "shift_x": _Span(-0.1, 0.1),
    "shift_y": _Span(-0.1, 0.1),
}
# softness: the width of the penumbra; the scale does not change it
_OWN: dict[Pattern, dict[str, _Span | _Count | _Choice]] = {
    Pattern.FOLIAGE: {
        "softness": _Span(0.024, 0.045),  # the sun's image under a gap
        "gap": _Span(0.02, 0.035),  # length of the gaps between far leaves
        "open": _Span(0.25, 0.5),  # area of all gaps by the area they lie in
        "clump": _Span(0.16, 0.3),  # size of the largest heaps
        "clumping": _Span(0.5, 0.9),  # how much denser the heaps are
        "leaf": _Span(0.05, 0.09),  # length of the leaves that hang near
        "near": _Span(0.1, 0.3),  # their area by the area they hang over
        "seed": _SEED,
    },
    Pattern.VENETIAN: {
        "softness": _Span(0.005, 0.014),
        "spacing": _Span(0.045, 0.085),  # of slats: 8 to 15 over a square picture
        "ratio": _Span(0.4, 0.6),  # of the slat to the spacing
        "direction": _Choice(("horizontal", "vertical")),
        "converge": _Span(-0.25, 0.25),  # how much faster slats run together along themselves, per diagonal
        "cord": _Span(0.18, 0.32),  # between the cords that carry the slats
    },
    Pattern.WINDOW: {
        "softness": _Span(0.006, 0.02),
        "columns": _Count(2, 4),
        "rows": _Count(2, 3),
        "width": _Span(0.44, 0.62),  # of the window, to the middle of its frame
        "height": _Span(0.44, 0.6),
        "mullion": _Span(0.012, 0.024),
        "lean": _Span(-0.3, 0.3),  # of the uprights, as the sun stands to the side
    },
    Pattern.BRANCH: {
        "softness": _Span(0.004, 0.012),
        "count": _Count(4, 8),
        "thickness": _Span(0.014, 0.026),  # at the root of a branch, outside the picture
        "twigs": _Count(3, 7),
        "from_deg": _Span(0, 360),  # where the tree stands; anticlockwise from the right
        "crooked": _Span(0.05, 0.12),  # radians from one sixteenth of its way to the next
        "seed": _SEED,
    },
    Pattern.CURTAIN: {
        "softness": _Span(0.012, 0.03),
        "fold": _Span(0.05, 0.1),  # width: 6 to 12 over a square picture or so
        "irregularity": _Span(0.2, 0.4),
        "depth": _Span(0.5, 0.75),  # how much darker a fold is than the sheet between
        "flare": _Span(0.1, 0.4),  # how much wider folds are at the bottom, per diagonal
        "opening": _Span(0.06, 0.2),  # between the two sheets
        "seed": _SEED,
    },
    Pattern.FENCE: {
        "softness": _Span(0.004, 0.01),
        "picket": _Span(0.035, 0.06),  # width
        "gap": _Span(0.02, 0.04),
        "rails": _Count(1, 3),
        "rail": _Span(0.014, 0.022),  # width
        "top": _Span(0.1, 0.22),  # of the pickets, above the middle of the picture
        "point": _Span(0.4, 1.2),  # how steep their tips are: height by half the width; 0 is flat
    },
    Pattern.VORONOI: {
        "softness": _Span(0.008, 0.016),
        "cell": _Span(0.06, 0.1),
        "jitter": _Span(0.6, 0.95),
        "wall": _Span(0.1, 0.25),  # share of a cell's radius
        "closed": _Span(0.1, 0.35),  # share of the cells that let no light through
        "seed": _SEED,
    },
    Pattern.LATTICE: {
        "softness": _Span(0.004, 0.01),
        "layout": _Choice(("grid", "diagonal", "cross")),  # cross: both
        "spacing": _Span(0.05, 0.09),
        "bar": _Span(0.18, 0.3),  # width, as a share of the spacing
    },
    Pattern.CLOUD: {
        "softness": _Span(0.02, 0.05),  # of the smallest detail
        "cell": _Span(0.25, 0.45),  # of the largest
        "persistence": _Span(0.42, 0.55),
        "cover": _Span(-0.4, 0.5),  # in standard deviations; above 0, more shadow than light
        "edge": _Span(1.8, 3.0),  # from light to shadow, in standard deviations
        "seed": _SEED,
    },
    Pattern.SCREEN: {
        "softness": _Span(0.004, 0.009),
        "holes": _Choice(("geometric", "star", "hexagon")),
        "cell": _Span(0.06, 0.11),
        "wall": _Span(0.18, 0.32),  # between holes, as a share of the cell
    },
}


def draw_pattern(kind: Pattern | str, rng: np.random.Generator) -> dict[str, Json]:
    """Parameters of a pattern, for `render_pattern`: numbers and words that JSON gives back as they were.

    Lengths are shares of the picture's diagonal. Raises ValueError for an unknown kind.
    """
    return {name: values.draw(rng) for name, values in (_PLACE | _OWN[Pattern.of(kind)]).items()}


def check_params(kind: Pattern, params: Mapping[str, Json]) -> Params:
    """The parameters as they are. Raises ValueError that names the first that is missing, unknown or not allowed."""
    wanted = _PLACE | _OWN[kind]
    for name, values in wanted.items():
        if name not in params:
            raise ValueError(f"the pattern {kind} needs {name!r}: {values}")
        if not values.allows(params[name]):
            raise ValueError(f"{name!r} of the pattern {kind} must be {values}, got {params[name]!r}")
    for name in params:
        if name not in wanted:
            raise ValueError(f"the pattern {kind} has no {name!r}; it has {', '.join(wanted)}")
    return params
