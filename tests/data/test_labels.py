"""Labels against Pillow, brute force and an encoder of COCO's run lengths written down from its definition."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from tests.data.trees import write_picture

from lightmill.data.index import open_index
from lightmill.data.label_shapes import box_corners, paint_polygon, paint_runs, polygon_area, unpacked_runs
from lightmill.data.labels import IGNORE, open_labels, read_values
from lightmill.errors import DamagedImage, ItemError, UnsupportedImage, UsageError

HW = (6, 8)


def png(path: Path, image: Image.Image, **options: object) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.read_bytes()


def numbers(classes: int = 5, hw: tuple[int, int] = (37, 51)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes, hw, np.uint8)


# --- pictures as masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "bits"), [(2, 1), (4, 2), (16, 4), (256, 8)])
def test_palettes_give_their_indices_whatever_their_colours(tmp_path: Path, classes: int, bits: int) -> None:
    values = numbers(classes)
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * classes).astype(np.uint8).tobytes())
    data = png(tmp_path / "a.png", image, bits=bits)
    assert data[24] == bits
    np.testing.assert_array_equal(read_values(data), np.asarray(Image.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(read_values(data), values)


def test_grey_levels_are_as_they_are_stored(tmp_path: Path) -> None:
    values = numbers(256)
    np.testing.assert_array_equal(read_values(png(tmp_path / "l.png", Image.fromarray(values))), values)
    bits = Image.fromarray((values > 100).astype(np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(read_values(png(tmp_path / "1.png", bits)), values > 100)
    rgb = np.repeat(values[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_values(png(tmp_path / "rgb.png", Image.fromarray(rgb))), values)
    profiled = png(tmp_path / "icc.png", Image.fromarray(rgb), icc_profile=b"nothing that could be read")
    np.testing.assert_array_equal(read_values(profiled), values)  # a profile changes colours, and no numbers
    turned = Image.Exif()
    turned[0x0112] = 6
    rotated = png(tmp_path / "exif.png", Image.fromarray(values), exif=turned)
    np.testing.assert_array_equal(read_values(rotated), np.rot90(values, -1))


def test_what_holds_no_class_numbers_is_refused(tmp_path: Path) -> None:
    deep = png(tmp_path / "16.png", Image.fromarray(numbers().astype(np.uint16)))
    with pytest.raises(UnsupportedImage, match=r"16 bits; class numbers have 8"):
        read_values(deep)
    colours = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    with pytest.raises(UnsupportedImage, match="a mask in colours"):
        read_values(png(tmp_path / "rgb.png", Image.fromarray(colours)))
    clear = np.full((5, 5, 4), 3, np.uint8)
    with pytest.raises(UnsupportedImage, match="transparency"):
        read_values(png(tmp_path / "rgba.png", Image.fromarray(clear)))
    with pytest.raises(UnsupportedImage, match="transparency"):
        read_values(png(tmp_path / "la.png", Image.new("LA", (4, 4))))
    with pytest.raises(UnsupportedImage, match=r"has to be a PNG, .* this is JPEG"):
        read_values(png(tmp_path / "a.jpg", Image.fromarray(numbers())))


@pytest.mark.parametrize("what", ["cut", "flipped", "no end"])
def test_damaged_masks_are_never_half_read(tmp_path: Path, what: str) -> None:
    """B4.8: a bad PNG mask is not swallowed."""
    image = Image.fromarray(numbers(256, (60, 60)))
    data = bytearray(png(tmp_path / "a.png", image))
    if what == "cut":
        data = data[: len(data) // 2]
    elif what == "flipped":
        data[len(data) // 2] ^= 0x40
    else:
        data = data[:-12]
    with pytest.raises(DamagedImage, match=r"a mask has to be whole|damaged"):
        read_values(bytes(data))


def masks(root: Path, levels: list[np.ndarray]) -> Path:
    for number, one in enumerate(levels):
        write_picture(root / "images" / f"{number}.jpg", one.shape[::-1])
        png(root / "masks" / f"{number}.png", Image.fromarray(one))
    return root


def test_classes_are_numbers_and_255_is_ignored(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 11, 255]], np.uint8)
    labels = open_labels(open_index(masks(tmp_path, [values])), classes=["a", "b", "c", "d"], ignore=[11])
    found, as_listed = labels.read(0, values.shape)
    assert found.tolist() == [[0, 1, 2], [3, IGNORE, IGNORE]]
    assert as_listed
    again = pickle.loads(pickle.dumps(labels))
    np.testing.assert_array_equal(again.read(0, values.shape).map, found)
    by_number = open_labels(open_index(tmp_path), ignore=[11])
    assert by_number.names == ("0", "1", "2", "3")
    assert by_number.rules == labels.rules


def test_masks_of_0_and_255_are_classes_0_and_1(tmp_path: Path) -> None:
    """Decided once for all masks: a single file without any 255 is background, one of 255 alone foreground."""
    both = np.array([[0, 255], [255, 0]], np.uint8)
    index = open_index(masks(tmp_path, [both, np.zeros_like(both), np.full_like(both, 255)]))
    labels = open_labels(index)
    assert labels.names == ("background", "foreground")
    found = [labels.read(row, (2, 2)).map.tolist() for row in range(3)]
    assert found == [[[0, 1], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert open_labels(index, classes=["person"]).names == ("background", "person")
    # asked for otherwise, 255 is ignored
    assert open_labels(index, binary=False, classes=["a"]).read(2, (2, 2)).map.tolist() == [[255, 255], [255, 255]]


def test_masks_with_a_void_are_no_binary_ones(tmp_path: Path) -> None:
    with_void = np.array([[0, 1], [255, 0]], np.uint8)
    assert open_labels(open_index(masks(tmp_path, [with_void]))).names == ("0", "1")
    with pytest.raises(
        ItemError, match=r"the mask masks/0.png is no mask of 0 and 255: it holds 1 \(2 pixels\), none above 127"
    ):
        open_labels(open_index(masks(tmp_path / "b", [with_void.clip(0, 1)])), binary=True).read(0, (2, 2))


def test_soft_masks_are_cut_at_128_and_their_ignored_level_stays(tmp_path: Path) -> None:
    soft = np.array([[0, 127, 100], [128, 255, 7]], np.uint8)
    index = open_index(masks(tmp_path, [soft]))
    assert open_labels(index, binary=True, ignore=[100]).read(0, (2, 3)).map.tolist() == [[0, 0, 255], [1, 1, 0]]
    high = open_index(masks(tmp_path / "high", [soft // 2 + 100]))
    with pytest.raises(UsageError, match=r"values up to 227: are they soft masks .*--binary"):
        open_labels(high)


def test_what_is_no_class_is_named(tmp_path: Path) -> None:
    values = np.array([[0, 1, 9], [9, 7, 255]], np.uint8)
    labels = open_labels(open_index(masks(tmp_path, [values])), classes=["a", "b"])
    with pytest.raises(ItemError, match=r"the mask masks/0.png: it holds 7, 9 \(3 pixels\), and classes are 0 to 1"):
        labels.read(0, (2, 3))
    with pytest.raises(ItemError, match=r"the mask masks/0.png is 3x2 px, its picture 2x3"):
        labels.read(0, (3, 2))
    with pytest.raises(UsageError, match="--classes names some class twice"):
        open_labels(open_index(tmp_path), classes=["a", "a"])
    with pytest.raises(UsageError, match="--ignore takes values that masks can hold, 0 to 255, got 300"):
        open_labels(open_index(tmp_path), ignore=[300])


def test_a_mask_written_to_since_is_read_and_said_to_be_another(tmp_path: Path) -> None:
    index = open_index(masks(tmp_path, [numbers(2, HW)]))
    labels = open_labels(index)
    key = labels.key(0)
    png(tmp_path / "masks" / "0.png", Image.fromarray(np.ones(HW, np.uint8)), compress_level=0)
    found, as_listed = labels.read(0, HW)
    assert not as_listed
    assert found.min() == 1
    assert open_labels(open_index(tmp_path), classes=["0", "1"]).key(0) != key
    (tmp_path / "masks" / "0.png").unlink()
    with pytest.raises(ItemError, match=r"masks/0.png: it has vanished"):
        labels.read(0, HW)


def test_camvid_is_what_pillow_reads(shared_data: Path) -> None:
    index = open_index(shared_data / "camvid")
    labels = open_labels(index, ignore=[11])
    assert labels.names == tuple(map(str, range(11)))
    for row in range(0, len(index), 97):
        wanted = np.asarray(Image.open(index.masks.path(row)))
        np.testing.assert_array_equal(labels.read(row, (360, 480)).map, np.where(wanted == 11, 255, wanted))


# --- shapes ----------------------------------------------------------------------------------------------------------


def by_hand(points: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Even-odd at the middle of each pixel, one pixel and one edge at a time."""
    out = np.zeros(hw, np.uint8)
    edges = list(zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True))
    for y, x in np.ndindex(*hw):
        passed = 0
        for (x0, y0), (x1, y1) in edges:
            if min(y0, y1) <= y + 0.5 < max(y0, y1):
                passed += x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) <= x + 0.5
        out[y, x] = passed % 2
    return out


