"""Whole runs of a small pipeline: resume, refusal, retry, limits, and what lies in OUT in between."""

import csv
import json
import threading
from pathlib import Path

import pytest

from lightmill.engine.items import Filtered, Item, Settled, Status
from lightmill.engine.journal import Journal
from lightmill.engine.naming import Naming
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, run
from lightmill.engine.stages import Each, Save
from lightmill.errors import ChangedConfig, InputError, NameCollision, OutputError, TooManyFailures
from lightmill.types import Budget


class Numbers:
    """A source of numbers; `streams` makes it one that can only go forward."""

    described = "numbers"

    def __init__(self, keys, *, streams=False):
        self.keys = list(keys)
        self.streams = streams
        self.warnings = []
        self.asked_after = []

    def items(self, after=None):
        self.asked_after.append(after)
        skip = self.keys.index(after.key) + 1 if self.streams and after else 0
        for key in self.keys[skip:]:
            yield Item(key=key, ref=key)

    def estimated_count(self):
        return len(self.keys)


class Work:
    """The pipeline's one stage: writes the key, and fails for keys in `bad`. Counts what it was asked to do."""

    def __init__(self, bad=(), recovered=(), filtered=()):
        self.bad, self.recovered, self.filtered = set(bad), set(recovered), set(filtered)
        self.done = []
        self.lock = threading.Lock()

    def make(self, key, notes):
        with self.lock:
            self.done.append(key)
        if key in self.bad:
            raise ValueError(f"{key} is bad")
        if key in self.filtered:
            raise Filtered("too small")
        if key in self.recovered:
            notes.recovered("only half of it")
        notes.preview("input", b"\xff\xd8") if notes.sampled else None
        return f"file of {key}".encode()


def keys(count):
    return [f"{i:03d}.jpg" for i in range(count)]


def go(out, source, work, *, config=None, retry=None, job=None, **options):
    pipeline = Pipeline(Each(work.make, makes="file", name="make"), Save(file="files/{name}.txt"))
    made = Job(
        recipe="test",
        version="1",
        config=config or {"size": "10x10"},
        command={},
        source=source,
        out=Path(out),
        make_pipeline=lambda: pipeline,
        **(job or {}),
    )
    options = {"threads": 2, "progress": "none"} | options
    return run(made, RunOptions(**options), retry=retry)


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_a_run_ends_with_manifests_in_source_order_and_reports(tmp_path):
    names = list(reversed(keys(30)))
    result = go(tmp_path, Numbers(names), Work(bad={"007.jpg"}, recovered={"008.jpg"}, filtered={"009.jpg"}))
    assert (result.ok, result.recovered, result.filtered, result.failed) == (27, 1, 1, 1)
    assert result.exit_code == 3
    rows = manifest(tmp_path)
    assert [row["key"] for row in rows] == names
    by_key = {row["key"]: row for row in rows}
    assert by_key["007.jpg"]["status"] == "failed"
    assert by_key["007.jpg"]["stage"] == "make"
    assert by_key["007.jpg"]["error"] == "ValueError: 007.jpg is bad"
    assert by_key["007.jpg"]["outputs"] == {}
    assert by_key["008.jpg"]["status"] == "recovered"
    assert by_key["008.jpg"]["error"] == "only half of it"
    assert by_key["010.jpg"]["outputs"] == {"file": "files/010.txt"}
    with open(tmp_path / "manifest.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["key"] for row in table] == names
    assert table[0].keys() >= {"key", "status", "stage", "error", "output_file"}
    assert (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "report.json").read_text())["counts"]["ok"] == 27


def test_the_same_again_does_nothing_and_leaves_failed_items_failed(tmp_path):
    source = Numbers(keys(10))
    go(tmp_path, source, Work(bad={"003.jpg"}))
    before = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.rglob("*")
        if path.is_file() and ".lightmill" not in path.parts
    }
    work = Work()
    assert go(tmp_path, source, work).exit_code == 3
    assert work.done == []
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_missing_and_cut_outputs_are_made_again_and_nothing_else(tmp_path):
    source = Numbers(keys(10))
    go(tmp_path, source, Work())
    (tmp_path / "files/002.txt").unlink()
    (tmp_path / "files/005.txt").write_bytes(b"cut")
    work = Work()
    assert go(tmp_path, source, work).exit_code == 0
    assert sorted(work.done) == ["002.jpg", "005.jpg"]
    assert (tmp_path / "files/005.txt").read_bytes() == b"file of 005.jpg"


