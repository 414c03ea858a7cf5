"""sRGB levels to linear light and back (IEC 61966-2-1). Radiometry is done between the two, in float32."""

import cv2
import numpy as np
from numpy.typing import NDArray

_LEVELS = 65536


def decode_curve(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB values 0..1 to linear light 0..1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encode_curve(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light 0..1 to sRGB values 0..1."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


_TO_LINEAR = decode_curve(np.arange(256) / 255).astype(np.float32)
LEVEL_OF_LINEAR = np.rint(255 * encode_curve(np.arange(_LEVELS) / (_LEVELS - 1))).astype(np.uint8)


def to_linear(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 sRGB of any shape to float32 linear light, 0..1.

    >>> to_linear(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    if levels.ndim in (2, 3) and levels.size:
        return np.asarray(cv2.LUT(levels, _TO_LINEAR), np.float32).reshape(levels.shape)  # eight times as fast
    return _TO_LINEAR[levels]


def to_levels(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 linear light of any shape to uint8 sRGB: clipped to 0..1, then rounded to the nearest level.

    Values are rounded to 1/65535 on the way: a twentieth of the smallest step between two levels.

    >>> to_levels(to_linear(np.arange(256, dtype=np.uint8))).tolist() == list(range(256))
    True
    """
    rounded = np.clip(linear, 0, 1)
    rounded *= _LEVELS - 1
    rounded += 0.5
    return LEVEL_OF_LINEAR.take(rounded.astype(np.uint16))


def luminance(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., 3] linear sRGB to [...] relative luminance (ITU-R BT.709)."""
    return linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)
