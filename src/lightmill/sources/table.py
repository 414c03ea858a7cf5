"""Tables as text, from CSV (any of `,` `;` and tab) or Parquet; and one with a column `image_path` as a source."""

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lightmill.engine.items import Item, Settled
from lightmill.errors import InputError, SourceError
from lightmill.sources import files

if TYPE_CHECKING:
    import polars

Encoding: TypeAlias = Literal["utf-8", "utf-16-le", "utf-16-be"]

PATH_COLUMN = "image_path"

_BOMS: dict[bytes, Encoding] = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DELIMITERS = (",", ";", "\t")
_LONGEST_CELL = 2**31 - 1  # what a C long holds on every system
_END = "\0end"  # a row that no text table can hold: the reader gives it back only when no quote is left open


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """The user's rows as text, and how they were written. Blank lines are no rows; rows may be short or long."""

    columns: list[str]
    rows: list[list[str]]
    delimiter: str = ","
    newline: str = "\n"
    encoding: Encoding = "utf-8"
    bom: bool = False

    def column(self, name: str) -> list[str]:
        """What each row has in the first column of that name; empty where a row is too short for it."""
        place = self.columns.index(name)
        return [row[place] if place < len(row) else "" for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Table(TextTable):
    """A table whose rows name pictures."""

    keys: list[str]  # the item of each row; equal paths share one
    paths: list[str]  # where each row's picture is, as the system knows it; empty where the row names none


@dataclass(frozen=True, slots=True)
class NoPath:
    """The reference of a row that names no picture."""

    row: int  # from 1

    def read(self) -> bytes:
        """Raises SourceError, always."""
        raise SourceError(f"{PATH_COLUMN} is empty in row {self.row}")


class TableSource:
    """The pictures that a table names, in the order of their first row.

    Paths are relative to the table's folder. So are keys, normalised, with `/`, unless the table shares OUT with one
    that was there before: see `share`. Rows with equal keys share one item, which has the columns of the first. A row
    without a path is an item that fails alone, `row 9 (no image_path)`.
    Raises InputError: not text in UTF-8 (or UTF-16 with a mark), no Parquet, no column `image_path`, no rows.
    """

    streams = False

    def __init__(self, path: Path) -> None:
        self.table = read_parquet(path) if files.suffix_of(path.name) == "parquet" else read_csv(path)
        self._first = _first_rows(self.table.keys)
        self.warnings: list[str] = []
        self.described = f"table {files.shown(path)}"
        self.place = os.path.abspath(path.parent)
        self.file = os.path.join(os.path.realpath(self.place), path.name)  # a link to a table in another folder is
        self.resolved = os.path.realpath(path)  # another table: its paths lead elsewhere
        self.title = path.stem
        self._told = (self.place, self.place, 0)  # what the keys of the table were told by

    def place_of(self, file: str) -> str | None:
        """The folder of another table; None where the file is none."""
        return os.path.dirname(file) if files.suffix_of(os.path.basename(file)) in files.TABLE_SUFFIXES else None

    def share(self, home: str, *, place: str, number: int) -> None:
        """Tell keys from `home`, the folder of the first table in OUT, so that a picture has one key in all of them.

        `place` is this table's folder as it was written when it first came into OUT, and stays what its keys are told
        by however it is written now. `number` is which table of OUT this is, from 0; from the second on, a row without
        a path has the key `row 9 of table 2 (no image_path)`. Pictures are still looked for beside this table.
        """
        if self._told != (home, place, number):
            self._told = (home, place, number)
            cells = self.table.column(PATH_COLUMN)
            keys = _keys(cells, _Anchors.shared(self.place, home=home, place=place), number)
            self.table = replace(self.table, keys=keys)
            self._first = _first_rows(keys)

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each distinct picture."""
        columns = self.table.columns
        for key, number in self._first.items():
            path = self.table.paths[number]
            ref = files.FileRef(path, key, listed=False) if path else NoPath(number + 1)
            yield Item(key, ref, row=dict(zip_longest(columns, self.table.rows[number][: len(columns)], fillvalue="")))

    def estimated_count(self) -> int:
        """How many items there are, exactly."""
        return len(self._first)


def read_csv(path: Path) -> Table:
    """A CSV file that names pictures, every cell as the text that it is. Raises InputError."""
    return _with_pictures(path, _text_of_csv(path, wanted=(PATH_COLUMN,)))


def read_parquet(path: Path) -> Table:
    """A Parquet file that names pictures, every cell as text: missing ones empty, nested as JSON. Raises InputError."""
    return _with_pictures(path, _text_of_parquet(path))


def read_text(path: Path, *, wanted: Sequence[str]) -> TextTable:
    """A CSV or Parquet file by its suffix, every cell as text.

    `wanted`: columns that it is expected to have; they tell which delimiter a CSV is written with. Whether they are
    there is for the caller to see: `refuse_columns` says it in words. Raises InputError.
    """
    if files.suffix_of(path.name) == "parquet":
        return _text_of_parquet(path)
    return _text_of_csv(path, wanted=wanted)


def refuse_columns(path: Path, table: TextTable, wanted: Sequence[str]) -> None:
    """Raises InputError where one of the columns is not there exactly once, or there are no rows."""
    name = files.shown(path)
    for column in wanted:
        if table.columns.count(column) != 1:
            found = "two columns" if column in table.columns else "no column"
            raise InputError(f"the table {name} has {found} {column}; it has: {', '.join(map(_quoted, table.columns))}")
    if not table.rows:
        raise InputError(f"the table {name} has a header and no rows")


def _text_of_csv(path: Path, *, wanted: Sequence[str]) -> TextTable:
    text, encoding, bom = _decoded(path)
    if not text.strip():
        raise InputError(f"the table {files.shown(path)} is empty; it needs a header with {','.join(wanted)}, and rows")
    delimiter = _delimiter(text, wanted)
    previous = csv.field_size_limit(_LONGEST_CELL)
    try:
        rows, newline = _parsed(text, delimiter, path)
    finally:
        csv.field_size_limit(previous)
    columns = rows.pop(0)
    return TextTable(columns=columns, rows=rows, delimiter=delimiter, newline=newline, encoding=encoding, bom=bom)


def _text_of_parquet(path: Path) -> TextTable:
    import polars

    try:
        frame = polars.read_parquet(path, glob=False)
    except PermissionError as error:
        raise files.refused(path, error) from error
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"the table {files.shown(path)} is no Parquet file, or it is damaged") from error
    cells = [_as_text(frame[name]) for name in frame.columns]
    return TextTable(columns=frame.columns, rows=[list(row) for row in zip(*cells, strict=True)])


def _with_pictures(path: Path, text: TextTable) -> Table:
    """The same with the key and the system's path of each row's picture."""
    refuse_columns(path, text, (PATH_COLUMN,))
    folder = os.path.abspath(path.parent)
    cells = text.column(PATH_COLUMN)
    paths = [os.path.join(folder, cell) if cell.strip() else "" for cell in cells]
    return Table(**vars(text), keys=_keys(cells, _Anchors.alone(folder), 0), paths=paths)


def _decoded(path: Path) -> tuple[str, Encoding, bool]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise files.refused(path, error) from error
    mark, encoding = next(((m, e) for m, e in _BOMS.items() if data.startswith(m)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"the table {files.shown(path)} is not {encoding.upper()} text (line {line}); save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise InputError(f"the table {files.shown(path)} is binary, not text; save it as CSV in UTF-8")
    return text, encoding, bool(mark)


def _delimiter(text: str, wanted: Sequence[str]) -> str:
    """The one that makes most of the wanted columns of the header; else the one that makes most columns."""

    def fitness(delimiter: str) -> tuple[int, int]:
        header = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
        return len(set(wanted).intersection(header)), len(header)

    start = text.lstrip("\r\n")[:100_000]  # the reader's own limit for a cell is above this
    return max(_DELIMITERS, key=fitness)


def _parsed(text: str, delimiter: str, path: Path) -> tuple[list[list[str]], str]:
    """All rows with the header first, and how the header's line ends."""
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter)
    rows: list[list[str]] = []
    newline = "\n"
    begins = ends = 0  # the lines of the last row
    try:
        for row in reader:
            begins, ends = ends + 1, reader.line_num
            if not rows:
                newline = "\r\n" if lines.last.endswith("\r\n") else "\n"
            if row:
                rows.append([*map(sys.intern, row)])  # a table says the same again and again
    except csv.Error as error:
        raise InputError(f"the table {files.shown(path)} is no CSV at line {reader.line_num}: {error}") from error
    if rows.pop() != [_END]:
        raise InputError(f'the table {files.shown(path)} has a quote (") that is never closed, from line {begins} on')
    return rows, newline


