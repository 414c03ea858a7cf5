"""What stands out in a picture, without a model: patches that differ from what reaches the picture's border.

Zhu et al., "Saliency Optimization from Robust Background Detection", 2014. A region is background as far as much of
its outline lies on the border of the picture (boundary connectivity); a patch stands out as far as it differs from
the background; both are joined in one quadratic cost whose minimum is a linear system.

Three things differ here. Portraits are cut off at the bottom: so the lower border counts less than the others, and
the sides count less for a region that rises from it and narrows. What counts as one region depends on the picture's
texture. And a contrast that nobody would see is not stretched to the full range.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.superpixels import neighbours, patch_means

_TEXTURES = 2.0  # sigma of what counts as the same region, in the picture's own texture
_GEODESIC = (2.5, 7.0)  # and its bounds, CIELAB
_CONNECTED = 1.0  # sigma of the boundary connectivity
_NEAR = 0.25  # sigma of the contrast's reach, in long sides
_ALIKE = 10.0  # sigma of colours that get one saliency, CIELAB
_SMOOTH = 0.1  # of neighbours of any colours
_BACKGROUND = 5.0  # weight of the background's term
_LINKED = 0.5  # of a side's share, from which a patch is on the border for good
_REGION = 0.8  # how near, of 1, patches are that count as one region for its outline
_NARROWING = (0.8, 0.95)  # share of its height that a region reaches the sides with: shoulders, floors
_LOWER = 0.15  # what a pixel of the lower border counts
_VISIBLE = 12.0  # contrast, CIELAB, from which something stands out fully


@dataclass(frozen=True)
class Patches:
    """A picture as a graph of N patches."""

    label: NDArray[np.int32]  # [H, W] 0..N-1
    colour: NDArray[np.float32]  # [N, 3] mean CIELAB

    @classmethod
    def of(cls, lab: NDArray[np.float32], label: NDArray[np.int32]) -> "Patches":
        """lab: float32 [H, W, 3] CIELAB, L 0..100. label: [H, W] patches numbered 0..N-1, as `slic` gives them."""
        return cls(label, patch_means(lab, label))

    @property
    def count(self) -> int:
        """N."""
        return len(self.colour)

    @cached_property
    def edges(self) -> NDArray[np.int32]:
        """[E, 2] the pairs that touch."""
        return neighbours(self.label)

    @cached_property
    def size(self) -> NDArray[np.float64]:
        """[N] share of the picture."""
        return np.bincount(self.label.ravel(), minlength=self.count) / self.label.size

    @cached_property
    def place(self) -> NDArray[np.float32]:
        """[N, 2] centre (y, x), in long sides."""
        height, width = self.label.shape
        y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(max(height, width))
        return patch_means(np.stack([y, x], axis=-1), self.label)

    @cached_property
    def colour_distance(self) -> NDArray[np.float32]:
        """[N, N] CIELAB difference (CIE 1976)."""
        return _distances(self.colour)

    @cached_property
    def contact(self) -> NDArray[np.float64]:
        """[4, N] share of a full side that each patch has on the top, left, right and lower border, 0..1."""
        side = np.sqrt(self.label.size / self.count)  # px that an even patch has on the border
        lines = self.label[0], self.label[:, 0], self.label[:, -1], self.label[-1]
        lengths = np.stack([np.bincount(line, minlength=self.count) for line in lines])
        return np.asarray(np.minimum(lengths / side, 1))

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """[2, N] where each patch begins and ends, from 0 at the top of the picture to 1."""
        height, width = self.label.shape
        row = np.repeat(np.arange(height), width)
        order = np.argsort(self.label.ravel(), kind="stable")  # stable: rows of a patch stay in order
        ends = np.cumsum(np.bincount(self.label.ravel(), minlength=self.count))
        firsts = np.concatenate([[0], ends[:-1]])
        return np.asarray(np.stack([row[order[firsts]], row[order[ends - 1]] + 1]) / height)


def _distances(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, N] Euclidean distances of [N, D]."""
    off = points[:, None] - points[None]
    return np.asarray(np.sqrt((off * off).sum(axis=-1)), np.float32)


