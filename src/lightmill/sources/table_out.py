"""A user's table written back, with what became of each row."""

import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from lightmill.sources.table import Encoding, Table, TextTable

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
    """The user's rows plus new columns, as `rows_back` writes them, from the result of each row's item.

    `results` maps an item's key to its cells, one for each of `columns`; the rows of an item that is not in it get
    empty ones.
    """
    missing = ("",) * len(columns)
    return rows_back(table, (results.get(key, missing) for key in table.keys), columns=columns)


def rows_back(table: TextTable, results: Iterable[Result], *, columns: Sequence[str]) -> Iterator[bytes]:
    """The user's rows, columns, order and cells as they were, plus new columns: a CSV file's bytes, in pieces.

    `results`: for each row its cells, one for each of `columns`. Delimiter, encoding, byte order mark and line ends are
    those of the input (a table from Parquet becomes CSV with `,` in UTF-8).
    A column of the user that has a new column's name stays; the new one is called `status_2` then, or `status_3`, ….
    Short rows are filled up. Cells beyond the header stay at the end of their row, after the new ones, so that every
    cell stands under its own header. Cells are quoted where CSV needs it.
    """
    if table.bom:
        yield _BOMS[table.encoding]
    width = len(table.columns)
    lines = _Lines(table.newline)
    writer = csv.writer(lines, delimiter=table.delimiter, lineterminator="\r\n")
    writer.writerow([*table.columns, *free_names(columns, table.columns)])
    pairs = zip(table.rows, results, strict=True)
    for _ in range(0, len(table.rows), _ROWS_AT_ONCE):
        for row, cells in islice(pairs, _ROWS_AT_ONCE):
            padding = [""] * (width - len(row))
            writer.writerow([*row[:width], *padding, *cells, *row[width:]])
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


def free_names(wanted: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The wanted names, with `_2`, `_3`, … behind those that are taken already."""
    names: list[str] = []
    for name in wanted:
        free, count = name, 1
        while free in taken or free in names:
            count += 1
            free = f"{name}_{count}"
        names.append(free)
    return names
