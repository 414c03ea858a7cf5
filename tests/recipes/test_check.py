"""`check` on data sets in which every fault was made on purpose, and its counts against a plain loop."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import write_mask, write_pairs, write_picture

import lightmill
from lightmill.engine.run import RunResult
from lightmill.errors import ChangedConfig, InputError, UsageError

FILES = {"check.csv", "classes.json", "leaks.csv", "manifest.csv", "manifest.jsonl", "report.html", "report.json"}


def listing(out: Path) -> dict[str, dict[str, str]]:
    """Picture -> its line of check.csv."""
    with open(out / "check.csv", newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def leaks(out: Path) -> list[tuple[str, str, str]]:
    """(kind, picture, the one of the other split)."""
    with open(out / "leaks.csv", newline="", encoding="utf-8") as file:
        return [(row["kind"], row["image"], row["other"]) for row in csv.DictReader(file)]


def classes(out: Path) -> Any:
    return json.loads((out / "classes.json").read_text("utf-8"))


def check(data: Path, out: Path, **options: Any) -> RunResult:
    return lightmill.check(data, out, **options)


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A data set with one picture of every fault, beside two that are sound."""
    data = write_pairs(
        tmp_path / "data", ["a", "b", "missing", "empty", "cut", "mask_cut", "sizes", "outside"], size=(64, 48)
    )
    images, masks = data / "images", data / "masks"
    (masks / "missing.png").unlink()
    (images / "empty.jpg").write_bytes(b"")
    cut = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    cut = (masks / "mask_cut.png").read_bytes()
    (masks / "mask_cut.png").write_bytes(cut[:-20])
    write_mask(masks / "sizes.png", (48, 64))
    write_mask(masks / "outside.png", (64, 48), classes=7)
    write_picture(images / "void.jpg", (64, 48))
    Image.new("L", (64, 48), 255).save(masks / "void.png")
    write_picture(images / "named.png", (64, 48), seed=9)
    os.rename(images / "named.png", images / "named.jpg")
    write_mask(masks / "named.png", (64, 48))
    (images / "text.jpg").write_text("no picture")
    write_mask(masks / "text.png", (64, 48))
    return data


# --- one data set, every fault ---------------------------------------------------------------------------------------


def test_every_fault_has_its_status_and_its_kind(faulty: Path, tmp_path: Path) -> None:
    """B4.5, B4.6, B4.8, B4.9: what cannot be trained on fails by name; what was cut off is found by decoding."""
    out = tmp_path / "out"
    result = check(faulty, out, classes="sky,road,car")
    found = {Path(image).stem: (row["status"], row["kind"], row["finding"]) for image, row in listing(out).items()}
    assert found == {
        "a": ("ok", "", ""),
        "b": ("ok", "", ""),
        "cut": ("recovered", "cut off or damaged", ""),
        "empty": ("failed", "empty file", ""),
        "mask_cut": ("failed", "broken mask", ""),
        "missing": ("failed", "missing mask", ""),
        "named": ("ok", "", "wrong extension: the picture is called .jpg, and is a PNG"),
        "outside": ("failed", "values outside the classes", ""),
        "sizes": ("failed", "sizes differ", ""),
        "text": ("failed", "broken picture", ""),
        "void": ("ok", "", "all ignored"),
    }
    assert (result.exit_code, result.failed, result.recovered, result.ok) == (3, 6, 1, 4)
    messages = {Path(image).stem: row["message"] for image, row in listing(out).items()}
    assert messages["sizes"] == "sizes differ: the picture is 64x48 px, its mask 48x64"
    assert messages["missing"] == "missing mask: there is none called missing"
    assert messages["mask_cut"].startswith("the mask masks/mask_cut.png: a mask has to be whole")
    outside = np.count_nonzero(np.arange(64 * 48) % 7 > 2)
    assert messages["outside"].startswith(f"the mask masks/outside.png: it holds 3, 4, 5, 6 ({outside:,} pixels), and")
    assert result.remarks == (
        "all ignored: 1 picture, as images/void.jpg",
        "broken mask: 1 picture, as images/mask_cut.jpg",
        "broken picture: 1 picture, as images/text.jpg",
        "cut off or damaged: 1 picture, as images/cut.jpg",
        "empty file: 1 picture, as images/empty.jpg",
        "missing mask: 1 picture, as images/missing.jpg",
        "sizes differ: 1 picture, as images/sizes.jpg",
        "values outside the classes: 1 picture, as images/outside.jpg",
        "wrong extension: 1 picture, as images/named.jpg",
        "there are no two splits, so nothing can leak between them",
        "3 classes in the masks, the rarest is sky with 33.3 % of the pixels",
    )
    assert {path.name for path in out.iterdir() if path.name != ".lightmill"} == FILES


