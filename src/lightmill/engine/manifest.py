"""The list of what came of every item: written last, whole or not at all, in the order of the source."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import TypeAlias

from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs

Columns: TypeAlias = Callable[[Row], Mapping[str, str]]

_NOTHING: Mapping[str, str] = {}
_LINE_ENDS = str.maketrans(
    {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)  # str.splitlines ends lines there


def write_manifests(outputs: Outputs, journal: Journal, *, columns: Columns | None = None) -> None:
    """manifest.jsonl and manifest.csv of all items that ended.

    `columns`: what manifest.csv says of a row besides, behind all else: the columns that any row has, in the order in
    which they are met.
    """
    outputs.write_if_changed("manifest.jsonl", _chunks(_one_line(line) for line in journal.manifest_lines()))
    outputs.write_if_changed("manifest.csv", _chunks(_csv_lines(journal, columns)))


def _one_line(line: str) -> str:
    return line if line.isascii() else line.translate(_LINE_ENDS)


def _csv_lines(journal: Journal, columns: Columns | None) -> Iterator[str]:
    """`key,status,stage,error`, `output_<label>` for every output, and the further columns."""
    labels = journal.output_labels()
    more = list(dict.fromkeys(chain.from_iterable(map(columns, journal.rows())))) if columns else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "status", "stage", "error", *(f"output_{label}" for label in labels), *more])
    further = map(columns, journal.rows()) if columns and more else repeat(_NOTHING)
    for (cells, paths), found in zip(journal.manifest_cells(), further, strict=False):
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow([*cells, *(paths.get(label, "") for label in labels), *(found.get(name, "") for name in more)])
    yield text.getvalue()


def _chunks(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines in pieces worth a write."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size > 1 << 16:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()
