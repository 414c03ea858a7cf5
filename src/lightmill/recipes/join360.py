"""The way back: the views of a rig, blended into equirectangular pictures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightmill.codecs.decode import decode, decode_mask
from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.codecs.header import read_header
from lightmill.engine.items import Item, Notes, Settled
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job
from lightmill.engine.stages import Each, Save
from lightmill.errors import InputError, ItemError, SourceError
from lightmill.export.rigfile import rig_json
from lightmill.ops.join import JoinMaps, PanoJoin
from lightmill.ops.rig import Camera, Rig
from lightmill.recipes.base import Recipe
from lightmill.recipes.previews import preview
from lightmill.recipes.rig_option import names_a_file, rig_of, stated_size
from lightmill.sources.files import PICTURE_SUFFIXES, natural_key, suffix_of
from lightmill.types import Size

Kind = Literal["image", "mask"]


class Join360(Recipe):
    """Blend the views of a rig back into equirectangular pictures.

    VIEWS is the folder `images` (or `masks`) that split360 made, its whole OUT, or a folder laid out like it.
    Directions that no camera sees are transparent (PNG, WebP, TIFF) or black (JPEG).
    """

    name: ClassVar[str] = "join360"
    positional: ClassVar[tuple[str, ...]] = ("rig",)
    path_options: ClassVar = {"rig": names_a_file}
    input_name: ClassVar[str] = "views"
    input_help: ClassVar[str] = "A folder with a folder of views for every camera, or with x_cam00.jpg, x_cam01.jpg, …"

    rig: str = Field(description="The rig.json of the views, a YAML file, or the name of a preset.")
    width: int | None = Field(None, ge=2, le=65500, description="Of the panorama (default: as fine as the views).")
    kind: Kind = Field("image", description="Blend pictures, or join masks (255 = keep).")
    format: ImageFormat = Field(ImageFormat.PNG, description="jpg, png, webp or tiff (masks are always PNG).")
    quality: int = Field(95, ge=1, le=100, description="Of JPEG and WebP.")

    def job(self, input: Path, out: Path) -> Job:
        cameras = rig_of(self.rig, Size(1, 1)).cameras
        source = ViewsSource(input, cameras, kind=self.kind)
        rig = rig_of(self.rig, stated_size(self.rig) or source.first_size())
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | {"rig": rig_json(rig)},
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(self.pipeline, rig),
        )

    def pipeline(self, rig: Rig) -> Pipeline:
        """Join the views of one moment, encode, save."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        width = self.width or finest_width(rig)
        pano_hw = (max(width // 2, 1), width)
        join = Join(rig, pano_hw, max_pixels=self.max_pixels)

        def weight(ref: ViewsRef) -> int:  # noqa: ARG001 (the same for every item)
            return 4 * 5 * width * width // 2  # float32 sums of three channels and the weights, and the result

        if self.kind == "mask":
            stages = [
                Each(join.masks, makes="pano", name="join", weight=weight),
                Each(encode_mask_panorama, makes="file", name="encode"),
            ]
        else:
            options = {"format": self.format, "quality": self.quality}
            stages = [
                Each(join.views, makes=("pano", "covered"), name="join", weight=weight),
                Each(encode_panorama, makes="file", name="encode", options=options),
            ]
        suffix = "png" if self.kind == "mask" else self.format.suffix
        return Pipeline(*stages, Save(file=f"{{name}}.{suffix}"))


def finest_width(rig: Rig) -> int:
    """The width at which a panorama is as fine as the middle of the finest view: 2 pi f, as an even number."""
    focal = max(camera.focal_px(rig.size.width) for camera in rig.cameras)
    return min(2 * round(math.pi * focal), 65500)


@dataclass(frozen=True)
class ViewsRef:
    """The views of one moment: camera -> file."""

    paths: dict[str, str]

    def read(self, camera: str) -> bytes:
        """Raises SourceError."""
        try:
            return Path(self.paths[camera]).read_bytes()
        except OSError as error:
            raise SourceError(f"cannot read {self.paths[camera]}: {error.strerror}") from error


class ViewsSource:
    """Views by camera (`cam00/x.jpg`) or flat (`x_cam00.jpg`), grouped by what they are views of."""

    streams = False

    def __init__(self, folder: Path, cameras: tuple[Camera, ...], *, kind: Kind) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give the folder `images` or `masks` that split360 made")
        inside = folder / f"{kind}s"  # where OUT of split360 is given as a whole
        root = inside if (folder / "rig.json").exists() and inside.is_dir() else folder
        names = [camera.name for camera in cameras]
        self._moments = _by_camera(root, names) or _flat(root, names)
        if not self._moments:
            raise InputError(f"{folder} holds no views of the cameras {', '.join(names[:4])}, …; is it the right rig?")
        self.described = f"views in {folder}"
        self.warnings: list[str] = []

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        for key in sorted(self._moments, key=natural_key):
            yield Item(key, ViewsRef(self._moments[key]))

    def estimated_count(self) -> int:
        return len(self._moments)

    def first_size(self) -> Size:
        """Of the first view, for a rig that does not say how large they are."""
        ref = next(self.items()).ref
        header = read_header(ref.read(next(iter(ref.paths))))
        return Size(*header.upright_size)


def _by_camera(root: Path, cameras: list[str]) -> dict[str, dict[str, str]]:
    moments: dict[str, dict[str, str]] = {}
    for camera in cameras:
        for path in sorted((root / camera).rglob("*")):
            if suffix_of(path.name) in PICTURE_SUFFIXES and not path.name.startswith("."):
                key = path.relative_to(root / camera).as_posix()
                moments.setdefault(key, {})[camera] = str(path)
    return moments


def _flat(root: Path, cameras: list[str]) -> dict[str, dict[str, str]]:
    moments: dict[str, dict[str, str]] = {}
    for path in sorted(root.rglob("*")):
        if suffix_of(path.name) not in PICTURE_SUFFIXES or path.name.startswith("."):
            continue
        for camera in cameras:
            if path.stem.endswith(f"_{camera}"):
                key = path.relative_to(root).with_name(path.stem.removesuffix(f"_{camera}") + path.suffix).as_posix()
                moments.setdefault(key, {})[camera] = str(path)
    return moments


class Join:
    """Blends the views of one moment."""

    def __init__(self, rig: Rig, pano_hw: tuple[int, int], *, max_pixels: int) -> None:
        self._rig = rig
        self._pano_hw = pano_hw
        self._max_pixels = max_pixels
        self._maps = JoinMaps(rig)

    def views(self, ref: ViewsRef, notes: Notes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """[H, W, 3] uint8 sRGB, and [H, W] uint8, 255 where any camera sees something."""
        join = PanoJoin(self._rig, self._pano_hw, maps=self._maps)
        for camera, data in self._read(ref, notes):
            decoded = decode(data, max_pixels=self._max_pixels)
            if decoded.recovered:
                notes.recovered(f"{camera.name}: {decoded.recovered}")
            join.add(camera, self._checked(camera, decoded.pixels))
        joined = join.result()
        notes.pixels = joined.pixels.size // 3
        preview(notes, "panorama", joined.pixels, 480)
        return joined.pixels, joined.covered

    def masks(self, ref: ViewsRef, notes: Notes) -> NDArray[np.uint8]:
        """[H, W] uint8: 255 = keep; directions that no camera sees are kept."""
        join = PanoJoin(self._rig, self._pano_hw, channels=1, maps=self._maps)
        for camera, data in self._read(ref, notes):
            join.add(camera, self._checked(camera, decode_mask(data, max_pixels=self._max_pixels)))
        joined = join.result_mask()
        mask: NDArray[np.uint8] = np.where(joined.covered == 0, np.uint8(255), joined.pixels)
        notes.pixels = mask.size
        preview(notes, "mask", mask, 480)
        return mask

    def _read(self, ref: ViewsRef, notes: Notes) -> Iterator[tuple[Camera, bytes]]:
        missing = [camera.name for camera in self._rig.cameras if camera.name not in ref.paths]
        if missing:
            notes.recovered(f"there is no view of {', '.join(missing)}")
        for camera in self._rig.cameras:
            if camera.name in ref.paths:
                yield camera, ref.read(camera.name)

    def _checked(self, camera: Camera, view: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = view.shape[:2]
        if (width, height) != (self._rig.size.width, self._rig.size.height):
            raise ItemError(
                f"the view of {camera.name} is {width}x{height}, and the rig says {self._rig.size}; "
                "give the rig.json of the run that made the views"
            )
        return view


def encode_panorama(pano: NDArray[np.uint8], covered: NDArray[np.uint8], *, options: dict[str, object]) -> bytes:
    """With an alpha channel where something is not covered and the format can say so."""
    if options["format"] is not ImageFormat.JPG and not covered.all():
        pano = np.dstack([pano, covered])
    return encode(pano, **options)  # type: ignore[arg-type]  # options are checked when the recipe is read


def encode_mask_panorama(pano: NDArray[np.uint8]) -> bytes:
    return encode_mask(pano)
