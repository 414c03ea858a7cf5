"""Runs a pipeline over items: fused CPU segments on a pool of threads, device segments on a thread of their own.

    feeder ──queue──> CPU segment ──queue──> device segment ──queue──> CPU segment ──> events

Queues are bounded in bytes. A CPU thread prefers the segment nearest to the end, so that what was begun is finished
before more is taken in; a fused segment takes one item through all of its stages, so its pixels stay in the cache.
Nothing here writes the journal: what happens to items leaves as events, in the order in which it happened.
"""

import copy
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from lightmill.engine.batching import LearntSizes, run_in_batches
from lightmill.engine.buffers import Buffers, MemoryBudget, nbytes
from lightmill.engine.items import Filtered, Item, Notes, Status
from lightmill.engine.journal import End
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline, Segment
from lightmill.engine.record import QueueFill, StageTime
from lightmill.engine.stages import GIVEN, Batch, Each, Fan, Save, Stage
from lightmill.engine.trace import Trace
from lightmill.engine.work import (
    Clock,
    Event,
    Started,
    Work,
    by_signature,
    call_batch,
    caller,
    files_of,
    flat,
    for_people,
)
from lightmill.errors import OutputError, RunError

LOOK_AHEAD = 16  # items a thread that are listed but not begun


@dataclass
class _Queue:
    """Between two segments. Guarded by the executor's lock."""

    name: str
    capacity_bytes: int
    most: int | None = None  # items, for the queue of what is not begun
    works: deque[Work] = field(default_factory=deque)
    used_bytes: int = 0
    samples: int = 0
    sum_share: float = 0.0
    full: int = 0

    @property
    def has_room(self) -> bool:
        if not self.works:
            return True
        return self.used_bytes < self.capacity_bytes and (self.most is None or len(self.works) < self.most)

    @property
    def is_half_empty(self) -> bool:
        return self.used_bytes <= self.capacity_bytes // 2 and (self.most is None or len(self.works) <= self.most // 2)

    def put(self, work: Work) -> None:
        self.works.append(work)
        self.used_bytes += work.size

    def get(self) -> Work:
        work = self.works.popleft()
        self.used_bytes -= work.size
        return work

    @property
    def share(self) -> float:
        if self.most is not None:
            return min(len(self.works) / self.most, 1.0)
        return min(self.used_bytes / self.capacity_bytes, 1.0)


