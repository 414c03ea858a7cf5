"""Tables of boxes as sources of frames."""

import csv
import io
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import InputError, SourceError, UsageError
from lightmill.sources.boxes import BadRow, BoxColumns, BoxSource, BoxTable, FrameRef, open_boxes, read_boxes

COLUMNS = BoxColumns(
    path="{quarter}__{angle}__{session:02d}__{frame:02d}.jpg",
    label="label_id",
    group=("quarter", "session"),
    view="angle",
    time="frame",
)
HEADER = ["quarter", "angle", "session", "frame", "x", "y", "w", "h", "label_id"]
ROWS = [
    ["Q1-000", "side", "1", "7", "10", "20.5", "30", "60", "5"],
    ["Q1-000", "top", "1", "7", "1", "2", "3", "4", "5"],
    ["Q1-000", "side", "1", "8", "11", "20", "30", "60", ""],
    ["Q1-000", "side", "01", "7.0", "90", "20", "31", "60", "06"],
]


def write(path: Path, rows: list[list[str]], *, header: list[str] = HEADER, delimiter: str = ",") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def read(tmp_path: Path, rows: list[list[str]], columns: BoxColumns = COLUMNS, **how: Any) -> BoxTable:
    return read_boxes(write(tmp_path / "meta.csv", rows, **how), columns)


def items(table: BoxTable) -> dict[str, Any]:
    return {item.key: item.ref for item in BoxSource(table, "boxes").items()}


def paths(tmp_path: Path, *texts: str, path: str = "{image_path}") -> BoxTable:
    rows = [[text, "1", "2", "3", "4"] for text in texts]
    return read(tmp_path, rows, BoxColumns(path=path), header=["image_path", "x", "y", "w", "h"])


# --- what is read ----------------------------------------------------------------------------------------------------


def test_rows_become_columns_and_frames(tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    assert table.boxes.tolist() == [[10, 20.5, 30, 60], [1, 2, 3, 4], [11, 20, 30, 60], [90, 20, 31, 60]]
    assert table.labels == ["5", "5", "", "06"]
    assert table.groups == ["Q1-000/1", "Q1-000/1", "Q1-000/1", "Q1-000/01"]
    assert table.views == ["side", "top", "side", "side"]
    assert table.times.tolist() == [7, 7, 8, 7]
    assert table.frames == ["Q1-000__side__01__07.jpg", "Q1-000__top__01__07.jpg", "Q1-000__side__01__08.jpg"]
    assert table.frame.tolist() == [0, 1, 2, 0]
    assert table.tracks.tolist() == [0, 1, -1, 2]
    assert table.problems == {}
    assert table.text.rows == ROWS


def test_each_frame_is_one_item_with_all_of_its_rows(tmp_path: Path) -> None:
    source = open_boxes(write(tmp_path / "a" / "meta.csv", ROWS), COLUMNS)
    found = list(source.items())
    assert [item.key for item in found] == source.table.frames
    assert [item.ref.rows for item in found] == [(0, 3), (1,), (2,)]
    assert found[0].ref.path == str(tmp_path / "a" / "Q1-000__side__01__07.jpg")
    assert source.estimated_count() == 3
    assert source.described == f"boxes {tmp_path}/a/meta.csv"
    (tmp_path / "a" / "Q1-000__side__01__07.jpg").write_bytes(b"bytes")
    assert pickle.loads(pickle.dumps(found[0].ref)).read() == b"bytes"
    with pytest.raises(SourceError, match=r"cannot read Q1-000__top__01__07.jpg: there is no such file"):
        found[1].ref.read()


def test_nothing_but_boxes_is_needed(tmp_path: Path) -> None:
    table = paths(tmp_path, "a.jpg", "b/c.jpg", "./a.jpg", "b//c.jpg")
    assert table.frames == ["a.jpg", "b/c.jpg"]
    assert table.frame.tolist() == [0, 1, 0, 1]
    assert table.labels == table.groups == table.views == [""] * 4
    assert np.isnan(table.times).all()
    assert table.tracks.tolist() == [-1] * 4


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_delimiter(tmp_path: Path, delimiter: str) -> None:
    assert read(tmp_path, ROWS, delimiter=delimiter).boxes.shape == (4, 4)


def test_parquet(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [row[at] for row in ROWS] for at, name in enumerate(HEADER)}
    columns |= {name: [float(cell) for cell in columns[name]] for name in ("x", "y", "w", "h", "frame", "session")}
    polars.DataFrame(columns).write_parquet(tmp_path / "meta.parquet")
    table = read_boxes(tmp_path / "meta.parquet", COLUMNS)
    assert table.frames == read(tmp_path, ROWS).frames  # 7.0 is a whole number too
    assert table.boxes.tolist() == read(tmp_path, ROWS).boxes.tolist()


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    first = read(tmp_path, ROWS).digest
    assert read_boxes(write(tmp_path / "other.csv", ROWS), COLUMNS, images=tmp_path).digest == first
    assert read(tmp_path, ROWS[:3]).digest != first


# --- bad rows fail alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("x", "abc", "row 2: x is 'abc', and should be a number"),
        ("w", "", "row 2: w is '', and should be a number"),
        ("h", "nan", "row 2: h is 'nan', and should be a number"),
        ("y", "inf", "row 2: y is 'inf', and should be a number"),
        ("x", "1,5", "row 2: x is '1,5', and should be a number"),
        ("x", "1e300", "row 2: x is '1e300', and should be a number"),
        ("frame", "late", "row 2: frame is 'late', and should be a number"),
        ("session", "one", "row 2: session is 'one', and --path wants a number, :02d"),
        ("session", "1.5", "row 2: session is '1.5', and --path wants a number, :02d"),
        ("session", "9" * 5000, "row 2: session is '9{80}…', and --path wants a number, :02d"),
        ("quarter", "../../etc/Q1", "row 2: the path .* leads out of the folder of --images"),
        ("quarter", "/etc/Q1", "row 2: the path '/etc/Q1.*' leads out of the folder of --images"),
        ("quarter", "a\0b", "row 2: the path .* is no file name"),
    ],
)
def test_a_row_that_cannot_be_used_fails_alone_with_its_number(
    tmp_path: Path, column: str, cell: str, says: str
) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][HEADER.index(column)] = cell
    if "\0" in cell:  # no CSV holds one
        polars.DataFrame(rows, schema=HEADER, orient="row").write_parquet(tmp_path / "meta.parquet")
        table = read_boxes(tmp_path / "meta.parquet", COLUMNS)
    else:
        table = read(tmp_path, rows)
    found = items(table)
    assert list(found) == ["Q1-000__side__01__07.jpg", "row 2 (no box)", "Q1-000__side__01__08.jpg"]
    with pytest.raises(SourceError, match=says):
        found["row 2 (no box)"].read()
    assert list(table.problems) == [1]
    assert np.isnan(table.boxes[1]).all()
    assert table.frame.tolist() == [0, -1, 1, 0]
    assert table.tracks[1] == -1
    assert BoxSource(table, "boxes").estimated_count() == len(found)


