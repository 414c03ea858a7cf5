"""A table in, the user's table out: every row and cell as it was, and where the views are."""

import csv
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lightmill
from lightmill.cli import run_command_line
from lightmill.engine.items import Filtered, Notes, Ref
from lightmill.engine.journal import Journal, Row
from lightmill.engine.naming import Naming
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, run
from lightmill.engine.stages import Each, Save
from lightmill.errors import ChangedConfig, NameCollision
from lightmill.recipes.tables import write_table
from lightmill.sources import open_source


@pytest.fixture
def table(write_waves: Callable[..., Any], tmp_path: Path) -> Path:
    """tours.csv: a good row, one that fails, one without a path, and the good one again."""
    write_waves(tmp_path / "data" / "pictures" / "a b.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "data" / "square.png")
    path = tmp_path / "data" / "tours.csv"
    path.write_text(
        'id,image_path,note\r\n007,pictures/a b.png,"two, with a comma"\r\n008,square.png,\r\n009,,none\r\n'
        "010,pictures/a b.png,again\r\n",
        newline="",
    )
    return path


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_come_back_with_their_views(table: Path, split: Callable[..., Any]) -> None:
    before = table.read_bytes()
    made = split(table, rig="horizon4")
    assert table.read_bytes() == before
    rows = read(made.out / "tours_with_views.csv")
    assert [list(row.values())[:3] for row in rows] == [
        ["007", "pictures/a b.png", "two, with a comma"],
        ["008", "square.png", ""],
        ["009", "", "none"],
        ["010", "pictures/a b.png", "again"],
    ]
    assert list(rows[0])[3:] == ["output_image_path", "status", "error"]
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "ok"]
    assert rows[0]["output_image_path"] == rows[3]["output_image_path"] == "images/cam00/pictures/a b.jpg"
    assert (made.out / rows[0]["output_image_path"]).is_file()
    assert rows[1]["output_image_path"] == rows[2]["output_image_path"] == ""
    assert rows[1]["error"].startswith("it is 50x50, and an equirectangular panorama")
    assert "image_path is empty in row 3" in rows[2]["error"]
    assert made.result.exit_code == 3
    assert "tours_with_views.csv" in json.loads((made.out / "report.json").read_text("utf-8"))["exports"]


def test_absolute_paths(table: Path, split: Callable[..., Any]) -> None:
    made = split(table, rig="horizon4", absolute_paths=True)
    rows = read(made.out / "tours_with_views.csv")
    assert rows[0]["output_image_path"] == str((made.out / "images/cam00/pictures/a b.jpg").resolve())
    assert Path(rows[0]["output_image_path"]).is_file()
    assert rows[1]["output_image_path"] == ""
    assert all(not Path(path).is_absolute() for row in made.rows.values() for path in row["outputs"].values())


def test_parquet(write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path) -> None:
    import polars

    write_waves(tmp_path / "a.png")
    path = tmp_path / "frames.parquet"
    polars.DataFrame({"image_path": ["a.png", "absent.png"], "code": ["01", "02"]}).write_parquet(path)
    made = split(path, rig="horizon4", naming="index", layout="flat")
    rows = read(made.out / "frames_with_views.csv")
    assert [row["code"] for row in rows] == ["01", "02"]
    assert [row["output_image_path"] for row in rows] == ["images/00000_cam00.jpg", ""]
    assert rows[1]["status"] == "failed"


def test_other_sources_give_no_table(table: Path, split: Callable[..., Any]) -> None:
    made = split(table.parent / "pictures", rig="horizon4")
    assert [name for name in made.files if name.endswith(".csv")] == ["manifest.csv"]


# --- several tables in one OUT ---------------------------------------------------------------------------------------


