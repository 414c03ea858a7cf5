"""All pictures and their texts in one table: `listing.jsonl` for programs, `listing.csv` for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from lightmill.engine.outputs import Outputs
from lightmill.export.captioned import COLUMNS, Made, in_pieces, json_text, record
from lightmill.export.captions_file import MAIN_ORDER, Captioned


def export_jsonl(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    columns: Sequence[str] = COLUMNS,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """`listing.jsonl`: one object a picture, as `captioned.record` says; the same fields, of the same types, in all."""
    with Made.open(outputs, "jsonl") as made:
        lines = (json_text(record(picture, columns=columns, order=order)) + "\n" for picture in _met(made, pictures))
        return [made.file("listing.jsonl", in_pieces(lines))]


def export_csv(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    columns: Sequence[str] = COLUMNS,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """`listing.csv`: the same as a table in UTF-8, every text in quotes, line ends within a text as they are."""
    with Made.open(outputs, "csv") as made:
        rows = (record(picture, columns=columns, order=order) for picture in _met(made, pictures))
        return [made.file("listing.csv", in_pieces(_csv_lines(rows, columns)))]


def _met(made: Made, pictures: Iterable[Captioned]) -> Iterator[Captioned]:
    for picture in pictures:
        made.picture(picture)
        yield picture


def _csv_lines(rows: Iterable[dict[str, str | int]], columns: Sequence[str]) -> Iterator[str]:
    text = io.StringIO()
    # all texts in quotes: where only those are that need it, a lone carriage return is not among them
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["key", "image", "text", *columns, "width", "height", "origin"])
    for row in rows:
        yield _taken(text)
        writer.writerow(row.values())
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    line = text.getvalue()
    text.seek(0)
    text.truncate()
    return line
