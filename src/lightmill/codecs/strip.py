"""Metadata taken out of JPEG and PNG files, byte by byte: no pixel is decoded, so none is encoded a second time.

JPEG markers: ITU-T T.81, annex B; what the APPn hold: JFIF 1.02, EXIF 2.32 (4.5), Adobe Technical Note 5116, XMP part 3
(1.1.3). PNG chunks: PNG specification, third edition, 11.
"""

import re
import zlib
from collections.abc import Iterator
from enum import StrEnum

import numpy as np

from lightmill.codecs import colour, jpeg, png, tags
from lightmill.errors import DamagedImage, DecodeError


class Metadata(StrEnum):
    """What a picture's file may hold beside its pixels."""

    EXIF = "exif"  # camera, time, place (GPS), a thumbnail
    XMP = "xmp"  # what editors note: ratings, authors, edits, often the place again
    IPTC = "iptc"  # captions, authors, places; in Photoshop's segment
    COMMENT = "comment"  # free text
    ICC = "icc"  # the colour profile


NOTHING: frozenset[Metadata] = frozenset()
EVERYTHING = frozenset(Metadata)

_SOI, _EOI, _SOS, _DNL, _APP0, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDC, 0xE0, 0xEE, 0xFE
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, _DNL, 0xDD})  # Huffman, arithmetic, quantisation, lines, restarts
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_LENGTH, _ADOBE_LENGTH = 14, 12  # bytes of their contents, without a thumbnail and what others put behind
_OF_PREFIX = {
    (0xE1, b"Exif\0"): Metadata.EXIF,
    (0xE1, b"http://ns.adobe.com/xap/"): Metadata.XMP,
    (0xE1, b"http://ns.adobe.com/xmp/"): Metadata.XMP,
    (0xE2, b"ICC_PROFILE\0"): Metadata.ICC,
    (0xED, b"Photoshop 3.0\0"): Metadata.IPTC,
    (_COM, b""): Metadata.COMMENT,
}
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed 0, a restart, or a fill byte
_BROWSERS = frozenset({0xC0, 0xC1, 0xC2})  # kinds of frame that every program reads: no arithmetic coding

_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"pHYs"}
)
_PNG_METADATA = {
    b"eXIf": Metadata.EXIF,
    b"iCCP": Metadata.ICC,
    b"tEXt": Metadata.COMMENT,
    b"zTXt": Metadata.COMMENT,
    b"iTXt": Metadata.COMMENT,
    b"tIME": Metadata.COMMENT,
}
_PNG_XMP = b"XML:com.adobe.xmp\0"


def strip_jpeg(data: bytes, *, keep: frozenset[Metadata] = NOTHING) -> bytes:
    """A JPEG with the very same compressed pixels, without metadata but for what is in `keep`.

    Out go EXIF with its GPS position, XMP, IPTC, comments, all thumbnails, further pictures (MPF) and whatever follows
    the end. What decoders need stays: tables, frames, scans, and the heads of JFIF and of Adobe's APP14.

    The EXIF orientation goes with EXIF, and the profile with ICC: `copied_jpeg` looks at both first. The compressed
    data are not looked into; whether they can be decoded is for the caller to try.

    Raises DamagedImage for what is no JPEG that is whole from its first marker to its last.
    """
    return b"".join(_jpeg_parts(data, keep))


def strip_png(data: bytes, *, keep: frozenset[Metadata] = NOTHING) -> bytes:
    """A PNG with the very same compressed pixels, without metadata but for what is in `keep`.

    Out go eXIf, text and time, private chunks, the further frames of an animation, and whatever follows the end. What
    the pixels' colours hang on stays, iCCP only with ICC. IPTC in a PNG is text: it goes by COMMENT.

    Raises DamagedImage for what is no PNG that is whole, all checksums of what stays included.
    """
    return b"".join(_png_parts(data, keep))


def copied_jpeg(data: bytes, *, keep: frozenset[Metadata] = NOTHING, recovered: str | None = None) -> bytes | None:
    """`strip_jpeg` of a JPEG that may be copied, and still be seen as `decode` gives it; None for all others.

    It is upright, whole from its first marker to its last, has 8 bits a channel and one or three channels, is coded in
    a way that every program reads, and has no colour profile, or one that is sRGB. `recovered`: what `decode` said of
    it; a picture that was only recovered is never copied. Files of other formats: None.
    """
    if recovered or not data.startswith(jpeg.SIGNATURE):
        return None
    found = jpeg.find_segments(data)
    if not found.frame or (found.exif and tags.orientation_of(data[slice(*found.exif)]) != 1):
        return None
    marker, bits, height, width, components = found.frame
    if marker not in _BROWSERS or bits != 8 or components not in (1, 3) or not height or not width:
        return None
    try:
        profile = jpeg.Jpeg(data).profile()
        stripped = strip_jpeg(data, keep=keep)
    except DecodeError:
        return None
    return stripped if profile is None or _changes_no_colour(profile, grey=components == 1) else None


def _changes_no_colour(profile: bytes, *, grey: bool) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    axes = (levels,) if grey else (levels, levels, levels)
    lattice = np.stack(np.meshgrid(*axes), -1).reshape(1, -1, len(axes))
    before = np.ascontiguousarray(np.broadcast_to(lattice, (1, lattice.shape[1], 3)))
    after = before.copy()
    return colour.to_srgb(after, profile, grey=grey) is None and bool((before == after).all())


