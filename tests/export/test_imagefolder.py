"""The image folder, read back by `datasets` itself."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.export.gallery import TEXTS, captioned, files, growth, hostile, picture

from lightmill.engine.outputs import Outputs
from lightmill.errors import OutputError, UsageError
from lightmill.export.captions_file import Layer
from lightmill.export.imagefolder import export_imagefolder


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


@pytest.fixture(scope="module")
def datasets() -> Any:
    """The reader, which looks nothing up: it takes these switches when it is first imported."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    return pytest.importorskip("datasets", reason="the reader of image folders, `datasets`, is not installed")


def rows(datasets: Any, outputs: Outputs, tmp_path: Path) -> Any:
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(outputs.root / "imagefolder"), cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ["train"]
    return loaded["train"]


def test_every_picture_comes_back_with_its_texts(datasets, outputs, tmp_path):
    pictures = hostile(outputs.root)
    assert export_imagefolder(outputs, iter(pictures)) == ["imagefolder/metadata.jsonl", "imagefolder/"]
    table = rows(datasets, outputs, tmp_path)
    assert table.column_names == ["image", "text", "key", "caption", "tags", "existing", "edited"]
    assert [row["text"] for row in table] == list(TEXTS.values())
    assert [row["tags"] for row in table] == [wanted.layers[1].text for wanted in pictures]
    assert [row["key"] for row in table] == [wanted.key for wanted in pictures]
    assert [row["image"].size for row in table] == [(wanted.width, wanted.height) for wanted in pictures]
    assert [row["edited"] for row in table] == [""] * len(pictures)


def test_names_that_the_reader_takes_for_splits_lose_no_captions(datasets, outputs, tmp_path):
    names = [
        "test.jpg",
        "my_test_1.jpg",
        "Train.png",
        "val/a.jpg",
        "data/train-00000-of-00001.jpg",
        "2 dev.jpg",
        "contest.jpg",
        "sub/deep/x [1] #2 %20.jpg",
        "日本 語.jpg",
        ".hidden.jpg",
    ]
    pictures = [picture(outputs.root, name, Layer("caption", f"text of {name}")) for name in names]
    export_imagefolder(outputs, pictures)
    table = rows(datasets, outputs, tmp_path)
    assert [(row["key"], row["text"]) for row in table] == [(name, f"text of {name}") for name in names]
    for row, wanted in zip(table, pictures, strict=True):
        assert row["image"].getpixel((5, 5)) == pytest.approx(
            [sum(wanted.key.encode()) % m for m in (251, 241, 239)], abs=4
        )
    assert (outputs.root / "imagefolder/contest.jpg").is_file()
    assert (outputs.root / "imagefolder/val~/a.jpg").is_file()


def test_links_are_the_pictures_themselves_and_nothing_is_written_twice(outputs):
    pictures = hostile(outputs.root)
    export_imagefolder(outputs, pictures)
    for wanted in pictures:
        linked = outputs.root / wanted.image.replace("images/", "imagefolder/")
        assert linked.samefile(outputs.root / wanted.image)
    before = files(outputs.root), (outputs.root / "imagefolder/metadata.jsonl").stat().st_ino
    export_imagefolder(outputs, pictures)
    assert (files(outputs.root), (outputs.root / "imagefolder/metadata.jsonl").stat().st_ino) == before


def test_a_picture_that_is_left_out_leaves_the_folder_and_stays_in_out(outputs):
    pictures = hostile(outputs.root)
    export_imagefolder(outputs, pictures)
    export_imagefolder(outputs, pictures[1:])
    assert not (outputs.root / pictures[0].image.replace("images/", "imagefolder/")).exists()
    assert all((outputs.root / wanted.image).is_file() for wanted in pictures)


def test_a_missing_picture_is_told_and_the_old_metadata_stays(outputs):
    export_imagefolder(outputs, hostile(outputs.root))
    before = files(outputs.root)
    with pytest.raises(OutputError, match=r"images/gone\.jpg is in captions\.jsonl, but there is no such file"):
        export_imagefolder(outputs, [captioned("gone.jpg", "a dog")])
    assert files(outputs.root) == before


@pytest.mark.parametrize("name", ["text", "image", "file_name", "mask_file_name", "file_names", "key"])
def test_columns_with_a_meaning_of_their_own_are_refused(outputs, name):
    with pytest.raises(UsageError, match=f"cannot be called '{name}'"):
        export_imagefolder(outputs, [], columns=(name,))


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    assert growth(tmp_path, export_imagefolder) < 200_000  # 400 rows more are 500 kB; some of them wait to be written
