"""What a teacher said of pictures, as the training of a student takes it: where each batch looks, and no more.

A teacher's levels and features are of whole pictures. A batch is of pictures that were flipped, scaled and cut, so the
same places are looked up in them, from the same chances that varied the pictures.

This module needs torch when it is imported; it is imported where a training begins.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch  # noqa: TID253 (imported only where a training begins)
from torch.nn import functional as F  # noqa: N812, TID253 (as above; the name that torch's documents give it)

from lightmill.data.segment_augment import SegmentAugment, Span, span_of
from lightmill.data.segment_samples import Part, SizeHW

_CHANCES = 11  # that SegmentAugment draws for a picture; a test holds the two together


class View(NamedTuple):
    """What of a sample is seen, and where; as SegmentAugment cuts it."""

    rows: Span
    columns: Span
    flip: bool


@dataclass(frozen=True, eq=False)
class Teacher:
    """What was said, in files, by rows of the index; pictures of which nothing was said are in none of these.

    `levels`: uint8 [C, h, w] as .npy, 255 = certain; of several classes they add up to 255, or to 0 where nothing is
    said. `features`: float16 [`channels`, h, w] likewise; 0 channels: the teacher has none. `parts`: where in a sample
    the picture lies.
    """

    levels: Mapping[int, Path]
    features: Mapping[int, Path]
    parts: Mapping[int, Part]
    size_hw: SizeHW
    classes: int
    channels: int

    def said(
        self, rows: Sequence[int], views: Sequence[View], device: torch.device, *, size_hw: SizeHW
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch: probabilities [B, C, h, w] at so many places, and where they count [B, h, w]."""
        found, known = self._looked_up(self.levels, rows, views, channels=self.classes, size_hw=size_hw, device=device)
        shares = found / 255
        if self.classes > 1:
            whole = shares.sum(1, keepdim=True)
            known = known & (whole[:, 0] > 0.5)
            shares = shares / whole.clamp(min=1e-6)
        return shares.clamp(0, 1), known

    def seen(
        self, rows: Sequence[int], views: Sequence[View], *, size_hw: SizeHW, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch: features [B, D, h, w], and where there are any [B, h, w]."""
        return self._looked_up(self.features, rows, views, channels=self.channels, size_hw=size_hw, device=device)

    def _looked_up(
        self,
        files: Mapping[int, Path],
        rows: Sequence[int],
        views: Sequence[View],
        *,
        channels: int,
        size_hw: SizeHW,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.zeros(len(rows), channels, *size_hw, device=device)
        known = torch.zeros(len(rows), *size_hw, dtype=torch.bool, device=device)
        for place, (row, view) in enumerate(zip(rows, views, strict=True)):
            if row in files:
                whole = torch.from_numpy(np.load(files[row])).to(device).float()
                found[place], known[place] = looked_up(
                    whole, view, self.parts[row], sample_hw=self.size_hw, size_hw=size_hw
                )
        return found, known


def views_of(augment: SegmentAugment, count: int, size_hw: SizeHW, generator: torch.Generator) -> list[View]:
    """How an augmentation that keeps the size of samples sees `count` of them, when it draws from that generator."""
    chances = torch.rand((count, _CHANCES), generator=generator, dtype=torch.float64).tolist()
    least, most = (math.log(each) for each in augment.scale)
    views = []
    for own in chances:
        scale = math.exp(least + (most - least) * own[0])
        rows, columns = (
            span_of(side, side, scale=scale, chance=chance) for side, chance in zip(size_hw, own[1:3], strict=True)
        )
        views.append(View(rows, columns, own[3] < augment.flip))
    return views


def looked_up(
    whole: torch.Tensor, view: View, part: Part, *, sample_hw: SizeHW, size_hw: SizeHW
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of maps of a picture [C, h, w] what a view of its sample shows, [C, *size_hw], and which of it is picture."""
    (down, is_down), (across, is_across) = (
        _places(span, of=sample, within=(start, length), count=count, flip=flip, like=whole)
        for span, sample, start, length, count, flip in (
            (view.rows, sample_hw[0], part.top, part.height, size_hw[0], False),
            (view.columns, sample_hw[1], part.left, part.width, size_hw[1], view.flip),
        )
    )
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    found = F.grid_sample(whole[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    known = is_down[:, None] & is_across[None]
    return found * known, known


def _places(
    span: Span, *, of: int, within: tuple[int, int], count: int, flip: bool, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Along one side: where the middles of `count` places lie in the picture, -1 to 1, and which lie in it at all."""
    middles = (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (of / count)
    if flip:
        middles = of - middles
    inside = (middles > span.target) & (middles < span.target + span.target_length)
    source = span.source + (middles - span.target) * (span.source_length / span.target_length)
    share = (source - within[0]) / within[1]
    return 2 * share - 1, inside & (share > 0) & (share < 1)
