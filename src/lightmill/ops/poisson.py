"""Back from differences to a surface: the one whose differences between neighbours come nearest to those given.

Least squares on the pixel grid with a free border (Neumann's condition), which the discrete cosine transform solves
directly (Simchony, Chellappa and Shao 1990). Where only some neighbours count, conjugate gradients are led by that
solve: each step costs one. A round region takes four steps, a person with hair about eight.
"""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


_HALVED_FROM = 128  # px, the shorter side of a field that is solved at half its size first


def differences(surface: NDArray[Real]) -> tuple[NDArray[Real], NDArray[Real]]:
    """Of [H, W], from each pixel to the next: to the right [H, W - 1], and downwards [H - 1, W].

    >>> right, down = differences(np.array([[0.0, 1.0], [5.0, 8.0]]))
    >>> right.tolist(), down.tolist()
    ([[1.0], [3.0]], [[5.0, 7.0]])
    """
    return surface[:, 1:] - surface[:, :-1], surface[1:] - surface[:-1]


def integrate(right: NDArray[Real], down: NDArray[Real]) -> NDArray[Real]:
    """The surface [H, W] of mean 0 whose `differences` are nearest to `right` and `down`, in least squares.

    float32 or float64, as given. An odd side is mirrored, which doubles the work and changes nothing.
    Raises ValueError for shapes that are not the differences of one surface.
    """
    height, width = _surface_shape(right, down)
    return _solved(_balance(right, down))[:height, :width]


def integrate_within(
    right: NDArray[Real],
    down: NDArray[Real],
    inside: NDArray[np.bool_],
    *,
    tolerance: float = 1e-3,
    max_steps: int = 20,
) -> NDArray[Real]:
    """`integrate`, where only differences between two pixels of `inside` [H, W] count.

    What the others are has no influence at all. Outside, the surface goes on smoothly (harmonic), and the parts of a
    region that do not touch have the levels that this needs least slope for. What level the whole is at is not said.
    It ends once the error of the slopes, as the conjugate gradients measure it, is `tolerance` of the slopes', or
    after `max_steps`, which only frayed regions reach (combs, sponges, many thin parts).
    """
    if inside.shape != _surface_shape(right, down):
        wanted = list(_surface_shape(right, down))
        raise ValueError(f"inside must be {wanted}, as the surface is, got {list(inside.shape)}")
    surface, _ = _within(right, down, inside, tolerance=tolerance, max_steps=max_steps)
    return surface


