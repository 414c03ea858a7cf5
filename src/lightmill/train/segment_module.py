"""What the training of a student makes small, and how the whole of its validation is scored.

This module needs torch and lightning when it is imported; it is imported where a training begins.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch  # noqa: TID253 (imported only where a training begins; a LightningModule needs it)
from torch.nn.functional import avg_pool2d  # noqa: TID253 (as above)

from lightmill.data.segment_loader import SegmentBatch
from lightmill.models.student_heads import DeepHeads, FeatureProjection
from lightmill.models.student_network import Outputs, StudentNetwork, exact
from lightmill.ops.segment_metrics import confusion, map_of_logits, mean, scores
from lightmill.train.module import LoopModule, Losses
from lightmill.train.segment_losses import features, soft_labels
from lightmill.train.segment_options import SegmentOptions
from lightmill.train.teacher import Teacher, views_of

BEST_BY = "mean_iou"
_BACKBONE = "encoder.backbone."


class SegmentModule(LoopModule[StudentNetwork]):
    """The network, the heads that only training has, and the average of the network's weights.

    What is validated and saved is the network itself; scores come from counts of pixels over the whole validation.
    """

    options: SegmentOptions

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]  # of backbones, layers behind the maps that are taken
        return self.options.backbone is not None

    def __init__(
        self, network: StudentNetwork, options: SegmentOptions, *, steps: int, teacher: Teacher | None = None
    ) -> None:
        super().__init__(network, options, steps=steps)
        self.deep = DeepHeads(network) if options.deep else None
        sees = teacher is not None and teacher.channels and options.distil_features
        self.projection = FeatureProjection(network, channels=teacher.channels) if teacher and sees else None
        self._teacher = teacher
        self._loss = options.loss
        classes = counted(options.names)
        self.register_buffer("confused", torch.zeros(len(classes), len(classes), dtype=torch.int64), persistent=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        options = self.options
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for part in (self.network, self.deep, self.projection):
            for name, weights in part.named_parameters() if part is not None else ():
                scale = options.backbone_rate if name.startswith(_BACKBONE) else 1.0
                groups.setdefault((scale, options.decay if weights.ndim > 1 else 0.0), []).append(weights)
        return [{"params": each, "scale": scale, "weight_decay": decay} for (scale, decay), each in groups.items()]

    def losses(self, batch: SegmentBatch) -> Losses:
        chances = self.chances
        varied = self.options.augment(batch.images, batch.maps, chances)
        outputs = self.network.outputs(varied.images)
        deep = [] if self.deep is None else self.deep(outputs)
        with torch.autocast(outputs.coarse.device.type, enabled=False):
            found = self._loss.supervised(outputs.coarse, deep, varied.maps, chances=chances)
            return found | (self._taught(self._teacher, batch, outputs) if self._teacher else {})

    def _taught(self, teacher: Teacher, batch: SegmentBatch, outputs: Outputs) -> Losses:
        """What the student is away from its teacher, at the places that the batch shows."""
        options, device, rows = self.options, outputs.coarse.device, batch.rows.tolist()
        views = views_of(options.augment, len(rows), batch.size_hw, self.chances)
        found = {}
        if options.distil:
            logits = avg_pool2d(outputs.coarse, 2, ceil_mode=True)
            wanted, counts = teacher.said(rows, views, device, size_hw=_size(logits))
            loss = soft_labels(logits, wanted, temperature=options.temperature, counts=counts)
            found["teacher"] = options.distil * loss
        if self.projection is not None:
            size_hw = _size(outputs.decoded[0])
            ours = exact(self.projection(outputs, size_hw=size_hw))
            theirs, known = teacher.seen(rows, views, size_hw=size_hw, device=device)
            wanted = theirs.where(known[:, None], ours.detach())
            found["teacher_features"] = options.distil_features * features(ours, wanted)
        return found

    # --- validation: whole numbers over the whole set ----------------------------------------------------------------

    def begin_validation(self) -> None:
        self.confused.zero_()

    def validation_step(self, batch: SegmentBatch, batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        plain = self.options.augment.plain()(batch.images, batch.maps)
        predicted = map_of_logits(self.judged(plain.images))
        self.confused += confusion(plain.maps, predicted, classes=len(self.confused))

    def validated(self) -> Mapping[str, float]:
        self.place.add(self.confused)
        return figures(self.confused.cpu().numpy(), self.options.names)


def counted(names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of class maps: the foreground's name alone stands for two."""
    return ("background", *names) if len(names) == 1 else names


def figures(confused: Any, names: tuple[str, ...]) -> dict[str, float]:
    """What is told of each epoch, of a confusion matrix int64 [C, C]; names as in options.

    `mean_iou` and so on are means over the classes, of one foreground its own; `iou/NAME` only where there are several.
    """
    found = scores(confused)
    looked_for = slice(1, None) if len(names) == 1 else slice(None)
    kinds = {"iou": found.iou, "dice": found.dice, "precision": found.precision, "recall": found.recall}
    told = {f"mean_{kind}": mean(values[looked_for]) for kind, values in kinds.items()} | {"accuracy": found.accuracy}
    if len(names) > 1:
        told |= {f"iou/{name}": float(value) for name, value in zip(names, found.iou, strict=True)}
    return {name: value for name, value in told.items() if name == BEST_BY or not math.isnan(value)}


def _size(maps: torch.Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
