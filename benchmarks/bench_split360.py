"""`lightmill split360` as a whole process, beside the loop of the same calls that one would write instead.

    python benchmarks/bench_split360.py [--frames 12] [--width 7680] [--size 1920x1080] [--threads 2] [--rounds 5]

Panoramas of the sample scene are enlarged and given grain, so that their JPEGs are as large as a camera's. The bare
loop runs in a fresh Python too: it builds the maps, then decodes into one buffer a thread, remaps, encodes and writes;
it has no journal, no manifest, no EXIF, and no care for seam, poles or crashes. Ratios are taken within a round, and
the order changes every round. "steady" leaves start-up out: what each frame after the first costs.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import cv2
import numpy as np
import simplejpeg

from lightmill import __version__
from lightmill.ops.rig import Rig
from lightmill.ops.rigs import preset
from lightmill.ops.sphere import view_positions
from lightmill.types import Size

QUALITY = 95


def make_frames(folder: Path, count: int, width: int) -> None:
    from lightmill.sample.render import panorama
    from lightmill.sample.scene import Scene

    folder.mkdir()
    base = panorama(Scene(), time_s=0.0, width=1024, supersample=1).pixels
    large = cv2.resize(base, (width, width // 2), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    rng = np.random.default_rng(1)
    grain = rng.normal(0, 3, (width // 2, width, 1)).astype(np.int16)
    for number in range(count):
        frame = np.clip(np.roll(large, number * 617, axis=1) + np.roll(grain, number * 101, axis=0), 0, 255)
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame.astype(np.uint8)), 92, colorsubsampling="420")
        (folder / f"pano_{number:03d}.jpg").write_bytes(data)


def bare_loop(frames: list[Path], out: Path, size: Size, threads: int) -> None:
    """The same calls, and nothing else."""
    cv2.setNumThreads(1)
    rig = Rig(name="ring8", size=size, cameras=preset("ring8"))
    height, width, _, _ = simplejpeg.decode_jpeg_header(frames[0].read_bytes())
    mine = local()
    for camera in rig.cameras:
        (out / camera.name).mkdir(parents=True)

    def fixed_point(camera):  # type: ignore[no-untyped-def]
        column, row = np.moveaxis(view_positions(camera, size, (height, width)), -1, 0)
        return cv2.convertMaps(np.ascontiguousarray(column), np.ascontiguousarray(row), cv2.CV_16SC2)

    def split(path: Path) -> None:
        if not hasattr(mine, "pano"):
            mine.pano = np.empty((height, width, 3), np.uint8)
            mine.view = np.empty((size.height, size.width, 3), np.uint8)
        simplejpeg.decode_jpeg(path.read_bytes(), "RGB", buffer=mine.pano)
        for camera, (xy, fraction) in zip(rig.cameras, maps, strict=True):
            cv2.remap(mine.pano, xy, fraction, cv2.INTER_LINEAR, dst=mine.view, borderMode=cv2.BORDER_WRAP)
            data = simplejpeg.encode_jpeg(mine.view, QUALITY, colorsubsampling="420")
            (out / camera.name / path.name).write_bytes(data)

    with ThreadPoolExecutor(threads) as pool:
        maps = list(pool.map(fixed_point, rig.cameras))
        list(pool.map(split, frames))


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def commands(args: argparse.Namespace, source: Path, out: Path) -> dict[str, list[str]]:
    size, threads = str(args.size), str(args.threads)
    mill = [sys.executable, "-m", "lightmill", "split360", str(source), str(out), "--size", size, "--threads", threads]
    return {
        "lightmill": [*mill, "--progress", "none"],
        "bare": [sys.executable, __file__, "--bare", str(source), str(out), "--size", size, "--threads", threads],
    }


def measure(args: argparse.Namespace, work: Path) -> dict[str, list[float]]:
    make_frames(work / "all", args.frames, args.width)
    (work / "one").mkdir()
    shutil.copy(work / "all/pano_000.jpg", work / "one")
    times: dict[str, list[float]] = {}
    for number in range(args.rounds):
        jobs = [(name, which) for name in ("lightmill", "bare") for which in ("all", "one")]
        for name, which in jobs if number % 2 == 0 else reversed(jobs):
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            times.setdefault(f"{name} {which}", []).append(timed(commands(args, work / which, out)[name]))
    return times


def report(args: argparse.Namespace, times: dict[str, list[float]]) -> dict[str, float]:
    middle = {name: statistics.median(values) for name, values in times.items()}
    whole = statistics.median(a / b for a, b in zip(times["lightmill all"], times["bare all"], strict=True))
    steady = {
        name: (middle[f"{name} all"] - middle[f"{name} one"]) / (args.frames - 1) for name in ("lightmill", "bare")
    }
    print(f"{args.frames} panoramas {args.width}x{args.width // 2}, 8 views {args.size}, {args.threads} threads\n")
    print(f"{'':12} {'all, s':>8} {'one, s':>8} {'steady, ms/view':>16}")
    for name in ("lightmill", "bare"):
        print(f"{name:12} {middle[f'{name} all']:8.2f} {middle[f'{name} one']:8.2f} {steady[name] * 1000 / 8:16.1f}")
    print(f"\nlightmill / bare: {whole:.3f} as whole processes, {steady['lightmill'] / steady['bare']:.3f} steady")
    return {**middle, "ratio": whole, "ratio_steady": steady["lightmill"] / steady["bare"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--width", type=int, default=7680)
    parser.add_argument("--size", type=Size.parse, default=Size(1920, 1080))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bare", nargs=2, metavar=("FRAMES", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_loop(sorted(Path(args.bare[0]).iterdir()), Path(args.bare[1]), args.size, args.threads)
        return 0
    work = Path(tempfile.mkdtemp(prefix="bench-split360-"))
    try:
        figures = report(args, measure(args, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"version": __version__, "frames": args.frames, "width": args.width, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
