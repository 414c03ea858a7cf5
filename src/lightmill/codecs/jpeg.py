"""JPEG: markers read here, pixels by libjpeg-turbo (simplejpeg), strict first.

Markers: ITU-T T.81, annex B. ICC profiles in APP2: ICC.1:2022, annex B.4.
"""

import re
from dataclasses import dataclass, field
from struct import Struct

import numpy as np
import simplejpeg

from lightmill.codecs import colour, tags
from lightmill.codecs.picture import Allocate, Header, Pixels, Stored
from lightmill.errors import DamagedImage, UnsupportedImage

SIGNATURE = b"\xff\xd8\xff"
EXIF_PREFIX = b"Exif\0\0"
_ICC_PREFIX = b"ICC_PROFILE\0"

_EOI, _SOS, _APP1, _APP2 = 0xD9, 0xDA, 0xE1, 0xE2
_WITH_LENGTH = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xFF)})
_OTHER_FRAMES = {
    0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xCB: "lossless", 0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip
# baseline, extended, progressive; the last two with arithmetic coding
_KEPT = frozenset({_APP1, _APP2, 0xC0, 0xC1, 0xC2, 0xC9, 0xCA, *_OTHER_FRAMES})
_SEGMENT = Struct(">BBH")
_FRAME = Struct(">BHHB")


@dataclass(slots=True)
class Segments:
    """What lies before the compressed data."""

    frame: tuple[int, int, int, int, int] | None = None  # marker, bits, height, width, components
    exif: tuple[int, int] | None = None  # (first, end) byte of the TIFF structure
    icc: list[tuple[int, int]] = field(default_factory=list)  # (first, end) byte of every piece, number first
    scan_at: int | None = None  # where compressed data begins


def find_segments(data: bytes) -> Segments:
    """Walks the markers from the start up to the first scan, or to the end of what is there."""
    found = Segments()
    at, size = 2, len(data)
    while at + 4 <= size:
        prefix, marker, length = _SEGMENT.unpack_from(data, at)
        if prefix != 0xFF or marker not in _WITH_LENGTH or length < 2:
            at = _resume(data, at, marker)
            continue
        first, at = at + 4, at + 2 + length
        if marker == _SOS:
            found.scan_at = at
            break
        if marker in _KEPT:
            _note_segment(found, data, marker, first, at)
    return found


def _resume(data: bytes, at: int, marker: int) -> int:
    """Where to look for the next segment when there is none at `at`: the end of `data` where there is no other."""
    if data[at] != 0xFF:
        at = data.find(b"\xff", at)
        return at if at >= 0 else len(data)
    if marker == _EOI:
        return len(data)
    return at + 1 if marker == 0xFF else at + 2  # a fill byte, or a marker that stands alone


def _note_segment(found: Segments, data: bytes, marker: int, first: int, end: int) -> None:
    """Keeps what is needed of one segment, whose contents are data[first:end]."""
    if marker == _APP1:
        if not found.exif and data.startswith(EXIF_PREFIX, first):
            found.exif = (first + len(EXIF_PREFIX), end)
    elif marker == _APP2:
        if data.startswith(_ICC_PREFIX, first):
            found.icc.append((first + len(_ICC_PREFIX), end))
    elif not found.frame and first + _FRAME.size <= len(data):
        found.frame = (marker, *_FRAME.unpack_from(data, first))


def exif_of(data: bytes) -> bytes | None:
    """The TIFF-structured EXIF blob, None where there is none."""
    span = find_segments(data).exif
    return data[slice(*span)] if span else None


class Jpeg:
    """A JPEG file in memory. Raises DamagedImage where it ends before its size is said."""

    turns_itself = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._segments = found = find_segments(data)
        if not found.frame:
            raise DamagedImage(f"the JPEG ends, after {len(data)} bytes, before it says how large its picture is")
        self._frame = found.frame
        _, _, height, width, self._components = found.frame
        orientation = tags.orientation_of(data[slice(*found.exif)]) if found.exif else 1
        self.header = Header("jpeg", width, height, orientation)

    def read(self, allocate: Allocate, *, at_least: tuple[int, int] | None = None) -> Stored:
        """Decodes strictly; where that fails, leniently into a cleared buffer. CMYK becomes sRGB here.

        With `at_least` (width, height), the picture may come smaller than it is stored, but not smaller than that.
        """
        self._check()
        profile = self.profile()
        size = self.header.width, self.header.height
        eighths = _eighths(size, at_least) if at_least else 8
        width, height = (_reduced(side, eighths) for side in size)
        if self._components != 4:
            pixels = allocate(height, width)
            recovered = _decode(self._data, "RGB", pixels, size, eighths)
            return Stored(pixels, profile=profile, grey=self._components == 1, recovered=recovered)
        paper = np.empty((height, width, 4), np.uint8)
        recovered = _decode(self._data, "CMYK", paper, size, eighths)
        pixels = allocate(height, width)
        note = colour.cmyk_to_srgb(paper, profile, out=pixels)  # files hold inverted ink, as Adobe's programs write it
        return Stored(pixels, recovered=recovered or note)

    def _check(self) -> None:
        """Raises for what libjpeg cannot decode, and for a file without any compressed data."""
        marker, bits, height, width, components = self._frame
        if marker in _OTHER_FRAMES:
            raise UnsupportedImage(f"a {_OTHER_FRAMES[marker]} JPEG; save it as a common JPEG or a PNG")
        if bits != 8:
            raise UnsupportedImage(f"a JPEG of {bits} bits a channel; save it with 8 bits, or as a PNG")
        if components not in (1, 3, 4) or not height or not width:
            raise UnsupportedImage(f"a JPEG of {width}x{height} pixels with {components} channels")
        at = self._segments.scan_at
        if at is None or at >= len(self._data) or self._data.startswith(b"\xff\xd9", at):
            raise DamagedImage("the JPEG has a header, and no compressed pixels after it")

    def profile(self) -> bytes | None:
        """The ICC profile, its pieces put together in the order of their numbers."""
        pieces = sorted(self._data[slice(*span)] for span in self._segments.icc)
        return b"".join(piece[2:] for piece in pieces) or None


def _eighths(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """How many eighths of its size a picture is decoded at: the fewest that give `at_least`, 8 where none do.

    From 5 to 7 the time that libjpeg-turbo takes is that of all 8.
    """
    return next((part for part in (1, 2, 3, 4) if _serves(size, at_least, part)), 8)


def _serves(size: tuple[int, int], at_least: tuple[int, int], part: int) -> bool:
    """Whether that many eighths are enough, and end within 1/8 px, of `at_least`, of a whole pixel along both axes.

    The picture is taken to end there, so the rest would stretch it.
    """
    share = max(wanted / _reduced(side, part) for side, wanted in zip(size, at_least, strict=True))
    return share <= 1 and all(min(side * part % 8, -side * part % 8) * share <= 1 for side in size)


def _reduced(side: int, eighths: int) -> int:
    """The nearest whole number of pixels."""
    return max(1, (side * eighths + 4) // 8)


def _decode(data: bytes, colourspace: str, out: Pixels, size: tuple[int, int], eighths: int) -> str | None:
    """Fills `out`, strictly if that can be done; returns how it was recovered otherwise. Raises DamagedImage."""
    width, height = (-(-side * eighths // 8) for side in size)
    scale = {"min_width": width, "min_height": height} if eighths < 8 else {}
    target = out if out.shape[:2] == (height, width) else np.empty((height, width, out.shape[2]), np.uint8)
    recovered = _decode_into(target, data, colourspace, scale)
    if target is not out:
        out[:] = target[: out.shape[0], : out.shape[1]]
    return recovered


def _decode_into(out: Pixels, data: bytes, colourspace: str, scale: dict[str, int]) -> str | None:
    try:
        simplejpeg.decode_jpeg(data, colourspace, buffer=out, **scale)
        return None
    except ValueError as error:
        reason = _plain(error)
    out.fill(0)  # else what is missing would show the picture that was in this buffer before
    try:
        simplejpeg.decode_jpeg(data, colourspace, buffer=out, strict=False, **scale)
    except ValueError as error:
        raise DamagedImage(f"the JPEG cannot be decoded: {_plain(error)}") from error
    return f"the JPEG is damaged ({reason}); what could be decoded was kept"


def _plain(error: ValueError) -> str:
    """libjpeg's own words, without the name of the function that said them."""
    return re.sub(r"^\w+\(\): ", "", str(error)).strip() or "no reason given"
