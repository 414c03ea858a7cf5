"""`lightmill train reid`: a pack of crops in, an embedder with its thresholds out."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from lightmill.data.augment import Augment
from lightmill.data.fold_file import load_folds, save_folds
from lightmill.data.folds import Fold, open_set_folds
from lightmill.data.leaks import check_leaks, refuse_leaks
from lightmill.data.pack import CropPack
from lightmill.engine.items import Json
from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.engine.progress import open_progress
from lightmill.engine.run import STATE_FOLDER
from lightmill.engine.wording import count_of, duration
from lightmill.errors import ChangedConfig, InputError, ItemError, RunError, UsageError
from lightmill.models.embedder_files import SIDES
from lightmill.ops.thresholds import Chosen, parse_target
from lightmill.recipes.base import Options, SizeOption, listed, repeated, run_only, sides
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.reid_judge import QUICK_GALLERY, QUICK_HELD, Answers, Judge, choose, rate_of
from lightmill.recipes.reid_report import ReidReport
from lightmill.recipes.training import (
    DevicesOption,
    Duration,
    Telling,
    TrainingEnded,
    devices_field,
    nothing,
    number_of_devices,
)
from lightmill.train.checkpoints import STATE
from lightmill.train.options import ReidOptions, ReidSettings
from lightmill.train.threads import wait_patiently
from lightmill.types import Size

if TYPE_CHECKING:
    import polars as pl

    from lightmill.data.reid import ReidData
    from lightmill.train.reid import SharedOut, Trained

FOLDS = "folds.parquet"  # the split, in OUT
_OPTIONS = "training.json"  # what the training in OUT was given, in its folder of state
_FREE = {"input", "target", "allow_leaks", "patience", "tensorboard"}  # may differ when it goes on: no step changes
_AT_ONCE = 256  # crops that are in memory at once
_TOGETHER = 64  # … and go through the network together


def _checked_target(text: str) -> str:
    try:
        parse_target(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return text


TargetOption = Annotated[str, AfterValidator(_checked_target)]


class TrainReid(ReidSettings, Options):
    """Train an embedder that tells players apart, and knows when it sees nobody it knows.

    PACK is what `lightmill crop` made. Groups of it are held out, and some players with them; the best epoch on these
    is OUT/best, with a threshold for every view: what `lightmill identify --checkpoint OUT/best` takes.
    """

    name: ClassVar[str] = "train reid"
    input_name: ClassVar[str] = "pack"
    input_help: ClassVar[str] = "A crops.arrow of `lightmill crop`, or the folder that holds it."

    size: Annotated[SizeOption, sides(SIDES)] = Field(
        Size(128, 256), description="WIDTHxHEIGHT that crops are brought to."
    )
    mirror: float = Field(0.0, ge=0, le=1, description="Share of crops that are mirrored: not where numbers matter.")
    augment: float = Field(1.0, ge=0, le=1, description="How much crops are varied, from 0 (not at all) to 1.")
    identities: int = Field(16, ge=2, description="Players in a batch, where there are so many …")
    samples: int = Field(4, ge=2, description="… crops of each, of several views where there are …")
    negatives: int = Field(8, ge=0, description="… and crops of nobody, where the pack has such.")
    within: str | None = Field(None, description="A column, such as group, that the players of a batch have in common.")
    views: tuple[str, ...] = repeated(
        description="Train on players seen in all of these at one instant, as side,top: for --consistency-weight."
    )
    folds: int = Field(5, ge=2, description="Into how many parts the groups are dealt …")
    fold: int = Field(0, ge=0, description="… and which of them is held out, from 0.")
    unknown: int = Field(4, ge=0, description="So many players are never trained on: thresholds are to refuse them.")
    hold: tuple[str, ...] = repeated(
        description="Columns of the pack whose values are held out together, as in quarter (default: each group)."
    )
    block: int | None = Field(None, ge=1, description="Hold out blocks of so many instants, not whole groups …")
    gap: float | None = Field(None, gt=0, description="… so far, in the unit of time, from what is trained on.")
    target: TargetOption = Field(
        "fpir=0.01", description="What thresholds meet: fpir=RATE, f1, or cost=MISS,FALSE,WRONG."
    )
    allow_leaks: bool = Field(False, description="Train although held-out crops are, or nearly are, trained on.")
    max_time: Duration | None = run_only(None, description="Stop after this long, as in 10m; the rate is down by then.")
    readers: int = run_only(2, ge=0, description="Processes that read crops, for each device; 0: none beside it.")
    device: Literal["auto", "cpu", "cuda"] = run_only("auto", description="auto: CUDA where there is one.")
    devices: DevicesOption = devices_field("--identities players")

    _lists = listed("views", "hold")

    def run(self, input: Path | str, out: Path | str) -> TrainingEnded:
        """Train, or go on. Raises InputError, UsageError, ModelError, MissingExtra, OutputError, ChangedConfig."""
        cv2.setNumThreads(1)  # before anything uses them: readers are forked from this process
        wait_patiently()
        from lightmill.train.reid import fit

        began, out = time.monotonic(), Path(out)
        pack = CropPack.open(Path(input))
        table = pack.table
        fold = self._fold(table)
        _refuse_place(out)
        bound = {name: value for name, value in self.config(Path(input)).items() if name not in _FREE}
        if not self.fresh:
            _refuse_change(out, bound, table)
        if not self.allow_leaks:
            refuse_leaks(check_leaks(fold, table, pack=pack, threads=self.threads or os.cpu_count() or 1), fold)
        quick = Judge.of(table, fold, most=QUICK_GALLERY, held=QUICK_HELD)
        with RunLock(out / STATE_FOLDER):
            save_folds(out / FOLDS, [fold], table)
            Outputs(out).write(f"{STATE_FOLDER}/{_OPTIONS}", (json.dumps(bound, indent=2) + "\n").encode())
            say = nothing if self.progress == "none" else open_progress(self.progress).say
            data = self._data(pack, fold, quick)
            told = Telling(say, epochs=self.epochs, max_time_s=self.max_time, shown=_is_shown, note=data.epoch_note)
            try:
                trained = fit(
                    self._options(pack),
                    self._shares(data, quick),
                    out,
                    fresh=self.fresh,
                    on_epoch=told.epoch,
                    on_step=told.step,
                )
            except KeyboardInterrupt:
                return TrainingEnded(
                    exit_code=130, summary=f"interrupted: the same command goes on with {out}", remarks=(*fold.remarks,)
                )
            say("choosing thresholds on held-out groups")
            return self._judged(pack, fold, Judge.of(table, fold), trained, out, began=began)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _fold(self, table: "pl.DataFrame") -> Fold:
        if self.fold >= self.folds:
            raise UsageError(f"--fold {self.fold}: of {self.folds} folds the last is {self.folds - 1}")
        made = open_set_folds(
            table,
            folds=self.folds,
            unknown_per_fold=self.unknown,
            seed=self.seed,
            by=list(self.hold) or "group",
            block=self.block,
            gap=self.gap,
        )
        return made[self.fold]

    def _options(self, pack: CropPack) -> ReidOptions:
        if pack.expand < 1:
            raise UsageError(
                f"{pack.path} has crops of {pack.expand:g} times their boxes, and an embedder takes 1 and more; "
                "cut it again with --expand 1.2"
            )
        given = {name: getattr(self, name) for name in ReidSettings.model_fields}
        return ReidOptions(
            **given,
            size_hw=(self.size.height, self.size.width),
            expand=pack.expand,
            augment=replace(Augment().strength(self.augment), mirror=self.mirror),
            max_time_s=self.max_time,
            device=chosen_device(self.device),
            devices=number_of_devices(self.devices, self.device),
        )

    def _data(self, pack: CropPack, fold: Fold, judge: Judge) -> "ReidData":
        from lightmill.data.reid import ReidData

        return ReidData(
            pack,
            train=fold.train_side,
            val=judge.rows,
            size_hw=(self.size.height, self.size.width),
            identities=min(self.identities, len(set(pack.table["label"][fold.train]))),
            samples=self.samples,
            negatives=self.negatives if len(fold.train_negatives) else 0,
            within=self.within,
            views=self.views or None,
            workers=self.readers,
            seed=self.seed,
        )

    def _shares(self, data: "ReidData", judge: Judge) -> "SharedOut":
        from lightmill.train.reid import SharedOut

        score = _Score(judge, rate_of(parse_target(self.target)))
        return SharedOut(data=data, score=score, best_by="oscr" if judge.is_open else "rank_1")

    def _judged(
        self, pack: CropPack, fold: Fold, judge: Judge, trained: "Trained", out: Path, *, began: float
    ) -> TrainingEnded:
        """Thresholds into the checkpoint, plots and the report beside it."""
        from lightmill.models.embedder import CropEmbedder
        from lightmill.models.embedder_files import read_config, update_config

        embedder = CropEmbedder(trained.best, at_once=_TOGETHER)
        embedded = embed(embedder, [pack_pixels(pack, row) for row in judge.rows.tolist()], chosen_device(self.device))
        crops, joined = judge.of_crops(embedded), judge.of_tracklets(embedded)
        rate = rate_of(parse_target(self.target))
        chosen = self._thresholds(joined)
        figures = {
            "crops": crops.figures(fpir=rate) | judge.retrieval(embedded),
            "tracklets": joined.figures(fpir=rate),
        }
        config = read_config(trained.best)
        thresholds = {view: one.threshold for view, one in chosen.items()}
        update_config(trained.best, config.model_copy(update={"thresholds": thresholds}))
        told = {
            "command": self.name,
            "target": self.target,
            "thresholds": thresholds,
            "held_out": figures,
            "held_out_groups": list(fold.held_out_groups),
            "unknown_labels": list(fold.unknown_labels),
            "epochs": trained.epochs,
            "steps": trained.steps,
            "ended": trained.ended,
        }
        outputs = Outputs(out)
        outputs.write("scores.json", (json.dumps(told, indent=2) + "\n").encode())
        report = ReidReport(fold=fold, judge=judge, crops=crops, tracklets=joined, chosen=chosen, figures=figures)
        for name, text in report.plots().items():
            outputs.write(name, text.encode())
        outputs.write("report.html", report.html(trained.history, options=self, pack=pack).encode())
        return _ended(trained, figures, thresholds, fold, out, wall_s=time.monotonic() - began)

    def _thresholds(self, answers: Answers) -> Mapping[str, Chosen]:
        """Empty where nobody unknown was held out: then there is nothing to choose them by."""
        return choose(answers, parse_target(self.target)) if answers.known.any() and not answers.known.all() else {}


@dataclass(frozen=True, eq=False)
class _Score:
    """The figures of an epoch, at a rate of false positives."""

    judge: Judge
    fpir: float

    def __call__(self, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> Mapping[str, float]:
        if not np.isfinite(embeddings).all():
            raise RunError("embeddings are no numbers any more; try a lower --rate, or --amp off")
        ordered = np.empty_like(embeddings)
        ordered[rows] = embeddings
        return self.judge.of_crops(ordered).figures(fpir=self.fpir)


def _ended(
    trained: "Trained",
    figures: Mapping[str, Mapping[str, float]],
    thresholds: Mapping[str, float],
    fold: Fold,
    out: Path,
    *,
    wall_s: float,
) -> TrainingEnded:
    """What is said at the end."""
    told = [
        f"held out, {what}: " + ", ".join(f"{name} {value:.3f}" for name, value in of.items())
        for what, of in figures.items()
    ]
    at = ", ".join(f"{view or 'all'} {value:.3f}" for view, value in thresholds.items())
    warnings = () if at else ("no threshold was chosen: nobody unknown was held out (--unknown)",)
    summary = (
        f"done: {count_of(trained.epochs, 'epoch')}, {trained.steps:,} steps ({trained.ended}) "
        f"in {duration(wall_s)}\ncheckpoint: {trained.best}\nreport: {out / 'report.html'}"
    )
    remarks = (*fold.remarks, *told, *([f"thresholds: {at}"] if at else []))
    return TrainingEnded(exit_code=0, summary=summary, remarks=remarks, warnings=warnings)


def _is_shown(name: str) -> bool:
    return name.startswith(("loss", "val_"))


def _refuse_place(out: Path) -> None:
    """Raises UsageError where OUT holds a run over pictures: both would write report.html there."""
    if (out / STATE_FOLDER / "journal.db").exists():
        raise UsageError(f"{out} holds a run of another recipe; choose another OUT for the training")


def _refuse_change(out: Path, options: Mapping[str, Json], table: "pl.DataFrame") -> None:
    """Raises ChangedConfig where OUT holds a training with other options, or on other crops."""
    if not (out / STATE).is_file():  # nothing was learnt yet
        return
    rest = "give the same to go on, choose another OUT, or start anew with --fresh"
    try:
        was = json.loads((out / STATE_FOLDER / _OPTIONS).read_bytes())
        load_folds(out / FOLDS, table)
    except FileNotFoundError:
        was = options
    except (InputError, ValueError) as error:
        raise ChangedConfig(f"{out} holds a training on other crops ({error}); {rest}") from None
    changes = [
        f"{name} was {was.get(name)}, now {options.get(name)}"
        for name in {**was, **options}
        if was.get(name) != options.get(name)
    ]
    if changes:
        raise ChangedConfig(f"{out} holds a training with other options: {'; '.join(changes)}; {rest}")


def embed(embedder: Any, crops: Sequence[Callable[[], NDArray[np.uint8]]], device: str) -> NDArray[np.float32]:
    """[n, D] of crops that are read as they are needed."""
    embedder.load(device)
    try:
        return np.concatenate(
            [
                np.stack(embedder([read() for read in crops[start : start + _AT_ONCE]]))
                for start in range(0, len(crops), _AT_ONCE)
            ]
        )
    finally:
        embedder.unload()


def pack_pixels(pack: CropPack, row: int) -> Callable[[], NDArray[np.uint8]]:
    """Reads one crop. Raises UsageError where it is damaged: a held-out crop is never replaced by another."""

    def read() -> NDArray[np.uint8]:
        try:
            return pack.pixels(row)
        except ItemError as error:
            raise UsageError(f"crop {row} of {pack.path} cannot be read ({error}); cut the pack again") from error

    return read
