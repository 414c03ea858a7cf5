"""Files that are written, read back by Pillow; the same bytes every time."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightmill.codecs.decode import decode, decode_mask
from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.codecs.exif import camera_exif
from lightmill.codecs.header import Header, read_header
from lightmill.errors import ItemError
from lightmill.types import Size

Pixels = NDArray[np.uint8]
EXIF = camera_exif(size=Size(96, 48), focal_px=48, rig_name="ring8")


def smooth() -> Pixels:
    colours = np.random.default_rng(1).uniform(0, 255, (5, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(colours, (96, 48), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def by_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("exif", [None, EXIF], ids=["bare", "exif"])
@pytest.mark.parametrize("form", list(ImageFormat))
def test_pictures_come_back(form: ImageFormat, exif: bytes | None) -> None:
    data = encode(smooth(), format=form, exif=exif)
    limit = 0 if form in (ImageFormat.PNG, ImageFormat.TIFF) else 3
    back = by_pillow(data)
    assert back.shape == (48, 96, 3)
    assert np.abs(back.astype(float) - smooth()).mean() <= limit
    decoded = decode(data)
    assert decoded.recovered is None
    np.testing.assert_array_equal(decoded.pixels, back)
    name = {"jpg": "jpeg"}.get(form.value, form.value)
    assert read_header(data) == Header(name, 96, 48, 1)
    assert form.suffix == form.value


@pytest.mark.parametrize("form", [ImageFormat.PNG, ImageFormat.WEBP, ImageFormat.TIFF])
def test_alpha_and_what_is_under_it(form: ImageFormat) -> None:
    alpha = np.tile(np.arange(96, dtype=np.uint8) // 12 * 36, (48, 1))
    data = encode(np.dstack([smooth(), alpha]), format=form, quality=100)
    back = by_pillow(data)
    np.testing.assert_array_equal(back[..., 3], alpha)
    clear = back[..., :3][alpha == 0].astype(float)
    assert np.abs(clear - smooth()[alpha == 0]).mean() <= (0 if form != ImageFormat.WEBP else 3)


@pytest.mark.parametrize("form", list(ImageFormat))
def test_the_same_bytes_every_time(form: ImageFormat) -> None:
    wide = np.dstack([smooth(), smooth()[..., :1]])
    made = {encode(pixels, format=form, exif=EXIF) for pixels in (smooth(), smooth().copy(), wide[..., :3])}
    assert len(made) == 1


def test_jpeg_quality_and_subsampling() -> None:
    half, full = (encode(smooth(), format=ImageFormat.JPG, subsampling=name) for name in ("420", "444"))
    layers = [[entry[1:3] for entry in Image.open(io.BytesIO(data)).layer] for data in (half, full)]
    assert layers == [[(2, 2), (1, 1), (1, 1)], [(1, 1), (1, 1), (1, 1)]]
    sizes = [len(encode(smooth(), format=ImageFormat.JPG, quality=quality)) for quality in (30, 60, 90, 100)]
    assert sizes == sorted(sizes)
    # the tables of ITU-T T.81, annex K, scaled as libjpeg does: at 50 they are as printed there
    tables = Image.open(io.BytesIO(encode(smooth(), format=ImageFormat.JPG, quality=50))).quantization
    assert tables[0][:8] == [16, 11, 10, 16, 24, 40, 51, 61]


def test_effort_makes_pngs_smaller_and_changes_no_pixel() -> None:
    pixels = np.ascontiguousarray(np.tile(smooth(), (4, 4, 1)) + np.random.default_rng(2).integers(0, 3, (192, 384, 3)))
    pixels = pixels.astype(np.uint8)
    files = {effort: encode(pixels, format=ImageFormat.PNG, effort=effort) for effort in (None, 1, 6, 9)}
    for data in files.values():
        np.testing.assert_array_equal(by_pillow(data), pixels)
    assert len(files[9]) <= len(files[6]) < len(files[1]) < len(files[None])
    assert encode(pixels, format=ImageFormat.JPG, effort=9) == encode(pixels, format=ImageFormat.JPG)
    for effort in (0, 10):
        with pytest.raises(ValueError, match=f"an effort is 1 to 9, got {effort}"):
            encode(pixels, format=ImageFormat.PNG, effort=effort)


def test_exif_of_a_jpeg_follows_jfif() -> None:
    data = encode(smooth(), format=ImageFormat.JPG, exif=EXIF)
    assert data[2:4] == b"\xff\xe0"
    assert data[6:11] == b"JFIF\0"
    assert data[20:22] == b"\xff\xe1"
    assert data[22:24] == struct.pack(">H", 2 + 6 + len(EXIF))
    assert data[24:30] == b"Exif\0\0"
    assert data[:20] + data[22 + 2 + 6 + len(EXIF) :] == encode(smooth(), format=ImageFormat.JPG)


def test_exif_of_a_png_stands_before_its_pixels() -> None:
    data = encode(smooth(), format=ImageFormat.PNG, exif=EXIF)
    at = data.index(b"eXIf")
    assert at < data.index(b"IDAT")
    assert data[at + 4 + len(EXIF) : at + 8 + len(EXIF)] == struct.pack(">I", zlib.crc32(b"eXIf" + EXIF))
    assert Image.open(io.BytesIO(data)).getexif()[0x010F] == "Lightmill"


def test_exif_that_no_jpeg_can_hold() -> None:
    with pytest.raises(ValueError, match="EXIF in a JPEG is up to 65527 bytes, got 65528"):
        encode(smooth(), format=ImageFormat.JPG, exif=bytes(65528))
    assert decode(encode(smooth(), format=ImageFormat.JPG, exif=bytes(65527))).recovered is None


@pytest.mark.parametrize(
    ("pixels", "form", "quality", "message"),
    [
        (np.zeros((4, 4), np.uint8), ImageFormat.PNG, 95, r"\[H, W, 3 or 4\] uint8, got uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), ImageFormat.JPG, 95, r"a jpg is made of \[H, W, 3\] uint8"),
        (np.zeros((4, 4, 3), np.float32), ImageFormat.TIFF, 95, "got float32"),
        (np.zeros((4, 4, 3), np.uint8), ImageFormat.JPG, 0, "a quality is 1 to 100, got 0"),
        (np.zeros((4, 4, 3), np.uint8), ImageFormat.WEBP, 101, "got 101"),
    ],
)
def test_what_cannot_be_encoded(pixels: Pixels, form: ImageFormat, quality: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(pixels, format=form, quality=quality)


def test_webp_has_a_largest_size() -> None:
    assert read_header(encode(np.zeros((2, 16383, 3), np.uint8), format=ImageFormat.WEBP)).width == 16383
    with pytest.raises(ItemError, match="16384x2 pixels are more than a webp can hold; choose png or tiff"):
        encode(np.zeros((2, 16384, 3), np.uint8), format=ImageFormat.WEBP)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 96])
def test_masks_of_two_levels_take_one_bit(width: int) -> None:
    mask = np.where(np.random.default_rng(3).random((13, width)) > 0.5, 255, 0).astype(np.uint8)
    data = encode_mask(mask)
    assert data[24] == 1, "bits a pixel"
    np.testing.assert_array_equal(by_pillow(data).astype(np.uint8) * 255, mask)
    np.testing.assert_array_equal(decode_mask(data), mask)
    assert encode_mask(np.asfortranarray(mask)) == data


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_level(value: int) -> None:
    mask = np.full((13, 21), value, np.uint8)
    np.testing.assert_array_equal(by_pillow(encode_mask(mask)).astype(np.uint8) * 255, mask)


@pytest.mark.parametrize("odd", [1, 128, 254])
def test_masks_of_more_levels_take_eight_bits(odd: int) -> None:
    mask = np.zeros((13, 21), np.uint8)
    mask[3:, 4:], mask[5, 6] = 255, odd
    data = encode_mask(mask)
    assert data[24] == 8, "bits a pixel"
    np.testing.assert_array_equal(by_pillow(data), mask)


def test_a_mask_has_one_channel() -> None:
    with pytest.raises(ValueError, match=r"a mask is \[H, W\] uint8, got uint8 \[4, 4, 3\]"):
        encode_mask(np.zeros((4, 4, 3), np.uint8))


def test_real_mask_comes_back(shared_data: Path) -> None:
    path = min((shared_data / "camvid" / "val" / "masks").glob("*.png"))
    mask = np.where(decode_mask(path.read_bytes()) > 0, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
