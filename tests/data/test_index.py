"""The index against os.walk and Pillow's headers, and after every kind of edit between two starts."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import OLD_NS, age, write_mask, write_pairs, write_picture

from lightmill.data.index import Changes, Index, open_index, problem_lines
from lightmill.data.listing import Stamp
from lightmill.data.problems import Problem
from lightmill.data.split_leaks import equal_files, near_pictures, shared_groups
from lightmill.data.splits import groups_of, refuse_problems, split_rows
from lightmill.errors import InputError, SourceError, UsageError
from lightmill.ops.phash import phash

NAMES = ["a", "b", "c", "deep/d"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four pictures with masks, all of them old."""
    root = write_pairs(tmp_path / "data", NAMES)
    age(root)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".lightmill" / "index.arrow"


def problems(index: Index) -> dict[str, str]:
    """Picture -> problem, of those that have one."""
    pairs = zip(index.table["image"].to_list(), index.table["problem"].to_list(), strict=True)
    return {image: problem for image, problem in pairs if problem}


# --- made ------------------------------------------------------------------------------------------------------------


def test_all_that_os_walk_and_pillow_say(tree: Path) -> None:
    for number, suffix in enumerate(("png", "webp", "bmp", "gif", "tif")):
        write_picture(tree / "images" / f"x{number}.{suffix}", (9 + number, 5))
        write_mask(tree / "masks" / f"x{number}.png", (9 + number, 5))
    for orientation in range(1, 9):
        write_picture(tree / "images" / f"turned{orientation}.jpg", (16, 8), exif=orientation)
        write_mask(tree / "masks" / f"turned{orientation}.png", (16, 8) if orientation < 5 else (8, 16))
    wanted = {}
    for folder, _, names in os.walk(tree / "images"):
        for name in names:
            path = Path(folder) / name
            with Image.open(path) as picture:
                turned = picture.getexif().get(0x0112, 1) > 4
                width, height = picture.size[::-1] if turned and path.suffix == ".jpg" else picture.size
            mask = tree / "masks" / path.relative_to(tree / "images").with_suffix(".png")
            about, of_mask = path.stat(), mask.stat()
            wanted[path.relative_to(tree).as_posix()] = (
                mask.relative_to(tree).as_posix(),
                *(about.st_size, about.st_mtime_ns, of_mask.st_size, of_mask.st_mtime_ns, width, height),
            )
    index = open_index(tree)
    columns = ("mask", "size", "mtime_ns", "mask_size", "mask_mtime_ns", "width", "height")
    rows = index.table.select("image", *columns).rows()
    assert {image: tuple(row) for image, *row in rows} == wanted
    assert problems(index) == {}
    assert len(index) == len(index.usable) == 17
    assert [str(kind) for kind in index.table.dtypes] == ["String"] * 2 + ["Int64"] * 4 + ["Int32"] * 2 + ["String"] * 3


def test_the_order_is_natural_and_does_not_hang_on_the_system(tmp_path: Path) -> None:
    index = open_index(write_pairs(tmp_path, ["10", "9", "sub/2", "1"]))
    assert index.table["image"].to_list() == [f"images/{name}.jpg" for name in ("1", "9", "10", "sub/2")]


def test_a_header_behind_a_long_thumbnail_is_found(tmp_path: Path) -> None:
    """Size and orientation are read, whatever stands before the picture: 60,000 bytes of EXIF, 400,000 of profile."""
    write_mask(tmp_path / "masks" / "a.png", (8, 16))
    tags = Image.Exif()
    tags[0x0112] = 6
    tags[0x010E] = "x" * 60_000
    path = tmp_path / "images" / "a.jpg"
    path.parent.mkdir()
    Image.new("RGB", (16, 8)).save(path, exif=tags, icc_profile=b"\0" * 400_000)
    index = open_index(tmp_path)
    assert index.table.select("width", "height", "problem").rows() == [(8, 16, "")]


