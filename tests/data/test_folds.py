"""Folds: what is held out together, who is unknown, and that nothing is on both sides."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.data.fold_file import load_folds, save_folds
from lightmill.data.folds import PARTS, Fold, open_set_folds, parent_labels, time_distance
from lightmill.data.leaks import check_leaks
from lightmill.errors import InputError, UsageError


def match(
    *, quarters: int = 4, sessions: int = 2, frames: int = 12, players: int = 12, on_court: int = 6, seed: int = 0
) -> pl.DataFrame:
    """A pack's table: two views of every instant, and a partial and a background box for each frame."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for quarter, session in ((q, s) for q in range(quarters) for s in range(sessions)):
        shown = sorted(rng.choice(players, on_court, replace=False))
        for time, view in ((t, v) for t in range(frames) for v in ("side", "top")):
            place = {"group": f"Q{quarter}/{session:02d}", "view": view, "time": float(time), "quarter": f"Q{quarter}"}
            place["frame"] = f"Q{quarter}__{view}__{session:02d}__{time:02d}.jpg"
            first = len(rows)
            rows += [box(rng, place, label=f"p{player}", row=first + at) for at, player in enumerate(shown)]
            rows.append(box(rng, place, kind="partial", parent=first + int(rng.integers(on_court))))
            rows.append(box(rng, place, kind="background"))
    return pl.DataFrame(rows)


def box(
    rng: np.random.Generator,
    place: dict[str, Any],
    *,
    label: str = "",
    kind: str = "player",
    row: int = -1,
    parent: int = -1,
) -> dict[str, Any]:
    x, y, w, h = rng.uniform(0, 900, 4).tolist()
    sides = {"x": x, "y": y, "w": w, "h": h}
    return {"kind": kind, "label": label, "row": row, "parent": parent, **place, **sides}


def equal(one: Fold, other: Fold) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in PARTS)
    plain = ("number", "unknown_labels", "held_out_groups", "gap", "remarks")
    return arrays and all(getattr(one, name) == getattr(other, name) for name in plain)


def labels(table: pl.DataFrame, rows: np.ndarray) -> set[str]:
    return set(table["label"].to_numpy()[rows])


# --- what a fold is --------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    folds=st.integers(2, 4),
    unknown=st.integers(0, 3),
    on_court=st.integers(5, 9),
    by=st.sampled_from(["group", "quarter"]),
)
@settings(max_examples=25)
def test_what_holds_of_every_fold(seed: int, folds: int, unknown: int, on_court: int, by: str) -> None:
    """A4.4: no group on both sides; unknown players nowhere in training, not even a part of them (A4.19)."""
    table = match(frames=3, on_court=on_court, seed=seed)
    made = open_set_folds(table, folds=folds, unknown_per_fold=unknown, seed=seed, by=by)
    assert [fold.number for fold in made] == list(range(folds))
    held_out = [group for fold in made for group in fold.held_out_groups]
    assert sorted(held_out) == sorted(table[by].unique())  # each part of the table is held out once
    for fold in made:
        holds(table, fold, by)
        lost = {line for line in fold.remarks if "only in held-out groups" in line}
        assert len(fold.unknown_labels) == unknown or lost


def holds(table: pl.DataFrame, fold: Fold, by: str) -> None:
    parts = {name: getattr(fold, name) for name in PARTS}
    for rows in parts.values():
        assert (np.diff(rows) > 0).all()
    assert not any(set(one.tolist()) & set(other.tolist()) for one, other in combinations(parts.values(), 2))
    group, kind = table[by].to_numpy(), table["kind"].to_numpy()
    for name, rows in parts.items():
        assert set(kind[rows]) <= ({"partial", "background"} if "negatives" in name else {"player"})
        assert {(one in fold.held_out_groups) for one in group[rows]} <= {name.startswith("val")}
    known, unknown = labels(table, fold.train), set(fold.unknown_labels)
    assert not known & unknown
    assert labels(table, fold.val_known) <= known
    assert labels(table, fold.val_unknown) == unknown
    label_of = dict(zip(table["row"].to_list(), table["label"].to_list(), strict=True)) | {-1: ""}
    parents = table["parent"].to_numpy()[fold.train_negatives].tolist()
    assert not {label_of[parent] for parent in parents} & unknown
    used = sum(len(rows) for rows in parts.values())
    partials = [at for at, parent in enumerate(table["parent"]) if label_of[parent] in unknown]
    strangers = np.isin(table["label"].to_numpy(), list(unknown)) | np.isin(np.arange(table.height), partials)
    outside = ~np.isin(group, list(fold.held_out_groups))
    assert used == table.height - (strangers & outside).sum()  # and nothing else is left out
    assert fold.gallery is fold.train
    assert check_leaks(fold, table) == []


