"""What a training writes of itself: a table of epochs, a table of steps, and the same for TensorBoard.

`epochs.csv` and `steps.csv` are written whole, under a hidden name, whenever an epoch has ended, so they are readable
at any instant; a resumed training cuts them to where it goes on from.
"""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from lightmill.engine.outputs import temporary_name, writing

Row: TypeAlias = Mapping[str, float | None]

EPOCHS, STEPS, BOARD = "epochs.csv", "steps.csv", "tensorboard"


class RunLog:
    """The logs of one training, in a folder. `board`: for TensorBoard too, where that is installed."""

    def __init__(self, folder: Path, *, board: bool = True) -> None:
        self.folder = folder
        self._epochs: list[Row] = []
        self._steps: list[Row] = []
        self._board: Any = None
        self._wants_board = board and find_spec("tensorboard") is not None

    def start(self, epochs: Sequence[Row]) -> None:
        """Begins, or goes on after `epochs`; steps that a killed training made beyond them are forgotten."""
        self._epochs = list(epochs)
        last = int(epochs[-1]["step"] or 0) if epochs else 0
        self._steps = [row for row in read_table(self.folder / STEPS) if (row["step"] or 0) <= last]
        if self._wants_board:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / BOARD), purge_step=last + 1)

    def add(self, epoch: Row, steps: Sequence[Row]) -> None:
        """An epoch has ended. Raises OutputError where nothing can be written any more."""
        self._epochs.append(epoch)
        self._steps.extend(steps)
        write_table(self.folder / EPOCHS, self._epochs)
        write_table(self.folder / STEPS, self._steps)
        if self._board is not None:
            self._show(epoch, "epoch")
            for row in steps:
                self._show(row, "step")
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _show(self, row: Row, prefix: str) -> None:
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None and math.isfinite(value):
                self._board.add_scalar(f"{prefix}/{name}", value, int(row["step"] or 0))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV, whole or not at all; columns in the order in which rows first name them, empty where None."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows([_as_text(row.get(name)) for name in names] for row in rows)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        growing = path.parent / temporary_name(path.name)
        growing.write_text(text.getvalue(), "utf-8")
        os.replace(growing, path)


def read_table(path: Path) -> list[dict[str, float | None]]:
    """The rows that `write_table` wrote, to the last bit; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(value) if value else None for name, value in row.items() if name is not None}
            for row in csv.DictReader(file)
        ]


def _as_text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
