"""Progress: JSON lines with stable keys, a live display on a real (pseudo) terminal, and plain messages."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightmill.engine.progress import Progress, Snapshot, final_summary, open_progress

SNAPSHOT = Snapshot(
    elapsed_s=12.3456,
    total=1200,
    ended=620,
    done_before=40,
    counts={"ok": 655, "recovered": 2, "failed": 3},
    items_per_s=50.2214,
    pixels_per_s=253_400_000.4,
    eta_s=10.75,
    failures={"decode:DamagedImage": 2, "decode:NotAnImage": 1},
    busy=[("decode", 0.2812), ("encode", 0.4344)],
    full_queue="before mask",
    note=None,
)
SNAPSHOT_KEYS = {
    *("elapsed_s", "total", "ended", "done_before", "counts", "items_per_s", "pixels_per_s", "eta_s"),
    *("failures", "busy", "full_queue", "note"),
}
EMPTY = Snapshot(0.0, 0, 0, 0, {}, 0.0, 0.0, None, {}, [], None, None)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- JSON lines ------------------------------------------------------------------------------------------------------


def test_json_has_a_start_a_line_a_second_and_a_finish() -> None:
    stream = io.StringIO()
    progress = open_progress("json", stream)
    progress.start("split360: folder tour")
    for tick in range(1, 36):
        progress.update(replace(SNAPSHOT, elapsed_s=tick / 10))
    progress.say("a warning")
    progress.finish(SNAPSHOT, "finished")
    found = lines(stream)
    assert [line["event"] for line in found] == ["start", "progress", "progress", "progress", "message", "finish"]
    assert [line["elapsed_s"] for line in found if line["event"] == "progress"] == [1.0, 2.0, 3.0]
    assert found[0] == {"event": "start", "title": "split360: folder tour"}
    assert found[4] == {"event": "message", "text": "a warning"}
    assert found[5].keys() == SNAPSHOT_KEYS | {"event", "outcome"}
    assert found[5]["outcome"] == "finished"


def test_json_values() -> None:
    assert SNAPSHOT.to_json() == {
        "elapsed_s": 12.346,
        "total": 1200,
        "ended": 620,
        "done_before": 40,
        "counts": {"ok": 655, "recovered": 2, "filtered": 0, "failed": 3},
        "items_per_s": 50.221,
        "pixels_per_s": 253_400_000,
        "eta_s": 10.8,
        "failures": {"decode:DamagedImage": 2, "decode:NotAnImage": 1},
        "busy": {"decode": 0.281, "encode": 0.434},
        "full_queue": "before mask",
        "note": None,
    }


def test_json_says_null_for_what_is_not_known() -> None:
    unknown = replace(SNAPSHOT, total=None, eta_s=None, full_queue=None).to_json()
    assert unknown.keys() == SNAPSHOT_KEYS
    assert (unknown["total"], unknown["eta_s"], unknown["full_queue"]) == (None, None, None)


def test_json_takes_any_text() -> None:
    stream = io.StringIO()
    open_progress("json", stream).say("bad\udcff\nname\x1b[31m")
    assert stream.getvalue().isascii()
    assert lines(stream) == [{"event": "message", "text": "bad\udcff\nname\x1b[31m"}]


def test_every_line_is_flushed() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    progress = open_progress("json", stream)
    progress.start("x")
    assert json.loads(raw.getvalue()) == {"event": "start", "title": "x"}


@pytest.mark.parametrize("mode", ["json", "none", "rich"])
def test_a_reader_that_has_gone_does_not_end_the_run(mode: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", buffering=1) as stream:
        play(open_progress(mode, stream))
        with pytest.raises(BrokenPipeError):  # the stream is as broken as the test wants it
            os.write(writer, b"x")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # or closing it would fail


@pytest.mark.parametrize("mode", ["json", "none", "rich"])
def test_a_closed_stream_does_not_end_the_run(mode: Any) -> None:
    stream = io.StringIO()
    progress = open_progress(mode, stream)
    stream.close()
    play(progress)
    assert stream.closed


def play(progress: Progress) -> None:
    """A whole run."""
    progress.start("split360: folder tour")
    progress.update(SNAPSHOT)
    progress.say("a warning")
    progress.finish(SNAPSHOT, "finished")


# --- messages only, and the choice -----------------------------------------------------------------------------------


def test_none_shows_messages_only_in_one_printable_line_each() -> None:
    stream = io.StringIO()
    progress = open_progress("none", stream)
    play(progress)
    progress.say("bad\n\x1b[31mname")
    assert stream.getvalue() == "a warning\nbad\\n\\x1b[31mname\n"


def test_messages_get_through_an_ascii_stream() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    open_progress("none", stream).say("café 日本")
    assert raw.getvalue() == b"caf\\xe9 \\u65e5\\u672c\n"


def test_auto_is_json_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    open_progress("auto", stream).start("x")
    assert lines(stream) == [{"event": "start", "title": "x"}]


def test_a_process_without_stderr_runs_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    play(open_progress("auto"))


def test_say_inside_a_write_waits_for_its_turn() -> None:
    """As a signal handler does that runs in the middle of a line."""

    class Interrupting(io.StringIO):
        at_write: Callable[[], None] | None = None

        def write(self, text: str) -> int:
            handler, self.at_write = self.at_write, None
            half = len(text) // 2
            super().write(text[:half])
            if handler:
                handler()
            return half + super().write(text[half:])

    stream = Interrupting()
    progress = open_progress("none", stream)
    stream.at_write = lambda: progress.say("from the handler")
    progress.say("under way")
    assert stream.getvalue() == "under way\nfrom the handler\n"


# --- the live display ------------------------------------------------------------------------------------------------


def test_rich_without_a_terminal_writes_the_last_state_once() -> None:
    stream = io.StringIO()
    play(open_progress("rich", stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.count("660 of 1,200 items") == 1
    assert "split360: folder tour (finished)" in text
    assert "655 ok · 2 recovered · 0 filtered · 3 failed" in text
    assert "50.2 items/s, 253 MP/s   busy encode 43 %, decode 28 %   queue full before mask" in text
    assert "failed decode:DamagedImage 2, decode:NotAnImage 1" in text
    assert "55 %" in text
    assert "12 s, 11 s left" in text


def test_rich_reads_no_markup_in_what_a_user_has_named() -> None:
    stream = io.StringIO()
    progress = open_progress("rich", stream)
    progress.start("[red]tour[/red] :smile:")
    progress.say("[/nothing] is closed here")
    assert stream.getvalue() == "[red]tour[/red] :smile:\n[/nothing] is closed here\n"


def test_rich_lists_the_worst_failures_and_counts_the_rest() -> None:
    stream = io.StringIO()
    failures = {f"decode:Kind{i}": i for i in range(1, 7)}
    open_progress("rich", stream).finish(replace(SNAPSHOT, failures=failures), "finished")
    assert "failed decode:Kind6 6, decode:Kind5 5, decode:Kind4 4, and 3 other reasons" in stream.getvalue()


@pytest.mark.parametrize(
    "snapshot",
    [
        replace(SNAPSHOT, total=None, eta_s=None),
        replace(
            SNAPSHOT, total=0, ended=0, done_before=0, counts={}, busy=[], failures={}, items_per_s=0, pixels_per_s=0
        ),
        replace(SNAPSHOT, total=10),  # the source has grown
        replace(SNAPSHOT, note="batch size 8 after running out of memory"),
    ],
)
def test_rich_shows_any_snapshot(snapshot: Snapshot) -> None:
    stream = io.StringIO()
    open_progress("rich", stream).finish(snapshot, "finished")
    assert "recovered" in stream.getvalue()
    assert (snapshot.note or "") in stream.getvalue()


SHOW = """
import sys, os, signal
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_progress import SNAPSHOT
from lightmill.engine.progress import open_progress
progress = open_progress("auto")
progress.start("split360: folder tour")
for tick in range(1, 31):
    progress.update(replace(SNAPSHOT, elapsed_s=tick / 20))
