"""What recipes that find things in pictures share: a segmenter as a stage, and one mask of what it found."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator

from lightmill.engine.stages import Batch, Each
from lightmill.models.kinds import Image, Instances, Mask, Segmenter
from lightmill.ops.masks import folded, moved, same_things, share, tidied, widened
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.panoramas import ASPECT_TOLERANCE

Choice: TypeAlias = Literal["union", "largest", "best", "each"]
PanoramaMode: TypeAlias = Literal["auto", "yes", "no"]

_LEAST_TILED, _MOST_TILED = 8, 1 << 17  # px


def _tile(value: Any) -> Any:
    """`off` (which YAML takes for a no), `auto`, or a number of pixels."""
    text = "off" if value is False else str(value).strip()
    if text.isdecimal() and _LEAST_TILED <= int(text) <= _MOST_TILED:
        return int(text)
    if text in ("off", "auto"):
        return text
    raise ValueError(f"it is off, auto, or a number of pixels from {_LEAST_TILED} to {_MOST_TILED}")


TileOption = Annotated[Literal["off", "auto"] | int, BeforeValidator(_tile)]

TILE_HELP = (
    "Look at larger pictures in tiles of the training's size: auto, or N: once the longer side is reduced to N px."
)
FLIPS_HELP = "Look at every picture mirrored, too, and take the mean; twice the time."
OF_CHECKPOINTS = "Only with a checkpoint of `train segment`."

BATCH = 8  # pictures that a model on the device is given at once
MARGIN_SHARE = 1 / 8  # of a panorama's width, that it is continued by on either side: 45 degrees


# --- a segmenter as a stage ------------------------------------------------------------------------------------------


def is_local_model(model: str) -> bool:
    """Whether `--model` names a file or a folder of this machine, not a model of a hub or of Lightmill."""
    return Path(model).suffix == ".safetensors" or (":" not in model and Path(model).expanduser().exists())


def located(model: str) -> str:
    """The same name, of a file or a folder in full: it means the same from anywhere."""
    return str(Path(model).expanduser().resolve()) if is_local_model(model) else model


def ready(segmenter: Segmenter, wanted_device: str) -> str:
    """The device that it will work on. Raises what `check` raises, where it cannot be had."""
    device = chosen_device(wanted_device) if segmenter.on_device else "cpu"
    segmenter.check(device)
    return device


def segment_stage(segmenter: Segmenter) -> Each | Batch:
    """Makes `instances` of `image`: on the device with batches, or on the CPU with one picture in any thread."""
    if segmenter.on_device:
        return Batch(SegmentBatch(segmenter), makes="instances", name="segment", size=BATCH)
    return Each(SegmentOne(segmenter).picture, makes="instances", name="segment")


def segment_wide_stage(segmenter: Segmenter) -> Each | Batch:
    """The same of `wide`: what `for_segmenter` has made of a picture that may be a panorama."""
    if segmenter.on_device:
        return Batch(SegmentWideBatch(segmenter), makes="instances", name="segment", size=BATCH)
    return Each(SegmentOne(segmenter).wide, makes="instances", name="segment")


class SegmentOne:
    """A segmenter on the CPU, for one picture at a time, whatever that is called."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def picture(self, image: Image) -> Instances:
        return self._segmenter([image])[0]

    def wide(self, wide: Image) -> Instances:
        return self.picture(wide)

    def view(self, view: Image) -> Instances:
        return self.picture(view)


