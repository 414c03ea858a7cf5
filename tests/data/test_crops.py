"""Crops of one size, the same from a pack, from files and from frames; what cannot be read is replaced and named."""

import math
import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch
from tests.data.match import make_match, write_files

from lightmill.data.crops import CropDataset, Jitter, collate, resize_into, unreadable_note
from lightmill.data.loose import CropFiles, FrameCrops
from lightmill.data.pack import CropPack, PackWriter
from lightmill.errors import InputError, ItemError, UsageError

HW = (64, 32)


@pytest.fixture
def match(tmp_path):
    return make_match(tmp_path / "match")


def rewritten(match, change):
    """The pack anew, each row's crop as `change(number, bytes)` makes it."""
    with PackWriter(match.pack, store="jpeg", expand=1.2) as writer:
        writer.add(replace(row, crop=change(number, row.crop)) for number, row in enumerate(match.rows))
    return CropPack.open(match.pack)


def resized(pixels, hw=HW):
    out = np.empty((*hw, 3), np.uint8)
    resize_into(np.ascontiguousarray(pixels), out)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# one interface over three sources


def test_three_sources_give_the_same_crops(match, tmp_path):
    """Exactly what numpy slices out of the frame; a pack and files differ by their JPEG alone."""
    pack = CropDataset(CropPack.open(match.pack), size_hw=HW)
    files = CropDataset(CropFiles(write_files(match, tmp_path / "loose")), size_hw=HW)
    frames = CropDataset(FrameCrops(match.table.filter(pl.col("kind") == "player"), match.images), size_hw=HW)
    assert len(pack) == len(files) == len(match.rows) > len(frames)
    assert pack.table.equals(files.table)
    for number in range(len(pack)):
        expected = resized(simplejpeg.decode_jpeg(match.rows[number].crop))
        for dataset in (pack, files):
            pixels, index = dataset[number]
            assert index == number
            np.testing.assert_array_equal(pixels, expected)
    for number, row in enumerate(frames.table["row"].to_list()):
        np.testing.assert_array_equal(frames[number][0], resized(match.cut(row)))


def test_raw_pixels_come_as_they_are(match, tmp_path):
    crop = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
    with PackWriter(tmp_path / "raw.arrow", store="raw", size=HW[::-1], expand=1.2) as writer:
        writer.add([replace(match.rows[0], crop=crop)])
    np.testing.assert_array_equal(CropDataset(CropPack.open(tmp_path / "raw.arrow"), size_hw=HW)[0][0], crop)


def test_rows_and_expressions_choose(match):
    source = CropPack.open(match.pack)
    top = np.flatnonzero((source.table["view"] == "top").to_numpy())
    dataset = CropDataset(source, size_hw=HW, rows=top[::-1], where=pl.col("label") == "p2")
    expected = [row for row in top[::-1].tolist() if match.rows[row].label == "p2"]
    assert dataset.rows.tolist() == expected
    assert dataset.table["frame"].to_list() == [match.rows[row].frame for row in expected]
    np.testing.assert_array_equal(dataset[1][0], resized(source.pixels(expected[1])))
    with pytest.raises(UsageError, match=r"no crop is left of \d+, with all rows and .*nobody"):
        CropDataset(source, where=pl.col("label") == "nobody")
    with pytest.raises(UsageError, match=r"rows 0 to 999 were asked for, of a source of \d+ crops"):
        CropDataset(source, rows=[0, 999])


# ---------------------------------------------------------------------------------------------------------------------
# size


