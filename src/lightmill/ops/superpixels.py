"""Superpixels: a picture as a few hundred connected patches of one colour each, and who touches whom.

SLIC (Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", 2012): k-means in colour and
place, where a pixel is compared only with the centres around it.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

_ROUNDS = 5  # of k-means: hardly a pixel changes its centre after that
_LEAST_PX = 16  # of a patch, on average
_LEAST_SHARE = 0.25  # of a patch's even share: smaller pieces join a neighbour


def slic(lab: NDArray[np.float32], *, count: int, compactness: float = 12.0) -> NDArray[np.int32]:
    """[H, W] the patch of each pixel: every label from 0 to N-1 occurs and is 4-connected, N is about `count`.

    A patch has 16 px on average, or more. lab: float32 [H, W, 3] CIELAB, L 0..100. compactness: how many units of
    colour weigh as much as the distance between two centres; more makes rounder patches. Time grows with the pixels:
    made for long sides of 200 to 400.
    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"a picture is cut into 1 patch or more, got count={count}")
    height, width = lab.shape[:2]
    grid = _Grid(lab.shape[:2], max(1, min(count, height * width // _LEAST_PX)))
    features = _features(lab, compactness / grid.step)
    nearest = grid.cell
    centres = _means(features, nearest, grid.count)
    for _ in range(_ROUNDS):
        nearest = grid.nearest(features, centres)
        centres = _means(features, nearest, grid.count, otherwise=centres)
    return _connected(nearest, least=_LEAST_SHARE * nearest.size / grid.count)


class _Grid:
    """The cells that patches start from; a pixel may join the centres of its own cell and of the eight around it."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        height, width = shape
        self.step = math.sqrt(height * width / count)
        self.rows, self.columns = max(1, round(height / self.step)), max(1, round(width / self.step))
        self.count = self.rows * self.columns
        self._row = (np.arange(height) * self.rows // height).astype(np.int32)
        self._column = (np.arange(width) * self.columns // width).astype(np.int32)
        self.cell = (self._row[:, None] * self.columns + self._column).astype(np.int32)

    def nearest(self, features: list[NDArray[np.float32]], centres: NDArray[np.float32]) -> NDArray[np.int32]:
        """[H, W] the nearest of nine centres [F, N] for pixels given as F pictures [H, W]."""
        least = np.full(self.cell.shape, np.inf, np.float32)
        nearest = self.cell.copy()
        # |p - c|^2 less |p|^2, which is the same for all centres
        squares, doubled = np.einsum("fn,fn->n", centres, centres), 2 * centres
        part = np.empty(self.cell.shape, np.float32)
        for rows, columns in self._around():
            centre = rows[:, None] * np.int32(self.columns) + columns
            distance = squares.take(centre)
            for feature, middle in zip(features, doubled, strict=True):
                np.multiply(feature, middle.take(centre), out=part)
                distance -= part
            closer = distance < least
            np.copyto(least, distance, where=closer)
            np.copyto(nearest, centre, where=closer)
        return nearest

    def _around(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        for down in (0, -1, 1):
            for right in (0, -1, 1):
                yield (
                    np.clip(self._row + down, 0, self.rows - 1),
                    np.clip(self._column + right, 0, self.columns - 1),
                )


def _features(lab: NDArray[np.float32], per_px: float) -> list[NDArray[np.float32]]:
    """Colour and place of each pixel, in units of colour: five pictures [H, W]. Centred, so that squares stay small."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    colours = (lab[..., i] - lab[..., i].mean() for i in range(3))
    return [*colours, (y - height / 2) * np.float32(per_px), (x - width / 2) * np.float32(per_px)]


def _means(
    features: list[NDArray[np.float32]],
    label: NDArray[np.int32],
    count: int,
    *,
    otherwise: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """[F, count] mean of each label; a label that no pixel has keeps what it was."""
    flat = label.ravel()
    size = np.bincount(flat, minlength=count)
    sums = np.stack([np.bincount(flat, weights=each.ravel(), minlength=count) for each in features])
    means = (sums / np.maximum(size, 1)).astype(np.float32)
    return means if otherwise is None else np.where(size > 0, means, otherwise)


def patch_means(pixels: NDArray[np.float32], label: NDArray[np.int32]) -> NDArray[np.float32]:
    """[N, C] mean of the pixels [H, W, C] of each label 0..N-1.

    >>> patch_means(np.array([[[1.0], [3.0], [8.0]]], np.float32), np.array([[0, 0, 1]], np.int32)).tolist()
    [[2.0], [8.0]]
    """
    channels = [pixels[..., i] for i in range(pixels.shape[2])]
    return np.ascontiguousarray(_means(channels, label, int(label.max()) + 1).T)


def neighbours(label: NDArray[np.int32]) -> NDArray[np.int32]:
    """[E, 2] the pairs of labels that touch, side by side or one above the other; smaller label first, sorted, once.

    >>> neighbours(np.array([[0, 0, 1], [2, 2, 1]], np.int32)).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    pairs, _ = _borders(label)
    once = pairs[pairs[:, 0] < pairs[:, 1]]
    return once.astype(np.int32)


def _borders(label: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[E, 2] touching labels, each pair both ways round, sorted; [E] the length of their common border, px."""
    count = int(label.max()) + 1
    one = np.concatenate([label[:, :-1].ravel(), label[:-1].ravel()]).astype(np.int64)
    other = np.concatenate([label[:, 1:].ravel(), label[1:].ravel()]).astype(np.int64)
    differ = one != other
    one, other = one[differ], other[differ]
    codes, length = np.unique(np.concatenate([one * count + other, other * count + one]), return_counts=True)
    return np.stack([codes // count, codes % count], axis=1), length


def _connected(label: NDArray[np.int32], *, least: float) -> NDArray[np.int32]:
    """The patches apart, each in one piece; pieces below `least` px join the neighbour they share most border with."""
    piece = _pieces(label)
    while True:
        size = np.bincount(piece.ravel())
        small = size < min(least, size.max())
        if not small.any():
            return piece
        pairs, length = _borders(piece)
        usable = small[pairs[:, 0]] & ~small[pairs[:, 1]]
        pairs, length = pairs[usable], length[usable]
        new = np.arange(size.size)
        order = np.argsort(length, kind="stable")  # the longest border is written last
        new[pairs[order, 0]] = pairs[order, 1]
        kept, rank = np.unique(new, return_inverse=True)
        piece = rank.astype(np.int32)[piece]
        if kept.size == 1:
            return piece


def _pieces(label: NDArray[np.int32]) -> NDArray[np.int32]:
    """[H, W] 4-connected pieces of equal label, numbered from 0.

    OpenCV finds pieces of what is not 0. So the picture is spread out: pixels on even rows and columns, and between
    two of them a bridge where their labels are equal.
    """
    height, width = label.shape
    bridges = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    bridges[::2, ::2] = 1
    bridges[::2, 1::2] = label[:, 1:] == label[:, :-1]
    bridges[1::2, ::2] = label[1:] == label[:-1]
    _, number = cv2.connectedComponents(bridges, connectivity=4, ltype=cv2.CV_32S)
    return np.ascontiguousarray(number[::2, ::2]).astype(np.int32) - 1
