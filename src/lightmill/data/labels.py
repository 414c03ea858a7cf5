"""What pictures are labelled with, as class maps: uint8 [H, W], a class number a pixel, 255 = ignore.

Three kinds of masks: pictures (PNG class maps, or levels 0 and 255), YOLO's polygons, COCO's polygons and run lengths.
What is wrong with a mask is an error that names it; nothing is guessed for a single file, nothing taken for background.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs import png
from lightmill.codecs.decode import decode, decode_mask
from lightmill.codecs.header import read_header
from lightmill.data.file_list import Files
from lightmill.data.index import Index
from lightmill.engine.wording import count_of
from lightmill.errors import DamagedImage, DecodeError, ItemError, UnsupportedImage, UsageError

Map: TypeAlias = NDArray[np.uint8]
SizeHW: TypeAlias = tuple[int, int]

IGNORE = 255
MOST_CLASSES = 254
BACKGROUND = "background"
LOOKED_AT = 256  # masks, spread over all of them, that say which values there are

_WRONG = 254  # in tables: a value that is no class
_KEPT_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"eXIf")  # what stored numbers and their orientation need
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6


class Labelled(NamedTuple):
    """The class map of one picture."""

    map: Map
    as_listed: bool  # whether it comes from the file that the index knows: only such a map may be kept


class Labels(Protocol):
    """The masks of an index, by its rows. Small, picklable, for many threads."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes: a class number is a place among them."""
        ...

    def read(self, row: int, size_hw: SizeHW) -> Labelled:
        """The class map of the picture of `row`, which is `size_hw` px, upright.

        Raises ItemError, with the name of the mask, where it cannot be read whole, has another size, or holds what is
        no class.
        """
        ...

    def key(self, row: int) -> bytes:
        """What a kept map of `row` hangs on: another mask, another key."""
        ...

    @property
    def rules(self) -> str:
        """What kept maps of all rows hang on."""
        ...


