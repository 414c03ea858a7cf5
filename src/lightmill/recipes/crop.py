"""Boxes cut out of frames, once for all, into one file that training reads from."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self

import cv2
from pydantic import Field, model_validator

from lightmill.data.pack import PACK_NAME
from lightmill.engine.items import MADE
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunResult
from lightmill.engine.stages import Each, Save, Stage, To
from lightmill.engine.wording import count_of
from lightmill.recipes.base import SizeOption
from lightmill.recipes.boxed import Boxed, CleanOptions, ShareOption, shares_of
from lightmill.recipes.crop_parts import Parts
from lightmill.recipes.crop_tables import LISTING, write_listing, write_table_back
from lightmill.recipes.cropping import Cutter, Encoder, NegativeRule, held_bytes, named_files, note_places
from lightmill.recipes.packing import CropRows, PackForm, crop_count, reopen_lost, write_pack
from lightmill.recipes.pictures import read_picture
from lightmill.sources.boxes import BoxSource, FrameRef
from lightmill.types import Size

RAW_SIZE = Size(128, 256)


class Crop(CleanOptions, Boxed):
    """Cut the boxes of a table out of their frames, into one file for training: each frame is decoded once.

    META is a table with one row a box. OUT/crops.arrow has one row a crop, with everything that the table says of it;
    META comes back with what became of every box.
    """

    name: ClassVar[str] = "crop"
    table_suffix: ClassVar[str] = "crops"

    expand: float = Field(
        1.2, gt=0, le=10, allow_inf_nan=False, description="Enlarge boxes so many times, about their centres."
    )
    store: Literal["jpeg", "raw", "files"] = Field(
        "jpeg", description="crops.arrow of JPEG files, or of raw pixels of one size; or loose JPEG files in OUT/crops."
    )
    quality: int = Field(95, ge=1, le=100, description="Of JPEG files.")
    size: SizeOption | None = Field(
        None, description=f"For --store raw: crops are stretched to it (default: {RAW_SIZE})."
    )
    background_per_frame: int = Field(
        0, ge=0, le=1000, description="Also cut so many boxes a frame that share no pixel with any player's."
    )
    partial_per_box: int = Field(
        0, ge=0, le=100, description="Also cut so many small parts of each box, too small to know anybody by."
    )
    share: ShareOption = Field("0.1,0.25", description="The least and the greatest share of its box that a part has.")
    seed: int = Field(0, ge=0, description="Of background and parts; each frame draws by its own key.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.size is not None and self.store != "raw":
            raise ValueError(f"--size is for --store raw, not {self.store}; leave one of them out")
        if self.clean == "interpolate" and not (self.label and self.time):
            raise ValueError("--clean interpolate needs --label and --time: whose boxes they are, and in which order")
        return self

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work, or what is left of it."""
        out = Path(out)
        if self.store != "files" and not self.fresh and retry is None:
            reopen_lost(out, self._parts(out), store=self.store)
        result = super().run(input, out, retry=retry)
        return replace(result, remarks=(*result.remarks, *remarks(out))) if result.outcome == "finished" else result

    def job(self, input: Path, out: Path) -> Job:
        source = self.boxes_of(input)
        negatives = NegativeRule(
            background=self.background_per_frame,
            partial=self.partial_per_box,
            share=shares_of(self.share),
            seed=self.seed,
        )
        cutter = Cutter.of(
            source.table.boxes,
            self.cleaned(source.table),
            expand=self.expand,
            negatives=negatives,
            max_pixels=self.max_pixels,
        )
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config_of(input, source.table),
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, cutter, self._parts(out)),
            export=lambda outputs, journal: self._export(outputs, journal, source, input),
        )

    def pipeline(self, cutter: Cutter, parts: Parts) -> Pipeline:
        """Read a frame, cut all that is wanted of it, keep that."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        return Pipeline(
            Each(read_picture, makes=("data", "header"), name="read"),
            Each(cutter.decode, makes="image", name="decode", weight=held_bytes),
            Each(cutter.cut, makes="cuts", name="cut"),
            Each(Encoder(store=self.store, quality=self.quality, size=self._raw_size), makes="crops", name="encode"),
            *self._keep(parts),
        )

    def _keep(self, parts: Parts) -> list[Stage]:
        if self.store != "files":
            return [Each(parts.keep, name="keep")]
        return [
            Each(note_places, name="note"),
            Each(named_files, makes="files", name="name files"),
            Save(files=To("crops/{name}_{part}.jpg", "{number}")),
        ]

    # --- at the end --------------------------------------------------------------------------------------------------

    def _export(self, outputs: Outputs, journal: Journal, source: BoxSource, input: Path) -> list[str]:
        table = source.table
        refs = {item.key: item.ref for item in source.items()}
        rows_of = {key: ref.rows if isinstance(ref, FrameRef) else (ref.row,) for key, ref in refs.items()}
        said = {name: column for name in ("label", "view", "time") if (column := getattr(self, name))}
        rows = CropRows(table, said=said, groups=self.group)
        loose = self.store == "files"
        if self.store == "files":
            write_listing(outputs, journal, rows=rows, rows_of=rows_of)
        else:
            form = PackForm(store=self.store, size=self._raw_size, expand=self.expand)
            write_pack(outputs, journal, self._parts(outputs.root), form=form, rows=rows, frames=rows_of)
        name = f"{input.stem}_with_{self.table_suffix}.csv"
        write_table_back(outputs, journal, table, name=name, rows_of=rows_of, files=loose, absolute=self.absolute_paths)
        return [LISTING if loose else PACK_NAME, name]

    @property
    def _raw_size(self) -> Size | None:
        return (self.size or RAW_SIZE) if self.store == "raw" else None

    def _parts(self, out: Path) -> Parts:
        return Parts(out.absolute(), durable=self.durable)


def remarks(out: Path) -> list[str]:
    """How many crops there are, and what was not cut as it stood."""
    with Journal.read(out) as journal:
        rows = list(journal.rows(*MADE))
    crops = f"{count_of(sum(map(crop_count, rows)), 'crop')} of {count_of(len(rows), 'frame')}"
    negatives = [f"{_sum(rows, kind):,} {kind}" for kind in ("background", "partial") if _sum(rows, kind)]
    lines = [crops + (f", {' and '.join(negatives)} among them" if negatives else "")]
    if clamped := _sum(rows, "clamped"):
        lines.append(f"{count_of(clamped, 'box', 'boxes')} stuck out of the frame and {_were(clamped)} cut off there")
    if mended := list(_named(rows, "interpolated")):
        lines.append(f"{count_of(len(mended), 'outlier')} {_were(len(mended))} interpolated")
    if dropped := list(_named(rows, "dropped")):
        whys = [why.partition(":")[0].partition(",")[0] for why in dropped]
        kinds = ", ".join(f"{whys.count(why):,} {why}" for why in dict.fromkeys(whys))
        lines.append(f"{count_of(len(dropped), 'box', 'boxes')} {_were(len(dropped))} dropped ({kinds}); META says why")
    return lines


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _sum(rows: Iterable[Row], name: str) -> int:
    return sum(count for row in rows if isinstance(count := row.meta.get(name, 0), int))


def _named(rows: Iterable[Row], what: str) -> Iterable[str]:
    for row in rows:
        named = row.meta.get(what)
        if isinstance(named, dict):
            yield from map(str, named.values())
