"""Pinhole views of equirectangular panoramas, cut on an accelerator.

Cameras and angles as in `lightmill.ops.rig`. A ray (x, y, z) of unit length in panorama axes meets a panorama of W x H
pixels at column (atan2(x, z) / 2π + 1/2) · W and row (1/2 + asin(y) / π) · H, pixel centres at +0.5; W and H count each
in its own axis, whether or not W = 2H. Columns wrap at the seam. Over a pole, row -1 - i is row i, W // 2 columns on.

A panorama gets a margin as wide as the kernel reaches, which holds what lies beyond the seam and the poles; no border
mode ever decides a pixel. Kernels:

    linear   grid_sample, bilinear
    cubic    grid_sample, bicubic: cubic convolution (Keys, 1981) with a = -0.75, as in OpenCV; clamped to 0..255
    lanczos  sinc(d) sinc(d / 4) over 8 x 8 pixels, weights divided by their sum, as in OpenCV's lanczos4; clamped

Positions are worked out in float64: in float32, asin alone is off by up to a pixel near the poles of a 16K panorama.
They are kept as float32, which is good to about 0.002 px at 16384 columns (benchmarks/bench_sphere_torch.py).

On the CPU this is a check of what CUDA does, not a way to be fast: OpenCV takes a fraction of the time there.

torch is imported by the functions that need it, so that this module costs nothing to import.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import MissingExtra, RunError, UsageError
from lightmill.ops.rig import Camera, Rig
from lightmill.types import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kernel: TypeAlias = Literal["linear", "cubic", "lanczos"]
Panorama: TypeAlias = "NDArray[np.uint8] | Tensor"
Views: TypeAlias = dict[str, NDArray[np.uint8]]
ShrinkFactor: TypeAlias = Callable[[Camera, Size, int], float]  # of a camera, a view's size and a panorama's width

MARGIN: dict[Kernel, int] = {"linear": 1, "cubic": 2, "lanczos": 4}  # pixels that a kernel reaches beyond the outermost
GRID_BYTES = 2**30  # of grids that stay on the device
CHUNK_BYTES = 2**30  # of panoramas, or of views, that are floating point at one time
BLOCK_PX = 2**19  # of a view that are worked on at one time where each pixel needs many numbers
BLOCK_BYTES_PER_PX = 320  # at most, of those numbers (float64 positions; eight lanczos weights an axis)


class ViewCutter:
    """Cuts every view of a rig from batches of panoramas; all views of a batch are taken while it is on the device.

    Options are set once. `load`, then any number of calls, then `unload`; after that it may be loaded again, and it can
    be pickled whenever it is not loaded. For one thread at a time.
    """

    def __init__(
        self,
        rig: Rig,
        *,
        interpolation: Kernel = "linear",
        antialias: ShrinkFactor | None = None,
        grid_bytes: int = GRID_BYTES,
    ) -> None:
        """`antialias` says by how much a panorama is to be shrunk before a camera's view is taken (1: not at all).

        `grid_bytes` bounds the sampling grids that are kept from one batch to the next. Raises ValueError for an
        unknown kernel.
        """
        if interpolation not in get_args(Kernel):
            raise ValueError(f"interpolation is one of {', '.join(get_args(Kernel))}, got {interpolation!r}")
        self.rig = rig
        self.interpolation = interpolation
        self.antialias = antialias
        self.grid_bytes = grid_bytes
        self._device: torch.device | None = None
        self._grids: OrderedDict[tuple[Camera, tuple[int, int]], Tensor] = OrderedDict()

    @property
    def cached_bytes(self) -> int:
        """How much memory of the device the grids that are kept take up."""
        return sum(grid.nbytes for grid in self._grids.values())

    def load(self, device: str) -> None:
        """Takes hold of a device: `cpu`, `cuda` or `cuda:N`.

        Raises MissingExtra without torch, UsageError for another kind of device, RunError where there is no such one.
        """
        self.unload()
        self._device = find_device(device)

    def unload(self) -> None:
        """Lets go of the device and of all that was kept there."""
        self._grids.clear()
        if self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        self._device = None

    def __call__(self, panos: Sequence[Panorama]) -> list[Views]:
        """For each panorama, in order: camera name -> view, uint8 [h, w, 3], C-contiguous, cameras in the rig's order.

        panos: uint8 [H, W, 3], arrays or tensors (on any device), of one size or several. Those of one size share a
        batch. On CUDA the views lie in pinned memory of the host, and the device is waited for once, at the end.
        Raises ValueError for a panorama of another shape or type, RuntimeError before `load`, torch.OutOfMemoryError
        (nothing is changed then: the same call with fewer panoramas is right).
        """
        import torch

        if self._device is None:
            raise RuntimeError("a ViewCutter cuts views only after load(device)")
        views: list[dict[str, Tensor]] = [{} for _ in panos]
        with torch.inference_mode():
            for places in _places_by_shape(panos):
                batch = on_device([panos[place] for place in places], device=self._device)
                self._cut(batch, [views[place] for place in places])
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        names = [camera.name for camera in self.rig.cameras]
        return [{name: of_pano[name].numpy() for name in names} for of_pano in views]

    def bytes_needed(self, pano_hw: tuple[int, int], n_panos: int) -> int:
        """An upper bound of the device's memory, in bytes, that a call with so many panoramas of this size takes.

        With the grids, without what the driver takes for itself. No device is needed to ask.
        """
        (height, width), view_px = pano_hw, self.rig.size.width * self.rig.size.height
        chunk = min(n_panos, self._chunk(pano_hw))
        levels = {self._level_hw(camera, pano_hw) for camera in self.rig.cameras}
        most = max((self._level_bytes(level, pano_hw) for level in levels), default=0)
        grids = max(min(self.grid_bytes, 8 * view_px * len(self.rig.cameras)), 8 * view_px)
        block_px = max(min(BLOCK_PX, view_px), self.rig.size.width)
        return 3 * n_panos * height * width + chunk * (most + 15 * view_px) + grids + BLOCK_BYTES_PER_PX * block_px

    def _level_bytes(self, level_hw: tuple[int, int], pano_hw: tuple[int, int]) -> int:
        """What one panorama takes while views are cut from it at one size, itself and the views not counted."""
        margin = MARGIN[self.interpolation]
        padded_px = (level_hw[0] + 2 * margin) * (level_hw[1] + 2 * margin)
        edges_px = padded_px - level_hw[0] * level_hw[1]
        padding = 3 * (padded_px * (1 if self.interpolation == "lanczos" else 4) + 2 * edges_px)
        if level_hw == pano_hw:
            return padding
        rows_px, level_px = level_hw[0] * pano_hw[1], level_hw[0] * level_hw[1]
        # rows become means: uint8 rows, their product and sum; then columns do: those sums, columns, product and sum
        shrinking = 3 * max(rows_px * (1 + 4 + 4), rows_px * 4 + level_px * (4 + 4 + 4))
        return 3 * level_px + max(shrinking, padding)

    def _chunk(self, pano_hw: tuple[int, int]) -> int:
        """How many panoramas are floating point at one time."""
        most_px = max(pano_hw[0] * pano_hw[1], self.rig.size.width * self.rig.size.height)
        return max(CHUNK_BYTES // (3 * 4 * most_px), 1)

    def _level_hw(self, camera: Camera, pano_hw: tuple[int, int]) -> tuple[int, int]:
        """The size that a panorama is shrunk to for a camera."""
        factor = self.antialias(camera, self.rig.size, pano_hw[1]) if self.antialias else 1.0
        if factor <= 1:
            return pano_hw
        return max(round(pano_hw[0] / factor), 1), max(round(pano_hw[1] / factor), 1)

    def _cut(self, batch: Tensor, views: list[dict[str, Tensor]]) -> None:
        """Puts the views of a batch [N, H, W, 3] into `views`; on CUDA they are still under way."""
        pano_hw = (batch.shape[1], batch.shape[2])
        cameras_of = defaultdict(list)
        for camera in self.rig.cameras:
            cameras_of[self._level_hw(camera, pano_hw)].append(camera)
        step = self._chunk(pano_hw)
        for start in range(0, len(batch), step):
            for level_hw, cameras in cameras_of.items():
                chunk = slice(start, start + step)
                self._cut_level(batch[chunk], views[chunk], level_hw=level_hw, cameras=cameras)

    def _cut_level(
        self, panos: Tensor, views: list[dict[str, Tensor]], *, level_hw: tuple[int, int], cameras: list[Camera]
    ) -> None:
        """Puts the views of those cameras that want panoramas of one size into `views`."""
        padded = with_margin(shrunk(panos, size_hw=level_hw), interpolation=self.interpolation)
        for camera in cameras:
            grid = self._grid(camera, level_hw, padded.device)
            # a list, not the tensor: what is kept in a variable would still be there when the next view is cut
            cut = [_to_host(view) for view in sampled(padded, grid, interpolation=self.interpolation)]
            for of_pano, view in zip(views, cut, strict=True):
                of_pano[camera.name] = view

    def _grid(self, camera: Camera, pano_hw: tuple[int, int], device: torch.device) -> Tensor:
        """The grid of a camera, made when it is first asked for; the longest unused ones make room."""
        key = (camera, pano_hw)
        if key in self._grids:
            self._grids.move_to_end(key)
            return self._grids[key]
        size = self.rig.size
        grid = sampling_grid(camera, size=size, pano_hw=pano_hw, interpolation=self.interpolation, device=device)
        if grid.nbytes <= self.grid_bytes:
            self._grids[key] = grid
        while self.cached_bytes > self.grid_bytes:
            self._grids.popitem(last=False)
        return grid


def find_device(name: str) -> torch.device:
    """The device of a name, made ready. Raises as ViewCutter.load."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(
            "cutting views with torch needs the package torch, which is not installed; "
            "run: pip install 'lightmill[models]', or use --device cpu"
        ) from error
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"a device is cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"views are cut on cpu, cuda or cuda:N, got {name!r}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        raise RunError(f"no CUDA device for {name!r}: torch {torch.__version__} finds {found}; use --device cpu")
    if device.type == "cuda" and device.index is None:
        # what plain `cuda` means differs between threads
        device = torch.device("cuda", torch.cuda.current_device())
    torch.empty(1, device=device)  # a driver that does not work says so now, not in the first batch
    return device


