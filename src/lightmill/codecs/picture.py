"""What the readers of all formats share: the header of a picture, its stored pixels, and where pixels go."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import TooManyPixels

Pixels: TypeAlias = NDArray[np.uint8]
Allocate: TypeAlias = Callable[[int, int], Pixels]  # (height, width) -> C-contiguous [height, width, 3], any contents
Meta: TypeAlias = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture before any pixel is decoded."""

    format: str  # of the bytes, in lower case: jpeg, png, webp, tiff, bmp, gif, avif, jpeg2000, ppm
    width: int  # px, as stored
    height: int  # px, as stored
    orientation: int = 1  # EXIF, 1 to 8

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in px of the picture once it stands upright."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


@dataclass(slots=True)
class Stored:
    """A picture as its file holds it, not yet turned upright and not yet in sRGB."""

    pixels: Pixels  # [H, W, 3] RGB: the very array that the caller's `allocate` gave
    alpha: Pixels | None = None  # [H, W], 255 = opaque
    profile: bytes | None = None  # ICC
    grey: bool = False  # the file has one channel of colour
    recovered: str | None = None
    meta: Meta = field(default_factory=dict)


class Reader(Protocol):
    """One file in memory, opened: its header is known, its pixels are not decoded yet."""

    @property
    def header(self) -> Header:
        """Size and orientation of the stored pixels."""
        ...

    @property
    def turns_itself(self) -> bool:
        """Whether `read` gives the picture upright already."""
        ...

    def read(self, allocate: Allocate) -> Stored:
        """Decodes into the buffer of `allocate`. Raises DamagedImage, UnsupportedImage."""
        ...


def fresh(height: int, width: int) -> Pixels:
    """An Allocate that makes a new array each time."""
    return np.empty((height, width, 3), np.uint8)


def check_pixels(header: Header, max_pixels: int) -> None:
    """Raises TooManyPixels for a picture whose header says more than `max_pixels`."""
    if header.width * header.height > max_pixels:
        raise TooManyPixels(
            f"{header.width}x{header.height} pixels are more than the limit of {max_pixels / 1e6:g} MP; "
            "raise it with --max-pixels"
        )


def check_buffer(buffer: Pixels, height: int, width: int) -> Pixels:
    """The buffer itself. Raises ValueError where it is not what an Allocate has to give."""
    if buffer.shape != (height, width, 3) or buffer.dtype != np.uint8 or not buffer.flags.c_contiguous:
        raise ValueError(
            f"allocate({height}, {width}) has to give a C-contiguous [{height}, {width}, 3] uint8 array, "
            f"got {buffer.dtype} {list(buffer.shape)}"
        )
    return buffer