def test_sides_that_shrink_are_averaged_and_sides_that_grow_are_interpolated():
    """Oracles: the mean of blocks; np.interp along one axis; both, one after the other, where the sides differ."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (96, 64, 3), np.uint8)
    means = pixels.reshape(32, 3, 32, 2, 3).mean((1, 3))
    assert np.abs(resized(pixels, (32, 32)) - means).max() <= 0.5 + 1e-6
    small = rng.integers(0, 256, (16, 8, 3), np.uint8)
    assert np.abs(resized(small, (64, 8)) - interpolated(small, 64)).max() <= 1
    mixed = resized(pixels, (240, 32))
    across = resized(pixels, (96, 32))
    assert np.abs(mixed - interpolated(across, 240)).max() <= 1
    np.testing.assert_array_equal(resized(pixels, (96, 64)), pixels)


def interpolated(pixels, height):
    """Linear along the rows, pixel centres at half."""
    at = (np.arange(height) + 0.5) * len(pixels) / height - 0.5
    columns = pixels.reshape(len(pixels), -1).astype(float)
    found = [np.interp(at, np.arange(len(pixels)), column) for column in columns.T]
    return np.stack(found, 1).reshape(height, *pixels.shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# box jitter


def test_jitter_moves_and_scales_within_its_bounds(match):
    """Frames have context: the window is the box moved and scaled, never outside the frame."""
    jitter, cut, frame = Jitter(shift=0.1, scale=0.2), (50, 60, 40, 80), (0, 0, 240, 180)
    draws = np.random.default_rng(0).uniform(-1, 1, (2000, 4))
    windows = np.array([jitter.apply(cut, draw, inside=frame) for draw in draws])
    centres = windows[:, :2] + windows[:, 2:] / 2 - (70, 100)
    assert (np.abs(centres) <= (4 + 0.51, 8 + 0.51)).all()
    assert (np.abs(centres).max(0) > (3.5, 7.5)).all()
    assert (windows[:, 2:] <= np.ceil(np.multiply(cut[2:], math.exp(0.2))) + 1).all()
    assert (windows[:, 2:] >= np.floor(np.multiply(cut[2:], math.exp(-0.2))) - 1).all()
    assert abs(np.log(windows[:, 3] / 80).mean()) < 0.01
    assert jitter.apply(cut, np.zeros(4), inside=frame) == cut
    at_the_edge = np.array([jitter.apply((0, 150, 40, 30), draw, inside=frame) for draw in draws])
    assert (at_the_edge[:, :2] >= 0).all()
    assert (at_the_edge[:, :2] + at_the_edge[:, 2:] <= (240, 180)).all()
    tiny = Jitter(shift=5, scale=3).apply((239, 179, 1, 1), np.array([1, 1, -1, -1.0]), inside=frame)
    assert tiny[2:] == (1, 1)


def test_jitter_of_frames_shows_what_lies_beyond_the_cut(match):
    """And a pack's crops lose a margin instead: both are the very pixels of that window."""
    jitter = Jitter(shift=0.2, scale=0.0)
    table = match.table.filter(pl.col("kind") == "player")
    frames = CropDataset(FrameCrops(table, match.images), size_hw=HW, jitter=jitter, seed=4)
    context = frames.source.context(5)
    found = frames[5][0]
    moved = []
    for dx in range(-9, 10):
        for dy in range(-17, 18):
            window = np.add(context.cut, (dx, dy, 0, 0))
            left, top = np.maximum(window[:2], 0)
            right, bottom = np.minimum(window[:2] + window[2:], (240, 180))
            if np.array_equal(resized(context.pixels[top:bottom, left:right]), found):
                moved.append((dx, dy))
    assert len(moved) == 1
    assert moved[0] != (0, 0)
    pack = CropDataset(CropPack.open(match.pack), size_hw=HW, jitter=jitter, seed=4)
    assert not np.array_equal(pack[5][0], CropDataset(pack.source, size_hw=HW)[5][0])


def test_jitter_hangs_on_the_seed_and_on_the_batch(match):
    source = CropPack.open(match.pack)

    def batch(indices, seed=1):
        return CropDataset(source, size_hw=HW, jitter=Jitter(), seed=seed).__getitems__(indices).pixels.numpy()

    np.testing.assert_array_equal(batch([3, 4, 3]), batch([3, 4, 3]))
    twice = batch([3, 4, 3])
    assert not np.array_equal(twice[0], twice[2])  # one crop twice in a batch, seen in two ways
    assert not np.array_equal(twice[0], batch([3, 5, 3])[0])
    assert not np.array_equal(twice, batch([3, 4, 3], seed=2))


