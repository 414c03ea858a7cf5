"""Leaks of every kind, planted into a clean fold; and the split that everybody writes first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg

from lightmill.data.folds import Fold, open_set_folds
from lightmill.data.leaks import Leak, check_leaks, refuse_leaks
from lightmill.data.pack import CropPack, CropRow, PackWriter
from lightmill.errors import UsageError


def track_table(*, groups: int = 4, frames: int = 20, players: int = 8) -> pl.DataFrame:
    """A pack's table: every player walks through every group; a partial of player 0 and a background box per frame."""
    rows: list[dict[str, Any]] = []
    for group, time in ((g, t) for g in range(groups) for t in range(frames)):
        place = {"frame": f"Q{group}/{time:02d}.jpg", "group": f"Q{group}", "view": "side", "time": float(time)}
        size = {"y": 50.0, "w": 40.0, "h": 100.0}
        first = len(rows)
        for player in range(players):
            who = {"kind": "player", "label": f"p{player}", "row": first + player, "parent": -1}
            rows.append(who | place | {"x": 100.0 * player + 3 * time} | size)
        part = {"x": 3.0 * time, "y": 90.0, "w": 20.0, "h": 40.0}
        rows.append({"kind": "partial", "label": "", "row": -1, "parent": first} | place | part)
        rows.append({"kind": "background", "label": "", "row": -1, "parent": -1} | place | {"x": 900.0} | size)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return track_table()


@pytest.fixture
def clean(table: pl.DataFrame) -> Fold:
    """Q1 or another held out, two of the players unknown."""
    fold = open_set_folds(table, folds=4, unknown_per_fold=2)[0]
    assert check_leaks(fold, table) == []
    return fold


def kinds(leaks: list[Leak]) -> set[str]:
    return {leak.kind for leak in leaks}


def only(leaks: list[Leak], kind: str) -> Leak:
    return next(leak for leak in leaks if leak.kind == kind)


# --- planted ---------------------------------------------------------------------------------------------------------


def test_a_random_split_of_samples_leaks(table: pl.DataFrame) -> None:
    """A4.4: 80 : 20 of each player's samples puts neighbouring frames of one track on both sides."""
    rows = np.random.default_rng(0).permutation(table.height)
    players = rows[(table["kind"] == "player").to_numpy()[rows]]
    cut = len(players) * 4 // 5
    nothing = np.zeros(0, np.int64)
    split = Fold(
        number=0,
        train=np.sort(players[:cut]),
        train_negatives=nothing,
        val_known=np.sort(players[cut:]),
        val_unknown=nothing,
        val_negatives=nothing,
        unknown_labels=(),
        held_out_groups=(),
    )
    leaks = check_leaks(split, table)
    assert kinds(leaks) == {"frame", "neighbour"}
    assert only(leaks, "neighbour").count == len(players) - cut
    assert only(check_leaks(split, table, gap=2.0), "neighbour").count == len(players) - cut
    with pytest.raises(UsageError, match=r"fold 0 leaks .*open_set_folds\):\n- frame: \d+ frames are on both sides"):
        refuse_leaks(leaks, split)


def test_a_row_on_both_sides_is_found(table: pl.DataFrame, clean: Fold) -> None:
    row = int(clean.val_known[3])
    leaks = check_leaks(replace(clean, train=np.sort(np.append(clean.train, row))), table)
    found = only(leaks, "row")
    assert found.count == 1
    assert f"row {row}" in found.examples[0][0]
    assert found.examples[0][0] == found.examples[0][1]


def test_an_equal_row_on_both_sides_is_found(table: pl.DataFrame, clean: Fold) -> None:
    """The same box twice in the table, under two players, one row on each side."""
    row = int(clean.val_known[0])
    twice = pl.concat([table, table[row].with_columns(label=pl.lit(table["label"][int(clean.train[0])]))])
    leaks = check_leaks(replace(clean, train=np.append(clean.train, table.height)), twice)
    found = only(leaks, "row")
    assert found.count == 1
    assert (f"row {table.height}" in found.examples[0][0], f"row {row}" in found.examples[0][1]) == (True, True)


def test_a_frame_on_both_sides_is_found(table: pl.DataFrame, clean: Fold) -> None:
    """A box of a held-out frame beside the others, as background for training."""
    row = int(clean.val_negatives[0])
    moved = replace(
        clean, val_negatives=clean.val_negatives[1:], train_negatives=np.sort(np.append(clean.train_negatives, row))
    )
    leaks = check_leaks(moved, table)
    assert kinds(leaks) == {"frame", "neighbour"}
    assert only(leaks, "frame").message == "1 frames are on both sides"
    assert only(leaks, "frame").examples[0][0].startswith(table["frame"][row])