def test_short_rows_lack_what_they_lack(tmp_path: Path) -> None:
    table = read(tmp_path, [ROWS[0][:7], ROWS[1][:8]])
    assert table.problems == {0: "row 1: h is '', and should be a number"}
    assert table.labels[1] == ""


def test_a_time_may_be_unknown(tmp_path: Path) -> None:
    columns = BoxColumns(path="{quarter}.jpg", time="frame")
    table = read(tmp_path, [[*ROWS[0][:3], " ", *ROWS[0][4:]]], columns)
    assert math.isnan(table.times[0])
    assert not table.problems


def test_boxes_without_area_are_not_judged_here(tmp_path: Path) -> None:
    table = read(tmp_path, [[*ROWS[0][:4], "-5", "1e6", "0", "-3", "1"]])
    assert table.boxes.tolist() == [[-5, 1e6, 0, -3]]
    assert not table.problems


def test_bad_rows_stand_where_they_stood_also_at_the_end_and_with_no_good_ones(tmp_path: Path) -> None:
    bad = [*ROWS[0][:4], "?", "1", "1", "1", ""]
    assert list(items(read(tmp_path, [bad, ROWS[0], bad, ROWS[3], ROWS[1], bad]))) == [
        "row 1 (no box)", "Q1-000__side__01__07.jpg", "row 3 (no box)", "Q1-000__top__01__07.jpg", "row 6 (no box)",
    ]  # fmt: skip
    found = items(read(tmp_path, [bad, bad]))
    assert list(found) == ["row 1 (no box)", "row 2 (no box)"]
    assert all(isinstance(ref, BadRow) for ref in found.values())


def test_a_frame_may_be_called_like_a_bad_row(tmp_path: Path) -> None:
    table = read(
        tmp_path, [["a", "?", "1", "1", "1"], ["row 1 (no box)", "1", "1", "1", "1"]],
        BoxColumns(), header=["image_path", "x", "y", "w", "h"],
    )  # fmt: skip
    assert list(items(table)) == ["row 1 (no box)#2", "row 1 (no box)"]


# --- paths -----------------------------------------------------------------------------------------------------------

PARTS = st.lists(st.sampled_from(["a", "b.jpg", "..", ".", "", "ü", "a b"]), min_size=1, max_size=6)


@given(PARTS, st.booleans())
def test_no_path_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], full: bool
) -> None:
    """Walked one part at a time."""
    folder = tmp_path_factory.getbasetemp()
    text = "/".join([str(folder), *parts] if full else parts)
    way: list[str] = []
    for part in [*folder.parts[1:], *parts] if full or not text.startswith("/") else parts:
        if part == "..":
            way = way[:-1]
        elif part not in ("", "."):
            way.append(part)
    place = Path("/", *way)
    table = paths(folder, text)
    if folder in place.parents:
        assert table.frames == [place.relative_to(folder).as_posix()]
        assert items(table)[table.frames[0]] == FrameRef(str(place), table.frames[0], (0,))
    else:
        assert table.frames == []
        assert list(table.problems) == [0]