def test_counts_are_those_of_a_plain_loop(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(faulty, out, classes="sky,road,car,boat", ignore="1", threads=3)
    pixels, pictures, around, ignored = [0] * 4, [0] * 4, [0] * 4, 0
    for image, row in listing(out).items():
        if row["status"] not in ("ok", "recovered"):
            continue
        levels = np.asarray(Image.open(faulty / "masks" / f"{Path(image).stem}.png"))
        counted = [int((levels == value).sum()) if value != 1 else 0 for value in range(4)]
        ignored += int(np.isin(levels, [1, 255]).sum())
        for value, count in enumerate(counted):
            pixels[value] += count
            pictures[value] += count > 0
            around[value] += sum(counted) if count else 0
    found = classes(out)
    assert found["ignored_pixels"] == ignored
    assert [(one["name"], one["pixels"], one["pictures"]) for one in found["classes"]] == [
        (name, pixels[value], pictures[value]) for value, name in enumerate(["sky", "road", "car", "boat"])
    ]
    shares = {value: pixels[value] / around[value] for value in range(4) if around[value]}
    middle = float(np.median(list(shares.values())))
    weights = {one["number"]: one["median_frequency_weight"] for one in found["classes"]}
    assert weights == {value: round(middle / shares[value], 6) if value in shares else None for value in range(4)}


def test_binary_masks_are_classes_0_and_1(tmp_path: Path) -> None:
    """0 and 255 alone: 255 is what is looked for, not what is ignored; where any other value occurs, it is void."""
    data = write_pairs(tmp_path / "data", ["a", "b"], size=(8, 4))
    for name, level in (("a", 255), ("b", 0)):
        levels = np.zeros((4, 8), np.uint8)
        levels[:2] = level
        Image.fromarray(levels).save(data / "masks" / f"{name}.png")
    check(data, tmp_path / "out")
    found = classes(tmp_path / "out")
    assert found["ignored_pixels"] == 0
    assert [(one["name"], one["pixels"]) for one in found["classes"]] == [("background", 48), ("foreground", 16)]
    levels[0] = 3
    Image.fromarray(levels).save(data / "masks" / "b.png")
    check(data, tmp_path / "out")
    found = classes(tmp_path / "out")
    assert found["ignored_pixels"] == 16
    assert [one["pixels"] for one in found["classes"]] == [40, 0, 0, 8]


def test_any_number_of_threads_writes_the_same_files(faulty: Path, tmp_path: Path) -> None:
    for threads in (1, 4):
        check(faulty, tmp_path / f"{threads}", threads=threads)
    for name in FILES - {"report.html"}:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()


def test_a_rotated_photograph_needs_a_mask_of_what_is_seen(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_picture(data / "images" / "a.jpg", (16, 8), exif=6)
    write_mask(data / "masks" / "a.png", (8, 16))
    write_picture(data / "images" / "b.jpg", (16, 8), exif=6)
    write_mask(data / "masks" / "b.png", (16, 8))
    check(data, tmp_path / "out")
    found = listing(tmp_path / "out")
    assert found["images/a.jpg"]["status"] == "ok"
    assert found["images/b.jpg"]["message"].endswith("its EXIF orientation turns it")


# --- again -----------------------------------------------------------------------------------------------------------


def test_what_was_mended_is_looked_at_again_and_nothing_else(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(faulty, out)
    before = (out / "check.csv").read_bytes()
    again = check(faulty, out)
    assert (out / "check.csv").read_bytes() == before
    assert json.loads((out / "report.json").read_text("utf-8"))["total"] == 11
    write_mask(faulty / "masks" / "missing.png", (64, 48))
    path = faulty / "masks" / "sizes.png"
    write_mask(path, (64, 48))
    broken = faulty / "images" / "a.jpg"
    broken.write_bytes(bytes(broken.stat().st_size))
    now = check(faulty, out)
    changed = {image for image, row in listing(out).items() if row not in csv.DictReader(before.decode().splitlines())}
    assert changed == {"images/missing.jpg", "images/sizes.jpg", "images/a.jpg"}
    assert listing(out)["images/a.jpg"]["kind"] == "broken picture"
    assert (again.failed, now.failed) == (5, 4)


def test_a_picture_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Whoever removes what is broken gets a clean bill."""
    data = write_pairs(tmp_path / "data", ["a", "b"])
    (data / "images" / "b.jpg").write_bytes(b"")
    assert check(data, tmp_path / "out").exit_code == 3
    (data / "images" / "b.jpg").unlink()
    now = check(data, tmp_path / "out")
    assert (now.exit_code, now.counts) == (0, {"ok": 1})
    assert set(listing(tmp_path / "out")) == {"images/a.jpg"}
    assert len((tmp_path / "out" / "manifest.jsonl").read_text("utf-8").splitlines()) == 1


def test_other_options_are_another_run(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", ["a"])
    check(data, tmp_path / "out")
    with pytest.raises(ChangedConfig, match="ignore"):
        check(data, tmp_path / "out", ignore="1")


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_leaks_between_splits_are_named(shared_data: Path, tmp_path: Path) -> None:
    """B4.10: an equal file, a copy of another size and quality, a group on both sides; and no two photographs."""
    data, photos = tmp_path / "data", sorted((shared_data / "photos").glob("*.jpg"))[:6]
    for number, photo in enumerate(photos):
        split = "train" if number % 2 else "val"
        with Image.open(photo) as picture:
            small = picture.convert("RGB")
            small.thumbnail((320, 320))
        folder = data / split
        (folder / "images").mkdir(parents=True, exist_ok=True)
        small.save(folder / "images" / f"g{number // 4}_{number}.jpg", quality=95)
        write_mask(folder / "masks" / f"g{number // 4}_{number}.png", small.size)
    twin = (data / "train" / "images" / "g0_1.jpg").read_bytes()
    (data / "val" / "images" / "g7_twin.jpg").write_bytes(twin)
    with Image.open(data / "train" / "images" / "g0_3.jpg") as picture:
        half = picture.resize((picture.width // 2, picture.height // 2))
        half.save(data / "val" / "images" / "g8_half.jpg", quality=60)
    write_mask(data / "val" / "masks" / "g8_half.png", half.size)
    with Image.open(data / "val" / "images" / "g7_twin.jpg") as picture:
        write_mask(data / "val" / "masks" / "g7_twin.png", picture.size)
    result = check(data, tmp_path / "out", group=r"(g\d)_")
    assert leaks(tmp_path / "out") == [
        ("same file", "val/images/g7_twin.jpg", "train/images/g0_1.jpg"),
        ("near picture", "val/images/g8_half.jpg", "train/images/g0_3.jpg"),
        ("group", "val/images/g0_0.jpg", "train/images/g0_1.jpg"),
        ("group", "val/images/g0_2.jpg", "train/images/g0_1.jpg"),
        ("group", "val/images/g1_4.jpg", "train/images/g1_5.jpg"),
    ]
    said = [line for line in result.warnings if line.startswith("leak: ")]
    assert said == [
        "leak: files that another split has: 1 picture, as train/images/g0_1.jpg | val/images/g7_twin.jpg",
        "leak: nearly the same as one of another split: 1 picture, as train/images/g0_3.jpg | val/images/g8_half.jpg",
        (
            "leak: of a group that another split has: 3 pictures, as train/images/g0_1.jpg | val/images/g0_0.jpg; "
            "train/images/g0_1.jpg | val/images/g0_2.jpg; train/images/g1_5.jpg | val/images/g1_4.jpg"
        ),
    ]
    assert "nearly the same as one of another split: 1 picture" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert result.exit_code == 0
    assert listing(tmp_path / "out")["val/images/g7_twin.jpg"]["leak"] == "same file: train/images/g0_1.jpg"
    (data / "val" / "images" / "g7_twin.jpg").unlink()
    later = check(data, tmp_path / "out", group=r"(g\d)_")
    assert any(line.startswith("no longer so: leak: files that another") for line in later.warnings)


def test_camvid_is_sound(shared_data: Path, tmp_path: Path) -> None:
    names = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist"
    data = tmp_path / "camvid"
    for split, most in (("train", 25), ("val", 15)):
        for kind in ("images", "masks"):
            (data / split / kind).mkdir(parents=True)
            for path in sorted((shared_data / "camvid" / split / kind).iterdir())[::9][:most]:
                os.symlink(path, data / split / kind / path.name)
    result = check(data, tmp_path / "out", classes=names, ignore="11")
    assert (result.ok, result.exit_code) == (37, 0)
    assert leaks(tmp_path / "out") == []
    assert sum(one["pictures"] > 0 for one in classes(tmp_path / "out")["classes"]) == 11


# --- refusals --------------------------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", ["a"])
    with pytest.raises(InputError, match="DATA and OUT are the same folder"):
        check(data, data)
    with pytest.raises(UsageError, match="--group dish: a folder has no columns"):
        check(data, tmp_path / "out", group="dish")
    with pytest.raises(UsageError, match="--ignore takes values that masks can hold, 0 to 255, got 300"):
        check(data, tmp_path / "out", ignore="300")
    with pytest.raises(UsageError, match=r"--ignore 'a': values are whole numbers, as in 11,254"):
        check(data, tmp_path / "out", ignore="a")
    with pytest.raises(UsageError, match=r"says nothing of 1 picture, as of images/a\.jpg"):
        check(data, tmp_path / "out", group="(seq)")


def test_a_table_with_groups(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", ["a", "b", "c"])
    table = tmp_path / "data" / "t.csv"
    rows = ["image_path,mask_path,split,dish"]
    rows += [f"images/{name}.jpg,masks/{name}.png,{split},{dish}" for name, split, dish in
             (("a", "train", "soup"), ("b", "val", "soup"), ("c", "val", "rice"))]  # fmt: skip
    table.write_text("\n".join(rows))
    check(table, tmp_path / "out", group="dish")
    assert leaks(tmp_path / "out") == [("group", "images/b.jpg", "images/a.jpg")]


def test_yolo_and_coco_labels_are_painted(tmp_path: Path) -> None:
    """A square of half the width and height, said in two ways; a missing file is not background (B4.5)."""
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    for name in ("a", "b", "c", "d"):
        write_picture(yolo / "images" / f"{name}.jpg", (40, 20))
    write_picture(coco / "a.jpg", (40, 20))
    (yolo / "labels").mkdir()
    (yolo / "labels" / "a.txt").write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    (yolo / "labels" / "b.txt").write_text("")
    (yolo / "labels" / "d.txt").write_text("7 0 0 0.5 0 0.5 0.5 0 0.5\n")
    outline = {"id": 1, "image_id": 5, "category_id": 3, "segmentation": [[0, 0, 20, 0, 20, 10, 0, 10]]}
    images = [{"file_name": "a.jpg", "id": 5, "width": 40, "height": 20}]
    about = {"images": images, "annotations": [outline], "categories": [{"id": 3, "name": "cat"}]}
    (coco / "notes.json").write_text(json.dumps(about))
    check(yolo, tmp_path / "1", classes="cat")
    check(coco, tmp_path / "2")
    assert [(row["status"], row["kind"]) for row in listing(tmp_path / "1").values()] == [
        ("ok", ""),
        ("ok", ""),
        ("failed", "missing mask"),
        ("failed", "labels that cannot be read"),
    ]
    wanted = {"background": 600, "cat": 200}
    assert {one["name"]: one["pixels"] for one in classes(tmp_path / "2")["classes"]} == wanted
    wanted["background"] += 800
    assert {one["name"]: one["pixels"] for one in classes(tmp_path / "1")["classes"]} == wanted


def test_where_no_mask_can_be_read_all_of_that_is_said(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", ["a", "b"])
    for path in (data / "masks").iterdir():
        path.write_bytes(b"")
    result = check(data, tmp_path / "out")
    assert result.exit_code == 3
    assert result.remarks[0] == "empty file: 2 pictures, as images/a.jpg, images/b.jpg"
    assert result.remarks[-1] == "no mask holds any class"
    assert classes(tmp_path / "out") == {"ignored_pixels": 0, "classes": []}


def test_other_rules_for_masks_count_all_of_them_anew(tmp_path: Path) -> None:
    """A first class 7 in one mask makes eight classes of three: what was counted before is looked at again."""
    data = write_pairs(tmp_path / "data", ["a", "b"])
    check(data, tmp_path / "out")
    write_mask(data / "masks" / "b.png", classes=8)
    check(data, tmp_path / "out")
    found = classes(tmp_path / "out")["classes"]
    assert [one["pixels"] for one in found] == [22, 22, 22, 6, 6, 6, 6, 6]


def test_the_command_line(faulty: Path, tmp_path: Path, lightmill_run: Callable[..., Any]) -> None:
    done = lightmill_run("check", faulty, tmp_path / "out", "--classes", "sky,road,car", "--progress", "none")
    assert done.code == 3
    assert "missing mask: 1 picture, as images/missing.jpg" in done.stderr
    again = lightmill_run("retry", tmp_path / "out", "--only", "failed:mask")
    assert again.code == 3


def test_absent_classes_are_a_short_line(tmp_path: Path) -> None:
    """One value far up makes a class of every number below it; they are counted, and only some are named."""
    data = write_pairs(tmp_path / "data", ["a"], size=(64, 48))
    level = np.zeros((48, 64), np.uint8)
    level[:8] = 77
    Image.fromarray(level).save(data / "masks" / "a.png")
    said = check(data, tmp_path / "out").remarks[-1]
    assert said.endswith("; nowhere: 1, 2, 3, 4, 5, 6, 7, 8 and 68 more")  # 76 between 0 and 77
