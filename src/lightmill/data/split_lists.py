"""Official splits: the names that people give them, and lists of pictures (train.txt, val.txt)."""

import os
import re
from collections.abc import Iterator

from lightmill.data.listing import Listing, Stamp, note_folder, stamp_of
from lightmill.data.problems import Problem, said
from lightmill.data.rows import Rows
from lightmill.engine.wording import count_of
from lightmill.sources import files

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FOLDERS = ("", "splits", "ImageSets", "ImageSets/Segmentation")
_AMBIGUOUS = -1
_SHOWN = 5


def official(name: str) -> str:
    """`train`, `val` or `test` for a name that means one of them, else "".

    >>> official("valid"), official("Training"), official("train2017"), official("trainer")
    ('val', 'train', 'train', '')
    """
    return _NAMES.get(re.sub(r"[\W\d_]+$", "", name.lower()), "")


def apply_lists(listing: Listing, rows: Rows, sources: dict[str, Stamp]) -> list[str]:
    """Writes the splits of lists into `rows`, and the lists into `sources`; returns remarks.

    A line names a picture by its path or the end of it, with or without suffix. A picture that two splits claim has a
    problem: nobody knows whether it may be trained on.
    """
    lists = list(_lists(listing))
    if not lists:
        return []
    places, remarks = _places(rows.images), []
    for path, split in lists:
        full = os.path.join(listing.root, path)
        sources[path] = stamp_of(full)
        unknown = [line for line in _lines(full) if not _put(rows, places, line, split, listing.root, path)]
        if unknown:
            some = ", ".join(unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
            remarks.append(
                f"{path} names {count_of(len(unknown), 'picture')} that cannot be told or are not there: {some}"
            )
    if left := rows.splits.count(""):
        remarks.append(f"{count_of(left, 'picture')} in none of the lists {', '.join(path for path, _ in lists)}")
    return remarks


def _lists(listing: Listing) -> Iterator[tuple[str, str]]:
    for folder in _FOLDERS:
        for name, is_folder in note_folder(listing, folder):
            stem, dot, suffix = name.rpartition(".")
            if not is_folder and dot and suffix.lower() == "txt" and stem.lower() in _NAMES:
                yield (f"{folder}/{name}" if folder else name), _NAMES[stem.lower()]


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            yield from (line for text in file if (line := text.strip()) and not line.startswith("#"))
    except OSError as error:
        raise files.refused(path, error) from error


def _places(images: list[str]) -> dict[str, int]:
    """Every way to name a picture by the end of its path -> its row, or _AMBIGUOUS."""
    places: dict[str, int] = {}
    for number, image in enumerate(images):
        parts = image.split("/")
        ends = {"/".join(parts[at:]) for at in range(len(parts))}
        for name in ends | {end.rpartition(".")[0] for end in ends}:
            places[name] = _AMBIGUOUS if places.setdefault(name, number) != number else number
    return places


def _put(rows: Rows, places: dict[str, int], line: str, split: str, root: str, path: str) -> bool:
    """Whether the line names a picture."""
    for words in (line, line.split()[0]):  # some lists name the mask behind the picture
        name = words.replace("\\", "/")
        if os.path.isabs(name):
            name = os.path.relpath(name, root).replace(os.sep, "/")
        number = places.get(name.removeprefix("./"), _AMBIGUOUS)
        if number != _AMBIGUOUS:
            before = rows.splits[number]
            if before and before != split:
                rows.problems[number] = said(Problem.TWO_SPLITS, f"{before}, and {split} by {path}")
            rows.splits[number] = before or split
            return True
    return False
