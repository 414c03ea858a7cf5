"""What is kept of a run so that a person can see it later: sessions, and all that a report shows.

A session is one life of the process that holds a run: a run that was interrupted twice has three. Times are seconds,
sizes are bytes, shares are 0 to 1. Everything of a session goes through JSON and back without change.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from lightmill.engine.items import Json, Status
from lightmill.engine.wording import count_of, percent
from lightmill.errors import OutputError

Outcome: TypeAlias = Literal["finished", "interrupted", "stopped"]
Point: TypeAlias = tuple[float, int, int]  # seconds since the session began; items ended, pixels worked on until then
Preview: TypeAlias = tuple[str, bytes]  # label, JPEG

UNFINISHED = (Status.PENDING, Status.RUNNING)


@dataclass(frozen=True)
class StageTime:
    """How long a stage was at work, over all threads.

    `segment` is "cpu" (its time is a part of every thread's), "device" (of the one thread that feeds the device) or
    "within" (a step inside another stage, whose time it is already counted in).
    """

    name: str
    segment: str
    busy_s: float
    calls: int


@dataclass(frozen=True)
class QueueFill:
    """How full a queue was: on average, and how often it took nothing more."""

    name: str
    capacity_bytes: int
    mean_share: float
    full_share: float


@dataclass(frozen=True, kw_only=True)
class Session:
    """One life of the process that held the run."""

    started_unix_s: float
    wall_s: float
    outcome: Outcome
    reason: str  # why it was stopped
    threads: int
    device: str
    version: str
    ended: int  # items, in this session
    pixels: int  # worked on in this session
    stages: list[StageTime]
    queues: list[QueueFill]
    series: list[Point]
    source_wait_s: float  # that every thread waited for the source
    peak_rss_bytes: int

    def to_json(self) -> dict[str, Json]:
        """Plain values; `from_json` has the session back."""
        record: dict[str, Json] = asdict(self)
        record["series"] = [list(point) for point in self.series]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Session":
        """The session that `to_json` wrote. Keys that are not known are left out.

        Raises OutputError where one is missing: the journal was changed, or written by another version.
        """
        names = [entry.name for entry in fields(cls)]
        missing = [name for name in names if name not in record]
        if missing:
            raise OutputError(
                f"the journal has a session without {', '.join(missing)}: it was changed by hand, or written by "
                "another version of lightmill; use that version, or start anew with --fresh"
            )
        values = {name: record[name] for name in names}
        values["stages"] = [StageTime(**stage) for stage in record["stages"]]
        values["queues"] = [QueueFill(**queue) for queue in record["queues"]]
        values["series"] = [(float(t_s), int(items), int(pixels)) for t_s, items, pixels in record["series"]]
        return cls(**values)


def stage_share(stage: StageTime, *, threads: int, wall_s: float) -> float:
    """The part of the time that a stage was at work: of all threads for the CPU, of one for a device."""
    capacity_s = wall_s if stage.segment == "device" else threads * wall_s
    return stage.busy_s / capacity_s if capacity_s > 0 else 0.0


def busy_shares(session: Session) -> list[tuple[str, float]]:
    """(stage, share of the time it was at work) in pipeline order; "source" first, where it was waited for."""
    shares = [(s.name, stage_share(s, threads=session.threads, wall_s=session.wall_s)) for s in session.stages]
    source = _source_share(session)
    return [("source", source), *shares] if source > 0 else shares


def bottleneck(session: Session) -> str | None:
    """What limits the session, in words: `encode: 43 % of the time of 2 threads`. None where nothing was done.

    CPU stages share one pool of threads and device stages share the device, so it is the pool, the device or the
    source with the least idle time that limits; of a pool or a device the stage that takes the most is named. Where
    all of them were idle for more than half of the time, a queue that was full for longer than that is named instead.
    """
    cpu = _busiest(session, "cpu")
    device = _busiest(session, "device")
    waited = _source_share(session)
    busiest = max(cpu.total, device.total, waited)
    if busiest <= 0:
        return None
    between = [queue for queue in session.queues if queue.name != "source"]  # that one is full whenever listing is fast
    full = max(between, key=lambda queue: queue.full_share, default=None)
    if busiest < 0.5 and full and full.full_share > 0.5:
        return f"{full.name}: this queue was full for {percent(full.full_share)} of the time"
    if waited == busiest:
        return f"source: waited for during {percent(waited)} of the time"
    if device.total == busiest:
        return f"{device.name}: {percent(device.share)} of the time of the device {session.device}"
    return f"{cpu.name}: {percent(cpu.share)} of the time of {count_of(session.threads, 'thread')}"


@dataclass(frozen=True)
class _Busiest:
    """The stage of one kind that takes the most, and what all of that kind take together."""

    name: str = ""
    share: float = 0.0
    total: float = 0.0


def _busiest(session: Session, segment: Literal["cpu", "device"]) -> _Busiest:
    shares = {
        stage.name: stage_share(stage, threads=session.threads, wall_s=session.wall_s)
        for stage in session.stages
        if stage.segment == segment
    }
    if not shares:
        return _Busiest()
    name = max(shares, key=lambda stage: shares[stage])
    return _Busiest(name, shares[name], min(sum(shares.values()), 1.0))


def _source_share(session: Session) -> float:
    return min(session.source_wait_s / session.wall_s, 1.0) if session.wall_s > 0 else 0.0


@dataclass(frozen=True)
class Failure:
    """An item that failed, and why."""

    key: str
    stage: str
    error_class: str
    error: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows. Lists of items may be cut; `counts` and `failure_classes` are whole."""

    recipe: str
    version: str
    source: str
    config: Mapping[str, Json]
    counts: Mapping[str, int]  # status -> items
    total: int
    outputs: int = 0  # files made from items
    failures: list[Failure] = field(default_factory=list)
    failure_classes: Mapping[str, int] = field(default_factory=dict)  # "stage:Class" -> items
    recovered: list[tuple[str, str]] = field(default_factory=list)  # key, how
    filtered: list[tuple[str, str]] = field(default_factory=list)  # key, why
    warnings: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    sheet: list[tuple[str, list[Preview]]] = field(default_factory=list)  # key, previews; the first is the input
    exports: list[str] = field(default_factory=list)  # files made from the whole run
    sections: list[tuple[str, str]] = field(default_factory=list)  # title, HTML: what the recipe shows besides
    how_to_continue: str | None = None

    def count(self, *statuses: Status) -> int:
        """How many items stand so."""
        return sum(self.counts.get(status, 0) for status in statuses)

    @property
    def unfinished(self) -> int:
        """Items that have no end yet."""
        return self.count(*UNFINISHED)

    @property
    def wall_s(self) -> float:
        """The time of all sessions."""
        return sum(session.wall_s for session in self.sessions)

    @property
    def items_per_s(self) -> float:
        """Over all sessions; 0 where there was none."""
        return sum(session.ended for session in self.sessions) / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def pixels_per_s(self) -> float:
        """Over all sessions; 0 where there was none."""
        return sum(session.pixels for session in self.sessions) / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def main_session(self) -> Session | None:
        """The session that did the most: the one whose stages are worth a look."""
        return max(self.sessions, key=lambda session: session.ended, default=None)