def test_neighbouring_frames_are_found_by_time(table: pl.DataFrame, clean: Fold) -> None:
    """A whole held-out frame in training: of a group with a gap only its neighbours leak, of one without all."""
    (group,) = clean.held_out_groups
    moved = ((table["group"] == group) & (table["time"] == 10)).to_numpy()
    val = {name: getattr(clean, name) for name in ("val_known", "val_unknown", "val_negatives")}
    val = {name: rows[~moved[rows]] for name, rows in val.items()}
    train = np.sort(np.concatenate([clean.train, clean.val_known[moved[clean.val_known]]]))
    fold = replace(clean, train=train, **val)
    near = only(check_leaks(fold, table, gap=2.5), "neighbour")
    per_frame = 10
    assert near.count == 4 * per_frame  # the two before and the two behind
    assert near.message == "40 boxes of validation are nearer than 2.5 in time to one that is trained on"
    assert f"{group}/10.jpg" in near.examples[0][0]
    assert {example[1].split(",")[0].split(" of ")[0] for example in near.examples} <= {
        f"{group}/{time:02d}.jpg" for time in (8, 9, 11, 12)
    }
    assert only(check_leaks(fold, table), "neighbour").count == 19 * per_frame
    assert "neighbour" not in kinds(check_leaks(fold, table, gap=1.0))  # they are 1 apart: not nearer


def test_without_times_a_group_may_not_be_on_both_sides(table: pl.DataFrame) -> None:
    """Nobody can say how near frames are."""
    fold = open_set_folds(table, folds=2, unknown_per_fold=1, block=5, gap=2.0)[0]
    assert check_leaks(fold, table) == []
    for timeless in (table.drop("time"), table.with_columns(time=pl.lit(None, pl.Float64))):
        groups = table["group"].to_numpy()
        shared = np.isin(groups[fold.val_side], groups[fold.train_side])
        assert shared.any()
        assert only(check_leaks(fold, timeless), "neighbour").count == shared.sum()


def test_another_view_of_a_held_out_instant_leaks(table: pl.DataFrame) -> None:
    """The same players at the same time from above are neighbours too."""
    both = pl.concat([table, table.with_columns(view=pl.lit("top"), frame="top/" + pl.col("frame"))])
    fold = open_set_folds(both, folds=2, unknown_per_fold=1, block=5, gap=2.0)[0]
    top = (both["view"] == "top").to_numpy()
    moved = fold.val_known[top[fold.val_known]][:1]
    by_view = replace(fold, train=np.sort(np.append(fold.train, moved)), val_known=np.setdiff1d(fold.val_known, moved))
    assert "neighbour" in kinds(check_leaks(by_view, both))


def test_an_unknown_player_in_training_is_found(table: pl.DataFrame, clean: Fold) -> None:
    stranger = clean.unknown_labels[0]
    outside = ~table["group"].is_in(clean.held_out_groups)
    rows = np.flatnonzero((outside & (table["label"] == stranger)).to_numpy())[:7]
    leaks = check_leaks(replace(clean, train=np.sort(np.append(clean.train, rows))), table)
    assert kinds(leaks) == {"identity"}
    assert leaks[0].count == 7
    assert leaks[0].message == f"7 boxes of 1 unknown players are trained on: {stranger}"
    assert all(f"of {stranger}," in one and f"of {stranger}," in other for one, other in leaks[0].examples)


def test_unknown_players_need_not_be_in_validation(table: pl.DataFrame, clean: Fold) -> None:
    """Who the fold says is unknown is not to be trained on, whether or not anybody asks for him."""
    known = table["label"][int(clean.train[0])]
    fold = replace(clean, unknown_labels=(known,), val_unknown=clean.val_unknown[:0], val_known=clean.val_known[:0])
    assert kinds(check_leaks(fold, table)) == {"identity"}


def test_unknown_players_are_those_of_validation_whatever_the_fold_calls_them(table: pl.DataFrame, clean: Fold) -> None:
    known = table["label"][int(clean.val_known[0])]
    rows = clean.val_known[(table["label"] == known).to_numpy()[clean.val_known]]
    fold = replace(
        clean,
        val_known=np.setdiff1d(clean.val_known, rows),
        val_unknown=np.sort(np.concatenate([clean.val_unknown, rows])),
    )
    assert kinds(check_leaks(fold, table)) == {"identity"}


