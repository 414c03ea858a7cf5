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


# --- names and numbers, once given -----------------------------------------------------------------------------------


def test_a_number_is_looked_up_wherever_its_item_stands_now(tmp_path):
    go(tmp_path, Numbers(["a.jpg", "b.jpg", "c.jpg"]), Work(), naming=Naming.INDEX)
    (tmp_path / "files/00002.txt").unlink()
    work = Work()
    go(tmp_path, Numbers(["a.jpg", "c.jpg", "d.jpg"]), work, naming=Naming.INDEX)  # c is now the second, and 2 still
    assert sorted(work.done) == ["c.jpg", "d.jpg"]
    named = {row["key"]: (tmp_path / row["outputs"]["file"]).read_text() for row in manifest(tmp_path)}
    assert named == {key: f"file of {key}" for key in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}
    assert [row["outputs"]["file"] for row in manifest(tmp_path)] == [f"files/0000{i}.txt" for i in (0, 1, 2, 3)]


def test_a_name_once_given_stays_when_another_comes_to_need_the_suffix(tmp_path):
    go(tmp_path, Numbers(["a.jpg"]), Work())
    (tmp_path / "files/a.txt").unlink()
    go(tmp_path, Numbers(["a.jpg", "a.png"]), Work())
    assert [row["outputs"]["file"] for row in manifest(tmp_path)] == ["files/a.txt", "files/a.png.txt"]
    before = (tmp_path / "manifest.jsonl").read_bytes()
    with pytest.raises(NameCollision, match=r"^a\.jpg and a would both be written as a; rename one of them"):
        go(tmp_path, Numbers(["a.jpg", "a.png", "a"]), Work())
    assert (tmp_path / "files/a.txt").read_text() == "file of a.jpg"
    assert (tmp_path / "manifest.jsonl").read_bytes() == before


def test_an_item_that_comes_back_does_not_take_the_name_that_another_has_now(tmp_path):
    go(tmp_path, Numbers(["a.jpg", "b.jpg"]), Work(bad={"a.jpg"}))
    go(tmp_path, Numbers(["a.png", "b.jpg"]), Work())  # a.jpg is gone, and its name was free
    work = Work()
    go(tmp_path, Numbers(["a.png", "a.jpg", "b.jpg"]), work, retry=lambda row: True)
    assert work.done == ["a.jpg"]
    named = {row["key"]: row["outputs"]["file"] for row in manifest(tmp_path)}
    assert named == {"a.png": "files/a.txt", "a.jpg": "files/a.jpg.txt", "b.jpg": "files/b.txt"}
    assert all((tmp_path / path).read_text() == f"file of {key}" for key, path in named.items())


def test_what_is_refused_before_the_first_item_leaves_no_journal(tmp_path):
    with pytest.raises(NameCollision):
        go(tmp_path, Numbers(["a/x.jpg", "b/x.jpg"]), Work(), naming=Naming.STEM)
    with pytest.raises(InputError, match="holds no run of lightmill"), Journal.read(tmp_path):
        pass


# --- several inputs --------------------------------------------------------------------------------------------------


class Shelf(Numbers):
    """A source that may share OUT with other shelves: /data/FOLDER.shelf, its keys without the home's `FOLDER/`."""

    def __init__(self, folder, pictures):
        super().__init__(pictures)
        self.file = self.resolved = f"/data/{folder}/s.shelf"
        self.place, self.title, self.described = f"/data/{folder}", "s", f"shelf {folder}"
        self.told = None

    def place_of(self, file):
        return file.rpartition("/")[0] if file.endswith(".shelf") else None

    def share(self, home, *, place, number):
        self.told = (home, place, number)


def shelve(out, shelf, work, **how):
    """A run of a shelf, as a recipe makes it."""
    config = {"input": shelf.file, "size": how.pop("size", "10x10")}
    return go(out, shelf, work, config=config, **how)