def painted(points: object, hw: tuple[int, int]) -> np.ndarray:
    out = np.zeros(hw, np.uint8)
    paint_polygon(out, points, 1)
    return out


@given(st.lists(st.tuples(st.integers(-6, 40), st.integers(-6, 30)), min_size=3, max_size=9))
def test_polygons_are_what_lies_inside_pixel_by_pixel(corners: list[tuple[int, int]]) -> None:
    points = np.array(corners) / 2  # corners, edges and middles of pixels, inside the picture and beside it
    np.testing.assert_array_equal(painted(points, (11, 15)), by_hand(points, (11, 15)))


def test_polygons_agree_with_opencv_and_pillow_but_for_the_border() -> None:
    """B4.8: those two paint what the border touches; ours is never larger, and its area is the polygon's."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn = np.sort(rng.uniform(0, 2 * np.pi, 12))
        points = np.stack([np.cos(turn), np.sin(turn)], 1) * rng.uniform(20, 60, (12, 1)) + 64
        ours = painted(points, (128, 128))
        theirs = cv2.fillPoly(np.zeros((128, 128), np.uint8), [np.round(points - 0.5).astype(np.int32)], 1)
        pillow = Image.new("L", (128, 128))
        ImageDraw.Draw(pillow).polygon([tuple(point) for point in (points - 0.5).tolist()], fill=1)
        border = cv2.polylines(
            np.zeros((128, 128), np.uint8),
            [np.round(points - 0.5).astype(np.int32)],
            isClosed=True,
            color=1,
            thickness=3,
        )
        for other in (theirs, np.asarray(pillow)):
            assert (ours != other)[border == 0].sum() == 0
            assert ours.sum() <= other.sum()
        assert ours.sum() == pytest.approx(polygon_area(points), rel=0.02)


def test_shapes_side_by_side_share_no_pixel_and_leave_none_out() -> None:
    whole = np.zeros((9, 13), np.uint8)
    for left, right in ((0, 4.5), (4.5, 7.25), (7.25, 13)):
        part = painted(box_corners(left, -2, right - left, 20), whole.shape)
        assert not (whole & part).any()
        whole |= part
    assert whole.all()


def packed(mask: np.ndarray) -> str:
    """As COCO's definition has it: runs down the columns, differences from the fourth on, five bits a character."""
    runs = run_lengths(mask)
    text = ""
    for number, run in enumerate(runs):
        rest, more = run - (runs[number - 2] if number > 2 else 0), True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if bits & 0x10 else 0)
            text += chr((bits | (0x20 if more else 0)) + 48)
    return text


