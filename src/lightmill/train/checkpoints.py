"""What a training leaves: `last` and `best`, networks that anybody can open, and the state that it resumes from.

    OUT/last/  OUT/best/            model.safetensors, config.json (models/network_folder.py)
    OUT/.lightmill/training.ckpt    weights, optimiser, counters: read with `weights_only`, so it cannot run code

Each appears whole or not at all. The state is written last: a training that is killed at any instant resumes from the
end of the epoch before, and writes `last` and `best` of the killed epoch once more, the same.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightmill.engine.outputs import temporary_name, writing
from lightmill.errors import OutputError
from lightmill.models.network_folder import restore_folder, save_folder

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

LAST, BEST = "last", "best"
STATE = Path(".lightmill", "training.ckpt")


class Checkpoints:
    """The checkpoints of one training, below its OUT."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state = out / STATE

    @property
    def last(self) -> Path:
        return self.out / LAST

    @property
    def best(self) -> Path:
        return self.out / BEST

    def save(self, network: "torch.nn.Module", settings: "BaseModel", *, is_best: bool) -> None:
        """Writes `last`, and `best` where it is that. Raises OutputError where nothing can be written any more."""
        save_folder(self.last, network, settings)
        if is_best:
            save_folder(self.best, network, settings)

    def save_state(self, write: Callable[[Path], None]) -> None:
        """`write` puts the state at the path that it is given; after that it counts."""
        with writing(self.state):
            self.state.parent.mkdir(parents=True, exist_ok=True)
            growing = self.state.parent / temporary_name(self.state.name)
            try:
                write(growing)
                os.replace(growing, self.state)
            finally:
                growing.unlink(missing_ok=True)

    def read_state(self) -> dict[str, Any] | None:
        """The state to resume from; None where there is none. Raises OutputError where it is damaged."""
        restore_folder(self.last)
        restore_folder(self.best)
        if not self.state.is_file():
            return None
        import torch

        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "lightmill" not in state:
                raise ValueError("it is no state of a training")
        except Exception as error:  # zip files, pickles and torch each have errors of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise OutputError(
                f"{self.state} cannot be resumed from: {lines[0]}; give --fresh to train from the start"
            ) from error
        return state
