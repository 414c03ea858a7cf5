"""A trace is valid JSON with the fields that the trace event format asks for."""

import json
import threading
from typing import Any

import pytest

from lightmill.engine.trace import Trace


def events(trace: Trace, phase: str) -> list[dict[str, Any]]:
    return [event for event in json.loads(trace.to_json())["traceEvents"] if event["ph"] == phase]


def test_times_are_microseconds_since_the_first_event() -> None:
    trace = Trace()
    trace.add("encode", "stage", "cpu 1", 100.002, 100.0025, {"item": "b.jpg"})
    trace.add("decode", "stage", "cpu 0", 100.0, 100.0015, {"item": "a.jpg"})
    first, second = events(trace, "X")
    assert first == {
        "name": "decode",
        "cat": "stage",
        "ph": "X",
        "ts": 0.0,
        "dur": pytest.approx(1500),
        "pid": 1,
        "tid": 1,
        "args": {"item": "a.jpg"},
    }
    assert (second["ts"], second["dur"], second["tid"]) == (pytest.approx(2000), pytest.approx(500), 2)


def test_every_thread_is_named_and_in_order() -> None:
    trace = Trace()
    for name in ("device 0", "cpu 10", "cpu 2"):
        trace.add("x", "stage", name, 0.0, 1.0)
    named = {event["args"]["name"]: event["tid"] for event in events(trace, "M") if event["name"] == "thread_name"}
    assert named == {"cpu 2": 1, "cpu 10": 2, "device 0": 3}
    assert {event["tid"] for event in events(trace, "X")} == set(named.values())
    assert {event["name"] for event in events(trace, "M")} == {"process_name", "thread_name", "thread_sort_index"}


def test_an_empty_trace_is_a_trace() -> None:
    assert events(Trace(), "X") == []
    assert Trace()
    assert len(Trace()) == 0


def test_what_comes_after_the_bound_is_counted() -> None:
    trace = Trace(most=3)
    for second in range(8):
        trace.add("x", "stage", "cpu 0", second, second + 1)
    said = json.loads(trace.to_json())["otherData"]
    assert (len(trace), trace.dropped, len(events(trace, "X"))) == (3, 5, 3)
    assert (said["events"], said["dropped"]) == (3, 5)
    assert said["note"] == "the trace was full after 3 events; 5 later ones were not kept"


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one event, got most=0"):
        Trace(most=0)


def test_threads_add_without_losing_an_event() -> None:
    trace = Trace()

    def work(number: int) -> None:
        for second in range(2000):
            trace.add("x", "stage", f"cpu {number}", second, second + 0.5, {"item": f"{number}/{second}"})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = events(trace, "X")
    assert len({event["args"]["item"] for event in found}) == len(found) == 16_000
    assert [event["ts"] for event in found] == sorted(event["ts"] for event in found)


def test_names_that_no_file_system_would_print_are_written() -> None:
    trace = Trace()
    trace.add("x", "stage", "cpu 0", 0.0, 1.0, {"item": "bad\udcff\x1b.jpg"})
    text = trace.to_json()
    assert text.isascii()
    assert events(trace, "X")[0]["args"] == {"item": "bad\udcff\x1b.jpg"}


def test_the_pieces_make_the_whole() -> None:
    trace = Trace()
    trace.add("x", "stage", "cpu 0", 0.0, 1.0)
    assert "".join(trace.chunks()) == trace.to_json()
