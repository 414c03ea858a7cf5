"""A table with a column `image_path` as a source: CSV (any of `,` `;` and tab), or Parquet."""

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
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
class Table:
    """The user's rows as text, and how they were written. Blank lines are no rows; rows may be short or long."""

    columns: list[str]
    rows: list[list[str]]
    keys: list[str]  # the item of each row; equal paths share one
    paths: list[str]  # where each row's picture is, as the system knows it; empty where the row names none
    delimiter: str = ","
    newline: str = "\n"
    encoding: Encoding = "utf-8"
    bom: bool = False


@dataclass(frozen=True, slots=True)
class NoPath:
    """The reference of a row that names no picture."""

    row: int  # from 1

    def read(self) -> bytes:
        """Raises SourceError, always."""
        raise SourceError(f"{PATH_COLUMN} is empty in row {self.row}")


class TableSource:
    """The pictures that a table names, in the order of their first row.

    Keys are paths relative to the table's folder, normalised, with `/`; rows with equal keys share one item, which has
    the columns of the first. A row without a path is an item that fails alone, `row 9 (no image_path)`.
    Raises InputError: not text in UTF-8 (or UTF-16 with a mark), no Parquet, no column `image_path`, no rows.
    """

    streams = False

    def __init__(self, path: Path) -> None:
        self.table = read_parquet(path) if files.suffix_of(path.name) == "parquet" else read_csv(path)
        self._first: dict[str, int] = {}
        for number, key in enumerate(self.table.keys):
            self._first.setdefault(key, number)
        self.warnings: list[str] = []
        self.described = f"table {files.shown(path)}"

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
    """A CSV file, every cell as the text that it is. Raises InputError."""
    text, encoding, bom = _decoded(path)
    if not text.strip():
        raise InputError(f"the table {files.shown(path)} is empty; it needs a header with {PATH_COLUMN}, and rows")
    delimiter = _delimiter(text)
    previous = csv.field_size_limit(_LONGEST_CELL)
    try:
        rows, newline = _parsed(text, delimiter, path)
    finally:
        csv.field_size_limit(previous)
    columns = rows.pop(0)
    keys, paths = _keyed(path, columns, rows)
    return Table(
        columns=columns,
        rows=rows,
        keys=keys,
        paths=paths,
        delimiter=delimiter,
        newline=newline,
        encoding=encoding,
        bom=bom,
    )


def read_parquet(path: Path) -> Table:
    """A Parquet file, every cell as text: missing ones empty, nested ones as JSON. Raises InputError."""
    import polars

    try:
        frame = polars.read_parquet(path, glob=False)
    except PermissionError as error:
        raise files.refused(path, error) from error
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"the table {files.shown(path)} is no Parquet file, or it is damaged") from error
    cells = [_as_text(frame[name]) for name in frame.columns]
    rows = [list(row) for row in zip(*cells, strict=True)]
    keys, paths = _keyed(path, frame.columns, rows)
    return Table(columns=frame.columns, rows=rows, keys=keys, paths=paths)


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


def _delimiter(text: str) -> str:
    """The one that makes a column `image_path` of the header; else the one that makes most columns."""

    def fitness(delimiter: str) -> tuple[bool, int]:
        header = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
        return PATH_COLUMN in header, len(header)

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
                rows.append(row)
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


def _keyed(path: Path, columns: list[str], rows: list[list[str]]) -> tuple[list[str], list[str]]:
    """The key and the system's path of each row's picture."""
    name = files.shown(path)
    if columns.count(PATH_COLUMN) != 1:
        found = "two columns" if PATH_COLUMN in columns else "no column"
        raise InputError(f"the table {name} has {found} {PATH_COLUMN}; it has: {', '.join(map(_quoted, columns))}")
    if not rows:
        raise InputError(f"the table {name} has a header and no rows")
    place, folder = columns.index(PATH_COLUMN), os.path.abspath(path.parent)
    homes = tuple(dict.fromkeys((folder, os.path.realpath(folder))))
    keys, paths = [], []
    for number, row in enumerate(rows, 1):
        cell = row[place] if place < len(row) else ""
        named = bool(cell.strip())
        paths.append(os.path.join(folder, cell) if named else "")
        keys.append(_key(paths[-1], homes) if named else f"row {number} (no {PATH_COLUMN})")
    return keys, paths


def _key(path: str, homes: tuple[str, ...]) -> str:
    plain = os.path.normpath(path)
    for home in homes:
        if plain.startswith(home) and plain[len(home) : len(home) + 1] == os.sep:
            return plain[len(home) + 1 :].replace(os.sep, "/")
    return os.path.relpath(plain, homes[0]).replace(os.sep, "/")


def _quoted(column: str) -> str:
    return column if column.strip() == column and column else repr(column)
