"""Tables as sources, and written back."""

import csv
import io
import os
import pickle
from pathlib import Path

import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import InputError, SourceError
from lightmill.sources import TableSource, open_source
from lightmill.sources.table import _Anchors, _keys, read_csv
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


# --- keys of tables that share OUT -----------------------------------------------------------------------------------


def shared(path: Path, cells: list[str], home: Path, *, number: int = 1, place: Path | None = None) -> list[str]:
    """The keys of a table with those cells in an OUT with that home."""
    source = open_table(path, as_csv([["n", "image_path"], *(["x", cell] for cell in cells)]).encode())
    source.share(str(home), place=str(place or path.parent), number=number)
    assert [item.key for item in source.items()] == list(dict.fromkeys(source.table.keys))
    return source.table.keys


def test_keys_are_told_from_the_home_and_pictures_are_found_beside_the_table(tmp_path: Path) -> None:
    for folder in ("one/sub", "two"):
        (tmp_path / folder).mkdir(parents=True)
    cells = ["a.jpg", "../one/a.jpg", f"{tmp_path}/one/sub/b.jpg", "../one/sub/../sub/b.jpg", "", "../c.jpg", "  "]
    assert shared(tmp_path / "two" / "t.csv", cells, tmp_path / "one") == [
        "../two/a.jpg", "a.jpg", "sub/b.jpg", "sub/b.jpg", "row 5 of table 2 (no image_path)", "../c.jpg",
        "row 7 of table 2 (no image_path)",
    ]  # fmt: skip
    (tmp_path / "two" / "a.jpg").write_bytes(b"beside the table")
    source = open_table(tmp_path / "two" / "t.csv", b"image_path\na.jpg\n")
    source.share(str(tmp_path / "one"), place=str(tmp_path / "two"), number=1)
    assert next(source.items()).ref.read() == b"beside the table"


def test_the_first_table_has_the_keys_that_it_has_alone(tmp_path: Path) -> None:
    cells = ["a.jpg", "../x/a.jpg", str(tmp_path / "t" / "b.jpg"), str(tmp_path / "c.jpg"), "", "./d/../e.jpg"]
    (tmp_path / "t").mkdir()
    alone = open_table(tmp_path / "t" / "t.csv", as_csv([["image_path"], *([cell] for cell in cells)]).encode())
    assert shared(tmp_path / "t" / "t.csv", cells, tmp_path / "t", number=0) == alone.table.keys
    assert alone.table.keys[4] == "row 5 (no image_path)"


def test_a_table_told_twice_has_the_keys_of_the_last_time(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    source = open_table(tmp_path / "t" / "t.csv", b"image_path,x\na.jpg,1\n,2\n")
    alone = source.table.keys
    source.share(str(tmp_path / "home"), place=source.place, number=2)
    assert source.table.keys == ["../t/a.jpg", "row 2 of table 3 (no image_path)"]
    source.share(source.place, place=source.place, number=0)
    assert source.table.keys == alone


def test_folders_may_be_written_through_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "disk" / "two").mkdir()
    (tmp_path / "data").symlink_to("disk")
    disk, data = tmp_path / "disk", tmp_path / "data"
    cells = ["a.jpg", "../one/b.jpg", f"{disk}/one/c.jpg", f"{data}/one/c.jpg"]
    below = ["b.jpg", "c.jpg", "c.jpg"]
    assert shared(disk / "two" / "t.csv", cells, disk / "one")[1:] == ["b.jpg", "c.jpg", "../../data/one/c.jpg"]
    assert shared(disk / "two" / "t.csv", cells, data / "one")[1:] == below
    assert shared(data / "two" / "t.csv", cells, data / "one")[1:] == below
    # however it is written in a later run, its keys stay: the way in which it first came is kept
    first = shared(data / "two" / "t.csv", cells, data / "one")
    assert shared(disk / "two" / "t.csv", cells, data / "one", place=data / "two") == first
    # so do those of the first table
    first = shared(data / "one" / "t.csv", [*cells, f"{disk}/one/c.jpg"], data / "one", number=0)
    again = shared(disk / "one" / "t.csv", [*cells, f"{disk}/one/c.jpg"], data / "one", number=0, place=data / "one")
    assert first == again


def test_which_table_it_is(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    source = open_table(tmp_path / "one" / "my.table.csv", b"image_path\na.jpg\n")
    assert (source.place, source.title) == (str(tmp_path / "one"), "my.table")
    assert source.file == source.resolved == str(tmp_path / "one" / "my.table.csv")
    (tmp_path / "link").symlink_to("one")
    assert TableSource(tmp_path / "link" / "my.table.csv").file == source.file
    (tmp_path / "linked.csv").symlink_to("one/my.table.csv")  # its paths go on from another folder: another table
    linked = TableSource(tmp_path / "linked.csv")
    assert (linked.file, linked.resolved) == (str(tmp_path / "linked.csv"), source.file)
    assert source.place_of("/data/x/other.TSV") == "/data/x"
    assert source.place_of("/data/x/t.parquet") == "/data/x"
    assert source.place_of("/data/x.csv/pictures") is None
    assert source.place_of("/data/x.zip") is None


PARTS = st.sampled_from(["one", "two", "sub", "..", ".", "a.jpg", "b.jpg"])
CELL = st.builds(
    lambda absolute, parts: absolute + "/".join(parts),
    st.sampled_from(["", "/root/", "./"]),
    st.lists(PARTS, min_size=1),
)
FOLDER = st.sampled_from(["/root", "/root/one", "/root/two", "/root/one/sub"])


@given(FOLDER, FOLDER, FOLDER, st.lists(CELL, min_size=1, max_size=5), st.lists(CELL, min_size=1, max_size=5))
def test_two_tables_have_one_key_for_one_file_and_two_for_two(
    home: str, one: str, two: str, ones: list[str], twos: list[str]
) -> None:
    found: dict[str, str] = {}
    for number, (folder, cells) in enumerate(((home, ones), (one, ones), (two, twos))):
        anchors = _Anchors.shared(folder, home=home, place=folder)
        for cell, key in zip(cells, _keys(cells, anchors, number), strict=True):
            file = os.path.normpath(f"{folder}/{cell}") if not cell.startswith("/") else os.path.normpath(cell)
            assert found.setdefault(key, file) == file
            assert os.path.normpath(f"{home}/{key}") == file
    assert len(set(found.values())) == len(found)