class _Lines:
    """The lines of a text and one more, with `_END`."""

    def __init__(self, text: str) -> None:
        self._text = io.StringIO(text, newline="")
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.last = line
            yield line
        yield from () if self.last.endswith(("\r", "\n")) else ("\n",)
        yield _END


def _as_text(column: "polars.Series") -> list[str]:
    import polars

    if column.dtype.is_nested() or column.dtype in (polars.Binary, polars.Object):
        return ["" if value is None else _json(value) for value in column.to_list()]
    return column.cast(polars.String).fill_null("").to_list()


def _json(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else json.dumps(value, default=str)


def _first_rows(keys: list[str]) -> dict[str, int]:
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    return first


@dataclass(frozen=True)
class _Anchors:
    """What paths are told from to make keys of them. One folder may be written in several ways, through links."""

    places: tuple[str, ...]  # the table's folder: what relative paths go on from
    homes: tuple[str, ...]  # what keys go on from; other paths are told from the first

    @classmethod
    def alone(cls, folder: str) -> "_Anchors":
        return cls((folder,), _distinct(folder, os.path.realpath(folder)))

    @classmethod
    def shared(cls, folder: str, *, home: str, place: str) -> "_Anchors":
        real = os.path.realpath(home)
        if place == home or os.path.realpath(place) == real:
            return cls((home,), _distinct(home, real, folder))
        return cls(_distinct(place, os.path.realpath(place)), _distinct(home, real))


def _distinct(*folders: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(folders))


def _keys(cells: list[str], anchors: _Anchors, number: int) -> list[str]:
    of = f" of table {number + 1}" if number else ""
    return [
        _key(cell, anchors) if cell.strip() else f"row {row}{of} (no {PATH_COLUMN})"
        for row, cell in enumerate(cells, 1)
    ]


def _key(cell: str, anchors: _Anchors) -> str:
    """Below a home: what follows it. Otherwise the shortest way there."""
    plain = [os.path.normpath(os.path.join(place, cell)) for place in anchors.places]
    for path in plain:
        for home in anchors.homes:
            if path.startswith(home) and path[len(home) : len(home) + 1] == os.sep:
                return path[len(home) + 1 :].replace(os.sep, "/")
    ways = [os.path.relpath(path, anchors.homes[0]).replace(os.sep, "/") for path in plain]
    return min(ways, key=lambda way: way.count("../"))


def _quoted(column: str) -> str:
    return column if column.strip() == column and column else repr(column)
