"""Times map building and cutting against the bare OpenCV calls, for 8 views of 1920x1080 from an 8K panorama.

PYTHONPATH=src python benchmarks/bench_remap.py [ROUNDS]
"""

import math
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, padded_shape
from lightmill.types import Size

PANO_HW, SIZE = (3840, 7680), Size(1920, 1080)


def ring(pitch: float, roll: float = 0.0) -> Rig:
    cameras = (Camera(name=f"cam{i:02d}", yaw=45 * i, pitch=pitch, roll=roll) for i in range(8))
    return Rig(name="ring8", size=SIZE, cameras=tuple(cameras))


def bare_maps(yaw: float) -> tuple[Any, Any]:
    """What a user writes for a level view: separable columns, float64 until the last step."""
    focal = SIZE.width / (2 * math.tan(math.radians(90) / 2))
    x = (np.arange(SIZE.width, dtype=np.float32) + 0.5 - SIZE.width / 2) / focal
    y = (np.arange(SIZE.height, dtype=np.float32) + 0.5 - SIZE.height / 2) / focal
    column = (np.arctan(x) / (2 * np.pi) + yaw / 360 + 0.5) % 1 * PANO_HW[1] - 0.5
    row = (np.arctan(y[:, None] / np.sqrt(1 + x * x)) / np.pi + 0.5) * PANO_HW[0] - 0.5
    shape = SIZE.height, SIZE.width
    return cv2.convertMaps(np.broadcast_to(column, shape).astype(np.float32), row.astype(np.float32), cv2.CV_16SC2)


def milliseconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return 1000 * (perf_counter() - began)


def cut_all(maps: ViewMaps, rig: Rig, pano: NDArray[np.uint8], out: NDArray[np.uint8]) -> list[float]:
    return [
        milliseconds(lambda: maps.cut(pano, camera, interpolation=Interpolation.LINEAR, out=out))  # noqa: B023
        for camera in rig.cameras
    ]


def in_threads(rig: Rig, pano: NDArray[np.uint8], threads: int) -> float:
    """Every thread cuts every view with maps that nobody has made yet."""
    maps = ViewMaps(rig)
    outs = [np.empty((SIZE.height, SIZE.width, 3), np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return milliseconds(lambda: list(pool.map(lambda out: cut_all(maps, rig, pano, out), outs)))


def main(rounds: int) -> None:
    cv2.setNumThreads(1)
    pano = np.random.default_rng(0).integers(0, 256, padded_shape(*PANO_HW), dtype=np.uint8)
    continue_poles(pano)
    out = np.empty((SIZE.height, SIZE.width, 3), np.uint8)
    figures: dict[str, list[float]] = {}
    rigs = {"level": ring(0), "pitch 30": ring(30), "pitch 30 roll 10": ring(30, 10)}
    for _ in range(rounds):
        bare = [bare_maps(camera.yaw) for camera in rigs["level"].cameras]
        taken = [milliseconds(lambda: bare_maps(45)) for _ in range(4)]
        figures.setdefault("bare: map of a level view", []).extend(taken)
        for map1, map2 in bare:
            call = lambda: cv2.remap(pano, map1, map2, cv2.INTER_LINEAR, out, cv2.BORDER_WRAP)  # noqa: B023, E731
            figures.setdefault("bare: remap", []).append(milliseconds(call))
        del bare
        for name, rig in rigs.items():
            maps = ViewMaps(rig)
            cold, warm = cut_all(maps, rig, pano, out), cut_all(maps, rig, pano, out)
            build = [a - b for a, b in zip(cold, warm, strict=True)]
            figures.setdefault(f"{name}: map of the first view", []).append(build[0])
            figures.setdefault(f"{name}: map of a further view", []).extend(build[1:])
            figures.setdefault(f"{name}: cut", []).extend(warm)
        figures.setdefault("level: 2 threads, 8 views each, with maps", []).append(in_threads(rigs["level"], pano, 2))
    for name, values in figures.items():
        print(f"{name:45s} median {statistics.median(values):7.2f} ms   best {min(values):7.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
