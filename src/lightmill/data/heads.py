"""What the headers of many files say of their pictures: the first bytes are read, no pixel is decoded."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lightmill.codecs import jpeg, png
from lightmill.codecs.header import Header, read_header
from lightmill.data.problems import Problem, said
from lightmill.errors import DecodeError
from lightmill.sources import files

_FIRST = 1 << 14  # bytes read of a file; as many as a header needs but where a thumbnail or a profile stands before it
_LONGEST = 1 << 24  # of a JPEG or PNG; nobody's header is longer
_MORE = 16  # times as much is read the next time
_AT_ONCE = 256  # files that a thread takes up at a time
_FORMATS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "jif"), "jpeg"),
    **dict.fromkeys(("png", "apng"), "png"),
    **dict.fromkeys(("tif", "tiff"), "tiff"),
    **dict.fromkeys(("bmp", "dib"), "bmp"),
    **dict.fromkeys(("jp2", "j2k", "jpf", "jpx", "jpc", "j2c"), "jpeg2000"),
    **dict.fromkeys(("ppm", "pgm", "pbm", "pnm"), "ppm"),
    **{name: name for name in ("webp", "gif", "avif")},
}


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a picture without decoding it."""

    width: int = 0  # px, upright; 0 where it cannot be told
    height: int = 0
    turned: bool = False  # stored with its sides exchanged
    problem: str = ""  # as lightmill.data.problems says it


def read_heads(paths: Sequence[str], *, threads: int) -> list[Head]:
    """The head of every file, in order."""
    parts = [paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE)]
    if threads <= 1 or len(parts) <= 1:
        return [read_head(path) for path in paths]
    with ThreadPoolExecutor(threads) as pool:
        return [head for part in pool.map(lambda some: [read_head(path) for path in some], parts) for head in part]


def read_head(path: str) -> Head:
    """Of one file; what is wrong is its `problem`. An orientation that a PNG says behind its pixels is not seen."""
    try:
        header = _header(path)
    except DecodeError as error:
        return Head(problem=said(Problem.UNREADABLE, str(error)))
    except OSError as error:
        return Head(problem=said(Problem.UNREADABLE, files.reason_of(error)))
    if not header.width or not header.height:
        return Head(problem=said(Problem.UNREADABLE, f"its header says {header.width}x{header.height} pixels"))
    width, height = header.upright_size
    return Head(width, height, header.orientation > 4, _misnamed(path, header))


def _header(path: str) -> Header:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(descriptor, _FIRST)
        while len(data) >= _FIRST and _goes_on(data):
            more = os.read(descriptor, (_MORE - 1) * len(data))
            if not more:
                break
            data += more
        return read_header(data) if len(data) < _FIRST or _walked(data) else _of_others(descriptor, data)
    finally:
        os.close(descriptor)


def _walked(data: bytes) -> bool:
    return data.startswith((jpeg.SIGNATURE, png.SIGNATURE))


def _goes_on(data: bytes) -> bool:
    """Whether the part before the pixels, where size and orientation stand, may have an end behind these bytes."""
    if len(data) >= _LONGEST:
        return False
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.find_segments(data).scan_at is None
    if data.startswith(png.SIGNATURE):
        return not any(chunk.name in (b"IDAT", b"IEND") for chunk in png.walk(data))
    return False


def _of_others(descriptor: int, data: bytes) -> Header:
    """Pillow's formats: their first bytes where these are enough, else all of them (a TIFF may say its size last)."""
    try:
        return read_header(data)
    except DecodeError:
        parts = [data]
        while part := os.read(descriptor, 1 << 24):
            parts.append(part)
        return read_header(b"".join(parts))


def _misnamed(path: str, header: Header) -> str:
    suffix = files.suffix_of(path)
    if _FORMATS.get(suffix, header.format) == header.format:
        return ""
    return said(Problem.EXTENSION, f"called .{suffix}, and is a {header.format.upper()}")
