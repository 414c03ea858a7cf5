"""How well class maps agree with the truth: from whole numbers that are added up over a set, picture by picture.

Class maps are of whole numbers, [H, W] or [B, H, W]: 0..C-1, and `ignore` (255) in the truth for what is not known;
that counts nowhere. A binary map is one of two classes, 0 and 1. Arrays are numpy's or torch's, and counts are int64 of
the same kind, so they can be added up on a device, over workers and over machines; scores are worked out at the end.

The rule for what is empty: a class that is neither in the truth nor in what was predicted has no score (NaN) and is
left out of means; it is neither right (1) nor wrong (0). A class that is only in one of the two scores 0, in precision
and recall as well. So scores of a set are not means over pictures, and a picture without a class does no harm.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.ops.arrays import namespace

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")  # one kind throughout a call
Counts = NDArray[np.int64]
Shares = NDArray[np.float64]  # NaN where there is none

IGNORE = 255
NEAR = 0.0075  # of a picture's diagonal: how far a boundary may be off (Csurka et al., 2013)


# --- class maps ------------------------------------------------------------------------------------------------------


def map_of_logits(logits: Array, *, threshold: float = 0.5) -> Array:
    """The class map, uint8 [B, H, W], of logits [B, C, H, W].

    C = 1: 1 where the sigmoid of the logit is `threshold` or more. C > 1: the class with the highest (of equals, the
    first); `threshold` is not looked at. Whether numbers are logits is never guessed from their range: for
    probabilities there is `map_of_probabilities`.
    """
    return _class_map(logits, least=math.log(threshold) - math.log1p(-threshold))


def map_of_probabilities(probabilities: Array, *, threshold: float = 0.5) -> Array:
    """As `map_of_logits`, of probabilities 0..1, [B, C, H, W]."""
    return _class_map(probabilities, least=threshold)


def _class_map(values: Array, *, least: float) -> Array:
    if values.ndim != 4:
        raise ValueError(f"one number a class and pixel is wanted, [B, C, H, W], not {list(values.shape)}")
    module = namespace(values)
    found: Array = values[:, 0] >= least if values.shape[1] == 1 else _highest(values)
    return module.asarray(found, dtype=module.uint8)  # type: ignore[no-any-return]  # the module of its kind


def _highest(values: Array) -> Array:
    """The first class of the highest value, [B, H, W]."""
    # of torch, `max` takes a fifth of the time of `argmax` on a CPU; ties go the same way
    found: Array = values.argmax(1) if isinstance(values, np.ndarray) else values.max(1).indices
    return found


# --- pixels ----------------------------------------------------------------------------------------------------------


def confusion(truth: Array, predicted: Array, *, classes: int, ignore: int = IGNORE) -> Array:
    """How many pixels of each class (row) were predicted as each class (column): int64 [C, C].

    Both maps have one shape. Raises ValueError where they have not, and for a value that is no class: a 0/255 mask
    that was never made 0/1 is not taken for one.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the truth is {list(truth.shape)} and what was predicted {list(predicted.shape)}")
    module = namespace(truth)
    counts = truth != ignore
    there, found = (module.where(counts, module.asarray(each, dtype=module.int64), 0) for each in (truth, predicted))
    for name, values in (("truth", there), ("prediction", found)):
        lowest, highest = (int(values.min()), int(values.max())) if math.prod(values.shape) else (0, 0)
        if lowest < 0 or highest >= classes:
            raise ValueError(f"the {name} holds {lowest} to {highest}, classes are 0..{classes - 1}")
    # what is ignored is counted beside the others, and dropped: picking out the rest takes three times as long
    pairs = module.where(counts, there * classes + found, classes**2).reshape(-1)
    confused: Array = module.bincount(pairs, minlength=classes**2 + 1)[:-1].reshape(classes, classes)
    return confused


@dataclass(frozen=True, slots=True)
class Scores:
    """What a confusion matrix says, 0..1; [C] float64, by class."""

    pixels: Counts  # [C] of the truth
    iou: Shares  # intersection over union
    dice: Shares  # or F1: twice the intersection over the sum
    precision: Shares  # of what was predicted, the share that is right; 0 where nothing was
    recall: Shares  # of what is there, the share that was found; 0 where nothing is
    accuracy: float  # share of all pixels that are right; NaN without any

    @property
    def mean_iou(self) -> float:
        """Over the classes that have one; NaN where none has."""
        return mean(self.iou)

    def as_dict(self, *, names: tuple[str, ...]) -> dict[str, float]:
        """`mean_iou`, `mean_dice`, ..., `accuracy`, and `iou/NAME`, ... a class, without those that have none."""
        found = {"accuracy": self.accuracy}
        for kind in ("iou", "dice", "precision", "recall"):
            values: Shares = getattr(self, kind)
            found[f"mean_{kind}"] = mean(values)
            found |= {f"{kind}/{name}": float(value) for name, value in zip(names, values, strict=True)}
        return {key: value for key, value in found.items() if not math.isnan(value)}


