"""Pairs are of one player at one instant, against loops over all rows; any views, any number of them (A4.25)."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.data.match import make_match

from lightmill.data.crops import CropDataset, Jitter
from lightmill.data.pack import CropPack, PackWriter
from lightmill.data.views import MultiViewDataset, moments_of
from lightmill.errors import UsageError

HW = (32, 16)
VIEWS = ("far", "side", "top")


@pytest.fixture
def match(tmp_path):
    return make_match(tmp_path / "match", views=VIEWS)


def changed(match, change):
    with PackWriter(match.pack, store="jpeg", expand=1.2) as writer:
        writer.add(change(number, row) for number, row in enumerate(match.rows))
    return CropDataset(CropPack.open(match.pack), size_hw=HW)


def by_loops(table, views):
    """All combinations of rows, one a view, that agree in label, group and time."""
    rows = table.with_row_index("at").filter((pl.col("kind") == "player") & (pl.col("label") != "")).to_dicts()
    of_view = [[row for row in rows if row["view"] == view and row["time"] is not None] for view in views]
    return {
        tuple(row["at"] for row in chosen)
        for chosen in itertools.product(*of_view)
        if len({(row["label"], row["group"], row["time"]) for row in chosen}) == 1
    }


@pytest.mark.parametrize("views", [("side", "top"), ("top", "far"), VIEWS])
def test_every_instant_that_all_views_share_is_one_sample(match, views):
    rng = np.random.default_rng(0)

    def change(number, row):
        if number % 11 == 3:
            return replace(row, label="")
        if number % 13 == 5:
            return replace(row, time=[None, float("nan")][rng.integers(2)])
        return row

    dataset = changed(match, change)
    pairs = MultiViewDataset(dataset, views=views)
    expected = by_loops(dataset.table, views)
    assert {tuple(crops) for crops in pairs.crops.tolist()} == expected
    assert 3 < len(pairs) == len(expected) < 12
    assert pairs.ambiguous == 0
    assert pairs.crops[:, 0].tolist() == sorted(pairs.crops[:, 0].tolist())


def test_a_sample_holds_the_crops_of_its_views_in_their_order(match):
    dataset = changed(match, lambda _, row: row)
    pairs = MultiViewDataset(dataset, views=("top", "side"))
    samples = pairs.__getitems__([4, 0, 4])
    assert samples.pixels.shape == (3, 2, *HW, 3)
    assert samples.rows.tolist() == pairs.crops[[4, 0, 4]].tolist()
    for (pixels, _), rows in zip(samples, samples.rows.tolist(), strict=True):
        assert [dataset.table["view"][row] for row in rows] == ["top", "side"]
        for view, row in enumerate(rows):
            np.testing.assert_array_equal(pixels[view], dataset[row][0])
    pixels, index = pairs[4]
    assert index == 4
    np.testing.assert_array_equal(pixels, samples.pixels[0].numpy())


def test_each_crop_of_a_sample_has_a_jitter_of_its_own(match):
    plain = changed(match, lambda _, row: row)
    jittered = CropDataset(plain.source, size_hw=HW, jitter=Jitter(shift=0.3, scale=0.0))
    pairs = MultiViewDataset(jittered, views=("top", "side"))
    one, two = pairs.__getitems__([2, 2]).pixels.numpy()
    assert not any(np.array_equal(one[view], two[view]) for view in range(2))
    np.testing.assert_array_equal(one, pairs.__getitems__([2, 2]).pixels[0].numpy())


def test_two_boxes_of_a_player_in_one_view_at_one_instant_are_left_out(match):
    """Nobody knows which is right; the other players of that instant stay."""
    first = [number for number, row in enumerate(match.rows) if row.view == "top" and row.time == 1.0]
    dataset = changed(match, lambda number, row: replace(row, label="p1") if number == first[0] else row)
    assert match.rows[first[1]].label == "p1"
    pairs = MultiViewDataset(dataset, views=("side", "top"))
    assert pairs.ambiguous == 1
    used = {(dataset.table["label"][row], dataset.table["time"][row]) for row in pairs.crops[:, 0].tolist()}
    assert ("p1", 1.0) not in used
    assert {("p2", 1.0), ("p3", 1.0), ("p1", 0.0), ("p1", 2.0)} <= used


def test_of_a_sample_with_a_damaged_crop_all_is_replaced(match):
    """By another instant of the same player: both crops still show one player at one time (A4.16)."""
    bad = next(number for number, row in enumerate(match.rows) if row.view == "top" and row.label == "p1")
    dataset = changed(match, lambda number, row: replace(row, crop=b"") if number == bad else row)
    pairs = MultiViewDataset(dataset, views=("side", "top"))
    hit = int(np.flatnonzero((pairs.crops == bad).any(axis=1))[0])
    samples = pairs.__getitems__([hit, 0])
    assert samples[0][1] != hit
    assert bad not in samples.rows
    assert samples.rows[0].tolist() == pairs.crops[samples[0][1]].tolist()
    assert {dataset.table["label"][row] for row in samples.rows[0].tolist()} == {"p1"}
    assert [one.row for one in dataset.unreadable()] == [bad]


def test_crops_of_nobody_make_samples_too(match):
    dataset = changed(match, lambda _, row: row)
    nobody = np.flatnonzero((dataset.table["kind"] == "background").to_numpy())
    pairs = MultiViewDataset(dataset, views=("side", "top"), nobody=nobody[:5])
    assert np.count_nonzero(~pairs.is_player) == 2
    assert pairs.crops[~pairs.is_player].tolist() == nobody[:4].reshape(2, 2).tolist()
    assert pairs.is_player[: len(pairs) - 2].all()


def test_views_that_are_not_there_are_named(match):
    dataset = changed(match, lambda _, row: row)
    with pytest.raises(UsageError, match="no crop is of the view tpo; there are: far, side, top"):
        MultiViewDataset(dataset, views=("side", "tpo"))
    with pytest.raises(
        UsageError, match=r"two or more different views belong together, got \['side'\]; there are: far"
    ):
        MultiViewDataset(dataset, views=("side",))
    with pytest.raises(UsageError, match="two or more different views"):
        MultiViewDataset(dataset, views=("side", "side"))
    alone = changed(match, lambda _, row: replace(row, time=row.time + 100 * (row.view == "top")))
    with pytest.raises(UsageError, match="no player is seen in side, top at one instant of one group"):
        MultiViewDataset(alone, views=("side", "top"))
    MultiViewDataset(alone, views=("side", "far"))


def test_moments_are_shared_by_the_crops_of_a_player_at_an_instant(match):
    """Against a dictionary."""
    dataset = changed(match, lambda number, row: replace(row, label="") if number % 7 == 2 else row)
    moments = moments_of(dataset.table)
    numbers = {}
    for row, moment in zip(dataset.table.to_dicts(), moments.tolist(), strict=True):
        if row["kind"] != "player" or not row["label"]:
            assert moment == -1
        else:
            assert numbers.setdefault((row["label"], row["group"], row["time"]), moment) == moment >= 0
    assert len(set(numbers.values())) == len(numbers) == max(numbers.values()) + 1
