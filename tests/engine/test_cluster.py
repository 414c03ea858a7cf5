"""Worker processes: the same files as one process makes, whoever dies, and words for what cannot be."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

import lightmill
from lightmill.engine.cluster import Fleet, RayWorkers, Setup, WorkerProcess, _connect, _fleet, check_possible
from lightmill.engine.items import Filtered, Item, Status
from lightmill.engine.journal import Journal
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, run
from lightmill.engine.stages import Batch, Each, Save
from lightmill.engine.summary import SHEET
from lightmill.engine.work import Started
from lightmill.errors import OutputError, RunError, TooManyFailures, UsageError
from lightmill.types import Budget

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@pytest.fixture(scope="module")
def cluster():
    """A Ray that all tests share: runs use it, and leave it as it is. Gives its address."""
    before = signal.getsignal(signal.SIGTERM)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


class Numbers:
    """A source of numbers."""

    described = "numbers"
    streams = False

    def __init__(self, count):
        self.count = count
        self.warnings = []

    def items(self, after=None):
        for number in range(self.count):
            yield Item(key=f"{number:03d}.jpg", ref=number)

    def estimated_count(self):
        return self.count


class Model:
    """Adds one; says where it was loaded and unloaded."""

    def __init__(self, log):
        self.log = log

    def load(self, device):
        self._say("load")

    def unload(self):
        self._say("unload")

    def _say(self, what):
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{what} {os.getpid()}\n")

    def __call__(self, number):
        return [n + 1 for n in number]


def work(ref, notes, *, deadly, folder):
    """The number; some are bad. What is in `deadly` ends the process, as often as it says (-1: always)."""
    notes.meta["square"] = ref * ref
    if notes.sampled:
        notes.preview("input", b"\xff\xd8")
    if ref in deadly and (deadly[ref] < 0 or died_before(folder, ref) < deadly[ref]):
        os.close(os.open(folder / f"death-{ref}-{os.getpid()}", os.O_CREAT))
        os.kill(os.getpid(), signal.SIGKILL)
    if ref == 7:
        raise ValueError("7 is bad")
    if ref == 8:
        raise Filtered("too small")
    if ref == 9:
        notes.recovered("only half of it")
    return ref


def died_before(folder, ref):
    return len(list(folder.glob(f"death-{ref}-*")))


def to_bytes(more):
    return f"number {more}".encode() * 1000


def make_pipeline(folder, deadly):
    folder.mkdir(exist_ok=True)
    return Pipeline(
        Each(work, makes="number", name="work", deadly=deadly, folder=folder),
        Batch(Model(folder / "models.txt"), makes="more", name="model", size=4),
        Each(to_bytes, makes="file", name="encode"),
        Save(file="files/{name}.txt"),
    )


def full_disk(out):
    def write(ref):
        if ref == 30:
            raise OutputError("the disk is full: make room")
        return b"x"

    return Pipeline(Each(write, makes="file", name="write"), Save(file="{name}.txt"))


def go(out, count=60, *, deadly=None, retry=None, pipeline=None, **options):
    job = Job(
        recipe="test",
        version="1",
        config={},
        command={},
        source=Numbers(count),
        out=out,
        make_pipeline=pipeline or partial(make_pipeline, out.with_name(f"{out.name}-notes"), deadly or {}),
    )
    return run(job, RunOptions(**{"threads": 2, "workers": 2, "progress": "none"} | options), retry=retry)


def files_of(out):
    """Everything in OUT that is the same in every run of one config."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and ".lightmill" not in path.parts and path.name != "report.html"
    }


