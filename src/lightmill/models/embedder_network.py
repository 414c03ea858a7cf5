"""The network of an embedder: backbone, pooling, a linear layer, and a neck of batch normalisation.

After "Bag of Tricks and a Strong Baseline for Deep Person Re-identification" (Luo et al., 2019): a loss on distances
sees the features before the neck, a loss on angles those behind it, and so does whoever compares crops later. Pooling
is the generalised mean of "Fine-tuning CNN Image Retrieval with No Human Annotation" (Radenović et al., 2018).

This module needs torch when it is imported; it is imported where a network is made.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

import torch  # noqa: TID253 (imported only where a network is made; classes of torch cannot be defined without it)
from torch import nn  # noqa: TID253 (as above)
from torch.nn import functional as F  # noqa: N812, TID253 (as above; the name that torch's documents give it)

from lightmill.models.backbones import channels_of, feature_map

Pooling: TypeAlias = Literal["gem", "mean"]


class Features(NamedTuple):
    """What training sees of a batch, float32 [B, D] each."""

    before: torch.Tensor  # before the neck: for losses on distances
    after: torch.Tensor  # behind the neck: for losses on angles


class GeM(nn.Module):
    """Generalised mean over a map, [B, C, h, w] -> [B, C]: (mean of x^p)^(1/p), p learnt, between 1 (mean) and ~8.

    Values below `smallest` count as that: the maps of a ResNet have none below 0. Worked out in float32.
    """

    def __init__(self, *, power: float = 3.0, smallest: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.smallest = smallest

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        power = self.power.float().clamp(1, 8)
        raised = maps.float().clamp(min=self.smallest)
        highest = raised.detach().amax((-2, -1), keepdim=True)  # of what is at most 1, no power is too small a number
        return (raised / highest).pow(power).mean((-2, -1)).pow(1 / power) * highest[..., 0, 0]


class EmbedderNetwork(nn.Module):
    """Crops [B, 3, h, w], normalised -> features before and behind the neck.

    `embedding`: how many numbers an embedding has; 0 for as many as the backbone gives, without a linear layer.
    `pooling` "gem" suits maps without negative values (ResNet), "mean" those of transformers and ConvNeXt.
    """

    def __init__(self, backbone: nn.Module, *, embedding: int, pooling: Pooling) -> None:
        super().__init__()
        channels = channels_of(backbone)
        self.backbone = backbone
        self.pool: nn.Module = GeM() if pooling == "gem" else _Mean()
        self.reduce: nn.Module = nn.Linear(channels, embedding, bias=False) if embedding else nn.Identity()
        self.neck = nn.BatchNorm1d(embedding or channels)
        self.neck.bias.requires_grad = False  # so that classes are told apart by angle alone
        if embedding:
            nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out")  # type: ignore[arg-type]  # a Linear

    @property
    def dimensions(self) -> int:
        """D, of an embedding."""
        return self.neck.num_features

    def forward(self, pixels: torch.Tensor) -> Features:
        pooled = self.pool(feature_map(self.backbone, pixels))
        with torch.autocast(pooled.device.type, enabled=False):
            before = self.reduce(pooled.float())
            return Features(before, self.neck(before))

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w], normalised -> embeddings float32 [B, D] of length 1. For a network in eval mode."""
        return F.normalize(self(pixels).after, dim=1)


class _Mean(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.float().mean((-2, -1))


def frozen_backbone(network: EmbedderNetwork, *, frozen: bool) -> None:
    """Stops the backbone's learning, or lets it go on. Its batch norms stand still as well: weights and statistics.

    For a network in training mode; `train()` on the network afterwards would set the norms going again.
    """
    network.backbone.train(not frozen)
    for weights in network.backbone.parameters():
        weights.requires_grad = not frozen


def parameter_groups(network: EmbedderNetwork, *, decay: float, backbone_rate: float) -> list[dict[str, Any]]:
    """What AdamW takes: weights with decay, and biases, norms and the power of GeM without; `scale` of the rate.

    The backbone's rate is `backbone_rate` of the others'.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weights in network.named_parameters():
        scale = backbone_rate if name.startswith("backbone.") else 1.0
        groups.setdefault((scale, decay if weights.ndim > 1 else 0.0), []).append(weights)
    return [{"params": each, "scale": scale, "weight_decay": amount} for (scale, amount), each in groups.items()]
