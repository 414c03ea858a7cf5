"""Training a student: what is learnt, kept, scored and resumed."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.fields import NAMES, OPTIONS, SIZE_HW, Fields, Loader
from torchmetrics.functional.classification import multiclass_jaccard_index

from lightmill.data.labels import IGNORE
from lightmill.data.segment_augment import SegmentAugment
from lightmill.errors import ChangedConfig, RunError, UsageError
from lightmill.models.student import load_student, read_student
from lightmill.train.loop import Trained
from lightmill.train.schedule import rate_scale
from lightmill.train.segment import fit
from lightmill.train.segment_options import SegmentOptions
from lightmill.train.segment_score import judge


def options(**other: Any) -> SegmentOptions:
    return SegmentOptions.model_validate({**dict(OPTIONS), **other})


def steps_of(out: Path) -> list[dict[str, float]]:
    with (out / "steps.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Killed(Exception):  # noqa: N818 (no error: it stands for a process that ends)
    pass


def killed_after(epoch: int) -> Any:
    def on_epoch(row: Mapping[str, float | None]) -> None:
        if row["epoch"] == epoch:
            raise Killed

    return on_epoch


@pytest.fixture(scope="module")
def held_out() -> Fields:
    return Fields(count=10, seed=7)  # of batches of 4, the last one is smaller


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, held_out: Fields) -> tuple[Path, Trained]:
    """A training of four epochs that nobody stopped; a step learns from two batches."""
    out = tmp_path_factory.mktemp("whole")
    return out, fit(options(accumulate=2), Fields().batches(valid=held_out), out)


def logits_of(folder: Path, fields: Fields) -> torch.Tensor:
    config = read_student(folder)
    plain = SegmentAugment.off(mean=config.mean, std=config.std)
    varied = plain(torch.from_numpy(fields.images), torch.from_numpy(fields.maps))
    with torch.inference_mode():
        return load_student(folder)(varied.images)


def test_what_is_scored_is_what_is_saved_over_the_whole_set(whole: tuple[Path, Trained], held_out: Fields) -> None:
    """B4.1, B4.11: the score of an epoch is that of the checkpoint, from counts over all pixels, as torchmetrics'."""
    out, trained = whole
    predicted = logits_of(out / "last", held_out).argmax(1)
    wanted = multiclass_jaccard_index(
        predicted, torch.from_numpy(held_out.maps).long(), num_classes=3, ignore_index=IGNORE, average=None
    )
    last = trained.history[-1]
    assert [last[f"val_iou/{name}"] for name in NAMES] == pytest.approx(wanted.tolist(), abs=2e-3)
    assert last["val_mean_iou"] == pytest.approx(float(wanted.mean()), abs=2e-3)
    assert read_student(out / "last").scores["mean_iou"] == last["val_mean_iou"]
    judged = judge(out / "last", Loader(held_out, 4, shuffle=False), device="cpu", threads=2)
    assert judged.figures["mean_iou"] == pytest.approx(float(wanted.mean()), abs=1e-6)
    assert judged.pictures == 10


def test_the_config_says_how_to_serve_it(whole: tuple[Path, Trained]) -> None:
    """B4.17: a checkpoint is enough by itself."""
    config = read_student(whole[0] / "best")
    assert (config.names, config.size_hw, config.size) == (NAMES, SIZE_HW, "nano")
    assert not config.binary


def test_the_rate_follows_the_real_number_of_steps(whole: tuple[Path, Trained]) -> None:
    """B4.13: --rate is what is learnt with, and the cosine ends where the training does."""
    out, trained = whole
    steps = steps_of(out)
    assert trained.steps == len(steps) == 12  # 6 batches an epoch, 2 a step, 4 epochs
    wanted = [OPTIONS.rate * rate_scale(number / 12, warmup=OPTIONS.warmup) for number in range(12)]
    assert [step["rate"] for step in steps] == pytest.approx(wanted)
    assert steps[-1]["rate"] < 0.05 * OPTIONS.rate
    state = torch.load(out / ".lightmill" / "training.ckpt", weights_only=True)
    assert {group["lr"] for group in state["optimizer_states"][0]["param_groups"]} == {steps[-1]["rate"]}


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    whole: tuple[Path, Trained], held_out: Fields, tmp_path: Path, epoch: int
) -> None:
    """B4.14: weights, average, best and curves of a resumed training, to the last bit."""
    out, trained = whole
    with pytest.raises(Killed):
        fit(options(accumulate=2), Fields().batches(valid=held_out), tmp_path, on_epoch=killed_after(epoch))
    torch.manual_seed(99)  # what others draw in between does not matter
    resumed = fit(options(accumulate=2), Fields().batches(valid=held_out), tmp_path)
    assert (resumed.epochs, resumed.steps) == (4, 12)
    for name in ("last/model.safetensors", "best/model.safetensors", "best/config.json", "steps.csv"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), name
    for mine, its in zip(resumed.history, trained.history, strict=True):
        assert {**mine, "seconds": 0} == {**its, "seconds": 0}


