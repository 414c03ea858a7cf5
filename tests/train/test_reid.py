import csv
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.train.people import OPTIONS, SIZE_HW, Loader, People

from lightmill.errors import ChangedConfig, OutputError, RunError, UsageError
from lightmill.models.backbones import open_backbone
from lightmill.models.embedder import CropEmbedder
from lightmill.models.embedder_files import read_config
from lightmill.train.batches import ReidBatches
from lightmill.train.options import ReidOptions
from lightmill.train.reid import Trained, fit


def options(**other: Any) -> ReidOptions:
    return ReidOptions.model_validate({**dict(OPTIONS), **other})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


class Killed(Exception):  # noqa: N818 (no error: it stands for a process that ends)
    pass


def killed_after(epoch: int) -> Any:
    def on_epoch(row: Mapping[str, float | None]) -> None:
        if row["epoch"] == epoch:
            raise Killed

    return on_epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A training of four epochs that nobody stopped, with a validation."""
    out, people = tmp_path_factory.mktemp("whole"), People(nobody=6)
    others = People(count=48, seed=5)
    data = people.batches(valid=Loader(others, 24, shuffle=False), score=others.rank1)
    return out, fit(OPTIONS, data, out)


def test_training_lowers_the_loss_and_separates_people(whole: tuple[Path, Trained]) -> None:
    """A4.1: it trains at all; A4.5: more than one layer learns."""
    out, trained = whole
    first, last = trained.history[0], trained.history[-1]
    for name in ("loss", "arcface", "triplet"):
        assert (last[name] or 0) < 0.6 * (first[name] or 0)
    assert last["val_score"] == 1.0
    people = People(count=30, seed=8)
    embedder = CropEmbedder(out / "best")
    embedder.check("cpu")
    embedder.load("cpu")
    found = np.stack(embedder(list(people.crops.numpy())))
    similar = found @ found.T
    alike = people.classes[:, None] == people.classes
    assert similar[alike].mean() > similar[~alike].mean() + 0.5
    in_order = similar[alike & ~np.eye(30, dtype=bool)][:, None] > similar[~alike]
    assert in_order.mean() > 0.995


def test_what_is_left_is_what_is_promised(whole: tuple[Path, Trained]) -> None:
    out, trained = whole
    assert (trained.epochs, trained.steps, trained.ended) == (4, 24, "epochs")
    assert trained.best == out / "best"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    kept = {f"{kind}/{name}" for kind in ("best", "last") for name in ("config.json", "model.safetensors")}
    assert names == kept | {"epochs.csv", "steps.csv", ".lightmill/training.ckpt"}
    config = read_config(out / "best")
    assert config.size_hw == SIZE_HW
    assert config.labels == tuple(f"player {number}" for number in range(6))
    assert config.scores == {"score": 1.0}
    with (out / "steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert [int(row["step"]) for row in steps] == list(range(1, 25))
    mean = sum(float(row["loss"]) for row in steps[18:]) / 6
    assert mean == pytest.approx(trained.history[-1]["loss"])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    whole: tuple[Path, Trained], tmp_path: Path, epoch: int
) -> None:
    """A4.25: exact resume: weights, average, best and curves, to the last bit."""
    out, trained = whole
    people, others = People(nobody=6), People(count=48, seed=5)

    def data() -> ReidBatches:
        return people.batches(valid=Loader(others, 24, shuffle=False), score=others.rank1)

    with pytest.raises(Killed):
        fit(OPTIONS, data(), tmp_path, on_epoch=killed_after(epoch))
    assert read_config(tmp_path / "last")
    torch.manual_seed(123)  # what others draw in between does not matter
    resumed = fit(OPTIONS, data(), tmp_path)
    assert (resumed.epochs, resumed.steps) == (4, 24)
    for name in ("last/model.safetensors", "best/model.safetensors", "best/config.json", "steps.csv"):
        assert same_bytes(out / name, tmp_path / name), name
    for mine, its in zip(resumed.history, trained.history, strict=True):
        assert {**mine, "seconds": 0} == {**its, "seconds": 0}
    again = fit(OPTIONS, data(), tmp_path)
    assert again.steps == 24
    assert same_bytes(out / "last/model.safetensors", tmp_path / "last/model.safetensors")


def test_a_training_killed_within_an_epoch_goes_on_from_its_beginning(
    whole: tuple[Path, Trained], tmp_path: Path
) -> None:
    people, others = People(nobody=6), People(count=48, seed=5)
    data = people.batches(valid=Loader(others, 24, shuffle=False), score=others.rank1)

    def on_step(step: int, steps: int) -> None:
        assert steps == 24
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        fit(OPTIONS, data, tmp_path, on_step=on_step)
    fit(OPTIONS, data, tmp_path)
    assert same_bytes(whole[0] / "last/model.safetensors", tmp_path / "last/model.safetensors")


def test_other_options_or_data_are_refused_and_fresh_starts_anew(tmp_path: Path) -> None:
    people = People()
    with pytest.raises(Killed):
        fit(OPTIONS, people.batches(), tmp_path, on_epoch=killed_after(1))
    with pytest.raises(ChangedConfig, match=r"with --rate 0\.003, not 0\.01"):
        fit(options(rate=0.01), people.batches(), tmp_path)
    with pytest.raises(ChangedConfig, match="6 players, 6 batches an epoch; now 5 and 6"):
        fit(OPTIONS, People(known=5).batches(), tmp_path)
    trained = fit(options(rate=0.01, epochs=1), people.batches(), tmp_path, fresh=True)
    assert [row["epoch"] for row in trained.history] == [1]


def test_a_damaged_state_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(OPTIONS, People().batches(), tmp_path, on_epoch=killed_after(1))
    (tmp_path / ".lightmill" / "training.ckpt").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(OutputError, match=r"cannot be resumed from: .*give --fresh"):
        fit(OPTIONS, People().batches(), tmp_path)


def test_a_frozen_backbone_stands_still_with_its_statistics(tmp_path: Path) -> None:
    """A4.5: batch norms of a frozen backbone do not drift; after `freeze_epochs` all of it learns."""
    frozen = options(freeze_epochs=1, epochs=2, ema=0)
    seen: list[dict[str, torch.Tensor]] = []
    fit(frozen, People().batches(), tmp_path, on_epoch=lambda row: seen.append(weights(tmp_path / "last")))
    torch.manual_seed(frozen.seed)
    start = {f"backbone.{key}": value for key, value in open_backbone(frozen.backbone).model.state_dict().items()}
    for key, value in start.items():
        assert torch.equal(seen[0][key], value), key
    assert not torch.equal(seen[0]["reduce.weight"], seen[1]["reduce.weight"])
    assert not torch.equal(seen[0]["neck.running_mean"], torch.zeros(16))
    changed = [key for key in start if not torch.equal(seen[1][key], start[key])]
    assert any("running_mean" in key for key in changed)
    assert any("convolution.weight" in key for key in changed)


def test_validation_is_whole_and_sees_neither_labels_nor_margins(tmp_path: Path) -> None:
    """A4.6 and A4.7: one score over all that there is, by embeddings of length 1 alone."""
    people, others = People(), People(count=50, seed=3)  # the last batch of 50 is smaller
    calls: list[tuple[np.ndarray, np.ndarray]] = []

    class All(Loader):
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Any:
            for rows in torch.arange(50).split(16):
                yield self.people.crops[rows], rows

    def score(embeddings: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        calls.append((embeddings, rows))
        return {"auroc": 0.5}

    shuffled = ReidBatches(
        train=Loader(people, 16, shuffle=True),
        classes=people.classes,
        labels=people.labels,
        valid=All(others, 16, shuffle=False),
        score=score,
        best_by="auroc",
    )
    trained = fit(options(epochs=2), shuffled, tmp_path)
    assert len(calls) == 2
    for embeddings, rows in calls:
        assert rows.tolist() == list(range(50))
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    embedder = CropEmbedder(trained.last)
    embedder.load("cpu")
    np.testing.assert_allclose(embedder(list(others.crops.numpy())), calls[-1][0], atol=1e-4)


@pytest.mark.parametrize(
    ("scores", "best"), [([0.2, 0.9, 0.5, 0.4], 2), ([0.1, 0.3, 0.3, math.nan], 3), ([math.nan, math.nan, 0.1, 0.1], 4)]
)
def test_best_is_by_score_and_of_equals_the_later(tmp_path: Path, scores: list[float], best: int) -> None:
    """A4.7: what selects the checkpoint is what is logged."""
    people, given = People(count=32), iter(scores)
    data = people.batches(
        valid=Loader(people, 32, shuffle=False), score=lambda embeddings, rows: {"score": next(given)}
    )
    kept: list[bytes] = []
    newest = tmp_path / "last" / "model.safetensors"
    trained = fit(OPTIONS, data, tmp_path, on_epoch=lambda row: kept.append(newest.read_bytes()))
    assert (trained.best / "model.safetensors").read_bytes() == kept[best - 1]
    assert [row["val_score"] for row in trained.history] == pytest.approx(scores, nan_ok=True)


def test_patience_ends_a_training_and_more_of_it_goes_on(tmp_path: Path) -> None:
    people = People(count=32)

    def data(*scores: float) -> ReidBatches:
        given = iter(scores)
        return people.batches(
            valid=Loader(people, 32, shuffle=False), score=lambda embeddings, rows: {"score": next(given)}
        )

    impatient = options(epochs=9, patience=2)
    trained = fit(impatient, data(0.5, 0.6, 0.4, 0.6), tmp_path)
    assert (trained.epochs, trained.ended) == (4, "patience")
    assert fit(impatient, data(), tmp_path).epochs == 4
    more = fit(options(epochs=9, patience=3), data(0.7, 0.6, 0.7, 0.4), tmp_path)
    assert (more.epochs, more.ended) == (8, "patience")


def test_a_time_limit_ends_a_training_with_a_validation_and_a_low_rate(tmp_path: Path) -> None:
    people = People(count=160)
    data = people.batches(size=8, valid=Loader(people, 32, shuffle=False), score=people.rank1)
    short = options(epochs=10_000, max_time_s=2.0)
    trained = fit(short, data, tmp_path)
    assert trained.ended == "time"
    assert 0 < trained.epochs < 10_000
    assert (trained.history[-1]["seconds"] or 0) < 6
    assert "val_score" in trained.history[-1]
    with (tmp_path / "steps.csv").open(newline="") as file:
        rates = [float(row["rate"]) for row in csv.DictReader(file)]
    assert rates[-1] < 0.2 * short.rate
    assert len(rates) == trained.steps
    assert fit(short, data, tmp_path).steps == trained.steps  # it is over
    longer = fit(options(epochs=10_000, max_time_s=4.0), data, tmp_path)
    assert longer.steps > trained.steps
    assert [row["epoch"] for row in longer.history] == list(range(1, longer.epochs + 1))


def test_limit_train_cuts_epochs_short(tmp_path: Path) -> None:
    loader = (data := People().batches()).train
    trained = fit(options(limit_train=2, epochs=3), data, tmp_path)
    assert trained.steps == 6
    assert isinstance(loader, Loader)
    assert loader.epochs == [0, 1, 2]  # told before each


def test_the_average_lags_behind_the_weights(tmp_path: Path) -> None:
    people = People()
    for name, ema in (("with", 0.9), ("without", 0.0)):
        fit(options(ema=ema, epochs=1), people.batches(), tmp_path / name)
    state = torch.load(tmp_path / "with" / ".lightmill" / "training.ckpt", weights_only=True)["state_dict"]
    learnt, averaged = weights(tmp_path / "without" / "last"), weights(tmp_path / "with" / "last")
    assert torch.equal(state["network.reduce.weight"], learnt["reduce.weight"])  # it changes nothing of the training
    assert torch.equal(state["average.reduce.weight"], averaged["reduce.weight"])
    assert not torch.equal(learnt["reduce.weight"], averaged["reduce.weight"])


def test_views_of_a_moment_come_together_in_one_batch(tmp_path: Path) -> None:
    """A4.2: pairs [B, 2, h, w, 3] are trained on as they come, and their views are drawn together."""
    people = People(count=64)

    class Pairs(Loader):
        def __iter__(self) -> Any:
            for rows in torch.arange(64).reshape(4, 8, 2):
                yield people.crops[rows], rows

    def data() -> ReidBatches:
        moments = np.arange(64) // 2
        return ReidBatches(
            train=Pairs(people, 16, shuffle=False), classes=people.classes, labels=people.labels, moments=moments
        )

    trained = fit(options(epochs=3, consistency_weight=5.0, ema=0), data(), tmp_path)
    first, last = (row["consistency"] or 0 for row in (trained.history[0], trained.history[-1]))
    assert 0 < last < first


def test_nothing_is_left_where_it_was_started_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A4.25: no folder of a tracker, no path of a machine, no noise."""
    monkeypatch.chdir(tmp_path)
    fit(options(epochs=1, tensorboard=True), People(count=32).batches(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name.split(".")[0] for path in (tmp_path / "out" / "tensorboard").iterdir()] == ["events"]
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_comes_out_as_such(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(OPTIONS, People().batches(), tmp_path, on_step=lambda step, steps: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_random_numbers_of_others_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(options(epochs=1), People(count=32).batches(), tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def test_a_training_that_comes_apart_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss of step \d+ is nan: .*lower rate"):
        fit(options(rate=1e30, clip=0, warmup=0), People().batches(), tmp_path)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer crops than one batch takes"):
        fit(OPTIONS, People(count=8).batches(), tmp_path)
    with pytest.raises(UsageError, match="takes two of them, and 1 is known"):
        fit(OPTIONS, People(known=1).batches(), tmp_path)
    with pytest.raises(UsageError, match="float16 is for CUDA"):
        fit(options(amp="fp16"), People().batches(), tmp_path)
    with pytest.raises(UsageError, match=r"bfloat16 on a CPU needs crops of 64 px"):
        fit(options(amp="bf16"), People().batches(), tmp_path)
    with pytest.raises(ValueError, match="both what to look at and a score"):
        People().batches(score=People().rank1)
    with pytest.raises(ValueError, match="places in the 2 labels"):
        ReidBatches(train=Loader(People(), 16, shuffle=True), classes=np.array([0, 2]), labels=("a", "b"))
    assert list(tmp_path.iterdir()) == []
