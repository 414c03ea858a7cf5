"""`lightmill evaluate segment`: what a checkpoint is worth on a data set, as `mask` would run it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
from pydantic import Field, field_validator

from lightmill.data.index import Index
from lightmill.data.labels import BACKGROUND, Labels, open_labels
from lightmill.data.splits import is_pattern
from lightmill.engine.items import MADE, Json
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunResult, run
from lightmill.engine.wording import count_of
from lightmill.errors import UsageError
from lightmill.models.segmenters import folder_of
from lightmill.models.student import StudentConfig
from lightmill.models.student_segmenter import StudentSegmenter
from lightmill.recipes.base import Recipe
from lightmill.recipes.evaluate_report import Shown, sections
from lightmill.recipes.evaluating import ACCURACY, IOU, Judge, Totals, rows_of_split
from lightmill.recipes.labelled import PairSource, renewed_index_of
from lightmill.recipes.masking import FLIPS_HELP, TILE_HELP, TileOption, is_local_model, located, ready
from lightmill.recipes.training import whole_numbers

SCORES = "scores.json"


class EvaluateSegment(Recipe):
    """Say what a checkpoint of `train segment` is worth: its predictions, as `mask` makes them, against masks.

    DATA is a folder with images/ and masks/ (or train/images, train/masks, val/images, ...), with YOLO's labels/ or
    COCO JSON, or a table with image_path and mask_path. Counts of pixels are added up over all pictures.
    """

    name: ClassVar[str] = "evaluate segment"
    input_name: ClassVar[str] = "data"
    input_help: ClassVar[str] = (
        "A folder with images/ and masks/, or train/images, train/masks, ...; or a table with image_path, mask_path."
    )
    path_options: ClassVar = {"checkpoint": is_local_model}

    checkpoint: str | None = Field(None, description="A folder of `lightmill train segment`, as in runs/x/best.")
    split: str = Field("val", description="Which pictures of DATA: val, test, train, or all.")
    ignore: tuple[int, ...] = Field((), description="Values that stand for nothing, besides 255, with commas.")
    binary: bool = Field(
        False, description="Masks are levels: 128 and more is class 1 (default: where all are 0 and 255)."
    )
    boxes_as_masks: bool = Field(False, description="Take boxes of YOLO and COCO that have no outline as filled ones.")
    group: str | None = Field(None, description="Where DATA does not say what is held out: --group of the training, …")
    val_share: float = Field(0.2, gt=0, lt=1, description="… its --val-share, …")
    seed: int = Field(0, ge=0, description="… and its --seed.")
    tile: TileOption = Field("off", description=TILE_HELP)
    flips: bool = Field(False, description=FLIPS_HELP)
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model works; auto: CUDA where there is one."
    )

    _numbers = field_validator("ignore", mode="before")(whole_numbers)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work, or what is left of it; pictures that have changed since are judged again."""
        out, said = Path(out), list[str]()
        job, source = self._job(Path(input), out, said)
        if not (self.fresh or retry):
            source.reopen_changed(out)
        result = run(job, self.run_options(), retry=retry)
        return replace(result, remarks=(*result.remarks, *said))

    def job(self, input: Path, out: Path) -> Job:
        return self._job(input, out, [])[0]

    def _job(self, input: Path, out: Path, said: list[str]) -> tuple[Job, PairSource]:
        segmenter = self._segmenter()
        device = ready(segmenter, self.device)
        index = renewed_index_of(input, out, group=self.group or "", threads=self.threads)
        labels = self._labels(index, segmenter)
        rows, remarks = rows_of_split(index, self.split, group=self._rule, val_share=self.val_share, seed=self.seed)
        source = PairSource(index, labels, rows, remarks)
        judge = Judge(
            labels=labels, binary=segmenter.config.binary, plain=_plain(segmenter), max_pixels=self.max_pixels
        )
        job = Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | {"checkpoint": segmenter.name, "checkpoint_version": segmenter.version},
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, judge, segmenter),
            device=device,
            columns=columns,
            export=partial(self._export, source, segmenter, said),
        )
        return job, source

    def pipeline(self, judge: Judge, segmenter: StudentSegmenter) -> Pipeline:
        """Decode a picture and its mask; predict; count; save."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        return judge.pipeline(segmenter)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _segmenter(self) -> StudentSegmenter:
        if not self.checkpoint:
            raise UsageError("--checkpoint is missing: a folder of `lightmill train segment`, as in runs/x/best")
        folder = folder_of(located(self.checkpoint))
        classes = StudentSegmenter(folder).config.names
        return StudentSegmenter(folder, prompts=classes, tile=self.tile, flips=self.flips)

    @property
    def _rule(self) -> str:
        return self.group if self.group and is_pattern(self.group) else ""

    def _labels(self, index: Index, segmenter: StudentSegmenter) -> Labels:
        """The masks of DATA, read as the checkpoint's classes. Raises UsageError where they cannot be."""
        names = segmenter.names
        asked = names if index.kind == "masks" else [name for name in names if name != BACKGROUND]
        labels = open_labels(
            index, classes=asked, ignore=self.ignore, binary=self.binary or None, boxes=self.boxes_as_masks
        )
        if labels.names != names:
            raise UsageError(
                f"the checkpoint {segmenter.name} tells {', '.join(names)} apart, and the labels of DATA "
                f"{', '.join(labels.names)}"
            )
        return labels

    def _export(
        self, source: PairSource, segmenter: StudentSegmenter, said: list[str], outputs: Outputs, journal: Journal
    ) -> list[str]:
        rows = [row for row in journal.rows(*MADE) if row.key in source.by_key]
        if not rows:
            journal.remember(sections=[])
            return []
        config = segmenter.config
        totals = Totals.of(rows, source.labels.names, binary=config.binary)
        told = self._told(totals, config, segmenter, missed=len(source.by_key) - len(rows))
        outputs.write_if_changed(SCORES, iter([f"{json.dumps(told, indent=1, ensure_ascii=False)}\n".encode()]))
        shown = Shown(outputs=outputs, by_key=source.by_key, labels=source.labels, plain=_plain(segmenter))
        sample = f"{config.size_hw[1]}x{config.size_hw[0]} px"
        html: list[Json] = [
            [title, body] for title, body in sections(totals, rows, shown, logged=config.scores, sample=sample)
        ]
        journal.remember(sections=html)
        said[:] = [_said(totals)]
        return [SCORES]

    def _told(
        self, totals: Totals, config: StudentConfig, segmenter: StudentSegmenter, *, missed: int
    ) -> dict[str, Any]:
        """scores.json. `missed`: pictures that could not be judged, or were not yet."""
        return {
            "checkpoint": segmenter.name,
            "checkpoint_version": segmenter.version,
            "split": self.split,
            "tile": self.tile,
            "flips": self.flips,
            "pictures": totals.pictures,
            "not_judged": missed,
            **totals.figures,
            "in_sample": {"size_hw": config.size_hw, **small} if (small := totals.figures_in_sample) else None,
            "logged_by_training": config.scores,
            "classes": totals.classes,
            "confusion": totals.confused.tolist(),
        }


def columns(row: Row) -> dict[str, str]:
    """What manifest.csv says of a picture besides."""
    found = {name: row.meta.get(name) for name in (IOU, ACCURACY)}
    return {name: f"{value:g}" for name, value in found.items() if isinstance(value, float)}


def _plain(segmenter: StudentSegmenter) -> tuple[int, ...]:
    """Classes that pictures leave without a colour."""
    left = {BACKGROUND, *segmenter.config.background}
    return tuple(number for number, name in enumerate(segmenter.names) if name in left)


def _said(totals: Totals) -> str:
    """One line for the end."""
    found = totals.figures
    whose = (
        f"of {totals.names[1]}" if len(totals.names) == 2 else f"over {count_of(len(totals.names), 'class', 'classes')}"
    )
    known = [one for one in totals.classes if one["iou"] is not None]
    worst = min(known, key=lambda one: one["iou"]) if len(known) > 2 else None
    line = f"{count_of(totals.pictures, 'picture')}: mean IoU {found['mean_iou']} {whose}, accuracy {found['accuracy']}"
    return f"{line}; the worst class is {worst['name']} with {worst['iou']}" if worst else line
