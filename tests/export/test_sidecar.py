"""Sidecars, and that what people do to them by hand is never lost."""

import os
from pathlib import Path

import pytest
from tests.export.gallery import TEXTS, captioned, files, growth, hostile

from lightmill.engine.outputs import Outputs
from lightmill.errors import NameCollision, OutputError, UsageError
from lightmill.export.captioned import MEMORY, in_pieces, inside, read_text, record
from lightmill.export.captions_file import Captioned, Layer
from lightmill.export.sidecar import Edits, appended, edited_sidecars, export_sidecar


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path)


def test_every_text_stands_beside_its_picture_to_the_letter(outputs):
    pictures = hostile(outputs.root)
    assert export_sidecar(outputs, iter(pictures)) == ["images/"]
    for name, text in TEXTS.items():
        assert (outputs.root / f"images/{name}.txt").read_bytes() == text.encode()


def test_a_single_line_keeps_all_words(outputs):
    export_sidecar(outputs, hostile(outputs.root), suffix=".caption", single_line=True)
    for name, text in TEXTS.items():
        written = (outputs.root / f"images/{name}.caption").read_bytes().decode()
        assert len(written.splitlines()) == 1
        assert written.split() == text.split()


def test_a_second_run_writes_nothing(outputs):
    pictures = hostile(outputs.root)
    export_sidecar(outputs, pictures)
    before = {path: os.stat(path).st_mtime_ns for path in outputs.root.glob("images/*")}
    export_sidecar(Outputs(outputs.root), pictures)
    assert {path: os.stat(path).st_mtime_ns for path in outputs.root.glob("images/*")} == before


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("A.jpg", "a.png"), ("sub/é.jpg", "sub/e\u0301.webp")])
def test_two_pictures_never_share_a_text(outputs, names):
    pictures = [captioned(name, "a dog") for name in names]
    with pytest.raises(NameCollision, match=r"images/.+ and images/.+ would share images/.+\.txt") as caught:
        export_sidecar(outputs, pictures)
    assert all(picture.image in str(caught.value) for picture in pictures)


def test_not_even_where_one_of_them_has_none(outputs):
    with pytest.raises(NameCollision, match=r"images/a\.png and images/a\.jpg would share images/a\.txt"):
        export_sidecar(outputs, [captioned("a.png", ""), captioned("a.jpg", "a dog")])


def test_a_picture_without_text_has_no_file(outputs):
    export_sidecar(outputs, [Captioned("a.jpg", "images/a.jpg", 1, 1), captioned("b.jpg", "")])
    assert files(outputs.root) == {}


def test_the_order_of_layers_decides_which_text(outputs):
    layers = (Layer("tags", "dog"), Layer("caption", "a dog"), Layer("existing", "old"))
    picture = Captioned("a.jpg", "images/a.jpg", 1, 1, layers)
    export_sidecar(outputs, [picture])
    assert files(outputs.root) == {"images/a.txt": b"a dog"}
    export_sidecar(outputs, [picture], order=("existing", "caption"))
    assert files(outputs.root) == {"images/a.txt": b"old"}


# --- by hand ---------------------------------------------------------------------------------------------------------


