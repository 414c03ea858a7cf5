"""Tiles: every pixel is covered, weights add up to exactly 1, and joining is the plain weighted sum of all tiles."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightmill.ops.tiles import Stretch, across, downwards, stretches

SIDES = [(length, tile) for tile in (1, 2, 3, 4, 5, 7, 8, 31, 64, 100) for length in range(1, 12 * tile, 3)]


def summed(found: list[Stretch], length: int) -> NDArray[np.float32]:
    total = np.zeros(length, np.float32)
    for one in found:
        total[one.first : one.end] += one.weights
    return total


def test_weights_are_a_partition_of_unity_exactly() -> None:
    for length, tile in SIDES:
        assert (summed(stretches(length, tile=tile), length) == 1).all(), (length, tile)


def test_so_are_those_of_the_plane_in_float32() -> None:
    rows, columns = stretches(231, tile=64), stretches(117, tile=48)
    total = np.zeros((231, 117), np.float32)
    for row in rows:
        for column in columns:
            total[row.first : row.end, column.first : column.end] += row.weights[:, None] * column.weights
    assert (total == 1).all()


def test_tiles_lie_in_the_picture_and_at_most_two_meet() -> None:
    for length, tile in SIDES:
        found = stretches(length, tile=tile)
        side = min(length, tile)
        assert found[0].start == 0
        assert found[-1].start + side == length
        counted = np.zeros(length, int)
        for one in found:
            assert one.first >= one.start
            assert one.end <= one.start + side
            counted[one.first : one.end] += 1
        assert counted.min() == 1
        assert counted.max() <= 2


@pytest.mark.parametrize(("length", "tile"), [(1000, 64), (1001, 64), (8192, 480), (131, 128)])
def test_there_are_no_more_tiles_than_a_quarter_of_overlap_wants(length: int, tile: int) -> None:
    found = stretches(length, tile=tile)
    overlaps = [one.start + tile - other.start for one, other in pairwise(found)]
    assert min(overlaps) >= tile // 4
    assert (len(found) - 2) * (tile - tile // 4) + tile < length  # one fewer would not reach


def test_a_tile_fades_smoothly_and_is_not_heard_at_its_border() -> None:
    first, second, *_ = stretches(10 * 64, tile=64)
    rising = second.weights[: first.end - second.first]
    assert len(rising) == 8
    assert (np.diff(rising) > 0).all()
    assert np.abs(np.diff(rising, 2)).max() < 0.07  # no corner in it
    assert np.allclose(rising + rising[::-1], 1)
    assert second.first >= second.start + 4
    assert first.end <= first.start + 60


@pytest.mark.parametrize("size_hw", [(40, 40), (37, 150), (150, 33), (201, 133)])
def test_joined_tiles_are_their_weighted_sum(size_hw: tuple[int, int]) -> None:
    """Against a loop over all tiles and the whole plane in float64; with numpy and with torch."""
    (height, width), tile = size_hw, 40
    rng = np.random.default_rng(5)
    rows, columns = stretches(height, tile=tile), stretches(width, tile=tile)
    high, wide = min(tile, height), min(tile, width)
    tiles = rng.random((len(rows), len(columns), 3, high, wide)).astype(np.float32)
    wanted = np.zeros((3, height, width))
    for row, strip in zip(rows, tiles, strict=True):
        for column, found in zip(columns, strip, strict=True):
            plane = np.zeros((height, width))
            plane[row.first : row.end, column.first : column.end] = np.outer(row.weights, column.weights)
            for number, one in enumerate(found):
                whole = np.zeros((height, width))
                whole[row.start : row.start + high, column.start : column.start + wide] = one
                wanted[number] += plane * whole
    done = 0
    got = np.empty((3, height, width), np.float32)
    for first, part in downwards((across(strip, columns) for strip in tiles), rows):
        assert first == done
        done += part.shape[1]
        got[:, first:done] = part
    assert done == height
    assert np.allclose(got, wanted, atol=1e-6)
    parts = [part for _, part in downwards((across(torch.from_numpy(strip), columns) for strip in tiles), rows)]
    assert np.array_equal(torch.cat(parts, dim=1).numpy(), got)


def test_what_all_tiles_agree_on_comes_out_as_it_was() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 150, 170)).astype(np.float32) / 256
    rows, columns = stretches(150, tile=64), stretches(170, tile=64)

    def strips() -> Iterator[NDArray[np.float32]]:
        for row in rows:
            cut = picture[:, row.start : row.start + 64]
            yield across((cut[..., one.start : one.start + 64] for one in columns), columns)

    assert np.array_equal(np.concatenate([part for _, part in downwards(strips(), rows)], axis=1), picture)


def test_nothing_has_no_tiles() -> None:
    with pytest.raises(ValueError, match="have 1 px or more, got 0 and 8"):
        stretches(0, tile=8)


def test_missing_tiles_are_told() -> None:
    columns = stretches(100, tile=64)
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        across([np.zeros((1, 4, 64), np.float32)], columns)
