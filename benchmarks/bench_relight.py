"""`lightmill relight` as a whole process, beside the loop of the same calls that one would write instead.

    python benchmarks/bench_relight.py [--photos DIR] [--count 24] [--side 1024] [--threads 2] [--rounds 3]

Photographs of DIR are cropped to squares and brought to `side`; without DIR, sample portraits. Built-in models, all
files. The bare loop runs in a fresh Python, one picture a thread at a time; it has no journal, no manifest, no table,
no hashes, and no care for crashes. Which stage takes the time is what the engine's own record says.
"""

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lightmill import __version__
from lightmill.codecs.decode import decode
from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.models.decomposers import RetinexDecomposer
from lightmill.models.normals import Inflate
from lightmill.models.salient import Salient
from lightmill.ops.lights import Ranges, draw_kind, draw_light
from lightmill.ops.radiance import Scene, brought_to_range, light_up, shadow_of
from lightmill.ops.relief import ambient_occlusion
from lightmill.ops.srgb import to_levels, to_linear
from lightmill.recipes.light_options import spread_patterns
from lightmill.recipes.relight import Relight
from lightmill.sample.portraits import write_portraits


def make_pictures(folder: Path, photos: Path | None, count: int, side: int) -> None:
    folder.mkdir()
    if photos is None:
        write_portraits(folder, count, size=(side, side), table=False)
        shutil.rmtree(folder / "masks")
        return
    paths = sorted(path for path in photos.iterdir() if path.suffix == ".jpg")
    for number in range(count):
        pixels = cv2.imread(str(paths[number % len(paths)]))
        short = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - short) // 2, (pixels.shape[1] - short) // 2
        square = cv2.resize(pixels[top : top + short, left : left + short], (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"photo_{number:03d}.jpg"), square, [cv2.IMWRITE_JPEG_QUALITY, 92])


def bare_loop(source: Path, out: Path, threads: int) -> None:
    """The same calls, and nothing else."""
    cv2.setNumThreads(1)
    out.mkdir(parents=True)
    weights = spread_patterns(Relight().degrade)
    segment, take_apart, inflate = Salient(), RetinexDecomposer(), Inflate()

    def relight(path: Path) -> None:
        image = decode(path.read_bytes()).pixels
        found = segment([image])[0]
        if not found.masks:
            return
        mask = found.masks[0]
        intrinsics, relief = take_apart([image], [mask])[0], inflate([image], [mask])[0]
        albedo, _ = brought_to_range(intrinsics.albedo, mask)
        rng = np.random.default_rng(abs(hash(path.name)))
        light = draw_light(draw_kind(rng, weights=weights), rng, ranges=Ranges())
        seen = ambient_occlusion(relief.height, mask=mask) if light.occlusion else None
        gray = to_linear(np.full((1, 1, 3), 128, np.uint8))
        lit = light_up(Scene(albedo, relief.normals, mask, gray, shadow_of(light, relief.height), seen), light)
        shown = to_levels(albedo)
        shown[mask == 0] = 128
        files = {
            "output": lit.composite,
            "degraded_fg": cut_out(lit.foreground, mask),
            "input": image,
            "albedo": shown,
            "foreground": cut_out(image, mask),
            "background": cut_out(image, 255 - mask),
        }
        for label, pixels in files.items():
            (out / f"{path.stem}_{label}.png").write_bytes(encode(pixels, format=ImageFormat.PNG))
        (out / f"{path.stem}_mask.png").write_bytes(encode_mask(mask))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(relight, sorted(source.iterdir())))


def cut_out(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([cv2.bitwise_and(pixels, pixels, mask=alpha), alpha])


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(args: argparse.Namespace, work: Path) -> dict[str, list[float]]:
    make_pictures(work / "in", args.photos, args.count, args.side)
    source, threads = str(work / "in"), str(args.threads)
    times: dict[str, list[float]] = {"lightmill": [], "bare": []}
    for number in range(args.rounds):
        for name in ("lightmill", "bare") if number % 2 == 0 else ("bare", "lightmill"):
            out = work / name
            shutil.rmtree(out, ignore_errors=True)
            mill = [sys.executable, "-m", "lightmill", "relight", source, str(out), "--threads", threads]
            bare = [sys.executable, __file__, "--bare", source, str(out), "--threads", threads]
            times[name].append(timed([*mill, "--progress", "none"] if name == "lightmill" else bare))
    return times


def stages(out: Path, count: int) -> list[tuple[str, float]]:
    """Milliseconds of CPU threads a picture, by stage, from the journal."""
    with sqlite3.connect(out / ".lightmill" / "journal.db") as journal:
        (record,) = journal.execute("SELECT record FROM sessions ORDER BY rowid DESC LIMIT 1").fetchone()
    found = [(stage["name"], 1000 * stage["busy_s"] / count) for stage in json.loads(record)["stages"]]
    return sorted(found, key=lambda pair: -pair[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", nargs=2, metavar=("IN", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_loop(Path(args.bare[0]), Path(args.bare[1]), args.threads)
        return 0
    work = Path(tempfile.mkdtemp(prefix="bench-relight-"))
    try:
        times = measure(args, work)
        print(f"{args.count} pictures {args.side}x{args.side}, 8 files each, {args.threads} threads\n")
        for name, values in times.items():
            per = [value / args.count for value in values]
            print(f"{name:10} {statistics.median(per):.3f} s a picture ({min(per):.3f}-{max(per):.3f})")
        ratio = statistics.median(a / b for a, b in zip(times["lightmill"], times["bare"], strict=True))
        print(f"lightmill / bare: {ratio:.3f}\n")
        busy = stages(work / "lightmill", args.count)
        for stage, ms in busy[:10]:
            print(f"  {stage:16} {ms:7.1f} ms")
        figures = {name: statistics.median(values) / args.count for name, values in times.items()}
        print(json.dumps({"version": __version__, "count": args.count, "side": args.side, **figures, "ratio": ratio}))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
