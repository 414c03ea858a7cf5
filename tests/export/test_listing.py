"""Listings, read back by json, csv and polars."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from tests.export.gallery import TEXTS, files, growth, hostile

from lightmill.engine.outputs import Outputs
from lightmill.export.captioned import record
from lightmill.export.listing import export_csv, export_jsonl


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path)


def test_jsonl_says_all_of_every_picture(outputs):
    pictures = hostile(outputs.root)
    assert export_jsonl(outputs, iter(pictures)) == ["listing.jsonl"]
    text = (outputs.root / "listing.jsonl").read_bytes().decode()
    rows = [json.loads(line) for line in text.splitlines()]  # no letter within a text ends a line, for any reader
    assert rows == [record(picture) for picture in pictures]
    assert [row["text"] for row in rows] == list(TEXTS.values())
    assert json.loads(rows[0]["origin"]) == [{"layer": "caption", "model": "m"}, {"layer": "tags"}]


def test_csv_is_the_same_table_for_python_and_for_polars(outputs):
    pictures = hostile(outputs.root)
    assert export_csv(outputs, iter(pictures)) == ["listing.csv"]
    wanted = [record(picture) for picture in pictures]
    with open(outputs.root / "listing.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{name: str(value) for name, value in row.items()} for row in wanted]
    assert pl.read_csv(outputs.root / "listing.csv").fill_null("").to_dicts() == wanted


def test_columns_are_chosen_and_always_there(outputs):
    pictures = hostile(outputs.root)
    export_csv(outputs, pictures, columns=("tags", "caption_2"))
    export_jsonl(outputs, pictures, columns=("tags", "caption_2"))
    names = ["key", "image", "text", "tags", "caption_2", "width", "height", "origin"]
    assert (outputs.root / "listing.csv").read_text("utf-8").splitlines()[0] == ",".join(f'"{name}"' for name in names)
    first = json.loads((outputs.root / "listing.jsonl").read_text("utf-8").splitlines()[0])
    assert list(first) == names
    assert first["caption_2"] == ""


@pytest.mark.parametrize("export", [export_csv, export_jsonl])
def test_the_same_bytes_again_and_no_pictures_at_all(outputs, export):
    pictures = hostile(outputs.root)
    (name,) = export(outputs, pictures)
    before = files(outputs.root), (outputs.root / name).stat().st_mtime_ns
    export(outputs, pictures)
    assert (files(outputs.root), (outputs.root / name).stat().st_mtime_ns) == before
    export(outputs, [])
    assert (outputs.root / name).read_text("utf-8").count("\n") == (1 if name.endswith(".csv") else 0)


@pytest.mark.parametrize("export", [export_csv, export_jsonl])
def test_memory_does_not_grow_with_the_pictures(tmp_path, export):
    assert growth(tmp_path, export) < 200_000  # 400 rows more are 500 kB; some of them wait to be written
