"""The best pairs of two sides, where nobody has to be paired."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightmill.errors import MissingExtra

if TYPE_CHECKING:
    from types import ModuleType


def best_pairs(gain: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns) of the pairs with the greatest sum of gains, in order of rows; each is in one pair at most.

    gain: [R, C] numbers; a pair whose gain is not above 0, or is not a number, is never made. Exact (the Hungarian
    method, as scipy has it after Crouse, "On implementing 2D rectangular assignment algorithms", 2016). The first best
    is not always part of it:

    >>> best_pairs([[9, 8], [7, 1]])
    (array([0, 1]), array([1, 0]))

    Raises MissingExtra without scipy.
    """
    worth = np.asarray(gain, np.float64)
    worth = np.where(worth > 0, worth, 0.0)  # not a number: not above 0
    rows, columns = scipy_optimize().linear_sum_assignment(worth, maximize=True)
    made = worth[rows, columns] > 0
    return rows[made], columns[made]


def scipy_optimize() -> "ModuleType | Any":
    """The part of scipy that assigns. Raises MissingExtra where it is not installed."""
    try:
        from scipy import optimize
    except ImportError as error:
        raise MissingExtra("assignments need SciPy; run: pip install 'lightmill[train]'") from error
    return optimize
