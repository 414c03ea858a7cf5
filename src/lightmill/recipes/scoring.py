"""Numbers about every picture: columns of the table given back, and what `--keep-top` goes by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.engine.items import MADE, Filtered, Json, Notes, Source, Status
from lightmill.engine.journal import Journal, Row
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, RunResult, run
from lightmill.engine.stages import Batch, Each, Stage
from lightmill.errors import ItemError, UsageError
from lightmill.models.kinds import Scorer
from lightmill.ops import quality
from lightmill.recipes.lit_models import open_scorer
from lightmill.recipes.pictures import picture_stages

if TYPE_CHECKING:
    from lightmill.recipes.base import Recipe

MEASURES: Mapping[str, Callable[[NDArray[np.uint8]], float]] = {
    "sharpness": quality.sharpness,
    "clipped_share": quality.clipped_share,
    "contrast": quality.contrast,
    "evenness": quality.evenness,
}
SCORES = "scores"  # in an item's meta
FOLDER = ".lightmill/scores"  # of the run that looks at all pictures before any is chosen
_DIGITS = 6


def measured(image: NDArray[np.uint8], notes: Notes) -> None:
    """Write every measure into the item's meta."""
    _note(notes, {name: measure(image) for name, measure in MEASURES.items()})


def judged(prompt_scores: Mapping[str, float], notes: Notes) -> None:
    """Likewise what a model says of the picture."""
    _note(notes, prompt_scores)


def _note(notes: Notes, found: Mapping[str, float]) -> None:
    before = notes.meta.get(SCORES)
    scores = dict(before) if isinstance(before, dict) else {}
    notes.meta[SCORES] = scores | {name: round(value, _DIGITS) for name, value in found.items()}


def score_stages(scorer: Scorer | None) -> list[Stage]:
    """Stages that need the field `image`, and put the scores into the item's meta."""
    stages: list[Stage] = [Each(measured, name="score")]
    if scorer:
        stages += [
            Batch(scorer, makes="prompt_scores", name="score prompts"),
            Each(judged, name="note prompt scores"),
        ]
    return stages


@dataclass(frozen=True)
class Choice:
    """The N best by a column, in a run of its own that is continued like any other."""

    most: int
    column: str
    model: str | None  # a CLIP model
    prompts: tuple[str, ...]

    def run(self, recipe: "Recipe", source: Source, input: Path, out: Path, *, device: str) -> RunResult:
        """Score all pictures; those that cannot be read get no score. Raises UsageError for a column there is not."""
        columns = [*MEASURES, *(f"clip:{prompt}" for prompt in self.prompts)]
        if self.column not in columns:
            raise UsageError(f"--by {self.column}: there is no such score; there are {', '.join(columns)}")
        scorer = open_scorer(self.model, self.prompts)
        if scorer:
            scorer.check(device)
        asked: list[Json] = [*self.prompts]
        job = Job(
            recipe=f"{recipe.name} (scores)",
            version=recipe.version(),
            config={
                "input": str(input.resolve()),
                "prompts": asked,
                "model": [scorer.name, scorer.version] if scorer else None,
            },
            command=recipe.command(input),
            source=source,
            out=out / FOLDER,
            make_pipeline=partial(_score_pipeline, scorer, max_pixels=recipe.max_pixels, video=source.streams),
            device=device,
        )
        (out / FOLDER).parent.mkdir(parents=True, exist_ok=True)
        return run(job, _quiet(recipe.run_options()))

    def stage(self, out: Path) -> Each:
        """The first stage of the run that follows: it filters whatever is not among the best."""
        with Journal.read(out / FOLDER) as journal:
            scores = {row.key: scores_of(row) for row in journal.rows(*MADE)}
            unread = frozenset(row.key for row in journal.rows(Status.FAILED))
        order = sorted(scores, key=lambda key: (-scores[key].get(self.column, -np.inf), key))
        ranks = {key: rank for rank, key in enumerate(order, 1)}
        return Each(
            keep_best,
            name="keep the best",
            ranks=ranks,
            scores=scores,
            unread=unread,
            most=self.most,
            column=self.column,
        )


def _quiet(options: RunOptions) -> RunOptions:
    return replace(options, max_failures=None, trace=None)


def _score_pipeline(scorer: Scorer | None, *, max_pixels: int, video: bool) -> Pipeline:
    cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
    return Pipeline(
        *picture_stages(video=video, max_pixels=max_pixels),
        *score_stages(scorer),
        given=("frame",) if video else (),
    )


def keep_best(
    key: str,
    notes: Notes,
    ranks: Mapping[str, int],
    scores: Mapping[str, Mapping[str, float]],
    unread: frozenset[str],
    most: int,
    column: str,
) -> None:
    """Raises Filtered for an item that was scored and is not among the best. One that could not be read has no scores
    and goes on, to fail where it is read."""
    if key in unread:
        return
    if key not in ranks:
        raise ItemError("it has no score: it came after all pictures were looked at; run the command again")
    _note(notes, scores[key])
    if ranks[key] > most:
        raise Filtered(f"{column} {scores[key][column]:g} is number {ranks[key]} of {len(ranks)}; --keep-top {most}")


def scores_of(row: Row) -> dict[str, float]:
    """What the item's meta holds of scores."""
    found = row.meta.get(SCORES)
    return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else {}  # type: ignore[arg-type]  # written by _note


def score_columns(row: Row) -> dict[str, str]:
    """The same as cells of a table; empty for a picture that failed."""
    return {} if row.status is Status.FAILED else {name: f"{value:g}" for name, value in scores_of(row).items()}