def test_two_shelves_share_one_out_and_what_both_have_is_done_once(tmp_path):
    first, second, work = Shelf("a", ["p", "q", "r"]), Shelf("b", ["r", "x", "p", "y"]), Work(bad={"q"})
    assert shelve(tmp_path, first, work).exit_code == 3
    assert shelve(tmp_path, second, work).exit_code == 3  # of all that is in OUT, as the manifest
    assert sorted(work.done) == ["p", "q", "r", "x", "y"]
    assert [row["key"] for row in manifest(tmp_path)] == ["p", "q", "r", "x", "y"]
    assert (first.told, second.told) == (("/data/a", "/data/a", 0), ("/data/a", "/data/b", 1))
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[fm]*/*")}
    work = Work()
    for shelf in (Shelf("a", ["p", "q", "r"]), Shelf("b", ["r", "x", "p", "y"]), Shelf("a", ["p", "q", "r"])):
        shelve(tmp_path, shelf, work)
    assert work.done == []
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[fm]*/*")}
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["source"] == "shelf a, shelf b"
    with Journal.read(tmp_path) as journal:
        assert [(one.file, one.title) for one in journal.inputs()] == [
            ("/data/a/s.shelf", "s"), ("/data/b/s.shelf", "s_2"),
        ]  # fmt: skip
        assert journal.recall("config")["input"] == "/data/a/s.shelf"


def test_numbers_of_a_second_shelf_are_the_next_and_none_is_used_again(tmp_path):
    how = {"naming": Naming.INDEX}
    shelve(tmp_path, Shelf("a", ["p", "q"]), Work(), **how)
    shelve(tmp_path, Shelf("b", ["x", "q", "y"]), Work(), **how)
    shelve(tmp_path, Shelf("a", ["p", "n", "q"]), Work(), **how)
    for path in tmp_path.glob("files/*"):
        path.unlink()
    shelve(tmp_path, Shelf("b", ["x", "q", "y"]), Work(), **how)  # makes its own again, each under its number
    shelve(tmp_path, Shelf("a", ["p", "n", "q"]), Work(), **how)
    named = {row["key"]: row["outputs"]["file"] for row in manifest(tmp_path)}
    numbers = {"p": 0, "n": 4, "q": 1, "x": 2, "y": 3}
    assert list(named) == list(numbers)
    assert named == {key: f"files/0000{number}.txt" for key, number in numbers.items()}
    assert all((tmp_path / path).read_text() == f"file of {key}" for key, path in named.items())


def test_what_a_stopped_run_of_one_shelf_left_is_there_for_its_next_run(tmp_path):
    shelve(tmp_path, Shelf("a", ["p", "q"]), Work())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("files/*")}
    new = ["q", *keys(50)]
    with pytest.raises(TooManyFailures):
        shelve(tmp_path, Shelf("b", new), Work(bad=keys(50)[10:]), threads=1, max_failures=Budget.parse("3"))
    assert [row["key"] for row in manifest(tmp_path)] == ["p", "q"]
    work = Work()
    shelve(tmp_path, Shelf("a", ["p", "q"]), work)
    assert work.done == []
    with Journal.read(tmp_path) as journal:
        counts = journal.counts()
    assert sum(counts.values()) == 52  # none of the second one's is forgotten
    work = Work()
    shelve(tmp_path, Shelf("b", new), work)
    assert len(work.done) == counts["pending"]
    assert [row["key"] for row in manifest(tmp_path)] == ["p", *new]
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.glob("files/*")}.items()


def test_a_first_shelf_that_was_stopped_gets_its_rest_done_by_whoever_comes_next(tmp_path):
    first = ["p", "q", *keys(50)]
    with pytest.raises(TooManyFailures):
        shelve(tmp_path, Shelf("a", first), Work(bad={"q"}), threads=1, max_failures=Budget.parse("0"))
    work = Work()
    shelve(tmp_path, Shelf("b", ["x", "049.jpg", "q"]), work)
    assert sorted(work.done) == ["049.jpg", "x"]  # q failed, and stays so
    work = Work()
    shelve(tmp_path, Shelf("a", first), work, retry=lambda row: True)
    assert work.done == ["q"]
    work = Work()
    shelve(tmp_path, Shelf("a", first), work)
    assert "049.jpg" not in work.done
    assert [(row["key"], row["status"]) for row in manifest(tmp_path)] == [(key, "ok") for key in [*first, "x"]]


