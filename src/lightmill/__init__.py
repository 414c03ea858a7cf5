"""Piles of pictures in, training-ready data sets out.

    import lightmill

    run = lightmill.split360("tour.mp4", "out", rig="colmap12", fps=2)
    run.ok, run.failed, run.manifest

Every recipe is a function here: INPUT, OUT, and its options by name. Importing this module loads nothing heavy.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightmill.engine.run import RunResult

    split360: Callable[..., RunResult]
    join360: Callable[..., RunResult]
    mask: Callable[..., RunResult]
    relight: Callable[..., RunResult]
    prepare: Callable[..., RunResult]
    caption: Callable[..., RunResult]
    crop: Callable[..., RunResult]
    negatives: Callable[..., Any]
    identify: Callable[..., RunResult]
    check: Callable[..., RunResult]
    evaluate_segment: Callable[..., RunResult]


def __getattr__(name: str) -> "Callable[..., Any]":
    from lightmill.recipes.registry import RECIPES, SUMMARIES, recipe_class

    command = name.replace("_", " ")
    if command not in RECIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def run_recipe(input: Any, out: Any, **options: Any) -> Any:
        return recipe_class(command).from_values({"progress": "none"} | options).run(input, out)

    run_recipe.__name__ = run_recipe.__qualname__ = name
    run_recipe.__doc__ = f"{SUMMARIES[command]}\n\nOptions are those of `lightmill {command} --help`, with underscores."
    return run_recipe


def __dir__() -> list[str]:
    from lightmill.recipes.registry import RECIPES

    return [*globals(), *(name.replace(" ", "_") for name in RECIPES)]
