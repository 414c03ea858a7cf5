"""Boxes: held against loops over pixels, over pairs, and over the rows of a track."""

import math
import time
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.ops.boxes import areas, clean_tracks, coverage, enlarge, intersections, iou, places_in

QUARTERS = st.integers(-40, 80).map(lambda number: number / 4)
SIDES = st.integers(-4, 60).map(lambda number: number / 4)
BOX = st.tuples(QUARTERS, QUARTERS, SIDES, SIDES)
GRID = (np.arange(-64, 256) + 0.5) / 4  # the middles of quarter pixels


def painted(box: tuple[float, ...]) -> np.ndarray:
    """[320, 320] quarter pixels that lie in the box."""
    x, y, w, h = box
    return ((x <= GRID) & (x + w > GRID)) & ((y <= GRID) & (y + h > GRID))[:, None]


# --- areas and what boxes share --------------------------------------------------------------------------------------


@given(BOX, BOX)
def test_shared_areas_are_what_counting_quarter_pixels_finds(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    a, b = painted(one), painted(other)
    both = (a & b).sum() / 16
    assert areas(one) == a.sum() / 16
    assert intersections(one, other) == both
    assert iou(one, other) == pytest.approx(both / ((a | b).sum() / 16) if (a | b).any() else 0)
    covered = [both / (part.sum() / 16) if part.any() else 0 for part in (a, b)]
    assert [float(share) for share in coverage(one, other)] == pytest.approx(covered)


def test_boxes_are_broadcast_to_all_pairs() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.uniform(0, 50, (7, 4)), rng.uniform(0, 50, (5, 4))
    pairs = [[float(iou(a, b)) for b in other] for a in one]
    np.testing.assert_allclose(iou(one[:, None], other), pairs)


def test_a_large_box_that_holds_a_small_one_covers_it_wholly_whatever_its_iou() -> None:
    """A4.17: intersection over union alone calls this pair far apart."""
    large, small = [0, 0, 400, 400], [100, 100, 30, 60]
    assert iou(large, small) < 0.012
    assert coverage(large, small)[1] == 1


def test_no_share_is_above_one() -> None:
    box = [0.1, 0.1, 0.2, 0.3]
    assert iou(box, box) <= 1
    assert all(share <= 1 for share in coverage(box, np.array(box) * 3))


# --- into the frame --------------------------------------------------------------------------------------------------


@given(BOX, st.sampled_from([Fraction(1), Fraction(6, 5), Fraction(3, 2)]), st.integers(1, 24), st.integers(1, 24))
def test_a_place_is_every_pixel_that_the_enlarged_box_touches(
    box: tuple[float, ...], expand: Fraction, height: int, width: int
) -> None:
    """In exact arithmetic, pixel by pixel."""
    x, y, w, h = (Fraction(number) for number in box)
    grown = [(x - w * (expand - 1) / 2, w * expand), (y - h * (expand - 1) / 2, h * expand)]
    columns, rows = (
        [at for at in range(most) if first < at + 1 and first + side > at]
        for (first, side), most in zip(grown, (width, height), strict=True)
    )
    is_inside = w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
    found = places_in([box], (height, width), expand=float(expand))
    assert found.inside.tolist() == [is_inside]
    wanted = [columns[0], rows[0], len(columns), len(rows)] if is_inside else [0, 0, 0, 0]
    assert found.places.tolist() == [wanted]
    sticks_out = x < 0 or y < 0 or x + w > width or y + h > height
    assert found.clamped.tolist() == [is_inside and sticks_out]


def test_enlarging_keeps_the_centre() -> None:
    boxes = np.random.default_rng(2).uniform(1, 900, (100, 4))
    larger = enlarge(boxes, 1.2)
    np.testing.assert_allclose(larger[:, :2] + larger[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    np.testing.assert_allclose(areas(larger), 1.44 * areas(boxes))


def test_rounding_errors_of_floats_add_no_row() -> None:
    """(1.2 - 1) / 2 is not a tenth: 100 px at 50 still become 120 at 40, not 121 or 122."""
    assert places_in([[50, 50, 100, 100]], (500, 500), expand=1.2).places.tolist() == [[40, 40, 120, 120]]
    assert places_in([[0.1 + 0.2, 0, 0.7, 1]], (9, 9)).places.tolist() == [[0, 0, 1, 1]]


def test_whole_boxes_stay_as_they_are() -> None:
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.integers(0, 500, (50, 2)), rng.integers(1, 300, (50, 2))], axis=1)
    found = places_in(boxes, (1000, 1000))
    assert (found.places == boxes).all()
    assert not found.clamped.any()


def test_every_box_may_have_a_frame_of_its_own() -> None:
    found = places_in([[5, 5, 10, 10]] * 3, [(20, 20), (8, 7), (5, 50)])
    assert found.places.tolist() == [[5, 5, 10, 10], [5, 5, 2, 3], [0, 0, 0, 0]]
    assert found.inside.tolist() == [True, True, False]
    assert found.clamped.tolist() == [False, True, False]


# --- tracks ----------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from([0.0, 1.0, 2.5, 4.0, 9.0, math.nan]), st.integers(0, 9)), max_size=14
)


def by_hand(
    rows: list[tuple[int, float, int]], boxes: np.ndarray, how: str
) -> tuple[np.ndarray, list[bool], list[bool]]:
    """(boxes, outlier, mended), one row at a time."""
    made, outlier, mended = boxes.copy(), [], []
    sizes = [float(w * h) if w > 0 and h > 0 else 0.0 for _, _, w, h in boxes]
    for at, (track, _, _) in enumerate(rows):
        mates = [sizes[other] for other, (t, _, _) in enumerate(rows) if t == track and sizes[other]]
        outlier.append(bool(how != "off" and track >= 0 and sizes[at] and sizes[at] > 2 * median(mates)))
    for at, (track, when, _) in enumerate(rows):
        good = [
            (t, other)
            for other, (k, t, _) in enumerate(rows)
            if k == track and not outlier[other] and sizes[other] and not math.isnan(t)
        ]
        mend = how == "interpolate" and outlier[at] and not math.isnan(when) and bool(good)
        mended.append(mend)
        if mend:
            made[at] = between(good, when, boxes)
    return made, outlier, mended