def as_table(path: Path, cells: list[str]) -> Path:
    """A CSV with the columns id (from 0) and image_path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "image_path"], *([number, cell] for number, cell in enumerate(cells))])
    return path


def keys_of(out: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


def stamps(out: Path) -> dict[str, int]:
    """When each file was written, but for the journal and the reports."""
    files = (path for path in out.rglob("*") if path.is_file() and ".lightmill" not in path.parts)
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in files if path.stem != "report"}


def test_two_tables_of_one_name_come_back_as_their_own(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    for seed, name in enumerate(("one/a.png", "one/b.png", "two/c.png")):
        write_waves(tmp_path / name, seed=seed)
    first = as_table(tmp_path / "one" / "data.csv", ["a.png", "b.png", ""])
    second = as_table(tmp_path / "two" / "data.csv", ["", "c.png", "../one/b.png", "gone.png", "c.png"])
    how = {"rig": "horizon4", "export": "nerfstudio"}
    made = split(first, **how)
    before = (made.out / "data_with_views.csv").read_bytes(), stamps(made.out)
    made = split(second, **how)
    assert (made.out / "data_with_views.csv").read_bytes() == before[0]
    rows = read(made.out / "data_2_with_views.csv")
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["status"] for row in rows] == ["failed", "ok", "ok", "failed", "ok"]
    assert [row["output_image_path"] for row in rows] == [
        "", "images/cam00/two/c.jpg", "images/cam00/b.jpg", "", "images/cam00/two/c.jpg",
    ]  # fmt: skip
    assert "image_path is empty in row 1" in rows[0]["error"]
    assert keys_of(made.out) == [
        "a.png", "b.png", "row 3 (no image_path)",
        "row 1 of table 2 (no image_path)", "../two/c.png", "../two/gone.png",
    ]  # fmt: skip
    pictures = {name: stamp for name, stamp in before[1].items() if name.startswith("images/")}
    assert pictures.items() <= stamps(made.out).items()  # none was made again
    frames = json.loads((made.out / "transforms.json").read_text("utf-8"))["frames"]
    assert len(frames) == 3 * 4
    assert {"data_with_views.csv", "data_2_with_views.csv"} <= {
        *json.loads((made.out / "report.json").read_text("utf-8"))["exports"]
    }
    after = stamps(made.out)
    for table in (first, second, first):
        assert split(table, **how).result.exit_code == 3
    assert stamps(made.out) == after


def test_names_of_tables_given_back_are_no_other_tables(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    picture = str(tmp_path / "a.png")
    tables = [as_table(tmp_path / name, [picture]) for name in ("1/data.csv", "2/Data.csv", "3/data_2.csv", "3/x.csv")]
    for table in (*tables, *reversed(tables)):
        out = split(table, rig="horizon4").out
    found = {path.name for path in out.glob("*_with_views.csv")}
    assert found == {f"{title}_with_views.csv" for title in ("data", "Data_2", "data_2_2", "x")}


def test_tables_share_with_tables_only(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "a.png")
    table = as_table(tmp_path / "t.csv", ["in/a.png"])
    refused = pytest.raises(ChangedConfig, match=r"its INPUT was .*, now .* \(only tables can share an OUT\)")
    split(table, "of-table", rig="horizon4")
    with refused:
        split(tmp_path / "in", "of-table", rig="horizon4")
    split(tmp_path / "in", "of-folder", rig="horizon4")
    with refused:
        split(table, "of-folder", rig="horizon4")
    other = as_table(tmp_path / "other" / "t.csv", ["../in/a.png"])
    with pytest.raises(ChangedConfig, match=r"with other options: quality was 95, now 80\."):
        split(other, "of-table", rig="horizon4", quality=80)


def test_retry_does_the_failed_rows_of_every_table(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/a.png", "two/c.png"):
        write_waves(tmp_path / name)
    tables = [
        as_table(tmp_path / "one" / "t.csv", ["a.png", "late.png", "never.png"]),
        as_table(tmp_path / "two" / "t.csv", ["c.png", "late.png", "../one/late.png"]),
    ]
    for table in tables:
        out = split(table, rig="horizon4").out
    for seed, name in enumerate(("one/late.png", "two/late.png"), 5):
        write_waves(tmp_path / name, seed=seed)
    monkeypatch.chdir("/")
    assert run_command_line(["retry", str(out), "--progress", "none"]) == 3  # never.png
    statuses = [[row["status"] for row in read(out / f"{title}_with_views.csv")] for title in ("t", "t_2")]
    assert statuses == [["ok", "ok", "failed"], ["ok", "ok", "ok"]]
    with Image.open(out / "images/cam00/late.jpg") as one, Image.open(out / "images/cam00/two/late.jpg") as two:
        assert one.tobytes() != two.tobytes()
    # a table that is gone does not keep the others from being done
    write_waves(tmp_path / "one" / "never.png")
    as_table(tables[1], ["c.png", "late.png", "../one/never.png"])
    split(tables[1], rig="horizon4")
    tables[0].unlink()
    assert run_command_line(["retry", str(out), "--progress", "none"]) == 1
    assert [row["status"] for row in read(out / "t_2_with_views.csv")] == ["ok", "ok", "ok"]


def test_a_linked_table_is_retried_from_the_folder_of_the_link(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    table = as_table(tmp_path / "elsewhere" / "t.csv", ["a.png"])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "t.csv").symlink_to(table)
    out = split(tmp_path / "pictures" / "t.csv", rig="horizon4").out
    write_waves(tmp_path / "pictures" / "a.png")
    assert run_command_line(["retry", str(out), "--progress", "none"]) == 0
    assert keys_of(out) == ["a.png"]


BACK_TO_FIRST_VERSION = """
ALTER TABLE items DROP COLUMN input;
ALTER TABLE items DROP COLUMN name;
INSERT INTO run VALUES ('command', (SELECT json_extract(value, '$[0].command') FROM run WHERE name = 'inputs'));
DELETE FROM run WHERE name = 'inputs';
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("comes_next", ["first", "second"])
def test_an_out_of_an_earlier_version_goes_on_and_can_be_shared(
    comes_next: str, write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    for seed, name in enumerate(("one/a.png", "one/late.png", "two/c.png")):
        write_waves(tmp_path / name, seed=seed)
    sound = (tmp_path / "one/late.png").read_bytes()
    (tmp_path / "one/late.png").unlink()
    first = as_table(tmp_path / "one" / "data.csv", ["a.png", "late.png"])
    second = as_table(tmp_path / "two" / "data.csv", ["c.png", "../one/a.png"])
    out = split(first, rig="horizon4").out
    with closing(sqlite3.connect(out / ".lightmill/journal.db")) as db:
        db.executescript(BACK_TO_FIRST_VERSION)
    before = stamps(out)
    (tmp_path / "one/late.png").write_bytes(sound)
    tables = [first, second] if comes_next == "first" else [second, first]
    for table in tables:
        split(table, rig="horizon4")
    assert keys_of(out) == ["a.png", "late.png", "../two/c.png"]
    assert {name: stamp for name, stamp in stamps(out).items() if name in before and "images" in name} == {
        name: stamp for name, stamp in before.items() if "images" in name
    }
    assert run_command_line(["retry", str(out), "--progress", "none"]) == 0
    assert [row["status"] for row in read(out / "data_with_views.csv")] == ["ok", "ok"]
    assert [row["output_image_path"] for row in read(out / "data_2_with_views.csv")] == [
        "images/cam00/two/c.jpg", "images/cam00/a.jpg",
    ]  # fmt: skip


def test_retry_reads_an_out_of_an_earlier_version(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    table = as_table(tmp_path / "in" / "data.csv", ["a.png"])
    out = split(table, rig="horizon4").out
    with closing(sqlite3.connect(out / ".lightmill/journal.db")) as db:
        db.executescript(BACK_TO_FIRST_VERSION)
    write_waves(tmp_path / "in" / "a.png")
    assert run_command_line(["retry", str(out), "--progress", "none"]) == 0
    assert [row["status"] for row in read(out / "data_with_views.csv")] == ["ok"]


# --- any two tables over one tree ------------------------------------------------------------------------------------


class Reader:
    """A pipeline's one stage: gives back what it read, for two files, and keeps what that was."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, ref: Ref, notes: Notes) -> tuple[bytes, bytes]:
        data = ref.read()
        self.read.append(data.decode())
        notes.meta["letters"] = len(data)
        if b"small" in data:
            raise Filtered("too small")
        return data, data


def copy_all(table: Path, out: Path, reader: Reader, *, naming: Naming = Naming.KEY, **how: Any) -> Path:
    """Every picture of a table as it is, to OUT/copies."""
    source = open_source(table)
    pipeline = Pipeline(
        Each(reader, makes=("file", "again"), name="read"), Save(file="copies/{name}.copy", again="{name}.again")
    )

    def export(outputs: Outputs, journal: Journal) -> list[str]:
        return write_table(outputs, journal, source, **{"input": table, "suffix": "copies", "absolute": False} | how)

    job = Job(
        recipe="copy",
        version="1",
        config={"input": str(table.resolve()), "naming": naming},
        command={},
        source=source,
        out=out,
        make_pipeline=lambda: pipeline,
        export=export,
    )
    run(job, RunOptions(threads=1, progress="none", naming=naming))
    return out


TREE = ("a.jpg", "one/a.jpg", "one/b.jpg", "one/sub/c.jpg", "two/a.jpg", "two/small.jpg")
FOLDERS = ("one", "two", "one/sub", "three")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that hold their own names."""
    root = tmp_path_factory.mktemp("tree")
    for name in (*TREE, "three/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


# a row: which file (or none, or one that is not there), and how its path is written
ROW = st.tuples(st.sampled_from([*TREE, "two/gone.jpg", "", "  "]), st.sampled_from(["relative", "full", "winding"]))
ROWS = st.lists(ROW, min_size=1, max_size=6)


def written(root: Path, folder: str, name: str, how: str) -> str:
    if not name.strip():
        return name
    relative = os.path.relpath(root / name, root / folder)
    return {"relative": relative, "full": str(root / name), "winding": f"./../{Path(folder).name}/{relative}"}[how]


def collide(root: Path, home: str, rows: list[tuple[str, str]]) -> bool:
    """Whether two files would have one name: their ways from the home without `..` and suffix."""
    ways = {file: os.path.relpath(root / file, root / home).replace("../", "") for file, _ in rows if file.strip()}
    return len({Path(way).with_suffix("") for way in ways.values()}) < len(ways)


@settings(max_examples=15)
@given(
    st.tuples(st.sampled_from(FOLDERS), ROWS),
    st.tuples(st.sampled_from(FOLDERS), ROWS),
    st.sampled_from([Naming.KEY, Naming.INDEX]),
)
def test_any_two_tables_come_back_with_the_right_result_in_every_row(
    tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
    one: tuple[str, list[tuple[str, str]]],
    two: tuple[str, list[tuple[str, str]]],
    naming: Naming,
) -> None:
    out = tmp_path_factory.mktemp("out")
    readers = [Reader() for _ in range(4)]
    tables = [
        as_table(tree / folder / name, [written(tree, folder, *row) for row in rows])
        for (folder, rows), name in ((one, "data.csv"), (two, "data.csv" if one[0] != two[0] else "data_2.csv"))
    ]
    names = ["data_with_copies.csv", "data_2_with_copies.csv"]
    if naming is Naming.KEY and collide(tree, one[0], one[1]):
        with pytest.raises(NameCollision):
            copy_all(tables[0], out, readers[0])
        return
    copy_all(tables[0], out, readers[0], naming=naming)
    firsts, before = keys_of(out), stamps(out)
    if naming is Naming.KEY and collide(tree, one[0], one[1] + two[1]):
        with pytest.raises(NameCollision):
            copy_all(tables[1], out, readers[1])
        assert (stamps(out), readers[1].read) == (before, [])
        return
    copy_all(tables[1], out, readers[1], naming=naming)
    unchanged = {name: stamp for name, stamp in before.items() if not name.startswith("manifest.")}
    assert unchanged.items() <= stamps(out).items()
    for (_, rows), name in zip((one, two), names, strict=True):
        found = read(out / name)
        assert [row["id"] for row in found] == [str(number) for number in range(len(rows))]
        for number, ((file, _), row) in enumerate(zip(rows, found, strict=True), 1):
            if file in TREE and "small" not in file:
                assert row["status"] == "ok"
                assert (out / row["output_image_path"]).read_text() == file
            else:
                assert row["status"] == ("filtered" if "small" in file else "failed")
                assert row["output_image_path"] == ""
                assert f"empty in row {number}" in row["error"] if not file.strip() else row["error"]
    everything = {file for _, rows in (one, two) for file, _ in rows if file in TREE}
    assert sorted(readers[0].read + readers[1].read) == sorted(everything)  # each once
    assert keys_of(out)[: len(firsts)] == firsts
    before = stamps(out)
    for table, reader in zip(tables, readers[2:], strict=True):  # again: nothing is done, nothing is written
        copy_all(table, out, reader, naming=naming)
        assert reader.read == []
    assert stamps(out) == before


# --- more columns ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tree: Path) -> Path:
    """A table with a row of each end, and a column that has a new one's name."""
    path = tree / "two" / "scored.csv"
    path.write_text("letters,image_path\nmine,a.jpg\nalso mine,small.jpg\n,gone.jpg\nagain,a.jpg\n")
    return path


def letters(row: Row) -> str:
    return str(row.meta["letters"])


def test_columns_by_name_are_there_whatever_the_rows_have(scored: Path, tmp_path: Path) -> None:
    extra = {"letters": letters, "copy": lambda row: row.paths.get("file", "")}
    out = copy_all(scored, tmp_path / "out", Reader(), extra=extra)
    with open(out / "scored_with_copies.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["letters", "image_path", "output_image_path", "status", "error", "letters_2", "copy"]
    assert rows[1] == ["mine", "a.jpg", "copies/a.copy", "ok", "", "9", "copies/a.copy"]
    assert rows[2] == ["also mine", "small.jpg", "", "filtered", "too small", "13", ""]
    assert rows[3][:4] == ["", "gone.jpg", "", "failed"]
    assert rows[3][5:] == ["", ""]
    assert rows[4] == ["again", *rows[1][1:]]


def test_columns_of_a_function_are_those_that_the_rows_of_this_table_have(scored: Path, tree: Path) -> None:
    def extra(row: Row) -> dict[str, str]:
        return {"letters": letters(row)} | ({"x": "an x"} if row.key.endswith("x.jpg") else {"no_x": "none"})

    out = copy_all(scored, tree / "out-1", Reader(), extra=extra)
    other = as_table(tree / "three" / "x.csv", ["x.jpg"])
    copy_all(other, out, Reader(), extra=extra)
    assert list(read(out / "scored_with_copies.csv")[0])[5:] == ["letters_2", "no_x"]
    assert list(read(out / "x_with_copies.csv")[0])[2:] == ["output_image_path", "status", "error", "letters", "x"]
    failed = as_table(tree / "three" / "failed.csv", ["gone.jpg"])
    copy_all(failed, out, Reader(), extra=extra)
    assert list(read(out / "failed_with_copies.csv")[0])[2:] == ["output_image_path", "status", "error"]


def test_which_output_is_output_image_path(scored: Path, tmp_path: Path) -> None:
    for number, (label, expected) in enumerate((("again", "a.again"), ("none", ""), (None, "copies/a.copy"))):
        out = copy_all(scored, tmp_path / str(number), Reader(), label=label)
        paths = [row["output_image_path"] for row in read(out / "scored_with_copies.csv")]
        assert paths == [expected, "", "", expected]
    out = copy_all(scored, tmp_path / "absolute", Reader(), label="again", absolute=True)
    assert read(out / "scored_with_copies.csv")[0]["output_image_path"] == str(out / "a.again")


# --- scores in manifest.csv ------------------------------------------------------------------------------------------

SCORES = ["sharpness", "clipped_share", "contrast", "evenness"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a.png and sub/b.png, sharp ones with a hole of alpha, and one that is no picture."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "sub/b.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[:12, :, 3] = 0
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    (tmp_path / "in" / "c, d.png").write_bytes(b"no picture")
    return tmp_path / "in"


def zipped(folder: Path) -> Path:
    path = folder.parent / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("recipe", "options"), [("prepare", {}), ("caption", {}), ("relight", {"masks": "alpha"})])
def test_scores_are_columns_of_the_manifest_of_any_input(
    pictures: Path, tmp_path: Path, kind: str, recipe: str, options: dict[str, Any]
) -> None:
    """Contrast by OpenCV's grey is the oracle; the other columns are those of a run without scores."""
    source = zipped(pictures) if kind == "zip" else pictures
    do = getattr(lightmill, recipe)
    plain, out = (
        do(source, tmp_path / name, threads=2, score=score, **options).out
        for name, score in (("plain", False), ("out", True))
    )
    without, rows = read(plain / "manifest.csv"), read(out / "manifest.csv")
    assert list(rows[0]) == [*without[0], *SCORES]
    assert [{name: row[name] for name in without[0]} for row in rows] == without
    meta = {row["key"]: row["meta"] for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    for row in rows:
        if row["status"] == "failed":
            assert [row[name] for name in SCORES] == [""] * 4
            continue
        assert {name: float(row[name]) for name in SCORES} == pytest.approx(meta[row["key"]]["scores"], rel=1e-5)
        if recipe == "relight":  # the others measure what comes out, on the matte
            grey = cv2.imread(str(pictures / row["key"]), cv2.IMREAD_GRAYSCALE)
            assert float(row["contrast"]) == pytest.approx(grey.std() / 255, rel=0.02)
    assert {row["key"]: row["status"] for row in rows} == {"a.png": "ok", "c, d.png": "failed", "sub/b.png": "ok"}
    data = (out / "manifest.csv").read_bytes()
    do(source, out, threads=1, score=True, **options)
    assert (out / "manifest.csv").read_bytes() == data
    assert not list(out.rglob(".lm-*"))


def test_scores_of_what_was_chosen_by_them_and_after_a_retry(pictures: Path, tmp_path: Path) -> None:
    out = lightmill.prepare(pictures, tmp_path / "out", keep_top=1, threads=2).out
    first = read(out / "manifest.csv")
    assert sorted(row["status"] for row in first) == ["failed", "filtered", "ok"]
    assert [bool(row["sharpness"]) for row in first] == [row["status"] != "failed" for row in first]
    lightmill.prepare(pictures, tmp_path / "scored", score=True, threads=2)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(pictures / "c, d.png")
    assert run_command_line(["retry", str(tmp_path / "scored"), "--progress", "none"]) == 0
    assert [row["contrast"] for row in read(tmp_path / "scored" / "manifest.csv") if row["key"] == "c, d.png"] == ["0"]


def test_a_manifest_without_scores_is_the_engines(pictures: Path, tmp_path: Path) -> None:
    out = lightmill.prepare(pictures, tmp_path / "out", threads=2).out
    assert list(read(out / "manifest.csv")[0]) == ["key", "status", "stage", "error", "output_image"]
