"""A training from its first step to its last, whatever is trained: stopped anywhere, it can be resumed exactly.

Lightning's Trainer does the steps, without anything of Lightning's on the screen or the disk; checkpoints, logs and
the end of it are here.
"""

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from lightmill.errors import ChangedConfig, MissingExtra, UsageError
from lightmill.train.batches import Batches, Epochs, limited
from lightmill.train.checkpoints import Checkpoints
from lightmill.train.logs import RunLog
from lightmill.train.loop_options import LoopOptions
from lightmill.train.place import ALONE, Place
from lightmill.train.ranks import OnEpoch, OnStep
from lightmill.train.threads import keep_memory
from lightmill.train.trainer import LEAST_BF16_PX, interruptible, quiet, trainer_options

if TYPE_CHECKING:
    from lightmill.train.module import LoopModule

Make: TypeAlias = "Callable[[int], tuple[LoopModule[Any], BaseModel]]"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training ended."""

    best: Path  # the network with the best score; the last one where there was no validation
    last: Path
    epochs: int  # done, over all runs
    steps: int
    ended: str  # why: epochs, time or patience
    history: list[dict[str, float | None]]  # one row an epoch, as in epochs.csv


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is gone through, and what a resumed training must have the same of it.

    `best_by`: the score of the highest value of which is `best`. `labels` are `label_kind`: players, or classes.
    `rows`: stands for which samples they are, "" where that is not compared.
    """

    train: Batches
    valid: Batches | None
    best_by: str
    labels: tuple[str, ...]
    label_kind: str
    rows: str = ""


@dataclass
class _Progress:
    """What is kept from epoch to epoch, beside weights."""

    history: list[dict[str, float | None]] = field(default_factory=list)
    best: float | None = None
    waited: int = 0  # epochs since then
    ended: str = ""  # why, where it has


