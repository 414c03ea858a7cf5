"""The report: one page that needs nothing else, safe whatever the keys hold; and a summary that equal runs share."""

import json
import re
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.engine.charts import nice_ticks, rates_in_bins, time_ticks, timeline
from lightmill.engine.record import Failure, QueueFill, ReportData, Session, StageTime
from lightmill.engine.report import render_html, summary_json
from lightmill.engine.wording import count_of, duration, figures, memory

JPEG = b"\xff\xd8\xff\xe0 not a real picture: the report never looks inside \xff\xd9"
SESSION = Session(
    started_unix_s=1_732_100_000.0,
    wall_s=1.4,
    outcome="finished",
    reason="",
    threads=2,
    device="cpu",
    version="0.3.0",
    ended=12,
    pixels=354_000_000,
    stages=[
        StageTime("decode", "cpu", 0.784, 12),
        StageTime("encode", "cpu", 1.204, 96),
        StageTime("strip", "within", 0.056, 96),
    ],
    queues=[QueueFill("source", 512_000_000, 0.93, 0.71)],
    series=[(0.1 * i, 12 * i // 14, 354_000_000 * i // 14) for i in range(1, 14)],
    source_wait_s=0.0,
    peak_rss_bytes=1_210_000_000,
)
DATA = ReportData(
    recipe="split360",
    version="0.3.0",
    source="folder /data/tour",
    config={"input": "/data/tour", "quality": 95, "masks": None, "export": ["colmap", "nerfstudio"], "flag": True},
    counts={"ok": 12},
    total=12,
    outputs=96,
    sessions=[SESSION],
    sheet=[("day 1/a.jpg", [("input", JPEG), ("cam00", JPEG + b"0"), ("cam01", JPEG + b"1")])],
    exports=["transforms.json"],
)
FAILED = replace(
    DATA,
    counts={"ok": 5, "recovered": 1, "filtered": 2, "failed": 4},
    failures=[
        Failure("b.jpg", "decode", "DamagedImage", "the picture ends after 71 % of its rows"),
        Failure("c.jpg", "decode", "NotAnImage", "an HTML page, not a picture"),
        Failure("d.jpg", "check aspect", "WrongAspect", "4000x3000 is no panorama"),
    ],
    failure_classes={"decode:DamagedImage": 2, "decode:NotAnImage": 1, "check aspect:WrongAspect": 1},
    recovered=[("e.jpg", "12 rows were missing")],
    filtered=[("f.jpg", "not sharp"), ("g.jpg", "not sharp")],
    warnings=["3 links lead nowhere"],
)
VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """A page as a browser would take it: its tags, and the words of every element that has an id or is a heading."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.faults: list[str] = []
        self._section = "head"
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.stack]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.words.append(data)
            self.sections.setdefault(self._section, []).append(data)

    def text(self, section: str | None = None) -> str:
        words = self.words if section is None else self.sections.get(section, [])
        return " ".join(" ".join(words).split())

    def attributes(self, name: str) -> list[str]:
        return [str(attrs[name]) for _, attrs in self.tags if name in attrs]


def page(data: ReportData) -> Page:
    found = Page(render_html(data))
    assert found.faults == []
    return found


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, FAILED], ids=["good", "failed"])
def test_the_page_needs_nothing_else(data: ReportData) -> None:
    html = render_html(data)
    found = page(data)
    assert {tag for tag, _ in found.tags}.isdisjoint({"link", "iframe", "object", "embed", "base"})
    assert all(source.startswith("data:image/jpeg;base64,") for source in found.attributes("src"))
    assert all(target.startswith("#") for target in found.attributes("href"))
    assert re.findall(r"https?://\S+", html.replace("http://www.w3.org/2000/svg", "")) == []
    assert "url(" not in html
    assert "@import" not in html


def test_every_link_leads_somewhere_and_every_id_is_there_once() -> None:
    found = page(FAILED)
    ids = Counter(found.attributes("id"))
    assert set(ids.values()) == {1}
    assert {target[1:] for target in found.attributes("href")} <= ids.keys()


def test_equal_data_give_equal_pages() -> None:
    assert render_html(FAILED) == render_html(replace(FAILED))


def test_headline() -> None:
    head = page(DATA).text("head")
    assert "12 items, 96 files, 0 failed 1.4 s, 8.57 items/s, 253 MP/s" in head
    assert "lightmill split360" in head
    assert "from folder /data/tour" in head
    assert "finished" in head


def test_empty_sections_are_left_out() -> None:
    assert list(page(DATA).sections) == ["head", "speed", "pictures", "files", "options", "sessions"]
    assert list(page(FAILED).sections) == [
        *("head", "speed", "pictures", "failures", "recovered", "filtered", "warnings", "files", "options", "sessions")
    ]


def test_before_any_run() -> None:
    data = ReportData(recipe="split360", version="1", source="", config={}, counts={}, total=0)
    assert page(data).text("head").endswith("Nothing has been run yet lightmill 1")


def test_of_a_run_that_was_killed_before_its_first_session_was_written() -> None:
    data = replace(
        DATA, sessions=[], counts={"ok": 3, "pending": 9}, how_to_continue="the same command goes on from here"
    )
    text = page(data).text("head")
    assert "12 items, 96 files, 0 failed, 9 to go" in text
    assert "The same command goes on from here." in text
    assert "unfinished" in text
    assert "items/s" not in text


@pytest.mark.parametrize(
    ("counts", "outcome", "wanted"),
    [
        ({"ok": 12}, "finished", "finished"),
        ({"ok": 11, "pending": 1}, "interrupted", "interrupted"),
        ({"ok": 12}, "interrupted", "finished"),
        ({"ok": 11, "failed": 1}, "stopped", "stopped"),
        ({"pending": 12}, "finished", "unfinished"),
    ],
)
def test_how_the_run_stands_is_said_in_a_word(counts: dict[str, int], outcome: Any, wanted: str) -> None:
    data = replace(DATA, counts=counts, sessions=[replace(SESSION, outcome=outcome)])
    assert f"lightmill split360 {wanted} 12 items" in page(data).text("head")


def test_why_a_run_was_stopped_is_said() -> None:
    data = replace(DATA, sessions=[replace(SESSION, outcome="stopped", reason="the disk is full")])
    assert "The disk is full." in page(data).text("head")


def test_speed_names_the_bottleneck_and_every_stage() -> None:
    text = page(DATA).text("speed")
    assert "encode limits the speed: 43 % of the time of 2 threads." in text
    assert "decode 0.78 s in 12 calls, 65 ms each 28 %" in text
    assert "encode 1.2 s in 96 calls, 13 ms each 43 %" in text
    assert "strip inside a stage: 56 ms in 96 calls, 0.58 ms each 2 %" in text
    assert "2 threads, together busy for 71 % of 1.4 s." in text
    assert "source holds 512 MB, full for 71 % of the time 93 %" in text
    assert "mean 8.57, highest" in text
    assert "mean 253, highest" in text


def test_speed_of_several_sessions_says_which_one_it_is_about() -> None:
    text = page(replace(DATA, sessions=[replace(SESSION, ended=3), SESSION])).text("speed")
    assert "In session 2, which did the most, encode limits the speed" in text


def test_pictures_are_in_the_page_as_they_were_given() -> None:
    found = page(DATA)
    sources = [b64decode(source.partition(",")[2]) for source in found.attributes("src")]
    assert sources == [JPEG, JPEG + b"0", JPEG + b"1"]
    assert found.attributes("alt") == [f"{label} of day 1/a.jpg" for label in ("input", "cam00", "cam01")]
    assert set(found.attributes("loading")) == {"lazy"}
    assert found.text("pictures") == "Pictures day 1/a.jpg input cam00 cam01"


def test_failures_are_grouped_with_the_command_that_tries_them_again() -> None:
    text = page(FAILED).text("failures")
    assert "3 failed in decode Try these again: lightmill retry OUT --only failed:decode" in text
    assert "1 failed in check aspect Try these again: lightmill retry OUT --only 'failed:check aspect'" in text
    assert "DamagedImage 2 items; the first 1 are listed, manifest.csv has all" in text
    assert "c.jpg an HTML page, not a picture" in text
    assert text.index("decode") < text.index("check aspect")


def test_a_class_of_which_no_item_is_listed_is_counted() -> None:
    text = page(replace(FAILED, failures=[])).text("failures")
    assert "DamagedImage 2 items: manifest.csv has them." in text


def test_recovered_filtered_and_warnings() -> None:
    found = page(FAILED)
    assert found.text("recovered") == "Recovered 1 item item how e.jpg 12 rows were missing"
    assert found.text("filtered") == "Filtered 2 items item why f.jpg not sharp g.jpg not sharp"
    assert found.text("warnings") == "Warnings 3 links lead nowhere"


def test_options_are_readable() -> None:
    assert page(DATA).text("options") == (
        "Options input /data/tour quality 95 masks not given export colmap, nerfstudio flag yes"
    )


def test_a_long_option_is_folded() -> None:
    rig = {"name": "ring8", "cameras": [{"name": f"cam{i:02d}", "yaw": 45.0 * i} for i in range(8)]}
    found = page(replace(DATA, config={"rig": rig, "short": {"a": 1}}))
    text = found.text("options")
    assert "ring8, 2 entries, 37 lines" in text
    assert '"yaw": 315.0' in text
    assert 'short { "a": 1 }' in text
    assert len(found.attributes("open")) == 0


def test_sessions_have_their_time_in_utc() -> None:
    text = page(DATA).text("sessions")
    assert "2024-11-20 10:53:20" in text  # date -u -d @1732100000
    assert "1.21 GB" in text


HOSTILE = "<script>alert(1)</script>\"'&amp;\x00\x1b[31m\udcff\u202e\n</style>" + "long" * 100


def test_nothing_that_a_user_has_named_is_markup() -> None:
    data = ReportData(
        recipe=HOSTILE,
        version=HOSTILE,
        source=HOSTILE,
        config={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, None]}, "list": [HOSTILE]},
        counts={"ok": 1, "failed": 1},
        total=2,
        failures=[Failure(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        failure_classes={f"{HOSTILE}:{HOSTILE}": 1},
        recovered=[(HOSTILE, HOSTILE)],
        filtered=[(HOSTILE, HOSTILE)],
        warnings=[HOSTILE],
        sessions=[
            replace(
                SESSION,
                reason=HOSTILE,
                device=HOSTILE,
                version=HOSTILE,
                stages=[StageTime(HOSTILE, HOSTILE, 1.0, 1), StageTime(HOSTILE, "device", 1.0, 1)],
                queues=[QueueFill(HOSTILE, 1, 0.5, 0.5)],
            )
        ],
        sheet=[(HOSTILE, [(HOSTILE, JPEG)])],
        exports=[HOSTILE],
        how_to_continue=HOSTILE,
    )
    html = render_html(data)
    found = page(data)
    assert html.encode("utf-8").decode("utf-8") == html  # no lone surrogate
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", html)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert r"\x00\x1b[31m\udcff\u202e" in found.text()
    assert all(name in KNOWN for _, attrs in found.tags for name in attrs), "an attribute came in through a value"


KNOWN = {
    *("lang", "charset", "name", "content", "xmlns", "width", "height", "style", "class", "id", "href", "src", "alt"),
    *(
        "aria-hidden",
        "aria-label",
        "role",
        "viewbox",
        "preserveaspectratio",
        "d",
        "cx",
        "cy",
        "r",
        "loading",
        "decoding",
    ),
    *("scope", "open", "datetime", "data-copy", "data-name"),
}


@given(st.text(), st.text())
def test_any_key_and_any_message_is_shown(key: str, message: str) -> None:
    data = replace(
        DATA, sheet=[], failures=[Failure(key, "decode", "NotAnImage", message)], counts={"failed": 1}, total=1
    )
    page(data)
    render_html(data).encode("utf-8")


# --- what can be read ------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    css = files("lightmill.engine").joinpath("report_assets/report.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in css.split("prefers-color-scheme")[:2]
    )
    colours = light if scheme == "light" else dark
    pairs = [(text, ground) for text in ("ink", "soft") for ground in ("page", "card", "fill")]
    for state in ("ok", "recovered", "filtered", "failed", "pending"):
        pairs += [(state, "page"), (state, f"{state}-fill")]
    poor = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: found for pair, found in poor.items() if found < 4.5} == {}


# --- the summary -----------------------------------------------------------------------------------------------------


def test_the_summary_knows_no_times_no_sessions_and_no_order_of_events() -> None:
    again = replace(
        FAILED,
        sessions=[replace(SESSION, wall_s=99.0), SESSION],
        sheet=[],
        how_to_continue="x",
        counts=dict(reversed(FAILED.counts.items())),
        failure_classes=dict(reversed(FAILED.failure_classes.items())),
    )
    assert json.dumps(summary_json(again)) == json.dumps(summary_json(FAILED))


def test_the_summary_has_what_came_out() -> None:
    found = summary_json(FAILED)
    assert json.loads(json.dumps(found)) == {
        "recipe": "split360",
        "version": "0.3.0",
        "source": "folder /data/tour",
        "config": DATA.config,
        "total": 12,
        "counts": {"ok": 5, "recovered": 1, "filtered": 2, "failed": 4},
        "outputs": 96,
        "failure_classes": {"decode:DamagedImage": 2, "check aspect:WrongAspect": 1, "decode:NotAnImage": 1},
        "failures": [
            {"key": f.key, "stage": f.stage, "error_class": f.error_class, "error": f.error} for f in FAILED.failures
        ],
        "recovered": [{"key": "e.jpg", "how": "12 rows were missing"}],
        "filtered": [{"key": "f.jpg", "why": "not sharp"}, {"key": "g.jpg", "why": "not sharp"}],
        "warnings": ["3 links lead nowhere"],
        "exports": ["transforms.json"],
    }
    assert list(found["counts"]) == ["ok", "recovered", "filtered", "failed"]  # type: ignore[arg-type]
    assert next(iter(found["failure_classes"])) == "decode:DamagedImage"  # type: ignore[arg-type]


# --- charts and figures ----------------------------------------------------------------------------------------------


def test_sessions_follow_each_other_on_the_timeline() -> None:
    short = replace(SESSION, wall_s=2.0, ended=4, pixels=40, series=[(1.0, 3, 30)])
    line = timeline([short, short])
    assert line.starts_s == [0.0, 2.0]
    assert line.times_s == [0.0, 1.0, 2.0, 2.0, 3.0, 4.0]
    assert line.items == [0, 3, 4, 4, 7, 8]
    assert line.pixels == [0, 30, 40, 40, 70, 80]
    assert line.end_s == 4.0


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 10**6)), min_size=1, max_size=30), st.integers(1, 80))
def test_the_area_below_a_chart_is_what_was_done(steps: list[tuple[float, int]], bins: int) -> None:
    times, totals = [0.0], [0]
    for wait_s, more in steps:
        times.append(times[-1] + wait_s)
        totals.append(totals[-1] + more)
    rates = rates_in_bins(times, totals, bins)
    assert len(rates) == bins
    assert sum(rates) * times[-1] / bins == pytest.approx(totals[-1], rel=1e-6, abs=1e-6)
    assert min(rates) >= -1e-6


@given(st.floats(1e-6, 1e12))
def test_ticks_are_even_and_reach_the_highest_value(most: float) -> None:
    ticks = nice_ticks(most)
    steps = [after - before for before, after in pairwise(ticks)]
    assert ticks[0] == 0
    assert ticks[-1] >= most * 0.998
    assert 2 <= len(ticks) <= 6
    assert max(steps) == pytest.approx(min(steps), rel=1e-9)


@pytest.mark.parametrize(
    ("end_s", "labels"),
    [
        (1.4, ["0 s", "0.5 s", "1 s"]),
        (155.7, ["0 s", "50 s", "100 s", "150 s"]),
        (600, ["0 min", "2 min", "4 min", "6 min", "8 min", "10 min"]),
        (86_400, ["0 h", "5 h", "10 h", "15 h", "20 h"]),
    ],
)
def test_time_is_labelled_in_the_unit_that_suits_it(end_s: float, labels: list[str]) -> None:
    assert [label for _, label in time_ticks(end_s)] == labels


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0, "0 ms"), (0.0994, "99 ms"), (0.5, "0.50 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s")],
        *[(59.6, "1 min 00 s"), (3599.6, "1 h 00 min"), (7199, "2 h 00 min"), (400_000, "111 h 07 min")],
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(1e-6, 1e15))
def test_figures_are_right_to_half_a_percent(number: float) -> None:
    assert float(figures(number).replace(",", "")) == pytest.approx(number, rel=0.0051)


def test_amounts() -> None:
    assert (memory(0), memory(999_999), memory(3.2e12)) == ("0 bytes", "1,000 kB", "3.2 TB")
    assert (count_of(0, "item"), count_of(1, "item"), count_of(1234, "item")) == ("0 items", "1 item", "1,234 items")
