"""How far logits are from labels: cross entropy, Dice, focal and Lovász losses.

`logits` [B, C, ...]: C = 1 is the foreground's, C > 1 one a class. `labels` [B, ...] of whole numbers (uint8 will do):
0 or 1 for C = 1, else the class; `ignore` (255) counts for nothing, anywhere. Which pixel lies beside which does not
matter to any of them. All is worked out in float32 (float64 stays), whatever AMP does; nothing is fetched from the
device. A loss of a batch in which nothing counts is 0 and has gradients of 0.

This module needs torch when it is imported; it is imported where a training begins.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch  # noqa: TID253 (imported only where a training begins; what has gradients of its own needs it)

IGNORE = 255
_EMPTY_SHARE = 0.05  # of a picture: predicted in it by mistake, where nothing of a class is, this much costs a half


class Seen:
    """A batch as all losses see it: what they share is worked out once. Raises ValueError for shapes that don't fit."""

    def __init__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        *,
        class_weights: Sequence[float] = (),
        ignore: int = IGNORE,
    ) -> None:
        if logits.ndim < 3 or labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(f"logits are {list(logits.shape)} and labels {list(labels.shape)}")
        exact = logits if logits.dtype == torch.float64 else logits.float()
        self.binary = logits.shape[1] == 1
        self.foreground = exact.flatten(2)
        # background and foreground of one logit: that of the background is 0
        self.logits = (
            torch.cat([torch.zeros_like(self.foreground), self.foreground], 1) if self.binary else self.foreground
        )
        self.counts = labels.flatten(1) != ignore  # [B, P]
        self.labels = labels.flatten(1).long().masked_fill(~self.counts, 0)
        self.weights = self._weights_of(class_weights)

    def _weights_of(self, weights: Sequence[float]) -> torch.Tensor | None:
        if not weights:
            return None
        if len(weights) != self.logits.shape[1]:
            raise ValueError(f"there are {len(weights)} weights of classes, and {self.logits.shape[1]} classes")
        return self.logits.new_tensor(list(weights))

    @cached_property
    def shares(self) -> torch.Tensor:
        """What each pixel counts in a mean over all: [B, P], in sum 1, or 0 where none counts."""
        each = self.counts.to(self.logits.dtype) if self.weights is None else self.weights[self.labels] * self.counts
        whole = each.sum()
        return each / whole.where(whole > 0, whole + 1)

    @cached_property
    def against(self) -> "Against":
        """Cross entropy and Dice, which share their probabilities."""
        found = _Against.apply(  # type: ignore[no-untyped-call]  # torch leaves this one without types
            self.logits, self.labels, self.counts, self.shares, 1 if self.binary else 0
        )
        return Against(*found)

    @cached_property
    def own_logs(self) -> torch.Tensor:
        """Logarithm of the probability of what is there, [B, P]; what is ignored has that of class 0."""
        return self.logits.log_softmax(1).gather(1, self.labels[:, None])[:, 0]


class Against(NamedTuple):
    """Two losses."""

    cross_entropy: torch.Tensor
    dice: torch.Tensor


def cross_entropy(seen: Seen) -> torch.Tensor:
    """Mean of -log of the probability of what is there, weighted as torch's: the weights of pixels add up to 1."""
    return seen.against.cross_entropy


def dice(seen: Seen) -> torch.Tensor:
    """1 - Dice, for each class that a picture shows; mean over those, then over pictures.

    Dice is 2 sum(p t) / (sum(p) + sum(t)), nothing added. Classes that a picture does not show are one term more, all
    together: m / (m + 0.05), m the probability that is given to them, as a share of the picture's pixels. So a mask
    that is empty has gradients as well, and a picture that is missed costs 1, whatever the others of the batch hold.
    Of a single logit, the foreground is the one class.
    """
    return seen.against.dice


def focal(seen: Seen, *, gamma: float = 2.0) -> torch.Tensor:
    """Cross entropy of each pixel times (1 - p)^gamma, p the probability of what is there; the mean is as there."""
    wrong = -torch.expm1(seen.own_logs)  # 1 - p, exact where p is almost 1
    smallest = torch.finfo(wrong.dtype).tiny  # the power of 0 has no gradient below an exponent of 1
    return -(wrong.clamp(min=smallest).pow(gamma) * seen.own_logs * seen.shares).sum()


