"""Fixtures that every test folder shares, and the one profile of hypothesis."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import PIL.Image  # noqa: F401 (before pycolmap: loaded after it, PNG encoding aborts in a zlib that is not its own)
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# as all recipes do: a process that was forked from one with OpenCV's threads waits for them for ever
cv2.setNumThreads(1)

# derandomize: the same examples on every machine and every day; a run that fails fails again
settings.register_profile("lightmill", derandomize=True, deadline=None)
settings.load_profile("lightmill")


@dataclass(frozen=True)
class Finished:
    """A command line that has ended."""

    code: int
    stdout: str
    stderr: str


class LightmillRun(Protocol):
    """How tests call the command line: `lightmill_run("split360", source, out, "--fps", 2)`."""

    def __call__(
        self, *args: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 100
    ) -> Finished: ...


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures and videos beside the checkout (read-only); the test is skipped where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data: the folder ../shared/data does not exist beside the checkout {ROOT.name!r}")
    return folder


@pytest.fixture(scope="session")
def lightmill_run() -> LightmillRun:
    """Runs `lightmill ARGS...` of this checkout as a process of its own, and waits for its end."""

    def run(
        *args: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 100
    ) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "lightmill", *map(str, args)],
            cwd=cwd,
            env=checkout_env() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def checkout_env() -> dict[str, str]:
    """The environment of a child: this checkout first, UTF-8, and a terminal that is 120 columns of plain text."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