def train(
    options: LoopOptions,
    work: Work,
    out: Path,
    make: Make,
    *,
    fresh: bool = False,
    place: Place = ALONE,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Trains into `out`, or goes on where a training of the same options was stopped there.

    `make` is called once, with the number of steps of the whole training and torch's generator seeded, and gives what
    is trained, and the settings that are saved with it: a model with the field `scores`. `fresh`: start anew.
    `on_epoch` gets each epoch's row of `history` once all of it is on the disk; `on_step` the steps done and all steps.
    What they raise ends the training; it can be resumed, as after Ctrl-C. `place`: where this process stands among
    those that train together; all of them call this, each with work of its own, and the first one writes.

    Raises ChangedConfig where `out` holds a training with other options or data, OutputError where nothing can be
    written or resumed, RunError where the loss is no number any more, and what `make` raises.
    """
    keep_memory()
    import torch

    devices = [torch.device(options.device)] if options.device.startswith("cuda") else []
    checkpoints = Checkpoints(out)
    with torch.random.fork_rng(devices=devices):
        batches = batches_of(options, work.train)
        before = None
        if place.is_first:
            if fresh:
                checkpoints.state.unlink(missing_ok=True)
            state = checkpoints.read_state()
            before = state["lightmill"] if state else None
            _refuse_change(before, options, work, batches)
        torch.manual_seed(options.seed)
        module, settings = make(batches // options.accumulate * options.epochs)
        module.stand_at(place)
        training = _Training(options, work, module, settings, checkpoints, batches=batches)
        training.on_epoch, training.on_step = on_epoch, on_step
        return training.run(place.agreed(before))


def batches_of(options: LoopOptions, loader: Batches) -> int:
    """How many batches an epoch has: whole steps. Raises UsageError where there is not one."""
    number = limited(len(loader), options.limit_train)
    if number < options.accumulate:
        raise UsageError(f"a step is to learn from {options.accumulate} batches, and an epoch has {number}")
    return number - number % options.accumulate


def need_packages(names: Sequence[str]) -> None:
    """Raises MissingExtra where some are not installed."""
    missing = [name.replace("_", "-") for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"training needs {', '.join(missing)}; run: pip install 'lightmill[train]'")


def check_precision(options: LoopOptions, *, of: str) -> None:
    """Raises UsageError where the device does not calculate as --amp wants. `of`: what the network looks at."""
    if options.amp == "fp16" and not options.device.startswith("cuda"):
        raise UsageError("float16 is for CUDA devices; give --amp bf16, auto or off")
    if options.amp == "bf16" and options.device == "cpu" and min(options.size_hw) < LEAST_BF16_PX:
        raise UsageError(
            f"bfloat16 on a CPU needs {of} of {LEAST_BF16_PX} px and more, got "
            f"{options.size_hw[1]}x{options.size_hw[0]}; give --amp off"
        )


class _Training:
    """One call of `train`."""

    on_epoch: OnEpoch | None = None
    on_step: OnStep | None = None

    def __init__(
        self,
        options: LoopOptions,
        work: Work,
        module: "LoopModule[Any]",
        settings: BaseModel,
        checkpoints: Checkpoints,
        *,
        batches: int,
    ) -> None:
        self.options, self.work, self.module, self.settings = options, work, module, settings
        self.checkpoints, self.batches, self.place = checkpoints, batches, module.place
        self.log = RunLog(checkpoints.out, board=options.tensorboard) if self.place.is_first else None
        self.progress = _Progress()

    def run(self, before: Mapping[str, Any] | None) -> Trained:
        """All of it, or what is left of it where there is a state `before`."""
        import lightning.pytorch as pl

        if before is not None and self.is_over(before):
            self.restore(before)
            self.progress.ended = before["ended"]
            return self._trained()
        train, valid = self.work.train, self.work.valid
        try:
            with quiet():
                lightning = trainer_options(
                    self.options, self.checkpoints.out, self.place, leaves_out=self.module.leaves_out
                )
                trainer = pl.Trainer(**lightning, callbacks=[self._callback()])
                with interruptible():
                    trainer.fit(
                        self.module,
                        Epochs(train, lambda: self.module.epochs, limit=self.batches),
                        None if valid is None else Epochs(valid, lambda: 0, limit=0),
                        ckpt_path=str(self.checkpoints.state) if before else None,
                        weights_only=True,
                    )
        finally:
            if self.log is not None:
                self.log.close()
        return self._trained()

    def _trained(self) -> Trained:
        return Trained(
            best=self.checkpoints.best,
            last=self.checkpoints.last,
            epochs=self.module.epochs,
            steps=self.module.step,
            ended=self.progress.ended,
            history=self.progress.history,
        )

    def _callback(self) -> Any:
        import lightning.pytorch as pl

        training = self

        class Keeper(pl.Callback):  # type: ignore[misc]  # lightning is untyped here
            """Tells the training what Lightning is at."""

            def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's)
                if training.log is not None:
                    training.log.start(training.progress.history)

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's)
                if not training.place.is_alone:
                    _die_at_once(trainer)

            def on_train_batch_end(self, trainer: Any, pl_module: Any, *about: Any) -> None:  # noqa: ARG002
                if training.on_step is not None and training.module.ends_step(about[-1]):
                    total = training.batches // training.options.accumulate * training.options.epochs
                    training.on_step(training.module.step + 1, total)

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's)
                training.end_epoch(trainer)

            def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
                checkpoint["lightmill"] = training.state()

            def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
                training.restore(checkpoint["lightmill"])

        return Keeper()

    def end_epoch(self, trainer: Any) -> None:
        """Writes what the epoch gave: networks and logs first, then the state, which says that they are there."""
        self.module.look_at_clock()
        if self.work.valid is None:
            self.module.share()
        steps = self.module.losses_seen()
        self.module.epochs += 1
        row = self._row(steps)
        is_best = self._judge(self._score())
        self.progress.history.append(row)
        self.progress.ended = self._ended()
        trainer.should_stop = bool(self.progress.ended)
        if self.log is None:
            trainer.save_checkpoint(self.checkpoints.state)  # which waits for the first process, and writes nothing
        else:
            scored = self.settings.model_copy(update={"scores": dict(self.module.scores)})
            self.checkpoints.save(self.module.judged, scored, is_best=is_best)
            self.log.add(row, steps)
            self.checkpoints.save_state(trainer.save_checkpoint)
        if self.on_epoch is not None:
            self.on_epoch(row)
        self.place.agreed(None)  # nobody goes on before the first one has heard that it may

    def _judge(self, score: float | None) -> bool:
        """Whether an epoch is the best so far; of equals, the later one is. Only a better one ends the waiting."""
        best = self.progress.best
        is_better = score is None or best is None or score > best
        self.progress.waited = 0 if is_better else self.progress.waited + 1
        if not (is_better or score == best):
            return False
        self.progress.best = score
        return True

    def _score(self) -> float | None:
        """What `best` is chosen by; None where there is no validation. One that is no number is the worst."""
        if self.work.valid is None:
            return None
        if self.work.best_by not in self.module.scores:
            names = ", ".join(self.module.scores)
            raise ValueError(f"the best is to be chosen by {self.work.best_by!r}, and the scores are {names}")
        score = self.module.scores[self.work.best_by]
        return -math.inf if math.isnan(score) else score

    def _ended(self) -> str:
        """Why there is no epoch after this one; empty where there is."""
        if self.options.patience and self.progress.waited >= self.options.patience:
            return "patience"
        if self.module.epochs >= self.options.epochs:
            return "epochs"
        return "time" if self.module.out_of_time else ""

    def _row(self, steps: list[dict[str, float]]) -> dict[str, float | None]:
        """epoch (from 1), step, seconds in all, and the means of its losses; then the scores as `val_NAME`."""
        names = [name for name in steps[0] if name not in ("step", "rate")]
        means = {name: sum(step[name] for step in steps) / len(steps) for name in names}
        scores = {f"val_{name}": value for name, value in self.module.scores.items()}
        seconds = round(self.module.elapsed_s, 3)
        begun = {"epoch": self.module.epochs, "step": self.module.step, "seconds": seconds, "rate": steps[-1]["rate"]}
        return {**begun, **means, **scores}

    def state(self) -> dict[str, Any]:
        """What is put into the checkpoint beside Lightning's; plain values only."""
        return {
            "options": self.options.bound_by,
            "labels": list(self.work.labels),
            "rows": self.work.rows,
            "batches": self.batches,
            "counters": self.module.counters(),
            "history": self.progress.history,
            "best": self.progress.best,
            "waited": self.progress.waited,
            "ended": self.progress.ended,
            "limits": [self.options.max_time_s, self.options.patience],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.module.restore(state["counters"])
        self.progress = _Progress(list(state["history"]), state["best"], state["waited"])

    def is_over(self, state: Mapping[str, Any]) -> bool:
        """Whether a training ended, and would end at once again under the limits of now."""
        max_time_s, patience = state["limits"]
        match state["ended"]:
            case "time":
                return self.options.max_time_s is not None and self.options.max_time_s <= float(max_time_s)
            case "patience":
                return 0 < self.options.patience <= int(patience)
            case ended:
                return bool(ended)


def _die_at_once(trainer: Any) -> None:
    """At SIGTERM: Lightning would tell the other processes, who are not listening, and wait for them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # nor are they asked about it before every batch, for which a GPU would have to be waited for
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def _refuse_change(before: Mapping[str, Any] | None, options: LoopOptions, work: Work, batches: int) -> None:
    if before is None:
        return
    now = options.bound_by
    changed = [key for key, value in before["options"].items() if now.get(key) != value]
    if changed:
        key = changed[0]
        raise ChangedConfig(
            f"OUT holds a training with {options.told(key, before['options'][key], now.get(key))}; "
            "give the same options to resume it, another OUT, or --fresh"
        )
    if (tuple(before["labels"]), before["batches"]) != (work.labels, batches):
        raise ChangedConfig(
            f"OUT holds a training on other data ({len(before['labels'])} {work.label_kind}, {before['batches']} "
            f"batches an epoch; now {len(work.labels)} and {batches}); give the same data to resume it, another OUT, "
            "or --fresh"
        )
    if before["rows"] != work.rows:
        raise ChangedConfig(
            "OUT holds a training on other pictures, or on another split of them; give the same data to resume it, "
            "another OUT, or --fresh"
        )
