"""Marigold (Ke et al., 2024 and 2025): normals and intrinsic images by diffusion, from folders in diffusers' layout.

The parts of a published pipeline (encoder, U-Net, scheduler) are called one by one, and give what diffusers' pipelines
give from the same noise. What those do not do, and this does: noise is drawn for each picture from the seed and the
picture's own content, so what one gets does not depend on what it shares a batch with.

What the numbers of a checkpoint mean stands in its model_index.json, and is followed:

    normals     x right, y up, z towards the viewer, as ours
    appearance  albedo in sRGB: brought to linear light here. Roughness and metallicity are left out
    lighting    albedo, shading and residual in linear light. Shading and residual were divided by one number that
                nobody knows (training used the 98th percentile of the larger one): it is fitted, see `lit`

What these numbers mean for a picture is worked out in `marigold_space`.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from lightmill.errors import MissingExtra, ModelError, UsageError
from lightmill.models.depth import kind_of
from lightmill.models.hub import Found
from lightmill.models.kinds import Image, Intrinsics, Mask, Relief
from lightmill.models.marigold_space import decode_srgb, height_from_normals, joined_normals, resized, taken_apart
from lightmill.models.weights import HubModel, check_fits, load_weights

if TYPE_CHECKING:
    import torch

MOST_STEPS, MOST_MEMBERS = 50, 20
_AT_ONCE = 8  # latents in the U-Net; pictures times members of their ensembles
_DECODED = 4  # latents in the decoder, which takes about ten times the memory
_SCHEDULERS = "DDIMScheduler", "LCMScheduler"


def open_marigold(
    name: str, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None, seed: int = 0
) -> "MarigoldNormals | MarigoldIntrinsics":
    """The Marigold model `name`, a folder or a hub id: a NormalEstimator or a Decomposer, as its folder says.

    Raises UsageError for options out of range, ModelError where it is no Marigold model or cannot be had.
    """
    intrinsics = MarigoldIntrinsics(name, steps=steps, ensemble=ensemble, resolution=resolution, seed=seed)
    if kind_of(intrinsics.found) == MarigoldIntrinsics.kind:
        return intrinsics
    normals = MarigoldNormals(name, steps=steps, ensemble=ensemble, resolution=resolution, seed=seed)
    normals._found = intrinsics.found  # looked for once
    return normals


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is on the device."""

    vae: Any
    unet: Any
    scheduler: Any
    nothing: "torch.Tensor"  # [1, n, d]: the empty prompt, encoded


