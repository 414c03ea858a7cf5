"""Class maps as pictures for people: a colour a class over the picture, and what is wrong in red."""

from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.data.crops import resize_into
from lightmill.data.labels import IGNORE
from lightmill.data.segment_samples import resized_map

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W, 3] sRGB
ClassMap: TypeAlias = NDArray[np.uint8]  # [H, W]

_OPACITY = 0.55
_GOLDEN = 0.618034  # of the circle of hues: each next one lies where the gap is largest
_WRONG = (255, 48, 48)
_DIM = 0.35
_GAP_PX = 4


@cache
def palette() -> Pixels:
    """[256, 3] a colour for each class: hues far apart, and where they come near again, bright, dark or pale."""
    numbers = np.arange(256)
    hue = numbers * _GOLDEN % 1 * 180
    saturation, value = np.array([(210, 255), (230, 160), (100, 240), (255, 205), (140, 190)])[numbers % 5].T
    wheel = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    colours: Pixels = np.asarray(cv2.cvtColor(wheel[None], cv2.COLOR_HSV2RGB)[0], np.uint8)
    colours.flags.writeable = False
    return colours


def painted(image: Pixels, classes: ClassMap, *, plain: Sequence[int] = ()) -> Pixels:
    """The picture with its classes in colours; what is ignored, and the classes of `plain`, stay as they are."""
    mixed = np.asarray(cv2.addWeighted(image, 1 - _OPACITY, palette()[classes], _OPACITY, 0), np.uint8)
    stays = np.isin(classes, [*plain, IGNORE])
    mixed[stays] = image[stays]
    return mixed


def mistakes(image: Pixels, truth: ClassMap, predicted: ClassMap) -> Pixels:
    """The picture in dim grey, what is wrong in red, what is ignored darker still."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shown = np.asarray(np.repeat((grey * _DIM + 60)[..., None], 3, axis=2), np.uint8)
    shown[(truth != predicted) & (truth != IGNORE)] = _WRONG
    shown[truth == IGNORE] //= 3
    return shown


def strip(
    image: Pixels, truth: ClassMap, predicted: ClassMap, *, plain: Sequence[int] = (), height_px: int = 180
) -> bytes:
    """A JPEG of four panels: the picture, its truth, what was predicted, and where they differ."""
    size_hw = height_px, max(1, round(image.shape[1] * height_px / image.shape[0]))
    small = np.empty((*size_hw, 3), np.uint8)
    resize_into(image, small)
    there, found = resized_map(truth, size_hw), resized_map(predicted, size_hw)
    gap = np.full((height_px, _GAP_PX, 3), 255, np.uint8)
    panels = [small, painted(small, there, plain=plain), painted(small, found, plain=plain)]
    parts = [part for panel in [*panels, mistakes(small, there, found)] for part in (panel, gap)][:-1]
    return encode(np.ascontiguousarray(np.hstack(parts)), format=ImageFormat.JPG, quality=85)
