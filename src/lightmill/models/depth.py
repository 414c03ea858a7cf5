"""Normals from Depth-Anything (Yang et al., 2024; version 2, relative and metric): depth, looked at through a lens.

The network gives one number a pixel on its own grid, brought to the picture's size with a bicubic kernel. That is not
the kernel of transformers: its a = -0.75 makes waves of a ramp, and normals of a slanted plane come out wrong by up to
6 degrees where it is enlarged by 3, and 15 by 8. a = -0.5 (Keys, 1981) keeps them to 0.1. What the number is depends on
the checkpoint:

    metric    z-depth in metres
    relative  inverse depth up to a scale and a shift: LARGE IS NEAR

Scale and shift of the latter cannot be known from a picture. They are set so that the nearest of the picture (99th
percentile of the numbers on the network's grid) is `far_over_near` times as near as its farthest (1st percentile). That
rule takes any scale and shift out, and the size of the picture as well. How steep surfaces come out hangs on the
ratio: it is a choice, not a measurement.

Normals come from the points that the depth puts into space, not from differences of pixels, so they are the same for
any resolution of one picture.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import ModelError, UsageError
from lightmill.models.hub import Found
from lightmill.models.kinds import Image, Mask, Relief
from lightmill.models.pixels import PixelSpec, batches, read_pixel_spec
from lightmill.models.weights import HubModel, check_fits, load_weights
from lightmill.ops.relief import normals_from_depth

if TYPE_CHECKING:
    import torch

HFOV_DEG = 50.0  # a 39 mm lens on 36 mm film: between a phone's main camera (65 to 75) and a portrait lens (24)
FAR_OVER_NEAR = 3.0
_NEAREST_M = 0.01  # a bicubic kernel may overshoot to 0 and below
_DEPTH_TYPES = "relative", "metric"
_DIFFUSERS = {"MarigoldNormalsPipeline": "marigold-normals", "MarigoldIntrinsicsPipeline": "marigold-intrinsics"}
_TRANSFORMERS = {"depth_anything": "depth-anything", "clip": "clip"}
# what DPTImageProcessor takes for keys that a folder leaves out
_DEFAULTS = {"size": {"height": 384, "width": 384}, "resample": 3}


def kind_of(found: Found) -> str:
    """Which model of ours reads a folder, by its config.json or model_index.json; empty where none here does.

    `depth-anything` (`open_depth`) and `marigold-normals` (`open_marigold`) estimate normals, `marigold-intrinsics`
    (`open_marigold`) takes pictures apart, `clip` (`open_clip`) scores them.
    """
    named = _DIFFUSERS.get(str(found.config.get("_class_name", "")))
    return named or _TRANSFORMERS.get(found.model_type, "")


def open_depth(name: str, *, hfov_deg: float = HFOV_DEG, far_over_near: float = FAR_OVER_NEAR) -> "DepthNormals":
    """Normals from the Depth-Anything model `name`: a folder or a hub id. Raises as DepthNormals."""
    return DepthNormals(name, hfov_deg=hfov_deg, far_over_near=far_over_near)


class DepthNormals(HubModel):
    """Estimates normals and height from depth. `mask` is not looked at: every pixel gets its normal.

    `hfov_deg`: the angle that a picture's longer side sees, so that turning a camera on its side changes nothing.
    `far_over_near`: for relative checkpoints, see above.

    On the CPU pictures go through one at a time, so what one gets does not depend on its batch, to the last bit. On
    CUDA the backbone computes in float16 and the head in float32: slopes are differences of neighbours, and float16
    rounds those away (bfloat16 more so).
    """

    def __init__(self, name: str, *, hfov_deg: float = HFOV_DEG, far_over_near: float = FAR_OVER_NEAR) -> None:
        """Raises UsageError for an angle that no pinhole has, or a ratio that is not above 1."""
        if not 1 <= hfov_deg <= 170:
            raise UsageError(f"the angle of view is 1 to 170 degrees, got {hfov_deg:g}")
        if not 1 < far_over_near <= 1000:
            raise UsageError(
                f"the ratio of the farthest depth to the nearest is above 1, up to 1000; got {far_over_near:g}"
            )
        super().__init__(name)
        self.hfov_deg = hfov_deg
        self.far_over_near = far_over_near

    @property
    def metric(self) -> bool:
        """Whether the checkpoint gives metres. Raises as `find_model`."""
        return bool(self.found.config.get("depth_estimation_type", "relative") == "metric")

    def check(self, device: str) -> None:
        """Raises MissingExtra or ModelError where the model cannot be had, is of another kind or does not fit."""
        found = self.found
        if kind_of(found) != "depth-anything":
            raise ModelError(
                f"{self.name} is no Depth-Anything model (its type is {_type_of(found)}); "
                "take one such as depth-anything/Depth-Anything-V2-Small-hf"
            )
        said = found.config.get("depth_estimation_type", "relative")
        if said not in _DEPTH_TYPES:
            raise ModelError(f"{self.name} estimates {said!r} depth; known are {' and '.join(_DEPTH_TYPES)}")
        self._spec()
        check_fits(found, device)

    def load(self, device: str) -> None:
        """Brings the weights onto a device. Raises as `check`."""
        from transformers import AutoModelForDepthEstimation

        self.unload()
        model = load_weights(AutoModelForDepthEstimation, self.found, "cpu")
        if device.startswith("cuda"):
            import torch

            model = half_but_head(model, torch.float16).to(device)
        self._model, self._device = model, device

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Relief]:  # noqa: ARG002 (protocol)
        """For each picture its normals, and its height in pixels. Raises RuntimeError before `load`."""
        reliefs: list[Relief | None] = [None] * len(image)
        for place, prediction in self._predictions(image):
            height, width = image[place].shape[:2]
            reliefs[place] = self.relief(prediction, height=height, width=width)
        return [relief for relief in reliefs if relief is not None]

    def relief(self, prediction: "torch.Tensor", *, height: int, width: int) -> Relief:
        """What a prediction [h, w] of the network, float32, means for a picture of that size."""
        grid = prediction.cpu().numpy()
        at_size = upsampled(prediction, height=height, width=width)
        if self.metric:
            depth = np.maximum(at_size, np.float32(_NEAREST_M))
        else:
            depth = depth_from_inverse(at_size, grid=grid, far_over_near=self.far_over_near)
        normals, raised = normals_from_depth(depth, focal_px=focal_px(max(height, width), self.hfov_deg))
        return Relief(normals=normals, height=raised)

    def _spec(self) -> PixelSpec:
        return read_pixel_spec(self.found.folder, defaults=_DEFAULTS)

    def _predictions(self, images: Sequence[Image]) -> "Iterator[tuple[int, torch.Tensor]]":
        """Each picture's index and its prediction [h, w], float32."""
        import torch

        model, spec = self._loaded(), self._spec()
        dtype = next(model.backbone.parameters()).dtype
        for indices, pixels in inputs(images, spec, device=self._device, dtype=dtype):
            with torch.inference_mode():
                predicted = model(pixel_values=pixels).predicted_depth.float()
            yield from zip(indices, predicted, strict=True)


