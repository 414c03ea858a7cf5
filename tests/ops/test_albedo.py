"""What is known exactly of albedo and light, on scenes that are exact and on photographs with any background."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lightmill.ops.albedo import Parts, lab, msr, retinex
from lightmill.ops.intrinsic_metrics import lmse, si_mse, whdr
from lightmill.ops.srgb import to_levels, to_linear
from lightmill.sample.mondrian import Scene, judgements, mondrian

WAYS = [retinex, msr, lab]
SEEDS = range(6)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [mondrian(seed) for seed in SEEDS]


def ellipse(height: int, width: int, share: float) -> np.ndarray:
    """A mask in the middle that covers about `share` of the picture."""
    half = np.sqrt(share / np.pi)
    mask = np.zeros((height, width), np.uint8)
    centre, axes = (width // 2, height // 2), (max(1, int(half * width)), max(1, int(half * height)))
    return cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)


def means(scenes: list[Scene], estimates: list[np.ndarray]) -> tuple[float, float, float]:
    """si-MSE, LMSE and WHDR, mean over the scenes."""
    pairs = list(zip(scenes, estimates, strict=True))
    return (
        float(np.mean([si_mse(found, scene.albedo) for scene, found in pairs])),
        float(np.mean([lmse(found, scene.albedo) for scene, found in pairs])),
        float(np.mean([whdr(found, judgements(scene, seed=i)) for i, (scene, found) in enumerate(pairs)])),
    )


def test_retinex_finds_the_albedo_of_mondrian_scenes(scenes: list[Scene]) -> None:
    of_picture = means(scenes, [scene.picture for scene in scenes])
    found = means(scenes, [retinex(scene.picture).albedo for scene in scenes])
    assert found[0] < of_picture[0] / 1000
    assert found[1] < of_picture[1] / 1000
    assert found[2] < 0.01 < of_picture[2]  # 0.03 is wanted


def test_retinex_finds_it_in_eight_bits_too(scenes: list[Scene]) -> None:
    found = means(scenes, [retinex(to_linear(to_levels(scene.picture))).albedo for scene in scenes])
    assert found[0] < 1e-4
    assert found[2] < 0.01


def test_retinex_finds_it_within_a_mask(scenes: list[Scene]) -> None:
    mask = ellipse(384, 384, 0.4)
    for scene in scenes:
        found = retinex(scene.picture, mask=mask).albedo
        assert si_mse(found, scene.albedo, mask=mask) < si_mse(scene.picture, scene.albedo, mask=mask) / 100


def test_the_others_are_what_their_docstrings_say(scenes: list[Scene]) -> None:
    of_picture = means(scenes, [scene.picture for scene in scenes])
    of_msr = means(scenes, [msr(scene.picture).albedo for scene in scenes])
    of_lab = means(scenes, [lab(scene.picture).albedo for scene in scenes])
    assert of_msr[0] > of_picture[0] * 0.9
    assert of_msr[1] > of_picture[1] * 10
    assert 0.2 < of_msr[2] < of_picture[2]
    assert all(lab_is > picture_is for lab_is, picture_is in zip(of_lab, of_picture, strict=True))


@pytest.mark.parametrize("light", [1.0, 0.2])
@pytest.mark.parametrize("masked", [False, True])
def test_under_constant_light_the_albedo_is_the_picture(scenes: list[Scene], light: float, masked: bool) -> None:
    mask = ellipse(384, 384, 0.3) if masked else None
    pictures = [scene.albedo * np.float32(light) for scene in scenes]
    off = [si_mse(retinex(picture, mask=mask).albedo, picture) for picture in pictures]
    assert max(off) < 1e-6  # in two scenes, patches that hardly differ count as one under two lights
    assert np.median(off) < 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exposure", [0.5, 0.37, 4.0])
@pytest.mark.parametrize("masked", [False, True])
def test_exposure_scales_the_albedo_and_nothing_else(
    way: Callable[..., Parts], exposure: float, masked: bool, scenes: list[Scene]
) -> None:
    mask = ellipse(384, 384, 0.3) if masked else None
    once, other = (way(scenes[2].picture * np.float32(factor), mask=mask) for factor in (1, exposure))
    np.testing.assert_allclose(other.albedo, once.albedo * exposure, rtol=1e-4)
    np.testing.assert_allclose(other.shading, once.shading, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_parts_make_the_picture_again(way: Callable[..., Parts], masked: bool) -> None:
    picture = photo_like(1, 90, 131)
    picture[20:40, 30:60] = 0
    parts = way(picture, mask=ellipse(90, 131, 0.3) if masked else None)
    assert {parts.albedo.dtype, parts.shading.dtype} == {np.dtype(np.float32)}
    assert parts.albedo.shape == (90, 131, 3)
    assert parts.shading.shape == (90, 131, 3 if way is msr else 1)
    assert (parts.shading > 0).all()
    np.testing.assert_allclose(parts.albedo * parts.shading, picture, rtol=3e-7)
    assert (parts.albedo[20:40, 30:60] == 0).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_log_of_the_light_on_the_foreground_is_zero(way: Callable[..., Parts], masked: bool) -> None:
    mask = ellipse(90, 131, 0.3) if masked else np.full((90, 131), 255, np.uint8)
    shading = way(photo_like(2, 90, 131), mask=mask if masked else None).shading
    assert abs(np.log(shading[mask >= 128].astype(np.float64)).mean()) < 1e-5


def photo_like(seed: int, height: int, width: int) -> np.ndarray:
    """Linear light with edges, ramps and noise, some of it 0."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 15, width // 15, 3), dtype=np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture[height // 3 :, width // 2 :] *= 0.2
    picture += rng.normal(0, 0.01, picture.shape).astype(np.float32)
    return np.maximum(picture, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("background", ["black", "white", "noise", "brighter than white"])
def test_the_background_changes_nothing_in_the_foreground(way: Callable[..., Parts], background: str) -> None:
    picture, mask = photo_like(3, 150, 200), ellipse(150, 200, 0.25)
    mask[10:20, 10:30] = 255  # a second piece
    noise = np.random.default_rng(4).random(picture.shape, dtype=np.float32)
    other = {"black": 0 * noise, "white": 0 * noise + 1, "noise": noise, "brighter than white": 1000 * noise}
    inside = mask >= 128
    changed = np.where(inside[..., None], picture, other[background])
    before, after = way(picture, mask=mask), way(changed, mask=mask)
    np.testing.assert_allclose(after.albedo[inside], before.albedo[inside], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_soft_edge_counts_from_one_half(way: Callable[..., Parts]) -> None:
    picture, mask = photo_like(5, 60, 80), ellipse(60, 80, 0.3)
    soft = cv2.GaussianBlur(mask, (0, 0), 2)
    hard = np.where(soft >= 128, np.uint8(255), np.uint8(0))
    np.testing.assert_array_equal(way(picture, mask=soft).albedo, way(picture, mask=hard).albedo)


def test_a_mask_of_little_of_the_picture_does_not_wash_the_albedo_out() -> None:
    """0.15 % of the picture, black around: the albedo is that of the object alone in its frame."""
    scene = mondrian(1, 40)
    picture, mask = np.zeros((1024, 1024, 3), np.float32), np.zeros((1024, 1024), np.uint8)
    place = np.s_[300:340, 700:740]
    picture[place], mask[place] = scene.picture, 255
    assert 0.0014 < (mask > 0).mean() < 0.0016
    found, alone = retinex(picture, mask=mask).albedo[place], retinex(scene.picture).albedo
    assert found.std() == pytest.approx(alone.std(), rel=0.1)
    assert found.mean() == pytest.approx(alone.mean(), rel=0.05)
    assert found.mean() < 1.5 * scene.picture.mean()


@pytest.mark.parametrize("share", [0.11, 0.35, 0.61])
def test_an_ellipse_on_black_does_not_wash_the_albedo_out(scenes: list[Scene], share: float) -> None:
    mask = ellipse(384, 384, share)
    inside = mask >= 128
    for scene in scenes:
        found = retinex(np.where(inside[..., None], scene.picture, 0), mask=mask).albedo[inside]
        full = retinex(scene.picture)
        alone = full.albedo[inside] * np.exp(np.log(full.shading[inside]).mean())  # as bright as the picture in there
        assert found.std() == pytest.approx(alone.std(), rel=0.05)
        assert found.mean() == pytest.approx(alone.mean(), rel=0.05)


@pytest.mark.parametrize("name", ["man", "smile", "two_men"])
def test_photographs_stay_in_range_and_lose_light(shared_data: Path, name: str) -> None:
    pixels = cv2.imread(str(shared_data / "photos" / f"{name}.jpg"))[..., ::-1]
    picture = to_linear(np.ascontiguousarray(pixels))
    mask = ellipse(*picture.shape[:2], 0.4)
    for parts, inside in ((retinex(picture), mask >= 0), (retinex(picture, mask=mask), mask >= 128)):
        assert np.isfinite(parts.albedo).all()
        assert (parts.albedo[inside] > 1).mean() < 0.01
        assert 0.02 < np.log(parts.shading[inside]).std() < 1
        texture = np.abs(np.diff(np.log(parts.shading[..., 0]), axis=0))
        assert np.quantile(texture, 0.999) < 0.3  # no edge of the picture is an edge of the light


def test_light_goes_on_around_the_foreground() -> None:
    scene = mondrian(2, 128)
    mask = np.zeros((128, 128), np.uint8)
    mask[40:90, 30:100] = 255
    log_light = np.log(retinex(scene.picture, mask=mask).shading[..., 0])
    assert max(np.abs(np.diff(log_light, axis=axis)).max() for axis in (0, 1)) < 0.2
    assert log_light.min() >= log_light[mask > 0].min() - 1e-3
    assert log_light.max() <= log_light[mask > 0].max() + 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_without_light_or_foreground_the_albedo_is_the_picture(way: Callable[..., Parts]) -> None:
    picture = photo_like(6, 40, 50)
    for linear, mask in ((picture, np.zeros((40, 50), np.uint8)), (np.zeros_like(picture), None)):
        parts = way(linear, mask=mask)
        np.testing.assert_array_equal(parts.albedo, linear)
        np.testing.assert_array_equal(parts.shading, np.ones((40, 50, 1), np.float32))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("boxed", [False, True])
def test_pictures_and_boxes_of_a_few_pixels(way: Callable[..., Parts], height: int, width: int, boxed: bool) -> None:
    small = np.random.default_rng(7).random((height, width, 3), dtype=np.float32)
    picture, mask = small, None
    if boxed:
        picture = np.pad(small, ((5, 5), (6, 6), (0, 0)))
        mask = np.zeros(picture.shape[:2], np.uint8)
        mask[5 : 5 + height, 6 : 6 + width] = 255
    parts = way(picture, mask=mask)
    np.testing.assert_allclose(parts.albedo * parts.shading, picture, rtol=3e-7)
    assert np.isfinite(parts.albedo).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("linear", "mask", "message"),
    [
        (np.zeros((4, 5, 3)), None, r"a picture \[H, W, 3\] of float32, got float64 \[4, 5, 3\]"),
        (np.zeros((4, 5), np.float32), None, r"a picture \[H, W, 3\] of float32, got float32 \[4, 5\]"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((5, 4), np.uint8), r"mask \[4, 5\] of uint8.*got uint8 \[5, 4\]"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), bool), r"mask \[4, 5\] of uint8.*got bool \[4, 5\]"),
    ],
)
def test_other_arrays_are_refused(way: Callable[..., Parts], linear: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        way(linear, mask=mask)