def _within(
    right: NDArray[Real], down: NDArray[Real], inside: NDArray[np.bool_], *, tolerance: float, max_steps: int
) -> tuple[NDArray[Real], float]:
    """The surface, and the squared slopes of all of it: what errors are measured by.

    A field of half the size is solved first, with a quarter of the work a step, and so on: its surface is where the
    gradients begin, and its squared slopes are those of this one, as in two dimensions they do not depend on the scale.
    """
    height, width = inside.shape
    rows, columns = cv2.getOptimalDFTSize((height + 1) // 2) * 2, cv2.getOptimalDFTSize((width + 1) // 2) * 2
    across = np.zeros((rows, columns - 1), right.dtype)  # outside nothing counts, so the sides may as well be good ones
    along = np.zeros((rows - 1, columns), right.dtype)
    across[:height, : width - 1] = inside[:, 1:] & inside[:, :-1]
    along[: height - 1, :width] = inside[1:] & inside[:-1]
    wanted = np.zeros((rows, columns), right.dtype)
    counted = np.where(across[:height, : width - 1] > 0, right, 0), np.where(along[: height - 1, :width] > 0, down, 0)
    wanted[:height, :width] = _balance(*counted)

    def applied(surface: NDArray[Real]) -> NDArray[Real]:
        east, south = differences(surface)
        east *= across
        south *= along
        return _balance(east, south)

    surface = np.zeros_like(wanted)
    residual, whole = wanted, 0.0
    if min(height, width) >= _HALVED_FROM:
        coarse, whole = _within(*_halved(*counted, inside), tolerance=tolerance / 2, max_steps=2 * max_steps)
        surface[:height, :width] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        residual = wanted - applied(surface)
    step = _solved(residual)
    error = _dot(residual, step)
    whole = whole or error
    direction = step
    for _ in range(max_steps):
        if error <= whole * tolerance**2:
            break
        change = applied(direction)
        length = error / _dot(direction, change)
        surface += length * direction
        residual = residual - length * change
        step = _solved(residual)
        error, before = _dot(residual, step), error
        direction = step + (error / before) * direction
    return surface[:height, :width], whole


def _halved(
    right: NDArray[Real], down: NDArray[Real], inside: NDArray[np.bool_]
) -> tuple[NDArray[Real], NDArray[Real], NDArray[np.bool_]]:
    """Differences between the means of 2 x 2 pixels, and which blocks are inside as a whole; odd ends are dropped."""
    rows, columns = inside.shape[0] // 2, inside.shape[1] // 2
    blocks = np.asarray(inside[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).all(axis=(1, 3)), np.bool_)
    return _between_blocks(right, rows, columns), np.ascontiguousarray(_between_blocks(down.T, columns, rows).T), blocks


def _between_blocks(across: NDArray[Real], rows: int, columns: int) -> NDArray[Real]:
    """[rows, columns - 1]: from the mean of a block to the next: the step between, and half the step within each."""
    last = 2 * columns - 1
    steps = (
        across[: 2 * rows, 1 : last - 1 : 2] + (across[: 2 * rows, 0 : last - 2 : 2] + across[: 2 * rows, 2:last:2]) / 2
    )
    return np.ascontiguousarray((steps[0::2] + steps[1::2]) / 2)


def _surface_shape(right: NDArray[Real], down: NDArray[Real]) -> tuple[int, int]:
    height, width = right.shape[0], down.shape[1]
    if right.shape != (height, width - 1) or down.shape != (height - 1, width):
        wanted = "[H, W - 1] and [H - 1, W]"
        raise ValueError(f"differences of a surface are {wanted}, got {list(right.shape)} and {list(down.shape)}")
    return height, width


def _balance(right: NDArray[Real], down: NDArray[Real]) -> NDArray[Real]:
    """[H, W] what flows into each pixel less what flows out: minus the divergence."""
    balance = np.zeros((right.shape[0], down.shape[1]), right.dtype)
    balance[:, 1:] += right
    balance[:, :-1] -= right
    balance[1:] += down
    balance[:-1] -= down
    return balance


def _solved(balance: NDArray[Real]) -> NDArray[Real]:
    """The surface [H, W] of mean 0 whose differences have this `_balance`."""
    height, width = balance.shape
    if height % 2:  # cv2.dct takes even sides only; its basis goes on as a mirror does, so both solve the same
        return _solved(np.concatenate([balance, balance[::-1]]))[:height]
    if width % 2:
        return _solved(np.concatenate([balance, balance[:, ::-1]], axis=1))[:, :width]
    down, right = (_curvature(side).astype(balance.dtype) for side in (height, width))
    curvature = down[:, None] + right
    curvature[0, 0] = np.inf  # the level, which differences do not tell
    surface: NDArray[Real] = np.asarray(cv2.idct(cv2.dct(balance) / curvature), balance.dtype)
    return surface


def _curvature(side: int) -> NDArray[np.float64]:
    """[side] what minus the second difference multiplies each cosine wave by."""
    curvature: NDArray[np.float64] = 4 * np.sin(np.arange(side) * (np.pi / (2 * side))) ** 2
    return curvature


def _dot(one: NDArray[Real], other: NDArray[Real]) -> float:
    return float(cv2.sumElems(cv2.multiply(one, other))[0])  # summed in float64, in one order for any threads
