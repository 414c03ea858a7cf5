"""From a rough guess at a foreground to a mask with soft edges.

GrabCut (Rother et al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", 2004) at a small size,
and the guided filter (He et al., "Guided Image Filtering", 2010, and "Fast Guided Filter", 2015) up to the full one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_COMPONENTS = 5  # of each mixture, as cv2.grabCut has them
_FLOOR = 1.0  # levels^2, added to each variance: one colour alone has none
_EPSILON = 1e-4  # of the guided filter: edges of less than 1/100 of the range are smoothed over


def grab_cut(image: NDArray[np.uint8], trimap: NDArray[np.uint8], *, rounds: int = 1) -> NDArray[np.bool_]:
    """[H, W] what belongs to the foreground by colour and by outline.

    image: uint8 [H, W, 3]. trimap: uint8 [H, W] of cv2.GC_BGD, GC_FGD, GC_PR_BGD and GC_PR_FGD; the first two stay.
    The mixtures are begun here, by splitting (Orchard and Bouman 1991), because OpenCV draws at random to begin its
    own. So equal arguments give equal masks, whatever ran before on the thread.
    """
    thing = (trimap & 1).astype(bool)
    if thing.all() or not thing.any():
        return thing
    labels = trimap.copy()
    behind, before = (_mixture(image[of].astype(np.float64)) for of in (~thing, thing))
    cv2.grabCut(image, labels, (0, 0, 1, 1), behind, before, rounds, cv2.GC_EVAL)
    return (labels & 1).astype(bool)


def _mixture(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """[1, 65] weights, means and covariances of five Gaussians, as cv2.grabCut keeps them; those unused weigh 0."""
    parts = [colours]
    while len(parts) < _COMPONENTS:
        spreads = [np.linalg.eigh(_covariance(part)) for part in parts]
        widest = int(np.argmax([values[-1] * len(part) for (values, _), part in zip(spreads, parts, strict=True)]))
        part = parts.pop(widest)
        along = part @ spreads[widest].eigenvectors[:, -1]
        upper = along > along.mean()
        if not upper.any() or upper.all():
            parts.append(part)
            break
        parts += [part[upper], part[~upper]]
    weights, means, covariances = np.zeros(_COMPONENTS), np.zeros((_COMPONENTS, 3)), np.zeros((_COMPONENTS, 9))
    for i, part in enumerate(parts):
        weights[i], means[i], covariances[i] = len(part) / len(colours), part.mean(axis=0), _covariance(part).ravel()
    return np.concatenate([weights, means.ravel(), covariances.ravel()])[None]


def _covariance(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    off = colours - colours.mean(axis=0)
    covariance: NDArray[np.float64] = off.T @ off / len(off) + _FLOOR * np.eye(3)
    return covariance


def without_specks(mask: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """[H, W] the mask without pieces, and without holes, that are smaller than `share` of its largest piece."""
    count, number, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return mask
    least = share * stats[1:, cv2.CC_STAT_AREA].max()
    kept = stats[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False
    cleared = kept[number]
    _, number, stats, _ = cv2.connectedComponentsWithStats((~cleared).astype(np.uint8), connectivity=4)
    filled = stats[:, cv2.CC_STAT_AREA] < least
    filled[0] = True  # what the mask is
    return np.asarray(filled[number] | cleared)


def upsampled(mask: NDArray[np.bool_], small: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W] the mask of a small copy of a picture at the size of the picture: 0..255, soft along edges of the picture.

    mask: [h, w]; small: uint8 [h, w, 3], what it is the mask of; image: uint8 [H, W, 3]. Only a band around the
    outline, a hundredth of the long side to both sides, gets other levels than 0 and 255.
    """
    radius = max(2, round(0.01 * max(mask.shape)))
    guide = small.astype(np.float32) / np.float32(255)
    slopes = guided(guide, mask.astype(np.float32), radius)
    height, width = image.shape[:2]
    slopes = np.asarray(cv2.resize(slopes, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    alpha = slopes[..., 3]
    for i in range(3):
        alpha += slopes[..., i] * image[..., i] * np.float32(1 / 255)
    band = cv2.blur(mask.astype(np.float32), (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REPLICATE)
    near = cv2.resize(band, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = np.clip(alpha, np.clip(4 * near - 3, 0, 1), np.clip(4 * near, 0, 1))
    return np.asarray(np.rint(np.clip(1.6 * alpha - 0.3, 0, 1) * 255), np.uint8)


def guided(guide: NDArray[np.float32], target: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """[H, W, 4] the averaged coefficients a (3) and b of target = a . guide + b in windows around each pixel.

    guide: float32 [H, W, 3] 0..1; target: float32 [H, W]; radius in pixels. He et al. 2010, equations 14 to 16.
    """

    def mean(of: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(of, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT), np.float32)

    middle, target_mean = mean(guide), mean(target)
    # the symmetric 3 x 3 system of each pixel, solved by its cofactors: ten times as fast as np.linalg.solve
    (rr, rg, rb), (gg, gb), (bb,) = (
        [
            mean(guide[..., i] * guide[..., j]) - middle[..., i] * middle[..., j] + _EPSILON * (i == j)
            for j in range(i, 3)
        ]
        for i in range(3)
    )
    r, g, b = cv2.split(mean(guide * target[..., None]) - middle * target_mean[..., None])
    cofactors = (
        (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
        (gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
        (rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg),
    )
    determinant = rr * cofactors[0][0] + rg * cofactors[0][1] + rb * cofactors[0][2]
    slope = np.stack([(x * r + y * g + z * b) / determinant for x, y, z in cofactors], axis=-1)
    offset = target_mean - (slope * middle).sum(axis=-1)
    return mean(np.concatenate([slope, offset[..., None]], axis=-1))
