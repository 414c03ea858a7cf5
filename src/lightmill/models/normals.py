"""Shape without weights: a mask inflated."""

from collections.abc import Sequence

import numpy as np

from lightmill import __version__
from lightmill.models.kinds import Image, Mask, NormalEstimator, Relief
from lightmill.ops.relief import inflate, normals_from_height
from lightmill.ops.srgb import luminance, to_linear


class Inflate:
    """The mask blown up like a balloon, with fine detail of the picture's luminance (`lightmill.ops.relief.inflate`).

    It knows nothing of what is in the picture: a face becomes a dome. Without a mask, or where the mask is the whole
    picture, it gives a gently convex sheet. On the CPU, by any number of threads.
    """

    name = "builtin:inflate"
    version = __version__
    on_device = False

    def check(self, device: str) -> None:
        """It can always be had."""

    def load(self, device: str) -> None:
        """There is nothing to load."""

    def unload(self) -> None:
        """Nothing was loaded."""

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Relief]:
        """uint8 [H, W, 3] sRGB each, with a mask [H, W] (128 and more counts) or None for the whole picture.

        Raises ValueError where the two lists or an image and its mask do not match.
        """
        return [_relief(pixels, counts) for pixels, counts in zip(image, mask, strict=True)]


def _relief(pixels: Image, mask: Mask | None) -> Relief:
    shape = np.full(pixels.shape[:2], 255, np.uint8) if mask is None else mask
    height = inflate(shape, detail_from=luminance(to_linear(pixels)))
    return Relief(normals=normals_from_height(height), height=height)


BUILTIN: dict[str, type[NormalEstimator]] = {Inflate.name: Inflate}
