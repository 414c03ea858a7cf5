"""`lightmill train segment`: pictures and their masks in, a light network that segments out."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lightmill.data.index import Index
from lightmill.data.labels import BACKGROUND, Labels, open_labels
from lightmill.data.segment_augment import SegmentAugment
from lightmill.data.splits import Splits, is_pattern, refuse_problems, split_rows
from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.engine.progress import open_progress
from lightmill.engine.run import STATE_FOLDER, RunOptions
from lightmill.engine.wording import count_of, duration
from lightmill.errors import ModelError
from lightmill.models.segmenters import open_segmenter
from lightmill.models.student import SIDES
from lightmill.recipes.base import BudgetOption, SizeOption, listed, repeated, run_only, sides
from lightmill.recipes.by_data import class_shares, class_weights, fitting_size, rows_digest, student_names
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.finding import FOUND, Findings, found_batch, found_rate
from lightmill.recipes.labelled import MaskOptions, index_of, refuse_missing
from lightmill.recipes.masking import located
from lightmill.recipes.places import Point
from lightmill.recipes.segment_report import SegmentReport
from lightmill.recipes.teaching import LabelsFrom, Pictures, Taught, lesson, one_or_several, pictures_of, teach
from lightmill.recipes.training import (
    DevicesOption,
    Duration,
    Telling,
    TrainingEnded,
    devices_field,
    nothing,
    number_of_devices,
)
from lightmill.sources import files
from lightmill.train.segment_options import SegmentOptions, SegmentSettings
from lightmill.train.threads import wait_patiently
from lightmill.types import Budget

if TYPE_CHECKING:
    from lightmill.data.segments import SegmentData
    from lightmill.recipes.teaching import Lesson
    from lightmill.train.loop import Trained

Figures: TypeAlias = Mapping[str, float]

SAMPLES, TEACHER = "samples", "teacher"
ONNX, ONNX_NEEDED = "best.onnx", ("onnx", "onnxruntime")
_NO_END = 1_000_000  # epochs, where only the clock ends a training


class TrainSegment(SegmentSettings, MaskOptions):
    """Train a light network that segments pictures as their masks do.

    DATA is a folder with images/ and masks/ (or train/images, train/masks, val/images, ...), with YOLO's labels/ or
    COCO JSON, or a table with image_path and mask_path. OUT/best is the best epoch on what is held out: what
    `lightmill mask --model OUT/best` runs.
    """

    name: ClassVar[str] = "train segment"

    resolution: Annotated[SizeOption, sides(SIDES)] | None = Field(
        None, description="WIDTHxHEIGHT that pictures are brought to (default: their shape, about 512 px a side)."
    )
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        8, description="Pictures in a batch; auto: what fits into the memory of a GPU, or is fast on a CPU."
    )
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(  # type: ignore[assignment]
        # a number by the time that anything is trained
        2e-3,
        description="The learning rate (of AdamW) at its highest; auto: found by trying, in a minute or so.",
    )
    augment: float = Field(1.0, ge=0, le=1, description="How much pictures are varied, from 0 (not at all) to 1.")
    group: str | None = Field(
        None,
        description="What is held out together: folder, a pattern on the path as in (seq\\d+)_, or a table's column.",
    )
    teacher: str | None = Field(
        None,
        description="Learn from this too: builtin:salient, a checkpoint of `train segment`, a folder in the layout of "
        "transformers, or a hub id, as of `mask --model`.",
    )
    teacher_prompt: tuple[str, ...] = repeated(
        description="What it is to find, in words, or a class of it (default, of several classes: their names)."
    )
    teacher_points: tuple[Point, ...] = repeated(
        description="For SAM 2: x,y on the thing, as shares of width and height; x,y,0 beside it."
    )
    labels: LabelsFrom = Field(
        "masks", description="teacher: DATA is a folder of pictures without masks, and they show what it says."
    )
    val_share: float = Field(
        0.2, gt=0, lt=1, description="Share that is held out where DATA does not say what is to be."
    )
    cache: Literal["auto", "off"] = run_only(
        "auto", description="auto: keep decoded pictures in OUT, in one file; off: decode them in every epoch."
    )
    max_bad: BudgetOption = run_only(
        Budget(share=0.001), description="Stop when more pictures than this cannot be read: 20, or 0.1%."
    )
    max_time: Duration | None = run_only(
        None, description="Stop after this long, as in 10m; the rate is down by then. Without --epochs, only then."
    )
    onnx: bool = run_only(
        False, description="Write OUT/best.onnx too, for programs without torch; of a training that is done as well."
    )
    readers: int = run_only(2, ge=0, description="Processes that read pictures, for each device; 0: none beside it.")
    device: Literal["auto", "cpu", "cuda"] = run_only("auto", description="auto: CUDA where there is one.")
    devices: DevicesOption = devices_field("--batch pictures")

    _texts = listed("teacher_prompt")
    _points = field_validator("teacher_points", mode="before")(one_or_several)

    def run(self, input: Path | str, out: Path | str) -> TrainingEnded:
        """Train, or go on. Raises InputError, UsageError, ModelError, MissingExtra, OutputError, ChangedConfig."""
        cv2.setNumThreads(1)  # before anything uses them: readers are forked from this process
        wait_patiently()
        from lightmill.train.loop import need_packages
        from lightmill.train.segment import NEEDED, SharedOut, fit

        need_packages((*NEEDED, *(ONNX_NEEDED if self.onnx else ())))
        began, input, out = time.monotonic(), Path(input), Path(out)
        refuse_missing(input)
        with RunLock(out / STATE_FOLDER):
            say = nothing if self.progress == "none" else open_progress(self.progress).say
            try:
                index, labels, taught = self._learnt_from(input, out, say)
            except KeyboardInterrupt:
                return _interrupted(out)
            watch = _Watch(index)
            splits = split_rows(index, group=self._rule, val_share=self.val_share, seed=self.seed)
            options = self._options(index, labels, splits, say, taught)
            found = Findings(out / STATE_FOLDER / FOUND, fresh=self.fresh)
            batch = found.value("batch", self.batch, lambda: found_batch(options, len(splits.train), say))
            data = self._data(index, labels, splits, options, out, batch=int(batch))
            asked = None if taught is None else lesson(taught, index, splits, options, from_it=self.labels == "teacher")
            teacher = None if asked is None else asked.teacher
            shares = SharedOut(data=data, rows=rows_digest(index, labels, splits), teacher=teacher)
            rate = found.value("rate", self.rate, lambda: found_rate(options, shares, say))
            options = options.model_copy(update={"rate": rate, "batch": int(batch)})
            say(
                f"{count_of(len(splits.train), 'picture')} to train on, {len(splits.val):,} held out; "
                f"{self._classes_said(options.names)}; {options.size_hw[1]}x{options.size_hw[0]} px"
            )
            told = Telling(
                say,
                epochs=options.epochs if options.epochs < _NO_END else None,
                max_time_s=self.max_time,
                shown=_SHOWN.__contains__,
                note=lambda: "; ".join(filter(None, [data.epoch_note(), watch.note()])),
            )
            try:
                trained = fit(options, shares, out, fresh=self.fresh, on_epoch=told.epoch, on_step=told.step)
            except KeyboardInterrupt:
                return _interrupted(out)
            remarks = (*index.remarks, *splits.remarks, *data.remarks, *(taught.remarks if taught else ()))
            return self._judged(data, options, trained, out, asked=asked, remarks=remarks, began=began)

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def _rule(self) -> str:
        return self.group if self.group and is_pattern(self.group) else ""

    def _learnt_from(self, input: Path, out: Path, say: Callable[[str], None]) -> "tuple[Index, Labels, Taught | None]":
        """The pictures and what they show; and what a teacher says that they do. Raises KeyboardInterrupt."""
        if self.teacher is None:
            index = index_of(input, out, group=self.group or "", threads=self.threads)
            return index, self._labels(index), None
        folder = out / STATE_FOLDER / TEACHER
        if self.labels == "masks":
            index = index_of(input, out, group=self.group or "", threads=self.threads)
            labels = self._labels(index)
            paths = {index.pictures.name(row): Path(index.pictures.path(row)) for row in index.usable.tolist()}
            pictures = Pictures(paths, f"data set {files.shown(index.root)}")
            return index, labels, self._taught(pictures, student_names(labels), folder, say)
        found = self.classes or self.teacher_prompt or ("foreground",)
        names = found if len(found) == 1 or BACKGROUND in found else (BACKGROUND, *found)
        taught = self._taught(pictures_of(input, out, threads=self.threads), names, folder, say)
        index = index_of(taught.table(Outputs(folder)), out, group=self.group or "", threads=self.threads)
        return index, open_labels(index, classes=names if len(names) > 1 else (BACKGROUND, *names)), taught

    def _taught(self, pictures: Pictures, names: tuple[str, ...], folder: Path, say: Callable[[str], None]) -> Taught:
        assert self.teacher is not None, "asked only where there is one"
        wanted = tuple(name for name in names if name != BACKGROUND) if len(names) > 1 else ()
        takes_words = not self.teacher.startswith("builtin:") and not self.teacher_points
        segmenter = open_segmenter(
            located(self.teacher),
            prompts=self.teacher_prompt or (wanted if takes_words else ()),
            points=self.teacher_points,
            options="--teacher-",
        )
        say(f"asking the teacher about {count_of(len(pictures.paths), 'picture')}")
        options = RunOptions(threads=self.threads, fresh=self.fresh, progress=self.progress)
        taught, result = teach(segmenter, pictures, folder, names=names, device=self.device, options=options)
        if result.outcome == "interrupted":
            raise KeyboardInterrupt
        return taught

    def _labels(self, index: Index) -> Labels:
        refuse_problems(index)
        return open_labels(
            index,
            classes=self.classes or None,
            ignore=self.ignore,
            binary=self.binary or None,
            boxes=self.boxes_as_masks,
        )

    def _options(
        self, index: Index, labels: Labels, splits: Splits, say: Callable[[str], None], taught: Taught | None
    ) -> SegmentOptions:
        given = {name: getattr(self, name) for name in SegmentSettings.model_fields}
        if self.rate == "auto":
            del given["rate"]
        if self.max_time is not None and "epochs" not in self.model_fields_set:
            given["epochs"] = _NO_END
        names = student_names(labels)
        weighted = self.class_weights != "off" and (self.cross_entropy or self.focal)
        if weighted:
            say("counting the classes of masks")
        return SegmentOptions(
            **given,
            names=names,
            background=(BACKGROUND,) if BACKGROUND in names else (),
            weights=self._weights(index, labels, splits) if weighted else (),
            size_hw=self._size_hw(index, splits.train),
            augment=SegmentAugment().strength(self.augment),
            taught_by="" if taught is None else taught.version,
            max_time_s=self.max_time,
            device=chosen_device(self.device),
            devices=number_of_devices(self.devices, self.device),
        )

    def _size_hw(self, index: Index, rows: NDArray[np.int64]) -> tuple[int, int]:
        if self.resolution is not None:
            return self.resolution.height, self.resolution.width
        return fitting_size(*(index.arrow[name].to_numpy()[rows] for name in ("height", "width")))

    def _weights(self, index: Index, labels: Labels, splits: Splits) -> tuple[float, ...]:
        shares = class_shares(index, labels, splits.train, threads=self.threads or 2)
        return class_weights(shares, len(labels.names), power=0.5 if self.class_weights == "root" else 1.0)

    def _data(
        self, index: Index, labels: Labels, splits: Splits, options: SegmentOptions, out: Path, *, batch: int
    ) -> "SegmentData":
        from lightmill.data.segments import SegmentData

        return SegmentData(
            index,
            labels,
            train=splits.train,
            val=splits.val,
            size_hw=options.size_hw,
            batch_size=batch,
            cache=self.cache,
            cache_folder=out / STATE_FOLDER / SAMPLES,
            max_bad=self.max_bad,
            workers=self.readers,
            seed=self.seed,
        )

    @staticmethod
    def _classes_said(names: tuple[str, ...]) -> str:
        return f"one class, {names[0]}" if len(names) == 1 else count_of(len(names), "class", "classes")

    def _judged(
        self,
        data: "SegmentData",
        options: SegmentOptions,
        trained: "Trained",
        out: Path,
        *,
        asked: "Lesson | None",
        remarks: tuple[str, ...],
        began: float,
    ) -> TrainingEnded:
        """The best network looked at once more, as it is served: its scores into the checkpoint, and the report."""
        from lightmill.models.network_folder import save_settings
        from lightmill.models.student import read_student
        from lightmill.train.segment import held_out
        from lightmill.train.segment_score import judge

        valid = held_out(data)
        judged = None
        if valid:
            judged = judge(
                trained.best,
                valid,
                device=options.device,
                threads=self.threads or 2,
                teacher=asked.says if asked and self.labels == "masks" else None,
            )
        figures: Figures = judged.figures if judged else {}
        agreement: Mapping[str, Figures] = judged.agreement if judged else {}
        if judged:
            config = read_student(trained.best)
            save_settings(trained.best, config.model_copy(update={"scores": {**figures}}))
        if asked and judged and self.labels == "teacher":
            agreement = {"agreement_with_teacher": figures}  # there is nothing else to agree with
        told = {
            "command": self.name,
            "held_out": figures,
            **agreement,
            "epochs": trained.epochs,
            "steps": trained.steps,
            "ended": trained.ended,
            "pictures": {"train": len(data.train_set), "val": len(data.val_set or ())},
        }
        outputs = Outputs(out)
        outputs.write("scores.json", (json.dumps(told, indent=2) + "\n").encode())
        report = SegmentReport(
            judged=judged, names=options.names, history=trained.history, agreement=agreement, remarks=remarks
        )
        outputs.write("report.html", report.html(options=self, pictures=len(data.train_set)).encode())
        exported, warnings = self._exported(trained.best, out / ONNX)
        remarks = (*remarks, *exported)
        ended = self._ended(trained, figures, agreement, out, remarks=remarks, wall_s=time.monotonic() - began)
        return replace(ended, warnings=warnings)

    def _exported(self, best: Path, target: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Remarks and warnings on the ONNX file. A network that does not come out as one is trained all the same."""
        if not self.onnx:
            return (), ()
        from lightmill.models.student_export import export_onnx

        try:
            away = export_onnx(best, target)
        except ModelError as error:
            return (), (f"there is no {files.shown(target)}: {error}",)
        return (f"onnx: {files.shown(target)}, whose logits are within {away:.0e} of torch's",), ()

    def _ended(
        self,
        trained: "Trained",
        figures: Figures,
        agreement: Mapping[str, Figures],
        out: Path,
        *,
        remarks: tuple[str, ...],
        wall_s: float,
    ) -> TrainingEnded:
        summary = (
            f"done: {count_of(trained.epochs, 'epoch')}, {trained.steps:,} steps ({trained.ended}) "
            f"in {duration(wall_s)}\ncheckpoint: {trained.best}\nreport: {out / 'report.html'}"
        )
        told = {"held out": figures} | {name.replace("_", " "): of for name, of in agreement.items()}
        lines = (
            f"{name}: " + ", ".join(f"{kind} {value:.3f}" for kind, value in of.items() if "/" not in kind)
            for name, of in told.items()
            if of
        )
        return TrainingEnded(exit_code=0, summary=summary, remarks=(*remarks, *lines))


def _interrupted(out: Path) -> TrainingEnded:
    return TrainingEnded(exit_code=130, summary=f"interrupted: the same command goes on with {out}")


_SHOWN = {"loss", "val_mean_iou", "val_accuracy"}


class _Watch:
    """Whether DATA is still what the index of an earlier start says of it."""

    def __init__(self, index: Index) -> None:
        self._renewal = index.renew_in_background() if index.origin == "loaded" else None

    def note(self) -> str:
        """What has changed, once that is known; said once, "" else."""
        if self._renewal is None or not self._renewal.done:
            return ""
        renewal, self._renewal = self._renewal, None
        changes = renewal.result().changes
        told = {"new": changes.added, "gone": changes.vanished, "changed": changes.changed}
        some = ", ".join(f"{len(paths):,} {how}" for how, paths in told.items() if paths)
        return f"pictures or masks are not as they were at an earlier start ({some})" if some else ""
