"""One run at a time in one OUT."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from weakref import WeakSet

from lightmill.engine.outputs import writing
from lightmill.errors import OutputError

_ASKED_S = 0.1
_held: "WeakSet[RunLock]" = WeakSet()  # by this process


class RunLock:
    """Held while a run works in OUT; the operating system lets go of it however the process ends."""

    def __init__(self, state: Path) -> None:
        self._path = state / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._path, "a+", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write to OUT: {error.strerror}: {error.filename}; choose another OUT") from error
        try:
            _lock_soon(self._file)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise OutputError(
                f"another run is already at work in {self._path.parent.parent}"
                + (f" (process {holder})" if holder else "")
                + "; wait for it, or choose another OUT"
            ) from None
        _held.add(self)
        with suppress(OSError):  # the number only helps the message above; on a full disk it is left out
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
        return self

    def __exit__(self, *exc: object) -> None:
        _held.discard(self)
        if self._file:
            self._file.close()

    @staticmethod
    def is_held(state: Path) -> bool:
        """Whether a run is at work there; asking disturbs nobody."""
        try:
            with open(state / "lock", "r+", encoding="utf-8") as file:
                _lock(file)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def _let_go() -> None:
    """In a process that was forked from one that holds a lock: it is not to hold it any longer than that one."""
    for lock in _held:
        if lock._file:
            lock._file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock_soon(file: IO[str]) -> None:
    """Once more after a moment: somebody may only have asked whether it is held."""
    try:
        _lock(file)
    except OSError:
        time.sleep(_ASKED_S)
        _lock(file)


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