def test_only_the_first_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 3 MB costs as many bytes as one of 3 KB, and nothing is decoded: its pixels are not even there."""
    write_pairs(tmp_path, ["a"], size=(1000, 1000))
    path = tmp_path / "images" / "a.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:700] + bytes(3_000_000))
    read, plain = [], os.read
    monkeypatch.setattr(os, "read", lambda file, size: read.append(size) or plain(file, size))
    assert open_index(tmp_path, threads=1).table.select("width", "height", "problem").rows() == [(1000, 1000, "")]
    assert sum(read) <= 3 * (1 << 14)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_makes_the_same_index(tmp_path: Path, threads: int) -> None:
    write_pairs(tmp_path, ["a"])
    for number in range(600):
        os.link(tmp_path / "images" / "a.jpg", tmp_path / "images" / f"{number}.jpg")
        os.link(tmp_path / "masks" / "a.png", tmp_path / "masks" / f"{number}.png")
    (tmp_path / "images" / "77.jpg").unlink()
    write_picture(tmp_path / "images" / "77.jpg", (5, 5))
    index = open_index(tmp_path, threads=threads)
    assert problems(index) == {"images/77.jpg": "sizes differ: the picture is 5x5 px, its mask 8x6"}


# --- problems --------------------------------------------------------------------------------------------------------


def test_every_problem_is_named_and_counted_and_nothing_takes_its_place(tree: Path) -> None:
    """B4.5, B4.8, B4.9: a missing mask, a broken one, an empty file: a row with a problem, never one of background."""
    (tree / "masks" / "a.png").unlink()
    (tree / "images" / "b.jpg").write_bytes(b"")
    (tree / "masks" / "c.png").write_bytes(b"no picture")
    write_picture(tree / "images" / "e.jpg", (4, 3))
    write_mask(tree / "masks" / "e.png", (4, 4))
    write_picture(tree / "images" / "f.png")
    os.rename(tree / "images" / "f.png", tree / "images" / "f.jpg")
    write_mask(tree / "masks" / "f.png")
    write_picture(tree / "images" / "g.jpg")
    write_picture(tree / "images" / "g.png")
    write_mask(tree / "masks" / "g.png")
    write_picture(tree / "images" / "h.jpg", (16, 8), exif=6)
    write_mask(tree / "masks" / "h.png", (16, 8))
    write_mask(tree / "masks" / "i.png")
    write_mask(tree / "masks" / "i.bmp")
    write_picture(tree / "images" / "i.jpg")
    os.symlink(tree / "nowhere", tree / "images" / "j.jpg")
    write_mask(tree / "masks" / "j.png")
    write_mask(tree / "masks" / "lonely.png")
    index = open_index(tree)
    assert problems(index) == {
        "images/a.jpg": "missing mask: there is none called a",
        "images/b.jpg": "empty file: the picture has 0 bytes",
        "images/c.jpg": "unreadable: its mask: text that begins with 'no picture' is no picture",
        "images/e.jpg": "sizes differ: the picture is 4x3 px, its mask 4x4",
        "images/f.jpg": "wrong extension: the picture is called .jpg, and is a PNG",
        "images/g.jpg": "duplicate stem: g.jpg and g.png would share one mask",
        "images/g.png": "duplicate stem: g.jpg and g.png would share one mask",
        "images/h.jpg": "sizes differ: the picture is 8x16 px, its mask 16x8, as the picture is stored: its EXIF "
        "orientation turns it",
        "images/i.jpg": "duplicate stem: its mask may be i.bmp or i.png",
        "images/j.jpg": "missing picture: images/j.jpg is a broken link, or no ordinary file",
    }
    assert index.table.filter(image="images/a.jpg")["mask"].to_list() == [""]
    assert index.problem_counts[Problem.DUPLICATE] == 3
    assert sum(index.problem_counts.values()) == 10
    usable = index.table["image"].gather(index.usable).to_list()
    assert usable == ["images/deep/d.jpg", "images/f.jpg"]
    assert index.remarks == ("1 mask without a picture: masks/lonely.png",)
    assert problem_lines(index, examples=1)[0] == (
        "missing picture: 1, as images/j.jpg (images/j.jpg is a broken link, or no ordinary file)"
    )
    with pytest.raises(UsageError, match="missing mask: 1 of 11; lightmill check DATA OUT names each of them"):
        refuse_problems(index)


def test_a_cut_off_picture_has_a_sound_header_and_is_for_check_to_find(tree: Path) -> None:
    """B4.9, what an index cannot know: `lightmill check` decodes."""
    path = tree / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    assert problems(open_index(tree)) == {}


def test_names_that_are_no_utf_8_are_a_problem_of_one_row(tree: Path) -> None:
    try:
        shutil.copy(os.fsencode(tree / "images" / "a.jpg"), os.fsencode(tree) + b"/images/\xe9.jpg")
        shutil.copy(os.fsencode(tree / "masks" / "a.png"), os.fsencode(tree) + b"/masks/\xe9.png")
    except OSError:
        pytest.skip("this file system takes no names but UTF-8")
    assert problems(open_index(tree)) == {
        "images/\\xe9.jpg": "odd name: the name of the picture is not UTF-8; rename it"
    }


def test_what_is_no_data_set_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        open_index(tmp_path / "nowhere")
    write_picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match="holds no pictures with masks; DATA is a folder with images/ and masks/"):
        open_index(tmp_path)
    with pytest.raises(InputError, match="give the folder above it"):
        open_index(tmp_path / "images")
    with pytest.raises(InputError, match="neither a folder nor a table"):
        open_index(tmp_path / "images" / "a.jpg")
    (tmp_path / "bare" / "images").mkdir(parents=True)
    (tmp_path / "bare" / "masks").mkdir()
    with pytest.raises(InputError, match="there are no pictures in it"):
        open_index(tmp_path / "bare")


# --- the second start ------------------------------------------------------------------------------------------------


def test_the_second_start_reads_nothing_but_folder_times(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_index(tree, cache=cache)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was listed"))
    monkeypatch.setattr(os, "open", lambda path, *_: pytest.fail(f"{path} was opened"))
    again = open_index(tree, cache=cache)
    assert (first.origin, again.origin) == ("made", "loaded")
    assert again.table.equals(first.table)
    assert (again.root, again.kind, again.remarks) == (first.root, first.kind, first.remarks)
    assert not again.changes


def add(tree: Path) -> None:
    write_picture(tree / "images" / "deep" / "new.jpg")
    write_mask(tree / "masks" / "deep" / "new.png")


def add_folder(tree: Path) -> None:
    write_pairs(tree, ["deep/deeper/new"])


def remove(tree: Path) -> None:
    (tree / "images" / "deep" / "d.jpg").unlink()


def remove_mask(tree: Path) -> None:
    (tree / "masks" / "b.png").unlink()


def rename(tree: Path) -> None:
    os.rename(tree / "images" / "a.jpg", tree / "images" / "z.jpg")


def replace(tree: Path) -> None:
    write_picture(tree / "images" / "new.png")
    os.replace(tree / "images" / "new.png", tree / "images" / "a.jpg")


def add_list(tree: Path) -> None:
    (tree / "val.txt").write_text("a\n")


FOLDER_EDITS: list[tuple[Callable[[Path], None], Changes]] = [
    (add, Changes(added=("images/deep/new.jpg",))),
    (add_folder, Changes(added=("images/deep/deeper/new.jpg",))),
    (remove, Changes(vanished=("images/deep/d.jpg",))),
    (remove_mask, Changes(changed=("images/b.jpg",))),
    (rename, Changes(added=("images/z.jpg",), vanished=("images/a.jpg",))),
    (replace, Changes(changed=("images/a.jpg",))),
    (add_list, Changes(changed=("images/a.jpg",))),
]


@pytest.mark.parametrize(("edit", "changes"), FOLDER_EDITS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_a_folder_shows_is_noticed_at_the_start(
    tree: Path, cache: Path, edit: Callable[[Path], None], changes: Changes
) -> None:
    open_index(tree, cache=cache)
    edit(tree)
    now = open_index(tree, cache=cache)
    assert now.origin == "renewed"
    assert now.changes == changes
    assert now.table.equals(open_index(tree).table)
    age(tree)
    open_index(tree, cache=cache)
    assert open_index(tree, cache=cache).origin == "loaded"


def test_only_headers_of_changed_files_are_read_again(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_index(tree, cache=cache)
    add(tree)
    opened, plain = [], os.open

    def noted(path: str, *args: int) -> int:
        opened.append(os.path.relpath(path, tree))
        return plain(path, *args)

    monkeypatch.setattr(os, "open", noted)
    index = open_index(tree, cache=cache)
    assert sorted(path for path in opened if not path.startswith("..")) == ["images/deep/new.jpg", "masks/deep/new.png"]
    assert len(index) == 5


def grow(tree: Path) -> None:
    with open(tree / "images" / "a.jpg", "ab") as file:
        file.write(b"more")


def overwrite(tree: Path) -> None:
    """The same size, another time."""
    path = tree / "images" / "a.jpg"
    path.write_bytes(bytes(reversed(path.read_bytes())))


def overwrite_mask(tree: Path) -> None:
    write_mask(tree / "masks" / "a.png", (7, 7))


@pytest.mark.parametrize("edit", [grow, overwrite, overwrite_mask])
def test_what_is_written_in_place_is_noticed_in_the_background_and_by_the_worker(
    tree: Path, cache: Path, edit: Callable[[Path], None]
) -> None:
    """No folder shows it: the start trusts the index, the background does not, and neither does who opens the file."""
    open_index(tree, cache=cache)
    edit(tree)
    index = open_index(tree, cache=cache)
    assert index.origin == "loaded"
    listed = index.masks if edit is overwrite_mask else index.pictures
    assert not listed.read(0).as_listed
    assert listed.read(1).as_listed
    renewal = index.renew_in_background()
    now = renewal.result()
    assert renewal.done
    assert now.changes == Changes(changed=("images/a.jpg",))
    assert now.table.equals(open_index(tree).table)
    assert set(problems(now)) == (set() if edit is grow else {"images/a.jpg"})
    kept = open_index(tree, cache=cache)
    assert kept.table.equals(now.table)


def test_a_file_of_the_same_size_and_time_is_not_noticed(tree: Path, cache: Path) -> None:
    """What the page says is not noticed: other contents, the size as it was, and the time put back."""
    open_index(tree, cache=cache)
    overwrite(tree)
    os.utime(tree / "images" / "a.jpg", ns=(OLD_NS, OLD_NS))
    index = open_index(tree, cache=cache)
    assert index.origin == "loaded"
    assert index.pictures.read(0).as_listed
    assert index.renewed().changes == Changes()


def test_a_young_folder_and_a_young_file_are_looked_at_again(tree: Path, cache: Path) -> None:
    """Within one tick of the clock a second change leaves the same time: what is that young is not taken as known."""
    write_picture(tree / "images" / "a.jpg", (4, 4))
    before = (tree / "images" / "a.jpg").stat()
    assert open_index(tree, cache=cache).table["width"][0] == 4
    path = write_picture(tree / "images" / "a.jpg", (5, 4))
    data = path.read_bytes()
    path.write_bytes((data + bytes(before.st_size))[: before.st_size] if len(data) < before.st_size else data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_index(tree, cache=cache).renewed().table["width"][0] == 5
    write_pairs(tree, ["late"])  # its folder's time is now
    assert open_index(tree, cache=cache).origin == "renewed"
    os.utime(tree / "images", ns=(OLD_NS, OLD_NS))
    assert open_index(tree, cache=cache).origin == "renewed"


def test_a_vanished_folder_is_an_error_not_an_old_index(tree: Path, cache: Path) -> None:
    open_index(tree, cache=cache)
    shutil.rmtree(tree)
    with pytest.raises(InputError, match="there is no"):
        open_index(tree, cache=cache)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_cache_is_made_anew(tree: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    first = open_index(tree, cache=cache)
    cache.write_bytes(damage(cache.read_bytes()))
    again = open_index(tree, cache=cache)
    assert again.origin == "made"
    assert again.table.equals(first.table)
    assert open_index(tree, cache=cache).origin == "loaded"


def test_a_cache_of_other_data_is_not_taken(tree: Path, cache: Path, tmp_path: Path) -> None:
    open_index(tree, cache=cache)
    other = write_pairs(tmp_path / "other", ["x"])
    assert open_index(other, cache=cache).table["image"].to_list() == ["images/x.jpg"]


def test_a_place_that_cannot_be_written_is_a_remark(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    index = open_index(tree, cache=tmp_path / "file" / "index.arrow")
    assert len(index) == 4
    assert "the index cannot be kept, and is made anew at every start" in index.remarks[-1]


# --- workers ---------------------------------------------------------------------------------------------------------


def test_workers_get_arrays_not_tables(tree: Path, cache: Path) -> None:
    """B4.19: what a worker asks of a row is a place in an array, which is pickled as it is."""
    index = open_index(tree, cache=cache)
    pictures = pickle.loads(pickle.dumps(index.pictures))
    assert len(pickle.dumps(pictures)) < 2000
    row = index.table["image"].to_list().index("images/deep/d.jpg")
    path = tree / "images" / "deep" / "d.jpg"
    assert (pictures.name(row), pictures.path(row)) == ("images/deep/d.jpg", str(path))
    assert pictures.read(np.int64(row)) == (path.read_bytes(), Stamp(path.stat().st_size, OLD_NS), True)
    path.unlink()
    with pytest.raises(SourceError, match=r"cannot read images/deep/d\.jpg: it has vanished since it was listed"):
        pictures.read(row)
    os.mkfifo(path)
    with pytest.raises(SourceError, match="it is no ordinary file"):
        pictures.read(row)


# --- splits and leaks ------------------------------------------------------------------------------------------------


def seen(index: Index, rows: np.ndarray) -> list[str]:
    return index.table["image"].gather(rows).to_list()


def test_drawn_splits_keep_groups_together(tmp_path: Path) -> None:
    """B4.10: several pictures of one dish are never on both sides, whatever the seed."""
    write_pairs(tmp_path, [f"dish{dish}_{view}" for dish in range(10) for view in range(3 + dish % 2)])
    index = open_index(tmp_path)
    rule = r"(dish\d+)_"
    drawings = set()
    for seed in range(8):
        splits = split_rows(index, group=rule, val_share=0.3, seed=seed)
        groups = np.array(groups_of(index, rule))
        assert not set(groups[splits.train]) & set(groups[splits.val])
        assert sorted([*splits.train, *splits.val]) == list(range(35))
        assert abs(len(splits.val) - 10.5) <= 2.5
        again = split_rows(index, group=rule, val_share=0.3, seed=seed)
        assert np.array_equal(again.val, splits.val)
        drawings.add(tuple(splits.val))
    assert len(drawings) > 4
    assert split_rows(index).remarks == (
        "validation is drawn picture by picture: where some are of one scene, give --group",
    )


def test_official_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, names in {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}.items():
        write_pairs(tmp_path / split, names, size=(len(names) + ord(names[0]), 6))  # no picture is another's twin
    (tmp_path / "train" / "masks" / "b.png").unlink()
    index = open_index(tmp_path)
    splits = split_rows(index, seed=3)
    assert [seen(index, rows) for rows in (splits.train, splits.val, splits.test)] == [
        ["train/images/a.jpg"], ["valid/images/c.jpg"], ["test/images/d.jpg"],
    ]  # fmt: skip
    assert splits.remarks == ("1 picture cannot be used: lightmill check says why",)


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    index = open_index(write_pairs(tmp_path, ["s1_a", "s1_b"]))
    with pytest.raises(UsageError, match="all pictures to train on are of one group"):
        split_rows(index, group="folder")
    with pytest.raises(UsageError, match="no bracket around what the group is"):
        split_rows(index, group="s1")
    with pytest.raises(UsageError, match=r"is no pattern: "):
        split_rows(index, group="(s1")
    with pytest.raises(UsageError, match=r"says nothing of 1 picture, as of images/s1_b.jpg"):
        split_rows(index, group="(s1)_a")
    with pytest.raises(UsageError, match="the share of validation lies between 0 and 1"):
        split_rows(index, val_share=1.0)
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match="nothing to train on: 2 of 2 pictures have the problem missing mask"):
        split_rows(open_index(tmp_path))


def test_leaks_are_those_that_a_double_loop_finds() -> None:
    rng = np.random.default_rng(0)
    splits = [str(name) for name in rng.choice(["train", "val", "test", ""], 200)]
    keys = [str(number) if number else "" for number in rng.integers(0, 60, 200)]
    order = {"train": 0, "val": 1, "test": 2}
    wanted = {
        row
        for row in range(200)
        for other in range(200)
        if keys[row] and keys[row] == keys[other] and splits[row] and splits[other]
        and order[splits[other]] < order[splits[row]]
    }  # fmt: skip
    for found in (equal_files(keys, splits), shared_groups(keys, splits)):
        assert {leak.row for leak in found} == wanted
        assert len(found) == len(wanted)
        assert all(keys[leak.row] == keys[leak.other] for leak in found)
        assert all(order[splits[leak.other]] < order[splits[leak.row]] for leak in found)


def test_near_pictures_are_copies_and_not_lookalikes() -> None:
    """A reduced, brightened copy is found; a picture with an equal hash and other levels is not."""
    import cv2

    rng = np.random.default_rng(1)
    base = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    copy = cv2.resize(base, (60, 70), interpolation=cv2.INTER_AREA)
    darker = (base // 3).astype(np.uint8)
    other = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    pictures = [base, copy, darker, other]
    hashes = [phash(picture) for picture in pictures]
    assert (hashes[0] ^ hashes[2]).bit_count() <= 6
    asked = []

    def small(row: int) -> np.ndarray:
        asked.append(row)
        return cv2.resize(pictures[row], (16, 16), interpolation=cv2.INTER_AREA)

    leaks = near_pictures(hashes, range(4), ["train", "val", "val", "val"], small=small)
    assert [(leak.row, leak.other) for leak in leaks] == [(1, 0)]
    assert 3 not in asked
    assert near_pictures(hashes, range(4), ["train"] * 4, small=small) == []
    assert near_pictures(hashes, range(4), [""] * 4, small=small) == []
