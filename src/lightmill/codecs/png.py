"""PNG: every chunk and its checksum looked at here, pixels by libpng (OpenCV).

Numbers from the PNG specification, third edition: chunks 5.3, interlacing 8, filters 9, tRNS 11.3.1.1.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs import colour, tags
from lightmill.codecs.picture import Allocate, Header, Meta, Stored
from lightmill.errors import DamagedImage, UnsupportedImage

_LEAST_KEPT = 0.005  # of a picture's pixels; what is less is a black picture, and none that was recovered
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)
}  # fmt: skip
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, dx, dy
_NEEDED = (b"PLTE", b"tRNS")
_MAX_PROFILE = 1 << 24  # bytes; ICC profiles inflate to far less
_PIECE = 4096  # bytes inflated at a time, so that an error loses little of what came before it

_LENGTH_NAME = Struct(">I4s")
_CRC = Struct(">I")
_IHDR = Struct(">IIBBBBB")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: where its contents lie, and whether they are all there."""

    name: bytes
    first: int
    end: int
    whole: bool


@dataclass(slots=True)
class Chunks:
    """The chunks that matter, and what is wrong with the file."""

    named: dict[bytes, Chunk] = field(default_factory=dict)  # the first of each name, without IDAT
    pixels: list[Chunk] = field(default_factory=list)  # IDAT
    damage: str | None = None


