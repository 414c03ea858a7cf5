"""The same player at the same instant, seen by several cameras."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.data.blocks import SharedBlocks
from lightmill.data.crops import CropDataset, Draws, Rows, Samples, read_samples
from lightmill.data.pack import Pixels
from lightmill.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

_INSTANT = ("label", "group", "time")


class MultiViewDataset:
    """Samples of V crops each, one from each of V views: (uint8 [V, h, w, 3], number of the sample).

    `crops` [N, V] says which rows of `dataset.table` a sample is made of. Where a player has two boxes in one view at
    one instant, nobody knows which is right: that instant is left out, and counted in `ambiguous`. Where one of the
    crops cannot be read, all of them are replaced by another instant of the same player.
    """

    def __init__(self, dataset: CropDataset, *, views: Sequence[str], nobody: ArrayLike = ()) -> None:
        """`views`: two or more values of the column `view`; others may be there, and are not used.

        `nobody`: rows of `dataset.table` of which V at a time make samples too, as with negatives; they need not belong
        together. Raises UsageError for views that are not there, and where no player is seen in all of them at once.
        """
        table = dataset.table
        there = sorted(table["view"].unique().drop_nulls().to_list())
        if len(views) < 2 or len(set(views)) < len(views):
            raise UsageError(
                f"two or more different views belong together, got {list(views)}; there are: {_listed(there)}"
            )
        if missing := [view for view in views if view not in there]:
            raise UsageError(f"no crop is of the view {_listed(missing)}; there are: {_listed(there)}")
        players, self.ambiguous = _by_instant(table)
        found = _together(players, views)
        if not len(found):
            raise UsageError(f"no player is seen in {_listed(views)} at one instant of one group")
        rest = np.asarray(nobody, np.int64).reshape(-1)
        others = rest[: len(rest) // len(views) * len(views)].reshape(-1, len(views))
        self.dataset = dataset
        self.views = tuple(views)
        self.crops: Rows = np.concatenate([found, others])
        self.is_player: NDArray[np.bool_] = np.arange(len(self.crops)) < len(found)
        _, codes = np.unique(table["label"].to_numpy()[found[:, 0]], return_inverse=True)
        self._who = np.concatenate([codes, np.full(len(others), -1)])
        self.blocks: SharedBlocks | None = None  # in a worker: where its batches go

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Pixels, int]:
        """(uint8 [V, h, w, 3], number of the sample). Raises InputError where sample after sample cannot be read."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """A batch at once; its `rows` [B, V] are those of `dataset.table`. Raises as for one."""
        shape = len(self.views), *self.dataset.size_hw, 3
        samples = read_samples(self, indices, shape=shape, seed=self.dataset.seed)
        samples.rows = self.crops[samples.rows]
        return samples

    def read(self, index: int, out: Pixels, draws: Draws) -> None:
        """All crops of a sample into `out` [V, h, w, 3]. Raises ItemError where one cannot be read whole."""
        for row, place, own in zip(self.crops[index].tolist(), out, draws, strict=True):
            self.dataset.read(row, place, own)

    def another(self, index: int, rng: np.random.Generator) -> int:
        """Another sample of the same player; of anybody, where there is none."""
        bad = self.dataset.known_bad[self.crops].any(axis=1)
        for candidates in (self._who == self._who[index], np.ones(len(self), np.bool_)):
            good = np.flatnonzero(candidates & ~bad)
            if len(good):
                return int(good[rng.integers(len(good))])
        return int(rng.integers(len(self)))


def moments_of(table: "pl.DataFrame") -> NDArray[np.int64]:
    """For each crop a number that all crops of one player at one instant share; -1 where nobody knows who or when."""
    import polars as pl

    players = _players(table)
    numbers = players.select(pl.struct(_INSTANT).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
    moments = np.full(len(table), -1, np.int64)
    moments[players["row_"].to_numpy()] = numbers
    return moments


def _players(table: "pl.DataFrame") -> "pl.DataFrame":
    """Rows of players of whom it is known who they are, and when."""
    import polars as pl

    known = pl.col("label").fill_null("") != ""
    if "kind" in table.columns:
        known &= pl.col("kind") == "player"
    return (
        table.with_row_index("row_")
        .filter(known & pl.col("time").is_not_null() & pl.col("time").is_not_nan())
        .select("row_", *_INSTANT, "view")
    )


def _by_instant(table: "pl.DataFrame") -> tuple["pl.DataFrame", int]:
    """Players with one box per view and instant, and how many instants have more."""
    import polars as pl

    keys = [*_INSTANT, "view"]
    counted = _players(table).with_columns(pl.len().over(keys).alias("boxes_"))
    doubled = counted.filter(pl.col("boxes_") > 1).select(keys).unique()
    return counted.filter(pl.col("boxes_") == 1), len(doubled)


def _together(players: "pl.DataFrame", views: Sequence[str]) -> Rows:
    """[N, V] rows, in the order of those of the first view."""
    import polars as pl

    def seen(number: int) -> pl.DataFrame:
        return players.filter(pl.col("view") == views[number]).select(*_INSTANT, pl.col("row_").alias(f"row_{number}"))

    joined = seen(0)
    for number in range(1, len(views)):
        joined = joined.join(seen(number), on=_INSTANT, how="inner")
    rows = joined.sort("row_0").select(pl.col(f"row_{number}") for number in range(len(views))).to_numpy()
    return np.ascontiguousarray(rows, np.int64)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
