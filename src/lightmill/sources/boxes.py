"""A table with one row a box (x, y, w, h in px of a picture) as a source: its items are the pictures, called frames."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from string import Formatter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.engine.items import Item, Settled
from lightmill.errors import InputError, SourceError, UsageError
from lightmill.sources import files
from lightmill.sources.table import TextTable, read_text, refuse_columns

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

BOX_COLUMNS = ("x", "y", "w", "h")
_FARTHEST = 1e9  # px; beyond, a number is no place in a picture
_MOST_DIGITS = 300  # of a number in a file name


@dataclass(frozen=True, kw_only=True)
class BoxColumns:
    """Which columns of a table say what."""

    path: str = "{image_path}"  # the file of a row's frame, as a format of Python filled with the row's cells
    label: str | None = None
    group: tuple[str, ...] = ()  # joined with `/`
    view: str | None = None
    time: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Option -> column, of those that hold one value each."""
        found = {"label": self.label, "view": self.view, "time": self.time}
        return {option: column for option, column in found.items() if column is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxTable:
    """The rows of a table of boxes, by column; N rows, F frames. Row numbers are from 0, in messages from 1."""

    text: TextTable  # the rows as the user wrote them
    boxes: Floats  # [N, 4] x, y, w, h in px; NaN where a row is bad
    labels: list[str]  # [N] who; empty: nobody known
    groups: list[str]  # [N] what training and test must not share
    views: list[str]  # [N]
    times: Floats  # [N] NaN where unknown
    frames: list[str]  # [F] keys: paths relative to `images`, with `/`; in the order of their first rows
    frame: Indices  # [N] of `frames`; -1 where a row is bad
    problems: dict[int, str]  # bad row -> what is wrong with it
    images: str  # the folder that paths go on from
    digest: str  # of the file's bytes

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def tracks(self) -> Indices:
        """[N] rows of one group, view and label have one number; -1 for bad rows and for labels that are empty."""
        numbers: dict[tuple[str, str, str], int] = {}
        named = zip(self.groups, self.views, self.labels, strict=True)
        of_row = [numbers.setdefault(who, len(numbers)) if who[2] else -1 for who in named]
        return np.where(self.frame >= 0, np.array(of_row, np.int64), -1)

    def path_of(self, frame: str) -> str:
        """Where a frame's file is, as the system knows it."""
        return os.path.join(self.images, frame)


@dataclass(frozen=True, slots=True)
class FrameRef:
    """A frame's bytes in a file, and the rows of the table with boxes in it."""

    path: str
    key: str
    rows: tuple[int, ...]

    def read(self) -> bytes:
        """All bytes. Raises SourceError."""
        return files.FileRef(self.path, self.key, listed=False).read()


@dataclass(frozen=True, slots=True)
class BadRow:
    """The reference of a row that is no box in a frame."""

    row: int  # from 0
    problem: str

    def read(self) -> bytes:
        """Raises SourceError, always."""
        raise SourceError(self.problem)


@dataclass
class BoxSource:
    """The frames that a table of boxes names, in the order of their first rows, each once with all of its rows.

    A row that cannot be used is an item of its own, which fails alone: `row 9 (no box)`.
    """

    table: BoxTable
    described: str
    streams: bool = field(default=False, init=False)
    warnings: list[str] = field(default_factory=list, init=False)

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each frame and each bad row."""
        table = self.table
        order = np.argsort(table.frame, kind="stable")
        begins = np.searchsorted(table.frame[order], np.arange(len(table.frames) + 1))
        bad = iter(sorted(table.problems))
        next_bad = next(bad, len(table))
        taken = set(table.frames)
        for number, key in enumerate(table.frames):
            rows = tuple(order[begins[number] : begins[number + 1]].tolist())
            while next_bad < rows[0]:
                yield self._bad(next_bad, taken)
                next_bad = next(bad, len(table))
            yield Item(key, FrameRef(table.path_of(key), key, rows))
        while next_bad < len(table):
            yield self._bad(next_bad, taken)
            next_bad = next(bad, len(table))

    def _bad(self, row: int, taken: set[str]) -> Item:
        return Item(files.unused(bad_key(row), taken), BadRow(row, self.table.problems[row]))

    def estimated_count(self) -> int:
        """How many items there are, exactly."""
        return len(self.table.frames) + len(self.table.problems)


def bad_key(row: int) -> str:
    """The key of a row that cannot be used."""
    return f"row {row + 1} (no box)"


def open_boxes(path: Path, columns: BoxColumns, *, images: Path | None = None) -> BoxSource:
    """The source of a table of boxes. Raises as `read_boxes`."""
    return BoxSource(read_boxes(path, columns, images=images), f"boxes {files.shown(path)}")


def read_boxes(path: Path, columns: BoxColumns, *, images: Path | None = None) -> BoxTable:
    """A table of boxes, CSV or Parquet: columns x, y, w, h in px, and those that `columns` names.

    `images`: the folder that paths go on from (default: the table's). A row is bad, and no other with it, where x, y,
    w, h or the time is no number, or its path is none, or leads out of `images`. An empty time is unknown. Boxes
    without area, or outside of their frame, are not bad: nobody has looked at the frame yet.

    Raises InputError: no table, no rows, no column x, y, w or h, no such folder; UsageError: `columns` names one that
    there is not, or its path is no format.
    """
    text = read_text(path, wanted=BOX_COLUMNS)
    refuse_columns(path, text, BOX_COLUMNS)
    name = files.shown(path)
    for option, column in [*columns.named.items(), *(("group", one) for one in columns.group)]:
        _refuse_unknown(column, f"--{option} {column}", text.columns, name)
    template = PathTemplate(columns.path, text.columns, name)
    folder = os.path.abspath(path.parent if images is None else images)
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {files.shown(folder)}, where --images says the frames are")
    problems: dict[int, str] = {}
    boxes = np.stack([_numbers(text.column(one), one, problems, limit=_FARTHEST) for one in BOX_COLUMNS], axis=1)
    times = np.full(len(text.rows), np.nan)
    if columns.time is not None:
        times = _numbers(text.column(columns.time), columns.time, problems, may_lack=True)
    frames, frame = _frames(text, template, folder, problems)
    boxes[frame < 0] = np.nan
    return BoxTable(
        text=text,
        boxes=boxes,
        labels=_texts(text, columns.label),
        groups=["/".join(cells) for cells in zip(*map(text.column, columns.group), strict=True)]
        if columns.group
        else [""] * len(text.rows),
        views=_texts(text, columns.view),
        times=times,
        frames=frames,
        frame=frame,
        problems=problems,
        images=folder,
        digest=_digest(path),
    )


def _texts(text: TextTable, column: str | None) -> list[str]:
    return [""] * len(text.rows) if column is None else text.column(column)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = blake2b(digest_size=32)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _refuse_unknown(column: str, what: str, columns: Sequence[str], table: str) -> None:
    if columns.count(column) == 1:
        return
    found = "two columns" if column in columns else "no column"
    near = get_close_matches(column, columns, n=1)
    hint = f"; did you mean {near[0]}?" if near and near[0] != column else ""
    raise UsageError(f"{what}: the table {table} has {found} {column!r}; it has: {', '.join(columns)}{hint}")


def _numbers(
    cells: list[str], column: str, problems: dict[int, str], *, limit: float = np.inf, may_lack: bool = False
) -> Floats:
    """Cells as finite numbers; the rows of others become problems, and NaN."""
    try:
        found = np.array(cells, object).astype(np.float64)
    except (ValueError, OverflowError):
        found = np.array([_number(cell) for cell in cells])
    for row in np.flatnonzero(~(np.abs(found) <= limit) | np.isinf(found)).tolist():
        found[row] = np.nan
        if not (may_lack and not cells[row].strip()):
            problems.setdefault(row, f"row {row + 1}: {column} is {_shown(cells[row])}, and should be a number")
    return found


def _number(cell: str) -> float:
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return np.nan


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 80 else f"{cell[:80]}…")


# --- the frame of a row ----------------------------------------------------------------------------------------------


def _frames(
    text: TextTable, template: "PathTemplate", folder: str, problems: dict[int, str]
) -> tuple[list[str], Indices]:
    """Keys of frames in the order of their first rows, and the number of each row's; -1 for rows with a problem."""
    numbers: dict[str, int] = {}
    known: dict[tuple[str, ...], str | SourceError] = {}
    frame = np.full(len(text.rows), -1, np.int64)
    roots = tuple(dict.fromkeys((folder, os.path.realpath(folder))))
    used = [text.column(column) for column in template.columns]
    rows = zip(*used, strict=True) if used else iter([()] * len(text.rows))
    for row, cells in enumerate(rows):
        key = known.get(cells)
        if key is None:
            key = known[cells] = _key_or_error(template, cells, roots)
        if isinstance(key, SourceError):
            problems.setdefault(row, f"row {row + 1}: {key}")
        elif row not in problems:
            frame[row] = numbers.setdefault(key, len(numbers))
    return list(numbers), frame


def _key_or_error(template: "PathTemplate", cells: tuple[str, ...], roots: tuple[str, ...]) -> str | SourceError:
    try:
        return _key(template.fill(cells), roots)
    except SourceError as error:
        return error


def _key(text: str, roots: tuple[str, ...]) -> str:
    """The path relative to the folder. Raises SourceError where it is none, or leads out of the folder."""
    if not text.strip() or "\0" in text:
        raise SourceError(f"the path {_shown(text)} is no file name")
    path = os.path.normpath(os.path.join(roots[0], text))
    for root in roots:
        if path.startswith(root.rstrip(os.sep) + os.sep):
            return os.path.relpath(path, root).replace(os.sep, "/")
    if path in roots:
        raise SourceError(f"the path {_shown(text)} is the folder of --images itself")
    raise SourceError(f"the path {_shown(text)} leads out of the folder of --images")


class PathTemplate:
    """A format of Python whose fields are columns: `{quarter}__{angle}__{session:02d}__{frame:02d}.jpg`.

    A column with a format (`:02d`, `:.1f`, `:04`) is read as a number, one with none or with `:s` is taken as it is.
    Names of columns are taken whole: no attribute or index of a cell is looked up.
    Raises UsageError: no format, a field that is no column, or a format that no number has.
    """

    def __init__(self, text: str, columns: Sequence[str], table: str) -> None:
        what = f"--path {text!r}"
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise UsageError(f"{what}: {error}; a column is written in braces, as in {{frame:02d}}.jpg") from None
        self._parts: list[tuple[str, int | None, str]] = []  # what stands before a field, which field, its format
        names: dict[str, int] = {}
        for before, name, form, conversion in parts:
            if name is None:
                self._parts.append((before, None, ""))
                continue
            if conversion or "{" in (form or ""):
                raise UsageError(f"{what}: write a column as {{{name}}}, or with a number's format as {{{name}:02d}}")
            _refuse_unknown(name, what, columns, table)
            self._parts.append((before, names.setdefault(name, len(names)), form or ""))
            self._try(what, name, form or "")
        self.columns = tuple(names)  # whose cells `fill` wants, in order

    @staticmethod
    def _try(what: str, name: str, form: str) -> None:
        try:
            _formatted("1", form)
        except (ValueError, SourceError):
            raise UsageError(
                f"{what}: {form!r} is no format for a number; write {{{name}:02d}} or {{{name}}}"
            ) from None

    def fill(self, cells: tuple[str, ...]) -> str:
        """The text for a row. Raises SourceError where a cell is to be a number and is none."""
        made = []
        for before, place, form in self._parts:
            made.append(before)
            if place is not None:
                made.append(self._cell(cells[place], place, form))
        return "".join(made)

    def _cell(self, cell: str, place: int, form: str) -> str:
        try:
            return _formatted(cell, form)
        except (ValueError, OverflowError):
            raise SourceError(f"{self.columns[place]} is {_shown(cell)}, and --path wants a number, :{form}") from None


def _formatted(cell: str, form: str) -> str:
    """Raises ValueError, OverflowError."""
    if not form or form.endswith("s"):
        return format(cell, form)
    if len(cell) > _MOST_DIGITS:
        raise ValueError("too long for a number")
    return format(_whole(cell) if form[-1] not in "eEfFgG%" else float(cell), form)


def _whole(cell: str) -> int | float:
    """The whole number that a cell is, also where it is written 7.0; else the number with its decimals."""
    try:
        return int(cell)
    except ValueError:
        number = float(cell)
        return int(number) if number.is_integer() else number
