"""Negatives against loops over all pairs: nobody in the background, too little of anybody in partials."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.ops.negatives import CORE, Negatives, draw_background, draw_partial

Match = tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]


def match(frames: int, players: int, *, seed: int = 0, hw: tuple[int, int] = (1080, 1920), side: float = 1.0) -> Match:
    """(sizes_hw, boxes, frame_of_box, keys): players of 50-90 x 120-200 px times `side`, anywhere."""
    rng = np.random.default_rng(seed)
    count = frames * players
    w, h = rng.uniform(50, 90, count) * side, rng.uniform(120, 200, count) * side
    x, y = rng.uniform(0, hw[1] - w), rng.uniform(0, hw[0] - h)
    frame = np.repeat(np.arange(frames), players)
    keys = [f"Q1-000__side__00__{number:02d}.jpg" for number in range(frames)]
    return np.tile(hw, (frames, 1)), np.stack([x, y, w, h], axis=1), frame, keys


def shared(one: np.ndarray, other: np.ndarray) -> float:
    """Area of the intersection of two boxes x, y, w, h."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def coverage(one: np.ndarray, other: np.ndarray) -> float:
    """The greater of intersection / own area of both."""
    return shared(one, other) / min(one[2] * one[3], other[2] * other[3])


def same(one: Negatives, other: Negatives) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("frame", "box", "parent", "overlap")
    )


# --- background ------------------------------------------------------------------------------------------------------


def test_no_background_contains_or_overlaps_a_player() -> None:
    """A4.17: judged by coverage of either box; IoU below 0.1 lets 17 % of boxes contain a whole player."""
    sizes, boxes, frame, keys = match(300, 10)
    drawn = draw_background(sizes, boxes, frame, keys=keys, per_frame=2)
    assert len(drawn) == 600
    pairs = zip(drawn.frame, drawn.box, strict=True)
    assert max(coverage(box, player) for at, box in pairs for player in boxes[frame == at]) == 0
    assert (drawn.parent == -1).all()
    assert (drawn.overlap == 0).all()


def test_a_large_background_box_may_not_hold_a_small_player() -> None:
    """A4.17: the ball carrier of 20 x 40 px in a box of half the frame has an IoU of 0.0015."""
    sizes, keys = np.array([[1080, 1920]] * 200), [f"{number}" for number in range(200)]
    boxes = np.tile([950.0, 520.0, 20.0, 40.0], (200, 1))
    drawn = draw_background(sizes, boxes, np.arange(200), keys=keys, size_range=((0.3, 0.6), (0.3, 0.6)))
    assert len(drawn) > 150
    assert max(coverage(box, boxes[0]) for box in drawn.box) == 0


@given(
    seed=st.integers(0, 10_000),
    players=st.integers(1, 30),
    limit=st.sampled_from([0.0, 0.05, 0.3]),
    side=st.sampled_from([0.2, 1.0, 4.0]),
    expand=st.sampled_from([1.0, 1.2]),
)
@settings(max_examples=60)
def test_background_is_what_a_loop_over_all_pairs_allows(
    seed: int, players: int, limit: float, side: float, expand: float
) -> None:
    sizes, boxes, frame, keys = match(5, players, seed=seed, side=side)
    mixed = np.random.default_rng(seed).permutation(len(boxes))
    boxes, frame = boxes[mixed], frame[mixed]
    drawn = draw_background(sizes, boxes, frame, keys=keys, per_frame=3, limit=limit, expand=expand)
    for at, box, overlap in zip(drawn.frame, drawn.box, drawn.overlap, strict=True):
        worst = max(coverage(box, player) for player in boxes[frame == at])
        assert worst <= limit
        assert overlap == pytest.approx(worst)
        assert (box == np.rint(box)).all()
        assert box.min() >= 0
        assert box[0] + box[2] <= 1920
        assert box[1] + box[3] <= 1080
        like = boxes[frame == at, 2:] * expand
        ratio = box[2:] / np.minimum(like, (1920, 1080))  # too large ones are cut to the frame
        off = 0.5 / like  # rounding
        assert ((1 / 1.25 - off <= ratio) & (ratio <= 1.25 + off)).all(axis=1).any()
    assert np.array_equal(np.bincount(drawn.frame, minlength=5) + drawn.missing, np.full(5, 3))


