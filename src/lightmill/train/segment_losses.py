"""What the training of a student makes small. Tensors in, one number out; worked out in float32 (float64 stays),
whatever AMP does.

`logits` [B, C, H, W]: C = 1 is the foreground's, C > 1 one a class. `labels` [B, H, W] of whole numbers (uint8 will
do): 0 or 1 for C = 1, else the class; `ignore` (255) counts for nothing, anywhere.

    cross_entropy   of softmax or sigmoid, mean over pixels, with weights of classes
    dice            per picture, so that one that is missed shows (Milletari et al., 2016)
    focal           cross entropy with less of what is right already (Lin et al., 2017)
    lovasz          the Jaccard index, extended to what is not whole (Berman et al., 2018)
    soft_labels     distance to a teacher's probabilities (Hinton et al., 2015)
    features        distance to a teacher's features

A loss of a batch in which nothing counts is 0 and has gradients of 0. `SegmentLoss` is their weighted sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

IGNORE = 255
_EMPTY_SHARE = 0.05  # of a picture: predicted in it by mistake, where nothing of a class is, this much costs a half


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLoss:
    """How much of each loss, and how much the coarse maps count. Raises ValueError for weights that are negative."""

    cross_entropy: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    lovasz: float = 0.0
    gamma: float = 2.0  # of focal
    class_weights: tuple[float, ...] = ()  # of cross entropy and focal; for C = 1, of background and foreground
    deep: tuple[float, ...] = (0.4, 0.4)  # of each coarse map's loss, coarsest first
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        weights = (self.cross_entropy, self.dice, self.focal, self.lovasz, self.gamma, *self.class_weights, *self.deep)
        if min(weights) < 0 or not any(weights[:4]):
            raise ValueError(f"weights of losses are 0 or more, and one is more, in {self}")

    def __call__(self, logits: "torch.Tensor", labels: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """Each loss that counts, times its weight."""
        seen = _Seen(logits, labels, ignore=self.ignore)
        weights = _class_weights(self.class_weights, seen)
        found = {}
        if self.cross_entropy:
            found["cross_entropy"] = self.cross_entropy * _cross_entropy(seen, weights)
        if self.dice:
            found["dice"] = self.dice * _dice(seen)
        if self.focal:
            found["focal"] = self.focal * _focal(seen, weights, gamma=self.gamma)
        if self.lovasz:
            found["lovasz"] = self.lovasz * _lovasz(seen)
        return found

    def supervised(
        self, logits: "torch.Tensor", coarse: Sequence["torch.Tensor"], labels: "torch.Tensor"
    ) -> dict[str, "torch.Tensor"]:
        """As a call, with `deep`: the weighted sum over coarse logits [B, C, h, w], labels brought to their size."""
        found = self(logits, labels)
        deep = [
            weight * total(self(each, labels_at(labels, size_hw=(each.shape[-2], each.shape[-1]))))
            for each, weight in zip(coarse, self.deep, strict=False)
            if weight
        ]
        return found | ({"deep": total(dict(enumerate(deep)))} if deep else {})


def total(losses: "dict[str, torch.Tensor] | dict[int, torch.Tensor]") -> "torch.Tensor":
    """The sum of what a `SegmentLoss` found."""
    import torch

    return torch.stack(list(losses.values())).sum()


def labels_at(labels: "torch.Tensor", *, size_hw: tuple[int, int]) -> "torch.Tensor":
    """Labels [B, H, W] at the middle of each place of a coarser map: picked, never mixed. [B, h, w]."""
    import torch

    rows, columns = (
        ((torch.arange(after, device=labels.device) + 0.5) * (before / after)).long()
        for before, after in zip(labels.shape[-2:], size_hw, strict=True)
    )
    return labels[:, rows][:, :, columns]


# --- against labels --------------------------------------------------------------------------------------------------


def cross_entropy(
    logits: "torch.Tensor",
    labels: "torch.Tensor",
    *,
    class_weights: Sequence[float] = (),
    ignore: int = IGNORE,
) -> "torch.Tensor":
    """Mean of -log of the probability of what is there, weighted as torch's: the weights of pixels add up to 1."""
    seen = _Seen(logits, labels, ignore=ignore)
    return _cross_entropy(seen, _class_weights(class_weights, seen))


def focal(
    logits: "torch.Tensor",
    labels: "torch.Tensor",
    *,
    gamma: float = 2.0,
    class_weights: Sequence[float] = (),
    ignore: int = IGNORE,
) -> "torch.Tensor":
    """Cross entropy of each pixel times (1 - p)^gamma, p the probability of what is there; the mean is as there."""
    seen = _Seen(logits, labels, ignore=ignore)
    return _focal(seen, _class_weights(class_weights, seen), gamma=gamma)


