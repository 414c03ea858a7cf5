"""Equirectangular frames or video into pinhole views with known cameras."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lightmill.codecs.decode import Decoded, decode
from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.codecs.exif import SourceTags, camera_exif, read_tags
from lightmill.codecs.header import Header, read_header
from lightmill.engine.buffers import Buffers
from lightmill.engine.items import MADE, Json, Notes, Ref, Source
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job
from lightmill.engine.stages import Batch, Each, Fan, Save, To
from lightmill.errors import UsageError, WrongAspect
from lightmill.export import colmap, nerfstudio, realityscan
from lightmill.export.rigfile import rig_json
from lightmill.ops.antialias import Antialias, Pyramid, shrink_factor
from lightmill.ops.cover import ownership_mask
from lightmill.ops.quality import sharpness
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, inner, padded_shape
from lightmill.ops.sphere_torch import ViewCutter
from lightmill.recipes.base import Recipe, SizeOption, listed
from lightmill.recipes.masks import ALL_KEPT, ALPHA, MaskFolder, padded_mask
from lightmill.recipes.previews import preview
from lightmill.recipes.rig_option import refuse_ambiguous, rig_of
from lightmill.recipes.tables import write_table
from lightmill.sources import open_source
from lightmill.types import Size

ASPECT_TOLERANCE = 0.01
Export = Literal["colmap", "nerfstudio", "realityscan"]


class Split360(Recipe):
    """Cut equirectangular frames or video into pinhole views with known cameras.

    INPUT is a folder of panoramas, one panorama, a table with a column image_path, a ZIP, or a 360° video.
    """

    name: ClassVar[str] = "split360"
    table_suffix: ClassVar[str] = "views"

    rig: str = Field("ring8", description="Preset (see `lightmill rigs`), YAML file with `rings:` or `cameras:`, or rig.json.")
    size: SizeOption = Field(Size(1920, 1080), description="Width and height of every view.")
    format: ImageFormat = Field(ImageFormat.JPG, description="jpg, png, webp or tiff.")
    quality: int = Field(95, ge=1, le=100, description="Of JPEG and WebP.")
    subsampling: Literal["420", "444"] = Field("420", description="Chroma subsampling of JPEG.")
    interpolation: Interpolation = Field(Interpolation.LINEAR, description="linear, cubic or lanczos.")
    antialias: Antialias = Field(
        Antialias.AUTO, description="Shrink the panorama first where a view minifies it: auto (by 2, 3, …), full, or off."
    )
    layout: Literal["by-camera", "flat"] = Field("by-camera", description="images/cam00/x.jpg, or flat: images/x_cam00.jpg.")
    masks: str | None = Field(None, description="A folder of equirectangular masks (255 = keep), or `alpha`: the input's own.")
    mask_polarity: Literal["keep-white", "keep-black"] = Field("keep-white", description="What trainers are to keep.")
    mask_naming: Literal["stem", "colmap"] = Field("stem", description="x.png, or colmap: x.jpg.png.")
    export: tuple[Export, ...] = Field((), description="Any of colmap, nerfstudio, realityscan, with commas.")
    fps: float | None = Field(None, gt=0, description="Frames a second to take from a video (default: all).")
    start: float | None = Field(None, ge=0, description="Where in the video to begin, in seconds.")
    end: float | None = Field(None, gt=0, description="Where in the video to end, in seconds.")
    pick: Literal["first", "sharpest"] = Field("first", description="Which frame of each 1/fps to take.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where views are cut; auto: CUDA where there is one.")

    _listed = listed("export")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"--end {self.end:g} must be after --start {self.start or 0:g}")
        if self.pick == "sharpest" and self.fps is None:
            raise ValueError("--pick sharpest needs --fps: it takes the sharpest frame of each 1/fps")
        if self.layout == "flat" and "colmap" in self.export:
            raise ValueError("--export colmap needs --layout by-camera: COLMAP tells the cameras of a rig by their folders")
        return self

    def job(self, input: Path, out: Path) -> Job:
        cv2.setNumThreads(1)  # the engine owns the threads
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
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | {"rig": rig_json(rig)},
            command=self.command(input),
            source=source,
            out=out,
            pipeline=self.pipeline(rig, masks, video=source.streams, device=device),
            device=device,
            begin=lambda outputs: self._begin(outputs, rig),
            export=lambda outputs, journal: self._export(outputs, journal, rig, source, input),
        )

    def pipeline(self, rig: Rig, masks: MaskFolder | None, *, video: bool, device: str = "cpu") -> Pipeline:
        """Read, decode, and for every camera: cut, encode. Then save."""
        suffix = self.format.suffix
        views = "images/{part}/{name}" if self.layout == "by-camera" else "images/{name}_{part}"
        mask_views = views.replace("images/", "masks/", 1)
        cameras = {camera.name: camera for camera in rig.cameras}
        cut = Cut(rig, self.interpolation)
        on_device: list[Batch] = []
        if device != "cpu":
            on_device.append(Batch(DeviceCut(rig, self.interpolation, self.antialias), makes="views_now", name="cut", size=4))
        per_camera = [
            Each(view_of, makes="view", name="take") if on_device else Each(cut.on_cpu, makes="view", name="cut"),
            Each(preview_view, makes=(), name="preview"),
            Each(encode_view, makes="file", name="encode", options=self.encoding(), exifs=Exifs(rig)),
        ]
        gathers, saves = {"file": "views"}, {"views": To(f"{views}.{suffix}", "{part}")}
        first = self._first_stages(video, masks)
        if self.masks:
            per_camera.append(Each(cut.mask, makes="mask_view", name="cut mask"))
            per_camera.append(Each(encode_polar, makes="mask_file", name="encode mask", polarity=self.mask_polarity))
            gathers["mask_file"] = "masks"
            saves["masks"] = To(f"{mask_views}.{f'{suffix}.png' if self.mask_naming == 'colmap' else 'png'}", "{part}_mask")
        if "colmap" in self.export:
            owned = Owned(rig)
            function = owned.and_masked if self.masks else owned.alone
            per_camera.append(Each(function, makes="colmap_mask_file", name="colmap mask"))
            gathers["colmap_mask_file"] = "colmap_masks"
            saves["colmap_masks"] = To(f"colmap/masks/{{part}}/{{name}}.{suffix}.png", "{part}_colmap_mask")
        if "realityscan" in self.export:
            per_camera.append(Each(Sidecars(rig).of, makes="xmp_file", name="xmp"))
            gathers["xmp_file"] = "xmps"
            saves["xmps"] = To(f"{views}.xmp", "{part}_xmp")
        fan = Fan(part="camera", over=cameras, stages=tuple(per_camera), gathers=gathers)
        return Pipeline(*first, *on_device, fan, Save(**saves), given=("frame",) if video else ())

    def _first_stages(self, video: bool, masks: MaskFolder | None) -> list[Each]:
        antialias = self.antialias
        stages = (
            [Each(frame_panorama, makes=("pano", "tags", "alpha"), name="convert", antialias=antialias)]
            if video
            else [
                Each(read_panorama, makes=("data", "header"), name="read", max_pixels=self.max_pixels),
                Each(
                    decode_panorama,
                    makes=("pano", "tags", "alpha"),
                    name="decode",
                    weight=held_bytes,
                    max_pixels=self.max_pixels,
                    antialias=antialias,
                ),
            ]
        )
        if masks:
            stages.append(Each(masks.load, makes="pano_mask", name="read mask"))
        elif self.masks:
            stages.append(Each(mask_from_alpha, makes="pano_mask", name="read mask"))
        return stages

    def encoding(self) -> dict[str, Any]:
        return {"format": self.format, "quality": self.quality, "subsampling": self.subsampling}

    def resolved_rig(self) -> Rig:
        """The rig that `--rig` and `--size` mean. Raises UsageError."""
        rig = rig_of(self.rig, self.size)
        if self.layout == "flat":
            refuse_ambiguous(rig.cameras)
        return rig

    def command(self, input: Path) -> dict[str, Json]:
        command = super().command(input)
        options = command["options"]
        assert isinstance(options, dict)
        for name in ("rig", "masks"):
            value = options.get(name)
            if isinstance(value, str) and Path(value).exists():
                options[name] = str(Path(value).resolve())
        return command

    # --- files besides the views -------------------------------------------------------------------------------------

    def _begin(self, outputs: Outputs, rig: Rig) -> None:
        outputs.write_if_changed("rig.json", as_json(rig_json(rig)))

    def _export(self, outputs: Outputs, journal: Journal, rig: Rig, source: Source, input: Path) -> list[str]:
        made = ["rig.json"]
        if "colmap" in self.export:
            outputs.write_if_changed("colmap/rig_config.json", as_json(colmap.rig_config(rig)))
            made.append("colmap/rig_config.json")
        if "nerfstudio" in self.export:
            views = views_of(journal, rig, with_masks=bool(self.masks))
            outputs.write_if_changed("transforms.json", (text.encode() for text in nerfstudio.transforms(rig, views)))
            made.append("transforms.json")
        made += write_table(
            outputs, journal, source, input=input, suffix=self.table_suffix, absolute=self.absolute_paths
        )
        return made


# --- stages ----------------------------------------------------------------------------------------------------------


def read_panorama(ref: Ref, notes: Notes, *, max_pixels: int) -> tuple[bytes, Header]:
    """The bytes of a file, and what its header says; refuses what is no panorama before anything is decoded."""
    data = ref.read()
    header = read_header(data)
    width, height = header.upright_size
    if width * height <= max_pixels:  # a larger one is refused by the decoder, which says how to allow it
        check_aspect(width, height)
    notes.pixels = width * height
    return data, header


def check_aspect(width: int, height: int) -> None:
    """Raise WrongAspect where a picture is not 2:1 within 1 %."""
    if abs(width / (2 * height) - 1) > ASPECT_TOLERANCE:
        raise WrongAspect(
            f"it is {width}x{height}, and an equirectangular panorama is twice as wide as high (2:1, within 1 %); "
            "crop or pad it to the full sphere first"
        )


def held_bytes(header: Header) -> int:
    """What decoding and cutting holds in memory: the panorama, and as much again where it must be converted."""
    width, height = header.upright_size
    return width * height * (3 if header.format == "jpeg" else 7)


def decode_panorama(
    data: bytes, buffers: Buffers, notes: Notes, *, max_pixels: int, antialias: Antialias
) -> tuple[Pyramid, SourceTags, NDArray[np.uint8] | None]:
    """The panorama with its rows continued over the poles, the tags to keep, and its alpha."""
    held: list[NDArray[np.uint8]] = []

    def allocate(height: int, width: int) -> NDArray[np.uint8]:
        held[:] = [buffers.take(padded_shape(height, width))]
        return inner(held[0])

    decoded: Decoded = decode(data, max_pixels=max_pixels, allocate=allocate)
    continue_poles(held[0])
    if decoded.recovered:
        notes.recovered(decoded.recovered)
    notes.meta.update(decoded.meta)
    preview(notes, "input", decoded.pixels, 480)
    return Pyramid(held[0], antialias=antialias), read_tags(data), decoded.alpha


def frame_panorama(
    frame: Any, buffers: Buffers, notes: Notes, *, antialias: Antialias
) -> tuple[Pyramid, SourceTags, None]:
    """A frame of a video likewise."""
    pixels = frame.to_rgb()
    height, width = pixels.shape[:2]
    check_aspect(width, height)
    padded = buffers.take(padded_shape(height, width))
    inner(padded)[:] = pixels
    continue_poles(padded)
    notes.pixels = width * height
    preview(notes, "input", pixels, 480)
    return Pyramid(padded, antialias=antialias), SourceTags(), None


def view_of(views_now: Mapping[str, NDArray[np.uint8]], camera: Camera) -> NDArray[np.uint8]:
    return views_now[camera.name]


class DeviceCut:
    """All views of several panoramas at once, on the accelerator; an item that does not fit there, with OpenCV.

    `torch:cpu` is torch on the CPU: for tests, on machines without an accelerator.
    """

    def __init__(self, rig: Rig, interpolation: Interpolation, antialias: Antialias) -> None:
        self._rig = rig
        self._interpolation = interpolation
        self._antialias = antialias
        self._cutter: ViewCutter | None = None
        self._maps: ViewMaps | None = None

    def load(self, device: str) -> None:
        self._cutter = self._maps = None
        if device == "cpu":
            self._maps = ViewMaps(self._rig)
            return
        self._cutter = ViewCutter(self._rig, interpolation=self._interpolation.value, antialias=self._factor)
        self._cutter.load(device.removeprefix("torch:"))

    def unload(self) -> None:
        if self._cutter:
            self._cutter.unload()
        self._cutter = self._maps = None

    def __call__(self, pano: list[Pyramid]) -> list[dict[str, NDArray[np.uint8]]]:
        if self._maps is None:
            assert self._cutter is not None, "load() comes before the first batch; please report this as a bug"
            return self._cutter([inner(one.padded) for one in pano])
        size, maps = self._rig.size, self._maps
        return [
            {c.name: maps.cut(one.level(c, size), c, interpolation=self._interpolation) for c in self._rig.cameras}
            for one in pano
        ]

    def _factor(self, camera: Camera, size: Size, pano_width: int) -> float:
        return shrink_factor(self._antialias, camera, size, pano_width=pano_width)


def mask_from_alpha(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The picture's own alpha as a padded mask; all 255 where it has none."""
    return padded_mask(ALL_KEPT if alpha is None else alpha)