def walk(data: bytes) -> Iterator[Chunk]:
    """Every chunk up to IEND; the last one may be cut off. Ends at what cannot be a chunk."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = _LENGTH_NAME.unpack_from(data, at)
        if not name.isalpha():
            return
        end = at + 8 + length
        yield Chunk(name, at + 8, min(end, len(data)), end + 4 <= len(data))
        if name == b"IEND":
            return
        at = end + 4


def exif_of(data: bytes) -> bytes | None:
    """The contents of the eXIf chunk, None where there is none."""
    return next((data[chunk.first : chunk.end] for chunk in walk(data) if chunk.name == b"eXIf"), None)


class Png:
    """A PNG file in memory. Raises DamagedImage where its header is not all there, or wrong."""

    turns_itself = False

    _depth: int  # bits a channel
    _kind: int  # colour type

    def __init__(self, data: bytes) -> None:
        self._data = data
        first = next(walk(data), None)
        if not first or first.name != b"IHDR" or first.end - first.first != _IHDR.size or not _sound(data, first):
            raise DamagedImage(f"the header of the PNG ({len(data)} bytes) is damaged or cut off")
        width, height, self._depth, self._kind, _, _, interlace = _IHDR.unpack_from(data, first.first)
        if self._depth not in _DEPTHS.get(self._kind, ()) or interlace > 1 or not width or not height:
            raise UnsupportedImage(f"a PNG of {width}x{height} pixels, colour type {self._kind}, {self._depth} bits")
        self._interlaced = bool(interlace)
        self.header = Header("png", width, height, tags.orientation_of(exif_of(data)))

    def read(self, allocate: Allocate) -> Stored:
        """Decodes strictly, checksums of all chunks included; where that fails, what can be inflated."""
        data, chunks = self._data, _check_chunks(self._data)
        if not any(chunk.end > chunk.first for chunk in chunks.pixels):
            raise DamagedImage("the PNG has a header, and no compressed pixels after it")
        raster, damage = (None, chunks.damage) if chunks.damage else (_raster(data), None)
        if raster is None:
            data, kept = self._repaired(chunks)
            if kept < _LEAST_KEPT:
                raise DamagedImage(
                    f"the PNG is damaged ({damage or 'its compressed pixels'}), and no pixels are left of it"
                )
            raster = _raster(data)
            damage = f"the PNG is damaged ({damage or 'its compressed pixels'}); {kept:.0%} of its pixels were kept"
        if raster is None:
            raise DamagedImage(f"the PNG cannot be decoded: {chunks.damage or 'its pixels are damaged'}")
        stored = self._stored(raster, self._clear_level(chunks), allocate)
        stored.profile, note = self._profile(chunks)
        stored.recovered = damage or note
        stored.meta = self._meta(chunks)
        return stored

    def _stored(self, raster: NDArray[Any], clear: int | None, allocate: Allocate) -> Stored:
        """Levels as OpenCV gives them ([H, W], BGR or BGRA; 8 or 16 bits) as 8-bit RGB and alpha."""
        alpha = np.where(raster == clear, np.uint8(0), np.uint8(255)) if clear is not None else None
        levels = colour.to_8_bits(raster)
        pixels = allocate(*levels.shape[:2])
        if levels.ndim == 2:
            cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB, dst=pixels)
        elif levels.shape[2] == 3:
            cv2.cvtColor(levels, cv2.COLOR_BGR2RGB, dst=pixels)
        else:
            cv2.cvtColor(levels, cv2.COLOR_BGRA2RGB, dst=pixels)
            alpha = levels[..., 3].copy()
        return Stored(pixels, alpha, grey=self._kind in (_GREY, _GREY_ALPHA))

    def _clear_level(self, chunks: Chunks) -> int | None:
        """The level that tRNS makes transparent in a grey picture (OpenCV sees to tRNS of all other kinds)."""
        chunk = chunks.named.get(b"tRNS")
        if self._kind != _GREY or not chunk or chunk.end - chunk.first != 2:
            return None
        highest = (1 << self._depth) - 1
        level = int.from_bytes(self._data[chunk.first : chunk.end], "big") & highest
        return level if self._depth == 16 else level * 255 // highest

    def _profile(self, chunks: Chunks) -> tuple[bytes | None, str | None]:
        """(ICC profile, why it could not be read)."""
        chunk = chunks.named.get(b"iCCP")
        if not chunk:
            return None, None
        _, _, packed = self._data[chunk.first : chunk.end].partition(b"\0")
        try:
            return zlib.decompressobj().decompress(packed[1:], _MAX_PROFILE), None
        except zlib.error:
            return None, "its colour profile cannot be read: the colours were taken as sRGB"

    def _meta(self, chunks: Chunks) -> Meta:
        chunk = chunks.named.get(b"acTL")
        if not chunk or chunk.end - chunk.first < 4:
            return {}
        frames = int.from_bytes(self._data[chunk.first : chunk.first + 4], "big")
        return {"frames": frames} if frames > 1 else {}

    def _repaired(self, chunks: Chunks) -> tuple[bytes, float]:
        """(a PNG with what can be inflated of the pixels, and black after it; which share of them that is)."""
        rows = [(height, 1 + (width * self._bits + 7) // 8) for width, height in self._passes()]
        wanted = sum(height * length for height, length in rows)
        raw = _inflate(self._data, chunks.pixels, wanted)
        kept = _sound_rows(raw, rows)
        raw = raw[:kept] + bytes(wanted - kept)
        header = self._data[len(SIGNATURE) + 8 : len(SIGNATURE) + 8 + _IHDR.size]
        needed = [chunk for name in _NEEDED if (chunk := chunks.named.get(name))]
        parts = (
            (b"IHDR", header),
            *((chunk.name, self._data[chunk.first : chunk.end]) for chunk in needed),
            (b"IDAT", zlib.compress(raw, 0)),
            (b"IEND", b""),
        )
        return SIGNATURE + b"".join(pack_chunk(name, contents) for name, contents in parts), kept / wanted

    @property
    def _bits(self) -> int:
        return self._depth * _CHANNELS[self._kind]

    def _passes(self) -> list[tuple[int, int]]:
        """(width, height) of the pictures that the file holds one after the other: one, or up to seven (Adam7)."""
        width, height = self.header.width, self.header.height
        if not self._interlaced:
            return [(width, height)]
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
        return [(w, h) for w, h in sizes if w > 0 and h > 0]


def pack_chunk(name: bytes, contents: bytes) -> bytes:
    """One chunk as it stands in a file: length, name, contents, checksum."""
    return b"".join((_LENGTH_NAME.pack(len(contents), name), contents, _CRC.pack(_checksum(name, contents))))


def _checksum(name: bytes, contents: bytes | memoryview) -> int:
    return zlib.crc32(contents, zlib.crc32(name))


def _sound(data: bytes, chunk: Chunk) -> bool:
    """Whether a chunk is all there and has the checksum that stands after it."""
    if not chunk.whole:
        return False
    (said,) = _CRC.unpack_from(data, chunk.end)
    return bool(_checksum(chunk.name, memoryview(data)[chunk.first : chunk.end]) == said)


def _check_chunks(data: bytes) -> Chunks:
    """All chunks, each held against its checksum."""
    found, last = Chunks(), b""
    for chunk in walk(data):
        last = chunk.name
        if not _sound(data, chunk):
            why = "has a wrong checksum" if chunk.whole else "is cut off"
            found.damage = found.damage or f"its chunk {chunk.name.decode()} {why}"
        if chunk.name == b"IDAT":
            found.pixels.append(chunk)
        else:
            found.named.setdefault(chunk.name, chunk)
    if last != b"IEND":
        found.damage = found.damage or "its end is missing"
    return found


def _raster(data: bytes) -> NDArray[Any] | None:
    """The pixels as OpenCV gives them, None where libpng finds any fault."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UnsupportedImage(f"a PNG that OpenCV does not decode: {error.err}") from error


def _inflate(data: bytes, chunks: list[Chunk], wanted: int) -> bytes:
    """Up to `wanted` bytes of filtered rows, as many as there are before the first fault."""
    inflater, parts, missing = zlib.decompressobj(), [], wanted
    view = memoryview(data)
    pieces = (view[at : min(at + _PIECE, c.end)] for c in chunks for at in range(c.first, c.end, _PIECE))
    for piece in pieces:
        try:
            part = inflater.decompress(piece, missing)
        except zlib.error:
            break
        parts.append(part)
        missing -= len(part)
        if missing <= 0 or inflater.eof:
            break
    return b"".join(parts)


def _sound_rows(raw: bytes, passes: list[tuple[int, int]]) -> int:
    """How many bytes from the start are rows with a filter that exists; the rows are given as (count, bytes each)."""
    at = 0
    for count, length in passes:
        filters = np.frombuffer(raw, np.uint8)[at : at + count * length : length]
        wrong = np.flatnonzero(filters > 4)
        if wrong.size:
            return at + int(wrong[0]) * length
        at += count * length
    return min(at, len(raw))
