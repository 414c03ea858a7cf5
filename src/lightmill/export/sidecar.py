"""Sidecars: `images/a.txt` beside `images/a.jpg`, what most trainers read; and what people do to such files by hand.

What was written is remembered (`captioned.Made`). A text that says something else since then was edited by hand: it is
the user's, and a later run keeps it.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

from lightmill.engine.outputs import Outputs
from lightmill.errors import UsageError
from lightmill.export.captioned import (
    IMAGES,
    Made,
    digest,
    inside,
    normal,
    one_line,
    read_text,
    remembered_texts,
    sidecar_path,
    utf8,
)
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_text

NAME: Final = "sidecar"
SUFFIXES: Final = (".txt", ".caption")
WITH_TEXT_FILES: Final = (NAME, "kohya", "aitoolkit")  # exports whose texts people edit


class Edits(StrEnum):
    """What becomes of a text file that was edited by hand."""

    KEEP = "keep"
    OVERWRITE = "overwrite"  # the new text replaces it; a file is not emptied where there is no new text
    APPEND = "append"  # the new text is added at its end, unless it is in there


def export_sidecar(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    suffix: str = ".txt",
    edits: Edits = Edits.KEEP,
    order: Sequence[str] = MAIN_ORDER,
    single_line: bool = False,
) -> list[str]:
    """Write the main text of every picture beside it, exactly (`single_line`: with spaces for line ends).

    A picture without a text gets no file: a trainer would take an empty one for a caption, or stop. Returns the folder.

    Raises NameCollision, naming both, where two pictures would share a sidecar (`a.jpg` and `a.png`); UsageError for
    another suffix than `.txt` and `.caption`; OutputError.
    """
    check_suffix(suffix)
    with Made.open(outputs, NAME) as made:
        for picture in pictures:
            made.picture(picture)
            text = main_text(picture, order)
            path = sidecar_path(picture.image, suffix)
            write_text(made, picture, path, one_line(text) if single_line else text, edits=edits)
    return [f"{IMAGES}/"]


def write_text(made: Made, picture: Captioned, path: str, text: str, *, edits: Edits) -> None:
    """Make the file at `path` say `text` (UTF-8, no line end added), unless it was edited by hand; see `Edits`."""
    memory = made.text(picture, inside(path))
    found = read_text(made.outputs, path)
    same = found is not None and found == normal(text)
    if found is not None and not same and digest(found) not in memory and (edits is not Edits.OVERWRITE or not text):
        if edits is Edits.APPEND and normal(text) not in found:
            made.outputs.write(path, utf8(appended(found, text)))
        return  # what was remembered stays: the file still counts as edited
    if not text:
        made.outputs.discard(path)
    elif not same:
        made.writing(path, wrote=digest(text), before=None if found is None else digest(found))
        made.outputs.write(path, utf8(text))
    made.written(path, wrote=digest(text) if text else None)


def appended(found: str, text: str) -> str:
    """Both texts in one line's worth of words: a new sentence after a sentence, a new tag after a tag.

    >>> appended("A dog.", "It runs."), appended("dog, grass", "running")
    ('A dog. It runs.', 'dog, grass, running')
    """
    if not found:
        return text
    return f"{found} {text}" if found.endswith((".", "!", "?", "…", ",", "。")) else f"{found}, {text}"


def edited_sidecars(outputs: Outputs, *, exports: Sequence[str] = WITH_TEXT_FILES) -> Iterator[tuple[str, str]]:
    """(key, text) of every text file that was edited by hand since these exports wrote it.

    For the caller to take back as the layer `edited`: once that is exported, the file counts as written by it. A file
    that was removed is no edit; one that was emptied is. A key comes once for each export in which it was edited.
    """
    for export in exports:
        for key, path, memory in remembered_texts(outputs, export):
            found = read_text(outputs, path)
            if found is not None and digest(found) not in memory:
                yield key, found


def check_suffix(suffix: str) -> None:
    """Raises UsageError for a suffix that no trainer looks for."""
    if suffix not in SUFFIXES:
        raise UsageError(f"sidecars end in {' or '.join(SUFFIXES)}, not in {suffix!r}")
