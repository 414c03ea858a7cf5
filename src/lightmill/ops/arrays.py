"""What lets one formula work on numpy arrays and torch tensors: constants and modules of the same kind as an array.

Methods and operators that both share do the rest. torch is not imported: who hands in a tensor has done so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")  # one kind throughout a call


def namespace(array: Array) -> Any:
    """The module that the array is of: numpy or torch.

    >>> namespace(np.zeros(3)).__name__
    'numpy'
    """
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def same_kind(values: ArrayLike | Array, *, reference: Array) -> Array:
    """Numbers, or an array of either kind, as an array of the reference's kind, dtype and device.

    >>> same_kind([1, 2], reference=np.zeros(3, np.float32))
    array([1., 2.], dtype=float32)
    """
    if isinstance(reference, np.ndarray):
        return np.asarray(values, reference.dtype)
    torch = namespace(reference)
    if not isinstance(values, torch.Tensor):
        values = np.array(values)  # a copy: torch warns of arrays that are read-only
    tensor: Array = torch.as_tensor(values, dtype=reference.dtype, device=reference.device)
    return tensor
