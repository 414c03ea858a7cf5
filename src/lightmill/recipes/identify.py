"""Who is who in boxes: embedded, tracked, and held against a gallery, where most may be nobody of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lightmill.data.pack import CropPack
from lightmill.engine.items import MADE, Json, Status
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.engine.run import STATE_FOLDER, Job, RunResult, run
from lightmill.engine.wording import count_of
from lightmill.errors import UsageError
from lightmill.models.embedder import CropEmbedder
from lightmill.ops.recognition import NOBODY
from lightmill.recipes.base import phrases, repeated, run_only
from lightmill.recipes.boxed import Boxed
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.identified import (
    COLUMNS,
    Album,
    Identities,
    Rules,
    as_json,
    beside,
    cells,
    figures,
    identify,
    thresholds_for,
)
from lightmill.recipes.identify_report import Pictures, sections
from lightmill.recipes.identifying import (
    CROPS_TOGETHER,
    DROPPED,
    Cutter,
    PackSource,
    Seen,
    frame_pipeline,
    pack_pipeline,
    read_seen,
)
from lightmill.sources import rows_back
from lightmill.sources.boxes import BoxSource


class Identify(Boxed):
    """Say who is in boxes: a label of the gallery or unknown, and never one label twice in a frame.

    INPUT is a table with a row a box (x, y, w, h in px of a frame). Boxes are cut as the crops of the gallery were,
    embedded once, joined into tracklets, and compared. The table comes back with label, score and runner-up. The
    same command with another threshold, or other rules of tracking, uses the embeddings that are there.
    """

    name: ClassVar[str] = "identify"
    table_suffix: ClassVar[str] = "identities"
    input_name: ClassVar[str] = "table"

    checkpoint: tuple[str, ...] = repeated(
        description="A folder of `lightmill train reid`, or a hub id; several are averaged."
    )
    gallery: tuple[str, ...] = repeated(description="A pack of `lightmill crop` with those who are known.")
    crops: bool = Field(False, description="Files are crops already, one a row: nothing is cut.")
    unknown: str = Field("", description="How nobody known is written, in labels read and given, as in -1.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model works; auto: CUDA where there is one."
    )
    gallery_most: int = Field(200, ge=1, description="Crops of the gallery to look at, of each label and view.")
    threshold: float | None = run_only(
        None, ge=-1, le=1, description="Least similarity to be known (default: the checkpoint's, by view)."
    )
    track: Literal["on", "off"] = run_only("on", description="Join boxes into tracklets, or judge each by itself.")
    max_gap: float = run_only(5.0, gt=0, allow_inf_nan=False, description="Frames that a tracklet may be unseen for.")
    appearance: float = run_only(0.4, ge=0, le=1, description="How much looks count in tracking; the rest is place.")
    points: int = run_only(1, ge=1, description="Points that stand for a label and view: means of that many clusters.")
    nobodies: int = run_only(
        0, ge=0, description="Refuse what is more like the N nearest crops of nobody than like its label."
    )

    @field_validator("checkpoint", "gallery", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Texts with commas, lists of them, and paths as Python has them."""
        several = (value,) if isinstance(value, Path) else value
        return phrases([*map(str, several)] if isinstance(several, list | tuple) else several)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Embed the gallery, in a run of its own that is continued like any other; then the boxes."""
        task = self._task(Path(input), Path(out))
        looked = run(task.gallery_job, replace(self.run_options(), limit=None, max_failures=None, trace=None))
        if looked.outcome != "finished":
            return looked
        return run(task.job, self.run_options(), retry=retry)

    def job(self, input: Path, out: Path) -> Job:
        return self._task(input, out).job

    def _task(self, input: Path, out: Path) -> "_Task":
        if not self.checkpoint:
            raise UsageError("--checkpoint is missing: the folder of a `lightmill train reid`")
        if not self.gallery:
            raise UsageError("--gallery is missing: a pack of `lightmill crop` with those who are known")
        source = self.boxes_of(input)
        models = [CropEmbedder(_best_of(name), at_once=CROPS_TOGETHER) for name in self.checkpoint]
        device = chosen_device(self.device)
        for model in models:
            model.check(device)
        packs = [CropPack.open(Path(pack)) for pack in self.gallery]
        expand = _expand(models, packs)
        thresholds_for(source.table.views, [model.config.thresholds for model in models], said=self.threshold)
        return _Task(
            recipe=self,
            input=input,
            out=out,
            device=device,
            source=source,
            models=models,
            album=Album.of(packs, unknown=self.unknown),
            cutter=Cutter(boxes=source.table.boxes, expand=expand, whole=self.crops, max_pixels=self.max_pixels),
        )

    def rules(self) -> Rules:
        """How labels are given."""
        return Rules(
            threshold=self.threshold,
            crops=self.crops,
            track=self.track == "on",
            max_gap=self.max_gap,
            appearance=self.appearance,
            points=self.points,
            nobodies=self.nobodies,
        )

    def absolute(self, options: dict[str, Json]) -> dict[str, Json]:
        found = super().absolute(options)
        for name in ("checkpoint", "gallery"):
            if isinstance(given := found.get(name), list):
                found[name] = [str(Path(str(one)).resolve()) if Path(str(one)).exists() else one for one in given]
        return found


def _best_of(name: str) -> str:
    """The checkpoint that is meant: of the OUT of a training its `best`."""
    is_training = not Path(name, "config.json").exists() and Path(name, "best", "config.json").is_file()
    return str(Path(name, "best")) if is_training else name


def _expand(models: Sequence[CropEmbedder], packs: Sequence[CropPack]) -> float:
    """How much larger than their boxes all crops are. Raises UsageError where it is not the same for all."""
    found = {f"the checkpoint {model.name}": model.config.expand for model in models}
    found |= {f"the gallery {pack.path}": pack.expand for pack in packs}
    (first, expand), *others = found.items()
    for what, other in others:
        if abs(other - expand) > 1e-6:
            raise UsageError(
                f"{first} was made for crops {expand:g} times as large as their boxes, and {what} for {other:g}; "
                "cut the gallery again with that --expand, or give checkpoints of one"
            )
    return expand


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """One command with all that it opened."""

    recipe: Identify
    input: Path
    out: Path
    device: str
    source: BoxSource
    models: list[CropEmbedder]
    album: Album
    cutter: Cutter

    @cached_property
    def _about_gallery(self) -> dict[str, Json]:
        versions: list[Json] = [model.version for model in self.models]
        packs: list[Json] = [_digest(pack.path) for pack in self.album.packs]
        return {"models": versions, "packs": packs, "most": self.recipe.gallery_most, "unknown": self.recipe.unknown}

    @property
    def _gallery_out(self) -> Path:
        """A folder for every gallery and set of models: another one leaves what is there alone."""
        about = json.dumps(self._about_gallery, sort_keys=True).encode()
        return self.out / STATE_FOLDER / f"gallery-{blake2b(about, digest_size=6).hexdigest()}"

    @property
    def gallery_job(self) -> Job:
        (self.out / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        crops = self.album.chosen(self.recipe.gallery_most)
        return Job(
            recipe=f"{self.recipe.name} (gallery)",
            version=self.recipe.version(),
            config=self._about_gallery,
            command=self.recipe.command(self.input),
            source=PackSource(self.album.packs, crops, f"gallery of {count_of(len(crops), 'crop')}"),
            out=self._gallery_out,
            make_pipeline=partial(pack_pipeline, self.models),
            device=self.device,
        )

    @property
    def job(self) -> Job:
        recipe = self.recipe
        return Job(
            recipe=recipe.name,
            version=recipe.version(),
            config={**recipe.config_of(self.input, self.source.table), "gallery": self._about_gallery},
            command=recipe.command(self.input),
            source=self.source,
            out=self.out,
            make_pipeline=partial(frame_pipeline, self.models, self.cutter, colours=recipe.label is not None),
            device=self.device,
            export=self.export,
        )

    def export(self, outputs: Outputs, journal: Journal) -> list[str]:
        """The table with labels; and, where any box has an embedding, identities.json and what the report shows."""
        seen, kept = self._embeddings(journal)
        found = self._identities(seen, kept) if len(seen.rows) else None
        table = self.source.table
        name = f"{self.input.stem}_with_{self.recipe.table_suffix}.csv"
        outputs.write_if_changed(name, rows_back(table.text, self._cells(found, journal), columns=COLUMNS))
        if found is None:
            journal.remember(sections=[])
            return [name]
        truth = self._truth(seen)
        models: list[Json] = [{"model": model.name, "version": model.version} for model in self.models]
        told: dict[str, Json] = {"models": models, **figures(found, truth=truth)}
        if truth is not None and (truth != NOBODY).any():
            others = beside(table, seen, self.album, kept, rules=self.recipe.rules(), truth=truth)
            told |= {"beside": others} if others else {}
        outputs.write_if_changed("identities.json", iter([as_json(told)]))
        pictures = Pictures(table=table, cutter=self.cutter, album=self.album)
        shown: list[Json] = [[title, html] for title, html in sections(found, pictures, truth=truth, told=told)]
        journal.remember(sections=shown)
        return [name, "identities.json"]

    def _embeddings(self, journal: Journal) -> tuple[Seen, Seen]:
        """Of the table's boxes, and of the gallery's crops."""
        count = len(self.models)
        with Journal.read(self._gallery_out) as gallery:
            kept = read_seen(self._gallery_out, gallery, models=count)
        return read_seen(self.out, journal, models=count), kept

    def _identities(self, seen: Seen, kept: Seen) -> Identities:
        thresholds = [model.config.thresholds for model in self.models]
        return identify(self.source.table, seen, self.album, kept, rules=self.recipe.rules(), thresholds=thresholds)

    def _truth(self, seen: Seen) -> NDArray[np.str_] | None:
        """[n] who it is, empty for nobody known; None where the table does not say."""
        if self.recipe.label is None:
            return None
        said = np.array(self.source.table.labels, np.str_)[seen.rows]
        return np.where(said == self.recipe.unknown, NOBODY, said)

    def _cells(self, found: Identities | None, journal: Journal) -> Iterator[tuple[str, ...]]:
        """What the table gets for every row."""
        table = self.source.table
        told = cells(found, unknown=self.recipe.unknown) if found else {}
        frames = {row.key: row for row in journal.rows()}
        nothing = ("",) * (len(COLUMNS) - 2)
        for row in range(len(table)):
            if row in table.problems:
                yield (*nothing, Status.FAILED, table.problems[row])
                continue
            frame = frames.get(table.frames[table.frame[row]])
            if frame is None:
                yield (*nothing, "", "")
            elif row in told:
                yield (*told[row], frame.status, frame.error)
            else:
                yield (*nothing, *_without(frame, row))


def _without(frame: Row, row: int) -> tuple[str, str]:
    """Status and error of a box that has no embedding."""
    dropped = frame.meta.get(DROPPED)
    if frame.status in MADE and isinstance(dropped, dict):
        return Status.FILTERED, str(dropped.get(str(row + 1), ""))
    return frame.status, frame.error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, partial(blake2b, digest_size=16)).hexdigest()
