"""Open-set folds: training and validation that share no group, and players whom training never meets.

Frames that follow each other are nearly the same picture, so samples are never split at random: what is held out is
whole groups (quarters, sessions) or blocks of time with a gap around them. Of the players in the held-out groups some
are unknown: none of their samples is trained on, anywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

Indices: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

PARTS = ("train", "train_negatives", "val_known", "val_unknown", "val_negatives")
_SHOWN = 5  # names in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One way to split a table of crops. Index arrays: int64, ascending rows of the table, no row in two of them."""

    number: int  # from 0
    train: Indices  # players who are known in this fold; they are the gallery too
    train_negatives: Indices  # background and partials beside them; no part of an unknown player
    val_known: Indices  # of held-out groups: players who are in `train`
    val_unknown: Indices  # of held-out groups: `unknown_labels`
    val_negatives: Indices
    unknown_labels: tuple[str, ...]  # sorted; of their samples outside the held-out groups none is used
    held_out_groups: tuple[str, ...]  # sorted
    gap: float | None = None  # how far in time the two sides lie apart in a group; None: they share no group
    remarks: tuple[str, ...] = ()  # what is to be known of it, for people

    @property
    def gallery(self) -> Indices:
        """What players are recognised by in validation."""
        return self.train

    @cached_property
    def train_side(self) -> Indices:
        """All rows that training sees, ascending."""
        return np.sort(np.concatenate([self.train, self.train_negatives]))

    @cached_property
    def val_side(self) -> Indices:
        """All rows that validation sees, ascending."""
        return np.sort(np.concatenate([self.val_known, self.val_unknown, self.val_negatives]))


# --- making them -----------------------------------------------------------------------------------------------------


def open_set_folds(
    table: "pl.DataFrame",
    *,
    folds: int,
    unknown_per_fold: int,
    seed: int = 0,
    by: str | Sequence[str] = "group",
    block: int | None = None,
    gap: float | None = None,
) -> list[Fold]:
    """As many folds as asked for; each part of the table is held out in one of them.

    table: a pack's columns; needed are label and group, used are kind, time, row, parent and those of `by`.
    `by`: the column, or columns, whose values are held out together; a group must lie in one of them. `block`: groups
    are cut into blocks of that many instants each, the same ones in all views; rows nearer than `gap` (in the unit of
    `time`) to a held-out row of their group are not trained on.

    Parts go to folds so that these have about the same number of boxes. A player whom the split leaves without any
    training sample becomes one of the fold's unknown players, and a remark says so; others are drawn to make up
    `unknown_per_fold`, each in one fold as far as there are enough of them. Boxes without a label are in no fold.
    Equal arguments make equal folds.

    Raises UsageError where it cannot be done: fewer parts than folds, a group in two parts, no times for blocks, too
    few players. It says what to change.
    """
    if folds < 2:
        raise UsageError(f"there are at least 2 folds, got {folds}: each holds out a part of the table")
    samples = _Samples(table)
    units = _units(table, samples, by, block=block, gap=gap)
    rng = np.random.default_rng(seed)
    held_by = _dealt(units, samples, folds, rng, by)
    order = [str(label) for label in rng.permutation(samples.label_names)]
    uses = dict.fromkeys(samples.label_names, 0)
    return [_fold(number, samples, units, held_by == number, unknown_per_fold, order, uses) for number in range(folds)]


class _Samples:
    """What of the table matters, as arrays. Raises UsageError where a column is missing."""

    def __init__(self, table: "pl.DataFrame") -> None:
        columns = set(table.columns)
        if missing := {"label", "group"} - columns:
            raise UsageError(f"folds need the column {' and '.join(sorted(missing))}; there are {', '.join(columns)}")
        count = table.height
        self.labels = table["label"].fill_null("").to_numpy().astype(object)
        self.groups = table["group"].fill_null("").to_numpy().astype(object)
        self.times = table["time"].to_numpy().astype(np.float64) if "time" in columns else np.full(count, np.nan)
        self.is_player = table["kind"].to_numpy() == "player" if "kind" in columns else np.ones(count, np.bool_)
        self.is_named = self.is_player & (self.labels != "")
        self.label_names: list[str] = sorted(set(self.labels[self.is_named]))
        self.parent_labels = parent_labels(table)
        if not self.label_names:
            raise UsageError("folds need boxes with a label, and there are none; name the column with --label")

    def named(self, rows: Mask) -> set[str]:
        """The labels of some rows."""
        return set(self.labels[rows & self.is_named])