def test_a_part_of_an_unknown_player_in_training_is_found(table: pl.DataFrame) -> None:
    """A4.18: partials of player 0, who is unknown, among the negatives."""
    fold = next(one for one in open_set_folds(table, folds=4, unknown_per_fold=2) if "p0" in one.unknown_labels)
    outside = (~table["group"].is_in(fold.held_out_groups)).to_numpy()
    partials = np.flatnonzero((table["kind"] == "partial").to_numpy() & outside)
    assert not np.isin(partials, fold.train_negatives).any()
    fold = replace(fold, train_negatives=np.union1d(fold.train_negatives, partials))
    (leak,) = check_leaks(fold, table)
    assert (leak.kind, leak.count) == ("identity", len(partials))
    assert "unknown players are trained on: p0" in leak.message


# --- copies ----------------------------------------------------------------------------------------------------------


def player_picture(seed: int) -> np.ndarray:
    """[128, 64, 3] of blobs, as unlike others as people are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (64, 128), interpolation=cv2.INTER_CUBIC)


def pack_of(folder: Path, table: pl.DataFrame, pictures: dict[int, bytes]) -> CropPack:
    """The table as a pack; crops are pictures of their own where none is given."""
    with PackWriter(folder / "crops.arrow", store="jpeg", expand=1.0) as writer:
        for row, cells in enumerate(table.iter_rows(named=True)):
            crop = pictures.get(row) or simplejpeg.encode_jpeg(player_picture(row), quality=90)
            writer.add([CropRow(crop=crop, left=0, top=0, width=40, height=100, **cells)])
    return CropPack.open(folder)


def test_copies_on_both_sides_are_found_by_their_pictures(tmp_path: Path) -> None:
    """A session that is in the data twice, under another name, in another size and quality."""
    table = track_table(frames=3)
    fold = open_set_folds(table, folds=4, unknown_per_fold=2)[0]
    originals = fold.train[[0, 10, 20]].tolist()
    copies = [*fold.val_known[[1, 5]].tolist(), int(fold.val_unknown[0])]
    pictures = {}
    for original, copy in zip(originals, copies, strict=True):
        small = cv2.resize(player_picture(original), (45, 90), interpolation=cv2.INTER_AREA)
        pictures[copy] = simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=60)
    broken = int(fold.val_known[0])
    pictures[broken] = b"no picture"
    pack = pack_of(tmp_path, table, pictures)
    assert check_leaks(fold, pack.table) == []
    for threads in (1, 3):
        (leak,) = check_leaks(fold, pack.table, pack=pack, threads=threads)
        assert (leak.kind, leak.count) == ("copy", 3)
        shown = {(int(one.split("row ")[1]), int(other.split("row ")[1])) for one, other in leak.examples}
        assert shown == set(zip(originals, copies, strict=True))
        assert leak.message == "3 crops of validation are copies of ones that are trained on"


def test_alike_is_not_the_same(tmp_path: Path) -> None:
    """One colour has one hash, whatever the colour; what is no copy is not called one."""
    table = track_table(frames=2)
    fold = open_set_folds(table, folds=4, unknown_per_fold=2)[0]
    flat = {
        row: simplejpeg.encode_jpeg(np.full((64, 32, 3), 20 if row in fold.val_side else 90, np.uint8))
        for row in range(table.height)
    }
    assert check_leaks(fold, table, pack=pack_of(tmp_path, table, flat)) == []


def test_backgrounds_of_a_camera_that_stands_still_are_no_copies(tmp_path: Path) -> None:
    """The same seats behind the same line on every day: nothing is learnt from them about who is who."""
    table = track_table(frames=2)
    fold = open_set_folds(table, folds=4, unknown_per_fold=2)[0]
    seats = simplejpeg.encode_jpeg(player_picture(-1 % 1000))
    negatives = np.flatnonzero((table["kind"] != "player").to_numpy())
    assert check_leaks(fold, table, pack=pack_of(tmp_path, table, dict.fromkeys(negatives.tolist(), seats))) == []


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_fold_of_another_table_is_refused(table: pl.DataFrame, clean: Fold) -> None:
    with pytest.raises(UsageError, match="rows beyond the 5 of the table"):
        check_leaks(clean, table.head(5))


def test_nothing_leaks_nothing_is_refused(clean: Fold) -> None:
    refuse_leaks([], clean)
