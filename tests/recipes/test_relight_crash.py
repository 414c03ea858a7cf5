"""Real processes killed in the middle of relight: nothing is lost, truncated or done over and over."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lightmill.sample.portraits import write_portraits

PICTURES, THREADS = 16, 2
REDONE_PER_THREAD = 8  # the contract: so many items a thread may be done again because of one kill
LEFT_OUT = {".lightmill", "report.html", "report.json"}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    write_portraits(folder, PICTURES, size=(96, 96))
    return folder


def command(portraits: Path, out: Path) -> list[str]:
    options = ["--masks", portraits / "masks", "--variants", 2, "--export", "instructpix2pix", "--score"]
    run = [sys.executable, "-m", "lightmill", "relight", portraits / "portraits.csv", out, *options]
    return [str(part) for part in [*run, "--threads", THREADS, "--progress", "none"]]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] not in LEFT_OUT]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def attempts(out: Path) -> int:
    with contextlib.closing(sqlite3.connect(out / ".lightmill" / "journal.db")) as journal:
        return int(journal.execute("SELECT coalesce(sum(attempts), 0) FROM items").fetchone()[0])


def wait_for_outputs(out: Path, process: subprocess.Popen[bytes], *, most: int) -> None:
    """Until so many pictures lie in OUT, or the process has ended."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if len(list(out.glob("*_output.png"))) >= most:
            return
        time.sleep(0.005)  # a look at a folder, not a guess at how long the work takes


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path, portraits: Path, how: signal.Signals) -> None:
    reference = tmp_path / "whole"
    subprocess.run(command(portraits, reference), check=True, timeout=120)
    rng, out, kills = random.Random(4), tmp_path / "killed", 0
    for _ in range(4):
        process = subprocess.Popen(command(portraits, out))
        wait_for_outputs(out, process, most=len(list(out.glob("*_output.png"))) + rng.randint(1, 8))
        time.sleep(rng.uniform(0, 0.05))  # anywhere in a picture's way
        if process.poll() is None:
            os.kill(process.pid, how)
            kills += 1
        process.wait(60)
        for path in out.glob("*.png"):
            Image.open(path).load()  # what has its final name is whole
    assert kills >= 2
    subprocess.run(command(portraits, out), check=True, timeout=120)
    assert contents(out) == contents(reference)
    assert not [path for path in out.rglob(".*") if path.name != ".lightmill"]
    assert attempts(out) <= PICTURES + kills * THREADS * REDONE_PER_THREAD
    before = attempts(out)
    subprocess.run(command(portraits, out), check=True, timeout=120)
    assert attempts(out) == before