def on_device(panos: Sequence[Panorama], *, device: torch.device) -> Tensor:
    """Panoramas of one size as one tensor on the device, uint8 [N, H, W, 3]. Uploads do not wait for one another."""
    import torch

    batch = torch.empty((len(panos), *panos[0].shape), dtype=torch.uint8, device=device)
    for place, pano in zip(batch, panos, strict=True):
        # a pinned tensor that goes out of scope here is not handed out again before its upload has ended:
        # torch's host allocator holds it until then
        place.copy_(_uploadable(pano, device=device), non_blocking=True)
    return batch


def _uploadable(pano: Panorama, *, device: torch.device) -> Tensor:
    """The panorama as a tensor; in pinned memory where it has to travel to a CUDA device."""
    import torch

    pinned = device.type == "cuda"
    if isinstance(pano, np.ndarray):
        host = torch.empty(pano.shape, dtype=torch.uint8, pin_memory=pinned)
        np.copyto(host.numpy(), pano)  # read-only and strided arrays too, which torch does not wrap
        return host
    if not pinned or pano.is_cuda or pano.is_pinned():
        return pano
    return torch.empty(pano.shape, dtype=torch.uint8, pin_memory=True).copy_(pano)


def _to_host(view: Tensor) -> Tensor:
    """The same pixels in the host's memory; from CUDA into pinned memory, and still under way."""
    import torch

    if not view.is_cuda:
        return view.clone()  # of its own, so that a view that is kept does not keep its whole batch
    return torch.empty(view.shape, dtype=view.dtype, pin_memory=True).copy_(view, non_blocking=True)


