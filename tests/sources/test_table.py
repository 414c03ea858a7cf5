"""Tables as sources, and written back."""

import csv
import io
import pickle
from pathlib import Path

import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import InputError, SourceError
from lightmill.sources import TableSource, open_source
from lightmill.sources.table import read_csv
from lightmill.sources.table_out import iterate_back, write_back

WILD = [
    ["row", "code", "image_path", "notes", "größe"],
    ["1", "00123", "pictures/one.jpg", 'she said "hello", twice', "1,5"],
    ["2", "007", "pictures/two words.jpg", "first line\nsecond line", "ü"],
    ["3", "0", "pictures/drei ü.jpg", "naïve — 日本語 🌍", "NaN"],
    ["4", "00000", "./pictures/../pictures/one.jpg", "the same picture", "null"],
    ["5", "", "../elsewhere/outside.jpg", "  spaces  ", ""],
    ["6", "9", "", "=1+1", ""],
]


def as_csv(rows: list[list[str]], *, delimiter: str = ",", newline: str = "\r\n") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=newline).writerows(rows)
    return text.getvalue()


def open_table(path: Path, data: bytes) -> TableSource:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    source = open_source(path)
    assert isinstance(source, TableSource)
    return source


def test_rows_become_items(tmp_path: Path) -> None:
    rows = [*WILD, ["7", "x", str(tmp_path / "t" / "pictures" / "absolute.jpg"), "", ""]]
    source = open_table(tmp_path / "t" / "wild table.csv", as_csv(rows, newline="\r\n").encode("utf-8-sig"))
    items = list(source.items())
    assert [item.key for item in items] == [
        "pictures/one.jpg",
        "pictures/two words.jpg",
        "pictures/drei ü.jpg",
        "../elsewhere/outside.jpg",
        "row 6 (no image_path)",
        "pictures/absolute.jpg",
    ]
    assert source.table.keys[3] == "pictures/one.jpg"
    assert items[0].row == dict(zip(rows[0], rows[1], strict=True))
    assert source.table.rows == rows[1:]
    assert source.estimated_count() == len(items)
    assert source.described == f"table {tmp_path}/t/wild table.csv"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "outside.jpg").write_bytes(b"outside")
    assert pickle.loads(pickle.dumps(items[3])).ref.read() == b"outside"
    with pytest.raises(SourceError, match="image_path is empty in row 6"):
        items[4].ref.read()
    with pytest.raises(SourceError, match=r"cannot read pictures/one.jpg: there is no such file: .*one.jpg"):
        items[0].ref.read()


def test_absolute_paths_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = f"image_path\n{tmp_path}/real/a.jpg\n{tmp_path}/link/a.jpg\na.jpg\n{tmp_path}/really.jpg\n"
    source = open_table(tmp_path / "link" / "t.csv", text.encode())
    assert source.table.keys == ["a.jpg", "a.jpg", "a.jpg", "../really.jpg"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_written_back_as_it_was(tmp_path: Path, delimiter: str, newline: str, encoding: str) -> None:
    data = as_csv(WILD, delimiter=delimiter, newline=newline).encode(encoding)
    source = open_table(tmp_path / "t.csv", data)
    results = {key: (f"out/{n}.png", "ok", "") for n, key in enumerate(dict.fromkeys(source.table.keys))}
    results["row 6 (no image_path)"] = ("", "failed", "image_path is empty, in row 6; 'say'")
    written = write_back(source.table, results)
    added = ["output_image_path", "status", "error"]
    expected = [WILD[0] + added, *(row + list(results[k]) for row, k in zip(WILD[1:], source.table.keys, strict=True))]
    assert written == as_csv(expected, delimiter=delimiter, newline=newline).encode(encoding)
    assert expected[4][5] == expected[1][5] == "out/0.png"


def test_parts_make_the_whole(tmp_path: Path) -> None:
    rows = [["image_path"], *([f"{n}.jpg"] for n in range(25_001))]
    table = open_table(tmp_path / "t.csv", as_csv(rows).encode()).table
    parts = list(iterate_back(table, {}))
    assert len(parts) == 3
    assert b"".join(parts).decode() == as_csv([[*row, "", "", ""] for row in [rows[0]]]).replace(
        ",,,", ",output_image_path,status,error"
    ) + as_csv([[*row, "", "", ""] for row in rows[1:]])


def test_blank_lines_short_rows_and_long_rows(tmp_path: Path) -> None:
    data = b'"id","image_path","x"\n001,p0.jpg\n\n\n002,"p1.jpg",2,3,4\n003\n004,./p2.jpg,'
    source = open_table(tmp_path / "t.csv", data)
    assert source.table.keys == ["p0.jpg", "p1.jpg", "row 3 (no image_path)", "p2.jpg"]
    assert [dict(item.row or {}) for item in source.items()][2] == {"id": "003", "image_path": "", "x": ""}
    written = write_back(source.table, {"p1.jpg": ("a", "ok", "")}).decode()
    assert written.splitlines()[2:4] == ["002,p1.jpg,2,a,ok,,3,4", "003,,,,,"]
    for row in csv.DictReader(io.StringIO(written)):
        assert row["status"] == ("ok" if row["id"] == "002" else "")


def test_columns_of_the_user_stay(tmp_path: Path) -> None:
    table = open_table(tmp_path / "t.csv", b"status,image_path,error,error_2\nmine,a.jpg,e,f\n").table
    written = write_back(table, {"a.jpg": ("out.png", "ok", "none")}).decode().splitlines()
    assert written == [
        "status,image_path,error,error_2,output_image_path,status_2,error_3",
        "mine,a.jpg,e,f,out.png,ok,none",
    ]


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=6)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], delimiter: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = [["image_path", "x"], *([f"{n}.jpg{a}", b] for n, (a, b) in enumerate(cells))]
    path.write_bytes(as_csv(rows, delimiter=delimiter).encode())
    table = read_csv(path)
    assert [table.columns, *table.rows] == rows
    back = list(csv.reader(io.StringIO(write_back(table, {}).decode(), newline=""), delimiter=delimiter))
    assert [row[:2] for row in back] == rows


