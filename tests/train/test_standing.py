"""`lightmill status`, `retry` and `report` on the OUT of a training."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightmill.engine.lock import RunLock
from lightmill.engine.run import STATE_FOLDER
from lightmill.errors import OutputError
from lightmill.train.logs import write_table
from lightmill.train.standing import training_in

ROWS = [
    {"epoch": 1, "step": 45, "seconds": 22.5, "loss": 4.5, "val_mean_iou": 0.25, "val_iou/sky": 0.9},
    {"epoch": 2, "step": 90, "seconds": 45.25, "loss": 3.5, "val_mean_iou": None, "val_iou/sky": 0.9},
]


def begun(out: Path, *, epochs: int = 2) -> Path:
    (out / STATE_FOLDER).mkdir(parents=True)
    (out / STATE_FOLDER / "index.arrow").touch()
    write_table(out / "epochs.csv", ROWS[:epochs])
    return out


def test_it_is_told_whether_it_works_was_stopped_or_has_ended(tmp_path: Path) -> None:
    out = begun(tmp_path / "run")
    with RunLock(out / STATE_FOLDER):
        found = training_in(out)
    assert found is not None
    assert found.lines == ["a training, at work: 2 epochs, 90 steps, 45 s", "  last epoch: loss 3.500"]
    stopped = training_in(out)
    assert stopped is not None
    assert stopped.lines[0].startswith("a training, stopped: 2 epochs")
    assert stopped.lines[-1] == "  the command that began it goes on with it"
    (out / "scores.json").write_text(json.dumps({"epochs": 1, "ended": "time", "held_out": {}}))
    assert training_in(out) == stopped  # of a training that went on since
    (out / "scores.json").write_text(json.dumps({"epochs": 2, "ended": "time", "held_out": {"mean_iou": 0.5}}))
    ended = training_in(out)
    assert ended is not None
    assert ended.lines[0] == "a training, ended (time): 2 epochs, 90 steps, 45 s"
    assert (ended.told["training"], ended.told["held_out"]) == ("ended", {"mean_iou": 0.5})


def test_before_its_first_epoch_it_is_one_only_while_it_works(tmp_path: Path) -> None:
    assert training_in(tmp_path) is None
    out = begun(tmp_path / "run")
    (out / "epochs.csv").unlink()
    assert training_in(out) is None
    with RunLock(out / STATE_FOLDER):
        found = training_in(out)
    assert found is not None
    assert found.lines == ["a training, at work: 0 epochs"]


def test_asking_takes_no_lock_away(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        assert RunLock.is_held(tmp_path)
        with pytest.raises(OutputError, match="another run is already at work"), RunLock(tmp_path):
            pass
    assert not RunLock.is_held(tmp_path)
    assert not RunLock.is_held(tmp_path / "nothing")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_reader_that_outlives_a_killed_training_holds_no_lock(tmp_path: Path) -> None:
    """Else the same command would be refused until the readers notice that they are alone."""
    code = (
        "import os, sys, time; from pathlib import Path; from lightmill.engine.lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(60); os._exit(0)\n"
        "    print(child, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        reader = int(training.stdout.readline())
        assert RunLock.is_held(tmp_path)
        training.kill()
        training.wait()
        try:
            os.kill(reader, 0)  # it is there still
            with RunLock(tmp_path):
                pass
        finally:
            os.kill(reader, signal.SIGKILL)


def test_by_command_line(tmp_path: Path, lightmill_run: Callable[..., Any]) -> None:
    out = begun(tmp_path / "run")
    said = lightmill_run("status", out)
    assert (said.code, said.stdout.splitlines()[0]) == (0, "a training, stopped: 2 epochs, 90 steps, 45 s")
    assert json.loads(lightmill_run("status", out, "--json").stdout)["last_epoch"]["step"] == 90
    for command in ("retry", "report"):
        refused = lightmill_run(command, out)
        assert refused.code == 2
        assert f"{out} holds a training: " in refused.stderr


def test_asking_is_quick(tmp_path: Path) -> None:
    out = begun(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from lightmill.train.standing import training_in; "
        f"assert training_in(Path({str(out)!r})); assert not {{'torch', 'lightning', 'polars'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
