"""Files without their metadata: the same pixels by two decoders, and not one byte of what had to go."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from lightmill.codecs.decode import decode
from lightmill.codecs.exif import read_tags
from lightmill.codecs.strip import EVERYTHING, NOTHING, Metadata, copied_jpeg, strip_jpeg, strip_png
from lightmill.errors import DamagedImage

Pixels = NDArray[np.uint8]
SECRET = b"48.8584N 2.2945E Quai Jacques Chirac"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def soft(width: int = 97, height: int = 49) -> Pixels:
    colours = np.random.default_rng(1).uniform(0, 255, (5, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def saved(picture: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def located(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010E] = SECRET.decode()
    tags[0x0112] = orientation
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.24), 29: "2024:05:06"})
    return tags


def segment(marker: int, contents: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents


THUMBNAIL = saved(soft(20, 10), "JPEG")
NOTES = (
    segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + SECRET),
    segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + SECRET),
    segment(0xE2, b"FPXR\0" + SECRET),
    segment(0xED, b"Photoshop 3.0\0008BIM" + SECRET),
    segment(0xFE, SECRET),
    segment(0xE0, b"JFXX\0\x10" + THUMBNAIL),
    segment(0xE5, b"maker's own" + SECRET),
    segment(0xEC, b"Ducky" + SECRET),
)


def loaded(data: bytes) -> bytes:
    """A JPEG with every kind of note behind its first segment, between its tables, and behind its end."""
    at = 4 + int.from_bytes(data[4:6], "big")
    before_scan = data.index(b"\xff\xda")
    notes = b"".join(NOTES)
    return data[:at] + notes + data[at:before_scan] + notes + data[before_scan:] + THUMBNAIL + SECRET


PLAIN = {
    "baseline": saved(soft(), "JPEG", quality=90),
    "progressive": saved(soft(), "JPEG", quality=90, progressive=True),
    "444": saved(soft(), "JPEG", quality=90, subsampling="4:4:4"),
    "restarts": saved(soft(), "JPEG", quality=90, restart_marker_blocks=3),
    "grey": saved(soft()[..., 0], "JPEG"),
    "cmyk": saved(Image.fromarray(soft()).convert("CMYK"), "JPEG"),
    "rgb": saved(soft(), "JPEG", keep_rgb=True),
    "simplejpeg": simplejpeg.encode_jpeg(soft(), 80),
}


def assert_same_pixels(stripped: bytes, data: bytes) -> None:
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(stripped))), np.asarray(Image.open(io.BytesIO(data)))
    )
    space = "CMYK" if Image.open(io.BytesIO(data)).mode == "CMYK" else "RGB"
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(stripped, space), simplejpeg.decode_jpeg(data, space))


@pytest.mark.parametrize("kind", PLAIN)
def test_notes_go_and_pixels_stay(kind: str) -> None:
    data = loaded(PLAIN[kind])
    assert data.count(SECRET) == 15
    stripped = strip_jpeg(data)
    assert_same_pixels(stripped, data)
    assert SECRET not in stripped
    assert THUMBNAIL not in stripped
    assert stripped == PLAIN[kind]  # Pillow and simplejpeg write nothing that has to go
    assert strip_jpeg(stripped) == stripped


def test_exif_and_its_position_go() -> None:
    data = saved(soft(), "JPEG", exif=located(), icc_profile=SRGB, comment=SECRET, xmp=b"<x>" + SECRET)
    assert read_tags(data).gps
    stripped = strip_jpeg(data)
    assert_same_pixels(stripped, data)
    assert not read_tags(stripped)
    for trace in (SECRET, b"Exif", b"2024:05:06", b"ICC_PROFILE", b"ns.adobe.com"):
        assert trace in data
        assert trace not in stripped
    assert not {"exif", "icc_profile", "comment", "xmp"} & Image.open(io.BytesIO(stripped)).info.keys()


@pytest.mark.parametrize(
    ("kept", "name"),
    [
        (Metadata.EXIF, "exif"),
        (Metadata.ICC, "icc_profile"),
        (Metadata.COMMENT, "comment"),
        (Metadata.XMP, "xmp"),
        (Metadata.IPTC, "photoshop"),
    ],
)
def test_what_is_wanted_stays_as_it_was(kept: Metadata, name: str) -> None:
    data = saved(soft(), "JPEG", exif=located(), icc_profile=SRGB * 150, comment=SECRET, xmp=b"<x>" + SECRET)
    at = data.index(b"\xff\xdb")
    data = data[:at] + segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x04text") + data[at:]
    before = Image.open(io.BytesIO(data)).info
    for keep in (frozenset({kept}), EVERYTHING):
        stripped = strip_jpeg(data, keep=keep)
        info = Image.open(io.BytesIO(stripped)).info
        assert info[name] == before[name]
        names = {"exif", "icc_profile", "comment", "xmp", "photoshop"}
        assert names & info.keys() == ({name} if len(keep) == 1 else names)
        assert_same_pixels(stripped, data)


def test_jfif_and_adobe_lose_what_hangs_on_them() -> None:
    data = PLAIN["baseline"]
    thumbnail = b"\x03\x02" + SECRET[:18]
    jfif = segment(0xE0, data[6:18] + thumbnail)
    adobe = segment(0xEE, b"Adobe\0d\0\0\0\0\x01" + SECRET)
    stripped = strip_jpeg(b"\xff\xd8" + jfif + adobe + data[20:])
    assert stripped == data[:20] + segment(0xEE, b"Adobe\0d\0\0\0\0\x01") + data[20:]
    info = Image.open(io.BytesIO(stripped)).info
    assert (info["jfif_version"], info["adobe_transform"]) == ((1, 1), 1)


def test_further_pictures_go() -> None:
    data = saved(soft(), "MPO", save_all=True, append_images=[Image.fromarray(soft()[::-1].copy())], exif=located())
    assert Image.open(io.BytesIO(data)).n_frames == 2
    stripped = strip_jpeg(data)
    image = Image.open(io.BytesIO(stripped))
    assert (image.format, b"MPF\0" in stripped) == ("JPEG", False)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))
    assert stripped.count(b"\xff\xd8\xff") == 1


def test_fill_bytes_between_segments_are_fine() -> None:
    data = PLAIN["progressive"]
    at = data.index(b"\xff\xdb")
    assert strip_jpeg(data[:at] + b"\xff\xff\xff" + data[at:]) == data


def test_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "photos").glob("*.jpg")):
        data = path.read_bytes()
        if len(data) > 300_000:  # more of the same, and slow by two decoders
            continue
        stripped = strip_jpeg(data)
        assert_same_pixels(stripped, data)
        assert copied_jpeg(data) == stripped
        assert copied_jpeg(stripped) == stripped
        assert not {"exif", "xmp", "photoshop", "comment"} & Image.open(io.BytesIO(stripped)).info.keys()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that do not begin as a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "8 bytes that do not begin as a JPEG"),
        (b"\xff\xd8\xff\xd9", "no compressed pixels"),
        (b"\xff\xd8\xff", "cut off after 3 bytes"),
        (b"\xff\xd8\xff\xe1", "cut off in its segment E1"),
        (b"\xff\xd8\xff\xe1\0\1", "a segment E1 of 1 bytes; there is none below 2"),
        (b"\xff\xd8\xff\xe1\0\2x", "no segment at byte 6, where one has to be"),
        (b"\xff\xd8\xff\xd8", "no segment at byte 2"),
        (PLAIN["baseline"][:-2], "cut off after [0-9]+ bytes, in its compressed pixels"),
        (PLAIN["baseline"][:300], "cut off"),
        (PLAIN["baseline"][:20] + PLAIN["baseline"][PLAIN["baseline"].index(b"\xff\xda") :], "a scan without a frame"),
    ],
)
def test_jpegs_that_are_not_whole(data: bytes, message: str) -> None:
    with pytest.raises(DamagedImage, match=message):
        strip_jpeg(data)
    assert copied_jpeg(data) is None


def test_two_frames_are_one_too_many() -> None:
    data = PLAIN["baseline"]
    at = data.index(b"\xff\xc0")
    length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    with pytest.raises(DamagedImage, match="says twice how large"):
        strip_jpeg(data[:at] + data[at : at + length] + data[at:])


# ---------------------------------------------------------------------------------------------------------------------
# which may be copied


@pytest.mark.parametrize("kind", PLAIN)
def test_common_jpegs_may_be_copied(kind: str) -> None:
    assert (copied_jpeg(loaded(PLAIN[kind])) is not None) == (kind != "cmyk")


def test_copies_are_seen_as_their_originals_are() -> None:
    for data in (
        *map(loaded, PLAIN.values()),
        saved(soft(), "JPEG", exif=located()),
        saved(soft(), "JPEG", icc_profile=SRGB),
    ):
        if copied := copied_jpeg(data, recovered=decode(data).recovered):
            np.testing.assert_array_equal(decode(copied).pixels, decode(data).pixels)


def wide_gamut() -> bytes:
    """An sRGB profile whose red is another: its colours have to be converted."""
    at = SRGB.index(b"rXYZ")
    offset = int.from_bytes(SRGB[at + 4 : at + 8], "big")
    return SRGB[: offset + 8] + struct.pack(">i", 0x9C00) + SRGB[offset + 12 :]


@pytest.mark.parametrize(
    ("data", "may"),
    [
        (saved(soft(), "JPEG", exif=located(1)), True),
        (saved(soft(), "JPEG", exif=located(6)), False),
        (saved(soft(), "JPEG", exif=located(2)), False),
        (saved(soft(), "JPEG", icc_profile=SRGB), True),
        (saved(soft(), "JPEG", icc_profile=wide_gamut()), False),
        (saved(soft(), "JPEG", icc_profile=b"no profile"), False),
        (saved(soft(), "PNG"), False),
        (b"", False),
    ],
)
def test_which_may_be_copied(data: bytes, may: bool) -> None:
    assert (copied_jpeg(data) is not None) == may
    assert copied_jpeg(data, recovered="the JPEG is damaged") is None


def test_a_wide_gamut_is_converted_by_decode() -> None:
    data = saved(soft(), "JPEG", icc_profile=wide_gamut())
    assert decode(data).recovered is None
    assert np.abs(decode(data).pixels.astype(int) - decode(strip_jpeg(data)).pixels).max() > 4


# ---------------------------------------------------------------------------------------------------------------------
# PNG


def notes() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", SECRET.decode())
    info.add_text("Comment", SECRET.decode() * 9, zip=True)
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    info.add(b"prVt", SECRET)
    return info


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_pngs_lose_their_notes(mode: str) -> None:
    image = Image.fromarray(soft())
    image = Image.fromarray(soft()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    options = {"transparency": 3} if mode in ("P", "L") else {}
    data = saved(image, "PNG", pnginfo=notes(), exif=located(), icc_profile=SRGB, dpi=(72, 72), **options) + SECRET
    stripped = strip_png(data)
    before, after = (Image.open(io.BytesIO(data)) for data in (data, stripped))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
    assert after.info.get("transparency") == before.info.get("transparency")
    assert SECRET in data
    assert not {"exif", "icc_profile", "parameters", "Comment", "XML:com.adobe.xmp"} & after.info.keys()
    for trace in (SECRET, b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"prVt", b"iCCP"):
        assert trace not in stripped
    kept = Image.open(io.BytesIO(strip_png(data, keep=frozenset({Metadata.ICC, Metadata.XMP}))))
    kept.load()
    assert kept.info["icc_profile"] == SRGB
    assert kept.info["XML:com.adobe.xmp"] == SECRET.decode()
    assert "parameters" not in kept.info


PNG = saved(soft(), "PNG", pnginfo=notes())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that do not begin as a PNG"),
        (PNG[:8], "the PNG is not whole"),
        (PNG[:-12], "the PNG is not whole"),
        (PNG[:-20], "cut off or damaged in its chunk IDAT"),
        (PNG.replace(b"IDAT", b"JDAT", 1), "a chunk JDAT, without which it cannot be read"),
        (PNG[:20] + b"\x07" + PNG[21:], "cut off or damaged in its chunk IHDR"),
    ],
)
def test_pngs_that_are_not_whole(data: bytes, message: str) -> None:
    with pytest.raises(DamagedImage, match=message):
        strip_png(data)


# ---------------------------------------------------------------------------------------------------------------------
# hostile bytes


@settings(max_examples=300)
@given(
    st.sampled_from([*map(loaded, PLAIN.values()), PNG]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0.05, 1),
    st.sampled_from([NOTHING, EVERYTHING]),
)
@example(PLAIN["baseline"], [], 1.0, NOTHING)
def test_any_damage_ends_in_bytes_or_in_damaged_image(
    seed: bytes, changes: list[tuple[float, int]], length: float, keep: frozenset[Metadata]
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value
    data = data[: int(length * len(data))]
    strip = strip_png if seed is PNG else strip_jpeg
    copied_jpeg(bytes(data))
    try:
        stripped = strip(bytes(data), keep=keep)
    except DamagedImage:
        return
    assert len(stripped) <= len(data)
    assert strip(stripped, keep=keep) == stripped
    if keep == NOTHING:
        assert SECRET not in stripped


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b""):
        with pytest.raises(DamagedImage, match="JPEG"):
            strip_jpeg(start + data)


def test_many_scans_take_no_longer_than_their_bytes() -> None:
    data = PLAIN["progressive"]
    at = data.index(b"\xff\xda")
    scan = segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\x12"
    many = data[:at] + scan * 20_000 + b"\xff\xd9"
    assert strip_jpeg(many) == many


def test_a_checksum_is_not_made_anew() -> None:
    at = PNG.index(b"IDAT") + 4
    length = int.from_bytes(PNG[at - 8 : at - 4], "big")
    assert strip_png(PNG)[-16:-12] == struct.pack(">I", zlib.crc32(b"IDAT" + PNG[at : at + length]))
