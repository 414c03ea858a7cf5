"""What sd-scripts, and the trainers built on it, read: `meta_cap.json`, and folders called `10_cat`.

Fine-tuning: `--in_json OUT/kohya/meta_cap.json --train_data_dir OUT`. DreamBooth style: `--train_data_dir OUT/kohya`;
a folder's number is how often its pictures are shown in an epoch, the rest of its name is the text of pictures that
have none. Folders are read without their sub-folders, and of a text file the first line.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

from lightmill.engine.items import Json
from lightmill.engine.outputs import Outputs
from lightmill.errors import UsageError
from lightmill.export.captioned import (
    Made,
    below_images,
    flat_name,
    in_pieces,
    json_text,
    one_line,
    sidecar_path,
)
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_layer, main_text
from lightmill.export.sidecar import Edits, check_suffix, write_text

FOLDER: Final = "kohya"
_CONCEPT = re.compile(r"[^/\\:*?\"<>|\x00-\x1f\x7f]*[^/\\:*?\"<>|\x00-\x1f\x7f. ]")  # a folder's name, on all systems


class Layout(StrEnum):
    """What is written."""

    METADATA = "metadata"  # meta_cap.json, about the pictures where they are
    FOLDERS = "folders"  # N_concept, with links to the pictures and a text file each
    BOTH = "both"  # meta_cap.json is about the links


def export_kohya(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    layout: Layout = Layout.BOTH,
    repeats: int = 1,
    concept: str = "pictures",
    by_folder: bool = False,
    absolute: bool = False,
    train_resolution: bool = False,
    suffix: str = ".txt",
    edits: Edits = Edits.KEEP,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """Write `kohya/meta_cap.json` and folders `kohya/<repeats>_<concept>`, or one of both.

    `by_folder`: the concept of a picture in a sub-folder of `images` is that folder's name. meta_cap.json: path of the
    picture (relative to OUT, or `absolute`) -> `caption`, `tags` (the trainer puts both behind each other),
    `image_size` [width, height], which spares the trainer opening all pictures, and with `train_resolution` the same
    size as that of the bucket: for pictures that were cut to buckets.

    Text files have one line: a caption's line ends become spaces. A picture without a text gets no file, and so the
    concept for its text. Files edited by hand: see `Edits`.

    Raises UsageError for repeats below 1, a concept that is no name of a folder, or another suffix than `.txt` and
    `.caption`; NameCollision; OutputError.
    """
    check_suffix(suffix)
    if repeats < 1:
        raise UsageError(f"repeats is how often a picture is shown in an epoch, 1 or more, not {repeats}")
    _check_concept(concept)
    root = outputs.root.absolute().as_posix() + "/" if absolute else ""

    def placed(made: Made) -> Iterator[tuple[Captioned, str]]:
        for picture in pictures:
            if layout is Layout.METADATA:
                made.picture(picture)
                yield picture, picture.image
                continue
            folder, name = _place(picture.image, concept, by_folder=by_folder)
            path = f"{FOLDER}/{repeats}_{folder}/{name}"
            made.link(picture, path)
            text = one_line(main_text(picture, order))
            write_text(made, picture, sidecar_path(path, suffix), text, edits=edits)
            yield picture, path

    with Made.open(outputs, FOLDER) as made:
        if layout is Layout.FOLDERS:
            for _ in placed(made):
                pass
            return [f"{FOLDER}/"]
        entries = (
            (root + path, _entry(picture, order, train_resolution=train_resolution)) for picture, path in placed(made)
        )
        file = made.file(f"{FOLDER}/meta_cap.json", in_pieces(_object_lines(entries)))
    return [file] if layout is Layout.METADATA else [file, f"{FOLDER}/"]


def _place(image: str, concept: str, *, by_folder: bool) -> tuple[str, str]:
    """(concept, name) of the picture: folders below the concept's become part of the name."""
    path = below_images(image)
    top, slash, rest = path.partition("/")
    if not (by_folder and slash):
        return concept, flat_name(path)
    _check_concept(top)
    return top, flat_name(rest)


def _entry(picture: Captioned, order: Sequence[str], *, train_resolution: bool) -> dict[str, Json]:
    """`tags` is left out where the main text stands for it: it is the tags, or was made of them by hand."""
    entry: dict[str, Json] = {}
    main, tags = main_layer(picture, order), picture.layer("tags")
    only_tags = main is not None and (main.name == "tags" or (main.name == "edited" and not picture.layer("caption")))
    if main and main.name != "tags":
        entry["caption"] = main.text
    if tags and (not only_tags or main is tags):
        entry["tags"] = tags.text
    entry["image_size"] = [picture.width, picture.height]
    if train_resolution:
        entry["train_resolution"] = [picture.width, picture.height]
    return entry


def _object_lines(entries: Iterable[tuple[str, dict[str, Json]]]) -> Iterator[str]:
    """A JSON object, a line an entry."""
    start = "{\n"
    for name, entry in entries:
        yield f"{start}{json_text(name)}: {json_text(entry)}"
        start = ",\n"
    yield "\n}\n" if start == ",\n" else "{}\n"


def _check_concept(concept: str) -> None:
    if not _CONCEPT.fullmatch(concept):
        raise UsageError(f"the concept {concept!r} cannot be part of a folder's name; take plain words")
