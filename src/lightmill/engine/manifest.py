"""The list of what came of every item: written last, whole or not at all, in the order of the source."""

import csv
import io
import json
from collections.abc import Iterable, Iterator

from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs

_LINE_ENDS = str.maketrans(
    {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)  # to str.splitlines these end lines


def write_manifests(outputs: Outputs, journal: Journal) -> None:
    """manifest.jsonl and manifest.csv of all items that ended."""
    outputs.write_if_changed("manifest.jsonl", _chunks(json_line(row) for row in journal.rows()))
    outputs.write_if_changed("manifest.csv", _chunks(_csv_lines(journal.rows(), journal.output_labels())))


def json_line(row: Row) -> str:
    """One line of manifest.jsonl."""
    entry = {
        "key": row.key,
        "status": row.status,
        "stage": row.stage,
        "error": row.error,
        "outputs": row.paths,
        "meta": row.meta,
    }
    return json.dumps(entry, ensure_ascii=False).translate(_LINE_ENDS) + "\n"


def _csv_lines(rows: Iterable[Row], labels: list[str]) -> Iterator[str]:
    """`key,status,stage,error`, then `output_<label>` for every output."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "status", "stage", "error", *(f"output_{label}" for label in labels)])
    for row in rows:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        paths = row.paths
        writer.writerow([row.key, row.status, row.stage, row.error, *(paths.get(label, "") for label in labels)])
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
