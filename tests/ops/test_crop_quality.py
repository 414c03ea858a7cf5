"""Quality of crops: held against plain loops and pixels that are counted."""

import numpy as np
import pytest

from lightmill.ops.crop_quality import covered, quality


def test_what_is_covered_is_counted_in_pixels() -> None:
    """One box over another: the share is that of the pixels."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        boxes = np.column_stack([rng.integers(0, 30, (2, 2)), rng.integers(1, 30, (2, 2))])
        seen = np.zeros((2, 64, 64), bool)
        for picture, (x, y, w, h) in zip(seen, boxes, strict=True):
            picture[y : y + h, x : x + w] = True
        wanted = [(seen[0] & seen[1]).sum() / seen[i].sum() for i in range(2)]
        np.testing.assert_allclose(covered(boxes, frames=["a", "a"]), wanted)
        np.testing.assert_array_equal(covered(boxes, frames=["a", "b"]), 0)


def test_many_others_cover_as_if_by_chance() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 10, 5], [9, 9, 1, 1]]
    assert covered(boxes, frames=["f"] * 4)[0] == pytest.approx(1 - 0.5 * 0.5 * 0.99)
    assert covered(boxes, frames=["f"] * 4)[3] == 1


def test_quality_is_its_formula() -> None:
    """A4.24, the quality-weighted gallery: size and sharpness against the median of the view, and what is hidden."""
    rng = np.random.default_rng(2)
    boxes = np.column_stack([rng.uniform(0, 200, (40, 2)), rng.uniform(10, 80, (40, 2))])
    frames, views = rng.integers(0, 6, 40).astype(str), np.where(np.arange(40) % 3, "side", "top")
    sharp = rng.uniform(0, 9, 40)
    sharp[0] = 0
    found = quality(boxes, views=views, hidden=covered(boxes, frames=frames), sharpness=sharp)
    area = boxes[:, 2] * boxes[:, 3]
    for i in range(40):
        own = views == views[i]
        size = min(1, area[i] / np.median(area[own])) ** 0.5
        crisp = min(1, sharp[i] / np.median(sharp[own])) ** 0.5
        hidden = 1.0
        for j in np.flatnonzero((frames == frames[i]) & (np.arange(40) != i)):
            corner = np.maximum(boxes[i, :2], boxes[j, :2])
            sides = np.minimum(boxes[i, :2] + boxes[i, 2:], boxes[j, :2] + boxes[j, 2:]) - corner
            hidden *= 1 - max(sides[0], 0) * max(sides[1], 0) / area[i]
        assert found[i] == pytest.approx(max(0.02, size * crisp * hidden))
    assert found[0] == 0.02
    assert found.max() <= 1


def test_quality_without_sharpness() -> None:
    found = quality([[0, 0, 10, 10], [50, 0, 20, 20], [90, 0, 5, 5]], views=["v"] * 3, hidden=[0, 0, 0])
    np.testing.assert_allclose(found, [1, 1, 0.5])
    flat = quality([[0, 0, 10, 10]], views=["v"], hidden=[0], sharpness=[0.0])
    assert flat.tolist() == [1.0]  # nothing to compare it with
    assert len(quality(np.empty((0, 4)), views=[], hidden=[])) == 0


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 boxes, and 2 frames"):
        covered([[0, 0, 1, 1]], frames=["a", "b"])
    with pytest.raises(ValueError, match="there are 1 boxes, and 0 views"):
        quality([[0, 0, 1, 1]], views=[], hidden=[0])