def test_a_training_killed_within_an_epoch_goes_on_from_its_beginning(
    whole: tuple[Path, Trained], held_out: Fields, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: int, steps: int) -> None:
        seen.append((step, steps))
        if step == 8:
            raise Killed

    with pytest.raises(Killed):
        fit(options(accumulate=2), Fields().batches(valid=held_out), tmp_path, on_step=on_step)
    assert seen == [(step, 12) for step in range(1, 9)]
    fit(options(accumulate=2), Fields().batches(valid=held_out), tmp_path)
    name = "last/model.safetensors"
    assert (whole[0] / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_worse_epoch_after_a_resumption_does_not_replace_the_best(tmp_path: Path) -> None:
    """B4.14: the best score is kept over resumptions."""
    data, easy = Fields(), Fields(count=4, seed=3)
    with pytest.raises(Killed):
        fit(options(ema=0), data.batches(valid=easy), tmp_path, on_epoch=killed_after(3))
    best = (tmp_path / "best" / "model.safetensors").read_bytes()
    score = read_student(tmp_path / "best").scores["mean_iou"] or 0
    easy.maps[:, 3:] = (easy.maps[:, 3:] + 1) % 3  # what was right is wrong from now on
    trained = fit(options(ema=0), data.batches(valid=easy), tmp_path)
    assert (trained.history[-1]["val_mean_iou"] or 0) < score
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == best


def test_other_classes_pictures_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(OPTIONS, Fields().batches(rows="a"), tmp_path, on_epoch=killed_after(1))
    with pytest.raises(ChangedConfig, match=r"with --dice 1\.0, not 0\.5; give the same"):
        fit(options(dice=0.5), Fields().batches(rows="a"), tmp_path)
    with pytest.raises(ChangedConfig, match=r"with --classes [a-z,]+, not "):
        fit(options(names=("a", "b", "c")), Fields().batches(rows="a"), tmp_path)
    with pytest.raises(ChangedConfig, match="other pictures, or on another split"):
        fit(OPTIONS, Fields().batches(rows="b"), tmp_path)
    with pytest.raises(ChangedConfig, match=r"3 classes, 6 batches an epoch; now 3 and 3"):
        fit(OPTIONS, Fields(count=12).batches(rows="a"), tmp_path)


def test_without_a_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    """B4.19: no validation is no error."""
    trained = fit(options(epochs=2), Fields().batches(), tmp_path)
    assert [row.get("val_mean_iou") for row in trained.history] == [None, None]
    name = "model.safetensors"
    assert (trained.best / name).read_bytes() == (trained.last / name).read_bytes()


def test_heads_of_the_training_are_not_saved_and_change_what_is_learnt(tmp_path: Path) -> None:
    for deep in (0.0, 0.4):
        fit(options(epochs=1, deep=deep), Fields().batches(), tmp_path / str(deep))
    kept = [load_student(tmp_path / deep / "last").state_dict() for deep in ("0.0", "0.4")]
    assert kept[0].keys() == kept[1].keys()
    assert not torch.equal(kept[0]["head.weight"], kept[1]["head.weight"])
    state = torch.load(tmp_path / "0.4" / ".lightmill" / "training.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("deep.") for name in state)


def test_weights_of_classes_reach_the_loss(tmp_path: Path) -> None:
    plain = fit(options(epochs=1, limit_train=1), Fields().batches(), tmp_path / "plain")
    heavy = fit(options(epochs=1, limit_train=1, weights=(0.1, 0.1, 9.0)), Fields().batches(), tmp_path / "heavy")
    first, second = plain.history[0], heavy.history[0]
    assert first["dice"] == second["dice"]  # it has none
    assert first["cross_entropy"] != second["cross_entropy"]


def test_eight_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    eight = Fields(count=8)
    much = options(epochs=100, rate=1e-2, decay=0.0, dropout=0.0, augment=SegmentAugment.off())
    trained = fit(much, eight.batches(valid=eight), tmp_path)
    assert max(row["val_mean_iou"] or 0 for row in trained.history) >= 0.98
    assert (trained.history[-1]["loss"] or 9) < 0.2 * (trained.history[0]["loss"] or 0)


def test_a_binary_student_has_one_logit_and_is_scored_by_its_foreground(tmp_path: Path) -> None:
    """B4.4: logits, not probabilities; the score is the IoU of what is looked for, not that of the background too."""
    fields = Fields(binary=True)
    one = options(names=("thing",), epochs=6, weights=(0.5, 2.0))
    trained = fit(one, fields.batches(valid=fields), tmp_path)
    logits = logits_of(tmp_path / "last", fields)
    assert logits.shape == (24, 1, *SIZE_HW)
    assert float(logits.min()) < 0 < float(logits.max())
    known = torch.from_numpy(fields.maps != IGNORE)
    there, found = torch.from_numpy(fields.maps == 1), (logits[:, 0] >= 0) & known
    wanted = float((there & found).sum() / (there | found).sum())
    assert wanted > 0.5
    assert trained.history[-1]["val_mean_iou"] == pytest.approx(wanted, abs=2e-3)
    judged = judge(tmp_path / "last", Loader(fields, 4, shuffle=False), device="cpu", threads=1)
    assert judged.classes == ("background", "thing")
    assert judged.figures["mean_iou"] == pytest.approx(wanted, abs=1e-6)


def test_best_and_worst_pictures_are_those(whole: tuple[Path, Trained], held_out: Fields) -> None:
    judged = judge(whole[0] / "best", Loader(held_out, 4, shuffle=False), device="cpu", threads=2)
    predicted = logits_of(whole[0] / "best", held_out).argmax(1).numpy()
    scores = []
    for truth, found in zip(held_out.maps, predicted, strict=True):
        known = truth != IGNORE
        ious = []
        for number in range(3):
            mine, theirs = (found == number) & known, (truth == number) & known
            if (mine | theirs).any():
                ious.append((mine & theirs).sum() / (mine | theirs).sum())
        scores.append(np.mean(ious))
    order = np.argsort(scores)
    assert [shown.row for shown in judged.worst] == order[:6].tolist()
    assert [shown.row for shown in judged.best] == order[::-1][:6].tolist()
    assert judged.worst[0].score == pytest.approx(scores[order[0]])


def test_time_ends_a_training_with_a_validation_and_a_low_rate(tmp_path: Path) -> None:
    """B4.13: with a time limit the rate comes down by the clock."""
    short = options(epochs=100_000, max_time_s=3.0)
    trained = fit(short, Fields().batches(valid=Fields(count=4)), tmp_path)
    assert trained.ended == "time"
    assert trained.history[-1]["val_mean_iou"] is not None
    assert steps_of(tmp_path)[-1]["rate"] < 0.2 * short.rate


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="learn from 9 batches, and an epoch has 6"):
        fit(options(accumulate=9), Fields().batches(), tmp_path)
    with pytest.raises(UsageError, match="float16 is for CUDA"):
        fit(options(amp="fp16"), Fields().batches(), tmp_path)
    with pytest.raises(RunError, match=r"the loss of step \d+ is (nan|inf)"):
        fit(options(rate=1e30, clip=0, warmup=0), Fields().batches(), tmp_path)


def test_a_backbone_of_transformers_learns_slower(tmp_path: Path) -> None:
    fit(options(backbone="random:resnet-tiny", epochs=1, backbone_rate=0.0), Fields().batches(), tmp_path)
    state = torch.load(tmp_path / ".lightmill" / "training.ckpt", weights_only=True)
    assert {group["lr"] > 0 for group in state["optimizer_states"][0]["param_groups"]} == {True, False}
    config = read_student(tmp_path / "best")
    assert config.backbone is not None
    assert config.backbone["model_type"] == "resnet"
    assert not math.isnan(float(logits_of(tmp_path / "best", Fields(count=2)).sum()))
