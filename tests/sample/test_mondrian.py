"""The scenes are what they say they are."""

import numpy as np
import pytest

from lightmill.ops.intrinsic_metrics import whdr
from lightmill.sample.mondrian import judgements, mondrian


@pytest.mark.parametrize("seed", range(6))
def test_albedo_times_light_is_the_picture_and_nothing_clips(seed: int) -> None:
    scene = mondrian(seed)
    assert scene.albedo.shape == scene.picture.shape == (384, 384, 3)
    assert scene.shading.shape == (384, 384, 1)
    assert {part.dtype for part in scene} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(scene.picture, scene.albedo * scene.shading)
    assert 0 < scene.albedo.min() < scene.albedo.max() <= 1
    np.testing.assert_allclose([scene.shading.min(), scene.shading.max()], [0.12, 1], rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_light_is_smooth_and_paint_is_flat(seed: int) -> None:
    scene = mondrian(seed)
    for axis in (0, 1):
        assert np.abs(np.diff(np.log(scene.shading), axis=axis)).max() < 0.0228
        equal = (np.diff(scene.albedo, axis=axis) == 0).all(axis=2)
        assert 0.9 < equal.mean() < 1


def test_a_part_of_the_patches_is_grey_and_a_part_is_not() -> None:
    grey = [np.ptp(mondrian(seed).albedo, axis=2) == 0 for seed in range(6)]
    assert 0.05 < np.mean(grey) < 0.6


def test_equal_arguments_give_equal_scenes_and_others_do_not() -> None:
    np.testing.assert_array_equal(mondrian(3, 64).picture, mondrian(3, 64).picture)
    assert np.abs(mondrian(3, 64).picture - mondrian(4, 64).picture).max() > 0.1


def test_the_observer_agrees_with_the_albedo_and_with_no_other_picture() -> None:
    scene = mondrian(0)
    said = judgements(scene, seed=0)
    assert len(said) == 2000
    assert whdr(scene.albedo, said) == 0
    assert whdr(scene.picture, said) > 0.1
    assert {each.darker for each in said} == {"1", "2", "E"}
    assert said == judgements(scene, seed=0)
    assert said != judgements(scene, seed=1)
