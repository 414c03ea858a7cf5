"""Captions changed in bulk: what is meant is changed, shown before, and taken back."""

import time
from pathlib import Path

import pytest

from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.errors import InputError, OutputError, UsageError
from lightmill.export.captions_file import FILE, Captioned, Layer, read_captions, write_captions
from lightmill.recipes.caption_edits import LONGEST, REGEX_LIMIT_S, Edits, edit_captions


def picture(key: str, *layers: tuple[str, str]) -> Captioned:
    return Captioned(key, f"images/{key}", 640, 480, tuple(Layer(name, text, {"by": "m"}) for name, text in layers))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    pictures = [
        picture("a.jpg", ("caption", "A red car, and a red bus."), ("tags", "car, Bus, red car")),
        picture("b.jpg", ("tags", "dog,grass , dog")),
        picture("c/IMG_1.jpg", ("existing", "old words"), ("edited", "a red wall")),
        picture("d.jpg"),
    ]
    write_captions(Outputs(tmp_path), pictures)
    return tmp_path


def texts(out: Path) -> dict[str, dict[str, str]]:
    return {one.key: {layer.name: layer.text for layer in one.layers} for one in read_captions(out / FILE)}


def test_text_is_changed_in_the_layer_that_trainers_are_given(out: Path) -> None:
    result = edit_captions(out, Edits(find="red", replace="blue"))
    found = texts(out)
    assert found["a.jpg"] == {"caption": "A blue car, and a blue bus.", "tags": "car, Bus, red car"}
    assert found["c/IMG_1.jpg"] == {"existing": "old words", "edited": "a blue wall"}
    assert found["b.jpg"] == {"tags": "dog,grass , dog"}  # not even its commas
    assert (result.changed, result.total, result.number) == (2, 4, 1)
    assert result.lines == [
        "a.jpg (caption)",
        "- A red car, and a red bus.",
        "+ A blue car, and a blue bus.",
        "c/IMG_1.jpg (edited)",
        "- a red wall",
        "+ a blue wall",
        "2 of 4 pictures changed",
    ]


def test_tags_are_changed_in_the_tags_of_captioned_pictures_and_in_the_text_of_others(out: Path) -> None:
    edit_captions(out, Edits(add_tags=["new, Dog"], remove_tags=["bus"]))
    assert texts(out) == {
        "a.jpg": {"caption": "A red car, and a red bus.", "tags": "car, red car, new, Dog"},
        "b.jpg": {"tags": "dog, grass, dog, new"},
        "c/IMG_1.jpg": {"existing": "old words", "edited": "a red wall, new, Dog"},
        "d.jpg": {"tags": "new, Dog"},
    }


@pytest.mark.parametrize(
    ("edits", "tags"),
    [
        (Edits(layer="tags", dedupe_tags=True), "dog, grass"),
        (Edits(layer="tags", sort_tags=True, dedupe_tags=True, add_tags=["Bee"]), "Bee, dog, grass"),
        (Edits(layer="tags", rename_tags=["DOG=wolf"]), "wolf, grass"),
        (Edits(layer="tags", rename_tags=["dog=a \\= b", "grass=lawn"]), "a = b, lawn"),
        (Edits(layer="tags", move_first=["grass"]), "grass, dog, dog"),
        (Edits(layer="tags", rename_tags=["dog=cat"], remove_tags=["dog"], move_first=["x, grass"]), "grass, cat"),
        (Edits(layer="tags", add_tags=[r"salt\, pepper"]), r"dog, grass, dog, salt\, pepper"),
        (Edits(layer="tags", set_text="x, y", prefix="ohwx,", suffix=", z", sort_tags=True), "ohwx, x, y, z"),
        (Edits(layer="tags", find=" ,", replace=","), "dog,grass, dog"),
        (Edits(layer="tags", find=r"(\w+),(\w+)", replace=r"\2,\g<1>", regex=True), "grass,dog , dog"),
        (Edits(layer="tags", find=r"dog$", replace="", regex=True), "dog,grass , "),
        (Edits(find="dog", replace="cat", where="name:b*"), "cat,grass , cat"),
        (Edits(find="dog", replace="cat", where="not tags:dog"), "dog,grass , dog"),
        (Edits(find="dog", replace="cat", where="tokens>75 or width>640"), "dog,grass , dog"),
    ],
)
def test_what_each_option_does(out: Path, edits: Edits, tags: str) -> None:
    edit_captions(out, edits)
    assert texts(out)["b.jpg"]["tags"] == tags


def test_prefix_and_suffix_are_not_put_there_twice(out: Path) -> None:
    edits = Edits(prefix="ohwx,", suffix=", film")
    assert edit_captions(out, edits).changed == 3  # d.jpg has no text to put them around
    assert texts(out)["b.jpg"]["tags"] == "ohwx, dog,grass , dog, film"
    assert edit_captions(out, edits).changed == 0