class Cut:
    """Takes one view of a panorama, from maps that are built once."""

    def __init__(self, rig: Rig, interpolation: Interpolation) -> None:
        self._size = rig.size
        self._interpolation = interpolation
        self._maps = ViewMaps(rig)

    def on_cpu(self, pano: Pyramid, camera: Camera, buffers: Buffers) -> NDArray[np.uint8]:
        out = buffers.take((self._size.height, self._size.width, 3))
        return self._maps.cut(pano.level(camera, self._size), camera, interpolation=self._interpolation, out=out)

    def mask(self, pano_mask: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
        return self._maps.cut_mask(pano_mask, camera)


class Exifs:
    """The EXIF block of every camera; only what the source adds differs between pictures."""

    def __init__(self, rig: Rig) -> None:
        def block(camera: Camera, tags: SourceTags) -> bytes:
            return camera_exif(size=rig.size, focal_px=camera.focal_px(rig.size.width), rig_name=rig.name, tags=tags)

        self.of = lru_cache(maxsize=4 * len(rig.cameras))(block)


def encode_view(
    view: NDArray[np.uint8], camera: Camera, tags: SourceTags, *, options: Mapping[str, Any], exifs: Exifs
) -> bytes:
    return encode(view, exif=exifs.of(camera, tags), **options)


def encode_polar(mask_view: NDArray[np.uint8], *, polarity: str) -> bytes:
    return encode_mask(mask_view if polarity == "keep-white" else 255 - mask_view)


class Owned:
    """COLMAP's masks: each direction is kept in one camera only, so that overlapping views give no double points."""

    def __init__(self, rig: Rig) -> None:
        self._index = {camera.name: i for i, camera in enumerate(rig.cameras)}
        self._mask = lru_cache(maxsize=None)(lambda index: ownership_mask(rig, index))
        self._file = lru_cache(maxsize=None)(lambda index: encode_mask(self._mask(index)))

    def alone(self, camera: Camera) -> bytes:
        return self._file(self._index[camera.name])

    def and_masked(self, camera: Camera, mask_view: NDArray[np.uint8]) -> bytes:
        return encode_mask(np.minimum(self._mask(self._index[camera.name]), mask_view))


class Sidecars:
    """RealityScan's XMP beside every view: the views of one panorama are one instance of the rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._guid = realityscan.rig_guid(rig)
        self._index = {camera.name: i for i, camera in enumerate(rig.cameras)}

    def of(self, camera: Camera, key: str) -> bytes:
        instance = realityscan.instance_guid(self._guid, key)
        index = self._index[camera.name]
        text = realityscan.xmp(camera, self._rig, rig_id=self._guid, instance_id=instance, pose_index=index)
        return text.encode()


def preview_view(view: NDArray[np.uint8], camera: Camera, notes: Notes) -> None:
    preview(notes, camera.name, view, 240)


# --- small things ----------------------------------------------------------------------------------------------------


def chosen_device(wanted: str) -> str:
    """`cuda` where it is asked for or, for `auto`, there. Raises UsageError where it is asked for and not there."""
    if wanted == "cpu" or (wanted == "auto" and not Path("/proc/driver/nvidia/gpus").exists()):
        return "cpu"
    try:
        import torch
    except ImportError:
        if wanted == "auto":
            return "cpu"
        raise UsageError("--device cuda needs torch; run: pip install 'lightmill[models]'") from None
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "auto":
        return "cpu"
    raise UsageError("--device cuda: torch finds no CUDA device here; leave the option out, or give --device cpu")


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


def rig_table() -> list[str]:
    """`lightmill rigs`: every preset with the share of the sphere it sees and how often a direction is seen."""
    from lightmill.ops.cover import coverage
    from lightmill.ops.rigs import PRESETS, SUMMARIES

    lines = [f"{'rig':16} {'views':>5} {'sphere':>8} {'overlap':>8}  what"]
    for name, cameras in PRESETS.items():
        seen = coverage(cameras)
        lines.append(f"{name:16} {len(cameras):5} {seen.share:8.1%} {seen.mean_overlap:7.2f}x  {SUMMARIES[name]}")
    return lines