def rows(out):
    return {row["key"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}


def attempts(out):
    with sqlite3.connect(out / ".lightmill/journal.db") as journal:
        found = dict(journal.execute("SELECT key, attempts FROM items"))
    journal.close()
    return found


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_starts_a_ray_of_its_own_and_ends_it_also_when_it_is_stopped(tmp_path):
    """Comes first: here is no Ray yet."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TooManyFailures, match="--max-failures 5 allows"):
        go(tmp_path / "out", 400, pipeline=partial(all_bad, tmp_path), max_failures=Budget.parse("5"))
    with Journal.read(tmp_path / "out") as journal:
        assert 5 < journal.counts()["failed"] < 100
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_make_what_one_process_makes_and_load_models_once_each(tmp_path, cluster):
    go(tmp_path / "one", workers=1)
    result = go(tmp_path / "two")
    assert (result.ok, result.recovered, result.filtered, result.failed) == (57, 1, 1, 1)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert rows(tmp_path / "two")["007.jpg"]["error"] == "ValueError: 7 is bad"
    assert set(attempts(tmp_path / "two").values()) == {1}
    log = [line.split() for line in (tmp_path / "two-notes/models.txt").read_text().splitlines()]
    assert sorted(Counter(what for what, _ in log).items()) == [("load", 2), ("unload", 2)]
    assert len({pid for _, pid in log} | {str(os.getpid())}) == 3
    with Journal.read(tmp_path / "two") as journal:
        (session,) = journal.sessions()
        assert len(journal.previews(60)) == SHEET
    assert session["threads"] == 4
    # a stage that raises is not counted: items 7 and 8 never get through `work`
    assert {stage["name"]: stage["calls"] for stage in session["stages"]}["work"] == 58
    assert [queue["name"] for queue in session["queues"]] == ["source", "before model", "before encode"]
    assert go(tmp_path / "two").exit_code == 3
    assert set(attempts(tmp_path / "two").values()) == {1}


def test_a_worker_that_is_killed_loses_nothing_and_a_deadly_item_fails_alone(tmp_path, cluster):
    out = tmp_path / "out"
    result = go(out, deadly={20: 1, 40: -1})
    assert (result.ok, result.recovered, result.filtered, result.failed) == (56, 1, 1, 2)
    found = rows(out)
    assert (found["040.jpg"]["status"], found["040.jpg"]["stage"]) == ("failed", "worker")
    assert "its worker process died 3 times" in found["040.jpg"]["error"]
    assert died_before(tmp_path / "out-notes", 40) == 3
    assert [key for key, row in found.items() if row["status"] == "failed"] == ["007.jpg", "040.jpg"]
    assert not list(out.rglob(".lm-*"))
    with Journal.read(out) as journal:
        assert journal.failure_classes() == {"work:ValueError": 1, "worker:WorkerDied": 1}
    # the cause is gone: retry does it, and what lies in OUT is what an undisturbed run leaves
    go(out, retry=lambda row: row.stage == "worker")
    go(tmp_path / "one", workers=1)
    assert files_of(out) == files_of(tmp_path / "one")


def test_what_no_item_escapes_stops_the_run_and_the_rest_follows(tmp_path, cluster):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="the disk is full: make room"):
        go(out, 500, pipeline=partial(full_disk, out))
    with Journal.read(out) as journal:
        counts = journal.counts()
    assert counts["ok"] < 100
    assert "failed" not in counts
    assert not (out / "manifest.csv").exists()
    assert go(out, 500, workers=1, pipeline=partial(written_now, out)).ok == 500


def written_now(out):
    return Pipeline(Each(lambda ref: b"x", makes="file", name="write"), Save(file="{name}.txt"))


def test_split360_is_byte_identical_on_a_cluster_that_is_reached_by_its_address(
    tmp_path, cluster, lightmill_run, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    panoramas(tmp_path / "in", 12)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    options = {"size": "160x120", "masks": "alpha", "export": "colmap,nerfstudio", "progress": "none"}
    one = lightmill.split360("in", "one", threads=1, **options)
    assert (one.ok, one.failed) == (12, 1)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    paths = ("in", "two")  # relative: they mean the same in the workers
    two = lightmill_run("split360", *paths, *words, "--ray", cluster, "--workers", 3, "--threads", 1)
    assert two.code == 3, two.stderr
    assert "lightmill retry two --only failed" in two.stderr
    found = files_of(tmp_path / "two")
    assert len(found) > 12 * 16
    assert files_of(tmp_path / "one") == found
    assert len([node for node in ray.nodes() if node["Alive"]]) == 1, "the cluster is left as it was"


# --- the command line, with a Ray of its own -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's processes end with their driver on Linux only")
def test_killed_and_interrupted_drivers_are_resumed_to_the_same_bytes(tmp_path, lightmill_run):
    panoramas(tmp_path / "in", 40, width=2048)
    size = ("--size", "640x480", "--progress", "none", "--threads", 1)
    assert lightmill_run("split360", tmp_path / "in", tmp_path / "one", *size).code == 0
    out = tmp_path / "two"
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        run_until_signalled(tmp_path / "in", out, size, number, code)
        with Journal.read(out) as journal:
            assert 0 < journal.counts()["ok"] < 40
    done = lightmill_run("split360", tmp_path / "in", out, "--workers", 2, *size)
    assert (done.code, done.stderr) == (0, "")
    assert files_of(tmp_path / "one") == files_of(out)
    assert sum(attempts(out).values()) <= 40 + 2 * 8 * 2  # two stops, two threads
    assert not list(out.rglob(".lm-*"))


def run_until_signalled(source, out, options, number, code):
    already = len(list(out.glob("images/*/*.jpg")))
    command = [sys.executable, "-m", "lightmill", "split360", source, out, "--workers", "2", *map(str, options)]
    env = dict(os.environ) | {"PYTHONPATH": str(Path(lightmill.__file__).parents[1])}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("images/*/*.jpg"))) < already + 24 and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_a_video_and_a_trace_are_refused_with_what_to_do(tmp_path):
    class Video(Numbers):
        described = "video tour.mp4"
        streams = True

    with pytest.raises(UsageError, match=r"video tour\.mp4: .* frames do not travel .*; leave out --workers and --ray"):
        check_possible(Video(3), trace=None)
    with pytest.raises(UsageError, match="--trace follows the threads of one process"):
        go(tmp_path / "out", trace=tmp_path / "trace.json")
    assert not (tmp_path / "out").exists()


def test_without_ray_the_message_names_the_extra_and_one_process_works_all_the_same(tmp_path):
    panoramas(tmp_path / "in", 1)
    program = (
        "import sys; sys.modules['ray'] = None\n"  # importing it raises ImportError
        "from lightmill.__main__ import main\n"
        "sys.exit(main())"
    )
    env = dict(os.environ) | {"PYTHONPATH": str(Path(lightmill.__file__).parents[1])}
    command = [sys.executable, "-c", program, "split360", tmp_path / "in", tmp_path / "out", "--size", "64x64"]
    refused = subprocess.run([*command, "--workers", "2"], env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("which is not installed; run: pip install 'lightmill[ray]'")
    assert not (tmp_path / "out").exists()
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("address", ["nonsense", "http://head:6379", "head:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UsageError, match="it is `auto`, or host:port of the head"):
        _connect(address, {})


def test_a_cluster_that_is_not_there_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RunError, match=rf"no Ray cluster was reached at 127\.0\.0\.1:{port}: .*refused"):
        _connect(f"127.0.0.1:{port}", {})


# --- how many, and where ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "on_gpu", "wanted"),
    [
        ([{"CPU": 8.0}], 2, 4, False, (2, 4, 2)),
        ([{"CPU": 8.0}], 4, 0, False, (4, 2, 4)),
        ([{"CPU": 16.0}, {"CPU": 8.0}], 0, 0, False, (2, 8, 1)),  # one a machine, as many threads as the smaller has
        ([{"CPU": 16.0}, {"CPU": 8.0}], 3, 0, False, (3, 4, 2)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], 0, 0, True, (4, 4, 4)),  # one a GPU
        ([{"CPU": 16.0, "GPU": 4.0}], 2, 3, True, (2, 3, 2)),
    ],
)
def test_workers_are_spread_over_machines(machines, workers, threads, on_gpu, wanted):
    fleet = _fleet(machines, workers=workers, threads=threads, on_gpu=on_gpu)
    assert (fleet.workers, fleet.threads, fleet.per_machine) == wanted
    assert fleet.needs == ({"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": fleet.threads})


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "on_gpu", "says"),
    [
        ([{"CPU": 3.0}, {"CPU": 3.0}], 3, 2, False, "with 2 CPUs for each there is room for 2 on the 2 machines"),
        ([{"CPU": 8.0, "GPU": 2.0}], 8, 1, True, "with a GPU for each there is room for 2"),
        ([{"CPU": 8.0}], 0, 0, True, "Ray knows no machine with a GPU"),
    ],
)
def test_workers_that_would_never_start_are_refused(machines, workers, threads, on_gpu, says):
    with pytest.raises(UsageError, match=says):
        _fleet(machines, workers=workers, threads=threads, on_gpu=on_gpu)


# --- one worker, in this process -------------------------------------------------------------------------------------


def setup_of(out, pipeline, *, there=True, **more):
    (out / ".lightmill").mkdir(parents=True)
    settings = {
        "make_pipeline": partial(pipeline, out),
        "out": out if there else out / "elsewhere",
        "folder": os.getcwd(),
        "durable": False,
        "threads": 2,
        "memory_bytes": 1 << 30,
        "per_machine": 1,
        "device": "cpu",
        "sampled": lambda item: False,
        "learnt": {},
    }
    return Setup(**settings | more)


def numbered(numbers):
    return [Item(key=f"{n}.jpg", ref=n, name=f"{n}") for n in numbers]


def test_a_worker_answers_for_each_shard_with_its_own_ends(tmp_path):
    worker = WorkerProcess(setup_of(tmp_path, written_now))
    answers = {}
    shards = {start: numbered(range(start, start + 10)) for start in (0, 10, 20)}
    threads = [
        threading.Thread(target=lambda start=start, shard=shard: answers.update({start: worker.run_shard(shard)}))
        for start, shard in shards.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for start, shard in shards.items():
        assert sorted(end.key for end in answers[start].ends) == sorted(item.key for item in shard)
        assert {end.status for end in answers[start].ends} == {Status.OK}
    last = worker.close()
    assert last.fatal is None
    assert {stage.name: stage.calls for stage in last.stages} == {"write": 30, "save": 30}


def test_a_worker_that_cannot_go_on_answers_with_the_error(tmp_path):
    worker = WorkerProcess(setup_of(tmp_path, full_disk))
    report = worker.run_shard(numbered(range(25, 35)))
    assert isinstance(report.fatal, OutputError)
    assert "30.jpg" not in {end.key for end in report.ends}
    assert isinstance(worker.run_shard(numbered([1])).fatal, OutputError)
    assert isinstance(worker.close().fatal, OutputError)


def test_a_model_that_does_not_load_ends_the_run_with_its_words(tmp_path):
    class Absent(Model):
        def load(self, device):
            raise OSError("there is no such model")

    def absent(out):
        return Pipeline(Batch(Absent(None), makes="file", name="model"), Save(file="{name}.txt"), given=("number",))

    report = WorkerProcess(setup_of(tmp_path, absent)).run_shard(numbered([1, 2]))
    assert type(report.fatal) is RunError
    assert "cannot go on: OSError: there is no such model" in str(report.fatal)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"version": "0.0.1"}, r"has lightmill .*, this run is of 0\.0\.1; install that there"),
        ({"folder": "/no/such/folder"}, "there is no folder /no/such/folder on .*; give the command from a folder"),
        ({"there": False}, "elsewhere of this run is not there on .*; OUT has to be on a disk that all share"),
    ],
)
def test_a_machine_that_lacks_what_the_run_needs_says_so(tmp_path, more, says):
    with pytest.raises(RunError, match=says):
        raise WorkerProcess(setup_of(tmp_path, written_now, **more)).hello().fatal


def test_a_stopped_worker_gives_back_what_it_did_not_begin(tmp_path):
    begun, let_go = threading.Event(), threading.Event()

    def slow(out):
        def wait(ref):
            begun.set()
            let_go.wait(20)
            return b"x"

        return Pipeline(Each(wait, makes="file", name="wait"), Save(file="{name}.txt"))

    worker = WorkerProcess(setup_of(tmp_path, slow, threads=1))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(worker.run_shard(numbered(range(10)))))
    thread.start()
    assert begun.wait(20)
    worker.stop()
    let_go.set()
    thread.join(20)
    assert [end.key for end in answers[0].ends] == ["0.jpg"]
    assert answers[0].fatal is None


def all_bad(out):
    def bad(ref):
        raise ValueError("bad")

    return Pipeline(Each(bad, makes="file", name="bad"), Save(file="{name}.txt"))


def test_workers_that_never_start_end_the_run(tmp_path, cluster):
    def deadly(out):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return written_now(out)

    here, events = os.getpid(), []
    fleet = Fleet(workers=1, threads=1, per_machine=1, on_gpu=False)
    workers = RayWorkers(fleet, setup_of(tmp_path, deadly, threads=1), emit=events.append)
    workers.run(iter(numbered(range(5))))
    assert isinstance(workers.fatal, RunError)
    assert "worker processes end before they have done anything" in str(workers.fatal)
    assert not [event for event in events if not isinstance(event, Started)]


def panoramas(folder, count, *, width=512):
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(count):
        coarse = rng.integers(0, 255, (16, 32, 3), np.uint8)
        picture = cv2.resize(coarse, (width, width // 2), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"pano_{number:02d}.jpg"), picture)
