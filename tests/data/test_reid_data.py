"""What training gets: P x K batches of uint8, in an order of each epoch, the same with any workers."""

import multiprocessing
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tests.data.match import make_match

from lightmill.data.crops import CropDataset, Jitter
from lightmill.data.pack import CropPack, PackWriter
from lightmill.data.reid import ReidData
from lightmill.errors import UsageError

HW = (32, 16)


@pytest.fixture
def match(tmp_path):
    return make_match(tmp_path / "match", players=6, instants=4)


def data_of(match, **options):
    source = CropPack.open(match.pack)
    everything = np.arange(len(source))
    values = {"train": everything, "size_hw": HW, "identities": 3, "samples": 2, "workers": 0} | options
    return ReidData(source, **values)


def epoch(data, number):
    data.set_epoch(number)
    return [(pixels.clone(), rows.clone()) for pixels, rows in data.train_dataloader()]


def test_a_batch_is_identities_by_samples_and_negatives_beside_them(match):
    data = data_of(match, negatives=2)
    assert data.labels == ("p0", "p1", "p2", "p3", "p4", "p5")
    table = data.train_set.table
    for number, label in enumerate(table["label"].to_list()):
        assert data.classes[number] == (data.labels.index(label) if label else -1)
    batches = epoch(data, 0)
    seen = set()
    for pixels, rows in batches:
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (8, *HW, 3)
        assert rows.dtype == torch.int64
        classes = data.classes[rows.numpy()]
        assert classes[:6].reshape(3, 2).tolist() == [[one, one] for one in classes[:6:2].tolist()]
        assert len(set(classes[:6].tolist())) == 3
        assert {table["kind"][row] for row in rows[6:].tolist()} == {"background"}
        assert {table["view"][row] for row in rows[:2].tolist()} == {"side", "top"}  # spread over views
        seen |= set(classes[:6].tolist())
        for place, row in enumerate(rows.tolist()):
            np.testing.assert_array_equal(pixels[place].numpy(), data.train_set[row][0])
    assert seen == set(range(6))


