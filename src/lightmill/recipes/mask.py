"""Masks of what a model finds in pictures."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.engine.items import Notes, Source
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job
from lightmill.engine.stages import Each, Save, To
from lightmill.errors import UsageError
from lightmill.models.kinds import Image, Instances, Segmenter
from lightmill.models.segmenters import default_model, open_segmenter, warnings_of
from lightmill.ops.masks import tinted
from lightmill.ops.quality import sharpness
from lightmill.recipes.base import (
    EndTime,
    FramePick,
    FrameRate,
    Recipe,
    StartTime,
    check_times,
    either_or,
    phrases,
    repeated,
)
from lightmill.recipes.masking import (
    FLIPS_HELP,
    OF_CHECKPOINTS,
    TILE_HELP,
    Choice,
    Found,
    MaskRule,
    PanoramaMode,
    TileOption,
    for_segmenter,
    is_local_model,
    located,
    ready,
    segment_wide_stage,
)
from lightmill.recipes.pictures import picture_stages
from lightmill.recipes.places import Box, Point
from lightmill.recipes.previews import preview
from lightmill.recipes.tables import write_table
from lightmill.sources import open_source

OVERLAY_PX = 1600  # the longest side of a preview
PREVIEW_PX = 240  # in the report
_SUFFIX = re.compile(r"\.\w+")


class Mask(Recipe):
    """Mask what a model finds in pictures: people, tripods, whatever words, points or boxes say.

    Every picture gets a mask of its size: what is found is 255 and the rest 0 (--keep, the default), or the other way
    round (--remove).
    """

    name: ClassVar[str] = "mask"
    table_suffix: ClassVar[str] = "masks"
    path_options: ClassVar = {"model": is_local_model}

    model: str | None = Field(
        None,
        description="builtin:salient, the folder of a checkpoint of `train segment`, a folder in the layout of "
        "transformers, or a hub id (default: facebook/sam3 with --prompt, else builtin:salient).",
    )
    prompt: tuple[str, ...] = repeated(description="What to find, in words, or a class of the model.")
    points: tuple[Point, ...] = repeated(
        description="For SAM 2: x,y on the thing, as shares of width and height; x,y,0 beside it."
    )
    boxes: tuple[Box, ...] = repeated(description="For SAM 2: left,top,right,bottom of a thing, as shares.")
    grid: int | None = Field(None, ge=1, le=128, description="For SAM 2: everything that N×N points lie on.")
    score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out what scores below this (default: the model's own, 0.5 for SAM 3).",
    )
    tile: TileOption = Field("off", description=f"{TILE_HELP} {OF_CHECKPOINTS}")
    flips: bool = Field(False, description=f"{FLIPS_HELP} {OF_CHECKPOINTS}")
    instances: Choice = Field(
        "union", description="Of several things: all as one, the largest, the best, or each in a file of its own too."
    )
    remove: bool = either_or("keep", description="What is found is 0 in the mask, and the rest 255; or --keep.")
    grow: float = Field(
        0, ge=-0.5, le=0.5, description="Move the outline outwards by this share of the diagonal; below 0 inwards."
    )
    feather: float = Field(0, ge=0, le=0.5, description="Spread the edge over this share of the diagonal.")
    fill_holes: bool = Field(False, description="Fill the gaps inside of what is found.")
    min_area: float = Field(0, ge=0, lt=1, description="Leave out what is smaller than this share of the picture.")
    soft: bool = Field(False, description="Keep the soft edges of the model instead of only 0 and 255.")
    cutout: bool = Field(False, description="Write cutouts/x.png too: the picture with its mask as alpha.")
    overlay: bool = Field(False, description="Write overlays/x.jpg too: the picture with what was found in colour.")
    mask_naming: Literal["stem", "colmap"] = Field("stem", description="x.png, or colmap: x.jpg.png.")
    panorama: PanoramaMode = Field(
        "auto", description="Whether left and right edge are one (auto: where a picture is 2:1 within 1 %)."
    )
    fps: FrameRate = None
    start: StartTime = None
    end: EndTime = None
    pick: FramePick = "first"
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model works; auto: CUDA where there is one."
    )

    _prompts = field_validator("prompt", mode="before")(phrases)

    @field_validator("points", "boxes", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """One alone needs no list around it."""
        is_one = isinstance(value, str) or (
            isinstance(value, list | tuple) and value and all(isinstance(part, int | float) for part in value)
        )
        return (value,) if is_one else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_times(fps=self.fps, start=self.start, end=self.end, pick=self.pick)
        for left, top, right, bottom in self.boxes:
            if left >= right or top >= bottom:
                raise ValueError(
                    f"--boxes {left:g},{top:g},{right:g},{bottom:g}: a box is left,top,right,bottom, "
                    "with left < right and top < bottom"
                )
        if (self.points or self.boxes or self.grid) and self.model is None:
            raise ValueError(
                "--points, --boxes and --grid need a model that takes them: --model facebook/sam2.1-hiera-large"
            )
        return self

    def job(self, input: Path, out: Path) -> Job:
        segmenter = open_segmenter(
            located(self.model or default_model(self.prompt)),
            prompts=self.prompt,
            points=self.points,
            boxes=self.boxes,
            grid=self.grid,
            score=self.score,
            tile=self.tile,
            flips=self.flips,
        )
        return self.job_with(segmenter, input, out)

    def job_with(self, segmenter: Segmenter, input: Path, out: Path) -> Job:
        """The work with a segmenter of one's own. Raises as `job`."""
        source = self._source(input, out)
        device = ready(segmenter, self.device)
        resolved = {"model": segmenter.name, "model_version": segmenter.version, "device": device}
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | resolved,
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, segmenter, video=source.streams),
            device=device,
            warnings=warnings_of(segmenter),
            export=lambda outputs, journal: self._export(outputs, journal, source, input),
        )

    def pipeline(self, segmenter: Segmenter, *, video: bool) -> Pipeline:
        """Read and decode; segment; make one mask of what was found; encode and save."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        saved = {"mask_file": To(f"masks/{{name}}{'{part}' if self.mask_naming == 'colmap' else ''}.png", "mask")}
        encoders = [Each(self._mask_file, makes="mask_file", name="encode")]
        if self.instances == "each":
            encoders.append(Each(instance_files, makes="instance_files", name="encode instances"))
            saved["instance_files"] = To("instances/{name}_{part}.png", "instance_{part}")
        if self.cutout:
            encoders.append(Each(self._cutout, makes="cutout", name="cut out"))
            saved["cutout"] = To("cutouts/{name}.png")
        if self.overlay:
            encoders.append(Each(overlay, makes="overlay", name="overlay"))
            saved["overlay"] = To("overlays/{name}.jpg")
        return Pipeline(
            *picture_stages(video=video, max_pixels=self.max_pixels),
            Each(for_segmenter, makes="wide", name="widen", panorama=self.panorama),
            segment_wide_stage(segmenter),
            Each(self._found, makes="found", name="mask"),
            *encoders,
            Save(**saved),
            given=("frame",) if video else (),
        )

    # --- stages ------------------------------------------------------------------------------------------------------

    def _found(self, image: Image, instances: Instances, notes: Notes) -> Found:
        rule = MaskRule(
            instances=self.instances,
            grow=self.grow,
            feather=self.feather,
            fill_holes=self.fill_holes,
            min_area=self.min_area,
            soft=self.soft,
        )
        found = rule.of_picture(image, instances, panorama=self.panorama)
        notes.meta.update(found.about)
        if len(self.prompt) > 1 or len({*found.labels}) > 1:
            notes.meta["labels"] = list(found.labels)
        if notes.sampled:
            preview(notes, "found", tinted(image, found.parts, longest_px=2 * PREVIEW_PX), PREVIEW_PX)
        return found

    def _mask_file(self, found: Found, key: str, name: str) -> bytes | dict[str, bytes]:
        data = encode_mask(self._polar(found.mask))
        return {suffix_to_add(key, name): data} if self.mask_naming == "colmap" else data

    def _cutout(self, image: Image, found: Found) -> bytes:
        return encode(np.dstack([image, self._polar(found.mask)]), format=ImageFormat.PNG)

    def _polar(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return 255 - mask if self.remove else mask

    # --- around the run ----------------------------------------------------------------------------------------------

    def _source(self, input: Path, out: Path) -> Source:
        times = {"fps": self.fps, "start_s": self.start, "end_s": self.end, "pick": self.pick}
        source = open_source(input, self.source_options(out, threads=self.threads, sharpness=sharpness, **times))
        if source.streams and self.mask_naming == "colmap":
            raise UsageError("--mask-naming colmap names masks after picture files, and a video has none; leave it out")
        return source

    def _export(self, outputs: Outputs, journal: Journal, source: Source, input: Path) -> list[str]:
        return write_table(
            outputs, journal, source, input=input, suffix=self.table_suffix, absolute=self.absolute_paths
        )


def instance_files(found: Found) -> Mapping[str, bytes]:
    """Every instance by itself, 255 where it is, best score first."""
    return {f"{number:02d}": encode_mask(part) for number, part in enumerate(found.parts)}


def overlay(image: Image, found: Found) -> bytes:
    return encode(tinted(image, found.parts, longest_px=OVERLAY_PX), format=ImageFormat.JPG, quality=90)


def suffix_to_add(key: str, name: str) -> str:
    """What the picture's file name has and the output name lacks.

    >>> suffix_to_add("walk/a.jpg", "walk/a"), suffix_to_add("a.jpg", "a.jpg")
    ('.jpg', '')
    """
    if PurePosixPath(key).name == PurePosixPath(name).name:
        return ""
    found = _SUFFIX.match(PurePosixPath(key).suffix)
    return found[0] if found else ""