def test_cells_of_any_length(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    source = open_table(tmp_path / "t.csv", b"image_path,x\na.jpg," + b"y" * 300_000)
    assert len(source.table.rows[0][1]) == 300_000
    assert csv.field_size_limit() == limit


def test_parquet(tmp_path: Path) -> None:
    frame = polars.DataFrame(
        {
            "image_path": ["a.jpg", None, "sub/../a.jpg", "b.jpg"],
            "count": [1, None, 3, 4],
            "share": [0.5, 1.0, None, 2.25],
            "tags": [["x", "y"], [], None, ["z"]],
            "box": [{"x": 1}, {"x": 2}, None, {"x": None}],
            "raw": [b"bytes", b"\xff", None, b""],
            "sure": [True, False, None, True],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert isinstance(source, TableSource)
    assert source.table.columns == frame.columns
    assert source.table.rows[0] == ["a.jpg", "1", "0.5", '["x", "y"]', '{"x": 1}', "bytes", "true"]
    assert source.table.rows[2] == ["sub/../a.jpg", "3", "", "", "", "", ""]
    assert [item.key for item in source.items()] == ["a.jpg", "row 2 (no image_path)", "b.jpg"]
    back = polars.read_csv(write_back(source.table, {"a.jpg": ("o.png", "ok", "")}), infer_schema=False)
    assert back["status"].to_list() == ["ok", None, "ok", None]
    assert back["count"].to_list() == ["1", None, "3", "4"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "columns.csv",
            b"file_name,width,height\na.jpg,1,2\n",
            "columns.csv has no column image_path; it has: file_name, ",
        ),
        ("spaced.csv", b"id, image_path\n1, a.jpg\n", "it has: id, ' image_path'"),
        ("twice.csv", b"image_path,image_path\na,b\n", "has two columns image_path"),
        ("norows.csv", b"id,image_path\n", "norows.csv has a header and no rows"),
        ("norows2.csv", b"id,image_path\n\n\n", "has a header and no rows"),
        ("nothing.csv", b"", "nothing.csv is empty"),
        ("blank.csv", b"\n\n \n", "blank.csv is empty"),
        ("binary.csv", bytes(range(256)) * 20, r"binary.csv is not UTF-8 text \(line 2\); save it as CSV in UTF-8"),
        ("nul.csv", b"image_path\na.jpg\0", "nul.csv is binary, not text"),
        (
            "latin.csv",
            "image_path,x\na.jpg,é\n".encode("latin-1"),
            r"latin.csv is not UTF-8 text \(line 2\); save it as",
        ),
        ("utf16.csv", "image_path\na.jpg".encode("utf-16-le"), "utf16.csv is binary, not text"),
        ("open.csv", b'image_path,x\na.jpg,1\nb.jpg,"2\nc.jpg,3\n', "never closed, from line 3 on"),
        ("not.parquet", b"image_path\na.jpg\n", "not.parquet is no Parquet file"),
        ("empty.parquet", b"", "empty.parquet is no Parquet file"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name)
    assert (tmp_path / name).read_bytes() == data
