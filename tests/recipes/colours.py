"""A segmenter whose answers are known: it finds what has a colour."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import cv2
import numpy as np

from lightmill.models.kinds import Image, Instances

Colour: TypeAlias = tuple[int, int, int]

RED, GREEN, GREY = (220, 30, 40), (30, 200, 60), (120, 120, 125)
SOFT = 40  # the level just outside of what is found


class Colours:
    """Every connected patch of a colour (within 24 levels) is an instance, with the colour's name and score.

    Called for pictures on the CPU by any thread, or, `on_device`, loaded first and called with batches. `most`: of more
    pictures at once it runs out of memory. Masks are soft: what lies within 2 pixels of a patch is at level SOFT.
    """

    version = "1"

    def __init__(
        self,
        found: Mapping[str, tuple[Colour, float]] | None = None,
        *,
        on_device: bool = False,
        most: int = 1000,
    ) -> None:
        self.name = "test:colours"
        self.on_device = on_device
        self._found = found or {"red": (RED, 0.9)}
        self._most = most
        self._device = "" if on_device else "cpu"
        self.batches: list[int] = []
        self.checked: list[str] = []

    def check(self, device: str) -> None:
        self.checked.append(device)

    def load(self, device: str) -> None:
        self._device = device

    def unload(self) -> None:
        self._device = ""

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        if not self._device:
            raise RuntimeError("called before it was loaded")
        if len(image) > self._most:
            raise MemoryError(f"{len(image)} pictures at once")
        self.batches.append(len(image))
        return [self._one(picture) for picture in image]

    def _one(self, picture: Image) -> Instances:
        finds = []
        for label, (colour, score) in self._found.items():
            near = (np.abs(picture.astype(int) - colour).max(axis=2) <= 24).view(np.uint8)
            count, parts = cv2.connectedComponents(near, connectivity=8)
            for part in range(1, count):
                inside = (parts == part).view(np.uint8)
                around = cv2.dilate(inside, np.ones((5, 5), np.uint8))
                mask = np.where(inside > 0, np.uint8(255), around * np.uint8(SOFT))
                finds.append((score, int(inside.sum()), label, mask))
        finds.sort(key=lambda find: (-find[0], -find[1]))
        return Instances([f[3] for f in finds], [f[0] for f in finds], [f[2] for f in finds])


def painted(height: int, width: int, *discs: tuple[float, float, float, Colour]) -> Image:
    """Grey, with discs: x and y as shares of width and height, the radius as a share of the height, colour; round the
    seam."""
    picture = np.full((height, width, 3), GREY, np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    for across, down, radius, colour in discs:
        away = np.abs(x - across * width)
        away = np.minimum(away, width - away)
        picture[np.hypot(away, y - down * height) <= radius * height] = colour
    return picture


def is_colour(picture: Image, colour: Colour) -> np.ndarray:
    return np.asarray((picture == colour).all(axis=2))
