"""Files of an index by row, as workers hold them: arrays whose pages processes share, and no table."""

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.data.listing import Stamp
from lightmill.errors import SourceError
from lightmill.sources import files

if TYPE_CHECKING:
    import pyarrow as pa


class Contents(NamedTuple):
    """A file as it was when it was opened."""

    data: bytes
    stamp: Stamp
    as_listed: bool  # whether the stamp is that of the index: otherwise size and mask were checked of another file


@dataclass(frozen=True, eq=False)
class Files:
    """One file a row. Pickled, it is its arrays."""

    root: str
    names: "pa.Array"  # relative, with `/`; of COCO `file.json#id`
    stamps: NDArray[np.int64]  # [N, 2] size, mtime_ns

    def __len__(self) -> int:
        return len(self.stamps)

    def name(self, row: int) -> str:
        """As the index has it; "" where there is none."""
        return str(self.names[int(row)].as_py())

    def path(self, row: int) -> str:
        """For the system."""
        name = self.name(row)
        return os.path.join(self.root, name.rpartition("#")[0] if ".json#" in name else name)

    def stamp(self, row: int) -> Stamp:
        """Of the index: what a cache is to go by."""
        size, mtime_ns = self.stamps[row].tolist()
        return Stamp(size, mtime_ns)

    def read(self, row: int) -> Contents:
        """All bytes, and whether the file is the one that was listed. Raises SourceError: it has vanished, say."""
        name = self.name(row)
        try:
            with open(self.path(row), "rb", buffering=0, opener=_no_waiting) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise SourceError(f"cannot read {name}: it is no ordinary file")
                stamp = Stamp(about.st_size, about.st_mtime_ns)
                return Contents(file.readall(), stamp, stamp == self.stamp(row))
        except FileNotFoundError as error:
            raise SourceError(f"cannot read {name}: it has vanished since it was listed") from error
        except OSError as error:
            raise SourceError(f"cannot read {name}: {files.reason_of(error)}") from error


def _no_waiting(path: str, flags: int) -> int:
    """A pipe would otherwise be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