def run_lengths(mask: np.ndarray) -> list[int]:
    runs, level = [0], 0
    for value in mask.T.ravel().tolist():
        if value != level:
            runs.append(0)
            level = value
        runs[-1] += 1
    return runs


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 60), st.integers(1, 70))
def test_runs_of_coco_come_back(seed: int, share: float, height: int, width: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    runs = unpacked_runs(packed(mask))
    assert runs.tolist() == run_lengths(mask)
    out = np.zeros_like(mask)
    paint_runs(out, runs, 1)
    np.testing.assert_array_equal(out, mask)


def test_long_runs_and_what_is_no_runs() -> None:
    mask = np.zeros((2000, 2000), np.uint8)
    mask[3:1990, 7:1999] = 1
    assert unpacked_runs(packed(mask)).tolist() == run_lengths(mask)
    with pytest.raises(ValueError, match="no text that COCO's tools write"):
        unpacked_runs("\x10\x20")
    with pytest.raises(ValueError, match="cut off"):
        unpacked_runs(packed(mask)[:1] + "P")
    with pytest.raises(ValueError, match="longer than any picture"):
        unpacked_runs("o" * 12 + "0")
    with pytest.raises(ValueError, match="its runs make 7 of 12 pixels"):
        paint_runs(np.zeros((3, 4), np.uint8), [3, 4], 1)
    with pytest.raises(ValueError, match="of 12 pixels"):
        paint_runs(np.zeros((3, 4), np.uint8), [14, -2], 1)


# --- YOLO ------------------------------------------------------------------------------------------------------------


def yolo(root: Path, *texts: str, names: str = "names: [cat, dog]") -> Path:
    for number, text in enumerate(texts):
        write_picture(root / "images" / f"{number}.png", (40, 20), seed=number)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{number}.txt").write_text(text)
    if names:
        (root / "data.yaml").write_text(names)
    return root


def test_outlines_of_yolo(tmp_path: Path) -> None:
    text = "1 0.1 0.2 0.9 0.2 0.9 0.8 0.1 0.8\n\n0 0.25 0.5 0.5 0.25 0.75 0.5\n"
    index = open_index(yolo(tmp_path, text, ""))
    labels = open_labels(index)
    assert labels.names == ("background", "cat", "dog")
    wanted = by_hand(np.array([[4, 4], [36, 4], [36, 16], [4, 16]]), (20, 40)) * 2
    wanted[by_hand(np.array([[10, 10], [20, 5], [30, 10]]), (20, 40)) > 0] = 1  # the smaller one lies above
    np.testing.assert_array_equal(labels.read(0, (20, 40)).map, wanted)
    assert not labels.read(1, (20, 40)).map.any()  # an empty file: nothing but background
    assert open_labels(index, ignore=[0]).read(0, (20, 40)).map[8, 20] == IGNORE  # over the dog, as the cat


def test_boxes_of_yolo_are_masks_only_when_asked(tmp_path: Path) -> None:
    """B4.5: a box is no outline."""
    index = open_index(yolo(tmp_path, "0 0.5 0.5 0.5 0.5"))
    with pytest.raises(ItemError, match=r"labels/0.txt: it holds a box, and no outline; .*--boxes-as-masks"):
        open_labels(index).read(0, (20, 40))
    found = open_labels(index, boxes=True).read(0, (20, 40)).map
    assert found.sum() == found[5:15, 10:30].sum() == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2 0 0 1 0 1 1", r"class 2 is none of the 2 \(0 to 1\)"),
        ("0 0 0 1 0 1", "5 numbers after its class"),
        ("0 0 0 30 0 1 1", "not shares of width and height"),
        ("0 0 0 nan 0 1 1", "not shares of width and height"),
        ("cat 0 0 1 0 1 1", "could not convert string to float"),
    ],
)
def test_lines_that_are_not_yolos_are_named(tmp_path: Path, text: str, words: str) -> None:
    labels = open_labels(open_index(yolo(tmp_path, text)))
    with pytest.raises(ItemError, match=f"the labels labels/0.txt: .*{words}"):
        labels.read(0, (20, 40))


