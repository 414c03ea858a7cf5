"""Real processes killed in the middle of `crop`: no crop is lost, and the pack is that of a run that nobody stopped."""

import contextlib
import csv
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightmill.data.pack import CropPack

FRAMES, THREADS = 60, 2
REDONE_PER_THREAD = 8  # the contract: so many items a thread may be done again because of one kill
LEFT_OUT = {".lightmill", "report.html", "report.json"}


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("crash"), np.random.default_rng(1)
    with open(folder / "meta.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_path", "x", "y", "w", "h", "player"])
        for number in range(FRAMES):
            coarse = rng.integers(0, 256, (45, 80, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, (640, 360)))
            for player in range(4):
                table.writerow([f"{number}.jpg", *rng.integers(0, 300, 2), *rng.integers(40, 160, 2), player])
    return folder / "meta.csv"


def command(meta: Path, out: Path, store: str) -> list[str]:
    options = ["--store", store, "--label", "player", "--background-per-frame", "1", "--partial-per-box", "1"]
    run = [sys.executable, "-m", "lightmill", "crop", meta, out, *options]
    return [str(part) for part in [*run, "--threads", THREADS, "--progress", "none"]]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] not in LEFT_OUT]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def attempts(out: Path) -> int:
    with contextlib.closing(sqlite3.connect(out / ".lightmill" / "journal.db")) as journal:
        return int(journal.execute("SELECT coalesce(sum(attempts), 0) FROM items").fetchone()[0])


def kept(out: Path) -> int:
    """How many files of crops there are: hidden parts, or loose ones."""
    folders = (out / ".lightmill" / "crops", out / "crops")
    return sum(len(files) for folder in folders for _, _, files in os.walk(folder))


def wait_for(out: Path, process: subprocess.Popen[bytes], *, most: int) -> None:
    """Until so many are there, or the process has ended."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until and kept(out) < most:
        time.sleep(0.005)  # a look at a folder, not a guess at how long the work takes


@pytest.mark.slow
@pytest.mark.parametrize("store", ["jpeg", "files"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_is_finished_by_the_same_command(
    tmp_path: Path, meta: Path, how: signal.Signals, store: str
) -> None:
    reference = tmp_path / "whole"
    subprocess.run(command(meta, reference, store), check=True, timeout=120)
    rng, out, kills = random.Random(4), tmp_path / "killed", 0
    for _ in range(4):
        process = subprocess.Popen(command(meta, out, store))
        wait_for(out, process, most=kept(out) + rng.randint(1, 12))
        time.sleep(rng.uniform(0, 0.02))  # anywhere in a frame's way
        if process.poll() is None:
            os.kill(process.pid, how)
            kills += 1
        process.wait(60)
        assert not (out / "crops.arrow").exists() or len(CropPack.open(out))  # whole, if it is there
    assert kills >= 2
    subprocess.run(command(meta, out, store), check=True, timeout=120)
    assert contents(out) == contents(reference)
    assert not [path for path in out.rglob(".*") if path.name != ".lightmill"]
    assert attempts(out) <= FRAMES + kills * THREADS * REDONE_PER_THREAD


def test_a_run_that_dies_while_it_packs_packs_again(tmp_path: Path, meta: Path) -> None:
    """After the last frame: the parts are all there, and a pack is half written under its hidden name."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(meta, whole, "jpeg"), check=True, timeout=120)
    dies = (
        "import os, sys; from lightmill.data.pack import PackWriter; from lightmill.__main__ import main; "
        "flush = PackWriter._flush; PackWriter.close = lambda self: (flush(self), os._exit(9)); main()"
    )
    died = subprocess.run([sys.executable, "-c", dies, *command(meta, out, "jpeg")[3:]], check=False, timeout=120)
    assert died.returncode == 9
    assert [path.name for path in out.glob(".lm-*.tmp")]
    assert not (out / "crops.arrow").exists()
    assert kept(out) == FRAMES
    subprocess.run(command(meta, out, "jpeg"), check=True, timeout=120)
    assert contents(out) == contents(whole)
    assert kept(out) == 0
    assert attempts(out) == FRAMES
