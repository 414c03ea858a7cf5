"""meta_cap.json and folders N_concept, read as sd-scripts reads them (its rules, written anew)."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.export.gallery import TEXTS, captioned, files, growth, hostile, picture

from lightmill.engine.outputs import Outputs
from lightmill.errors import NameCollision, OutputError, UsageError
from lightmill.export.captions_file import Captioned, Layer
from lightmill.export.kohya import Layout, export_kohya
from lightmill.export.sidecar import Edits, edited_sidecars


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def dreambooth(root: Path, *, extension: str = ".txt") -> dict[str, list[tuple[int, str]]]:
    """Folder by folder, (repeats, text) of each picture: no sub-folders, the first line, the concept where none is."""
    found: dict[str, list[tuple[int, str]]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        number, _, concept = folder.name.partition("_")
        for image in sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".png", ".webp"}):
            text = image.with_suffix(extension)
            lines = text.read_text("utf-8").split("\n") if text.exists() else [concept]
            assert lines[0].strip(), "the trainer stops at an empty file"
            found.setdefault(folder.name, []).append((int(number), lines[0].strip()))
    return found


def fine_tuning(root: Path, image_dir: Path) -> list[tuple[Path, str, tuple[int, int]]]:
    """(picture, text, size): tags stand behind the caption."""
    metadata: dict[str, Any] = json.loads((root / "kohya/meta_cap.json").read_text("utf-8"))
    return [
        (image_dir / key, ", ".join(filter(None, (row.get("caption"), row.get("tags")))), tuple(row["image_size"]))
        for key, row in metadata.items()
    ]


def test_folders_give_every_picture_its_words(outputs):
    pictures = hostile(outputs.root)
    made = export_kohya(outputs, iter(pictures), layout=Layout.FOLDERS, repeats=10, concept="my cat")
    assert made == ["kohya/"]
    read = dreambooth(outputs.root / "kohya")
    assert list(read) == ["10_my cat"]
    assert {number for number, _ in read["10_my cat"]} == {10}
    assert sorted(text.split() for _, text in read["10_my cat"]) == sorted(text.split() for text in TEXTS.values())
    assert not (outputs.root / "kohya/meta_cap.json").exists()


def test_metadata_gives_every_picture_its_text_to_the_letter(outputs):
    pictures = hostile(outputs.root)
    assert export_kohya(outputs, iter(pictures), layout=Layout.METADATA) == ["kohya/meta_cap.json"]
    read = fine_tuning(outputs.root, outputs.root)
    assert [text for _, text, _ in read] == [
        f"{text}, {wanted.layers[1].text}" for text, wanted in zip(TEXTS.values(), pictures, strict=True)
    ]
    for path, _, size in read:
        with Image.open(path) as image:
            assert image.size == size
    assert list(files(outputs.root, below="kohya")) == ["kohya/meta_cap.json"]


def test_both_speak_of_the_same_pictures(outputs):
    pictures = hostile(outputs.root)
    assert export_kohya(outputs, pictures) == ["kohya/meta_cap.json", "kohya/"]
    linked = [path for path, _, _ in fine_tuning(outputs.root, outputs.root)]
    assert [path.parent.name for path in linked] == ["1_pictures"] * len(pictures)
    assert all(path.samefile(outputs.root / wanted.image) for path, wanted in zip(linked, pictures, strict=True))


def test_paths_are_absolute_where_that_is_asked_for(outputs):
    export_kohya(outputs, hostile(outputs.root), absolute=True)
    assert all(path.is_file() for path, _, _ in fine_tuning(outputs.root, Path("/nowhere")))


@pytest.mark.parametrize(
    ("layers", "entry"),
    [
        ((), {}),
        ((Layer("caption", "a dog"),), {"caption": "a dog"}),
        ((Layer("tags", "dog"),), {"tags": "dog"}),
        ((Layer("caption", "a dog"), Layer("tags", "dog")), {"caption": "a dog", "tags": "dog"}),
        ((Layer("tags", "dog"), Layer("edited", "cat")), {"caption": "cat"}),
        (
            (Layer("caption", "a dog"), Layer("tags", "dog"), Layer("edited", "a cat")),
            {"caption": "a cat", "tags": "dog"},
        ),
    ],
)
def test_no_tag_is_told_twice_nor_after_it_was_edited_away(outputs, layers, entry):
    export_kohya(outputs, [Captioned("a.jpg", "images/a.jpg", 64, 48, layers)], layout=Layout.METADATA)
    read = json.loads((outputs.root / "kohya/meta_cap.json").read_text("utf-8"))
    assert read == {"images/a.jpg": entry | {"image_size": [64, 48]}}


def test_sizes_of_buckets_are_told_where_that_is_asked_for(outputs):
    export_kohya(outputs, [captioned("a.jpg", "x")], layout=Layout.METADATA, train_resolution=True)
    read = json.loads((outputs.root / "kohya/meta_cap.json").read_text("utf-8"))
    assert read["images/a.jpg"]["train_resolution"] == [12, 8]


def test_folders_of_pictures_become_concepts(outputs):
    names = ["cats/a.jpg", "cats/young/a.jpg", "cats/young_a.jpg", "dogs/a.jpg", "a.jpg", "x/images/a.jpg", "x/a.jpg"]
    pictures = [picture(outputs.root, name, Layer("caption", name)) for name in names]
    export_kohya(outputs, pictures, concept="other", repeats=2, by_folder=True)
    read = dreambooth(outputs.root / "kohya")
    assert {folder: sorted(text for _, text in rows) for folder, rows in read.items()} == {
        "2_cats": ["cats/a.jpg", "cats/young/a.jpg", "cats/young_a.jpg"],
        "2_dogs": ["dogs/a.jpg"],
        "2_other": ["a.jpg"],
        "2_x": ["x/a.jpg", "x/images/a.jpg"],
    }
    export_kohya(outputs, pictures, concept="all", repeats=2)
    flat = dreambooth(outputs.root / "kohya")
    assert sorted(text for _, text in flat["2_all"]) == sorted(names)
    assert list(flat) == ["2_all"]  # nothing of the other layout is trained on


def test_a_picture_without_text_takes_the_concept(outputs):
    export_kohya(outputs, [picture(outputs.root, "a.jpg"), picture(outputs.root, "b.jpg", Layer("caption", "a dog"))])
    assert dreambooth(outputs.root / "kohya") == {"1_pictures": [(1, "pictures"), (1, "a dog")]}


def test_edits_by_hand_are_kept_and_reported(outputs):
    pictures = [picture(outputs.root, "a.jpg", Layer("caption", "a dog"))]
    export_kohya(outputs, pictures, suffix=".caption")
    text = outputs.root / "kohya/1_pictures/a.caption"
    text.write_text("Rex")
    export_kohya(outputs, pictures, suffix=".caption")
    assert text.read_text() == "Rex"
    assert list(edited_sidecars(outputs)) == [("a.jpg", "Rex")]
    export_kohya(outputs, pictures, suffix=".caption", edits=Edits.OVERWRITE)
    assert text.read_text() == "a dog"


def test_two_pictures_never_share_a_text(outputs):
    pictures = [picture(outputs.root, name, Layer("caption", name)) for name in ("a.jpg", "a.png")]
    with pytest.raises(NameCollision, match=r"images/a\.jpg and images/a\.png would share kohya/1_pictures/a\.txt"):
        export_kohya(outputs, pictures)


def test_a_second_run_changes_nothing(outputs):
    pictures = hostile(outputs.root)
    export_kohya(outputs, pictures)
    before = {path: path.stat().st_mtime_ns for path in (outputs.root / "kohya").rglob("*")}
    export_kohya(outputs, pictures)
    assert {path: path.stat().st_mtime_ns for path in (outputs.root / "kohya").rglob("*")} == before


def test_no_pictures_make_an_empty_file(outputs):
    export_kohya(outputs, [])
    assert json.loads((outputs.root / "kohya/meta_cap.json").read_text()) == {}


@pytest.mark.parametrize("concept", ["", "a/b", "..", "c:", "a.", "a ", 'q"', "tab\t"])
def test_a_concept_is_the_name_of_a_folder(outputs, concept):
    with pytest.raises(UsageError, match="cannot be part of a folder's name"):
        export_kohya(outputs, [], concept=concept)


def test_limits(outputs):
    with pytest.raises(UsageError, match="1 or more, not 0"):
        export_kohya(outputs, [], repeats=0)
    with pytest.raises(UsageError, match="sidecars end in"):
        export_kohya(outputs, [], suffix="txt")
    with pytest.raises(OutputError, match=r"images/gone\.jpg is in captions\.jsonl"):
        export_kohya(outputs, [captioned("gone.jpg", "x")])
    assert files(outputs.root, below="kohya") == {}


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    assert growth(tmp_path, export_kohya) < 150_000  # 400 entries more are 260 kB; some of them wait to be written
