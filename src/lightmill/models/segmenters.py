"""Segmenters by the name that `--model` gives them."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from lightmill.errors import UsageError

if TYPE_CHECKING:
    from lightmill.models.kinds import Segmenter

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
    options: str = "--",
) -> "Segmenter":
    """The segmenter of that name; nothing is loaded, and `check` says whether it can be had.

    `builtin:NAME`, else a folder or a hub id of a model in the layout of transformers. points: x, y as shares of width
    and height, and 1 (on the thing) or 0 (not on it); boxes: left, top, right, bottom likewise; grid: of so many points
    a side; score: what is found below it is left out (None: the model's own).
    options: how the options begin that all this is given by, for messages: `--`, or `--mask-`.

    Raises UsageError for names and prompts that do not go together, and what finding the model raises.
    """
    if name.startswith("builtin:"):
        return _builtin(name, asked=bool(prompts or points or boxes or grid), scored=score is not None, options=options)
    if name.endswith(".safetensors"):
        raise UsageError(
            f"{options}model {name}: checkpoints of one's own are made by `train segment`, which is not there yet; "
            "give builtin:salient, a folder in the layout of transformers, or a hub id"
        )
    from lightmill.models.classes import open_transformers_segmenter

    return open_transformers_segmenter(name, prompts=prompts, points=points, boxes=boxes, grid=grid or 0, score=score)


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
