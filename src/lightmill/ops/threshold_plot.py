"""A chosen threshold as a picture: how known and unknown people score, and where the line was drawn. Text alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WIDE, _HIGH = 720, 320  # px of the drawing, at its own size
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 24, 84, 56  # px around the plot
_BINS = 60
_LETTER_PX = 6.6  # the mean width of a letter, 13 px high
_LIGHT = "--page:#fff;--ink:#1a1b1e;--soft:#5c5f66;--line:#e3e0da;--known:#2c5fc4;--unknown:#b4610c"
_DARK = "--page:#191b1f;--ink:#eae8e3;--soft:#a1a4ac;--line:#2d3036;--known:#84abf7;--unknown:#eda24a"
_RULES = (
    ("", 'font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif'),
    (" .page", "fill:var(--page)"),
    (" text", "fill:var(--soft)"),
    (" .title", "fill:var(--ink);font-weight:600;font-size:15px"),
    (" .chosen", "fill:var(--ink);font-weight:600"),
    (" .grid", "stroke:var(--line)"),
    (" .cut", "stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 4"),
    (" .known", "fill:var(--known);stroke:var(--known)"),
    (" .unknown", "fill:var(--unknown);stroke:var(--unknown)"),
    (" path.area", "fill-opacity:.22;stroke-width:1.5;stroke-linejoin:round"),
)


def threshold_svg(
    known: ArrayLike,
    unknown: ArrayLike,
    *,
    threshold: float,
    title: str = "",
    names: tuple[str, str] = ("known people", "unknown people"),
    scheme: str = "auto",
) -> str:
    """Two histograms of best scores, each of equal area, with the threshold: an SVG file's text, 720 x 320 px.

    known, unknown: finite scores; either may be empty. scheme: "light", "dark", or "auto" for what the reader's screen
    asks for. Shares accepted stand beside the names.
    Raises ValueError for scores that are not finite, for none at all, and for another scheme.

    >>> threshold_svg([0.9, 0.8], [0.3], threshold=0.55)[:12]
    '<svg xmlns="'
    """
    if scheme not in ("auto", "light", "dark"):
        raise ValueError(f"scheme is auto, light or dark, got {scheme!r}")
    sides = [_finite(known, "known"), _finite(unknown, "unknown")]
    low, high = _span(np.append(np.concatenate(sides), threshold))
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(side, edges)[0] / max(side.size, 1) for side in sides]
    top = max(float(share.max()) for share in shares) or 1.0

    def x(score: float) -> float:
        return _LEFT + (score - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)

    said = [_said(name, side, threshold) for name, side in zip(names, sides, strict=True)]
    label = f"{title or 'Scores'}: {said[0]}, {said[1]}, threshold {threshold:.3f}"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="lm-threshold" viewBox="0 0 {_WIDE} {_HIGH}" '
            f'width="{_WIDE}" height="{_HIGH}" style="max-width:100%;height:auto" role="img" '
            f'aria-label="{escape(label)}">'
        ),
        _style(scheme),
        f'<rect class="page" width="{_WIDE}" height="{_HIGH}"/>',
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>' if title else "",
        _legend(said),
        _axis(low, high, top, x),
        *(_area(kind, share, top) for kind, share in zip(("unknown", "known"), shares[::-1], strict=True)),
        _cut(threshold, x(threshold)),
        "</svg>\n",
    ]
    return "\n".join(part for part in parts if part)


def _finite(scores: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64).ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"scores of {name} people must be finite, got {values[~np.isfinite(values)][0]}")
    return values


def _span(scores: NDArray[np.float64]) -> tuple[float, float]:
    """From a little below the lowest to a little above the highest."""
    if scores.size == 1 or not np.isfinite(scores).all():
        raise ValueError("a plot needs scores and a finite threshold")
    low, high = float(scores.min()), float(scores.max())
    room = max((high - low) * 0.03, 1e-3)
    return low - room, high + room


def _style(scheme: str) -> str:
    colours = f".lm-threshold{{{_DARK if scheme == 'dark' else _LIGHT}}}"
    if scheme == "auto":
        colours += f"\n@media (prefers-color-scheme:dark){{.lm-threshold{{{_DARK}}}}}"
    rules = "\n".join(f".lm-threshold{what}{{{how}}}" for what, how in _RULES)
    return f"<style>\n{colours}\n{rules}\n</style>"


def _said(name: str, scores: NDArray[np.float64], threshold: float) -> str:
    if not scores.size:
        return f"{name}: none"
    return f"{name}: {(scores >= threshold).mean():.1%} of {scores.size:,} accepted"


def _legend(said: list[str]) -> str:
    second = _LEFT + 18 + len(said[0]) * _LETTER_PX + 28
    return "".join(
        f'<rect class="{kind}" x="{at:.0f}" y="38" width="10" height="10" rx="2"/>'
        f'<text x="{at + 16:.0f}" y="48">{escape(words)}</text>'
        for kind, at, words in zip(("known", "unknown"), (_LEFT, second), said, strict=True)
    )


def _axis(low: float, high: float, top: float, x: Callable[[float], float]) -> str:
    bottom = _HIGH - _BOTTOM
    step = _round_step((high - low) / 8)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [
        f'<path class="grid" d="M{x(tick):.1f} {_TOP}V{bottom}"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{_figure(tick, digits)}</text>'
        for tick in ticks
    ]
    return (
        "".join(marks)
        + f'<path class="grid" d="M{_LEFT} {bottom}H{_WIDE - _RIGHT}"/>'
        + f'<text x="{_LEFT - 8}" y="{_TOP + 9}" text-anchor="end">{top:.0%}</text>'
        + f'<text x="{_LEFT - 8}" y="{bottom}" text-anchor="end">0</text>'
        + f'<text x="{_WIDE - _RIGHT}" y="{_HIGH - 14}" text-anchor="end">similarity to the best label</text>'
    )


def _figure(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _area(kind: str, shares: NDArray[np.float64], top: float) -> str:
    bottom, width = _HIGH - _BOTTOM, (_WIDE - _LEFT - _RIGHT) / len(shares)
    some = np.flatnonzero(shares)
    if not some.size:
        return ""
    first, last = int(some[0]), int(some[-1])
    heights = bottom - shares[first : last + 1] / top * (bottom - _TOP)
    corners = "".join(f"V{high:.1f}H{_LEFT + (first + i + 1) * width:.1f}" for i, high in enumerate(heights))
    return f'<path class="area {kind}" d="M{_LEFT + first * width:.1f} {bottom}{corners}V{bottom}Z"/>'


def _cut(threshold: float, at: float) -> str:
    left = at > _WIDE - _RIGHT - 150
    return (
        f'<path class="cut" d="M{at:.1f} {_TOP - 16}V{_HIGH - _BOTTOM}"/>'
        f'<text class="chosen" x="{at - 6 if left else at + 6:.1f}" y="{_TOP - 7}"'
        f' text-anchor="{"end" if left else "start"}">threshold {_figure(threshold, 3)}</text>'
    )
