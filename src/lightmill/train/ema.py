"""The average of a network's weights over its last steps: it varies less than they do (Polyak and Juditsky, 1992)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def decay_at(step: int, *, decay: float) -> float:
    """How much of the average stays at a step (from 1): less at first, so that the start is soon forgotten.

    >>> round(decay_at(1, decay=0.99), 3), decay_at(10_000, decay=0.99)
    (0.182, 0.99)
    """
    return min(decay, (1 + step) / (10 + step))


def average_in(average: "torch.nn.Module", network: "torch.nn.Module", *, decay: float) -> None:
    """average = decay * average + (1 - decay) * network, for every weight and every statistic of a batch norm.

    Whole numbers (counters) are copied. Weights that do not change stay as they are, to the last bit.
    """
    import torch

    with torch.no_grad():
        mine, theirs = average.state_dict(), network.state_dict()
        for key, value in mine.items():
            if value.is_floating_point():
                value.lerp_(theirs[key], 1 - decay)
            else:
                value.copy_(theirs[key])
