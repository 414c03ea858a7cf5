"""What the training of an embedder makes small, and how the whole of its validation is scored.

This module needs torch and lightning when it is imported; it is imported where a training begins.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253 (imported only where a training begins; a LightningModule needs it)

from lightmill.models.embedder_network import EmbedderNetwork, Features, frozen_backbone, parameter_groups
from lightmill.train import losses
from lightmill.train.module import LoopModule, Losses
from lightmill.train.options import ReidOptions

if TYPE_CHECKING:
    from lightmill.train.batches import ReidBatches

    Batch = tuple[torch.Tensor, torch.Tensor]


class ReidModule(LoopModule[EmbedderNetwork]):
    """The network, the centres of its classes, and the average of its weights.

    A batch: uint8 [B, h, w, 3] or, for crops that belong together, [B, V, h, w, 3]; and int64 [B] or [B, V], the rows
    of the data set.
    """

    options: ReidOptions
    leaves_out = True  # a backbone that stands still, and tokens that stand for what is masked

    def __init__(self, network: EmbedderNetwork, options: ReidOptions, data: "ReidBatches", *, steps: int) -> None:
        super().__init__(network, options, steps=steps)
        self.centres = torch.nn.Parameter(torch.empty(len(data.labels), network.dimensions))
        torch.nn.init.normal_(self.centres)
        self.register_buffer("classes", torch.from_numpy(np.asarray(data.classes, np.int64)), persistent=False)
        moments = np.full(len(data.classes), -1) if data.moments is None else np.asarray(data.moments)
        self.register_buffer("moments", torch.from_numpy(moments.astype(np.int64)), persistent=False)
        self._score = data.score
        self._validated: list[tuple[torch.Tensor, torch.Tensor]] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        options = self.options
        groups = parameter_groups(self.network, decay=options.decay, backbone_rate=options.backbone_rate)
        return [*groups, {"params": [self.centres], "scale": 1.0, "weight_decay": 0.0}]

    def on_train_batch_start(self, batch: "Batch", batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        frozen_backbone(self.network, frozen=self.epochs < self.options.freeze_epochs)

    def losses(self, batch: "Batch") -> Losses:
        pixels, rows = _flat(batch)
        features: Features = self.network(self.options.augment(pixels, self.chances))
        with torch.autocast(pixels.device.type, enabled=False):
            return self._losses(features, rows)

    def _losses(self, features: Features, rows: torch.Tensor) -> Losses:
        """Each loss times its weight; those with a weight of 0 are left out."""
        options, classes = self.options, self.classes[rows]
        cosines = losses.cosines_to(self.centres, features.after)
        margin = math.radians(options.margin_deg)
        found = {"arcface": losses.arcface(cosines, classes, margin=margin, scale=options.scale)}
        if options.triplet_weight:
            loss = losses.triplet(features.before, classes, margin=options.triplet_margin)
            found["triplet"] = options.triplet_weight * loss
        if options.outlier_weight:
            found["outliers"] = options.outlier_weight * losses.outliers(cosines, classes, bound=options.outlier_bound)
        if options.consistency_weight:
            loss = losses.consistency(features.after, self.moments[rows])
            found["consistency"] = options.consistency_weight * loss
        return found

    # --- validation: whole sets, and no labels -----------------------------------------------------------------------

    def begin_validation(self) -> None:
        self._validated.clear()

    def validation_step(self, batch: "Batch", batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        pixels, rows = _flat(batch)
        self._validated.append((self.judged.embed(self.options.augment.plain()(pixels)).cpu(), rows.cpu()))

    def validated(self) -> Mapping[str, float]:
        own = [(embeddings.numpy().astype(np.float32), rows.numpy()) for embeddings, rows in self._validated]
        self._validated.clear()
        every = [part for parts in self.place.gathered(own) for part in parts]
        if not self.place.is_first:
            return self.place.agreed({})
        assert self._score is not None, "there is no validation without it"
        embeddings, rows = (np.concatenate(parts) for parts in zip(*every, strict=True))
        return self.place.agreed({**self._score(embeddings, rows)})


def _flat(batch: "Batch") -> "Batch":
    """Crops that belong together are crops like others."""
    pixels, rows = batch
    return (pixels.flatten(0, 1), rows.flatten()) if pixels.ndim == 5 else (pixels, rows)
