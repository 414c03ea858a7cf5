"""What commands on pictures with masks share: DATA that is not there, sizes that no network takes, wrong classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.trees import write_pairs
from tests.models.students import config_of

from lightmill.errors import InputError, TooManyFailures, UsageError
from lightmill.models.student import make_student, save_student
from lightmill.recipes.base import Options
from lightmill.recipes.check import Check
from lightmill.recipes.evaluate_segment import EvaluateSegment
from lightmill.recipes.train_reid import TrainReid
from lightmill.recipes.train_segment import TrainSegment

torch.set_num_threads(1)


def evaluate(folder: Path) -> Options:
    save_student(folder / "best", make_student(config_of()), config_of())
    return EvaluateSegment(checkpoint=str(folder / "best"), device="cpu")


@pytest.mark.parametrize(
    "make",
    [lambda _: Check(), evaluate, lambda _: TrainReid(), lambda _: TrainSegment()],
    ids=["check", "evaluate segment", "train reid", "train segment"],
)
def test_data_that_is_not_there_is_refused_before_anything_is_made(
    make: Callable[[Path], Options], tmp_path: Path
) -> None:
    """A lock used to stay behind, in a folder that a misspelt name had made."""
    command = make(tmp_path)
    with pytest.raises(InputError, match=r"there is no .*photographs"):
        command.run(tmp_path / "photographs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (TrainSegment, {"resolution": "4x400"}, r"^--resolution '4x400': width and height are from 8 to 8192 px here$"),
        (TrainSegment, {"resolution": "9000x64"}, r"^--resolution '9000x64': width and height are from 8 to 8192 px"),
        (TrainReid, {"size": "64x5000"}, r"^--size '64x5000': width and height are from 8 to 4096 px here$"),
    ],
)
def test_sizes_that_no_network_takes_are_refused_by_the_option(
    kind: type[Options], values: dict[str, Any], says: str
) -> None:
    """They came up as `size_hw` of a checkpoint, and as a traceback."""
    with pytest.raises(UsageError, match=says):
        kind.from_values(values)


def test_too_few_classes_are_told_with_their_values_and_what_to_do_once(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", [f"n{number}" for number in range(10)], size=(16, 12))
    training = TrainSegment(classes=("a", "b"), epochs=1, batch=4, readers=0, device="cpu", amp="off", progress="none")
    with pytest.raises(TooManyFailures) as caught:
        training.run(data, tmp_path / "out")
    message = str(caught.value)
    assert "it holds 2 (64 pixels), and classes are 0 to 1; the mask masks/" in message
    assert message.count("name all classes with --classes, or leave values out with --ignore") == 1


def test_any_number_of_threads_predicts_the_same(tmp_path: Path) -> None:
    """B4.24: one network, asked from several threads at a time."""
    data = write_pairs(tmp_path / "data", [f"n{number}" for number in range(12)], size=(64, 48))
    command = evaluate(tmp_path).model_copy(update={"split": "all", "progress": "none"})
    made = []
    for threads in (1, 4):
        out = tmp_path / str(threads)
        command.model_copy(update={"threads": threads}).run(data, out)
        files = [out / "scores.json", *sorted((out / "predictions").rglob("*.png"))]
        made.append([path.read_bytes() for path in files])
    assert len(made[0]) == 13
    assert made[0] == made[1]
