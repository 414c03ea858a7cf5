"""TIFF directories, as EXIF uses them: read entry by entry, and written again in little-endian order.

Layout from the TIFF 6.0 specification, section 2; tag numbers from EXIF 2.32 (CIPA DC-008-2019), section 4.6.
Readers here never raise on damaged bytes: what cannot be read is left out.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ORIENTATION = 0x0112
EXIF_DIRECTORY = 0x8769
GPS_DIRECTORY = 0x8825

# field type -> (bytes a value, bytes of the numbers it is made of): ASCII, SHORT, LONG, RATIONAL, ...
_TYPES = {
    1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4), 10: (8, 4),
    11: (4, 4), 12: (8, 8), 13: (4, 4),
}  # fmt: skip
_MAX_VALUE = 256  # bytes; dates and positions are far smaller, so more than this is damage or a private note
_MAX_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory; numbers in `value` are little-endian."""

    number: int
    kind: int  # TIFF field type: 2 ASCII, 3 SHORT, 4 LONG, 5 RATIONAL, 7 UNDEFINED, ...
    value: bytes

    @classmethod
    def text(cls, number: int, text: str) -> "Tag":
        """ASCII (UTF-8 where it has to be), ended by NUL."""
        return cls(number, 2, text.replace("\0", "").encode() + b"\0")

    @classmethod
    def short(cls, number: int, value: int) -> "Tag":
        """A whole number up to 65535."""
        return cls(number, 3, struct.pack("<H", value))

    @classmethod
    def long(cls, number: int, value: int) -> "Tag":
        """A whole number up to 2^32 - 1."""
        return cls(number, 4, struct.pack("<I", value))

    @classmethod
    def rational(cls, number: int, value: float) -> "Tag":
        """A number above 0 and up to 2^32 - 1, as the finest fraction with a denominator of 10^7 or less."""
        denominator = max(1, min(10**7, int((2**32 - 1) / value)))
        return cls(number, 5, struct.pack("<II", round(value * denominator), denominator))


def byte_order(blob: bytes) -> str | None:
    """The `struct` prefix of a TIFF structure, None where `blob` is none."""
    return {b"II*\0": "<", b"MM\0*": ">"}.get(blob[:4])


def orientation_of(blob: bytes | None) -> int:
    """The EXIF orientation, 1 to 8, in a TIFF-structured EXIF blob; 1 where there is none or it is no such number."""
    order = byte_order(blob) if blob else None
    if not blob or not order or len(blob) < 10:
        return 1
    (first,) = struct.unpack_from(order + "I", blob, 4)
    if first + 2 > len(blob):
        return 1
    (count,) = struct.unpack_from(order + "H", blob, first)
    entry = struct.Struct(order + "HHIH")
    for at in range(first + 2, min(first + 2 + 12 * count, len(blob) - 11), 12):
        number, kind, _, value = entry.unpack_from(blob, at)
        if number == ORIENTATION:
            return value if kind == 3 and 1 <= value <= 8 else 1
    return 1


def read_directory(blob: bytes, offset: int) -> dict[int, Tag]:
    """The directory at `offset`: entries with small values only, those that can be read."""
    order = byte_order(blob)
    if not order or not 8 <= offset <= len(blob) - 2:
        return {}
    (count,) = struct.unpack_from(order + "H", blob, offset)
    ends = min(offset + 2 + 12 * min(count, _MAX_ENTRIES), len(blob) - 11)
    tags = (_read_entry(blob, at, order) for at in range(offset + 2, ends, 12))
    return {tag.number: tag for tag in tags if tag}


def first_directory(blob: bytes) -> dict[int, Tag]:
    """The first directory of a TIFF structure; empty where `blob` is none."""
    order = byte_order(blob)
    if not order or len(blob) < 8:
        return {}
    return read_directory(blob, struct.unpack_from(order + "I", blob, 4)[0])


