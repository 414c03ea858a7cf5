"""How a training stands, for whoever asks from outside: by what it has written so far. Without torch and Lightning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightmill.engine.journal import Journal
from lightmill.engine.lock import RunLock
from lightmill.engine.run import STATE_FOLDER
from lightmill.engine.wording import count_of, duration
from lightmill.train.logs import EPOCHS, Row, read_table

SCORES = "scores.json"  # what the command that trains writes at the end
State: TypeAlias = Literal["at work", "stopped", "ended"]
_BEGUN = "index.arrow", "training.json"  # what the commands write before the first epoch
_TOLD = "loss", "val_"  # how the columns begin that are told


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`scores`: of the best epoch on all that is held out, once the training has ended."""

    state: State
    epochs: tuple[Row, ...]
    scores: Mapping[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "training": self.state,
            "epochs": len(self.epochs),
            "last_epoch": self.epochs[-1] if self.epochs else {},
        } | {name: self.scores[name] for name in ("command", "held_out", "ended") if name in self.scores}

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        last: Row = self.epochs[-1] if self.epochs else {}
        done = f"{count_of(len(self.epochs), 'epoch')}"
        if last:
            done += f", {int(last['step'] or 0):,} steps, {duration(last['seconds'] or 0.0)}"
        why = f" ({self.scores['ended']})" if self.scores else ""
        lines = [f"a training, {self.state}{why}: {done}"]
        figures = [
            f"{name} {value:.3f}" for name, value in last.items() if name.startswith(_TOLD) and value is not None
        ]
        lines += [f"  last epoch: {', '.join(each for each in figures if '/' not in each)}"] if figures else []
        if self.state == "stopped":
            lines.append("  the command that began it goes on with it")
        return lines


def training_in(out: Path) -> Standing | None:
    """The training in OUT; None where there is another run, or nothing."""
    if Journal.is_in(out):
        return None
    epochs, works = tuple(read_table(out / EPOCHS)), RunLock.is_held(out / STATE_FOLDER)
    begun = works and any((out / STATE_FOLDER / name).is_file() for name in _BEGUN)
    if not epochs and not begun:
        return None
    scores = _scores(out / SCORES, epochs=len(epochs))
    return Standing(state="at work" if works else "ended" if scores else "stopped", epochs=epochs, scores=scores)


def _scores(path: Path, *, epochs: int) -> Mapping[str, Any]:
    """Empty where there are none yet, or only those of a shorter training that went on."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("epochs") == epochs and "ended" in found else {}
