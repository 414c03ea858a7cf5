"""What training makes small. Tensors in, one number out; worked out in float32 (float64 stays), whatever AMP does.

`embeddings` [B, D] of any length, `classes` int64 [B]: the number of who is shown, or -1 for nobody (an outlier: a
piece of background, too small a part of a player). `cosines` [B, C] are those of embeddings and class centres.

    arcface        cross entropy of angles with an additive margin (Deng et al., 2019)
    triplet        the hardest positive against the hardest negative of a batch (Hermans et al., 2017)
    outliers       how near outliers come to any class (after outlier exposure, Hendrycks et al., 2019)
    consistency    how far views of one player at one moment are apart

A loss of a batch in which nothing counts is 0 and has gradients of 0. `pytorch-metric-learning` gives the triplet
loss, and checks ArcFace in the tests: its own computes in the numbers it is given and casts the centres to them, which
in float16 ends in gradients that are infinite.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SMALLEST_SINE = 1e-3  # nearer to its centre (0.06 degrees), an embedding's angle has no gradient that is finite


def cosines_to(centres: "torch.Tensor", embeddings: "torch.Tensor") -> "torch.Tensor":
    """Cosines [B, C] of embeddings [B, D] and centres [C, D]: no labels, no margins, so fit for validation too."""
    from torch.nn.functional import linear, normalize

    return linear(normalize(_exact(embeddings)), normalize(_exact(centres)))


def arcface(cosines: "torch.Tensor", classes: "torch.Tensor", *, margin: float, scale: float) -> "torch.Tensor":
    """Mean cross entropy of those with a class; `margin` in radians, `scale` of all cosines."""
    from torch.nn.functional import cross_entropy

    own = classes.clamp(min=0)
    each = cross_entropy(scale * with_margin(_exact(cosines), own, margin=margin), own, reduction="none")
    return _mean(each, classes >= 0)


def with_margin(cosines: "torch.Tensor", classes: "torch.Tensor", *, margin: float) -> "torch.Tensor":
    """Cosines [B, C], that of each one's own class replaced by cos(angle + margin).

    Where angle + margin is beyond 180 degrees the cosine would rise again; from there it is cos(angle) - margin
    sin(margin), which goes on falling. cos(angle + margin) is worked out from sine and cosine: acos has gradients
    without limit at both ends.
    """
    own = cosines.gather(1, classes[:, None])
    sine = (1 - own.square()).clamp(min=_SMALLEST_SINE**2).sqrt()
    further = own * math.cos(margin) - sine * math.sin(margin)
    beyond = own < math.cos(math.pi - margin)
    return cosines.scatter(1, classes[:, None], further.where(~beyond, own - margin * math.sin(margin)))


def triplet(features: "torch.Tensor", classes: "torch.Tensor", *, margin: float) -> "torch.Tensor":
    """Mean over anchors of max(0, distance to the farthest of its class - to the nearest other + margin); Euclidean.

    An anchor needs another crop of its class and one of another: without, it counts for nothing. Outliers are nobody's
    positives and no anchors, but may be the nearest other.
    """
    import torch
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    exact = _exact(features)
    # each outlier is a class of its own: then it has no positive, and is an other to all
    alone = torch.arange(len(classes), device=classes.device) + classes.max().clamp(min=0) + 1
    names = torch.where(classes >= 0, classes, alone)
    distance = LpDistance(normalize_embeddings=False)
    hardest = BatchHardMiner(distance=distance)(exact.detach(), names)
    if not len(hardest[0]):
        return _nothing(features)
    loss: torch.Tensor = TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())(
        exact, names, hardest
    )
    return loss


def outliers(cosines: "torch.Tensor", classes: "torch.Tensor", *, bound: float) -> "torch.Tensor":
    """Mean over outliers of what their highest cosine to any class has above `bound`.

    Not the uniform target of Hendrycks et al.: being equally near to all classes is no use where a threshold on the
    highest cosine decides; being far from all is.
    """
    return _mean((_exact(cosines).amax(1) - bound).clamp(min=0), classes < 0)


def consistency(embeddings: "torch.Tensor", moments: "torch.Tensor") -> "torch.Tensor":
    """Mean of 1 - cosine over pairs of one moment: `moments` int64 [B] is one number for one player at one instant.

    -1 stands for no moment. Crops of a player at an instant are from different cameras, as one sees him once.
    """
    import torch
    from torch.nn.functional import normalize

    same = (moments[:, None] == moments[None]) & (moments >= 0)[:, None]
    units = normalize(_exact(embeddings))
    return _mean(1 - units @ units.mT, torch.triu(same, diagonal=1))


def _exact(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    return values if values.dtype == torch.float64 else values.float()


def _mean(each: "torch.Tensor", counts: "torch.Tensor") -> "torch.Tensor":
    """Of those that count; nothing of it is fetched from a GPU, which would have to be waited for."""
    return (each * counts).sum() / counts.sum().clamp(min=1)


def _nothing(values: "torch.Tensor") -> "torch.Tensor":
    return _exact(values).sum() * 0
