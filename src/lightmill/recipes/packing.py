"""One pack of the crops of all frames, made when a run has finished, and made again when more frames are done.

A frame's crops are taken from its hidden part where there is one, else from the pack that was there before: once
packed, parts are removed, so that crops lie on the disk once. The journal knows the pack that it belongs to by its size
and the number of its crops; another pack in OUT, of a run before `--fresh` or of somebody else, is never taken for it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightmill.data.pack import PACK_NAME, CropPack, CropRow, Kind, PackWriter, Store
from lightmill.engine.items import MADE, Json
from lightmill.engine.journal import Journal, Row
from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.engine.run import STATE_FOLDER
from lightmill.errors import InputError, OutputError
from lightmill.recipes.crop_parts import Parts
from lightmill.recipes.cropping import Cut
from lightmill.sources.boxes import BOX_COLUMNS, BoxTable
from lightmill.sources.table_out import free_names
from lightmill.types import Size

_FACT = "crop_pack"  # what the journal remembers it as


@dataclass(frozen=True, kw_only=True)
class PackForm:
    """How a pack is written."""

    store: Store
    size: Size | None
    expand: float


class CropRows:
    """What the table says of crops."""

    def __init__(self, table: BoxTable, *, said: Mapping[str, str], groups: tuple[str, ...]) -> None:
        """`said`: option -> the column that a column of the pack holds already; `groups` are kept besides."""
        self._table = table
        known = {*BOX_COLUMNS, *said.values()}.difference(groups)
        theirs = [column for column in dict.fromkeys(table.text.columns) if column not in known]
        # programs that read the pack do not agree on what a column without a name is called
        names = [column or f"column_{table.text.columns.index(column) + 1}" for column in theirs]
        self.columns = free_names(names, [])
        self._cells = dict(zip(self.columns, map(table.text.column, theirs), strict=True))

    def of(self, key: str, rows: tuple[int, ...], cut: Cut, crop: bytes | memoryview | NDArray[np.uint8]) -> CropRow:
        """One row of the pack. `rows` are those of the frame: a negative has what all of them agree in."""
        table, row = self._table, cut.row
        first = row if row >= 0 else rows[0]
        x, y, w, h = cut.box
        left, top, width, height = cut.place
        time = float(table.times[first])
        return CropRow(
            crop=crop, frame=key, kind=cut.kind, row=row, parent=cut.parent, overlap=cut.overlap,
            x=x, y=y, w=w, h=h, left=left, top=top, width=width, height=height,
            label=table.labels[row] if row >= 0 else "",
            group=table.groups[first], view=table.views[first], time=None if np.isnan(time) else time,
            other=self._own(row) if row >= 0 else self._shared(rows),
        )  # fmt: skip

    def _own(self, row: int) -> dict[str, str]:
        return {column: cells[row] for column, cells in self._cells.items()}

    def _shared(self, rows: tuple[int, ...]) -> dict[str, str]:
        return {
            column: cells[rows[0]] if len({cells[row] for row in rows}) == 1 else ""
            for column, cells in self._cells.items()
        }


def write_pack(
    outputs: Outputs,
    journal: Journal,
    parts: Parts,
    *,
    form: PackForm,
    rows: CropRows,
    frames: Mapping[str, tuple[int, ...]],
) -> None:
    """crops.arrow of all frames that were made, in the order of the source; memory stays flat.

    Nothing is written where the pack holds all of them already. `frames`: key -> rows of the table.
    Raises OutputError where the crops of a frame are nowhere; the same command again makes them.
    """
    before = _Packed.of(outputs.root, journal)
    if before is not None and not parts.are_there():
        return
    with PackWriter(
        outputs.root / PACK_NAME,
        store=form.store,
        size=(form.size.width, form.size.height) if form.size else None,
        expand=form.expand,
        columns=rows.columns,
        durable=outputs.durable,
    ) as writer:
        count = 0
        for row in journal.rows(*MADE):
            for cut, crop in _crops_of(row, parts, before):
                writer.add([rows.of(row.key, frames[row.key], cut, _shaped(crop, form.size))])
                count += 1
    size = os.stat(outputs.root / PACK_NAME).st_size
    fact: Json = {"bytes": size, "crops": count}
    journal.remember(**{_FACT: fact})
    parts.remove()


def reopen_lost(out: Path, parts: Parts, *, store: Store) -> None:
    """Take up again frames that are done and whose crops are nowhere: somebody removed the pack. Raises OutputError.

    To be called before a run, which looks after the files of each item, and the pack is none of those. A run of another
    store, or of another recipe, is left as it is: it will be refused.
    """
    if not Journal.is_in(out):
        return
    with RunLock(out / STATE_FOLDER), Journal.open(out) as journal:
        if (journal.recall("config") or {}).get("store") != store:
            return
        done = [row.key for row in journal.rows(*MADE) if crop_count(row)]
        gone = parts.missing(done)
        packed = _Packed.of(out, journal) if gone else None
        if lost := [key for key in gone if packed is None or key not in packed.spans]:
            journal.reopen(lost)


def packed_rows(out: Path) -> NDArray[np.int64]:
    """[crops] the row of the table that each crop of the pack is of; -1 for negatives."""
    return np.asarray(CropPack.open(out).table["row"].to_numpy(), np.int64)


def crop_count(row: Row) -> int:
    """How many crops a frame has, negatives included."""
    counts: list[Json] = [row.meta.get(name, 0) for name in ("crops", "background", "partial")]
    return sum(count for count in counts if isinstance(count, int))


def _crops_of(row: Row, parts: Parts, before: "_Packed | None") -> Iterator[tuple[Cut, bytes | memoryview]]:
    found = parts.read(row.key)
    if found is not None:
        return iter(found)
    if not crop_count(row):
        return iter(())
    if before is None or row.key not in before.spans:
        raise OutputError(f"the crops of {row.key} are no longer in OUT; give the same command again: it makes them")
    return before.crops(row.key)


def _shaped(crop: bytes | memoryview, size: Size | None) -> bytes | memoryview | NDArray[np.uint8]:
    return crop if size is None else np.frombuffer(crop, np.uint8).reshape(size.height, size.width, 3)


@dataclass(frozen=True)
class _Packed:
    """The pack that the journal belongs to."""

    pack: CropPack

    @classmethod
    def of(cls, out: Path, journal: Journal) -> "_Packed | None":
        """None where there is none, or another."""
        fact, path = journal.recall(_FACT), out / PACK_NAME
        with suppress(OSError, InputError):
            if fact and os.stat(path).st_size == fact["bytes"]:
                pack = CropPack.open(path)
                return cls(pack) if len(pack) == fact["crops"] else None
        return None

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Frame -> its first crop and the one behind its last: those of a frame lie together."""
        frames = self.pack.table["frame"]
        runs = frames.rle().struct.unnest()
        ends = np.cumsum(runs["len"].to_numpy())
        begins = ends - runs["len"].to_numpy()
        return dict(zip(runs["value"].to_list(), zip(begins.tolist(), ends.tolist(), strict=True), strict=True))

    @cached_property
    def _about(self) -> list[tuple[Kind, int, int, float]]:
        return self.pack.table.select("kind", "row", "parent", "overlap").rows()

    def crops(self, key: str) -> Iterator[tuple[Cut, bytes | memoryview]]:
        """The crops of a frame in their order."""
        for index in range(*self.spans[key]):
            raw = self.pack.store == "raw"
            data = self.pack.pixels(index).data.cast("B") if raw else self.pack.encoded(index)
            yield Cut(*self._about[index], *self.pack.place(index)), data
