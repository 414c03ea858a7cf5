"""Training and validation of an index: official splits as they are, else drawn by group.

Pictures of one scene, dish or patient are near each other, so they are drawn together: of what is in one group all is
trained on, or nothing. Without groups every picture is its own, and a remark says what that may hide.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.data.index import Index
from lightmill.data.problems import Problem
from lightmill.data.split_leaks import shared_files
from lightmill.engine.wording import count_of
from lightmill.errors import UsageError
from lightmill.sources import files

Indices: TypeAlias = NDArray[np.int64]

FOLDER = "folder"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """Rows of an index: int64, ascending, usable, no row in two of them."""

    train: Indices
    val: Indices
    test: Indices
    remarks: tuple[str, ...] = ()


def is_pattern(rule: str) -> bool:
    """Whether a rule for groups is `folder` or a pattern with a group in brackets; else it names a table's column."""
    return rule == FOLDER or "(" in rule


def groups_of(index: Index, rule: str = "") -> list[str]:
    """[N] the group of every row; "" where it has none and stands for itself.

    rule: "" takes the table's column, `folder` the folder of the picture, all else is a pattern (Python's `re`) that is
    searched in the path of the picture: what its first bracket matches. Raises UsageError for a pattern that is wrong
    or does not match every picture.
    """
    if not rule:
        return [str(group) for group in index.arrow["group"].to_pylist()]
    images = index.arrow["image"].to_pylist()
    if rule == FOLDER:
        return [image.rpartition("/")[0] for image in images]
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UsageError(f"--group {rule!r} is no pattern: {error}") from error
    if not pattern.groups:
        raise UsageError(f"--group {rule!r} has no bracket around what the group is, as in (seq\\d+)_")
    found = [pattern.search(image) for image in images]
    if missed := [image for image, match in zip(images, found, strict=True) if not (match and match[1])]:
        some = ", ".join(missed[:3])
        raise UsageError(f"--group {rule!r} says nothing of {count_of(len(missed), 'picture')}, as of {some}")
    return [match[1] for match in found if match]


def split_rows(index: Index, *, group: str = "", val_share: float = 0.2, seed: int = 0) -> Splits:
    """Which usable rows are trained on, validated on and tested on.

    Official splits are taken as they are; where they name no validation, it is drawn from what is trained on. Drawn is
    `val_share` (0 to 1, at most half a group off) of the pictures, by groups (see `groups_of`) in an order that hangs
    on the seed and their names alone: more data leave the order of those before as it was.

    Raises UsageError where there is nothing to train on, or fewer than two groups to draw from.
    """
    if not 0 < val_share < 1:
        raise UsageError(f"the share of validation lies between 0 and 1, got {val_share:g}")
    names = np.array(index.arrow["split"].to_pylist(), object)
    usable = index.usable
    sides = {name: usable[names[usable] == name] for name in ("train", "val", "test")}
    remarks = list(_left_out(index, names[usable]))
    train, val = sides["train"], sides["val"]
    if not (names != "").any():
        train = usable
    if not len(train):
        raise UsageError(f"there is nothing to train on: {_why_nothing(index, names)}")
    if not len(val):
        groups = np.array(groups_of(index, group), object)[train]
        if not groups.astype(bool).any():
            remarks.append("validation is drawn picture by picture: where some are of one scene, give --group")
        drawn = _drawn(groups, train, index, val_share, seed)
        train, val = train[~drawn], train[drawn]
    remarks += _leaks_said(index, train, val)
    return Splits(train=train, val=val, test=sides["test"], remarks=tuple(remarks))


def _left_out(index: Index, names: NDArray[np.object_]) -> Sequence[str]:
    said = []
    if unusable := len(index) - len(index.usable):
        said.append(f"{count_of(unusable, 'picture')} cannot be used: lightmill check says why")
    others = sorted({str(name) for name in names} - {"train", "val", "test", ""})
    if others:
        said.append(f"splits that are neither train, val nor test are left out: {', '.join(map(files.shown, others))}")
    nowhere = int((names == "").sum())
    if nowhere and (names != "").any():
        said.append(f"{count_of(nowhere, 'picture')} in no split left out")
    return said


def _leaks_said(index: Index, train: Indices, val: Indices) -> Sequence[str]:
    """Of what is quickly found: files that are on both sides."""
    leaks = shared_files(index.pictures, index.arrow["size"].to_numpy(), train=train.tolist(), val=val.tolist())
    if not leaks:
        return []
    name = index.pictures.name
    some = "; ".join(f"{name(leak.other)} | {name(leak.row)}" for leak in leaks[:_SHOWN])
    told = f"leak: {count_of(len(leaks), 'held-out picture')} trained on as well, byte for byte, as {some}"
    return [f"{told}; lightmill check names all, and those that are nearly the same"]


def _why_nothing(index: Index, names: NDArray[np.object_]) -> str:
    counts = index.problem_counts
    if counts:
        return ", ".join(
            f"{count:,} of {len(index):,} pictures have the problem {kind}" for kind, count in counts.items()
        )
    return f"the splits are {', '.join(sorted({str(name) or 'none' for name in names}))}"


def _drawn(groups: NDArray[np.object_], rows: Indices, index: Index, share: float, seed: int) -> NDArray[np.bool_]:
    """[R] which of the rows are validated on: whole groups, until the share is reached as nearly as they allow."""
    own = index.arrow["image"].take(rows).to_pylist()
    names = [f"g{group}" if group else f"p{image}" for group, image in zip(groups, own, strict=True)]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    if len(counts) < 2:
        raise UsageError(
            "all pictures to train on are of one group, so nothing can be held out for validation; choose another "
            "--group, or say in val.txt what is"
        )
    order = sorted(counts, key=lambda name: blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest())
    wanted, taken = share * len(names), 0
    chosen: set[str] = set()
    for name in order[:-1]:  # one is left to train on
        if taken and taken + counts[name] / 2 > wanted:
            continue
        chosen.add(name)
        taken += counts[name]
        if taken >= wanted:
            break
    return np.array([name in chosen for name in names], np.bool_)


def refuse_problems(index: Index, kinds: Sequence[Problem] = (Problem.MISSING_MASK,)) -> None:
    """Raises UsageError where rows have such problems: a missing mask is an error, never background."""
    counts = index.problem_counts
    if met := [kind for kind in kinds if kind in counts]:
        said = ", ".join(f"{kind}: {counts[kind]:,} of {len(index):,}" for kind in met)
        raise UsageError(f"{files.shown(index.root)}: {said}; lightmill check DATA OUT names each of them")