def test_every_player_is_unknown_in_one_fold_where_there_are_enough() -> None:
    table = match(players=10, on_court=10)
    made = open_set_folds(table, folds=4, unknown_per_fold=2)
    unknown = [label for fold in made for label in fold.unknown_labels]
    assert len(unknown) == len(set(unknown)) == 8


def test_held_out_parts_are_about_equally_large() -> None:
    """By their boxes, not by how many groups there are: one session is as long as three others."""
    table = match(quarters=10, sessions=1, on_court=12, frames=12)
    uneven = table.filter((pl.col("group") == "Q0/00") | (pl.col("time") < 4))
    for seed in range(5):
        sizes = [len(fold.val_side) for fold in open_set_folds(uneven, folds=4, unknown_per_fold=1, seed=seed)]
        assert sizes == [uneven.height // 4] * 4


def test_equal_seeds_make_equal_folds_and_others_do_not() -> None:
    table = match()
    one, again, other = (open_set_folds(table, folds=3, unknown_per_fold=2, seed=seed) for seed in (5, 5, 6))
    assert all(map(equal, one, again))
    assert not any(map(equal, one, other))


def test_a_player_who_is_only_held_out_is_unknown_and_it_is_said() -> None:
    table = match(players=6, on_court=6)
    late = table.filter((pl.col("label") != "p3") | (pl.col("quarter") == "Q2"))
    folds = open_set_folds(late, folds=4, unknown_per_fold=1, by="quarter")
    (fold,) = (one for one in folds if one.held_out_groups == ("Q2",))
    assert fold.unknown_labels == ("p3",)
    assert fold.remarks[0] == f"fold {fold.number}: only in held-out groups, so counted as unknown: p3"
    assert all(len(one.unknown_labels) == 1 for one in folds)


def test_boxes_without_a_label_are_in_no_fold_and_it_is_said() -> None:
    table = match().with_columns(label=pl.when(pl.col("label") == "p0").then(pl.lit("")).otherwise("label"))
    nameless = np.flatnonzero((table["label"] == "").to_numpy() & (table["kind"] == "player").to_numpy())
    for fold in open_set_folds(table, folds=2, unknown_per_fold=1):
        assert not np.isin(nameless, np.concatenate([fold.train_side, fold.val_side])).any()
        assert any(f"{len(nameless)} boxes without a label" in line for line in fold.remarks)


def test_a_table_without_kinds_is_one_of_players() -> None:
    table = match().filter(pl.col("kind") == "player").drop("kind", "row", "parent", "time", "view")
    for fold in open_set_folds(table, folds=2, unknown_per_fold=2):
        holds(table.with_columns(kind=pl.lit("player"), row=-1, parent=-1, time=0.0), fold, "group")


# --- blocks of time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1.5, 3.0, 6.0])
def test_blocks_of_time_lie_a_gap_apart_in_all_views(gap: float) -> None:
    """A4.4: one session alone can be split, and no neighbouring frames lie on both sides."""
    table = match(quarters=1, sessions=2, frames=60, on_court=10)
    for fold in open_set_folds(table, folds=3, unknown_per_fold=1, block=10, gap=gap):
        groups, times = table["group"].to_numpy(), table["time"].to_numpy()
        for group in ("Q0/00", "Q0/01"):
            train = times[fold.train_side][groups[fold.train_side] == group]
            val = times[fold.val_side][groups[fold.val_side] == group]
            if len(train) and len(val):
                assert np.abs(train[:, None] - val[None]).min() >= gap
        assert fold.gap == gap
        assert check_leaks(fold, table) == []
        left_out = [line for line in fold.remarks if "too near in time" in line]
        assert left_out
        assert all(" from " in name for name in fold.held_out_groups)


def test_instants_of_a_block_are_counted_not_measured() -> None:
    """Blocks hold that many instants, however far apart they are."""
    table = match(quarters=1, sessions=1, frames=20, on_court=10).with_columns(time=pl.col("time") ** 2)
    names = {
        name
        for fold in open_set_folds(table, folds=2, unknown_per_fold=1, block=5, gap=1)
        for name in fold.held_out_groups
    }
    assert names == {"Q0/00 from 0", "Q0/00 from 25", "Q0/00 from 100", "Q0/00 from 225"}


@given(st.data())
def test_time_distance_is_that_of_a_loop(data: st.DataObject) -> None:
    row = st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 7.25, -3.0, 1e9, 1e9 + 0.04]))
    ones, others = data.draw(st.lists(row, max_size=12)), data.draw(st.lists(row, max_size=12))
    wanted = [min((abs(t - u) for h, u in others if g == h), default=np.inf) for g, t in ones]
    got = time_distance(*columns(ones), *columns(others))
    assert got.tolist() == wanted


