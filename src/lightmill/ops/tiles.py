"""Tiles that cover a picture, and how what was made of each is joined so that no seam is seen.

Every tile has a weight at every pixel, and at every pixel the weights of all tiles add up to exactly 1, in float32 too:
what is the same in all tiles comes out as it was. Two tiles that meet share a quarter of their side or more, and in the
middle half of that quarter one fades into the other along a raised cosine. So the border of a tile, where a network
sees least of what is around, counts for nothing, unless it is the border of the picture.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.arrays import Array, namespace, same_kind

_OVERLAP = 4  # of a tile's side, one part in so many; more than a third would let three tiles meet
_STEPS = 1 << 12  # weights are multiples of 1 / _STEPS, so that their products and sums are exact in float32


@dataclass(frozen=True, slots=True)
class Stretch:
    """One tile along one side of a picture, px."""

    start: int  # of the tile
    first: int  # pixel of the picture that it counts for, `start` or later
    weights: NDArray[np.float32]  # [n] of the pixels from `first` on; all others have none

    @property
    def end(self) -> int:
        """The first pixel behind those that it counts for."""
        return self.first + len(self.weights)

    @property
    def part(self) -> slice:
        """What counts, as pixels of the tile."""
        return slice(self.first - self.start, self.end - self.start)


def stretches(length: int, *, tile: int) -> list[Stretch]:
    """Tiles of `tile` px (or one, as long as the side where that is shorter) over a side of `length` px.

    As few as share a quarter of a tile, spread evenly; each pixel counts in one of them, or in two. Raises ValueError
    for sides below 1 px.

    >>> [(one.start, one.first, one.end) for one in stretches(100, tile=64)]
    [(0, 0, 54), (36, 46, 100)]
    """
    if length < 1 or tile < 1:
        raise ValueError(f"a side and its tiles have 1 px or more, got {length} and {tile}")
    tile = min(length, tile)
    overlap = tile // _OVERLAP
    gaps = math.ceil((length - tile) / (tile - overlap))
    starts = [number * (length - tile) // gaps for number in range(gaps + 1)] if gaps else [0]
    fades = [_fade(after, before + tile, most=(overlap + 1) // 2) for before, after in pairwise(starts)]
    firsts = [0, *(first for first, _ in fades)]
    ends = [*(first + len(rising) for first, rising in fades), length]
    found = []
    for number, (start, first, end) in enumerate(zip(starts, firsts, ends, strict=True)):
        weights = np.ones(end - first, np.float32)
        if number:
            rising = fades[number - 1][1]
            weights[: len(rising)] = rising
        if number < len(fades):
            falling = 1 - fades[number][1]
            weights[len(weights) - len(falling) :] = falling
        found.append(Stretch(start, first, weights))
    return found


def _fade(start: int, end: int, *, most: int) -> tuple[int, NDArray[np.float32]]:
    """Of two tiles that share the pixels `start` to `end`: where the first fades into the second, and its weights."""
    length = min(most, end - start)
    rising = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
    return start + (end - start - length) // 2, np.asarray(np.round(rising * _STEPS) / _STEPS, np.float32)


def across(tiles: Iterable[Array], columns: Sequence[Stretch]) -> Array:
    """One row of tiles [C, h, w], from left to right, joined: [C, h, W] of their kind and dtype.

    Raises ValueError where there are more or fewer of them than `columns`.
    """
    done: list[Array] = []
    waiting: Array | None = None  # what the next tile is to be added to
    for found, one, following in zip(tiles, columns, [*columns[1:], None], strict=True):
        counted = found[..., one.part] * same_kind(one.weights, reference=found)
        if waiting is not None:
            counted[..., : waiting.shape[-1]] += waiting
        alone = (following.first if following else one.end) - one.first
        done.append(counted[..., :alone])
        waiting = counted[..., alone:]
    whole: Array = namespace(done[0]).concatenate(done, axis=-1)
    return whole


def downwards(strips: Iterable[Array], rows: Sequence[Stretch]) -> Iterator[tuple[int, Array]]:
    """Strips [C, h, W], the upper first, joined: (first row, [C, n, W]) of what is done, downwards without a gap.

    No more than one strip is held at a time. Raises ValueError where there are more or fewer of them than `rows`.
    """
    waiting: Array | None = None  # what the next strip is to be added to
    for strip, one, following in zip(strips, rows, [*rows[1:], None], strict=True):
        counted = strip[:, one.part] * same_kind(one.weights, reference=strip)[:, None]
        if waiting is not None:
            counted[:, : waiting.shape[1]] += waiting
        alone = (following.first if following else one.end) - one.first
        yield one.first, counted[:, :alone]
        waiting = counted[:, alone:]
