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
from lightmill.engine.journal import End, Input, Journal, merged, set_aside
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


# --- several inputs --------------------------------------------------------------------------------------------------


def standing(journal):
    return [(row.key, row.number, str(row.status)) for row in journal.rows(*Status)]


def test_items_of_a_second_input_stand_behind_the_first_and_nothing_of_the_first_is_lost(out):
    with Journal.open(out) as journal:
        journal.register(["a", "b", "c"])
        journal.record([], ["a"], [done("a")])
        journal.register(["x", "b", "y"], input=1)  # b is the first one's
        expected = [("a", 0, "ok"), ("b", 1, "pending"), ("c", 2, "pending"), ("x", 3, "pending"), ("y", 4, "pending")]
        assert standing(journal) == expected
        journal.record([], ["x"], [done("x")])
        journal.drop_unfinished(input=0)
        assert standing(journal) == [("a", 0, "ok"), ("x", 3, "ok"), ("y", 4, "pending")]
        journal.register(["a", "b", "c"])  # y is not the first one's to forget
        assert [key for key, *_ in standing(journal)] == ["a", "b", "c", "x", "y"]


def test_items_that_an_input_gains_stand_among_its_own(out):
    with Journal.open(out) as journal:
        for number, keys in enumerate(("ab", "mn", "xy")):
            journal.register(keys, input=number)
        journal.register("mzn", input=1)
        journal.register("acb", input=0)
        assert [(key, number) for key, number, _ in standing(journal)] == [
            ("a", 0), ("c", 7), ("b", 1), ("m", 2), ("z", 6), ("n", 3), ("x", 4), ("y", 5),
        ]  # fmt: skip
        positions = [row.position for row in journal.rows(*Status)]
        assert len(set(positions)) == len(positions)


KEYS = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(st.lists(st.tuples(st.integers(0, 2), KEYS, st.sets(st.sampled_from("abcdefgh"))), max_size=8))
def test_whatever_inputs_come_no_number_or_name_or_ended_item_is_lost(tmp_path_factory, visits):
    out = tmp_path_factory.mktemp("out")
    (out / ".lightmill").mkdir()
    ended, numbers = set(), {}
    with Journal.open(out) as journal:
        for input, keys, finish in visits:
            journal.register(keys, input=input, name_of=lambda key, number: f"{key}{number}")
            rows = list(journal.rows(*Status))
            assert ended | set(keys) <= {row.key for row in rows}
            positions = [row.position for row in rows]
            assert positions == sorted(set(positions))
            names = journal.names(keys, input=input)
            for row in rows:
                if row.key in numbers:  # ended once: its number is its own for ever
                    assert row.number == numbers[row.key]
                else:
                    assert row.number not in numbers.values()
                assert names.get(row.key, f"{row.key}{row.number}") == f"{row.key}{row.number}"
            begun = finish & set(keys)
            journal.record([], begun, [done(key) for key in begun if key < "e"])  # the others stay under way
            ended |= {key for key in begun if key < "e"}
            numbers |= {row.key: row.number for row in journal.rows(*Status) if row.key in ended}
    assert len(set(numbers.values())) == len(numbers)


def test_the_number_of_an_item_that_was_begun_is_given_to_no_other(out):
    with Journal.open(out) as journal:
        journal.register("abcd")
        journal.record([], ["b"], [])  # killed while b was under way: some of its files may be there
        journal.register("a")
        journal.register("axyb")
        assert [(key, number) for key, number, _ in standing(journal)] == [("a", 0), ("x", 2), ("y", 3), ("b", 1)]
        journal.drop_unfinished()
        journal.register("z")
        assert standing(journal) == [("z", 0, "pending")]  # nothing else was ever begun
        journal.record([], ["z"], [])
        journal.drop_unfinished()
        journal.register("pqbz")
        assert [(key, number) for key, number, _ in standing(journal)] == [("p", 2), ("q", 3), ("b", 1), ("z", 0)]


def test_names_are_of_items_that_have_files_or_may_get_some(out):
    with Journal.open(out) as journal:
        journal.register("abc", name_of=lambda key, number: f"{key}-{number}")
        journal.record([], "abc", [done("a"), End(key="b", status=Status.FAILED), done("c")])
        journal.register("bx", input=1, name_of=lambda key, number: f"{key}-{number}")
        assert journal.names({"a"}, input=0) == {"a": "a-0", "c": "c-2", "x": "x-3"}  # b failed and is gone
        assert journal.names({"x"}, input=1) == {"a": "a-0", "b": "b-1", "c": "c-2", "x": "x-3"}


def test_inputs_are_remembered_in_their_order(out):
    inputs = [
        Input(file="/data/a/t.csv", place="/link/a", title="t", described="table a", command={"recipe": "x"}),
        Input(file="/data/\udce9/t.csv", place="/data/\udce9", title="t_2"),
    ]
    with Journal.open(out) as journal:
        assert journal.inputs() == []
        journal.remember_inputs(inputs)
    with Journal.read(out) as journal:
        assert journal.inputs() == inputs


FIRST_VERSION = """
CREATE TABLE items (key TEXT PRIMARY KEY, position INTEGER NOT NULL, number INTEGER NOT NULL, status TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '', error_class TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '', outputs TEXT NOT NULL DEFAULT '{}', sizes TEXT NOT NULL DEFAULT '[]',
    meta TEXT NOT NULL DEFAULT '{}');
CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sessions (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE warnings (text TEXT PRIMARY KEY);
CREATE TABLE previews (key TEXT, place INTEGER, label TEXT, jpeg BLOB, PRIMARY KEY (key, place)) WITHOUT ROWID;
CREATE TABLE learnt (what TEXT PRIMARY KEY, size INTEGER NOT NULL);
INSERT INTO items (key, position, number, status) VALUES ('b.jpg', 0, 0, 'ok'), ('a.jpg', 1, 1, 'pending');
INSERT INTO run VALUES ('command', '{"recipe": "split360", "input": "/data/my tours.csv", "options": {}}'),
    ('source', '"table my tours.csv"');
PRAGMA user_version = 1;
"""


def test_a_journal_of_the_first_version_is_read_and_brought_up_to_date(out):
    with closing(sqlite3.connect(out / ".lightmill/journal.db")) as db:
        db.executescript(FIRST_VERSION)
    command = {"recipe": "split360", "input": "/data/my tours.csv", "options": {}}
    expected = [Input(file="/data/my tours.csv", title="my tours", described="table my tours.csv", command=command)]
    with Journal.read(out) as journal:  # as `status` and `retry` do, who change nothing
        assert journal.inputs() == expected
        assert standing(journal) == [("b.jpg", 0, "ok"), ("a.jpg", 1, "pending")]
    assert raw(out, "PRAGMA user_version") == [(1,)]
    with Journal.open(out) as journal:
        assert journal.inputs() == expected
        assert journal.names({"a.jpg"}, input=0) == {"b.jpg": "", "a.jpg": ""}
        journal.register(["b.jpg", "a.jpg"])
        journal.register(["c.jpg"], input=1, name_of=lambda key, number: "c")
        assert standing(journal) == [("b.jpg", 0, "ok"), ("a.jpg", 1, "pending"), ("c.jpg", 2, "pending")]
    assert raw(out, "PRAGMA user_version") == [(2,)]
    assert raw(out, "SELECT key, input, name FROM items ORDER BY position") == [
        ("b.jpg", 0, ""), ("a.jpg", 0, ""), ("c.jpg", 1, "c"),
    ]  # fmt: skip
