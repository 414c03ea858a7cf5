"""The folder for ai-toolkit, read as ai-toolkit reads it (its rules, written anew)."""

import os
from pathlib import Path

import pytest
import yaml
from tests.export.gallery import TEXTS, files, growth, hostile, picture

from lightmill.engine.outputs import Outputs
from lightmill.errors import NameCollision, UsageError
from lightmill.export.aitoolkit import export_aitoolkit
from lightmill.export.captions_file import Layer
from lightmill.export.sidecar import edited_sidecars


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out, of \"odd\" 'names' ü")


def read_back(outputs: Outputs) -> dict[str, str]:
    """Path of a picture -> its text: every folder but `_controls`, no dot files, line ends and commas alike."""
    (dataset,) = yaml.safe_load((outputs.root / "aitoolkit/config.yaml").read_text("utf-8"))["datasets"]
    found = {}
    for folder, _, names in os.walk(dataset["folder_path"]):
        for name in sorted(names):
            stem, suffix = os.path.splitext(os.path.join(folder, name))
            hidden = name.startswith(".") or os.path.basename(folder) == "_controls"
            if suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"} or hidden:
                continue
            text = Path(f"{stem}.{dataset['caption_ext']}")
            words = text.read_text("utf-8").replace("\n", ", ").split(",") if text.exists() else []
            found[os.path.join(folder, name)] = ", ".join(filter(None, map(str.strip, words)))
    return found


def words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def test_every_picture_has_its_words(outputs):
    pictures = hostile(outputs.root)
    made = export_aitoolkit(outputs, iter(pictures), trigger="p3r5on")
    assert made == ["aitoolkit/config.yaml", "aitoolkit/images/"]
    read = read_back(outputs)
    assert sorted(map(words, read.values())) == sorted(map(words, TEXTS.values()))
    assert read[str(outputs.root / "aitoolkit/images/lines.png")] == "First line. Second, after a gap. Third fourth"
    for wanted in pictures:
        assert (outputs.root / "aitoolkit" / wanted.image).samefile(outputs.root / wanted.image)


@pytest.mark.parametrize("trigger", ["p3r5on", "yes", "a: b #c", '"quoted"', "日本 👩", "1e3"])
def test_the_config_says_all_the_trainer_asks_for(outputs, trigger):
    export_aitoolkit(outputs, [], trigger=trigger, resolutions=(768,), caption_dropout=0.1, suffix=".caption")
    text = (outputs.root / "aitoolkit/config.yaml").read_text("utf-8")
    assert yaml.safe_load(text) == {
        "trigger_word": trigger,
        "datasets": [
            {
                "folder_path": str(outputs.root / "aitoolkit/images"),
                "caption_ext": "caption",
                "caption_dropout_rate": 0.1,
                "shuffle_tokens": False,
                "cache_latents_to_disk": True,
                "resolution": [768],
            }
        ],
    }


def test_no_trigger_word_is_no_line(outputs):
    export_aitoolkit(outputs, [])
    assert list(yaml.safe_load((outputs.root / "aitoolkit/config.yaml").read_text("utf-8"))) == ["datasets"]


def test_pictures_that_the_trainer_would_pass_over_are_found(outputs):
    names = ["sub/deep/a.jpg", "_controls/b.jpg", ".c.jpg", "sub/.d.e.jpg"]
    pictures = [picture(outputs.root, name, Layer("caption", f"text of {name}")) for name in names]
    export_aitoolkit(outputs, pictures)
    assert sorted(read_back(outputs).values()) == sorted(f"text of {name}" for name in names)


def test_edits_by_hand_survive_and_left_overs_go(outputs):
    pictures = [picture(outputs.root, f"{name}.jpg", Layer("caption", name)) for name in "abc"]
    export_aitoolkit(outputs, pictures)
    text = outputs.root / "aitoolkit/images/a.txt"
    text.write_text("mine")
    export_aitoolkit(outputs, pictures[:2])
    assert list(edited_sidecars(outputs)) == [("a.jpg", "mine")]
    names = ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    assert sorted(files(outputs.root, below="aitoolkit/images")) == [f"aitoolkit/images/{name}" for name in names]


def test_a_second_run_changes_nothing(outputs):
    pictures = hostile(outputs.root)
    export_aitoolkit(outputs, pictures)
    before = {path: path.stat().st_mtime_ns for path in outputs.root.rglob("aitoolkit/**/*")}
    export_aitoolkit(outputs, pictures)
    assert {path: path.stat().st_mtime_ns for path in outputs.root.rglob("aitoolkit/**/*")} == before


def test_what_cannot_be_is_refused(outputs):
    with pytest.raises(UsageError, match="sidecars end in"):
        export_aitoolkit(outputs, [], suffix=".json")
    pictures = [picture(outputs.root, name, Layer("caption", name)) for name in ("a.jpg", "a.png")]
    with pytest.raises(NameCollision, match=r"would share aitoolkit/images/a\.txt"):
        export_aitoolkit(outputs, pictures)


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    assert growth(tmp_path, export_aitoolkit) < 60_000
