"""A pack is read in place: nothing is copied, nothing is half there, and other programs read it."""

import multiprocessing
import os
import pickle
import shutil
import time
from contextlib import suppress

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg

from lightmill.data.pack import BATCH_ROWS, COLUMNS, CropPack, CropRow, PackWriter
from lightmill.engine.outputs import temporary_name
from lightmill.errors import DamagedImage, DecodeError, InputError, NotAnImage, OutputError

BOX = {"x": 10.5, "y": 20.25, "w": 30.0, "h": 40.0, "left": 8, "top": 16, "width": 36, "height": 48}


def a_row(number, crop, **values):
    return CropRow(**({"crop": crop, "frame": f"f{number}.jpg", "row": number} | BOX | values))


def noise(count, *, hw=(24, 12), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *hw, 3), np.uint8)


@pytest.fixture
def jpegs():
    return [simplejpeg.encode_jpeg(crop, quality=90) for crop in noise(40)]


def write(path, crops, *, store="jpeg", size=None, **values):
    with PackWriter(path, store=store, size=size, expand=1.2) as writer:
        writer.add(a_row(number, crop, **values) for number, crop in enumerate(crops))
    return path


def test_all_columns_come_back(tmp_path, jpegs):
    """The contract of the file: columns, their order and their types, and what the schema says of the pack."""
    path = tmp_path / "crops.arrow"
    with PackWriter(path, store="jpeg", expand=1.2, columns=["quarter", "frame", "frame"]) as writer:
        writer.add(
            [
                a_row(
                    0, jpegs[0], label="7", group="Q1/2", view="side", time=0.25, other={"quarter": "Q1", "frame": "31"}
                )
            ]
        )
        writer.add([a_row(-1, jpegs[1], kind="partial", parent=0, overlap=0.5)])
    pack = CropPack.open(tmp_path)
    assert (pack.store, pack.size, pack.expand) == ("jpeg", None, 1.2)
    assert pack.columns == ("quarter", "frame_2", "frame_3")
    assert pack.table.columns == [*COLUMNS[1:], "quarter", "frame_2", "frame_3"]
    assert pack.table.row(0) == (
        "player", "7", "f0.jpg", "Q1/2", "side", 0.25, 10.5, 20.25, 30.0, 40.0, 8, 16, 36, 48, 0, -1, 0.0,
        "Q1", "31", "31",
    )  # fmt: skip
    assert pack.table.row(1)[:6] == ("partial", "", "f-1.jpg", "", "", None)
    assert pack.table.row(1)[14:] == (-1, 0, 0.5, "", "", "")
    assert pack.place(1) == ((10.5, 20.25, 30.0, 40.0), (8, 16, 36, 48))
    types = dict(pack.table.schema)
    assert [types[name] for name in ("time", "x", "left", "row", "overlap")] == [
        pl.Float64, pl.Float64, pl.Int32, pl.Int64, pl.Float32,
    ]  # fmt: skip


def test_an_encoded_crop_lies_in_the_mapped_file(tmp_path, jpegs):
    """No copy: its address is inside the mapping of the file, and Arrow has allocated nothing."""
    path = write(tmp_path / "crops.arrow", jpegs)
    before = pa.total_allocated_bytes()
    pack = CropPack.open(path)
    view = pack.encoded(17)
    assert pa.total_allocated_bytes() == before
    assert view == jpegs[17]
    assert view.readonly
    assert in_mapping(address(view), path)
    assert not in_mapping(address(bytes(view)), path)


def test_raw_pixels_lie_in_the_mapped_file(tmp_path):
    crops = noise(5)
    path = write(tmp_path / "crops.arrow", crops, store="raw", size=(12, 24))
    pack = CropPack.open(path)
    assert pack.size == (12, 24)
    for number, crop in enumerate(crops):
        np.testing.assert_array_equal(pack.pixels(number), crop)
    assert in_mapping(address(pack.pixels(3)), path)
    assert not pack.pixels(3).flags.writeable
    with pytest.raises(ValueError, match=r"raw pixels, no JPEG files; use pixels"):
        pack.encoded(0)


