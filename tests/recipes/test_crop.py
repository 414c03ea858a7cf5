"""Boxes cut out of frames: held against slices of the frames as Pillow decodes them, and read by other programs."""

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import polars as pl
import pytest
from PIL import Image

import lightmill
from lightmill.cli import run_command_line
from lightmill.data.loose import CropFiles
from lightmill.data.pack import CropPack
from lightmill.engine.run import RunResult
from lightmill.errors import ChangedConfig, UsageError
from lightmill.ops.boxes import clean_tracks
from lightmill.recipes.negative_boxes import KINDS, draw_of_table
from lightmill.sources.boxes import BoxColumns, read_boxes

SIZE = (320, 180)
PATH = "{quarter}__{angle}__{session:02d}__{frame:02d}.png"
COLUMNS = ["quarter", "angle", "session", "frame", "x", "y", "w", "h", "label_id", "note"]
NAMED = {"path": PATH, "label": "label_id", "group": "quarter,session", "view": "angle", "time": "frame"}
KEY = "Q1__{angle}__01__{frame:02d}.png".format


@dataclass
class Match:
    """A folder of frames, and the rows of a table of boxes in them."""

    folder: Path
    rows: list[list[Any]] = field(default_factory=list)

    def frame(self, angle: str, frame: int, *, size: tuple[int, int] = SIZE) -> Path:
        """A frame of colours that are nowhere the same."""
        rng = np.random.default_rng([len(angle), frame])
        coarse = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        path = self.folder / "images" / KEY(angle=angle, frame=frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)
        return path

    def box(self, angle: str, frame: int, box: tuple[float, ...], label: object = 1, note: str = "") -> int:
        """A row; its number."""
        self.rows.append(["Q1", angle, 1, frame, *box, label, note])
        return len(self.rows) - 1

    @property
    def meta(self) -> Path:
        """The table, as it is now."""
        path = self.folder / "meta.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        return path

    def pixels(self, key: str) -> np.ndarray:
        return np.asarray(Image.open(self.folder / "images" / key).convert("RGB"))