def edit(outputs: Outputs, text: str | bytes, *, name: str = "a.txt") -> None:
    (outputs.root / "images" / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def says(outputs: Outputs, *, name: str = "a.txt") -> str:
    return (outputs.root / "images" / name).read_text("utf-8")


def test_an_edited_text_is_kept_and_reported_until_it_is_taken_back(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog"), captioned("b.jpg", "a cat")])
    assert list(edited_sidecars(outputs)) == []
    edit(outputs, "my dog Rex\n")
    for new in ("a hound", "a wolf"):
        export_sidecar(outputs, [captioned("a.jpg", new), captioned("b.jpg", new)])
        assert says(outputs) == "my dog Rex\n"
        assert says(outputs, name="b.txt") == new
        assert list(edited_sidecars(outputs)) == [("a.jpg", "my dog Rex")]
    taken = Captioned("a.jpg", "images/a.jpg", 1, 1, (Layer("caption", "a wolf"), Layer("edited", "my dog Rex")))
    export_sidecar(outputs, [taken])
    assert list(edited_sidecars(outputs)) == []
    assert says(outputs) == "my dog Rex\n"  # the same words: not touched


def test_an_edited_text_is_replaced_where_that_is_asked_for(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    edit(outputs, "my dog")
    export_sidecar(outputs, [captioned("a.jpg", "")], edits=Edits.OVERWRITE)
    assert says(outputs) == "my dog"  # by no text at all it is not
    export_sidecar(outputs, [captioned("a.jpg", "a hound")], edits=Edits.OVERWRITE)
    assert says(outputs) == "a hound"
    assert list(edited_sidecars(outputs)) == []


def test_the_new_text_is_added_once(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    edit(outputs, "Rex runs.")
    for _ in range(3):
        export_sidecar(outputs, [captioned("a.jpg", "a hound on grass")], edits=Edits.APPEND)
        assert says(outputs) == "Rex runs. a hound on grass"
    export_sidecar(outputs, [captioned("a.jpg", "a wolf")])
    assert says(outputs) == "Rex runs. a hound on grass"  # still the user's


def test_a_file_that_was_there_before_is_the_users(outputs):
    (outputs.root / "images").mkdir()
    edit(outputs, "from my own folder")
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    assert says(outputs) == "from my own folder"
    assert list(edited_sidecars(outputs)) == [("a.jpg", "from my own folder")]


@pytest.mark.parametrize(
    "saved",
    ["a dog\nruns\n", "a dog\r\nruns\r\n", "\ufeffa dog\nruns", "a dog\nruns".encode("utf-16"), "a dog\nruns  "],
)
def test_an_editors_habits_are_no_edit(outputs, saved):
    export_sidecar(outputs, [captioned("a.jpg", "a dog\nruns")])
    edit(outputs, saved)
    assert list(edited_sidecars(outputs)) == []
    export_sidecar(outputs, [captioned("a.jpg", "a hound")])
    assert says(outputs) == "a hound"


def test_letters_of_windows_are_read(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    edit(outputs, "un café “chaud”".encode("cp1252"))
    assert list(edited_sidecars(outputs)) == [("a.jpg", "un café “chaud”")]
    edit(outputs, b"caf\xe9 \x81")  # not even those
    assert read_text(outputs, "images/a.txt") == "café \x81"


def test_going_back_to_an_older_text_by_hand_is_an_edit(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "first")])
    export_sidecar(outputs, [captioned("a.jpg", "second")])
    edit(outputs, "first")
    export_sidecar(outputs, [captioned("a.jpg", "third")])
    assert says(outputs) == "first"


def test_a_removed_text_is_written_again_and_an_emptied_one_is_an_edit(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog"), captioned("b.jpg", "a cat")])
    (outputs.root / "images/a.txt").unlink()
    edit(outputs, "", name="b.txt")
    assert list(edited_sidecars(outputs)) == [("b.jpg", "")]
    export_sidecar(outputs, [captioned("a.jpg", "a dog"), captioned("b.jpg", "a cat")])
    assert files(outputs.root) == {"images/a.txt": b"a dog", "images/b.txt": b""}


class Killed(Outputs):
    """A run that dies at its first text, just before or just after the new text is there."""

    late = False

    def write(self, path: str, data: bytes) -> int:
        if self.late:
            super().write(path, data)
        raise KeyboardInterrupt


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_around_the_write_makes_no_edit_of_it(outputs, late):
    export_sidecar(outputs, [captioned("a.jpg", "first")])
    killed = Killed(outputs.root)
    killed.late = late
    with pytest.raises(KeyboardInterrupt):
        export_sidecar(killed, [captioned("a.jpg", "second")])
    assert says(outputs) == ("second" if late else "first")
    assert list(edited_sidecars(outputs)) == []
    export_sidecar(outputs, [captioned("a.jpg", "third")])
    assert says(outputs) == "third"


def test_what_is_left_over_goes_unless_it_was_edited(outputs):
    (outputs.root / "images").mkdir()
    (outputs.root / "images/notes.txt").write_text("the user's own")
    export_sidecar(outputs, [captioned(f"{name}.jpg", name) for name in "abc"])
    edit(outputs, "mine", name="b.txt")
    export_sidecar(outputs, [captioned("c.jpg", "c")])
    assert files(outputs.root) == {"images/b.txt": b"mine", "images/c.txt": b"c", "images/notes.txt": b"the user's own"}


def test_another_suffix_leaves_no_second_set(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    export_sidecar(outputs, [captioned("a.jpg", "a dog")], suffix=".caption")
    assert files(outputs.root) == {"images/a.caption": b"a dog"}


def test_an_export_that_fails_removes_nothing(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a"), captioned("b.jpg", "b")])
    with pytest.raises(NameCollision, match="would share"):
        export_sidecar(outputs, [captioned("b.jpg", "b"), captioned("b.png", "b")])
    assert files(outputs.root) == {"images/a.txt": b"a", "images/b.txt": b"b"}


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        "../a.jpg",
        "/etc/passwd",
        "images/../../a.jpg",
        "images//a.jpg",
        "C:/a.jpg",
        "images\\a.jpg",
        ".lightmill/x",
        "a\0b",
    ],
)
def test_nothing_leads_out_of_out(outputs, image):
    with pytest.raises(OutputError, match="not a path inside OUT"):
        inside(image)
    with pytest.raises(OutputError, match="not a path inside OUT"):
        export_sidecar(outputs, [Captioned("k", image, 1, 1, (Layer("caption", "x"),))])
    assert files(outputs.root) == {}


def test_a_damaged_memory_says_what_to_do(outputs):
    export_sidecar(outputs, [captioned("a.jpg", "a dog")])
    (outputs.root / MEMORY).write_bytes(b"this is no database" * 100)
    with pytest.raises(OutputError, match=r"exports\.db cannot be used.*remove it"):
        export_sidecar(outputs, [captioned("a.jpg", "a dog")])


def test_other_suffixes_are_refused(outputs):
    with pytest.raises(UsageError, match=r"\.txt or \.caption, not in '\.md'"):
        export_sidecar(outputs, [], suffix=".md")


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    assert growth(tmp_path, export_sidecar) < 60_000  # 400 pictures more; their texts alone are 240 kB


def test_a_record_has_all_layers_in_columns_of_their_own():
    layers = (Layer("caption", "one", {"seed": 1}), Layer("caption", "two"), Layer("edited", "mine"))
    row = record(Captioned("k", "images/k.jpg", 3, 2, layers), columns=("caption", "caption_2", "tags"))
    assert row == {
        "key": "k",
        "image": "images/k.jpg",
        "text": "mine",
        "caption": "one",
        "caption_2": "two",
        "tags": "",
        "width": 3,
        "height": 2,
        "origin": '[{"layer": "caption", "seed": 1}, {"layer": "caption"}, {"layer": "edited"}]',
    }


def test_half_a_letter_stops_nothing():
    assert b"".join(in_pieces(["a \ud83d b"])) == b"a ? b"


@pytest.mark.parametrize(
    ("found", "text", "both"), [("", "b", "b"), ("a,", "b", "a, b"), ("a", "b", "a, b"), ("A!", "B.", "A! B.")]
)
def test_texts_are_joined_as_they_are_written(found, text, both):
    assert appended(found, text) == both
