"""What came of every row of a table of boxes: the user's table given back, and crops.csv for loose files."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lightmill.data.pack import COLUMNS
from lightmill.engine.items import MADE
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.recipes.cropping import Cut
from lightmill.recipes.packing import CropRows, packed_rows
from lightmill.sources import rows_back
from lightmill.sources.boxes import BoxTable
from lightmill.sources.table_out import free_names

LISTING = "crops.csv"
_LINES_AT_ONCE = 1000


def write_table_back(
    outputs: Outputs,
    journal: Journal,
    table: BoxTable,
    *,
    name: str,
    rows_of: Mapping[str, tuple[int, ...]],
    files: bool,
    absolute: bool,
) -> None:
    """The user's rows, with what came of each box: where its crop is, `status` and `error`.

    Of loose files that is `output_image_path`, else `crop`, the place in the pack. A frame's failure is that of all of
    its rows; a box that was dropped is `filtered`, and says why; one that was made anew is `recovered`. Rows of frames
    that no run came to have empty cells. `rows_of`: an item's key -> its rows.
    """
    folder = str(outputs.root.resolve()) if absolute else ""
    cells = [("", "", "")] * len(table)
    crops = {} if files else _places(packed_rows(outputs.root))
    for row in journal.rows():
        made = _paths(row, folder) if files else crops
        for number in rows_of.get(row.key, ()):
            cells[number] = _result(row, number, made.get(number, ""))
    column = "output_image_path" if files else "crop"
    outputs.write_if_changed(name, rows_back(table.text, cells, columns=(column, "status", "error")))


def _places(rows: "np.ndarray") -> dict[int, str]:
    chosen = np.flatnonzero(rows >= 0)
    return dict(zip(rows[chosen].tolist(), map(str, chosen.tolist()), strict=True))


def _paths(row: Row, folder: str) -> dict[int, str]:
    paths = (os.path.join(folder, path) for path in row.paths.values())
    return {cut.row: path for cut, path in zip(noted_cuts(row), paths, strict=True) if cut.row >= 0}


def _result(row: Row, number: int, crop: str) -> tuple[str, str, str]:
    if row.status not in MADE:
        return "", str(row.status), row.error
    for what, status in (("dropped", "filtered"), ("interpolated", "recovered")):
        named = row.meta.get(what)
        if isinstance(named, dict) and str(number) in named:
            return crop, status, str(named[str(number)])
    return crop, str(row.status), row.error


def noted_cuts(row: Row) -> list[Cut]:
    """What was cut of a frame into loose files, as `note_places` noted it, in the order of its outputs."""
    noted: Any = row.meta.get("cuts", []) if row.status in MADE else []
    return [
        Cut(cut["kind"], cut["row"], cut["parent"], cut["overlap"], tuple(cut["box"]), tuple(cut["place"]))
        for cut in noted
    ]


def write_listing(
    outputs: Outputs, journal: Journal, *, rows: CropRows, rows_of: Mapping[str, tuple[int, ...]]
) -> None:
    """crops.csv: the columns of a pack, with the path of each loose file as `crop`, relative to OUT."""
    outputs.write_if_changed(LISTING, _pieces(_lines(journal, rows, rows_of)))


def _lines(journal: Journal, rows: CropRows, rows_of: Mapping[str, tuple[int, ...]]) -> Iterator[list[Any]]:
    yield [*COLUMNS, *free_names(rows.columns, COLUMNS)]
    for row in journal.rows(*MADE):
        for cut, path in zip(noted_cuts(row), row.paths.values(), strict=True):
            made = rows.of(row.key, rows_of[row.key], cut, b"")
            known = [getattr(made, column) for column in COLUMNS[1:]]
            yield [path, *known, *(made.other[column] for column in rows.columns)]


def _pieces(lines: Iterable[list[Any]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, line in enumerate(lines):
        writer.writerow(line)
        if number % _LINES_AT_ONCE == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()
