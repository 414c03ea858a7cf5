"""Both trainings by two processes, from files to a report: `--devices 2 --device cpu`."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tests.conftest import LightmillRun
from tests.recipes.test_train_reid import TINY
from tests.recipes.test_train_segment import OPTIONS, write_pictures

from lightmill.errors import ChangedConfig
from lightmill.models.embedder_files import read_config
from lightmill.models.student import load_student, read_student
from lightmill.ops.segment_metrics import confusion, map_of_logits, scores
from lightmill.recipes.crop import Crop
from lightmill.recipes.train_reid import TrainReid
from lightmill.recipes.train_segment import TrainSegment
from lightmill.recipes.training import Telling
from lightmill.sample.match import PATH, write_match

KEPT = ("last/model.safetensors", "best/model.safetensors", "best/config.json", "steps.csv")
STUDENT = OPTIONS | {"classes": "ground,box,bag", "ignore": "9", "epochs": 3, "batch": 3, "readers": 1, "devices": 2}


def words(options: dict[str, Any]) -> list[str]:
    """As the command line has them."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if name != "tensorboard"]
    return ["--no-tensorboard", *(word for name, value in given for word in (name, str(value)))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 pictures to train on, of which one cannot be read, and 5 held out."""
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "train", 13, seed=0, values=(0, 1, 2, 9))
    write_pictures(folder / "val", 5, seed=1, values=(0, 1, 2, 9))
    broken = folder / "train" / "images" / "003.png"
    broken.write_bytes(broken.read_bytes()[:-300])
    return folder


@pytest.fixture(scope="module")
def student(data: Path, lightmill_run: LightmillRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a training that nobody stopped, by the command line."""
    out = tmp_path_factory.mktemp("student")
    done = lightmill_run("train", "segment", data, out, "--max-bad", 1, *words(STUDENT | {"progress": "json"}))
    assert done.code == 0, done.stderr
    said = [json.loads(line) for line in done.stderr.splitlines()]  # and nothing of torch's or of another process
    assert done.stdout == ""
    assert any("13 pictures to train on, 5 held out" in line["text"] for line in said)
    # of both processes: the one that reports reads none of them itself
    assert any("1 picture cannot be read" in line["text"] and "003.png" in line["text"] for line in said)
    return out


def test_the_student_is_scored_over_the_pictures_of_both(data: Path, student: Path) -> None:
    """B4.11, B4.18: against one process that looks at all held-out pictures, one by one."""
    told = json.loads((student / "scores.json").read_text())
    assert (told["epochs"], told["steps"], told["pictures"]) == (3, 6, {"train": 13, "val": 5})
    network, config = load_student(student / "last"), read_student(student / "last")
    counts = np.zeros((3, 3), np.int64)
    for path in sorted((data / "val" / "images").iterdir()):
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(data / "val" / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        pixels = (torch.from_numpy(picture) / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
        with torch.inference_mode():
            predicted = map_of_logits(network(pixels.permute(2, 0, 1)[None].float()))[0].numpy()
        counts += confusion(np.where(mask == 9, 255, mask).astype(np.uint8), predicted, classes=3)
    with (student / "epochs.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    wanted = scores(counts)
    assert float(last["val_accuracy"]) == pytest.approx(wanted.accuracy, abs=1e-3)
    assert float(last["val_mean_iou"]) == pytest.approx(float(wanted.iou.mean()), abs=1e-3)


def test_stopped_and_gone_on_it_ends_as_if_it_had_not_been(
    data: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4.14, of two processes: cache, orders, chances, averages and batch norms, to the last bit."""

    def interrupted(self: Telling, row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    recipe = TrainSegment.from_values(STUDENT | {"max_bad": "1"})
    with monkeypatch.context() as patch:
        patch.setattr(Telling, "epoch", interrupted)
        ended = recipe.run(data, tmp_path)
    assert ended.exit_code == 130
    assert "interrupted: the same command goes on" in ended.summary
    with (tmp_path / "epochs.csv").open() as file:
        assert len(file.readlines()) == 2
    with pytest.raises(ChangedConfig, match="with --devices 2, not 1"):
        TrainSegment.from_values(STUDENT | {"devices": 1}).run(data, tmp_path)
    assert recipe.run(data, tmp_path).exit_code == 0
    for name in KEPT:
        assert (student / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.slow
def test_an_embedder_by_two_processes(lightmill_run: LightmillRun, tmp_path: Path) -> None:
    """With a backbone that stands still at first: weights without a gradient. Rank 0 judges crops of both."""
    write_match(
        tmp_path,
        players=10,
        unknown=2,
        quarters=3,
        sessions=2,
        frames=3,
        size=(480, 270),
        players_per_frame=8,
        threads=1,
    )
    columns: dict[str, Any] = {"path": PATH, "group": ("quarter", "session"), "view": "angle", "time": "frame"}
    crop = Crop(images=str(tmp_path / "images"), label="label_id", progress="none", background_per_frame=1, **columns)
    assert crop.run(tmp_path / "train_meta.csv", tmp_path / "crops").failed == 0
    options = TINY | {"device": "cpu", "devices": 2, "readers": 1, "freeze_epochs": 1, "epochs": 3, "progress": "json"}
    done = lightmill_run("train", "reid", tmp_path / "crops", tmp_path / "out", *words(options))
    assert done.code == 0, done.stderr
    assert all(json.loads(line) for line in done.stderr.splitlines())  # nothing else is said
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (told["epochs"], told["steps"]) == (3, 15)
    assert read_config(tmp_path / "out" / "best").thresholds == told["thresholds"]
    resumed = TrainReid.from_values(options | {"devices": 1})
    with pytest.raises(ChangedConfig, match="with --devices 2, not 1"):
        resumed.run(tmp_path / "crops", tmp_path / "out")