class OnDevice:
    """A segmenter on the device. A copy has a segmenter of its own: the engine loads it on the CPU beside this one."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __copy__(self) -> "OnDevice":
        return type(self)(copy.copy(self.segmenter))

    def load(self, device: str) -> None:
        self.segmenter.load(device)

    def unload(self) -> None:
        self.segmenter.unload()


class SegmentBatch(OnDevice):
    """Of several pictures at once."""

    def __call__(self, image: list[Image]) -> list[Instances]:
        return self.segmenter(image)


class SegmentWideBatch(SegmentBatch):
    """Of several that are called `wide`."""

    def __call__(self, wide: list[Image]) -> list[Instances]:
        return super().__call__(wide)


# --- panoramas -------------------------------------------------------------------------------------------------------


def is_panorama(pixels: Image, mode: PanoramaMode) -> bool:
    """Whether the left and the right edge are one; `auto`: where the picture is 2:1 within 1 %."""
    height, width = pixels.shape[:2]
    return mode == "yes" or (mode == "auto" and abs(width / (2 * height) - 1) <= ASPECT_TOLERANCE)


def seam_margin(pixels: Image) -> int:
    """By how many columns a panorama is continued on either side before it is segmented."""
    return round(int(pixels.shape[1]) * MARGIN_SHARE)


def for_segmenter(image: Image, *, panorama: PanoramaMode) -> Image:
    """The picture as the segmenter sees it: a panorama goes on over its seam."""
    return widened(image, seam_margin(image)) if is_panorama(image, panorama) else image


def without_seam(instances: Instances, margin: int) -> Instances:
    """What was found in a widened panorama, in the panorama itself: a thing across the seam is one instance."""
    masks, scores, labels = [], [], []
    for places in same_things(instances.masks, instances.labels, margin=margin):
        masks.append(_union([folded(instances.masks[place], margin) for place in places]))
        scores.append(max(instances.scores[place] for place in places))
        labels.append(instances.labels[places[0]])
    return Instances(masks, scores, labels)


# --- one mask of what was found --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a picture, as it is to be used."""

    mask: Mask  # [H, W] 255 = found
    parts: list[Mask] = field(default_factory=list)  # what it is made of, best score first
    scores: list[float] = field(default_factory=list)  # of all that was found and used
    labels: list[str] = field(default_factory=list)

    @property
    def about(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "found": len(self.scores),
            "coverage": round(share(self.mask), 6),
            "scores": [round(float(score), 4) for score in self.scores],
        }


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Which of the instances are used, and what is done to their masks; lengths as shares of the picture's diagonal."""

    instances: Choice = "union"
    grow: float = 0
    feather: float = 0
    fill_holes: bool = False
    min_area: float = 0  # share of the picture
    soft: bool = False

    def of_picture(self, pixels: Image, instances: Instances, *, panorama: PanoramaMode = "no") -> Found:
        """The mask of a picture that `for_segmenter` has prepared."""
        wraps = is_panorama(pixels, panorama)
        if wraps:
            instances = without_seam(instances, seam_margin(pixels))
        return self.found(instances, size_hw=(pixels.shape[0], pixels.shape[1]), wraps=wraps)

    def found(self, instances: Instances, *, size_hw: tuple[int, int], wraps: bool = False) -> Found:
        """All 0, of no part, where nothing was found or nothing is left of it."""
        chosen = self._chosen(instances)
        masks = [self.shaped(mask, wraps=wraps) for mask in self._merged([instances.masks[i] for i in chosen])]
        left = [place for place, mask in enumerate(masks) if mask.any()]
        if not left:
            return Found(np.zeros(size_hw, np.uint8))
        parts = [masks[place] for place in left]
        if self.instances == "each":
            chosen = [chosen[place] for place in left]
        scores = [instances.scores[place] for place in chosen]
        return Found(_union(parts), parts, scores, [instances.labels[place] for place in chosen])

    def _merged(self, masks: list[Mask]) -> list[Mask]:
        """What is worked on: every mask by itself, or all of them as one."""
        return masks if self.instances == "each" or not masks else [_union(masks)]

    def _chosen(self, instances: Instances) -> list[int]:
        """Their places in the list, best score first."""
        sizes = [share(mask) for mask in instances.masks]
        large = [place for place, size in enumerate(sizes) if size > 0 and size >= self.min_area]
        ranked = sorted(large, key=lambda place: -instances.scores[place])
        if self.instances == "best":
            return ranked[:1]
        if self.instances == "largest":
            return sorted(ranked, key=lambda place: -sizes[place])[:1]
        return ranked

    def shaped(self, mask: Mask, *, wraps: bool = False) -> Mask:
        """One mask, cleaned, grown or shrunk, and softened."""
        diagonal = math.hypot(*mask.shape)
        mask = tidied(mask, min_px=self.min_area * mask.size, fill_holes=self.fill_holes, wraps=wraps)
        by_px, feather_px = self.grow * diagonal, self.feather * diagonal
        if feather_px:
            return moved(mask, by_px=by_px, feather_px=feather_px, wraps=wraps)
        if not self.soft:
            return moved(mask, by_px=by_px, wraps=wraps)
        if not by_px:
            return mask
        edge = moved(mask, by_px=by_px, feather_px=1, wraps=wraps)
        return np.maximum(mask, edge) if by_px > 0 else np.minimum(mask, edge)


def _union(masks: Sequence[Mask]) -> Mask:
    whole = masks[0]
    for mask in masks[1:]:
        whole = np.maximum(whole, mask)
    return whole
