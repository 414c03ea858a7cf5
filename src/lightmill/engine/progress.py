"""What a user sees of a run while it is at work.

Three ways to show it, all written to stderr: a live display for a terminal, JSON lines for programs and logs, and plain
messages only. JSON lines, one object each, at the start, about once a second, and at the end:

    {"event": "start", "title"}
    {"event": "progress", "elapsed_s", "total", "ended", "done_before", "counts", "items_per_s", "pixels_per_s",
     "eta_s", "failures", "busy", "full_queue", "note"}
    {"event": "message", "text"}
    {"event": "finish", "outcome", and all keys of "progress"}

`total`, `eta_s`, `full_queue` and `note` may be null; `counts` always has ok, recovered, filtered and failed,
`failures` maps "stage:Class" to items, `busy` maps a stage to the share of the time that it was at work (0 to 1).

`say` may be called from a signal handler: a line that comes while another is being written waits for that one.
"""

import atexit
import json
import os
import shlex
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, TypeAlias, cast

from lightmill.engine.items import Status
from lightmill.engine.naming import printable
from lightmill.engine.record import Outcome
from lightmill.engine.wording import count_of, duration, percent, rates

if TYPE_CHECKING:
    from rich.console import RenderableType

Mode: TypeAlias = Literal["auto", "rich", "json", "none"]

END_STATUSES = (Status.OK, Status.RECOVERED, Status.FILTERED, Status.FAILED)
_LINE_EVERY_S = 1.0
_REFRESH_EVERY_S = 1 / 8
_BUSIEST = 4  # stages on the live display
_WORST = 3  # classes of failures on it
_STYLES = {Status.OK: "green", Status.RECOVERED: "yellow", Status.FILTERED: "cyan", Status.FAILED: "bold red"}


@dataclass(frozen=True)
class Snapshot:
    """How far a run is. Rates are over this session; `counts` and `done_before` are over all sessions."""

    elapsed_s: float
    total: int | None  # items in the source, where that is known
    ended: int  # in this session
    done_before: int
    counts: dict[str, int]  # status -> items
    items_per_s: float
    pixels_per_s: float
    eta_s: float | None
    failures: dict[str, int]  # "stage:Class" -> items
    busy: list[tuple[str, float]]  # stage, share of the time that it was at work
    full_queue: str | None
    note: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to what can be relied on."""
        values = asdict(self)
        values["counts"] = {status: self.counts.get(status, 0) for status in END_STATUSES}
        values["busy"] = {name: round(share, 3) for name, share in self.busy}
        for name, places in (("elapsed_s", 3), ("items_per_s", 3), ("pixels_per_s", None), ("eta_s", 1)):
            values[name] = None if values[name] is None else round(values[name], places)
        return values


class Progress(Protocol):
    """Shows a run. Calls come from one thread; `say` also from its signal handlers."""

    def start(self, title: str) -> None:
        """The run begins."""
        ...

    def update(self, snapshot: Snapshot) -> None:
        """How far it is. May be called as often as one likes: not every call is shown."""
        ...

    def say(self, line: str) -> None:
        """A message or a warning, in one line."""
        ...

    def finish(self, snapshot: Snapshot, outcome: str) -> None:
        """The run is over; the terminal is left as it was."""
        ...


def open_progress(mode: Mode, stream: TextIO | None = None) -> Progress:
    """The display for a stream (stderr where none is given).

    `auto` is a live display on a terminal that can move its cursor, and JSON lines otherwise.
    """
    stream = stream if stream is not None else sys.stderr
    if stream is None:  # a process without standard streams
        return _Messages(None)
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown") else "json"
    if mode == "rich":
        return _LiveDisplay(stream)
    return _JsonLines(stream) if mode == "json" else _Messages(stream)


def final_summary(
    counts: Mapping[str, int],
    *,
    outcome: Outcome,
    wall_s: float,
    out: str | os.PathLike[str],
    report: str | os.PathLike[str] | None = None,
    items_per_s: float = 0.0,
    pixels_per_s: float = 0.0,
) -> str:
    """The closing lines for a terminal: how it ended, where the report is, what to do with what failed.

    >>> print(final_summary({"ok": 12, "failed": 1}, outcome="finished", wall_s=3.2, out="out", report="report.html"))
    done: 12 items ok, 1 failed in 3.2 s
    report: report.html
    again, only what failed: lightmill retry out --only failed
    """
    took = duration(wall_s)
    rate = f" ({rates(items_per_s, pixels_per_s)})" if items_per_s > 0 else ""
    lines = [f"{_ENDED_AS[outcome]}: {_ends_in_words(counts)} in {took}{rate}"]
    if report is not None:
        lines.append(f"report: {printable(os.fspath(report))}")
    if counts.get(Status.FAILED):
        lines.append(f"again, only what failed: lightmill retry {printable(shlex.quote(os.fspath(out)))} --only failed")
    if outcome != "finished":
        lines.append("the same command again goes on from here")
    return "\n".join(lines)


_ENDED_AS: dict[str, str] = {"finished": "done", "interrupted": "interrupted", "stopped": "stopped"}


def _ends_in_words(counts: Mapping[str, int]) -> str:
    """`12 items ok, 1 recovered, 0 failed`: what did not happen is left out, but for ok and failed."""
    words = [f"{count_of(counts.get(Status.OK, 0), 'item')} ok"]
    words += [f"{counts[status]:,} {status}" for status in (Status.RECOVERED, Status.FILTERED) if counts.get(status)]
    return ", ".join([*words, f"{counts.get(Status.FAILED, 0):,} failed"])


# --- writing to a stream that may be gone ----------------------------------------------------------------------------


class _Lines:
    """Whole lines to a stream, one after the other, also when a signal handler writes in the middle of a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._pending: deque[str] = deque()
        self._writing = threading.Lock()

    def put(self, line: str) -> None:
        """Write a line, now or as soon as what is being written is through."""
        self._pending.append(line)
        self._write_pending()

    def apart(self, write: Callable[[], object]) -> None:
        """Do something else that writes to the stream; lines that come meanwhile follow it."""
        with self._writing:
            write()
        self._write_pending()

    def _write_pending(self) -> None:
        while self._pending and self._writing.acquire(blocking=False):  # whoever holds it takes the line along
            try:
                while self._pending:
                    self._write(self._pending.popleft())
            finally:
                self._writing.release()


