"""One run: what is left to do, doing it, and writing down what came of it.

The driver owns the journal, the lock and the signals; workers (an executor in this process, or one in each of several)
own threads and pictures. What happens to items reaches the driver as events, is committed about per item, and the
manifest is written last.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from lightmill.engine.batching import LearntSizes
from lightmill.engine.buffers import free_memory_bytes
from lightmill.engine.executor import Executor
from lightmill.engine.inputs import Standing, names_of, remember, standing_of
from lightmill.engine.items import ENDS, Item, Json, Settled, Source, Status
from lightmill.engine.journal import End, Journal, Row, outputs_hold, set_aside
from lightmill.engine.lock import RunLock
from lightmill.engine.mailbox import Found, Mailbox
from lightmill.engine.manifest import Columns, write_manifests
from lightmill.engine.naming import Naming, printable
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.progress import Progress, Snapshot, final_summary, open_progress
from lightmill.engine.record import Session
from lightmill.engine.summary import SHEET, report_data, write_reports
from lightmill.engine.trace import Trace
from lightmill.engine.work import Event, Started
from lightmill.engine.workers import Workers
from lightmill.errors import (
    InputError,
    LightmillError,
    OutputError,
    TooManyFailures,
)
from lightmill.types import Budget

STATE_FOLDER = ".lightmill"

UNCOMMITTED_PER_THREAD = 6  # finished items that a kill may have done again, besides the one that is under way
_COMMIT_S = 0.02  # an item waits no longer than that for its transaction
_TICK_S = 0.1

Outcome = Literal["finished", "interrupted", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run: nothing here changes what comes out, so nothing here is part of the config that a resume compares."""

    limit: int | None = None
    threads: int = 0  # of each worker; 0: as many as this process may use, divided among the workers
    workers: int = 0  # processes; 0: one, or with `ray` one for every machine or GPU of the cluster
    ray: str | None = None  # a cluster: "auto", or host:port
    naming: Naming = Naming.KEY
    fresh: bool = False
    durable: bool = False
    max_failures: Budget | None = None
    memory_bytes: int | None = None  # default: half of what is free
    progress: Literal["auto", "rich", "json", "none"] = "auto"
    trace: Path | None = None

    @property
    def in_processes(self) -> bool:
        """Whether other processes do the work."""
        return self.workers > 1 or self.ray is not None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a recipe hands to the engine."""

    recipe: str
    version: str
    config: Mapping[str, Json]  # everything that decides what comes out, the content of named files included
    command: Mapping[str, Json]  # what `retry` needs to make this job again
    source: Source
    out: Path
    make_pipeline: Callable[[], Pipeline]  # called once in every process that works; travels to workers by pickle
    device: str = "cpu"
    check_names: Callable[[Iterable[str]], None] = lambda _: None  # refuses output names; before anything is written
    begin: Callable[[Outputs], None] = lambda _: None  # files that are there before the first item
    export: Callable[[Outputs, Journal], list[str]] = lambda *_: []  # files made from all items; their names
    columns: Columns | None = None  # what manifest.csv says of an item besides
    warnings: tuple[str, ...] = ()  # what whoever reads the report has to know of how it was made


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    out: Path
    outcome: Outcome
    counts: Mapping[str, int]
    wall_s: float
    manifest: Path
    report: Path
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()  # what a recipe has to say at the end

    @property
    def ok(self) -> int:
        return self.counts.get(Status.OK, 0)

    @property
    def recovered(self) -> int:
        return self.counts.get(Status.RECOVERED, 0)

    @property
    def filtered(self) -> int:
        return self.counts.get(Status.FILTERED, 0)

    @property
    def failed(self) -> int:
        return self.counts.get(Status.FAILED, 0)

    @property
    def exit_code(self) -> int:
        """0 all ok, recovered or filtered; 3 some failed; 130 interrupted."""
        if self.outcome == "interrupted":
            return 130
        return 3 if self.failed else 0

    @property
    def summary(self) -> str:
        """The closing lines; empty where nothing was done (a dry run)."""
        if not self.report.exists():
            return ""
        return final_summary(self.counts, outcome=self.outcome, wall_s=self.wall_s, out=self.out, report=self.report)


@dataclass
class _Plan:
    """What is left to do."""

    items: Iterator[Item]  # those to do, named and numbered
    total: int | None  # in the source
    done_before: int
    left: int | None


def run(job: Job, options: RunOptions, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
    """Do what is left of a job, and write its manifest and reports.

    `retry` takes failed items up again: those for which it is true, and only them.
    Raises the RunErrors of errors.py; what was done until then is kept, and the same call goes on from there.
    """
    if options.in_processes:
        from lightmill.engine import cluster  # only runs in several processes pay for it

        cluster.check_possible(job.source, trace=options.trace)
    pipeline = job.make_pipeline()  # also where only workers use theirs: what is wired wrong is told before all else
    outputs = Outputs(job.out, durable=options.durable)
    with ExitStack() as stack:
        stack.enter_context(RunLock(job.out / STATE_FOLDER))
        if options.fresh:
            set_aside(job.out)
        opened = Journal.open(job.out, durable=options.durable)
        before = stack.enter_context(opened) if Journal.is_in(job.out) else None
        standing = standing_of(job, before)
        keys = _keys(job, options)
        name_of, names = names_of(keys, before, standing, options.naming)
        job.check_names(names)
        journal = before or stack.enter_context(opened)  # what is refused until here leaves no journal where none was
        remember(journal, job, standing)
        return _Driver(job, options, pipeline, journal, outputs, standing).drive(keys, name_of, retry)


def _keys(job: Job, options: RunOptions) -> list[str] | None:
    """All keys of a source that can list them; None for one that streams."""
    if job.source.streams:
        return None
    keys = [item.key for item in islice(job.source.items(), options.limit)]
    if not keys:
        raise InputError(f"there is nothing in {job.source.described}")
    return keys


@dataclass
class _Tally:
    """What a session counts while it runs."""

    counts: dict[str, int]
    ended: int = 0
    failed: int = 0
    pixels: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    series: list[tuple[float, int, int]] = field(default_factory=list)

    def take(self, end: End) -> None:
        self.counts[end.status] = self.counts.get(end.status, 0) + 1
        self.ended += 1
        self.pixels += end.pixels
        if end.status is Status.FAILED:
            self.failed += 1
            what = f"{end.stage}:{end.error_class}"
            self.failures[what] = self.failures.get(what, 0) + 1


class _Driver:
    def __init__(
        self, job: Job, options: RunOptions, pipeline: Pipeline, journal: Journal, outputs: Outputs, standing: Standing
    ) -> None:
        self._job = job
        self._standing = standing
        self._options = options
        self._pipeline = pipeline
        self._journal = journal
        self._outputs = outputs
        self._mail = Mailbox(1)  # until the workers are known
        self._trace = Trace() if options.trace else None
        self._interrupted = False
        self._began_unix_s = time.time()
        self._began = time.perf_counter()

    # --- the run -----------------------------------------------------------------------------------------------------

    def drive(
        self, keys: list[str] | None, name_of: Callable[[str, int], str], retry: Callable[[Row], bool] | None
    ) -> RunResult:
        clean = self._journal.recall("clean")
        if clean is not True:
            self._outputs.remove_temporaries()
        self._journal.remember(clean=False)
        plan = self._plan(keys, name_of, retry)
        self._job.begin(self._outputs)
        self._tally = _Tally({str(s): n for s, n in self._journal.counts().items() if s in ENDS})
        self._plan_now = plan
        progress = open_progress(self._options.progress, sys.stderr)
        outcome: Outcome = "finished"
        if plan.left != 0:
            with self._workers(plan) as workers:
                outcome = self._work(workers, plan, progress)
        if clean is False:
            self._outputs.remove_temporaries()  # of workers that outlived a killed run by a moment
        return self._finish(outcome, whole=retry is None and self._options.limit is None)

    def _plan(
        self, keys: list[str] | None, name_of: Callable[[str, int], str], retry: Callable[[Row], bool] | None
    ) -> _Plan:
        if keys is not None:
            self._journal.register(keys, input=self._standing.number, name_of=name_of)
        present = None if keys is None else set(keys)
        settled, again = set[str](), list[str]()
        for row in self._journal.rows():
            if present is not None and row.key not in present:
                continue
            if (row.status is Status.FAILED and retry(row)) if retry else not outputs_hold(row, self._outputs.holds):
                again.append(row.key)
            else:
                settled.add(row.key)
        if again:
            self._journal.reopen(again)
        wanted = set(again) if retry else None
        if keys is None:
            return self._streamed(name_of, settled, wanted)
        todo = [i for i, key in enumerate(keys) if (key in wanted if wanted is not None else key not in settled)]
        items = self._listed(set(todo), len(todo), name_of, self._moved_numbers(keys, {keys[i] for i in todo}))
        return _Plan(items, len(keys), len(keys) - len(todo), len(todo))

    def _moved_numbers(self, keys: list[str], todo: set[str]) -> dict[str, int]:
        """Key -> number of those items to do whose number is not their position in the source."""
        return {
            key: number
            for key, number in self._journal.numbers()
            if key in todo and not (number < len(keys) and keys[number] == key)
        }

    def _listed(
        self, todo: set[int], count: int, name_of: Callable[[str, int], str], numbers: Mapping[str, int]
    ) -> Iterator[Item]:
        """The items to do, of a source that lists. Runs in the executor's feeding thread."""
        for position, item in enumerate(self._job.source.items()):
            if count == 0:
                return
            if position not in todo:
                continue
            count -= 1
            item.position = position
            item.number = numbers.get(item.key, position)
            item.name = name_of(item.key, item.number)
            yield item

    def _streamed(self, name_of: Callable[[str, int], str], settled: set[str], wanted: set[str] | None) -> _Plan:
        after = self._journal.settled_prefix(self._outputs.holds)
        estimate = self._job.source.estimated_count()
        if self._options.limit is not None:
            estimate = min(estimate, self._options.limit) if estimate is not None else self._options.limit
        items = self._stream(after, name_of, settled, wanted)
        left = None if estimate is None else max(estimate - len(settled), 1)
        return _Plan(items, estimate, len(settled), left)

    def _stream(
        self, after: Settled | None, name_of: Callable[[str, int], str], settled: set[str], wanted: set[str] | None
    ) -> Iterator[Item]:
        """The items to do, of a source that streams. Runs in the executor's feeding thread."""
        first = 0 if after is None else after.position + 1
        source = self._job.source.items(after)
        if self._options.limit is not None:
            source = islice(source, max(self._options.limit - first, 0))
        for position, item in enumerate(source, first):
            if item.key in settled or (wanted is not None and item.key not in wanted):
                continue
            self._mail.put(Found(item.key, position))
            item.position = item.number = position
            item.name = name_of(item.key, position)
            yield item

    @contextmanager
    def _workers(self, plan: _Plan) -> Iterator[Workers]:
        """Whoever does the work; and a mailbox that is large enough for them."""
        chosen = _spread(plan.total)
        if self._options.in_processes:
            with self._processes(chosen) as workers:
                yield workers
            return
        threads = self._options.threads or _usable_cores()
        self._mail = Mailbox(UNCOMMITTED_PER_THREAD * threads)
        yield Executor(
            self._pipeline,
            outputs=self._outputs,
            threads=threads,
            memory_bytes=self._options.memory_bytes or free_memory_bytes() // 2,
            emit=self._mail.put,
            sampled=lambda item: item.position in chosen,
            device=self._job.device,
            learnt=LearntSizes(self._journal.learnt()),
            trace=self._trace,
        )

    @contextmanager
    def _processes(self, chosen: set[int]) -> Iterator[Workers]:
        from lightmill.engine import cluster

        options, device = self._options, self._job.device
        cores = _usable_cores()
        with cluster.open_fleet(
            workers=options.workers, threads=options.threads, cores=cores, address=options.ray, device=device
        ) as fleet:
            self._mail = Mailbox(cluster.UNCOMMITTED_PER_THREAD * fleet.workers * fleet.threads)
            setup = cluster.Setup(
                make_pipeline=self._job.make_pipeline,
                out=Path(os.path.abspath(self._job.out)),
                folder=os.getcwd(),
                durable=options.durable,
                threads=fleet.threads,
                memory_bytes=options.memory_bytes,
                per_machine=fleet.per_machine,
                device=device,
                sampled=lambda item: item.position in chosen,
                learnt=self._journal.learnt(),
            )
            yield cluster.RayWorkers(fleet, setup, emit=self._mail.put)

    def _work(self, workers: Workers, plan: _Plan, progress: Progress) -> Outcome:
        def work() -> None:
            try:
                workers.run(plan.items)
            except BaseException as error:  # noqa: BLE001 (kept in `fatal`; raised below)
                workers.fail(error)
            finally:
                self._mail.close()

        progress.start(f"{self._job.recipe}: {self._job.source.described}")
        worker = threading.Thread(target=work, name="feeder", daemon=True)
        outcome: Outcome = "stopped"
        snapshot = None
        with self._polite(workers, progress):
            worker.start()
            try:
                for full in self._pump(workers):
                    snapshot = self._snapshot(workers, full)
                    progress.update(snapshot)
            except BaseException as error:
                workers.fail(error)
                self._let_go(worker)
                raise
            finally:
                worker.join()
                if workers.fatal is None:
                    outcome = "interrupted" if self._interrupted else "finished"
                progress.finish(self._snapshot(workers, None), outcome)
                self._close_session(workers, outcome)
        if workers.fatal is not None:
            raise workers.fatal
        return outcome

    def _let_go(self, worker: threading.Thread) -> None:
        """Take events until the workers are through, so that no thread waits for ever to tell one."""
        while worker.is_alive():
            left = self._mail.take(_COMMIT_S)
            self._mail.settle(sum(isinstance(event, End) for event in left))

    def _pump(self, workers: Workers) -> Iterator[str | None]:
        """Events into the journal until the last; yields at every tick the name of a queue that is full."""
        next_tick = time.perf_counter()
        going = True
        while going:
            going = not self._mail.closed  # asked before taking: what came before the close is taken after it
            batch = self._mail.take(_COMMIT_S)
            self._record(batch, workers)
            now = time.perf_counter()
            if now >= next_tick:
                next_tick = now + _TICK_S
                self._tally.series.append((now - self._began, self._tally.ended, self._tally.pixels))
                yield workers.sample_queues()

    def _record(self, batch: "list[Event | Found]", workers: Workers) -> None:
        found = [(event.key, event.position) for event in batch if isinstance(event, Found)]
        starts = [event.key for event in batch if isinstance(event, Started)]
        ends = [event for event in batch if isinstance(event, End)]
        try:
            if batch and not isinstance(workers.fatal, OutputError):
                self._journal.record(found, starts, ends)
        except (
            OutputError
        ) as error:  # on a full disk the journal stays as it was: consistent, and the rest is done again
            workers.fail(error)
        else:
            for end in ends:
                self._tally.take(end)
            self._check_budget(workers)
        finally:
            self._mail.settle(len(ends))

    def _check_budget(self, workers: Workers) -> None:
        budget, tally = self._options.max_failures, self._tally
        if budget is None or budget.allows(tally.failed, tally.ended, self._plan_now.left) or workers.fatal:
            return
        worst = max(tally.failures, key=lambda what: tally.failures[what])
        workers.fail(
            TooManyFailures(
                f"{tally.failed} of {tally.ended} items failed, more than --max-failures {budget} allows; most of them "
                f"as {worst}. What is done is kept: `lightmill report {self._job.out}` lists the reasons"
            )
        )

    # --- signals -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _polite(self, workers: Workers, progress: Progress) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) finishes what is under way, the second ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(_: int, __: object) -> None:
            if self._interrupted:
                sys.stderr.write("\x1b[?25h\n" if sys.stderr.isatty() else "\n")
                os._exit(130)
            self._interrupted = True
            workers.stop()
            progress.say("stopping: what is under way is being finished; press Ctrl-C again to stop at once")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _close_session(self, workers: Workers, outcome: Outcome) -> None:
        wall_s = time.perf_counter() - self._began
        session = Session(
            started_unix_s=self._began_unix_s,
            wall_s=wall_s,
            outcome=outcome,
            reason="" if workers.fatal is None else str(workers.fatal),
            threads=workers.threads,
            device=self._job.device,
            version=self._job.version,
            ended=self._tally.ended,
            pixels=self._tally.pixels,
            stages=workers.stage_times(),
            queues=workers.queue_fills(),
            series=_thinned(self._tally.series),
            source_wait_s=workers.source_wait_share * wall_s,
            peak_rss_bytes=workers.peak_rss_bytes,
        )
        if isinstance(workers.fatal, OutputError):
            return  # nothing can be written any more
        self._journal.add_session(session.to_json())
        self._journal.learn(workers.learnt.sizes)
        self._journal.set_warnings([*self._job.warnings, *self._job.source.warnings])
        if self._trace and self._options.trace:
            self._options.trace.parent.mkdir(parents=True, exist_ok=True)
            with open(self._options.trace, "w", encoding="utf-8") as file:
                file.writelines(self._trace.chunks())

    def _finish(self, outcome: Outcome, *, whole: bool) -> RunResult:
        journal, outputs = self._journal, self._outputs
        if outcome == "finished" and not journal.counts():
            journal.remember(config=None)  # other options may well find something
            raise InputError(f"there is nothing in {self._job.source.described}")
        exports: list[str] = []
        if outcome == "finished":
            if whole:
                journal.drop_unfinished(input=self._standing.number)
            exports = self._job.export(outputs, journal)
            if self._standing.shared:
                exports = list(dict.fromkeys([*(journal.recall("exports") or []), *exports]))
            journal.remember(exports=list[Json](exports))
            write_manifests(outputs, journal, columns=self._job.columns)
        data = report_data(journal, SHEET)
        write_reports(outputs, data, whole=outcome == "finished")
        journal.remember(clean=True)
        return RunResult(
            out=self._job.out,
            outcome=outcome,
            counts=journal.counts(),
            wall_s=time.perf_counter() - self._began,
            manifest=self._job.out / "manifest.csv",
            report=self._job.out / "report.html",
            warnings=tuple(journal.warnings()),
        )

    def _snapshot(self, workers: Workers, full: str | None) -> Snapshot:
        tally, elapsed = self._tally, time.perf_counter() - self._began
        rate = tally.ended / elapsed if elapsed > 0 else 0.0
        left = None if self._plan_now.left is None else max(self._plan_now.left - tally.ended, 0)
        times = workers.stage_times()
        return Snapshot(
            elapsed_s=elapsed,
            total=self._plan_now.total,
            ended=tally.ended,
            done_before=self._plan_now.done_before,
            counts=dict(tally.counts),
            items_per_s=rate,
            pixels_per_s=tally.pixels / elapsed if elapsed > 0 else 0.0,
            eta_s=left / rate if rate > 0 and left is not None else None,
            failures=dict(tally.failures),
            busy=[(t.name, t.busy_s / (elapsed * (1 if t.segment == "device" else workers.threads))) for t in times],
            full_queue=full,
            note=None,
        )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spread(total: int | None) -> set[int]:
    """Positions for the contact sheet: evenly spread where the total is known, else the first.

    Thumbnails of a quarter of the items at most, so that a short run is not spent on them.
    """
    if total is None or total <= 3:
        return set(range(SHEET))
    count = min(SHEET, max(total // 4, 3))
    return {round(i * (total - 1) / (count - 1)) for i in range(count)}


def _thinned(series: list[tuple[float, int, int]], most: int = 600) -> list[tuple[float, int, int]]:
    step = max(len(series) // most, 1)
    return series[::step] + (series[-1:] if len(series) % step != 1 and step > 1 else [])


def describe_error(error: LightmillError) -> str:
    """One message for a terminal."""
    return printable(str(error))
