"""What surfaces look like: cells (tiles, bricks, windows, stripes) with lines between them, and noise over all.

Every pattern is averaged over the footprint of the ray that meets it, so distant tiles fade to their mean colour
instead of flickering.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]  # float32 throughout; numpy's stubs lose that next to Python's numbers
Colour: TypeAlias = tuple[float, float, float]
_NOISE_SIZE = 1024  # texels; a power of two


@dataclass(frozen=True, kw_only=True)
class Finish:
    """A surface, in linear reflectances 0..1 and metres."""

    colour: Colour
    other: Colour | None = None  # of every second cell, as on a chessboard
    line: Colour | None = None  # between the cells
    cell_m: tuple[float, float] = (1.0, 1.0)
    line_m: float = 0.0
    bond: float = 0.0  # how far every second row is shifted, in cells
    variation: float = 0.0  # how much the cells differ in lightness
    grain: float = 0.1  # how much noise there is
    grain_m: float = 2.0  # after how many metres the noise repeats


class Noise:
    """Noise that repeats after 1 in u and v, with mean 0 and deviation 1, at every level of detail."""

    def __init__(self, seed: int, *, falloff: float) -> None:
        """`falloff`: amplitude ~ frequency^-falloff: about 1 is grainy, 2 is cloudy."""
        rng = np.random.default_rng(seed)
        fy, fx = np.fft.fftfreq(_NOISE_SIZE)[:, None], np.fft.rfftfreq(_NOISE_SIZE)[None]
        frequency = np.hypot(fy, fx) * _NOISE_SIZE
        frequency[0, 0] = np.inf
        spectrum = np.fft.rfft2(rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE))) * frequency**-falloff
        level = np.fft.irfft2(spectrum, s=(_NOISE_SIZE, _NOISE_SIZE))
        level = (level / level.std()).astype(np.float32)
        levels = [level]
        while level.shape[0] > 1:
            level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) / 4
            levels.append(level)
        self._texels = np.concatenate([each.ravel() for each in levels])
        self._sides = np.array([each.shape[0] for each in levels], np.int32)
        self._starts = np.cumsum([0, *(each.size for each in levels[:-1])], dtype=np.int32)
        self.table = rng.uniform(-1, 1, 1024).astype(np.float32)  # one number for each of many cells

    def at(self, u: Floats, v: Floats, footprint: Floats) -> Floats:
        """[N] noise averaged over about `footprint` (of the period): between the texels of the nearest level."""
        detail = np.log2(np.clip(footprint * _NOISE_SIZE, 1, _NOISE_SIZE))
        level = (detail + 0.5).astype(np.int32)
        side, start = self._sides[level], self._starts[level]
        scale = side.astype(np.float32)  # int32 times float32 would be float64
        x, y = u * scale - 0.5, v * scale - 0.5
        x_floor, y_floor = np.floor(x), np.floor(y)
        x -= x_floor
        y -= y_floor
        left, top = x_floor.astype(np.int32) & (side - 1), y_floor.astype(np.int32) & (side - 1)
        right = (left + 1) & (side - 1)
        upper = start + top * side
        lower = start + ((top + 1) & (side - 1)) * side
        above = self._texels[upper + left]
        above += x * (self._texels[upper + right] - above)
        below = self._texels[lower + left]
        below += x * (self._texels[lower + right] - below)
        noise: Floats = above + y * (below - above)
        return noise


@lru_cache(maxsize=8)
def noise_of(seed: int, *, falloff: float) -> Noise:
    """The noise of a seed, made once."""
    return Noise(seed, falloff=falloff)


def _line_share(x: Floats, width: float, footprint: Floats) -> Floats:
    """[N] share of the footprint around x that lies in [k, k + width) for any whole k."""

    def integral(at: Floats) -> Floats:
        whole = np.floor(at)
        return whole * width + np.minimum(at - whole, width)

    half = footprint / 2
    return (integral(x + half) - integral(x - half)) / footprint


def _mean_sign(x: Floats, footprint: Floats) -> Floats:
    """[N] mean, over the footprint around x, of a wave that is +1 in [0, 1), -1 in [1, 2), and so on."""

    def integral(at: Floats) -> Floats:
        folded: Floats = np.abs(np.mod(at, 2) - 1)
        return 1 - folded

    half = footprint / 2
    mean: Floats = (integral(x + half) - integral(x - half)) / footprint
    return mean


def reflectance(finish: Finish, *, u: Floats, v: Floats, wide_u: Floats, wide_v: Floats, noise: Noise) -> Floats:
    """[3, N] linear reflectance at places u, v (m) of a surface, averaged over footprints wide_u x wide_v (m)."""
    across, down = u / finish.cell_m[0], v / finish.cell_m[1]
    wide_x = np.maximum(wide_u / finish.cell_m[0], 1e-3)
    wide_y = np.maximum(wide_v / finish.cell_m[1], 1e-3)
    if finish.bond:
        across = across + finish.bond * np.mod(np.floor(down), 2)
    colour = np.array(finish.colour, np.float32)[:, None] * np.ones_like(u)
    if finish.other is not None:
        share = (1 - _mean_sign(across, wide_x) * _mean_sign(down, wide_y)) / 2
        colour += share * (np.array(finish.other, np.float32)[:, None] - colour)
    if finish.variation:
        cell = (np.floor(across).astype(np.int32) * 7919 + np.floor(down).astype(np.int32) * 104729) & 1023
        near = np.maximum(1 - np.maximum(wide_x, wide_y), 0)
        colour *= 1 + finish.variation * near * noise.table[cell]
    if finish.line is not None:
        clear = 1 - _line_share(down, finish.line_m / finish.cell_m[1], wide_y)
        clear *= 1 - _line_share(across, finish.line_m / finish.cell_m[0], wide_x)
        line = np.array(finish.line, np.float32)[:, None]
        colour = line + clear * (colour - line)
    if finish.grain:
        scale = 1 / finish.grain_m
        rough = noise.at(u * scale, v * scale, np.sqrt(wide_u * wide_v) * scale)
        colour *= np.exp(finish.grain * np.clip(rough, -2.5, 2.5))
    return colour
