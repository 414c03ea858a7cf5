"""What travels through a run: items, and what a stage may say of one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, Protocol, TypeAlias, runtime_checkable

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Status(StrEnum):
    """How an item stands. The last four are ends; the first two are not."""

    PENDING = "pending"
    RUNNING = "running"
    OK = "ok"
    RECOVERED = "recovered"
    FILTERED = "filtered"
    FAILED = "failed"


ENDS = frozenset({Status.OK, Status.RECOVERED, Status.FILTERED, Status.FAILED})
MADE = frozenset({Status.OK, Status.RECOVERED})


class Filtered(Exception):  # noqa: N818 (no error: a stage says no to an item)
    """Raised by a stage that does not want the item; the message says why."""


@runtime_checkable
class Ref(Protocol):
    """Where the bytes of an item are. Small and picklable."""

    def read(self) -> bytes:
        """All bytes. Raises SourceError."""
        ...


@dataclass(slots=True)
class Item:
    """One picture's journey.

    Without its fields an item is a few hundred bytes and can be pickled: that is what travels between processes.
    """

    key: str  # unique in the run, the same in every run: relative path, ZIP member, clip.mp4#00012.400
    ref: Any  # a Ref, or whatever the recipe's first stage takes
    row: Mapping[str, str] | None = None  # the user's own columns
    fields: dict[str, Any] = field(default_factory=dict)  # what stages have made so far
    meta: dict[str, Json] = field(default_factory=dict)  # goes to the manifest
    position: int = -1  # in the order of the source; set by the run
    number: int = -1  # row number, kept for ever once given; set by the run
    name: str = ""  # of its outputs, without suffix; set by the run


class Notes:
    """What stages say of the item they work on; the parameter `notes` of a stage's function."""

    __slots__ = ("meta", "pixels", "previews", "recovery", "sampled", "spans")

    def __init__(self, meta: dict[str, Json], *, sampled: bool = False) -> None:
        self.meta = meta  # goes to the manifest: nothing that differs between two equal runs
        self.pixels = 0  # how many were worked on, for MP/s
        self.recovery: str | None = None
        self.sampled = sampled  # chosen for the contact sheet: `preview` is wanted
        self.previews: list[tuple[str, bytes]] = []
        self.spans: list[tuple[str, float, float]] = []

    def recovered(self, reason: str) -> None:
        """The item was decoded only leniently; says how. The first reason stays."""
        self.recovery = self.recovery or reason

    def preview(self, label: str, jpeg: bytes) -> None:
        """A small picture for the report's contact sheet; only where `sampled` is true."""
        self.previews.append((label, jpeg))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Times a step inside a stage, for the trace and the busy shares."""
        began = perf_counter()
        try:
            yield
        finally:
            self.spans.append((name, began, perf_counter()))


@dataclass(frozen=True)
class Settled:
    """Where to take a streaming source up again: every item up to and including `key` has ended."""

    key: str
    position: int
    meta: Mapping[str, Json]


class Source(Protocol):
    """Where items come from: cheap, lazy, with stable keys, always in the same order."""

    @property
    def described(self) -> str:
        """What it is, for people: `folder /data/tour`."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What was met while listing or reading, said at the end of the run."""
        ...

    @property
    def streams(self) -> bool:
        """Whether items can only be had one after the other (a video), or be listed at once (all else)."""
        ...

    def items(self, after: Settled | None = None) -> Iterator[Item]:
        """All items, or those after a settled one (only sources that stream may leave out the ones before)."""
        ...

    def estimated_count(self) -> int | None:
        """How many items there will be, where that can be told without listing them."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A source that may share OUT with others of its kind (a table): its keys are paths, told from a folder."""

    @property
    def file(self) -> str:
        """Which INPUT it is: its path in full."""
        ...

    @property
    def resolved(self) -> str:
        """The same with every link followed, as runs of earlier versions have it."""
        ...

    @property
    def place(self) -> str:
        """The folder that its paths are told from, as it was written."""
        ...

    @property
    def title(self) -> str:
        """What is given back would be named after it."""
        ...

    def place_of(self, file: str) -> str | None:
        """The place of another INPUT; None where that is of another kind."""
        ...

    def share(self, home: str, *, place: str, number: int) -> None:
        """Tell keys from `home`, so that one picture has one key in OUT.

        `place` is its own folder as it was first written, `number` which INPUT of OUT it is, from 0.
        """
        ...