@dataclass
class Made:
    """A run that has ended."""

    result: RunResult

    @property
    def out(self) -> Path:
        return self.result.out

    @property
    def pack(self) -> CropPack:
        return CropPack.open(self.out)

    @property
    def back(self) -> list[dict[str, str]]:
        with open(self.out / "meta_with_crops.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def manifest(self) -> dict[str, Any]:
        lines = (self.out / "manifest.jsonl").read_text("utf-8").splitlines()
        return {row["key"]: row for row in map(json.loads, lines)}

    @property
    def contents(self) -> dict[str, bytes]:
        """All but the journal and the report."""
        paths = [path for path in self.out.rglob("*") if path.is_file()]
        names = {path.relative_to(self.out).as_posix(): path for path in paths}
        return {
            name: path.read_bytes() for name, path in names.items() if not name.startswith((".lightmill/", "report."))
        }

    @property
    def attempts(self) -> int:
        with closing(sqlite3.connect(self.out / ".lightmill" / "journal.db")) as journal:
            return int(journal.execute("SELECT sum(attempts) FROM items").fetchone()[0])


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of four frames, for all tests."""
    made = Match(tmp_path_factory.mktemp("frames"))
    for angle in ("side", "top"):
        for frame in range(4):
            made.frame(angle, frame)
    return made.folder


@pytest.fixture
def match(frames: Path, tmp_path: Path) -> Match:
    """Two views of four frames, with three players in each; rows go through the frames by player."""
    made = Match(tmp_path / "match")
    shutil.copytree(frames, made.folder)
    for player in range(3):
        for angle in ("side", "top"):
            for frame in range(4):
                box = (20 + 80 * player + 3 * frame, 30 + 10 * player, 24 + player, 60.5)
                made.box(angle, frame, box, label=f"p{player}", note=f"n{player}{frame}")
    return made


@pytest.fixture
def crop(match: Match, tmp_path: Path) -> Callable[..., Made]:
    """`crop(out="out", **options)`: lightmill.crop of the match."""

    def run(out: str = "out", **options: Any) -> Made:
        how = NAMED | {"images": match.folder / "images", "threads": 2} | options
        return Made(lightmill.crop(match.meta, tmp_path / out, **how))

    return run


def sliced(frame: np.ndarray, box: tuple[float, ...], expand: float = 1.2) -> np.ndarray:
    """What of a frame the box is, enlarged and rounded outward, worked out side by side."""
    parts = []
    for first, side, most in ((box[1], box[3], frame.shape[0]), (box[0], box[2], frame.shape[1])):
        begin, end = first + side / 2 - side * expand / 2, first + side / 2 + side * expand / 2
        parts.append(slice(max(int(np.floor(begin + 1e-7)), 0), min(int(np.ceil(end - 1e-7)), most)))
    return frame[parts[0], parts[1]]


def box_of(row: list[Any]) -> tuple[float, ...]:
    return tuple(map(float, row[4:8]))


# --- what is cut -----------------------------------------------------------------------------------------------------


def test_raw_crops_are_slices_of_their_frames_bit_for_bit(match: Match, crop: Callable[..., Made]) -> None:
    for row in match.rows:
        row[4:8] = [*(round(value) for value in row[4:6]), 20, 40]  # enlarged, 24 x 48: no resizing
    made = crop(store="raw", size="24x48")
    assert made.pack.store == "raw"
    assert len(made.pack) == len(match.rows)
    for index, row in enumerate(made.pack.table["row"].to_list()):
        frame = match.pixels(KEY(angle=match.rows[row][1], frame=match.rows[row][3]))
        assert (made.pack.pixels(index) == sliced(frame, box_of(match.rows[row]))).all()


def test_raw_crops_are_stretched_to_one_size(match: Match, crop: Callable[..., Made]) -> None:
    pack = crop(store="raw").pack
    assert pack.size == (128, 256)
    for index, row in enumerate(pack.table["row"].to_list()):
        frame = match.pixels(KEY(angle=match.rows[row][1], frame=match.rows[row][3]))
        wanted = cv2.resize(sliced(frame, box_of(match.rows[row])), (128, 256), interpolation=cv2.INTER_LINEAR)
        assert np.abs(pack.pixels(index).astype(int) - wanted).max() <= 1


def test_jpeg_crops_are_near_to_the_slices_and_have_their_size(match: Match, crop: Callable[..., Made]) -> None:
    pack = crop().pack
    for index, row in enumerate(pack.table["row"].to_list()):
        frame = match.pixels(KEY(angle=match.rows[row][1], frame=match.rows[row][3]))
        wanted = sliced(frame, box_of(match.rows[row]))
        found = np.asarray(Image.open(BytesIO(pack.encoded(index))))
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).mean() < 2.5


def test_the_pack_says_what_the_table_says(match: Match, crop: Callable[..., Made]) -> None:
    pack = crop(expand=1.5).pack
    assert pack.expand == 1.5
    for found in pack.table.to_dicts():
        quarter, angle, session, frame, x, y, w, h, label, note = match.rows[found["row"]]
        assert found["frame"] == KEY(angle=angle, frame=frame)
        assert (found["x"], found["y"], found["w"], found["h"]) == (x, y, w, h)
        assert (found["kind"], found["parent"], found["overlap"]) == ("player", -1, 0)
        assert (found["label"], found["view"], found["time"]) == (label, angle, float(frame))
        assert found["group"] == f"{quarter}/{session}"
        assert (found["quarter"], found["session"], found["note"]) == (quarter, str(session), note)
        assert sliced(match.pixels(found["frame"]), (x, y, w, h), 1.5).shape[:2] == (found["height"], found["width"])
    assert pack.columns == ("quarter", "session", "note")
    frames = pack.table["frame"].to_list()
    assert frames == sorted(frames, key=frames.index)  # the crops of a frame lie together, in the order of the table
    assert frames[::3] == [KEY(angle=row[1], frame=row[3]) for row in match.rows[:8]]
    rows = pack.table["row"].to_numpy().reshape(-1, 3)
    assert (np.diff(rows) > 0).all()


def test_rows_come_back_in_their_order_with_the_place_of_their_crop(match: Match, crop: Callable[..., Made]) -> None:
    made = crop()
    assert list(made.back[0]) == [*COLUMNS, "crop", "status", "error"]
    for number, row in enumerate(made.back):
        assert [row[name] for name in COLUMNS] == [str(cell) for cell in match.rows[number]]
        assert made.pack.table["row"][int(row["crop"])] == number
        assert (row["status"], row["error"]) == ("ok", "")
    assert made.result.exit_code == 0
    assert made.result.remarks == ("24 crops of 8 frames",)
    assert {row["meta"]["crops"] for row in made.manifest.values()} == {3}
    assert json.loads((made.out / "report.json").read_text("utf-8"))["exports"] == [
        "crops.arrow",
        "meta_with_crops.csv",
    ]


def by_datasets(path: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset("arrow", data_files=str(path), split="train", cache_dir=str(cache / "cache"))


def test_datasets_and_polars_read_the_pack(crop: Callable[..., Made], tmp_path: Path) -> None:
    made = crop(background_per_frame=1)
    path = made.out / "crops.arrow"
    loaded = by_datasets(path, tmp_path)
    frame = pl.read_ipc(path)
    assert len(loaded) == len(frame) == 32
    for index in (0, 17, 31):
        assert loaded[index]["crop"] == frame["crop"][index] == bytes(made.pack.encoded(index))
        assert loaded[index]["label"] == frame["label"][index] == made.pack.table["label"][index]


def test_each_frame_is_decoded_once(crop: Callable[..., Made]) -> None:
    made = crop()
    with_times = json.loads((made.out / "report.json").read_text("utf-8"))
    assert made.attempts == 8
    assert with_times["counts"]["ok"] == 8


# --- loose files -----------------------------------------------------------------------------------------------------


def test_loose_files(match: Match, crop: Callable[..., Made]) -> None:
    made = crop(store="files", background_per_frame=1, partial_per_box=1)
    pack = crop("packed", background_per_frame=1, partial_per_box=1).pack
    assert not (made.out / "crops.arrow").exists()
    loose = CropFiles(made.out)
    assert loose.table.select(pack.table.columns).equals(pack.table.with_columns(pl.col("overlap").round(6)))
    for index in range(len(pack)):
        assert (loose.pixels(index) == pack.pixels(index)).all()
    for number, row in enumerate(made.back):
        stem = KEY(angle=row["angle"], frame=int(row["frame"])).removesuffix(".png")
        assert row["output_image_path"] == f"crops/{stem}_{number}.jpg"
        assert (made.out / row["output_image_path"]).is_file()
    with open(made.out / "manifest.csv", encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    assert header[4:] == [f"output_{number:02d}" for number in range(7)]  # not a column for every row of the table
    assert len(list((made.out / "crops").iterdir())) == len(pack)


def test_loose_files_that_are_gone_are_made_again(match: Match, crop: Callable[..., Made]) -> None:
    made = crop(store="files")
    before = made.contents
    (made.out / made.back[5]["output_image_path"]).unlink()
    assert crop(store="files").attempts == 9
    assert made.contents == before


def test_full_paths(crop: Callable[..., Made]) -> None:
    made = crop(store="files", absolute_paths=True)
    assert all(Path(row["output_image_path"]).is_absolute() for row in made.back)
    assert all(Path(row["output_image_path"]).is_file() for row in made.back)


# --- boxes that are not cut as they stand ----------------------------------------------------------------------------


def test_boxes_are_clamped_and_counted(match: Match, crop: Callable[..., Made]) -> None:
    row = match.box("side", 0, (-10, 100, 30, 200))
    made = crop()
    index = int(made.back[row]["crop"])
    found = made.pack.table.row(index, named=True)
    assert (found["left"], found["top"], found["width"], found["height"]) == (0, 80, 23, 100)
    assert (found["x"], found["h"]) == (-10, 200)  # the box stays what it is
    assert made.pack.pixels(index).shape == (100, 23, 3)
    assert made.manifest[KEY(angle="side", frame=0)]["meta"]["clamped"] == 1
    assert "1 box stuck out of the frame and was cut off there" in made.result.remarks


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((320, 20, 10, 10), "outside the frame, which has 320x180 pixels"),
        ((-50, 20, 50, 10), "outside the frame, which has 320x180 pixels"),
        ((10, 1e8, 10, 10), "outside the frame, which has 320x180 pixels"),
        ((10, 20, 0, 10), "no area: the box is 0 px wide and 10 px high"),
        ((10, 20, 10, -3), "no area: the box is 10 px wide and -3 px high"),
    ],
)
@pytest.mark.parametrize("store", ["jpeg", "files"])
def test_a_box_without_pixels_is_dropped_and_its_frame_is_still_ok(
    match: Match, crop: Callable[..., Made], box: tuple[float, ...], says: str, store: str
) -> None:
    row = match.box("side", 0, box)
    made = crop(store=store)
    column = "output_image_path" if store == "files" else "crop"
    assert (made.back[row][column], made.back[row]["status"], made.back[row]["error"]) == ("", "filtered", says)
    entry = made.manifest[KEY(angle="side", frame=0)]
    assert entry["status"] == "ok"
    assert entry["meta"]["dropped"] == {str(row): says}
    assert entry["meta"]["crops"] == 3
    assert made.result.exit_code == 0
    assert f"1 box was dropped (1 {says.split(',')[0].split(':')[0]}); META says why" in made.result.remarks


def test_outliers_are_dropped_or_made_anew_by_time(match: Match, crop: Callable[..., Made]) -> None:
    # the frame after the outlier is missing: the mean of its neighbours would be wrong
    rows = [match.box("side", frame, (10 + 30 * frame, 100, 20, 40), "late") for frame in (0, 1, 3)]
    match.rows[rows[1]][6:8] = [90, 90]
    dropped = crop()
    says = "outlier: its area is 10.1 times the median of its track"
    assert (dropped.back[rows[1]]["status"], dropped.back[rows[1]]["error"]) == ("filtered", says)
    assert rows[1] not in dropped.pack.table["row"].to_list()
    mended = crop("mended", clean="interpolate")
    back = mended.back[rows[1]]
    assert (back["status"], back["error"]) == ("recovered", f"{says}; interpolated between its neighbours")
    found = mended.pack.table.row(int(back["crop"]), named=True)
    assert (found["x"], found["y"], found["w"], found["h"]) == (40, 100, 20, 40)
    assert mended.result.remarks[-1] == "1 outlier was interpolated"
    kept = crop("kept", clean="off")
    assert kept.pack.table.row(int(kept.back[rows[1]]["crop"]), named=True)["w"] == 90
    assert crop("limit", clean_limit=11).back[rows[1]]["status"] == "ok"


def test_labels_that_are_empty_make_no_track(match: Match, crop: Callable[..., Made]) -> None:
    row = [match.box("side", frame, (10, 100, 10 + 70 * (frame == 3), 40), "") for frame in range(4)][-1]
    made = crop()
    assert made.back[row]["status"] == "ok"
    assert made.pack.table["label"][int(made.back[row]["crop"])] == ""


# --- what fails, fails alone -----------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "text":
        path.write_text("no picture")
    else:
        Image.open(path).convert("RGB").save(path, "JPEG", quality=95)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("how", ["missing", "text", "cut"])
def test_a_bad_frame_fails_alone(match: Match, crop: Callable[..., Made], how: str) -> None:
    """A4.16: no frame takes the place of a player, and no grey box of a frame that is cut off."""
    damage(match.folder / "images" / KEY(angle="side", frame=2), how)
    made = crop()
    says = {
        "missing": "there is no such file",
        "text": "",
        "cut": "crops are cut from whole frames only: the JPEG is damaged",
    }[how]
    entry = made.manifest[KEY(angle="side", frame=2)]
    assert entry["status"] == "failed"
    assert says in entry["error"]
    assert len(made.pack) == 21
    assert KEY(angle="side", frame=2) not in made.pack.table["frame"].to_list()
    for row, back in zip(match.rows, made.back, strict=True):
        bad = (row[1], row[3]) == ("side", 2)
        assert (back["status"], back["error"]) == (("failed", entry["error"]) if bad else ("ok", ""))
        assert (back["crop"] == "") == bad
    assert made.result.exit_code == 3


def test_a_bad_row_fails_alone(match: Match, crop: Callable[..., Made]) -> None:
    match.rows[1][6] = "wide"
    match.rows[2][0] = "../../Q1"
    made = crop()
    assert [row["status"] for row in made.back[:4]] == ["ok", "failed", "failed", "ok"]
    assert made.back[1]["error"] == "row 2: w is 'wide', and should be a number"
    assert "row 3: the path '../../Q1__side__01__02.png' leads out of the folder" in made.back[2]["error"]
    assert {row["status"] for row in made.back[3:]} == {"ok"}
    assert made.manifest["row 2 (no box)"]["status"] == "failed"
    assert len(made.pack) == 22
    assert made.result.exit_code == 3


def test_a_profile_that_cannot_be_read_is_no_damage(match: Match, crop: Callable[..., Made]) -> None:
    path = match.folder / "images" / KEY(angle="side", frame=0)
    Image.open(path).save(path, icc_profile=b"no profile")
    made = crop()
    assert made.manifest[KEY(angle="side", frame=0)]["status"] == "recovered"
    assert made.back[0]["status"] == "recovered"
    assert "profile" in made.back[0]["error"]
    assert len(made.pack) == 24


# --- negatives in the same pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", ["drop", "interpolate", "off"])
def test_negatives_are_those_of_the_table_alone(match: Match, crop: Callable[..., Made], clean: str) -> None:
    """Drawn frame by frame here, and for all frames at once there."""
    match.rows[0][6:8] = [80, 150]  # an outlier
    match.box("top", 1, (-12.5, 20, 40, 70), "p9")
    match.box("top", 2, (500, 20, 40, 70), "p9")  # outside
    pack = crop(background_per_frame=3, partial_per_box=2, seed=5, clean=clean).pack
    columns = BoxColumns(path=PATH, label="label_id", group=("quarter", "session"), view="angle", time="frame")
    table = read_boxes(match.meta, columns, images=match.folder / "images")
    cleaned = clean_tracks(table.boxes, table.tracks, table.times, how=clean)
    drawn = draw_of_table(
        table, np.full((8, 2), SIZE[::-1], float), cleaned=cleaned, expand=1.2,
        per_frame=3, per_box=2, share=(0.1, 0.25), seed=5,
    )  # fmt: skip
    found = pack.table.filter(pl.col("row") < 0)
    assert len(found) == len(drawn.kind) > 50
    assert found["frame"].to_list() == [table.frames[number] for number in drawn.frame]
    assert found["kind"].to_list() == [KINDS[number] for number in drawn.kind]
    assert found["parent"].to_list() == drawn.parent.tolist()
    assert (found.select("x", "y", "w", "h").to_numpy() == drawn.box).all()
    assert (found.select("left", "top", "width", "height").to_numpy() == drawn.box).all()  # not enlarged
    np.testing.assert_allclose(found["overlap"].to_numpy(), drawn.overlap, rtol=1e-6)


def test_negatives_have_what_their_frame_has_and_no_label(match: Match, crop: Callable[..., Made]) -> None:
    made = crop(background_per_frame=2, partial_per_box=1)
    found = made.pack.table.filter(pl.col("row") < 0)
    assert found["kind"].value_counts().sort("kind").rows() == [("background", 16), ("partial", 24)]
    for row in found.to_dicts():
        angle, frame = row["frame"].split("__")[1], float(row["frame"].split("__")[3][:2])
        assert (row["label"], row["group"], row["view"], row["time"]) == ("", "Q1/1", angle, frame)
        assert (row["quarter"], row["session"], row["note"]) == ("Q1", "1", "")  # notes differ within a frame
        if row["kind"] == "partial":
            assert 0.1 <= row["overlap"] <= 0.25
            assert made.pack.table.filter(pl.col("row") == row["parent"])["frame"].to_list() == [row["frame"]]
    assert made.result.remarks[0] == "64 crops of 8 frames, 16 background and 24 partial among them"


@pytest.mark.parametrize("clean", ["drop", "interpolate"])
def test_dropped_outliers_still_keep_background_away(tmp_path: Path, clean: str) -> None:
    """A4.17: somebody is in that box, however wrong it is."""
    match = Match(tmp_path / "match")
    for frame in range(6):
        match.frame("side", frame)
        match.box("side", frame, (5, 5, 20, 40) if frame else (5, 5, 240, 170))
    how = NAMED | {"images": match.folder / "images", "clean": clean, "background_per_frame": 40, "progress": "none"}
    pack = Made(lightmill.crop(match.meta, tmp_path / "out", **how)).pack
    beside = pack.table.filter((pl.col("kind") == "background") & (pl.col("frame") == KEY(angle="side", frame=0)))
    assert (beside["x"] >= 245).all()
    if clean == "interpolate":
        assert len(beside) == 40


# --- going on --------------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing(crop: Callable[..., Made]) -> None:
    made = crop()
    before = made.contents
    stamp = (made.out / "crops.arrow").stat().st_mtime_ns
    again = crop()
    assert again.attempts == 8
    assert again.contents == before
    assert (again.out / "crops.arrow").stat().st_mtime_ns == stamp
    assert again.result.remarks == ("24 crops of 8 frames",)


def test_threads_change_no_byte(crop: Callable[..., Made]) -> None:
    one, four = crop("one", threads=1, partial_per_box=1), crop("four", threads=4, partial_per_box=1)
    assert one.contents == four.contents


@pytest.mark.parametrize("store", ["jpeg", "raw", "files"])
def test_a_run_in_pieces_is_the_same_run(crop: Callable[..., Made], store: str) -> None:
    """Frames that are packed already are taken out of the pack; nothing is decoded twice."""
    whole = crop("whole", store=store, background_per_frame=1)
    for limit in (3, 4):
        part = crop("parts", store=store, background_per_frame=1, limit=limit)
    assert [row["status"] for row in part.back].count("") == 12
    made = crop("parts", store=store, background_per_frame=1)
    assert made.contents == whole.contents
    assert made.attempts == 8


@pytest.mark.parametrize("store", ["jpeg", "raw", "files"])
def test_retry_adds_the_frames_that_failed(match: Match, crop: Callable[..., Made], store: str) -> None:
    whole = crop("whole", store=store)
    bad = match.folder / "images" / KEY(angle="side", frame=2)
    good = bad.read_bytes()
    bad.write_text("no picture")
    made = crop("out", store=store)
    assert made.result.failed == 1
    bad.write_bytes(good)
    assert crop("out", store=store).result.failed == 1  # the same command leaves it as it is
    assert made.contents != whole.contents
    assert run_command_line(["retry", str(made.out), "--progress", "none"]) == 0
    assert made.contents == whole.contents
    assert made.attempts == 9


def test_crops_lie_on_the_disk_once(crop: Callable[..., Made]) -> None:
    made = crop()
    hidden = [path for path in (made.out / ".lightmill").rglob("*") if path.is_file()]
    assert {path.name.partition("-")[0] for path in hidden} == {"journal.db", "lock"}


@pytest.mark.parametrize("how", ["gone", "foreign"])
def test_a_pack_that_is_gone_is_made_again(match: Match, crop: Callable[..., Made], how: str, tmp_path: Path) -> None:
    made = crop()
    before = made.contents
    if how == "gone":
        (made.out / "crops.arrow").unlink()
    else:
        other = crop("other", expand=2.0)
        shutil.copy(other.out / "crops.arrow", made.out / "crops.arrow")
    again = crop()
    assert again.attempts == 16
    assert again.contents == before


def test_retry_says_when_a_pack_is_gone_and_the_command_makes_it(match: Match, crop: Callable[..., Made]) -> None:
    bad = match.folder / "images" / KEY(angle="side", frame=2)
    good = bad.read_bytes()
    bad.unlink()
    made = crop()
    (made.out / "crops.arrow").unlink()
    bad.write_bytes(good)
    assert run_command_line(["retry", str(made.out), "--progress", "none"]) == 1
    assert crop().contents == crop("whole").contents


def test_a_run_of_another_store_is_refused_and_stays_done(crop: Callable[..., Made]) -> None:
    crop(store="files")
    with pytest.raises(ChangedConfig, match="store was files, now jpeg"):
        crop()
    assert crop(store="files").attempts == 8


def test_fresh_never_takes_crops_of_the_run_before(match: Match, crop: Callable[..., Made]) -> None:
    crop("out", expand=2.0)
    crop("out", fresh=True, limit=3)
    made = crop("out")
    assert made.contents == crop("plain").contents


def test_other_options_or_another_table_are_refused(match: Match, crop: Callable[..., Made]) -> None:
    made = crop()
    before = made.contents
    with pytest.raises(ChangedConfig, match=r"expand was 1\.2, now 1\.3"):
        crop(expand=1.3)
    match.rows[0][4] = 21
    with pytest.raises(ChangedConfig, match="the content of META has changed"):
        crop()
    assert made.contents == before
    assert crop(fresh=True).pack.table["x"][0] == 21


@pytest.mark.slow
def test_workers_change_no_byte(crop: Callable[..., Made]) -> None:
    pytest.importorskip("ray")
    assert crop("workers", workers=2, threads=1).contents == crop("threads").contents


# --- odd tables ------------------------------------------------------------------------------------------------------


def test_columns_of_a_pack_s_own_names(tmp_path: Path) -> None:
    """A user's `frame`, `row` and the unnamed first column that pandas writes."""
    Match(tmp_path).frame("side", 0)
    meta = tmp_path / "meta.csv"
    name = KEY(angle="side", frame=0)
    meta.write_text(f",file,x,y,w,h,frame,row,note\n0,{name},10,10,20,30,f,r,a\n1,{name},50,10,20,30,g,s,b\n")
    for store in ("jpeg", "files"):
        out = tmp_path / store
        made = lightmill.crop(meta, out, images=tmp_path / "images", path="{file}", store=store)
        assert made.ok == 1
        source = CropFiles(out) if store == "files" else CropPack.open(out)
        found = source.table.row(1, named=True)
        assert (found["frame"], found["row"], found["frame_2"], found["row_2"]) == (name, 1, "g", "s")
        assert found["note"] == "b"
        assert found["column_1"] == "1"
        assert (found["label"], found["group"], found["view"], found["time"]) == ("", "", "", None)
    assert len(pl.read_ipc(tmp_path / "jpeg" / "crops.arrow")) == 2
    assert len(by_datasets(tmp_path / "jpeg" / "crops.arrow", tmp_path)) == 2


def test_nothing_that_can_be_cut_makes_an_empty_pack(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("image_path,x,y,w,h\nnone.jpg,1,1,1,1\n")
    made = Made(lightmill.crop(tmp_path / "meta.csv", tmp_path / "out"))
    assert made.result.exit_code == 3
    assert len(made.pack) == 0
    assert made.back[0]["status"] == "failed"
    again = Made(lightmill.crop(tmp_path / "meta.csv", tmp_path / "out"))
    assert again.contents == made.contents


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"size": "10x10"}, "--size is for --store raw, not jpeg"),
    ({"size": "10x10", "store": "files"}, "--size is for --store raw, not files"),
    ({"clean": "interpolate", "time": None}, "--clean interpolate needs --label and --time"),
    ({"share": "0.5,0.1"}, "--share '0.5,0.1': two shares above 0 and up to 1, the lower first, as in 0.1,0.25"),
    ({"share": "0,0.1"}, "--share '0,0.1': two shares above 0"),
    ({"share": "0.1"}, "--share '0.1': two shares above 0"),
    ({"expand": 0}, "--expand 0: input should be greater than 0"),
    ({"label": ""}, "--label '': string should have at least 1 character"),
    ({"label": "player"}, "--label player: the table .* has no column 'player'; it has: quarter, angle"),
]


@pytest.mark.parametrize(("wrong", "says"), REFUSED)
def test_refusals_name_the_option(crop: Callable[..., Made], tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        crop(**wrong)
    assert not (tmp_path / "out").exists()
