"""The report of a run: one page that needs nothing else, and one JSON object.

`render_html` shows all that is known, times included. `summary_json` has only what two equal runs have in common.
Every function below returns a fragment of HTML, empty where there is nothing to say; `_text` is the only way for words
that come from a user (keys, messages, options) into the page. What a recipe shows besides (`sections`) comes as HTML,
in which it has escaped such words itself.
"""

import json
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from lightmill.engine.charts import rate_chart, timeline
from lightmill.engine.items import Json, Status
from lightmill.engine.naming import printable
from lightmill.engine.record import (
    Failure,
    Preview,
    QueueFill,
    ReportData,
    Session,
    StageTime,
    bottleneck,
    busy_shares,
    stage_share,
)
from lightmill.engine.wording import count_of, duration, figures, memory, percent, printable_lines, rates

_OPEN_UNTIL = 12  # rows or lines that are shown unfolded
_STATES: dict[str, tuple[str, str]] = {  # status or outcome -> icon, colour
    "ok": ("ok", "ok"),
    "recovered": ("recovered", "recovered"),
    "filtered": ("filtered", "filtered"),
    "failed": ("failed", "failed"),
    "pending": ("pending", "pending"),
    "running": ("pending", "pending"),
    "finished": ("ok", "ok"),
    "interrupted": ("recovered", "recovered"),
    "stopped": ("failed", "failed"),
    "unfinished": ("pending", "pending"),
    "not begun": ("pending", "pending"),
}


def summary_json(data: ReportData) -> dict[str, Json]:
    """What came out of a run, without times, attempts, sessions or places: equal runs have equal summaries."""
    classes = sorted(data.failure_classes.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "recipe": data.recipe,
        "version": data.version,
        "source": data.source,
        "config": dict(data.config),
        "total": data.total,
        "counts": {status: data.counts[status] for status in Status if status in data.counts},
        "outputs": data.outputs,
        "failure_classes": dict(classes),
        "failures": [
            {"key": f.key, "stage": f.stage, "error_class": f.error_class, "error": f.error} for f in data.failures
        ],
        "recovered": [{"key": key, "how": how} for key, how in data.recovered],
        "filtered": [{"key": key, "why": why} for key, why in data.filtered],
        "warnings": [*sorted(data.warnings)],
        "exports": [*sorted(data.exports)],
    }


def render_html(data: ReportData) -> str:
    """The whole page. The same data give the same page, byte for byte; it is valid UTF-8 whatever the keys hold."""
    sections = [
        _Section("speed", "Speed", _speed(data)),
        _Section("pictures", "Pictures", _sheet(data.sheet)),
        *(_Section(f"more-{n}", _text(title), html) for n, (title, html) in enumerate(data.sections, 1)),
        _Section("failures", "Failures", _failures(data)),
        _Section("recovered", "Recovered", _reasons(data.recovered, data.count(Status.RECOVERED), "how")),
        _Section("filtered", "Filtered", _reasons(data.filtered, data.count(Status.FILTERED), "why")),
        _Section("warnings", "Warnings", _plain_list(data.warnings)),
        _Section("files", "Files made from the whole run", _plain_list(data.exports, code=True), short="Files"),
        _Section("options", "Options", _options(data.config)),
        _Section("sessions", "Sessions", _sessions(data.sessions)),
    ]
    present = [section for section in sections if section.body]
    body = "\n".join([_head(data), _navigation(present), *(section.html for section in present), _foot(data)])
    return page(title=f"{_headline(data)} · lightmill {data.recipe}", body=body)


# --- the frame -------------------------------------------------------------------------------------------------------


class _Section:
    """A heading and what stands below it."""

    def __init__(self, anchor: str, title: str, body: str, *, short: str = "") -> None:
        self.anchor = anchor
        self.title = title
        self.short = short or title
        self.body = body

    @property
    def html(self) -> str:
        return f'<section id="{self.anchor}"><h2>{self.title}</h2>\n{self.body}\n</section>'