def test_all_captions_of_a_picture_are_changed(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture("a.jpg", ("caption", "red one"), ("caption", "red two"))])
    edit_captions(tmp_path, Edits(find="red", replace="blue"))
    (one,) = read_captions(tmp_path / FILE)
    assert [layer.text for layer in one.layers] == ["blue one", "blue two"]


def test_a_text_may_be_set_where_there_is_none(out: Path) -> None:
    edit_captions(out, Edits(set_text="a plain wall", where="key:d.jpg"))
    edit_captions(out, Edits(set_text="note", layer="notes", where="key:a.jpg"))
    assert texts(out)["d.jpg"] == {"edited": "a plain wall"}
    assert texts(out)["a.jpg"]["notes"] == "note"


def test_a_dry_run_shows_the_same_diff_and_touches_nothing(out: Path) -> None:
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    edits = Edits(find="red", replace="blue")
    called: list[Path] = []
    shown = edit_captions(out, edits, dry_run=True, export=called.append)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    assert not called
    assert shown.number is None
    done = edit_captions(out, edits, export=called.append)
    assert called == [out]
    assert shown.lines[:-1] == done.lines[:-1]
    assert shown.lines[-1] == "2 of 4 pictures would change"
    assert shown.changed == done.changed


def test_undo_and_redo_show_what_they_do(out: Path) -> None:
    before = (out / FILE).read_bytes()
    called: list[Path] = []
    edit_captions(out, Edits(find="red", replace="blue"))
    after = (out / FILE).read_bytes()
    dry = edit_captions(out, undo=True, dry_run=True, export=called.append)
    assert (out / FILE).read_bytes() == after
    assert not called
    undone = edit_captions(out, undo=True, export=called.append)
    assert (out / FILE).read_bytes() == before
    assert called == [out]
    assert undone.lines[:3] == ["a.jpg (caption)", "- A blue car, and a blue bus.", "+ A red car, and a red bus."]
    assert undone.lines[:-1] == dry.lines[:-1]
    assert (undone.lines[-1], dry.lines[-1]) == (
        "edit 1 is undone: 2 of 4 pictures",
        "edit 1 would be undone: 2 of 4 pictures",
    )
    assert edit_captions(out, redo=True).lines[-1] == "edit 1 is redone: 2 of 4 pictures"
    assert (out / FILE).read_bytes() == after


def test_undo_says_what_it_left_alone(out: Path) -> None:
    edit_captions(out, Edits(find="red", replace="blue"))
    write_captions(Outputs(out), [one for one in read_captions(out / FILE) if one.key != "a.jpg"])
    assert edit_captions(out, undo=True).lines[-2:] == [
        "edit 1 is undone: 1 of 3 pictures",
        "1 were left alone: they are gone, or have changed since",
    ]


def test_the_list_gives_every_edit_as_it_was_typed(out: Path) -> None:
    assert edit_captions(out, list_edits=True).lines == ["no edits yet"]
    edit_captions(out, Edits(find="red", replace="", where="tags:'red car' or key:c*"))
    edit_captions(out, Edits(rename_tags=["dog=big dog"], add_tags=["a", "b"], sort_tags=True, set_text="x"))
    edit_captions(out, undo=True)
    first, second = edit_captions(out, list_edits=True).lines
    assert first.split("pictures  ")[1] == """--where 'tags:'"'"'red car'"'"' or key:c*' --find red --replace ''"""
    assert second.split("pictures  ")[1] == (
        "--set x --rename-tag 'dog=big dog' --add-tag a --add-tag b --sort-tags  (undone)"
    )


def test_a_long_diff_is_cut_and_counted(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture(f"{i}.jpg", ("caption", "a")) for i in range(9)])
    result = edit_captions(tmp_path, Edits(set_text="b"), shown=2)
    assert result.lines[-2:] == ["… and 7 more pictures", "9 of 9 pictures changed"]
    assert result.lines.count("+ b") == 2


