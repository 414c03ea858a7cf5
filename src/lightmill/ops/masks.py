"""Masks as arrays: cleaned, grown, softened, and joined across the seam of a panorama.

A mask is uint8 [H, W], 255 = the thing; levels between are soft edges, and what is 128 or more belongs to the thing.
`wraps` says that the left and the right edge are one, as in an equirectangular panorama. Lengths are in pixels: who
calls turns shares of a picture into them.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.uint8]
Inside: TypeAlias = NDArray[np.bool_]

HALF = 128  # the lowest level that belongs to the thing
SAME = 0.5  # intersection over union from which two finds in the same pixels are one thing
_TINTS = ((40, 120, 255), (255, 92, 40), (60, 200, 60), (240, 80, 220), (255, 200, 40), (60, 220, 220))  # sRGB
_OPACITY = 0.5


# --- cleaned ---------------------------------------------------------------------------------------------------------


def share(mask: Mask) -> float:
    """How much of the picture belongs to the thing, 0..1."""
    return float(np.count_nonzero(mask >= HALF) / mask.size)


def tidied(mask: Mask, *, min_px: float = 0, fill_holes: bool = False, wraps: bool = False) -> Mask:
    """Without islands smaller than `min_px` pixels, and with holes filled; soft edges of what stays are kept.

    An island is joined over edges and corners, a hole is bounded by edges; a hole does not reach the border of the
    picture (with `wraps`, its upper or lower one). Islands go first, so that what lies in a hole does not keep it open.
    """
    if min_px <= 1 and not fill_holes:
        return mask
    crosses = wraps and bool(mask[:, 0].any() and mask[:, -1].any())
    box = (slice(None), slice(None)) if crosses else _box(mask, around_px=1)
    result = np.zeros_like(mask)
    if mask[box].size:
        result[box] = _tidied(mask[box], min_px=min_px, fill_holes=fill_holes, wraps=crosses)
    return result


def _tidied(mask: Mask, *, min_px: float, fill_holes: bool, wraps: bool) -> Mask:
    inside = mask >= HALF
    kept = without_islands(inside, min_px=min_px, wraps=wraps) if min_px > 1 else inside
    whole = without_holes(kept, wraps=wraps) if fill_holes else kept
    result = mask
    if kept is not inside:
        result = np.where(_near(mask, kept, wraps=wraps) & (kept | ~inside), mask, np.uint8(0))
    if whole is not kept:
        result = np.where(whole & ~kept, np.uint8(255), result)
    return result


def _box(mask: NDArray[np.uint8], *, around_px: int) -> tuple[slice, slice]:
    """The rows and columns that hold all levels above 0, and some more around them; of nothing, none."""
    left, top, across, down = cv2.boundingRect(mask)
    if not across:
        return slice(0), slice(0)
    return (
        slice(max(top - around_px, 0), top + down + around_px),
        slice(max(left - around_px, 0), left + across + around_px),
    )


def without_islands(inside: Inside, *, min_px: float, wraps: bool = False) -> Inside:
    """[H, W] bool: the connected parts (8 neighbours) that have at least `min_px` pixels."""
    parts, group, areas = _parts(inside, connectivity=8, wraps=wraps)
    stays = np.bincount(group, weights=areas)[group] >= min_px
    stays[0] = False
    return np.asarray(stays[parts])


def without_holes(inside: Inside, *, wraps: bool = False) -> Inside:
    """[H, W] bool, with all gaps (4 neighbours) filled that do not reach the border of the picture."""
    parts, group, _ = _parts(~inside, connectivity=4, wraps=wraps)
    borders = [parts[0], parts[-1]] if wraps else [parts[0], parts[-1], parts[:, 0], parts[:, -1]]
    is_open = np.zeros(len(group), np.bool_)
    is_open[group[np.concatenate(borders)]] = True
    return np.asarray(~is_open[group][parts] | inside)


def _near(mask: Mask, kept: Inside, *, wraps: bool) -> Inside:
    """[H, W] bool: the pixels above 0 that hang together with something that is kept."""
    parts, group, _ = _parts(mask > 0, connectivity=8, wraps=wraps)
    holds = np.zeros(len(group), np.bool_)
    holds[group[parts[kept]]] = True
    holds[0] = False
    return np.asarray(holds[group][parts])


def _parts(
    inside: Inside, *, connectivity: int, wraps: bool
) -> tuple[NDArray[np.int32], NDArray[np.intp], NDArray[np.int32]]:
    """[H, W] the number of the part that a pixel belongs to (0: none); the group of each part; its area in pixels.

    Parts that meet across the seam are of one group, which is the number of one of them.
    """
    count, found, about, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=connectivity)
    parts = np.asarray(found, np.int32)
    group = np.arange(count)
    if wraps:
        rows = (-1, 0, 1) if connectivity == 8 else (0,)
        _join(group, _meeting(parts[:, -1], parts[:, 0], rows))
    return parts, group, np.asarray(about[:, cv2.CC_STAT_AREA], np.int32)


def _meeting(left: NDArray[np.int32], right: NDArray[np.int32], rows: Sequence[int]) -> list[tuple[int, int]]:
    """The parts of two columns that are neighbours."""
    met: set[tuple[int, int]] = set()
    for row in rows:
        a, b = left[max(-row, 0) : len(left) - max(row, 0)], right[max(row, 0) : len(right) - max(-row, 0)]
        both = (a > 0) & (b > 0)
        met.update(zip(a[both].tolist(), b[both].tolist(), strict=True))
    return sorted(met)


def _join(group: NDArray[np.intp], pairs: Sequence[tuple[int, int]]) -> None:
    """Give the two of every pair, and all that is joined to them, one group: that with the lowest number."""

    def first_of(number: int) -> int:
        while group[number] != number:
            number = int(group[number])
        return number

    for one, other in pairs:
        low, high = sorted((first_of(one), first_of(other)))
        group[high] = low
    for number in {number for pair in pairs for number in pair}:
        group[number] = first_of(number)


# --- grown and softened ----------------------------------------------------------------------------------------------


def moved(mask: Mask, *, by_px: float, feather_px: float = 0, wraps: bool = False) -> Mask:
    """The outline moved outwards by `by_px` (negative: inwards), and its edge spread over `feather_px`.

    Distances are Euclidean (Felzenszwalb and Huttenlocher 2012), and the outline runs half-way between the centres of
    neighbouring pixels: a pixel belongs to the result where its centre is at most by_px + 1/2 from the centre of one
    that belongs to the mask. Across the edge the level rises in a straight line, 128 where it would be without
    feathering. The border of the picture is no edge: what it cuts off does not shrink there.
    """
    if not by_px and not feather_px:
        return np.where(mask >= HALF, np.uint8(255), np.uint8(0))
    outside_px = max(math.ceil(abs(by_px) + feather_px / 2) + 1, 1)
    width = mask.shape[1]
    reach = min(outside_px, width) if wraps else 0
    wide = widened(mask, reach) if reach else mask
    inside = wide >= HALF
    if inside.all():
        return np.full_like(mask, 255)
    result = np.zeros_like(wide)  # far from the thing nothing changes: only what lies around it is worked on
    box = _box(inside.view(np.uint8), around_px=outside_px)
    if inside[box].size:
        result[box] = _levels(inside[box], by_px, feather_px)
    return np.ascontiguousarray(result[:, reach : reach + width])


def _levels(inside: Inside, by_px: float, feather_px: float) -> Mask:
    if feather_px:
        height = _distance(inside) - _distance(~inside)  # in pixels; positive inside
        height += np.where(inside, np.float32(by_px - 0.5), np.float32(by_px + 0.5))
        height *= np.float32(255 / feather_px)
        height += np.float32(127.5)
        levels: Mask = np.rint(np.clip(height, 0, 255, out=height)).astype(np.uint8)
        return levels
    chosen = _distance(inside) >= 0.5 - by_px if by_px < 0 else (_distance(~inside) <= by_px + 0.5)
    return np.where(chosen, np.uint8(255), np.uint8(0))


def _distance(inside: Inside) -> NDArray[np.float32]:
    """[H, W] from every pixel to the nearest that is not inside."""
    found = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)


# --- across the seam -------------------------------------------------------------------------------------------------


def widened(pixels: NDArray[np.uint8], margin: int) -> NDArray[np.uint8]:
    """[H, W, ...] to [H, W + 2 margin, ...]: continued on either side with what lies beyond the seam. margin <= W."""
    width = pixels.shape[1]
    return np.concatenate([pixels[:, width - margin :], pixels, pixels[:, :margin]], axis=1)


def folded(mask: Mask, margin: int) -> Mask:
    """[H, W + 2 margin] back to [H, W]; of the two levels that a column near the seam has, the higher."""
    width = mask.shape[1] - 2 * margin
    result = mask[:, margin : margin + width].copy()
    if margin:
        np.maximum(result[:, width - margin :], mask[:, :margin], out=result[:, width - margin :])
        np.maximum(result[:, :margin], mask[:, width + margin :], out=result[:, :margin])
    return result


def same_things(masks: Sequence[Mask], labels: Sequence[str], *, margin: int) -> list[list[int]]:
    """Which finds in a widened panorama are one thing: their places in the list, by groups, in order.

    The first and the last 2 * margin columns show the same: a thing that lies there is found twice. Two finds of one
    label are one thing where what the one covers of the first columns is what the other covers of the last
    (intersection over union of at least 1/2); a small thing in front of a large one is none of it. What is found only
    in a margin, cut off by its outer edge, is left out: the whole of it lies in the panorama itself.
    """
    if not margin:
        return [[place] for place in range(len(masks))]
    first = [_seen(mask, slice(2 * margin)) for mask in masks]
    last = [_seen(mask, slice(-2 * margin, None)) for mask in masks]
    pairs = [
        (one, other)
        for one, other in combinations(range(len(masks)), 2)
        if labels[one] == labels[other] and (_same(first[one], last[other]) or _same(last[one], first[other]))
    ]
    group = np.arange(len(masks))
    _join(group, pairs)
    groups = [np.flatnonzero(group == number).tolist() for number in np.unique(group)]
    return [places for places in groups if not all(_is_remnant(masks[place], margin) for place in places)]


def _seen(mask: Mask, columns: slice) -> Inside | None:
    """What a find covers of some columns; None where that is nothing."""
    inside = mask[:, columns] >= HALF
    return inside if inside.any() else None


def _same(one: Inside | None, other: Inside | None) -> bool:
    if one is None or other is None:
        return False
    return bool(np.count_nonzero(one & other) >= SAME * np.count_nonzero(one | other))


def _is_remnant(mask: Mask, margin: int) -> bool:
    """Whether a find lies in the margins alone and is cut by the outer edge of one."""
    inside = mask >= HALF
    return bool((inside[:, 0].any() or inside[:, -1].any()) and not inside[:, margin:-margin].any())


# --- shown -----------------------------------------------------------------------------------------------------------


def tinted(pixels: NDArray[np.uint8], masks: Sequence[Mask], *, longest_px: int) -> NDArray[np.uint8]:
    """[h, w, 3] the picture with its masks over it in colours, at most `longest_px` wide and high."""
    height, width = pixels.shape[:2]
    scale = min(longest_px / max(height, width), 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    shown = _reduced(pixels, size).astype(np.float32)
    line = max(round(math.hypot(*size) / 600), 1)
    for number, mask in enumerate(masks):
        tint = _TINTS[number % len(_TINTS)]
        small = _reduced(mask, size)
        shown += (np.array(tint, np.float32) - shown) * (small[..., None] * np.float32(_OPACITY / 255))
        outlines, _ = cv2.findContours((small >= HALF).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, tint, line)
    return np.rint(shown).astype(np.uint8)


def _reduced(levels: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(levels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
