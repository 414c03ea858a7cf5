"""Superpixels against scipy's labelling, plain loops, and pictures whose outlines are known."""

import numpy as np
import pytest
import scipy.ndimage

from lightmill.ops.superpixels import neighbours, patch_means, slic


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth, colourful picture in CIELAB."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (6, 6, 0))
    return (50 + 25 * smooth / smooth.std()).astype(np.float32)


@pytest.mark.parametrize(("height", "width", "count"), [(120, 160, 150), (97, 61, 80), (200, 200, 250)])
def test_patches_are_connected_and_numbered_without_gaps(height: int, width: int, count: int) -> None:
    label = slic(blobs(height, width), count=count)
    assert label.dtype == np.int32
    assert label.shape == (height, width)
    found = int(label.max()) + 1
    assert np.array_equal(np.unique(label), np.arange(found))
    assert 0.8 * count <= found <= 1.2 * count
    assert all(scipy.ndimage.label(label == i)[1] == 1 for i in range(found))


def test_noise_still_makes_connected_patches() -> None:
    lab = np.random.default_rng(1).uniform(0, 100, (80, 90, 3)).astype(np.float32)
    label = slic(lab, count=60, compactness=2)
    size = np.bincount(label.ravel())
    assert size.min() >= 0.25 * 80 * 90 / 64  # pieces below a quarter of the even share join others
    assert all(scipy.ndimage.label(label == i)[1] == 1 for i in range(size.size))


def test_a_flat_picture_is_cut_into_equal_cells() -> None:
    label = slic(np.full((90, 120, 3), 40, np.float32), count=48)
    size = np.bincount(label.ravel())
    assert size.size == 48
    assert size.min() >= 0.8 * size.max()


def test_no_patch_crosses_a_strong_edge() -> None:
    lab = np.full((100, 100, 3), 30, np.float32)
    y, x = np.mgrid[:100, :100]
    disc = np.hypot(x - 47, y - 53) < 31
    lab[disc] = (80, 20, -10)
    label = slic(lab, count=100)
    inside = np.bincount(label.ravel(), weights=disc.ravel()) / np.bincount(label.ravel())
    assert np.minimum(inside, 1 - inside).max() == 0


def test_more_compactness_makes_shorter_outlines() -> None:
    lab = blobs(120, 120)
    loose, compact = (slic(lab, count=100, compactness=c) for c in (3, 60))

    def outline(label: np.ndarray) -> int:
        return int((label[1:] != label[:-1]).sum() + (label[:, 1:] != label[:, :-1]).sum())

    assert outline(compact) < 0.9 * outline(loose)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (2, 300)])
def test_small_pictures_have_few_patches(shape: tuple[int, int]) -> None:
    label = slic(np.zeros((*shape, 3), np.float32), count=250)
    assert np.array_equal(np.unique(label), np.arange(label.max() + 1))
    assert label.max() + 1 <= max(3, label.size // 8)


def test_no_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="1 patch or more, got count=0"):
        slic(np.zeros((4, 4, 3), np.float32), count=0)


def test_neighbours_are_those_of_a_loop() -> None:
    label = slic(blobs(50, 70), count=40)
    pairs = set()
    for y in range(50):
        for x in range(70):
            for other in (label[y, x + 1] if x < 69 else None, label[y + 1, x] if y < 49 else None):
                if other is not None and other != label[y, x]:
                    pairs.add((min(label[y, x], other), max(label[y, x], other)))
    assert [tuple(pair) for pair in neighbours(label)] == sorted(pairs)


def test_means_are_those_of_each_patch() -> None:
    lab = blobs(40, 50)
    label = slic(lab, count=30)
    expected = [lab[label == i].mean(axis=0) for i in range(label.max() + 1)]
    np.testing.assert_allclose(patch_means(lab, label), expected, rtol=1e-5)