def test_names_of_yolo(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name them with --classes, or put data\.yaml"):
        open_labels(open_index(yolo(tmp_path / "a", "", names="")))
    by_number = open_index(yolo(tmp_path / "b", "", names="names: {1: dog, 0: cat}"))
    assert open_labels(by_number).names == ("background", "cat", "dog")
    assert open_labels(by_number, classes=["x", "y", "z"]).names == ("background", "x", "y", "z")
    (tmp_path / "a" / "classes.txt").write_text("cat\nbackground\ndog\n")
    third = open_labels(open_index(tmp_path / "a"))
    assert third.names == ("background", "cat", "dog")
    assert third.values == (1, 0, 2)


# --- COCO ------------------------------------------------------------------------------------------------------------

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "grass"}]


def coco(root: Path, *of_pictures: list[dict[str, object]], size: tuple[int, int] = (40, 20)) -> Path:
    images, annotations = [], []
    for number, some in enumerate(of_pictures):
        write_picture(root / f"{number}.jpg", (40, 20), seed=number)
        images.append({"id": 100 + number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]})
        annotations += [{"image_id": 100 + number, "iscrowd": 0, **one} for one in some]
    about = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations.json").write_text(json.dumps(about))
    return root


def test_outlines_and_runs_of_coco(tmp_path: Path) -> None:
    disc = cv2.circle(np.zeros((20, 40), np.uint8), (20, 10), 6, 1, -1)
    left = {"category_id": 3, "segmentation": [[0, 0, 10, 0, 10, 20, 0, 20], [30, 0, 34, 0, 34, 5]]}
    runs = {"category_id": 7, "segmentation": {"size": [20, 40], "counts": run_lengths(disc)}}
    text = {"category_id": 90, "segmentation": {"size": [20, 40], "counts": packed(disc)}}
    crowd = {"category_id": 3, "iscrowd": 1, "segmentation": {"size": [20, 40], "counts": [0, 800]}}
    index = open_index(coco(tmp_path, [left, runs], [text], [], [runs, crowd]))
    labels = pickle.loads(pickle.dumps(open_labels(index)))
    assert labels.names == ("background", "cat", "dog", "grass")  # by their ids
    wanted = 2 * disc
    for part in left["segmentation"]:
        wanted[by_hand(np.array(part).reshape(-1, 2), (20, 40)) > 0] = 1
    np.testing.assert_array_equal(labels.read(0, (20, 40)).map, wanted)
    np.testing.assert_array_equal(labels.read(1, (20, 40)).map, 3 * disc)
    assert not labels.read(2, (20, 40)).map.any()  # listed, and nothing is on it
    np.testing.assert_array_equal(labels.read(3, (20, 40)).map, np.where(disc, 2, IGNORE))
    some = open_labels(index, classes=["grass", "cat"])
    assert some.names == ("background", "grass", "cat")
    assert not (some.read(0, (20, 40)).map == 2)[disc > 0].any()
    assert open_labels(index, ignore=[7]).read(0, (20, 40)).map[10, 20] == IGNORE
    with pytest.raises(
        UsageError, match=r"--classes horse: there is no such category; there are 3 cat, 7 dog, 90 grass"
    ):
        open_labels(index, classes=["horse"])