def lovasz(seen: Seen) -> torch.Tensor:
    """The Lovász hinge for C = 1, Lovász-Softmax over the classes that a picture shows for more; mean over pictures."""
    classes = torch.arange(1 if seen.binary else 0, seen.logits.shape[1], device=seen.labels.device)
    truth = (seen.labels[:, None] == classes[:, None]) & seen.counts[:, None]
    if seen.binary:
        errors = (1 - seen.foreground * (2 * truth.to(seen.logits.dtype) - 1)).relu()
        shown = seen.counts.any(1, keepdim=True)
    else:
        errors = (truth.to(seen.logits.dtype) - seen.logits.softmax(1)).abs()
        shown = truth.any(2)
    each = _lovasz_extension(errors, truth, seen.counts)
    number = shown.sum(1)
    return _picture_mean((each * shown).sum(1) / number.clamp(min=1), number > 0)


def _lovasz_extension(errors: torch.Tensor, truth: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Of the Jaccard loss, at errors [B, C, P]; [B, C]. Algorithm 1 of Berman et al. (2018).

    What does not count comes last, with errors of 0.
    """
    counted = counts[:, None].expand_as(errors)
    order = torch.where(counted, errors, -1).sort(dim=2, descending=True, stable=True).indices
    ordered = torch.where(counted, errors, 0).gather(2, order)
    there, counted = truth.gather(2, order).to(errors.dtype), counted.gather(2, order).to(errors.dtype)
    whole = there.sum(2, keepdim=True)
    union = whole + (counted - there).cumsum(2)
    jaccard = 1 - (whole - there.cumsum(2)) / union.where(union > 0, 1)
    steps = torch.diff(jaccard, dim=2, prepend=torch.zeros_like(whole))
    found: torch.Tensor = (ordered * steps).sum(2)
    return found


def _picture_mean(each: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return (each * counts).sum() / counts.sum().clamp(min=1)


class _Against(torch.autograd.Function):
    """Cross entropy and Dice with gradients by formula.

    autograd goes through an array of the logits' size two dozen times, there and back, and that is what such a loss
    takes on a CPU. With g the gradient as to a probability p, that as to the logits is p (g - sum(p g)), and g differs
    from class to class only, but where the label is: so it is one sum, one product and one addition in places.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, shares: torch.Tensor, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`first`: the first class that Dice looks at."""
        logs = logits.log_softmax(1)
        own = logs.gather(1, labels[:, None])[:, 0]
        entropy = -(own * shares).sum()
        given = logs.exp_().mul_(counts[:, None])  # nothing where nothing counts, and so in all that follows
        own = own.exp().mul_(counts)
        ours = given.sum(2)
        both = torch.zeros_like(ours).scatter_add_(1, labels, own)
        theirs = torch.zeros_like(ours).scatter_add_(1, labels, counts.to(ours.dtype))
        pixels = counts.sum(1, keepdim=True)
        loss, by_class, where_it_is = _dice(ours[:, first:], theirs[:, first:], both[:, first:], pixels)
        by_class, where_it_is = (torch.nn.functional.pad(each, (first, 0)) for each in (by_class, where_it_is))
        ctx.save_for_backward(given, own, labels, shares, by_class, where_it_is)
        return entropy, loss

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # of each loss
        given, own, labels, shares, by_class, where_it_is = ctx.saved_tensors
        of_entropy, of_dice = gradients
        shares, by_class = shares * of_entropy, by_class * of_dice
        here = (where_it_is * of_dice).gather(1, labels).mul_(own)
        level = shares - torch.bmm(by_class[:, None], given)[:, 0] - here
        found = (by_class[:, :, None] + level[:, None]).mul_(given)
        found.scatter_add_(1, labels[:, None], (here - shares)[:, None])
        return found, None, None, None, None


def _dice(
    ours: torch.Tensor, theirs: torch.Tensor, both: torch.Tensor, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of sums over a picture's pixels [B, C]: the loss, and its gradients as to `ours` and as to `both`."""
    shown = theirs > 0
    union = (ours + theirs).where(shown, 1)
    pixels_or_1 = pixels.clamp(min=1)
    mistaken = (ours * ~shown).sum(1, keepdim=True) / pixels_or_1
    terms = (1 - 2 * both / union).where(shown, 0).sum(1, keepdim=True) + mistaken / (mistaken + _EMPTY_SHARE)
    number = shown.sum(1, keepdim=True) + (~shown).any(1, keepdim=True)
    scale = (pixels > 0) / number / (pixels > 0).sum().clamp(min=1)
    by_mistake = _EMPTY_SHARE / (mistaken + _EMPTY_SHARE).square() / pixels_or_1
    return (
        (terms * scale).sum(),
        torch.where(shown, 2 * both / union.square(), by_mistake) * scale,
        (-2 / union).where(shown, 0) * scale,
    )
