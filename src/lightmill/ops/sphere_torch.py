"""Pinhole views of equirectangular panoramas, cut on an accelerator: the views of `lightmill.ops.sphere`.

Where a view's pixels lie in the panorama is not worked out here: `view_positions` says it, rounded to 1/32 px as
OpenCV's fixed-point maps are. So the device gives what the CPU gives, to 1 level of 255, on black and white noise too.

A panorama gets a margin as wide as the kernel reaches, which holds what lies beyond the seam and the poles; no border
mode ever decides a pixel. Kernels:

    linear   grid_sample, bilinear
    cubic    grid_sample, bicubic: cubic convolution (Keys, 1981) with a = -0.75, as in OpenCV; clamped to 0..255
    lanczos  sinc(d) sinc(d / 4) over 8 x 8 pixels, weights divided by their sum, as in OpenCV's lanczos4; clamped

grid_sample takes float32 positions in -1..1 and turns them back to pixels with an error of at most 0.0017 px at 16384
columns. Between black and white pixels that is 0.7 levels for the linear kernel, before its result is rounded. Met on
black and white noise of that width: 0.07 levels, 0.14 for the cubic kernel; at 65500 columns the latter was 2 levels
from OpenCV's. The lanczos kernel is worked out here, from exact positions and float32 weights; OpenCV's weights are
rounded to 1/32768, and views are 1 level apart in 0.7 % of such pixels.

On the CPU this is a check of what CUDA does, not a way to be fast: OpenCV takes a fraction of the time there.

torch is imported by the functions that need it, so that this module costs nothing to import.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import MissingExtra, RunError, UsageError
from lightmill.ops.cache import ByteCache
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import view_positions
from lightmill.types import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kernel: TypeAlias = Literal["linear", "cubic", "lanczos"]
Panorama: TypeAlias = "NDArray[np.uint8] | Tensor"
Views: TypeAlias = dict[str, NDArray[np.uint8]]
Samples: TypeAlias = Callable[[Camera, Size, int], int]  # of a camera, a view's size and a panorama's width

MARGIN: dict[Kernel, int] = {"linear": 1, "cubic": 2, "lanczos": 4}  # pixels that a kernel reaches beyond the outermost
GRID_BYTES = 2**30  # of grids that stay on the device
CHUNK_BYTES = 2**30  # of panoramas, or of views, that are floating point at one time
BLOCK_PX = 2**19  # of a view, samples counted, that are worked on at one time
LANCZOS_BYTES_PER_PX = 280  # of such a block, at most: eight weights an axis, and their making


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
        samples: Samples | None = None,
        grid_bytes: int = GRID_BYTES,
    ) -> None:
        """`samples` says of how many points along each side a pixel of a camera's view is the mean (None: one).

        `grid_bytes` bounds the sampling grids that are kept from one batch to the next. Raises ValueError for an
        unknown kernel.
        """
        if interpolation not in get_args(Kernel):
            raise ValueError(f"interpolation is one of {', '.join(get_args(Kernel))}, got {interpolation!r}")
        self.rig = rig
        self.interpolation = interpolation
        self.samples = samples
        self.grid_bytes = grid_bytes
        self._device: torch.device | None = None
        self._grids: ByteCache[Tensor] | None = None  # while loaded: it has a lock, which cannot be pickled

    @property
    def cached_bytes(self) -> int:
        """How much memory of the device the grids that are kept take up."""
        return self._grids.used_bytes if self._grids else 0

    def load(self, device: str) -> None:
        """Takes hold of a device: `cpu`, `cuda` or `cuda:N`.

        Raises MissingExtra without torch, UsageError for another kind of device, RunError where there is no such one.
        """
        self.unload()
        self._device = find_device(device)
        self._grids = ByteCache(capacity_bytes=self.grid_bytes)

    def unload(self) -> None:
        """Lets go of the device and of all that was kept there."""
        self._grids = None
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

        if self._device is None or self._grids is None:
            raise RuntimeError("a ViewCutter cuts views only after load(device)")
        views: list[dict[str, Tensor]] = [{} for _ in panos]
        with torch.inference_mode():
            for places in _places_by_shape(panos):
                batch = on_device([panos[place] for place in places], device=self._device)
                self._cut(batch, [views[place] for place in places], self._grids)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        names = [camera.name for camera in self.rig.cameras]
        return [{name: of_pano[name].numpy() for name in names} for of_pano in views]

    def bytes_needed(self, pano_hw: tuple[int, int], n_panos: int) -> int:
        """An upper bound of the device's memory, in bytes, that a call with so many panoramas of this size takes.

        With the grids, without what the driver takes for itself. No device is needed to ask.
        """
        (height, width), margin = pano_hw, MARGIN[self.interpolation]
        view_px = self.rig.size.width * self.rig.size.height
        padded_px = (height + 2 * margin) * (width + 2 * margin)
        padding = 3 * (padded_px * (1 if self.interpolation == "lanczos" else 4) + 2 * (padded_px - height * width))
        samples = [self._samples(camera, pano_hw) for camera in self.rig.cameras]
        grids = [8 * view_px * n * n for n in samples]
        kept = min(sum(grids), self.grid_bytes + max(grids, default=0))
        block_px = max(map(self._block_px, samples), default=0)
        # a view in the making: its points as float32; or as uint8 and int32, with the sums of them that become pixels
        for_points = (12 if max(samples, default=1) == 1 else 3 + 12 + 3) * block_px
        for_block = LANCZOS_BYTES_PER_PX * block_px if self.interpolation == "lanczos" else 0
        chunk = min(n_panos, self._chunk(pano_hw))
        for_chunk = chunk * (padding + 3 * view_px + for_points)
        return 3 * n_panos * height * width + for_chunk + for_block + kept

    def _samples(self, camera: Camera, pano_hw: tuple[int, int]) -> int:
        """Of how many points along each side a pixel of the camera's view is the mean."""
        return self.samples(camera, self.rig.size, pano_hw[1]) if self.samples else 1

    def _block_px(self, samples: int) -> int:
        """The points of the largest block that views are worked on in."""
        return max(end - first for first, end in _row_blocks(self.rig.size, samples)) * self.rig.size.width * samples**2

    def _chunk(self, pano_hw: tuple[int, int]) -> int:
        """How many panoramas are floating point at one time."""
        block_px = max((self._block_px(self._samples(camera, pano_hw)) for camera in self.rig.cameras), default=0)
        most_px = max(pano_hw[0] * pano_hw[1], self.rig.size.width * self.rig.size.height, block_px)
        return max(CHUNK_BYTES // (3 * 4 * most_px), 1)

    def _cut(self, batch: Tensor, views: list[dict[str, Tensor]], grids: ByteCache[Tensor]) -> None:
        """Puts the views of a batch [N, H, W, 3] into `views`; on CUDA they are still under way."""
        pano_hw = (batch.shape[1], batch.shape[2])
        step = self._chunk(pano_hw)
        for start in range(0, len(batch), step):
            chunk = slice(start, start + step)
            padded = with_margin(batch[chunk], interpolation=self.interpolation)
            for camera in self.rig.cameras:
                # a list, not the tensor: what is kept in a variable would still be there when the next view is cut
                cut = [_to_host(view) for view in self._view(padded, camera, pano_hw, grids)]
                for of_pano, view in zip(views[chunk], cut, strict=True):
                    of_pano[camera.name] = view

    def _view(self, padded: Tensor, camera: Camera, pano_hw: tuple[int, int], grids: ByteCache[Tensor]) -> Tensor:
        """The view of one camera out of every panorama, [N, h, w, 3]; the camera's grid is kept if there is room."""
        samples, kernel = self._samples(camera, pano_hw), self.interpolation
        size = Size(self.rig.size.width * samples, self.rig.size.height * samples)

        def make() -> Tensor:
            return sampling_grid(camera, size=size, pano_hw=pano_hw, interpolation=kernel, device=padded.device)

        grid = grids.get((camera, pano_hw), group=pano_hw, make=make, nbytes=lambda grid: grid.nbytes)
        return sampled(padded, grid, interpolation=kernel, samples=samples)


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


def sampling_grid(
    camera: Camera, *, size: Size, pano_hw: tuple[int, int], interpolation: Kernel, device: torch.device
) -> Tensor:
    """What `sampled` wants to know of a camera: float32 [h, w, 2], (x, y) in a panorama with its margin.

    size: of the view, samples counted. For lanczos in pixel indices: the first centre is 0. Else as grid_sample takes
    it with align_corners=False: -1 and 1 are the outer edges of the outermost pixels.
    """
    import torch

    margin = MARGIN[interpolation]
    grid = view_positions(camera, size, pano_hw)
    if interpolation == "lanczos":
        grid += margin
    else:
        scale = 2 / (np.array(pano_hw[::-1], np.float64) + 2 * margin)
        for row in grid:
            row[:] = (row + (margin + 0.5)) * scale - 1  # in float64, and rounded once
    host = torch.from_numpy(grid)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


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


def sampled(padded: Tensor, grid: Tensor, *, interpolation: Kernel, samples: int = 1) -> Tensor:
    """One view of every panorama: uint8 [N, h, w, 3], each pixel the mean of samples x samples points of the grid.

    padded: from `with_margin`; grid: from `sampling_grid`, with the same kernel, [h * samples, w * samples, 2]. Points
    are rounded to whole levels before their mean is taken, and the mean again, as `ViewMaps.cut` does.
    """
    import torch

    n, size = len(padded), Size(grid.shape[1] // samples, grid.shape[0] // samples)
    views = torch.empty((n, size.height, size.width, 3), dtype=torch.uint8, device=padded.device)
    for first, end in _row_blocks(size, samples):
        at, rows = grid[first * samples : end * samples], views[:, first:end]
        if samples == 1:
            _sample(padded, at, interpolation=interpolation, out=rows)
            continue
        points = torch.empty((n, *at.shape[:2], 3), dtype=torch.uint8, device=padded.device)
        _sample(padded, at, interpolation=interpolation, out=points)
        rows.copy_(_means(points, samples))
    return views


def _sample(padded: Tensor, at: Tensor, *, interpolation: Kernel, out: Tensor) -> None:
    """Samples panoramas at the places [rows, w, 2] of a grid into out, uint8 [N, rows, w, 3]."""
    import torch

    if interpolation == "lanczos":
        _sample_lanczos(padded, at.reshape(-1, 2), out=out)
        return
    pixels = torch.nn.functional.grid_sample(
        padded.permute(0, 3, 1, 2),
        at.expand(len(padded), -1, -1, -1),
        mode="bilinear" if interpolation == "linear" else "bicubic",
        padding_mode="border",
        align_corners=False,
    )
    out.copy_(_clean(pixels).permute(0, 2, 3, 1))


def _means(points: Tensor, samples: int) -> Tensor:
    """Means over squares of samples x samples points: uint8 [N, h * samples, w * samples, 3] to int32 [N, h, w, 3].

    Halves are rounded up. OpenCV's INTER_AREA gives the same, but for halves of an even number of samples above 2.
    """
    import torch

    n, height, width, channels = points.shape
    squares = points.view(n, height // samples, samples, width // samples, samples, channels)
    total = squares.sum(dim=(2, 4), dtype=torch.int32)
    return total.add_(samples**2 // 2).floor_divide_(samples**2)


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


def _row_blocks(size: Size, samples: int) -> Iterator[tuple[int, int]]:
    """A view's rows in blocks of about BLOCK_PX points. They depend on its size alone, and so do its pixels."""
    step = max(BLOCK_PX // (size.width * samples**2), 1)
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