def source_positions(
    camera: Camera, *, size: Size, pano_hw: tuple[int, int], rows: tuple[int, int], device: torch.device
) -> Tensor:
    """Where the pixel centres of a view's rows [first, end) lie in the panorama.

    Returns float64 [end - first, w, 2]: (column, row) in px, the first centre at (0.5, 0.5).
    """
    import torch

    # the matrix enters as nine numbers: a tensor of it would be one more upload to wait for
    R = camera.pano_from_cam().tolist()
    focal_px = camera.focal_px(size.width)
    x = (torch.arange(size.width, dtype=torch.float64, device=device) + 0.5 - size.width / 2) / focal_px
    y = (torch.arange(*rows, dtype=torch.float64, device=device)[:, None] + 0.5 - size.height / 2) / focal_px
    ray_x, ray_y, ray_z = (row[0] * x + row[1] * y + row[2] for row in R)
    length = torch.sqrt(x * x + y * y + 1)
    column = (torch.atan2(ray_x, ray_z) / (2 * math.pi) + 0.5) * pano_hw[1]
    row = (0.5 + torch.asin((ray_y / length).clamp_(-1, 1)) / math.pi) * pano_hw[0]
    return torch.stack((column, row), dim=-1)


def sampling_grid(
    camera: Camera, *, size: Size, pano_hw: tuple[int, int], interpolation: Kernel, device: torch.device
) -> Tensor:
    """What `sampled` wants to know of a camera: float32 [h, w, 2], (x, y) in a panorama with its margin.

    For lanczos in pixel indices: the first centre is 0. Else as grid_sample takes it with align_corners=False: -1 and
    1 are the outer edges of the outermost pixels.
    """
    import torch

    margin = MARGIN[interpolation]
    grid = torch.empty((size.height, size.width, 2), dtype=torch.float32, device=device)
    for first, end in _row_blocks(size):
        at = source_positions(camera, size=size, pano_hw=pano_hw, rows=(first, end), device=device) + margin
        if interpolation == "lanczos":
            at -= 0.5
        else:
            for axis, length in enumerate((pano_hw[1], pano_hw[0])):
                at[..., axis] *= 2 / (length + 2 * margin)
            at -= 1
        grid[first:end] = at
    return grid


