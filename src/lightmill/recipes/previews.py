"""Small pictures for the contact sheet of the report."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.engine.items import Notes


def preview(notes: Notes, label: str, pixels: NDArray[np.uint8], width: int) -> None:
    """A JPEG `width` pixels wide of [H, W, 3] or [H, W] uint8, where the item is on the contact sheet."""
    if not notes.sampled:
        return
    step = max(pixels.shape[1] // (2 * width), 1)  # every pixel of 8K would cost more than the thumbnail is worth
    coarse = np.ascontiguousarray(pixels[::step, ::step])
    height = max(round(width * pixels.shape[0] / pixels.shape[1]), 1)
    small = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    notes.preview(label, encode(np.asarray(small, np.uint8), format=ImageFormat.JPG, quality=80))