class _Stream:
    """A text stream that takes any text, and is silent once its reader has gone: the run goes on.

    rich would end the process at a broken pipe, so it gets this in place of the stream itself.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = (stream and stream.encoding) or "utf-8"

    def write(self, text: str) -> int:
        shown = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._try(lambda stream: stream.write(shown))
        return len(text)

    def write_line(self, line: str) -> None:
        self.write(line + "\n")
        self.flush()

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return bool(self._try(lambda stream: stream.isatty()))

    def _try(self, what: Callable[[TextIO], object]) -> object:
        if self._stream is None:
            return None
        try:
            return what(self._stream)
        except (OSError, ValueError):  # ValueError: closed by whoever gave it to us
            self._stream = None
            return None


# --- messages only ---------------------------------------------------------------------------------------------------


class _Messages:
    """Only what has to be said, as plain lines."""

    def __init__(self, stream: TextIO | None) -> None:
        self._lines = _Lines(_Stream(stream).write_line)

    def start(self, title: str) -> None:
        """Not shown."""

    def update(self, snapshot: Snapshot) -> None:
        """Not shown."""

    def say(self, line: str) -> None:
        self._lines.put(printable(line))

    def finish(self, snapshot: Snapshot, outcome: str) -> None:
        """Not shown."""


# --- JSON lines ------------------------------------------------------------------------------------------------------


class _JsonLines:
    """One JSON object a line; the module's docstring has the keys."""

    def __init__(self, stream: TextIO) -> None:
        self._lines = _Lines(_Stream(stream).write_line)
        self._shown_s = 0.0

    def start(self, title: str) -> None:
        self._put("start", {"title": title})

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.elapsed_s - self._shown_s < _LINE_EVERY_S:
            return
        self._shown_s = snapshot.elapsed_s
        self._put("progress", snapshot.to_json())

    def say(self, line: str) -> None:
        self._put("message", {"text": line})

    def finish(self, snapshot: Snapshot, outcome: str) -> None:
        self._put("finish", {"outcome": outcome, **snapshot.to_json()})

    def _put(self, event: str, values: Mapping[str, Any]) -> None:
        self._lines.put(json.dumps({"event": event, **values}))  # ASCII: any stream takes it


# --- a live display --------------------------------------------------------------------------------------------------


