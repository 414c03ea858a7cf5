"""A data set looked at before anything is trained on it: every picture and mask decoded, and splits held apart."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import cv2
from pydantic import Field, field_validator

from lightmill.data.index import Index, open_index
from lightmill.data.labels import MOST_CLASSES, Labels, open_labels
from lightmill.data.splits import groups_of, is_pattern
from lightmill.engine.items import Item, Settled
from lightmill.engine.journal import Journal, Row
from lightmill.engine.lock import RunLock
from lightmill.engine.naming import Naming
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import STATE_FOLDER, Job, RunOptions, RunResult, run
from lightmill.errors import InputError, UsageError
from lightmill.recipes.base import Recipe, listed
from lightmill.recipes.check_report import Checked, Summary, write_all
from lightmill.recipes.checking import LOOKED_AT, Checker, PairRef
from lightmill.recipes.training import whole_numbers
from lightmill.sources import files

INDEX = "index.arrow"


class Check(Recipe):
    """Look at every picture and mask of a data set, and say what is broken, missing, mismatched or leaking.

    DATA is a folder with images/ and masks/ (or train/images, train/masks, ...), with YOLO's labels/ or COCO JSON, or a
    table with image_path and mask_path. All of it is decoded, as training reads it; nothing of it is changed.
    """

    name: ClassVar[str] = "check"
    input_name: ClassVar[str] = "data"
    input_help: ClassVar[str] = (
        "A folder with images/ and masks/, or train/images, train/masks, ...; or a table with image_path, mask_path."
    )

    classes: tuple[str, ...] = Field(
        (), description="Names of the classes in the order of their values, with commas: sky,building,road."
    )
    ignore: tuple[int, ...] = Field((), description="Values that stand for nothing, besides 255, with commas.")
    binary: bool = Field(
        False, description="Masks are levels: 128 and more is class 1 (default: where all are 0 and 255)."
    )
    boxes_as_masks: bool = Field(False, description="Take boxes of YOLO and COCO that have no outline as filled ones.")
    group: str | None = Field(
        None,
        description="What splits must not share: folder, a pattern on the path as in (seq\\d+)_, or a table's column.",
    )

    _texts = listed("classes")

    _numbers = field_validator("ignore", mode="before")(whole_numbers)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work, or what is left of it; pictures that have changed since are looked at again."""
        out = Path(out)
        summary = Summary()
        job, source = self._job(Path(input), out, summary)
        if not (self.fresh or retry):
            _reopen_changed(out, source)
        result = run(job, self.run_options(), retry=retry)
        return replace(result, remarks=(*result.remarks, *summary.lines))

    def job(self, input: Path, out: Path) -> Job:
        return self._job(input, out, Summary())[0]

    def _job(self, input: Path, out: Path, summary: Summary) -> "tuple[Job, PairSource]":
        index = self._index(input, out)
        labels = self._labels(index)
        source = PairSource(index, labels, group=self.group or "")
        job = Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input),
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, labels),
            export=partial(self._export, source, summary),
        )
        return job, source

    def pipeline(self, labels: Labels) -> Pipeline:
        """Decode the picture, decode its mask, compare, count."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        return Pipeline(*Checker(labels=labels, max_pixels=self.max_pixels).stages())

    def run_options(self) -> RunOptions:
        """Nothing is written by an item's name, so names that only differ in case may stand."""
        return replace(super().run_options(), naming=Naming.INDEX)

    def _index(self, input: Path, out: Path) -> Index:
        """As the disk is now: what is only checked in the background otherwise is checked first."""
        if out.exists() and input.exists() and out.resolve() == input.resolve():
            raise InputError(f"DATA and OUT are the same folder, {files.shown(out)}; give OUT a folder of its own")
        if self.group and not is_pattern(self.group) and input.is_dir():
            raise UsageError(
                f"--group {self.group}: a folder has no columns; write folder, or a pattern with brackets on the path"
            )
        column = self.group if self.group and not is_pattern(self.group) else "group"
        index = open_index(input, cache=out / STATE_FOLDER / INDEX, threads=self.threads or 2, group_column=column)
        return index.renewed() if index.origin == "loaded" else index

    def _labels(self, index: Index) -> Labels:
        """As training reads them; where no mask can be read, there are no classes, and every row says what is wrong."""
        classes = self.classes or (None if len(index.usable) else [str(number) for number in range(MOST_CLASSES)])
        return open_labels(
            index, classes=classes, ignore=self.ignore, binary=self.binary or None, boxes=self.boxes_as_masks
        )

    def _export(self, source: "PairSource", summary: Summary, outputs: Outputs, journal: Journal) -> list[str]:
        rows = {row.key: row for row in journal.rows()}
        checked = [
            Checked(item.ref, split, group, rows.get(item.key))
            for item, split, group in zip(source.items(), source.splits, source.groups, strict=True)
        ]
        names = source.labels.names if self.classes or len(source.index.usable) else ()
        return write_all(outputs, journal, checked, summary, names=names)


@dataclass
class PairSource:
    """The rows of an index as items; the key is the path of the picture."""

    index: Index
    labels: Labels
    group: str = ""
    streams: ClassVar[bool] = False
    splits: list[str] = field(init=False)
    groups: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = self.index.arrow["split"].to_pylist()
        self.groups = groups_of(self.index, self.group if is_pattern(self.group) else "")

    @property
    def described(self) -> str:
        """For people."""
        return f"data set {files.shown(self.index.root)}"

    @property
    def warnings(self) -> list[str]:
        """What the layout left out."""
        return list(self.index.remarks)

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each row."""
        taken: set[str] = set()
        rules = self.labels.rules
        columns = (self.index.arrow[name].to_pylist() for name in ("image", "mask", "problem"))
        for row, (image, mask, problem) in enumerate(zip(*columns, strict=True)):
            known = (rules, self.labels.key(row), self.index.pictures.stamp(row), problem)
            identity = blake2b(repr(known).encode(), digest_size=8).hexdigest()
            key = files.unused(image or f"row {row + 1} (no image_path)", taken)
            yield Item(key, PairRef(str(self.index.root), row, image, mask, problem, identity))

    def estimated_count(self) -> int:
        """How many rows there are."""
        return len(self.index)


def _reopen_changed(out: Path, source: PairSource) -> None:
    """Take up again what was checked as another file, or with another mask; to be called before a run.

    What DATA no longer has is taken up, too: whatever has not ended and is not there any more, a run forgets.
    """
    if not Journal.is_in(out):
        return
    now = {item.key: item.ref.identity for item in source.items()}
    with RunLock(out / STATE_FOLDER), Journal.open(out) as journal:
        changed = [row.key for row in journal.rows() if now.get(row.key) != row.meta.get(LOOKED_AT)]
        if changed:
            journal.reopen(changed)
