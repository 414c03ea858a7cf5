"""What `check` looks at, a picture and its mask at a time: both decoded whole, compared, their classes counted."""

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.header import Header
from lightmill.data.labels import IGNORE, Labels, MaskFiles, read_values
from lightmill.data.problems import HARMLESS, Problem, kind_of
from lightmill.engine.items import Json, Notes
from lightmill.engine.stages import Each
from lightmill.errors import DecodeError, ItemError, SourceError
from lightmill.ops.phash import phash
from lightmill.recipes.pictures import PREVIEW_PX, decode_picture, read_picture
from lightmill.recipes.previews import preview
from lightmill.sources import files

Pixels: TypeAlias = NDArray[np.uint8]
ClassMap: TypeAlias = NDArray[np.uint8]

_HELD_PER_PIXEL = 8  # bytes: picture, mask, and what compares them
_FILE_MISSING = frozenset({Problem.MISSING_PICTURE, Problem.ODD_NAME})

# in an item's meta
LOOKED_AT = "looked_at"
FINGERPRINT = "fingerprint"
SIZE = "size"
COUNTS = "classes"
FINDINGS = "findings"

ALL_IGNORED = "all ignored"  # a finding: the mask teaches nothing


class MissingMask(ItemError):  # noqa: N818 (as in errors.py: named for what went wrong)
    """There is no mask: never taken for background."""


class Unclear(ItemError):  # noqa: N818 (as in errors.py: named for what went wrong)
    """Which mask belongs to the picture, or which split it is in, cannot be told."""


class SizesDiffer(ItemError):  # noqa: N818 (as in errors.py: named for what went wrong)
    """The picture, upright, is of another size than its mask."""


class OutsideClasses(ItemError):  # noqa: N818 (as in errors.py: named for what went wrong)
    """The mask stores values that no class has."""


class WrongLabels(ItemError):  # noqa: N818 (as in errors.py: named for what went wrong)
    """There are labels, and training could not use them."""


_REFUSED: tuple[tuple[frozenset[Problem], type[ItemError]], ...] = (
    (frozenset({Problem.MISSING_MASK}), MissingMask),
    (frozenset({Problem.DUPLICATE, Problem.TWO_SPLITS}), Unclear),
    (frozenset({Problem.SIZES}), SizesDiffer),
)


@dataclass(frozen=True, slots=True)
class PairRef:
    """A row of the index, as it travels to a worker."""

    root: str
    row: int  # of the index
    image: str  # relative, with `/`
    mask: str  # likewise; of COCO `file.json#id`
    problem: str
    identity: str  # another where one of the files, or what the index or the labels say of them, is another

    def read(self) -> bytes:
        """The picture's file. Raises SourceError."""
        return files.FileRef(os.path.join(self.root, self.image), self.image).read()

    def read_mask(self) -> bytes:
        """The mask's file, where it has one of its own. Raises SourceError."""
        return files.FileRef(os.path.join(self.root, self.mask), self.mask).read()


@dataclass(frozen=True, kw_only=True)
class Checker:
    """Its methods are stages."""

    labels: Labels  # as training reads them
    max_pixels: int

    def stages(self) -> list[Each]:
        """Look at the index's own findings, decode the picture, decode its mask, compare, count."""
        return [
            Each(begin, name="begin"),
            Each(read_picture, makes=("data", "header"), name="read"),
            Each(
                decode_picture,
                makes=("image", "alpha"),
                name="picture",
                weight=held_bytes,
                max_pixels=self.max_pixels,
            ),
            Each(fingerprinted, name="fingerprint"),
            Each(self.mask, makes="classes", name="mask"),
            Each(count, name="count"),
        ]

    def mask(self, ref: PairRef, image: Pixels, notes: Notes) -> ClassMap:
        """[H, W] its class map. Raises MissingMask, Unclear, SizesDiffer, OutsideClasses, WrongLabels, DecodeError."""
        height, width = image.shape[:2]
        notes.meta[SIZE] = [width, height]
        for kinds, error in _REFUSED:
            if kind_of(ref.problem) in kinds:
                raise error(ref.problem)
        try:
            return self.labels.read(ref.row, (height, width)).map
        except ItemError as error:
            raise self._named(error, ref) from error

    def _named(self, error: ItemError, ref: PairRef) -> ItemError:
        """The same in a class of its own, by which it is counted."""
        if isinstance(error, SourceError):
            return error
        if isinstance(error.__cause__, DecodeError):
            return type(error.__cause__)(str(error))
        if isinstance(self.labels, MaskFiles) and not self.labels.binary:
            values = np.unique(read_values(ref.read_mask())).tolist()
            if not {*values} <= {*range(len(self.labels.names)), *self.labels.ignore, IGNORE}:
                return OutsideClasses(str(error))
        return WrongLabels(str(error))


def begin(ref: PairRef, notes: Notes) -> None:
    """What is known before anything is opened. Raises SourceError."""
    notes.meta[LOOKED_AT] = ref.identity
    kind = kind_of(ref.problem)
    if kind in _FILE_MISSING:
        raise SourceError(ref.problem)
    if kind in HARMLESS:
        notes.meta[FINDINGS] = [ref.problem]


def count(classes: ClassMap, image: Pixels, notes: Notes) -> None:
    """Write into the item's meta how many pixels each class has."""
    counts = np.bincount(classes.ravel(), minlength=256)
    met: dict[str, Json] = {str(number): int(counts[number]) for number in np.flatnonzero(counts)}
    notes.meta[COUNTS] = met
    if counts[IGNORE] == classes.size:
        found = notes.meta.get(FINDINGS)
        notes.meta[FINDINGS] = [*(found if isinstance(found, list) else []), ALL_IGNORED]
    if notes.sampled:
        preview(notes, "mask", painted(image, classes), PREVIEW_PX)


def held_bytes(header: Header) -> int:
    """What a picture and its mask hold in memory while they are compared."""
    return header.width * header.height * _HELD_PER_PIXEL


def fingerprinted(data: bytes, image: Pixels, notes: Notes) -> None:
    """Write into the item's meta what tells whether another file is the same, or another picture nearly so."""
    notes.meta[FINGERPRINT] = {
        "file": blake2b(data, digest_size=16).hexdigest(),
        "phash": f"{phash(image):016x}",
    }


def painted(image: Pixels, classes: ClassMap) -> Pixels:
    """The picture with its classes in colours; void stays as it is."""
    hue = (np.arange(256) * 67 % 180).astype(np.uint8)  # far from each other for neighbouring numbers
    wheel = np.stack([hue, np.full(256, 200, np.uint8), np.full(256, 255, np.uint8)], axis=-1)
    colours = cv2.cvtColor(wheel[None], cv2.COLOR_HSV2RGB)[0]
    mixed = cv2.addWeighted(image, 0.5, colours[classes], 0.5, 0)
    mixed[classes == IGNORE] = image[classes == IGNORE]
    return np.asarray(mixed, np.uint8)
