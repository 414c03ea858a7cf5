"""Odd, broken and hostile picture files, and what is to come of each."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

LONG = "n" * 245 + ".jpg"
# file -> the size (width, height) of its upright picture
READABLE = {
    "one.png": (1, 1),
    "three.png": (3, 3),
    "row.png": (1500, 1),
    "column.png": (1, 1500),
    "sixteen.png": (96, 96),
    "grey16.tif": (96, 96),
    "cmyk.jpg": (96, 96),
    "palette.png": (96, 96),
    "alpha.png": (96, 96),
    "moves.gif": (96, 96),
    "turned.jpg": (64, 96),
    "wrong_suffix.png": (96, 96),
    "größe ñ 日本.jpg": (96, 96),
    "dots.in.name.jpg": (96, 96),
    " blanks .jpg": (96, 96),
    "quo'te\";,.jpg": (96, 96),
    "100% {name} {part}.jpg": (96, 96),
    "-dash.jpg": (96, 96),
    "two\nlines.jpg": (96, 96),
    LONG: (96, 96),
}
RECOVERED = {"cut_off.jpg": (96, 96)}
# file -> a part of why it fails
UNREADABLE = {
    "empty.jpg": "empty file (0 bytes)",
    "text.jpg": "text that begins with 'hello' is no picture",
    "bomb.png": "60000x60000 pixels are more than the limit of 400 MP",
}


def write_odd(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    """All of the above, of a picture of 96 x 96, each changed in its own way. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    jpeg = _jpeg(folder / "whole.jpg", picture)
    turned = Image.Exif()
    turned[0x0112] = 6
    makers: dict[str, Callable[[Path], Any]] = {
        "one.png": lambda path: picture.resize((1, 1)).save(path),
        "three.png": lambda path: picture.resize((3, 3)).save(path),
        "row.png": lambda path: picture.resize((1500, 1)).save(path),
        "column.png": lambda path: picture.resize((1, 1500)).save(path),
        "sixteen.png": lambda path: cv2.imwrite(str(path), pixels[..., ::-1].astype(np.uint16) * 257),
        "grey16.tif": lambda path: cv2.imwrite(str(path), pixels[..., 1].astype(np.uint16) * 257),
        "cmyk.jpg": lambda path: picture.convert("CMYK").save(path),
        "palette.png": lambda path: picture.quantize(32).save(path),
        "alpha.png": lambda path: Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(path),
        "moves.gif": lambda path: picture.save(path, save_all=True, append_images=[ImageOps.invert(picture)]),
        "turned.jpg": lambda path: picture.crop((0, 0, 96, 64)).save(path, exif=turned),
        "cut_off.jpg": lambda path: path.write_bytes(jpeg[: len(jpeg) * 2 // 3]),
        "empty.jpg": lambda path: path.write_bytes(b""),
        "text.jpg": lambda path: path.write_text("hello"),
        "bomb.png": lambda path: path.write_bytes(_bomb()),
    }
    for name in (*READABLE, *RECOVERED, *UNREADABLE):
        makers.get(name, lambda path: path.write_bytes(jpeg))(folder / name)
    return folder


def _jpeg(path: Path, picture: Image.Image) -> bytes:
    picture.save(path, quality=95)
    data = path.read_bytes()
    path.unlink()
    return data


def _bomb() -> bytes:
    """A PNG whose header promises 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file by its path, with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
