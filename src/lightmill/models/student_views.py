"""What a student is shown of a picture, as a whole or in tiles, and how what it says comes back to the picture's size.

Shares (probabilities) are float32 [C, rows, columns] on the device. A picture is worked on from the top downwards, some
rows at a time, so that the shares of all classes of a large picture need not be held at once.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.data.crops import resize_into
from lightmill.data.segment_samples import BARS, Part, part_of
from lightmill.models.kinds import Image
from lightmill.ops.tiles import across, downwards, stretches

if TYPE_CHECKING:
    import torch

SizeHW: TypeAlias = tuple[int, int]
Tile: TypeAlias = Literal["off", "auto"] | int
Rows: TypeAlias = "Iterator[tuple[int, torch.Tensor]]"  # (first row, shares [C, n, W]), from the top, without a gap

_BAND = 1 << 22  # shares that are enlarged at once: 16 MB


def working_size(native_hw: SizeHW, *, size_hw: SizeHW, tile: Tile) -> SizeHW | None:
    """The size at which a picture is looked at in tiles of `size_hw`; None: it is laid into one sample of that size.

    `off`: always laid into one. A number: with at most so many px along its longer side; `auto`: with its own. What
    fits into one sample at that size is laid into one.

    >>> working_size((1080, 1920), size_hw=(360, 480), tile="auto")
    (1080, 1920)
    >>> working_size((1080, 1920), size_hw=(360, 480), tile=960)
    (540, 960)
    >>> working_size((1080, 1920), size_hw=(360, 480), tile=480), working_size((9, 9), size_hw=(8, 8), tile="off")
    (None, None)
    """
    if tile == "off":
        return None
    scale = 1.0 if tile == "auto" else min(1.0, tile / max(native_hw))
    height, width = (max(1, round(side * scale)) for side in native_hw)
    return None if height <= size_hw[0] and width <= size_hw[1] else (height, width)


def sample_of(image: Image, size_hw: SizeHW) -> tuple[NDArray[np.uint8], Part]:
    """A picture laid into a sample [*size_hw, 3], as the samples of a training are, and where it lies there."""
    part = part_of((image.shape[0], image.shape[1]), size_hw)
    sample = np.empty((*size_hw, 3), np.uint8)
    sample[:] = BARS
    sample[part.top : part.top + part.height, part.left : part.left + part.width] = _resized(
        image, (part.height, part.width)
    )
    return sample, part


def tiles_of(
    image: Image,
    working_hw: SizeHW,
    *,
    tile_hw: SizeHW,
    look: "Callable[[NDArray[np.uint8]], torch.Tensor]",
    at_once: int,
) -> Rows:
    """Shares of a picture at its working size, joined of tiles. `look`: of up to `at_once` tiles, [B, h, w, 3]."""
    shown = _resized(image, working_hw)
    rows, columns = (stretches(side, tile=tile) for side, tile in zip(working_hw, tile_hw, strict=True))
    high, wide = (min(pair) for pair in zip(working_hw, tile_hw, strict=True))

    def tiles(top: int) -> "Iterator[torch.Tensor]":
        cut = [shown[top : top + high, one.start : one.start + wide] for one in columns]
        for start in range(0, len(cut), at_once):
            yield from look(np.stack(cut[start : start + at_once]))

    return downwards((across(tiles(row.start), columns) for row in rows), rows)


def rows_of(shares: Rows, *, working_hw: SizeHW, size_hw: SizeHW) -> Rows:
    """Rows at the working size as rows at the picture's own."""
    if working_hw == size_hw:
        yield from shares
        return
    import torch

    whole = torch.cat([part for _, part in shares], dim=1)
    height = max(1, _BAND // (len(whole) * size_hw[1]))
    for first in range(0, size_hw[0], height):
        yield first, enlarged(whole, size_hw=size_hw, rows=range(first, min(first + height, size_hw[0])))


def enlarged(shares: "torch.Tensor", *, size_hw: SizeHW, rows: range) -> "torch.Tensor":
    """Some rows of [C, h, w] brought to another size, [C, len(rows), W]: bilinear, pixel centres at one half."""
    import torch
    from torch.nn.functional import interpolate

    height = shares.shape[1]
    places = torch.arange(rows.start, rows.stop, dtype=torch.float64, device=shares.device) + 0.5
    places = (places * (height / size_hw[0]) - 0.5).clamp(0, height - 1)
    upper = places.long()
    lower, below = (upper + 1).clamp(max=height - 1), (places - upper).float()[:, None]
    mixed = shares[:, upper] * (1 - below) + shares[:, lower] * below
    return interpolate(mixed[None], size=(len(rows), size_hw[1]), mode="bilinear", align_corners=False)[0]


def _resized(image: Image, size_hw: SizeHW) -> Image:
    if image.shape[:2] == size_hw:
        return image
    resized = np.empty((*size_hw, 3), np.uint8)
    resize_into(image, resized)
    return resized
