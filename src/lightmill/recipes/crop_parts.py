"""Crops on their way into the pack: what is cut of a frame is one hidden file until a run has finished.

An engine's item is a frame, and the pack is made of all of them: so the crops of a frame are kept in
OUT/.lightmill/crops/ (written whole or not at all), and `packing` makes one file of them, in the order of the source,
and removes them. A file is a line of JSON, which says what follows, and then the bytes of one crop after the other.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from lightmill.engine.outputs import Outputs
from lightmill.recipes.cropping import Cut

FOLDER = ".lightmill/crops"


@dataclass(frozen=True)
class Parts:
    """The crops of frames that are in no pack yet. Picklable: workers write them, the run reads them."""

    out: Path
    durable: bool = False

    def keep(self, key: str, cuts: list[Cut], crops: list[bytes]) -> None:
        """A stage: write the crops of a frame. Raises as `Outputs.write`."""
        index = [[*cut, len(crop)] for cut, crop in zip(cuts, crops, strict=True)]
        head = json.dumps(index, separators=(",", ":")).encode() + b"\n"
        Outputs(self.out, durable=self.durable).write(_path(key), b"".join([head, *crops]))

    def read(self, key: str) -> list[tuple[Cut, bytes]] | None:
        """The crops of a frame in their order; None where they are not here, or the file is not what was written."""
        try:
            data = (self.out / _path(key)).read_bytes()
        except OSError:
            return None
        head, _, rest = data.partition(b"\n")
        try:
            index = json.loads(head)
            *_, end = [0, *_ends(entry[-1] for entry in index)]
            if end != len(rest):
                return None
            return list(_crops(index, rest))
        except (ValueError, TypeError, IndexError):
            return None

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those frames whose crops are not here."""
        there: set[str] = set()
        for folder in self._folders():
            with os.scandir(folder) as entries:
                there.update(entry.name for entry in entries)
        return [key for key in keys if os.path.basename(_path(key)) not in there]

    def are_there(self) -> bool:
        """Whether the crops of any frame are."""
        return any(os.listdir(folder) for folder in self._folders())

    def remove(self) -> None:
        """All of them; what cannot be removed stays and does no harm."""
        shutil.rmtree(self.out / FOLDER, ignore_errors=True)

    def _folders(self) -> list[Path]:
        folder = self.out / FOLDER
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _path(key: str) -> str:
    name = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{FOLDER}/{name[:2]}/{name}"


def _ends(sizes: Iterable[int]) -> Iterator[int]:
    end = 0
    for size in sizes:
        end += size
        yield end


def _crops(index: list[list[object]], data: bytes) -> Iterator[tuple[Cut, bytes]]:
    begin = 0
    for *fields, size in index:
        kind, row, parent, overlap, box, place = fields
        assert isinstance(size, int)
        cut = Cut(kind, row, parent, overlap, tuple(box), tuple(place))  # type: ignore[arg-type]  # as `keep` wrote it
        yield cut, data[begin : begin + size]
        begin += size