def address(data):
    return np.frombuffer(data, np.uint8).ctypes.data


def in_mapping(where, path):
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("this system does not list the mappings of a process")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        spans = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(str(path))]
    assert spans
    return any(int(first, 16) <= where < int(end, 16) for first, end in spans)


def test_jpeg_crops_are_decoded_as_any_other_decoder_does(tmp_path, jpegs):
    pack = CropPack.open(write(tmp_path / "crops.arrow", jpegs))
    np.testing.assert_array_equal(pack.pixels(3), simplejpeg.decode_jpeg(jpegs[3]))


def test_rows_are_found_across_record_batches(tmp_path):
    """Batches of several lengths, also those of a file that others wrote."""
    crops = [b"crop %d" % number for number in range(2 * BATCH_ROWS + 100)]
    path = write(tmp_path / "crops.arrow", crops)
    with pa.memory_map(str(path)) as file:
        batches = list(map(pa.ipc.open_file(file).get_batch, range(3)))
        assert [batch.num_rows for batch in batches] == [BATCH_ROWS, BATCH_ROWS, 100]
        with pa.ipc.new_file(str(tmp_path / "other.arrow"), batches[0].schema) as other:
            for part in (batches[0][:1], batches[0][1:1], batches[0][1:700], batches[0][700:], *batches[1:]):
                other.write_batch(part)
    for name in ("crops.arrow", "other.arrow"):
        pack = CropPack.open(tmp_path / name)
        assert len(pack) == len(crops)
        assert [bytes(pack.encoded(number)) for number in range(len(pack))] == crops
        assert pack.table["row"].to_list() == list(range(len(crops)))
        for outside in (-1, len(crops)):
            with pytest.raises(IndexError, match=f"crop {outside} of a pack of {len(crops)}"):
                pack.encoded(outside)


def test_a_pack_of_nothing(tmp_path):
    pack = CropPack.open(write(tmp_path / "crops.arrow", []))
    assert len(pack) == 0
    assert pack.table.shape == (0, len(COLUMNS) - 1)


