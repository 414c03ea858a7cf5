"""Tracklets: synthetic players whose ways are known, and assignments looked through one by one."""

from collections.abc import Collection
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightmill.ops.assignment import best_pairs
from lightmill.ops.tracking import Tracking, affinity, tracklets

Floats = NDArray[np.float64]


class Scene(NamedTuple):
    boxes: Floats
    frames: NDArray[np.int64]
    times: Floats
    who: NDArray[np.int64]
    looks: Floats | None = None

    @property
    def one(self) -> NDArray[np.int64]:
        """A single sequence."""
        return np.zeros(len(self.boxes), np.int64)


def walk(ways: Floats, *, size: tuple[float, float] = (40, 110), hidden: Collection[tuple[int, int]] = ()) -> Scene:
    """ways: [players, frames, 2] centres. `hidden`: (player, frame) that nobody has drawn a box for."""
    rows = [(p, t) for t in range(ways.shape[1]) for p in range(len(ways)) if (p, t) not in hidden]
    who, when = np.array(rows).T
    centre = ways[who, when]
    boxes = np.column_stack([centre - np.array(size) / 2, np.tile(np.array(size, float), (len(rows), 1))])
    return Scene(boxes, when, when.astype(float), who)


def straight(start: tuple[float, float], speed: tuple[float, float], count: int) -> Floats:
    return np.array(start) + np.arange(count)[:, None] * np.array(speed)


def random_game(seed: int, players: int = 8, count: int = 40, noise: float = 1.5) -> Scene:
    """Players of a court who speed up and slow down; about 6 % of boxes are missing; looks tell them apart, roughly."""
    rng = np.random.default_rng(seed)
    ways = np.empty((players, count, 2))
    place, speed = rng.uniform(100, 1200, (players, 2)) * [1, 0.5], rng.normal(0, 10, (players, 2))
    for t in range(count):
        speed = 0.9 * speed + rng.normal(0, 5, (players, 2))
        place = place + speed
        speed[(place < 0) | (place > [1300, 700])] *= -1
        ways[:, t] = place
    hidden = {(int(p), int(t)) for p, t in zip(rng.integers(0, players, 20), rng.integers(0, count, 20), strict=True)}
    scene = walk(ways, hidden=hidden)
    looks = rng.normal(size=(players, 32))[scene.who] + 0.7 * rng.normal(size=(len(scene.who), 32))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    return scene._replace(boxes=scene.boxes + rng.normal(0, noise, scene.boxes.shape) * [1, 1, 0, 0], looks=looks)


def track(scene: Scene, options: Tracking | None = None, *, with_looks: bool = True) -> NDArray[np.int64]:
    return tracklets(
        scene.boxes,
        sequences=scene.one,
        frames=scene.frames,
        times=scene.times,
        embeddings=scene.looks if with_looks else None,
        options=options,
    )


def idf1(found: NDArray[np.int64], who: NDArray[np.int64]) -> float:
    """Ristani et al. 2016, for boxes that are all there: boxes shared by the best pairs of tracklets and players."""
    shared = np.zeros((found.max() + 1, who.max() + 1))
    np.add.at(shared, (found, who), 1)
    rows, columns = best_pairs(shared)
    return float(shared[rows, columns].sum()) / len(found)


def switches(found: NDArray[np.int64], scene: Scene) -> int:
    """How often a tracklet goes on with somebody else."""
    order = np.lexsort((scene.times, found))
    same = np.diff(found[order]) == 0
    return int((same & (np.diff(scene.who[order]) != 0)).sum())


def greedy(scene: Scene, least: float = 0.1) -> NDArray[np.int64]:
    """What A4.24 does: every track, in order of age, takes the first free box that overlaps with its last one.

    Boxes come from left to right."""
    found = np.full(len(scene.boxes), -1)
    last: list[Floats] = []
    for t in np.unique(scene.times):
        rows = np.flatnonzero(scene.times == t)
        rows = rows[np.argsort(scene.boxes[rows, 0])]
        for number, box in enumerate(last):
            free = [row for row in rows if found[row] < 0 and plain_iou(box, scene.boxes[row]) > least]
            if free:
                found[free[0]] = number
                last[number] = scene.boxes[free[0]]
        for row in rows:
            if found[row] < 0:
                found[row] = len(last)
                last.append(scene.boxes[row])
    return found


def plain_iou(one: Floats, other: Floats) -> float:
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = max(right - left, 0.0) * max(bottom - top, 0.0)
    return float(common / (one[2] * one[3] + other[2] * other[3] - common))


# --- assignment ------------------------------------------------------------------------------------------------------


