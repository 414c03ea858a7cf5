"""Masks of views that a model makes on the way: of what it finds in the views, or in the panorama that they are cut
from. What is found is 0, the rest 255."""

from typing import Any, Literal

import numpy as np

from lightmill.engine.batching import LearntSizes, run_in_batches
from lightmill.engine.buffers import Buffers
from lightmill.engine.items import Notes
from lightmill.engine.stages import Batch, Each
from lightmill.models.kinds import Image, Instances, Mask, Segmenter
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import inner
from lightmill.recipes.masking import (
    BATCH,
    MaskRule,
    OnDevice,
    SegmentOne,
    for_segmenter,
    segment_wide_stage,
)
from lightmill.recipes.masks import padded_mask
from lightmill.recipes.views import Cut

PANORAMAS = 2  # whose views a model on the device is given at once


class ViewFinder:
    """The stages that mask what a segmenter finds, wherever they belong in the pipeline of `split360`."""

    def __init__(self, segmenter: Segmenter, rule: MaskRule, cut: Cut, *, on: Literal["views", "pano"]) -> None:
        self._segmenter = segmenter
        self._rule = rule
        self._cut = cut
        self._in_views = on == "views"

    @property
    def needs_all_views(self) -> bool:
        """Whether the views are to be cut before any of them is worked on: a model on the device wants many at once."""
        return self._in_views and self._segmenter.on_device

    @property
    def on_panorama(self) -> tuple[Each | Batch, ...]:
        """`pano` to `found_pano`, its mask."""
        if self._in_views:
            return ()
        return (
            Each(wide_panorama, makes="wide", name="widen"),
            segment_wide_stage(self._segmenter),
            Each(self._of_panorama, makes="found_pano", name="mask"),
        )

    @property
    def on_all_views(self) -> tuple[Batch, ...]:
        """`device_views` to `found_views`, the instances by camera."""
        if not self.needs_all_views:
            return ()
        return (Batch(SegmentViews(self._segmenter), makes="found_views", name="segment", size=PANORAMAS),)

    def on_view(self, *, makes: str) -> tuple[Each, ...]:
        """The mask of a camera's view."""
        if not self._in_views:
            return (Each(self._cut_out, makes=makes, name="cut found"),)
        if self.needs_all_views:
            instances = Each(found_in_view, makes="instances", name="take found")
        else:
            instances = Each(SegmentOne(self._segmenter).view, makes="instances", name="segment")
        return instances, Each(self._of_view, makes=makes, name="mask")

    def _of_panorama(self, pano: Image, instances: Instances, notes: Notes) -> Mask:
        found = self._rule.of_picture(inner(pano), instances, panorama="yes")
        notes.meta["found"] = len(found.scores)
        return padded_mask(255 - found.mask)

    def _cut_out(self, found_pano: Mask, camera: Camera) -> Mask:
        return self._cut.mask(found_pano, camera)

    def _of_view(self, view: Image, instances: Instances, notes: Notes) -> Mask:
        found = self._rule.of_picture(view, instances)
        before: Any = notes.meta.get("found", 0)
        notes.meta["found"] = before + len(found.scores)
        return 255 - found.mask


def wide_panorama(pano: Image) -> Image:
    """The panorama as a segmenter sees it, of [H + 2 MARGIN, W, 3]."""
    return for_segmenter(inner(pano), panorama="yes")


def found_in_view(found_views: dict[str, Instances], camera: Camera) -> Instances:
    """What the device has found in the camera's view."""
    return found_views[camera.name]


def kept_by_both(given_mask: Mask, found_mask: Mask) -> Mask:
    """What neither mask leaves out."""
    return np.minimum(given_mask, found_mask)


class AllViews:
    """All views of a panorama, cut on the CPU before any of them is worked on."""

    def __init__(self, cut: Cut, rig: Rig) -> None:
        self._cut = cut
        self._rig = rig

    def of(self, pano: Image, buffers: Buffers) -> dict[str, Image]:
        return {camera.name: self._cut.view(pano, camera, buffers) for camera in self._rig.cameras}


class SegmentViews(OnDevice):
    """What a model finds in all views of some panoramas, as many views at once as the memory takes."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self._learnt = LearntSizes()

    def __call__(self, device_views: list[dict[str, Image]]) -> list[dict[str, Instances]]:
        found = iter(self._found([view for views in device_views for view in views.values()]))
        return [{camera: next(found) for camera in views} for views in device_views]

    def _found(self, views: list[Image]) -> list[Instances]:
        def too_large(_: Image) -> Any:
            raise MemoryError("a single view does not fit")  # then the engine takes fewer panoramas, or the CPU

        def failed(_: Image, error: BaseException) -> Any:
            raise error

        return run_in_batches(
            lambda chunk: self.segmenter(chunk),
            views,
            what="views",
            most=BATCH,
            learnt=self._learnt,
            free_memory=_free_device_memory,
            alone=too_large,
            failed=failed,
        )


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