def test_retry_does_the_failed_items_again_and_only_them(tmp_path):
    source = Numbers(keys(10))
    go(tmp_path, source, Work(bad={"003.jpg", "004.jpg"}))
    work = Work()
    assert go(tmp_path, source, work, retry=lambda row: row.key == "003.jpg").exit_code == 3
    assert work.done == ["003.jpg"]
    assert go(tmp_path, source, Work(), retry=lambda row: row.stage == "make").exit_code == 0
    assert [row["status"] for row in manifest(tmp_path)] == ["ok"] * 10
    with Journal.read(tmp_path) as journal:
        assert journal.failure_classes() == {}


def test_changed_config_is_refused_naming_what_changed_and_fresh_starts_anew(tmp_path):
    source = Numbers(keys(3))
    go(tmp_path, source, Work())
    (tmp_path / "notes.txt").write_text("the user's")
    with pytest.raises(
        ChangedConfig, match=r"size was 10x10, now 20x20\. Choose another OUT, or start anew with --fresh"
    ):
        go(tmp_path, source, Work(), config={"size": "20x20"})
    with pytest.raises(ChangedConfig, match="the content of rig has changed"):
        go(tmp_path, source, Work(), config={"size": "10x10", "rig": {"cameras": [1]}})
    work = Work()
    assert go(tmp_path, source, work, config={"size": "20x20"}, fresh=True).exit_code == 0
    assert len(work.done) == 3
    assert (tmp_path / "notes.txt").read_text() == "the user's"
    work = Work()
    go(tmp_path, source, work, config={"size": "20x20"})
    assert work.done == []


