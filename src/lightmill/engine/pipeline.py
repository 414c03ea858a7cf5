"""A recipe's stages in order, checked when they are put together."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby

from lightmill.engine.stages import GIVEN, Batch, Each, Fan, PipelineError, Save, Stage


@dataclass(frozen=True)
class Segment:
    """A maximal run of stages of one kind: fused on the CPU, or resident on the device."""

    stages: tuple[Stage, ...]
    on_device: bool
    drops: tuple[tuple[str, ...], ...]  # after each stage: fields that nothing needs any more

    @property
    def name(self) -> str:
        return " + ".join(stage.name for stage in self.stages)


class Pipeline:
    """Stages in order. `given` names the fields that items bring from their source.

    Raises PipelineError where a stage needs a field that no earlier one makes, or makes one that exists.
    """

    def __init__(self, *stages: Stage, given: Iterable[str] = ()) -> None:
        self.stages = stages
        self.given = frozenset(given)
        if not stages:
            raise PipelineError("a pipeline needs at least one stage")
        _check_names(stages)
        _check_wiring(stages, GIVEN | self.given)
        self.segments = _segments(stages, self.given)

    @property
    def has_device(self) -> bool:
        """Whether any stage runs on the device."""
        return any(segment.on_device for segment in self.segments)

    @property
    def saves(self) -> tuple[Save, ...]:
        return tuple(stage for stage in self.stages if isinstance(stage, Save))


def _check_names(stages: tuple[Stage, ...]) -> None:
    seen: set[str] = set()
    for stage in stages:
        if stage.name in seen:
            raise PipelineError(f"two stages are called {stage.name!r}: give one of them another name=")
        seen.add(stage.name)


def _check_wiring(stages: tuple[Stage, ...], have: frozenset[str]) -> None:
    for stage in stages:
        _require(stage.name, _uses(stage), have)
        if isinstance(stage, Fan):
            _check_fan(stage, have)
        doubled = have & set(stage.makes)
        if doubled:
            raise PipelineError(f"stage {stage.name!r} makes {_listed(doubled)}, which is there already")
        have |= set(stage.makes)


def _uses(stage: Stage) -> tuple[str, ...]:
    """The fields that a stage's function needs, or the function that weighs it."""
    return stage.needs + (stage.weight_needs if isinstance(stage, Each) else ())


def _check_fan(fan: Fan, have: frozenset[str]) -> None:
    inside = have | {fan.part}
    for stage in fan.stages:
        _require(f"{fan.name}: {stage.name}", stage.needs, inside)
        inside |= set(stage.makes)
    _require(fan.name, tuple(fan.gathers), inside)


def _require(stage: str, needs: tuple[str, ...], have: frozenset[str]) -> None:
    for name in needs:
        if name in have:
            continue
        near = get_close_matches(name, have, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {_listed(have - GIVEN)}"
        raise PipelineError(f"stage {stage!r} needs a field {name!r} that no earlier stage makes{hint}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def _segments(stages: tuple[Stage, ...], given: frozenset[str]) -> tuple[Segment, ...]:
    last_use = dict.fromkeys(given, 0)  # a given field that nobody needs goes after the first stage
    for index, stage in enumerate(stages):
        last_use |= dict.fromkeys((*_uses(stage), *stage.makes), index)
    drops = [
        tuple(name for name, last in last_use.items() if last == i and name not in GIVEN) for i in range(len(stages))
    ]
    segments, start = [], 0
    for on_device, group in groupby(stages, key=lambda stage: isinstance(stage, Batch)):
        members = tuple(group)
        segments.append(Segment(members, on_device, tuple(drops[start : start + len(members)])))
        start += len(members)
    return tuple(segments)
