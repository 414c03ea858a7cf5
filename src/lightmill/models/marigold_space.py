"""From what a Marigold checkpoint's decoder gives to normals, height, albedo and shading: functions of numbers alone.

Which space a checkpoint's targets are in stands in its model_index.json; `marigold` reads it.
"""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.models.kinds import Image, Intrinsics, Linear, Mask
from lightmill.ops.poisson import integrate, integrate_within

if TYPE_CHECKING:
    import torch

_HEIGHT_SIDE = 512  # px: height is a sum of slopes, and smooth; what is finer than this does not change it
_STEEPEST = 0.1  # z of a normal at least, for its slope: 84 degrees
_DARKEST = 1e-3  # linear albedo at least, for a shading


def taken_apart(image: Image, linear: dict[str, "torch.Tensor"], *, mask: Mask | None = None) -> Intrinsics:
    """What targets [3, H, W] in linear light say of a picture, by their names: `albedo`, with or without `shading`.

    With a shading there may be a `residual`. Without, shading is the picture over its albedo. `mask`: what the scale of
    shading and residual is fitted on.
    """
    import torch

    albedo = linear["albedo"]
    levels = torch.from_numpy(image.copy()).to(albedo.device).permute(2, 0, 1)
    picture = decode_srgb(levels.float() / 255)
    if "shading" not in linear:
        return _intrinsics(picture, albedo, picture / albedo.clamp(min=_DARKEST))
    residual = linear.get("residual", torch.zeros_like(picture))
    sure = levels < 255
    if mask is not None:
        sure &= torch.from_numpy(mask >= 128).to(levels.device)
    return _intrinsics(picture, albedo, lit(picture, albedo, linear["shading"], residual, sure=sure))


def lit(
    picture: "torch.Tensor",
    albedo: "torch.Tensor",
    shading: "torch.Tensor",
    residual: "torch.Tensor",
    *,
    sure: "torch.Tensor",
) -> "torch.Tensor":
    """The shading [3, H, W] at the picture's scale, all in linear light.

    Shading and residual are known up to one common scale k: least squares of `k (albedo * shading + residual)` against
    the picture, over `sure` (bool [3, H, W]: neither clipped nor masked out). 1 where nothing is left to fit it on.
    """
    composed = (albedo * shading + residual)[sure].double()
    energy = composed.square().sum()
    scale = (composed * picture[sure]).sum() / energy if energy > 0 else energy + 1
    return shading * scale.float()


def decode_srgb(encoded: "torch.Tensor") -> "torch.Tensor":
    """sRGB values 0..1 to linear light, float32 (IEC 61966-2-1); on the device of its argument."""
    import torch

    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def joined_normals(members: "torch.Tensor", *, full_z: bool, size_hw: tuple[int, ...]) -> NDArray[np.float32]:
    """Unit normals [H, W, 3] from decoded ones [members, 3, h, w], -1..1; not `full_z`: their z means (z + 1) / 2.

    Where opposite directions cancel, a normal faces the viewer.
    """
    from torch.nn.functional import normalize

    if not full_z:
        members = members.clone()
        members[:, 2] = members[:, 2] * 0.5 + 0.5
    members = normalize(members, dim=1)
    mean = normalize(members.mean(dim=0, keepdim=True), dim=1)
    closest = (members * mean).sum(dim=1, keepdim=True).argmax(dim=0, keepdim=True)
    chosen = members.gather(0, closest.expand(1, 3, -1, -1))
    normals = _to_host(normalize(resized(chosen, size_hw), dim=1)[0])
    normals[np.linalg.norm(normals, axis=2) < 0.5] = 0, 0, 1
    return normals


def height_from_normals(normals: NDArray[np.float32], *, mask: Mask | None = None) -> NDArray[np.float32]:
    """The surface [H, W], in px towards the viewer and of mean 0, whose slopes come nearest to normals [H, W, 3].

    Seen straight on (orthographic). Slopes are those of 84 degrees at most, and with a mask only those inside it count.
    Summed up on at most 512 px.
    """
    height, width = normals.shape[:2]
    shrink = max(height, width) / min(max(height, width), _HEIGHT_SIDE)
    small_wh = max(1, round(width / shrink)), max(1, round(height / shrink))
    small = cv2.resize(normals, small_wh, interpolation=cv2.INTER_AREA) if shrink > 1 else normals
    steep = np.maximum(small[..., 2], _STEEPEST * np.linalg.norm(small, axis=2))
    to_right, downwards = -small[..., 0] / steep, small[..., 1] / steep  # rows grow down, y grows up
    right, down = (to_right[:, 1:] + to_right[:, :-1]) / 2, (downwards[1:] + downwards[:-1]) / 2
    if mask is None:
        summed = integrate(right, down)
    else:
        inside = cv2.resize(mask, small_wh, interpolation=cv2.INTER_AREA) >= 128
        summed = integrate_within(right, down, inside)
    if shrink > 1:
        summed = cv2.resize(summed, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(shrink)
    return np.asarray(summed, np.float32)


def _intrinsics(picture: "torch.Tensor", albedo: "torch.Tensor", shading: "torch.Tensor") -> Intrinsics:
    """Whatever albedo and shading do not say of the picture is residual, which may be negative."""
    made, light = _to_host(albedo), _to_host(shading)
    return Intrinsics(albedo=made, shading=light, residual=_to_host(picture) - made * light)


def _to_host(image: "torch.Tensor") -> Linear:
    """[3, H, W] to an array [H, W, 3] of its own."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def resized(images: "torch.Tensor", size_hw: tuple[int, ...]) -> "torch.Tensor":
    """[n, c, h, w] at another size, bilinear, as the published pipelines do it."""
    from torch.nn.functional import interpolate

    return interpolate(images, size=tuple(size_hw), mode="bilinear")
