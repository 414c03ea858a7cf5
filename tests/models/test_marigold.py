import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MarigoldIntrinsicsPipeline, MarigoldNormalsPipeline
from tests.models.tiny_diffusion import (
    APPEARANCE,
    LIGHTING,
    save_depth_anything,
    save_marigold_intrinsics,
    save_marigold_normals,
)

from lightmill.errors import ModelError, UsageError
from lightmill.models.marigold import MarigoldIntrinsics, MarigoldNormals, generators_for, open_marigold
from lightmill.models.marigold_space import decode_srgb, height_from_normals, joined_normals, lit
from lightmill.ops.srgb import decode_curve, encode_curve, to_levels, to_linear


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("marigold")
    return {
        "normals": save_marigold_normals(at / "normals"),
        "normals-lcm": save_marigold_normals(at / "normals-lcm", scheduler="lcm", full_z=False),
        "appearance": save_marigold_intrinsics(at / "appearance", APPEARANCE),
        "lighting": save_marigold_intrinsics(at / "lighting", LIGHTING),
        "lighting-lcm": save_marigold_intrinsics(at / "lighting-lcm", LIGHTING, scheduler="lcm"),
    }


def photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return np.ascontiguousarray((smooth * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def published(pipeline_class: Any, folder: Path, image: np.ndarray, *, ensemble: int) -> np.ndarray:
    """What diffusers' own pipeline answers, from the noise that ours draws."""
    pipeline = pipeline_class.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        torch.from_numpy(image).permute(2, 0, 1)[None] / 255,
        ensemble_size=ensemble,
        batch_size=ensemble,
        generator=generators_for(image, seed=5, count=ensemble),
    ).prediction


# --- the same as the published pipelines


@pytest.mark.parametrize("kind", ["normals", "normals-lcm"])
@pytest.mark.parametrize("ensemble", [1, 3])
def test_normals_are_those_of_the_published_pipeline(folders: dict[str, Path], kind: str, ensemble: int) -> None:
    image = photograph(37, 50)
    model = open_marigold(str(folders[kind]), ensemble=ensemble, seed=5)
    assert isinstance(model, MarigoldNormals)
    model.load("cpu")
    [relief] = model([image], [None])
    expected = published(MarigoldNormalsPipeline, folders[kind], image, ensemble=ensemble)[0]
    # its axes are ours: x right, y up, z towards the viewer
    np.testing.assert_allclose(relief.normals, expected, atol=2e-4)
    assert np.ptp(expected[..., 0]) > 0.05  # there is something to compare
    np.testing.assert_allclose(np.linalg.norm(relief.normals, axis=2), 1, atol=1e-5)
    np.testing.assert_array_equal(relief.height, height_from_normals(relief.normals))


@pytest.mark.parametrize("kind", ["lighting", "lighting-lcm", "appearance"])
@pytest.mark.parametrize("ensemble", [1, 3])
def test_albedo_is_that_of_the_published_pipeline_in_linear_light(
    folders: dict[str, Path], kind: str, ensemble: int
) -> None:
    image = photograph(50, 37, seed=1)
    model = open_marigold(str(folders[kind]), ensemble=ensemble, seed=5)
    assert isinstance(model, MarigoldIntrinsics)
    model.load("cpu")
    [taken] = model([image], [None])
    expected = published(MarigoldIntrinsicsPipeline, folders[kind], image, ensemble=ensemble)
    assert len(expected) == len(model.targets)
    linear = decode_curve(expected[0].astype(float)) if kind == "appearance" else expected[0]
    np.testing.assert_allclose(taken.albedo, linear, atol=1e-4)
    if kind != "appearance":
        scale = taken.shading / expected[1]
        assert np.ptp(scale) < 1e-3 * scale.mean()  # the published one, but for one number


# --- what the numbers mean


@pytest.mark.parametrize("kind", ["lighting", "appearance"])
def test_albedo_shading_and_residual_make_the_picture_again(folders: dict[str, Path], kind: str) -> None:
    image = photograph(40, 40, seed=2)
    model = open_marigold(str(folders[kind]))
    model.load("cpu")
    [taken] = model([image], [None])
    made = taken.albedo * taken.shading + taken.residual
    np.testing.assert_allclose(made, to_linear(image), atol=1e-6)
    assert np.abs(to_levels(made).astype(int) - image).max() <= 1


def test_the_albedo_of_appearance_is_srgb(folders: dict[str, Path]) -> None:
    levels = photograph(40, 30, seed=3)
    targets = torch.zeros(2, 3, 40, 30)
    targets[0] = torch.from_numpy(levels).permute(2, 0, 1) / 255
    model = MarigoldIntrinsics(str(folders["appearance"]))
    picture = photograph(40, 30, seed=4)
    taken = model.taken_apart(picture, targets)
    assert np.abs(to_levels(taken.albedo).astype(int) - levels).max() <= 1
    bright = taken.albedo > 0.01
    np.testing.assert_allclose(taken.shading[bright], (to_linear(picture) / taken.albedo)[bright], rtol=1e-4)


@pytest.mark.parametrize("cut_off", [0.5, 1.7])
def test_the_targets_of_lighting_are_linear_and_up_to_one_scale(folders: dict[str, Path], cut_off: float) -> None:
    rng = np.random.default_rng(6)
    albedo = torch.from_numpy(rng.uniform(0.1, 0.8, (3, 40, 30))).float()
    shading = torch.from_numpy(rng.uniform(0.05, 1.0, (3, 40, 30))).float()
    residual = torch.from_numpy(rng.uniform(0, 0.1, (3, 40, 30))).float()
    light = ((albedo * shading + residual) * cut_off).permute(1, 2, 0).numpy()
    picture = np.rint(255 * encode_curve(np.clip(light, 0, 1))).astype(np.uint8)
    assert (light > 1).any() == (cut_off > 1)  # what is clipped in the picture must not pull the scale down
    taken = MarigoldIntrinsics(str(folders["lighting"])).taken_apart(picture, torch.stack([albedo, shading, residual]))
    np.testing.assert_allclose(taken.albedo, albedo.permute(1, 2, 0), atol=1e-7)
    np.testing.assert_allclose(taken.shading, cut_off * shading.permute(1, 2, 0).numpy(), rtol=2e-3)
    made = to_levels(taken.albedo * taken.shading + cut_off * residual.permute(1, 2, 0).numpy())
    assert np.abs(made.astype(int) - picture)[light < 1].max() <= 1
    unclipped = taken.residual[light < 1]
    np.testing.assert_allclose(unclipped, (cut_off * residual.permute(1, 2, 0).numpy())[light < 1], atol=0.01)


def test_the_scale_is_fitted_on_the_mask_alone() -> None:
    albedo = torch.full((3, 4, 4), 0.5)
    shading = torch.ones(3, 4, 4)
    picture = albedo * 0.3
    picture[:, :, 2:] = 0.9  # something else
    sure = torch.zeros(3, 4, 4, dtype=torch.bool)
    sure[:, :, :2] = True
    fitted = lit(picture, albedo, shading, torch.zeros(3, 4, 4), sure=sure)
    torch.testing.assert_close(fitted, torch.full((3, 4, 4), 0.3))
    nothing = torch.zeros(3, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(lit(picture, albedo, shading, albedo, sure=nothing), shading)


def test_srgb_is_decoded_as_elsewhere() -> None:
    encoded = np.linspace(0, 1, 1001)
    ours = decode_srgb(torch.from_numpy(encoded).float()).numpy()
    np.testing.assert_allclose(ours, decode_curve(encoded), atol=1e-6)


def test_normals_that_cancel_face_the_viewer() -> None:
    members = torch.zeros(2, 3, 4, 4)
    members[0, 0], members[1, 0] = 1, -1
    members[:, :, :, 2:] = torch.tensor([0.0, 0.6, 0.8])[:, None, None]
    normals = joined_normals(members, full_z=True, size_hw=(4, 4))
    np.testing.assert_allclose(normals[:, 2:], np.broadcast_to([0, 0.6, 0.8], (4, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-6)
    nothing = joined_normals(torch.zeros(1, 3, 4, 4), full_z=True, size_hw=(8, 8))
    np.testing.assert_array_equal(nothing, np.broadcast_to([0, 0, 1], (8, 8, 3)))


# --- height


def paraboloid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Height in px and normals of a bowl turned over, its top right of and above the middle; the same at any size."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    height = -side * 0.5 * ((x - 0.6) ** 2 + (y - 0.3) ** 2)
    normals = np.stack([x - 0.6, 0.3 - y, np.ones_like(x)], -1)  # -dh/dx, -dh/d(up)
    return height, (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("side", [120, 700])
def test_height_is_the_integral_of_the_slopes_in_px(side: int) -> None:
    true, normals = paraboloid(side)
    height = height_from_normals(normals)
    assert height.shape == true.shape
    assert height.dtype == np.float32
    assert np.abs((height - height.mean()) - (true - true.mean())).max() < 0.01 * np.ptp(true)


def test_slopes_outside_a_mask_do_not_count() -> None:
    true, normals = paraboloid(120)
    inside = np.zeros((120, 120), np.uint8)
    inside[20:100, 30:110] = 255
    noise = np.random.default_rng(0).normal(size=normals.shape)
    noisy = np.where(inside[..., None] > 0, normals, noise / np.linalg.norm(noise, axis=2, keepdims=True))
    height = height_from_normals(noisy.astype(np.float32), mask=inside)[20:100, 30:110]
    true = true[20:100, 30:110]
    assert np.abs((height - height.mean()) - (true - true.mean())).max() < 0.02 * np.ptp(true)


# --- noise


@pytest.mark.parametrize("kind", ["normals-lcm", "lighting-lcm"])
def test_a_picture_does_not_depend_on_its_batch_and_depends_on_the_seed(folders: dict[str, Path], kind: str) -> None:
    images = [photograph(32, 40, seed=1), photograph(40, 32, seed=2), photograph(32, 40, seed=3)]
    model = open_marigold(str(folders[kind]), ensemble=2)
    model.load("cpu")
    state = torch.random.get_rng_state()
    together = model(images, [None] * 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    [alone] = model(images[2:], [None])
    again = model(images[::-1], [None] * 3)
    field = "normals" if kind.startswith("normals") else "albedo"
    assert np.array_equal(getattr(alone, field), getattr(together[2], field))
    assert np.array_equal(getattr(again[1], field), getattr(together[1], field))
    assert [getattr(one, field).shape for one in together] == [image.shape for image in images]
    other = open_marigold(str(folders[kind]), ensemble=2, seed=1)
    other.load("cpu")
    assert not np.array_equal(getattr(other(images[:1], [None])[0], field), getattr(together[0], field))


def test_every_picture_and_member_has_noise_of_its_own() -> None:
    image = photograph(8, 8)
    changed = image.copy()
    changed[7, 7, 2] ^= 1

    def first(image: np.ndarray, *, seed: int = 0, count: int = 1) -> list[float]:
        return [float(torch.randn(1, generator=one)) for one in generators_for(image, seed=seed, count=count)]

    assert first(image) == first(image.copy())
    assert first(image, count=3)[:1] == first(image)
    assert len({*first(image, count=3), *first(changed), *first(image, seed=1), *first(image.reshape(4, 16, 3))}) == 6


def test_steps_and_resolution_are_followed(folders: dict[str, Path]) -> None:
    image = photograph(48, 24)
    seen = {}
    for steps, resolution in ((1, 32), (3, 32), (3, 0)):
        model = open_marigold(str(folders["normals"]), steps=steps, resolution=resolution)
        model.load("cpu")
        [(_, decoded)] = list(model._predictions([image]))
        seen[steps, resolution] = decoded
    assert seen[1, 32].shape == seen[3, 32].shape == (1, 1, 3, 32, 16)
    assert seen[3, 0].shape == (1, 1, 3, 48, 24)
    assert not torch.equal(seen[1, 32], seen[3, 32])


def test_a_sliver_of_a_picture_is_no_error(folders: dict[str, Path]) -> None:
    model = open_marigold(str(folders["normals"]))
    model.load("cpu")
    assert model([photograph(1, 200)], [None])[0].height.shape == (1, 200)


# --- being had, or not


def test_a_model_of_another_kind_is_refused_before_it_is_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    depth = str(save_depth_anything(tmp_path / "depth"))
    with pytest.raises(ModelError, match=r"no model of the kind marigold-normals \(its type is depth_anything\)"):
        open_marigold(depth).check("cpu")
    with pytest.raises(ModelError, match="no model of the kind marigold-intrinsics"):
        MarigoldIntrinsics(str(folders["normals"])).check("cpu")
    for folder in folders.values():
        open_marigold(str(folder)).check("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_properties": {"target_names": ["depth"]}}, "predicts depth, and no albedo"),
        ({"scheduler": ["diffusers", "EulerDiscreteScheduler"]}, "the scheduler EulerDiscreteScheduler; Marigold has"),
        ({"default_denoising_steps": None}, "how many steps at which resolution"),
    ],
)
def test_a_folder_that_does_not_say_what_it_is_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save_marigold_intrinsics(tmp_path / "odd", LIGHTING)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ModelError, match=message):
        MarigoldIntrinsics(str(folder)).check("cpu")


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="1 to 50 steps, got 0"):
        MarigoldNormals("any/model", steps=0)
    with pytest.raises(UsageError, match="1 to 20 members, got 21"):
        MarigoldNormals("any/model", ensemble=21)
    with pytest.raises(UsageError, match="a multiple of 8 px, got 100"):
        MarigoldNormals("any/model", resolution=100)


def test_it_is_pickled_before_it_is_loaded_and_called_after(folders: dict[str, Path]) -> None:
    model = open_marigold(str(folders["lighting"]), steps=1, seed=9)
    model.check("cpu")
    copied = pickle.loads(pickle.dumps(model))
    assert (copied.version, copied.seed, copied.steps) == (model.version, 9, 1)
    assert copied.on_device
    with pytest.raises(RuntimeError, match="before it was loaded"):
        copied([photograph(8, 8)], [None])
    copied.load("cpu")
    assert copied([photograph(8, 8)], [np.full((8, 8), 255, np.uint8)])[0].albedo.shape == (8, 8, 3)
    copied.unload()
    assert pickle.loads(pickle.dumps(copied)).name == model.name
