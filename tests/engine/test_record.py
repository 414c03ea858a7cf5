"""Sessions go through JSON and back; what limits a run is named from shares worked out by hand."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.engine.items import Status
from lightmill.engine.record import QueueFill, ReportData, Session, StageTime, bottleneck, busy_shares
from lightmill.errors import OutputError

SESSION = Session(
    started_unix_s=1_700_000_000.25,
    wall_s=10.0,
    outcome="finished",
    reason="",
    threads=2,
    device="cuda:0",
    version="0.3.0",
    ended=100,
    pixels=2_000_000,
    stages=[StageTime("decode", "cpu", 5.0, 100), StageTime("encode", "cpu", 8.6, 800)],
    queues=[QueueFill("source", 1_000_000, 0.9, 0.8)],
    series=[(1.0, 10, 200_000), (9.5, 95, 1_900_000)],
    source_wait_s=0.0,
    peak_rss_bytes=123_456_789,
)


def test_session_survives_json() -> None:
    text = json.dumps(SESSION.to_json())
    assert Session.from_json(json.loads(text)) == SESSION


times = st.floats(0, 1e9, allow_nan=False)
texts = st.text(max_size=20)
segments = st.sampled_from(["cpu", "device", "within"])


@given(
    st.builds(
        Session,
        started_unix_s=times,
        wall_s=times,
        outcome=st.sampled_from(["finished", "interrupted", "stopped"]),
        reason=texts,
        threads=st.integers(1, 512),
        device=texts,
        version=texts,
        ended=st.integers(0, 10**12),
        pixels=st.integers(0, 10**18),
        stages=st.lists(
            st.builds(StageTime, texts, st.sampled_from(["cpu", "device", "within"]), times, st.integers(0))
        ),
        queues=st.lists(st.builds(QueueFill, texts, st.integers(0, 2**50), st.floats(0, 1), st.floats(0, 1))),
        series=st.lists(st.tuples(times, st.integers(0), st.integers(0))),
        source_wait_s=times,
        peak_rss_bytes=st.integers(0, 2**50),
    )
)
def test_any_session_survives_json_and_has_an_answer(session: Session) -> None:
    assert Session.from_json(json.loads(json.dumps(session.to_json()))) == session
    found = bottleneck(session)
    assert found is None or ": " in found


def test_a_later_version_may_add_keys() -> None:
    assert Session.from_json({**SESSION.to_json(), "colour": "blue"}) == SESSION


def test_a_record_without_a_key_is_refused_by_name() -> None:
    record = SESSION.to_json()
    del record["wall_s"], record["threads"]
    with pytest.raises(OutputError, match=r"without wall_s, threads: .*--fresh"):
        Session.from_json(record)


def test_shares_are_of_all_threads_for_the_cpu_and_of_one_for_a_device() -> None:
    session = replace(
        SESSION,
        stages=[
            StageTime("decode", "cpu", 5.0, 100),
            StageTime("mask", "device", 5.0, 7),
            StageTime("x", "within", 4.0, 1),
        ],
    )
    assert busy_shares(session) == [("decode", 0.25), ("mask", 0.5), ("x", 0.2)]


def test_shares_name_the_source_first_where_it_was_waited_for() -> None:
    assert busy_shares(replace(SESSION, source_wait_s=2.5))[0] == ("source", 0.25)


def test_cpu_is_named_by_its_largest_stage() -> None:
    assert bottleneck(SESSION) == "encode: 43 % of the time of 2 threads"


def test_one_thread_is_no_threads() -> None:
    assert bottleneck(replace(SESSION, threads=1)) == "encode: 86 % of the time of 1 thread"


def test_the_pool_of_threads_limits_although_one_device_stage_is_longer_than_each_of_its_stages() -> None:
    stages = [StageTime(name, "cpu", 6.4, 1) for name in "abc"] + [StageTime("mask", "device", 6.0, 1)]
    assert bottleneck(replace(SESSION, stages=stages)) == "a: 32 % of the time of 2 threads"


def test_device_is_named_when_it_is_busier_than_the_threads() -> None:
    stages = [*SESSION.stages, StageTime("mask", "device", 9.3, 12)]
    assert bottleneck(replace(SESSION, stages=stages)) == "mask: 93 % of the time of the device cuda:0"


def test_source_is_named_when_it_was_waited_for() -> None:
    assert bottleneck(replace(SESSION, source_wait_s=7.1)) == "source: waited for during 71 % of the time"


def test_a_step_inside_a_stage_is_never_the_bottleneck() -> None:
    stages = [*SESSION.stages, StageTime("strip", "within", 19.0, 12)]
    assert bottleneck(replace(SESSION, stages=stages)) == "encode: 43 % of the time of 2 threads"


def test_a_full_queue_is_named_when_everything_else_was_idle() -> None:
    queues = [QueueFill("source", 1, 1.0, 1.0), QueueFill("before mask", 1, 0.9, 0.8)]
    stages = [StageTime("decode", "cpu", 2.0, 1)]
    found = bottleneck(replace(SESSION, stages=stages, queues=queues))
    assert found == "before mask: this queue was full for 80 % of the time"


@pytest.mark.parametrize("session", [replace(SESSION, stages=[]), replace(SESSION, wall_s=0.0)])
def test_nothing_limits_a_session_that_did_nothing(session: Session) -> None:
    assert bottleneck(session) is None


def data(**more: object) -> ReportData:
    values: dict[str, object] = {"counts": {"ok": 3, "pending": 2, "running": 1}, "total": 6, **more}
    return ReportData(recipe="r", version="1", source="s", config={}, **values)  # type: ignore[arg-type]


def test_counts_of_report_data() -> None:
    assert data().count(Status.OK, Status.FAILED) == 3
    assert data().unfinished == 3


def test_rates_are_over_all_sessions() -> None:
    second = replace(SESSION, wall_s=30.0, ended=20, pixels=0)
    both = data(sessions=[SESSION, second])
    assert (both.wall_s, both.items_per_s, both.pixels_per_s) == (40.0, 3.0, 50_000.0)
    assert both.main_session is SESSION


def test_without_sessions_there_are_no_rates() -> None:
    assert (data().wall_s, data().items_per_s, data().pixels_per_s, data().main_session) == (0, 0, 0, None)
