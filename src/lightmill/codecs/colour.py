"""Colours of files to 8-bit sRGB: ICC profiles, CMYK, 16 bits."""

import io
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from lightmill.codecs.picture import Pixels

_STRIP_PIXELS = 1 << 20  # what is converted at a time: Pillow holds a copy in and a copy out
_SAME_LEVELS = 2  # a profile that moves no colour by more than this is sRGB, whatever its name is

Kind = Literal["RGB", "CMYK", "L"]
_SPACES: dict[str, Kind] = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}


def to_srgb(pixels: Pixels, profile: bytes | None, *, grey: bool) -> str | None:
    """Converts [H, W, 3] RGB from the colours of an ICC profile to sRGB, in place.

    Rendering intent: perceptual. A profile that is sRGB within 2 levels changes nothing. Returns why a profile could
    not be used (the pixels are then taken as sRGB), else None.
    """
    if not profile:
        return None
    kind = profile_kind(profile)
    if kind is None:
        return "its colour profile cannot be read: the colours were taken as sRGB"
    if kind == "CMYK" or (kind == "L" and not grey):
        return f"its colour profile is for {'CMYK' if kind == 'CMYK' else 'grey'} pictures: taken as sRGB"
    if kind == "L":
        cv2.LUT(pixels, _grey_table(profile), dst=pixels)
        return None
    if not _is_srgb(profile):
        transform = _transform(profile, kind)
        for strip in _strips(pixels):
            image = Image.fromarray(strip)
            ImageCms.applyTransform(image, transform, inPlace=True)
            strip[:] = np.asarray(image)
    return None


def cmyk_to_srgb(paper: Pixels, profile: bytes | None, *, out: Pixels) -> str | None:
    """Converts CMYK to sRGB into `out` [H, W, 3].

    `paper` [H, W, 4] is inverted ink: 255 = none. Through the ICC profile where there is one, else by
    R = (1 - C) (1 - K). Returns why a profile could not be used, else None.
    """
    usable = profile if profile and profile_kind(profile) == "CMYK" else None
    transform = _transform(usable, "CMYK") if usable else None
    for strip, rgb in zip(_strips(paper), _strips(out), strict=True):
        if transform:
            ink = Image.frombytes("CMYK", strip.shape[1::-1], (255 - strip).tobytes())
            rgb[:] = np.asarray(ImageCms.applyTransform(ink, transform))
        else:
            product = strip[..., :3].astype(np.uint16) * strip[..., 3:]
            rgb[:] = (product + 127) // 255
    if profile and not transform:
        return "its colour profile is not one for CMYK: converted without it"
    return None


@lru_cache(maxsize=64)
def profile_kind(profile: bytes) -> Kind | None:
    """What pictures an ICC profile is for; None where it cannot be used: unreadable, or for something else."""
    try:
        kind = _SPACES[ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()]
        _transform(profile, kind)
    except (OSError, LookupError, ValueError, ImageCms.PyCMSError):  # ValueError: names that are no ASCII
        return None
    return kind


def to_8_bits(levels: NDArray[Any]) -> Pixels:
    """8-bit levels as they are; 16-bit ones by v / 257, rounded, so that 65535 becomes 255 and 0 stays 0."""
    if levels.dtype == np.uint16:
        levels = cv2.convertScaleAbs(levels, alpha=1 / 257)
    return np.asarray(levels, np.uint8)


@lru_cache(maxsize=64)
def _transform(profile: bytes, kind: Kind) -> ImageCms.ImageCmsTransform:
    """The way from a profile to sRGB, perceptual. Raises PyCMSError."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    # LittleCMS's shortcut for grey is off by up to 10 levels in the dark, and 256 levels need none; to remember the
    # last colour only takes time in photographs
    flags = ImageCms.Flags.NOOPTIMIZE if kind == "L" else ImageCms.Flags.NOCACHE
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), kind, "RGB", flags=flags)


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile for RGB moves no colour of a lattice by more than can be seen."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    seen = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), _transform(profile, "RGB")))
    return bool(cv2.norm(lattice, seen, cv2.NORM_INF) <= _SAME_LEVELS)


@lru_cache(maxsize=16)
def _grey_table(profile: bytes) -> Pixels:
    """[256, 1, 3]: what a grey profile makes of every level."""
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[:, None])
    return np.array(ImageCms.applyTransform(levels, _transform(profile, "L")))


def _strips(pixels: Pixels) -> list[Pixels]:
    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    return [pixels[top : top + rows] for top in range(0, pixels.shape[0], rows)]
