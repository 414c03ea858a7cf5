"""The built-in decomposers keep the protocol, and take pictures apart as the ops do."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lightmill
from lightmill.models.decomposers import BUILTIN
from lightmill.models.kinds import Decomposer
from lightmill.ops.intrinsic_metrics import si_mse, whdr
from lightmill.ops.srgb import to_levels, to_linear
from lightmill.sample.mondrian import judgements, mondrian

NAMES = "builtin:retinex", "builtin:msr", "builtin:lab"


def image(seed: int, height: int = 60, width: int = 81) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mask(height: int = 60, width: int = 81) -> np.ndarray:
    found = np.zeros((height, width), np.uint8)
    found[10:50, 20:70] = 255
    return found


def test_the_names_are_those_of_the_option() -> None:
    assert tuple(BUILTIN) == NAMES
    assert [made().name for made in BUILTIN.values()] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_always_be_had_and_pickled(name: str) -> None:
    model: Decomposer = BUILTIN[name]()
    model.check("cpu")
    again = pickle.loads(pickle.dumps(model))
    assert (again.name, again.version, again.on_device) == (name, lightmill.__version__, False)
    again.load("cuda:7")
    [before], [after] = model([image(1)], [mask()]), again([image(1)], [mask()])
    np.testing.assert_array_equal(before.albedo, after.albedo)
    again.unload()


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_pictures_of_any_size_and_the_parts_make_each_again(name: str) -> None:
    images = [image(1), image(2, 33, 20), np.zeros((8, 8, 3), np.uint8)]
    found = BUILTIN[name]()(images, [mask(), None, None])
    assert len(found) == 3
    for pixels, parts in zip(images, found, strict=True):
        assert parts.residual is None
        assert parts.albedo.dtype == parts.shading.dtype == np.float32
        made = parts.albedo * parts.shading
        np.testing.assert_allclose(made, to_linear(pixels), rtol=3e-7)
        np.testing.assert_array_equal(to_levels(made), pixels)


@pytest.mark.parametrize("name", NAMES)
def test_threads_may_share_one_and_get_the_same_bytes(name: str) -> None:
    model = BUILTIN[name]()
    images = [image(seed) for seed in range(4)]
    alone = [model([each], [mask()])[0].albedo.tobytes() for each in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: model([each], [mask()])[0].albedo.tobytes(), images * 3))
    assert together == alone * 3
    assert [each.albedo.tobytes() for each in model(images, [mask()] * 4)] == alone


def test_retinex_finds_the_albedo_of_a_scene_in_eight_bits() -> None:
    scene = mondrian(0)
    [parts] = BUILTIN["builtin:retinex"]()([to_levels(scene.picture)], [None])
    assert si_mse(parts.albedo, scene.albedo) < 1e-4
    assert whdr(parts.albedo, judgements(scene, seed=0)) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_lists_and_masks_that_do_not_match_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        BUILTIN[name]()([image(1), image(2)], [None])
    with pytest.raises(ValueError, match=r"needs a mask \[60, 81\] of uint8"):
        BUILTIN[name]()([image(1)], [mask(59)])