progress.say("a warning")
{then}
"""


def on_terminal(then: str) -> tuple[int, str]:
    """(exit code, all that a terminal got) of a process that shows a run and then does something."""
    ours, theirs = pty.openpty()
    here = Path(__file__).resolve()
    env = dict(os.environ) | {
        "TERM": "xterm",
        "COLUMNS": "100",
        "LINES": "30",
        "PYTHONPATH": str(here.parents[2] / "src"),
    }
    env.pop("NO_COLOR", None)
    script = SHOW.format(tests=str(here.parent), then=then)
    child = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    try:
        got = b"".join(pieces(ours))
        return child.wait(timeout=30), got.decode("utf-8", "replace")
    finally:
        os.close(ours)
        child.kill()
        child.wait()


def pieces(terminal: int) -> Iterator[bytes]:
    """What a process writes to its terminal, until it ends."""
    with suppress(OSError):  # so Linux says that the other end was closed
        while piece := os.read(terminal, 65536):
            yield piece


ENDS = {
    "finish": ('progress.finish(SNAPSHOT, "finished")', 0),
    "an error": ('raise SystemExit("boom")', 1),
    "a kill": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_cursor_is_there_after_every_end(end: str) -> None:
    then, wanted = ENDS[end]
    code, text = on_terminal(then)
    assert code == wanted, text
    assert "660 of 1,200 items" in text
    assert "a warning" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # show after the last hide


def test_the_display_is_drawn_at_most_eight_times_a_second() -> None:
    _, text = on_terminal(ENDS["a kill"][0])
    # 1.45 s from the first update to the last, in steps of 0.05 s: drawn at 0.05, 0.2, 0.35 ... 1.4; and once for `say`
    assert 8 <= text.count("660 of 1,200 items") <= 1 + 1.45 * 8 + 1


STORM = """
said = 0
def handler(*_):
    global said
    progress.say(f"line {said} of the handler")
    said += 1
    if said < 100:
        signal.setitimer(signal.ITIMER_REAL, 0.002)  # anew, so that the rest of the program has its turn as well
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002)
for tick in range(31, 331):
    progress.update(replace(SNAPSHOT, elapsed_s=tick))
