"""Bytes to upright sRGB pixels, and to masks."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from lightmill.codecs import colour
from lightmill.codecs.header import open_picture
from lightmill.codecs.jpeg import Jpeg
from lightmill.codecs.picture import Allocate, Header, Meta, Pixels, Stored, check_buffer, check_pixels, fresh
from lightmill.codecs.turn import turn
from lightmill.errors import DamagedImage

__all__ = ["Allocate", "Decoded", "decode", "decode_mask"]

MAX_PIXELS = 400_000_000


@dataclass(slots=True)
class Decoded:
    """One picture, upright."""

    pixels: Pixels  # [H, W, 3] sRGB
    alpha: Pixels | None = None  # [H, W], 255 = opaque; the pixels are not multiplied by it
    recovered: str | None = None  # how and why it was decoded only leniently, in one sentence for people
    meta: Meta = field(default_factory=dict)  # frames: how many the file has, where it has several


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    allocate: Allocate | None = None,
    at_least: tuple[int, int] | None = None,
) -> Decoded:
    """The first picture of a file: turned upright by its EXIF orientation, its ICC colours and CMYK taken to sRGB.

    Grey gets three equal channels, 16 bits are scaled to 8. With `allocate`, `pixels` is the very array that
    `allocate(height, width)` returned; a JPEG that is upright sRGB is decoded straight into it. May be called from
    many threads at once.

    With `at_least` (width, height), a JPEG may come reduced to one half of its size or less, never below that size,
    which is meant upright as well. It is all of the picture, antialiased, and takes down to half the time; other
    formats, and JPEGs whose sides would not come to whole pixels, come in full. `allocate` is then asked for the
    reduced size, and `max_pixels` still limits what the file holds.

    Raises NotAnImage, DamagedImage, UnsupportedImage, and TooManyPixels before anything is decoded.
    """
    reader = open_picture(data)
    header = reader.header
    check_pixels(header, max_pixels)
    make = _checked(allocate) if allocate else fresh
    turns = header.orientation != 1 and not reader.turns_itself
    where = fresh if turns else make
    if at_least and isinstance(reader, Jpeg):
        stored = reader.read(where, at_least=at_least[::-1] if header.orientation > 4 else at_least)
    else:
        stored = reader.read(where)
    note = colour.to_srgb(stored.pixels, stored.profile, grey=stored.grey) if stored.profile else None
    if turns:
        _turn_upright(stored, header, make)
    return Decoded(stored.pixels, stored.alpha, stored.recovered or note, stored.meta)


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """[H, W] uint8: the grey level of every pixel of a file, upright.

    Colours and palettes give their luminance (ITU-R BT.601), 16 bits are scaled to 8, colour profiles are left aside: a
    mask is data. Where the colour is the same everywhere and there is an alpha channel, that is the mask.

    Raises as `decode` does, and DamagedImage for what `decode` would recover: a mask that is half there is no mask.
    """
    reader = open_picture(data)
    header = reader.header
    check_pixels(header, max_pixels)
    stored = reader.read(fresh)
    if stored.recovered:
        raise DamagedImage(f"a mask has to be whole: {stored.recovered}")
    mask = _mask_of(stored)
    return mask if header.orientation == 1 or reader.turns_itself else turn(mask, header.orientation)


def _mask_of(stored: Stored) -> Pixels:
    if stored.alpha is not None and not (stored.pixels != stored.pixels[0, 0]).any():
        return stored.alpha
    if stored.grey:
        return np.ascontiguousarray(stored.pixels[..., 0])
    return np.asarray(cv2.cvtColor(stored.pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _turn_upright(stored: Stored, header: Header, make: Allocate) -> None:
    height, width = stored.pixels.shape[:2]
    size = (width, height) if header.orientation > 4 else (height, width)
    stored.pixels = turn(stored.pixels, header.orientation, out=make(*size))
    if stored.alpha is not None:
        stored.alpha = turn(stored.alpha, header.orientation)


def _checked(allocate: Allocate) -> Allocate:
    return lambda height, width: check_buffer(allocate(height, width), height, width)