def best_sum(gain: Floats) -> float:
    """Of all ways to pair rows with columns, or not to."""
    rows, columns = gain.shape
    best = 0.0
    for count in range(1, min(rows, columns) + 1):
        for some in combinations(range(rows), count):
            for others in permutations(range(columns), count):
                best = max(best, sum(gain[i, j] for i, j in zip(some, others, strict=True)))
    return best


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_pairs_are_the_best_of_all(rows: int, columns: int, seed: int) -> None:
    gain = np.random.default_rng(seed).integers(-3, 6, (rows, columns)).astype(float)
    mine, theirs = best_pairs(gain)
    assert (gain[mine, theirs] > 0).all()
    assert len(set(mine)) == len(set(theirs)) == len(mine)
    assert gain[mine, theirs].sum() == best_sum(gain)


def test_what_is_no_number_is_no_pair() -> None:
    mine, theirs = best_pairs([[np.nan, 2.0], [-np.inf, 1.0]])
    assert (mine.tolist(), theirs.tolist()) == ([0], [1])


# --- affinity --------------------------------------------------------------------------------------------------------


def test_affinity_is_its_formula() -> None:
    rng = np.random.default_rng(4)
    tracks = np.column_stack([rng.uniform(0, 150, (6, 2)), rng.uniform(30, 120, (6, 2))])
    boxes = np.column_stack([rng.uniform(0, 150, (5, 2)), rng.uniform(30, 120, (5, 2))])
    looks, of_boxes = rng.normal(size=(6, 8)), rng.normal(size=(5, 8))
    of_boxes /= np.linalg.norm(of_boxes, axis=1, keepdims=True)
    steps = np.array([1.0, 1, 2, 4, 1, 0.5])
    options = Tracking(appearance=0.3, reach=0.2, least_overlap=0.25, least_likeness=-0.1)
    found = affinity(tracks, boxes, looks, of_boxes, steps=steps, options=options)
    refused = 0
    for i, j in np.ndindex(found.shape):
        by = 0.2 * max(1.0, steps[i]) ** 0.5
        grown = [np.concatenate([b[:2] - by * max(b[2:]), b[2:] + 2 * by * max(b[2:])]) for b in (tracks[i], boxes[j])]
        overlap, likeness = plain_iou(*grown), float(looks[i] @ of_boxes[j] / np.linalg.norm(looks[i]))
        fits = overlap >= 0.25 and likeness >= -0.1
        refused += not fits
        overlap /= max(1.0, steps[i]) ** 0.5
        assert found[i, j] == pytest.approx(0.7 * overlap + 0.3 * max(likeness, 0) if fits else 0)
    assert 0 < refused < found.size


# --- tracks ----------------------------------------------------------------------------------------------------------


def crossing() -> Scene:
    """Two who run past each other, and hide each other for two frames: the one behind has no box there."""
    ways = np.stack([straight((100, 300), (17, 1), 31), straight((650, 318), (-17, 0), 31)])
    return walk(ways, hidden={(1, 15), (1, 16)})


def test_who_crosses_keeps_the_track() -> None:
    """A4.24: a greedy tracker without motion changes over; this one foresees where both are going."""
    scene = crossing()
    found = track(scene)
    assert idf1(found, scene.who) == 1.0
    assert switches(found, scene) == 0
    assert switches(greedy(scene), scene) > 0


def test_two_who_turn_back_are_told_by_their_looks() -> None:
    """Motion alone would send them past each other."""
    there, back = straight((100, 300), (30, 0), 10), straight((400, 300), (-30, 0), 11)
    left = np.concatenate([there, back[1:]])
    right = np.array([800.0, 600.0]) - left
    right[:, 1] = 304
    scene = walk(np.stack([left, right]), hidden={(who, t) for who in (0, 1) for t in (9, 10, 11)})
    looks = np.eye(2)[scene.who]
    scene = scene._replace(looks=looks)
    with_looks = track(scene, Tracking(reach=0.6, appearance=0.6))
    assert idf1(with_looks, scene.who) == 1.0
    assert idf1(track(scene, Tracking(reach=0.6), with_looks=False), scene.who) < 1.0


@pytest.mark.parametrize("seed", range(4))
def test_a_game_is_followed(seed: int) -> None:
    """Better than greedy on the same boxes, and nearly never wrong about who goes on."""
    scene = random_game(seed)
    found = track(scene)
    assert idf1(found, scene.who) > 0.93
    assert switches(found, scene) <= 2
    assert idf1(found, scene.who) > idf1(greedy(scene), scene.who)
    assert idf1(track(scene, with_looks=False), scene.who) > idf1(greedy(scene), scene.who)


@pytest.mark.parametrize(("missing", "tracks"), [(0, 1), (3, 1), (4, 1), (5, 2), (9, 2)])
def test_a_gap_ends_a_track_once_it_is_too_long(missing: int, tracks: int) -> None:
    scene = walk(straight((100, 300), (6, 0), 30)[None], hidden={(0, 10 + t) for t in range(missing)})
    assert track(scene, Tracking(max_steps=5)).max() + 1 == tracks