signal.setitimer(signal.ITIMER_REAL, 0)
progress.finish(SNAPSHOT, "finished")
print("said", said)
"""


def test_a_storm_of_signals_loses_no_line_and_ends_nothing() -> None:
    code, text = on_terminal(STORM)
    assert code == 0, text
    said = int(re.findall(r"said (\d+)", text)[-1])
    assert said > 10
    assert [int(number) for number in re.findall(r"line (\d+) of the handler", text)] == list(range(said))


# --- the closing lines -----------------------------------------------------------------------------------------------


def test_summary_of_a_good_run() -> None:
    speed = {"items_per_s": 8.6, "pixels_per_s": 253e6}
    text = final_summary(
        {"ok": 1200}, outcome="finished", wall_s=3.21, out="out", report=Path("out/report.html"), **speed
    )
    assert text.splitlines() == [
        "done: 1,200 items ok, 0 failed in 3.2 s (8.6 items/s, 253 MP/s)",
        "report: out/report.html",
    ]


def test_summary_of_a_run_with_everything() -> None:
    counts = {"ok": 1, "recovered": 2, "filtered": 3, "failed": 4}
    text = final_summary(counts, outcome="interrupted", wall_s=125, out="my out")
    assert text.splitlines() == [
        "interrupted: 1 item ok, 2 recovered, 3 filtered, 4 failed in 2 min 05 s",
        "again, only what failed: lightmill retry 'my out' --only failed",
        "the same command again goes on from here",
    ]
