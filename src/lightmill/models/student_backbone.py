"""A backbone of transformers as the encoder of a student: its maps, and finer ones from convolutions of our own.

Backbones with stages (ResNet, RegNet, ConvNeXt, MobileNet, Swin) give the last map of each size; those that see patches
(ViT, DINOv2, DINOv3) give one map. What is finer than their finest comes from the pixels, by convolutions that halve.

This module needs torch when it is imported; it is imported where a network is made.
"""

import math
from typing import Any

import torch  # noqa: TID253 (imported only where a network is made; classes of torch cannot be defined without it)
from torch import nn  # noqa: TID253 (as above)

from lightmill.errors import ModelError
from lightmill.models.backbones import TRANSFORMER, feature_map
from lightmill.models.student_network import STRIDE, initialise

_FINE = 16, 32, 64  # features at 1/2, 1/4 and 1/8 of the picture, where the backbone has none


class BackboneEncoder(nn.Module):
    """Maps of a picture, finest first; the finest is at 1/4 or so. What is finer in the backbone is not looked at.

    The backbone's weights stay as they are; those of the added convolutions are random. Raises ModelError for a
    backbone that gives no maps.
    """

    at_stride = False  # some leave out what is too little for a place at the edge

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        patch = _patch(backbone)
        strides, theirs, self.kept = _probed(backbone, side_px=4 * (patch or 32))
        lacks = strides[0] >= 1.5 * STRIDE
        fine = [2**level for level in range(1, len(_FINE) + 1) if 1.5 * 2**level <= strides[0]] if lacks else []
        self.step = math.lcm(patch, STRIDE, *fine) if patch else 32
        ours = _FINE[: len(fine)]
        self.channels = (*ours[1:], *theirs)
        self.fine = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)
            )
            for before, after in zip((3, *ours), ours, strict=False)
        )
        initialise(self.fine)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        found = pixels
        for halve in self.fine:
            found = halve(found)
            maps.append(found)
        given = _maps(self.backbone, pixels)
        return maps[1:] + [given[each] for each in self.kept]


def _maps(backbone: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """All that a backbone gives, some of them no maps."""
    if _patch(backbone):
        return [feature_map(backbone, pixels)]
    found: Any = backbone(pixel_values=pixels, output_hidden_states=True)
    return list(getattr(found, "reshaped_hidden_states", None) or found.hidden_states or ())


def _patch(backbone: nn.Module) -> int:
    """Height and width of the patches that it sees, px; 0 for one that gives maps of several sizes."""
    config: Any = backbone.config
    return int(getattr(config, "patch_size", 0)) if config.model_type in TRANSFORMER else 0


def _probed(backbone: nn.Module, *, side_px: int) -> tuple[list[float], tuple[int, ...], tuple[int, ...]]:
    """Of each size of map, finest first: pixels from place to place, features, and the number of the last one.

    A grey picture goes through once. Which maps are taken is settled here, not where they are made: there, a tracer
    that writes down what happens to tensors would not see it.
    """
    learns = backbone.training
    with torch.no_grad():
        maps = _maps(backbone.eval(), torch.zeros(1, 3, side_px, side_px))
    backbone.train(learns)
    most = side_px * 1.5 / STRIDE
    last = {each.shape[-1]: at for at, each in enumerate(maps) if each.ndim == 4 and each.shape[-1] < most}
    if not last:
        settings: Any = backbone.config
        raise ModelError(f"a model of type {settings.model_type} gives no maps that a decoder could go on from")
    kept = tuple(last.values())
    return [side_px / maps[at].shape[-1] for at in kept], tuple(maps[at].shape[1] for at in kept), kept
