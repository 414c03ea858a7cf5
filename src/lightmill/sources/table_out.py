"""A user's table written back, with what became of each row."""

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from lightmill.sources.table import Encoding, Table

Result: TypeAlias = Sequence[str]  # output_image_path, status, error, and whatever columns there are besides

RESULT_COLUMNS = ("output_image_path", "status", "error")
_ROWS_AT_ONCE = 10_000
_BOMS: dict[Encoding, bytes] = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}


def write_back(table: Table, results: Mapping[str, Result], *, columns: Sequence[str] = RESULT_COLUMNS) -> bytes:
    """The whole file at once; see `iterate_back`."""
    return b"".join(iterate_back(table, results, columns=columns))


def iterate_back(
    table: Table, results: Mapping[str, Result], *, columns: Sequence[str] = RESULT_COLUMNS
) -> Iterator[bytes]:
    """The user's rows, columns, order and cells as they were, plus new columns: a CSV file's bytes, in pieces.

    `results` maps an item's key to its cells, one for each of `columns`; the rows of an item that is not in it get
    empty ones. Delimiter, encoding, byte order mark and line ends are those of the input (a table from Parquet becomes
    CSV with `,` in UTF-8).
    A column of the user that has a new column's name stays; the new one is called `status_2` then, or `status_3`, ….
    Short rows are filled up. Cells beyond the header stay at the end of their row, after the new ones, so that every
    cell stands under its own header. Cells are quoted where CSV needs it.
    """
    if table.bom:
        yield _BOMS[table.encoding]
    width = len(table.columns)
    missing = ("",) * len(columns)
    lines = _Lines(table.newline)
    writer = csv.writer(lines, delimiter=table.delimiter, lineterminator="\r\n")
    writer.writerow([*table.columns, *_free_names(columns, table.columns)])
    for start in range(0, len(table.rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        for row, key in zip(table.rows[part], table.keys[part], strict=True):
            padding = [""] * (width - len(row))
            writer.writerow([*row[:width], *padding, *results.get(key, missing), *row[width:]])
        yield lines.take().encode(table.encoding, "backslashreplace")


class _Lines:
    """Takes rows that end in CR LF, whatever they are to end in: only then does the csv module quote both letters."""

    def __init__(self, newline: str) -> None:
        self._newline = newline
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        self._lines += (line[:-2], self._newline)

    def take(self) -> str:
        lines, self._lines = self._lines, []
        return "".join(lines)


def _free_names(wanted: Sequence[str], taken: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in wanted:
        free, count = name, 1
        while free in taken or free in names:
            count += 1
            free = f"{name}_{count}"
        names.append(free)
    return names
