"""Between pictures and tensors, on the device: what a model's pre-processing asks for, and masks back as levels.

Follows what a model's folder says (preprocessor_config.json), as the image processors of transformers do, without
torchvision or Pillow: resized with an antialiased kernel, rounded to whole levels, scaled, normalised. Against
transformers' own processors on Pillow, which rounds and clips between its two passes as well, the resized picture is at
most 1 level of 255 away with the bilinear kernel (12 % of the values of eight photographs), and with the bicubic one
at most 1 but for the rims of hard edges, where that clips (12 levels at most in those photographs).

Pictures of several sizes are not padded to one another: those that come to one size share a batch. So what a model
answers for a picture does not depend on what else is in the batch.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightmill.errors import ModelError
from lightmill.models.kinds import Image, Mask

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Pillow's numbers, as configurations name them; Lanczos is taken as bicubic, as transformers does on a device
_KERNELS = {0: "nearest-exact", 1: "bicubic", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSpec:
    """A model's pre-processing. The size comes from the first of these that is set: edges, box, height and width."""

    shortest_edge: int | None = None  # of the resized picture; its aspect ratio stays
    longest_edge: int | None = None  # at most, with shortest_edge
    max_hw: tuple[int, int] | None = None  # the largest size of the same aspect ratio inside this box
    hw: tuple[int, int] | None = None  # exactly this (None everywhere: as it is)
    keep_aspect_ratio: bool = False  # hw is what to come close to with one scale, the smaller change of the two
    multiple_of: int = 1  # sides rounded to the nearest multiple
    divisor: int = 1  # sides rounded up to a multiple
    crop_hw: tuple[int, int] | None = None  # cut out of the middle after resizing
    kernel: str = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def target_hw(self, height: int, width: int) -> tuple[int, int]:
        """What a picture of that size is resized to, before any crop.

        >>> PixelSpec(shortest_edge=800, longest_edge=1333, divisor=32).target_hw(1080, 1920)
        (768, 1344)
        """
        new = self._resized(height, width)
        return math.ceil(new[0] / self.divisor) * self.divisor, math.ceil(new[1] / self.divisor) * self.divisor

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.shortest_edge:
            return _by_edges(height, width, self.shortest_edge, self.longest_edge)
        if self.max_hw:
            scale = min(self.max_hw[0] / height, self.max_hw[1] / width)
            return int(height * scale), int(width * scale)
        if self.hw:
            return self._near(height, width, self.hw)
        return height, width

    def _near(self, height: int, width: int, wanted: tuple[int, int]) -> tuple[int, int]:
        down, across = wanted[0] / height, wanted[1] / width
        if self.keep_aspect_ratio:
            down = across = min(down, across, key=lambda scale: abs(1 - scale))
        elif self.multiple_of == 1:
            return wanted
        step = self.multiple_of
        return round(down * height / step) * step, round(across * width / step) * step


def _by_edges(height: int, width: int, shortest: int, longest: int | None) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    edge: float = shortest
    if longest is not None and long / short * shortest > longest:
        edge = longest * short / long  # not rounded yet: the other side is computed from it
        shortest = round(edge)
    new_long = long if short == shortest else int(edge * long / short)
    return (shortest, new_long) if height <= width else (new_long, shortest)


def read_pixel_spec(folder: Path, *, defaults: Mapping[str, Any] | None = None) -> PixelSpec:
    """The pre-processing that a model's folder asks for; `defaults`: what its image processor takes for keys left out.

    Raises ModelError where there is no such file or it asks for what nothing here does.
    """
    settings = {"do_resize": True, "do_rescale": True, "do_normalize": True} | dict(defaults or {}) | _settings(folder)
    if what := _not_done_here(settings):
        raise ModelError(f"the model in {folder} asks for a pre-processing that Lightmill does not do: {what}")
    normalize = settings["do_normalize"]
    return PixelSpec(
        **(_sizes(settings) if settings["do_resize"] else {}),
        crop_hw=_box(settings["crop_size"]) if settings.get("do_center_crop") else None,
        kernel=_KERNELS[settings.get("resample", 2)],
        scale=float(settings.get("rescale_factor", 1 / 255)) if settings["do_rescale"] else 1.0,
        mean=_triple(settings.get("image_mean", IMAGENET_MEAN)) if normalize else (0.0, 0.0, 0.0),
        std=_triple(settings.get("image_std", IMAGENET_STD)) if normalize else (1.0, 1.0, 1.0),
    )


def _settings(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text("utf-8"))
            inner = settings.get("image_processor", settings)
            if "image_processor_type" in inner or "size" in inner:
                return {key: value for key, value in inner.items() if value is not None}
    raise ModelError(f"the folder {folder} says nothing of pre-processing: it has no preprocessor_config.json")


