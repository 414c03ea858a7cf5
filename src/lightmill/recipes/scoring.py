"""Numbers about every picture: columns of the table given back, and what `--keep-top` goes by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

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
from lightmill.ops.duplicates import near_groups, pixel_digest, same_groups
from lightmill.ops.phash import phash
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
SIZE = "size"  # likewise
FINGERPRINT = "fingerprint"  # likewise
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


def sized(image: NDArray[np.uint8], notes: Notes) -> None:
    """Write width and height into the item's meta."""
    notes.meta[SIZE] = [image.shape[1], image.shape[0]]


def fingerprinted(image: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, notes: Notes) -> None:
    """Write into the item's meta what tells whether another picture is the same, or nearly."""
    height, width = image.shape[:2]
    notes.meta[FINGERPRINT] = {
        "pixels": pixel_digest(image, alpha),
        "phash": f"{phash(image):016x}",
        "area": width * height,
    }


@dataclass(frozen=True)
class Choice:
    """Which pictures are taken, once all have been looked at in a run of its own that is continued like any other.

    First, of pictures that are the same (`duplicates`) the one with most pixels, of those the sharpest stays; then,
    of what is left, the `most` best by `column`.
    """

    most: int | None
    column: str
    model: str | None = None  # a CLIP model
    prompts: tuple[str, ...] = ()
    duplicates: Literal["exact", "near"] | None = None
    min_side: int | None = None  # what is refused for its size takes nobody's place
    max_aspect: float | None = None

    def run(self, recipe: "Recipe", source: Source, input: Path, out: Path, *, device: str) -> RunResult:
        """Score all pictures; those that cannot be read get no score. Raises UsageError for a column there is not."""
        columns = [*MEASURES, *(f"clip:{prompt}" for prompt in self.prompts)]
        if self.column not in columns:
            raise UsageError(f"--by {self.column}: there is no such score; there are {', '.join(columns)}")
        scorer = open_scorer(self.model, self.prompts)
        if scorer:
            scorer.check(device)
        asked: list[Json] = [*self.prompts]
        fingerprints: dict[str, Json] = {"fingerprints": True} if self.duplicates else {}
        job = Job(
            recipe=f"{recipe.name} (scores)",
            version=recipe.version(),
            config={
                "input": str(input.resolve()),
                "prompts": asked,
                "model": [scorer.name, scorer.version] if scorer else None,
                **fingerprints,
            },
            command=recipe.command(input),
            source=source,
            out=out / FOLDER,
            make_pipeline=partial(
                _score_pipeline,
                scorer,
                max_pixels=recipe.max_pixels,
                video=source.streams,
                fingerprints=bool(self.duplicates),
            ),
            device=device,
        )
        (out / FOLDER).parent.mkdir(parents=True, exist_ok=True)
        return run(job, _quiet(recipe.run_options()))

    def stage(self, out: Path) -> Each:
        """The first stage of the run that follows: it filters whatever was not chosen."""
        with Journal.read(out / FOLDER) as journal:
            found = {row.key: row for row in journal.rows(*MADE)}
            unread = frozenset(row.key for row in journal.rows(Status.FAILED))
        scores = {key: scores_of(row) for key, row in found.items()}
        found = {key: row for key, row in found.items() if self._fits(row)}
        refused = self._doubled(found, scores) if self.duplicates else {}
        if self.most is not None:
            refused |= self._beyond({key: scores[key] for key in found if key not in refused})
        marks = {key: row.meta[FINGERPRINT] for key, row in found.items() if FINGERPRINT in row.meta}
        name = "keep the best" if self.most is not None else "drop duplicates"
        return Each(take_chosen, name=name, scores=scores, unread=unread, refused=refused, marks=marks)

    def _fits(self, row: Row) -> bool:
        """Whether its size is one that the run takes."""
        size = row.meta.get(SIZE)
        assert isinstance(size, list), "written by sized"
        shorter, longer = sorted(float(side) for side in size)  # type: ignore[arg-type]  # two numbers
        too_small = self.min_side is not None and shorter < self.min_side
        return not too_small and (self.max_aspect is None or longer <= self.max_aspect * shorter)

    def _doubled(self, found: Mapping[str, Row], scores: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """Key -> why, of every picture that is there already."""
        keys = [key for key, row in found.items() if isinstance(row.meta.get(FINGERPRINT), dict)]
        marks = [_fingerprint(found[key]) for key in keys]
        order = sorted(range(len(keys)), key=lambda i: (marks[i].area, scores[keys[i]].get("sharpness", 0.0)))
        priority = np.empty(len(keys), np.intp)
        priority[order] = _shared_ranks([(marks[i].area, scores[keys[i]].get("sharpness", 0.0)) for i in order])
        if self.duplicates == "exact":
            groups = same_groups([mark.pixels for mark in marks], priority=priority)
        else:
            groups = near_groups([mark.phash for mark in marks], priority=priority)
        refused = {}
        for group in groups:
            for member in set(group.members) - {group.leader}:
                nearly = "" if marks[member].pixels == marks[group.leader].pixels else "nearly "
                refused[keys[member]] = (
                    f"{nearly}the same picture as {keys[group.leader]}; --drop-duplicates {self.duplicates}"
                )
        return refused

    def _beyond(self, scores: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """Key -> why, of every picture that is not among the best."""
        order = sorted(scores, key=lambda key: (-scores[key].get(self.column, -np.inf), key))
        return {
            key: f"{self.column} {scores[key][self.column]:g} is number {rank} of {len(order)}; --keep-top {self.most}"
            for rank, key in enumerate(order, 1)
            if self.most is not None and rank > self.most
        }


class _Fingerprint(NamedTuple):
    pixels: str
    phash: int
    area: int


def _fingerprint(row: Row) -> _Fingerprint:
    found = row.meta[FINGERPRINT]
    assert isinstance(found, dict), "written by fingerprinted"
    return _Fingerprint(str(found["pixels"]), int(str(found["phash"]), 16), int(str(found["area"])))


def _shared_ranks(ordered: Sequence[tuple[float, float]]) -> list[int]:
    """The rank of every one of a sorted list; equals share theirs."""
    ranks: dict[tuple[float, float], int] = {}
    return [ranks.setdefault(one, len(ranks)) for one in ordered]


def _quiet(options: RunOptions) -> RunOptions:
    return replace(options, max_failures=None, trace=None)


def _score_pipeline(scorer: Scorer | None, *, max_pixels: int, video: bool, fingerprints: bool) -> Pipeline:
    cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
    return Pipeline(
        *picture_stages(video=video, max_pixels=max_pixels),
        Each(sized, name="size"),
        *([Each(fingerprinted, name="fingerprint")] if fingerprints else []),
        *score_stages(scorer),
        given=("frame",) if video else (),
    )


def take_chosen(
    key: str,
    notes: Notes,
    scores: Mapping[str, Mapping[str, float]],
    unread: frozenset[str],
    refused: Mapping[str, str],
    marks: Mapping[str, Json],
) -> None:
    """Raises Filtered for an item that was looked at and not chosen. One that could not be read has no scores and goes
    on, to fail where it is read."""
    if key in unread:
        return
    if key not in scores:
        raise ItemError("it has no score: it came after all pictures were looked at; run the command again")
    _note(notes, scores[key])
    if key in marks:
        notes.meta[FINGERPRINT] = marks[key]
    if key in refused:
        raise Filtered(refused[key])


def scores_of(row: Row) -> dict[str, float]:
    """What the item's meta holds of scores."""
    found = row.meta.get(SCORES)
    return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else {}  # type: ignore[arg-type]  # written by _note


def score_columns(row: Row) -> dict[str, str]:
    """The same as cells of a table; empty for a picture that failed."""
    return {} if row.status is Status.FAILED else {name: f"{value:g}" for name, value in scores_of(row).items()}


def wanted_columns(*asked: object) -> Callable[[Row], Mapping[str, str]] | None:
    """What manifest.csv is to say besides: scores, where any option asks for them."""
    return score_columns if any(asked) else None
