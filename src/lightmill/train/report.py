"""The page of a training: curves of what was measured, tables of what came out, and what it was trained with."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

from lightmill.engine.report import page
from lightmill.engine.wording import printable_lines

History: TypeAlias = Sequence[Mapping[str, float | None]]
Section: TypeAlias = tuple[str, str]  # title, HTML

_WIDE, _HIGH = 720, 260  # px of a chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 16, 36
_COLOURS = ("#2c5fc4", "#b4610c", "#2a7f62", "#8d3fa8", "#b3273a", "#5c5f66")
_DARK = ("#84abf7", "#eda24a", "#6cc9a4", "#cf95e6", "#f18b98", "#a1a4ac")


def training_page(*, title: str, lead: str, sections: Sequence[Section], options: Mapping[str, object]) -> str:
    """A whole page. The HTML of sections is taken as it is; title, lead and options are text."""
    shown = [*sections, ("Options", table([(name, _value(value)) for name, value in options.items()]))]
    body = "\n".join(f"<section><h2>{text(name)}</h2>\n{html}\n</section>" for name, html in shown if html)
    head = f'<header><p class="brand">lightmill</p><h1>{text(title)}</h1><p class="lead">{text(lead)}</p></header>'
    return page(title=title, body=f"{head}\n{body}")


def text(value: object) -> str:
    """Anything as text of the page."""
    return escape(printable_lines(str(value)))


def table(rows: Sequence[Sequence[object]], *, head: Sequence[str] = ()) -> str:
    """Rows of text and numbers; the first cell of a row names it. Empty where there are none."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(_value(cell))}</td>" for cell in others)
        + "</tr>"
        for first, *others in rows
    ]
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div style="overflow-x:auto"><table>{thead}<tbody>\n{"".join(lines)}</tbody></table></div>'


def note(words: str) -> str:
    """What a table means, in small letters."""
    return f'<p class="note">{text(words)}</p>'


def picture(jpeg: bytes, caption: str, *, height_px: int = 120) -> str:
    """A small picture with words below it."""
    data = b64encode(jpeg).decode()
    return (
        f'<figure style="display:inline-block;margin:0 8px 12px 0;vertical-align:top">'
        f'<img src="data:image/jpeg;base64,{data}" alt="" style="height:{height_px}px;width:auto;border-radius:4px">'
        f'<figcaption style="font-size:12px;max-width:240px">{text(caption)}</figcaption></figure>'
    )


def curves(history: History, names: Sequence[str], *, x: str = "epoch") -> str:
    """A chart of columns of the history against another; lines of what is not known end there. SVG."""
    lines = {name: _points(history, x, name) for name in names}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    every = [point for points in lines.values() for point in points]
    (left, right), (low, high) = (_span([point[axis] for point in every]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        across = _LEFT + (point[0] - left) / (right - left) * (_WIDE - _LEFT - _RIGHT)
        return f"{across:.1f},{_TOP + (high - point[1]) / (high - low) * (_HIGH - _TOP - _BOTTOM):.1f}"

    drawn = []
    for number, (name, points) in enumerate(lines.items()):
        kind = f"c{number % len(_COLOURS)}"
        drawn.append(f'<polyline class="{kind}" points="{" ".join(map(place, points))}"/>')
        y = _TOP + 16 + 20 * number
        drawn.append(f'<text class="{kind}" x="{_WIDE - _RIGHT + 12}" y="{y}">{text(name)} {points[-1][1]:.3g}</text>')
    ticks = [(low, _HIGH - _BOTTOM), ((low + high) / 2, (_TOP + _HIGH - _BOTTOM) / 2), (high, _TOP)]
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value, y in ticks
    )
    foot = (
        f'<text x="{_LEFT}" y="{_HIGH - 12}">{text(x)} {left:.4g}</text>'
        f'<text x="{_WIDE - _RIGHT}" y="{_HIGH - 12}" text-anchor="end">{right:.4g}</text>'
    )
    return (
        f'<svg class="curves" role="img" viewBox="0 0 {_WIDE} {_HIGH}" style="max-width:{_WIDE}px;width:100%">'
        f"<style>{_style()}</style>{grid}{foot}{''.join(drawn)}</svg>"
    )


def _style() -> str:
    rules = [
        ".curves{font:12px system-ui,sans-serif}.curves text{fill:currentColor}",
        ".curves .grid{stroke:currentColor;stroke-opacity:.18}.curves polyline{fill:none;stroke-width:2}",
        *(f".curves polyline.c{n}{{stroke:{c}}}.curves text.c{n}{{fill:{c}}}" for n, c in enumerate(_COLOURS)),
        "@media (prefers-color-scheme:dark){",
        *(f".curves polyline.c{n}{{stroke:{c}}}.curves text.c{n}{{fill:{c}}}" for n, c in enumerate(_DARK)),
        "}",
    ]
    return "".join(rules)


def _points(history: History, x: str, name: str) -> list[tuple[float, float]]:
    pairs = [(row.get(x), row.get(name)) for row in history]
    return [
        (float(at), float(value))
        for at, value in pairs
        if at is not None and value is not None and math.isfinite(float(value))
    ]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "–"
    return "–" if value is None or value == "" else str(value)