def dice(logits: "torch.Tensor", labels: "torch.Tensor", *, ignore: int = IGNORE) -> "torch.Tensor":
    """1 - Dice, for each class that a picture shows; mean over those, then over pictures.

    Dice is 2 sum(p t) / (sum(p) + sum(t)), nothing added. Classes that a picture does not show are one term more, all
    together: m / (m + 0.05), m the probability that is given to them, as a share of the picture's pixels. So a mask
    that is empty has gradients as well, and a picture that is missed costs 1, whatever the others of the batch hold.
    """
    return _dice(_Seen(logits, labels, ignore=ignore))


def lovasz(logits: "torch.Tensor", labels: "torch.Tensor", *, ignore: int = IGNORE) -> "torch.Tensor":
    """The Lovász hinge for C = 1, Lovász-Softmax over the classes that a picture shows for more; mean over pictures."""
    return _lovasz(_Seen(logits, labels, ignore=ignore))


# --- against a teacher -----------------------------------------------------------------------------------------------


def soft_labels(
    logits: "torch.Tensor",
    teacher: "torch.Tensor",
    *,
    temperature: float = 1.0,
    counts: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Kullback-Leibler divergence of the student's probabilities from a teacher's, mean over pixels, times T^2.

    `teacher` [B, C, H, W]: probabilities, 0..1 (C = 1: of the foreground; C > 1: they add up to 1). Both are softened:
    logits are divided by `temperature`, and so are the teacher's log-odds. `counts` [B, H, W] bool: pixels that count.
    Its gradients are those of cross entropy with soft labels; 0 is reached where the two are equal.
    """
    import torch
    from torch.nn.functional import logsigmoid

    student, wanted = _exact(logits) / temperature, _exact(teacher)
    if wanted.shape != student.shape:
        raise ValueError(f"the teacher's probabilities are {list(wanted.shape)}, the logits {list(student.shape)}")
    if student.shape[1] == 1:
        student = torch.cat([logsigmoid(-student), logsigmoid(student)], 1)
        wanted = torch.cat([1 - wanted, wanted], 1)
    else:
        student = student.log_softmax(1)
    if temperature != 1:
        wanted = (wanted.clamp(min=torch.finfo(wanted.dtype).tiny).log() / temperature).softmax(1)
    each = (torch.xlogy(wanted, wanted) - wanted * student).sum(1)
    if counts is None:
        return each.mean() * temperature**2
    return (each * counts).sum() / counts.sum().clamp(min=1) * temperature**2


def features(
    student: "torch.Tensor",
    teacher: "torch.Tensor",
    *,
    kind: Literal["huber", "mse"] = "huber",
    delta: float = 1.0,
) -> "torch.Tensor":
    """Mean difference of features [B, D, h, w], `FeatureProjection`'s and a teacher's: squared, or Huber's (1964).

    Huber's is half the square up to `delta` and grows evenly beyond, so a few wild features do not rule.
    """
    from torch.nn.functional import huber_loss, mse_loss

    if student.shape != teacher.shape:
        raise ValueError(f"the teacher's features are {list(teacher.shape)}, the student's {list(student.shape)}")
    ours, theirs = _exact(student), _exact(teacher)
    return mse_loss(ours, theirs) if kind == "mse" else huber_loss(ours, theirs, delta=delta)


# --- how -------------------------------------------------------------------------------------------------------------


class _Seen:
    """A batch as all losses see it: what they share is worked out once."""

    def __init__(self, logits: "torch.Tensor", labels: "torch.Tensor", *, ignore: int) -> None:
        if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(f"logits are {list(logits.shape)} and labels {list(labels.shape)}")
        self.logits = _exact(logits)
        self.counts = labels != ignore  # [B, H, W]
        self.labels = labels.long().masked_fill(~self.counts, 0)

    @property
    def binary(self) -> bool:
        return self.logits.shape[1] == 1

    @cached_property
    def logs(self) -> "torch.Tensor":
        """Logarithms of probabilities [B, C, H, W], of background and foreground where it is binary."""
        import torch
        from torch.nn.functional import logsigmoid

        if not self.binary:
            return self.logits.log_softmax(1)
        return torch.cat([logsigmoid(-self.logits), logsigmoid(self.logits)], 1)

    @cached_property
    def own_logs(self) -> "torch.Tensor":
        """Of what is there, [B, H, W]; what is ignored has that of class 0."""
        return self.logs.gather(1, self.labels[:, None])[:, 0]

    @cached_property
    def probabilities(self) -> "torch.Tensor":
        """[B, C, H, W] of all classes, or of the foreground where it is binary."""
        return self.logits.sigmoid() if self.binary else self.logs.exp()

    @cached_property
    def truth(self) -> "torch.Tensor":
        """[B, C, H, W] bool: where each class is, or the foreground; nowhere where it is ignored."""
        import torch

        first = 1 if self.binary else 0
        numbers = torch.arange(first, first + self.logits.shape[1], device=self.labels.device)
        return (self.labels[:, None] == numbers[:, None, None]) & self.counts[:, None]


def _class_weights(weights: Sequence[float], seen: _Seen) -> "torch.Tensor | None":
    if not weights:
        return None
    if len(weights) != seen.logs.shape[1]:
        raise ValueError(f"there are {len(weights)} weights of classes, and {seen.logs.shape[1]} classes")
    return seen.logits.new_tensor(list(weights))


def _cross_entropy(seen: _Seen, weights: "torch.Tensor | None") -> "torch.Tensor":
    return _pixel_mean(-seen.own_logs, seen, weights)


def _focal(seen: _Seen, weights: "torch.Tensor | None", *, gamma: float) -> "torch.Tensor":
    import torch

    wrong = -torch.expm1(seen.own_logs)  # 1 - p, exact where p is almost 1
    smallest = torch.finfo(wrong.dtype).tiny  # the power of 0 has no gradient below an exponent of 1
    return _pixel_mean(-wrong.clamp(min=smallest).pow(gamma) * seen.own_logs, seen, weights)


def _pixel_mean(each: "torch.Tensor", seen: _Seen, weights: "torch.Tensor | None") -> "torch.Tensor":
    share = seen.counts.to(each.dtype) if weights is None else weights[seen.labels] * seen.counts
    whole = share.sum()
    return (each * share).sum() / whole.where(whole > 0, whole + 1)


def _dice(seen: _Seen) -> "torch.Tensor":
    import torch

    truth = seen.truth
    given = seen.probabilities * seen.counts[:, None]
    both, theirs, ours = (given * truth).sum((2, 3)), truth.sum((2, 3)), given.sum((2, 3))  # [B, C]
    pixels = seen.counts.sum((1, 2))  # [B]
    shown = theirs > 0
    of_shown = torch.where(shown, 1 - 2 * both / (ours + theirs).where(shown, 1), 0)
    mistaken = (ours * ~shown).sum(1) / pixels.clamp(min=1)
    terms = of_shown.sum(1) + mistaken / (mistaken + _EMPTY_SHARE)
    number = shown.sum(1) + (~shown).any(1)
    return _picture_mean(terms / number, pixels > 0)


def _lovasz(seen: _Seen) -> "torch.Tensor":
    found = [
        _lovasz_of(seen.logits[each][:, counts], seen.truth[each][:, counts], seen)
        for each, counts in enumerate(seen.counts)
        if bool(counts.any())
    ]
    if not found:
        return seen.logits.sum() * 0
    return sum(found[1:], start=found[0]) / len(found)


def _lovasz_of(logits: "torch.Tensor", truth: "torch.Tensor", seen: _Seen) -> "torch.Tensor":
    """Of one picture; logits and truth [C, N] of the pixels that count."""
    from torch.nn.functional import relu

    if seen.binary:
        errors = 1 - logits * (2 * truth.to(logits.dtype) - 1)
        return _lovasz_extension(relu(errors), truth)[0]
    shown = truth.any(1)
    errors = (truth[shown].to(logits.dtype) - logits.softmax(0)[shown]).abs()
    return _lovasz_extension(errors, truth[shown]).mean()


def _lovasz_extension(errors: "torch.Tensor", truth: "torch.Tensor") -> "torch.Tensor":
    """Of the Jaccard loss, at errors [C, N]; [C]. Algorithm 1 of Berman et al. (2018)."""
    import torch

    ordered, order = errors.sort(dim=1, descending=True, stable=True)
    there = truth.gather(1, order).to(errors.dtype)
    whole = there.sum(1, keepdim=True)
    jaccard = 1 - (whole - there.cumsum(1)) / (whole + (1 - there).cumsum(1))
    steps = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(whole))
    found: torch.Tensor = (ordered * steps).sum(1)
    return found


def _picture_mean(each: "torch.Tensor", counts: "torch.Tensor") -> "torch.Tensor":
    return (each * counts).sum() / counts.sum().clamp(min=1)


def _exact(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    return values if values.dtype == torch.float64 else values.float()
