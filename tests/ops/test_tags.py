"""Tags survive being written and read, and nothing that is done with them loses one or doubles one."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.ops.tags import (
    add_tags,
    count_tags,
    dedupe_tags,
    join_tags,
    move_first,
    move_last,
    remove_tags,
    rename_tag,
    same_tag,
    sort_by_frequency,
    sort_tags,
    split_tags,
)

ANY_TAG = st.text(alphabet="ab \\,(\n🙂é", min_size=1).map(str.strip).filter(bool)
TAGS = st.lists(st.sampled_from(["cat", "Cat", "CAT", "dog", "red car", "salt, pepper", "ÉTÉ", "été"]))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", []),
        (" , ,, ", []),
        ("cat", ["cat"]),
        ("cat,dog , red  car", ["cat", "dog", "red  car"]),
        (r"salt\, pepper, cat", ["salt, pepper", "cat"]),
        (r"saber \(fate\), cat", [r"saber \(fate\)", "cat"]),  # as taggers write brackets
        (r"c:\\, cat", ["c:\\", "cat"]),
        ("cat\\", ["cat\\"]),
        ("a\n, b", ["a", "b"]),
    ],
)
def test_a_text_is_split_at_commas_that_are_not_escaped(text: str, tags: list[str]) -> None:
    assert split_tags(text) == tags


@given(st.lists(ANY_TAG))
def test_what_is_joined_is_split_into_the_same_tags(tags: list[str]) -> None:
    assert split_tags(join_tags(tags)) == tags


@given(st.text(alphabet="ab ,\\"))
def test_writing_tags_again_changes_nothing_more(text: str) -> None:
    once = join_tags(split_tags(text))
    assert join_tags(split_tags(once)) == once


@given(TAGS)
def test_a_tag_stands_once_and_first_come_is_kept(tags: list[str]) -> None:
    kept = dedupe_tags(tags)
    expected: list[str] = []  # the definition, written as a loop
    for tag in tags:
        if not any(tag.casefold() == other.casefold() for other in expected):
            expected.append(tag)
    assert kept == expected
    assert dedupe_tags(kept) == kept


@given(TAGS, TAGS, st.booleans())
def test_added_tags_are_there_and_the_others_stay_as_they_were(tags: list[str], new: list[str], first: bool) -> None:
    added = add_tags(tags, new, first=first)
    assert {*map(same_tag, tags), *map(same_tag, new)} == set(map(same_tag, added))
    assert (added[len(added) - len(tags) :] if first else added[: len(tags)]) == tags
    assert add_tags(added, new, first=first) == added


@given(TAGS, TAGS)
def test_removed_tags_are_gone_and_the_others_keep_their_order(tags: list[str], unwanted: list[str]) -> None:
    left = remove_tags(tags, unwanted)
    assert not set(map(str.casefold, left)) & set(map(str.casefold, unwanted))
    iterator = iter(tags)
    assert all(tag in iterator for tag in left)  # a subsequence
    assert remove_tags(left, unwanted) == left


@given(TAGS, st.sampled_from(["cat", "dog", "fox"]), st.sampled_from(["cat", "CAT", "fox", "red car"]))
def test_a_renamed_tag_stands_once(tags: list[str], old: str, new: str) -> None:
    renamed = rename_tag(tags, old, new)
    if same_tag(old) not in map(same_tag, tags):
        assert renamed == tags
        return
    assert renamed.count(new) == 1
    both = {same_tag(old), same_tag(new)}
    assert [t for t in renamed if t != new] == [t for t in tags if same_tag(t) not in both]
    assert rename_tag(renamed, old, new) == renamed


def test_a_tag_may_be_renamed_to_its_own_other_case() -> None:
    assert rename_tag(["a", "cat", "CAT"], "cat", "Cat") == ["a", "Cat"]


@given(TAGS, TAGS)
def test_moving_and_sorting_keep_every_tag(tags: list[str], wanted: list[str]) -> None:
    counts = count_tags([tags])
    moved = (move_first(tags, wanted), move_last(tags, wanted), sort_tags(tags), sort_by_frequency(tags, counts))
    for result in moved:
        assert Counter(result) == Counter(tags)
    assert move_first(moved[0], wanted) == moved[0]
    assert move_last(moved[1], wanted) == moved[1]
    assert sort_tags(moved[2]) == moved[2]


def test_moved_tags_stand_in_the_order_of_the_wish() -> None:
    assert move_first(["a", "b", "C", "d"], ["c", "x", "b"]) == ["C", "b", "a", "d"]
    assert move_last(["a", "b", "C", "d"], ["c", "a"]) == ["b", "d", "C", "a"]


def test_frequency_counts_pictures_not_occurrences() -> None:
    counts = count_tags([["cat", "Cat", "cat"], ["dog"], ["DOG", "sky"]])
    assert counts == {"cat": 1, "dog": 2, "sky": 1}
    assert sort_by_frequency(["cat", "sky", "Dog", "new"], counts) == ["Dog", "cat", "sky", "new"]
