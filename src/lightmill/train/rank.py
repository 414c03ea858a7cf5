"""One of the processes that train together: how it begins, what it says to the one that looks after it, how it ends."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeAlias, TypeVar

from lightmill.errors import LightmillError
from lightmill.train.place import Place

T_co = TypeVar("T_co", covariant=True)
OnEpoch: TypeAlias = Callable[[Mapping[str, float | None]], None]
OnStep: TypeAlias = Callable[[int, int], None]

HOST = "127.0.0.1"
_PARENT_S = 1.0  # how often it looks whether the process that looks after it is alive


class Job(Protocol[T_co]):
    """What each process does: picklable, unless one does it alone. What the first gives is what comes out."""

    def __call__(self, place: Place, *, on_epoch: OnEpoch | None, on_step: OnStep | None) -> T_co: ...


@dataclass(frozen=True, slots=True)
class Step:
    """How many steps are done, of all."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """One has ended; an answer is waited for."""

    row: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Done:
    """All is, and what came out of the first process."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """Why one has ended. `ours`: the class of an error of ours. `is_echo`: it only says that another one has."""

    text: str
    ours: type[LightmillError] | None = None
    trace: str = ""
    is_echo: bool = False

    @property
    def order(self) -> int:
        """The lower, the more it says of the cause."""
        return 2 if self.is_echo else 0 if self.ours else 1


@dataclass(frozen=True, slots=True)
class Begun:
    """What a process is told at its start."""

    place: Place
    device: str
    port: int
    parent: int
    readers: str  # how its own processes are started: as here


def live(begun: Begun, pipe: Connection) -> None:
    """What a process does, from its first to its last."""
    _begin_apart(begun)

    def on_epoch(row: Mapping[str, float | None]) -> None:
        pipe.send(Epoch(row))
        pipe.recv()  # what is made of it may end the training: none goes on before that

    def on_step(done: int, total: int) -> None:
        pipe.send(Step(done, total))

    try:
        job = pipe.recv()
        with _joined(begun):
            if begun.place.is_first:
                value = job(begun.place, on_epoch=on_epoch, on_step=on_step)
            else:
                value = job(begun.place, on_epoch=None, on_step=None)
            pipe.send(Done(value if begun.place.is_first else None))
    except BaseException as error:  # noqa: BLE001 (told to the one that looks after this one, who raises it)
        with suppress(OSError):
            pipe.send(_failure(error))
        sys.exit(1)


def _begin_apart(begun: Begun) -> None:
    """Ctrl-C is for the one that looks after this one, and so is what is read by programs."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    multiprocessing.set_start_method(begun.readers, force=True)
    threading.Thread(target=_end_with, args=(begun.parent,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process and its readers where nobody looks after them any more."""
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


@contextmanager
def _joined(begun: Begun) -> Iterator[None]:
    """Within it, the processes hear each other: tensors on GPUs by NCCL, all else by gloo."""
    import torch
    import torch.distributed as dist

    place = begun.place
    device = None if begun.device == "cpu" else torch.device("cuda", place.rank)
    if device is not None:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device is None else "cpu:gloo,cuda:nccl",
        store=dist.TCPStore(HOST, begun.port, place.ranks, is_master=False),  # type: ignore[attr-defined]  # not in torch's stubs
        rank=place.rank,
        world_size=place.ranks,
        device_id=device,
    )
    yield
    dist.destroy_process_group()


def _failure(error: BaseException) -> Failed:
    if isinstance(error, LightmillError):
        return Failed(str(error), ours=type(error))
    lines = str(error).strip().splitlines()
    text = f"has failed: {type(error).__name__}" + (f": {lines[0]}" if lines else "")
    return Failed(text, trace="".join(traceback.format_exception(error)), is_echo=_misses_others(error))


def _misses_others(error: BaseException) -> bool:
    """Whether an error is only about a process that is not there any more."""
    from torch.distributed import DistError

    words = str(error).lower()
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and ("gloo" in words or "nccl" in words))
