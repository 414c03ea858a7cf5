"""Charts of a report: inline SVG for the shapes, HTML for the words, so that both are sharp at any width."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from lightmill.engine.record import Session
from lightmill.engine.wording import duration, figures

_MOST_BINS = 72
_ITEMS_A_BIN = 3
_WIDE, _HIGH = 1000, 100  # of the drawing, stretched to the place it gets


@dataclass(frozen=True)
class Timeline:
    """All sessions one after the other, as if there had been no time between them."""

    times_s: list[float]
    items: list[int]  # ended until then
    pixels: list[int]  # worked on until then
    starts_s: list[float]  # of each session

    @property
    def end_s(self) -> float:
        return self.times_s[-1] if self.times_s else 0.0


def timeline(sessions: Sequence[Session]) -> Timeline:
    """Join the sessions: totals go on from one to the next."""
    joined = Timeline([], [], [], [])
    start_s, items, pixels = 0.0, 0, 0
    for session in sessions:
        inner = [point for point in session.series if 0 < point[0] < session.wall_s]
        joined.starts_s.append(start_s)
        for t_s, ended, worked in [(0.0, 0, 0), *inner, (session.wall_s, session.ended, session.pixels)]:
            joined.times_s.append(start_s + t_s)
            joined.items.append(items + ended)
            joined.pixels.append(pixels + worked)
        start_s, items, pixels = start_s + session.wall_s, items + session.ended, pixels + session.pixels
    return joined


def rates_in_bins(times_s: Sequence[float], totals: Sequence[int], bins: int) -> list[float]:
    """The mean rate in each of `bins` equal stretches of time; between known times totals are taken to grow evenly.

    >>> rates_in_bins([0, 1, 2], [0, 4, 6], 2)
    [4.0, 2.0]
    """
    width_s = (times_s[-1] - times_s[0]) / bins
    edges = [times_s[0] + i * width_s for i in range(bins + 1)]
    at_edges = [_total_at(edge, times_s, totals) for edge in edges]
    return [(after - before) / width_s for before, after in pairwise(at_edges)]


def _total_at(time_s: float, times_s: Sequence[float], totals: Sequence[int]) -> float:
    after = bisect_right(times_s, time_s)
    if after == 0:
        return totals[0]
    if after == len(times_s):
        return totals[-1]
    t0, t1 = times_s[after - 1], times_s[after]
    part = (time_s - t0) / (t1 - t0)
    return totals[after - 1] + part * (totals[after] - totals[after - 1])


def nice_ticks(most: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to at least `most` > 0, about `count` steps of 1, 2, 2.5 or 5 times a power of ten.

    >>> nice_ticks(8.6), nice_ticks(253)
    ([0.0, 2.5, 5.0, 7.5, 10.0], [0.0, 100.0, 200.0, 300.0])
    """
    rough = most / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(most / step * 0.999) + 1)]


def time_ticks(end_s: float) -> list[tuple[float, str]]:
    """(seconds, label) at round times inside 0 … `end_s`; seconds, minutes or hours as suits the length."""
    unit_s, unit = next(((s, u) for s, u in ((3600, "h"), (60, "min")) if end_s >= 3 * s), (1, "s"))
    values = [value for value in nice_ticks(end_s / unit_s, 5) if value * unit_s <= end_s * 1.001]
    return [(value * unit_s, f"{figures(value)} {unit}") for value in values]


def rate_chart(name: str, unit: str, line: Timeline, totals: Sequence[float]) -> str:
    """A step chart of a rate over the time of all sessions, with its mean; empty where there is nothing to show."""
    if line.end_s <= 0 or totals[-1] <= 0:
        return ""
    bins = max(4, min(_MOST_BINS, line.items[-1] // _ITEMS_A_BIN))
    rates = [rate / 1e6 for rate in rates_in_bins(line.times_s, [round(1e6 * total) for total in totals], bins)]
    mean = totals[-1] / line.end_s
    ticks = nice_ticks(max(rates))
    top = ticks[-1]
    summary = f"mean {figures(mean)}, highest {figures(max(rates))} {unit}"
    said = escape(f"{name} over {duration(line.end_s)}: {summary}")
    return (
        f'<figure class="chart"><figcaption><b>{escape(name)}</b> '
        f'<span class="soft">{escape(summary)}</span></figcaption>'
        f'<div class="plot">{_y_labels(ticks)}'
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f"{_grid(ticks)}{_steps(rates, top)}{_starts(line)}{_mean_line(mean, top)}</svg>"
        f"{_start_labels(line)}{_x_labels(line.end_s)}</div></figure>"
    )


def _steps(rates: Sequence[float], top: float) -> str:
    width = _WIDE / len(rates)
    heights = [_HIGH * (1 - rate / top) for rate in rates]
    corners = "".join(f"V{high:.2f}H{(i + 1) * width:.2f}" for i, high in enumerate(heights))
    outline = f"M0 {heights[0]:.2f}{corners}"
    return f'<path class="area" d="M0 {_HIGH}{corners}V{_HIGH}Z"/><path class="line" d="{outline}"/>'


def _grid(ticks: Sequence[float]) -> str:
    places = [_HIGH * (1 - tick / ticks[-1]) for tick in ticks]
    return "".join(f'<path class="grid" d="M0 {place:.2f}H{_WIDE}"/>' for place in places)


def _mean_line(mean: float, top: float) -> str:
    place = _HIGH * (1 - mean / top)
    return f'<path class="mean" d="M0 {place:.2f}H{_WIDE}"/>'


def _starts(line: Timeline) -> str:
    """Where one session ended and the next began."""
    places = [_WIDE * start_s / line.end_s for start_s in line.starts_s[1:]]
    return "".join(f'<path class="start" d="M{place:.2f} 0V{_HIGH}"/>' for place in places)


def _start_labels(line: Timeline) -> str:
    """Names of the sessions at their starts; left out where they would lie on top of each other."""
    shares = [start_s / line.end_s for start_s in line.starts_s]
    if len(shares) < 2 or min(after - before for before, after in pairwise([*shares, 1.0])) < 0.18:
        return ""
    labels = "".join(f'<span style="left:{100 * share:.2f}%">session {i}</span>' for i, share in enumerate(shares, 1))
    return f'<div class="at" aria-hidden="true">{labels}</div>'


def _y_labels(ticks: Sequence[float]) -> str:
    labels = "".join(f'<span style="bottom:{100 * tick / ticks[-1]:.2f}%">{figures(tick)}</span>' for tick in ticks)
    return f'<div class="y" aria-hidden="true">{labels}</div>'


def _x_labels(end_s: float) -> str:
    ticks = time_ticks(end_s)
    labels = "".join(f'<span style="left:{100 * at_s / end_s:.2f}%">{label}</span>' for at_s, label in ticks)
    return f'<div class="x" aria-hidden="true">{labels}</div>'
