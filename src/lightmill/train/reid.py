"""Training an embedder: batches of crops in, a folder that `identify` opens out.

`fit` is the whole of it: it makes the network, runs Lightning's Trainer without anything of Lightning's on the screen
or the disk, keeps checkpoints and logs, and resumes what was stopped.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightmill.errors import ChangedConfig, MissingExtra, UsageError
from lightmill.train.batches import Epochs, ReidBatches, limited
from lightmill.train.checkpoints import Checkpoints
from lightmill.train.logs import RunLog
from lightmill.train.options import ReidOptions
from lightmill.train.trainer import LEAST_BF16_PX, interruptible, quiet, trainer_options

if TYPE_CHECKING:
    from lightmill.models.backbones import Backbone
    from lightmill.models.embedder_files import EmbedderConfig

_NEEDED = "torch", "transformers", "lightning", "pytorch_metric_learning"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training ended."""

    best: Path  # the embedder with the best score; the last one where there was no validation
    last: Path
    epochs: int  # done, over all runs
    steps: int
    ended: str  # why: epochs, time or patience
    history: list[dict[str, float | None]]  # one row an epoch, as in epochs.csv


@dataclass
class _Progress:
    """What is kept from epoch to epoch, beside weights."""

    history: list[dict[str, float | None]] = field(default_factory=list)
    best: float | None = None
    waited: int = 0  # epochs since then
    ended: str = ""  # why, where it has


def fit(
    options: ReidOptions,
    data: ReidBatches,
    out: Path,
    *,
    fresh: bool = False,
    on_epoch: Callable[[Mapping[str, float | None]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Trained:
    """Trains an embedder into `out`, or goes on where a training of the same options was stopped there.

    `fresh`: start anew. `on_epoch` gets each epoch's row of `history` once all of it is on the disk; `on_step` the
    steps done and all steps. What they raise ends the training; it can be resumed, as after Ctrl-C.

    Raises MissingExtra, ModelError and UsageError for a backbone, ChangedConfig where `out` holds a training with other
    options, OutputError where nothing can be written or resumed, RunError where the loss is no number any more.
    """
    _need_packages()
    _check(options, data)
    import torch

    devices = [torch.device(options.device)] if options.device.startswith("cuda") else []
    checkpoints = Checkpoints(out)
    with torch.random.fork_rng(devices=devices):
        state = None if fresh else checkpoints.read_state()
        _refuse_change(state, options, data)
        if fresh:
            checkpoints.state.unlink(missing_ok=True)
        return _Training(options, data, checkpoints, on_epoch=on_epoch, on_step=on_step).run(state)


class _Training:
    """One call of `fit`."""

    def __init__(
        self,
        options: ReidOptions,
        data: ReidBatches,
        checkpoints: Checkpoints,
        *,
        on_epoch: Callable[[Mapping[str, float | None]], None] | None,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        import torch

        from lightmill.models.embedder_network import EmbedderNetwork
        from lightmill.train.reid_module import ReidModule

        self.options, self.data, self.checkpoints = options, data, checkpoints
        self.on_epoch, self.on_step = on_epoch, on_step
        torch.manual_seed(options.seed)
        backbone, pooling = _backbone(options)
        network = EmbedderNetwork(backbone.model, embedding=options.embedding, pooling=pooling)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
        self.config = _config_of(options, backbone, pooling, data.labels)
        self.per_epoch = limited(len(data.train), options.limit_train)
        self.steps = self.per_epoch * options.epochs
        augment = options.model_copy(update={"augment": _in_colours(options, backbone)})
        self.module = ReidModule(network, augment, data, steps=self.steps)
        self.log = RunLog(checkpoints.out, board=options.tensorboard)
        self.progress = _Progress()

    def run(self, state: Mapping[str, Any] | None) -> Trained:
        import lightning.pytorch as pl

        if state is not None and self.is_over(state["lightmill"]):
            self.restore(state["lightmill"])
            self.progress.ended = state["lightmill"]["ended"]
            return self._trained()
        try:
            with quiet():
                trainer = pl.Trainer(
                    **trainer_options(self.options, self.checkpoints.out), callbacks=[self._callback()]
                )
                with interruptible():
                    trainer.fit(
                        self.module,
                        Epochs(self.data.train, lambda: self.module.epochs, limit=self.per_epoch),
                        None if self.data.valid is None else Epochs(self.data.valid, lambda: 0, limit=0),
                        ckpt_path=str(self.checkpoints.state) if state else None,
                        weights_only=True,
                    )
        finally:
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
                training.log.start(training.progress.history)

            def on_train_batch_end(self, *_: Any) -> None:
                if training.on_step is not None:
                    training.on_step(training.module.step + 1, training.steps)

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's)
                training.end_epoch(trainer)

            def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
                checkpoint["lightmill"] = training.state()

            def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
                training.restore(checkpoint["lightmill"])

        return Keeper()

    def end_epoch(self, trainer: Any) -> None:
        """Writes what the epoch gave: embedders and logs first, then the state, which says that they are there."""
        steps = self.module.losses_seen()
        self.module.epochs += 1
        row = self._row(steps)
        is_best = self._judge(self._score())
        self.progress.history.append(row)
        scored = self.config.model_copy(update={"scores": dict(self.module.scores)})
        self.checkpoints.save(self.module.judged, scored, is_best=is_best)
        self.log.add(row, steps)
        self.progress.ended = self._ended()
        trainer.should_stop = bool(self.progress.ended)
        self.checkpoints.save_state(trainer.save_checkpoint)
        if self.on_epoch is not None:
            self.on_epoch(row)

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
        if self.data.valid is None:
            return None
        if self.data.best_by not in self.module.scores:
            names = ", ".join(self.module.scores)
            raise ValueError(f"the best is to be chosen by {self.data.best_by!r}, and the scores are {names}")
        score = self.module.scores[self.data.best_by]
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
            "labels": list(self.data.labels),
            "batches": self.per_epoch,
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


def _need_packages() -> None:
    missing = [name.replace("_", "-") for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"training needs {', '.join(missing)}; run: pip install 'lightmill[train]'")


def _check(options: ReidOptions, data: ReidBatches) -> None:
    if not len(data.train):
        raise UsageError("there is no batch to train on: fewer crops than one batch takes")
    if len(data.labels) < 2:
        raise UsageError(f"telling players apart takes two of them, and {len(data.labels)} is known")
    if options.amp == "fp16" and not options.device.startswith("cuda"):
        raise UsageError("float16 is for CUDA devices; give --amp bf16, auto or off")
    if options.amp == "bf16" and options.device == "cpu" and min(options.size_hw) < LEAST_BF16_PX:
        raise UsageError(
            f"bfloat16 on a CPU needs crops of {LEAST_BF16_PX} px and more, got {options.size_hw}; give --amp off"
        )


def _refuse_change(state: dict[str, Any] | None, options: ReidOptions, data: ReidBatches) -> None:
    if state is None:
        return
    before, now = state["lightmill"], options.bound_by
    changed = [key for key, value in before["options"].items() if now.get(key) != value]
    if changed:
        key = changed[0]
        raise ChangedConfig(
            f"OUT holds a training with {key} = {before['options'][key]}, not {now.get(key)}; "
            "give the same options to resume it, another OUT, or --fresh"
        )
    batches = limited(len(data.train), options.limit_train)
    if tuple(before["labels"]) != data.labels or before["batches"] != batches:
        raise ChangedConfig(
            f"OUT holds a training on other data ({len(before['labels'])} players, {before['batches']} batches an "
            f"epoch; now {len(data.labels)} and {batches}); give the same data to resume it, another OUT, or --fresh"
        )


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
