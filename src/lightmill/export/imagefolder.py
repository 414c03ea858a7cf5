"""A folder that `datasets.load_dataset("imagefolder", data_dir="OUT/imagefolder")` reads, with all texts as columns."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lightmill.engine.outputs import Outputs
from lightmill.errors import UsageError
from lightmill.export.captioned import COLUMNS, Made, below_images, in_pieces, json_text, layer_texts
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_text

FOLDER: Final = "imagefolder"

# `datasets` makes splits of files and folders that have such a word in their name, and then reads nothing else in the
# folder, not even metadata.jsonl: one picture called test_1.jpg, and all captions are gone
_SPLIT = re.compile(
    r"(?:(?<=[-._ 0-9])|^)(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?=[-._ 0-9]|$)",
    re.IGNORECASE,
)
_SHARD = re.compile(r"(-\d{5})(?=-of-\d{5})")  # data/a-00000-of-00001.jpg would be a split called `a`
_TAKEN = re.compile(r"image|text|key|(.*_)?file_names?")


def export_imagefolder(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    columns: Sequence[str] = COLUMNS,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """`imagefolder/metadata.jsonl` (`file_name`, `text`, `key`, one column a layer), and links to the pictures.

    Every row has every column, as text: the reader takes the types of all rows from the first ones. (A column with
    nothing but dates like 2024-05-01 in it it reads as dates.) Where a name of a picture would make the reader see a
    split (`test_1.jpg`), the link gets a `~` (`test~_1.jpg`).

    Raises UsageError for a column that the reader takes for something else; NameCollision; OutputError.
    """
    for name in columns:
        if _TAKEN.fullmatch(name):
            raise UsageError(f"a column of an image folder cannot be called {name!r}: that name has a meaning there")

    def lines(made: Made) -> Iterator[str]:
        for picture in pictures:
            path = _without_splits(below_images(picture.image))
            made.link(picture, f"{FOLDER}/{path}")
            texts = layer_texts(picture)
            row = {"file_name": path, "text": main_text(picture, order), "key": picture.key}
            yield json_text({**row, **{name: texts.get(name, "") for name in columns}}) + "\n"

    with Made.open(outputs, FOLDER) as made:
        made.file(f"{FOLDER}/metadata.jsonl", in_pieces(lines(made)))
    return [f"{FOLDER}/metadata.jsonl", f"{FOLDER}/"]


def _without_splits(path: str) -> str:
    """The path without a word that the reader takes for the name of a split.

    >>> _without_splits("val/my test.jpg"), _without_splits("valley/contest.jpg")
    ('val~/my test~.jpg', 'valley/contest.jpg')
    """
    return "/".join(_SHARD.sub(r"\1~", _SPLIT.sub(r"\1~", part)) for part in path.split("/"))
