"""`lightmill prepare` beside the loop of a public caption app, and beside the bare loop of its own calls.

    python benchmarks/bench_prepare.py [--photos DIR] [--small 400] [--large 40] [--threads 2] [--rounds 3] [--json F]

Input is a ZIP of photographs of DIR (cropped, resized, with a little grain; without DIR sample portraits), JPEG of
quality 92. The app's loop, written anew: the ZIP is unpacked member by member, then 8 threads load each picture with
Pillow, make it RGB, turn it upright and save it (PNG level 6, or JPEG of quality 85); for buckets it is resized with
Lanczos and cropped before. The bare loop is `decode`, `apply_fit`, `encode` and a write in as many threads as
`prepare` has: no journal, no manifest, no care for crashes. Each runs in a Python of its own; times begin behind the
imports, so start-up counts for none of them. Ratios of wall time and of CPU time are given, the median of the rounds.
"""

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

SMALL, LARGE = (1024, 768), (4000, 3000)


@dataclass(frozen=True)
class Case:
    """One thing to do: how the app does it, and which options of `prepare` do the same."""

    size: tuple[int, int]
    app: str
    options: dict[str, object]


CASES = {
    "1024x768 to PNG": Case(SMALL, "png", {"format": "png"}),
    "1024x768 JPEG, no change (app: JPEG q85)": Case(SMALL, "jpg", {"format": "jpg"}),
    "1024x768 JPEG, no change (app: PNG, its default)": Case(SMALL, "png", {"format": "jpg"}),
    "1024x768 JPEG, no change, decoded (app: JPEG q85)": Case(SMALL, "jpg", {"format": "jpg", "verify": "decode"}),
    "1024x768 JPEG again, q85": Case(SMALL, "jpg", {"format": "jpg", "quality": 85, "reencode": "always"}),
    "4000x3000 to 1024-bucket JPEG q85": Case(LARGE, "bucket", {"format": "jpg", "quality": 85, "fit": "bucket"}),
}


def make_zip(path: Path, photos: Path | None, count: int, size: tuple[int, int]) -> None:
    """Photographs with grain: what a sensor adds decides how long entropy coding takes."""
    rng = np.random.default_rng(1)
    pictures = sorted(photos.glob("*.jpg")) if photos else portraits(path.parent / "portraits")
    grain = rng.normal(0, 4, (size[1] + 64, size[0] + 64, 3)).astype(np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            with Image.open(pictures[number % len(pictures)]) as opened:
                pixels = np.asarray(ImageOps.fit(opened.convert("RGB"), size, Image.Resampling.LANCZOS), np.float32)
            dx, dy = rng.integers(0, 64, 2)
            noisy = pixels + grain[dy : dy + size[1], dx : dx + size[0]]
            buffer = io.BytesIO()
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
            archive.writestr(f"set_{number % 3}/photo_{number:04d}.jpg", buffer.getvalue())


def portraits(folder: Path) -> list[Path]:
    """Sample portraits, where there are no photographs."""
    from lightmill.sample.portraits import write_portraits

    write_portraits(folder, 6, size=(1024, 1024), table=False)
    return sorted(folder.glob("*.png")) or sorted(folder.glob("*.jpg"))


# --- who does it -----------------------------------------------------------------------------------------------------


def app_loop(source: Path, out: Path, case: Case, threads: int) -> None:
    """What the app does, in our words; `threads` are its own 8."""
    out.mkdir(parents=True)
    unpacked = out.parent / "unpacked"
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            archive.extract(member, unpacked)
    found = sorted(str(path) for path in unpacked.rglob("*.jpg"))

    def normalise(numbered: tuple[int, str]) -> None:
        number, path = numbered
        with Image.open(path) as opened:
            picture = opened if opened.mode == "RGB" else opened.convert("RGB")
            picture = ImageOps.exif_transpose(picture)
            if case.app == "bucket":
                picture = picture.resize((1195, 896), Image.Resampling.LANCZOS).crop((21, 0, 1173, 896))
            if case.app == "png":
                picture.save(out / f"{number:04d}.png", "PNG", optimize=False, compress_level=6)
            else:
                picture.save(out / f"{number:04d}.jpg", "JPEG", quality=85)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(normalise, enumerate(found, 1)))