def page(*, title: str, body: str) -> str:
    """A whole page in the look of reports. `body` is HTML, in which words of a user are escaped already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="lightmill">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n<body>\n"
        f"{_asset('icons.svg')}<main>\n{body}\n</main>\n<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("lightmill.engine").joinpath("report_assets", name).read_text("utf-8")


def _text(value: object) -> str:
    """Anything as text of the page: nothing in it is markup, and every character can be seen."""
    return escape(printable_lines(str(value)))


def _icon(name: str) -> str:
    return f'<svg class="icon" aria-hidden="true"><use href="#i-{name}"/></svg>'


def _chip(state: str, words: str | None = None) -> str:
    """A state as a chip: its shape and its word say the same as its colour."""
    icon, colour = _STATES.get(state, ("pending", "pending"))
    return f'<span class="chip {colour}">{_icon(icon)}{_text(words or state)}</span>'


# --- the head --------------------------------------------------------------------------------------------------------


def _head(data: ReportData) -> str:
    return (
        f'<header><p class="brand">{_icon("mill")}<b>lightmill</b> {_text(data.recipe)} {_chip(_state(data))}</p>\n'
        f"<h1>{_text(_headline(data))}</h1>\n{_lead(data)}{_source(data)}{_hint(data)}{_tally(data)}</header>"
    )


def _state(data: ReportData) -> str:
    last = data.sessions[-1].outcome if data.sessions else None
    if last == "stopped":
        return last
    if data.unfinished and data.unfinished == data.total and last is None:
        return "not begun"
    if data.unfinished:
        return last if last == "interrupted" else "unfinished"
    return "finished" if data.total else "not begun"


def _headline(data: ReportData) -> str:
    """>>> _headline(ReportData(recipe="r", version="1", source="s", config={}, counts={"ok": 2}, total=2, outputs=16))
    '2 items, 16 files, 0 failed'
    """
    if not data.total:
        return "Nothing has been run yet"
    parts = [count_of(data.total, "item"), count_of(data.outputs, "file"), f"{data.count(Status.FAILED):,} failed"]
    if data.unfinished:
        parts.append(f"{data.unfinished:,} to go")
    return ", ".join(parts)


def _lead(data: ReportData) -> str:
    if data.wall_s <= 0:
        return ""
    words = f"{duration(data.wall_s)}, {rates(data.items_per_s, data.pixels_per_s)}"
    many = f" <span>in {count_of(len(data.sessions), 'session')}</span>" if len(data.sessions) > 1 else ""
    return f'<p class="lead">{_text(words)}{many}</p>\n'


def _source(data: ReportData) -> str:
    return f'<p class="source">from {_text(data.source)}</p>\n' if data.source else ""


def _hint(data: ReportData) -> str:
    """Why the run is not through, and what to do about it."""
    last = data.sessions[-1] if data.sessions else None
    reason = f"<b>{_text(_sentence(last.reason))}</b>" if last and last.reason else ""
    more = _text(_sentence(data.how_to_continue)) if data.how_to_continue else ""
    if not (reason or more):
        return ""
    return f'<p class="hint">{" ".join(filter(None, [reason, more]))}</p>\n'


def _sentence(words: str) -> str:
    words = words[0].upper() + words[1:]
    return words if words.endswith(".") else words + "."


def _tally(data: ReportData) -> str:
    """How many items stand how: a bar in proportion, and the numbers."""
    if not data.total:
        return ""
    always = (Status.OK, Status.FAILED)
    shown = [(status, data.count(status)) for status in Status if data.count(status) or status in always]
    shown.sort(key=lambda pair: list(_STATES).index(pair[0]))
    parts = "".join(f'<i class="{_STATES[s][1]}" style="flex-grow:{n}"></i>' for s, n in shown if n)
    cells = "".join(_tally_cell(status, number, data.total) for status, number in shown)
    return f'<div class="shares" aria-hidden="true">{parts}</div>\n<ul class="tally">{cells}</ul>\n'


def _tally_cell(status: Status, number: int, total: int) -> str:
    icon, colour = _STATES[status]
    colour = colour if number else "none"
    label = f"{_icon(icon)}{status}"
    if number and status in (Status.FAILED, Status.RECOVERED, Status.FILTERED):
        anchor = "failures" if status is Status.FAILED else status
        label = f'<a href="#{anchor}">{label}</a>'
    return f'<li class="{colour}"><b>{number:,}</b> <span>{label}</span> <small>{percent(number / total)}</small></li>'


def _navigation(sections: Sequence[_Section]) -> str:
    if len(sections) < 3:
        return ""
    links = "".join(f'<a href="#{section.anchor}">{section.short}</a>' for section in sections)
    return f'<nav aria-label="Sections">{links}</nav>'


def _foot(data: ReportData) -> str:
    return f"<footer>lightmill {_text(data.version)}</footer>"


# --- speed -----------------------------------------------------------------------------------------------------------


def _speed(data: ReportData) -> str:
    session = data.main_session
    if session is None or not session.ended:
        return ""
    line = timeline(data.sessions)
    charts = rate_chart("Items per second", "items/s", line, line.items)
    charts += rate_chart("Megapixels per second", "MP/s", line, [pixels / 1e6 for pixels in line.pixels])
    number = data.sessions.index(session) + 1
    where = f"In session {number}, which did the most, " if len(data.sessions) > 1 else ""
    times = f"{_limit(session, where)}{_stages(session)}{_queues(session.queues)}"
    return f'<div class="pair"><div>{charts}</div><div>{times}</div></div>'


def _limit(session: Session, where: str) -> str:
    """The sentence that names the bottleneck."""
    limit = bottleneck(session)
    if limit is None:
        return ""
    name, _, words = limit.partition(": ")
    return f'<p class="limit">{where}<b>{_text(name)}</b> limits the speed: {_text(words)}.</p>\n'


def _stages(session: Session) -> str:
    """A bar a stage: the share of the time that it was at work."""
    if not session.stages:
        return ""
    shares = dict(busy_shares(session))
    limiting = (bottleneck(session) or "").partition(": ")[0]
    bars = [_stage_bar(stage, session, limiting) for stage in session.stages]
    if "source" in shares:
        bars.insert(0, _bar("source", shares["source"], "waited for", ["most"] if limiting == "source" else []))
    return f'<h3>Busy share of every stage</h3>\n<ul class="bars">\n{"".join(bars)}</ul>\n{_idle(session)}'


def _stage_bar(stage: StageTime, session: Session, limiting: str) -> str:
    calls = count_of(stage.calls, "call")
    each = f", {duration(stage.busy_s / stage.calls)} each" if stage.calls else ""
    inside = {"within": "inside a stage: ", "device": f"on {session.device}: "}.get(stage.segment, "")
    share = stage_share(stage, threads=session.threads, wall_s=session.wall_s)
    kinds = [kind for kind in ("device", "within") if stage.segment == kind] + ["most"] * (stage.name == limiting)
    return _bar(stage.name, share, f"{inside}{duration(stage.busy_s)} in {calls}{each}", kinds)


def _bar(name: str, share: float, words: str, kinds: Sequence[str] = ()) -> str:
    """A name, what is known of it, a share in percent, and the share as a bar."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<li class="{" ".join(kinds)}"><b>{_text(name)}</b> <small>{_text(words)}</small> '
        f"<span>{percent(share)}</span>"
        f'<div class="track" aria-hidden="true"><i style="width:{width:.1f}%"></i></div></li>\n'
    )


