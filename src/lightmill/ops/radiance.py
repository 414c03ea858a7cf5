"""How a thing looks in a light: albedo × shading + highlight, in linear light, and set before a background.

    shading = (ambient + environment(N)) × occlusion + Σ colour_k × max(0, N·L_k) × transmittance_k
    picture = albedo × shading + gloss × Σ colour_k × BlinnPhong(N, L_k) × transmittance_k

Only the first lamp has a transmittance: what its shadow leaves of it. The formula stands once, for batches of numpy
arrays and of torch tensors; what a device gives differs from the CPU's in the last bits of float32, so by at most one
level here and there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.cast import occluder_shadow, self_shadow
from lightmill.ops.lights import Light, Shadow, occluder_of
from lightmill.ops.patterns import Pattern, render_pattern
from lightmill.ops.shading import blinn_phong, compose, lambert, sh_irradiance
from lightmill.ops.srgb import to_levels

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]

_BLOCK_PX = 1 << 15  # worked on at one time on the CPU: a dozen arrays of them fit into a core's cache


@dataclass(frozen=True, slots=True)
class Scene:
    """What a light falls on."""

    albedo: Floats  # [H, W, 3]
    normals: Floats  # [H, W, 3]
    mask: NDArray[np.uint8]  # [H, W]
    background: Floats  # [H, W, 3], or [1, 1, 3] of one colour
    transmittance: Floats | None = None  # [H, W] of the first lamp
    occlusion: Floats | None = None  # [H, W], 1 = open


@dataclass(frozen=True, slots=True)
class Lit:
    """A scene in a light, in sRGB levels."""

    composite: Levels  # [H, W, 3] before its background
    foreground: Levels  # [H, W, 3] everywhere, as if the mask were full
    bright_px: int  # of the foreground, brighter than white in some channel
    inside_px: int  # of the foreground

    @property
    def clipped_share(self) -> float:
        """The share of the foreground that is brighter than white in some channel."""
        return self.bright_px / max(self.inside_px, 1)

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return self.composite.nbytes + self.foreground.nbytes


def brought_to_range(albedo: Floats, mask: NDArray[np.uint8]) -> tuple[Floats, float]:
    """The albedo scaled down, never up, until 999 of 1000 of the foreground's values are at most 1; and that scale.

    A surface does not give back more than it gets; Retinex knows albedo only up to a scale.
    """
    inside = albedo[mask >= 128]
    if not len(inside):
        return albedo, 1.0
    brightest = float(np.quantile(inside[:: max(len(inside) // 50_000, 1)], 0.999))
    scale = 1.0 / max(brightest, 1.0)
    return albedo * np.float32(scale), scale


def shadow_of(light: Light, height: Floats) -> Floats | None:
    """[H, W] transmittance 0..1 of the first lamp; None where nothing stands in its way."""
    shadow = light.shadow
    if shadow is None:
        return None
    return 1 - np.float32(shadow.opacity) * (1 - _transmittance(shadow, light, height))


def _transmittance(shadow: Shadow, light: Light, height: Floats) -> Floats:
    direction = np.asarray(light.lamps[0].direction)
    if shadow.caster == "self":
        return self_shadow(height, light=direction, softness_deg=shadow.softness_deg)
    if shadow.caster == "occluder":
        occluder = occluder_of(shadow)
        return occluder_shadow(height, light=direction, occluder=occluder, softness_deg=shadow.softness_deg)
    size_hw = (height.shape[0], height.shape[1])
    return 1 - render_pattern(Pattern(shadow.caster), shadow.parameters, size_hw=size_hw)


def light_up(scene: Scene, light: Light) -> Lit:
    """One scene, on the CPU, some rows at a time: pixels do not know each other, and so all stays in the cache."""
    height, width = scene.mask.shape
    rows = max(_BLOCK_PX // width, 1)
    composite, foreground = np.empty((height, width, 3), np.uint8), np.empty((height, width, 3), np.uint8)
    bright = inside = 0
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        lit = _lit([_rows(scene, part)], [light], np.asarray, to_levels)[0]
        composite[part], foreground[part] = lit.composite, lit.foreground
        bright, inside = bright + lit.bright_px, inside + lit.inside_px
    return Lit(composite, foreground, bright, inside)


def _rows(scene: Scene, part: slice) -> Scene:
    """Some rows of a scene."""
    through, seen = scene.transmittance, scene.occlusion
    return Scene(
        scene.albedo[part],
        scene.normals[part],
        scene.mask[part],
        scene.background if scene.background.shape[0] == 1 else scene.background[part],
        None if through is None else through[part],
        None if seen is None else seen[part],
    )


def light_up_batch(scenes: Sequence[Scene], lights: Sequence[Light], *, device: str) -> list[Lit]:
    """Scenes in their lights on a device of torch; those of one size share a batch.

    Raises torch.OutOfMemoryError (nothing is changed then: the same call with fewer scenes is right).
    """
    import torch

    def put(values: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    lit: dict[int, Lit] = {}
    with torch.inference_mode():
        for places in _by_size(scenes):
            found = _lit([scenes[i] for i in places], [lights[i] for i in places], put, _levels_on_device)
            lit.update(zip(places, found, strict=True))
    return [lit[i] for i in range(len(scenes))]


def _by_size(scenes: Sequence[Scene]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, scene in enumerate(scenes):
        groups.setdefault((*scene.mask.shape, *scene.background.shape), []).append(place)
    return list(groups.values())


def _levels_on_device(linear: Any) -> Any:
    """`to_levels` on a tensor: the same rounding, the same table."""
    import torch

    from lightmill.ops.srgb import LEVEL_OF_LINEAR

    table = torch.from_numpy(LEVEL_OF_LINEAR).to(linear.device)
    rounded = linear.clip(0, 1) * (len(LEVEL_OF_LINEAR) - 1) + 0.5
    return table[rounded.to(torch.int32)].cpu().numpy()


def _lit(scenes: Sequence[Scene], lights: Sequence[Light], put: Any, levels: Any) -> list[Lit]:
    """`put` brings arrays to where the work is done; `levels` brings linear light back as sRGB levels."""
    foreground = _radiance(scenes, lights, put)
    alpha = put(np.stack([scene.mask for scene in scenes]))[..., None] / np.float32(255)
    background = put(np.stack([scene.background for scene in scenes]))
    composite = levels(foreground.clip(0, 1) * alpha + background * (1 - alpha))
    inside = alpha[..., 0] >= np.float32(0.5)
    bright = (foreground > 1).any(-1) & inside
    return [
        Lit(composite[i], own, int(bright[i].sum()), int(inside[i].sum())) for i, own in enumerate(levels(foreground))
    ]


def _radiance(scenes: Sequence[Scene], lights: Sequence[Light], put: Any) -> Any:
    """[B, H, W, 3] linear light, not clipped."""
    albedo = put(np.stack([scene.albedo for scene in scenes]))
    normals = put(np.stack([scene.normals for scene in scenes]))
    unshadowed = _from_everywhere(scenes, lights, normals, put)
    direct, *others = [_lamp_light(lights, k, normals, put) for k in range(max(len(light.lamps) for light in lights))]
    for shading, _ in others:
        unshadowed = unshadowed + shading
    through = _stacked([scene.transmittance for scene in scenes], scenes, put)
    picture = compose(albedo, shading=direct[0], specular=direct[1], ambient=unshadowed, transmittance=through)
    for _, highlight in others:
        picture = picture if highlight is None else picture + highlight
    return picture


def _from_everywhere(scenes: Sequence[Scene], lights: Sequence[Light], normals: Any, put: Any) -> Any:
    """Ambient light and the environment, as far as they reach: [B, H, W, 3], or one size where they need no more."""
    light: Any = _numbers([each.ambient for each in lights], put)[:, None, None, :]
    if any(each.environment for each in lights):
        dark = ((0.0, 0.0, 0.0),) * 9
        light = light + sh_irradiance(
            normals, coefficients=_numbers([each.environment or dark for each in lights], put)
        )
    if any(each.occlusion for each in lights):
        strength = _numbers([each.occlusion for each in lights], put)[:, None, None]
        seen = _stacked([scene.occlusion for scene in scenes], scenes, put)
        light = light * (1 - strength * (1 - seen))[..., None]
    return light


def _lamp_light(lights: Sequence[Light], k: int, normals: Any, put: Any) -> tuple[Any, Any]:
    """The k-th lamps: what they give to a matte white surface, and what is mirrored of them (None where nothing is)."""
    direction = _numbers([_lamp(light, k)[0] for light in lights], put)
    colour = _numbers([_lamp(light, k)[1] for light in lights], put)[:, None, None, :]
    shading = lambert(normals, light=direction)[..., None] * colour
    if not any(light.gloss for light in lights):
        return shading, None
    gloss = _numbers([light.gloss for light in lights], put)[:, None, None, None]
    shininess = _numbers([light.shininess for light in lights], put)
    return shading, blinn_phong(normals, light=direction, shininess=shininess)[..., None] * (gloss * colour)


def _lamp(light: Light, k: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Direction and colour of its k-th lamp; a dark one where it has fewer."""
    if k < len(light.lamps):
        return light.lamps[k].direction, light.lamps[k].colour
    return (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)


def _stacked(maps: Sequence[Floats | None], scenes: Sequence[Scene], put: Any) -> Any:
    """[B, H, W], 1 where a scene has no map; None where none has one."""
    if all(found is None for found in maps):
        return None
    open_ = np.ones(scenes[0].mask.shape, np.float32)
    return put(np.stack([open_ if found is None else found for found in maps]))


def _numbers(values: Sequence[Any], put: Any) -> Any:
    return put(np.array(values, np.float32))