def _jpeg_parts(data: bytes, keep: frozenset[Metadata]) -> Iterator[memoryview | bytes]:
    """What is left of a JPEG, in order. Raises DamagedImage."""
    if not data.startswith(jpeg.SIGNATURE):
        raise DamagedImage(f"{len(data)} bytes that do not begin as a JPEG")
    view, at, frames, scans = memoryview(data), 2, 0, 0
    yield view[:2]
    while True:
        at, marker = _marker(data, at)
        if marker == _EOI:
            if not scans:
                raise DamagedImage("the JPEG has no compressed pixels")
            yield b"\xff\xd9"
            return
        first, end = at, _segment_end(data, at, marker)
        at = end
        if marker == _SOS:
            at, scans = _scan_end(data, end), scans + 1
            if not frames or at == end:
                raise DamagedImage("the JPEG has a scan without a frame, or without compressed pixels")
            yield view[first - 2 : at]
        elif marker in _FRAMES:
            frames += 1
            if frames > 1:
                raise DamagedImage("the JPEG says twice how large its picture is")
            yield view[first - 2 : end]
        elif part := _kept_segment(bytes(view[first + 2 : end]), marker, keep):
            yield part


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """(where its segment begins, code) of the marker at `at`, behind any fill bytes."""
    begin = at
    while at < len(data) and data[at] == 0xFF:
        at += 1
    if at == len(data):
        raise DamagedImage(f"the JPEG is cut off after {len(data)} bytes")
    if at == begin or data[at] in (0, 1, _SOI) or 0xD0 <= data[at] <= 0xD7:
        raise DamagedImage(f"the JPEG has no segment at byte {begin}, where one has to be")
    return at + 1, data[at]


def _segment_end(data: bytes, at: int, marker: int) -> int:
    length = int.from_bytes(data[at : at + 2], "big")
    if at + 2 > len(data) or at + length > len(data):
        raise DamagedImage(f"the JPEG is cut off in its segment {marker:02X}")
    if length < 2:
        raise DamagedImage(f"the JPEG has a segment {marker:02X} of {length} bytes; there is none below 2")
    return at + length


def _scan_end(data: bytes, at: int) -> int:
    """Where the marker stands that ends the compressed data at `at`."""
    found = _MARKER_IN_SCAN.search(data, at)
    if not found:
        raise DamagedImage(f"the JPEG is cut off after {len(data)} bytes, in its compressed pixels")
    return found.start()


def _kept_segment(contents: bytes, marker: int, keep: frozenset[Metadata]) -> bytes | None:
    """One segment as it stays in the file; of JFIF and Adobe's the head, with no thumbnail and nothing behind it."""
    if marker in _TABLES:
        return _packed(marker, contents)
    if marker == _APP0 and contents.startswith(_JFIF) and len(contents) >= _JFIF_LENGTH:
        return _packed(marker, contents[: _JFIF_LENGTH - 2] + b"\0\0")  # a thumbnail of 0x0
    if marker == _APP14 and contents.startswith(_ADOBE) and len(contents) >= _ADOBE_LENGTH:
        return _packed(marker, contents[:_ADOBE_LENGTH])
    kinds = (kind for (code, prefix), kind in _OF_PREFIX.items() if code == marker and contents.startswith(prefix))
    return _packed(marker, contents) if next(kinds, None) in keep else None


def _packed(marker: int, contents: bytes) -> bytes:
    return b"".join((b"\xff", bytes([marker]), (len(contents) + 2).to_bytes(2, "big"), contents))


def _png_parts(data: bytes, keep: frozenset[Metadata]) -> Iterator[memoryview | bytes]:
    """What is left of a PNG, in order. Raises DamagedImage."""
    if not data.startswith(png.SIGNATURE):
        raise DamagedImage(f"{len(data)} bytes that do not begin as a PNG")
    view, names = memoryview(data), list[bytes]()
    yield view[: len(png.SIGNATURE)]
    for chunk in png.walk(data):
        contents = view[chunk.first : chunk.end]
        if not _stays(chunk.name, contents, keep):
            continue
        checksum = view[chunk.end : chunk.end + 4]
        if not chunk.whole or zlib.crc32(contents, zlib.crc32(chunk.name)) != int.from_bytes(checksum, "big"):
            raise DamagedImage(f"the PNG is cut off or damaged in its chunk {chunk.name.decode()}")
        names.append(chunk.name)
        yield view[chunk.first - 8 : chunk.end + 4]
    if names[:1] != [b"IHDR"] or names[-1] != b"IEND" or b"IDAT" not in names:
        raise DamagedImage("the PNG is not whole: its header, its pixels or its end is missing")


def _stays(name: bytes, contents: memoryview, keep: frozenset[Metadata]) -> bool:
    if name in _PNG_KEPT:
        return True
    if name[:1].isupper():
        raise DamagedImage(
            f"the PNG has a chunk {name.decode()}, without which it cannot be read, and which nobody knows"
        )
    kind = _PNG_METADATA.get(name)
    if name == b"iTXt" and bytes(contents[: len(_PNG_XMP)]) == _PNG_XMP:
        kind = Metadata.XMP
    return kind in keep