def test_a_full_path_inside_of_the_folder_is_as_good_as_a_relative_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for folder in ("real", "link"):
        text = f"{tmp_path}/real/a.jpg"
        meta = write(tmp_path / "t.csv", [[text, "1", "2", "3", "4"]], header=["image_path", "x", "y", "w", "h"])
        assert read_boxes(meta, BoxColumns(), images=tmp_path / folder).frames == ["a.jpg"]


@pytest.mark.parametrize(
    ("path", "cells", "wanted"),
    [
        ("{n:02d}.jpg", "7", "07.jpg"),
        ("{n:02d}.jpg", "007", "07.jpg"),
        ("{n:02d}.jpg", "7.0", "07.jpg"),
        ("{n:02d}.jpg", " 7 ", "07.jpg"),
        ("{n}.jpg", "007", "007.jpg"),
        ("{n:s}.jpg", "007", "007.jpg"),
        ("{n:03}.jpg", "7", "007.jpg"),
        ("{n:.2f}.jpg", "1.5", "1.50.jpg"),
        ("{n:05.1f}.jpg", "3", "003.0.jpg"),
        ("{{{n}}}.jpg", "a", "{a}.jpg"),
        ("{n}_{n:03d}.jpg", "4", "4_004.jpg"),
        ("one.jpg", "4", "one.jpg"),
    ],
)
def test_a_path_is_a_format_of_python(tmp_path: Path, path: str, cells: str, wanted: str) -> None:
    table = read(tmp_path, [[cells, "1", "1", "1", "1"]], BoxColumns(path=path), header=["n", "x", "y", "w", "h"])
    assert table.frames == [wanted]


def test_a_column_may_be_called_anything(tmp_path: Path) -> None:
    header = ["a.b", "__class__", "x", "y", "w", "h"]
    table = read(tmp_path, [["p", "q", "1", "1", "1", "1"]], BoxColumns(path="{a.b}{__class__}.jpg"), header=header)
    assert table.frames == ["pq.jpg"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (BoxColumns(path="{quater}.jpg"), r"--path '{quater}.jpg': .* no column 'quater'; .*; did you mean quarter"),
        (BoxColumns(), "--path '{image_path}': the table .* has no column 'image_path'; it has: quarter"),
        (BoxColumns(path="{}.jpg"), "has no column ''"),
        (BoxColumns(path="{frame.real}.jpg"), "has no column 'frame.real'"),
        (BoxColumns(path="{frame!r}.jpg"), "write a column as {frame}, or with a number's format as {frame:02d}"),
        (BoxColumns(path="{frame:{x}}.jpg"), "write a column as {frame}"),
        (BoxColumns(path="{frame:zz}.jpg"), "'zz' is no format for a number"),
        (BoxColumns(path="{frame.jpg"), "--path '{frame.jpg': .*a column is written in braces"),
        (BoxColumns(path="{frame}", label="player"), "--label player: the table .* has no column 'player'; it has: "),
        (BoxColumns(path="{frame}", group=("quarter", "half")), "--group half: .* no column 'half'"),
        (BoxColumns(path="{frame}", view="camera"), "--view camera: .* no column 'camera'"),
        (BoxColumns(path="{frame}", time="Frame"), "--time Frame: .* no column 'Frame'; .* did you mean frame"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there_are_named_with_those_that_are(
    tmp_path: Path, columns: BoxColumns, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        read(tmp_path, ROWS, columns)


def test_a_table_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"meta\.csv has no column w; it has: image_path, x, y, width, height"):
        read(tmp_path, [["a", "1", "1", "1", "1"]], header=["image_path", "x", "y", "width", "height"])
    with pytest.raises(InputError, match=r"meta\.csv has two columns x"):
        read(tmp_path, [["1"] * 5], header=["x", "x", "y", "w", "h"])
    with pytest.raises(InputError, match=r"meta\.csv has a header and no rows"):
        read(tmp_path, [])
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.csv is empty; it needs a header with x,y,w,h, and rows"):
        read_boxes(tmp_path / "empty.csv", COLUMNS)
    with pytest.raises(InputError, match=r"there is no folder .*/nowhere, where --images says the frames are"):
        read_boxes(write(tmp_path / "t.csv", ROWS), COLUMNS, images=tmp_path / "nowhere")


# --- size ------------------------------------------------------------------------------------------------------------


def test_seventy_thousand_frames_of_ten_boxes_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(1, 900, (700_000, 4)).tolist()
    with open(tmp_path / "meta.csv", "w", encoding="utf-8") as file:
        file.write(",".join(HEADER) + "\n")
        for row, (x, y, w, h) in enumerate(numbers):
            frame = row // 10
            file.write(f"Q{frame // 20000}-000,side,{frame // 50},{frame % 50},{x},{y},{w},{h},{row % 10}\n")
    began = time.process_time()
    table = read_boxes(tmp_path / "meta.csv", COLUMNS)
    count = sum(1 for _ in BoxSource(table, "boxes").items())
    assert time.process_time() - began < 20  # 3 s where nothing else runs
    assert len(table) == 700_000
    assert count == len(table.frames) == 70_000
    assert table.boxes[123_456].tolist() == numbers[123_456]