def test_a_gap_is_counted_in_time_not_in_files() -> None:
    """Frames of which none is there at all are a gap as well; and a limit may be said in the times' own unit."""
    way = walk(straight((100, 300), (1, 0), 20)[None])
    late = way._replace(times=np.where(way.frames < 10, way.frames, way.frames + 20) * 0.2)
    assert track(late).max() == 1
    assert track(late, Tracking(max_steps=50)).max() == 0
    assert track(late, Tracking(max_steps=50, max_time=4.1)).max() == 1
    assert track(late, Tracking(max_steps=50, max_time=4.3)).max() == 0


@pytest.mark.parametrize("unit", [1.0, 0.2, 40.0])
def test_the_unit_of_time_does_not_matter(unit: float) -> None:
    scene = random_game(7)
    np.testing.assert_array_equal(track(scene._replace(times=scene.times * unit)), track(scene))


def test_sequences_are_kept_apart() -> None:
    """A4.24: gaps, views and sessions. The same boxes at the same times in two views are other tracklets."""
    one = crossing()
    boxes, times = np.tile(one.boxes, (3, 1)), np.tile(one.times, 3)
    names = np.repeat(["Q1/side", "Q1/top", "Q2/side"], len(one.boxes))
    frames = np.concatenate([one.frames + 100 * part for part in range(3)])
    found = tracklets(boxes, sequences=names, frames=frames, times=times).reshape(3, -1)
    np.testing.assert_array_equal(found - found.min(axis=1, keepdims=True), np.tile(track(one), (3, 1)))
    assert len(np.unique(found)) == 3 * len(np.unique(track(one)))
    same_names = tracklets(boxes, sequences=names, frames=np.tile(one.frames, 3), times=times)
    np.testing.assert_array_equal(same_names, found.ravel())  # a frame's name may come again in another sequence


def test_frames_without_a_time_are_left_alone() -> None:
    scene = walk(np.stack([straight((100, 300), (5, 0), 10), straight((400, 300), (5, 0), 10)]))
    scene = scene._replace(times=np.where(np.isin(scene.frames, [4, 7]), np.nan, scene.times))
    found = track(scene)
    unknown = np.isnan(scene.times)
    assert len(np.unique(found[~unknown])) == 2
    assert len(np.unique(found[unknown])) == 4
    assert not set(found[unknown]) & set(found[~unknown])


def test_one_time_is_enough_for_a_frame() -> None:
    scene = crossing()
    first_of_frame = np.unique(scene.frames, return_index=True)[1]
    sparse = np.full(len(scene.times), np.nan)
    sparse[first_of_frame] = scene.times[first_of_frame]
    np.testing.assert_array_equal(track(scene._replace(times=sparse)), track(scene))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=15, deadline=None)
def test_two_boxes_of_a_frame_are_never_one_and_order_does_not_matter(seed: int, crowded: bool) -> None:
    rng = np.random.default_rng(seed)
    count = 60
    boxes = np.column_stack([rng.uniform(0, 60 if crowded else 600, (count, 2)), rng.uniform(20, 90, (count, 2))])
    sequences, frames = rng.integers(0, 2, count), rng.integers(0, 9, count)
    times = np.where(frames == 3, np.nan, frames.astype(float) // 2)  # two frames may have one time
    looks = rng.normal(size=(count, 6))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)

    def of(rows: NDArray[np.intp]) -> NDArray[np.int64]:
        return tracklets(
            boxes[rows], sequences=sequences[rows], frames=frames[rows], times=times[rows], embeddings=looks[rows]
        )

    found = of(np.arange(count))
    assert sorted(set(found)) == list(range(found.max() + 1))
    assert len({*zip(found.tolist(), frames.tolist(), strict=True)}) == count
    for number in range(found.max() + 1):
        assert len(set(sequences[found == number])) == 1
    shuffled = rng.permutation(count)
    np.testing.assert_array_equal(of(shuffled), found[shuffled])


def test_nothing_gives_nothing() -> None:
    assert len(tracklets(np.empty((0, 4)), sequences=[], frames=[], times=[])) == 0


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there are 1 boxes, and \{'times': 2\}"):
        tracklets([[0, 0, 5, 5]], sequences=["a"], frames=[0], times=[0, 1])
    with pytest.raises(ValueError, match="w and h above 0"):
        tracklets([[0, 0, 5, 0]], sequences=["a"], frames=[0], times=[0])
    with pytest.raises(ValueError, match=r"are 0\.\.1"):
        Tracking(appearance=1.5)
    with pytest.raises(ValueError, match="step are above 0"):
        Tracking(step=0)