class _Marigold(HubModel):
    """What both kinds share.

    `steps` of denoising, the longer side of what the network sees (`resolution`, px; 0: the picture's own), None for
    the checkpoint's own (published: 4 steps, or 1 with the LCM scheduler, and 768 px). `ensemble`: how many answers of
    different noise are joined to one; published: 1.

    float16 on CUDA, as the published half-precision weights; bfloat16 has fewer steps from black to white than a JPEG.
    On the CPU pictures go through one at a time.
    """

    kind = ""

    def __init__(
        self, name: str, *, steps: int | None = None, ensemble: int = 1, resolution: int | None = None, seed: int = 0
    ) -> None:
        """Raises UsageError for options out of range."""
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise UsageError(f"Marigold takes 1 to {MOST_STEPS} steps, got {steps}")
        if not 1 <= ensemble <= MOST_MEMBERS:
            raise UsageError(f"a Marigold ensemble has 1 to {MOST_MEMBERS} members, got {ensemble}")
        if resolution is not None and (resolution < 0 or resolution % 8):
            raise UsageError(f"Marigold's resolution is 0 or a multiple of 8 px, got {resolution}")
        super().__init__(name)
        self.steps = steps
        self.ensemble = ensemble
        self.resolution = resolution
        self.seed = seed

    def check(self, device: str) -> None:
        """Raises MissingExtra or ModelError where the model cannot be had, is of another kind or does not fit."""
        found = self.found
        if find_spec("diffusers") is None:
            raise MissingExtra("Marigold needs diffusers; run: pip install 'lightmill[models]'")
        if kind_of(found) != self.kind:
            said = found.config.get("_class_name") or found.model_type or "not stated"
            raise ModelError(f"{self.name} is no model of the kind {self.kind} (its type is {said})")
        scheduler = _scheduler_of(found)
        if scheduler not in _SCHEDULERS:
            raise ModelError(f"{self.name} has the scheduler {scheduler}; Marigold has {' or '.join(_SCHEDULERS)}")
        self._options(found)
        check_fits(found, device)

    def load(self, device: str) -> None:
        """Brings the weights onto a device; the text encoder is asked once for the empty prompt, and let go."""
        import torch

        self.unload()
        on_cuda = device.startswith("cuda")
        dtype, layout = (torch.float16, torch.channels_last) if on_cuda else (torch.float32, torch.contiguous_format)

        def part(name: str, model_class: Any) -> Any:
            model = load_weights(model_class, replace(self.found, folder=self.found.folder / name), "cpu")
            return model.to(dtype).to(device)

        with _quiet():
            import diffusers
            from transformers import CLIPTextModel, CLIPTokenizer

            tokenizer = CLIPTokenizer.from_pretrained(self.found.folder / "tokenizer", local_files_only=True)
            tokens = tokenizer("", padding="do_not_pad", truncation=True, return_tensors="pt").input_ids
            with torch.inference_mode():
                nothing = part("text_encoder", CLIPTextModel)(tokens.to(device))[0]
            scheduler = getattr(diffusers, _scheduler_of(self.found))
            self._model = _Parts(
                vae=part("vae", diffusers.AutoencoderKL).to(memory_format=layout),
                unet=part("unet", diffusers.UNet2DConditionModel).to(memory_format=layout),
                scheduler=scheduler.from_pretrained(self.found.folder / "scheduler", local_files_only=True),
                nothing=nothing,
            )
        self._device = device

    def _options(self, found: Found) -> tuple[int, int]:
        """Steps and resolution: as set, else the checkpoint's own."""
        steps = self.steps if self.steps is not None else found.config.get("default_denoising_steps")
        side = self.resolution if self.resolution is not None else found.config.get("default_processing_resolution")
        if steps is None or side is None:
            raise ModelError(f"{self.name} does not say how many steps at which resolution it takes; set both")
        return int(steps), int(side)

    def _predictions(self, images: Sequence[Image]) -> "Iterator[tuple[int, torch.Tensor]]":
        """Each picture's index and what was decoded for it: float32 [members, targets, 3, h, w], -1..1."""
        import torch

        parts: _Parts = self._loaded()
        on_cuda = self._device.startswith("cuda")
        together = max(1, _AT_ONCE // self.ensemble) if on_cuda else 1
        with torch.inference_mode():
            for indices in _of_one_size(images, at_most=together):
                decoded = self._predict(parts, [images[index] for index in indices])
                yield from zip(indices, decoded, strict=True)

    def _predict(self, parts: _Parts, images: list[Image]) -> "torch.Tensor":
        """[pictures, members, targets, 3, h, w] of pictures of one size."""
        import torch

        steps, side = self._options(self.found)
        pixels, (height, width) = _seen(images, parts, side=side)
        encoded = torch.cat([parts.vae.encode(few).latent_dist.mode() for few in torch.split(pixels, _DECODED)])
        seen = (encoded * parts.vae.config.scaling_factor).repeat_interleave(self.ensemble, dim=0)
        drawn = [one for image in images for one in generators_for(image, seed=self.seed, count=self.ensemble)]
        latents = torch.cat(
            [
                _denoised(parts, few, drawn[first : first + _AT_ONCE], steps=steps)
                for first, few in zip(range(0, len(seen), _AT_ONCE), torch.split(seen, _AT_ONCE), strict=True)
            ]
        )
        latents = latents.reshape(-1, parts.vae.config.latent_channels, *latents.shape[2:])
        latents = (latents / parts.vae.config.scaling_factor).to(pixels.dtype)
        decoded = torch.cat(
            [parts.vae.decode(few, return_dict=False)[0].float() for few in torch.split(latents, _DECODED)]
        )
        kept = decoded.clamp(-1, 1)[..., :height, :width]
        return kept.reshape(len(images), self.ensemble, -1, *kept.shape[1:])


class MarigoldNormals(_Marigold):
    """Estimates normals, and height as their integral.

    With a mask, slopes outside it do not count for the height; normals are not touched by it. An ensemble's normal is
    the member's that lies closest to the mean, as published.
    """

    kind = "marigold-normals"

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Relief]:
        """For each picture its normals and height. Raises RuntimeError before `load`."""
        full_z = bool(self.found.config.get("use_full_z_range", True))
        reliefs: list[Relief | None] = [None] * len(image)
        for place, decoded in self._predictions(image):
            normals = joined_normals(decoded[:, 0], full_z=full_z, size_hw=image[place].shape[:2])
            reliefs[place] = Relief(normals=normals, height=height_from_normals(normals, mask=mask[place]))
        return [relief for relief in reliefs if relief is not None]


