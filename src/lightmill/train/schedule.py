"""How fast to learn, as a function of how far a training has come. No state, so a resumed one goes on exactly."""

import math

_LAST = 0.01  # of the highest rate, at the end


def rate_scale(done: float, *, warmup: float) -> float:
    """The share of the highest rate: a straight rise over the first `warmup` of a training, then half a cosine.

    `done`: 0 at the start, 1 at the end. SGDR (Loshchilov and Hutter, 2017) without restarts, down to 1 %.

    >>> [round(rate_scale(done, warmup=0.1), 3) for done in (0.0, 0.05, 0.1, 0.55, 1.0, 1.2)]
    [0.01, 0.505, 1.0, 0.505, 0.01, 0.01]
    """
    if done < warmup:
        return _LAST + (1 - _LAST) * done / warmup
    falling = min((done - warmup) / max(1 - warmup, 1e-9), 1.0)
    return _LAST + (1 - _LAST) * (1 + math.cos(math.pi * falling)) / 2


def share_done(step: int, *, steps: int, elapsed_s: float = 0.0, limit_s: float | None = None) -> float:
    """How far a training has come, 0 to 1: by its steps, or by the clock where that is further on.

    So the rate has come down when a time limit ends a training, whatever share of its steps it came to.

    >>> share_done(10, steps=100), share_done(10, steps=100, elapsed_s=30, limit_s=60)
    (0.1, 0.5)
    """
    by_steps = step / max(steps, 1)
    by_clock = elapsed_s / limit_s if limit_s else 0.0
    return min(max(by_steps, by_clock), 1.0)
