"""The network of a student: an encoder, and a decoder that brings its maps back to a quarter of the picture's size.

It gives logits, in training as in use: nothing but batch norms and dropout asks which of the two it is. What turns
logits into shares is `probabilities`, here once and nowhere inside. Heads that only training has are in
models/student_heads.py; they are no part of this network, so they are neither scored, nor saved, nor exported.

The encoder is a narrow residual network (He et al., 2016), or a backbone of transformers (models/student_backbone.py).
The decoder adds each finer map to what comes from the coarser ones, as feature pyramids do (Lin et al., 2017), after
the mean of the whole picture has been added to the coarsest (as in ParseNet, Liu et al., 2016). All convolutions are
plain ones of 3x3: at the same number of weights, separable ones are wider, and it is the width of the fine maps that
takes the time. For the same reason the decoder ends at a quarter of the picture, as that of DeepLabv3+ does (Chen et
al., 2018): a map at a half took more time than all else together. The last layer gives logits for 2x2 places at once
(sub-pixel convolution, Shi et al., 2016), so what is thin is still told apart.

This module needs torch when it is imported; it is imported where a network is made.
"""

from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

import torch  # noqa: TID253 (imported only where a network is made; classes of torch cannot be defined without it)
from torch import nn  # noqa: TID253 (as above)
from torch.nn import functional as F  # noqa: N812, TID253 (as above; the name that torch's documents give it)

Size: TypeAlias = Literal["nano", "tiny", "small", "base"]


STRIDE = 4  # of the decoder's finest map: so many pixels of the picture a side are one of its places
COARSER = 2  # the logits are worked out at so many times fewer places a side than there are pixels, and enlarged


class Widths(NamedTuple):
    """How wide a network of a size is, and how deep."""

    encoder: tuple[int, ...]  # features at 1/2, 1/4, 1/8, 1/16, 1/32 of the picture
    blocks: tuple[int, ...]  # residual blocks at 1/4, 1/8, 1/16, 1/32
    decoder: tuple[int, ...]  # features at 1/4, 1/8, and at all that is coarser


# Weights with 11 classes: 0.31, 1.0, 3.3 and 7.6 million. All widths are multiples of 16: on a CPU, torch goes back
# through a batch norm of 24 features in three to six times the time that one of 32 takes.
SIZES: dict[Size, Widths] = {
    "nano": Widths((16, 32, 48, 64, 64), (0, 1, 1, 1), (32, 32, 32)),
    "tiny": Widths((16, 32, 64, 96, 160), (1, 1, 1, 1), (32, 48, 64)),
    "small": Widths((32, 48, 96, 160, 256), (1, 2, 2, 1), (48, 64, 96)),
    "base": Widths((32, 64, 128, 256, 384), (2, 2, 2, 1), (64, 96, 128)),
}


class Outputs(NamedTuple):
    """What training sees of a batch of pictures [B, 3, H, W]."""

    coarse: torch.Tensor  # [B, C, ceil(H / COARSER), ceil(W / COARSER)] float32: logits, before they are enlarged
    decoded: tuple[torch.Tensor, ...]  # the decoder's maps [B, D, h, w], coarsest first; the first one at 1/16 or so


class Encoder(Protocol):
    """Pixels -> maps, finest first, each half as large as the one before or less; the finest at about 1/STRIDE."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each map."""
        ...

    @property
    def at_stride(self) -> bool:
        """Whether the finest map is at 1/STRIDE exactly."""
        ...

    @property
    def step(self) -> int:
        """Height and width of what it takes are multiples of it; a multiple of STRIDE."""
        ...

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]: ...


