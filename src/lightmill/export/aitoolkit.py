"""A folder that ai-toolkit trains from, and the lines of its job file that say so.

It goes through all sub-folders, passes over files whose name begins with a dot and folders called `_controls`, and
takes line ends in a text for commas.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lightmill.engine.items import Json
from lightmill.engine.outputs import Outputs
from lightmill.export.captioned import Made, below_images, one_line, sidecar_path, utf8
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_text
from lightmill.export.sidecar import Edits, check_suffix, write_text

FOLDER: Final = "aitoolkit"
_HEAD = (
    "# For ai-toolkit: put these lines into the entry of `process` in a job file (config/examples has one a model).\n"
    "# The trigger word stands for [trigger] in captions, and is added to captions that lack it.\n"
)


def export_aitoolkit(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    trigger: str = "",
    resolutions: Sequence[int] = (512, 768, 1024),
    caption_dropout: float = 0.05,
    suffix: str = ".txt",
    edits: Edits = Edits.KEEP,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """`aitoolkit/images`: links to the pictures with a text file each; `aitoolkit/config.yaml`: where they are.

    The path in config.yaml is absolute: the trainer runs elsewhere. Text files have one line: a caption's line ends
    become spaces. A picture without a text gets no file. Files edited by hand: see `Edits`.

    Raises UsageError for another suffix than `.txt` and `.caption`; NameCollision; OutputError.
    """
    check_suffix(suffix)
    with Made.open(outputs, FOLDER) as made:
        for picture in pictures:
            path = f"{FOLDER}/images/{_met(below_images(picture.image))}"
            made.link(picture, path)
            text = one_line(main_text(picture, order))
            write_text(made, picture, sidecar_path(path, suffix), text, edits=edits)
        dataset: dict[str, Json] = {
            "folder_path": (outputs.root.absolute() / FOLDER / "images").as_posix(),
            "caption_ext": suffix.removeprefix("."),
            "caption_dropout_rate": caption_dropout,
            "shuffle_tokens": False,
            "cache_latents_to_disk": True,
            "resolution": list(resolutions),
        }
        config = made.file(f"{FOLDER}/config.yaml", _yaml(trigger, dataset))
    return [config, f"{FOLDER}/images/"]


def _met(path: str) -> str:
    """The path, so that the trainer does not pass over it.

    >>> _met("_controls/.a.jpg")
    '_controls_/_a.jpg'
    """
    *folders, name = path.split("/")
    return "/".join(["_controls_" if folder == "_controls" else folder for folder in folders] + [_undotted(name)])


def _undotted(name: str) -> str:
    return "_" + name[1:] if name.startswith(".") else name


def _yaml(trigger: str, dataset: dict[str, Json]) -> Iterator[bytes]:
    import yaml

    lines: dict[str, Json] = {**({"trigger_word": trigger} if trigger else {}), "datasets": [dataset]}
    yield utf8(_HEAD + yaml.safe_dump(lines, sort_keys=False, allow_unicode=True, width=1 << 20))
