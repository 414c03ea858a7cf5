"""The journal is the one truth about items: read back by SQLite itself, and whole after a kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.engine.items import Status
from lightmill.engine.journal import End, Journal, merged, set_aside
from lightmill.errors import InputError, OutputError


@pytest.fixture
def out(tmp_path):
    (tmp_path / ".lightmill").mkdir()
    return tmp_path


def raw(out, query):
    with closing(sqlite3.connect(out / ".lightmill/journal.db")) as db:
        return db.execute(query).fetchall()


def done(key, **more):
    return End(key=key, status=Status.OK, outputs={"cam00": (f"images/cam00/{key}", 10)}, **more)


def test_the_table_is_as_the_contract_says(out):
    with Journal.open(out) as journal:
        journal.register(["b.jpg", "a.jpg"])
        journal.record([], ["b.jpg"], [])
        journal.record([], [], [done("b.jpg")])
    assert raw(out, "SELECT key, status, attempts FROM items ORDER BY position") == [
        ("b.jpg", "ok", 1),
        ("a.jpg", "pending", 0),
    ]
    assert ("key", 1) in [(row[1], row[5]) for row in raw(out, "PRAGMA table_info(items)")]
    assert raw(out, "PRAGMA journal_mode") == [("wal",)]


def test_what_was_recorded_is_read_back(out):
    end = End(
        key="ü\n.jpg",
        status=Status.FAILED,
        stage="decode",
        error_class="DamagedImage",
        error="cut off",
        meta={"frames": 2},
    )
    with Journal.open(out) as journal:
        journal.register(["ü\n.jpg", "x"])
        journal.record(
            [], [], [end, done("x", previews=(("input", b"\xff\xd8"), ("cam00", b"\xff")), meta={"a": [1, None]})]
        )
    with Journal.read(out) as journal:
        first, second = journal.rows()
        assert (first.key, first.status, first.stage, first.error_class, first.error) == (
            "ü\n.jpg", Status.FAILED, "decode", "DamagedImage", "cut off",
        )  # fmt: skip
        assert first.meta == {"frames": 2}
        assert (second.paths, second.sizes) == ({"cam00": "images/cam00/x"}, (10,))
        assert second.meta == {"a": [1, None]}
        assert journal.previews(5) == [("x", [("input", b"\xff\xd8"), ("cam00", b"\xff")])]
        assert journal.failure_classes() == {"decode:DamagedImage": 1}
        assert journal.counts() == {"failed": 1, "ok": 1}


def test_gained_files_are_taken_up_and_vanished_ones_stay_as_they_ended(out):
    with Journal.open(out) as journal:
        journal.register(["a", "b", "c", "d"])
        journal.record([], ["b", "c"], [done("b")])
        journal.register(["a", "bb", "d"])  # b (ended) and c (under way) are gone
        rows = list(journal.rows(*Status))
        assert [row.key for row in rows] == ["a", "b", "bb", "d"]
        assert [row.status for row in rows] == ["pending", "ok", "pending", "pending"]
        assert [row.number for row in rows] == [0, 1, 4, 3]  # a number once given stays
        assert [row.position for row in rows] == [0, 1, 2, 3]


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_merging_keeps_the_new_order_and_loses_nobody(old, new):
    both = list(merged(old, new))
    assert [key for key in both if key in new] == new
    assert sorted(both) == sorted({*old, *new})


def test_a_streaming_source_adds_its_items_as_it_comes_to_them(out):
    with Journal.open(out) as journal:
        journal.record([("clip#0", 0), ("clip#1", 1), ("clip#2", 2)], ["clip#0", "clip#1"], [done("clip#0")])
        settled = journal.settled_prefix(lambda path, size: True)
        assert settled is not None
        assert (settled.key, settled.position) == ("clip#0", 0)
        assert journal.settled_prefix(lambda path, size: False) is None
        journal.record([("clip#1", 1)], ["clip#1"], [done("clip#1")])
        assert raw(out, "SELECT attempts FROM items ORDER BY position") == [(1,), (2,), (0,)]
        journal.drop_unfinished()
        assert [row.key for row in journal.rows(*Status)] == ["clip#0", "clip#1"]


def test_facts_warnings_learnt_sizes_and_sessions_are_kept(out):
    with Journal.open(out) as journal:
        journal.remember(config={"size": [1, 2]}, clean=True)
        journal.set_warnings(["one", "two"])
        journal.set_warnings(["two", "three"])
        journal.learn({"sam on cuda": 4})
        journal.add_session({"wall_s": 1.5})
    with Journal.read(out) as journal:
        assert journal.recall("config") == {"size": [1, 2]}
        assert journal.recall("clean") is True
        assert journal.recall("nothing") is None
        assert journal.warnings() == ["one", "two", "three"]
        assert journal.learnt() == {"sam on cuda": 4}
        assert journal.sessions() == [{"wall_s": 1.5}]


def test_a_folder_without_a_run_and_a_file_that_is_no_journal_are_told(out):
    with (
        pytest.raises(InputError, match=r"holds no run of lightmill: there is no .lightmill/journal.db"),
        Journal.read(out),
    ):
        pass
    (out / ".lightmill/journal.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(OutputError, match="file is not a database"), Journal.open(out):
        pass
    with pytest.raises(InputError, match="cannot be read: file is not a database"), Journal.read(out) as journal:
        journal.counts()


def test_a_journal_of_a_newer_version_is_left_alone(out):
    with Journal.open(out):
        pass
    with closing(sqlite3.connect(out / ".lightmill/journal.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="made by a newer lightmill"), Journal.open(out):
        pass


def test_fresh_sets_the_old_journal_aside_whole(out):
    for _ in range(2):
        with Journal.open(out) as journal:
            journal.register(["a"])
        set_aside(out)
    assert not (out / ".lightmill/journal.db").exists()
    for number in (1, 2):
        with closing(sqlite3.connect(out / f".lightmill/before-{number}/journal.db")) as db:
            assert db.execute("SELECT key FROM items").fetchall() == [("a",)]


KILLED = """
import os, sys
from pathlib import Path
from lightmill.engine.journal import End, Journal
from lightmill.engine.items import Status
with Journal.open(Path(sys.argv[1])) as journal:
    journal.register([f"{i}" for i in range(100000)])
    for i in range(100000):
        journal.record([], [f"{i}"], [])
        journal.record([], [], [End(key=f"{i}", status=Status.OK)])
        if i == 300:
            print("there", flush=True)
"""


def test_a_killed_process_leaves_whole_transactions(out):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Journal.read(out) as journal:
        rows = list(journal.rows(*Status))
    assert len(rows) == 100000
    statuses = [row.status for row in rows]
    ended = statuses.count(Status.OK)
    assert ended >= 300
    assert statuses[:ended] == [Status.OK] * ended
    assert statuses[ended] in (Status.RUNNING, Status.PENDING)
    assert set(statuses[ended + 1 :]) == {Status.PENDING}


def test_rows_hold_json_that_others_can_read(out):
    with Journal.open(out) as journal:
        journal.register(["a"])
        journal.record([], [], [done("a", meta={"time_s": 12.4})])
    ((outputs, sizes, meta),) = raw(out, "SELECT outputs, sizes, meta FROM items")
    assert json.loads(outputs) == {"cam00": "images/cam00/a"}
    assert json.loads(sizes) == [10]
    assert json.loads(meta) == {"time_s": 12.4}