def bare_loop(source: Path, out: Path, case: Case, threads: int) -> None:
    """Our own calls, and nothing else."""
    from lightmill.codecs.decode import decode
    from lightmill.codecs.encode import ImageFormat, encode
    from lightmill.codecs.header import read_header
    from lightmill.codecs.strip import copied_jpeg
    from lightmill.ops.buckets import bucket_for, bucket_sizes
    from lightmill.ops.fit import Fit, apply_fit, plan_fit
    from lightmill.sources import ZipSource

    cv2.setNumThreads(1)
    out.mkdir(parents=True)
    buckets = bucket_sizes(1024)
    form, quality = ImageFormat(str(case.options["format"])), int(str(case.options.get("quality", 95)))

    def prepare(numbered: tuple[int, object]) -> None:
        number, ref = numbered
        data = ref.read()  # type: ignore[attr-defined]  # a reference of ZipSource
        size = read_header(data).upright_size
        plan = (
            plan_fit(size, how=Fit.BUCKET, size=bucket_for(size, buckets))
            if "fit" in case.options
            else plan_fit(size, how=Fit.NONE)
        )
        if form is ImageFormat.JPG and plan.changes_nothing and "reencode" not in case.options:
            made = copied_jpeg(data)
            assert made
            if "verify" in case.options:
                decode(data, at_least=(1, 1))
        else:
            pixels = decode(data, at_least=None if plan.changes_nothing else plan.resized).pixels
            made = encode(apply_fit(pixels, plan, matte=(255, 255, 255)), format=form, quality=quality)
        (out / f"{number:04d}.{form.suffix}").write_bytes(made)

    refs = [item.ref for item in ZipSource(source).items()]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(prepare, enumerate(refs)))


def lightmill_run(source: Path, out: Path, case: Case, threads: int) -> None:
    from lightmill.recipes.prepare import Prepare

    recipe = Prepare.from_values({**case.options, "threads": threads, "progress": "none"})
    result = recipe.run(source, out)
    assert not result.failed


LOOPS = {"app": app_loop, "bare": bare_loop, "lightmill": lightmill_run}


def timed_here(who: str, name: str, source: Path, out: Path, threads: int) -> None:
    """In a Python of its own: one run for the imports, on a single picture, then the one that counts."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(out.parent / "one.zip", "w") as one:
        first = archive.infolist()[0]
        one.writestr(first.filename, archive.read(first))
    LOOPS[who](out.parent / "one.zip", out.parent / "warm" / "out", CASES[name], threads)
    shutil.rmtree(out.parent / "warm", ignore_errors=True)
    shutil.rmtree(out.parent / "unpacked", ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    LOOPS[who](source, out, CASES[name], threads)
    print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}))


# --- measuring -------------------------------------------------------------------------------------------------------


def measured(who: str, name: str, source: Path, work: Path, threads: int) -> dict[str, float]:
    place = work / "run"
    place.mkdir()
    command = [sys.executable, __file__, "--here", who, name, str(source), str(place / "out"), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(place)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(args: argparse.Namespace, work: Path) -> dict[str, dict[str, dict[str, float]]]:
    counts = {SMALL: args.small, LARGE: args.large}
    sources = {size: work / f"{size[0]}.zip" for size in counts}
    for size, count in counts.items():
        make_zip(sources[size], args.photos, count, size)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, case in CASES.items():
        found: dict[str, list[dict[str, float]]] = {who: [] for who in LOOPS}
        for _ in range(args.rounds):
            for who in LOOPS:
                threads = 8 if who == "app" else args.threads
                found[who].append(measured(who, name, sources[case.size], work, threads))
        results[name] = {
            who: {clock: statistics.median(one[clock] for one in runs) for clock in runs[0]}
            | {"pictures": counts[case.size]}
            for who, runs in found.items()
        }
        print(line(name, results[name]), flush=True)
    return results


def line(name: str, result: dict[str, dict[str, float]]) -> str:
    app, bare, mill = (result[who] for who in ("app", "bare", "lightmill"))
    rate = mill["pictures"] / mill["wall_s"]
    return (
        f"{name:<50} {rate:8.1f}/s   app/lightmill {app['wall_s'] / mill['wall_s']:6.2f} (CPU "
        f"{app['cpu_s'] / mill['cpu_s']:6.2f})   lightmill/bare {mill['wall_s'] / bare['wall_s']:5.2f} "
        f"(CPU {mill['cpu_s'] / bare['cpu_s']:5.2f})"
    )


def main() -> int:
    if sys.argv[1:2] == ["--here"]:
        who, name, source, out, threads = sys.argv[2:]
        timed_here(who, name, Path(source), Path(out), int(threads))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--small", type=int, default=400)
    parser.add_argument("--large", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-prepare-"))
    try:
        results = measure(args, work)
    finally:
        shutil.rmtree(work)
    if args.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "cases": results}
        args.json.write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
