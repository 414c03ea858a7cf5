"""Names, order, keys and the reading of files."""

import os
import pickle
from functools import cmp_to_key
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import SourceError
from lightmill.sources import files

NAMES = st.text(st.sampled_from("aAbB0019 ._-é日"), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def pieces(name: str) -> list[tuple[int, int, str]]:
    """A name as numbers and letters, written without any of ours: digits stand where "0" stands among letters."""
    found: list[tuple[int, int, str]] = []
    for is_number, letters in groupby(name.casefold(), key=lambda letter: letter in "0123456789"):
        text = "".join(letters)
        found += [(ord("0"), int(text), "")] if is_number else [(ord(letter), 0, letter) for letter in text]
    return found


def compare(one: str, other: str) -> int:
    """Folder by folder: by value, then by exact name; a path that ends first comes first."""
    for mine, theirs in zip(one.split("/"), other.split("/"), strict=False):
        first, second = (pieces(mine), mine), (pieces(theirs), theirs)
        if first != second:
            return -1 if first < second else 1
    return one.count("/") - other.count("/")


@given(st.lists(PATHS, max_size=12))
def test_natural_order_is_that_of_the_definition(paths: list[str]) -> None:
    assert sorted(paths, key=files.natural_key) == sorted(paths, key=cmp_to_key(compare))


@given(st.sets(PATHS, min_size=2))
def test_natural_keys_tell_all_paths_apart(paths: set[str]) -> None:
    assert len({files.natural_key(path) for path in paths}) == len(paths)


def test_numbers_count_by_value() -> None:
    expected = ["frame2.jpg", "Frame9.jpg", "frame010.jpg", "frame10.jpg", "frame99999999999999999999999.jpg"]
    shuffled = [expected[place] for place in (3, 4, 0, 2, 1)]
    assert sorted(shuffled, key=files.natural_key) == expected


@pytest.mark.parametrize("name", [".a.jpg", "._a.jpg", "__MACOSX", "Thumbs.db", "DESKTOP.INI", ".DS_Store"])
def test_leftovers_are_ignored(name: str) -> None:
    assert files.is_ignored(name)


@pytest.mark.parametrize("name", ["..", ".", "a.jpg", "_a.jpg", "thumbs.jpg"])
def test_other_names_are_not(name: str) -> None:
    assert not files.is_ignored(name)


def test_suffixes() -> None:
    assert [files.suffix_of(name) for name in ("a.JPG", "a.b.Png", "jpg", "a.")] == ["jpg", "png", "", ""]


def test_names_that_are_not_utf8_get_keys_of_their_own() -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    assert files.odd_keys(["a.jpg", "é.jpg"]) == {}
    assert files.odd_keys(["a.jpg", odd]) == {odd: "caf\\xe9.jpg"}
    assert files.odd_keys([odd, "caf\\xe9.jpg"]) == {odd: "caf\\xe9.jpg#2"}


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    ref = pickle.loads(pickle.dumps(files.FileRef(str(tmp_path / "a.jpg"), "a.jpg")))
    assert ref.read() == b"abc"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").touch()
    for name, listed, why in (
        ("dangling.jpg", True, "cannot read dangling.jpg: it is a broken link, to nowhere.jpg"),
        ("self.jpg", True, "is a link that leads to itself"),
        ("folder.jpg", True, "it is a folder"),
        ("pipe.jpg", True, "it is no ordinary file"),
        ("gone.jpg", True, "it has vanished since it was listed"),
        ("gone.jpg", False, f"there is no such file: {tmp_path}/gone.jpg"),
        ("sub\\a.jpg", False, r"there is one when \\ is written as /"),
        ("https://a.b/c.jpg", False, "web addresses are not fetched"),
        ("nul\0.jpg", True, "this is no file name"),
        ("x" * 300, True, "its name is too long"),
    ):
        with pytest.raises(SourceError, match=why):
            files.FileRef(f"{tmp_path}/{name}", name, listed).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed.jpg").touch(0)
    with pytest.raises(SourceError, match=r"cannot read closed.jpg: permission denied"):
        files.FileRef(str(tmp_path / "closed.jpg"), "closed.jpg").read()


def test_a_file_too_large_for_a_picture(tmp_path: Path) -> None:
    with open(tmp_path / "large.tif", "wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(SourceError, match=r"large.tif has 4.0 GiB, more than the 4 GiB"):
        files.FileRef(str(tmp_path / "large.tif"), "large.tif").read()