def _idle(session: Session) -> str:
    cpu = sum(
        stage_share(s, threads=session.threads, wall_s=session.wall_s) for s in session.stages if s.segment == "cpu"
    )
    if not cpu:
        return ""
    together = f"together busy for {percent(min(cpu, 1.0))} of {duration(session.wall_s)}"
    return f'<p class="note">{count_of(session.threads, "thread")}, {together}.</p>\n'


def _queues(queues: Sequence[QueueFill]) -> str:
    if not queues:
        return ""
    words = [f"holds {memory(q.capacity_bytes)}, full for {percent(q.full_share)} of the time" for q in queues]
    bars = [_bar(q.name, q.mean_share, said, ["queue"]) for q, said in zip(queues, words, strict=True)]
    return f'<h3>How full the queues were on average</h3>\n<ul class="bars">\n{"".join(bars)}</ul>\n'


# --- pictures --------------------------------------------------------------------------------------------------------


def _sheet(sheet: Iterable[tuple[str, Sequence[Preview]]]) -> str:
    """A contact sheet: of each item its input, larger, and what was made of it."""
    return "\n".join(_sheet_item(key, previews) for key, previews in sheet if previews)


def _sheet_item(key: str, previews: Sequence[Preview]) -> str:
    first, *rest = previews
    made = "".join(_picture(key, preview) for preview in rest)
    made = f'<div class="made">{made}</div>' if made else ""
    return f'<article class="item"><h3><code>{_text(key)}</code></h3>{_picture(key, first, "first")}{made}</article>'