def columns(rows: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([group for group, _ in rows], np.int64), np.array([time for _, time in rows], np.float64)


def test_parents_are_found_by_their_row_in_the_table() -> None:
    """Of a pack, whose rows are in another order than the table that it was made of."""
    table = pl.DataFrame({"row": [7, -1, 2, -1, -1], "parent": [-1, 2, -1, 7, 5], "label": ["a", "", "b", "", ""]})
    assert parent_labels(table).tolist() == ["", "b", "", "a", ""]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folds": 1}, "at least 2 folds, got 1"),
        ({"folds": 9}, "8 parts with labelled boxes when held out by group, too few for 9 folds; make fewer folds"),
        ({"by": "view"}, r"the group Q\d/0\d is in two parts \(side, top\) when held out by view"),
        ({"by": "half"}, "no column half to hold out by; there are kind, label"),
        ({"block": 5}, "with a gap above 0 between the two sides, got block 5 and gap None"),
        ({"unknown_per_fold": 6}, "too few for 6 unknown ones and a known one"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_set_folds(match(players=6), **{"folds": 2, "unknown_per_fold": 1, **options})


def test_tables_that_say_too_little_are_refused() -> None:
    table = match()
    with pytest.raises(UsageError, match="folds need the column label"):
        open_set_folds(table.drop("label"), folds=2, unknown_per_fold=1)
    with pytest.raises(UsageError, match="and there are none; name the column with --label"):
        open_set_folds(table.with_columns(label=pl.lit("")), folds=2, unknown_per_fold=1)
    with pytest.raises(UsageError, match="blocks of time need a time of every box"):
        open_set_folds(table.with_columns(time=pl.lit(None, pl.Float64)), folds=2, unknown_per_fold=1, block=2, gap=1)
    with pytest.raises(UsageError, match="1 parts with labelled boxes when held out by group, too few for 2 folds"):
        open_set_folds(table.with_columns(group=pl.lit("")), folds=2, unknown_per_fold=1)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"by": "quarter"}, {"block": 4, "gap": 2.0}])
def test_folds_are_read_back_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    table = match()
    made = open_set_folds(table, folds=3, unknown_per_fold=2, **options)
    save_folds(tmp_path / "folds.parquet", made, table)
    assert all(map(equal, load_folds(tmp_path / "folds.parquet", table), made))
    assert [path.name for path in tmp_path.iterdir()] == ["folds.parquet"]
    shown = pl.read_parquet(tmp_path / "folds.parquet")["fold_1"].to_numpy()
    assert np.array_equal(np.flatnonzero(shown == "val_known"), made[1].val_known)
    before = (tmp_path / "folds.parquet").read_bytes()
    save_folds(tmp_path / "folds.parquet", made, table)
    assert (tmp_path / "folds.parquet").read_bytes() == before


def test_folds_of_another_table_and_other_files_are_refused(tmp_path: Path) -> None:
    """A4.12: folds name rows of one pack; of another they would name other players."""
    table, path = match(), tmp_path / "folds.parquet"
    save_folds(path, open_set_folds(table, folds=2, unknown_per_fold=1), table)
    for other in (table.head(-1), table.reverse(), table.with_columns(x=pl.col("x") + 1)):
        with pytest.raises(InputError, match="of another table, or of an older one"):
            load_folds(path, other)
    with pytest.raises(InputError, match="there are no folds"):
        load_folds(tmp_path / "none.parquet")
    table.write_parquet(tmp_path / "table.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-50])
    for name in ("table.parquet", "cut.parquet"):
        with pytest.raises(InputError, match="holds no folds, or is damaged; make them again"):
            load_folds(tmp_path / name)