def test_nothing_in_a_caption_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture("a\x1b[2J.jpg", ("caption", "x\x1b[31m\ny"))])
    lines = edit_captions(tmp_path, Edits(find="y", replace="z\x07")).lines
    assert all(line.isprintable() for line in lines)
    assert lines[:5] == ["a\\x1b[2J.jpg (caption)", "- x\\x1b[31m", "- y", "+ x\\x1b[31m", "+ z\\x07"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (lambda: Edits(find=""), "--find: nothing to look for"),
        (lambda: Edits(find="a"), "--find needs --replace"),
        (lambda: Edits(replace="a"), "--replace and --regex need --find"),
        (lambda: Edits(regex=True), "--replace and --regex need --find"),
        (lambda: Edits(layer=" "), "--layer: the name is empty"),
        (lambda: Edits(find="a(b", replace="", regex=True), r"--find: missing \), .*column 2\)\n  a\(b\n   \^"),
        (lambda: Edits(find="a", replace=r"x\9", regex=True), r"--replace: invalid group reference 9 \(column 3\)"),
        (lambda: Edits(find="a", replace=r"\g<x>", regex=True), r"--replace: unknown group name 'x'"),
        (lambda: Edits(rename_tags=["dog"]), "--rename-tag 'dog': wanted OLD=NEW"),
        (lambda: Edits(rename_tags=["dog= "]), "wanted OLD=NEW"),
        (lambda: Edits(set_text="x", where="tag:dog"), r"--where: wanted one of tags, .*\n  tag:dog\n  \^"),
        (lambda: Edits(), "give one of: options that change captions"),
        (lambda: Edits(where="tags:dog"), "give one of: options that change captions"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_changes(out: Path, wanted: object, message: str) -> None:
    before = (out / FILE).read_bytes()
    with pytest.raises(UsageError, match=message):
        edit_captions(out, wanted())
    assert (out / FILE).read_bytes() == before


@pytest.mark.parametrize("both", [{"undo": True, "redo": True}, {"list_edits": True, "undo": True}])
def test_one_thing_at_a_time(out: Path, both: dict[str, bool]) -> None:
    with pytest.raises(UsageError, match="give one of"):
        edit_captions(out, **both)
    with pytest.raises(UsageError, match="give one of"):
        edit_captions(out, Edits(set_text="x"), undo=True)
    with pytest.raises(UsageError, match="--where goes with options that change"):
        edit_captions(out, Edits(where="tags:dog"), undo=True)
    with pytest.raises(UsageError, match="no edit to undo"):
        edit_captions(out, undo=True)
    with pytest.raises(UsageError, match="no undone edit to redo"):
        edit_captions(out, redo=True, dry_run=True)


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("tags:elephant", "; tags:elephant is compared whole, for a part of it: tags:*elephant*"),
        ("(name:IMG) and not tokens>75", "; name:IMG is compared whole, for a part of it: name:*IMG*"),
        ("""key='c/IM "G' """, """; key='c/IM "G' is compared whole, for a part of it: key:*c/IM??G*"""),
        ("name:elephant*", ""),
        ("tags:saber_(fate)", ""),
        ("caption:elephant", ""),
        ("width>9999", ""),
    ],
)
def test_a_filter_that_fits_nothing_says_so(out: Path, where: str, hint: str) -> None:
    result = edit_captions(out, Edits(set_text="x", where=where))
    assert result.lines == ["0 of 4 pictures changed", f"no picture is as --where says{hint}"]
    assert result.number is None


def test_the_filter_that_is_offered_finds_a_part(out: Path) -> None:
    missed = edit_captions(out, Edits(set_text="x", where="name:IMG")).lines[-1]
    assert edit_captions(out, Edits(set_text="x", where=missed.rpartition(" ")[2])).changed == 1


def test_a_pattern_that_never_ends_is_ended(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture("a.jpg", ("caption", "a" * 60 + "!"))])
    before, began = (tmp_path / FILE).read_bytes(), time.monotonic()
    with pytest.raises(UsageError, match=r"takes more than 2 s for one caption: \(a\+\)\+\$"):
        edit_captions(tmp_path, Edits(find="(a+)+$", replace="b", regex=True))
    assert time.monotonic() - began < REGEX_LIMIT_S + 20
    assert (tmp_path / FILE).read_bytes() == before
    assert edit_captions(tmp_path, Edits(find="a+", replace="b", regex=True)).changed == 1  # the lock was let go


def test_a_caption_does_not_grow_beyond_all_bounds(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture("a.jpg", ("caption", "a" * 2_000))])
    with pytest.raises(UsageError, match=f"more than {LONGEST} characters"):
        edit_captions(tmp_path, Edits(find="a|", replace="b" * 1_000, regex=True))


def test_a_pattern_that_meets_odd_texts_gives_what_re_gives(tmp_path: Path) -> None:
    import re

    odd = ['"quoted"\nline\u2028end', "é🙂 \\1", "", "tab\there"]
    write_captions(Outputs(tmp_path), [picture(f"{i}.jpg", ("caption", text)) for i, text in enumerate(odd)])
    edit_captions(tmp_path, Edits(find=r"(\w)(x)?|$", replace=r"[\1\2\\]\n", regex=True))
    found = [one.layers[0].text for one in read_captions(tmp_path / FILE)]
    assert found == [re.sub(r"(\w)(x)?|$", r"[\1\2\\]\n", text) for text in odd]


def test_no_edit_without_captions_or_while_a_run_is_at_work(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no captions\.jsonl"):
        edit_captions(tmp_path / "empty", Edits(set_text="x"))
    with RunLock(out / ".lightmill"), pytest.raises(OutputError, match="another run is already at work"):
        edit_captions(out, Edits(set_text="x"))
