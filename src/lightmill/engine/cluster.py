"""Worker processes, on this machine or on the machines of a Ray cluster.

    items ──shards──> worker process: one executor for its whole life ──ends──> events

The driver leases shards of items to workers and gets their ends; pixels never leave a worker. Only the driver's
journal decides what is done: a shard whose worker died is leased again, and as names and contents of outputs come from
the item alone, doing one twice leaves what doing it once does.

An item that was under way twice when a worker died goes alone, with nothing else in its worker: when that one dies
too, the item is the reason (or needs more memory than there is), and it fails alone.
"""

import os
import platform
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from lightmill import __version__
from lightmill.engine.batching import LearntSizes
from lightmill.engine.buffers import free_memory_bytes
from lightmill.engine.executor import Executor, peak_rss_bytes
from lightmill.engine.items import Item, Source, Status
from lightmill.engine.journal import STATE, End
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.record import QueueFill, StageTime
from lightmill.engine.work import Event, Started, for_people
from lightmill.errors import LightmillError, MissingExtra, OutputError, RunError, UsageError

# What a worker holds and what waits for the journal may have to be done again after a kill: 8 items a thread in all.
SHARD_PER_THREAD = 2  # items
SHARDS_IN_FLIGHT = 3  # a worker: while the driver turns round, its threads have the next ones
UNCOMMITTED_PER_THREAD = 2

MOST_LOSSES = 3  # workers that an item may take down
MOST_BAD_STARTS = 3  # in a row, of one worker
_BARREN_DEATHS = 10  # a worker: so many deaths in a row without one finished shard end the run
_TICK_S = 0.1
_SETTLE_S = 5.0  # for the news of all shards of a dead worker
_CLOSE_S = 60.0  # for models to be unloaded
_REACH_S = 5.0
_OBJECT_STORE_BYTES = 100 << 20  # items and ends are small


def check_possible(source: Source, *, trace: Path | None) -> None:
    """Refuse what workers cannot do. Raises UsageError, or MissingExtra where Ray is not installed."""
    if source.streams:
        raise UsageError(
            f"{source.described}: a video is decoded in one process and its frames do not travel to others; "
            "leave out --workers and --ray (--threads uses all cores of this machine)"
        )
    if trace:
        raise UsageError("--trace follows the threads of one process; leave out --workers and --ray, or --trace")
    if find_spec("ray") is None:
        raise MissingExtra("--workers and --ray need Ray, which is not installed; run: pip install 'lightmill[ray]'")


# ---------------------------------------------------------------------------------------------------------------------
# the machines


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """How many workers there are to be, and what each has."""

    workers: int
    threads: int  # of each worker
    per_machine: int  # workers that share a machine and its memory, at most
    on_gpu: bool

    @property
    def needs(self) -> dict[str, float]:
        """What Ray sets aside for one worker."""
        return {"num_gpus": 1, "num_cpus": 0} if self.on_gpu else {"num_cpus": self.threads}