def scores(confused: ArrayLike) -> Scores:
    """Scores of a confusion matrix int64 [C, C]. Of a binary one, the foreground's are those of class 1."""
    counts = np.asarray(confused).astype(np.int64)
    right, there, found = np.diagonal(counts), counts.sum(1), counts.sum(0)
    either = there + found - right
    return Scores(
        pixels=there,
        iou=_share(right, either, where=either),
        dice=_share(2 * right, there + found, where=either),
        precision=_share(right, found, where=either),
        recall=_share(right, there, where=either),
        accuracy=float(_share(right.sum(), counts.sum(), where=counts.sum())),
    )


def mean(values: Shares) -> float:
    """Of those that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _share(part: ArrayLike, whole: ArrayLike, *, where: ArrayLike) -> Shares:
    """part / whole; 0 for a whole of 0, NaN where `where` is 0."""
    share = np.divide(part, np.maximum(whole, 1))
    return np.where(np.asarray(where) > 0, share, np.nan)


# --- boundaries ------------------------------------------------------------------------------------------------------


def boundary_counts(
    truth: NDArray[Any], predicted: NDArray[Any], *, classes: int, near: float = NEAR, ignore: int = IGNORE
) -> Counts:
    """What is needed of a picture for boundary F1: int64 [C, 4], to be added up over pictures.

    A class's columns: how many pixels of the predicted boundary lie near the true one, how many it has; how many of
    the true one lie near the predicted one, how many it has. Near is within `near` of the picture's diagonal, between
    the centres of pixels. `truth`, `predicted`: numpy [H, W].

    A pixel of a class is on its boundary where one of the four beside it is of another class. The picture's border is
    no boundary, and what is ignored has none and makes none.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(f"the truth is {list(truth.shape)} and what was predicted {list(predicted.shape)}, not [H, W]")
    known = truth != ignore
    there, found = _edges(truth, known), _edges(predicted, known)
    furthest = near * math.hypot(*truth.shape)
    counts = np.zeros((classes, 4), np.int64)
    for number in np.unique(np.concatenate([truth[there], predicted[found]])).tolist():
        true, ours = there & (truth == number), found & (predicted == number)
        counts[number] = (
            *_matched(ours, true, furthest=furthest),
            *_matched(true, ours, furthest=furthest),
        )
    return counts


def boundary_f1(counts: ArrayLike) -> Shares:
    """Boundary F1 of each class, float64 [C], of the sum of `boundary_counts` over a set: 2 P R / (P + R).

    After "What is a good evaluation measure for semantic segmentation?" (Csurka, Larlus and Perronnin, 2013), which
    takes the mean of pictures' F1; here pixels of boundaries are counted over the whole set, so that a picture with a
    speck of a class does not count as much as one that is full of it. NaN for a class without any boundary; 0 for one
    with a boundary only in the truth or only in what was predicted.
    """
    near_true, ours, near_ours, true = np.asarray(counts, np.float64).T
    precision, recall = near_true / np.maximum(ours, 1), near_ours / np.maximum(true, 1)
    both = precision + recall
    score = 2 * precision * recall / np.where(both > 0, both, 1)
    return np.where(ours + true > 0, score, np.nan)


def _edges(labels: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, bool)
    for before, after in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = (labels[before] != labels[after]) & known[before] & known[after]
        edges[before] |= differ
        edges[after] |= differ
    return edges


def _matched(mine: NDArray[np.bool_], others: NDArray[np.bool_], *, furthest: float) -> tuple[int, int]:
    """How many of `mine` have one of `others` near, and how many there are."""
    number = int(np.count_nonzero(mine))
    if not number or not others.any():
        return 0, number
    rows, columns = _around(mine | others)
    away = cv2.distanceTransform((~others[rows, columns]).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(away[mine[rows, columns]] <= furthest)), number


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The box that holds all of a mask; distances within it are those of the whole."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
