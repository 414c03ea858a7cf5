"""How fast views are cut with torch, beside bare cv2.remap, and how exactly float32 places them at 16K.

PYTHONPATH=src python benchmarks/bench_sphere_torch.py --device cuda --pano 8192x4096 --size 1920x1080 --batch 8
"""

import argparse
import math
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere_torch import MARGIN, Kernel, ViewCutter, find_device, sampling_grid, source_positions
from lightmill.types import Size

FLAGS: dict[Kernel, int] = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pano", type=Size.parse, default=Size(4096, 2048))
    parser.add_argument("--size", type=Size.parse, default=Size(960, 540))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    report_precision(find_device(options.device))
    report_speed(options)


def report_precision(device: torch.device) -> None:
    """The largest error of a kept grid at 16384 x 8192, and that of the formulas worked out in float32 throughout."""
    size, pano_hw = Size(1024, 1024), (8192, 16384)
    cameras = [
        Camera(name="front", yaw=0, pitch=0),
        Camera(name="seam", yaw=180, pitch=0),
        Camera(name="turned", yaw=33, pitch=40, roll=10),
        Camera(name="pole", yaw=0, pitch=90),
        Camera(name="pole, 2°", yaw=0, pitch=90, hfov=2),
    ]
    print(f"largest error in px at 16384 x 8192, {device}")
    print(f"{'camera':10}{'kept grid: column':>20}{'row':>10}{'all float32: column':>22}{'row':>10}")
    for camera in cameras:
        exact = source_positions(camera, size=size, pano_hw=pano_hw, rows=(0, size.height), device=device)
        grid = sampling_grid(camera, size=size, pano_hw=pano_hw, interpolation="linear", device=device)
        margin = MARGIN["linear"]
        padded = torch.tensor([pano_hw[1] + 2 * margin, pano_hw[0] + 2 * margin], dtype=torch.float32, device=device)
        read = ((grid + 1) * padded - 1) / 2  # as grid_sample does, in float32
        kept = worst(read.double() + 0.5 - margin, exact, pano_hw)
        single = worst(float32_positions(camera, size, pano_hw, device).double(), exact, pano_hw)
        print(f"{camera.name:10}{kept[0]:20.5f}{kept[1]:10.5f}{single[0]:22.5f}{single[1]:10.5f}")


def float32_positions(camera: Camera, size: Size, pano_hw: tuple[int, int], device: torch.device) -> torch.Tensor:
    """[h, w, 2] (column, row) in px, from the same formulas without float64."""
    R = torch.tensor(camera.pano_from_cam(), dtype=torch.float32, device=device)
    v, u = torch.meshgrid(
        torch.arange(size.height, device=device) + 0.5, torch.arange(size.width, device=device) + 0.5, indexing="ij"
    )
    focal_px = camera.focal_px(size.width)
    rays = torch.stack(((u - size.width / 2) / focal_px, (v - size.height / 2) / focal_px, torch.ones_like(u)), dim=-1)
    x, y, z = (rays @ R.T / rays.norm(dim=-1, keepdim=True)).unbind(dim=-1)
    return torch.stack(
        (
            (torch.atan2(x, z) / (2 * math.pi) + 0.5) * pano_hw[1],
            (0.5 + torch.asin(y.clamp(-1, 1)) / math.pi) * pano_hw[0],
        ),
        dim=-1,
    )


def worst(at: torch.Tensor, exact: torch.Tensor, pano_hw: tuple[int, int]) -> tuple[float, float]:
    """The largest error of columns (around the sphere; in px at the equator) and of rows."""
    off = at - exact
    off[..., 0] -= pano_hw[1] * torch.round(off[..., 0] / pano_hw[1])
    off[..., 0] *= torch.cos((exact[..., 1] / pano_hw[0] - 0.5) * math.pi)
    column, row = off.abs().amax(dim=(0, 1)).tolist()
    return column, row


def report_speed(options: argparse.Namespace) -> None:
    pano_hw = (options.pano.height, options.pano.width)
    rig = Rig(name="ring8", size=options.size, cameras=ring(8))
    panos = [np.random.default_rng(seed).integers(0, 256, (*pano_hw, 3), np.uint8) for seed in range(options.batch)]
    print(
        f"\n{options.batch} x {options.pano} to 8 views of {options.size}, {options.device}; "
        f"median of {options.repeats}"
    )
    print(
        f"{'kernel':10}{'first batch ms':>16}{'batch ms':>10}{'views/s':>9}{'needed MiB':>12}{'cv2.remap views/s':>19}"
    )
    for kernel in get_args(Kernel):
        cutter = ViewCutter(rig, interpolation=kernel)
        cutter.load(options.device)
        first, later = timed(cutter, panos, repeats=1), timed(cutter, panos, repeats=options.repeats)
        needed = cutter.bytes_needed(pano_hw, options.batch) / 2**20
        cutter.unload()
        remap = timed(remapper(rig, pano_hw, FLAGS[kernel]), panos[:1], repeats=options.repeats)
        print(
            f"{kernel:10}{1e3 * first:16.1f}{1e3 * later:10.1f}{8 * options.batch / later:9.0f}"
            f"{needed:12.0f}{8 / remap:19.0f}"
        )


def ring(count: int) -> tuple[Camera, ...]:
    return tuple(Camera(name=f"cam{place:02}", yaw=place * 360 / count, pitch=0) for place in range(count))


def remapper(rig: Rig, pano_hw: tuple[int, int], flag: int) -> Callable[[list[NDArray[np.uint8]]], list[Any]]:
    """Bare calls of cv2.remap with fixed-point maps that are ready; the poles do not matter to a ring."""
    maps = []
    for camera in rig.cameras:
        at = source_positions(
            camera, size=rig.size, pano_hw=pano_hw, rows=(0, rig.size.height), device=torch.device("cpu")
        )
        x, y = (at.numpy() - 0.5).astype(np.float32).transpose(2, 0, 1)
        maps.append(cv2.convertMaps(np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.CV_16SC2))
    return lambda panos: [cv2.remap(pano, *pair, flag, borderMode=cv2.BORDER_WRAP) for pano in panos for pair in maps]


def timed(work: Callable[[list[NDArray[np.uint8]]], Any], panos: list[NDArray[np.uint8]], *, repeats: int) -> float:
    """Seconds a call, median."""
    seconds = []
    for _ in range(repeats):
        began = perf_counter()
        work(panos)
        seconds.append(perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