def test_every_epoch_has_an_order_of_its_own_and_a_seed_gives_all_of_them(match):
    one, other = data_of(match, jitter=Jitter(), seed=5), data_of(match, jitter=Jitter(), seed=5)
    assert same(epoch(one, 3), epoch(other, 3))
    assert not same(epoch(one, 3), epoch(one, 4))
    assert not same(epoch(one, 3), epoch(data_of(match, jitter=Jitter(), seed=6), 3))


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) and torch.equal(rows, others) for (a, rows), (b, others) in pairs)


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_live_through_epochs_and_change_nothing(match, start, workers):
    """Persistent workers see the new order of each epoch, and give the very bytes of one process."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start} a process")
    alone = data_of(match, jitter=Jitter(), negatives=1)
    apart = data_of(match, jitter=Jitter(), negatives=1, workers=workers, start=start)
    loader = apart.train_dataloader()
    pids = []
    for number in range(2):
        apart.set_epoch(number)
        assert same([(pixels, rows) for pixels, rows in loader], epoch(alone, number))
        pids.append([worker.pid for worker in loader._iterator._workers])
    assert pids[0] == pids[1]


def test_pixels_are_pinned_only_where_cuda_is(match):
    data = data_of(match, workers=1)
    loader = data.train_dataloader()
    assert loader.pin_memory == torch.cuda.is_available()
    assert loader.persistent_workers
    assert loader.prefetch_factor == 2


def test_validation_and_gallery_come_once_in_the_order_of_their_rows(match):
    """Whole sets: the last batch is smaller, none is dropped (A4.7)."""
    val, gallery = np.array([30, 3, 17, 9, 2]), np.array([1, 0])
    data = data_of(match, val=val, gallery=gallery, batch_size=2)
    batches = list(data.val_dataloader())
    assert [len(rows) for _, rows in batches] == [2, 2, 1]
    assert torch.cat([rows for _, rows in batches]).tolist() == [0, 1, 2, 3, 4]
    assert data.val_set.table["row"].to_list() == data.val_set.source.table["row"][val].to_list()
    pixels = torch.cat([pixels for pixels, _ in batches]).numpy()
    for place, row in enumerate(val.tolist()):
        np.testing.assert_array_equal(pixels[place], CropDataset(data.val_set.source, size_hw=HW)[row][0])
    ((_, rows),) = data.gallery_dataloader()
    assert rows.tolist() == [0, 1]
    none = data_of(match)
    assert none.val_dataloader() == []
    with pytest.raises(UsageError, match="no crops were given for the gallery"):
        none.gallery_dataloader()


def test_players_of_several_views_come_together(match):
    data = data_of(match, views=("side", "top"), negatives=1)
    for pixels, rows in epoch(data, 0):
        assert pixels.shape == (7, 2, *HW, 3)
        assert rows.shape == (7, 2)
        classes, moments = data.classes[rows.numpy()], data.moments[rows.numpy()]
        assert (classes[:6, 0] == classes[:6, 1]).all()
        assert (moments[:6, 0] == moments[:6, 1]).all()
        assert (moments[:6] >= 0).all()
        assert (classes[6] == -1).all()
        assert (moments[6] == -1).all()


def test_a_batch_may_stay_within_a_group(match):
    data = data_of(match, within="group", spread=None)
    groups = data.train_set.table["group"]
    assert all(len({groups[row] for row in rows.tolist()}) == 1 for _, rows in epoch(data, 1))
    pairs = data_of(match, within=["group", "time"], spread=None, views=("side", "top"), samples=1)
    times = pairs.train_set.table["time"]
    assert all(len({times[row] for row in rows.flatten().tolist()}) == 1 for _, rows in epoch(pairs, 1))


def test_what_cannot_be_read_is_named_at_the_epochs_end(match):
    """By workers that live on: the next epoch begins at nothing (A4.16)."""
    with PackWriter(match.pack, store="jpeg", expand=1.2) as writer:
        writer.add(replace(row, crop=b"") if number == 3 else row for number, row in enumerate(match.rows))
    data = data_of(match, workers=1)
    loader = data.train_dataloader()
    for number in range(2):
        data.set_epoch(number)
        used = torch.cat([rows for _, rows in loader])
        assert 3 not in used
        note = data.epoch_note()
        assert note.startswith("crops that cannot be read: 1; others were drawn in their place ")
        assert f"{match.rows[3].frame} (row 3)" in note
        assert data.epoch_note() == ""


def test_lightning_trains_with_it(match, tmp_path):
    """Lightning's own Trainer sets the epochs, and takes validation; what it gets are our batches."""
    import lightning.pytorch as pl_

    class Watch(pl_.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.seen, self.judged = [], []

        def training_step(self, batch, _):
            pixels, rows = batch
            self.seen.append(rows.tolist())
            return self.layer(pixels.float().mean((1, 2))).square().mean()

        def validation_step(self, batch, _):
            self.judged += batch[1].tolist()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    data = data_of(match, val=[4, 5, 6], batch_size=2)
    module = Watch()
    trainer = pl_.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no workers, and how few cores this machine has
        trainer.fit(module, datamodule=data)
    expected = [rows.tolist() for number in range(2) for _, rows in epoch(data_of(match), number)]
    assert module.seen == expected
    assert module.judged == [0, 1, 2] * 2


def test_what_cannot_make_batches_is_refused(match):
    with pytest.raises(UsageError, match="a batch of 7 identities needs as many, and there are 6; ask for fewer"):
        data_of(match, identities=7)
    with pytest.raises(UsageError, match=r"crops have no column quarter; they have kind, label, frame"):
        data_of(match, within="quarter")
    table = CropPack.open(match.pack).table
    negatives = np.flatnonzero((table["kind"] == "background").to_numpy())
    with pytest.raises(UsageError, match="none of the 8 crops to train on is a player whose label is known"):
        data_of(match, train=negatives)
    players = np.flatnonzero((table["kind"] == "player").to_numpy())
    with pytest.raises(UsageError, match="2 negatives a batch are asked for, and there are none; ask for 0"):
        data_of(match, train=players, negatives=2)


def test_players_whom_nobody_knows_are_no_negatives(match):
    with PackWriter(match.pack, store="jpeg", expand=1.2) as writer:
        writer.add(replace(row, label="") if row.label == "p2" else row for row in match.rows)
    data = data_of(match, negatives=2)
    used = torch.cat([rows for number in range(3) for _, rows in epoch(data, number)])
    kinds = data.train_set.table[used.unique().numpy()].filter(pl.col("label") == "")["kind"]
    assert set(kinds) == {"background"}
