"""Negatives of a whole table of boxes: which players are shown, what is drawn beside and inside them, and its table."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.boxes import Cleaned
from lightmill.ops.negatives import Negatives, Range, draw_background, draw_partial
from lightmill.sources.boxes import BoxColumns, BoxTable, PathTemplate

if TYPE_CHECKING:
    import polars as pl

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

KINDS = ("background", "partial")


def draw_of_table(
    table: BoxTable,
    sizes_hw: Floats,
    *,
    cleaned: Cleaned,
    expand: float,
    per_frame: int,
    per_box: int,
    share: Range,
    seed: int,
) -> "DrawnBoxes":
    """Negatives of every frame whose size is known; sizes_hw [F, 2] px, NaN where it is not.

    cleaned: the table's boxes along their tracks. Background keeps away from all boxes as the table has them, and from
    those that were made anew; it is as large as boxes that are no outliers. No partial is cut from a dropped box. Where
    a box sticks out of its frame only what lies inside counts. `lightmill crop` draws the same, frame by frame.
    """
    numbers = np.flatnonzero(np.isfinite(sizes_hw).all(axis=1))  # of the frames that can be drawn in
    place = np.full(len(table.frames) + 1, -1, np.int64)  # of each frame among them; the last is for bad rows, -1
    place[numbers] = np.arange(len(numbers))
    frame, sizes = place[table.frame], sizes_hw[numbers]
    keys = [table.frames[number] for number in numbers.tolist()]
    everybody = _Players.of(
        np.concatenate([cleaned.boxes, table.boxes[cleaned.mended]]),
        np.concatenate([frame, frame[cleaned.mended]]),
        sizes,
    )
    like = np.concatenate([~cleaned.dropped, np.zeros(int(cleaned.mended.sum()), np.bool_)])[everybody.row]
    background = draw_background(
        sizes,
        everybody.boxes,
        everybody.frame,
        keys=keys,
        per_frame=per_frame,
        seed=seed,
        expand=expand,
        like=like,
    )
    players = _Players.of(cleaned.boxes, frame, sizes)
    partial = draw_partial(
        players.boxes,
        players.frame,
        keys=keys,
        per_box=per_box,
        share=share,
        seed=seed,
        of=~cleaned.dropped[players.row],
    )
    return DrawnBoxes.of(table, numbers, background, partial, players.row)


@dataclass(frozen=True, eq=False)
class _Players:
    """Boxes as far as they lie in their frames; those that do not are not there."""

    boxes: Floats  # [P, 4]
    frame: Indices  # [P]
    row: Indices  # [P] place in what was given

    @classmethod
    def of(cls, boxes: Floats, frame: Indices, sizes_hw: Floats) -> "_Players":
        row = np.flatnonzero((frame >= 0) & (boxes[:, 2:] > 0).all(axis=1))
        first = np.maximum(boxes[row, :2], 0)
        last = np.minimum(boxes[row, :2] + boxes[row, 2:], sizes_hw[frame[row], ::-1])
        inside = (last > first).all(axis=1)
        row, first, last = row[inside], first[inside], last[inside]
        return cls(np.concatenate([first, last - first], axis=1), frame[row], row)


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnBoxes:
    """Negatives in the order of the table's frames; of one frame background first, then partials by their parent."""

    table: BoxTable
    frame: Indices  # [M] of the table's frames
    kind: Indices  # [M] of KINDS
    box: Floats  # [M, 4] x, y, w, h, whole px
    parent: Indices  # [M] row of the table from 0 that a partial was cut from; -1 for background
    overlap: Floats  # [M] as in lightmill.ops.negatives
    missing: Mapping[str, Mapping[str, int]]  # kind -> frame -> how many found no place

    @classmethod
    def of(
        cls, table: BoxTable, frames: Indices, background: Negatives, partial: Negatives, rows: Indices
    ) -> "DrawnBoxes":
        """`frames` [..] and `rows` [..]: what the frames and parents of the two are in the table."""
        parts = (background, partial)
        frame = frames[np.concatenate([one.frame for one in parts])]
        order = np.argsort(frame, kind="stable")
        parents = [background.parent, rows[partial.parent]]
        missing = {
            kind: {table.frames[frames[at]]: int(one.missing[at]) for at in np.flatnonzero(one.missing).tolist()}
            for kind, one in zip(KINDS, parts, strict=True)
        }
        return cls(
            table=table,
            frame=frame[order],
            kind=np.repeat(np.arange(len(parts)), [len(one) for one in parts])[order],
            box=np.concatenate([one.box for one in parts])[order],
            parent=np.concatenate(parents)[order],
            overlap=np.concatenate([one.overlap for one in parts])[order],
            missing=missing,
        )

    def counts(self) -> dict[str, Any]:
        """How many frames, boxes of each kind, and boxes that found no place, by frame."""
        drawn = {kind: int((self.kind == number).sum()) for number, kind in enumerate(KINDS)}
        return {"frames": len(self.table.frames), **drawn, "missing": self.missing}

    def parquet(self, columns: BoxColumns) -> bytes:
        """The file: the user's columns that say which frame it is, as text; x, y, w, h, kind, parent, overlap, key.

        `key` is the frame's path below the folder of frames. A column of the user keeps its name; one of ours that has
        the same becomes `key_2`.
        """
        import polars as pl

        theirs = {name: self._texts(self._cells(name)) for name in self._of_frames(columns)}
        ours = {
            **{name: pl.Series(self.box[:, at]) for at, name in enumerate("xywh")},
            "kind": pl.Series(KINDS, dtype=pl.String).gather(self.kind),
            "parent": pl.Series(self.parent),
            "overlap": pl.Series(self.overlap.astype(np.float32)),
            "key": self._texts(self.table.frames),
        }
        data = io.BytesIO()
        made = pl.DataFrame(theirs | {_free(name, theirs): values for name, values in ours.items()})
        made.write_parquet(data, compression="lz4", statistics=False)
        return data.getvalue()

    def _of_frames(self, columns: BoxColumns) -> list[str]:
        """The user's columns that are the same for all boxes of a frame, in the table's order."""
        there = self.table.text.columns
        named = {*PathTemplate(columns.path, there, "").columns, *columns.group, columns.view, columns.time}
        return [name for name in there if name in named]

    def _cells(self, column: str) -> list[str]:
        """[F] what the first row of every frame has there."""
        cells = self.table.text.column(column)
        used, rows = np.unique(self.table.frame, return_index=True)
        return [cells[row] for row in rows[used >= 0].tolist()]

    def _texts(self, of_frames: list[str]) -> "pl.Series":
        import polars as pl

        return pl.Series(of_frames, dtype=pl.String).gather(self.frame)


def _free(name: str, taken: Mapping[str, object]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found
