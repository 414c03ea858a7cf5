"""Segmenters by the name that `--model` gives them."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lightmill.errors import ModelError, UsageError

if TYPE_CHECKING:
    from lightmill.models.kinds import Segmenter
    from lightmill.models.student_segmenter import StudentSegmenter
    from lightmill.models.student_views import Tile

WITHOUT_PROMPT = "builtin:salient"  # what is used where nothing is asked for
BY_WORDS = "facebook/sam3"  # what is used where words are

_BUILTIN = {"builtin:salient": ("lightmill.models.salient", "Salient")}  # name -> (module, class)


def default_model(prompts: Sequence[str]) -> str:
    """The model that is used where none is named."""
    return BY_WORDS if prompts else WITHOUT_PROMPT


def warnings_of(segmenter: "Segmenter | None") -> tuple[str, ...]:
    """What the report of a run with it has to say."""
    if segmenter is None or segmenter.name != WITHOUT_PROMPT:
        return ()
    from lightmill.models.salient import NOT_SAM

    return (NOT_SAM,)


def open_segmenter(
    name: str,
    *,
    prompts: Sequence[str] = (),
    points: Sequence[tuple[float, float, int]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
    grid: int | None = None,
    score: float | None = None,
    tile: "Tile" = "off",
    flips: bool = False,
    options: str = "--",
) -> "Segmenter":
    """The segmenter of that name; nothing is loaded, and `check` says whether it can be had.

    `builtin:NAME`, else a folder or a hub id: of a model in the layout of transformers, or of a checkpoint of
    `lightmill train segment`, which may also be named by its model.safetensors. points: x, y as shares of width and
    height, and 1 (on the thing) or 0 (not on it); boxes: left, top, right, bottom likewise; grid: of so many points a
    side; score: what is found below it is left out (None: the model's own). tile, flips: of checkpoints, see
    `StudentSegmenter`.
    options: how the options begin that all this is given by, for messages: `--`, or `--mask-`.

    Raises UsageError for names and prompts that do not go together, and what finding the model raises.
    """
    placed, scored = bool(points or boxes or grid), score is not None
    if not name.startswith("builtin:") and is_checkpoint(name := folder_of(name)):
        return _student(name, prompts, tile=tile, flips=flips, placed=placed, scored=scored, options=options)
    if tile != "off" or flips:
        what = f"{options}flips" if flips else f"{options}tile"
        raise UsageError(f"{what} is for checkpoints of `lightmill train segment`, and {name} is none; leave it out")
    if name.startswith("builtin:"):
        return _builtin(name, asked=bool(prompts) or placed, scored=scored, options=options)
    from lightmill.models.classes import open_transformers_segmenter

    return open_transformers_segmenter(name, prompts=prompts, points=points, boxes=boxes, grid=grid or 0, score=score)


def folder_of(name: str) -> str:
    """The folder of a model that is named by its model.safetensors; any other name stays as it is.

    Raises ModelError where such a file is not there, or not called so: a network is not known by its weights alone.
    """
    if not name.endswith(".safetensors"):
        return name
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {name}; give a folder that `lightmill train segment` made")
    if path.name != "model.safetensors" or not (path.parent / "config.json").is_file():
        raise ModelError(
            f"{name} is not the model.safetensors of a folder with a config.json, and weights alone do not say of what "
            "network they are; give the folder that `lightmill train segment` made"
        )
    return str(path.parent)


def is_checkpoint(name: str) -> bool:
    """Whether a folder or a hub id holds what `lightmill train segment` made. Raises as `find_model`."""
    from lightmill.models.hub import find_model
    from lightmill.models.student import MODEL_TYPE

    return find_model(name).model_type == MODEL_TYPE


def _student(
    name: str, prompts: Sequence[str], *, tile: "Tile", flips: bool, placed: bool, scored: bool, options: str
) -> "StudentSegmenter":
    from lightmill.models.student_segmenter import StudentSegmenter

    if placed:
        raise UsageError(f"the checkpoint {name} is asked for classes, with {options}prompt, and not by places")
    if scored:
        raise UsageError(f"the checkpoint {name} gives every pixel a class; leave {options}score out")
    return StudentSegmenter(name, prompts=prompts, tile=tile, flips=flips)


def _builtin(name: str, *, asked: bool, scored: bool, options: str) -> "Segmenter":
    if name not in _BUILTIN:
        near = get_close_matches(name, _BUILTIN, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(_BUILTIN)}"
        raise UsageError(f"no model is called {name}; {hint}")
    if asked:
        raise UsageError(
            f"{name} finds what stands out and takes no prompt, point, box or grid; leave them out, or name another "
            f"model with {options}model, such as {BY_WORDS}"
        )
    if scored:
        raise UsageError(f"{name} gives one thing or none, whatever its score; leave {options}score out")
    module, attribute = _BUILTIN[name]
    made: Segmenter = getattr(import_module(module), attribute)()
    return made
