"""`builtin:inflate` as a recipe meets it."""

import pickle

import numpy as np
import pytest

from lightmill import __version__
from lightmill.models.kinds import NormalEstimator
from lightmill.models.normals import BUILTIN
from lightmill.ops.relief import inflate, normals_from_height, shading_detail
from lightmill.ops.srgb import luminance, to_linear


@pytest.fixture
def model() -> NormalEstimator:
    return BUILTIN["builtin:inflate"]()


def scene(rows: int, columns: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture and an ellipse."""
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    down, right = np.mgrid[:rows, :columns]
    mask = ((right / columns - 0.5) ** 2 + (down / rows - 0.5) ** 2 < 0.14).astype(np.uint8) * 255
    return pixels, mask


def test_what_it_says_of_itself(model: NormalEstimator) -> None:
    assert (model.name, model.version, model.on_device) == ("builtin:inflate", __version__, False)
    model.check("cpu")
    model.load("cpu")
    model.unload()
    pixels, mask = scene(40, 50, seed=0)
    twin = pickle.loads(pickle.dumps(model))
    assert np.array_equal(twin([pixels], [mask])[0].normals, model([pixels], [mask])[0].normals)


def test_pictures_of_several_sizes_in_one_call(model: NormalEstimator) -> None:
    scenes = [scene(60, 90, seed=1), scene(120, 80, seed=2)]
    reliefs = model([pixels for pixels, _ in scenes], [mask for _, mask in scenes])
    for (pixels, mask), relief in zip(scenes, reliefs, strict=True):
        assert relief.normals.shape == (*mask.shape, 3)
        assert relief.normals.dtype == relief.height.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(relief.normals, axis=-1), 1, atol=1e-5)
        detail = shading_detail(luminance(to_linear(pixels)), mask=mask, max_slope=0.25)
        np.testing.assert_allclose(relief.height, inflate(mask) + detail, atol=1e-4)
        assert np.array_equal(relief.normals, normals_from_height(relief.height))
        assert relief.height[mask > 0].mean() > 5
        assert (relief.height[mask == 0] == 0).all()


def test_no_mask_is_the_whole_picture(model: NormalEstimator) -> None:
    pixels = np.full((80, 100, 3), 90, np.uint8)
    without, full = model([pixels, pixels], [None, np.full((80, 100), 255, np.uint8)])
    assert np.array_equal(without.height, full.height)
    lean = np.degrees(np.arccos(np.clip(without.normals[..., 2], -1, 1)))
    assert lean[40, 50] < 1
    assert 25 < lean.max() < 31  # gently convex


def test_lists_that_do_not_match_are_refused(model: NormalEstimator) -> None:
    pixels, mask = scene(40, 50, seed=0)
    with pytest.raises(ValueError, match="zip"):
        model([pixels, pixels], [mask])
    with pytest.raises(ValueError, match=r"luminance must be \[50, 40\] as the mask is, got \[40, 50\]"):
        model([pixels], [mask.T.copy()])
