"""A table in, the user's table out: every row and cell as it was, and where the views are."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


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