@pytest.mark.parametrize("naming", [Naming.KEY, Naming.STEM])
def test_names_that_collide_across_shelves_are_refused_before_anything_is_written(tmp_path, naming):
    shelve(tmp_path, Shelf("a", ["b/p.jpg", "Q.jpg"]), Work(), naming=naming)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if ".lightmill" not in path.parts}
    for other, name in (("../b/p.jpg", "b/p.jpg"), ("q.png", "q")):  # `..` is in no name, and some disks know no case
        says = r"would both be written as "
        with pytest.raises(NameCollision, match=says) as refused:
            shelve(tmp_path, Shelf("b", ["new.jpg", other]), Work(), naming=naming)
        assert other in str(refused.value)
        assert ("b/p.jpg" if "p" in name else "Q.jpg") in str(refused.value)
    assert before == {path: path.read_bytes() for path in before}
    assert shelve(tmp_path, Shelf("a", ["b/p.jpg", "Q.jpg"]), Work(), naming=naming).exit_code == 0
    with Journal.read(tmp_path) as journal:
        assert len(journal.inputs()) == 1  # what was refused left nothing behind


def test_a_vanished_row_that_never_was_made_holds_no_name(tmp_path):
    shelve(tmp_path, Shelf("b", ["x"]), Work())
    shelve(tmp_path, Shelf("a", ["wrong/p.jpg", "q"]), Work(bad={"wrong/p.jpg"}))
    shelve(tmp_path, Shelf("a", ["WRONG/p.jpg", "q"]), Work())
    assert [row["key"] for row in manifest(tmp_path)] == ["x", "wrong/p.jpg", "WRONG/p.jpg", "q"]


def test_only_shelves_share_and_only_with_the_same_options(tmp_path):
    folder = {"input": "/data/pictures", "size": "10x10"}
    says = r"holds a run with other options: its INPUT was /data/\S+, now /data/\S+ \(only tables can share an OUT\)"
    shelve(tmp_path / "shelf", Shelf("a", ["p"]), Work())
    with pytest.raises(ChangedConfig, match=says):
        go(tmp_path / "shelf", Numbers(["p"]), Work(), config=folder)
    with pytest.raises(ChangedConfig, match=r"options: size was 10x10, now 20x20\. Choose another OUT"):
        shelve(tmp_path / "shelf", Shelf("b", ["p"]), Work(), size="20x20")
    go(tmp_path / "folder", Numbers(["p"]), Work(), config=folder)
    with pytest.raises(ChangedConfig, match=says):
        shelve(tmp_path / "folder", Shelf("a", ["p"]), Work())
    with pytest.raises(ChangedConfig, match=says):
        go(tmp_path / "folder", Numbers(["p"]), Work(), config=folder | {"input": "/data/others"})
    second = Shelf("b", ["p"])
    assert shelve(tmp_path / "shelf", second, Work(), fresh=True).exit_code == 0
    assert second.told == ("/data/b", "/data/b", 0)  # a new home


def test_check_names_sees_the_names_of_all_shelves(tmp_path):
    seen = []
    shelve(tmp_path, Shelf("a", ["p.jpg"]), Work())
    shelve(tmp_path, Shelf("b", ["q.jpg"]), Work(), job={"check_names": lambda names: seen.extend(names)})
    assert seen == ["p", "q"]


def test_what_all_shelves_gave_back_is_named_in_the_report(tmp_path):
    for name in ("a", "b", "a"):
        made = ["rig.json", f"{name}.csv"]
        shelve(tmp_path, Shelf(name, [name]), Work(), job={"export": lambda *_, made=made: made})
    assert json.loads((tmp_path / "report.json").read_text())["exports"] == ["a.csv", "b.csv", "rig.json"]
