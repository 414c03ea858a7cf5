"""Which files belong together, in every form that DATA may have."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.trees import age, write_mask, write_pairs, write_picture

from lightmill.data.index import open_index
from lightmill.data.layouts import find_layout, pair_by_stem
from lightmill.data.split_lists import official
from lightmill.errors import InputError


def rows(data: Path) -> list[tuple[str, str, str]]:
    """(picture, mask, split) in order."""
    found = find_layout(data).rows
    return list(zip(found.images, found.masks, found.splits, strict=True))


def problems(data: Path) -> list[str]:
    return [problem for problem in find_layout(data).rows.problems if problem]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_camvid_as_it_lies_there(shared_data: Path) -> None:
    index = open_index(shared_data / "camvid")
    assert len(index) == 468
    assert index.problem_counts == {}
    assert index.table["split"].value_counts(sort=True).rows() == [("train", 367), ("val", 101)]
    assert set(index.table.select("width", "height").rows()) == {(480, 360)}
    stems = {(Path(row[0]).stem, Path(row[1]).stem) for row in index.table.select("image", "mask").rows()}
    assert all(image == mask for image, mask in stems)


def test_sub_folders_are_kept(tmp_path: Path) -> None:
    """Two pictures of one name in two folders have two masks."""
    write_pairs(tmp_path, ["x/1", "y/1", "1"])
    assert rows(tmp_path) == [
        ("images/1.jpg", "masks/1.png", ""),
        ("images/x/1.jpg", "masks/x/1.png", ""),
        ("images/y/1.jpg", "masks/y/1.png", ""),
    ]


def test_splits_by_folder_above_and_below(tmp_path: Path) -> None:
    write_pairs(tmp_path / "Training", ["a"])
    write_pairs(tmp_path, ["val/b", "c"])
    assert rows(tmp_path) == [
        ("images/c.jpg", "masks/c.png", ""),
        ("images/val/b.jpg", "masks/val/b.png", "val"),
        ("Training/images/a.jpg", "Training/masks/a.png", "train"),
    ]


@given(
    st.lists(st.sampled_from(["a", "a.jpg", "b.c", "b", "b_mask", "x/a", "d", "d_mask"]), unique=True),
    st.lists(st.sampled_from(["a.png", "b.c.png", "x/a.png", "a.jpg.png", "b_mask.png", "d_mask.png", "d.mask.png"])),
)
def test_a_mask_is_never_that_of_two_pictures(stems: list[str], masks: list[str]) -> None:
    pairs = pair_by_stem([f"{stem}.jpg" for stem in stems], sorted(set(masks)))
    found = [mask for mask, _ in pairs if mask]
    assert set(found) <= set(masks)
    assert all(bool(mask) != bool(problem) for mask, problem in pairs)
    for stem, (mask, _) in zip(stems, pairs, strict=True):
        forms = (f"{stem}.png", f"{stem}.jpg.png", f"{stem}_mask.png", f"{stem}.mask.png")
        assert mask in (*forms, "")
        assert mask or not {f"{stem}.png"} & set(masks)
    assert len(found) == len(set(found))


def test_the_names_that_masks_have() -> None:
    images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "e.png"]
    masks = ["a.png", "b.jpg.png", "c_mask.png", "d.mask.png", "e.jpg.png", "e.png.png"]
    assert [mask for mask, _ in pair_by_stem(images, masks)] == masks


# --- lists -----------------------------------------------------------------------------------------------------------


def test_official_lists_are_respected_however_they_name_pictures(tmp_path: Path) -> None:
    """B4.10: the split that came with the data is the one that is taken."""
    write_pairs(tmp_path, ["a", "b", "x/c", "d e", "f", "g"])
    (tmp_path / "train.txt").write_text("a\n./images/b.jpg\n\n# a comment\nx\\c.jpg\n")
    (tmp_path / "splits").mkdir()
    lines = ["d e", "images/f.jpg masks/f.png", str(tmp_path / "images" / "nothing.jpg")]
    (tmp_path / "splits" / "valid.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
    layout = find_layout(tmp_path)
    assert dict(zip(layout.rows.images, layout.rows.splits, strict=True)) == {
        "images/a.jpg": "train",
        "images/b.jpg": "train",
        "images/d e.jpg": "val",
        "images/f.jpg": "val",
        "images/g.jpg": "",
        "images/x/c.jpg": "train",
    }
    assert layout.remarks == [
        f"splits/valid.txt names 1 picture that cannot be told or are not there: {tmp_path}/images/nothing.jpg",
        "1 picture in none of the lists train.txt, splits/valid.txt",
    ]


def test_a_picture_that_two_splits_claim_is_a_problem(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a", "val/b"])
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("a\n")
    assert problems(tmp_path) == ["two splits: train, and val by val.txt", "two splits: val, and train by train.txt"]


def test_a_name_that_two_pictures_have_is_not_guessed_at(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["x/a", "y/a"])
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "val.txt").write_text("y/a.jpg\n")
    layout = find_layout(tmp_path)
    assert layout.rows.splits == ["", "val"]
    assert layout.remarks[0] == "train.txt names 1 picture that cannot be told or are not there: a"


@pytest.mark.parametrize(
    ("name", "split"), [("train", "train"), ("VALID", "val"), ("dev", "val"), ("test2017", "test"), ("testimony", "")]
)
def test_official_names(name: str, split: str) -> None:
    assert official(name) == split


def test_a_changed_list_is_noticed(tmp_path: Path) -> None:
    data, cache = write_pairs(tmp_path / "data", ["a", "b"]), tmp_path / "index.arrow"
    (data / "val.txt").write_text("a\n")
    age(data)
    open_index(data, cache=cache)
    with open(data / "val.txt", "a") as file:  # in place: no folder shows it
        file.write("b\n")
    index = open_index(data, cache=cache)
    assert index.origin == "renewed"
    assert index.changes.changed == ("images/b.jpg",)


# --- tables ----------------------------------------------------------------------------------------------------------


def write_table(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_table_says_all(tmp_path: Path) -> None:
    write_pairs(tmp_path / "far", ["a", "b", "c"])
    (tmp_path / "tables").mkdir()
    table = write_table(
        tmp_path / "tables" / "data.csv",
        [
            "image_path;mask_path;split;group;dish",
            "../far/images/a.jpg;../far/masks/b.png;Train;g1;d1",
            f"{tmp_path}/far/images/b.jpg;{tmp_path}/far/masks/a.png;valid;;d2",
            "../far/images/c.jpg;;test;g2;d3",
            "../far/images/nothing.jpg;../far/masks/c.png;fold3;g2;d3",
            ";../far/masks/c.png;;;",
            "../far/images/a.jpg;../far/masks/a.png;val;g1;d1",
        ],
    )  # fmt: skip
    index = open_index(table)
    assert index.root == table.parent
    columns = ("image", "mask", "split", "group", "problem")
    assert index.table.select(columns).rows() == [
        ("../far/images/a.jpg", "../far/masks/b.png", "train", "g1", ""),
        ("../far/images/b.jpg", "../far/masks/a.png", "val", "", ""),
        ("../far/images/c.jpg", "", "test", "g2", "missing mask: mask_path is empty"),
        ("../far/images/nothing.jpg", "../far/masks/c.png", "fold3", "g2",
         "missing picture: there is no file ../far/images/nothing.jpg"),
        ("", "../far/masks/c.png", "", "", "missing picture: image_path is empty"),
        ("../far/images/a.jpg", "../far/masks/a.png", "val", "g1",
         "duplicate stem: ../far/images/a.jpg is in row 1 already"),
    ]  # fmt: skip
    assert open_index(table, group_column="dish").table["group"].to_list() == ["d1", "d2", "d3", "d3", "", "d1"]
    with pytest.raises(InputError, match="has no column plate; it has: image_path, mask_path, split, group, dish"):
        open_index(table, group_column="plate")


def test_a_changed_table_and_a_vanished_file_are_noticed(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", ["a", "b"])
    lines = ["image_path,mask_path", "images/a.jpg,masks/a.png"]
    table, cache = write_table(tmp_path / "data" / "t.csv", lines), tmp_path / "index.arrow"
    age(tmp_path / "data")
    open_index(table, cache=cache)
    assert open_index(table, cache=cache).origin == "loaded"
    write_table(table, [*lines, "images/b.jpg,masks/b.png"])
    assert open_index(table, cache=cache).changes.added == ("images/b.jpg",)
    age(tmp_path / "data")
    open_index(table, cache=cache)
    (tmp_path / "data" / "masks" / "b.png").unlink()
    index = open_index(table, cache=cache)
    assert index.origin == "renewed"
    assert index.table["problem"].to_list() == ["", "missing mask: there is no file masks/b.png"]


def test_a_table_without_masks_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ["image_path", "a.jpg"])
    with pytest.raises(InputError, match="has no column mask_path; it has: image_path"):
        open_index(table)


# --- YOLO and COCO ---------------------------------------------------------------------------------------------------


def test_yolo_labels(tmp_path: Path) -> None:
    """B4.5: a picture without a label file has no mask; an empty file says that nothing is there."""
    for name in ("train/a", "train/b", "val/c"):
        write_picture(tmp_path / "images" / f"{name}.jpg")
    for name, text in {"train/a": "0 0 0 1 0 1 1\n", "val/c": "", "classes": "cat\n"}.items():
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    index = open_index(tmp_path)
    assert index.kind == "yolo"
    assert index.remarks == ()
    assert index.table.select("image", "mask", "split", "problem").rows() == [
        ("images/train/a.jpg", "labels/train/a.txt", "train", ""),
        ("images/train/b.jpg", "", "train", "missing mask: there is none called b"),
        ("images/val/c.jpg", "labels/val/c.txt", "val", ""),
    ]
    assert index.masks.read(0).data == b"0 0 0 1 0 1 1\n"


def coco(images: list[dict[str, object]]) -> str:
    return json.dumps({"images": images, "annotations": [], "categories": []})


def test_coco_with_splits_by_the_names_of_its_files(tmp_path: Path) -> None:
    for name in ("train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg", "val2017/9.jpg"):
        write_picture(tmp_path / name)
    notes = tmp_path / "annotations"
    notes.mkdir()
    entries = [{"file_name": "1.jpg", "id": 17}, {"file_name": "2.jpg", "id": 18}, {"file_name": "3.jpg", "id": 19}]
    (notes / "instances_train2017.json").write_text(coco(entries))
    (notes / "instances_val2017.json").write_text(coco([{"file_name": "1.jpg", "id": 17}]))
    (notes / "captions_val2017.json").write_text("no JSON at all")
    index = open_index(tmp_path)
    assert index.kind == "coco"
    assert index.table.select("image", "mask", "split", "problem").rows() == [
        ("train2017/1.jpg", "annotations/instances_train2017.json#17", "train", ""),
        ("train2017/2.jpg", "annotations/instances_train2017.json#18", "train", ""),
        ("val2017/1.jpg", "annotations/instances_val2017.json#17", "val", ""),
        ("val2017/9.jpg", "", "", "missing mask: no JSON lists it"),
    ]
    assert index.remarks == ("1 picture of the JSON cannot be told or are not there: 3.jpg",)
    about = (notes / "instances_train2017.json").stat()
    assert index.masks.stamp(0) == (about.st_size, about.st_mtime_ns)
    assert index.masks.path(0) == str(notes / "instances_train2017.json")


def test_coco_beside_its_pictures(tmp_path: Path) -> None:
    """As dataset services export it: train/_annotations.coco.json."""
    for split in ("train", "valid"):
        write_picture(tmp_path / split / "a.jpg")
        (tmp_path / split / "_annotations.coco.json").write_text(coco([{"file_name": "a.jpg", "id": 0}]))
    assert rows(tmp_path) == [
        ("train/a.jpg", "train/_annotations.coco.json#0", "train"),
        ("valid/a.jpg", "valid/_annotations.coco.json#0", "val"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "a.json is no JSON"),
        ("[1]", "are not COCO's: they list no images and annotations"),
        ('{"images": [{"id": 1}], "annotations": []}', "every one of its images needs file_name and id"),
    ],
)
def test_a_json_that_is_not_cocos_is_refused(tmp_path: Path, text: str, says: str) -> None:
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=says):
        find_layout(tmp_path)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    np.save(tmp_path / "masks" / "b.npy", np.zeros(3))
    (tmp_path / "images" / "c.heic").write_bytes(b"")
    write_mask(tmp_path / "masks" / ".hidden.png")
    assert find_layout(tmp_path).remarks == ["left out, of kinds that are not read: 1 .heic, 1 .npy"]
