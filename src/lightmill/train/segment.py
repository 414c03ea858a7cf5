"""Training a student: batches of pictures and class maps in, a folder that `mask` and `evaluate segment` open out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lightmill.errors import UsageError
from lightmill.train.batches import Batches
from lightmill.train.loop import Trained, Work, check_precision, need_packages, train
from lightmill.train.place import Place
from lightmill.train.ranks import OnEpoch, OnStep, together
from lightmill.train.segment_options import SegmentOptions

if TYPE_CHECKING:
    from lightmill.data.segment_loader import SegmentLoader
    from lightmill.data.segments import SegmentData
    from lightmill.models.backbones import Backbone
    from lightmill.models.student import StudentConfig
    from lightmill.models.student_network import StudentNetwork
    from lightmill.train.segment_module import SegmentModule
    from lightmill.train.teacher import Teacher

NEEDED = "torch", "transformers", "lightning"


@dataclass(frozen=True, kw_only=True)
class SegmentBatches:
    """What a student is trained on, and by what it is judged: loaders of data/segments.py.

    `rows` stands for which pictures they are, and in which split. `teacher`: what one said of those trained on.
    """

    train: Batches
    valid: Batches | None = None
    rows: str = ""
    teacher: "Teacher | None" = None


# what each of several processes is trained and judged on: asked for there, so it is picklable
SegmentShares: TypeAlias = Callable[[Place], SegmentBatches]


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedOut:
    """A data set shared out: `SegmentShares`."""

    data: "SegmentData"
    rows: str = ""
    teacher: "Teacher | None" = None

    def __call__(self, place: Place) -> SegmentBatches:
        own = self.data.of_rank(place.rank, place.ranks)
        return SegmentBatches(train=own.train_dataloader(), valid=held_out(own), rows=self.rows, teacher=self.teacher)


def held_out(data: "SegmentData") -> "SegmentLoader | None":
    """What is held out; None where nothing is, not where another process has all of it."""
    found = data.val_dataloader()
    return None if isinstance(found, list) else found


def fit(
    options: SegmentOptions,
    data: SegmentBatches | SegmentShares,
    out: Path,
    *,
    fresh: bool = False,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Trains a student into `out`, or goes on where a training of the same options was stopped there: see `loop.train`.

    With `options.devices` above 1 in as many processes (`ranks.together`); then `data` says what each is trained on.

    Raises MissingExtra, ModelError and UsageError for a backbone, and what `loop.train` and
    `ranks.together` raise.
    """
    need_packages(NEEDED)
    check_precision(options, of="pictures")
    if options.devices > 1 and isinstance(data, SegmentBatches):
        raise ValueError("batches are of one process, and several are to train")
    return together(
        partial(_fit, options, data, out, fresh=fresh),
        ranks=options.devices,
        device=options.device,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def _fit(
    options: SegmentOptions,
    shared: SegmentBatches | SegmentShares,
    out: Path,
    place: Place,
    *,
    fresh: bool,
    on_epoch: OnEpoch | None,
    on_step: OnStep | None,
) -> Trained:
    """What each process does."""
    data = shared if isinstance(shared, SegmentBatches) else shared(place)
    if not len(data.train):
        raise UsageError("there is no batch to train on")
    from lightmill.train.segment_module import BEST_BY, SegmentModule

    def make(steps: int) -> "tuple[SegmentModule, StudentConfig]":
        network, config, options_ = made(options)
        return SegmentModule(network, options_, steps=steps, teacher=data.teacher), config

    work = Work(
        train=data.train,
        valid=data.valid,
        best_by=BEST_BY,
        labels=options.names,
        label_kind="classes",
        rows=data.rows,
    )
    return train(options, work, out, make, fresh=fresh, place=place, on_epoch=on_epoch, on_step=on_step)


def made(options: SegmentOptions) -> "tuple[StudentNetwork, StudentConfig, SegmentOptions]":
    """A student as the options want it, its settings, and the options with the colours that it takes.

    Weights are drawn from torch's generator. Raises ModelError and UsageError for a backbone.
    """
    import torch

    from lightmill.models.student import student_on

    backbone = _backbone(options)
    colours: dict[str, Any] = {} if backbone is None else {"mean": backbone.mean, "std": backbone.std}
    config = _config_of(options, backbone, colours)
    network = student_on(None if backbone is None else backbone.model, config, dropout=options.dropout)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    return network, config, options.model_copy(update={"augment": replace(options.augment, **colours)})


def _backbone(options: SegmentOptions) -> "Backbone | None":
    if options.backbone is None:
        return None
    from lightmill.models.backbones import open_backbone

    return open_backbone(options.backbone)


def _config_of(options: SegmentOptions, backbone: "Backbone | None", colours: dict[str, Any]) -> "StudentConfig":
    from lightmill.models.student import StudentConfig

    return StudentConfig(
        size=options.size,
        backbone=None if backbone is None else backbone.settings,
        names=options.names,
        background=options.background,
        size_hw=options.size_hw,
        **colours,
    )
