"""Size, format and orientation from the bytes alone, held against Pillow."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightmill.codecs.header import Header, read_header
from lightmill.errors import DamagedImage, NotAnImage, UnsupportedImage

ORIENTATION = 0x0112
WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")
WITHOUT_EXIF = ("BMP", "GIF", "JPEG2000", "PPM")


def picture(width: int = 37, height: int = 21) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(form: str, orientation: int | None = None, **options: object) -> bytes:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    buffer = io.BytesIO()
    picture().save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", WITHOUT_EXIF + WITH_EXIF)
def test_format_and_size(form: str) -> None:
    assert read_header(saved(form)) == Header(form.lower(), 37, 21, 1)


@pytest.mark.parametrize("form", WITH_EXIF)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_as_stored_and_turns_with_the_orientation(form: str, orientation: int) -> None:
    header = read_header(saved(form, orientation))
    assert header == Header(form.lower(), 37, 21, orientation)
    assert header.upright_size == ((21, 37) if orientation >= 5 else (37, 21))


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    assert read_header(saved("JPEG", orientation)).orientation == 1


def test_big_endian_exif() -> None:
    directory = struct.pack(">HHHIHHI", 1, ORIENTATION, 3, 1, 6, 0, 0)
    exif = b"MM\0*" + struct.pack(">I", 8) + directory
    assert read_header(saved("JPEG", exif=b"Exif\0\0" + exif)).orientation == 6
    assert read_header(saved("PNG", exif=exif)).orientation == 6


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff12", b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 40])
def test_damaged_exif_is_no_orientation(exif: bytes) -> None:
    assert read_header(saved("JPEG", exif=b"Exif\0\0" + exif)).orientation == 1


def test_no_pixel_is_needed() -> None:
    jpeg, png = saved("JPEG", 6), saved("PNG")
    assert read_header(jpeg[: jpeg.index(b"\xff\xda")]) == Header("jpeg", 37, 21, 6)
    assert read_header(png[:33]) == Header("png", 37, 21, 1)


def test_fill_bytes_lone_markers_and_garbage_between_segments() -> None:
    plain = saved("JPEG", 6)
    for extra in (b"\xff\xff\xff", b"\xff\x01", b"\xff\xd0", b"\x12\x34"):
        assert read_header(plain[:2] + b"\xff\xfe\0\4ab" + extra + plain[2:]) == Header("jpeg", 37, 21, 6), extra


def test_a_thumbnail_inside_exif_is_not_the_picture() -> None:
    data = saved("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + saved("JPEG", 6)[:600])
    assert read_header(data) == Header("jpeg", 37, 21, 1)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", NotAnImage, r"^empty file \(0 bytes\)$"),
        (b"This is not a picture.\n" * 9, NotAnImage, "text that begins with 'This is not .* is no picture"),
        (b"<!DOCTYPE html><html>", NotAnImage, "a web page"),
        (b"%PDF-1.7\n", NotAnImage, "PDF"),
        (b"PK\3\4" + bytes(60), NotAnImage, "ZIP"),
        (b"\0\0\0\x20ftypisom" + bytes(60), NotAnImage, "video"),
        (bytes(range(128, 228)), NotAnImage, "data of 100 bytes that begins with 80 81 82 .* is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", NotAnImage, "no picture"),  # Pillow would start Ghostscript
        (b"\0\0\0\x18ftypheic" + bytes(60), UnsupportedImage, "HEIC is not read; save it as"),
        (b"\xff\x0a" + bytes(60), UnsupportedImage, "JPEG XL"),
        (b"8BPS\0\1" + bytes(60), UnsupportedImage, "Photoshop"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), UnsupportedImage, "camera raw"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", DamagedImage, "the JPEG ends, after 10 bytes"),
        (b"\xff\xd8\xff\xd9", DamagedImage, "before it says how large"),
        (b"\x89PNG\r\n\x1a\n\0\0", DamagedImage, "header of the PNG"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), DamagedImage, "header of the WebP"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", DamagedImage, "header of the TIFF"),
    ],
)
def test_what_is_no_picture_says_what_it_is(data: bytes, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_header(data)


def test_a_png_whose_header_has_a_wrong_checksum() -> None:
    data = bytearray(saved("PNG"))
    data[18] ^= 1  # the width
    with pytest.raises(DamagedImage, match="header of the PNG"):
        read_header(bytes(data))


def test_a_tiff_that_begins_with_a_preview_is_camera_raw() -> None:
    with pytest.raises(UnsupportedImage, match="camera raw"):
        read_header(saved("TIFF", tiffinfo={254: 1}))


def test_real_photographs(shared_data: Path) -> None:
    paths = sorted(path for path in shared_data.rglob("*") if path.suffix in {".jpg", ".png"})[::7]
    assert len(paths) > 10
    for path in paths:
        with Image.open(path) as image:
            wanted = Header((image.format or "").lower(), *image.size, image.getexif().get(ORIENTATION, 1))
        assert read_header(path.read_bytes()) == wanted, path.name
