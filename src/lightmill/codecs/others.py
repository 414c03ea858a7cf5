"""WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 and PPM, by Pillow; TIFF of 16 bits by OpenCV."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from lightmill.codecs import colour, tags
from lightmill.codecs.picture import Allocate, Header, Pixels, Stored
from lightmill.errors import DamagedImage, NotAnImage, UnsupportedImage

# Pillow refuses large pictures by a limit of its own, for all of a program. Here --max-pixels is the limit, looked at
# before anything is decoded, so that a panorama of 200 MP is neither refused nor warned of. Set here and nowhere else.
Image.MAX_IMAGE_PIXELS = None

# Of a damaged TIFF, Pillow also warns on the terminal, line by line; what cannot be read is said by an error here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

# Only what is a picture by its first bytes: no EPS (it starts Ghostscript), no TGA (anything might be one).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
_DAMAGE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
)

# (where, bytes, what it is) of files that Pillow could not open
_READ = (
    (0, b"RIFF", "WebP"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "TIFF"), (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"), (0, b"GIF8", "GIF"), (4, b"jP  \r\n\x87\n", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"), (4, b"ftypavis", "AVIF"), (0, b"\xff\xd8", "JPEG"), (0, b"\x89PNG", "PNG"),
)  # fmt: skip
_NOT_READ = (
    (4, b"ftyphei", "HEIC"), (4, b"ftyphev", "HEIC"), (4, b"ftypmif1", "HEIF"), (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL \r\n\x87\n", "JPEG XL"), (0, b"8BPS", "Photoshop"),
    (0, b"v/1\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"), (0, b"#?RGBE", "Radiance HDR"),
    (0, b"PF\n", "PFM"), (0, b"Pf\n", "PFM"), (0, b"DDS ", "DDS"), (0, b"\0\0\1\0", "Windows icon"),
    (4, b"ftypcrx", "camera raw"), (0, b"IIU\0", "camera raw"), (0, b"IIRO", "camera raw"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"), (0, b"<svg", "SVG"),
)  # fmt: skip
_NOT_PICTURES = (
    (0, b"%PDF", "a PDF document"), (0, b"PK\3\4", "a ZIP file"), (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"), (0, b"<!DOCTYPE", "a web page"), (0, b"<html", "a web page"),
)  # fmt: skip

_NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _ORIENTATION = 254, 256, 257, 258, 274


class Other:
    """A file that is neither JPEG nor PNG. Raises NotAnImage, DamagedImage, UnsupportedImage."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._image = image = _open(data)
        form = (image.format or "").lower()
        with _damage_of(form):
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                self.turns_itself, self.header = True, _tiff_header(image)
            else:
                self.turns_itself, self.header = False, _header(form, image)

    def read(self, allocate: Allocate) -> Stored:
        """The first frame."""
        image = self._image
        with _damage_of(self.header.format):
            frames = getattr(image, "n_frames", 1)
            stored = self._deep(allocate) if self._is_deep else self._common(allocate)
            if frames > 1:
                stored.meta["frames"] = frames
            return stored

    @property
    def _is_deep(self) -> bool:
        """Whether it is a TIFF of 16 bits and several channels: Pillow would cut their lower halves off."""
        image = self._image
        if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode not in ("RGB", "RGBA", "RGBX"):
            return False
        return bool(max(image.tag_v2.get(_BITS, (8,))) == 16)

    def _deep(self, allocate: Allocate) -> Stored:
        raster = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_UNCHANGED)
        if raster is None:
            raise DamagedImage("the TIFF cannot be decoded: its compressed pixels are damaged")
        if raster.dtype != np.uint16 or raster.ndim != 3:
            raise UnsupportedImage("a TIFF of 16 bits in a layout that is not read; save it as a PNG")
        levels = colour.to_8_bits(raster)
        pixels = allocate(*levels.shape[:2])
        opaque = levels.shape[2] == 3
        cv2.cvtColor(levels, cv2.COLOR_BGR2RGB if opaque else cv2.COLOR_BGRA2RGB, dst=pixels)
        return Stored(pixels, None if opaque else levels[..., 3].copy(), _profile(self._image))

    def _common(self, allocate: Allocate) -> Stored:
        image, profile = self._image, _profile(self._image)
        image.load()
        grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        pixels = allocate(image.height, image.width)
        if image.mode == "CMYK":
            return Stored(pixels, recovered=colour.cmyk_to_srgb(255 - np.asarray(image), profile, out=pixels))
        levels = _levels(image)
        alpha = levels[..., 3].copy() if levels.ndim == 3 and levels.shape[2] == 4 else None
        if levels.ndim == 2:
            cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB, dst=pixels)
        else:
            pixels[:] = levels[..., :3]
        return Stored(pixels, alpha, profile, grey)


def _open(data: bytes) -> Image.Image:
    """Opened lazily: no pixel is decoded. Raises NotAnImage, DamagedImage, UnsupportedImage."""
    if data.startswith(b"CR", 8) and tags.byte_order(data):
        raise UnsupportedImage("a camera raw file; develop it first, and save it as a JPEG, PNG or TIFF")
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except _DAMAGE as error:
        start = data[:64].lstrip()
        for table, kind, what in (
            (_NOT_READ, UnsupportedImage, "{} is not read; save it as a JPEG, PNG or TIFF"),
            (_READ, DamagedImage, "the header of the {} is damaged, cut off, or of a kind that is not read"),
            (_NOT_PICTURES, NotAnImage, "{}, which is no picture"),
        ):
            if name := next((name for at, magic, name in table if start.startswith(magic, at)), None):
                raise kind(what.format(name)) from error
        raise NotAnImage(f"{_described(data)} is no picture") from error


def _described(data: bytes) -> str:
    """Data that is no picture, in a few words."""
    start = data[:24]
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        return f"text that begins with {start.decode('ascii')!r}"
    return f"data of {len(data)} bytes that begins with {start[:8].hex(' ')}"


def _header(form: str, image: Image.Image) -> Header:
    orientation = image.getexif().get(_ORIENTATION, 1)
    return Header(form, image.width, image.height, orientation if orientation in range(1, 9) else 1)


def _tiff_header(image: TiffImagePlugin.TiffImageFile) -> Header:
    """Pillow says the upright size of a TIFF; its tags say the stored one. Raises UnsupportedImage for camera raw."""
    directory = image.tag_v2
    if directory.get(_NEW_SUBFILE_TYPE, 0) & 1:
        raise UnsupportedImage("a camera raw file, or a TIFF that begins with a preview; develop it first")
    orientation = directory.get(_ORIENTATION, 1)
    width, height = directory[_WIDTH], directory[_HEIGHT]
    return Header("tiff", width, height, orientation if orientation in range(1, 9) else 1)


def _levels(image: Image.Image) -> Pixels:
    """[H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA of a loaded picture. Raises UnsupportedImage."""
    if image.mode.startswith("I;16"):
        return colour.to_8_bits(np.asarray(image).astype(np.uint16, copy=False))
    if image.mode == "I" and image.format == "PPM":
        return colour.to_8_bits(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise UnsupportedImage(
            f"a {image.format} with pixels of kind {image.mode}; save it with 8 or 16 bits a channel"
        )
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.asarray(image.convert("L"))
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if clear else "RGB"))


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


@contextmanager
def _damage_of(form: str) -> Iterator[None]:
    """Turns what Pillow and OpenCV raise for damaged files into DamagedImage."""
    try:
        yield
    except (*_DAMAGE, cv2.error) as error:
        raise DamagedImage(f"the {form.upper()} cannot be decoded: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "it is cut off" if "truncated" in text else text[:200]
