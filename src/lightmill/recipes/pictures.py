"""Ordinary pictures on their way in: from a file or a frame of a video to upright sRGB pixels."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.header import Header, open_picture, read_header
from lightmill.codecs.picture import fresh
from lightmill.engine.items import Notes, Ref
from lightmill.engine.stages import Each
from lightmill.errors import DamagedImage
from lightmill.recipes.previews import preview

if TYPE_CHECKING:
    from lightmill.sources.frames import Frame

PREVIEW_PX = 240
_HELD_PER_PIXEL = 64  # bytes: the picture, and the linear float32 ones that are made of it


def picture_stages(*, video: bool, max_pixels: int) -> list[Each]:
    """Stages that make `image` ([H, W, 3] uint8 sRGB) and `alpha` ([H, W] uint8, or None)."""
    if video:
        return [Each(picture_of_frame, makes=("image", "alpha"), name="convert")]
    return [
        Each(read_picture, makes=("data", "header"), name="read"),
        Each(decode_picture, makes=("image", "alpha"), name="decode", weight=held_bytes, max_pixels=max_pixels),
    ]


def read_picture(ref: Ref, notes: Notes) -> tuple[bytes, Header]:
    """The bytes of a file, and what its header says."""
    data = ref.read()
    header = read_header(data)
    notes.pixels = header.width * header.height
    return data, header


def held_bytes(header: Header) -> int:
    """What a picture holds in memory while it is worked on."""
    return header.width * header.height * _HELD_PER_PIXEL


def decode_picture(data: bytes, notes: Notes, max_pixels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The pixels, and the picture's own alpha."""
    decoded = decode(data, max_pixels=max_pixels)
    if decoded.recovered:
        notes.recovered(decoded.recovered)
    notes.meta.update(decoded.meta)
    preview(notes, "input", decoded.pixels, PREVIEW_PX)
    return decoded.pixels, decoded.alpha


def decode_whole(data: bytes, notes: Notes, max_pixels: int) -> NDArray[np.uint8]:
    """[H, W, 3] sRGB, upright, of a frame that boxes are cut out of. Raises DecodeError, also where a part is missing.

    Elsewhere what can be decoded is kept; here a box of the missing part would be a grey picture of somebody (A4.16).
    """
    decoded = decode(data, max_pixels=max_pixels)
    if decoded.recovered:
        if damage := open_picture(data).read(fresh).recovered:  # else it was only about its colours
            raise DamagedImage(f"crops are cut from whole frames only: {damage}")
        notes.recovered(decoded.recovered)
    notes.meta.update(decoded.meta)
    return decoded.pixels


def picture_of_frame(frame: "Frame", notes: Notes) -> tuple[NDArray[np.uint8], None]:
    """A frame of a video likewise."""
    pixels = np.ascontiguousarray(frame.to_rgb())
    notes.pixels = pixels.shape[0] * pixels.shape[1]
    preview(notes, "input", pixels, PREVIEW_PX)
    return pixels, None
