"""`builtin:salient`: the foreground of a picture without weights, on the CPU.

It is no SAM: it knows no things, only what stands out from what reaches the border of the picture.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill import __version__
from lightmill.models.kinds import Image, Instances, Mask
from lightmill.ops.matting import grab_cut, upsampled, without_specks
from lightmill.ops.saliency import saliency
from lightmill.ops.superpixels import slic

NOT_SAM = (
    "masks are by builtin:salient, which takes what stands out in colour and is not SAM: it knows no things and no "
    "words; look at the masks before you rely on them, or name a model"
)
_LONG_SIDE = 256  # px that everything but the last step works at
_PATCHES = 250
_LEAST = 0.3  # the highest saliency of a picture in which nothing stands out
_SURE, _PROBABLE = 0.85, 0.35  # of the highest saliency: foreground for good, and to begin with
_NOT = 0.1  # and what is background for good where it touches the border
_SPECK = 0.04  # of the largest piece: smaller pieces and holes go


class Salient:
    """A segmenter that gives one thing or none: what differs most from the surroundings that reach the border."""

    name = "builtin:salient"
    version = __version__
    on_device = False

    def check(self, device: str) -> None:
        """It can always be had."""

    def load(self, device: str) -> None:
        """There is nothing to load."""

    def unload(self) -> None:
        """There is nothing to unload."""

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        """One soft mask a picture, or none where nothing stands out; its score is the mean saliency inside of it."""
        return [_segment(each) for each in image]


def _segment(image: Image) -> Instances:
    small = _shrunk(image)
    lab = np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    stands_out = saliency(lab, slic(lab, count=_PATCHES))
    if stands_out.max() < _LEAST:
        return Instances()
    mask = without_specks(grab_cut(small, _trimap(stands_out)), share=_SPECK)
    if not mask.any():
        return Instances()
    score = float(stands_out[mask].mean())
    return Instances([upsampled(mask, small, image)], [score], ["salient"])


def _shrunk(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _trimap(stands_out: NDArray[np.float32]) -> Mask:
    """What cv2.grabCut begins with."""
    share = stands_out / stands_out.max()
    trimap = np.full(share.shape, cv2.GC_PR_BGD, np.uint8)
    trimap[share > _PROBABLE] = cv2.GC_PR_FGD
    trimap[share > _SURE] = cv2.GC_FGD
    for line in (np.s_[0], np.s_[:, 0], np.s_[:, -1]):
        trimap[line][share[line] <= _NOT] = cv2.GC_BGD
    return trimap
