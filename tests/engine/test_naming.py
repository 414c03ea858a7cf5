"""Output names come from keys, lead nowhere else, and never meet."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.engine.naming import MAX_NAME_BYTES, Naming, fitted, plan_names
from lightmill.errors import NameCollision


def names(keys, naming=Naming.KEY):
    name_of = plan_names(keys, naming)
    return [name_of(key, number) for number, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a.jpg", "zub/c3.png"], ["a", "zub/c3"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),  # the suffix only where it tells two apart
        (["clip.mp4#00012.400"], ["clip_00012_400"]),  # no dot: some readers cut a name at its first dot
        (["twice.jpg", "twice.jpg#2"], ["twice", "twice#2"]),
        (["../../up.jpg", "/abs/x.jpg", "C:/drive.jpg"], ["up", "abs/x", "C_/drive"]),
        (["dots.in.the.name.jpg"], ["dots.in.the.name"]),
        (["new\nline.jpg", "back\\slash.jpg"], ["new_line", "back_slash"]),
        (["{name}{part}.jpg", "%s%d.jpg", "$HOME`id`.jpg"], ["{name}{part}", "%s%d", "$HOME`id`"]),
    ],
)
def test_names_from_keys(keys, expected):
    assert names(keys) == expected


def test_stem_drops_folders_and_index_counts():
    assert names(["one/a.jpg", "two/b.jpg"], Naming.STEM) == ["a", "b"]
    assert names(["a.jpg", "a.png"], Naming.INDEX) == ["00000", "00001"]


@pytest.mark.parametrize(
    ("keys", "naming"),
    [
        (["one/a.jpg", "two/a.jpg"], Naming.STEM),
        (["Scene.jpg", "scene.jpg"], Naming.KEY),
        ([unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")], Naming.KEY),
        (["a.jpg", "a.png", "a.jpg.png"], Naming.KEY),
        (["back\\slash.jpg", "back_slash.jpg"], Naming.KEY),
    ],
)
def test_keys_that_would_share_a_name_are_refused_naming_both_and_index_always_works(keys, naming):
    with pytest.raises(NameCollision, match=r"would both be written as .*--naming index") as caught:
        names(keys, naming)
    said = str(caught.value)
    assert sum(unicodedata.normalize("NFC", key) in unicodedata.normalize("NFC", said) for key in keys) >= 2
    assert len(set(names(keys, Naming.INDEX))) == len(keys)


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8, unique=True))
def test_no_key_leads_out_of_its_folder_and_no_two_meet(keys):
    try:
        found = names(keys)
    except NameCollision:
        return
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in found}) == len(keys)
    for name in found:
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not any(letter in name for letter in "\0\n\r\t\\")


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=400))
def test_names_are_cut_to_what_file_systems_take_and_stay_apart(name):
    first, second = fitted(f"images/{name}_cam00.jpg"), fitted(f"images/{name}x_cam00.jpg")
    for path in (first, second):
        assert len(path.split("/")[1].encode()) <= MAX_NAME_BYTES
        assert path.endswith("_cam00.jpg")
    assert first != second