def parent_labels(table: "pl.DataFrame") -> NDArray[Any]:
    """[N] object: the label of the player that a partial was cut from; "" where there is none."""
    result = np.full(table.height, "", object)
    if not {"row", "parent", "label"} <= set(table.columns):
        return result
    rows, parents = table["row"].to_numpy(), table["parent"].to_numpy()
    labels = table["label"].fill_null("").to_numpy()
    places = np.flatnonzero(rows >= 0)
    places = places[np.argsort(rows[places], kind="stable")]
    wanted = np.flatnonzero(parents >= 0)
    if len(places) and len(wanted):
        at = np.minimum(np.searchsorted(rows[places], parents[wanted]), len(places) - 1)
        found = rows[places[at]] == parents[wanted]
        result[wanted[found]] = labels[places[at[found]]]
    return result


@dataclass(frozen=True)
class _Units:
    """What is held out together."""

    names: list[str]
    of_row: Indices  # [N] places in `names`
    gap: float | None


def _units(
    table: "pl.DataFrame", samples: _Samples, by: str | Sequence[str], *, block: int | None, gap: float | None
) -> _Units:
    columns = [by] if isinstance(by, str) else list(by)
    if missing := [name for name in columns if name not in table.columns]:
        raise UsageError(f"there is no column {missing[0]} to hold out by; there are {', '.join(table.columns)}")
    texts = [table[name].cast(str).fill_null("").to_numpy().astype(object) for name in columns]
    names = np.array(["/".join(cells) for cells in zip(*texts, strict=True)], object)
    _refuse_split_groups(samples.groups, names, columns)
    if block is None:
        return _numbered(names, None)
    if block < 1 or gap is None or not gap > 0:
        raise UsageError(
            f"blocks are of 1 instant or more, with a gap above 0 between the two sides, got block {block} and gap "
            f"{gap}: otherwise neighbouring frames lie on both"
        )
    if np.isnan(samples.times).any():
        raise UsageError("blocks of time need a time of every box; name the column with --time")
    return _numbered(_blocks(samples, names, block), gap)


def _refuse_split_groups(groups: NDArray[Any], names: NDArray[Any], columns: list[str]) -> None:
    first: dict[str, str] = {}
    for group, name in set(zip(groups, names, strict=True)):
        if first.setdefault(group, name) != name:
            raise UsageError(
                f"the group {group} is in two parts ({', '.join(sorted((name, first[group])))}) when held out by "
                f"{', '.join(columns)}: a group is never split; hold out by group, or by what groups are parts of"
            )


