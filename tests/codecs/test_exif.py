"""EXIF of views, read back by COLMAP's own reader and by Pillow; EXIF of sources, written by Pillow."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

import lightmill
from lightmill.codecs.encode import ImageFormat, encode
from lightmill.codecs.exif import SourceTags, camera_exif, read_tags
from lightmill.types import Size

Base, GPS, IFD = ExifTags.Base, ExifTags.GPS, ExifTags.IFD

DATES = {
    Base.DateTimeOriginal: "2024:05:06 07:08:09",
    Base.DateTimeDigitized: "2024:05:06 07:08:10",
    Base.OffsetTime: "+02:00",
    Base.OffsetTimeOriginal: "+02:00",
    Base.SubsecTimeOriginal: "123",
}
PLACE = {
    GPS.GPSVersionID: b"\2\3\0\0",
    GPS.GPSLatitudeRef: "S",
    GPS.GPSLatitude: (33.0, 51.0, 24.5),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (151.0, 12.0, 54.25),
    GPS.GPSAltitudeRef: b"\0",
    GPS.GPSAltitude: 12.5,
}


def source(form: str, *, place: bool = True) -> bytes:
    """A picture as a camera writes it: dates, position, and much that is not kept."""
    tags = Image.Exif()
    tags[Base.Make], tags[Base.Model], tags[Base.DateTime] = "Camera", "Model", "2024:05:06 07:08:11"
    tags[Base.Orientation], tags[Base.ImageDescription] = 6, "x" * 300
    tags.get_ifd(IFD.Exif).update(DATES | {Base.FocalLengthIn35mmFilm: 28, Base.MakerNote: b"m" * 4000})
    if place:
        tags.get_ifd(IFD.GPSInfo).update(PLACE)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16)).save(buffer, form, exif=tags.tobytes())
    return buffer.getvalue()


def view(size: Size, exif: bytes, form: ImageFormat = ImageFormat.JPG) -> bytes:
    return encode(np.zeros((size.height, size.width, 3), np.uint8), format=form, exif=exif)


def read_back(data: bytes) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """(first directory, EXIF, GPS), by Pillow."""
    tags = Image.open(io.BytesIO(data)).getexif()
    return dict(tags), dict(tags.get_ifd(IFD.Exif)), dict(tags.get_ifd(IFD.GPSInfo))


def by_colmap(path: Path) -> Any:
    import pycolmap  # after Pillow: the other way round its zlib would take the place of Pillow's, which then crashes

    bitmap = pycolmap.Bitmap.read(path, True)
    assert bitmap is not None
    return bitmap


@pytest.mark.parametrize("hfov_deg", [10, 60, 90, 120, 170])
@pytest.mark.parametrize(
    "size", [Size(1920, 1080), Size(1080, 1920), Size(500, 500), Size(64, 1000), Size(37, 21)], ids=str
)
def test_colmap_reads_the_focal_length(tmp_path: Path, size: Size, hfov_deg: float) -> None:
    focal_px = size.width / 2 / math.tan(math.radians(hfov_deg) / 2)
    path = tmp_path / "view.jpg"
    path.write_bytes(view(size, camera_exif(size=size, focal_px=focal_px, rig_name="ring8")))
    bitmap = by_colmap(path)
    assert (bitmap.width, bitmap.height) == (size.width, size.height)
    assert bitmap.exif_focal_length() == pytest.approx(focal_px, rel=1e-6)
    assert bitmap.exif_camera_model().startswith("Lightmill-Lightmill ring8-")


@pytest.mark.parametrize("form", [ImageFormat.JPG, ImageFormat.PNG, ImageFormat.TIFF])
def test_colmap_reads_every_format_that_it_knows(tmp_path: Path, form: ImageFormat) -> None:
    size, path = Size(640, 480), tmp_path / f"view.{form.suffix}"
    exif = camera_exif(size=size, focal_px=512.25, rig_name="cube6", tags=read_tags(source("JPEG")))
    path.write_bytes(view(size, exif, form))
    bitmap = by_colmap(path)
    assert bitmap.exif_focal_length() == pytest.approx(512.25, rel=1e-6)
    assert bitmap.exif_latitude() == pytest.approx(-(33 + 51 / 60 + 24.5 / 3600), abs=1e-5)
    assert bitmap.exif_longitude() == pytest.approx(151 + 12 / 60 + 54.25 / 3600, abs=1e-5)
    assert bitmap.exif_altitude() == pytest.approx(12.5)


@pytest.mark.parametrize("form", list(ImageFormat))
def test_pillow_reads_the_camera(form: ImageFormat) -> None:
    size = Size(640, 480)
    main, exif, gps = read_back(view(size, camera_exif(size=size, focal_px=400, rig_name="würfel"), form))
    assert main[Base.Make] == "Lightmill"
    assert main[Base.Software] == f"Lightmill {lightmill.__version__}"
    # Pillow reads ASCII fields as Latin-1
    assert main[Base.Model].encode("latin-1").decode() == "Lightmill würfel"
    assert float(exif[Base.FocalLength]) == pytest.approx(400 * 36 / 640)
    assert float(exif[Base.FocalPlaneXResolution]) == pytest.approx(640 / 3.6)
    assert exif[Base.FocalPlaneXResolution] == exif[Base.FocalPlaneYResolution]
    assert exif[Base.FocalPlaneResolutionUnit] == 3
    assert (exif[Base.ExifImageWidth], exif[Base.ExifImageHeight]) == (640, 480)
    assert Base.FocalLengthIn35mmFilm not in exif
    assert main.get(Base.Orientation, 1) == 1
    assert gps == {}


@pytest.mark.parametrize("form", list(ImageFormat))
@pytest.mark.parametrize("source_form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_dates_and_place_of_the_source_are_kept(source_form: str, form: ImageFormat) -> None:
    size, data = Size(64, 48), source(source_form)
    tags = read_tags(data)
    made = view(size, camera_exif(size=size, focal_px=50, rig_name="ring8", tags=tags), form)
    main, exif, gps = read_back(made)
    assert main[Base.DateTime] == "2024:05:06 07:08:11"
    assert {number: exif[number] for number in DATES} == DATES
    assert gps == read_back(data)[2]
    assert gps[GPS.GPSLatitude] == PLACE[GPS.GPSLatitude]
    assert Base.ImageDescription not in main
    assert Base.MakerNote not in exif
    assert read_tags(made) == tags


def test_big_endian_sources() -> None:
    tags = Image.Exif()
    tags.endian = ">"
    tags.get_ifd(IFD.Exif).update(DATES)
    tags.get_ifd(IFD.GPSInfo).update(PLACE)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16)).save(buffer, "JPEG", exif=tags)
    assert b"MM\0*" in buffer.getvalue()
    big, little = read_tags(buffer.getvalue()), read_tags(source("JPEG"))
    assert (big.exif, big.gps) == (little.exif, little.gps)


def test_no_exif_gives_empty_tags() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16)).save(buffer, "JPEG")
    for data in (buffer.getvalue(), b"", b"text", b"GIF89a", source("JPEG")[:20]):
        assert not read_tags(data)
        assert read_tags(data) == SourceTags()


def test_tags_travel_between_processes() -> None:
    tags = read_tags(source("JPEG"))
    assert tags
    assert pickle.loads(pickle.dumps(tags)) == tags
    assert hash(tags) == hash(read_tags(source("PNG")))


SOURCES = [source("JPEG"), source("PNG"), source("WEBP"), source("TIFF", place=False)]


@given(st.sampled_from(SOURCES), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=9))
def test_damaged_exif_is_never_an_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    tags = read_tags(bytes(damaged))
    size = Size(64, 48)
    blob = camera_exif(size=size, focal_px=50, rig_name="ring8", tags=tags)
    assert len(blob) < 20_000  # fits into a JPEG, whatever the source held
    assert read_tags(view(size, blob)) == tags


@given(st.integers(1, 65500), st.integers(1, 65500), st.floats(0.5, 170))
def test_the_product_is_the_focal_length(width: int, height: int, hfov_deg: float) -> None:
    focal_px = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    tags = Image.Exif()
    tags.load(camera_exif(size=Size(width, height), focal_px=focal_px, rig_name="r"))
    exif = tags.get_ifd(IFD.Exif)
    focal_mm, px_per_cm = exif[Base.FocalLength], exif[Base.FocalPlaneXResolution]
    product = focal_mm.numerator / focal_mm.denominator * px_per_cm.numerator / px_per_cm.denominator / 10
    assert product == pytest.approx(focal_px, rel=1e-4)
