"""How the options of a light are written: `soft=0.8,hard=0.2`, `10-80`, `#7f7f7f`."""

import math
import re
from collections.abc import Mapping
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
    weights: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, number = (piece.strip() for piece in part.partition("="))
        if kind not in (*KINDS, PATTERNS):
            near = get_close_matches(kind, [*KINDS, PATTERNS], n=1)
            raise ValueError(
                f"there is no kind of light {kind!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join([*KINDS, PATTERNS])}")
            )
        if kind in weights:
            raise ValueError(f"{kind!r} is given twice")
        weights[kind] = _weight(kind, number) if equals else 1.0
    if sum(weights.values()) <= 0:
        raise ValueError("at least one weight must be above 0")
    return weights


def _weight(kind: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight of {kind} is a number from 0 on, as in {kind}=0.5, got {text!r}")
    return weight


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
    low = float(found[1])
    high = float(found[2]) if found[2] else low
    if high < low:
        raise ValueError(f"a range goes from the lower to the higher number, got {text!r}")
    return low, high


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


def _from_text(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(str(value)) if isinstance(value, str | int | float) else value)


def _show_weights(weights: Mapping[str, float]) -> str:
    return ",".join(f"{kind}={_shortest(weight)}" for kind, weight in weights.items())


def _checked_backdrop(text: str) -> str:
    Backdrop.parse(text)
    return text


_Range = Annotated[tuple[float, float], _from_text(parse_range), PlainSerializer(show_range)]
WeightsOption = Annotated[dict[str, float], _from_text(parse_weights), PlainSerializer(_show_weights)]
ShareRange = Annotated[_Range, _within(0, 1)]
ElevationRange = Annotated[_Range, _within(0, 90)]
ShininessRange = Annotated[_Range, _within(1, 1000)]
BackdropOption = Annotated[str, AfterValidator(_checked_backdrop)]
