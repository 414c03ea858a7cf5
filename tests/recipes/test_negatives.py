"""`negatives`: from a table of boxes to one file, with what could not be done named."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from lightmill.errors import ChangedConfig, InputError, UsageError
from lightmill.recipes.negatives import Ended, Negatives

PATH = "{quarter}__{angle}__{session:02d}__{frame:02d}.jpg"
NAMED = {"path": PATH, "label": "label_id", "group": "quarter,session", "view": "angle", "time": "frame"}
HEADER = ["quarter", "angle", "session", "frame", "x", "y", "w", "h", "label_id", "note"]
FRAMES = [(view, time) for view in ("side", "top") for time in range(6)]


def meta(folder: Path, rows: list[list[Any]], name: str = "meta.csv") -> Path:
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder / name


def players(*, seed: int = 0, count: int = 6) -> list[list[Any]]:
    """Rows of 12 frames of 1280 x 720, some of them across the edge of the frame."""
    rng = np.random.default_rng(seed)
    rows = []
    for view, time in FRAMES:
        for player in range(count):
            x, y = rng.uniform(-20, 1240), rng.uniform(-20, 600)
            rows.append(["Q1-000", view, "03", str(time), f"{x:.1f}", f"{y:.1f}", "60", "150", f"p{player}", "é"])
    return rows


def run(source: Path, out: Path, **options: Any) -> Ended:
    return Negatives.from_values({"frame_size": "1280x720", **NAMED, **options}).run(source, out)


def read(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "negatives.parquet")


def about(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "negatives.json").read_bytes())
    return found


def shared(one: Any, other: Any) -> float:
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


# --- what comes out --------------------------------------------------------------------------------------------------


def test_every_row_says_what_it_is_and_where(tmp_path: Path) -> None:
    """A4.17, 18: kind, parent and overlap are columns, and boxes are what they say."""
    rows = players()
    ended = run(meta(tmp_path, rows), tmp_path / "out", background_per_frame=2)
    table = read(tmp_path / "out")
    frame_columns = ["quarter", "angle", "session", "frame"]
    assert table.columns == [*frame_columns, "x", "y", "w", "h", "kind", "parent", "overlap", "key"]
    assert (ended.exit_code, ended.background, ended.partial) == (0, 24, table.height - 24)
    places = {f"Q1-000__{view}__03__{time:02d}.jpg": number for number, (view, time) in enumerate(FRAMES)}
    assert table["key"].to_list() == sorted(table["key"], key=places.__getitem__)
    for row in table.iter_rows(named=True):
        number = places[row["key"]]
        own = rows[6 * number : 6 * number + 6]
        assert [row[name] for name in frame_columns] == own[0][:4]  # as it was written: 03 is not 3
        box = [row[name] for name in "xywh"]
        boxes = [list(map(float, one[4:8])) for one in own]
        assert shared(box, (0, 0, 1280, 720)) == box[2] * box[3]
        if row["kind"] == "background":
            assert (row["parent"], row["overlap"]) == (-1, 0)
            assert max(shared(box, one) for one in boxes) == 0
        else:
            parent = boxes[row["parent"] - 6 * number]
            seen = shared(parent, (0, 0, 1280, 720))  # a player across the edge: of what is in the frame
            assert shared(box, parent) == pytest.approx(box[2] * box[3])
            assert 0.1 <= box[2] * box[3] / seen <= 0.25
            assert row["overlap"] == pytest.approx(box[2] * box[3] / seen)
    assert about(tmp_path / "out")["background"] == 24


def test_a_part_of_the_table_gives_its_part_of_the_file(tmp_path: Path) -> None:
    """A4.18: seeded by the frame, so neither the other frames nor the order of rows matters."""
    rows = players()
    run(meta(tmp_path, rows), tmp_path / "all")
    run(meta(tmp_path, rows[:30][::-1], "part.csv"), tmp_path / "part")
    columns = ["key", "kind", "x", "y", "w", "h"]
    part = read(tmp_path / "part").select(columns)
    of_them = read(tmp_path / "all").select(columns).filter(pl.col("key").is_in(part["key"].unique().to_list()))
    assert part.height > 30
    assert part.sort(columns).equals(of_them.sort(columns))


def test_the_same_bytes_again_and_others_from_another_seed(tmp_path: Path) -> None:
    source = meta(tmp_path, players())
    run(source, tmp_path / "one")
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert sorted(first) == ["negatives.json", "negatives.parquet"]
    run(source, tmp_path / "one", threads=3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == first
    run(source, tmp_path / "two", seed=1)
    assert not read(tmp_path / "two")["x"].equals(read(tmp_path / "one")["x"])


def test_the_file_is_a_table_of_boxes_itself(tmp_path: Path) -> None:
    """By its column `key` it names frames as META does."""
    from lightmill.sources.boxes import BoxColumns, read_boxes

    source = meta(tmp_path, players())
    run(source, tmp_path / "out")
    again = read_boxes(tmp_path / "out" / "negatives.parquet", BoxColumns(path="{key}"), images=tmp_path)
    assert not again.problems
    assert sorted(again.frames) == sorted(f"Q1-000__{view}__03__{time:02d}.jpg" for view, time in FRAMES)


def test_a_users_column_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("kind,key,x,y,w,h\nfilm,a.jpg,10,10,40,90\n")
    Negatives.from_values({"path": "{key}", "view": "kind", "frame_size": "640x480"}).run(
        tmp_path / "meta.csv", tmp_path / "out"
    )
    table = read(tmp_path / "out")
    assert table.columns == ["kind", "key", "x", "y", "w", "h", "kind_2", "parent", "overlap", "key_2"]
    assert table["kind"].to_list() == ["film"] * 2
    assert table["kind_2"].to_list() == ["background", "partial"]


def test_other_shares_and_numbers(tmp_path: Path) -> None:
    source = meta(tmp_path, players())
    run(source, tmp_path / "few", background_per_frame=0, partial_per_box=3, share=[0.02, 0.05])
    few = read(tmp_path / "few")
    assert set(few["kind"]) == {"partial"}
    assert few["overlap"].is_between(0.02, 0.05).all()
    assert few["parent"].value_counts()["count"].max() == 3
    run(source, tmp_path / "none", background_per_frame=0, partial_per_box=0)
    assert read(tmp_path / "none").height == 0
    assert read(tmp_path / "none").columns == few.columns


@pytest.mark.parametrize("expand", [1.0, 2.0])
def test_background_is_as_large_as_players_are_cut(tmp_path: Path, expand: float) -> None:
    """Another size would tell it from players without a look at what is in it."""
    run(meta(tmp_path, players()), tmp_path / "out", background_per_frame=5, expand=expand, clean="off")
    wide = read(tmp_path / "out").filter(kind="background")["w"].to_numpy() / (60 * expand)
    assert 0.79 < wide.min() < wide.max() < 1.26
    assert np.median(wide) == pytest.approx(1, abs=0.1)


# --- outliers --------------------------------------------------------------------------------------------------------


def with_outlier() -> list[list[Any]]:
    """One player, alone; at time 2 of the side view his box is 6.7 times too large."""
    rows = [["Q1", "side", "0", str(t), str(100 + 10 * t), "300", "60", "150", "p", ""] for t in range(5)]
    rows[2][4:8] = ["300", "200", "200", "300"]
    return rows


def test_no_part_is_cut_from_an_outlier_and_somebody_is_there_all_the_same(tmp_path: Path) -> None:
    """A4.17: boxes that were dropped as outliers were not protected."""
    run(meta(tmp_path, with_outlier()), tmp_path / "out", background_per_frame=9)
    table = read(tmp_path / "out")
    assert table.filter(kind="partial")["parent"].to_list() == [0, 1, 3, 4]
    assert table.filter(kind="background", frame="2").height == 0  # no other player says how large
    assert about(tmp_path / "out")["missing"] == {"background": {"Q1__side__00__02.jpg": 9}, "partial": {}}


def test_interpolated_boxes_have_parts_and_both_keep_background_away(tmp_path: Path) -> None:
    source = meta(tmp_path, with_outlier())
    run(source, tmp_path / "out", background_per_frame=30, clean="interpolate")
    table = read(tmp_path / "out")
    (part,) = table.filter(parent=2).select("x", "y", "w", "h").rows()
    assert shared(part, (120, 300, 60, 150)) == part[2] * part[3]
    background = table.filter(kind="background", frame="2").select("x", "y", "w", "h").rows()
    assert len(background) > 20
    assert max(shared(box, other) for box in background for other in ((300, 200, 200, 300), (120, 300, 60, 150))) == 0
    assert max(box[2] for box in background) <= 60 * 1.2 * 1.25


def test_off_takes_boxes_as_they_are(tmp_path: Path) -> None:
    run(meta(tmp_path, with_outlier()), tmp_path / "out", clean="off")
    assert 2 in read(tmp_path / "out")["parent"].to_list()


def test_the_limit_says_what_is_far_larger(tmp_path: Path) -> None:
    run(meta(tmp_path, with_outlier()), tmp_path / "out", clean_limit=7)
    assert 2 in read(tmp_path / "out")["parent"].to_list()


@pytest.mark.parametrize("clean", ["drop", "interpolate", "off"])
def test_crop_cuts_the_same_boxes_in_its_own_pass(tmp_path: Path, clean: str) -> None:
    """Drawn frame by frame while frames are decoded, and drawn here for the table at once."""
    from lightmill.data.pack import CropPack
    from lightmill.recipes.crop import Crop

    rows = players(count=4) + with_outlier()
    source, images = meta(tmp_path, rows), tmp_path / "images"
    images.mkdir()
    frame = np.full((720, 1280, 3), 90, np.uint8)
    for quarter, view, session, time in {tuple(row[:4]) for row in rows}:
        cv2.imwrite(str(images / f"{quarter}__{view}__{int(session):02d}__{int(time):02d}.jpg"), frame)
    options = {**NAMED, "images": str(images), "clean": clean, "background_per_frame": 2, "partial_per_box": 1}
    Negatives.from_values(options).run(source, tmp_path / "alone")
    Crop.from_values({**options, "progress": "none"}).run(source, tmp_path / "crops")
    alone = read(tmp_path / "alone").select("key", "kind", "x", "y", "w", "h", "parent", "overlap")
    pack = CropPack.open(tmp_path / "crops").table.rename({"frame": "key"}).filter(pl.col("kind") != "player")
    assert alone.height > 60
    assert pack.select(alone.columns).equals(alone)
    assert pack.select("left", "top", "width", "height").cast(pl.Float64).rows() == alone.select(*"xywh").rows()


# --- what cannot be done ---------------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Small frames of different sizes; one that stands on its side, one that is no picture, one that is missing."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a", (300, 400)), ("b", (200, 600)), ("turned", (300, 400))):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((*size, 3), 99, np.uint8))
    plain = (folder / "turned.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    long = plain[:2] + b"".join(b"\xff\xfe\xff\xff" + bytes(65533) for _ in range(2)) + plain[2:]
    (folder / "turned.jpg").write_bytes(turned)
    (folder / "long.jpg").write_bytes(long)
    (folder / "text.jpg").write_bytes(b"not a picture")
    return folder


def test_sizes_are_those_of_the_headers_and_bad_frames_fail_alone(tmp_path: Path, frames: Path) -> None:
    names = ["a", "text", "b", "gone", "turned", "long"]
    rows = "".join(f"{name}.jpg,10,20,30,60\n" for name in names)
    (tmp_path / "meta.csv").write_text(f"image_path,x,y,w,h\n{rows}a.jpg,here,1,2,3\n")
    ended = Negatives.from_values({"images": str(frames), "background_per_frame": 200}).run(
        tmp_path / "meta.csv", tmp_path / "out"
    )
    assert ended.exit_code == 3
    failed = about(tmp_path / "out")["failed"]
    assert list(failed) == ["row 7 (no box)", "text.jpg", "gone.jpg"]
    assert failed["row 7 (no box)"] == "row 7: x is 'here', and should be a number"
    assert "gone.jpg" in failed["gone.jpg"]
    assert ended.remarks[-1].startswith("3 frames or rows failed, the first row 7 (no box): row 7: x is 'here'")
    table = read(tmp_path / "out").with_columns(right=pl.col("x") + pl.col("w"), bottom=pl.col("y") + pl.col("h"))
    reach = {key: (rows["right"].max(), rows["bottom"].max()) for (key,), rows in table.group_by("key")}
    sizes = {"a.jpg": (400, 300), "b.jpg": (600, 200), "turned.jpg": (300, 400), "long.jpg": (400, 300)}
    assert set(reach) == set(sizes)
    for key, (width, height) in sizes.items():
        assert width - 15 <= reach[key][0] <= width
        assert height - 15 <= reach[key][1] <= height


def test_where_nothing_fits_is_counted_by_frame(tmp_path: Path) -> None:
    rows = [["Q1", "side", "0", "0", "0", "0", "1280", "720", "p", ""]]
    rows += [["Q1", "side", "0", "1", "10", "10", "60", "150", "q", ""]]
    ended = run(meta(tmp_path, rows), tmp_path / "out", background_per_frame=3)
    assert ended.exit_code == 0
    assert about(tmp_path / "out")["missing"] == {"background": {"Q1__side__00__00.jpg": 3}, "partial": {}}
    assert ended.remarks == ("nothing fits for 3 background boxes in 1 frames: negatives.json names them",)


def test_boxes_outside_of_their_frame_are_nobody(tmp_path: Path) -> None:
    boxes = [("1280", "0", "60", "150"), ("10", "10", "60", "150"), ("-60", "0", "60", "150"), ("50", "50", "0", "9")]
    rows = [["Q1", "side", "0", "0", *box, "", ""] for box in boxes]
    run(meta(tmp_path, rows), tmp_path / "out")
    assert read(tmp_path / "out")["parent"].to_list() == [-1, 1]


def test_negatives_of_other_options_are_not_written_over(tmp_path: Path) -> None:
    source, out = meta(tmp_path, players()), tmp_path / "out"
    run(source, out)
    before = (out / "negatives.parquet").read_bytes()
    with pytest.raises(ChangedConfig, match=r"other options: seed was 0, now 3\. Choose another OUT"):
        run(source, out, seed=3)
    assert (out / "negatives.parquet").read_bytes() == before
    run(source, out, seed=3, fresh=True)
    assert (out / "negatives.parquet").read_bytes() != before
    (out / "negatives.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read; choose another OUT, or write it anew with --fresh"):
        run(source, out)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"share": "0.3,0.2"}, "--share '0.3,0.2': two shares above 0 and up to 1, the lower first"),
        ({"share": "0.3"}, "--share"),
        ({"share": "0.1,1.5"}, "--share"),
        ({"clean": "yes"}, "--clean 'yes': input should be 'drop', 'interpolate' or 'off'"),
        ({"background_per_frame": -1}, "--background-per-frame -1"),
        ({"expand": 0}, "--expand 0"),
        ({"clean": "interpolate", "time": None}, "--clean interpolate needs --label and --time"),
        ({"frame_size": "big"}, "--frame-size 'big': a size is written WIDTHxHEIGHT"),
        ({"per_frame": 1}, "there is no option --per-frame"),
        ({"label": "who"}, "--label who: the table meta.csv has no column 'who'"),
        ({"path": "{game}.jpg"}, "no column 'game'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = meta(Path(), players(count=1))
    with pytest.raises(UsageError, match=says):
        run(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("image_path,x,y,w\na.jpg,1,2,3\n")
    with pytest.raises(InputError, match="has no column h; it has: image_path, x, y, w"):
        Negatives.from_values({}).run(tmp_path / "meta.csv", tmp_path / "out")


def test_options_survive_json(tmp_path: Path) -> None:
    """What negatives.json says of them makes the same again."""
    first = Negatives.from_values({**NAMED, "frame_size": "1280x720", "share": "0.05,.5", "images": "somewhere"})
    config: Any = json.loads(json.dumps(first.config(Path("in.csv"))))
    assert config["images"] == str(Path("somewhere").resolve())
    again = Negatives.from_values({name: value for name, value in config.items() if name != "input"})
    assert again.config(Path("in.csv")) == config
    assert again.share == "0.05,0.5"
