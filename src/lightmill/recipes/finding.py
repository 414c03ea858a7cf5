"""What `--batch auto` and `--rate auto` find for the training of a student, and keep with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightmill.engine.outputs import Outputs
from lightmill.train.checkpoints import STATE
from lightmill.train.place import ALONE
from lightmill.train.segment_options import SegmentOptions

if TYPE_CHECKING:
    from lightmill.train.segment import SegmentShares

FOUND = "found.json"


class Findings:
    """What `auto` found for a training, kept with it: when it is resumed, nothing is tried again."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self._kept: dict[str, float] = {}
        if not fresh and (path.parent / STATE.name).is_file() and path.is_file():
            self._kept = json.loads(path.read_bytes())

    def value(self, name: str, given: float | Literal["auto"], find: Callable[[], float]) -> float:
        """What was given, or what is found."""
        if given != "auto":
            return given
        if name not in self._kept:
            self._kept[name] = find()
            Outputs(self._path.parent).write(self._path.name, (json.dumps(self._kept) + "\n").encode())
        return self._kept[name]


def found_batch(options: SegmentOptions, pictures: int, say: Callable[[str], None]) -> float:
    """For each of the devices that train together: tried on one."""
    from lightmill.train.finder import find_batch

    found = find_batch(options, pictures=pictures // options.devices)
    say(f"found: --batch {found}")
    return found


def found_rate(options: SegmentOptions, shares: "SegmentShares", say: Callable[[str], None]) -> float:
    """Tried on one device."""
    from lightmill.train.finder import find_rate

    batches = shares(ALONE)
    found = find_rate(options, batches.train, batches.teacher)
    say(f"found: --rate {found:g}")
    return found