class MarigoldIntrinsics(_Marigold):
    """Takes pictures apart: albedo * shading + residual is the picture, in linear light, to float32's rounding.

    An `appearance` checkpoint gives the albedo alone; shading is what is left. A `lighting` one gives all three. An
    ensemble is joined by its median, as published. `mask`: what the scale of a lighting checkpoint is fitted on.
    """

    kind = "marigold-intrinsics"

    @property
    def targets(self) -> list[str]:
        """What the checkpoint predicts: `albedo` and `material`, or `albedo`, `shading` and `residual`."""
        return list((self.found.config.get("target_properties") or {}).get("target_names") or [])

    def check(self, device: str) -> None:
        """As `_Marigold.check`; and ModelError where the checkpoint gives no albedo."""
        super().check(device)
        if "albedo" not in self.targets:
            raise ModelError(
                f"{self.name} predicts {', '.join(self.targets) or 'nothing that it names'}, and no albedo; take one "
                "such as prs-eth/marigold-iid-appearance-v1-1"
            )

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Intrinsics]:
        """For each picture its albedo, shading and residual. Raises RuntimeError before `load`."""
        import torch

        taken: list[Intrinsics | None] = [None] * len(image)
        for place, decoded in self._predictions(image):
            with torch.inference_mode():
                joined = (decoded.median(dim=0).values + 1) / 2
                joined = resized(joined, image[place].shape[:2])
                taken[place] = self.taken_apart(image[place], joined, mask=mask[place])
        return [intrinsics for intrinsics in taken if intrinsics is not None]

    def taken_apart(self, image: Image, targets: "torch.Tensor", *, mask: Mask | None = None) -> Intrinsics:
        """What predicted targets [n, 3, H, W], 0..1 in the checkpoint's own spaces, say of a picture."""
        linear = {
            name: decode_srgb(target) if self._space(name) == "srgb" else target
            for name, target in zip(self.targets, targets, strict=True)
        }
        return taken_apart(image, linear, mask=mask)

    def _space(self, target: str) -> str:
        return str(self.found.config["target_properties"].get(target, {}).get("prediction_space", "srgb"))


def _of_one_size(images: Sequence[Image], *, at_most: int) -> Iterator[list[int]]:
    """The indices of pictures that may share a batch."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    for indices in groups.values():
        yield from (indices[first : first + at_most] for first in range(0, len(indices), at_most))


def _seen(images: list[Image], parts: _Parts, *, side: int) -> "tuple[torch.Tensor, tuple[int, int]]":
    """What the encoder sees, [n, 3, h, w] in -1..1, and the size before its padding.

    The longer side becomes `side`; right and below the last pixels go on, up to a whole number of latents.
    """
    import torch
    from torch.nn.functional import interpolate, pad

    weight = next(parts.vae.parameters())
    align = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    pixels = torch.stack([torch.from_numpy(image.copy()) for image in images]).to(weight.device)
    seen = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    height, width = seen.shape[-2:]
    if side:
        height, width = (max(1, edge * side // max(seen.shape[-2:])) for edge in (height, width))
        seen = interpolate(seen, size=(height, width), mode="bilinear", antialias=True)
    padded = pad(seen, (0, -width % align, 0, -height % align), mode="replicate")
    return padded.to(weight.dtype), (height, width)


def _denoised(
    parts: _Parts, seen: "torch.Tensor", generators: "list[torch.Generator]", *, steps: int
) -> "torch.Tensor":
    """Latents of the answers [n, targets * c, h, w], float32, for latents of pictures [n, c, h, w]."""
    import torch

    shape = (parts.unet.config.out_channels, *seen.shape[2:])
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    latents = noise.to(seen.device)
    prompt = parts.nothing.expand(len(seen), -1, -1)
    parts.scheduler.set_timesteps(steps, device=seen.device)
    for time in parts.scheduler.timesteps:
        both = torch.cat([seen, latents.to(seen.dtype)], dim=1)
        said = parts.unet(both, time, encoder_hidden_states=prompt, return_dict=False)[0].float()
        # the scheduler of few steps (LCM) adds noise on the way: each answer's from its own generator
        latents = parts.scheduler.step(said, time, latents, generator=generators).prev_sample
    return latents


def generators_for(image: Image, *, seed: int, count: int) -> "list[torch.Generator]":
    """One a member of a picture's ensemble, on the CPU, so that every device starts from the same noise."""
    import torch

    content = blake2b(f"{seed} {image.shape} ".encode(), digest_size=7)
    content.update(np.ascontiguousarray(image).data)
    generators = []
    for member in range(count):
        own = content.copy()
        own.update(member.to_bytes(4, "little"))
        generators.append(torch.Generator().manual_seed(int.from_bytes(own.digest(), "little")))
    return generators


def _scheduler_of(found: Found) -> str:
    named = found.config.get("scheduler") or ["", ""]
    return str(named[-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' advice to install accelerate, which nothing here needs."""
    from diffusers.utils import logging as reports

    level = reports.get_verbosity()
    reports.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        reports.set_verbosity(level)
