"""Masks are cleaned, grown and softened as plain definitions say, also across the seam of a panorama."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lightmill.ops.masks import (
    folded,
    moved,
    same_things,
    share,
    tidied,
    tinted,
    widened,
    without_holes,
    without_islands,
)

SEEDS = range(12)
ALL_AROUND = np.ones((3, 3), int)


def blobs(seed: int, *, height: int = 22, width: int = 34, threshold: float = 0.5) -> NDArray[np.bool_]:
    """Irregular things of all sizes, at the borders too."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.3)
    return noise > np.quantile(noise, threshold)


def levels(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(inside, np.uint8(255), np.uint8(0))


def parts_of(inside: NDArray[np.bool_], steps: list[tuple[int, int]], *, wraps: bool) -> NDArray[np.int64]:
    """[H, W] the number of the connected part of every pixel, -1 outside: as a graph, one pixel a node."""
    height, width = inside.shape
    edges = [
        (y * width + x, (y + dy) * width + (x + dx) % width)
        for y, x in np.argwhere(inside)
        for dy, dx in steps
        if 0 <= y + dy < height and (wraps or 0 <= x + dx < width) and inside[y + dy, (x + dx) % width]
    ]
    rows, columns = np.array(edges or [(0, 0)]).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(inside.size, inside.size))
    return np.where(inside, connected_components(graph)[1].reshape(inside.shape), -1)


FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EIGHT = [*FOUR, (1, 1), (1, -1), (-1, 1), (-1, -1)]


# --- cleaned ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_islands_are_connected_parts_of_a_graph_of_pixels(seed: int, wraps: bool) -> None:
    inside = blobs(seed, threshold=0.6)
    parts = parts_of(inside, EIGHT, wraps=wraps)
    wanted = np.zeros_like(inside)
    for number in np.unique(parts[inside]):
        wanted |= (parts == number) if (parts == number).sum() >= 12 else False
    assert 0 < wanted.sum() < inside.sum()
    assert np.array_equal(without_islands(inside, min_px=12, wraps=wraps), wanted)


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_holes_are_what_does_not_reach_the_border(seed: int, wraps: bool) -> None:
    inside = blobs(seed, threshold=0.35)
    parts = parts_of(~inside, FOUR, wraps=wraps)
    border = np.concatenate([parts[0], parts[-1], *([] if wraps else [parts[:, 0], parts[:, -1]])])
    wanted = inside | ~np.isin(parts, border)
    found = without_holes(inside, wraps=wraps)
    assert np.array_equal(found, wanted)
    if not wraps:
        assert np.array_equal(found, ndimage.binary_fill_holes(inside))


def test_an_island_across_the_seam_is_one() -> None:
    inside = np.zeros((6, 20), bool)
    inside[2:4, :2] = inside[1:3, -2:] = True  # 4 + 4 pixels, which meet across the seam
    assert not without_islands(inside, min_px=8, wraps=False).any()
    assert np.array_equal(without_islands(inside, min_px=8, wraps=True), inside)
    inside[2:4, :2] = False
    inside[3:5, :2] = True  # now they meet at a corner only
    assert np.array_equal(without_islands(inside, min_px=8, wraps=True), inside)


def test_a_hole_at_the_seam_is_filled_and_one_at_the_pole_is_not() -> None:
    inside = np.zeros((9, 20), bool)
    inside[1:7, :5] = inside[1:7, -5:] = True
    inside[3:5, :2] = inside[3:5, -1:] = False
    assert np.array_equal(without_holes(inside), inside)
    assert without_holes(inside, wraps=True)[1:7, :5].all()
    ring = np.zeros((9, 20), bool)
    ring[4] = True  # all around: what lies above and below it is no hole
    assert np.array_equal(without_holes(ring, wraps=True), ring)


def test_what_lies_in_a_hole_does_not_keep_it_open() -> None:
    inside = np.zeros((12, 12), bool)
    inside[1:11, 1:11] = True
    inside[3:9, 3:9] = False
    inside[5:7, 5:7] = True
    assert tidied(levels(inside), min_px=5, fill_holes=True)[1:11, 1:11].all()