class _LiveDisplay:
    """A few lines at the bottom of the terminal that are drawn anew, at most eight times a second.

    They vanish at the end: what is left to say then is `final_summary`'s. On a stream that is no terminal the last
    state is written once instead.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        quiet = cast("TextIO", _Stream(stream))
        self._console = Console(file=quiet, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._lines = _Lines(self._print)
        self._title = ""
        self._shown_s: float | None = None

    def start(self, title: str) -> None:
        self._title = printable(title)
        if not self._console.is_terminal:
            self.say(title)
            return
        atexit.register(self._close)  # an error on the way out leaves no half display behind
        self._lines.apart(self._live.start)
        # Live hides the cursor; a process that is killed could not bring it back, so it is never hidden for long
        self._lines.apart(self._console.show_cursor)

    def update(self, snapshot: Snapshot) -> None:
        due = self._shown_s is None or snapshot.elapsed_s - self._shown_s >= _REFRESH_EVERY_S
        if due and self._console.is_terminal:
            self._shown_s = snapshot.elapsed_s
            shown = _display(self._title, snapshot, self._console.width)
            self._lines.apart(lambda: self._live.update(shown, refresh=True))

    def say(self, line: str) -> None:
        self._lines.put(printable(line))

    def finish(self, snapshot: Snapshot, outcome: str) -> None:
        if not self._console.is_terminal:
            last = _display(f"{self._title} ({outcome})", snapshot, self._console.width)
            self._lines.apart(lambda: self._console.print(last))
        self._close()

    def _close(self) -> None:
        atexit.unregister(self._close)
        self._lines.apart(self._live.stop)

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)


def _display(title: str, snapshot: Snapshot, width: int) -> "RenderableType":
    """The lines of the live display; each is cut at the width of the terminal."""
    from rich.console import Group
    from rich.text import Text

    rows = [Text(title, style="bold"), _bar_row(snapshot, width), _counts_row(snapshot), _speed_row(snapshot)]
    if snapshot.failures:
        rows.append(_failures_row(snapshot.failures))
    if snapshot.note:
        rows.append(Text(printable(snapshot.note), style="yellow"))
    for row in rows:
        if isinstance(row, Text):
            row.no_wrap, row.overflow = True, "ellipsis"
    return Group(*rows)


def _bar_row(snapshot: Snapshot, width: int) -> "RenderableType":
    """The bar, what it means, and the time that is left."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = snapshot.done_before + snapshot.ended
    total = snapshot.total if snapshot.total is None else max(snapshot.total, done)
    words = count_of(done, "item") if total is None else f"{done:,} of {count_of(total, 'item')}"
    times = duration(snapshot.elapsed_s)
    if snapshot.eta_s is not None:
        times += f", {duration(snapshot.eta_s)} left"
    share = "" if not total else percent(done / total).rjust(5)
    row = Table.grid(padding=(0, 2, 0, 0))
    if width >= 60:
        bar = ProgressBar(total=total, completed=done, width=min(30, width // 3), pulse=total is None)
        row.add_row(bar, share, words, Text(times, style="dim"))
    else:
        row.add_row(share.strip() or words, times)
    return row


def _counts_row(snapshot: Snapshot) -> "RenderableType":
    """How the items ended: what happened in colour, what did not dimmed."""
    from rich.text import Text

    parts = []
    for status in END_STATUSES:
        number = snapshot.counts.get(status, 0)
        parts.append(Text(f"{number:,} {status}", style=_STYLES[status] if number else "dim"))
    return Text(" · ", style="dim").join(parts)


def _speed_row(snapshot: Snapshot) -> "RenderableType":
    """How fast it goes, and where the time goes."""
    from rich.text import Text

    busiest = sorted(snapshot.busy, key=lambda pair: pair[1], reverse=True)[:_BUSIEST]
    row = Text(rates(snapshot.items_per_s, snapshot.pixels_per_s))
    if busiest:
        row.append("   busy ", style="dim")
        row.append(", ".join(f"{printable(name)} {percent(share)}" for name, share in busiest))
    if snapshot.full_queue:
        row.append("   queue full ", style="dim")
        row.append(printable(snapshot.full_queue))
    return row


def _failures_row(failures: Mapping[str, int]) -> "RenderableType":
    """The most frequent reasons of failures."""
    from rich.text import Text

    worst = sorted(failures.items(), key=lambda pair: (-pair[1], pair[0]))
    row = Text("failed ", style="bold red")
    row.append(", ".join(f"{printable(what)} {number:,}" for what, number in worst[:_WORST]))
    if len(worst) > _WORST:
        row.append(f", and {count_of(len(worst) - _WORST, 'other reason')}", style="dim")
    return row