def test_new_files_are_taken_up_and_vanished_ones_stay_as_they_ended(tmp_path):
    go(tmp_path, Numbers(["a.jpg", "b.jpg", "d.jpg"]), Work())
    work = Work()
    go(tmp_path, Numbers(["a.jpg", "c.jpg", "d.jpg"]), work)
    assert work.done == ["c.jpg"]
    assert [row["key"] for row in manifest(tmp_path)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_row_numbers_once_given_stay(tmp_path):
    go(tmp_path, Numbers(["a.jpg", "c.jpg"]), Work(), naming=Naming.INDEX)
    go(tmp_path, Numbers(["a.jpg", "b.jpg", "c.jpg"]), Work(), naming=Naming.INDEX)
    assert [row["outputs"]["file"] for row in manifest(tmp_path)] == [f"files/0000{i}.txt" for i in (0, 2, 1)]


def test_limit_takes_the_first_and_the_rest_can_follow(tmp_path):
    source = Numbers(keys(10))
    go(tmp_path, source, Work(), limit=4)
    assert [row["key"] for row in manifest(tmp_path)] == keys(4)
    work = Work()
    go(tmp_path, source, work)
    assert sorted(work.done) == keys(10)[4:]


@pytest.mark.parametrize(("budget", "says"), [("5", "--max-failures 5 allows"), ("10%", "--max-failures 10% allows")])
def test_a_run_that_fails_everything_stops_and_keeps_its_work(tmp_path, budget, says):
    names = keys(200)
    with pytest.raises(TooManyFailures, match=says):
        go(tmp_path, Numbers(names), Work(bad=set(names[20:])), max_failures=Budget.parse(budget), threads=1)
    assert not (tmp_path / "manifest.csv").exists()
    with Journal.read(tmp_path) as journal:
        counts = journal.counts()
    assert counts["ok"] == 20
    assert counts["failed"] < 100
    work = Work()
    go(tmp_path, Numbers(names), work)
    assert len(work.done) == 200 - counts["ok"] - counts["failed"]


def test_collisions_and_empty_sources_are_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(NameCollision, match=r"a/x\.jpg and b/x\.jpg would both be written as x; .*--naming index"):
        go(out, Numbers(["a/x.jpg", "b/x.jpg"]), Work(), naming=Naming.STEM)
    assert [path.name for path in out.iterdir()] == [".lightmill"]
    assert go(out, Numbers(["a/x.jpg", "b/x.jpg"]), Work(), naming=Naming.INDEX).exit_code == 0
    with pytest.raises(InputError, match="there is nothing in numbers"):
        go(tmp_path / "none", Numbers([]), Work())


def test_two_runs_in_one_out_are_not_possible(tmp_path):
    inside, let_go, caught = threading.Event(), threading.Event(), []

    class Slow(Work):
        def make(self, key, notes):
            inside.set()
            let_go.wait(20)
            return b"x"

    first = threading.Thread(target=lambda: go(tmp_path, Numbers(keys(3)), Slow()))
    first.start()
    try:
        assert inside.wait(20)
        for fresh in (False, True):
            with pytest.raises(OutputError, match="another run is already at work"):
                go(tmp_path, Numbers(keys(3)), Work(), fresh=fresh)
            caught.append(fresh)
    finally:
        let_go.set()
        first.join(20)
    assert caught == [False, True]
    assert [row["status"] for row in manifest(tmp_path)] == ["ok"] * 3


def test_a_streaming_source_is_taken_up_where_it_was_left(tmp_path):
    names = [f"clip.mp4#{i:05d}.000" for i in range(40)]
    source = Numbers(names, streams=True)
    go(tmp_path, source, Work(), limit=12)
    assert [row["key"] for row in manifest(tmp_path)] == names[:12]
    (tmp_path / "files/clip_00009_000.txt").unlink()
    source, work = Numbers(names, streams=True), Work(bad={names[30]})
    go(tmp_path, source, work)
    assert [settled.key for settled in source.asked_after] == [names[8]]
    assert isinstance(source.asked_after[0], Settled)
    assert sorted(work.done) == [names[9], *names[12:]]
    assert [row["key"] for row in manifest(tmp_path)] == names
    work = Work()
    assert go(tmp_path, Numbers(names, streams=True), work, retry=lambda row: True).exit_code == 0
    assert work.done == [names[30]]
    assert [row["key"] for row in manifest(tmp_path)] == names


def test_everything_in_out_is_the_same_for_any_number_of_threads(tmp_path):
    found = []
    for threads in (1, 5):
        out = tmp_path / str(threads)
        go(out, Numbers(keys(50)), Work(bad={"011.jpg"}, recovered={"012.jpg"}), threads=threads)
        files = [path for path in out.rglob("*") if path.is_file() and ".lightmill" not in path.parts]
        found.append(
            {path.relative_to(out).as_posix(): path.read_bytes() for path in files if path.name != "report.html"}
        )
    assert found[0] == found[1]
    assert len(found[0]) == 49 + 3


def test_exports_are_made_at_the_end_and_named_in_the_report(tmp_path):
    def export(outputs, journal):
        outputs.write_if_changed("list.txt", iter([" ".join(row.key for row in journal.rows(Status.OK)).encode()]))
        return ["list.txt"]

    def begin(outputs):
        assert not (tmp_path / "files").exists()
        outputs.write_if_changed("first.txt", iter([b"1"]))

    go(tmp_path, Numbers(keys(3)), Work(), job={"export": export, "begin": begin})
    assert (tmp_path / "list.txt").read_text() == " ".join(keys(3))
    assert json.loads((tmp_path / "report.json").read_text())["exports"] == ["list.txt"]


def test_a_trace_names_every_stage_of_every_item(tmp_path):
    go(tmp_path, Numbers(keys(5)), Work(), trace=tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [(event["name"], event["args"]["item"]) for event in events if event["ph"] == "X"]
    assert sorted(spans) == sorted((stage, key) for stage in ("make", "save") for key in keys(5))


def test_a_streaming_source_without_items_is_told_and_other_options_may_follow(tmp_path):
    with pytest.raises(InputError, match="there is nothing in numbers"):
        go(tmp_path, Numbers([], streams=True), Work())
    assert go(tmp_path, Numbers(keys(2), streams=True), Work(), config={"start": 0}).exit_code == 0
