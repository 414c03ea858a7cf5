"""The steps of a pipeline. A stage is frozen data around a plain function.

The function's parameter names say which fields it needs, `makes` says which it makes; everything else is bound when the
stage is written down. Some names are always there:

    key, name, ref, row   of the item (name: of its outputs)
    notes           engine.items.Notes: what the stage has to say of the item
    buffers         engine.buffers.Buffers: memory that is used again
    seed            a number that depends on the bound `seed`, the item and the stage alone: the same in every run
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

GIVEN = frozenset({"key", "name", "ref", "row", "notes", "buffers"})


class PipelineError(TypeError):
    """A pipeline that cannot work, found when it is built."""


def _names(makes: str | tuple[str, ...]) -> tuple[str, ...]:
    return (makes,) if isinstance(makes, str) else tuple(makes)


def needs_of(function: Callable[..., Any], bound: Mapping[str, Any], stage: str) -> tuple[str, ...]:
    """The parameters of a function that nothing is bound to, in order."""
    kinds = inspect.Parameter
    wanted = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD, kinds.POSITIONAL_ONLY):
            raise PipelineError(f"stage {stage!r}: its function needs plain named parameters, got {parameter}")
        if name not in bound and (parameter.default is kinds.empty or name in GIVEN):
            wanted.append(name)
    unknown = bound.keys() - inspect.signature(function).parameters.keys()
    if unknown:
        raise PipelineError(f"stage {stage!r}: its function takes no {', '.join(sorted(unknown))}")
    return tuple(wanted)


@dataclass(frozen=True)
class Each:
    """A function of one item, on the CPU. Returns the value of the field it makes, or a tuple of several."""

    function: Callable[..., Any]
    makes: tuple[str, ...]
    bound: Mapping[str, Any]
    name: str
    needs: tuple[str, ...]
    weight: Callable[..., int] | None  # how many bytes it will hold: waits for its share of the memory budget
    weight_needs: tuple[str, ...]

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        makes: str | tuple[str, ...] = (),
        name: str | None = None,
        weight: Callable[..., int] | None = None,
        **bound: Any,
    ) -> None:
        name = str(name or getattr(function, "__name__", type(function).__name__))
        put = object.__setattr__
        put(self, "function", function)
        put(self, "makes", _names(makes))
        put(self, "bound", bound)
        put(self, "name", name)
        put(self, "needs", needs_of(function, bound, name))
        put(self, "weight", weight)
        put(self, "weight_needs", needs_of(weight, {}, name) if weight else ())


class BatchFunction(Protocol):
    """A model, or anything that works on many items at once. Made cheaply; `load` is called once per worker."""

    def load(self, device: str) -> None: ...
    def unload(self) -> None: ...

    @property
    def __call__(self) -> Callable[..., Any]:
        """Takes lists of field values, returns one list (or a tuple of lists) of equal length."""
        ...


@dataclass(frozen=True)
class Batch:
    """A function of many items at once, on the device. Out of memory makes the batches smaller, not the run fail."""

    function: BatchFunction
    makes: tuple[str, ...]
    name: str
    needs: tuple[str, ...]
    size: int

    def __init__(
        self, function: BatchFunction, *, makes: str | tuple[str, ...], name: str | None = None, size: int = 16
    ) -> None:
        name = name or type(function).__name__.lower()
        if size < 1:
            raise PipelineError(f"stage {name!r}: a batch holds at least one item, got {size}")
        put = object.__setattr__
        put(self, "function", function)
        put(self, "makes", _names(makes))
        put(self, "name", name)
        put(self, "needs", needs_of(function.__call__, {}, name))
        put(self, "size", size)


@dataclass(frozen=True, kw_only=True)
class Fan:
    """The same stages once for every part (every camera, say) of an item, one part at a time.

    Inside, the parameter `part` holds the part's value; fields made inside live for one part. `gathers` keeps some of
    them: `{"file": "files"}` makes the field `files`, a dict of part name -> `file`.
    """

    part: str
    over: Mapping[str, Any]
    stages: tuple[Each, ...]
    gathers: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"each {self.part}"

    @property
    def makes(self) -> tuple[str, ...]:
        return tuple(self.gathers.values())

    @property
    def needs(self) -> tuple[str, ...]:
        made = {self.part}.union(*(stage.makes for stage in self.stages))
        return tuple(dict.fromkeys(n for stage in self.stages for n in stage.needs if n not in made))


@dataclass(frozen=True)
class To:
    """Where a field is saved, relative to OUT.

    `path` may hold `{name}` (the item's output name, sub-folders kept); both, for a field that is a dict, `{part}`; and
    `label` `{number}`, the place of the part: labels are columns of the manifest, and parts of many items may have as
    many names.
    """

    path: str
    label: str = ""  # in the manifest's `outputs`; default: the field's name, or the part's


Destination: TypeAlias = "str | To"


@dataclass(frozen=True)
class Save:
    """Writes fields (bytes, or dicts of bytes) as files: all complete, or none under its final name."""

    files: Mapping[str, To]
    name: str = "save"
    makes: tuple[str, ...] = ()
    needs: tuple[str, ...] = field(default=())

    def __init__(self, **files: Destination) -> None:
        put = object.__setattr__
        put(self, "files", {field: to if isinstance(to, To) else To(to) for field, to in files.items()})
        put(self, "name", "save")
        put(self, "makes", ())
        put(self, "needs", tuple(files))


Stage: TypeAlias = "Each | Batch | Fan | Save"


def item_seed(seed: int, key: str, stage: str) -> int:
    """A 63-bit number from the run's seed, the item and the stage: never from the worker or the order."""
    digest = blake2b(f"{seed}\0{key}\0{stage}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
