"""The user's table, given back with what came of every row."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from lightmill.engine.items import MADE, Source, Status
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.sources import RESULT_COLUMNS, TableSource, iterate_back

_NONE: Mapping[str, str] = {}

Extra: TypeAlias = Mapping[str, Callable[[Row], str]] | Callable[[Row], Mapping[str, str]]


def write_table(
    outputs: Outputs,
    journal: Journal,
    source: Source,
    *,
    input: Path,
    suffix: str,
    absolute: bool,
    label: str | None = None,
    extra: Extra | None = None,
) -> list[str]:
    """`<table>_with_<suffix>.csv` in OUT, for a source that is a table. Returns the names of the files it wrote.

    Where several tables share OUT each has a file of its own: the second `data.csv` becomes `data_2_with_<suffix>.csv`,
    as the journal remembers it.

    `label` says which output is `output_image_path` (default: the first that the item has); an item without that one
    gets an empty cell. `extra` makes columns behind `output_image_path,status,error`, in one of two ways:
    - column -> function of the journal's row: the columns are always there, in that order;
    - a function of the journal's row -> {column: text}: the columns that any row of the table has, in the order in
      which they are met.
    It is asked about rows that were made, and about filtered ones, which have scores in their meta but no `paths`; the
    cells of failed rows, and of those that no run came to, are empty.
    """
    if not isinstance(source, TableSource):
        return []
    folder = str(outputs.root.resolve()) if absolute else ""
    wanted = set(source.table.keys)
    results: dict[str, Sequence[str]] = {}
    more: dict[str, Mapping[str, str]] = {}
    for row in journal.rows():
        if row.key in wanted:
            path = _output(row, label)
            results[row.key] = (os.path.join(folder, path) if path else "", str(row.status), row.error)
            more[row.key] = _cells(extra, row)
    columns = list(extra if isinstance(extra, Mapping) else dict.fromkeys(chain.from_iterable(more.values())))
    if columns:
        results = {key: (*cells, *(more[key].get(name, "") for name in columns)) for key, cells in results.items()}
    title = next((one.title for one in journal.inputs() if one.file == source.file and one.title), input.stem)
    name = f"{title}_with_{suffix}.csv"
    outputs.write_if_changed(name, iterate_back(source.table, results, columns=(*RESULT_COLUMNS, *columns)))
    return [name]


def _output(row: Row, label: str | None) -> str:
    if row.status not in MADE:
        return ""
    return next(iter(row.paths.values()), "") if label is None else row.paths.get(label, "")


def _cells(extra: Extra | None, row: Row) -> Mapping[str, str]:
    if extra is None or row.status is Status.FAILED:
        return _NONE
    if isinstance(extra, Mapping):
        return {column: of(row) for column, of in extra.items()}
    return extra(row)
