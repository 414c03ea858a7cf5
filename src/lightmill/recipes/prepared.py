"""Pictures as trainers want them, one at a time: planned by their size, decoded, fitted and encoded, or copied.

A JPEG that is to come out as a JPEG of the same pixels is not encoded again: its compressed pixels are copied, without
metadata. Unless somebody wants its pixels it is not decoded: only what is wrong outside of the compressed pixels is
found then. With `verify="decode"` it is, at an eighth of its size.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs import exif, tags
from lightmill.codecs.decode import Decoded, decode
from lightmill.codecs.encode import ImageFormat, Subsampling, encode
from lightmill.codecs.header import Header
from lightmill.codecs.strip import EVERYTHING, copied_jpeg
from lightmill.engine.items import Filtered, Json, Notes
from lightmill.engine.stages import Each
from lightmill.errors import DecodeError
from lightmill.ops.buckets import bucket_for
from lightmill.ops.fit import CENTRE, Colour, Fit, Mapping, apply_fit, focus_of, on_matte, plan_fit
from lightmill.recipes.pictures import PREVIEW_PX, read_picture
from lightmill.recipes.previews import preview
from lightmill.types import Size

if TYPE_CHECKING:
    from lightmill.sources.frames import Frame

Pixels: TypeAlias = NDArray[np.uint8]

_HELD_PER_PIXEL = 12  # bytes: as decoded, upright, fitted, encoded
_ROUGH = (1, 1)  # the smallest that a JPEG can be decoded to
_SALIENCY_PX = 256


@dataclass(frozen=True, kw_only=True)
class Preparer:
    """How all pictures of a run come out; its methods are stages."""

    format: ImageFormat
    quality: int
    subsampling: Subsampling
    effort: int | None
    matte: Colour | None  # None: alpha is kept
    keep_metadata: bool
    reencode: Literal["auto", "always"]
    verify: Literal["markers", "decode"]  # how a file is looked at that is only copied
    fit: Fit
    size: Size | None
    resolution: int
    buckets: tuple[Size, ...]
    bucket_step: int
    no_upscale: bool
    crop: Literal["center", "salient"]
    min_side: int | None
    max_aspect: float | None
    max_pixels: int
    wants_pixels: bool  # whether other stages look at the pixels

    def stages(self, *, video: bool) -> list[Each]:
        """Stages that make `image` ([H, W, 3] uint8 sRGB, fitted), `mapping`, and `file`, the bytes to be saved."""
        if video:
            first = [Each(self.of_frame, makes=("decoded", "sketch", "stripped", "exif"), name="convert")]
        else:
            first = [
                Each(read_picture, makes=("data", "header"), name="read"),
                Each(
                    self.of_file,
                    makes=("decoded", "sketch", "stripped", "exif"),
                    name="decode",
                    weight=held_bytes,
                ),
            ]
        return [
            *first,
            Each(self.fitted, makes=("image", "pixels", "mapping"), name="fit"),
            Each(self.encoded, makes="file", name="encode"),
        ]

    def plans(self, *, video: bool) -> list[Each]:
        """Stages that only say in the item's meta what would come out, by the header alone."""
        if video:
            return [Each(self.plan_frame, name="plan")]
        return [Each(read_picture, makes=("data", "header"), name="read"), Each(self.plan_file, name="plan")]

    # --- stages ------------------------------------------------------------------------------------------------------

    def of_file(
        self, data: bytes, header: Header, notes: Notes
    ) -> tuple[Decoded | None, Mapping, bytes | None, bytes | None]:
        """Pixels, maybe reduced; where they go; the file where it can be copied; EXIF. Raises Filtered, DecodeError."""
        sketch = self.sketch(header.upright_size)
        stripped = self._copy(data, header, sketch)
        at_least = None if sketch.changes_nothing else sketch.resized
        if stripped is not None and not self.wants_pixels:
            if self.verify == "markers":
                return self._glance(data, notes), sketch, stripped, None
            at_least = _ROUGH
        decoded = decode(data, max_pixels=self.max_pixels, at_least=at_least)
        if decoded.recovered and stripped is not None:  # broken where only decoding shows it
            stripped = None
            decoded = decode(data, max_pixels=self.max_pixels)
        if decoded.recovered:
            notes.recovered(decoded.recovered)
        notes.meta.update(decoded.meta)
        return decoded, sketch, stripped, exif_kept(data) if self.keep_metadata else None

    def _glance(self, data: bytes, notes: Notes) -> Decoded | None:
        """A small copy for the report, where it is to show this picture; what is wrong with it changes nothing."""
        with suppress(DecodeError):
            return decode(data, max_pixels=self.max_pixels, at_least=_ROUGH) if notes.sampled else None
        return None

    def of_frame(self, frame: "Frame", notes: Notes) -> tuple[Decoded, Mapping, None, None]:
        """A frame of a video likewise."""
        pixels = np.ascontiguousarray(frame.to_rgb())
        notes.pixels = pixels.shape[0] * pixels.shape[1]
        return Decoded(pixels), self.sketch((pixels.shape[1], pixels.shape[0])), None, None

    def fitted(
        self, decoded: Decoded | None, sketch: Mapping, stripped: bytes | None, notes: Notes
    ) -> tuple[Pixels | None, Pixels | None, Mapping]:
        """What models see (opaque), what is encoded (the same, or with alpha), and where it comes from.

        Nobody is to look at the pixels of a file that is copied, unless `wants_pixels`.
        """
        notes.meta["mapping"] = sketch.to_json()
        if decoded is not None:
            preview(notes, "input", decoded.pixels, PREVIEW_PX)
        if decoded is None or stripped is not None:
            notes.meta["copied"] = True
            return decoded.pixels if decoded else None, None, sketch
        mapping = self._aimed(decoded.pixels, sketch)
        notes.meta["mapping"] = mapping.to_json()
        source = decoded.pixels if decoded.alpha is None else np.dstack([decoded.pixels, decoded.alpha])
        pixels = apply_fit(source, mapping, matte=self.matte)
        if not mapping.changes_nothing:
            preview(notes, "prepared", pixels[..., :3], PREVIEW_PX)
        return on_matte(pixels, (255, 255, 255)), pixels, mapping

    def encoded(self, pixels: Pixels | None, stripped: bytes | None, exif: bytes | None) -> bytes:
        """The file."""
        if stripped is not None:
            return stripped
        assert pixels is not None, "made by fitted, where the file is not copied"
        return encode(
            pixels,
            format=self.format,
            quality=self.quality,
            subsampling=self.subsampling,
            exif=exif,
            effort=self.effort if self.format is ImageFormat.PNG else None,
        )

    def plan_file(self, data: bytes, header: Header, notes: Notes) -> None:
        """Note what would come of a file."""
        sketch = self.sketch(header.upright_size)
        notes.meta["size"] = list(sketch.size)
        notes.meta["copied"] = self._copy(data, header, sketch) is not None

    def plan_frame(self, frame: "Frame", notes: Notes) -> None:
        """Likewise of a frame."""
        height, width = frame.to_rgb().shape[:2]
        size: list[Json] = [*self.sketch((width, height)).size]
        notes.meta["size"] = size
        notes.meta["copied"] = False

    # --- plans -------------------------------------------------------------------------------------------------------

    def sketch(self, source: tuple[int, int], *, focus: tuple[float, float] = CENTRE) -> Mapping:
        """Where a picture of that (width, height) goes. Raises Filtered, and ItemError where no bucket takes it."""
        self._refuse(source)
        size = self.size
        if self.fit is Fit.BUCKET:
            bucket = bucket_for(
                source, self.buckets, no_upscale=self.no_upscale, step=self.bucket_step, resolution=self.resolution
            )
            return plan_fit(source, how=self.fit, size=bucket, focus=focus)
        return plan_fit(source, how=self.fit, size=size, focus=focus, no_upscale=self.no_upscale)

    def _refuse(self, source: tuple[int, int]) -> None:
        width, height = source
        shorter, longer = min(source), max(source)
        if self.min_side is not None and shorter < self.min_side:
            raise Filtered(f"{width}x{height} px: the shorter side is below --min-side {self.min_side}")
        if self.max_aspect is not None and longer > self.max_aspect * shorter:
            raise Filtered(
                f"{width}x{height} px: one side is {longer / shorter:.3g} times the other; "
                f"--max-aspect {self.max_aspect:g}"
            )

    def _aimed(self, pixels: Pixels, sketch: Mapping) -> Mapping:
        """The plan, with its crop where most stands out."""
        _, _, seen_width, seen_height = sketch.crop
        window = seen_width / sketch.source[0], seen_height / sketch.source[1]
        if self.crop == "center" or min(window) > 1 - 1e-9:
            return sketch
        return self.sketch(sketch.source, focus=focus_of(what_stands_out(pixels), window=window))

    def _copy(self, data: bytes, header: Header, sketch: Mapping) -> bytes | None:
        """The file without its metadata, where it can stand for the picture."""
        if self.format is not ImageFormat.JPG or header.format != "jpeg" or self.reencode == "always":
            return None
        if not sketch.changes_nothing:
            return None
        return copied_jpeg(data, keep=EVERYTHING if self.keep_metadata else frozenset())


def held_bytes(header: Header) -> int:
    """What a picture holds in memory while it is worked on."""
    return header.width * header.height * _HELD_PER_PIXEL


def exif_kept(data: bytes) -> bytes | None:
    """When and where a picture was taken, as EXIF for a file that is encoded anew."""
    kept = exif.read_tags(data)
    return tags.write_exif(list(kept.main), list(kept.exif), kept.gps) if kept else None


def what_stands_out(pixels: Pixels) -> NDArray[np.float32]:
    """[h, w] 0..1, on a copy of at most 256 px: `builtin:salient`'s map."""
    import cv2

    from lightmill.ops.saliency import saliency
    from lightmill.ops.superpixels import slic

    height, width = pixels.shape[:2]
    scale = min(1.0, _SALIENCY_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32) / 255
    lab = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.float32)
    return saliency(lab, slic(lab, count=_SALIENCY_PX))