@contextmanager
def open_fleet(*, workers: int, threads: int, cores: int, address: str | None, device: str) -> Iterator[Fleet]:
    """Start Ray on this machine, or connect to a cluster (`address`: auto, or host:port), for as long as it is needed.

    `workers` 0: one for every machine (or GPU) of the cluster. `threads` 0: the cores divided among the workers.
    A Ray that this process had connected to before is used, and left connected. Call it in a thread that outlives the
    run: on Linux, Ray's processes end with the thread that started them.
    Raises RunError where there is no such cluster, UsageError where it has no room for the workers.
    """
    import ray

    was_connected = ray.is_initialized()
    threads = threads or (0 if address else max(1, cores // max(workers, 1)))
    before = signal.getsignal(signal.SIGTERM)
    try:
        if not was_connected:
            _connect(address, {"num_cpus": max(workers, 1) * threads, "object_store_memory": _OBJECT_STORE_BYTES})
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        yield _fleet(machines, workers=workers, threads=threads, on_gpu=device.startswith("cuda"))
    finally:
        if not was_connected:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place


def _connect(address: str | None, local: Mapping[str, Any]) -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        with _as_run_error("Ray cannot be started on this machine"):
            ray.init(address="local", include_dashboard=False, **local, **quiet)
        return
    if address != "auto":
        _reach(address)
    with _as_run_error(f"no Ray cluster was reached at {address}"):
        ray.init(address=address, **quiet)


@contextmanager
def _as_run_error(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, ImportError) as error:  # what ray.init raises, after its words
        reason = " ".join(str(error).split()).rstrip(".")
        hint = "`ray start --head` starts a cluster; --workers without --ray needs none"
        raise RunError(f"{what}: {reason[:300]}; {hint}") from error


def _reach(address: str) -> None:
    """Whether anything listens there: Ray itself would try for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UsageError(f"--ray {address}: it is `auto`, or host:port of the head of a Ray cluster")
    with _as_run_error(f"no Ray cluster was reached at {address}"):
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()


def _fleet(machines: list[dict[str, float]], *, workers: int, threads: int, on_gpu: bool) -> Fleet:
    """Workers on machines with so many CPUs and GPUs. Raises UsageError where they do not fit."""
    kind = "GPU" if on_gpu else "CPU"
    machines = [machine for machine in machines if machine.get(kind, 0) >= 1]
    if not machines:
        raise UsageError(f"Ray knows no machine with a {kind} here; with --device cpu the work needs none but CPUs")
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    workers = workers or (gpus if on_gpu else len(machines))
    per_machine = -(-workers // len(machines))
    threads = threads or max(1, int(min(machine.get("CPU", 1) for machine in machines)) // per_machine)
    room = gpus if on_gpu else sum(int(machine["CPU"]) // threads for machine in machines)
    if workers > room:
        each = "a GPU" if on_gpu else f"{threads} CPUs"
        raise UsageError(
            f"--workers {workers}: with {each} for each there is room for {room} on the {len(machines)} machines "
            "that Ray knows; give fewer" + ("" if on_gpu else ", or fewer --threads (of each worker)")
        )
    return Fleet(workers=workers, threads=threads, per_machine=per_machine, on_gpu=on_gpu)


# ---------------------------------------------------------------------------------------------------------------------
# in a worker process


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a worker is told. Travels to it, so it holds no locks, no open files and no arrays."""

    make_pipeline: Callable[[], Pipeline]
    out: Path  # absolute
    folder: str  # that relative paths are meant from
    durable: bool
    threads: int
    memory_bytes: int | None  # of a machine; None: half of what is free there
    per_machine: int  # workers that share it
    device: str
    sampled: Callable[[Item], bool]
    learnt: dict[str, int]
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class Report:
    """What comes back from a worker: ends, and how it stands since it began."""

    ends: list[End] = field(default_factory=list)
    fatal: LightmillError | None = None
    learnt: dict[str, int] = field(default_factory=dict)
    stages: list[StageTime] = field(default_factory=list)
    queues: list[QueueFill] = field(default_factory=list)
    full_queue: str | None = None
    source_wait_share: float = 0.0
    rss_bytes: int = 0


class _Shard:
    """Some items inside a worker."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ends: list[End] = []
        self.over = threading.Event()


class WorkerProcess:
    """One executor, fed by a queue, for the whole life of a process. Its methods are called from several threads."""

    def __init__(self, setup: Setup) -> None:
        self._fed: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._shards: dict[str, _Shard] = {}  # by key of the items under way
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._full_queue: str | None = None
        self._executor: Executor | None = None
        self._fatal: LightmillError | None = None
        try:
            self._executor = self._open(setup)
        except Exception as error:  # noqa: BLE001 (told to the driver, which ends the run with it)
            self._fatal = _tellable(error)
            self._over.set()
            return
        threading.Thread(target=self._work, args=(self._executor,), name="feeder", daemon=True).start()
        threading.Thread(target=self._watch, args=(self._executor,), name="watch", daemon=True).start()

    def hello(self) -> Report:
        """Answered as soon as there is a worker."""
        return self._report([])

    def run_shard(self, items: list[Item]) -> Report:
        """Take items through the pipeline; returns when all have ended, or nothing more can: ends may be missing."""
        shard = _Shard(len(items))
        with self._lock:
            self._shards |= {item.key: shard for item in items}
            if self._over.is_set():
                shard.over.set()
        for item in items:
            self._fed.put(item)
        shard.over.wait()
        with self._lock:
            return self._report(list(shard.ends))

    def stop(self) -> None:
        """Begin nothing more; shards return when what was begun is finished."""
        if self._executor:
            self._executor.stop()
        self._fed.put(None)

    def close(self) -> Report:
        """Finish, and unload the models."""
        self._fed.put(None)
        self._over.wait()
        return self._report([])

    def _open(self, setup: Setup) -> Executor:
        here = platform.node()
        if setup.version != __version__:
            raise RunError(f"{here} has lightmill {__version__}, this run is of {setup.version}; install that there")
        if not os.path.isdir(setup.folder):
            raise RunError(
                f"there is no folder {setup.folder} on {here}; give the command from a folder that all machines share"
            )
        if not (setup.out / STATE).is_dir():
            raise OutputError(f"{setup.out} of this run is not there on {here}; OUT has to be on a disk that all share")
        os.chdir(setup.folder)
        memory_bytes = (setup.memory_bytes or free_memory_bytes() // 2) // setup.per_machine
        return Executor(
            setup.make_pipeline(),
            outputs=Outputs(setup.out, durable=setup.durable),
            threads=setup.threads,
            memory_bytes=memory_bytes,
            emit=self._take,
            sampled=setup.sampled,
            device=setup.device,
            learnt=LearntSizes(dict(setup.learnt)),
        )

    def _work(self, executor: Executor) -> None:
        try:
            executor.run(iter(self._fed.get, None))
        except BaseException as error:  # noqa: BLE001 (told to the driver, which ends the run with it)
            executor.fail(error)
        finally:
            if executor.fatal is not None:
                self._fatal = _tellable(executor.fatal)
            self._over.set()
            with self._lock:
                for shard in self._shards.values():
                    shard.over.set()

    def _watch(self, executor: Executor) -> None:
        """Note how full queues are; and let an executor that has failed end, though it waits to be fed."""
        while not self._over.wait(_TICK_S):
            self._full_queue = executor.sample_queues()
            if executor.fatal is not None:
                self._fed.put(None)

    def _take(self, event: Event) -> None:
        if isinstance(event, Started):
            return  # for the journal an item starts when it is leased
        with self._lock:
            shard = self._shards.pop(event.key)
            shard.ends.append(event)
            if len(shard.ends) == shard.size:
                shard.over.set()

    def _report(self, ends: list[End]) -> Report:
        executor = self._executor
        if executor is None:
            return Report(ends=ends, fatal=self._fatal)
        return Report(
            ends=ends,
            fatal=self._fatal,
            learnt=dict(executor.learnt.sizes),
            stages=executor.stage_times(),
            queues=executor.queue_fills(),
            full_queue=self._full_queue,
            source_wait_share=executor.source_wait_share,
            rss_bytes=peak_rss_bytes(),
        )


def _tellable(error: BaseException) -> LightmillError:
    """The error itself where it is one of ours; else its words: others may not survive the way to the driver."""
    if isinstance(error, LightmillError):
        return error
    return RunError(f"a worker on {platform.node()} cannot go on: {for_people(error)}")


# ---------------------------------------------------------------------------------------------------------------------
# in the driver


@dataclass(frozen=True)
class _Lease:
    items: list[Item]
    alone: bool = False  # with nothing else in its worker


class _Slot:
    """The place of one worker: when it dies, another takes the place."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.actor: Any = None
        self.hello: Any = None  # the promise of a first answer, until it is there
        self.leases: dict[Any, _Lease] = {}  # promise of a report -> what it is about
        self.reports: list[Report] = [Report()]  # the last of every worker that was here
        self.bad_starts = 0

    @property
    def is_ready(self) -> bool:
        return self.actor is not None and self.hello is None

    @property
    def has_room(self) -> bool:
        alone = any(lease.alone for lease in self.leases.values())
        return self.is_ready and not alone and len(self.leases) < SHARDS_IN_FLIGHT

    @property
    def promises(self) -> list[Any]:
        return [*self.leases, *([] if self.hello is None else [self.hello])]


class RayWorkers:
    """Worker processes as Ray actors. Used for one run; `run` belongs to one thread."""

    def __init__(self, fleet: Fleet, setup: Setup, *, emit: Callable[[Event], None]) -> None:
        self._fleet = fleet
        self._setup = setup
        self._emit = emit
        self.learnt = LearntSizes(dict(setup.learnt))
        self.fatal: BaseException | None = None
        self._slots = [_Slot(number) for number in range(fleet.workers)]
        self._items: Iterator[Item] = iter(())
        self._exhausted = False
        self._again: deque[list[Item]] = deque()  # lost with a worker
        self._suspects: deque[Item] = deque()  # lost with two workers
        self._losses: dict[str, int] = {}
        self._barren_deaths = 0  # since the last shard that was finished
        self._any_died = False
        self._stopping = self._told_to_stop = False

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        return self._fleet.workers * self._fleet.threads

    def run(self, items: Iterable[Item]) -> None:
        """Take all items through; returns when the last has ended, or the run was stopped. Check `fatal` afterwards."""
        import ray

        self._items = iter(items)
        try:
            for slot in self._slots:
                self._start(slot)
            while self._goes_on():
                self._lease()
                promises = [promise for slot in self._slots for promise in slot.promises]
                if not promises:
                    break
                done, _ = ray.wait(promises, num_returns=1, timeout=_TICK_S)
                done, _ = ray.wait(promises, num_returns=len(promises), timeout=0) if done else (done, [])
                for promise in done:
                    self._settle(promise)
            self._close()
        finally:
            for slot in self._slots:
                self._end(slot)
        if self._any_died:  # in the middle of a file, perhaps
            Outputs(self._setup.out).remove_temporaries()

    def stop(self) -> None:
        """Lease nothing more; what workers have begun is finished."""
        self._stopping = True  # told to the workers by the thread that runs: a signal handler must not call Ray

    def fail(self, error: BaseException) -> None:
        """Stop, because of an error that no item could escape."""
        self.fatal = self.fatal or error
        self.stop()

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def _reports(self) -> list[Report]:
        return [report for slot in self._slots for report in slot.reports]

    def stage_times(self) -> list[StageTime]:
        """Busy time of every stage so far: over all threads for the CPU, a device's mean for a device."""
        times: dict[str, StageTime] = {}
        for stage in (stage for report in self._reports for stage in report.stages):
            busy_s = stage.busy_s / (self._fleet.workers if stage.segment == "device" else 1)
            so_far = times.get(stage.name, StageTime(stage.name, stage.segment, 0.0, 0))
            times[stage.name] = StageTime(stage.name, stage.segment, so_far.busy_s + busy_s, so_far.calls + stage.calls)
        return list(times.values())

    def sample_queues(self) -> str | None:
        """The name of a queue that was full in a worker when it last told; workers watch their queues themselves."""
        return next((slot.reports[-1].full_queue for slot in self._slots if slot.reports[-1].full_queue), None)

    def queue_fills(self) -> list[QueueFill]:
        """How full the queues were, as a mean over the workers; the capacity is of one of them."""
        fills: dict[str, list[QueueFill]] = {}
        for fill in (fill for report in self._reports for fill in report.queues):
            fills.setdefault(fill.name, []).append(fill)
        return [
            QueueFill(
                name,
                some[0].capacity_bytes,
                sum(fill.mean_share for fill in some) / len(some),
                sum(fill.full_share for fill in some) / len(some),
            )
            for name, some in fills.items()
        ]

    @property
    def source_wait_share(self) -> float:
        """The share of the time that workers waited for items, as a mean."""
        shares = [report.source_wait_share for report in self._reports if report.stages]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def peak_rss_bytes(self) -> int:
        """The sum of the peaks of this process and the workers."""
        return peak_rss_bytes() + sum(max(report.rss_bytes for report in slot.reports) for slot in self._slots)

    # --- leasing -----------------------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        """Whether there is anything to wait for or to lease; passes a stop on to the workers."""
        if not self._stopping:
            return True
        if not self._told_to_stop:
            self._told_to_stop = True
            for slot in self._slots:
                if slot.is_ready:
                    slot.actor.stop.remote()
        return any(slot.leases for slot in self._slots)

    def _lease(self) -> None:
        """Give every worker with room its next shard, until there is no more; one each, then a second round."""
        for _ in range(SHARDS_IN_FLIGHT):
            for slot in self._slots:
                lease = self._next_lease(slot) if slot.has_room and not self._stopping else None
                if lease is None:
                    continue
                for item in lease.items:
                    self._emit(Started(item.key))
                slot.leases[slot.actor.run_shard.remote(lease.items)] = lease

    def _next_lease(self, slot: _Slot) -> _Lease | None:
        if self._suspects and not slot.leases:
            return _Lease([self._suspects.popleft()], alone=True)
        if self._again:
            return _Lease(self._again.popleft())
        if self._exhausted:
            return None
        try:
            items = list(islice(self._items, SHARD_PER_THREAD * self._fleet.threads))
        except BaseException as error:  # noqa: BLE001 (kept in `fatal`; the driver raises it)
            self.fail(error)
            items = []
        self._exhausted = not items
        return _Lease(items) if items else None

    # --- answers -----------------------------------------------------------------------------------------------------

    def _settle(self, promise: Any) -> None:
        """A promise is kept or broken; one that was settled with a dead worker is passed over."""
        import ray

        slot = next((slot for slot in self._slots if promise in slot.promises), None)
        if slot is None:
            return
        try:
            report: Report = ray.get(promise)
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours in WorkerProcess
        except ray.exceptions.RayError as error:
            self._died(slot, error)
            return
        self._answered(slot, promise, report)

    def _answered(self, slot: _Slot, promise: Any, report: Report) -> None:
        if promise == slot.hello:
            slot.hello = None
            slot.bad_starts = 0
        else:
            del slot.leases[promise]
            self._barren_deaths = 0
        slot.reports[-1] = report
        self.learnt.sizes.update(report.learnt)
        for end in report.ends:
            self._losses.pop(end.key, None)
            self._emit(end)
        if report.fatal:
            self.fail(report.fatal)

    # --- deaths ------------------------------------------------------------------------------------------------------

    def _died(self, slot: _Slot, error: Exception) -> None:
        """Take back what a worker had that is no more, and put another in its place."""
        self._any_died = True
        self._save_answers(slot)
        lost, slot.leases = list(slot.leases.values()), {}
        for lease in lost:
            self._take_back(lease)
        if slot.hello is None:
            self._barren_deaths += 1
        else:
            slot.bad_starts += 1
        self._end(slot)
        if slot.bad_starts >= MOST_BAD_STARTS or self._barren_deaths >= _BARREN_DEATHS * self._fleet.workers:
            self.fail(RunError(f"worker processes end before they have done anything: {_last_line(error)}"))
        elif not self._stopping:
            slot.reports.append(Report())
            self._start(slot)

    def _save_answers(self, slot: _Slot) -> None:
        """Shards that were finished before the worker died count."""
        import ray

        deadline = monotonic() + _SETTLE_S
        for promise in list(slot.leases):
            with suppress(ray.exceptions.RayError):  # lost, or no news in time
                report = ray.get(promise, timeout=max(deadline - monotonic(), 0))
                self._answered(slot, promise, report)

    def _take_back(self, lease: _Lease) -> None:
        again = []
        for item in lease.items:
            losses = self._losses[item.key] = self._losses.get(item.key, 0) + 1
            if losses >= MOST_LOSSES:
                self._emit(_worker_died(item, losses))
            elif losses == MOST_LOSSES - 1:
                self._suspects.append(item)
            else:
                again.append(item)
        if again:
            self._again.append(again)

    # --- actors ------------------------------------------------------------------------------------------------------

    def _start(self, slot: _Slot) -> None:
        import ray

        # Ray neither starts a dead worker anew nor repeats a call: only what the journal knows decides what is done
        remote = ray.remote(max_restarts=0, max_task_retries=0, **self._fleet.needs)(WorkerProcess)
        calls = SHARDS_IN_FLIGHT + 2  # and one to stop, one to close
        slot.actor = remote.options(max_concurrency=calls, scheduling_strategy="SPREAD").remote(self._setup)
        slot.hello = slot.actor.hello.remote()

    def _close(self) -> None:
        """Let all workers unload their models, and take their last report."""
        import ray

        goodbyes = [(slot, slot.actor.close.remote()) for slot in self._slots if slot.is_ready]
        deadline = monotonic() + _CLOSE_S
        for slot, goodbye in goodbyes:
            with suppress(ray.exceptions.RayError):  # all items have ended: a worker that dies now loses nothing
                slot.reports[-1] = ray.get(goodbye, timeout=max(deadline - monotonic(), 0))

    def _end(self, slot: _Slot) -> None:
        """Make sure that nobody works in that place any more."""
        import ray

        if slot.actor is not None:
            ray.kill(slot.actor)
        slot.actor = slot.hello = None


def _worker_died(item: Item, losses: int) -> End:
    return End(
        key=item.key,
        status=Status.FAILED,
        stage="worker",
        error_class="WorkerDied",
        error=f"its worker process died {losses} times, the last time with this item alone: it needs more memory than "
        "there is, or breaks a library; try fewer --workers or --threads, or more memory, with `lightmill retry`",
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