def test_a_key_of_coco_hangs_on_its_own_annotations(tmp_path: Path) -> None:
    square = {"category_id": 3, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    before = open_labels(open_index(coco(tmp_path, [square], [])))
    after = open_labels(open_index(coco(tmp_path, [square], [square])))
    assert before.key(0) == after.key(0)
    assert before.key(1) != after.key(1)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"category_id": 3, "bbox": [1, 2, 3, 4]}, "a box, and no outline; boxes become masks with --boxes-as-masks"),
        ({"category_id": 3, "segmentation": [[0, 0, 1, 1]]}, "an outline has 4 numbers"),
        ({"category_id": 3, "segmentation": {"size": [9, 9], "counts": [81]}}, "runs for 9x9 px, the picture is 40x20"),
        ({"category_id": 3, "segmentation": {"size": [20, 40], "counts": [81]}}, "its runs make 81 of 800 pixels"),
        ({"segmentation": [[0, 0, 9, 0, 9, 9]]}, "of category None, which the JSON does not list"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_painted_are_named(tmp_path: Path, one: dict[str, object], words: str) -> None:
    labels = open_labels(open_index(coco(tmp_path, [one])))
    with pytest.raises(ItemError, match=rf"the annotations annotations.json#100: .*{words}"):
        labels.read(0, (20, 40))


def test_boxes_of_coco_when_asked_and_sizes_that_differ(tmp_path: Path) -> None:
    box = {"category_id": 3, "bbox": [4, 5, 10, 6]}
    found = open_labels(open_index(coco(tmp_path, [box])), boxes=True).read(0, (20, 40)).map
    assert found.sum() == found[5:11, 4:14].sum() == 60
    other = open_labels(open_index(coco(tmp_path / "b", [box], size=(20, 40))), boxes=True)
    with pytest.raises(ItemError, match="they are for 20x40 px, the picture is 40x20"):
        other.read(0, (20, 40))
    with pytest.raises(UsageError, match="these labels are COCO's"):
        open_labels(open_index(tmp_path / "b"), binary=True)
