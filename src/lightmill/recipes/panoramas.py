"""Panoramas on their way in: from a file or a frame of a video to pixels that continue over the poles."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.exif import SourceTags, read_tags
from lightmill.codecs.header import Header, read_header
from lightmill.engine.buffers import Buffers
from lightmill.engine.items import Notes, Ref
from lightmill.errors import WrongAspect
from lightmill.ops.sphere import continue_poles, inner, padded_shape
from lightmill.recipes.masks import ALL_KEPT, padded_mask
from lightmill.recipes.previews import preview

if TYPE_CHECKING:
    from lightmill.sources.frames import Frame

ASPECT_TOLERANCE = 0.01
PREVIEW_PX = 480


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
    data: bytes, buffers: Buffers, notes: Notes, *, max_pixels: int
) -> tuple[NDArray[np.uint8], SourceTags, NDArray[np.uint8] | None]:
    """The panorama [H + 2 MARGIN, W, 3] uint8 sRGB, its rows continued over the poles; the tags to keep; its alpha."""
    held: list[NDArray[np.uint8]] = []

    def allocate(height: int, width: int) -> NDArray[np.uint8]:
        held[:] = [buffers.take(padded_shape(height, width))]
        return inner(held[0])

    decoded = decode(data, max_pixels=max_pixels, allocate=allocate)
    continue_poles(held[0])
    if decoded.recovered:
        notes.recovered(decoded.recovered)
    notes.meta.update(decoded.meta)
    preview(notes, "input", decoded.pixels, PREVIEW_PX)
    return held[0], read_tags(data), decoded.alpha


def frame_panorama(frame: "Frame", buffers: Buffers, notes: Notes) -> tuple[NDArray[np.uint8], SourceTags, None]:
    """A frame of a video likewise."""
    pixels = frame.to_rgb()
    height, width = pixels.shape[:2]
    check_aspect(width, height)
    padded = buffers.take(padded_shape(height, width))
    inner(padded)[:] = pixels
    continue_poles(padded)
    notes.pixels = width * height
    preview(notes, "input", pixels, PREVIEW_PX)
    return padded, SourceTags(), None


def mask_from_alpha(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The picture's own alpha as a padded mask; all 255 where it has none."""
    return padded_mask(ALL_KEPT if alpha is None else alpha)
