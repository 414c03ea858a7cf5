"""What the training of a student makes small. Tensors in, one number out; worked out in float32 (float64 stays),
whatever AMP does.

    cross_entropy   of softmax or sigmoid, mean over pixels, with weights of classes
    dice            per picture, so that one that is missed shows (Milletari et al., 2016)
    focal           cross entropy with less of what is right already (Lin et al., 2017)
    lovasz          the Jaccard index, extended to what is not whole (Berman et al., 2018)
    soft_labels     distance to a teacher's probabilities (Hinton et al., 2015)
    features        distance to a teacher's features

The first four are those of train/label_losses.py, and `SegmentLoss` is their weighted sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

IGNORE = 255


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
        """Each loss that counts, times its weight; shapes as in train/label_losses.py. Raises ValueError for others."""
        from lightmill.train import label_losses

        seen = label_losses.Seen(logits, labels, class_weights=self.class_weights, ignore=self.ignore)
        found = {}
        if self.cross_entropy:
            found["cross_entropy"] = self.cross_entropy * label_losses.cross_entropy(seen)
        if self.dice:
            found["dice"] = self.dice * label_losses.dice(seen)
        if self.focal:
            found["focal"] = self.focal * label_losses.focal(seen, gamma=self.gamma)
        if self.lovasz:
            found["lovasz"] = self.lovasz * label_losses.lovasz(seen)
        return found

    def supervised(
        self,
        coarse: "torch.Tensor",
        deep: Sequence["torch.Tensor"],
        labels: "torch.Tensor",
        *,
        chances: "torch.Generator",
    ) -> dict[str, "torch.Tensor"]:
        """Of `Outputs.coarse` at some pixels of `labels` [B, H, W] (`looked_at`), and of `deep`, the weighted sum over
        coarser logits [B, C, h, w], labels brought to their size. `chances`: of the CPU."""
        import torch

        first = torch.randint(2, (2,), generator=chances).tolist()
        found = self(*looked_at(coarse, labels, first=(first[0], first[1]), ignore=self.ignore))
        weighted = [
            weight * total(self(each, labels_at(labels, size_hw=(each.shape[-2], each.shape[-1]))))
            for each, weight in zip(deep, self.deep, strict=False)
            if weight
        ]
        return found | ({"deep": total(dict(enumerate(weighted)))} if weighted else {})


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


def looked_at(
    coarse: "torch.Tensor", labels: "torch.Tensor", *, first: tuple[int, int], ignore: int = IGNORE
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Logits [B, C, h, w] and labels [B, h, w] of a quarter of the pixels: every second one, from (y, x) `first` on.

    A loss is a mean over pixels, and beside each other they say the same: with a quarter of them, drawn anew for every
    batch, it takes a quarter of the time and memory, and its gradients are the same on average (as with the points of
    Mask2Former, Cheng et al., 2022).
    """
    from torch.nn import functional as F  # noqa: N812 (the name that torch's documents give it)

    from lightmill.models.student_network import COARSER, enlarged_at

    high, wide = (COARSER * side for side in coarse.shape[-2:])
    whole = F.pad(labels, (0, wide - labels.shape[-1], 0, high - labels.shape[-2]), value=ignore)
    return enlarged_at(coarse, first=first), whole[:, first[0] :: COARSER, first[1] :: COARSER]


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


def _exact(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    return values if values.dtype == torch.float64 else values.float()
