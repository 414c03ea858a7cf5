import json
from pathlib import Path

import pytest
import torch
from tests.recipes.test_train_segment import OPTIONS as WORDS
from tests.recipes.test_train_segment import write_pictures
from tests.train.fields import OPTIONS, Fields

from lightmill.recipes.train_segment import TrainSegment
from lightmill.train.finder import fastest, find_batch, find_rate, largest_that_fits, rate_of, smoothed
from lightmill.train.segment import fit


def test_a_rate_is_found_that_learns_and_nothing_else_changes(tmp_path: Path) -> None:
    data = Fields().batches()
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    rate = find_rate(OPTIONS, data.train)
    assert torch.equal(torch.rand(2), wanted)
    assert 3e-4 <= rate <= 3e-2
    trained = fit(OPTIONS.model_copy(update={"rate": rate}), data, tmp_path)
    assert (trained.history[-1]["loss"] or 9) < 0.8 * (trained.history[0]["loss"] or 0)


def test_the_rate_lies_below_where_losses_rise() -> None:
    tried = [10 ** (-5 + step / 10) for step in range(50)]
    losses = [2 - step / 30 if step < 30 else 1 + (step - 30) / 3 for step in range(50)]
    assert rate_of(tried, losses) == pytest.approx(tried[30] / 10, rel=0.6)
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0] * 3)


def test_a_batch_is_found_by_speed_on_a_cpu() -> None:
    assert find_batch(OPTIONS, pictures=40) in (2, 4)
    assert find_batch(OPTIONS, pictures=5) == 1
    assert fastest(lambda size: 0.1 + 0.001 * size, most=8) == 8


def test_a_batch_that_is_too_large_for_memory_is_not_taken() -> None:
    tried: list[int] = []

    def like_cuda(size: int) -> float:
        tried.append(size)
        if size > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1.0

    assert largest_that_fits(like_cuda, most=512) == 16  # half of 32
    assert tried == [1, 2, 4, 8, 16, 32, 64]

    def broken(size: int) -> float:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_that_fits(broken, most=4)


def test_what_was_found_is_kept_with_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightmill.train import finder

    write_pictures(tmp_path / "data", 24, seed=0, values=(0, 255))
    words = TrainSegment.from_values(WORDS | {"batch": "auto", "rate": "auto", "epochs": 1, "val_share": 0.3})
    assert words.run(tmp_path / "data", tmp_path / "out").exit_code == 0
    found = json.loads((tmp_path / "out" / ".lightmill" / "found.json").read_text())
    assert found["batch"] in (1, 2)
    state = torch.load(tmp_path / "out" / ".lightmill" / "training.ckpt", weights_only=True)
    assert state["lightmill"]["options"]["rate"] == found["rate"]
    monkeypatch.setattr(finder, "find_rate", None)
    monkeypatch.setattr(finder, "find_batch", None)
    assert words.run(tmp_path / "data", tmp_path / "out").exit_code == 0  # it is over; nothing is tried
