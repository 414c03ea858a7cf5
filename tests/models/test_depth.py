import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.tiny_diffusion import save_clip, save_depth_anything
from transformers import AutoModelForDepthEstimation, DepthAnythingForDepthEstimation
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from lightmill.errors import ModelError, UsageError
from lightmill.models.depth import depth_from_inverse, focal_px, half_but_head, kind_of, open_depth, upsampled
from lightmill.models.hub import Found


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("relative"))


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("metric"), metric=True)


def photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rays(height: int, width: int, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """x and y (up) of each pixel's ray at z = 1."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (x - width / 2) / focal, (height / 2 - y) / focal


def degrees_apart(normals: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((normals.astype(float) * others).sum(-1), -1, 1)))


# --- what the network says


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_the_prediction_is_that_of_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    folder, image = request.getfixturevalue(kind), photograph(96, 60)
    model = open_depth(str(folder))
    model.load("cpu")
    [(place, prediction)] = list(model._predictions([image]))
    processor = DPTImageProcessorPil.from_pretrained(folder)
    published = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = published(**processor(image, return_tensors="pt"))
    assert place == 0
    assert prediction.shape == outputs.predicted_depth[0].shape == (112, 70)
    spread = float(outputs.predicted_depth.std())
    assert float((prediction - outputs.predicted_depth[0]).abs().max()) < 0.05 * spread  # Pillow's pixels: 1 level off


def test_a_ramp_stays_a_ramp() -> None:
    y, x = np.mgrid[:20, :30] + 0.5
    ramp = upsampled(torch.from_numpy(2 * x + 5 * y).float(), height=60, width=90)
    y, x = (np.mgrid[:60, :90] + 0.5) / 3
    np.testing.assert_allclose(ramp[6:-6, 6:-6], (2 * x + 5 * y)[6:-6, 6:-6], rtol=1e-5)


def test_a_picture_does_not_depend_on_its_batch(relative: Path) -> None:
    model = open_depth(str(relative))
    model.load("cpu")
    images = [photograph(70, 70), photograph(50, 90, seed=1), photograph(70, 70, seed=2)]
    together = model(images, [None] * 3)
    for image, relief in zip(images, together, strict=True):
        [alone] = model([image], [None])
        assert np.array_equal(alone.normals, relief.normals)
        assert np.array_equal(alone.height, relief.height)
        assert relief.normals.shape == image.shape
        assert relief.normals.dtype == relief.height.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(relief.normals, axis=2), 1, atol=1e-5)
    assert not np.array_equal(together[0].height, together[2].height)


def test_the_head_in_float32_keeps_slopes() -> None:
    def slopes(model: DepthAnythingForDepthEstimation, dtype: torch.dtype) -> torch.Tensor:
        with torch.inference_mode():
            return torch.diff(model(pixels.to(dtype)).predicted_depth.float())

    def fresh() -> DepthAnythingForDepthEstimation:
        torch.manual_seed(3)
        return save_and_load()

    pixels = torch.nn.functional.interpolate(
        torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)), (70, 70), mode="bicubic"
    )
    true = slopes(fresh(), torch.float32)
    rounded = slopes(fresh().to(torch.bfloat16), torch.bfloat16) - true
    model = half_but_head(fresh(), torch.bfloat16)
    kept = slopes(model, torch.bfloat16) - true
    assert model.backbone.dtype == torch.bfloat16
    assert kept.square().mean() < 0.1 * rounded.square().mean()


def save_and_load() -> DepthAnythingForDepthEstimation:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return DepthAnythingForDepthEstimation.from_pretrained(save_depth_anything(Path(folder))).eval()


# --- what is made of it


@pytest.mark.parametrize("side", [140, 420])
def test_a_slanted_plane_in_metres_has_its_normal_at_any_resolution(metric: Path, side: int) -> None:
    normal = np.array([0.48, 0.6, 0.64])
    focal = focal_px(140, 60)
    x, y = rays(140, 140, focal)
    depth = 2.0 / (normal[2] - normal[0] * x - normal[1] * y)  # n . (x z, y z, -z) = -2
    relief = open_depth(str(metric), hfov_deg=60).relief(torch.from_numpy(depth).float(), height=side, width=side)
    margin = side // 20  # the kernel has nothing beyond the border
    assert degrees_apart(relief.normals, normal)[margin:-margin, margin:-margin].max() < 0.5


@pytest.mark.parametrize("size", [(140, 140), (420, 420)])
def test_inverse_depth_of_a_plane_is_a_plane_at_any_resolution(relative: Path, size: tuple[int, int]) -> None:
    y, x = np.mgrid[:140, :140] + 0.5
    inverse = 40 + 3 * (x / 140) + 5 * (y / 140)  # that of a plane is linear in the picture; nearer to the right, below
    model = open_depth(str(relative), hfov_deg=60, far_over_near=3)
    relief = model.relief(torch.from_numpy(inverse).float(), height=size[0], width=size[1])
    far, near = np.percentile(inverse, [1, 99])
    per_unit = (1 - 1 / 3) / (near - far)
    focal = focal_px(1, 60)  # in widths of the picture; 1 / z = A + B x + C y has the normal (-B, -C, A)
    middle = 1 / 3 + (44 - far) * per_unit
    expected = np.array([-3 * per_unit * focal, 5 * per_unit * focal, middle])
    margin = size[0] // 20
    inside = np.s_[margin:-margin, margin:-margin]
    assert degrees_apart(relief.normals, expected / np.linalg.norm(expected))[inside].max() < 0.5
    assert relief.height[inside][-1, -1] > relief.height[inside][0, 0]  # large is near


def test_a_sphere_in_metres_has_its_normals(metric: Path) -> None:
    side, radius, away = 210, 0.5, 3.0
    x, y = rays(side, side, focal_px(side, 30))
    a, b, c = x**2 + y**2 + 1, -2 * away, away**2 - radius**2
    inside = b * b - 4 * a * c > 0
    depth = np.where(inside, (-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / (2 * a), away)
    expected = np.stack([x * depth, y * depth, away - depth], -1) / radius
    relief = open_depth(str(metric), hfov_deg=30).relief(torch.from_numpy(depth).float(), height=side, width=side)
    front = expected[..., 2] > 0.5
    front &= inside
    assert front.sum() > 3000
    assert degrees_apart(relief.normals, expected)[front].max() < 1.5


def test_scale_and_shift_of_inverse_depth_do_not_count() -> None:
    inverse = np.random.default_rng(5).random((40, 50)).astype(np.float32)
    one = depth_from_inverse(inverse, grid=inverse, far_over_near=3)
    other = depth_from_inverse(inverse * 17 + 5, grid=inverse * 17 + 5, far_over_near=3)
    np.testing.assert_allclose(one, other, rtol=1e-4)
    near, far = np.percentile(one, [1, 99])
    assert far / near == pytest.approx(3, rel=1e-3)
    assert np.corrcoef(inverse.ravel(), one.ravel())[0, 1] < -0.9  # large is near
    assert one.max() <= 6 + 1e-5


def test_what_is_all_one_number_is_a_plane_that_faces_us(relative: Path) -> None:
    relief = open_depth(str(relative)).relief(torch.zeros(70, 70), height=40, width=60)
    np.testing.assert_allclose(relief.normals, np.broadcast_to([0, 0, 1], (40, 60, 3)), atol=1e-6)


def test_a_camera_on_its_side_sees_the_same_shape(metric: Path) -> None:
    y, x = np.mgrid[:70, :140] / 140
    depth = torch.from_numpy(2 + 0.3 * np.sin(6 * x) + 0.2 * np.cos(9 * y)).float()
    model = open_depth(str(metric))
    lying = model.relief(depth, height=70, width=140)
    upright = model.relief(torch.rot90(depth).contiguous(), height=140, width=70)
    turned = np.rot90(lying.normals)[..., [1, 0, 2]] * [-1, 1, 1]  # to the left: x becomes y, y becomes -x
    assert degrees_apart(upright.normals, turned).max() < 0.1


# --- being had, or not


def test_which_model_a_folder_is(tmp_path: Path) -> None:
    def kind(config: dict[str, object]) -> str:
        return kind_of(Found(tmp_path, "any", "1", 0, config))

    assert kind({"model_type": "depth_anything"}) == "depth-anything"
    assert kind({"model_type": "clip"}) == "clip"
    assert kind({"_class_name": "MarigoldNormalsPipeline"}) == "marigold-normals"
    assert kind({"_class_name": "MarigoldIntrinsicsPipeline"}) == "marigold-intrinsics"
    assert kind({"_class_name": "MarigoldDepthPipeline"}) == kind({"model_type": "sam3"}) == kind({}) == ""


def test_a_model_of_another_kind_is_refused_before_it_is_loaded(tmp_path: Path, relative: Path) -> None:
    with pytest.raises(ModelError, match=r"no Depth-Anything model \(its type is clip\)"):
        open_depth(str(save_clip(tmp_path / "clip"))).check("cpu")
    open_depth(str(relative)).check("cpu")
    odd = save_depth_anything(tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"depth_estimation_type": "ordinal"}))
    with pytest.raises(ModelError, match=r"estimates 'ordinal' depth; known are relative and metric"):
        open_depth(str(odd)).check("cpu")


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 to 170 degrees, got 180"):
        open_depth("any/model", hfov_deg=180)
    with pytest.raises(UsageError, match=r"above 1, up to 1000; got 1"):
        open_depth("any/model", far_over_near=1)


def test_it_is_pickled_before_it_is_loaded_and_called_after(relative: Path) -> None:
    model = open_depth(str(relative))
    model.check("cpu")
    copied = pickle.loads(pickle.dumps(model))
    assert copied.version == model.version
    assert copied.on_device
    with pytest.raises(RuntimeError, match="before it was loaded"):
        copied([photograph(70, 70)], [None])
    copied.load("cpu")
    assert copied([photograph(70, 70)], [None])[0].height.shape == (70, 70)
    copied.unload()
    assert pickle.loads(pickle.dumps(copied)).name == str(relative)
