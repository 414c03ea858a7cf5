"""How the next token is chosen: the likeliest, or drawn, row by row with the row's own seed.

transformers draws all rows of a batch from one stream, so that what a picture gets depends on its neighbours. Here a
row has a stream of its own: one number in 0..1 a token, at which the cumulative probabilities of the row's tokens,
likeliest first, are read (inverse transform sampling; Devroye 1986). The numbers are made by NumPy on the host, so they
are the same on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What tokens are drawn from; temperature 0 draws nothing and takes the likeliest."""

    temperature: float = 0.0
    top_k: int | None = None  # the so many likeliest
    top_p: float | None = None  # of those, the likeliest that together have at least this probability


class Picker:
    """The last of `generate`'s logits processors, for one batch: leaves each row the one token that it is to take.

    It also notes `start`, how many tokens a row holds before the first that is generated: families differ in what of
    the prompt they give back. Without it (-1) nothing was generated.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self.start = -1
        self._sampling = sampling
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """[n, tokens so far], [n, vocabulary] -> [n, vocabulary]: as they came, or -inf but for the token drawn."""
        import torch

        if self.start < 0:
            self.start = input_ids.shape[1]
        if not self._sampling.temperature:
            return scores
        shares = torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)
        chosen = drawn(scores, shares.to(scores.device), self._sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def drawn(scores: "torch.Tensor", shares: "torch.Tensor", sampling: Sampling) -> "torch.Tensor":
    """The tokens [n, 1] at which the cumulative probabilities of `scores` [n, vocabulary] pass `shares` [n] in [0, 1).

    Temperature, then top-k, then top-p (nucleus sampling; Holtzman et al., 2020), in that order as transformers does.

    >>> import torch
    >>> logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    >>> [drawn(logits, torch.tensor([share]), Sampling(temperature=1.0)).item() for share in (0.5, 0.7, 0.95)]
    [1, 2, 0]
    """
    import torch

    ranked, order = torch.sort(scores.double() / sampling.temperature, dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        ranked[:, sampling.top_k :] = -torch.inf
    odds = ranked.softmax(dim=-1)
    if sampling.top_p is not None:
        odds = odds * (odds.cumsum(dim=-1) - odds < sampling.top_p)  # the likeliest always stays
    reached = odds.cumsum(dim=-1)
    place = (reached <= shares[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, place)
