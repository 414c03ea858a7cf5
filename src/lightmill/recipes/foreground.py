"""Where the foreground of a portrait comes from: a model, a folder of masks, or the picture's own alpha."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from lightmill.codecs.decode import decode_mask
from lightmill.engine.items import Filtered, Item, Notes, Settled, Source
from lightmill.engine.stages import Batch, Each
from lightmill.errors import DecodeError, ItemError, UsageError
from lightmill.models.kinds import Image, Instances, Mask, Segmenter
from lightmill.recipes.masking import MaskRule, segment_stage
from lightmill.recipes.masks import ALPHA, MaskFolder
from lightmill.recipes.previews import preview
from lightmill.sources import FolderSource

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
            return [Each(self._from_alpha, makes="mask", name="read mask")]
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
        if mask.max() == 1:
            raise ItemError(f"its mask {path.name} holds only 0 and 1; the foreground is 255")
        return self._rule.shaped(_fitted(mask, image, path.name))

    def _from_alpha(self, alpha: Mask | None) -> Mask:
        return self._rule.shaped(mask_of_alpha(alpha))

    def _required(self, mask: Mask, notes: Notes) -> None:
        """Raises Filtered where there is too little of it: a picture is never lit without a foreground."""
        coverage = float(np.count_nonzero(mask >= 128)) / mask.size
        if coverage == 0:
            raise Filtered("no foreground was found in it")
        if coverage < self._least:
            raise Filtered(f"its foreground is {100 * coverage:.2g} % of it; --min-foreground {100 * self._least:g} %")
        notes.meta["foreground"] = round(coverage, 6)
        preview(notes, "mask", mask, PREVIEW_PX)


def _fitted(mask: Mask, image: Image, name: str) -> Mask:
    """Brought to the picture's size. Raises ItemError where it is of another shape, by more than rounding makes."""
    (high, wide), (height, width) = mask.shape, image.shape[:2]
    if abs(wide * height - high * width) > width + height:
        raise ItemError(
            f"its mask {name} is {wide}x{high}, and the picture {width}x{height}: they are not of one shape; "
            "masks lie on the upright picture"
        )
    return mask if mask.shape == image.shape[:2] else np.asarray(cv2.resize(mask, (width, height)), np.uint8)


def mask_of_alpha(alpha: Mask | None) -> Mask:
    """Raises Filtered for a picture that has none."""
    if alpha is None:
        raise Filtered("it has no alpha channel, which --masks alpha takes the foreground from")
    return alpha


# --- masks that lie among the pictures -------------------------------------------------------------------------------


def without_masks(source: Source, masks: str | None) -> Source:
    """A folder's pictures, but for those in the folder of masks, which may lie in it; another source as it is.

    Raises UsageError where pictures and masks lie in one folder.
    """
    if masks in (None, ALPHA) or not isinstance(source, FolderSource):
        return source
    apart = _Apart(source, masks)
    if not apart.estimated_count():
        raise UsageError(f"--masks {masks}: all pictures of INPUT lie in it; give the masks a folder of their own")
    return apart


class _Apart:
    """The pictures of a folder that do not lie in a certain one."""

    streams = False

    def __init__(self, source: FolderSource, folder: str) -> None:
        items = list(source.items())
        held = {place for place in map(_place, items) if Path(place).resolve().is_relative_to(Path(folder).resolve())}
        self._items = [item for item in items if _place(item) not in held]
        self.described = source.described
        self.warnings = source.warnings

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        yield from self._items

    def estimated_count(self) -> int:
        return len(self._items)


def _place(item: Item) -> str:
    """The folder that it lies in."""
    return os.path.dirname(str(item.ref.path))
