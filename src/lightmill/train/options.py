"""How an embedder is trained: the options of `train reid` that concern the network, its losses and the loop."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from lightmill.data.augment import Augment
from lightmill.train.loop_options import LoopOptions, LoopSettings, at_least_0


class ReidSettings(LoopSettings):
    """What a user says of network, losses and loop. The defaults suit a small network, on a CPU, in minutes."""

    backbone: str = Field(
        "random:resnet18-slim", description="The network: `random:NAME` (no weights), a folder or a hub id."
    )
    embedding: int = Field(256, ge=0, le=65536, description="Numbers in an embedding; 0: as many as the backbone has.")
    pooling: Literal["auto", "gem", "mean"] = Field(
        "auto", description="Generalised mean or mean; auto: the former for maps without negative values (ResNet)."
    )
    backbone_rate: float = at_least_0(1.0, "The backbone's learning rate, as a share of that of the rest.")
    freeze_epochs: int = Field(0, ge=0, description="Epochs at the start in which the backbone learns nothing.")

    margin_deg: float = Field(
        12.0, ge=0, lt=90, description="ArcFace: degrees by which a crop must be nearer to its player than to others."
    )
    scale: float = Field(
        16.0, gt=0, allow_inf_nan=False, description="ArcFace: what cosines are multiplied by; more is stricter."
    )
    triplet_weight: float = at_least_0(0.5, "How much the batch-hard triplet loss counts; 0: not at all.")
    triplet_margin: float = at_least_0(0.3, "Triplet loss: how much farther away others are to be.")
    outlier_weight: float = at_least_0(1.0, "How much it counts that negatives are like a player.")
    outlier_bound: float = Field(0.1, ge=-1, le=1, description="The cosine to a player up to which they may be.")
    consistency_weight: float = at_least_0(0.0, "How much it counts that views of a player at one instant differ.")


class ReidOptions(ReidSettings, LoopOptions):
    """All that decides a training, beside its data."""

    given_as: ClassVar[Mapping[str, str]] = {"size_hw": "--size"}

    size_hw: tuple[int, int] = Field((256, 128), description="Height and width of the crops, px.")
    expand: float = Field(1.2, ge=1, description="How much larger than their boxes the crops were cut.")
    augment: Augment = Field(default_factory=Augment, description="How crops are varied.")
