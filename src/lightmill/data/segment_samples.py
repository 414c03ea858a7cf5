"""One sample of segmentation: a picture and its class map, brought to the size that all samples have.

Both are laid into the size as a whole, keeping their shape, with bars where they are of another one: grey in the
picture, ignored in the map. Pictures are reduced by area and enlarged linearly; maps are picked, each pixel from the
place in its middle, so that no class grows and none appears that was not there.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.header import read_header
from lightmill.data.crops import resize_into
from lightmill.data.file_list import Files
from lightmill.data.labels import IGNORE, Labels, digest
from lightmill.errors import DamagedImage, ItemError

Bytes: TypeAlias = NDArray[np.uint8]
SizeHW: TypeAlias = tuple[int, int]

BARS = (124, 116, 104)  # the mean of ImageNet: about 0 once it is normalised
_SAME_SHAPE = 0.02  # of a side; bars thinner than that are no bars, the sample is stretched instead
_VERSION = 1  # of how samples are made: those that are kept were made likewise


class Part(NamedTuple):
    """Where in a sample the picture lies, px."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class SampleMaker:
    """Samples of an index, by its rows: [H * W * 4] bytes, the picture [H, W, 3] RGB and after it the map [H, W]."""

    pictures: Files
    labels: Labels
    size_hw: SizeHW

    @property
    def sample_bytes(self) -> int:
        return self.size_hw[0] * self.size_hw[1] * 4

    @property
    def rules(self) -> str:
        """What all samples hang on."""
        return f"{_VERSION} {self.size_hw} {self.labels.rules}"

    def key(self, row: int) -> bytes:
        """What a sample hangs on beside the rules: the names, sizes and times of its files."""
        name, (size, mtime_ns) = self.pictures.name(row), self.pictures.stamp(row)
        return digest(name.encode(), b"%d %d" % (size, mtime_ns), self.labels.key(row))

    def make(self, row: int, out: Bytes) -> bool:
        """Writes the sample into `out`; returns whether its files are those that the index knows.

        Raises ItemError, with what is to blame, where picture or mask cannot be read whole or do not fit together.
        """
        contents = self.pictures.read(row)
        name = self.pictures.name(row)
        try:
            native = read_header(contents.data).upright_size[::-1]
            part = part_of(native, self.size_hw)
            decoded = decode(contents.data, at_least=(part.width, part.height))
            if decoded.recovered:
                raise DamagedImage(f"what is trained on has to be whole: {decoded.recovered}")
        except ItemError as error:
            raise ItemError(f"{name}: {error}") from error
        classes, as_listed = self.labels.read(row, native)
        picture, numbers = split_sample(out, self.size_hw)
        place(decoded.pixels, classes, part, picture, numbers)
        return contents.as_listed and as_listed


def part_of(native: SizeHW, size_hw: SizeHW) -> Part:
    """Where a picture lies in a sample: as large as it can be, in the middle.

    >>> part_of((1080, 1920), (360, 480)), part_of((720, 960), (360, 480))
    (Part(top=45, left=0, height=270, width=480), Part(top=0, left=0, height=360, width=480))
    """
    scale = min(wanted / side for wanted, side in zip(size_hw, native, strict=True))
    fitted = [
        wanted if side * scale >= wanted * (1 - _SAME_SHAPE) else max(1, round(side * scale))
        for wanted, side in zip(size_hw, native, strict=True)
    ]
    top, left = ((wanted - side) // 2 for wanted, side in zip(size_hw, fitted, strict=True))
    return Part(top, left, *fitted)


def split_sample(sample: Bytes, size_hw: SizeHW) -> tuple[Bytes, Bytes]:
    """(picture [..., H, W, 3], map [..., H, W]) of samples [..., H * W * 4]: views."""
    pixels = size_hw[0] * size_hw[1]
    return (
        sample[..., : 3 * pixels].reshape(*sample.shape[:-1], *size_hw, 3),
        sample[..., 3 * pixels :].reshape(*sample.shape[:-1], *size_hw),
    )


def place(pixels: Bytes, classes: Bytes, part: Part, picture: Bytes, numbers: Bytes) -> None:
    """Lays a picture and its map, each of any size, into a sample."""
    rows, columns = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
    if (part.height, part.width) == numbers.shape:
        resize_into(pixels, picture)
    else:
        picture[:], numbers[:] = BARS, IGNORE
        fitted = np.empty((part.height, part.width, 3), np.uint8)
        resize_into(pixels, fitted)
        picture[rows, columns] = fitted
    numbers[rows, columns] = resized_map(classes, (part.height, part.width))


def resized_map(classes: Bytes, size_hw: SizeHW) -> Bytes:
    """[h, w] of [H, W]: each pixel is the one that its middle falls on."""
    if classes.shape == size_hw:
        return classes
    return np.asarray(cv2.resize(classes, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
