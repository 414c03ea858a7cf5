r"""Tags as trainers write them: one text, separated by commas; and what people do with them in bulk.

A comma inside a tag is written `\,`. Only backslashes that stand right before a comma, or at the very end, mean
anything: there two make one, so that every tag can be written and read back. Elsewhere, as in `cat \(animal\)`, they
are plain characters.

Everything takes tags in order and gives a new list; tags that differ only by case (or by Unicode form) are the same
tag, and the one that stands first keeps its spelling.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_PART = re.compile(r"(?<!\\)(\\*)(,|\Z)")  # a run of backslashes is looked at once, however long it is


def split_tags(text: str) -> list[str]:
    r"""The tags of a text, without the space around them; empty ones are none.

    >>> split_tags(r"cat, red  car, , salt\, pepper, cat \(animal\)")
    ['cat', 'red  car', 'salt, pepper', 'cat \\(animal\\)']
    """
    tags, held, begin = [], "", 0
    for part in _PART.finditer(text):
        slashes, end = part.groups()
        held += text[begin : part.start()] + "\\" * (len(slashes) // 2)
        begin = part.end()
        if len(slashes) % 2:
            held += end or "\\"
            if end:
                continue
        tags.append(held.strip())
        held = ""
    return [tag for tag in tags if tag]


def join_tags(tags: Iterable[str]) -> str:
    r"""One text that `split_tags` reads back as the same tags, where they have no space around them.

    >>> join_tags(["cat", "salt, pepper"])
    'cat, salt\\, pepper'
    """
    return ", ".join(_PART.sub(_escaped, tag) for tag in tags)


def _escaped(part: re.Match[str]) -> str:
    slashes, end = part.groups()
    return slashes * 2 + ("\\," if end else "")


def same_tag(tag: str) -> str:
    """What all spellings of a tag have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", tag).casefold())


def add_tags(tags: Sequence[str], new: Iterable[str], *, first: bool = False) -> list[str]:
    """The tags with those that they lack behind them (or before them), in the order given."""
    have = {same_tag(tag) for tag in tags}
    lacking = dedupe_tags(tag for tag in new if same_tag(tag) not in have)
    return [*lacking, *tags] if first else [*tags, *lacking]


def remove_tags(tags: Iterable[str], unwanted: Iterable[str]) -> list[str]:
    """The tags without those."""
    dropped = {same_tag(tag) for tag in unwanted}
    return [tag for tag in tags if same_tag(tag) not in dropped]


def rename_tag(tags: Sequence[str], old: str, new: str) -> list[str]:
    """`new` in the place of `old`. Where both are there the tag stands once, in the first of the two places.

    >>> rename_tag(["kitten", "grass", "cat"], "kitten", "cat")
    ['cat', 'grass']
    """
    if same_tag(old) not in map(same_tag, tags):
        return list(tags)
    both = {same_tag(old), same_tag(new)}
    place = next(i for i, tag in enumerate(tags) if same_tag(tag) in both)
    return [*tags[:place], new, *(tag for tag in tags[place:] if same_tag(tag) not in both)]


def move_first(tags: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted tags that are there come first, in the order in which they are wanted."""
    moved = _found(tags, wanted)
    return [*moved, *remove_tags(tags, moved)]


def move_last(tags: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted tags that are there come last, in the order in which they are wanted."""
    moved = _found(tags, wanted)
    return [*remove_tags(tags, moved), *moved]


def sort_tags(tags: Iterable[str]) -> list[str]:
    """By the alphabet, whatever the case; equal ones keep their order."""
    return sorted(tags, key=same_tag)


def sort_by_frequency(tags: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    """The most frequent first, by what `count_tags` says; equally frequent ones keep their order."""
    return sorted(tags, key=lambda tag: -counts.get(same_tag(tag), 0))


def dedupe_tags(tags: Iterable[str]) -> list[str]:
    """Every tag once, where it stands first.

    >>> dedupe_tags(["Cat", "grass", "cat"])
    ['Cat', 'grass']
    """
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(same_tag(tag), tag)
    return list(first.values())


def count_tags(pictures: Iterable[Iterable[str]]) -> Counter[str]:
    """In how many pictures each tag is, by `same_tag`."""
    return Counter(tag for tags in pictures for tag in {same_tag(tag) for tag in tags})


def _found(tags: Sequence[str], wanted: Iterable[str]) -> list[str]:
    """Of the tags those that are wanted, in the order of the wish; a tag that is there twice is moved twice."""
    by_wish: dict[str, list[str]] = {same_tag(tag): [] for tag in wanted}
    for tag in tags:
        if same_tag(tag) in by_wish:
            by_wish[same_tag(tag)].append(tag)
    return [tag for found in by_wish.values() for tag in found]
