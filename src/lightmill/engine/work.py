"""An item on its way through stages: what travels with it, and how a stage's function is called with its fields."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

from lightmill.engine.batching import signature
from lightmill.engine.items import Item, Notes
from lightmill.engine.journal import End
from lightmill.engine.naming import fitted
from lightmill.engine.stages import Batch, Each, Fan, Stage, To, item_seed
from lightmill.engine.trace import Trace
from lightmill.errors import ItemError, RunError


@dataclass(frozen=True)
class Started:
    """An item was taken up."""

    key: str


Event: TypeAlias = Started | End


@dataclass(slots=True)
class Work:
    """An item under way."""

    item: Item
    values: dict[str, Any]
    notes: Notes
    outputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    stage: str = ""  # where it is, for the message when it fails
    held: Any = None  # its share of the memory budget
    size: int = 0  # bytes of its fields while it lies in a queue
    abandoned: bool = False  # no output can be written any more: it is neither ended nor passed on


class Clock:
    """Busy time by stage, of one thread: no lock in the hot path."""

    def __init__(self, trace: Trace | None) -> None:
        self.times: dict[str, list[float]] = {}
        self._trace = trace

    def add(self, name: str, key: str, began: float) -> None:
        ended = perf_counter()
        entry = self.times.get(name)
        if entry is None:
            entry = self.times[name] = [0.0, 0]
        entry[0] += ended - began
        entry[1] += 1
        if self._trace:
            self._trace.add(name, "stage", threading.current_thread().name, began, ended, {"item": key})


def caller(stage: Stage) -> Callable[[Work], None]:
    """What calls an Each with an item's values and keeps what it makes; looked at once, used for every item."""
    if not isinstance(stage, Each):
        return lambda _: None
    function, needs, makes = stage.function, stage.needs, stage.makes
    bound = dict(stage.bound)
    seed = bound.pop("seed", None)

    def call(work: Work) -> None:
        values = work.values
        arguments = {name: values[name] for name in needs}
        if seed is not None:
            arguments["seed"] = item_seed(seed, work.item.key, stage.name)
        made = function(**arguments, **bound)
        if len(makes) == 1:
            values[makes[0]] = made
        elif makes:
            values.update(zip(makes, made, strict=True))

    return call


def call_batch(stage: Batch, function: Callable[..., Any], works: list[Work]) -> list[tuple[Any, ...]]:
    """The batch function over some items: a tuple of made values for each."""
    made = function(**{name: [work.values[name] for work in works] for name in stage.needs})
    lists = (made,) if len(stage.makes) == 1 else made
    for name, values in zip(stage.makes, lists, strict=True):
        if len(values) != len(works):
            raise RunError(f"stage {stage.name!r} made {len(values)} {name!r} for {len(works)} items")
    return list(zip(*lists, strict=True))


def by_signature(stage: Batch, works: list[Work], device: str) -> dict[str, list[Work]]:
    groups: dict[str, list[Work]] = {}
    for work in works:
        values = [work.values[name] for name in stage.needs]
        groups.setdefault(f"{stage.name} on {device}: {signature(values)}", []).append(work)
    return groups


def files_of(field_name: str, to: To, work: Work) -> Iterator[tuple[str, str, bytes]]:
    """(label, path, bytes) of what a field is saved as."""
    value = work.values[field_name]
    parts: Mapping[str, bytes] = value if isinstance(value, Mapping) else {"": value}
    for number, (part, data) in enumerate(parts.items()):
        path = fitted(to.path.replace("{part}", part).replace("{name}", work.item.name))
        label = to.label.replace("{part}", part).replace("{number}", f"{number:02d}")
        yield (label or part or field_name), path, data


def flat(stages: Iterable[Stage]) -> Iterator[Stage]:
    for stage in stages:
        if isinstance(stage, Fan):
            yield from stage.stages
        else:
            yield stage


def for_people(error: BaseException) -> str:
    """One line without addresses: an ItemError's own words, anything else with its class before it."""
    text = " ".join(re.sub(r"\s*(at )?0x[0-9a-fA-F]{6,}", "", str(error)).split())
    if isinstance(error, ItemError | RunError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
