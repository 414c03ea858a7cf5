"""Batches of crops made ready for a network, on its device: normalised, and in training varied so that it learns more.

What is varied keeps numbers readable: crops are not mirrored (a mirrored 2 is no digit), squeezed by a few percent at
most and blurred a little. Erasing covers a rectangle with one colour, as other players do (Zhong et al., 2020).

All of a batch's chances are drawn at once from one generator of the CPU, a row a crop, so the same seed gives the same
crops on any device, and what one crop gets does not depend on the pixels of another.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

Triple = tuple[float, float, float]

_CHANCES = 18  # numbers drawn for a crop
_BLUR = 1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16  # binomial: a standard deviation of 1 px


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """uint8 RGB [B, h, w, 3] -> float32 [B, 3, h, w], channels last in memory, (x / 255 - mean) / std.

    In this order, each drawn anew for every crop: the box moved and zoomed, colours, blur, erasing, normalising.
    Raises ValueError for a share outside its range.
    """

    shift: float = 0.05  # the box moves by up to this share of its width and height
    zoom: float = 0.1  # and its width and height change by up to this share, each for itself by a third of that
    brightness: float = 0.2  # up to this much is added, or taken off, of the range of levels
    contrast: float = 0.2  # differences from the mean level change by up to this share
    gain: float = 0.1  # red, green and blue are each multiplied by up to this share more or less
    blur: float = 0.2  # chance of a blur, of up to 1 px (standard deviation)
    erase: float = 0.4  # chance of a rectangle in one colour
    erase_area: tuple[float, float] = (0.02, 0.2)  # its share of the crop
    mirror: float = 0.0  # chance of left and right swapped; leave it 0 where numbers or sides matter
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        shares = (self.shift, self.zoom, self.brightness, self.contrast, self.gain)
        chances = (self.blur, self.erase, self.mirror, *self.erase_area)
        if not all(0 <= share < 1 for share in shares) or not all(0 <= chance <= 1 for chance in chances):
            raise ValueError(f"shares are from 0 to below 1, chances and areas from 0 to 1, in {self}")
        if self.erase_area[0] > self.erase_area[1] or min(self.std) <= 0:
            raise ValueError(f"areas go from small to large and std is above 0, in {self}")

    @classmethod
    def off(cls, *, mean: Triple = (0.485, 0.456, 0.406), std: Triple = (0.229, 0.224, 0.225)) -> Self:
        """Normalises and nothing else: for validation and for use."""
        nothing = dict.fromkeys(("shift", "zoom", "brightness", "contrast", "gain", "blur", "erase", "mirror"), 0.0)
        return cls(**nothing, mean=mean, std=std)  # type: ignore[arg-type]  # mypy takes the dict for any field

    def plain(self) -> Self:
        """The same normalising and nothing else."""
        return type(self).off(mean=self.mean, std=self.std)

    def strength(self, factor: float) -> Self:
        """The same with all shares and chances times `factor`, from 0 to 1."""
        names = "shift", "zoom", "brightness", "contrast", "gain", "blur", "erase", "mirror"
        return replace(self, **{name: getattr(self, name) * factor for name in names})

    def __call__(self, batch: "torch.Tensor", generator: "torch.Generator | None" = None) -> "torch.Tensor":
        """`generator`: of the CPU, where the chances come from; None for `off`, which draws nothing.

        Raises ValueError for a batch that is not uint8 [B, h, w, 3], and for chances without a generator.
        """
        import torch

        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
            raise ValueError(f"a batch of crops is uint8 [B, h, w, 3], got {batch.dtype} {list(batch.shape)}")
        if self._varies and generator is None:
            raise ValueError("an augmentation that varies crops needs a generator to draw from")
        pixels = batch.permute(0, 3, 1, 2).float().div_(255)  # a view turned round: channels last in memory
        with torch.autocast(batch.device.type, enabled=False):
            if self._varies:
                pixels = self._varied(pixels, torch.rand((len(batch), _CHANCES), generator=generator))
            return normalised(pixels, mean=self.mean, std=self.std)

    @property
    def _varies(self) -> bool:
        return any(
            (self.shift, self.zoom, self.brightness, self.contrast, self.gain, self.blur, self.erase, self.mirror)
        )

    def _varied(self, pixels: "torch.Tensor", chances: "torch.Tensor") -> "torch.Tensor":
        """Levels 0..1 [B, 3, h, w]; chances [B, _CHANCES], uniform in [0, 1), on the CPU."""
        drawn, chances = chances, chances.to(pixels.device, non_blocking=True)
        if self.shift or self.zoom or self.mirror:
            pixels = moved(pixels, self._box_from_box(chances[:, :6]))
        if self.brightness or self.contrast or self.gain:
            pixels = self._coloured(pixels, chances[:, 6:11])
        if self.blur:
            pixels = self._blurred(pixels, drawn[:, 11], drawn[:, 12])
        if self.erase:
            pixels = self._erased(pixels, chances[:, 13:18])
        return pixels

    def _box_from_box(self, chances: "torch.Tensor") -> "torch.Tensor":
        """[B, 2, 3]: where in the crop (-1..1 from edge to edge) a place of the varied crop lies."""
        import torch

        spread = chances[:, :5] * 2 - 1
        zoom = 1 + self.zoom * spread[:, 2]
        wide, high = (zoom * (1 + self.zoom / 3 * spread[:, at]) for at in (3, 4))
        side = torch.where(chances[:, 5] < self.mirror, -1.0, 1.0)
        nothing = torch.zeros_like(zoom)
        across = torch.stack([wide * side, nothing, 2 * self.shift * spread[:, 0]], dim=1)
        down = torch.stack([nothing, high, 2 * self.shift * spread[:, 1]], dim=1)
        return torch.stack([across, down], dim=1)

    def _coloured(self, pixels: "torch.Tensor", chances: "torch.Tensor") -> "torch.Tensor":
        spread = (chances * 2 - 1)[:, :, None, None]
        level = pixels.mean((1, 2, 3), keepdim=True)
        gain = (1 + self.contrast * spread[:, 1:2]) * (1 + self.gain * spread[:, 2:5])
        return ((pixels - level) * gain).add_(level + self.brightness * spread[:, 0:1]).clamp_(0, 1)

    def _blurred(self, pixels: "torch.Tensor", chance: "torch.Tensor", amount: "torch.Tensor") -> "torch.Tensor":
        """`chance`, `amount`: [B] on the CPU, where it is known without waiting for a GPU which crops are blurred."""
        which = (chance < self.blur).nonzero()[:, 0]
        if not len(which):
            return pixels
        rows, share = (each.to(pixels.device, non_blocking=True) for each in (which, amount[which]))
        share = share[:, None, None, None]
        return pixels.index_copy(0, rows, pixels[rows].lerp(binomial_blur(pixels[rows]), share))

    def _erased(self, pixels: "torch.Tensor", chances: "torch.Tensor") -> "torch.Tensor":
        """A rectangle of `erase_area`, 1 : 3 to 3 : 1 in pixels, that lies inside the crop; its colour is one grey."""
        import torch

        height, width = pixels.shape[-2:]
        least, most = self.erase_area
        area = (least + (most - least) * chances[:, 1]) * height * width
        ratio = ((chances[:, 2] * 2 - 1) * math.log(3)).exp()
        high, wide = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
        grey = chances[:, 0] / max(self.erase, 1e-9)  # uniform in [0, 1) among those that are erased
        top, left = chances[:, 3] * (height - high), chances[:, 4] * (width - wide)
        y, x = torch.arange(height, device=pixels.device) + 0.5, torch.arange(width, device=pixels.device) + 0.5
        rows = (y > top[:, None]) & (y < (top + high)[:, None]) & (chances[:, :1] < self.erase)
        columns = (x > left[:, None]) & (x < (left + wide)[:, None])
        return torch.where((rows[:, :, None] & columns[:, None])[:, None], grey[:, None, None, None], pixels)


def normalised(pixels: "torch.Tensor", *, mean: Triple, std: Triple) -> "torch.Tensor":
    """Levels 0..1 [B, 3, h, w] -> (levels - mean) / std, in the memory of `pixels`; channels last."""
    import torch

    middle, spread = torch.tensor([mean, std]).to(pixels.device, non_blocking=True)[:, :, None, None]
    return pixels.sub_(middle).div_(spread).contiguous(memory_format=torch.channels_last)


def moved(pixels: "torch.Tensor", box_from_box: "torch.Tensor") -> "torch.Tensor":
    """Crops [B, 3, h, w] looked at through other boxes: bilinear; beyond the crop its border goes on.

    `box_from_box` [B, 2, 3]: (x, y) in the crop of (x, y, 1) in the new one, -1..1 from edge to edge.
    """
    from torch.nn.functional import affine_grid, grid_sample

    grid = affine_grid(box_from_box, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def binomial_blur(pixels: "torch.Tensor") -> "torch.Tensor":
    """[B, 3, h, w] with the weights 1 4 6 4 1 in both directions (a standard deviation of 1 px); borders go on."""
    import torch
    from torch.nn.functional import conv2d, pad

    line = torch.tensor(_BLUR, dtype=pixels.dtype).to(pixels.device, non_blocking=True)
    edged = pad(pixels, (2, 2, 2, 2), mode="replicate")
    down = conv2d(edged, line[None, None, :, None].expand(3, 1, 5, 1), groups=3)
    return conv2d(down, line[None, None, None, :].expand(3, 1, 1, 5), groups=3)