def test_soft_edges_stay_with_what_stays() -> None:
    mask = np.zeros((12, 24), np.uint8)
    mask[3:9, 3:9] = 60  # the soft edge of ...
    mask[4:8, 4:8] = 200  # ... what stays
    mask[5:7, 14:16] = 90  # a haze that belongs to nothing
    mask[3:6, 18:22], mask[4, 19:21] = 70, 255  # an island with its own soft edge
    result = tidied(mask, min_px=4)
    wanted = mask.copy()
    wanted[:, 12:] = 0
    assert np.array_equal(result, wanted)
    assert np.array_equal(tidied(mask), mask)
    assert np.array_equal(tidied(mask, fill_holes=True), mask)


def test_levels_of_holes_are_filled_whole() -> None:
    mask = np.full((7, 9), 180, np.uint8)
    mask[3, 4] = 90
    filled = tidied(mask, fill_holes=True)
    assert filled[3, 4] == 255
    assert np.array_equal(filled == mask, mask == 180)


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_level(value: int) -> None:
    mask = np.full((8, 16), value, np.uint8)
    for wraps in (False, True):
        assert np.array_equal(tidied(mask, min_px=3, fill_holes=True, wraps=wraps), mask)
        for by_px in (-3.0, 0.0, 3.0):
            assert np.array_equal(moved(mask, by_px=by_px, feather_px=4, wraps=wraps), mask)
    assert share(mask) == value / 255


# --- grown and softened ----------------------------------------------------------------------------------------------


def signed(inside: NDArray[np.bool_], *, wraps: bool) -> NDArray[np.float64]:
    """[H, W] distance to the outline in pixels, positive inside; the outline runs half-way between pixel centres."""
    wide = np.concatenate([inside] * 3, axis=1) if wraps else inside
    far = np.inf if wide.all() or not wide.any() else 0.0
    height = np.where(
        wide, ndimage.distance_transform_edt(wide) - 0.5 + far, 0.5 - far - ndimage.distance_transform_edt(~wide)
    )
    return height[:, inside.shape[1] : 2 * inside.shape[1]] if wraps else height


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("by_px", [-3.3, -1.0, -0.4, 0.0, 0.7, 2.0, 5.2])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_outlines_move_by_the_euclidean_distance(seed: int, by_px: float, wraps: bool) -> None:
    inside = blobs(seed, threshold=0.8)
    wanted = signed(inside, wraps=wraps) >= -by_px
    assert np.array_equal(moved(levels(inside), by_px=by_px, wraps=wraps), levels(wanted))


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(("by_px", "feather_px"), [(0.0, 4.0), (2.3, 7.0), (-1.4, 2.5), (1.2, 0.3)])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_edges_rise_in_a_straight_line(seed: int, by_px: float, feather_px: float, wraps: bool) -> None:
    inside = blobs(seed, threshold=0.8)
    ramp = 0.5 + (signed(inside, wraps=wraps) + by_px) / feather_px
    soft = moved(levels(inside), by_px=by_px, feather_px=feather_px, wraps=wraps)
    assert np.abs(soft - 255 * np.clip(ramp, 0, 1)).max() <= 0.51
    hard = moved(levels(inside), by_px=by_px, wraps=wraps)
    assert np.array_equal(soft >= 128, hard == 255)  # feathering moves no outline


@pytest.mark.parametrize("shift", [1, 7, 17, 33])
def test_a_panorama_has_no_special_column(shift: int) -> None:
    mask = levels(blobs(3, threshold=0.7))
    for options in ({"by_px": 2.5}, {"by_px": -1.5}, {"by_px": 1.0, "feather_px": 6.0}):
        turned = moved(np.roll(mask, shift, axis=1), wraps=True, **options)
        assert np.array_equal(turned, np.roll(moved(mask, wraps=True, **options), shift, axis=1))
    cleaned = tidied(np.roll(mask, shift, axis=1), min_px=9, fill_holes=True, wraps=True)
    assert np.array_equal(cleaned, np.roll(tidied(mask, min_px=9, fill_holes=True, wraps=True), shift, axis=1))


