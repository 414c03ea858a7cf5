"""Processes that train together: what they learn is what one would, and none is left when one of them fails.

The oracle is one process. Processes take seconds to start, so several trainings go through the same ones.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT, checkout_env
from tests.train.falls import Falls, be_killed, find_nothing, run_out_of_luck
from tests.train.together import Trials, learn

from lightmill.errors import RunError, TooManyFailures, UsageError
from lightmill.recipes.training import number_of_devices
from lightmill.train.loop_options import LoopOptions
from lightmill.train.place import ALONE, Place
from lightmill.train.ranks import together
from lightmill.train.trainer import trainer_options

# --- as one process --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return together(Trials(tmp_path_factory.mktemp("trials")), ranks=2, device="cpu")


def test_what_they_tell_each_other(trials: dict[str, Any]) -> None:
    assert trials["said"] == ("rank 0", [0, 1], [3, 30])
    assert trials["shared"] == [[[[0.0] * 3] * 2, [0] * 4]] * 2
    assert trials["mean"] == [1.0, 0.5]


@pytest.mark.parametrize(("name", "other"), [("step", {"count": 8}), ("epochs", {"epochs": 2, "accumulate": 3})])
def test_two_with_a_batch_each_learn_what_one_learns_from_both(
    trials: dict[str, Any], tmp_path: Path, name: str, other: dict[str, Any]
) -> None:
    """Weights after one step, and after two epochs with accumulation and weights that get no gradient."""
    alone = learn(ALONE, tmp_path, size=8, **other)
    assert trials[name].trained.steps == alone.trained.steps > 0
    np.testing.assert_allclose(trials[name].weights, alone.weights, rtol=0, atol=1e-6)
    mine, its = trials[name].trained.history[-1], alone.trained.history[-1]
    assert mine["loss"] == pytest.approx(its["loss"], abs=1e-6)  # the mean over both
    assert sorted(map(tuple, np.reshape(trials[name].seen, (-1, 4)))) != sorted(map(tuple, alone.seen[0]))


def test_each_sample_is_seen_once_an_epoch_in_another_order_every_time(trials: dict[str, Any]) -> None:
    first, second = trials["epochs"].seen
    for epoch in (slice(0, 3), slice(3, 6)):
        assert sorted(np.reshape([first[epoch], second[epoch]], -1).tolist()) == list(range(24))
    assert first[:3] != first[3:]
    assert {len(batch) for batch in first + second} == {4}


def test_no_two_batches_have_the_same_chances(trials: dict[str, Any]) -> None:
    first, second = trials["epochs"].drawn
    assert len({*first, *second}) == 12


def test_every_held_out_sample_counts_once_also_where_one_process_has_none(trials: dict[str, Any]) -> None:
    last = {name: trials[name].trained.history[-1] for name in ("step", "few")}
    assert (last["step"]["val_once"], last["step"]["val_all"]) == (3, 3)
    assert (last["few"]["val_once"], last["few"]["val_all"]) == (1, 1)


def test_the_clock_of_the_first_ends_all(trials: dict[str, Any]) -> None:
    assert trials["time"].trained.ended == "time"
    assert trials["time"].steps[0] == trials["time"].steps[1] > 3


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        (be_killed, RunError, "^rank 1 of 2 was ended by SIGKILL: the system does that where memory runs out$"),
        (run_out_of_luck, RunError, "^rank 1 of 2 has failed: KeyError: 'luck'$"),
        (find_nothing, TooManyFailures, "^rank 1 of 2: 3 pictures cannot be read$"),
    ],
)
def test_one_that_fails_ends_all_and_is_named(
    tmp_path: Path, how: Callable[[], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        together(Falls(how, tmp_path), ranks=2, device="cpu")
    if how is run_out_of_luck:
        assert "in run_out_of_luck" in str(raised.value.__cause__)
    until(lambda: not left(tmp_path), timeout_s=5)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_process_that_was_started(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C, heard by that one alone; and where it is killed, so that it cannot end them."""
    script = tmp_path / "start.py"
    script.write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from lightmill.train.ranks import together\n"
        "from tests.train.falls import Falls, wait_for_ever\n"
        'if __name__ == "__main__":\n'
        # which is ignored where the suite runs in the background
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f'    together(Falls(wait_for_ever, Path({str(tmp_path)!r})), ranks=2, device="cpu")\n'
    )
    env = checkout_env()
    env["PYTHONPATH"] += os.pathsep + str(ROOT)
    process = subprocess.Popen([sys.executable, script], env=env, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: all((tmp_path / rank).exists() and (tmp_path / rank).read_text() for rank in "01"))
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert said.count("Traceback") == said.count("KeyboardInterrupt")  # none of another process
    until(lambda: not left(tmp_path))


def left(folder: Path) -> list[int]:
    """The processes of `Falls`, and their readers, that are still alive."""
    ids = [int(word) for rank in "01" for word in (folder / rank).read_text().split()]
    return [each for each in ids if is_alive(each)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(is_so: Callable[[], bool], *, timeout_s: float = 60) -> None:
    latest = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < latest, "it has not come so far"
        time.sleep(0.05)


# --- where --------------------------------------------------------------------------------------------------------


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert number_of_devices(3, "cpu") == 3
    assert number_of_devices("all", "cpu") == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for there, said in ((1, "there is 1 GPU here"), (2, "there are 2 GPUs here")):
        monkeypatch.setattr("torch.cuda.device_count", lambda there=there: there)
        assert number_of_devices("all", "cuda") == there
        with pytest.raises(UsageError, match=f"--devices 3: {said}"):
            number_of_devices(3, "cuda")


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia/gpus"), reason="there is a GPU here")
def test_processes_on_the_cpu_are_asked_for_by_name() -> None:
    with pytest.raises(UsageError, match="--devices 2: there is no GPU here; with --device cpu, 2 processes train"):
        number_of_devices(2, "auto")


def test_each_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """What Lightning is told on a machine with GPUs; it is to start no processes."""
    on_gpus = LoopOptions(size_hw=(64, 64), device="cuda", devices=3, amp="off")
    told = trainer_options(on_gpus, tmp_path, Place(1, 3), leaves_out=True)
    assert (told["accelerator"], told["devices"]) == ("cuda", [0, 1, 2])
    found = told["strategy"].cluster_environment
    assert (found.creates_processes_externally, found.local_rank(), found.node_rank()) == (True, 1, 0)
    alone = trainer_options(on_gpus.model_copy(update={"device": "cuda:2"}), tmp_path)
    assert (alone["devices"], alone["strategy"]) == ([2], "auto")
