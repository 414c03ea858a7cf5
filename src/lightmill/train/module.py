"""One step of a training, and what is asked after an epoch, as Lightning wants them, whatever is trained.

Nothing of it depends on what came before but weights, averages and counters: chances are drawn anew from (seed, batch)
before each batch and the rate is a function of the step. So a training that is resumed from the end of an epoch goes on
as if it had never been stopped, to the last bit. Of processes that train together each draws for a batch of its own;
weights, counters and clock are the same in all of them, and at an epoch's end all the rest is that of the first.

This module needs torch and lightning when it is imported; it is imported where a training begins.
"""

import math
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl  # noqa: TID253 (imported only where a training begins; a LightningModule needs it)
import torch  # noqa: TID253 (as above)

from lightmill.errors import RunError
from lightmill.train.ema import average_in, decay_at
from lightmill.train.loop_options import LoopOptions
from lightmill.train.place import ALONE, Place
from lightmill.train.schedule import rate_scale, share_done

Network = TypeVar("Network", bound=torch.nn.Module)
Losses = dict[str, torch.Tensor]

_APART = 1e-4  # of the weights: more than last bits


class LoopModule(pl.LightningModule, Generic[Network]):  # type: ignore[misc]  # lightning is untyped here
    """A network that learns, and the average of its weights.

    Whoever trains something says what is lost in a batch (`losses`), what may change how fast (`parameter_groups`), and
    how the whole validation went (`begin_validation`, `validation_step`, `validated`: of all processes).
    """

    place: Place = ALONE  # where this process stands among those that train together
    leaves_out = False  # whether some weights may get no gradient in a step

    def __init__(self, network: Network, options: LoopOptions, *, steps: int) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.average: Network | None = deepcopy(network).requires_grad_(False) if options.ema else None
        self._steps = steps
        self.step = 0  # how many have been done, over all epochs
        self.batch = 0  # likewise; a step learns from one or more
        self.epochs = 0  # likewise
        self.earlier_s = 0.0  # the time that the runs before this one took
        self.elapsed_s = 0.0  # of all runs of this training, when `look_at_clock` was last called
        self.scores: dict[str, float] = {}  # of the last validation
        self._rate = options.rate  # of the step that is being done
        self._seen: list[tuple[int, float, Losses]] = []  # step, rate, losses; of each batch of this epoch
        self._began = time.monotonic()
        self._validation_began = 0.0
        self._validation_s = 0.0  # what the last one took

    # --- what is trained ---------------------------------------------------------------------------------------------

    def losses(self, batch: Any) -> Losses:
        """Each loss of a batch, times its weight."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What AdamW takes; `scale`: of the rate."""
        raise NotImplementedError

    def begin_validation(self) -> None:
        """Before the first batch of each."""

    def validated(self) -> Mapping[str, float]:
        """The scores of all that `validation_step` saw, in every process, by name; the same in all of them."""
        raise NotImplementedError

    # --- for whoever watches -----------------------------------------------------------------------------------------

    @property
    def judged(self) -> Network:
        """The network that is validated and saved: the average, where there is one."""
        return self.network if self.average is None else self.average

    def stand_at(self, place: Place) -> None:
        """Before anything is trained: where this process stands."""
        self.place = place
        average = (name for name, _ in self.named_parameters() if name.startswith("average."))
        # DistributedDataParallel looks for this: else it would send all of it around before every batch, and wait for
        # others in validations too, where some have fewer batches
        self._ddp_params_and_buffers_to_ignore = [*average, *(name for name, _ in self.named_buffers())]

    def look_at_clock(self) -> None:
        """Sets `elapsed_s`, by the clock of the first process."""
        self.elapsed_s = self.place.agreed(self.earlier_s + time.monotonic() - self._began)

    def share(self) -> None:
        """All that a checkpoint holds, as the first process has it: statistics of batch norms, and averages of them.

        Weights are the same in all anyway, but for last bits where GPUs are of different kinds. Raises RunError where
        they are not: then the processes have not learnt from each other.
        """
        if self.place.is_alone:
            return
        with torch.no_grad():
            before = torch.cat([weights.reshape(-1) for weights in self.parameters()])
            self.place.share([*self.parameters(), *self.buffers()])
            shared = torch.cat([weights.reshape(-1) for weights in self.parameters()])
            if (before - shared).norm() > _APART * shared.norm():
                raise RunError("the weights are others than those of rank 0; this is a fault of lightmill or torch")

    @property
    def out_of_time(self) -> bool:
        """Whether what is left of the time limit is just enough for a validation."""
        limit = self.options.max_time_s
        return limit is not None and self.elapsed_s + self._validation_s >= limit

    @property
    def rate(self) -> float:
        """The learning rate of the step to come."""
        limit = self.options.max_time_s
        left = None if limit is None else max(limit - self._validation_s, 1e-3)
        done = share_done(self.step, steps=self._steps, elapsed_s=self.elapsed_s if left else 0.0, limit_s=left)
        return self.options.rate * rate_scale(done, warmup=self.options.warmup)

    @property
    def chances(self) -> torch.Generator:
        """Of the batch that is being looked at, on the CPU; each time from the start."""
        return torch.Generator().manual_seed(mixed(self.options.seed, self._drawn))

    @property
    def _drawn(self) -> int:
        """The number of the batch that is being looked at, among those of all processes."""
        return self.batch * self.place.ranks + self.place.rank

    def losses_seen(self) -> list[dict[str, float]]:
        """Each step of the epoch that ends: step (from 1), rate, losses, means over all processes.

        Raises RunError where one is no number.
        """
        names = list(self._seen[0][2]) if self._seen else []
        values: list[list[float]] = []
        if names:
            own = torch.stack([torch.stack(list(found.values())) for *_, found in self._seen])
            values = self.place.mean(own).tolist()
        together: dict[int, list[list[float]]] = {}
        for (step, *_), numbers in zip(self._seen, values, strict=True):
            together.setdefault(step, []).append(numbers)
        rates = {step: rate for step, rate, _ in self._seen}
        self._seen.clear()
        rows = [
            {"step": step + 1, "rate": rates[step]}
            | {name: sum(column) / len(column) for name, column in zip(names, zip(*of, strict=True), strict=True)}
            for step, of in together.items()
        ]
        bad = next((row for row in rows if not math.isfinite(row["loss"])), None)
        if bad is not None:
            raise RunError(
                f"the loss of step {bad['step']} is {bad['loss']}: the training has come apart; "
                "take a lower rate, or amp `off`"
            )
        return rows

    def counters(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"step": self.step, "batch": self.batch, "epochs": self.epochs, "elapsed_s": self.elapsed_s}

    def restore(self, counters: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.step, self.epochs = int(counters["step"]), int(counters["epochs"])
        self.batch = int(counters["batch"])
        self.earlier_s = self.elapsed_s = float(counters["elapsed_s"])

    def ends_step(self, batch_idx: int) -> bool:
        """Whether the network learns after this batch of the epoch; all steps have the same number of batches."""
        return (batch_idx + 1) % self.options.accumulate == 0

    # --- Lightning's -------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameter_groups(), lr=self.options.rate)

    def on_train_start(self) -> None:
        self._began = time.monotonic()
        self.share()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        torch.manual_seed(mixed(self.options.seed, self._drawn))  # for what drops parts of a network by chance
        self.network.train()
        if self.options.max_time_s is not None:
            self.look_at_clock()
        self._rate = self.rate
        for group in self.optimizers().param_groups:
            group["lr"] = self._rate * group.get("scale", 1.0)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:  # noqa: ARG002 (Lightning's)
        found = self.losses(batch)
        total = torch.stack(list(found.values())).sum()
        self._seen.append((self.step, self._rate, {"loss": total.detach()} | {k: v.detach() for k, v in found.items()}))
        return total

    def on_train_batch_end(self, outputs: object, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 (Lightning's)
        self.batch += 1
        if not self.ends_step(batch_idx):
            return
        self.step += 1
        if self.average is not None:
            average_in(self.average, self.network, decay=decay_at(self.step, decay=self.options.ema))
        if self.options.max_time_s is not None:
            self.look_at_clock()
            if self.out_of_time:
                self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        self._validation_began = time.monotonic()
        self.share()
        self.judged.eval()
        self.begin_validation()

    def on_validation_epoch_end(self) -> None:
        self.scores = {name: float(value) for name, value in self.validated().items()}
        self._validation_s = self.place.agreed(time.monotonic() - self._validation_began)


def mixed(seed: int, batch: int) -> int:
    """One number below 2^63 for a seed and a batch (SplitMix64: Steele, Lea and Flood, 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + batch + 1) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    value = (value ^ value >> 30) * 0x94D049BB133111EB & (1 << 64) - 1
    return (value ^ value >> 31) >> 1