def between(good: list[tuple[float, int]], when: float, boxes: np.ndarray) -> np.ndarray:
    before = [pair for pair in good if pair[0] <= when]
    behind = [pair for pair in good if pair[0] >= when]
    if not before:
        return boxes[min(behind)[1]]
    if not behind:
        return boxes[max(before)[1]]
    (t0, one), (t1, other) = max(before), min(behind)
    share = (when - t0) / (t1 - t0) if t1 > t0 else 0
    return boxes[one] + share * (boxes[other] - boxes[one])


@given(ROWS, st.sampled_from(["drop", "interpolate", "off"]))
def test_cleaning_is_what_one_row_at_a_time_gives(rows: list[tuple[int, float, int]], how: str) -> None:
    times = [when for _, when, _ in rows]
    if how == "interpolate" and any((a[0], a[1]) == (b[0], b[1]) for i, a in enumerate(rows) for b in rows[:i]):
        times = [when + number / 64 for number, when in enumerate(times)]  # of two at one time either may be the nearer
        rows = [(track, when, side) for (track, _, side), when in zip(rows, times, strict=True)]
    boxes = np.array([[10 * at, 3 * at, side, side + 1] for at, (_, _, side) in enumerate(rows)], float).reshape(-1, 4)
    found = clean_tracks(boxes, np.array([t for t, _, _ in rows], int), np.array(times, float), how=how)
    made, outlier, mended = by_hand(rows, boxes, how)
    assert found.outlier.tolist() == outlier
    assert found.mended.tolist() == mended
    assert found.dropped.tolist() == [o and not m for o, m in zip(outlier, mended, strict=True)]
    np.testing.assert_allclose(found.boxes, made)


def test_interpolation_goes_by_time_not_by_place() -> None:
    """Research A1: the mean of the two neighbours is wrong where frames are missing. One of eight steps, not half."""
    boxes = [[0, 0, 10, 20], [500, 500, 90, 90], [80, 160, 18, 36], [90, 170, 18, 36]]
    found = clean_tracks(boxes, [0] * 4, [10, 11, 18, 19], how="interpolate")
    assert found.outlier.tolist() == [False, True, False, False]
    assert found.boxes[1].tolist() == [10, 20, 11, 22]
    assert found.ratio[1] == pytest.approx(90 * 90 / (18 * 36))
    assert not found.dropped.any()


def test_at_the_ends_of_a_track_the_nearest_is_taken() -> None:
    boxes = [[1, 1, 99, 99], [5, 5, 10, 10], [6, 6, 10, 10], [7, 7, 11, 11], [2, 2, 99, 99]]
    found = clean_tracks(boxes, [3] * 5, [0, 1, 2, 3, 9], how="interpolate")
    assert found.boxes[0].tolist() == boxes[1]
    assert found.boxes[4].tolist() == boxes[3]


def test_rows_need_not_be_in_order_and_others_tracks_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    tracks, times = rng.integers(-1, 40, 3000), rng.permutation(3000).astype(float)
    boxes = np.concatenate([rng.uniform(0, 900, (3000, 2)), rng.uniform(40, 90, (3000, 2))], axis=1)
    boxes[rng.choice(3000, 60), 2:] *= 3
    whole = clean_tracks(boxes, tracks, times, how="interpolate")
    shuffle = rng.permutation(3000)
    again = clean_tracks(boxes[shuffle], tracks[shuffle], times[shuffle], how="interpolate")
    assert (again.boxes == whole.boxes[shuffle]).all()
    for track in (0, 17):
        alone = clean_tracks(boxes[tracks == track], tracks[tracks == track], times[tracks == track], how="interpolate")
        assert (alone.boxes == whole.boxes[tracks == track]).all()
    assert whole.mended.sum() > 40
    assert not whole.outlier[tracks < 0].any()


def test_what_is_given_is_not_changed() -> None:
    boxes = np.array([[1.0, 1, 99, 99], [5, 5, 10, 10], [6, 6, 10, 10]])
    before = boxes.copy()
    clean_tracks(boxes, [0, 0, 0], [0, 1, 2], how="interpolate")
    assert (boxes == before).all()


def test_a_million_rows_take_seconds() -> None:
    rng = np.random.default_rng(6)
    boxes = rng.uniform(1, 900, (1_000_000, 4))
    tracks, times = rng.integers(0, 50_000, 1_000_000), rng.uniform(0, 999, 1_000_000)
    began = time.process_time()
    clean_tracks(boxes, tracks, times, how="interpolate")
    places_in(boxes, (1080, 1920), expand=1.2)
    assert time.process_time() - began < 10  # 0.8 s where nothing else runs


@pytest.mark.parametrize(
    ("tracks", "limit", "says"),
    [
        ([0], 2.0, "there are 2 boxes, tracks of \\(1,\\) and times of \\(2,\\)"),
        ([0, 0], 0.5, "a limit is 1 or more times the median area, got 0.5"),
        ([0, 0], math.nan, "a limit is 1 or more times the median area, got nan"),
    ],
)
def test_what_does_not_fit_is_refused(tracks: list[int], limit: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        clean_tracks([[0, 0, 1, 1]] * 2, tracks, [0, 1], how="drop", limit=limit)