def inputs(
    images: Sequence[Image], spec: PixelSpec, *, device: str, dtype: "torch.dtype"
) -> "Iterator[tuple[list[int], torch.Tensor]]":
    """`batches`; on the CPU of one picture each, so that no picture's result depends on another, to the last bit."""
    if device.startswith("cuda"):
        yield from batches(images, spec, device=device, dtype=dtype, channels_last=True)
        return
    for index, image in enumerate(images):
        for _, pixels in batches([image], spec, device=device, dtype=dtype):
            yield [index], pixels


def half_but_head(model: Any, dtype: "torch.dtype") -> Any:
    """The same model with `dtype` in all but its head, which stays float32.

    Met with random weights on 392 x 392 px: the slopes of the depth are wrong by 0.5 % (rms) with float16 and 4 % with
    bfloat16; by 4 % and 30 % where the head is of that type too.
    """
    model = model.to(dtype)
    model.head.float()
    model.head.register_forward_pre_hook(lambda _, given: ([features.float() for features in given[0]], *given[1:]))
    return model


def upsampled(prediction: "torch.Tensor", *, height: int, width: int) -> NDArray[np.float32]:
    """A prediction [h, w] at a picture's size; averaged where that is smaller."""
    from torch.nn.functional import interpolate

    # with antialias torch's kernel is the one of a = -0.5, for enlarging too
    resized = interpolate(prediction[None, None], size=(height, width), mode="bicubic", antialias=True)
    at_size: NDArray[np.float32] = resized[0, 0].cpu().numpy()
    return at_size


def depth_from_inverse(
    inverse: NDArray[np.float32], *, grid: NDArray[np.float32], far_over_near: float
) -> NDArray[np.float32]:
    """z-depth from inverse depth of unknown scale and shift, large = near; the nearest is 1, the farthest the ratio.

    grid: the numbers that say what nearest (99th percentile) and farthest (1st) are. Beyond them depth goes on, up to
    twice the ratio. The same for a * inverse + b, a > 0; a plane at 1 where all numbers are one.

    >>> inverse = np.array([7, 5, 3], np.float32)
    >>> depth_from_inverse(inverse, grid=inverse, far_over_near=3.0).astype(float).round(2).tolist()
    [0.99, 1.5, 3.06]
    """
    far, near = np.percentile(grid, [1, 99])
    if near - far <= 1e-6 * max(abs(near), abs(far)):
        return np.ones(inverse.shape, np.float32)
    share = (inverse - np.float32(far)) / np.float32(near - far)
    farthest = 1 / far_over_near
    depth: NDArray[np.float32] = 1 / np.maximum(farthest + (1 - farthest) * share, farthest / 2).astype(np.float32)
    return depth


def focal_px(longer_side: int, hfov_deg: float) -> float:
    """The focal length in pixels of a pinhole camera whose picture sees that angle along its longer side.

    >>> round(focal_px(1000, 90.0), 6)
    500.0
    """
    return longer_side / (2 * math.tan(math.radians(hfov_deg) / 2))


def _type_of(found: Found) -> str:
    return str(found.config.get("_class_name") or found.model_type or "not stated")
