"""Processes that train together, each on a device of its own, and the one that looks after them.

That one trains nothing itself: a process that waits for others within a GPU's collective hears neither Ctrl-C nor that
one of them has died. So whatever happens to one of them, or to the user's patience, this one ends them all, at once
and for good. What they write is there whole or not at all, so that the same command goes on.

They are started anew (`spawn`): a process in which CUDA or OpenMP is at work cannot be forked. Each leads a process
group of its own with its readers in it. They talk over this machine's loopback and, on GPUs, by NCCL.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, NoReturn, TypeVar

from lightmill.errors import RunError
from lightmill.train.place import ALONE, Place
from lightmill.train.rank import HOST, Begun, Done, Epoch, Failed, Job, OnEpoch, OnStep, Step, live

__all__ = ["Job", "OnEpoch", "OnStep", "together"]

T = TypeVar("T")

_LOOK_S = 0.2  # how often it is looked whether all are alive
_CAUSE_S = 1.0  # after one has failed: how long others may take to say why
_END_S = 20.0  # how long they may take to end, once all is done


def together(
    job: Job[T], *, ranks: int, device: str, on_epoch: OnEpoch | None = None, on_step: OnStep | None = None
) -> T:
    """Does a job in `ranks` processes; a single one is this process. `device`: cpu or cuda, of which each has its own.

    `on_epoch` and `on_step` are called here. The training waits for the former; what they raise ends it.

    Raises what one of the processes raised, if it is an error of ours, else RunError: both say which it was.
    """
    if ranks == 1:
        return job(ALONE, on_epoch=on_epoch, on_step=on_step)
    team = _Team[T](ranks, device)
    try:
        team.start(job)
        return team.result(on_epoch, on_step)
    finally:
        team.end()


class _Elsewhere(Exception):  # noqa: N818 (no error of its own: the traceback of one in another process)
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# --- the one that looks after them -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Member:
    """A process, as it is seen from here."""

    place: Place
    process: SpawnProcess
    pipe: Connection | None
    end: Done | Failed | None = None

    def exit_code(self) -> int | None:
        """None while it lives. The system keeps its number until `kill`, so that no other process can have that."""
        if not hasattr(os, "waitid"):
            return self.process.exitcode
        try:
            found = os.waitid(os.P_PID, self.process.pid or 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else has asked, who did not keep it
            return self.process.exitcode
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def wait(self, latest: float) -> None:
        """Until it has ended, by a time of the monotonic clock."""
        while self.exit_code() is None and time.monotonic() < latest:
            time.sleep(_LOOK_S / 10)

    def kill(self) -> None:
        """Ends it and its readers, if that is still to be done, and waits for it."""
        pid = self.process.pid
        if pid is None:  # it was never started
            return
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


class _Team(Generic[T]):
    """The processes, from their start to their end."""

    def __init__(self, ranks: int, device: str) -> None:
        self.ranks, self.device = ranks, device
        self._members: list[_Member] = []

    def start(self, job: Job[T]) -> None:
        _give_back(self.device)
        context = multiprocessing.get_context("spawn")
        self._store, port = _listening(self.ranks)
        readers = multiprocessing.get_start_method()
        with _surroundings(self.ranks), _undisturbed():
            for rank in range(self.ranks):
                here, there = context.Pipe()
                begun = Begun(Place(rank, self.ranks), self.device, port, os.getpid(), readers)
                process = context.Process(target=live, args=(begun, there), name=f"lightmill rank {rank}")
                self._members.append(_Member(begun.place, process, here))
                process.start()
                there.close()
        for member in self._members:  # by now they start side by side: what is sent at the start is read bit by bit
            assert member.pipe is not None, "it has just been made"
            with suppress(BrokenPipeError, ConnectionResetError):  # that one has died is seen in a moment
                member.pipe.send(job)

    def result(self, on_epoch: OnEpoch | None, on_step: OnStep | None) -> T:
        while any(member.end is None for member in self._members):
            self._listen(on_epoch, on_step)
            self._look()
            if any(isinstance(member.end, Failed) for member in self._members):
                self._raise_cause()
        first = self._members[0].end
        assert isinstance(first, Done), "else the cause was raised"
        value: T = first.value
        return value

    def end(self) -> None:
        """None of them is left afterwards. Where all are done, they get a while to end by themselves."""
        latest = time.monotonic() + _END_S
        if self._members and all(isinstance(member.end, Done) for member in self._members):
            for member in self._members:
                member.wait(latest)
        for member in self._members:
            member.kill()
            if member.pipe is not None:
                member.pipe.close()

    def _listen(self, on_epoch: OnEpoch | None = None, on_step: OnStep | None = None) -> None:
        """Takes what they say, waiting a moment for it."""
        by_pipe = {member.pipe: member for member in self._members if member.pipe is not None}
        for pipe in wait(list(by_pipe), _LOOK_S):
            assert isinstance(pipe, Connection), "nothing else was asked for"
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                pipe.close()
                by_pipe[pipe].pipe = None
                continue
            if isinstance(said, Step) and on_step is not None:
                on_step(said.done, said.total)
            elif isinstance(said, Epoch):
                if on_epoch is not None:
                    on_epoch(said.row)
                with suppress(OSError):  # that one has died is seen in a moment
                    pipe.send(None)
            elif isinstance(said, Done | Failed):
                by_pipe[pipe].end = said

    def _look(self) -> None:
        """Who has died without a word. Not by what a pipe says: readers of a process hold its ends too."""
        for member in self._members:
            code = member.exit_code()
            if member.end is None and code is not None and not (member.pipe and member.pipe.poll()):
                member.end = Failed(_death(code))

    def _raise_cause(self) -> NoReturn:
        """Of several that fail, the one that says most; those who only miss it tell it a moment later or earlier."""
        latest = time.monotonic() + _CAUSE_S
        while time.monotonic() < latest and any(member.end is None for member in self._members):
            self._listen()
            self._look()
        failed = [(member.place.rank, member.end) for member in self._members if isinstance(member.end, Failed)]
        rank, why = min(failed, key=lambda each: (each[1].order, each[0]))
        where = f"rank {rank} of {self.ranks}" + (f" (cuda:{rank})" if self.device != "cpu" else "")
        if why.ours is not None:
            raise why.ours(f"{where}: {why.text}" if rank else why.text)
        raise RunError(f"{where} {why.text}") from (_Elsewhere(why.trace) if why.trace else None)


def _give_back(device: str) -> None:
    """Memory of a GPU that this process has no more use for."""
    if device != "cpu":
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves this one without types
            torch.cuda.empty_cache()


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ": the system does that where memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _listening(ranks: int) -> tuple[Any, int]:
    """Where they find each other, and its port: of this machine alone, and free, since it is taken already."""
    import torch.distributed as dist

    make: Any = dist.TCPStore  # type: ignore[attr-defined]  # torch's stubs leave it out
    with socket.create_server((HOST, 0), backlog=ranks) as server:
        port = int(server.getsockname()[1])
        store = make(
            HOST, port, ranks, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(server.fileno())
        )
    return store, port


@contextmanager
def _surroundings(ranks: int) -> Iterator[None]:
    """What processes that are started find in their environment; what the user has set stays."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // ranks)),  # of torch
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # its hints are for programmers
    }
    if sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"  # else it looks up this machine's name, which may lead nowhere
    lacking = wanted.keys() - os.environ.keys()
    os.environ.update({name: wanted[name] for name in lacking})
    try:
        yield
    finally:
        for name in lacking:
            del os.environ[name]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until all are started, and they, who begin with what is blocked here, never hear it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