class StudentNetwork(nn.Module):
    """Pictures [B, 3, H, W] of any size, normalised -> logits float32 [B, C, H, W].

    C = 1: the logit of the foreground. C > 1: one a class. The right and the lower edge are repeated until height and
    width are multiples of `step`, and cut off again before the logits are enlarged. `dropout`: the share of features
    that the last layer does not see in training.

    In training, a batch must give the batch norms of the coarsest map more than one place: one picture of `step` px a
    side is too little, and torch says so.
    """

    def __init__(self, encoder: Encoder, *, classes: int, decoder: tuple[int, ...], dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = cast(nn.Module, encoder)
        self.classes = classes
        self.step = encoder.step
        self.resizes = not encoder.at_stride
        self.decoder = Decoder(encoder.channels, widths=decoder)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(self.decoder.channels[-1], classes * (STRIDE // COARSER) ** 2, 1)
        initialise(self.decoder)
        initialise_linear(self.head)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        high, wide = pixels.shape[-2:]
        return enlarged(self.outputs(pixels).coarse)[..., :high, :wide]

    def outputs(self, pixels: torch.Tensor) -> Outputs:
        """What the logits that `forward` gives are made of. Raises ValueError as to the shape."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be [B, 3, H, W], got {list(pixels.shape)}")
        high, wide = pixels.shape[-2:]
        padded = F.pad(pixels, (0, -wide % self.step, 0, -high % self.step), mode="replicate")
        decoded = self.decoder(self.encoder(padded))
        # from here on in float32, and class by class: several times as fast as with the classes of a place together
        coarse = spread(exact(self.head(self.dropout(decoded[-1])).contiguous()), STRIDE // COARSER)
        if self.resizes:
            places = padded.shape[-2] // COARSER, padded.shape[-1] // COARSER
            coarse = F.interpolate(coarse, size=places, mode="bilinear", align_corners=False)
        cut = tuple(_cut(each, pixels, padded) for each in decoded)
        # written so that an exporter's division, which cuts off, rounds up too
        return Outputs(coarse[..., : (high + COARSER - 1) // COARSER, : (wide + COARSER - 1) // COARSER], cut)


class ResidualEncoder(nn.Module):
    """Maps at 1/4, 1/8, 1/16 and 1/32 of the picture."""

    step = 32
    at_stride = True

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.channels = widths.encoder[1:]
        self.stem = _convolution(3, widths.encoder[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(before, after, stride=2), *[_Residual(after) for _ in range(blocks)])
            for before, after, blocks in zip(widths.encoder, widths.encoder[1:], widths.blocks, strict=False)
        )
        initialise(self)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        found, maps = self.stem(pixels), []
        for stage in self.stages:
            found = stage(found)
            maps.append(found)
        return maps


class Decoder(nn.Module):
    """Maps, finest first -> as many less one, coarsest first, each a sum of all that is coarser (one map: that one)."""

    def __init__(self, channels: tuple[int, ...], *, widths: tuple[int, ...]) -> None:
        super().__init__()
        ours = [widths[min(level, len(widths) - 1)] for level in range(max(len(channels) - 1, 1))]
        coarser = [*ours[1:], channels[-1]]
        self.channels = tuple(reversed(ours))
        self.whole = nn.Conv2d(channels[-1], channels[-1], 1)  # no batch norm: the mean of a picture is one place
        self.joins = nn.ModuleList(
            _Join(coarse, fine, width) for coarse, fine, width in zip(coarser, channels[: len(ours)], ours, strict=True)
        )

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        found = maps[-1] + self.whole(maps[-1].mean((-2, -1), keepdim=True))
        decoded = []
        for join, fine in zip(reversed(self.joins), reversed(maps[: len(self.joins)]), strict=True):
            found = join(found, fine)
            decoded.append(found)
        return decoded


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(maps + self.norm(self.second(self.first(maps))), inplace=True)


class _Join(nn.Module):
    """A coarse map, made narrow and then enlarged, and a fine one, added and looked over once."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.from_coarse = nn.Conv2d(coarse, width, 1, bias=False)
        self.from_fine = nn.Conv2d(fine, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.last = _convolution(width, width)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(self.from_coarse(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        found: torch.Tensor = self.last(F.relu(self.norm(large + self.from_fine(fine)), inplace=True))
        return found


def enlarged(coarse: torch.Tensor) -> torch.Tensor:
    """Logits [B, C, h, w] -> [B, C, 2 h, 2 w], COARSER being 2: mixed between the middles of places (bilinear)."""
    return F.interpolate(coarse, scale_factor=COARSER, mode="bilinear", align_corners=False)


def enlarged_at(coarse: torch.Tensor, *, first: tuple[int, int]) -> torch.Tensor:
    """`enlarged(coarse)[..., y::2, x::2]` with (y, x) = `first`, 0 or 1 each: one pixel of each place, [B, C, h, w].

    Such a pixel is three quarters of its own place and one of the next, along both sides.
    """
    found: torch.Tensor = _EnlargedAt.apply(coarse, first)  # type: ignore[no-untyped-call]  # torch's stubs
    return found


class _EnlargedAt(torch.autograd.Function):
    """With gradients in places: autograd clears a map and adds to it for every slice, six times as long."""

    @staticmethod
    def forward(ctx: Any, coarse: torch.Tensor, first: tuple[int, int]) -> torch.Tensor:
        ctx.first = first
        return _mixed(_mixed(coarse, -2, after=first[0] == 1), -1, after=first[1] == 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        down, across = (which == 1 for which in ctx.first)
        return _mixed(_mixed(gradient, -1, after=across, back=True), -2, after=down, back=True), None


def _mixed(maps: torch.Tensor, side: int, *, after: bool, back: bool = False) -> torch.Tensor:
    """Three quarters of each place and one of the next along a side, `after` it or before; at the end, of itself.

    `back`: how much each place is in all of these, which is what gradients want.
    """
    length = maps.shape[side]
    own, end = maps * 0.75, length - 1 if after else 0
    start, rest = (0, 1) if after != back else (1, 0)
    own.narrow(side, start, length - 1).add_(maps.narrow(side, rest, length - 1), alpha=0.25)
    own.narrow(side, end, 1).add_(maps.narrow(side, end, 1), alpha=0.25)
    return own


def spread(maps: torch.Tensor, times: int) -> torch.Tensor:
    """[B, C * times * times, h, w] -> [B, C, h * times, w * times], as torch's `pixel_shuffle`, which takes three times
    as long on a CPU."""
    batch, channels, high, wide = maps.shape
    parts = maps.reshape(batch, channels // times**2, times, times, high, wide)
    return parts.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // times**2, high * times, wide * times)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Logits [B, C, ...] -> shares of 1, float32: the sigmoid for C = 1, the softmax over the classes for more.

    The one place where logits become that; it must not be called on what it gave.
    """
    return exact(logits).sigmoid() if logits.shape[1] == 1 else exact(logits).softmax(1)


def initialise(module: nn.Module) -> None:
    """Convolutions that ReLU follows, by the number of weights that feed a place (He et al., 2015)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def initialise_linear(convolution: nn.Conv2d) -> None:
    """One that nothing follows, so that what it gives varies by about 1.

    Not by a hundredth of that, as is often done: AdamW moves a weight by the learning rate a step, so a short training
    would be over before the logits are large enough to be certain.
    """
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="linear")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def exact(values: torch.Tensor) -> torch.Tensor:
    """In float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def _convolution(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _cut(each: torch.Tensor, pixels: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
    """The part of a map that shows the picture and not what was added to it."""
    high, wide = (
        -(-size * part // whole)
        for size, part, whole in zip(pixels.shape[-2:], each.shape[-2:], padded.shape[-2:], strict=True)
    )
    return each[..., :high, :wide]
