"""How an embedder is trained: the options of `train reid` that concern the network, its losses and the loop."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lightmill.data.augment import Augment

# options that may differ between a training and its resumption: they do not change what a step computes
FREE = frozenset({"device", "max_time_s", "patience", "tensorboard"})


class ReidSettings(BaseModel):
    """What a user says of network, losses and loop. The defaults suit a small network, on a CPU, in minutes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    backbone: str = Field("random:resnet18-slim", description="`random:NAME`, a folder or a hub id.")
    embedding: int = Field(256, ge=0, le=65536, description="Numbers in an embedding; 0: as many as the backbone has.")
    pooling: Literal["auto", "gem", "mean"] = Field(
        "auto", description="Generalised mean or mean; auto: the former for maps without negative values (ResNet)."
    )

    epochs: int = Field(20, ge=1, description="How often all is gone through.")
    limit_train: int = Field(0, ge=0, description="Batches an epoch at most, for a quick try; 0: all.")
    rate: float = Field(2e-3, gt=0, description="The highest learning rate of AdamW.")
    backbone_rate: float = Field(1.0, ge=0, description="The backbone's rate, as a share of the others'.")
    decay: float = Field(0.05, ge=0, description="Weight decay.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the training in which the rate rises.")
    freeze_epochs: int = Field(0, ge=0, description="Epochs at the start in which the backbone stands still.")
    clip: float = Field(5.0, ge=0, description="The norm that gradients are cut to; 0: as they are.")
    ema: float = Field(0.995, ge=0, lt=1, description="How much of the averaged weights stays a step; 0: no average.")
    patience: int = Field(0, ge=0, description="Epochs without a better score after which to stop; 0: never.")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="Numbers of 16 bits; auto: where the device is faster with them."
    )

    margin_deg: float = Field(12.0, ge=0, lt=90, description="ArcFace: the angle that is added, degrees.")
    scale: float = Field(16.0, gt=0, description="ArcFace: what cosines are multiplied by.")
    triplet_weight: float = Field(0.5, ge=0, description="Of the batch-hard triplet loss.")
    triplet_margin: float = Field(0.3, ge=0, description="In the distance of features before the neck.")
    outlier_weight: float = Field(1.0, ge=0, description="Of negatives that come near to somebody.")
    outlier_bound: float = Field(0.1, ge=-1, le=1, description="The cosine to somebody that a negative may have.")
    consistency_weight: float = Field(0.0, ge=0, description="Of views of one player at one instant that differ.")

    seed: int = Field(0, ge=0, description="Of all that is drawn.")
    tensorboard: bool = Field(True, description="Write logs for TensorBoard too.")


class ReidOptions(ReidSettings):
    """All that decides a training, beside its data."""

    size_hw: tuple[int, int] = Field((256, 128), description="Height and width of the crops, px.")
    expand: float = Field(1.2, ge=1, description="How much larger than their boxes the crops were cut.")
    augment: Augment = Field(default_factory=Augment, description="How crops are varied.")
    max_time_s: float | None = Field(
        None, gt=0, description="Time limit, s; the rate comes down by then. Such a training is no other's twin."
    )
    device: str = Field("cpu", description="cpu, cuda, or cuda:N.")

    @property
    def bound_by(self) -> dict[str, object]:
        """What a resumed training must have the same."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in FREE}
