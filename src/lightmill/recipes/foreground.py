"""Where the foreground of a portrait comes from: a model, a folder of masks, or the picture's own alpha."""

from pathlib import Path

import cv2
import numpy as np

from lightmill.codecs.decode import decode_mask
from lightmill.engine.items import Filtered, Notes
from lightmill.engine.stages import Batch, Each
from lightmill.errors import DecodeError
from lightmill.models.kinds import Image, Instances, Mask, Segmenter
from lightmill.recipes.masking import MaskRule, segment_stage
from lightmill.recipes.masks import ALPHA, MaskFolder
from lightmill.recipes.previews import preview

PREVIEW_PX = 240


class Foreground:
    """Stages that make `mask` ([H, W] uint8, 255 = foreground, soft edges kept) and refuse pictures without one.

    Raises UsageError for a folder of masks that there is not.
    """

    def __init__(self, segmenter: Segmenter | None, rule: MaskRule, *, masks: str | None, least: float) -> None:
        self._segmenter = segmenter
        self._rule = rule
        self._least = least
        self._folder = MaskFolder(Path(masks)) if masks not in (None, ALPHA) else None

    @property
    def stages(self) -> list[Each | Batch]:
        return [*self._makes_mask, Each(self._required, name="foreground")]

    @property
    def _makes_mask(self) -> list[Each | Batch]:
        if self._folder:
            return [Each(self._from_folder, makes="mask", name="read mask")]
        if self._segmenter is None:
            return [Each(mask_of_alpha, makes="mask", name="read mask")]
        return [segment_stage(self._segmenter), Each(self._from_instances, makes="mask", name="mask")]

    def _from_instances(self, image: Image, instances: Instances, notes: Notes) -> Mask:
        found = self._rule.of_picture(image, instances)
        notes.meta["mask_scores"] = [round(float(score), 4) for score in found.scores]
        return found.mask

    def _from_folder(self, key: str, name: str, image: Image) -> Mask:
        assert self._folder
        path = self._folder.find(key, name)
        if path is None:
            raise Filtered("it has no mask in the folder of --masks")
        try:
            mask = decode_mask(path.read_bytes())
        except (OSError, DecodeError) as error:
            raise DecodeError(f"its mask {path.name} cannot be read: {error}") from error
        size = (image.shape[1], image.shape[0])
        return mask if mask.shape == image.shape[:2] else np.asarray(cv2.resize(mask, size), np.uint8)

    def _required(self, mask: Mask, notes: Notes) -> None:
        """Raises Filtered where there is too little of it: a picture is never lit without a foreground."""
        coverage = float(np.count_nonzero(mask >= 128)) / mask.size
        if coverage == 0:
            raise Filtered("no foreground was found in it")
        if coverage < self._least:
            raise Filtered(f"its foreground is {100 * coverage:.2g} % of it; --min-foreground {100 * self._least:g} %")
        notes.meta["foreground"] = round(coverage, 6)
        preview(notes, "mask", mask, PREVIEW_PX)


def mask_of_alpha(alpha: Mask | None) -> Mask:
    """Raises Filtered for a picture that has none."""
    if alpha is None:
        raise Filtered("it has no alpha channel, which --masks alpha takes the foreground from")
    return alpha
