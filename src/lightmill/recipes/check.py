"""A data set looked at before anything is trained on it: every picture and mask decoded, and splits held apart."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import cv2
from pydantic import Field

from lightmill.data.index import Index
from lightmill.data.labels import MOST_CLASSES, Labels, open_labels
from lightmill.data.splits import groups_of, is_pattern
from lightmill.engine.journal import Journal, Row
from lightmill.engine.naming import Naming
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, RunResult, run
from lightmill.recipes.base import Recipe
from lightmill.recipes.check_report import Checked, Summary, write_all
from lightmill.recipes.checking import Checker
from lightmill.recipes.labelled import MaskOptions, PairSource, renewed_index_of


class Check(MaskOptions, Recipe):
    """Look at every picture and mask of a data set, and say what is broken, missing, mismatched or leaking.

    DATA is a folder with images/ and masks/ (or train/images, train/masks, ...), with YOLO's labels/ or COCO JSON, or a
    table with image_path and mask_path. All of it is decoded, as training reads it; nothing of it is changed.
    """

    name: ClassVar[str] = "check"

    group: str | None = Field(
        None,
        description="What splits must not share: folder, a pattern on the path as in (seq\\d+)_, or a table's column.",
    )

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work, or what is left of it; pictures that have changed since are looked at again."""
        out = Path(out)
        summary = Summary()
        job, source = self._job(Path(input), out, summary)
        if not (self.fresh or retry):
            source.reopen_changed(out)
        result = run(job, self.run_options(), retry=retry)
        return replace(result, remarks=(*result.remarks, *summary.lines))

    def job(self, input: Path, out: Path) -> Job:
        return self._job(input, out, Summary())[0]

    def _job(self, input: Path, out: Path, summary: Summary) -> tuple[Job, PairSource]:
        index = renewed_index_of(input, out, group=self.group or "", threads=self.threads)
        labels = self._labels(index)
        source = PairSource(index, labels, range(len(index)))
        groups = groups_of(index, self.group if self.group and is_pattern(self.group) else "")
        job = Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input),
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, labels),
            export=partial(self._export, source, groups, summary),
        )
        return job, source

    def pipeline(self, labels: Labels) -> Pipeline:
        """Decode the picture, decode its mask, compare, count."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        return Pipeline(*Checker(labels=labels, max_pixels=self.max_pixels).stages())

    def run_options(self) -> RunOptions:
        """Nothing is written by an item's name, so names that only differ in case may stand."""
        return replace(super().run_options(), naming=Naming.INDEX)

    def _labels(self, index: Index) -> Labels:
        """As training reads them; where no mask can be read, there are no classes, and every row says what is wrong."""
        classes = self.classes or (None if len(index.usable) else [str(number) for number in range(MOST_CLASSES)])
        return open_labels(
            index, classes=classes, ignore=self.ignore, binary=self.binary or None, boxes=self.boxes_as_masks
        )

    def _export(
        self, source: PairSource, groups: Sequence[str], summary: Summary, outputs: Outputs, journal: Journal
    ) -> list[str]:
        rows = {row.key: row for row in journal.rows()}
        splits = source.index.arrow["split"].to_pylist()
        checked = [
            Checked(ref, split, group, rows.get(key))
            for (key, ref), split, group in zip(source.by_key.items(), splits, groups, strict=True)
        ]
        names = source.labels.names if self.classes or len(source.index.usable) else ()
        return write_all(outputs, journal, checked, summary, names=names)