def test_other_programs_read_it(tmp_path, jpegs):
    datasets = pytest.importorskip("datasets")
    path = write(tmp_path / "crops.arrow", jpegs, label="7")
    frame = pl.read_ipc(path)
    assert frame.columns == list(COLUMNS)
    assert frame["crop"].to_list() == jpegs
    loaded = datasets.load_dataset("arrow", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [bytes(row["crop"]) for row in loaded] == jpegs
    assert set(loaded["label"]) == {"7"}
    raw = write(tmp_path / "raw.arrow", noise(5), store="raw", size=(12, 24))
    loaded = datasets.load_dataset("arrow", data_files=str(raw), split="train", cache_dir=str(tmp_path / "cache"))
    assert b"".join(loaded["crop"]) == b"".join(pl.read_ipc(raw)["crop"].to_list()) == noise(5).tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# writing


def test_it_appears_whole_or_not_at_all(tmp_path, jpegs):
    path = write(tmp_path / "crops.arrow", jpegs[:3])
    before = path.read_bytes()

    def fail_half_way():
        with PackWriter(path, store="jpeg", expand=1.2) as writer:
            writer.add([a_row(0, jpegs[0])])
            assert sum(name.startswith(".lm-") and name.endswith(".tmp") for name in os.listdir(tmp_path)) == 1
            raise RuntimeError("broken source")

    with pytest.raises(RuntimeError, match="broken source"):
        fail_half_way()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["crops.arrow"]


def test_the_same_rows_give_the_same_bytes(tmp_path, jpegs):
    """However they are added, durable or not."""
    one = write(tmp_path / "one.arrow", jpegs)
    with PackWriter(tmp_path / "two.arrow", store="jpeg", expand=1.2, durable=True) as writer:
        for number, crop in enumerate(jpegs):
            writer.add([a_row(number, memoryview(crop))])
    writer.close()
    assert one.read_bytes() == (tmp_path / "two.arrow").read_bytes()
    with pytest.raises(ValueError, match="is closed; no row can be added"):
        writer.add([])


def test_memory_stays_flat(tmp_path):
    """Large crops go to the disk long before there are 1,024 of them."""
    crop = noise(1, hw=(256, 512))[0]
    before, peak = pa.total_allocated_bytes(), 0
    with PackWriter(tmp_path / "crops.arrow", store="raw", size=(512, 256), expand=1.2) as writer:
        for number in range(400):  # 157 MB
            writer.add([a_row(number, crop)])
            peak = max(peak, pa.total_allocated_bytes() - before)
            assert len(writer._rows) * crop.nbytes < 17 << 20
    assert peak < 40 << 20
    assert len(CropPack.open(tmp_path)) == 400


def test_a_full_disk_is_named(tmp_path):
    """/dev/full takes nothing: the hidden name is a link to it."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    hidden = tmp_path / temporary_name("crops.arrow")
    hidden.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"the disk is full: cannot write .*crops.arrow; make room"):
        write(tmp_path / "crops.arrow", [bytes(17 << 20)])
    assert os.listdir(tmp_path) == []


def test_rows_that_do_not_fit_are_refused(tmp_path, jpegs):
    with pytest.raises(ValueError, match="raw with a size"):
        PackWriter(tmp_path / "a.arrow", store="raw", expand=1.2)
    with PackWriter(tmp_path / "crops.arrow", store="raw", size=(12, 24), expand=1.2) as writer:
        with pytest.raises(ValueError, match=r"crops are uint8 \(24, 12, 3\), got uint8 \(12, 24, 3\)"):
            writer.add([a_row(0, np.zeros((12, 24, 3), np.uint8))])
        with pytest.raises(ValueError, match="a crop is an array, got <class 'bytes'>"):
            writer.add([a_row(0, jpegs[0])])
        with pytest.raises(ValueError, match="kind is one of player, background, partial, got 'ball'"):
            writer.add([a_row(0, noise(1)[0], kind="ball")])
        with pytest.raises(ValueError, match=r"opened with the columns \[\], got \['quarter'\] too"):
            writer.add([a_row(0, noise(1)[0], other={"quarter": "Q1"})])
    assert len(CropPack.open(tmp_path)) == 0


# ---------------------------------------------------------------------------------------------------------------------
# opening


def test_what_is_no_pack_says_what_to_do(tmp_path, jpegs):
    again = "make it again with `lightmill crop`"
    with pytest.raises(
        InputError, match=r"there is no pack .*crops.arrow; make one with `lightmill crop META.csv OUT`"
    ):
        CropPack.open(tmp_path)
    path = tmp_path / "crops.arrow"
    for content in (b"", b"ARROW1", os.urandom(5000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"crops.arrow is damaged, cut short, or no Arrow file \(.*\); {again}"):
            CropPack.open(path)
    pl.DataFrame({"crop": [b"x"]}).write_ipc(path)
    with pytest.raises(InputError, match=r"is an Arrow file, but no pack of crops; make one with"):
        CropPack.open(path)
    write(path, jpegs)
    content = path.read_bytes()
    for cut in (100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=rf"cut short.*{again}"):
            CropPack.open(path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (b"", "does not say what pack it is"),
        (b"[]", "does not say what pack it is"),
        (b'{"version": 2, "store": "jpeg", "size": null, "expand": 1}', "version 2, this Lightmill reads version 1"),
        (b'{"version": 1, "store": "png", "size": null, "expand": 1}', "'png' of size None, which is not known"),
        (b'{"version": 1, "store": "raw", "size": [1, 1], "expand": 1}', "as other types: crop;"),
    ],
)
def test_packs_of_another_kind_are_refused(tmp_path, jpegs, about, message):
    path = write(tmp_path / "crops.arrow", jpegs)
    rewritten(path, lambda table: table.replace_schema_metadata({b"lightmill": about}))
    with pytest.raises(InputError, match=message):
        CropPack.open(path)


def test_a_pack_without_its_columns_is_refused(tmp_path, jpegs):
    path = write(tmp_path / "crops.arrow", jpegs)
    rewritten(path, lambda table: table.drop_columns(["overlap"]))
    with pytest.raises(InputError, match=r"lacks the columns of a pack, or has them as other types: .*overlap"):
        CropPack.open(path)


def rewritten(path, change):
    with pa.memory_map(str(path)) as file:
        table = change(pa.ipc.open_file(file).read_all())
    with pa.ipc.new_file(str(path) + "2", table.schema) as other:
        other.write_table(table)
    os.replace(str(path) + "2", path)


def test_a_crop_that_is_not_whole_is_refused_alone(tmp_path, jpegs):
    """Never black, never half a picture (A4.16)."""
    pack = CropPack.open(write(tmp_path / "crops.arrow", [jpegs[0], jpegs[1][:-300], b"", jpegs[3]]))
    with pytest.raises(DamagedImage, match="a crop has to be whole: the JPEG is damaged"):
        pack.pixels(1)
    with pytest.raises(NotAnImage, match="empty"):
        pack.pixels(2)
    assert pack.pixels(3).shape == (24, 12, 3)


def test_bytes_that_were_changed_never_crash(tmp_path, jpegs):
    """Whatever is flipped: an error that the program raises on purpose, or a crop; a crash would end this process."""
    path = write(tmp_path / "crops.arrow", jpegs)
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    refused = 0
    for attempt in range(150):
        content = np.frombuffer(whole, np.uint8).copy()
        ends = np.r_[0:4000, len(content) - 4000 : len(content)] if attempt % 2 else np.arange(len(content))
        content[rng.choice(ends, rng.integers(1, 40))] = rng.integers(0, 256)
        path.write_bytes(content.tobytes())
        try:
            pack = CropPack.open(path)
            assert len(pack.table) == len(pack)
            for number in range(0, len(pack), 7):
                pack.place(number)
                with suppress(DecodeError):
                    pack.pixels(number)
        except InputError:
            refused += 1
    assert 20 < refused < 150


def test_a_million_rows_open_in_milliseconds(tmp_path):
    """By copying one record batch: what is written does not matter here, only how much there is."""
    path = write(tmp_path / "crops.arrow", [b"x" * 20] * BATCH_ROWS)
    with pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        with pa.ipc.new_file(str(tmp_path / "large.arrow"), batch.schema) as large:
            for _ in range(977):
                large.write_batch(batch)
    CropPack.open(path)  # imports
    began = time.thread_time()
    pack = CropPack.open(tmp_path / "large.arrow")
    took_s = time.thread_time() - began
    assert len(pack) == 977 * BATCH_ROWS > 1_000_000
    assert took_s < 0.25, took_s  # 0.015 on an idle machine


# ---------------------------------------------------------------------------------------------------------------------
# other processes


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_other_processes_map_the_same_file(tmp_path, jpegs, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method} a process")
    pack = CropPack.open(write(tmp_path / "crops.arrow", jpegs))
    with multiprocessing.get_context(method).Pool(1) as pool:
        pixels = pool.apply(pack.pixels, (5,))
    np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(jpegs[5]))


def test_pickled_it_is_its_path(tmp_path, jpegs, monkeypatch):
    path = write(tmp_path / "crops.arrow", jpegs)
    monkeypatch.chdir(tmp_path)
    pack = CropPack.open(path.relative_to(tmp_path))
    assert len(pack.table) == 40
    pickled = pickle.dumps(pack)
    assert len(pickled) < 500 + len(str(path))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled).encoded(9) == jpegs[9]
    shutil.copy(path, tmp_path / "new")
    write(path, jpegs[:20])
    with pytest.raises(InputError, match="was written anew while it was in use; start again"):
        pickle.loads(pickled)
    assert pack.encoded(39) == jpegs[39]  # what is mapped stays