def _not_done_here(settings: Mapping[str, Any]) -> str:
    """The setting that nothing here follows; empty where there is none."""
    for key in ("do_split_image", "do_thumbnail", "do_flip_channel_order", "pad_size"):
        if settings.get(key):
            return key
    if settings.get("resample", 2) not in _KERNELS:
        return f"resample {settings['resample']}"
    if settings.get("do_center_crop"):
        sizes = _sizes(settings) if settings["do_resize"] else {}
        edge = sizes.get("shortest_edge") or 0
        room, crop = sizes.get("hw") or (edge, edge), _box(settings["crop_size"])
        if crop[0] > room[0] or crop[1] > room[1]:
            return f"crop_size {crop}, larger than what it is cut out of"
    return ""


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "divisor": int(settings.get("size_divisor") or settings.get("size_divisibility") or 1),
        "keep_aspect_ratio": bool(settings.get("keep_aspect_ratio")),
        "multiple_of": int(settings.get("ensure_multiple_of") or 1),
        **_size(settings),
    }


def _size(settings: Mapping[str, Any]) -> dict[str, Any]:
    size = settings.get("size")
    if isinstance(size, int):  # as older configurations have it
        if settings.get("default_to_square", True) and "max_size" not in settings:
            return {"hw": (size, size)}
        return {"shortest_edge": size, "longest_edge": settings.get("max_size")}
    if not isinstance(size, Mapping):
        raise ModelError(f"a pre-processing with the size {size!r} is none that Lightmill does")
    if "shortest_edge" in size:
        return {"shortest_edge": size["shortest_edge"], "longest_edge": size.get("longest_edge")}
    if "max_height" in size:
        return {"max_hw": (size["max_height"], size["max_width"])}
    return {"hw": _box(size)}


def _box(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    try:
        return int(size["height"]), int(size["width"])
    except (TypeError, KeyError):
        raise ModelError(f"a pre-processing with the size {size!r} is none that Lightmill does") from None


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = value if isinstance(value, (list, tuple)) else (value,) * 3
    return float(red), float(green), float(blue)


def batches(
    images: Sequence[Image], spec: PixelSpec, *, device: str, dtype: "torch.dtype", channels_last: bool = False
) -> "Iterator[tuple[list[int], torch.Tensor]]":
    """Pictures [H, W, 3] of any sizes as tensors [n, 3, h, w] for a model, each with the indices of its pictures.

    Pictures that come to one size are one batch, in their order; batches in the order of their first pictures.
    `channels_last` lays batches out for convolutions on a CUDA device.
    """
    import torch

    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(spec.target_hw(*image.shape[:2]), []).append(index)
    for indices in groups.values():
        batch = torch.stack([_prepared(images[index], spec, device) for index in indices]).to(dtype)
        if channels_last and device.startswith("cuda"):
            batch = batch.contiguous(memory_format=torch.channels_last)
        yield indices, batch


def _prepared(image: Image, spec: PixelSpec, device: str) -> "torch.Tensor":
    """[3, h, w] float32; the bytes travel to the device, the arithmetic is done there."""
    import torch

    owned = image if image.flags.writeable and image.flags.c_contiguous else image.copy()  # torch takes no other
    pixels = torch.from_numpy(owned).to(device).permute(2, 0, 1).float()
    pixels = _resized(pixels, spec.target_hw(*image.shape[:2]), spec.kernel)
    if spec.crop_hw:
        pixels = _cropped(pixels, spec.crop_hw)
    mean, std = (torch.tensor(triple, device=pixels.device)[:, None, None] for triple in (spec.mean, spec.std))
    return (pixels * spec.scale - mean) / std


def _resized(pixels: "torch.Tensor", size_hw: tuple[int, int], kernel: str) -> "torch.Tensor":
    from torch.nn.functional import interpolate

    if tuple(pixels.shape[-2:]) == size_hw:
        return pixels
    if kernel == "nearest-exact":
        return interpolate(pixels[None], size=size_hw, mode=kernel)[0]
    resized = interpolate(pixels[None], size=size_hw, mode=kernel, align_corners=False, antialias=True)[0]
    return resized.round().clamp(0, 255)  # as models saw it in training: whole levels


def _cropped(pixels: "torch.Tensor", size_hw: tuple[int, int]) -> "torch.Tensor":
    top, left = (pixels.shape[-2] - size_hw[0]) // 2, (pixels.shape[-1] - size_hw[1]) // 2
    return pixels[:, top : top + size_hw[0], left : left + size_hw[1]]


def upsampled(maps: "torch.Tensor", size_hw: tuple[int, int]) -> "torch.Tensor":
    """Maps [n, h, w] at the size of a picture, float32 [n, H, W]: bilinear, pixel centres at one half."""
    from torch.nn.functional import interpolate

    return interpolate(maps[None].float(), size=size_hw, mode="bilinear", align_corners=False)[0]


def mask_levels(probability: "torch.Tensor", decision: "torch.Tensor") -> Mask:
    """A soft mask [H, W]: 255 times the probability, rounded, held to 128 and more exactly where `decision` is true."""
    import torch

    level = (probability.float() * 255).round()
    level = torch.where(decision, level.clamp(min=128), level.clamp(max=127))
    mask: Mask = level.clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(mask)
