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
    11: (4, 4), 12: (8, 8),
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
    pointers = [EXIF_DIRECTORY] + [GPS_DIRECTORY] * bool(gps)
    size = len(_directory([*main, *(Tag.long(pointer, 0) for pointer in pointers)], at=8))
    exif_part = _directory(exif, at=8 + size)
    places = [8 + size, 8 + size + len(exif_part)]
    links = [Tag.long(pointer, place) for pointer, place in zip(pointers, places, strict=False)]
    gps_part = _directory(gps, at=places[1]) if gps else b""
    return b"II*\0" + struct.pack("<I", 8) + _directory([*main, *links], at=8) + exif_part + gps_part


def _read_entry(blob: bytes, at: int, order: str) -> Tag | None:
    number, kind, count = struct.unpack_from(order + "HHI", blob, at)
    size, step = _TYPES.get(kind, (0, 0)) if kind != 13 else (4, 4)
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


def _directory(tags: Sequence[Tag], *, at: int) -> bytes:
    """A directory whose first byte stands at offset `at`, with its values behind it."""
    entries, values = [struct.pack("<H", len(tags))], b""
    values_at = at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags, key=lambda tag: tag.number):
        entries.append(struct.pack("<HHI", tag.number, tag.kind, len(tag.value) // (_TYPES[tag.kind][0])))
        if len(tag.value) <= 4:
            entries.append(tag.value.ljust(4, b"\0"))
        else:
            entries.append(struct.pack("<I", values_at + len(values)))
            values += tag.value + b"\0" * (len(tag.value) % 2)  # values begin at even offsets
    return b"".join(entries) + bytes(4) + values
