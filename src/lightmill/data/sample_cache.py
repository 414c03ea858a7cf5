"""Samples as training takes them, kept in one file that is mapped into memory: made once, then only copied.

    0     header: magic, version, bytes a sample, digest of the rules they were made by; last byte: 1 = no more writing
    4096  groups of 4096 places each: a table of 16 bytes a place, then the samples one after the other

A line of the table is (key, 12 bytes; crc32 of the sample, 4 bytes, 0 = not there). A key stands for the names, sizes
and times of the files that a sample comes from, so one of changed files is not found under it, and is made anew.

A sample counts once its crc32 stands in the table, which is written after it, and is compared with it when a process
first reads it: what a kill, a full disk or a power cut left half done never counts. Writing goes through the file, not
through mapped memory, where a full disk would kill the process. Workers write different places at once; those that
write one place write the same bytes. Places are dealt out when the pack is opened, under a lock, and written down
before any sample is: so several processes that open it for the same samples agree on them.
"""

import mmap
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.engine.outputs import Outputs
from lightmill.engine.wording import count_of
from lightmill.errors import OutputError
from lightmill.sources import files

Bytes: TypeAlias = NDArray[np.uint8]

PACK_NAME = "samples.pack"
KEY_BYTES = 12
RESERVE = 1 << 30  # bytes of the disk that a pack leaves free

_NOT_KEPT = "samples are not kept, and made anew in every epoch"
_LOCK_NAME = "samples.lock"

_MAGIC, _VERSION = b"LMSAMPLE", 1
_HEAD = Struct("<8sIQ16s")  # magic, version, bytes a sample, digest of the rules
_HEAD_BYTES = 4096
_STOPPED_AT = _HEAD_BYTES - 1
_GROUP = 4096  # places
_LINE = KEY_BYTES + 4
_ALIGN = 64


class Opened(NamedTuple):
    """A pack, or why there is none."""

    cache: "SampleCache | None"
    remark: str = ""  # for people; "" where there is nothing to say


def open_cache(
    folder: Path,
    keys: Sequence[bytes],
    *,
    mode: Literal["auto", "off"],
    sample_bytes: int,
    rules: str,
    reserve: int = RESERVE,
) -> Opened:
    """The pack in `folder`, with room for a sample a key; samples that are kept there under these keys are found.

    `keys` are of KEY_BYTES. A pack of other rules or another size of samples is made anew. With `auto` there is none,
    and a remark says why, where the disk would not keep `reserve` bytes free, or nothing can be written.
    """
    if mode == "off":
        return Opened(None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            return _open_or_refuse(folder, keys, _Plan(sample_bytes), rules, reserve)
    except (OSError, OutputError) as error:
        reason = files.reason_of(error) if isinstance(error, OSError) else error
        return Opened(None, f"{_NOT_KEPT}: {reason}")


def _open_or_refuse(folder: Path, keys: Sequence[bytes], plan: "_Plan", rules: str, reserve: int) -> Opened:
    path = folder / PACK_NAME
    known = _known_places(path, plan, rules)
    lacking = _lacking_bytes(path, keys, plan, known)
    free = shutil.disk_usage(folder).free
    if lacking + reserve > free:
        return Opened(
            None,
            f"{_NOT_KEPT}: {files.shown(folder)} has {free / 1e9:.1f} GB free, they take {lacking / 1e9:.1f} GB, and "
            f"{reserve / 1e9:.1f} GB are left alone; --cache off says so without this note",
        )
    if known is None:
        _begin(path, plan, rules)
    places, new = _deal(keys, known or {})
    _reserve(path, plan, [(int(places[number]), keys[number]) for number in new])
    return Opened(SampleCache(path, plan, places, keys))


class SampleCache:
    """A pack that is open. Reads and writes may go on in many processes; in one, a sample is one thread's at a time.

    Pickled, it is its path and which place is whose: another process maps the same pages.
    """

    def __init__(self, path: Path, plan: "_Plan", places: NDArray[np.int64], keys: Sequence[bytes]) -> None:
        """Of `open_cache`, which sees to it that every key has a place. Raises OSError."""
        self.path = path
        self._plan, self._places = plan, places
        self._keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        self._open()

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in ("path", "_plan", "_keys", "_places")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """The file is let go; the samples stay. Later calls do nothing."""
        file = self.__dict__.pop("_file", None)
        if file is not None:
            os.close(file)

    def read(self, number: int, out: Bytes) -> bool:
        """Copies the sample of a key, by its number, into `out` [sample_bytes]. Whether it was there."""
        line = self._line(number)
        said = int.from_bytes(line[KEY_BYTES:], "little")
        if not said or line[:KEY_BYTES] != self._keys[number].tobytes():
            return False
        at = self._plan.sample_at(int(self._places[number]))
        out[:] = self._bytes[at : at + self._plan.sample_bytes]
        if self._checked[number] != said:  # once a process
            if _crc(out) != said:
                return False
            self._checked[number] = said
        return True

    def write(self, number: int, sample: Bytes) -> bool:
        """Keeps the sample of a key. Whether it could be: a full disk ends all writing, for every process."""
        if self.stopped or self._line(number)[:KEY_BYTES] != self._keys[number].tobytes():
            return False
        place = int(self._places[number])
        try:
            _write_at(self._file, self._plan.sample_at(place), sample.data)
            _write_at(self._file, self._plan.line_at(place) + KEY_BYTES, memoryview(_crc(sample).to_bytes(4, "little")))
        except OSError:
            self._stop()
            return False
        return True

    @property
    def stopped(self) -> bool:
        """Whether writing was ended by a disk that could take no more."""
        return bool(self._bytes[_STOPPED_AT])

    @property
    def kept(self) -> int:
        """How many of the samples are there."""
        return sum(any(self._line(number)[KEY_BYTES:]) for number in range(len(self)))

    def note(self) -> str:
        """For people, at an epoch's end; "" where there is nothing to say."""
        if not self.stopped:
            return ""
        return (
            f"the disk of {files.shown(self.path)} is full: {self.kept:,} of {count_of(len(self), 'sample')} are kept, "
            "the others are made anew in every epoch"
        )

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR)
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._checked = np.zeros(len(self._places), np.uint32)

    def _line(self, number: int) -> bytes:
        at = self._plan.line_at(int(self._places[number]))
        return self._map[at : at + _LINE]

    def _stop(self) -> None:
        try:
            _write_at(self._file, _STOPPED_AT, memoryview(b"\1"))
        except OSError:  # no place for a byte in a page that exists: this process tries again, in vain, and goes on
            return


