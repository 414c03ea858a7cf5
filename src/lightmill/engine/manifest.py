"""The list of what came of every item: written last, whole or not at all, in the order of the source."""

import csv
import io
from collections.abc import Iterable, Iterator

from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs

_LINE_ENDS = str.maketrans(
    {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)  # str.splitlines ends lines there


def write_manifests(outputs: Outputs, journal: Journal) -> None:
    """manifest.jsonl and manifest.csv of all items that ended."""
    outputs.write_if_changed("manifest.jsonl", _chunks(_one_line(line) for line in journal.manifest_lines()))
    outputs.write_if_changed("manifest.csv", _chunks(_csv_lines(journal)))


def _one_line(line: str) -> str:
    return line if line.isascii() else line.translate(_LINE_ENDS)


def _csv_lines(journal: Journal) -> Iterator[str]:
    """`key,status,stage,error`, then `output_<label>` for every output."""
    labels = journal.output_labels()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "status", "stage", "error", *(f"output_{label}" for label in labels)])
    for cells, paths in journal.manifest_cells():
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow([*cells, *(paths.get(label, "") for label in labels)])
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