def test_background_lies_anywhere_with_the_same_chance() -> None:
    """Chi-squared of 8 x 8 cells: 63 degrees of freedom, 99.9 % lie below 103.4."""
    count = 20_000
    sizes, keys = np.tile([800, 800], (count, 1)), [str(number) for number in range(count)]
    drawn = draw_background(sizes, np.tile([0.0, 0, 1, 1], (count, 1)), np.arange(count), keys=keys)
    hits = np.histogram2d(drawn.box[:, 0], drawn.box[:, 1], bins=8, range=[[0, 800], [0, 800]])[0]
    assert len(drawn) == count
    assert ((hits - count / 64) ** 2 / (count / 64)).sum() < 103.4
    assert abs(np.corrcoef(drawn.box[:, 0], drawn.box[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn.box[1:, 0], drawn.box[:-1, 0])[0, 1]) < 0.03


def test_boxes_reach_every_edge_and_none_beyond() -> None:
    """Of 4 x 4 px, in 10 x 12: each of 7 x 9 places is drawn, and no other."""
    count = 3000
    sizes, keys = np.tile([12, 10], (count, 1)), [str(number) for number in range(count)]
    far = np.tile([100.0, 100, 4, 4], (count, 1))  # beyond the frame: only its size counts
    drawn = draw_background(sizes, far, np.arange(count), keys=keys)
    small = drawn.box[(drawn.box[:, 2:] == 4).all(axis=1)]
    assert {(x, y) for x, y, _, _ in small.tolist()} == {(x, y) for x in range(7) for y in range(9)}
    assert (drawn.box[:, :2] + drawn.box[:, 2:] <= [10, 12]).all()


def test_boxes_of_one_frame_are_different_ones() -> None:
    sizes, boxes, frame, keys = match(20, 4)
    for drawn in (
        draw_background(sizes, boxes, frame, keys=keys, per_frame=10),
        draw_partial(boxes, frame, keys=keys, per_box=10),
    ):
        places = np.column_stack([drawn.frame, drawn.box])
        assert len(np.unique(places, axis=0)) > 0.98 * len(places)


def test_thrown_out_boxes_protect_but_lend_no_size() -> None:
    """A4.17: where an outlier was dropped, somebody is there all the same."""
    sizes, keys = np.tile([400, 1000], (300, 1)), [str(number) for number in range(300)]
    player, outlier = [10.0, 10, 40, 100], [300.0, 0, 650, 400]
    boxes, frame = np.array([player, outlier] * 300), np.repeat(np.arange(300), 2)
    drawn = draw_background(sizes, boxes, frame, keys=keys, like=np.tile([True, False], 300))
    assert len(drawn) > 290
    assert drawn.box[:, 3].max() <= 125
    assert max(shared(box, np.array(outlier)) for box in drawn.box) == 0


def test_frames_where_nothing_fits_are_counted() -> None:
    sizes, keys = np.array([[100, 100], [1000, 1000], [1000, 1000]]), ["full", "free", "nobody"]
    boxes = np.array([[0.0, 0, 100, 100], [0, 0, 100, 100]])
    drawn = draw_background(sizes, boxes, [0, 1], keys=keys, per_frame=4)
    assert drawn.missing.tolist() == [4, 0, 4]
    assert drawn.frame.tolist() == [1] * 4
    ranged = draw_background(sizes, boxes, [0, 1], keys=keys, per_frame=4, size_range=((0.1, 0.2), (0.1, 0.4)))
    assert ranged.missing.tolist() == [4, 0, 0]
    wide, high = (ranged.box[:, 2:] / 1000).T
    assert ((wide >= 0.1) & (wide <= 0.2) & (high >= 0.1) & (high <= 0.4)).all()


# --- partials --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), players=st.integers(1, 25), side=st.sampled_from([0.1, 0.5, 2.0]))
@settings(max_examples=60)
def test_partials_are_what_a_loop_over_all_pairs_allows(seed: int, players: int, side: float) -> None:
    """A4.18: a stated share of the player's box, little of where the number is, and of nobody else."""
    _, boxes, frame, keys = match(4, players, seed=seed, side=side)
    drawn = draw_partial(boxes, frame, keys=keys, per_box=2)
    for at, box, parent, overlap in zip(drawn.frame, drawn.box, drawn.parent, drawn.overlap, strict=True):
        player = boxes[parent]
        assert frame[parent] == at
        share = box[2] * box[3] / (player[2] * player[3])
        assert overlap == pytest.approx(share)
        assert 0.1 <= share <= 0.25
        assert shared(box, player) == pytest.approx(box[2] * box[3])  # inside
        core = np.array([CORE[0], CORE[1], CORE[2] - CORE[0], CORE[3] - CORE[1]])
        number = np.tile(player[2:], 2) * core + [player[0], player[1], 0, 0]
        assert shared(box, number) <= 0.1 * number[2] * number[3] + 1e-9
        others = [one for place, one in enumerate(boxes) if frame[place] == at and place != parent]
        assert max((coverage(box, one) for one in others), default=0) <= 0.1
    wanted = np.bincount(frame, minlength=4) * 2
    assert np.array_equal(np.bincount(drawn.frame, minlength=4) + drawn.missing, wanted)


def test_a_partial_of_a_hidden_player_is_refused() -> None:
    """A4.18: other players were not looked at; a part of a player behind another is a picture of the other."""
    boxes = np.array([[100.0, 100, 60, 150], [90, 90, 80, 180], [600, 100, 60, 150]])
    drawn = draw_partial(boxes, [0, 0, 0], keys=["a"], per_box=5)
    assert drawn.parent.tolist() == [2] * 5
    assert drawn.missing.tolist() == [10]


def test_partials_of_some_players_keep_out_of_all() -> None:
    boxes = np.array([[100.0, 100, 60, 150], [130, 90, 80, 180]])
    drawn = draw_partial(boxes, [0, 0], keys=["a"], per_box=20, of=[True, False])
    assert set(drawn.parent.tolist()) == {0}
    assert max(coverage(box, boxes[1]) for box in drawn.box) <= 0.1


def test_other_shares_and_the_whole_box() -> None:
    boxes = np.array([[100.0, 100, 60, 150]])
    small = draw_partial(boxes, [0], keys=["a"], per_box=50, share=(0.02, 0.05))
    assert small.overlap.min() >= 0.02
    assert small.overlap.max() <= 0.05
    whole = draw_partial(boxes, [0], keys=["a"], share=(1, 1), core=None)
    assert whole.box.tolist() == boxes.tolist()


def test_partials_lie_all_over_the_player() -> None:
    count = 5000
    boxes = np.tile([10.0, 10, 60, 150], (count, 1))
    drawn = draw_partial(boxes, np.arange(count), keys=[str(number) for number in range(count)], core=None)
    middle = (drawn.box[:, :2] + drawn.box[:, 2:] / 2 - 10) / [60, 150]
    assert np.abs(middle.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.percentile(drawn.overlap, [1, 50, 99]) - [0.1015, 0.175, 0.2485]).max() < 0.003


# --- seeds -----------------------------------------------------------------------------------------------------------


def alone(drawn: Negatives, frame: int) -> tuple[list[Any], list[Any]]:
    return drawn.box[drawn.frame == frame].tolist(), drawn.overlap[drawn.frame == frame].tolist()


def test_a_frame_alone_is_drawn_as_in_the_whole_table() -> None:
    """A4.18: seeded, per frame; neither the other frames nor the order of rows matters."""
    sizes, boxes, frame, keys = match(20, 8, seed=3)
    whole, parts = draw_background(sizes, boxes, frame, keys=keys, per_frame=3), draw_partial(boxes, frame, keys=keys)
    for at in (0, 7, 19):
        own = np.flatnonzero(frame == at)[::-1]
        one = draw_background(sizes[[at]], boxes[own], np.zeros(8, int), keys=[keys[at]], per_frame=3)
        assert alone(one, 0) == alone(whole, at)
        part = draw_partial(boxes[own], np.zeros(8, int), keys=[keys[at]])
        assert sorted(zip(own[part.parent].tolist(), part.box.tolist(), strict=True)) == sorted(
            zip(parts.parent[parts.frame == at].tolist(), parts.box[parts.frame == at].tolist(), strict=True)
        )


def test_more_of_them_are_those_before_and_more() -> None:
    sizes, boxes, frame, keys = match(10, 5)
    few, many = (draw_background(sizes, boxes, frame, keys=keys, per_frame=count) for count in (1, 3))
    assert many.box[::3].tolist() == few.box.tolist()


def test_equal_seeds_draw_equal_boxes_and_others_do_not() -> None:
    sizes, boxes, frame, keys = match(50, 5)
    assert same(draw_background(sizes, boxes, frame, keys=keys), draw_background(sizes, boxes, frame, keys=keys))
    assert same(draw_partial(boxes, frame, keys=keys), draw_partial(boxes, frame, keys=keys))
    for one, other in (
        (draw_background(sizes, boxes, frame, keys=keys), draw_background(sizes, boxes, frame, keys=keys, seed=1)),
        (draw_partial(boxes, frame, keys=keys), draw_partial(boxes, frame, keys=keys, seed=1)),
    ):
        assert len(set(map(tuple, one.box.tolist())) & set(map(tuple, other.box.tolist()))) < 5


def test_boxes_drawn_today_are_those_of_tomorrow() -> None:
    """What was drawn once, for one key and one box; a change here changes everybody's negatives."""
    boxes = np.array([[100.0, 200, 60, 150]])
    background = draw_background([[1080, 1920]], boxes, [0], keys=["Q1/côté.jpg"], seed=7)
    partial = draw_partial(boxes, [0], keys=["Q1/côté.jpg"], seed=7)
    assert (background.box.tolist(), partial.box.tolist()) == (BACKGROUND, PARTIAL)


BACKGROUND = [[1150.0, 320.0, 48.0, 120.0]]
PARTIAL = [[100.0, 277.0, 19.0, 59.0]]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_in_nothing_out() -> None:
    drawn = draw_background(np.zeros((0, 2)), np.zeros((0, 4)), [], keys=[])
    assert len(drawn) == len(drawn.missing) == 0
    assert len(draw_partial(np.zeros((0, 4)), [], keys=["a"])) == 0


def test_what_cannot_be_meant_is_refused() -> None:
    size, box = [[100, 100]], [[1, 1, 5, 9]]
    with pytest.raises(ValueError, match="box 1 has no area"):
        draw_background(size, [*box, [1, 1, 0, 9]], [0, 0], keys=["a"])
    with pytest.raises(ValueError, match="box 0 has no area"):
        draw_partial([[1, 1, np.nan, 9]], [0], keys=["a"])
    with pytest.raises(ValueError, match="boxes are in frames 0 to 0, got 1 to 1"):
        draw_background(size, box, [1], keys=["a"])
    with pytest.raises(ValueError, match="1 boxes and frames of 2"):
        draw_partial(box, [0, 0], keys=["a"])
    with pytest.raises(ValueError, match="a height and a width of each of 1 frames"):
        draw_background([[0, 100]], box, [0], keys=["a"])
    with pytest.raises(ValueError, match="the lower first"):
        draw_partial(box, [0], keys=["a"], share=(0.5, 0.2))
    with pytest.raises(ValueError, match="true or false for 2"):
        draw_partial(box, [0], keys=["a"], of=[True, False])
