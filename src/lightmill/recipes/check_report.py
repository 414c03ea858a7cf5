"""What `check` says of a whole data set: check.csv, classes.json, leaks.csv, and the lines at the end."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from lightmill.codecs.decode import decode
from lightmill.data.problems import Problem
from lightmill.data.split_leaks import Small, SplitLeak, equal_files, near_pictures, shared_groups
from lightmill.engine.items import MADE, Status
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.engine.wording import count_of
from lightmill.errors import ItemError
from lightmill.recipes.check_classes import Classes
from lightmill.recipes.checking import COUNTS, FINDINGS, FINGERPRINT, SIZE, PairRef
from lightmill.sources import files

LISTING, CLASSES, LEAKS = "check.csv", "classes.json", "leaks.csv"
_EXAMPLES = 3
_SMALL = (16, 16)
_ROUGH = (64, 64)
_FAILURES = {  # class of the error -> what people call it
    "MissingMask": str(Problem.MISSING_MASK),
    "SizesDiffer": str(Problem.SIZES),
    "OutsideClasses": "values outside the classes",
    "WrongLabels": "labels that cannot be read",
    "TooManyPixels": "too many pixels",
    "UnsupportedImage": "of a kind that is not read",
    "SourceError": "not there",
    "NotAnImage": "broken",
    "DamagedImage": "broken",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """One row of the index, and what came of it."""

    ref: PairRef
    split: str
    group: str
    row: Row | None  # None: no run has come to it

    @property
    def kind(self) -> str:
        """What is wrong, in a few words that others share; "" where nothing is."""
        if self.row is None:
            return ""
        if self.row.status is Status.RECOVERED:
            return "cut off or damaged"
        if self.row.status is not Status.FAILED:
            return ""
        if self.row.error_class == "Unclear":
            return self.ref.problem.partition(":")[0]
        if "empty file" in self.row.error:
            return str(Problem.EMPTY)
        found = _FAILURES.get(self.row.error_class, self.row.error_class)
        return f"{found} {'mask' if self.row.stage == 'mask' else 'picture'}" if found == "broken" else found

    @property
    def counts(self) -> dict[int, int]:
        """Class -> pixels, 255 for what is ignored; empty where its mask was not read."""
        found: Any = self.row.meta.get(COUNTS) if self.row else None
        return {int(number): count for number, count in found.items()} if found else {}

    @property
    def findings(self) -> list[str]:
        """What is to be known of a picture that can be trained on."""
        noted: Any = self.row.meta.get(FINDINGS, []) if self.row else []
        return [*map(str, noted)]

    def fingerprint(self, name: str) -> str:
        """`file` or `phash`; "" where the picture could not be decoded."""
        found: Any = self.row.meta.get(FINGERPRINT) if self.row else None
        return str(found[name]) if found else ""


@dataclass(slots=True)
class Summary:
    """What is said at the end."""

    lines: list[str] = field(default_factory=list)


def write_all(
    outputs: Outputs,
    journal: Journal,
    checked: Sequence[Checked],
    summary: Summary,
    *,
    names: Sequence[str],
) -> list[str]:
    """Writes the three files; returns their names. `names`: of the classes, by their numbers."""
    made = (one.counts for one in checked if one.row and one.row.status in MADE)
    known = Classes.of(made, names)
    leaks = find_leaks(checked)
    outputs.write_if_changed(LISTING, _encoded(_listing(checked, leaks)))
    outputs.write_if_changed(LEAKS, _encoded(_leak_lines(checked, leaks)))
    outputs.write_if_changed(CLASSES, iter([f"{json.dumps(known.to_json(), indent=1)}\n".encode()]))
    said = _leaks_said(checked, leaks)
    warned = _warn(journal, said)
    summary.lines = [*_kinds_said(checked), *(line for line in said if line not in warned), known.said]
    return [LISTING, CLASSES, LEAKS]


# --- leaks -----------------------------------------------------------------------------------------------------------


def find_leaks(checked: Sequence[Checked]) -> list[SplitLeak]:
    """What two splits share: equal files, groups, and pictures that are nearly the same but no equal files."""
    splits = [one.split for one in checked]
    same = equal_files([one.fingerprint("file") for one in checked], splits)
    grouped = shared_groups([one.group for one in checked], splits)
    told = {leak.row for leak in same}
    rows = [row for row, one in enumerate(checked) if one.fingerprint("phash") and row not in told]
    hashes = np.array([int(checked[row].fingerprint("phash"), 16) for row in rows], np.uint64)
    near = near_pictures(hashes, rows, splits, small=lambda row: _small(checked[row].ref))
    return [*same, *near, *grouped]


def _small(ref: PairRef) -> Small | None:
    """[16, 16, 3]; None where the picture has gone since."""
    try:
        pixels = decode(ref.read(), at_least=_ROUGH).pixels
    except ItemError:
        return None
    return np.asarray(cv2.resize(pixels, _SMALL, interpolation=cv2.INTER_AREA), np.uint8)


def _leaks_said(checked: Sequence[Checked], leaks: Sequence[SplitLeak]) -> list[str]:
    if not leaks:
        sides = {one.split for one in checked if one.split}
        return [] if len(sides) > 1 else ["there are no two splits, so nothing can leak between them"]
    lines = []
    for kind, words in (
        ("same file", "files that another split has"),
        ("near picture", "nearly the same as one of another split"),
        ("group", "of a group that another split has"),
    ):
        met = [leak for leak in leaks if leak.kind == kind]
        if met:
            names = ((checked[leak.other].ref.image, checked[leak.row].ref.image) for leak in met)
            pairs = [" | ".join(map(files.shown, pair)) for pair in names]
            lines.append(f"leak: {words}: {count_of(len(met), 'picture')}, as {_few(pairs, '; ')}")
    return lines


def _warn(journal: Journal, said: Sequence[str]) -> list[str]:
    """Leaks as warnings of the run and its report, which keeps what it was told: what is no longer so is said, too."""
    now = [line for line in said if line.startswith("leak: ")]
    before = [line for line in journal.warnings() if line.startswith("leak: ") and line not in now]
    journal.set_warnings([*now, *(f"no longer so: {line}" for line in before)])
    return now


# --- lists -----------------------------------------------------------------------------------------------------------


def _listing(checked: Sequence[Checked], leaks: Sequence[SplitLeak]) -> Iterator[Sequence[object]]:
    yield (
        "image", "mask", "split", "group", "status", "kind", "message", "finding", "leak", "width", "height", "classes",
    )  # fmt: skip
    leak_of: dict[int, list[str]] = {}
    for leak in leaks:
        leak_of.setdefault(leak.row, []).append(f"{leak.kind}: {leak.share or checked[leak.other].ref.image}")
    for number, one in enumerate(checked):
        size: Any = (one.row.meta.get(SIZE) if one.row else None) or ("", "")
        yield (
            *map(files.shown, (one.ref.image, one.ref.mask, one.split, one.group)),
            str(one.row.status) if one.row else "",
            one.kind,
            one.row.error if one.row else "",
            "; ".join(one.findings),
            "; ".join(leak_of.get(number, ())),
            *size,
            " ".join(map(str, sorted(one.counts))),
        )


def _leak_lines(checked: Sequence[Checked], leaks: Sequence[SplitLeak]) -> Iterator[Sequence[object]]:
    yield "kind", "image", "split", "other", "other_split", "share"
    for leak in leaks:
        one, other = checked[leak.row], checked[leak.other]
        yield leak.kind, files.shown(one.ref.image), one.split, files.shown(other.ref.image), other.split, leak.share


def _encoded(lines: Iterable[Sequence[object]]) -> Iterator[bytes]:
    for line in lines:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(line)
        yield text.getvalue().encode("utf-8", "backslashreplace")


def _kinds_said(checked: Sequence[Checked]) -> list[str]:
    """A line a kind of trouble, the most frequent first."""
    met: dict[str, list[str]] = {}
    for one in checked:
        said = [one.kind] if one.kind else [finding.partition(":")[0] for finding in one.findings]
        for kind in said:
            met.setdefault(kind, []).append(files.shown(one.ref.image))
    order = sorted(met.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [f"{kind}: {count_of(len(names), 'picture')}, as {_few(names)}" for kind, names in order]


def _few(names: Sequence[str], between: str = ", ") -> str:
    return between.join([*names[:_EXAMPLES], *(["…"] if len(names) > _EXAMPLES else [])])
