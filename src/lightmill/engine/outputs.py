"""Files that appear under their final name only when they are complete."""

import errno
import os
import platform
import re
import shutil
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from lightmill.errors import OutputError

_TEMPORARY = re.compile(r"\.lm-[0-9a-f]{16}-\d+\.tmp")
_HOST = platform.node()
_FATAL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
}


class Outputs:
    """Writes below one folder. Thread-safe. `durable`: files are on the disk before they count as written."""

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self.durable = durable
        self._folders: set[str] = set()
        self._lock = threading.Lock()

    def write(self, path: str, data: bytes) -> int:
        """Write `data` at `path` (relative, posix) and return its size.

        Raises OutputError where no file can be written any more (disk full, read-only); OSError where this one cannot.
        """
        with self._growing(path) as (temporary, target):
            _write_file(temporary, data, durable=self.durable)
            os.replace(temporary, target)
        return len(data)

    def write_if_changed(self, path: str, chunks: Iterator[bytes]) -> bool:
        """Write what the chunks make up, unless the file holds just that. Returns whether it was written."""
        with self._growing(path) as (temporary, target):
            with open(temporary, "wb") as file:
                file.writelines(chunks)
                file.flush()
                if self.durable:
                    os.fsync(file.fileno())
            if same_content(temporary, target):
                os.remove(temporary)
                return False
            os.replace(temporary, target)
        return True

    def link(self, source: str, path: str) -> int:
        """Make the file at `path` the same as the one at `source` (both relative, posix) and return its size.

        By a hard link, or by a copy where the file system has none. A `path` that is the same already stays untouched.
        Raises as `write` does; FileNotFoundError where there is no source.
        """
        origin, target = os.path.join(self.root, source), os.path.join(self.root, path)
        if not _same_file(origin, target):
            with self._growing(path) as (temporary, _):
                if not _linked(origin, temporary):
                    if same_content(origin, target):
                        return os.stat(target).st_size
                    _copy(origin, temporary, durable=self.durable)
                os.replace(temporary, target)
        return os.stat(target).st_size

    @contextmanager
    def _growing(self, path: str) -> Iterator[tuple[str, str]]:
        """(temporary, final) name of a file; the temporary one does not outlive an error."""
        folder, _, name = path.rpartition("/")
        self._make_folder(folder)
        target = os.path.join(self.root, path)
        temporary = os.path.join(self.root, folder, temporary_name(name))
        with writing(target):
            try:
                yield temporary, target
            except BaseException:
                _remove(temporary)
                raise
            if self.durable:
                _sync_folder(os.path.join(self.root, folder))

    def holds(self, path: str, size: int) -> bool:
        """Whether the file is there with that size."""
        try:
            return os.stat(os.path.join(self.root, path)).st_size == size
        except OSError:
            return False

    def discard(self, path: str) -> None:
        """Remove a file of an item that did not come to its end."""
        _remove(os.path.join(self.root, path))

    def remove_temporaries(self) -> int:
        """Remove what a killed run left half-written. Only for the one run that holds the lock."""
        removed = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                if _TEMPORARY.fullmatch(name):
                    _remove(os.path.join(folder, name))
                    removed += 1
        return removed

    def _make_folder(self, folder: str) -> None:
        if folder in self._folders:
            return
        path = os.path.join(self.root, folder)
        with writing(path):
            os.makedirs(path, exist_ok=True)
        with self._lock:
            self._folders.add(folder)


class writing:  # noqa: N801 (reads as a statement: with writing(path))
    """Turns errors that no other file would escape into an OutputError which says what to do."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in _FATAL:
            raise OutputError(
                f"{_FATAL[error.errno]}: cannot write {os.fspath(self._path)}; "
                "make room (or choose another OUT) and give the same command again: what is done is kept"
            ) from error


def temporary_name(name: str) -> str:
    """The hidden name under which a file grows: short, and of this process alone.

    A worker that outlives its run for a moment and the next run's never write one temporary file, on one machine or on
    two. `remove_temporaries` knows them all.
    """
    place = blake2b(f"{name}\0{_HOST}".encode(), digest_size=8).hexdigest()
    return f".lm-{place}-{os.getpid()}.tmp"


def folded(path: str) -> str:
    """What all spellings of a path have in common that are one file on some file system: case, Unicode normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def same_content(one: str, other: str) -> bool:
    """Whether both files exist and hold the same bytes."""
    try:
        if os.stat(one).st_size != os.stat(other).st_size:
            return False
        with open(one, "rb") as a, open(other, "rb") as b:
            return all(left == b.read(1 << 20) for left in _pieces(a.read))
    except OSError:
        return False


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _pieces(read: "Callable[[int], bytes]") -> Iterator[bytes]:
    while piece := read(1 << 20):
        yield piece


def _write_file(path: str, data: bytes, *, durable: bool) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def _linked(origin: str, temporary: str) -> bool:
    _remove(temporary)
    try:
        os.link(origin, temporary)
    except OSError:  # another device, no links here, too many of them; where it is something else, copying says so
        return False
    return True


def _copy(origin: str, temporary: str, *, durable: bool) -> None:
    with open(origin, "rb") as source, open(temporary, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: str) -> None:
    with suppress(OSError):  # never made, or the disk is gone: the next run looks again
        os.remove(path)
