"""How fast views are cut with torch, beside bare cv2.remap, and how far they are from those cut on the CPU.

PYTHONPATH=src python benchmarks/bench_sphere_torch.py --device cuda --pano 8192x4096 --size 1920x1080 --batch 8
"""

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from time import perf_counter
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, inner, padded_shape, view_positions
from lightmill.ops.sphere_torch import Kernel, ViewCutter
from lightmill.types import Size

FLAGS: dict[Kernel, int] = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pano", type=Size.parse, default=Size(4096, 2048))
    parser.add_argument("--size", type=Size.parse, default=Size(960, 540))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    report_precision(options.device)
    report_speed(options)


def report_precision(device: str) -> None:
    """The largest difference from the views of ViewMaps, on black and white noise, and how many pixels differ."""
    size, pano_hw = Size(800, 200), (64, 16384)
    cameras = (
        Camera(name="front", yaw=0, pitch=0),
        Camera(name="seam", yaw=180, pitch=0),
        Camera(name="turned", yaw=33, pitch=40, roll=10),
        Camera(name="pole", yaw=0, pitch=90),
    )
    rig = Rig(name="hard", size=size, cameras=cameras)
    padded = np.empty(padded_shape(*pano_hw), np.uint8)
    inner(padded)[:] = np.random.default_rng(0).integers(0, 2, (*pano_hw, 3), np.uint8) * 255
    continue_poles(padded)
    print(f"from the CPU's views, {pano_hw[1]} x {pano_hw[0]}, {device}")
    print(f"{'kernel':10}{'samples':>8}{'camera':>10}{'levels':>8}{'pixels %':>10}")
    maps = ViewMaps(rig)
    for kernel, samples in product(get_args(Kernel), (1, 2)):
        cutter = ViewCutter(rig, interpolation=kernel, samples=lambda *_: samples)  # noqa: B023
        cutter.load(device)
        (views,) = cutter([inner(padded)])
        cutter.unload()
        for camera in cameras:
            wanted = maps.cut(padded, camera, interpolation=Interpolation(kernel), samples=samples)
            off = np.abs(views[camera.name].astype(int) - wanted)
            print(f"{kernel:10}{samples:8}{camera.name:>10}{off.max():8}{100 * (off > 0).mean():10.3f}")


def report_speed(options: argparse.Namespace) -> None:
    pano_hw = (options.pano.height, options.pano.width)
    rig = Rig(name="ring8", size=options.size, cameras=ring(8))
    panos = [np.random.default_rng(seed).integers(0, 256, (*pano_hw, 3), np.uint8) for seed in range(options.batch)]
    print(
        f"\n{options.batch} x {options.pano} to 8 views of {options.size}, {options.samples} samples a side, "
        f"{options.device}; median of {options.repeats}"
    )
    print(
        f"{'kernel':10}{'first batch ms':>16}{'batch ms':>10}{'views/s':>9}{'needed MiB':>12}{'cv2.remap views/s':>19}"
    )
    for kernel in get_args(Kernel):
        cutter = ViewCutter(rig, interpolation=kernel, samples=lambda *_: options.samples)
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
        x, y = view_positions(camera, rig.size, pano_hw).transpose(2, 0, 1)
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
