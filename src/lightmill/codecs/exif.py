"""EXIF: what is kept of a source, and what a view says of the camera that took it."""

from dataclasses import dataclass

import lightmill
from lightmill.codecs import jpeg, png
from lightmill.codecs import tags as directories
from lightmill.codecs.tags import Tag
from lightmill.types import Size

_DATE_TIME = 0x0132
_DATES = (0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292)  # DateTime*, OffsetTime*, SubSecTime*
_MAKE, _MODEL, _SOFTWARE = 0x010F, 0x0110, 0x0131
_EXIF_VERSION, _FOCAL_LENGTH, _COLOR_SPACE, _PIXEL_X, _PIXEL_Y = 0x9000, 0x920A, 0xA001, 0xA002, 0xA003
_PLANE_X, _PLANE_Y, _PLANE_UNIT = 0xA20E, 0xA20F, 0xA210
_SENSOR_MM = 36.0  # the longer side of the sensor that a view pretends to have; any would do
_CENTIMETRE = 3


@dataclass(frozen=True, slots=True)
class SourceTags:
    """When and where a source was taken, as its own EXIF entries."""

    main: tuple[Tag, ...] = ()  # DateTime
    exif: tuple[Tag, ...] = ()  # DateTimeOriginal, DateTimeDigitized, OffsetTime*, SubSecTime*
    gps: tuple[Tag, ...] = ()  # the GPS directory

    def __bool__(self) -> bool:
        return bool(self.main or self.exif or self.gps)


def read_tags(data: bytes) -> SourceTags:
    """Dates and GPS position of a JPEG, PNG, WebP or TIFF. Damaged or absent EXIF gives empty tags, never an error."""
    blob = _exif_of(data)
    if not blob:
        return SourceTags()
    main = directories.first_directory(blob)
    exif = directories.sub_directory(blob, main, directories.EXIF_DIRECTORY)
    gps = directories.sub_directory(blob, main, directories.GPS_DIRECTORY)
    return SourceTags(
        main=tuple(tag for number, tag in main.items() if number == _DATE_TIME and tag.kind == 2),
        exif=tuple(tag for number, tag in sorted(exif.items()) if number in _DATES and tag.kind == 2),
        gps=tuple(tag for number, tag in sorted(gps.items()) if number <= 0x1F),
    )


def camera_exif(*, size: Size, focal_px: float, rig_name: str, tags: SourceTags | None = None) -> bytes:
    """A TIFF-structured EXIF blob (without the prefix that JPEG needs) for a pinhole view of `size`.

    The focal length is given in millimetres, with the resolution of the focal plane in pixels per centimetre: their
    product is `focal_px`, for any shape of picture. There is no FocalLengthIn35mmFilm: it is a whole number, and
    COLMAP would prefer it.
    """
    kept = tags or SourceTags()
    px_per_mm = max(size.width, size.height) / _SENSOR_MM
    main = [
        Tag.text(_MAKE, "Lightmill"),
        Tag.text(_MODEL, f"Lightmill {rig_name}"),
        Tag.text(_SOFTWARE, f"Lightmill {lightmill.__version__}"),
        *kept.main,
    ]
    exif = [
        Tag(_EXIF_VERSION, 7, b"0232"),
        Tag.rational(_FOCAL_LENGTH, focal_px / px_per_mm),
        Tag.short(_COLOR_SPACE, 1),
        Tag.long(_PIXEL_X, size.width),
        Tag.long(_PIXEL_Y, size.height),
        Tag.rational(_PLANE_X, 10 * px_per_mm),
        Tag.rational(_PLANE_Y, 10 * px_per_mm),
        Tag.short(_PLANE_UNIT, _CENTIMETRE),
        *kept.exif,
    ]
    return directories.write_exif(main, exif, kept.gps)


def _exif_of(data: bytes) -> bytes | None:
    """The TIFF structure that holds the EXIF of a file, None where there is none."""
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.exif_of(data)
    if data.startswith(png.SIGNATURE):
        return png.exif_of(data)
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return _exif_of_webp(data)
    return data if directories.byte_order(data) else None


def _exif_of_webp(data: bytes) -> bytes | None:
    """The contents of the EXIF chunk (WebP container specification: RIFF, even-sized chunks)."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data.startswith(b"EXIF", at):
            return data[at + 8 : at + 8 + length].removeprefix(jpeg.EXIF_PREFIX)
        at += 8 + length + length % 2
    return None
