"""What a student is trained on: whole samples, others for those that cannot be read, kept once they are made."""

import multiprocessing
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.trees import age, write_pairs, write_picture

from lightmill.data.index import Index, open_index
from lightmill.data.labels import open_labels
from lightmill.data.sample_cache import PACK_NAME
from lightmill.data.segment_loader import EpochOrder, SegmentLoader
from lightmill.data.segment_samples import BARS, SampleMaker, part_of, resized_map, split_sample
from lightmill.data.segments import SegmentData, SegmentDataset
from lightmill.errors import InputError, ItemError, TooManyFailures, UsageError
from lightmill.types import Budget

HW = (24, 32)
NAMES = [f"n{number:02d}" for number in range(20)]
ANY = Budget(share=1.0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twenty noisy pictures of 40x30 px with maps of three classes."""
    root = write_pairs(tmp_path / "data", NAMES, size=(40, 30))
    age(root)
    return root


def maker_of(root: Path, size_hw: tuple[int, int] = HW) -> SampleMaker:
    index = open_index(root)
    return SampleMaker(index.pictures, open_labels(index, classes=["a", "b", "c"]), size_hw)


def data_of(root: Path, *, index: Index | None = None, **options: object) -> SegmentData:
    index = index or open_index(root)
    labels = open_labels(index, classes=["a", "b", "c"])
    values = {"train": np.arange(len(index)), "size_hw": HW, "batch_size": 4, "workers": 0} | options
    return SegmentData(index, labels, **values)  # type: ignore[arg-type]


def epoch(data: SegmentData, number: int, loader: SegmentLoader | None = None) -> list[tuple[torch.Tensor, ...]]:
    loader = loader or data.train_dataloader()
    loader.set_epoch(number)
    return [(batch.images.clone(), batch.maps.clone(), batch.rows.clone()) for batch in loader]


def same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)
    )


def spoil(path: Path, how: str) -> None:
    """Damage that sizes and times of an index do not show."""
    about, data = path.stat(), bytearray(path.read_bytes())
    if how == "cut":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    elif how == "gone":
        return path.unlink()
    path.write_bytes(data)
    return os.utime(path, ns=(about.st_mtime_ns, about.st_mtime_ns))


# --- one sample ------------------------------------------------------------------------------------------------------


def test_a_sample_of_the_same_size_is_the_picture_and_its_map(shared_data: Path) -> None:
    index = open_index(shared_data / "camvid")
    maker = SampleMaker(index.pictures, open_labels(index, ignore=[11]), (360, 480))
    out = np.zeros(maker.sample_bytes, np.uint8)
    for row in (0, 400):
        assert maker.make(row, out)
        picture, classes = split_sample(out, maker.size_hw)
        decoded = np.asarray(Image.open(index.pictures.path(row)).convert("RGB")).astype(int)
        assert np.abs(picture - decoded).mean() < 0.5  # libjpeg's own versions differ by that
        wanted = np.asarray(Image.open(index.masks.path(row)))
        np.testing.assert_array_equal(classes, np.where(wanted == 11, 255, wanted))


@pytest.mark.parametrize(("native", "size_hw"), [((30, 40), (9, 12)), ((31, 47), (64, 97)), ((100, 100), (33, 33))])
def test_a_map_is_picked_at_the_middle_of_each_pixel_and_never_grows(
    native: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    """B4.8: no class appears that was not there, shares of area stay, and nothing moves to a side."""
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 3, 255], native).astype(np.uint8)
    found = resized_map(classes, size_hw)
    at_y, at_x = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(native, size_hw, strict=True))
    np.testing.assert_array_equal(found, classes[at_y][:, at_x])
    disc = cv2.circle(np.zeros((300, 400), np.uint8), (200, 150), 100, 1, -1)
    small = resized_map(disc, (75, 100))
    assert small.mean() == pytest.approx(disc.mean(), rel=0.01)
    # four pixels have no middle one: half a pixel of four
    assert np.argwhere(small).mean(0) + 0.5 == pytest.approx((np.argwhere(disc).mean(0) + 0.5) / 4, abs=0.13)


def test_a_thin_class_is_never_mixed_with_its_neighbours(tmp_path: Path) -> None:
    """B4.8: what lies between class 0 and class 2 would be class 1 if maps were mixed."""
    classes = np.zeros((300, 400), np.uint8)
    classes[:, ::7] = 2
    write_picture(tmp_path / "images" / "a.png", (400, 300))
    (tmp_path / "masks").mkdir()
    Image.fromarray(classes).save(tmp_path / "masks" / "a.png")
    maker = maker_of(tmp_path, (50, 70))
    out = np.zeros(maker.sample_bytes, np.uint8)
    maker.make(0, out)
    found = split_sample(out, (50, 70))[1]
    assert set(np.unique(found)) <= {0, 2, 255}


def test_pictures_keep_their_shape_between_ignored_bars(tmp_path: Path) -> None:
    flat = np.full((40, 80, 3), (250, 10, 60), np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(flat).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.full((40, 80), 2, np.uint8)).save(tmp_path / "masks" / "a.png")
    maker = maker_of(tmp_path, (60, 60))
    out = np.zeros(maker.sample_bytes, np.uint8)
    maker.make(0, out)
    picture, classes = split_sample(out, (60, 60))
    assert (classes[15:45] == 2).all()
    assert (picture[15:45] == (250, 10, 60)).all()
    for bar in (slice(0, 15), slice(45, 60)):
        assert (classes[bar] == 255).all()
        assert (picture[bar] == BARS).all()
    assert part_of((1000, 1333), (360, 480)) == (0, 0, 360, 480)  # a bar of nothing is none


def test_a_rotated_jpeg_stands_upright_under_its_map(tmp_path: Path) -> None:
    """B4.24."""
    upright = np.zeros((40, 20, 3), np.uint8)
    upright[:20] = 255
    tags = Image.Exif()
    tags[0x0112] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "images" / "a.jpg", exif=tags, quality=95)
    Image.fromarray((upright[..., 0] > 0).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    maker = maker_of(tmp_path, (40, 20))
    out = np.zeros(maker.sample_bytes, np.uint8)
    maker.make(0, out)
    picture, classes = split_sample(out, (40, 20))
    np.testing.assert_array_equal(picture[..., 0] > 128, classes == 1)


def test_large_jpegs_are_decoded_smaller_and_look_the_same(tmp_path: Path) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8), (640, 360))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(smooth).save(tmp_path / "images" / "a.jpg", quality=95)
    Image.fromarray(np.zeros((360, 640), np.uint8)).save(tmp_path / "masks" / "a.png")
    maker = maker_of(tmp_path, (90, 160))
    out = np.zeros(maker.sample_bytes, np.uint8)
    maker.make(0, out)
    wanted = cv2.resize(smooth, (160, 90), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(split_sample(out, (90, 160))[0] - wanted).mean() < 2


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize("which", ["images/n03.jpg", "masks/n03.png"])
def test_what_cannot_be_read_is_replaced_by_another_that_is_drawn(tree: Path, which: str, how: str) -> None:
    """B4.6, B4.8, B4.9: never a black picture, never an empty map, never half a picture."""
    index = open_index(tree)
    spoil(tree / which, how)
    data = data_of(tree, index=index, max_bad=Budget(count=1))
    clean = {row: data.train_set[row][:2] for row in range(20) if row != 3}
    data.epoch_note()
    batches = epoch(data, 0)
    rows = torch.cat([rows for *_, rows in batches]).tolist()
    assert len(rows) == 20
    assert 3 not in rows
    for images, maps, own in batches:
        for image, classes, row in zip(images, maps, own.tolist(), strict=True):
            np.testing.assert_array_equal(image, clean[row][0])
            np.testing.assert_array_equal(classes, clean[row][1])
    assert same(batches, epoch(data, 0))  # drawn by the seed
    note = data.epoch_note()
    assert note.startswith("1 picture cannot be read, others were drawn in their place twice: ")
    assert "n03" in note
    assert data.epoch_note() == ""


def test_too_many_end_the_training_and_are_listed(tree: Path) -> None:
    data = data_of(tree)  # 0.1 % of 20 is none
    spoil(tree / "images/n03.jpg", "cut")
    with pytest.raises(TooManyFailures) as caught:
        epoch(data, 0)
    message = str(caught.value)
    assert message.startswith("1 picture cannot be read")
    assert "images/n03.jpg: what is trained on has to be whole" in message
    assert message.endswith("more than --max-bad 0.1% of 20 allows; `lightmill check` names all of them")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_of_which_nothing_can_be_read_ends_at_once(tree: Path, workers: int) -> None:
    for name in NAMES:
        spoil(tree / "masks" / f"{name}.png", "cut")
    with pytest.raises(TooManyFailures, match=r"pictures? cannot be read, .*masks/n\d\d.png: .*--max-bad 50% of 20"):
        epoch(data_of(tree, workers=workers, max_bad=Budget(share=0.5)), 0)
    with pytest.raises(InputError, match="one picture after the other cannot be read"):
        epoch(data_of(tree, workers=workers, max_bad=ANY), 0)


def test_what_is_drawn_once_is_drawn_once(tree: Path) -> None:
    data = data_of(tree, max_bad=ANY)
    spoil(tree / "images/n03.jpg", "cut")
    data.train_set[3]
    assert data.epoch_note().startswith("1 picture cannot be read, others were drawn in their place once: ")


def test_validation_leaves_out_what_cannot_be_read(tree: Path) -> None:
    """B4.6: no score counts a stand-in."""
    index = open_index(tree)
    data = data_of(tree, index=index, val=np.arange(10), max_bad=Budget(count=4))
    for name in ("n01", "n04", "n05", "n06"):
        spoil(tree / "images" / f"{name}.jpg", "gone")
    loader = data.val_dataloader()
    rows = [batch.rows.tolist() for batch in loader]
    assert rows == [[0, 2, 3], [7], [8, 9]]
    assert "4 pictures cannot be read, no score counts them: cannot read images/n01.jpg: it has" in data.epoch_note()
    with pytest.raises(InputError, match=r"sample 1 cannot be read: cannot read images/n01.jpg: it has vanished"):
        data.val_set[1]
    four = data_of(tree, index=index, val=np.array([1, 4, 5, 6]), max_bad=ANY)
    assert not list(four.val_dataloader())


def test_a_missing_mask_is_an_error(tree: Path) -> None:
    """B4.5: it is never background."""
    (tree / "masks" / "n07.png").unlink()
    with pytest.raises(UsageError, match=r"1 picture without a mask, which is not background: images/n07.jpg"):
        data_of(tree)
    with pytest.raises(ItemError, match="the picture has no mask"):
        maker_of(tree).make(7, np.zeros(HW[0] * HW[1] * 4, np.uint8))
    with pytest.raises(UsageError, match="there are no pictures to train or judge on"):
        SegmentDataset(maker_of(tree), [])


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_every_epoch_shows_all_in_an_order_of_its_own(tree: Path) -> None:
    data = data_of(tree, seed=5)
    first, second = epoch(data, 0), epoch(data, 1)
    for batches in (first, second):
        assert sorted(torch.cat([rows for *_, rows in batches]).tolist()) == list(range(20))
        assert all(images.shape == (4, *HW, 3) and maps.shape == (4, *HW) for images, maps, _ in batches)
        assert all(images.dtype == maps.dtype == torch.uint8 for images, maps, _ in batches)
    assert not same(first, second)
    assert same(second, epoch(data_of(tree, seed=5), 1))
    assert not same(second, epoch(data_of(tree, seed=6), 1))


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_live_through_epochs_and_change_nothing(tree: Path, tmp_path: Path, start: str, workers: int) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start} a process")
    spoil(tree / "images/n03.jpg", "cut")
    alone = data_of(tree, max_bad=ANY)
    apart = data_of(tree, workers=workers, start=start, cache_folder=tmp_path / "kept", max_bad=ANY)
    loader = apart.train_dataloader()
    pids = []
    for number in range(3):
        assert same(epoch(apart, number, loader), epoch(alone, number))
        pids.append([worker.pid for worker in loader._loader._iterator._workers])
        assert apart.cache.kept == 19
        assert "images/n03.jpg" in apart.epoch_note()
    assert pids[0] == pids[1] == pids[2]


def test_workers_are_forked_from_a_process_that_has_used_threads_of_opencv(tree: Path) -> None:
    """A worker that had to let go of threads that it has not got waited for ever."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.resize(np.zeros((1000, 1000, 3), np.uint8), (2000, 2000))
        assert len(epoch(data_of(tree, workers=1), 0)) == 5
    finally:
        cv2.setNumThreads(before)


def test_options_of_loaders(tree: Path) -> None:
    """B4.19: no workers is possible, no validation is no error."""
    apart = data_of(tree, workers=1).train_dataloader()._loader
    assert apart.persistent_workers
    assert apart.prefetch_factor == 2
    assert apart.pin_memory == torch.cuda.is_available()
    none = data_of(tree, workers=0)
    assert none.train_dataloader()._loader.num_workers == 0
    assert none.val_dataloader() == []


def test_orders_of_several_processes_share_no_sample() -> None:
    """B4.18: each process gets its own part, and all of them the same number of batches."""
    orders = [EpochOrder(103, batch_size=10, shuffle=True, seed=1, rank=rank, ranks=3) for rank in range(3)]
    for number in range(2):
        for order in orders:
            order.set_epoch(number)
        batches = [list(order) for order in orders]
        assert [len(one) for one in batches] == [len(order) for order in orders] == [3, 3, 3]
        every = [index for one in batches for batch in one for index in batch]
        assert len(every) == len(set(every)) == 90
    parts = [list(EpochOrder(7, batch_size=2, shuffle=False, rank=rank, ranks=2)) for rank in range(2)]
    assert parts == [[[0, 2], [4, 6]], [[1, 3], [5]]]
    assert [len(EpochOrder(7, batch_size=2, shuffle=False, rank=rank, ranks=2)) for rank in range(2)] == [2, 2]
    assert [len(batch) for batch in EpochOrder(3, batch_size=10, shuffle=True)] == [3]
    with pytest.raises(UsageError, match="2 pictures cannot be shared out to 3 processes"):
        EpochOrder(2, batch_size=1, shuffle=True, rank=0, ranks=3)
    with pytest.raises(UsageError, match="a batch has 1 sample or more"):
        EpochOrder(2, batch_size=0, shuffle=True)


def test_batches_move_as_one(tree: Path) -> None:
    batch = next(iter(data_of(tree).train_dataloader()))
    moved = batch.to("meta")
    assert moved.images.shape == (4, *HW, 3)
    assert moved.maps.device.type == "meta"
    assert len(moved) == 4


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_the_second_epoch_opens_no_file(tree: Path, tmp_path: Path) -> None:
    data = data_of(tree, cache_folder=tmp_path / "kept", val=np.arange(3))
    first = epoch(data, 0)
    val = [batch.maps.clone() for batch in data.val_dataloader()]
    for path in (*tree.glob("images/*"), *tree.glob("masks/*")):
        path.unlink()
    assert same(first, epoch(data, 0))
    assert sorted(torch.cat([rows for *_, rows in epoch(data, 1)]).tolist()) == list(range(20))
    assert all(torch.equal(a, b.maps) for a, b in zip(val, data.val_dataloader(), strict=True))
    assert data.epoch_note() == ""


def test_a_new_start_makes_only_what_has_changed(tree: Path, tmp_path: Path) -> None:
    before = data_of(tree, cache_folder=tmp_path / "kept")
    epoch(before, 0)
    old = before.train_set[5]
    write_picture(tree / "images" / "n05.jpg", (40, 30), seed=99)
    write_picture(tree / "images" / "a new one.jpg", (40, 30), seed=98)
    Image.fromarray(np.ones((30, 40), np.uint8)).save(tree / "masks" / "a new one.png")
    (tree / "images" / "n00.jpg").unlink()
    (tree / "masks" / "n00.png").unlink()
    after = data_of(tree, cache_folder=tmp_path / "kept")
    assert after.cache.kept == 18
    fresh = data_of(tree)
    assert same(epoch(after, 0), epoch(fresh, 0))
    assert after.cache.kept == 20
    assert not np.array_equal(after.train_set[5][0], old[0])
    other_size = data_of(tree, cache_folder=tmp_path / "kept", size_hw=(12, 16))
    assert other_size.cache.kept == 0


def test_a_file_written_to_since_the_index_is_used_and_not_kept(tree: Path, tmp_path: Path) -> None:
    data = data_of(tree, cache_folder=tmp_path / "kept")
    write_picture(tree / "images" / "n05.jpg", (40, 30), seed=99)
    epoch(data, 0)
    assert data.cache.kept == 19
    assert not data.cache.read(5, np.zeros(data.maker.sample_bytes, np.uint8))


def test_keeping_can_be_turned_off_and_says_why_it_cannot_be_done(tree: Path, tmp_path: Path) -> None:
    off = data_of(tree, cache="off", cache_folder=tmp_path / "kept")
    assert off.cache is None
    assert off.remarks == ()
    epoch(off, 0)
    assert not (tmp_path / "kept").exists()
    (tmp_path / "no folder").write_text("")
    refused = data_of(tree, cache_folder=tmp_path / "no folder")
    assert refused.cache is None
    assert "made anew in every epoch" in refused.remarks[0]
    assert same(epoch(off, 0), epoch(refused, 0))
    kept = data_of(tree, cache_folder=tmp_path / "kept")
    assert (tmp_path / "kept" / PACK_NAME).exists()
    assert kept.remarks == ()


def test_lightning_trains_with_it(tree: Path, tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Watch(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.seen, self.judged = [], []

        def training_step(self, batch, _):
            self.seen.append(batch.rows.tolist())
            return self.layer(batch.images.float().mean((1, 2))).square().mean()

        def validation_step(self, batch, _):
            self.judged += batch.rows.tolist()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    data = data_of(tree, val=[4, 5, 6], workers=1)
    module = Watch()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how few cores this machine has
        trainer.fit(module, datamodule=data)
    assert module.seen == [rows.tolist() for *_, rows in epoch(data_of(tree), 0)]
    assert module.judged == [4, 5, 6]