def shortest_paths(cost: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, N] the least sum of costs on a way from each node to each (Floyd 1962, Warshall 1962).

    cost: [N, N] symmetric, inf where there is no edge; its diagonal is taken as 0.
    """
    least = cost.copy()
    np.fill_diagonal(least, 0)
    for k in range(len(least)):
        np.minimum(least, least[:, k, None] + least[None, k], out=least)
    return least


def texture(patches: Patches) -> float:
    """The mean, over patches, of the difference to the most similar neighbour, CIELAB: what a change of colour is not.

    0 where there is one patch.
    """
    if patches.count == 1:
        return 0.0
    return float(np.mean(_step_costs(patches).min(axis=1)))


def _step_costs(patches: Patches) -> NDArray[np.float32]:
    """[N, N] difference of colour between patches that touch, inf between others."""
    cost = np.full((patches.count, patches.count), np.inf, np.float32)
    one, other = patches.edges.T
    cost[one, other] = cost[other, one] = patches.colour_distance[one, other]
    return cost


def geodesic_distances(patches: Patches) -> NDArray[np.float32]:
    """[N, N] the least change of colour on a way over touching patches; patches on the border touch each other.

    Each step costs what it exceeds the texture by (weight clipping: Wei et al., "Geodesic Saliency Using Background
    Priors", 2012), so that long ways over texture stay short.
    """
    cost = _step_costs(patches)
    on_border = np.flatnonzero(patches.contact[:3].max(axis=0) >= _LINKED)
    linked = np.ix_(on_border, on_border)
    cost[linked] = patches.colour_distance[linked]
    return shortest_paths(np.maximum(cost - np.float32(texture(patches)), 0))


def boundary_connectivity(patches: Patches) -> NDArray[np.float64]:
    """[N] length of the border that a patch's region reaches, over the root of the region's area, in patches."""
    sigma = np.clip(_TEXTURES * texture(patches), *_GEODESIC)
    same = np.exp(-(geodesic_distances(patches).astype(np.float64) ** 2) / (2 * sigma**2))
    area = same @ (patches.size * patches.count)
    top, left, right, lower = (same @ side for side in patches.contact)
    length = top + _broadness(patches, same > _REGION) * (left + right) + _LOWER * lower
    return np.asarray(length / np.sqrt(area))


def _broadness(patches: Patches, region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N] 0..1, how much the sides count for the region [N, N] of each patch.

    1 but for regions that rise from the lower border and narrow on their way up, as shoulders do and floors do not:
    those reach the sides with a part of their height only.
    """
    first, last = patches.rows
    top, left, right, lower = (side > 0 for side in patches.contact)

    def extent(of: NDArray[np.bool_]) -> NDArray[np.float64]:
        high = np.where(region & of, first, 1).min(axis=1)
        low = np.where(region & of, last, 0).max(axis=1)
        return np.asarray(np.maximum(low - high, 0))

    everywhere = np.ones(patches.count, bool)
    reached = np.maximum(extent(left), extent(right)) / extent(everywhere)
    rises = (region & lower).any(axis=1) & ~(region & top).any(axis=1)
    return np.where(rises, np.interp(reached, _NARROWING, (0, 1)), 1)


def saliency(lab: NDArray[np.float32], label: NDArray[np.int32]) -> NDArray[np.float32]:
    """[H, W] 0..1, how much each patch stands out from what reaches the picture's border.

    lab: float32 [H, W, 3] CIELAB, L 0..100. label: [H, W] patches numbered 0..N-1, as `slic` gives them. The scale is
    absolute: in a picture without contrast all is near 0.
    """
    patches = Patches.of(lab, label)
    connectivity = boundary_connectivity(patches)
    background = 1 - np.exp(-(connectivity**2) / (2 * _CONNECTED**2))
    foreground = _contrast(patches, background)
    return optimised(patches, background, foreground).astype(np.float32)[label]


def _contrast(patches: Patches, background: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] 0..1: mean difference from the background, of which near patches count more."""
    near = np.exp(-(_distances(patches.place).astype(np.float64) ** 2) / (2 * _NEAR**2))
    weight = near * (background * patches.size)
    contrast = (weight * patches.colour_distance).sum(axis=1) * (1 - background)
    contrast /= near @ patches.size
    return np.asarray(contrast / max(float(contrast.max()), _VISIBLE))


def optimised(
    patches: Patches, background: NDArray[np.float64], foreground: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N] the s that minimises sum b s^2 + sum f (s - 1)^2 + sum over edges w (s_i - s_j)^2, cut to 0..1."""
    one, other = patches.edges.T
    alike = np.exp(-(patches.colour_distance[one, other].astype(np.float64) ** 2) / (2 * _ALIKE**2)) + _SMOOTH
    system = np.zeros((patches.count, patches.count))
    system[one, other] = system[other, one] = -alike
    pull = _BACKGROUND * background + foreground
    np.fill_diagonal(system, pull - system.sum(axis=1) + 1e-9)
    return np.clip(np.linalg.solve(system, foreground), 0, 1)