def test_growing_farther_than_the_panorama_is_wide_ends() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[4, 0] = 255
    assert (moved(mask, by_px=30, wraps=True) == 255).all()


def test_the_border_of_a_picture_is_no_edge() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[8:, 5:15] = 255
    shrunk = moved(mask, by_px=-2)
    assert shrunk[-1, 7:13].all()
    assert share(shrunk) == pytest.approx((12 - 2) * (10 - 4) / 400)


# --- across the seam -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, 1, 5, 20])
def test_a_panorama_goes_on_over_its_seam(margin: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (4, 20, 3), np.uint8)
    wide = widened(picture, margin)
    assert wide.flags.c_contiguous
    assert np.array_equal(wide, np.pad(picture, ((0, 0), (margin, margin), (0, 0)), mode="wrap"))
    assert np.array_equal(folded(wide[..., 0], margin), picture[..., 0])


def test_of_two_levels_of_a_column_the_higher_counts() -> None:
    wide = np.zeros((1, 14), np.uint8)  # 10 columns and 2 beyond either side
    wide[0, 0], wide[0, 2], wide[0, 12] = 7, 30, 40
    assert folded(wide, 2).tolist() == [[40, 0, 0, 0, 0, 0, 0, 0, 7, 0]]


def box(x: slice, y: slice = slice(2, 6)) -> NDArray[np.uint8]:
    """In a panorama of 10 x 40 that was widened by 8 on either side."""
    mask = np.zeros((10, 56), np.uint8)
    mask[y, x] = 255
    return mask


def test_a_thing_that_was_found_on_both_sides_is_one() -> None:
    here, there = box(slice(5, 12)), box(slice(45, 52))
    inner = box(slice(20, 30))
    assert same_things([here, inner, there], ["a", "a", "a"], margin=8) == [[0, 2], [1]]
    assert same_things([there, here], ["a", "b"], margin=8) == [[0], [1]]  # a find of another prompt


def test_a_copy_that_is_cut_by_the_edge_belongs_to_the_whole() -> None:
    whole, cut = box(slice(30, 44)), box(slice(0, 4))  # columns -10..3 from the seam; the first show its last four
    assert same_things([whole, cut], ["a", "a"], margin=8) == [[0, 1]]


def test_a_remnant_alone_is_left_out_and_a_thing_in_the_margin_is_not() -> None:
    assert same_things([box(slice(0, 4))], ["a"], margin=8) == []
    assert same_things([box(slice(1, 5))], ["a"], margin=8) == [[0]]
    assert same_things([box(slice(0, 12))], ["a"], margin=8) == [[0]]


def test_a_small_thing_in_front_of_a_large_one_stays_one_of_its_own() -> None:
    large = [box(slice(2, 14), slice(0, 10)), box(slice(42, 54), slice(0, 10))]
    small = [box(slice(7, 10), slice(4, 6)), box(slice(47, 50), slice(4, 6))]
    assert same_things([*large, *small], ["a"] * 4, margin=8) == [[0, 1], [2, 3]]


def test_without_a_margin_nothing_is_joined() -> None:
    assert same_things([box(slice(0, 4)), box(slice(0, 4))], ["a", "a"], margin=0) == [[0], [1]]


# --- shown -----------------------------------------------------------------------------------------------------------


def test_a_preview_is_small_and_coloured_where_something_was_found() -> None:
    picture = np.full((200, 400, 3), 128, np.uint8)
    mask = np.zeros((200, 400), np.uint8)
    mask[50:150, 100:200] = 255
    shown = tinted(picture, [mask, np.fliplr(mask)], longest_px=100)
    assert shown.shape == (50, 100, 3)
    assert (shown[:10] == 128).all()
    one, other = shown[25, 35].astype(int), shown[25, 65].astype(int)
    assert np.abs(one - 128).max() > 40
    assert np.abs(other - one).max() > 40
    assert np.array_equal(tinted(picture, [], longest_px=1000), picture)
