"""One step of the training of an embedder, and what is asked after an epoch, as Lightning wants them.

Nothing of it depends on what came before but weights, averages and counters: chances are drawn anew from (seed, step)
before each step and the rate is a function of the step. So a training that is resumed from the end of an epoch goes on
as if it had never been stopped, to the last bit.

This module needs torch and lightning when it is imported; it is imported where a training begins.
"""

import math
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl  # noqa: TID253 (imported only where a training begins; a LightningModule needs it)
import numpy as np
import torch  # noqa: TID253 (as above)

from lightmill.errors import RunError
from lightmill.models.embedder_network import EmbedderNetwork, Features, frozen_backbone, parameter_groups
from lightmill.train import losses
from lightmill.train.ema import average_in, decay_at
from lightmill.train.options import ReidOptions
from lightmill.train.schedule import rate_scale, share_done

if TYPE_CHECKING:
    from lightmill.train.batches import ReidBatches

    Batch = tuple[torch.Tensor, torch.Tensor]


class ReidModule(pl.LightningModule):  # type: ignore[misc]  # lightning is untyped here
    """The network, the centres of its classes, and the average of its weights.

    A batch: uint8 [B, h, w, 3] or, for crops that belong together, [B, V, h, w, 3]; and int64 [B] or [B, V], the rows
    of the data set.
    """

    def __init__(self, network: EmbedderNetwork, options: ReidOptions, data: "ReidBatches", *, steps: int) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.average: EmbedderNetwork | None = deepcopy(network).requires_grad_(False) if options.ema else None
        self.centres = torch.nn.Parameter(torch.empty(len(data.labels), network.dimensions))
        torch.nn.init.normal_(self.centres)
        self.register_buffer("classes", torch.from_numpy(np.asarray(data.classes, np.int64)), persistent=False)
        moments = np.full(len(data.classes), -1) if data.moments is None else np.asarray(data.moments)
        self.register_buffer("moments", torch.from_numpy(moments.astype(np.int64)), persistent=False)
        self._score = data.score
        self._steps = steps
        self.step = 0  # how many have been done, over all epochs
        self.epochs = 0  # likewise
        self.earlier_s = 0.0  # the time that the runs before this one took
        self._began = time.monotonic()
        self._validation_s = 0.0  # what the last one took
        self.scores: dict[str, float] = {}  # of the last validation
        self.seen: list[tuple[int, float, dict[str, torch.Tensor]]] = []  # step, rate, losses; of this epoch
        self._validated: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def judged(self) -> EmbedderNetwork:
        """The network that is validated and saved: the average, where there is one."""
        return self.network if self.average is None else self.average

    @property
    def elapsed_s(self) -> float:
        """Of all runs of this training."""
        return self.earlier_s + time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        """Whether what is left of the time limit is just enough for a validation."""
        limit = self.options.max_time_s
        return limit is not None and self.elapsed_s + self._validation_s >= limit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options = self.options
        groups = parameter_groups(self.network, decay=options.decay, backbone_rate=options.backbone_rate)
        groups.append({"params": [self.centres], "scale": 1.0, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=options.rate)

    # --- training ----------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._began = time.monotonic()

    def on_train_batch_start(self, batch: "Batch", batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        torch.manual_seed(_mixed(self.options.seed, self.step))  # for what drops parts of a backbone by chance
        self.network.train()
        frozen_backbone(self.network, frozen=self.epochs < self.options.freeze_epochs)
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate * group["scale"]

    @property
    def rate(self) -> float:
        """The learning rate of the step to come."""
        limit = self.options.max_time_s
        left = None if limit is None else max(limit - self._validation_s, 1e-3)
        done = share_done(self.step, steps=self._steps, elapsed_s=self.elapsed_s if left else 0.0, limit_s=left)
        return self.options.rate * rate_scale(done, warmup=self.options.warmup)

    def training_step(self, batch: "Batch", batch_idx: int) -> torch.Tensor:  # noqa: ARG002 (Lightning's)
        pixels, rows = _flat(batch)
        chances = torch.Generator().manual_seed(_mixed(self.options.seed, self.step))
        features: Features = self.network(self.options.augment(pixels, chances))
        with torch.autocast(pixels.device.type, enabled=False):
            found = self._losses(features, rows)
        total = torch.stack(list(found.values())).sum()
        self.seen.append((self.step, self.rate, {"loss": total.detach()} | {k: v.detach() for k, v in found.items()}))
        return total

    def _losses(self, features: Features, rows: torch.Tensor) -> dict[str, torch.Tensor]:
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

    def on_train_batch_end(self, outputs: object, batch: "Batch", batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        self.step += 1
        if self.average is not None:
            average_in(self.average, self.network, decay=decay_at(self.step, decay=self.options.ema))
        if self.out_of_time:
            self.trainer.should_stop = True

    def losses_seen(self) -> list[dict[str, float]]:
        """Each step of the epoch that ends: step (from 1), rate, losses. Raises RunError where one is no number."""
        names = list(self.seen[0][2]) if self.seen else []
        values = torch.stack([torch.stack(list(found.values())) for _, _, found in self.seen]).tolist() if names else []
        rows = [
            {"step": step + 1, "rate": rate, **dict(zip(names, numbers, strict=True))}
            for (step, rate, _), numbers in zip(self.seen, values, strict=True)
        ]
        self.seen.clear()
        bad = next((row for row in rows if not math.isfinite(row["loss"])), None)
        if bad is not None:
            raise RunError(
                f"the loss of step {bad['step']} is {bad['loss']}: the training has come apart; "
                "take a lower rate, or amp `off`"
            )
        return rows

    # --- validation: whole sets, and no labels -----------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._validation_began = time.monotonic()
        self._validated.clear()
        self.judged.eval()

    def validation_step(self, batch: "Batch", batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        pixels, rows = _flat(batch)
        self._validated.append((self.judged.embed(self.options.augment.plain()(pixels)).cpu(), rows.cpu()))

    def on_validation_epoch_end(self) -> None:
        embeddings, rows = (torch.cat(parts).numpy() for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        assert self._score is not None, "there is no validation without it"
        self.scores = {name: float(value) for name, value in self._score(embeddings.astype(np.float32), rows).items()}
        self._validation_s = time.monotonic() - self._validation_began

    # --- state -------------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"step": self.step, "epochs": self.epochs, "elapsed_s": self.elapsed_s}

    def restore(self, counters: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.step, self.epochs = int(counters["step"]), int(counters["epochs"])
        self.earlier_s = float(counters["elapsed_s"])


def _flat(batch: "Batch") -> "Batch":
    """Crops that belong together are crops like others."""
    pixels, rows = batch
    return (pixels.flatten(0, 1), rows.flatten()) if pixels.ndim == 5 else (pixels, rows)


def _mixed(seed: int, step: int) -> int:
    """One number below 2^63 for a seed and a step (SplitMix64: Steele, Lea and Flood, 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    value = (value ^ value >> 30) * 0x94D049BB133111EB & (1 << 64) - 1
    return (value ^ value >> 31) >> 1
