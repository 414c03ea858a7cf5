"""Training an embedder: batches of crops in, a folder that `identify` opens out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lightmill.errors import UsageError
from lightmill.train.batches import ReidBatches, Score
from lightmill.train.loop import Trained, Work, check_precision, need_packages, train
from lightmill.train.options import ReidOptions
from lightmill.train.place import Place
from lightmill.train.ranks import OnEpoch, OnStep, together

if TYPE_CHECKING:
    from lightmill.data.reid import ReidData
    from lightmill.models.backbones import Backbone
    from lightmill.models.embedder_files import EmbedderConfig
    from lightmill.train.reid_module import ReidModule

__all__ = ["Trained", "fit"]

_NEEDED = "torch", "transformers", "lightning", "pytorch_metric_learning"


# what each of several processes is trained and judged on: asked for there, so it is picklable
ReidShares: TypeAlias = Callable[[Place], ReidBatches]


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedOut:
    """A data set shared out: `ReidShares`. `score`, `best_by`: as of ReidBatches."""

    data: "ReidData"
    score: Score
    best_by: str

    def __call__(self, place: Place) -> ReidBatches:
        own = self.data.of_rank(place.rank, place.ranks)
        valid = own.val_dataloader()
        return ReidBatches(
            train=own.train_dataloader(),
            classes=own.classes,
            labels=own.labels,
            moments=own.moments,
            valid=None if isinstance(valid, list) else valid,
            score=self.score,
            best_by=self.best_by,
        )


def fit(
    options: ReidOptions,
    data: ReidBatches | ReidShares,
    out: Path,
    *,
    fresh: bool = False,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Trains an embedder into `out`, or goes on where a training of the same options was stopped there.

    `fresh`: start anew. `on_epoch` gets each epoch's row of `history` once all of it is on the disk; `on_step` the
    steps done and all steps. What they raise ends the training; it can be resumed, as after Ctrl-C. With
    `options.devices` above 1 in as many processes (`ranks.together`); then `data` says what each is trained on.

    Raises MissingExtra, ModelError and UsageError for a backbone, ChangedConfig where `out` holds a training with other
    options, OutputError where nothing can be written or resumed, RunError where the loss is no number any more, and
    what `ranks.together` raises.
    """
    need_packages(_NEEDED)
    if options.devices > 1 and isinstance(data, ReidBatches):
        raise ValueError("batches are of one process, and several are to train")
    return together(
        partial(_fit, options, data, out, fresh=fresh),
        ranks=options.devices,
        device=options.device,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def _fit(
    options: ReidOptions,
    shared: ReidBatches | ReidShares,
    out: Path,
    place: Place,
    *,
    fresh: bool,
    on_epoch: OnEpoch | None,
    on_step: OnStep | None,
) -> Trained:
    """What each process does."""
    data = shared if isinstance(shared, ReidBatches) else shared(place)
    _check(options, data)

    def make(steps: int) -> "tuple[ReidModule, EmbedderConfig]":
        return _made(options, data, steps=steps)

    work = Work(train=data.train, valid=data.valid, best_by=data.best_by, labels=data.labels, label_kind="players")
    return train(options, work, out, make, fresh=fresh, place=place, on_epoch=on_epoch, on_step=on_step)


def _made(options: ReidOptions, data: ReidBatches, *, steps: int) -> "tuple[ReidModule, EmbedderConfig]":
    import torch

    from lightmill.models.embedder_network import EmbedderNetwork
    from lightmill.train.reid_module import ReidModule

    backbone, pooling = _backbone(options)
    network = EmbedderNetwork(backbone.model, embedding=options.embedding, pooling=pooling)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    augment = options.model_copy(update={"augment": _in_colours(options, backbone)})
    return ReidModule(network, augment, data, steps=steps), _config_of(options, backbone, pooling, data.labels)


def _check(options: ReidOptions, data: ReidBatches) -> None:
    if not len(data.train):
        raise UsageError("there is no batch to train on: fewer crops than one batch takes")
    if len(data.labels) < 2:
        raise UsageError(f"telling players apart takes two of them, and {len(data.labels)} is known")
    check_precision(options, of="crops")


def _backbone(options: ReidOptions) -> "tuple[Backbone, Literal['gem', 'mean']]":
    from lightmill.models.backbones import open_backbone

    backbone = open_backbone(options.backbone)
    if options.pooling != "auto":
        return backbone, options.pooling
    return backbone, "gem" if backbone.settings["model_type"] in ("resnet", "regnet", "mobilenet_v2") else "mean"


def _config_of(
    options: ReidOptions, backbone: "Backbone", pooling: Literal["gem", "mean"], labels: tuple[str, ...]
) -> "EmbedderConfig":
    from lightmill.models.embedder_files import EmbedderConfig

    return EmbedderConfig(
        backbone=backbone.settings,
        embedding=options.embedding,
        pooling=pooling,
        size_hw=options.size_hw,
        mean=backbone.mean,
        std=backbone.std,
        expand=options.expand,
        labels=labels,
    )


def _in_colours(options: ReidOptions, backbone: "Backbone") -> Any:
    return replace(options.augment, mean=backbone.mean, std=backbone.std)
