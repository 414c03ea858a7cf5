"""Data of processes that train together: equally many batches, no sample twice, one count of what cannot be read."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.match import make_match
from tests.data.trees import age, write_pairs

from lightmill.data.index import open_index
from lightmill.data.labels import open_labels
from lightmill.data.pack import CropPack
from lightmill.data.reid import ReidData
from lightmill.data.samplers import IdentitySampler
from lightmill.data.segments import SegmentData
from lightmill.errors import TooManyFailures, UsageError
from lightmill.types import Budget


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures, two of which cannot be read."""
    root = write_pairs(tmp_path / "data", [f"n{number:02d}" for number in range(20)], size=(40, 30))
    age(root)
    for name in ("n03", "n11"):
        path = next((root / "images").glob(f"{name}.*"))
        path.write_bytes(path.read_bytes()[:-200])
    return root


def segments(root: Path, **options: Any) -> SegmentData:
    index = open_index(root)
    labels = open_labels(index, classes=["a", "b", "c"])
    values: dict[str, Any] = {"train": np.arange(20), "size_hw": (24, 32), "batch_size": 3, "workers": 0}
    return SegmentData(index, labels, **values | options)


def rows_of(batches: Iterable[Any]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


def test_each_gets_equally_many_batches_and_held_out_pictures_come_once(pictures: Path) -> None:
    whole = segments(pictures, val=np.arange(11), max_bad=Budget(count=20))
    parts = [whole.of_rank(rank, 3) for rank in range(3)]
    assert [len(part.train_dataloader()) for part in parts] == [2, 2, 2]
    held = [rows_of(part.val_dataloader()) for part in parts]
    assert sorted(row for part in held for row in part) == [row for row in range(11) if row != 3]
    assert held[1] == [1, 4, 7, 10]
    whole.set_epoch(4)  # the orders are each one's own
    parts[0].set_epoch(1)
    assert rows_of(parts[0].train_dataloader()) != rows_of(whole.of_rank(0, 3).train_dataloader())
    with pytest.raises(UsageError, match="20 pictures cannot be shared out to 21 processes"):
        whole.of_rank(0, 21)


def test_what_cannot_be_read_counts_for_all_of_them(pictures: Path) -> None:
    """One is allowed: the second ends the process that meets it, though another one met the first."""
    whole = segments(pictures, train=[0, 3, 1, 11, 2, 4, 5, 6], val=[3, 7, 8, 11], max_bad=Budget(count=1))
    first, second = (whole.of_rank(rank, 2) for rank in range(2))
    assert rows_of(first.val_dataloader()) == [8]
    with pytest.raises(TooManyFailures, match="2 pictures cannot be read"):
        rows_of(second.val_dataloader())
    note = whole.epoch_note()
    assert "n03" in note
    assert "n11" in note
    assert whole.epoch_note() == second.epoch_note() == ""


def test_identities_are_dealt_out_batch_by_batch() -> None:
    """Each process has every so many-th batch of one order; an odd batch is made up, so that nobody is left out."""
    labels = np.repeat(np.arange(10), 3)
    whole = IdentitySampler(labels, identities=2, samples=2, batches=7, seed=3)
    parts = [whole.of_rank(rank, 2) for rank in range(2)]
    assert [len(part) for part in parts] == [4, 4]
    for number in range(2):
        for part in parts:
            part.set_epoch(number)
        first, second = (list(part) for part in parts)
        together = [batch for pair in zip(first, second, strict=True) for batch in pair]
        dealt = IdentitySampler(labels, identities=2, samples=2, batches=8, seed=3)
        dealt.set_epoch(number)
        assert together == list(dealt)
        assert {int(labels[index]) for batch in together for index in batch} == set(range(10))
    assert len(whole) == 7


def test_crops_are_shared_out_and_come_through_a_pipe(tmp_path: Path) -> None:
    match = make_match(tmp_path / "match", players=6, instants=4)
    source = CropPack.open(match.pack)
    whole = ReidData(
        source,
        train=np.arange(len(source)),
        val=np.arange(9),
        size_hw=(32, 16),
        identities=3,
        samples=2,
        batch_size=2,
        workers=0,
    )
    parts = [pickle.loads(pickle.dumps(whole.of_rank(rank, 2))) for rank in range(2)]
    held = [np.concatenate([rows.numpy() for _, rows in part.val_dataloader()]).tolist() for part in parts]
    assert held == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert len({len(part.train_dataloader()) for part in parts}) == 1
    first, second = (next(iter(part.train_dataloader())) for part in parts)
    assert len(first[1]) == len(second[1]) == 6
    assert first[1].tolist() != second[1].tolist()
