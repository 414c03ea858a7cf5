"""Where boxes are going: a Kalman filter of constant velocity for many boxes at once.

The filter is that of Kalman, "A New Approach to Linear Filtering and Prediction Problems" (1960), on boxes as in SORT
(Bewley et al., "Simple Online and Realtime Tracking", 2016), with noise that grows with the box as in DeepSORT (Wojke,
Bewley and Paulus, "Simple Online and Realtime Tracking with a Deep Association Metric", 2017). It is told the centre,
width and height. No coordinate says anything about another, so that the usual 8 x 8 matrices fall apart into four of
2 x 2: position and speed.

What pushes a box is white noise of acceleration, and time may go on by any amount, so that a frame that is missing
costs certainty and no more.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

_LEAST_SIDE = 0.1  # of what it was: a box that is seen to shrink is not followed to nothing


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations, as shares of a box's longer side: the height, of somebody who stands.

    A step is the time between two frames. The defaults are for players at about 5 frames a second, whose boxes are
    drawn by hand or by a detector.
    """

    measured: float = 0.05  # of the coordinates that are told
    acceleration: float = 0.1  # how much the speed changes in one step
    speed: float = 0.3  # sides a step, of a box that has just appeared
    size: float = 0.3  # how much of all that holds for width and height, which change more slowly than the centre

    def __post_init__(self) -> None:
        if min(self.measured, self.acceleration, self.speed, self.size) <= 0:
            raise ValueError(f"every noise must be above 0, got {self}")


@dataclass(frozen=True, slots=True)
class Motion:
    """What is believed of N boxes. The four coordinates are the centre's x and y, width and height."""

    state: Floats  # [N, 4, 2] position in px, speed in px a step
    covariance: Floats  # [N, 4, 2, 2]

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, places: NDArray[np.bool_] | NDArray[np.intp]) -> "Motion":
        return Motion(self.state[places], self.covariance[places])

    @property
    def boxes(self) -> Floats:
        """[N, 4] x, y, w, h in px: the most likely places."""
        centre, size = self.state[:, :2, 0], self.state[:, 2:, 0]
        return np.concatenate([centre - size / 2, size], axis=1)


def begin(boxes: ArrayLike, *, noise: Noise) -> Motion:
    """Boxes ([N, 4] x, y, w, h in px, of positive area) that have just appeared: they stand still, as far as is known.

    >>> begin([[10, 20, 40, 100]], noise=Noise()).state[0, :, 0]
    array([ 30.,  70.,  40., 100.])
    """
    told = _told(boxes)
    scale = _scale(told, noise)
    covariance = np.zeros((len(told), 4, 2, 2))
    covariance[..., 0, 0] = (noise.measured * scale) ** 2
    covariance[..., 1, 1] = (noise.speed * scale) ** 2
    return Motion(np.stack([told, np.zeros_like(told)], axis=-1), covariance)


def predict(motion: Motion, *, steps: ArrayLike, noise: Noise) -> Motion:
    """What is believed `steps` later: one number, or one a box; 0 changes nothing.

    With F = [[1, t], [0, 1]] for t steps, state F x and covariance F P F' + Q, where Q = a² [[t³/3, t²/2], [t²/2, t]]
    is what white noise of acceleration of density a² adds up to.
    """
    t = np.broadcast_to(np.asarray(steps, np.float64), (len(motion),))
    if (t < 0).any():
        raise ValueError("time goes on: steps must be 0 or more")
    forward = np.zeros((len(motion), 1, 2, 2))
    forward[..., 0, 0] = forward[..., 1, 1] = 1
    forward[..., 0, 1] = t[:, None]
    density = (noise.acceleration * _scale(motion.state[..., 0], noise)) ** 2
    grown = np.moveaxis(np.array([[t**3 / 3, t**2 / 2], [t**2 / 2, t]]), -1, 0)
    covariance = forward @ motion.covariance @ np.swapaxes(forward, -1, -2)
    covariance += density[..., None, None] * grown[:, None]
    state = (forward @ motion.state[..., None])[..., 0]
    state[:, 2:, 0] = np.maximum(state[:, 2:, 0], _LEAST_SIDE * motion.state[:, 2:, 0])
    return Motion(state, covariance)


def correct(motion: Motion, boxes: ArrayLike, *, noise: Noise) -> Motion:
    """What is believed once the boxes ([N, 4] x, y, w, h in px) are seen: the mean of both, by their certainties."""
    told = _told(boxes)
    if told.shape != motion.state.shape[:2]:
        raise ValueError(f"there are {len(motion)} boxes under way, and {len(told)} are told")
    along = motion.covariance[..., 0]  # [N, 4, 2]: how position and speed go with the position
    variance = along[..., 0] + (noise.measured * _scale(motion.state[..., 0], noise)) ** 2
    gain = along / variance[..., None]
    state = motion.state + gain * (told - motion.state[..., 0])[..., None]
    return Motion(state, motion.covariance - gain[..., :, None] * along[..., None, :])


def joined(first: Motion, second: Motion) -> Motion:
    """Both, one after the other."""
    return Motion(np.concatenate([first.state, second.state]), np.concatenate([first.covariance, second.covariance]))


def _told(boxes: ArrayLike) -> Floats:
    """[N, 4] centre and size. Raises ValueError for boxes without area."""
    told = np.array(boxes, np.float64).reshape(-1, 4)
    if not (np.isfinite(told).all() and (told[:, 2:] > 0).all()):
        raise ValueError("boxes are x, y, w, h: finite numbers, with w and h above 0")
    told[:, :2] += told[:, 2:] / 2
    return told


def _scale(coordinates: Floats, noise: Noise) -> Floats:
    """[N, 4]: px that a share of 1 stands for."""
    longer: Floats = coordinates[:, 2:].max(axis=1, keepdims=True)
    scale: Floats = longer * np.array([1.0, 1.0, noise.size, noise.size])
    return scale