def _picture(key: str, preview: Preview, kind: str = "") -> str:
    label, jpeg = preview
    source = f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"
    return (
        f'<figure class="{kind}"><img loading="lazy" decoding="async" alt="{_text(label)} of {_text(key)}" '
        f'src="{source}"><figcaption>{_text(label)}</figcaption></figure>'
    )


# --- items that did not go as planned --------------------------------------------------------------------------------


def _failures(data: ReportData) -> str:
    """Stage by stage, class by class: how many, which ones, and the command that tries them again."""
    listed: dict[str, dict[str, list[Failure]]] = {}
    totals: dict[str, dict[str, int]] = {}
    for failure in data.failures:
        listed.setdefault(failure.stage, {}).setdefault(failure.error_class, []).append(failure)
        totals.setdefault(failure.stage, {}).setdefault(failure.error_class, 0)
    for what, number in data.failure_classes.items():
        stage, _, error_class = what.rpartition(":")
        totals.setdefault(stage, {})[error_class] = number
    stages = sorted(totals, key=lambda stage: (-sum(totals[stage].values()), stage))
    return "\n".join(_failed_stage(stage, totals[stage], listed.get(stage, {})) for stage in stages)


def _failed_stage(stage: str, totals: Mapping[str, int], listed: Mapping[str, Sequence[Failure]]) -> str:
    number = sum(max(total, len(listed.get(name, ()))) for name, total in totals.items())
    groups = "".join(
        _group(name, [(f.key, f.error) for f in listed.get(name, ())], max(total, len(listed.get(name, ()))), "reason")
        for name, total in sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    command = f"lightmill retry OUT --only {shlex.quote(printable(f'failed:{stage}'))}"
    return (
        f'<div class="stage"><h3>{_chip("failed", f"{number:,} failed")} in <b>{_text(stage or "no stage")}</b></h3>\n'
        f'<p class="command">Try these again: <code data-copy>{_text(command)}</code></p>\n{groups}</div>'
    )


def _reasons(pairs: Sequence[tuple[str, str]], total: int, column: str) -> str:
    """Items grouped by what was said of them, the most frequent first."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, reason in pairs:
        groups.setdefault(reason, []).append((key, reason))
    rows = [pair for group in sorted(groups.values(), key=lambda group: (-len(group), group[0])) for pair in group]
    return _group("", rows, max(total, len(rows)), column)


def _group(name: str, rows: Sequence[tuple[str, str]], total: int, column: str) -> str:
    """A list of (key, words) that can be folded; says how many it leaves out."""
    if not total:
        return ""
    title = f"<b>{_text(name)}</b> " if name else ""
    cut = f"; the first {len(rows):,} are listed, manifest.csv has all" if 0 < len(rows) < total else ""
    summary = f"<summary>{title}{_text(count_of(total, 'item') + cut)}</summary>"
    if not rows:
        return f'<p class="note">{title}{count_of(total, "item")}: manifest.csv has them.</p>\n'
    body = "".join(f"<tr><td><code>{_text(key)}</code></td><td>{_text(words)}</td></tr>\n" for key, words in rows)
    return (
        f"<details{' open' if len(rows) <= _OPEN_UNTIL else ''}>{summary}\n"
        f'<table class="keys"><thead><tr><th scope="col">item</th><th scope="col">{column}</th></tr></thead>'
        f"<tbody>\n{body}</tbody></table></details>\n"
    )


def _plain_list(lines: Sequence[str], *, code: bool = False) -> str:
    if not lines:
        return ""
    mark = "code" if code else "span"
    return f'<ul class="plain">{"".join(f"<li><{mark}>{_text(line)}</{mark}></li>" for line in lines)}</ul>'


# --- options and sessions --------------------------------------------------------------------------------------------


def _options(config: Mapping[str, Json]) -> str:
    if not config:
        return ""
    rows = [f'<tr><th scope="row">{_text(name)}</th><td>{_value(value)}</td></tr>\n' for name, value in config.items()]
    return f'<table class="options"><tbody>\n{"".join(rows)}</tbody></table>'


def _value(value: Any) -> str:
    if value is None:
        return '<span class="soft">not given</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and value and all(isinstance(part, str | int | float) for part in value):
        return f"<code>{_text(', '.join(map(str, value)))}</code>"
    if isinstance(value, dict | list):
        return _folded(json.dumps(value, indent=1, ensure_ascii=False), _about(value)) if value else "none"
    text = str(value)
    return _folded(text, "its content") if "\n" in text.strip() else f"<code>{_text(text)}</code>"


def _about(value: dict[str, Json] | list[Json]) -> str:
    """What can be said of a nested value in a few words."""
    entries = count_of(len(value), "entry", "entries")
    name = value.get("name") if isinstance(value, dict) else None
    return f"{name}, {entries}" if name else entries


def _folded(text: str, about: str) -> str:
    """Text of several lines; folded where it is long."""
    number = len(text.splitlines())
    if number <= _OPEN_UNTIL:
        return f"<pre>{_text(text)}</pre>"
    return f"<details><summary>{_text(about)}, {number:,} lines</summary><pre>{_text(text)}</pre></details>"


_COLUMNS = ("session", "began, UTC", "took", "ended as", "items", "speed", "threads", "device", "memory", "version")


def _sessions(sessions: Sequence[Session]) -> str:
    if not sessions:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    rows = "".join(_session_row(number, session) for number, session in enumerate(sessions, 1))
    return f'<table class="sessions"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>'


def _session_row(number: int, session: Session) -> str:
    began = datetime.fromtimestamp(session.started_unix_s, UTC)
    speed = rates(session.ended / session.wall_s, session.pixels / session.wall_s) if session.wall_s > 0 else "–"
    reason = f"<small>{_text(session.reason)}</small>" if session.reason else ""
    cells = (
        str(number),
        f'<time datetime="{began:%Y-%m-%dT%H:%M:%SZ}">{began:%Y-%m-%d %H:%M:%S}</time>',
        duration(session.wall_s),
        f"{_chip(session.outcome)}{reason}",
        f"{session.ended:,}",
        speed,
        figures(session.threads),
        _text(session.device),
        memory(session.peak_rss_bytes) if session.peak_rss_bytes else "–",
        _text(session.version),
    )
    named = [f'<td data-name="{name}">{cell}</td>' for name, cell in zip(_COLUMNS, cells, strict=True)]
    return f"<tr>{''.join(named)}</tr>\n"