def with_margin(panos: Tensor, *, interpolation: Kernel) -> Tensor:
    """Panoramas, continued on all sides as far as the kernel reaches.

    panos: uint8 [N, H, W, 3]. Returns [N, H + 2m, W + 2m, 3], m = MARGIN[interpolation], 0..255: uint8 for lanczos,
    float32 for the other kernels.
    """
    import torch

    margin = MARGIN[interpolation]
    n, height, width, channels = panos.shape
    dtype = torch.uint8 if interpolation == "lanczos" else torch.float32
    padded = torch.empty((n, height + 2 * margin, width + 2 * margin, channels), dtype=dtype, device=panos.device)
    padded[:, margin:-margin, margin:-margin] = panos

    columns = torch.arange(-margin, width + margin, device=panos.device)
    sides = torch.cat((columns[:margin], columns[-margin:])) % width
    beside = panos.index_select(2, sides)
    padded[:, margin:-margin, :margin] = beside[:, :, :margin]
    padded[:, margin:-margin, -margin:] = beside[:, :, margin:]

    rows = torch.arange(-margin, height + margin, device=panos.device)
    turn = torch.cat((rows[:margin], rows[-margin:])) % (2 * height)  # down one meridian, up the opposite one
    over = turn >= height
    source_rows = torch.where(over, 2 * height - 1 - turn, turn)[:, None]
    source_columns = (columns + torch.where(over, width // 2, 0)[:, None]) % width
    beyond = panos[:, source_rows, source_columns]
    padded[:, :margin] = beyond[:, :margin]
    padded[:, -margin:] = beyond[:, margin:]
    return padded


def sampled(padded: Tensor, grid: Tensor, *, interpolation: Kernel) -> Tensor:
    """One view of every panorama: uint8 [N, h, w, 3].

    padded: from `with_margin`; grid: from `sampling_grid`, with the same kernel.
    """
    import torch

    n, (height, width, _) = len(padded), grid.shape
    views = torch.empty((n, height, width, 3), dtype=torch.uint8, device=padded.device)
    if interpolation == "lanczos":
        for first, end in _row_blocks(Size(width, height)):
            _sample_lanczos(padded, grid[first:end].reshape(-1, 2), out=views[:, first:end])
        return views
    mode = "bilinear" if interpolation == "linear" else "bicubic"
    pixels = torch.nn.functional.grid_sample(
        padded.permute(0, 3, 1, 2),
        grid.expand(n, -1, -1, -1),
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    views.copy_(_clean(pixels).permute(0, 2, 3, 1))
    return views


def _sample_lanczos(padded: Tensor, at: Tensor, *, out: Tensor) -> None:
    """Samples panoramas [N, H, W, 3] at the positions [P, 2] (x, y in pixel indices) into out [N, rows, w, 3]."""
    import torch

    corner = torch.floor(at)
    weights_x, weights_y = _lanczos_weights(at - corner).unbind(dim=1)  # [8, P] each
    corner = corner.to(torch.int64) - 3
    width = padded.shape[2]
    first = corner[:, 1] * width + corner[:, 0]
    for pano, view in zip(padded.flatten(1, 2), out, strict=True):  # one by one: memory does not grow with the batch
        total = torch.zeros((len(at), 3), dtype=torch.float32, device=at.device)
        for down, weight_y in enumerate(weights_y):
            line = torch.zeros_like(total)
            for right, weight_x in enumerate(weights_x):
                line += pano.index_select(0, first + (down * width + right)) * weight_x[:, None]
            total += line.mul_(weight_y[:, None])
        view.copy_(_clean(total).view_as(view))


def _lanczos_weights(fraction: Tensor) -> Tensor:
    """Weights of the eight pixels around points that lie `fraction` [P, 2] (0..1) beyond the fourth.

    Returns [8, 2, P], the sum over the first axis 1: without that, white would not stay white.
    """
    import torch

    places = torch.arange(-3, 5, device=fraction.device)[:, None, None]
    distance = fraction.T - places
    weights = torch.sinc(distance).mul_(torch.sinc(distance / 4))
    return weights.div_(weights.sum(dim=0))


def _clean(pixels: Tensor) -> Tensor:
    """Whole numbers 0..255, in place."""
    return pixels.round_().clamp_(0, 255)


def shrunk(panos: Tensor, *, size_hw: tuple[int, int]) -> Tensor:
    """Panoramas made smaller: each pixel the mean of the area that it covers, as OpenCV's INTER_AREA.

    panos: uint8 [N, H, W, 3]. Returns uint8 [N, h, w, 3]; the same tensor where it has that size already.
    """
    import torch

    if tuple(panos.shape[1:3]) == size_hw:
        return panos
    smaller = torch.empty((len(panos), *size_hw, 3), dtype=torch.uint8, device=panos.device)
    smaller.copy_(_clean(_area_mean(_area_mean(panos, dim=1, length=size_hw[0]), dim=2, length=size_hw[1])))
    return smaller


def _area_mean(pixels: Tensor, *, dim: int, length: int) -> Tensor:
    """Float32 means over `length` equal stretches of one axis, whose ends may lie inside pixels."""
    import torch

    source = pixels.shape[dim]
    scale = source / length
    start = torch.arange(length, dtype=torch.float64, device=pixels.device) * scale
    shape = [-1 if axis == dim else 1 for axis in range(pixels.ndim)]
    total = torch.zeros(
        [length if axis == dim else side for axis, side in enumerate(pixels.shape)], device=pixels.device
    )
    for step in range(math.ceil(scale) + (source % length != 0)):
        pixel = torch.floor(start) + step
        share = (torch.minimum(start + scale, pixel + 1) - torch.maximum(start, pixel)).clamp_(min=0) / scale
        part = pixels.index_select(dim, pixel.clamp_(max=source - 1).to(torch.int64))
        total += part * share.to(torch.float32).view(shape)
    return total


def _row_blocks(size: Size) -> Iterator[tuple[int, int]]:
    """A view's rows in blocks of about BLOCK_PX pixels. They depend on its size alone, and so do its pixels."""
    step = max(BLOCK_PX // size.width, 1)
    for first in range(0, size.height, step):
        yield first, min(first + step, size.height)


def _places_by_shape(panos: Sequence[Panorama]) -> list[list[int]]:
    """Which of the panoramas have one size: their places, in order. Raises ValueError for what is no panorama."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, pano in enumerate(panos):
        shape, dtype = tuple(pano.shape), str(pano.dtype).removeprefix("torch.")
        if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"panorama {place} of the batch must be uint8 [H, W, 3], got {dtype} {list(shape)}")
        places[shape].append(place)
    return list(places.values())
