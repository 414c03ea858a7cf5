"""How a student is trained: the options of `train segment` that concern its network, its losses and the loop."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from lightmill.data.segment_augment import SegmentAugment
from lightmill.train.loop_options import LoopOptions, LoopSettings, at_least_0
from lightmill.train.segment_losses import SegmentLoss


class SegmentSettings(LoopSettings):
    """What a user says of network, losses and loop. The defaults suit a network without weights, on a CPU."""

    size: Literal["nano", "tiny", "small", "base"] = Field(
        "small", description="Of the network: 0.3, 1, 3 or 8 million weights; with --backbone, of its decoder."
    )
    backbone: str | None = Field(
        None, description="An encoder of transformers instead of our own: `random:NAME`, a folder or a hub id."
    )
    backbone_rate: float = at_least_0(0.1, "The backbone's learning rate, as a share of that of the rest.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features that the last layer does not see.")
    epochs: int = Field(100, ge=1, description="How often all is gone through.")
    accumulate: int = Field(1, ge=1, description="Batches that one step learns from.")

    cross_entropy: float = at_least_0(1.0, "How much the cross-entropy of pixels counts; 0: not at all.")
    dice: float = at_least_0(1.0, "How much Dice counts, picture by picture.")
    focal: float = at_least_0(0.0, "How much the focal loss counts: pixels that are still wrong.")
    lovasz: float = at_least_0(0.0, "How much the Lovász loss counts, of the IoU.")
    deep: float = at_least_0(0.4, "Deep supervision: how much each of two coarse maps counts.")
    distil: float = at_least_0(1.0, "With --teacher: how much its masks count; 0: not at all.")
    distil_features: float = at_least_0(1.0, "With --teacher: how much its features count, where it has any.")
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="What a teacher's and the student's log-odds are divided by."
    )
    class_weights: Literal["root", "median", "off"] = Field(
        "root", description="Weigh rare classes more: by median frequency, its square root, or not."
    )


class SegmentOptions(SegmentSettings, LoopOptions):
    """All that decides a training, beside its data."""

    given_as: ClassVar[Mapping[str, str]] = {
        "size_hw": "--resolution",
        "names": "--classes",
        "taught_by": "--teacher",
    }

    batch: int = Field(0, ge=0, description="Pictures in a batch; 0: as the loader has it.")
    names: tuple[str, ...] = Field(description="Of the classes; one name: of the foreground.")
    background: tuple[str, ...] = Field((), description="Of those, classes that are not what is looked for.")
    weights: tuple[float, ...] = Field((), description="Of the classes; binary: of background and foreground.")
    taught_by: str = Field("", description="The teacher and its version; empty for none.")
    augment: SegmentAugment = Field(default_factory=SegmentAugment, description="How pictures are varied.")

    @property
    def bound_by(self) -> dict[str, object]:
        """Weights of classes follow from the data."""
        return {key: value for key, value in super().bound_by.items() if key != "weights"}

    @property
    def loss(self) -> SegmentLoss:
        """What is made small."""
        return SegmentLoss(
            cross_entropy=self.cross_entropy,
            dice=self.dice,
            focal=self.focal,
            lovasz=self.lovasz,
            class_weights=self.weights,
            deep=(self.deep, self.deep),
        )