def _blocks(samples: _Samples, names: NDArray[Any], block: int) -> NDArray[Any]:
    """Names with the time at which the row's block of its group begins."""
    result = names.copy()
    for group in sorted(set(samples.groups)):
        rows = np.flatnonzero(samples.groups == group)
        instants, place = np.unique(samples.times[rows], return_inverse=True)
        begins = instants[place // block * block]
        result[rows] = [f"{group} from {begin:g}" for begin in begins]
    return result


def _numbered(names: NDArray[Any], gap: float | None) -> _Units:
    found = sorted(set(names))
    places = {name: place for place, name in enumerate(found)}
    return _Units(found, np.array([places[name] for name in names], np.int64), gap)


def _dealt(
    units: _Units, samples: _Samples, folds: int, rng: np.random.Generator, by: str | Sequence[str]
) -> NDArray[np.int64]:
    """[U] the fold that holds out each unit: the largest first, to the fold that has fewest boxes."""
    counts = np.bincount(units.of_row[samples.is_named], minlength=len(units.names))
    usable = np.flatnonzero(counts)
    if len(usable) < folds:
        raise UsageError(
            f"there are {len(usable)} parts with labelled boxes when held out by {by}, too few for {folds} folds; "
            "make fewer folds, hold out by something finer, or cut groups into blocks of time"
        )
    result = np.full(len(units.names), -1, np.int64)  # parts without a label: always trained on, as negatives
    shuffled = rng.permutation(usable)
    loads = np.zeros(folds)
    for unit in shuffled[np.argsort(-counts[shuffled], kind="stable")]:
        result[unit] = loads.argmin()
        loads[result[unit]] += counts[unit]
    return result


def _fold(
    number: int,
    samples: _Samples,
    units: _Units,
    held: Mask,
    unknown_count: int,
    order: Sequence[str],
    uses: dict[str, int],
) -> Fold:
    """`uses`: in how many folds each label was unknown; counted on."""
    out = held[units.of_row]
    near = _near(samples, out, units.gap)
    inside = ~out & ~near
    trained, shown = samples.named(inside), samples.named(out)
    lost = shown - trained
    wanted = max(0, unknown_count - len(lost))
    choice = sorted((label for label in order if label in shown & trained), key=lambda label: uses[label])
    unknown = lost | set(choice[:wanted])
    if len(choice) < wanted or not shown - unknown or len(trained - unknown) < 2:
        raise UsageError(
            f"fold {number} holds out {_listed([units.names[at] for at in np.flatnonzero(held)])} with "
            f"{len(shown)} players, {len(lost)} of them nowhere else: that is too few for {unknown_count} unknown ones "
            "and a known one, with two to train on; ask for fewer unknown players a fold, or for fewer folds"
        )
    for label in unknown:
        uses[label] += 1
    is_unknown = np.isin(samples.labels, list(unknown)) & samples.is_named
    of_unknown = np.isin(samples.parent_labels, list(unknown))
    known, negative = samples.is_named & ~is_unknown, ~samples.is_player
    return Fold(
        number=number,
        train=np.flatnonzero(inside & known),
        train_negatives=np.flatnonzero(inside & negative & ~of_unknown),
        val_known=np.flatnonzero(out & known),
        val_unknown=np.flatnonzero(out & is_unknown),
        val_negatives=np.flatnonzero(out & negative),
        unknown_labels=tuple(sorted(unknown)),
        held_out_groups=tuple(units.names[at] for at in np.flatnonzero(held)),
        gap=units.gap,
        remarks=tuple(_remarks(number, samples, lost, near, inside & is_unknown)),
    )


def _near(samples: _Samples, out: Mask, gap: float | None) -> Mask:
    """[N] rows that are not held out, but nearer than `gap` to one of their group that is."""
    if gap is None or not out.any():
        return np.zeros(len(out), np.bool_)
    codes = {group: code for code, group in enumerate(sorted(set(samples.groups)))}
    groups = np.array([codes[group] for group in samples.groups], np.int64)
    return ~out & (time_distance(groups, samples.times, groups[out], samples.times[out]) < gap)


def time_distance(
    groups: Indices, times: NDArray[np.float64], other_groups: Indices, other_times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N] how far each row is from the nearest other row of the same group, in time; infinity where there is none.

    groups [N], other_groups [M]: numbers from 0; times [N], other_times [M]: none missing.
    """
    if not len(times) or not len(other_times):
        return np.full(len(times), np.inf)
    order = np.lexsort((other_times, other_groups))
    others, theirs = other_groups[order], other_times[order]
    # rank of every time among all: whole numbers, so that (group, time) can be looked up as one of them
    levels = np.unique(np.concatenate([times, other_times]))
    codes = others * len(levels) + np.searchsorted(levels, theirs)
    at = np.searchsorted(codes, groups * len(levels) + np.searchsorted(levels, times))
    result = np.full(len(times), np.inf)
    for place in (at - 1, at):
        inside = np.clip(place, 0, len(others) - 1)
        same = (place == inside) & (others[inside] == groups)
        result[same] = np.minimum(result[same], np.abs(theirs[inside[same]] - times[same]))
    return result


def _remarks(number: int, samples: _Samples, lost: Iterable[str], near: Mask, unused: Mask) -> Iterable[str]:
    if gone := sorted(lost):
        yield f"fold {number}: only in held-out groups, so counted as unknown: {_listed(gone)}"
    if near.any():
        yield f"fold {number}: {int(near.sum())} boxes left out, too near in time to a held-out frame"
    if unused.any():
        yield f"fold {number}: {int(unused.sum())} boxes of unknown players outside the held-out groups left out"
    if nameless := int((samples.is_player & ~samples.is_named).sum()):
        yield f"fold {number}: {nameless} boxes without a label left out"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