def test_a_raw_crop_of_another_size_than_its_cut_is_jittered_in_its_own_pixels(tmp_path, match):
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (128, 64, 3)).copy()
    row = replace(match.rows[0], crop=ramp, left=0, top=0, width=32, height=64)
    with PackWriter(tmp_path / "raw.arrow", store="raw", size=(64, 128), expand=1.2) as writer:
        writer.add([row])
    dataset = CropDataset(CropPack.open(tmp_path / "raw.arrow"), size_hw=(8, 8), jitter=Jitter(shift=0.0, scale=0.5))
    read = np.empty((8, 8, 3), np.uint8)
    dataset.read(0, read, np.array([0, 0, -1, -1.0]))  # the middle 19 px (6 to 26) of 32: columns 12 to 52 of 64
    assert abs(read[..., 0].mean() - 31.5) < 1.5
    assert 12 <= read.min() <= 16
    assert 47 <= read.max() <= 52


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be read


def test_another_crop_of_the_same_player_takes_the_place_of_a_damaged_one(match):
    """Never the frame, never black, never half a crop; counted and named (A4.16)."""
    bad = {0, 9}
    pack = rewritten(match, lambda number, crop: crop[: len(crop) // 2] if number in bad else crop)
    dataset = CropDataset(pack, size_hw=HW, seed=3)
    for _ in range(3):
        for number in bad:
            pixels, index = dataset[number]
            assert index not in bad
            assert match.rows[index].label == match.rows[number].label
            assert match.rows[index].kind == "player"
            np.testing.assert_array_equal(pixels, resized(simplejpeg.decode_jpeg(match.rows[index].crop)))
    found = dataset.unreadable()
    assert [(one.row, one.times) for one in found] == [(0, 3), (9, 3)]
    note = unreadable_note(found, dataset.table)
    assert note.startswith("crops that cannot be read: 2; others were drawn in their place 6 times: ")
    assert f"{match.rows[9].frame} (row 9): a crop has to be whole: the JPEG is damaged" in note
    assert dataset.unreadable(forget=True) == found
    assert dataset.unreadable() == []
    assert unreadable_note([], dataset.table) == ""
    drawn = [[CropDataset(pack, size_hw=HW, seed=3)[number][1] for number in bad] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_frames_that_are_gone_or_cut_short_are_no_crops(match):
    """An error does not make the whole frame a player (A4.16); a box outside its frame is none either."""
    first, second = sorted(match.frames)[:2]
    (match.images / first).unlink()
    data = (match.images / second).read_bytes()
    (match.images / second).write_bytes(data[: len(data) // 2])
    table = match.table.with_columns(pl.when(pl.col("row") == 20).then(1000.0).otherwise(pl.col("x")).alias("x"))
    source = FrameCrops(table, match.images)
    dataset = CropDataset(source, size_hw=HW)
    for number in range(len(dataset)):
        index = dataset[number][1]
        assert dataset.table["frame"][index] not in (first, second)
        assert dataset.table["row"][index] != 20
    reasons = {one.row: one.reason for one in dataset.unreadable()}
    assert len(reasons) == (table["frame"].is_in([first, second]) | (table["row"] == 20)).sum()
    gone = table["frame"].to_list().index(first)
    assert reasons[gone].endswith(f"{first} cannot be read: No such file or directory")
    assert "has to be whole: the JPEG is damaged" in reasons[table["frame"].to_list().index(second)]
    assert "lies outside the frame" in reasons[table["row"].to_list().index(20)]


def test_where_nothing_can_be_read_it_ends_with_a_message(match):
    dataset = CropDataset(rewritten(match, lambda number, crop: b"no picture"), size_hw=HW)
    with pytest.raises(
        InputError, match=r"32 crops in a row cannot be read, the last because: .*; make the crops again"
    ):
        dataset[0]


def test_a_lone_negative_is_replaced_by_anything_that_can_be_read(match):
    backgrounds = [number for number, row in enumerate(match.rows) if row.kind == "background"]
    pack = rewritten(match, lambda number, crop: b"" if number in backgrounds else crop)
    dataset = CropDataset(pack, size_hw=HW)
    assert dataset[backgrounds[0]][1] not in backgrounds


# ---------------------------------------------------------------------------------------------------------------------
# workers


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_one_process_gives(match, start):
    """The same bytes, jitter and draws in place of damaged crops included; and the damage is known in this process."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start} a process")
    pack = rewritten(match, lambda number, crop: b"" if number == 3 else crop)
    batches = [list(range(first, first + 7)) for first in range(0, 21, 7)]

    def epoch(**options):
        dataset = CropDataset(pack, size_hw=HW, jitter=Jitter(), seed=9)
        loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)
        found = list(loader)
        return found, [(one.row, one.times) for one in dataset.unreadable()]

    alone, here = epoch(num_workers=0)
    apart, there = epoch(num_workers=2 if start == "fork" else 1, multiprocessing_context=start)
    assert here == there == [(3, 1)]
    for (pixels, rows), (others, other_rows) in zip(alone, apart, strict=True):
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (7, *HW, 3)
        assert torch.equal(pixels, others)
        assert torch.equal(rows, other_rows)


def test_what_a_worker_gets_is_small(match):
    """The path of a mapped file and columns of numbers: no table, no crop, no object of Python for a row (A4.23)."""
    dataset = CropDataset(CropPack.open(match.pack), size_hw=HW, rows=np.tile(np.arange(20), 5000))
    assert len(dataset.table) == 100_000
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 100_000 * 40
    assert pickle.loads(pickled)[99_999][1] == 99_999
    assert b"Q1__side" not in pickled


# ---------------------------------------------------------------------------------------------------------------------
# loose files


def test_a_table_of_loose_files_that_does_not_serve_is_refused(match, tmp_path):
    folder = write_files(match, tmp_path / "loose")
    with pytest.raises(InputError, match=r"cannot be read as a table .*; make it with `lightmill crop --store files`"):
        CropFiles(tmp_path)
    table = pl.read_csv(folder / "crops.csv", infer_schema=False)
    table.drop("overlap").write_csv(tmp_path / "less.csv")
    with pytest.raises(InputError, match=r"less.csv lacks the columns overlap"):
        CropFiles(tmp_path / "less.csv")
    table.with_columns(pl.lit("wide").alias("width")).write_csv(tmp_path / "odd.csv")
    with pytest.raises(InputError, match=r"odd.csv has a cell that is no number"):
        CropFiles(tmp_path / "odd.csv")
    with pytest.raises(InputError, match=r"the table of boxes lacks frame, w; it has"):
        FrameCrops(match.table.drop("frame", "w"), match.images)


def test_labels_of_loose_files_stay_text(match, tmp_path):
    folder = write_files(match, tmp_path / "loose[1]")
    table = pl.read_csv((folder / "crops.csv").read_bytes(), infer_schema=False)
    table.with_columns(pl.lit("007").alias("label"), pl.lit("").alias("time")).write_csv(folder / "crops.csv")
    files = CropFiles(folder)
    assert set(files.table["label"]) == {"007"}
    assert files.table["time"].null_count() == len(files)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert CropFiles(Path(moved)).pixels(0).shape[2] == 3
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        files.pixels(0)


def test_opencv_is_left_as_it_was(match):
    before = cv2.getNumThreads()
    dataset = CropDataset(CropPack.open(match.pack), size_hw=HW)
    list(torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=1, collate_fn=collate))
    assert cv2.getNumThreads() == before
