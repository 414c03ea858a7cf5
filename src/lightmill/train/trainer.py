"""Lightning's Trainer without what it shows, asks and leaves behind by itself."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightmill.errors import RunError
from lightmill.train.loop_options import LoopOptions
from lightmill.train.place import ALONE, Place

# With AMX, torch 2.13 gives gradients of bfloat16 convolutions with stride 2 that are whatever was in memory, where a
# map is 1 or 2 px wide. A network halves five times, so from here on its maps are wider.
LEAST_BF16_PX = 64


def trainer_options(
    options: LoopOptions, out: Path, place: Place = ALONE, *, leaves_out: bool = False
) -> dict[str, Any]:
    """Lightning without what it shows and leaves behind by itself.

    `leaves_out`: whether some weights may get no gradient in a step.
    """
    cuda = options.device.startswith("cuda")
    number = int(options.device.partition(":")[2] or 0)
    return {
        "accelerator": "cuda" if cuda else "cpu",
        "devices": _devices(place.ranks, first=number) if cuda else place.ranks,
        "strategy": "auto" if place.is_alone else _strategy(place, looks_for_left_out=leaves_out or not cuda),
        "precision": precision_of(options),
        "max_epochs": options.epochs,
        "gradient_clip_val": options.clip or None,
        "accumulate_grad_batches": options.accumulate,
        "default_root_dir": str(out),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }


def _devices(ranks: int, *, first: int) -> list[int]:
    return list(range(first, first + ranks))


def _strategy(place: Place, *, looks_for_left_out: bool) -> Any:
    """Gradients that are averaged over processes. Lightning starts none of them, and finds them joined."""
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    class Started(LightningEnvironment):  # type: ignore[misc]  # lightning is untyped here
        """What the environment's variables say elsewhere."""

        @property
        def creates_processes_externally(self) -> bool:
            return True

        def local_rank(self) -> int:
            return place.rank

        def node_rank(self) -> int:
            return 0

        def teardown(self) -> None:
            """There are no variables to take away."""

    # looking for weights without a gradient takes time in every step, and not to look where there are some is an error.
    # Where it is looked for, gradients are added up in one order from the first step on, resumed or not: on CPUs, where
    # nothing else depends on chance, a resumed training is then the same to the last bit, with any number of processes
    return DDPStrategy(cluster_environment=Started(), find_unused_parameters=looks_for_left_out)


def precision_of(options: LoopOptions) -> str:
    """As Lightning names it."""
    import torch

    if options.amp == "auto":
        if options.device.startswith("cuda"):
            return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        # with AMX, a step takes less than half the time; without, bfloat16 on a CPU is not known to be faster
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16-mixed" if capabilities.get("amx_bf16") and min(options.size_hw) >= LEAST_BF16_PX else "32-true"
    return {"off": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[options.amp]


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware and hints on loaders."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 uses what torch 2.13 calls old
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C comes out as KeyboardInterrupt: Lightning makes an exit of it and turns the signal off for good."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise RunError(f"the training was ended by exit({ended.code})") from ended
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
