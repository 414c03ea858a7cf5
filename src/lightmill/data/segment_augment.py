"""Batches of pictures and class maps made ready for a network, on its device: normalised, and in training varied.

A window is cut out and brought to the size of the batch: pictures are mixed from four pixels (bilinear), maps are
picked (nearest), both from the same places. What lies beside the picture is the mean colour in it, and 255 in the map,
which is ignored. Then come the colours, as those of crops do (data/augment.py).

All of a batch's chances are drawn at once from one generator of the CPU, so the same seed gives the same batch on any
device, but for roundings: on a CPU, pictures are resized as whole levels. One picture is worked on after the other, so
that it stays in the cache of a CPU; there a batch takes less time than decoding it did, several times less than
`grid_sample` and convolutions do.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from lightmill.data.augment import Triple
from lightmill.data.labels import IGNORE

if TYPE_CHECKING:
    import torch

SizeHW: TypeAlias = tuple[int, int]

_CHANCES = 11  # numbers drawn for a picture
_SPARSE = 4  # the mean level of a picture is that of every so many pixels


class Varied(NamedTuple):
    """A batch as a network takes it."""

    images: "torch.Tensor"  # float32 [B, 3, h, w], channels last in memory, (x / 255 - mean) / std
    maps: "torch.Tensor"  # uint8 [B, h, w], 255 = ignore


class Span(NamedTuple):
    """What is seen along one side, px: of the picture, and where that lies in the result."""

    source: int
    source_length: int
    target: int
    target_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentAugment:
    """uint8 [B, H, W, 3] RGB and uint8 [B, H, W] -> Varied. Raises ValueError for a share outside its range."""

    flip: float = 0.5  # chance of left and right swapped
    scale: tuple[float, float] = (0.5, 2.0)  # how many times larger things get; uniform in the exponent
    size_hw: SizeHW | None = None  # of what is cut out, px; None: as large as what comes in
    brightness: float = 0.1  # up to this much is added, or taken off, of the range of levels
    contrast: float = 0.2  # differences from the mean level change by up to this share
    gain: float = 0.1  # red, green and blue are each multiplied by up to this share more or less
    blur: float = 0.2  # chance of a blur
    blur_by: float = 2.0  # seen through up to so many times fewer pixels a side
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        shares, chances = (self.brightness, self.contrast, self.gain), (self.flip, self.blur)
        if not all(0 <= share < 1 for share in shares) or not all(0 <= chance <= 1 for chance in chances):
            raise ValueError(f"shares are from 0 to below 1, chances from 0 to 1, in {self}")
        if not 0 < self.scale[0] <= self.scale[1] or self.blur_by < 1 or min(self.std) <= 0:
            raise ValueError(f"scales are above 0 and go from small to large, blur_by is 1 or more, in {self}")

    @classmethod
    def off(cls, *, mean: Triple = (0.485, 0.456, 0.406), std: Triple = (0.229, 0.224, 0.225)) -> Self:
        """Normalises and nothing else: for validation and for use."""
        return cls(flip=0.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, gain=0.0, blur=0.0, mean=mean, std=std)

    def plain(self) -> Self:
        """The same normalising and nothing else."""
        return type(self).off(mean=self.mean, std=self.std)

    def strength(self, factor: float) -> Self:
        """The same with all chances and shares, and the exponents of scales, times `factor`, from 0 to 1."""
        names = "flip", "brightness", "contrast", "gain", "blur"
        weaker = replace(self, scale=(self.scale[0] ** factor, self.scale[1] ** factor))
        return replace(weaker, **{name: getattr(self, name) * factor for name in names})

    def __call__(
        self, images: "torch.Tensor", maps: "torch.Tensor", generator: "torch.Generator | None" = None
    ) -> Varied:
        """`generator`: of the CPU, where the chances come from; None for `off`, which draws nothing.

        Raises ValueError for a batch that is not of the shapes above, and for chances without a generator.
        """
        import torch

        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"a batch of pictures is uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")
        if maps.dtype != torch.uint8 or maps.shape != images.shape[:-1]:
            raise ValueError(f"their maps are uint8 {list(images.shape[:-1])}, got {maps.dtype} {list(maps.shape)}")
        size_hw = self.size_hw or (images.shape[1], images.shape[2])
        levels = torch.empty((len(images), *size_hw, 3), device=images.device)
        colours = self._colours(size_hw[1], images.device)
        if not self._varies:
            colours.normalise(levels.copy_(images))
            return Varied(levels.permute(0, 3, 1, 2), maps.contiguous())
        if generator is None:
            raise ValueError("an augmentation that varies pictures needs a generator to draw from")
        numbers = torch.full((len(maps), *size_hw), IGNORE, dtype=torch.uint8, device=maps.device)
        chances = torch.rand((len(images), _CHANCES), generator=generator, dtype=torch.float64)
        changes = self._changes(2 * chances[:, 6:] - 1).to(images.device, non_blocking=True)
        for at, own in enumerate(chances.tolist()):
            picture = self._cut(images[at], maps[at], own, (levels[at], numbers[at]))
            colours.vary(levels[at], changes[at], level=picture[::_SPARSE, ::_SPARSE].mean())
        return Varied(levels.permute(0, 3, 1, 2), numbers)

    @property
    def _varies(self) -> bool:
        chances = (self.flip, self.brightness, self.contrast, self.gain, self.blur)
        return any(chances) or self.scale != (1.0, 1.0) or self.size_hw is not None

    def _cut(
        self,
        image: "torch.Tensor",
        classes: "torch.Tensor",
        chances: list[float],
        out: "tuple[torch.Tensor, torch.Tensor]",
    ) -> "torch.Tensor":
        """One picture [H, W, 3] and its map into `out`, levels float32 [h, w, 3] and uint8 [h, w], which is all 255.

        Returns the part of the levels where the picture is.
        """
        least, most = (math.log(each) for each in self.scale)
        scale = math.exp(least + (most - least) * chances[0])
        rows, columns = (
            span_of(before, after, scale=scale, chance=chance)
            for before, after, chance in zip(classes.shape, out[1].shape, chances[1:3], strict=True)
        )
        flip = chances[3] < self.flip
        fewer = self.blur_by ** chances[5] if chances[4] < self.blur else 1.0
        seen(classes, rows, columns, flip=flip, into=out[1])
        levels = out[0]
        if (rows.target_length, columns.target_length) != tuple(levels.shape[:2]):
            for channel, level in enumerate(self.mean):
                levels[..., channel] = level * 255
        return seen(image, rows, columns, flip=flip, into=levels, fewer=fewer)

    def _changes(self, spread: "torch.Tensor") -> "torch.Tensor":
        """What `_Colours.vary` takes, float32 [B, 3, 3], of numbers from -1 to 1, float64 [B, 5]."""
        import torch

        gains = (1 + self.contrast * spread[:, 1:2]) * (1 + self.gain * spread[:, 2:])
        more = (self.brightness * spread[:, :1]).expand_as(gains)
        return torch.stack([gains, 1 - gains, more * 255], 1).float()

    def _colours(self, width: int, device: "torch.device") -> "_Colours":
        import torch

        lines = torch.tensor([self.mean, self.std]) * 255
        return _Colours(*lines.to(device, non_blocking=True).repeat(1, width))


class _Colours(NamedTuple):
    """Changes levels, 0 to 255 float32 [..., h, w, 3], in place.

    Rows are worked on as a whole, since three channels side by side are too few for a CPU's vectors. What is needed
    comes to the device once a batch, and nothing comes back from it: a GPU is never waited for.
    """

    mean: "torch.Tensor"  # [w * 3], levels
    std: "torch.Tensor"

    def normalise(self, levels: "torch.Tensor") -> None:
        """(levels - mean) / std."""
        levels.flatten(-2).sub_(self.mean).div_(self.std)

    def vary(self, levels: "torch.Tensor", changes: "torch.Tensor", *, level: "torch.Tensor") -> None:
        """gain * levels + (1 - gain) * level + more, clipped to 0 to 255, and normalised.

        changes [3, 3]: gain, 1 - gain and more, of three channels each. level []: what contrast spreads from. All steps
        but the clipping are one product and one sum.
        """
        gain, rest, more = changes.repeat(1, levels.shape[-2])
        rows = levels.flatten(-2)
        rows.mul_(gain / self.std).add_((rest * level + more - self.mean) / self.std)
        rows.clamp_(-self.mean / self.std, (255 - self.mean) / self.std)


def span_of(before: int, after: int, *, scale: float, chance: float) -> Span:
    """What is seen of `before` px in `after` px, `scale` times as large.

    Where not all of it fits, the window lies anywhere in the picture; else the picture lies anywhere in the result.

    >>> span_of(100, 100, scale=2.0, chance=0.5), span_of(100, 100, scale=0.5, chance=0.999)
    (Span(source=25, source_length=50, target=0, target_length=100), Span(source=0, source_length=100, target=50, ...
    """
    fitted = max(1, round(before * scale))
    if fitted <= after:
        return Span(0, before, int(chance * (after - fitted + 1)), fitted)
    length = min(before, max(1, round(after / scale)))
    return Span(int(chance * (before - length + 1)), length, 0, after)


def seen(
    source: "torch.Tensor", rows: Span, columns: Span, *, flip: bool, into: "torch.Tensor", fewer: float = 1.0
) -> "torch.Tensor":
    """Writes what the spans show of [H, W, 3] (bilinear) or [H, W] (nearest) into their part of the result, which is
    returned.

    `fewer`: a blur, through so many times fewer pixels a side. `flip`: the result's left is its right.
    """
    import torch
    from torch.nn.functional import interpolate

    window = source[rows.source :, columns.source :][: rows.source_length, : columns.source_length]
    sizes = [(rows.target_length, columns.target_length)]
    if source.ndim == 3:
        whole = window.permute(2, 0, 1)[None]
        if source.device.type != "cpu":  # elsewhere torch mixes floats only
            whole = whole.float()
        if fewer > 1:
            sizes.insert(0, (max(1, round(sizes[0][0] / fewer)), max(1, round(sizes[0][1] / fewer))))
    else:
        whole = window[None, None]
    for size in sizes:
        if whole.shape[2:] != torch.Size(size):
            whole = interpolate(whole, size=size, mode="bilinear" if source.ndim == 3 else "nearest-exact")
    left = into.shape[1] - columns.target - columns.target_length if flip else columns.target
    part = into[rows.target :, left:][: rows.target_length, : columns.target_length]
    found = whole[0].permute(1, 2, 0) if source.ndim == 3 else whole[0, 0]
    part[:] = found.flip(1) if flip else found
    return part