class _Plan(NamedTuple):
    """Where in the file things are."""

    sample_bytes: int

    @property
    def stride(self) -> int:
        return -(-self.sample_bytes // _ALIGN) * _ALIGN

    @property
    def group_bytes(self) -> int:
        return _GROUP * (_LINE + self.stride)

    def table_at(self, group: int) -> int:
        return _HEAD_BYTES + group * self.group_bytes

    def line_at(self, place: int) -> int:
        return self.table_at(place // _GROUP) + place % _GROUP * _LINE

    def sample_at(self, place: int) -> int:
        return self.table_at(place // _GROUP) + _GROUP * _LINE + place % _GROUP * self.stride

    def file_bytes(self, places: int) -> int:
        return self.sample_at(places - 1) + self.stride if places else _HEAD_BYTES


def _head(plan: _Plan, rules: str) -> bytes:
    return _HEAD.pack(_MAGIC, _VERSION, plan.sample_bytes, blake2b(rules.encode(), digest_size=16).digest())


def _known_places(path: Path, plan: _Plan, rules: str) -> dict[bytes, tuple[int, bool]] | None:
    """Key -> (place, whether a sample is there) of a pack of these rules; None where there is none."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        if file.read(_HEAD.size) != _head(plan, rules):
            return None
        length = os.fstat(file.fileno()).st_size
        found: dict[bytes, tuple[int, bool]] = {}
        for group in range(-(-(length - _HEAD_BYTES) // plan.group_bytes)):
            file.seek(plan.table_at(group))
            table = file.read(_GROUP * _LINE)
            for at in range(0, len(table) - _LINE + 1, _LINE):
                line, place = table[at : at + _LINE], group * _GROUP + at // _LINE
                if any(line) and plan.file_bytes(place + 1) <= length:
                    found[line[:KEY_BYTES]] = place, any(line[KEY_BYTES:])
    return found


def _deal(keys: Sequence[bytes], known: dict[bytes, tuple[int, bool]]) -> tuple[NDArray[np.int64], list[int]]:
    """(the place of every key, the numbers of those that are new): kept ones stay, new ones get what is free."""
    places: dict[bytes, int] = {key: known[key][0] for key in keys if key in known}
    taken, free, new = set(places.values()), 0, []
    for number, key in enumerate(keys):
        if key in places:
            continue
        while free in taken:
            free += 1
        places[key] = free
        free += 1
        new.append(number)
    return np.array([places[key] for key in keys], np.int64), new


def _lacking_bytes(path: Path, keys: Sequence[bytes], plan: _Plan, known: dict[bytes, tuple[int, bool]] | None) -> int:
    """What a pack of all keys takes beside what it has; places that nothing was written to take nothing yet."""
    if known is None:
        given_back = os.stat(path).st_blocks * 512 if path.exists() else 0
        return max(0, plan.file_bytes(len(set(keys))) - given_back)
    return sum(plan.stride for key in set(keys) if key not in known or not known[key][1])


def _begin(path: Path, plan: _Plan, rules: str) -> None:
    """An empty pack, in place of one that may be there; a process that has that one mapped keeps it."""
    Outputs(path.parent).write(path.name, _head(plan, rules).ljust(_HEAD_BYTES, b"\0"))


def _reserve(path: Path, plan: _Plan, new: Sequence[tuple[int, bytes]]) -> None:
    """Writes down whose the new places are, each without a sample, in a file that is long enough; writing may begin."""
    with open(path, "r+b") as file:
        file.seek(_STOPPED_AT)
        file.write(b"\0")
        needed = plan.file_bytes(max((place for place, _ in new), default=-1) + 1)
        if os.fstat(file.fileno()).st_size < needed:
            file.truncate(needed)
        for place, key in sorted(new):
            file.seek(plan.line_at(place))
            file.write(key + bytes(4))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that open the pack of a folder. Raises OSError where that cannot be."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no locks that are let go when a process ends") from error
    with open(folder / _LOCK_NAME, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_at(file: int, at: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(file, data, at)
        at, data = at + written, data[written:]


def _crc(sample: Bytes) -> int:
    """crc32, and 1 where that is 0, which means that there is no sample."""
    return zlib.crc32(sample.data) or 1
