"""How the options of a light are written: `soft=0.8,hard=0.2`, `10-80`, `#7f7f7f`."""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from lightmill.ops.lights import KINDS, PATTERN_SHARES
from lightmill.recipes.lighting import Backdrop

PATTERNS = "patterns"  # stands for all ten, in the shares of PATTERN_SHARES
_NUMBER = r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\s*"
_RANGE = re.compile(f"{_NUMBER}(?:-{_NUMBER})?", re.IGNORECASE)


def parse_weights(text: str) -> dict[str, float]:
    """
    >>> parse_weights("soft=0.8,hard=0.2")
    {'soft': 0.8, 'hard': 0.2}
    """
    return _weights(_pair(part) for part in text.split(","))


def _pair(text: str) -> tuple[str, str]:
    """`soft=0.8`, or `soft`, which means `soft=1`."""
    kind, equals, number = (piece.strip() for piece in text.partition("="))
    return kind, number if equals else "1"


def _weights(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for kind, number in pairs:
        if kind not in (*KINDS, PATTERNS):
            near = get_close_matches(str(kind), [*KINDS, PATTERNS], n=1)
            raise ValueError(
                f"there is no kind of light {kind!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join([*KINDS, PATTERNS])}")
            )
        if kind in weights:
            raise ValueError(f"{kind!r} is given twice")
        weights[str(kind)] = _weight(kind, number)
    if sum(weights.values()) <= 0:
        raise ValueError("at least one weight must be above 0")
    return weights


def _weight(kind: str, given: Any) -> float:
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight of {kind} is a number from 0 on, as in {kind}=0.5, got {given!r}")
    return weight


def _any_weights(value: Any) -> Any:
    """From a text, a list of kinds, or a mapping as YAML and Python have it."""
    if isinstance(value, Mapping):
        return _weights(value.items())
    if isinstance(value, list | tuple):
        return _weights(_pair(str(part)) for part in value)
    return parse_weights(str(value))


def spread_patterns(weights: Mapping[str, float]) -> dict[str, float]:
    """With the weight of `patterns` spread over the ten; kinds of weight 0 are left out."""
    spread = {kind: weight for kind, weight in weights.items() if kind != PATTERNS}
    for pattern, share in PATTERN_SHARES.items():
        spread[str(pattern)] = spread.get(str(pattern), 0.0) + share * weights.get(PATTERNS, 0.0)
    return {kind: weight for kind, weight in spread.items() if weight > 0}


def parse_range(text: str) -> tuple[float, float]:
    """
    >>> parse_range("10-80"), parse_range("0.5")
    ((10.0, 80.0), (0.5, 0.5))
    """
    found = _RANGE.fullmatch(text)
    if not found:
        raise ValueError(f"a range is written LOW-HIGH, as in 0.2-0.6, got {text!r}")
    return _ordered((float(found[1]), float(found[2] or found[1])))


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if high < low:
        raise ValueError(f"a range goes from the lower to the higher number, got {show_range(value)}")
    return value


def _within(least: float, most: float) -> Any:
    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not (least <= value[0] and value[1] <= most):
            raise ValueError(f"it lies between {least:g} and {most:g}, got {show_range(value)}")
        return value

    return AfterValidator(check)


def show_range(value: tuple[float, float]) -> str:
    return f"{_shortest(value[0])}-{_shortest(value[1])}"


def _shortest(number: float) -> str:
    """As people write it where that says all of it."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def _show_weights(weights: Mapping[str, float]) -> str:
    return ",".join(f"{kind}={_shortest(weight)}" for kind, weight in weights.items())


def _any_range(value: Any) -> Any:
    return parse_range(str(value)) if isinstance(value, str | int | float) else value


def _checked_backdrop(value: Any) -> str:
    """Raises ValueError; of a number too, which YAML makes of a colour without quotes."""
    Backdrop.parse(value if isinstance(value, str) else repr(value))
    return str(value)


_Range = Annotated[
    tuple[float, float], AfterValidator(_ordered), BeforeValidator(_any_range), PlainSerializer(show_range)
]
WeightsOption = Annotated[dict[str, float], BeforeValidator(_any_weights), PlainSerializer(_show_weights)]
ShareRange = Annotated[_Range, _within(0, 1)]
ElevationRange = Annotated[_Range, _within(0, 90)]
ShininessRange = Annotated[_Range, _within(1, 1000)]
BackdropOption = Annotated[str, BeforeValidator(_checked_backdrop)]
