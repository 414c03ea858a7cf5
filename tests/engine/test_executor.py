"""Items through stages: what comes out does not depend on threads, and one bad item fails alone."""

import gc
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest

from lightmill.engine.batching import LearntSizes
from lightmill.engine.executor import Executor
from lightmill.engine.items import Filtered, Item, Status
from lightmill.engine.journal import End
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.stages import Batch, Each, Fan, Save, To
from lightmill.engine.work import Started, for_people
from lightmill.errors import DecodeError, ModelError, OutputError

torch = pytest.importorskip("torch")


def items(count, ref=lambda i: i):
    for i in range(count):
        yield Item(key=f"{i}.jpg", ref=ref(i), position=i, number=i, name=f"{i}")


def execute(pipeline, tmp_path, count, *, threads=2, ref=lambda i: i, memory=1 << 30, timeout=30, **options):
    events = []
    executor = Executor(
        pipeline, outputs=Outputs(tmp_path), threads=threads, memory_bytes=memory, emit=events.append, **options
    )
    thread = threading.Thread(target=executor.run, args=(items(count, ref),), daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "the executor does not come to an end"
    ends = {event.key: event for event in events if isinstance(event, End)}
    assert len(ends) == sum(isinstance(event, End) for event in events), "an item ended twice"
    return executor, ends, events


def load(ref):
    return ref


def to_bytes(number):
    return str(number).encode()


SIMPLE = Pipeline(Each(load, makes="number"), Each(to_bytes, makes="file"), Save(file="files/{name}.txt"))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_item_ends_once_and_its_file_is_there(tmp_path, threads):
    _, ends, events = execute(SIMPLE, tmp_path, 100, threads=threads)
    assert {key: end.status for key, end in ends.items()} == {f"{i}.jpg": Status.OK for i in range(100)}
    assert ends["7.jpg"].outputs == {"file": ("files/7.txt", 1)}
    assert (tmp_path / "files/42.txt").read_bytes() == b"42"
    order = [event.key for event in events if isinstance(event, Started)]
    assert sorted(order) == sorted(ends)
    for key in ends:
        first = next(i for i, event in enumerate(events) if isinstance(event, Started) and event.key == key)
        assert first < next(i for i, event in enumerate(events) if isinstance(event, End) and event.key == key)


def test_one_failing_item_fails_alone_with_stage_class_and_a_message_for_people(tmp_path):
    def fussy(ref):
        if ref == 3:
            raise DecodeError("3.jpg is cut off after 12 rows")
        if ref == 5:
            raise KeyError("missing <object at 0x7f3a2b1c4d5e>")
        if ref == 6:
            raise Filtered("smaller than 64 pixels")
        return ref

    pipeline = Pipeline(Each(fussy, makes="number"), Each(to_bytes, makes="file"), Save(file="{name}.txt"))
    _, ends, _ = execute(pipeline, tmp_path, 10)
    assert Counter(end.status for end in ends.values()) == {Status.OK: 7, Status.FAILED: 2, Status.FILTERED: 1}
    assert (ends["3.jpg"].stage, ends["3.jpg"].error_class) == ("fussy", "DecodeError")
    assert ends["3.jpg"].error == "3.jpg is cut off after 12 rows"
    assert ends["5.jpg"].error.startswith("KeyError: ")
    assert "0x" not in ends["5.jpg"].error
    assert ends["6.jpg"].error == "smaller than 64 pixels"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.txt" for i in (0, 1, 2, 4, 7, 8, 9)]


def test_notes_become_recovered_meta_previews_and_pixels(tmp_path):
    def decode(ref, notes):
        notes.meta["frames"] = 3
        notes.pixels = 1000
        notes.recovered("the end was missing")
        if notes.sampled:
            notes.preview("input", b"jpeg")
        with notes.span("inside"):
            pass
        return ref

    pipeline = Pipeline(Each(decode, makes="number"), Each(to_bytes, makes="file"), Save(file="{name}.txt"))
    executor, ends, _ = execute(pipeline, tmp_path, 2, sampled=lambda item: item.position == 1)
    assert ends["0.jpg"].status is Status.RECOVERED
    assert ends["0.jpg"].error == "the end was missing"
    assert ends["0.jpg"].meta == {"frames": 3}
    assert ends["0.jpg"].pixels == 1000
    assert ends["0.jpg"].previews == ()
    assert ends["1.jpg"].previews == (("input", b"jpeg"),)
    assert {time.name: time.calls for time in executor.stage_times()} == {
        "decode": 2,
        "to_bytes": 2,
        "save": 2,
        "inside": 2,
    }


def test_an_item_has_all_of_its_files_or_none(tmp_path):
    (tmp_path / "second").write_text("a file where a folder is wanted")
    pipeline = Pipeline(
        Each(lambda ref: {"a": b"1", "b": b"2"}, makes="files", name="make"),
        Save(files=To("first/{part}/{name}.txt"), more=To("second/{name}.txt")),
        given=("more",),
    )
    events = []
    executor = Executor(pipeline, outputs=Outputs(tmp_path), threads=1, memory_bytes=1 << 30, emit=events.append)
    executor.run([Item(key="x.jpg", ref=0, name="x", fields={"more": b"3"})])
    end = events[-1]
    assert end.status is Status.FAILED
    assert end.stage == "save"
    assert end.outputs == {}
    assert not list((tmp_path / "first").rglob("*.txt"))


def test_a_full_disk_stops_the_run_and_leaves_the_item_unended(tmp_path):
    class Full(Outputs):
        def write(self, path, data):
            if path.startswith("5"):
                raise OutputError("the disk is full")
            return super().write(path, data)

    pipeline = Pipeline(Each(to_bytes, makes="file", name="to_bytes"), Save(file="{name}.txt"), given=("number",))
    events = []
    executor = Executor(pipeline, outputs=Full(tmp_path), threads=1, memory_bytes=1 << 30, emit=events.append)
    executor.run(Item(key=f"{i}.jpg", ref=0, name=f"{i}", fields={"number": i}) for i in range(50))
    assert isinstance(executor.fatal, OutputError)
    ended = [event.key for event in events if isinstance(event, End)]
    assert ended == [f"{i}.jpg" for i in range(5)]


def test_a_fan_runs_its_stages_once_a_part_and_keeps_what_it_gathers(tmp_path):
    fan = Fan(
        part="camera",
        over={"left": -1, "right": 1},
        stages=(
            Each(lambda number, camera: number * camera, makes="view", name="cut"),
            Each(lambda view: str(view).encode(), makes="file", name="encode"),
        ),
        gathers={"file": "views"},
    )
    pipeline = Pipeline(Each(load, makes="number"), fan, Save(views=To("images/{part}/{name}.txt", "{part}")))
    _, ends, _ = execute(pipeline, tmp_path, 5)
    assert ends["4.jpg"].outputs == {"left": ("images/left/4.txt", 2), "right": ("images/right/4.txt", 1)}
    assert (tmp_path / "images/left/3.txt").read_bytes() == b"-3"


def test_labels_may_be_numbers_where_parts_are_called_differently_in_every_item(tmp_path):
    pipeline = Pipeline(
        Each(lambda ref: {f"r{10 * ref + i}": b"x" for i in range(2)}, makes="files", name="make"),
        Save(files=To("{name}_{part}.txt", "file {number}")),
    )
    _, ends, _ = execute(pipeline, tmp_path, 2)
    assert ends["0.jpg"].outputs == {"file 00": ("0_r0.txt", 1), "file 01": ("0_r1.txt", 1)}
    assert ends["1.jpg"].outputs == {"file 00": ("1_r10.txt", 1), "file 01": ("1_r11.txt", 1)}


def test_names_of_files_are_never_read_as_templates(tmp_path):
    pipeline = Pipeline(Each(lambda ref: {"a": b"x"}, makes="files", name="make"), Save(files="{part}/{name}.txt"))
    events = []
    executor = Executor(pipeline, outputs=Outputs(tmp_path), threads=1, memory_bytes=1 << 30, emit=events.append)
    executor.run([Item(key="{part}.jpg", ref=0, name="{part}{name}")])
    assert events[-1].outputs == {"a": ("a/{part}{name}.txt", 1)}


def test_seeded_stages_give_the_same_whatever_the_threads_and_batches(tmp_path):
    def noise(ref, seed):
        return np.random.default_rng(seed).bytes(16)

    pipeline = Pipeline(Each(noise, makes="file", seed=7), Save(file="{name}.bin"))
    found = []
    for threads in (1, 4):
        folder = tmp_path / str(threads)
        execute(pipeline, folder, 30, threads=threads)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 30


class Counted:
    """A field's value that knows how many of its kind are alive."""

    alive = 0
    most = 0
    lock = threading.Lock()
    nbytes = 1_000_000

    def __init__(self):
        with Counted.lock:
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(self, Counted.drop)

    @staticmethod
    def drop():
        with Counted.lock:
            Counted.alive -= 1


class Model:
    """Adds one. Slow enough for a queue to fill before it; records what was done to it."""

    def __init__(self, *, fits=10**9, pause_s=0.0, poison=()):
        self.fits, self.pause_s, self.poison = fits, pause_s, poison
        self.log = []
        self.device = None

    def load(self, device):
        self.device = device
        self.log.append(f"load {device}")

    def unload(self):
        self.log.append("unload")

    def __call__(self, image, number):
        self.log.append(len(number))
        time.sleep(self.pause_s)
        if self.device != "cpu" and len(number) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if set(number) & set(self.poison):
            raise ValueError("cannot do this one")
        return [n + 1 for n in number]


def device_pipeline(model, size=16):
    return Pipeline(
        Each(load, makes="number"),
        Each(lambda number: Counted(), makes="image", name="decode"),
        Batch(model, makes="more", size=size),
        Each(lambda more: str(more).encode(), makes="file", name="encode"),
        Save(file="{name}.txt"),
    )


def test_queues_are_bounded_in_bytes_and_fields_are_dropped_when_nothing_needs_them(tmp_path):
    Counted.most = 0
    # half of the memory is for queues, shared by three: each holds 10 MB, which is ten of these
    execute(device_pipeline(Model(pause_s=0.002), size=4), tmp_path, 200, memory=60_000_000)
    gc.collect()
    assert Counted.alive == 0
    assert (
        Counted.most <= 10 + 1 + 4 + 2
    )  # in the queue (which ends above its bound by one), in the batch, with each thread


def test_a_model_is_loaded_once_before_the_first_batch_and_unloaded_after_the_last(tmp_path):
    model = Model()
    _, ends, _ = execute(device_pipeline(model), tmp_path, 50)
    assert model.log[0] == "load cpu"
    assert model.log[-1] == "unload"
    assert Counter(type(entry) for entry in model.log)[str] == 2
    assert sum(entry for entry in model.log if isinstance(entry, int)) == 50
    assert (tmp_path / "49.txt").read_bytes() == b"50"
    assert len(ends) == 50


def test_a_model_that_cannot_be_loaded_ends_the_run_before_the_first_item_is_touched(tmp_path):
    class Absent(Model):
        def load(self, device):
            raise OSError("there is no such model")

    executor, _, events = execute(device_pipeline(Absent()), tmp_path, 5)
    assert isinstance(executor.fatal, OSError)
    assert events == []


def test_out_of_memory_on_the_device_shrinks_batches_and_then_uses_the_cpu(tmp_path):
    model, learnt = Model(fits=2, pause_s=0.001), LearntSizes()
    _, ends, _ = execute(device_pipeline(model), tmp_path, 60, device="meta", learnt=learnt)
    assert all(end.status is Status.OK for end in ends.values())
    assert set(learnt.sizes) == {"model on meta: Counted[] int[]"}
    assert model.device == "meta"

    model = Model(fits=0)
    _, ends, _ = execute(device_pipeline(model), tmp_path, 3, device="meta")
    assert all(end.status is Status.OK for end in ends.values())  # each on the CPU
    assert model.device == "meta"  # the copy that went to the CPU is another one


def test_one_poisoned_item_of_a_batch_fails_alone(tmp_path):
    _, ends, _ = execute(device_pipeline(Model(poison={13}, pause_s=0.005)), tmp_path, 40)
    assert [key for key, end in ends.items() if end.status is Status.FAILED] == ["13.jpg"]
    assert ends["13.jpg"].stage == "model"
    assert ends["13.jpg"].error == "ValueError: cannot do this one"


def test_a_model_that_can_do_no_more_ends_the_run_and_marks_no_item(tmp_path):
    class Ends(Model):
        def __call__(self, image, number):
            if sum(entry for entry in self.log if isinstance(entry, int)) >= 12:
                raise ModelError("the key has expired")
            return super().__call__(image, number)

    model = Ends(pause_s=0.02)
    executor, ends, _ = execute(device_pipeline(model, size=4), tmp_path, 100)
    assert isinstance(executor.fatal, ModelError)
    assert all(end.status is Status.OK for end in ends.values())
    assert 12 <= len(ends) <= 15
    assert len(list(tmp_path.glob("*.txt"))) == len(ends)
    assert model.log[-1] == "unload"


def test_a_batch_function_that_loses_an_item_is_found_out(tmp_path):
    class Loses(Model):
        def __call__(self, image, number):
            return number[1:]

    _, ends, _ = execute(device_pipeline(Loses()), tmp_path, 3)
    assert all(end.status is Status.FAILED for end in ends.values())
    assert "made 0 'more' for 1 items" in ends["0.jpg"].error


def test_stopping_finishes_what_is_under_way_and_takes_up_nothing_more(tmp_path):
    begun, let_go = threading.Event(), threading.Event()

    def slow(ref):
        begun.set()
        let_go.wait(10)
        return ref

    pipeline = Pipeline(Each(slow, makes="number"), Each(to_bytes, makes="file"), Save(file="{name}.txt"))
    events = []
    executor = Executor(pipeline, outputs=Outputs(tmp_path), threads=1, memory_bytes=1 << 30, emit=events.append)
    thread = threading.Thread(target=executor.run, args=(items(1000),), daemon=True)
    thread.start()
    assert begun.wait(10)
    executor.stop()
    let_go.set()
    thread.join(10)
    assert not thread.is_alive()
    assert executor.fatal is None
    assert [type(event).__name__ for event in events] == ["Started", "End"]


def test_a_source_that_breaks_ends_the_run_with_its_error(tmp_path):
    def broken():
        yield from items(3)
        raise RuntimeError("the disk of the source is gone")

    events = []
    executor = Executor(SIMPLE, outputs=Outputs(tmp_path), threads=2, memory_bytes=1 << 30, emit=events.append)
    executor.run(broken())
    assert isinstance(executor.fatal, RuntimeError)


def test_heavy_items_wait_for_their_share_of_the_memory(tmp_path):
    now, most, lock = [0], [0], threading.Lock()

    def hold(number):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.002)
        with lock:
            now[0] -= 1
        return b"x"

    def run(weight):
        most[0] = 0
        pipeline = Pipeline(
            Each(load, makes="number"), Each(hold, makes="file", weight=lambda number: weight), Save(file="{name}.txt")
        )
        execute(pipeline, tmp_path, 40, threads=4, memory=1000)  # half of it is for what is under way
        return most[0]

    assert run(400) == 1
    assert run(10**6) == 1  # larger than all there is: alone, but done
    assert run(1) > 1


def test_messages_for_people_have_no_addresses_and_one_line():
    assert for_people(ValueError("bad\nthing at 0x7f00deadbeef here")) == "ValueError: bad thing here"
    assert for_people(DecodeError("cut off")) == "cut off"
    assert for_people(RuntimeError()) == "RuntimeError"


def test_a_device_thread_that_breaks_ends_the_run_though_items_wait_for_it(tmp_path):
    """What is no exception of an item's, with a queue before the device: nobody may wait for ever."""

    class Breaks(Model):
        def __call__(self, number):
            raise SystemExit("the device is gone")

    executor, ends, _ = execute(device_pipeline(Breaks()), tmp_path, 50)
    assert isinstance(executor.fatal, SystemExit)
    assert not any(end.status is Status.OK for end in ends.values())
