"""Fractal noise on the plane: a function of place and seed, so that a picture's resolution has no say in it.

Gradient noise (Perlin, "Improving Noise", 2002) in octaves, each of half the cell and a smaller amplitude than the one
before: the coarsest is the strongest, as in clouds and in foliage.
"""

import numpy as np
from numpy.typing import NDArray

_LATTICE = 64  # cells until an octave repeats; a power of two, so that a mask wraps
_STD = 0.2157  # of one octave over the plane: the root of the mean, over a cell, of the weighted squared distances / 2


def fractal_noise(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    *,
    cell: float,
    octaves: int,
    persistence: float,
    seed: int,
) -> NDArray[np.float32]:
    """Noise at the places (x, y), arrays that broadcast to one shape; mean 0 and standard deviation 1 over the plane.

    `cell` is the coarsest octave's, in the unit of x and y; each further octave has half of it and `persistence` times
    the amplitude. An octave repeats after 64 of its cells. Raises ValueError for a cell that is not above 0, less than
    one octave, or a persistence outside 0..1, which would make the finest octave the strongest.
    """
    if not cell > 0:
        raise ValueError(f"the cell of noise must be above 0, got {cell}")
    if octaves < 1:
        raise ValueError(f"noise needs at least one octave, got {octaves}")
    if not 0 <= persistence <= 1:
        raise ValueError(f"the persistence of noise must be from 0 to 1, got {persistence}")
    amplitudes = float(persistence) ** np.arange(octaves)
    amplitudes /= np.sqrt(np.sum(amplitudes**2))  # octaves are independent: variances add
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for octave, amplitude in enumerate(amplitudes):
        scale = np.float32(2**octave / cell)
        total += np.float32(amplitude / _STD) * _gradient_noise(x * scale, y * scale, _gradients(seed, octave))
    return total


def _gradients(seed: int, octave: int) -> NDArray[np.float32]:
    """[2, 64 * 64] unit vectors, one a lattice point."""
    angle = np.random.default_rng((seed, octave)).random(_LATTICE**2) * (2 * np.pi)
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def _gradient_noise(
    x: NDArray[np.float32], y: NDArray[np.float32], gradients: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One octave with cells of 1."""
    left, top = np.floor(x), np.floor(y)
    across, down = x - left, y - top
    column, row = left.astype(np.int32), top.astype(np.int32)

    def corner(right: int, below: int) -> NDArray[np.float32]:
        at = (((row + below) & (_LATTICE - 1)) * _LATTICE) + ((column + right) & (_LATTICE - 1))
        rise: NDArray[np.float32] = gradients[0].take(at) * (across - np.float32(right))
        rise += gradients[1].take(at) * (down - np.float32(below))
        return rise

    share_right, share_below = _fade(across), _fade(down)
    upper = corner(0, 0)
    upper += share_right * (corner(1, 0) - upper)
    lower = corner(0, 1)
    lower += share_right * (corner(1, 1) - lower)
    upper += share_below * (lower - upper)
    return upper


def _fade(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0 to 1 with no first or second derivative at the ends: no lattice shows."""
    return t * t * t * (t * (t * 6 - 15) + 10)
