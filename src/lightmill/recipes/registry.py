"""The recipes by name, without importing any: the command line starts fast."""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from lightmill.errors import UsageError

if TYPE_CHECKING:
    from lightmill.recipes.base import Options

RECIPES: dict[str, tuple[str, str]] = {  # name -> (module, class)
    "split360": ("lightmill.recipes.split360", "Split360"),
    "join360": ("lightmill.recipes.join360", "Join360"),
    "mask": ("lightmill.recipes.mask", "Mask"),
    "relight": ("lightmill.recipes.relight", "Relight"),
    "prepare": ("lightmill.recipes.prepare", "Prepare"),
    "caption": ("lightmill.recipes.caption", "Caption"),
    "crop": ("lightmill.recipes.crop", "Crop"),
    "negatives": ("lightmill.recipes.negatives", "Negatives"),
    "train reid": ("lightmill.recipes.train_reid", "TrainReid"),
    "train segment": ("lightmill.recipes.train_segment", "TrainSegment"),
    "evaluate segment": ("lightmill.recipes.evaluate_segment", "EvaluateSegment"),
    "identify": ("lightmill.recipes.identify", "Identify"),
    "check": ("lightmill.recipes.check", "Check"),
}

SUMMARIES = {
    "split360": "Cut equirectangular frames or video into pinhole views with exact cameras.",
    "join360": "Blend the views of a rig back into equirectangular pictures.",
    "mask": "Mask what a model finds in pictures: by words, points or boxes, or whatever stands out.",
    "relight": "Show portraits in other light: mask, albedo, shadows and highlights, and a table that says where.",
    "prepare": "Make pictures ready for trainers: upright, sRGB, fitted to sizes or buckets, no duplicates.",
    "caption": "Caption pictures for trainers: prepared pictures, captions, and the files that each trainer reads.",
    "crop": "Cut the boxes of a table out of their frames, into one file that training reads from.",
    "negatives": "Draw boxes that show nobody, beside and inside the players of a table of boxes.",
    "train reid": "Train an embedder that tells players apart and knows when it sees nobody it knows.",
    "train segment": "Train a light network that segments pictures as their masks, or a heavy teacher, do.",
    "evaluate segment": "Say what a trained segmenter is worth: its predictions against masks, as it is served.",
    "identify": "Say who is in boxes: a label of a gallery or unknown, and never one label twice in a frame.",
    "check": "Look at every picture and mask of a data set: what is broken, missing, mismatched or in two splits.",
}


def recipe_class(name: str) -> "type[Options]":
    """What is called by that name on the command line. Raises UsageError with the nearest spelling."""
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        raise UsageError(
            f"there is no recipe {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(RECIPES)}")
        )
    module, attribute = RECIPES[name]
    found: type[Options] = getattr(import_module(module), attribute)
    return found