def sub_directory(blob: bytes, parent: dict[int, Tag], pointer: int) -> dict[int, Tag]:
    """The directory that the entry `pointer` of `parent` leads to; empty where there is none."""
    tag = parent.get(pointer)
    if not tag or tag.kind not in (4, 13) or len(tag.value) != 4:
        return {}
    return read_directory(blob, struct.unpack("<I", tag.value)[0])


def write_exif(main: Sequence[Tag], exif: Sequence[Tag], gps: Sequence[Tag]) -> bytes:
    """A TIFF-structured, little-endian EXIF blob; the pointers between its directories are added here."""
    return b"II*\0" + struct.pack("<I", 8) + _directories(main, exif, gps, at=8)


def add_to_tiff(tiff: bytes, blob: bytes) -> bytes:
    """A little-endian TIFF of one picture, with the entries of an EXIF blob: a new directory at its end holds both."""
    (old,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, old)
    entries = [tiff[at : at + 12] for at in range(old + 2, old + 2 + 12 * count, 12)]
    main = first_directory(blob)
    exif, gps = (sub_directory(blob, main, pointer) for pointer in (EXIF_DIRECTORY, GPS_DIRECTORY))
    added = [tag for tag in main.values() if tag.number not in (EXIF_DIRECTORY, GPS_DIRECTORY)]
    at = len(tiff) + len(tiff) % 2
    new = _directories(added, list(exif.values()), list(gps.values()), at=at, entries=entries)
    return b"".join((tiff[:4], struct.pack("<I", at), memoryview(tiff)[8:], bytes(at - len(tiff)), new))


def _read_entry(blob: bytes, at: int, order: str) -> Tag | None:
    number, kind, count = struct.unpack_from(order + "HHI", blob, at)
    size, step = _TYPES.get(kind, (0, 0))
    length = size * count
    if not 0 < length <= _MAX_VALUE:
        return None
    start = at + 8 if length <= 4 else struct.unpack_from(order + "I", blob, at + 8)[0]
    value = blob[start : start + length]
    if len(value) != length:
        return None
    if order == ">" and step > 1:
        value = b"".join(value[part : part + step][::-1] for part in range(0, length, step))
    return Tag(number, kind, value)


def _directories(
    main: Sequence[Tag], exif: Sequence[Tag], gps: Sequence[Tag], *, at: int, entries: Sequence[bytes] = ()
) -> bytes:
    """A first directory at offset `at` (with `entries` as they stand in a file), and those that it points to."""
    exif_at = at + len(_directory([*main, *_pointers(gps, 0, 0)], at=at, entries=entries))
    exif_part = _directory(exif, at=exif_at)
    gps_at = exif_at + len(exif_part)
    first = _directory([*main, *_pointers(gps, exif_at, gps_at)], at=at, entries=entries)
    return first + exif_part + (_directory(gps, at=gps_at) if gps else b"")


def _pointers(gps: Sequence[Tag], exif_at: int, gps_at: int) -> list[Tag]:
    return [Tag.long(EXIF_DIRECTORY, exif_at), *([Tag.long(GPS_DIRECTORY, gps_at)] if gps else [])]


def _directory(tags: Sequence[Tag], *, at: int, entries: Sequence[bytes] = ()) -> bytes:
    """A directory whose first byte stands at offset `at`, with the values of its tags behind it.

    A tag takes the place of an entry with the same number.
    """
    packed = {struct.unpack_from("<H", entry)[0]: entry for entry in entries}
    values, values_at = b"", at + 6 + 12 * len(packed.keys() | {tag.number for tag in tags})
    for tag in tags:
        place = tag.value.ljust(4, b"\0") if len(tag.value) <= 4 else struct.pack("<I", values_at + len(values))
        if len(tag.value) > 4:
            values += tag.value + b"\0" * (len(tag.value) % 2)  # values begin at even offsets
        count = len(tag.value) // _TYPES[tag.kind][0]
        packed[tag.number] = struct.pack("<HHI", tag.number, tag.kind, count) + place
    return struct.pack("<H", len(packed)) + b"".join(packed[number] for number in sorted(packed)) + bytes(4) + values
