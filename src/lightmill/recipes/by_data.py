"""What the data of `train segment` say about its network: classes, their weights, and the size of pictures."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lightmill.data.index import Index
from lightmill.data.labels import BACKGROUND, Labels, MaskFiles
from lightmill.data.splits import Splits
from lightmill.errors import ItemError
from lightmill.recipes.check_classes import Classes, Counts

_LOOKED_AT = 2000  # masks, spread over all of them, that shares of classes are worked out from
_SIDE, _STEP = 512, 8  # px: pictures are brought to about so many a side, in steps


def student_names(labels: Labels) -> tuple[str, ...]:
    """The classes of a network for these labels: of a background and one thing more, only that."""
    names = labels.names
    if len(names) == 2 and (names[0] == BACKGROUND or (isinstance(labels, MaskFiles) and labels.binary)):
        return names[1:]
    return names


def class_shares(index: Index, labels: Labels, rows: NDArray[np.int64], *, threads: int) -> Mapping[int, float]:
    """Class -> its share of the pixels of pictures that show it, by up to 2,000 masks of those rows.

    Masks that cannot be read are met, and named, in training.
    """
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(np.int64)]
    heights, widths = (index.arrow[name].to_numpy() for name in ("height", "width"))

    def counts(row: int) -> Counts:
        try:
            found = labels.read(row, (int(heights[row]), int(widths[row]))).map
        except ItemError:
            return {}
        pixels = np.bincount(found.ravel(), minlength=256)
        return {number: int(pixels[number]) for number in np.flatnonzero(pixels).tolist()}

    with ThreadPoolExecutor(threads) as pool:
        return Classes.of(pool.map(counts, some.tolist()), labels.names).shares


def class_weights(shares: Mapping[int, float], classes: int, *, power: float) -> tuple[float, ...]:
    """By median frequency (Eigen and Fergus, 2015), to a power; 1 for a class that is nowhere, never beyond 0.1 to 10.

    `shares`: class -> its share of the pixels of pictures that show it.

    >>> class_weights({0: 0.64, 1: 0.16, 2: 0.01}, 4, power=0.5)
    (0.5, 1.0, 4.0, 1.0)
    """
    middle = median(shares.values()) if shares else 1.0
    found = ((middle / shares[number]) ** power if number in shares else 1.0 for number in range(classes))
    return tuple(round(min(max(weight, 0.1), 10.0), 6) for weight in found)


def fitting_size(heights: NDArray[np.int32], widths: NDArray[np.int32]) -> tuple[int, int]:
    """(height, width) of the middle of all pictures, reduced to the area of 512 x 512 px where it is larger.

    >>> fitting_size(np.array([360, 360]), np.array([480, 480])), fitting_size(np.array([3000]), np.array([4000]))
    ((360, 480), (440, 592))
    """
    known = (heights > 0) & (widths > 0)
    if not known.any():
        return _SIDE, _SIDE
    height, width = float(np.median(heights[known])), float(np.median(widths[known]))
    scale = min(1.0, _SIDE / (height * width) ** 0.5)
    high, wide = (max(_STEP, round(side * scale / _STEP) * _STEP) for side in (height, width))
    return high, wide


def rows_digest(index: Index, labels: Labels, splits: Splits) -> str:
    """Stands for which pictures there are in which split, and how their masks are read."""
    images, masks = (index.arrow[name].to_pylist() for name in ("image", "mask"))
    found = blake2b(labels.rules.encode(), digest_size=12)
    for name, rows in (("train", splits.train), ("val", splits.val)):
        for row in rows.tolist():
            found.update(f"{name}\0{images[row]}\0{masks[row]}\0".encode())
    return found.hexdigest()
