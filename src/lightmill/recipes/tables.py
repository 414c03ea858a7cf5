"""The user's table, given back with what came of every row."""

from pathlib import Path

from lightmill.engine.items import MADE, Source
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.sources import TableSource, iterate_back


def write_table(
    outputs: Outputs, journal: Journal, source: Source, *, input: Path, suffix: str, absolute: bool
) -> list[str]:
    """`<table>_with_<suffix>.csv` in OUT, for a source that is a table. Returns the names of the files it wrote."""
    if not isinstance(source, TableSource):
        return []
    results = {}
    for row in journal.rows():
        first = next(iter(row.paths.values()), "") if row.status in MADE else ""
        if first and absolute:
            first = str(outputs.root.resolve() / first)
        results[row.key] = (first, str(row.status), row.error)
    name = f"{input.stem}_with_{suffix}.csv"
    outputs.write_if_changed(name, iterate_back(source.table, results))
    return [name]
