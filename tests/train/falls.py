"""What goes wrong in processes that train together; apart from all that takes long to import."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightmill.errors import TooManyFailures
from lightmill.train.place import Place
from lightmill.train.ranks import OnEpoch, OnStep


@dataclass
class Falls:
    """Rank 1 does what `how` says, with a reader of its own; the others wait for it. Each leaves its processes' ids."""

    how: Callable[[], object]
    folder: Path

    def __call__(self, place: Place, *, on_epoch: OnEpoch | None, on_step: OnStep | None) -> None:
        reader = multiprocessing.Process(target=time.sleep, args=(100,), daemon=True)
        reader.start()
        (self.folder / f"{place.rank}").write_text(f"{os.getpid()} {reader.pid}")
        place.agreed(None)
        if place.rank == 1:
            self.how()
        place.agreed(None)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_luck() -> None:
    raise KeyError("luck")


def find_nothing() -> None:
    raise TooManyFailures("3 pictures cannot be read")


def wait_for_ever() -> None:
    time.sleep(100)
