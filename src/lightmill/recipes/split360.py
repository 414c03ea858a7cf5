"""Equirectangular frames or video into pinhole views with known cameras."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self

import cv2
from pydantic import Field, field_validator, model_validator

from lightmill.codecs.encode import ImageFormat
from lightmill.engine.items import MADE, Json, Source
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job
from lightmill.engine.stages import Batch, Each, Fan, Save, To
from lightmill.export import colmap, nerfstudio
from lightmill.export.rigfile import rig_json
from lightmill.models.kinds import Segmenter
from lightmill.models.segmenters import default_model, open_segmenter, warnings_of
from lightmill.ops.antialias import Antialias
from lightmill.ops.quality import sharpness
from lightmill.ops.rig import Rig
from lightmill.ops.sphere import Interpolation
from lightmill.recipes.base import (
    EndTime,
    FramePick,
    FrameRate,
    Recipe,
    SizeOption,
    StartTime,
    check_times,
    listed,
    phrases,
    repeated,
)
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.masking import MaskRule, is_local_model, located
from lightmill.recipes.masks import ALPHA, MaskFolder
from lightmill.recipes.panoramas import decode_panorama, frame_panorama, held_bytes, mask_from_alpha, read_panorama
from lightmill.recipes.rig_option import names_a_file, refuse_ambiguous, rig_of
from lightmill.recipes.tables import write_table
from lightmill.recipes.view_masks import AllViews, ViewFinder, kept_by_both
from lightmill.recipes.views import (
    Cut,
    DeviceCut,
    Exifs,
    Owned,
    Sidecars,
    encode_polar,
    encode_view,
    preview_view,
    view_of,
)
from lightmill.sources import open_source
from lightmill.types import Size

Export = Literal["colmap", "nerfstudio", "realityscan"]
PANORAMA = ("pano", "tags", "alpha")
MODEL_OPTIONS = ("mask_prompt", "mask_model", "mask_on", "mask_score", "mask_grow")


class Split360(Recipe):
    """Cut equirectangular frames or video into pinhole views with known cameras.

    INPUT is a folder of panoramas, one panorama, a table with a column image_path, a ZIP, or a 360° video.
    """

    name: ClassVar[str] = "split360"
    table_suffix: ClassVar[str] = "views"
    path_options: ClassVar = {
        "rig": names_a_file,
        "masks": lambda value: value != ALPHA,
        "mask_model": is_local_model,
    }

    rig: str = Field(
        "ring8", description="Preset (see `lightmill rigs`), YAML file with `rings:` or `cameras:`, or rig.json."
    )
    size: SizeOption = Field(Size(1920, 1080), description="Width and height of every view.")
    format: ImageFormat = Field(ImageFormat.JPG, description="jpg, png, webp or tiff.")
    quality: int = Field(95, ge=1, le=100, description="Of JPEG and WebP.")
    subsampling: Literal["420", "444"] = Field("420", description="Chroma subsampling of JPEG.")
    interpolation: Interpolation = Field(Interpolation.LINEAR, description="linear, cubic or lanczos.")
    antialias: Antialias = Field(
        Antialias.AUTO,
        description="Average every view pixel over its area where the view is over twice as coarse: auto, or off.",
    )
    layout: Literal["by-camera", "flat"] = Field(
        "by-camera", description="images/cam00/x.jpg, or flat: images/x_cam00.jpg."
    )
    masks: str | None = Field(
        None, description="A folder of equirectangular masks (255 = keep), or `alpha`: the input's own."
    )
    mask_prompt: tuple[str, ...] = repeated(description="Mask what these words name (or these classes of the model).")
    mask_model: str | None = Field(
        None, description="What finds it, as `mask --model`; alone for a model that takes no words."
    )
    mask_on: Literal["views", "pano"] = Field("views", description="Where it is looked for: in every view, or once.")
    mask_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out what scores below this (default: the model's own, 0.5 for SAM 3).",
    )
    mask_grow: float = Field(
        0, ge=-0.5, le=0.5, description="Grow what was found by this share of the view's (or panorama's) diagonal."
    )
    mask_polarity: Literal["keep-white", "keep-black"] = Field("keep-white", description="What trainers are to keep.")
    mask_naming: Literal["stem", "colmap"] = Field("stem", description="x.png, or colmap: x.jpg.png.")
    export: tuple[Export, ...] = Field((), description="Any of colmap, nerfstudio, realityscan, with commas.")
    fps: FrameRate = None
    start: StartTime = None
    end: EndTime = None
    pick: FramePick = "first"
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where views are cut; auto: CUDA where there is one."
    )

    _listed = listed("export")
    _phrases = field_validator("mask_prompt", mode="before")(phrases)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_times(fps=self.fps, start=self.start, end=self.end, pick=self.pick)
        if self.layout == "flat" and "colmap" in self.export:
            raise ValueError(
                "--export colmap needs --layout by-camera: COLMAP tells the cameras of a rig by their folders"
            )
        if not self.finds and (self.mask_on != "views" or self.mask_score is not None or self.mask_grow):
            raise ValueError("--mask-on, --mask-score and --mask-grow need --mask-prompt or --mask-model")
        return self

    def job(self, input: Path, out: Path) -> Job:
        return self.job_with(self._segmenter() if self.finds else None, input, out)

    def job_with(self, segmenter: Segmenter | None, input: Path, out: Path) -> Job:
        """The work with a segmenter of one's own. Raises as `job`."""
        rig = self.resolved_rig()
        source = open_source(
            input,
            self.source_options(
                out,
                fps=self.fps,
                start_s=self.start,
                end_s=self.end,
                pick=self.pick,
                threads=self.threads,
                sharpness=sharpness,
            ),
        )
        masks = MaskFolder(Path(self.masks)) if self.masks not in (None, ALPHA) else None
        device = chosen_device(self.device)
        if segmenter:
            segmenter.check(device if segmenter.on_device else "cpu")
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self._resolved(input, segmenter) | {"rig": rig_json(rig), "device": device},
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, rig, masks, segmenter, video=source.streams, device=device),
            device=device,
            check_names=lambda names: self._check_names(rig, names),
            begin=lambda outputs: self._begin(outputs, rig),
            warnings=warnings_of(segmenter),
            export=lambda outputs, journal: self._export(outputs, journal, rig, source, input),
        )

    def pipeline(
        self,
        rig: Rig,
        masks: MaskFolder | None,
        segmenter: Segmenter | None = None,
        *,
        video: bool,
        device: str = "cpu",
    ) -> Pipeline:
        """Read and decode; for every camera cut and encode; then save. A segmenter works before that, or on the way."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        cut = Cut(rig, self.interpolation, self.antialias)
        finder = self._finder(segmenter, cut)
        cut_before = device != "cpu" or (finder is not None and finder.needs_all_views)
        products = [self._views(rig, cut, cut_before=cut_before)]
        if self.has_masks:
            products.append(self._masks(cut, finder))
        if "colmap" in self.export:
            products.append(self._colmap_masks(rig))
        if "realityscan" in self.export:
            products.append(self._sidecars(rig))
        for_every_camera = Fan(
            part="camera",
            over={camera.name: camera for camera in rig.cameras},
            stages=tuple(stage for product in products for stage in product.stages),
            gathers={product.makes: f"{product.makes}s" for product in products},
        )
        return Pipeline(
            *(self._from_frame() if video else self._from_file()),
            *self._pano_mask(masks),
            *(finder.on_panorama if finder else ()),
            *(self._cut_before(rig, cut, device) if cut_before else ()),
            *(finder.on_all_views if finder else ()),
            for_every_camera,
            Save(**{f"{product.makes}s": product.to for product in products}),
            given=("frame",) if video else (),
        )

    def _from_file(self) -> list[Each]:
        return [
            Each(read_panorama, makes=("data", "header"), name="read", max_pixels=self.max_pixels),
            Each(decode_panorama, makes=PANORAMA, name="decode", weight=held_bytes, max_pixels=self.max_pixels),
        ]

    def _from_frame(self) -> list[Each]:
        return [Each(frame_panorama, makes=PANORAMA, name="convert")]

    def _pano_mask(self, masks: MaskFolder | None) -> list[Each]:
        if masks:
            return [Each(masks.load, makes="pano_mask", name="read mask")]
        return [Each(mask_from_alpha, makes="pano_mask", name="read mask")] if self.masks else []

    def _finder(self, segmenter: Segmenter | None, cut: Cut) -> ViewFinder | None:
        rule = MaskRule(grow=self.mask_grow)
        return ViewFinder(segmenter, rule, cut, on=self.mask_on) if segmenter else None

    def _cut_before(self, rig: Rig, cut: Cut, device: str) -> list[Batch | Each]:
        """All views of a panorama at once: where the device cuts them, or wants to see them."""
        if device == "cpu":
            return [Each(AllViews(cut, rig).of, makes="device_views", name="cut")]
        return [Batch(DeviceCut(rig, self.interpolation, self.antialias), makes="device_views", name="cut", size=4)]

    def _views(self, rig: Rig, cut: Cut, *, cut_before: bool) -> "Product":
        options = {"format": self.format, "quality": self.quality, "subsampling": self.subsampling}
        stages = (
            Each(view_of, makes="view", name="take") if cut_before else Each(cut.view, makes="view", name="cut"),
            Each(preview_view, name="preview"),
            Each(encode_view, makes="view_file", name="encode", options=options, exifs=Exifs(rig)),
        )
        return Product(stages, To(f"images/{self._name}.{self.format.suffix}", "{part}"))

    def _masks(self, cut: Cut, finder: ViewFinder | None) -> "Product":
        given = (Each(cut.mask, makes="given_mask" if finder else "mask_view", name="cut mask"),) if self.masks else ()
        found = finder.on_view(makes="found_mask" if self.masks else "mask_view") if finder else ()
        both = (Each(kept_by_both, makes="mask_view", name="combine masks"),) if self.masks and finder else ()
        encoded = Each(encode_polar, makes="mask_file", name="encode mask", polarity=self.mask_polarity)
        stages = (*given, *found, *both, encoded)
        suffix = f"{self.format.suffix}.png" if self.mask_naming == "colmap" else "png"
        return Product(stages, To(f"masks/{self._name}.{suffix}", "{part}_mask"))

    def _colmap_masks(self, rig: Rig) -> "Product":
        owned = Owned(rig)
        function = owned.and_masked if self.has_masks else owned.alone
        stage = Each(function, makes="colmap_mask_file", name="colmap mask")
        return Product((stage,), To(f"colmap/masks/{self._name}.{self.format.suffix}.png", "{part}_colmap_mask"))

    def _sidecars(self, rig: Rig) -> "Product":
        stage = Each(Sidecars(rig).of, makes="xmp_file", name="xmp")
        return Product((stage,), To(f"images/{self._name}.xmp", "{part}_xmp"))

    @property
    def finds(self) -> bool:
        """Whether a model looks for what is to be masked."""
        return bool(self.mask_prompt or self.mask_model)

    @property
    def has_masks(self) -> bool:
        """Whether every view gets a mask."""
        return bool(self.masks) or self.finds

    def _segmenter(self) -> Segmenter:
        return open_segmenter(
            located(self.mask_model or default_model(self.mask_prompt)),
            prompts=self.mask_prompt,
            score=self.mask_score,
            options="--mask-",
        )

    def _resolved(self, input: Path, segmenter: Segmenter | None) -> dict[str, Json]:
        """The config with the model that is meant; without one, as it was before there were models."""
        config = self.config(input)
        if segmenter:
            return config | {"mask_model": segmenter.name, "mask_model_version": segmenter.version}
        return {name: value for name, value in config.items() if name not in MODEL_OPTIONS}

    @property
    def _name(self) -> str:
        return "{part}/{name}" if self.layout == "by-camera" else "{name}_{part}"

    def resolved_rig(self) -> Rig:
        """The rig that `--rig` and `--size` mean. Raises UsageError."""
        rig = rig_of(self.rig, self.size)
        if self.layout == "flat":
            refuse_ambiguous(rig.cameras)
        return rig

    # --- files besides the views -------------------------------------------------------------------------------------

    def _check_names(self, rig: Rig, names: Iterable[str]) -> None:
        if "colmap" in self.export:
            colmap.check_names(rig, names)

    def _begin(self, outputs: Outputs, rig: Rig) -> None:
        outputs.write_if_changed("rig.json", as_json(rig_json(rig)))

    def _export(self, outputs: Outputs, journal: Journal, rig: Rig, source: Source, input: Path) -> list[str]:
        made = ["rig.json"]
        if "colmap" in self.export:
            outputs.write_if_changed("colmap/rig_config.json", as_json(colmap.rig_config(rig)))
            made.append("colmap/rig_config.json")
        if "nerfstudio" in self.export:
            views = views_of(journal, rig, with_masks=self.has_masks)
            outputs.write_if_changed("transforms.json", (text.encode() for text in nerfstudio.transforms(rig, views)))
            made.append("transforms.json")
        made += write_table(
            outputs, journal, source, input=input, suffix=self.table_suffix, absolute=self.absolute_paths
        )
        return made


@dataclass(frozen=True)
class Product:
    """A file for every view: the stages that make it, and where it is saved."""

    stages: tuple[Each, ...]
    to: To

    @property
    def makes(self) -> str:
        """The field that holds the file."""
        return self.stages[-1].makes[0]


def as_json(value: object) -> Iterator[bytes]:
    yield (json.dumps(value, indent=2) + "\n").encode()


def views_of(journal: Journal, rig: Rig, *, with_masks: bool) -> Iterator[nerfstudio.View]:
    """Every view that was made, in the order of the source."""
    for row in journal.rows(*MADE):
        time_s = row.meta.get("time_s")
        for camera in rig.cameras:
            yield nerfstudio.View(
                row.paths[camera.name],
                camera.name,
                time_s=float(time_s) if isinstance(time_s, int | float) else None,
                mask_path=row.paths[f"{camera.name}_mask"] if with_masks else None,
            )
