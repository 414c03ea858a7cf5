"""Which INPUT a run is of, among those of its OUT: one, or several tables that share it.

A table's keys are paths told from the folder of the first table of OUT, so that one picture has one key whichever table
names it. What an INPUT has, its keys, names and numbers, it keeps.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightmill.engine.items import Json, Sharing, Source
from lightmill.engine.journal import Input, Journal
from lightmill.engine.naming import Naming, plan_names, printable
from lightmill.engine.outputs import folded
from lightmill.errors import ChangedConfig, NameCollision

if TYPE_CHECKING:
    from lightmill.engine.run import Job


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An INPUT among those of OUT."""

    inputs: tuple[Input, ...]  # this one included
    number: int  # which of them it is

    @property
    def shared(self) -> bool:
        return len(self.inputs) > 1


def standing_of(job: "Job", journal: Journal | None) -> Standing:
    """Where the job's INPUT stands in OUT; its keys are told from the home of OUT from now on.

    Raises ChangedConfig: what is in OUT was made with other options, or from another INPUT and not both are tables.
    """
    before = journal.recall("config") if journal else None
    known = journal.inputs() if journal and before is not None else []
    home = _home(job.source, known)
    if journal and before is not None:
        _refuse_changes({"recipe": journal.recall("recipe"), **before}, job, shares=home is not None)
    if home is None or not isinstance(job.source, Sharing):
        file = str(job.config.get("input", ""))
        return Standing(inputs=(Input(file=file, described=job.source.described, command=job.command),), number=0)
    return _seated(job, job.source, home, known)


def _seated(job: "Job", source: Sharing, home: str, known: list[Input]) -> Standing:
    """A table among tables, in its old place or behind them."""
    number = next((i for i, one in enumerate(known) if _is_same(one, source)), len(known))
    was = next((one for one in known[number : number + 1] if one.place), None)
    others = known[:number] + known[number + 1 :]
    mine = Input(
        file=source.file,
        place=was.place if was else source.place,
        title=was.title if was else _free_title(source.title, others),
        described=job.source.described,
        command=job.command,
    )
    source.share(home, place=mine.place, number=number)
    inputs = [*known[:number], mine, *known[number + 1 :]]
    return Standing(inputs=(replace(inputs[0], place=home), *inputs[1:]), number=number)


def _home(source: Source, known: list[Input]) -> str | None:
    """The folder that keys in OUT are told from: that of its first table. None where this or that is none."""
    if not isinstance(source, Sharing):
        return None
    if not known or (not known[0].place and _is_same(known[0], source)):
        return source.place
    return known[0].place or source.place_of(known[0].file)


def _is_same(known: Input, source: Sharing) -> bool:
    return known.file == source.file or (not known.place and known.file == source.resolved)


def _free_title(title: str, known: list[Input]) -> str:
    taken = {folded(one.title) for one in known}
    free, count = title, 1
    while folded(free) in taken:
        count += 1
        free = f"{title}_{count}"
    return free


def _refuse_changes(was: Mapping[str, Json], job: "Job", *, shares: bool) -> None:
    """Refuse to mix the outputs of two configs in one OUT."""
    now: dict[str, Json] = {"recipe": job.recipe, **job.config}
    changed = [
        _change(name, was.get(name), now.get(name))
        for name in {**was, **now}
        if was.get(name) != now.get(name) and not (shares and name == "input")
    ]
    if changed:
        raise ChangedConfig(
            f"{job.out} holds a run with other options: {'; '.join(changed)}. "
            "Choose another OUT, or start anew with --fresh (it deletes nothing)"
        )


def names_of(
    keys: list[str] | None, journal: Journal | None, standing: Standing, naming: Naming
) -> tuple[Callable[[str, int], str], Iterator[str]]:
    """A function (key, number) -> output name, and the names of all items that are known now.

    A name once given stays. Raises NameCollision where an item would take another's, of whichever INPUT of OUT.
    """
    given = journal.names(set(keys or ()), input=standing.number) if journal and keys else {}
    if not standing.shared:
        given = {key: given[key] for key in keys or () if key in given}
    union = list(dict.fromkeys([*given, *(keys or ())]))
    planned = plan_names(union, naming)
    if naming is Naming.INDEX:
        return planned, (planned("", number) for number in range(len(union)))
    kept = _still_their_own({key: name for key, name in given.items() if name and name != planned(key, 0)}, given)

    def name_of(key: str, number: int) -> str:
        return kept.get(key) or planned(key, number)

    if kept:
        _refuse_taken(union, given, name_of)
    return name_of, (name_of(key, number) for number, key in enumerate(union))


def _still_their_own(names: dict[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Without those that another item was given as well, while the one or the other was not in the source."""
    owners = Counter(folded(name) for name in given.values()) if names else Counter[str]()
    return {key: name for key, name in names.items() if owners[folded(name)] == 1}


def _refuse_taken(keys: list[str], given: Mapping[str, str], name_of: Callable[[str, int], str]) -> None:
    """Refuse a new item whose name another has already."""
    taken = {folded(name): key for key, name in given.items() if name}
    for key in keys:
        name = name_of(key, 0)
        other = taken.setdefault(folded(name), key)
        if other != key and name != given.get(key):
            raise NameCollision(
                f"{printable(other)} and {printable(key)} would both be written as {printable(name)}; "
                "rename one of them, or use --naming index"
            )


def remember(journal: Journal, job: "Job", standing: Standing) -> None:
    """What the next run, `retry` and the report want to know of this one."""
    before = journal.recall("config")
    first = {"input": before["input"]} if standing.shared and before and "input" in before else {}
    journal.remember_inputs(standing.inputs)
    journal.remember(
        recipe=job.recipe,
        version=job.version,
        config={**job.config, **first},
        source=", ".join(one.described for one in standing.inputs),
    )


def _change(name: str, was: Json, now: Json) -> str:
    texts = ["not given" if value is None else str(value) for value in (was, now)]
    if name == "input":
        return f"its INPUT was {texts[0]}, now {texts[1]} (only tables can share an OUT)"
    if any(isinstance(value, dict | list) for value in (was, now)) or max(map(len, texts)) > 60:
        return f"the content of {name} has changed"
    return f"{name} was {texts[0]}, now {texts[1]}"