class Executor:
    """One worker: threads, a device, models loaded once. Used for one run."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        outputs: Outputs,
        threads: int,
        memory_bytes: int,
        emit: Callable[[Event], None],
        sampled: Callable[[Item], bool] = lambda _: False,
        device: str = "cpu",
        learnt: LearntSizes | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._outputs = outputs
        self._threads = threads
        self._emit = emit
        self._sampled = sampled
        self._device = device
        self.learnt = learnt or LearntSizes()
        self._trace = trace
        self._buffers = Buffers(keep_bytes=memory_bytes // 2)
        self._budget = MemoryBudget(memory_bytes // 2)
        segments = pipeline.segments
        share = memory_bytes // 2 // len(segments)
        self._queues = [
            _Queue(
                "source" if i == 0 else f"before {segment.stages[0].name}",
                share,
                LOOK_AHEAD * threads if i == 0 else None,
            )
            for i, segment in enumerate(segments)
        ]
        self._active = [0] * len(segments)  # items inside each segment
        self._changed = threading.Condition()
        self._fed = False
        self._samples = self._starved = 0
        self._stopping = False
        self._deserted: set[int] = set()  # device segments whose thread has ended with an error
        self.fatal: BaseException | None = None
        self._clocks: list[Clock] = []
        self._calls = {stage.name: caller(stage) for stage in flat(pipeline.stages)}
        self._running: list[threading.Thread] = []

    # --- life --------------------------------------------------------------------------------------------------------

    def run(self, items: Iterable[Item]) -> None:
        """Take all items through the pipeline; returns when the last has left it, or the run was stopped.

        Models are loaded before the first item is touched. Check `fatal` afterwards.
        """
        device_segments = [i for i, segment in enumerate(self._pipeline.segments) if segment.on_device]
        ready = threading.Barrier(len(device_segments) + 1)
        for index in device_segments:
            self._start(f"device {index}", self._device_loop, index, ready)
        ready.wait()
        for number in range(self._threads):
            self._start(f"cpu {number}", self._cpu_loop)
        self._guarded(self._feed, items)
        with self._changed:
            self._fed = True
            self._changed.notify_all()
        for thread in self._running:
            thread.join()

    def stop(self) -> None:
        """Take up nothing more; what is under way is finished."""
        with self._changed:
            self._stopping = True
            self._queues[0].works.clear()
            self._queues[0].used_bytes = 0
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Stop, because of an error that no item could escape."""
        with self._changed:
            self.fatal = self.fatal or error
        self.stop()

    def stage_times(self) -> list[StageTime]:
        """Busy time of every stage so far, over all threads."""
        totals: dict[str, list[float]] = {}
        for clock in list(self._clocks):
            for name, (busy, calls) in list(clock.times.items()):
                total = totals.setdefault(name, [0.0, 0])
                total[0] += busy
                total[1] += calls
        kinds = {stage.name: segment.name for segment in self._pipeline.segments for stage in flat(segment.stages)}
        order = {stage.name: i for i, stage in enumerate(flat(self._pipeline.stages))}
        device = {s.name for segment in self._pipeline.segments if segment.on_device for s in segment.stages}
        return [
            StageTime(name, "device" if name in device else "cpu" if name in kinds else "within", busy, int(calls))
            for name, (busy, calls) in sorted(totals.items(), key=lambda pair: order.get(pair[0], len(order)))
        ]

    def sample_queues(self) -> str | None:
        """Note how full the queues are; the name of one that is full, if any. Called now and then by the driver."""
        full = None
        with self._changed:
            self._samples += 1
            self._starved += not self._fed and not self._queues[0].works and self._active[0] < self._threads
            for queue in self._queues:
                queue.samples += 1
                queue.sum_share += queue.share
                if not queue.has_room:
                    queue.full += 1
                    full = queue.name
        return full

    @property
    def source_wait_share(self) -> float:
        """The share of the time that a thread was idle because the source had nothing ready."""
        return self._starved / max(self._samples, 1)

    def queue_fills(self) -> list[QueueFill]:
        """How full the queues were, in the order of the pipeline."""
        return [
            QueueFill(q.name, q.capacity_bytes, q.sum_share / max(q.samples, 1), q.full / max(q.samples, 1))
            for q in self._queues
        ]

    @property
    def threads(self) -> int:
        """CPU threads."""
        return self._threads

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that this process held."""
        return peak_rss_bytes()

    def _start(self, name: str, loop: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=self._guarded, args=(loop, *args), name=name, daemon=True)
        self._running.append(thread)
        thread.start()

    def _guarded(self, loop: Callable[..., None], *args: Any) -> None:
        """A thread that breaks ends the run with its error, not in silence."""
        try:
            loop(*args)
        except BaseException as error:  # noqa: BLE001 (kept in `fatal`; the driver raises it)
            self.fail(error)

    # --- feeding -----------------------------------------------------------------------------------------------------

    def _feed(self, items: Iterable[Item]) -> None:
        queue = self._queues[0]
        for item in items:
            work = self._begin(item)
            with self._changed:
                if not queue.has_room:  # then wait for half of it: being woken for every item costs more than the item
                    self._changed.wait_for(lambda: self._stopping or queue.is_half_empty)
                if self._stopping:
                    return
                queue.put(work)
                # one waiter is enough where all of them are CPU threads; a device thread would swallow the call
                self._changed.notify_all() if self._pipeline.has_device else self._changed.notify()

    def _begin(self, item: Item) -> Work:
        notes = Notes(item.meta, sampled=self._sampled(item))
        values = {
            **item.fields,
            "key": item.key,
            "name": item.name,
            "ref": item.ref,
            "row": item.row,
            "notes": notes,
            "buffers": self._buffers,
        }
        item.fields = {}
        return Work(item, values, notes, size=sum(nbytes(values[name]) for name in self._pipeline.given))

    # --- CPU segments ------------------------------------------------------------------------------------------------

    def _cpu_loop(self) -> None:
        clock = self._new_clock()
        while (task := self._next_task()) is not None:
            index, work = task
            if index == 0:
                self._emit(Started(work.item.key))
            segment = self._pipeline.segments[index]
            end = self._through(segment, work, clock)
            self._pass_on(index, work, end)

    def _next_task(self) -> tuple[int, Work] | None:
        """Wait for an item that a CPU segment can take; None when there will be no more."""
        with self._changed:
            while True:
                for index in range(len(self._queues) - 1, -1, -1):
                    if self._pipeline.segments[index].on_device or not self._queues[index].works:
                        continue
                    if index + 1 < len(self._queues) and not self._queues[index + 1].has_room:
                        continue
                    self._active[index] += 1
                    work = self._queues[index].get()
                    if self._pipeline.has_device or (index == 0 and self._queues[0].is_half_empty):
                        self._changed.notify_all()
                    return index, work
                if self._no_more_before(len(self._queues)):
                    return None
                self._changed.wait()

    def _no_more_before(self, index: int) -> bool:
        """Whether nothing can reach segment `index` any more. Call with the lock held."""
        fed = self._fed or self._stopping
        return fed and not any(queue.works for queue in self._queues[:index]) and not any(self._active[:index])

    def _through(self, segment: Segment, work: Work, clock: Clock) -> End | None:
        """One item through a fused segment; its End where it does not go on."""
        try:
            for stage, drops in zip(segment.stages, segment.drops, strict=True):
                work.stage = stage.name
                self._do(stage, work, clock)
                for name in drops:
                    work.values.pop(name, None)
        except Filtered as reason:
            return self._ended(work, Status.FILTERED, error=str(reason))
        except OutputError as error:
            work.abandoned = True
            self.fail(error)
            return None
        except Exception as error:  # noqa: BLE001 (one bad picture must not end the run; --max-failures stops a broken one)
            return self._failed(work, error)
        finally:
            if work.held is not None:
                work.held.__exit__(None, None, None)
                work.held = None
        return None

    def _do(self, stage: Stage, work: Work, clock: Clock) -> None:
        if isinstance(stage, Fan):
            self._fan(stage, work, clock)
            return
        if isinstance(stage, Each) and stage.weight and work.held is None:
            wanted = stage.weight(**{name: work.values[name] for name in stage.weight_needs})
            work.held = self._budget.hold(wanted)
            work.held.__enter__()
        began = perf_counter()
        if isinstance(stage, Save):
            self._save(stage, work)
        else:
            self._calls[stage.name](work)
        clock.add(stage.name, work.item.key, began)
        if work.notes.spans:
            self._take_spans(work, clock)

    def _fan(self, fan: Fan, work: Work, clock: Clock) -> None:
        gathered: dict[str, dict[str, Any]] = {name: {} for name in fan.gathers.values()}
        for part, value in fan.over.items():
            work.values[fan.part] = value
            for stage in fan.stages:
                work.stage = stage.name
                began = perf_counter()
                self._calls[stage.name](work)
                clock.add(stage.name, work.item.key, began)
            for inner, outer in fan.gathers.items():
                gathered[outer][part] = work.values[inner]
            for stage in fan.stages:
                for name in stage.makes:
                    del work.values[name]
        work.values.pop(fan.part, None)
        work.values.update(gathered)

    def _take_spans(self, work: Work, clock: Clock) -> None:
        for name, began, ended in work.notes.spans:
            entry = clock.times.setdefault(name, [0.0, 0])
            entry[0] += ended - began
            entry[1] += 1
            if self._trace:
                self._trace.add(name, "span", threading.current_thread().name, began, ended, {"item": work.item.key})
        work.notes.spans.clear()

    def _save(self, stage: Save, work: Work) -> None:
        written: list[str] = []
        try:
            for field_name, to in stage.files.items():
                for label, path, data in files_of(field_name, to, work):
                    size = self._outputs.write(path, data)
                    written.append(path)
                    work.outputs[label] = (path, size)
        except BaseException:
            for path in written:  # an item has all of its files, or none
                self._outputs.discard(path)
            raise

    def _pass_on(self, index: int, work: Work, end: End | None) -> None:
        """Hand an item to the next segment, or tell how it ended."""
        last = index + 1 == len(self._queues)
        if end is None and last and not work.abandoned:
            end = self._ended(work, Status.OK)
        if end is not None:
            self._emit(end)
        with self._changed:
            if end is None and not last and not work.abandoned and index + 1 not in self._deserted:
                work.size = sum(nbytes(value) for name, value in work.values.items() if name not in GIVEN)
                self._queues[index + 1].put(work)
            self._active[index] -= 1
            if self._pipeline.has_device or self._fed or self._stopping:
                self._changed.notify_all()

    # --- device segments ---------------------------------------------------------------------------------------------

    def _device_loop(self, index: int, ready: threading.Barrier) -> None:
        segment = self._pipeline.segments[index]
        stages = [stage for stage in segment.stages if isinstance(stage, Batch)]
        loaded: list[Batch] = []
        clock = self._new_clock()
        try:
            try:
                for stage in stages:
                    stage.function.load(self._device)
                    loaded.append(stage)
            except BaseException as error:
                self.fail(error)  # before anyone goes on: the run stops before the first item is touched
                raise
            finally:
                ready.wait()
            while works := self._next_works(index, max(stage.size for stage in stages)):
                self._batch_through(index, segment, works, clock)
        except BaseException:
            self._desert(index)
            raise
        finally:
            for stage in reversed(loaded):
                stage.function.unload()

    def _desert(self, index: int) -> None:
        """Nobody takes items up here any more: those that wait, and those to come, are left for the next run."""
        with self._changed:
            self._deserted.add(index)
            self._queues[index].works.clear()
            self._queues[index].used_bytes = 0
            self._active[index] = 0
            self._changed.notify_all()

    def _next_works(self, index: int, most: int) -> list[Work]:
        """What lies ready, up to a batch: while the device works, the next batch gathers by itself."""
        queue = self._queues[index]
        with self._changed:
            self._changed.wait_for(lambda: bool(queue.works) or self._no_more_before(index + 1))
            works = [queue.get() for _ in range(min(len(queue.works), most))]
            self._active[index] += len(works)
            self._changed.notify_all()
            return works

    def _batch_through(self, index: int, segment: Segment, works: list[Work], clock: Clock) -> None:
        ends: dict[int, End] = {}
        for stage, drops in zip(segment.stages, segment.drops, strict=True):
            assert isinstance(stage, Batch)
            going = [work for work in works if id(work) not in ends]
            for work in going:
                work.stage = stage.name
            for what, group in by_signature(stage, going, self._device).items():
                began = perf_counter()
                self._run_group(stage, what, group, ends)
                clock.add(stage.name, group[0].item.key, began)
            for work in going:
                for name in drops:
                    work.values.pop(name, None)
        for work in works:
            self._pass_on(index, work, ends.get(id(work)))

    def _run_group(self, stage: Batch, what: str, group: list[Work], ends: dict[int, End]) -> None:
        failed = object()

        def note_failure(work: Work, error: BaseException) -> Any:
            ends[id(work)] = (
                self._ended(work, Status.FILTERED, error=str(error))
                if isinstance(error, Filtered)
                else self._failed(work, error)
            )
            return failed

        results = run_in_batches(
            lambda chunk: call_batch(stage, stage.function, chunk),
            group,
            what=what,
            most=stage.size,
            learnt=self.learnt,
            free_memory=lambda: _free_device_memory(self._device),
            alone=lambda work: self._on_cpu(stage, work),
            failed=note_failure,
        )
        for work, result in zip(group, results, strict=True):
            if result is not failed:
                work.values.update(zip(stage.makes, result, strict=True))

    def _on_cpu(self, stage: Batch, work: Work) -> Any:
        """One item that does not fit on the device, on the CPU."""
        if self._device == "cpu":
            raise RunError(
                "out of memory with a single item on the CPU: give the machine more memory or smaller pictures"
            )
        function = copy.copy(stage.function)
        function.load("cpu")
        try:
            return call_batch(stage, function, [work])[0]
        finally:
            function.unload()

    # --- ends --------------------------------------------------------------------------------------------------------

    def _ended(self, work: Work, status: Status, *, error: str = "", error_class: str = "") -> End:
        if status is Status.OK and work.notes.recovery:
            status, error = Status.RECOVERED, work.notes.recovery
        good = status in (Status.OK, Status.RECOVERED)
        return End(
            key=work.item.key,
            status=status,
            stage="" if good else work.stage,
            error_class=error_class,
            error=error,
            outputs=work.outputs if good else {},
            meta=work.notes.meta,
            previews=tuple(work.notes.previews) if good else (),
            pixels=work.notes.pixels,
        )

    def _failed(self, work: Work, error: BaseException) -> End:
        for path, _ in work.outputs.values():
            self._outputs.discard(path)
        return self._ended(work, Status.FAILED, error=for_people(error), error_class=type(error).__name__)

    def _new_clock(self) -> Clock:
        clock = Clock(self._trace)
        self._clocks.append(clock)
        return clock


def peak_rss_bytes() -> int:
    """The most memory that this process has held so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free_device_memory(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
