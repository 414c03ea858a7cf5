"""The training on what it is fed with in earnest: a pack of crops, dealt by identities, read by workers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.match import Match, make_match
from tests.train.people import OPTIONS, SIZE_HW

from lightmill.data.pack import CropPack
from lightmill.data.reid import ReidData
from lightmill.train.batches import ReidBatches
from lightmill.train.reid import Trained, fit


class Stopped(Exception):  # noqa: N818 (no error: it stands for a process that ends)
    pass


@pytest.fixture(scope="module")
def match(tmp_path_factory: pytest.TempPathFactory) -> Match:
    return make_match(tmp_path_factory.mktemp("match"), players=4, instants=6)


def trained(
    match: Match, out: Path, *, views: tuple[str, ...] | None = None, workers: int = 0, stop_after: int = 0
) -> tuple[Trained, list[np.ndarray]]:
    """Epochs of training on all crops; and the rows of each validation."""
    pack, seen = CropPack.open(match.pack), []
    everything = np.arange(len(pack))
    data = ReidData(
        pack, train=everything, val=everything, size_hw=SIZE_HW, identities=4, samples=2, negatives=2, views=views,
        batch_size=16, workers=workers, spread=None if views else "view",
    )  # fmt: skip

    def score(embeddings: np.ndarray, rows: np.ndarray) -> Mapping[str, float]:
        seen.append(rows)
        return {"score": float(embeddings.std())}

    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    batches = ReidBatches(
        train=data.train_dataloader(),
        classes=data.classes,
        labels=data.labels,
        moments=data.moments,
        valid=loader,
        score=score,
    )
    options = OPTIONS.model_copy(update={"epochs": 3, "consistency_weight": 1.0 if views else 0.0})

    def on_epoch(row: Mapping[str, float | None]) -> None:
        if row["epoch"] == stop_after:
            raise Stopped

    on: Callable[[Mapping[str, float | None]], None] = on_epoch
    return fit(options, batches, out, on_epoch=on), seen


def test_a_pack_is_trained_on_and_a_kill_changes_nothing(match: Match, tmp_path: Path) -> None:
    """A4.19 and A4.25: negatives of the pack take part; the sampler's order is that of the epoch, resumed or not."""
    whole, seen = trained(match, tmp_path / "whole")
    assert all(rows.tolist() == list(range(len(match.rows))) for rows in seen)
    assert "outliers" in whole.history[0]
    with pytest.raises(Stopped):
        trained(match, tmp_path / "cut", stop_after=1)
    torch.manual_seed(77)
    again, _ = trained(match, tmp_path / "cut")
    for name in ("steps.csv", "last/model.safetensors"):
        assert (again.last.parent / name).read_bytes() == (whole.last.parent / name).read_bytes(), name


def test_workers_and_pairs_of_views_are_trained_on(match: Match, tmp_path: Path) -> None:
    """A4.2: pairs of side and top, read by a worker; the same crops as without one."""
    alone, _ = trained(match, tmp_path / "alone", views=("side", "top"))
    helped, _ = trained(match, tmp_path / "helped", views=("side", "top"), workers=1)
    assert (alone.history[0]["consistency"] or 0) > 0
    assert (alone.last / "model.safetensors").read_bytes() == (helped.last / "model.safetensors").read_bytes()
