"""Lights: drawn as asked, kept as JSON, and shone by one formula on numpy and torch."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lightmill.ops.lights import KINDS, PATTERN_SHARES, Lamp, Light, Ranges, Shadow, draw_kind, draw_light
from lightmill.ops.radiance import Scene, brought_to_range, light_up, light_up_batch, shadow_of

RANGES = Ranges()


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_comes_back_from_json(kind: str) -> None:
    for seed in range(20):
        light = draw_light(kind, rng(seed), ranges=RANGES)
        assert Light.from_json(json.loads(json.dumps(light.to_json()))) == light


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_lies_in_the_ranges(kind: str) -> None:
    for seed in range(50):
        light = draw_light(kind, rng(seed), ranges=RANGES)
        assert light.kind == kind
        for lamp in light.lamps:
            assert np.linalg.norm(lamp.direction) == pytest.approx(1)
            assert 10 - 1e-9 <= np.degrees(np.arcsin(lamp.direction[2])) <= 80 + 1e-9
        if light.shadow:
            assert 0.4 <= light.shadow.opacity <= 0.9
        if light.gloss:
            assert 0.02 <= light.gloss <= 0.12
            assert 10 <= light.shininess <= 100


def test_directions_are_area_uniform() -> None:
    """Fault 16: elevations drawn uniformly put twice too many lamps above 60 degrees (Archimedes: z is uniform)."""
    ranges = Ranges(elevation=(0.0, 90.0))
    towards = np.array([draw_light("soft", rng(seed), ranges=ranges).lamps[0].direction for seed in range(3000)])
    assert stats.kstest(towards[:, 2], stats.uniform(0, 1).cdf).pvalue > 0.01
    azimuth = np.arctan2(towards[:, 1], towards[:, 0])
    assert stats.kstest(azimuth, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


def test_kinds_are_drawn_by_weight() -> None:
    weights = {"soft": 3.0, "hard": 1.0, "cloud": 0.0}
    drawn = [draw_kind(generator, weights=weights) for generator in [rng(5)] for _ in range(4000)]
    assert set(drawn) == {"soft", "hard"}
    assert stats.binomtest(drawn.count("soft"), 4000, 0.75).pvalue > 0.01


def test_the_shares_of_patterns_add_up() -> None:
    assert sum(PATTERN_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("broken", [{}, {"kind": "soft"}])
def test_a_light_that_cannot_be_read(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no light that this release of Lightmill can read"):
        Light.from_json(broken)


# --- radiance --------------------------------------------------------------------------------------------------------


def sphere(side: int = 64) -> NDArray[np.float32]:
    """Normals of a ball that fills the picture; beyond it, of a plane."""
    x, y = np.meshgrid((np.arange(side) + 0.5) / side * 2 - 1, 1 - (np.arange(side) + 0.5) / side * 2)
    z2 = 1 - x * x - y * y
    ball = np.stack([x, y, np.sqrt(np.maximum(z2, 0))], -1)
    return np.where((z2 > 0)[..., None], ball, [0.0, 0.0, 1.0]).astype(np.float32)


def scene(seed: int, **more: object) -> Scene:
    normals = sphere()
    given = {
        "albedo": rng(seed).uniform(0, 1, normals.shape).astype(np.float32),
        "normals": normals,
        "mask": np.full(normals.shape[:2], 255, np.uint8),
        "background": np.zeros((1, 1, 3), np.float32),
    }
    return Scene(**{**given, **more})


def levels(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    v = np.clip(linear, 0, 1)
    return 255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def test_two_lamps_and_what_is_between_them_and_the_thing() -> None:
    """albedo × (ambient × occlusion + key × transmittance + fill), in float64, written anew."""
    random = rng(3)
    through = random.uniform(0, 1, (64, 64)).astype(np.float32)
    seen = random.uniform(0.5, 1, (64, 64)).astype(np.float32)
    key, fill = (
        Lamp(direction=(0.6, 0.0, 0.8), colour=(0.5, 0.4, 0.3)),
        Lamp(direction=(-0.6, 0.0, 0.8), colour=(0.1,) * 3),
    )
    light = Light(kind="soft", ambient=(0.2, 0.2, 0.3), lamps=(key, fill), occlusion=0.5)
    ball = scene(3, transmittance=through, occlusion=seen)
    shading = np.array(light.ambient) * (1 - 0.5 * (1 - seen.astype(np.float64)))[..., None]
    for lamp, reaches in ((key, through), (fill, np.ones_like(through))):
        facing = np.maximum(ball.normals.astype(np.float64) @ np.array(lamp.direction), 0) * reaches
        shading = shading + facing[..., None] * np.array(lamp.colour)
    expected = levels(ball.albedo * shading)
    assert np.abs(light_up(ball, light).composite - expected).max() <= 0.6


@pytest.mark.parametrize("kind", ["soft", "specular", "advanced", "venetian"])
def test_torch_gives_what_numpy_gives(kind: str) -> None:
    """One level apart at the most, and that seldom; with scenes of two sizes and lights of two kinds in one batch."""
    pytest.importorskip("torch")
    random = rng(1)
    scenes, lights = [], []
    for seed in range(4):
        light = draw_light(kind if seed else "advanced", rng(seed), ranges=RANGES)
        shadow = shadow_of(light, np.zeros((64, 64), np.float32))
        seen = random.uniform(0.5, 1, (64, 64)).astype(np.float32)
        whole = scene(seed, transmittance=shadow, occlusion=seen)
        scenes.append(whole if seed != 2 else cropped(whole))
        lights.append(light)
    for on_device, one, light in zip(light_up_batch(scenes, lights, device="cpu"), scenes, lights, strict=True):
        here = light_up(one, light)
        difference = np.abs(on_device.composite.astype(int) - here.composite)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.005
        assert on_device.clipped_share == pytest.approx(here.clipped_share, abs=1e-3)


def cropped(whole: Scene) -> Scene:
    top = (slice(0, 40), slice(0, 50))
    maps = (whole.transmittance, whole.occlusion)
    shadow, seen = (None if found is None else found[top] for found in maps)
    return Scene(whole.albedo[top], whole.normals[top], whole.mask[top], whole.background, shadow, seen)


def test_clipping_is_counted_where_it_counts() -> None:
    lamp = Lamp(direction=(0.0, 0.0, 1.0), colour=(2.0, 2.0, 2.0))
    light = Light(kind="soft", ambient=(0.0,) * 3, lamps=(lamp,))
    albedo = np.full((10, 10, 3), 0.4, np.float32)
    albedo[:5] = 0.6
    flat = np.zeros((10, 10, 3), np.float32)
    flat[..., 2] = 1
    mask = np.zeros((10, 10), np.uint8)
    mask[:, :4] = 255
    found = light_up(Scene(albedo, flat, mask, np.zeros((1, 1, 3), np.float32)), light)
    assert found.clipped_share == 0.5
    assert (found.composite[:, 4:] == 0).all()
    assert (found.foreground[:5] == 255).all()


def test_opacity_is_how_much_a_shadow_takes() -> None:
    light = draw_light("fence", rng(0), ranges=RANGES)
    assert light.shadow
    full = shadow_of(replace(light, shadow=replace(light.shadow, opacity=1.0)), np.zeros((80, 80), np.float32))
    half = shadow_of(replace(light, shadow=replace(light.shadow, opacity=0.5)), np.zeros((80, 80), np.float32))
    assert full is not None
    assert full.min() < 0.01
    np.testing.assert_allclose(half, (1 + full) / 2, atol=1e-6)
    assert shadow_of(replace(light, shadow=None), np.zeros((80, 80), np.float32)) is None


def test_an_unknown_caster_is_refused() -> None:
    light = replace(draw_light("soft", rng(0), ranges=RANGES), shadow=Shadow(caster="ufo", opacity=1.0))
    with pytest.raises(ValueError, match="ufo"):
        shadow_of(light, np.zeros((8, 8), np.float32))


def test_albedo_is_brought_down_never_up() -> None:
    mask = np.full((50, 50), 255, np.uint8)
    dark = np.full((50, 50, 3), 0.3, np.float32)
    assert brought_to_range(dark, mask) == (pytest.approx(dark), 1.0)
    bright, scale = brought_to_range(dark * 10, mask)
    assert scale == pytest.approx(1 / 3)
    assert bright.max() == pytest.approx(1)
    assert brought_to_range(dark * 10, mask * 0)[1] == 1.0
