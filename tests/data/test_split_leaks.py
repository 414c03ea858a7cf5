"""Files that training and validation share, found before anything is trained: research B4.10."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.trees import write_pairs

from lightmill.data.index import open_index
from lightmill.data.split_leaks import shared_files
from lightmill.data.splits import split_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Official splits; two files of val are of train, under other names, and a third is of the same size and end."""
    root = tmp_path / "data"
    write_pairs(root / "train", [f"t{number}" for number in range(6)], size=(20, 16))
    write_pairs(root / "val", [f"v{number}" for number in range(4)], size=(20, 12))
    for source, target in (("t1", "v0"), ("t4", "v3")):
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            shutil.copy(root / f"train/{folder}/{source}.{suffix}", root / f"val/{folder}/{target}.{suffix}")
    like = bytearray((root / "train/images/t2.jpg").read_bytes() + bytes(8192))
    (root / "train/images/t2.jpg").write_bytes(like)
    like[30] ^= 1
    shutil.copy(root / "train/masks/t2.png", root / "val/masks/v1.png")
    (root / "val/images/v1.jpg").write_bytes(like)
    return root


def test_files_on_both_sides_are_those_of_equal_bytes(data: Path) -> None:
    index = open_index(data)
    sides = {
        name: [row for row, split in enumerate(index.table["split"]) if split == name] for name in ("train", "val")
    }
    found = shared_files(index.pictures, index.table["size"].to_numpy(), **sides)
    contents = {row: Path(index.pictures.path(row)).read_bytes() for row in (*sides["train"], *sides["val"])}
    wanted = [(t, v) for v in sides["val"] for t in sides["train"] if contents[t] == contents[v]]
    assert sorted((leak.other, leak.row) for leak in found) == sorted(wanted)
    assert {(index.pictures.name(t), index.pictures.name(v)) for t, v in wanted} == {
        ("train/images/t1.jpg", "val/images/v0.jpg"),
        ("train/images/t4.jpg", "val/images/v3.jpg"),
    }
    assert {leak.kind for leak in found} == {"same file"}


def test_a_training_is_told(data: Path) -> None:
    """Splits that came with the data are taken as they are, and what is wrong with them is said."""
    (remark,) = split_rows(open_index(data)).remarks
    assert remark == (
        "leak: 2 held-out pictures trained on as well, byte for byte, as train/images/t1.jpg | val/images/v0.jpg; "
        "train/images/t4.jpg | val/images/v3.jpg; lightmill check names all, and those that are nearly the same"
    )


def test_files_that_are_gone_are_no_leak(data: Path) -> None:
    index = open_index(data)
    for name in ("train/images/t1.jpg", "val/images/v3.jpg"):
        (data / name).unlink()
    assert split_rows(index).remarks == ()


def test_files_of_other_sizes_are_not_compared(data: Path) -> None:
    """Not even opened, by what is known of their sizes: it costs nothing where nothing is wrong."""
    index = open_index(data)
    rows = np.arange(len(index)).tolist()
    assert shared_files(index.pictures, np.ones(len(index)), train=rows[:6], val=rows[6:])
    assert shared_files(index.pictures, np.arange(len(index)), train=rows[:6], val=rows[6:]) == []
