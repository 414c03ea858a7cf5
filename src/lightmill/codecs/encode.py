"""Pixels and masks to bytes; EXIF goes in as the file is made, so nothing is decoded and encoded twice."""

import io
from contextlib import suppress
from enum import StrEnum
from struct import Struct
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from lightmill.codecs import jpeg, png, tags
from lightmill.codecs.picture import Pixels
from lightmill.errors import ItemError

Subsampling = Literal["420", "444"]


class ImageFormat(StrEnum):
    """What pictures are written as."""

    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"

    @property
    def suffix(self) -> str:
        """The end of a file name, without a dot."""
        return self.value


_MAX_SIDE = {ImageFormat.JPG: 65500, ImageFormat.WEBP: 16383}  # px
_APP1 = Struct(">HH")
_MAX_SEGMENT = 65535  # bytes of a JPEG segment, with its length and without its marker


def encode(
    pixels: Pixels,
    *,
    format: ImageFormat,
    quality: int = 95,
    subsampling: Subsampling = "420",
    exif: bytes | None = None,
    effort: int | None = None,
) -> bytes:
    """A file of [H, W, 3] uint8 RGB; PNG, WebP and TIFF also take [H, W, 4] with alpha (not premultiplied).

    `quality` (1 to 100) is for JPEG and WebP, `subsampling` of the colours for JPEG; PNG and TIFF lose nothing.
    `effort` (1 to 9) makes a PNG smaller: 1 takes about a tenth off in little more time, 6 up to a quarter in four
    times the time, 9 little more in twenty times the time. `exif` is a TIFF-structured blob, as `camera_exif` makes
    it. The same pixels and options give the same bytes.

    Raises ValueError for arrays and options that are none of these, and ItemError for a picture that is larger than
    the format allows.
    """
    _check(pixels, format, quality, effort)
    match format:
        case ImageFormat.JPG:
            return _encode_jpeg(pixels, quality, subsampling, exif)
        case ImageFormat.PNG:
            return _encode_png(pixels, exif, effort)
        case ImageFormat.WEBP:
            # exact: colours stay as they are where alpha is 0
            return _saved(pixels, "WEBP", quality=quality, exact=True, exif=exif or b"")
        case ImageFormat.TIFF:
            data = _saved(pixels, "TIFF", compression="tiff_lzw")
            return tags.add_to_tiff(data, exif) if exif else data  # Pillow puts no EXIF into compressed TIFF


def encode_mask(mask: Pixels) -> bytes:
    """A PNG of an [H, W] uint8 mask: of 1 bit where it holds only 0 and 255, else of 8 bits."""
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"a mask is [H, W] uint8, got {mask.dtype} {list(mask.shape)}")
    two_levels = int((mask + np.uint8(1)).max()) <= 1  # 255 wraps to 0
    return _png(mask, [cv2.IMWRITE_PNG_BILEVEL, 1] if two_levels else [])


def _check(pixels: Pixels, format: ImageFormat, quality: int, effort: int | None) -> None:
    channels = (3,) if format is ImageFormat.JPG else (3, 4)
    if pixels.ndim != 3 or pixels.shape[2] not in channels or pixels.dtype != np.uint8:
        wanted = " or ".join(map(str, channels))
        raise ValueError(f"a {format} is made of [H, W, {wanted}] uint8, got {pixels.dtype} {list(pixels.shape)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"a quality is 1 to 100, got {quality}")
    if effort is not None and not 1 <= effort <= 9:
        raise ValueError(f"an effort is 1 to 9, got {effort}")
    height, width = pixels.shape[:2]
    if max(height, width) > _MAX_SIDE.get(format, max(height, width)):
        raise ItemError(f"{width}x{height} pixels are more than a {format} can hold; choose png or tiff")


def _encode_jpeg(pixels: Pixels, quality: int, subsampling: Subsampling, exif: bytes | None) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", subsampling)
    if not exif:
        return data
    contents = jpeg.EXIF_PREFIX + exif
    if len(contents) + 2 > _MAX_SEGMENT:
        raise ValueError(f"EXIF in a JPEG is up to {_MAX_SEGMENT - 8} bytes, got {len(exif)}")
    # JFIF wants its own segment first, EXIF wants it too: readers look for JFIF at byte 2, and for EXIF anywhere
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return b"".join((data[:at], _APP1.pack(0xFFE1, len(contents) + 2), contents, memoryview(data)[at:]))


def _encode_png(pixels: Pixels, exif: bytes | None, effort: int | None) -> bytes:
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    data = _png(np.asarray(cv2.cvtColor(pixels, order), np.uint8), _png_options(effort))
    if not exif:
        return data
    at = next(png.walk(data)).end + 4  # behind IHDR, so before IDAT
    return b"".join((data[:at], png.pack_chunk(b"eXIf", exif), memoryview(data)[at:]))


def _png_options(effort: int | None) -> list[int]:
    """None is OpenCV's own level and filter, the fastest there are; to set a level alone also sets a slow filter."""
    if effort is None:
        return []
    options = [cv2.IMWRITE_PNG_COMPRESSION, effort]
    with suppress(AttributeError):  # an OpenCV that has no such option: it chooses by itself
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FAST_FILTERS]
    return options


def _png(levels: Pixels, options: list[int]) -> bytes:
    made, data = cv2.imencode(".png", levels, options)
    if not made:
        raise ItemError(f"OpenCV could not make a PNG of {levels.shape[1]}x{levels.shape[0]} pixels")
    return data.tobytes()


def _saved(pixels: Pixels, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()
