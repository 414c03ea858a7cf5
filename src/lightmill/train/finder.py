"""How large a batch and how high a rate suit a student on this machine: found by trying, before the training.

What is tried is a network of its own. Torch's generators are as they were afterwards, so a training with what was found
is the same as one that was given it.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from lightmill.train.batches import Batches
from lightmill.train.segment_options import SegmentOptions
from lightmill.train.trainer import precision_of

if TYPE_CHECKING:
    import torch

    from lightmill.data.segment_loader import SegmentBatch
    from lightmill.train.segment_module import SegmentModule

LEAST_RATE, MOST_RATE = 1e-5, 0.3
_MOST_BATCH_CPU, _MOST_BATCH = 32, 512
_ENOUGH = 0.95  # of the highest speed: larger batches for less than that only mean fewer steps
_STEPS = 40  # of the range test
_APART = 3.0  # times the lowest loss: the training has come apart
_BELOW = 10.0  # times below the rate with the lowest loss


def find_batch(options: SegmentOptions, *, pictures: int) -> int:
    """How many pictures a batch is to have, a power of two: at most an eighth of those trained on.

    On CUDA the largest that fits into memory, half of what does so as to leave room; on a CPU the smallest at almost
    the highest speed.
    """
    most: int = 1 << max(pictures // 8, 1).bit_length() - 1
    with _apart(options):
        if options.device.startswith("cuda"):
            return largest_that_fits(lambda size: _seconds_of(options, size), most=min(most, _MOST_BATCH))
        return fastest(lambda size: _seconds_of(options, size), most=min(most, _MOST_BATCH_CPU))


def largest_that_fits(tried: Callable[[int], float], *, most: int) -> int:
    """The largest power of two up to `most` that `tried` does not run out of memory with, and then half of it.

    >>> def tried(size: int) -> float:
    ...     if size > 16:
    ...         raise MemoryError
    ...     return 1.0
    >>> largest_that_fits(tried, most=256), largest_that_fits(tried, most=8)
    (8, 8)
    """
    size = 1
    while size <= most:
        try:
            tried(size)
        except MemoryError:
            return max(size // 4, 1)
        except RuntimeError as error:  # torch.OutOfMemoryError, and what cuDNN calls it
            if "memory" not in str(error).lower():
                raise
            return max(size // 4, 1)
        size *= 2
    return most


def fastest(tried: Callable[[int], float], *, most: int) -> int:
    """The smallest power of two up to `most` at almost the highest speed; `tried`: seconds of a step of that size.

    >>> fastest(lambda size: 0.5 + 0.1 * size, most=16), fastest(lambda size: 0.1 * size, most=16)
    (16, 2)
    """
    sizes = [1 << power for power in range(1, most.bit_length())] or [1]
    speeds = [size / tried(size) for size in sizes]
    return next(size for size, speed in zip(sizes, speeds, strict=True) if speed >= _ENOUGH * max(speeds))


def find_rate(options: SegmentOptions, batches: Batches, teacher: Any = None) -> float:
    """A learning rate, by a range test (Smith, 2017): it rises step by step until the loss does.

    Ten times below the rate at which the smoothed loss was lowest, with two figures.
    """
    with _apart(options):
        losses = list(_range_test(options, _forever(batches), teacher))
    return rate_of(rates(len(losses)), losses)


def rates(number: int) -> list[float]:
    """Those of a range test that got so far."""
    return [LEAST_RATE * (MOST_RATE / LEAST_RATE) ** (step / (_STEPS - 1)) for step in range(number)]


def rate_of(tried: Sequence[float], losses: Sequence[float]) -> float:
    """Ten times below the rate with the lowest loss, two figures; `losses` of each, not smoothed.

    >>> tried = [10.0 ** -power for power in (5, 4, 3, 2, 1)]
    >>> rate_of(tried, [5.0, 4.0, 1.0, 0.5, 50.0])
    0.001
    """
    even = smoothed(losses)
    best = min(range(len(even)), key=even.__getitem__)
    return float(f"{tried[best] / _BELOW:.2g}")


def smoothed(losses: Sequence[float], *, stays: float = 0.7) -> list[float]:
    """An average that forgets, without the pull of its start (as Adam's)."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = stays * mean + (1 - stays) * loss
        found.append(mean / (1 - stays**number))
    return found


@contextmanager
def _apart(options: SegmentOptions) -> Iterator[None]:
    """With the training's seed, and torch's generators as they were afterwards."""
    import torch

    devices = [torch.device(options.device)] if options.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(options.seed)
        try:
            yield
        finally:
            if devices:
                torch.cuda.empty_cache()


def _range_test(options: SegmentOptions, batches: "Iterable[SegmentBatch]", teacher: Any) -> Iterator[float]:
    module, optimizer = _tried_module(options, teacher)
    lowest = math.inf
    for rate, batch in zip(rates(_STEPS), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        loss = _step(module, optimizer, batch.to(options.device))
        if not math.isfinite(loss) or loss > _APART * lowest:
            return
        lowest = min(lowest, loss)
        yield loss


def _seconds_of(options: SegmentOptions, size: int) -> float:
    """Of a step with so many pictures of noise; the second one, since the first one finds its way."""
    import torch

    from lightmill.data.segment_loader import SegmentBatch

    module, optimizer = _tried_module(options, None)
    pixels = options.size_hw[0] * options.size_hw[1]
    block = torch.randint(0, 256, (size, 4 * pixels), dtype=torch.uint8)
    block[:, 3 * pixels :] = 0
    batch = SegmentBatch(block, torch.zeros(size, dtype=torch.int64), options.size_hw).to(options.device)
    _step(module, optimizer, batch)
    began = time.perf_counter()
    _step(module, optimizer, batch)
    return time.perf_counter() - began


def _tried_module(options: SegmentOptions, teacher: Any) -> "tuple[SegmentModule, torch.optim.Optimizer]":
    from lightmill.train.segment import made
    from lightmill.train.segment_module import SegmentModule

    network, _, own = made(options)
    module = SegmentModule(network, own, steps=1, teacher=teacher).to(options.device)
    return module, module.configure_optimizers()


def _step(module: "SegmentModule", optimizer: "torch.optim.Optimizer", batch: "SegmentBatch") -> float:
    """One step as the training does it; its loss."""
    import torch

    options = module.options
    module.network.train()
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision_of(options))
    device = options.device.partition(":")[0]
    with torch.autocast(device, dtype=kind, enabled=kind is not None):
        found = module.losses(batch)
    loss = torch.stack(list(found.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one without types
    if options.clip:
        torch.nn.utils.clip_grad_norm_(module.parameters(), options.clip)
    optimizer.step()
    module.batch += 1
    return float(loss.detach())


def _forever(batches: Batches) -> Iterator[Any]:
    """One epoch after the other."""
    for epoch in chain(range(_STEPS), repeat(_STEPS)):
        tell = getattr(batches, "set_epoch", None)
        if tell is not None:
            tell(epoch)
        yield from batches
