"""What only the training of a student has: heads on coarse maps, and a projection onto a teacher's features.

They are modules beside the network, so its checkpoint, its exports and its scores know nothing of them.

This module needs torch when it is imported; it is imported where a training begins.
"""

import torch  # noqa: TID253 (imported only where a training begins; classes of torch cannot be defined without it)
from torch import nn  # noqa: TID253 (as above)
from torch.nn import functional as F  # noqa: N812, TID253 (as above; the name that torch's documents give it)

from lightmill.models.student_network import Outputs, StudentNetwork, initialise_linear

_DEEP = 2  # of the decoder's maps, these many coarse ones: the finer ones are looked at by the network's own head


class DeepHeads(nn.Module):
    """Deep supervision (Lee et al., 2015): logits of the decoder's coarse maps, coarsest first.

    [B, C, h, w] each, of the map's size: labels are brought to that (`lightmill.train.segment_losses.labels_at`),
    which costs a hundredth of bringing the logits to the size of the labels.
    """

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        channels = network.decoder.channels[:-1][:_DEEP]
        heads = [nn.Conv2d(width, network.classes, 1) for width in channels]
        for head in heads:
            initialise_linear(head)
        self.heads = nn.ModuleList(heads)

    def forward(self, outputs: Outputs) -> list[torch.Tensor]:
        return [head(decoded) for head, decoded in zip(self.heads, outputs.decoded, strict=False)]


class FeatureProjection(nn.Module):
    """The student's coarsest decoded map, brought to the channels and the size of a teacher's features.

    One convolution of 1x1, then bilinear: [B, D, h, w] -> [B, `channels`, h', w'].
    """

    def __init__(self, network: StudentNetwork, *, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(network.decoder.channels[0], channels, 1)
        initialise_linear(self.project)

    def forward(self, outputs: Outputs, *, size_hw: tuple[int, int]) -> torch.Tensor:
        features: torch.Tensor = self.project(outputs.decoded[0])
        if tuple(features.shape[-2:]) == tuple(size_hw):
            return features
        return F.interpolate(features, size=size_hw, mode="bilinear", align_corners=False)