def open_labels(
    index: Index,
    *,
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] = (),
    binary: bool | None = None,
    boxes: bool = False,
) -> Labels:
    """The labels of an index.

    Masks that are pictures: `classes` names the values 0, 1, ...; None: as many as there are, by their numbers.
    `ignore`: stored values that become 255, as 255 itself does. `binary`: masks are levels, 128 and more is class 1, as
    of 0/255 masks; None: where all values met are 0 and 255. Met is what up to 256 masks hold, spread over all of them.

    YOLO: `classes` names the numbers 0, 1, ... of the label files, which become classes 1, 2, ...; None: data.yaml or
    classes.txt says so. COCO: `classes` are names of categories, in the order wanted; None: all, by their ids. Class 0
    is the background in both; `ignore` are numbers of YOLO, ids of COCO. `boxes`: boxes without an outline are painted
    as masks, else they are an error.

    Raises UsageError where classes and masks do not go together, InputError where a file of names cannot be read.
    """
    if len(set(classes or ())) < len(classes or ()):
        raise UsageError(f"--classes names some class twice: {', '.join(classes or ())}")
    if index.kind == "masks":
        return MaskFiles.open(index, classes=classes, ignore=ignore, binary=binary)
    if binary:
        raise UsageError(f"masks of 0 and 255 are pictures; these labels are {index.kind.upper()}'s")
    from lightmill.data import outlines  # late: it needs what is defined here

    if index.kind == "yolo":
        return outlines.open_yolo(index, classes=classes, ignore=ignore, boxes=boxes)
    return outlines.open_coco(index, classes=classes, ignore=ignore, boxes=boxes)


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks that are pictures. A class map stores the class numbers: grey or palette PNG, up to 8 bits."""

    files: Files
    names: tuple[str, ...]
    ignore: tuple[int, ...] = ()
    binary: bool = False

    @classmethod
    def open(
        cls, index: Index, *, classes: Sequence[str] | None, ignore: Sequence[int], binary: bool | None
    ) -> "MaskFiles":
        """As `open_labels`."""
        _check_ignore(ignore)
        if binary is None or (classes is None and not binary):
            values = stored_values(index.masks, index.usable)
            values[list(ignore)] = 0
            binary = _is_binary(values) if binary is None else binary
            classes = classes or (None if binary else _by_number(values))
        names = tuple(classes or (BACKGROUND, "foreground"))
        if binary and len(names) == 1:
            names = (BACKGROUND, *names)
        if binary and len(names) != 2:
            raise UsageError(f"masks of 0 and 255 have two classes; --classes names {len(names)}: {', '.join(names)}")
        if not 1 <= len(names) <= MOST_CLASSES:
            raise UsageError(f"there may be 1 to {MOST_CLASSES} classes, got {len(names)}")
        return cls(index.masks, names, tuple(sorted(set(ignore))), binary)

    @property
    def rules(self) -> str:
        return f"masks {len(self.names)} {self.ignore} {self.binary}"

    def key(self, row: int) -> bytes:
        return b"%s\0%d\0%d" % (self.files.name(row).encode(), *self.files.stamp(row))

    def read(self, row: int, size_hw: SizeHW) -> Labelled:
        name = self.files.name(row)
        if not name:
            raise ItemError("the picture has no mask")
        contents = self.files.read(row)
        try:
            values = decode_mask(contents.data) if self.binary else read_values(contents.data)
        except DecodeError as error:
            raise ItemError(f"the mask {name}: {error}") from error
        if values.shape != size_hw:
            raise ItemError(f"the mask {name} is {_by(values.shape)} px, its picture {_by(size_hw)}")
        return Labelled(self._as_classes(values, name), contents.as_listed)

    def _as_classes(self, values: Map, name: str) -> Map:
        table = self._levels_table() if self.binary else _numbers_table(len(self.names), self.ignore)
        classes: Map = np.asarray(cv2.LUT(values, table), np.uint8)
        if self.binary and not classes.any() and values.any():
            met = _values(values, np.arange(256) > 0)
            raise ItemError(f"the mask {name} is no mask of 0 and 255: {met}, none above 127")
        if (classes == _WRONG).any():
            met = _values(values, table == _WRONG)
            raise ItemError(
                f"the mask {name}: {met}, and classes are 0 to {len(self.names) - 1}; name all classes with --classes, "
                "or leave values out with --ignore"
            )
        return classes

    def _levels_table(self) -> Map:
        table = np.asarray(np.arange(256) >= 128, np.uint8)
        table[list(self.ignore)] = IGNORE
        return table


def read_values(data: bytes) -> Map:
    """[H, W] the numbers that a PNG stores, upright: indices of a palette, levels of grey as they are stored.

    1, 2 or 4 bits are not scaled, profiles and transparency are left aside. RGB and RGBA are read where all channels
    are equal, and nothing is transparent. Raises DecodeError: UnsupportedImage for 16 bits, colours and other formats,
    DamagedImage for what is not whole.
    """
    if not data.startswith(png.SIGNATURE):
        form = read_header(data).format
        raise UnsupportedImage(f"a class map has to be a PNG, which keeps numbers as they are; this is {form.upper()}")
    read_header(data)  # says what is wrong with the header
    first = next(png.walk(data))
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", data[first.first : first.end])
    if depth == 16:
        raise UnsupportedImage("a mask of 16 bits; class numbers have 8 (0 to 253, and 255 for what is ignored)")
    if kind in (_RGB, _RGBA):
        return _equal_channels(_rebuilt(data))
    if kind not in (_GREY, _PALETTE):
        raise UnsupportedImage("a mask with transparency; save it as a grey PNG, or one with a palette")
    header = struct.pack(">IIBBBBB", width, height, depth, _GREY, *rest)
    levels = decode_mask(_rebuilt(data, header=header))  # an index of n bits comes as a level of n bits: scaled
    return levels if depth == 8 else levels // np.uint8(255 // ((1 << depth) - 1))


def _rebuilt(data: bytes, *, header: bytes | None = None) -> bytes:
    """The same PNG without what changes levels, under another header where one is given; damage stays as it is."""
    parts = [png.SIGNATURE]
    for chunk in png.walk(data):
        if chunk.name == b"IHDR" and header:
            parts.append(png.pack_chunk(b"IHDR", header))
        elif chunk.name in _KEPT_CHUNKS:
            parts.append(data[chunk.first - 8 : chunk.end + 4])
    return b"".join(parts)


def _equal_channels(data: bytes) -> Map:
    decoded = decode(data)
    if decoded.recovered:
        raise DamagedImage(f"a mask has to be whole: {decoded.recovered}")
    red, green, blue = np.moveaxis(decoded.pixels, 2, 0)
    if (red != green).any() or (red != blue).any():
        raise UnsupportedImage("a mask in colours; class numbers are stored in a grey PNG, or one with a palette")
    if decoded.alpha is not None and (decoded.alpha < 255).any():
        raise UnsupportedImage("a mask with transparency; save it as a grey PNG, or one with a palette")
    return np.ascontiguousarray(red)


def stored_values(masks: Files, rows: NDArray[np.int64], *, most: int = LOOKED_AT) -> NDArray[np.int64]:
    """[256] pixels of each value in up to `most` of the rows' masks; files that cannot be read are left out.

    They are named once they are met in training, and by `lightmill check`.
    """
    counts = np.zeros(256, np.int64)
    chosen = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)] if len(rows) else rows
    for row in chosen.tolist():
        try:
            counts += np.bincount(_levels(masks.read(row).data).ravel(), minlength=256)
        except ItemError:
            continue
    return counts


def _levels(data: bytes) -> Map:
    """Stored values of a PNG; of other formats, which only hold levels, those."""
    return read_values(data) if data.startswith(png.SIGNATURE) else decode_mask(data)


def _is_binary(counts: NDArray[np.int64]) -> bool:
    """Whether 0 and 255 are all that there is, and 255 is met: as a class map it would be one class, and void."""
    return bool(counts[255]) and not counts[1:255].any()


def _by_number(counts: NDArray[np.int64]) -> tuple[str, ...]:
    met = np.flatnonzero(counts[:IGNORE]).tolist()
    if not met:
        raise UsageError("no class is met in the masks; name the classes with --classes")
    if met[-1] >= 128:
        raise UsageError(
            f"the masks hold values up to {met[-1]}: are they soft masks of one thing (say so with --binary), "
            "or have they so many classes (name them with --classes)?"
        )
    return tuple(str(number) for number in range(met[-1] + 1))


def _numbers_table(classes: int, ignore: Sequence[int]) -> Map:
    table = np.full(256, _WRONG, np.uint8)
    table[:classes] = np.arange(classes)
    table[[IGNORE, *ignore]] = IGNORE
    return table


def _check_ignore(ignore: Sequence[int]) -> None:
    if wrong := [value for value in ignore if not 0 <= value <= 255]:
        raise UsageError(f"--ignore takes values that masks can hold, 0 to 255, got {wrong[0]}")


def _values(values: Map, wanted: NDArray[np.bool_]) -> str:
    """In words: which of the wanted values there are, and in how many pixels."""
    counts = np.bincount(values.ravel(), minlength=256) * wanted
    met = np.flatnonzero(counts).tolist()
    shown = ", ".join(map(str, met[:5])) + (", ..." if len(met) > 5 else "")
    return f"it holds {shown} ({count_of(int(counts.sum()), 'pixel')})"


def _by(size_hw: Sequence[int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def digest(*parts: bytes) -> bytes:
    """Twelve bytes that stand for all of the parts.

    >>> digest(b"a", b"bc") == digest(b"ab", b"c")
    False
    """
    found = blake2b(digest_size=12)
    for part in parts:
        found.update(b"%d:" % len(part) + part)
    return found.digest()
