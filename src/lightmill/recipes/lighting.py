"""What relight does to one portrait: foreground, albedo and shape, lights drawn for it, and how it looks in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.engine.items import Notes
from lightmill.engine.stages import Batch, Each
from lightmill.models.kinds import Decomposer, Intrinsics, NormalEstimator, Relief
from lightmill.ops.lights import Light, Ranges, draw_kind, draw_light
from lightmill.ops.radiance import Lit, Scene, brought_to_range, light_up, light_up_batch, shadow_of
from lightmill.ops.relief import ambient_occlusion
from lightmill.ops.srgb import to_linear
from lightmill.recipes.previews import preview

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]
PREVIEW_PX = 240
GRAY = 128  # the level of a plain background


@dataclass(frozen=True)
class Portrait:
    """What all lights of one picture share."""

    albedo: NDArray[np.float32]  # [H, W, 3] linear, at most 1 but for a thousandth of the foreground
    relief: Relief
    mask: Mask
    scale: float  # by which the albedo was multiplied to fit into 0..1

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return self.albedo.nbytes + self.relief.nbytes


# --- taking apart ----------------------------------------------------------------------------------------------------


def decomposer_stage(model: Decomposer, *, size: int) -> Each | Batch:
    """`image`, `mask` -> `intrinsics`."""
    if model.on_device:
        return Batch(model, makes="intrinsics", name="albedo", size=size)
    return Each(_decomposed, makes="intrinsics", name="albedo", model=model)


def _decomposed(image: Image, mask: Mask, model: Decomposer) -> Intrinsics:
    return model([image], [mask])[0]


def normals_stage(model: NormalEstimator, *, size: int) -> Each | Batch:
    """`image`, `mask` -> `relief`."""
    if model.on_device:
        return Batch(model, makes="relief", name="normals", size=size)
    return Each(_estimated, makes="relief", name="normals", model=model)


def _estimated(image: Image, mask: Mask, model: NormalEstimator) -> Relief:
    return model([image], [mask])[0]


def make_portrait(intrinsics: Intrinsics, relief: Relief, mask: Mask) -> Portrait:
    albedo, scale = brought_to_range(intrinsics.albedo, mask)
    return Portrait(albedo, relief, mask, scale)


# --- lights ----------------------------------------------------------------------------------------------------------


def plan_lights(seed: int, weights: Mapping[str, float], ranges: Ranges, variants: int) -> list[Light]:
    """One light a variant, from the item's own seed alone."""
    lights = []
    for sequence in np.random.SeedSequence(seed).spawn(variants):
        rng = np.random.default_rng(sequence)
        lights.append(draw_light(draw_kind(rng, weights=weights), rng, ranges=ranges))
    return lights


def given_lights(lights_given: Sequence[Light]) -> list[Light]:
    """The lights of a replay."""
    return list(lights_given)


def cast_shadows(portrait: Portrait, lights: list[Light]) -> list[NDArray[np.float32] | None]:
    """How much of the first lamp reaches every pixel, for each light; None where nothing stands in its way."""
    return [shadow_of(light, portrait.relief.height) for light in lights]


def occlude(portrait: Portrait, lights: list[Light]) -> NDArray[np.float32] | None:
    """Ambient occlusion, where any of the lights asks for it."""
    if not any(light.occlusion for light in lights):
        return None
    return ambient_occlusion(portrait.relief.height, mask=portrait.mask)


@dataclass(frozen=True)
class Backdrop:
    """What stands behind a portrait: its own background, or one colour."""

    levels: tuple[int, int, int] | None  # sRGB; None: its own

    @classmethod
    def parse(cls, text: str) -> "Backdrop":
        """`original`, `gray`, or `#rrggbb`. Raises ValueError."""
        if text == "original":
            return cls(None)
        if text in ("gray", "grey"):
            return cls((GRAY, GRAY, GRAY))
        try:
            found = bytes.fromhex(text.removeprefix("#"))
            red, green, blue = found
        except ValueError:
            raise ValueError(f"a background is gray, original or a colour as in #7f7f7f, got {text!r}") from None
        return cls((red, green, blue))

    def linear(self, image: Image) -> NDArray[np.float32]:
        """[H, W, 3] or [1, 1, 3] linear light."""
        return to_linear(image if self.levels is None else np.array([[self.levels]], np.uint8))


class LightUp:
    """A portrait in one of its lights, on the CPU."""

    def __init__(self, backdrop: Backdrop) -> None:
        self._backdrop = backdrop

    def __call__(
        self,
        image: Image,
        portrait: Portrait,
        lights: list[Light],
        shadows: list[NDArray[np.float32] | None],
        occlusion: NDArray[np.float32] | None,
        variant: int,
    ) -> Lit:
        scene = scene_of(portrait, self._backdrop.linear(image), shadows[variant], occlusion)
        return light_up(scene, lights[variant])


class DeviceLightUp:
    """All portraits of a batch in all of their lights, on the accelerator; one that does not fit there, on the CPU."""

    def __init__(self, backdrop: Backdrop) -> None:
        self._backdrop = backdrop
        self._device = "cpu"

    def load(self, device: str) -> None:
        self._device = device.removeprefix("torch:")

    def unload(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def __call__(
        self,
        image: list[Image],
        portrait: list[Portrait],
        lights: list[list[Light]],
        shadows: list[list[NDArray[np.float32] | None]],
        occlusion: list[NDArray[np.float32] | None],
    ) -> list[list[Lit]]:
        scenes, flat = [], []
        for pixels, one, of_one, shades, occluded in zip(image, portrait, lights, shadows, occlusion, strict=True):
            backdrop = self._backdrop.linear(pixels)
            scenes += [scene_of(one, backdrop, shade, occluded) for shade in shades]
            flat += of_one
        lit = iter(light_up_batch(scenes, flat, device=self._device))
        return [[next(lit) for _ in of_one] for of_one in lights]


def take_lit(lit_on_device: list[Lit], variant: int) -> Lit:
    """The portrait in one of its lights, of those that the device has made."""
    return lit_on_device[variant]


def scene_of(
    portrait: Portrait,
    backdrop: NDArray[np.float32],
    shadow: NDArray[np.float32] | None,
    occlusion: NDArray[np.float32] | None,
) -> Scene:
    return Scene(portrait.albedo, portrait.relief.normals, portrait.mask, backdrop, shadow, occlusion)


def preview_output(lit: Lit, variant: int, notes: Notes) -> None:
    preview(notes, f"light {variant}", lit.composite, PREVIEW_PX)


def cut_out(pixels: Image, alpha: Mask) -> NDArray[np.uint8]:
    """[H, W, 4]: black where alpha is 0, so that what was cut away cannot be had back from it."""
    cut = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
    cut[..., 3] = alpha
    return np.asarray(cv2.bitwise_and(cut, cut, mask=alpha), np.uint8)
