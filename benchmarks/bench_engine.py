"""What the engine costs: 10,000 small pictures against the bare calls, and a folder of a million.

    python benchmarks/bench_engine.py [--items 10000] [--million 1000000] [--rounds 3]

The work is the same in both: read a small JPEG, decode it, encode it again, write it. The bare loop does just that on
as many threads; the engine adds items, queues, the journal, atomic renames, the manifest and the report. The figure is
wall time above the bare loop, an item. Prints a table, and the same as JSON.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

from lightmill import __version__
from lightmill.engine.items import Ref
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, run
from lightmill.engine.stages import Each, Save
from lightmill.sources.folder import FolderSource

SIDE = 128


def read(ref: Ref) -> bytes:
    return ref.read()


def decode(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB")


def encode(image: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(image, 90)


def make_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    files = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)), 60)
        for _ in range(50)
    ]
    for i in range(count):
        (folder / f"picture_{i:06d}.jpg").write_bytes(files[i % 50])


def bare(source: Path, out: Path, threads: int) -> float:
    began = time.perf_counter()
    out.mkdir(parents=True)

    def one(path: Path) -> None:
        (out / path.name).write_bytes(encode(decode(path.read_bytes())))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, sorted(source.iterdir())))
    return time.perf_counter() - began


def engine(source: Path, out: Path, threads: int) -> float:
    began = time.perf_counter()
    pipeline = Pipeline(
        Each(read, makes="data"), Each(decode, makes="image"), Each(encode, makes="file"), Save(file="{name}.jpg")
    )
    job = Job(
        recipe="bench",
        version=__version__,
        config={},
        command={},
        source=FolderSource(source),
        out=out,
        make_pipeline=lambda: pipeline,
    )
    result = run(job, RunOptions(threads=threads, progress="none"))
    assert result.exit_code == 0, result
    return time.perf_counter() - began


def per_item(count: int, rounds: int, work: Path) -> dict[str, object]:
    source = work / "pictures"
    source.mkdir()
    make_pictures(source, count)
    figures: dict[str, object] = {}
    print(f"{count:,} JPEGs of {SIDE}x{SIDE}, {rounds} rounds, medians\n")
    print(f"{'threads':>7} {'bare ms/item':>13} {'engine ms/item':>15} {'above, ms/item':>15}")
    for threads in (1, 2):
        times: dict[str, list[float]] = {"bare": [], "engine": []}
        for number in range(rounds):
            for name, function in (("bare", bare), ("engine", engine))[:: 1 if number % 2 == 0 else -1]:
                out = work / f"{name}-{threads}"
                shutil.rmtree(out, ignore_errors=True)
                times[name].append(1000 * function(source, out, threads) / count)
        above = statistics.median(e - b for e, b in zip(times["engine"], times["bare"], strict=True))
        middle = {name: statistics.median(values) for name, values in times.items()}
        print(f"{threads:7} {middle['bare']:13.3f} {middle['engine']:15.3f} {above:15.3f}")
        figures[f"{threads} threads"] = {**middle, "above": above}
    return figures


def million(count: int, work: Path) -> dict[str, object]:
    """A folder of a million names (empty files: nothing is opened while listing)."""
    folder = work / "million"
    for part in range(-(-count // 10_000)):
        (folder / f"{part:03d}").mkdir(parents=True)
        for i in range(min(10_000, count - part * 10_000)):
            (folder / f"{part:03d}" / f"frame_{i:06d}.jpg").touch()
    began = time.perf_counter()
    source = FolderSource(folder)
    listed_s = time.perf_counter() - began
    began = time.perf_counter()
    found = sum(1 for _ in source.items())
    items_s = time.perf_counter() - began
    assert found == count
    del source
    tracemalloc.start()
    kept = FolderSource(folder)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    print(
        f"\n{count:,} files: listed in {listed_s:.1f} s ({1e6 * listed_s / count:.1f} us a file), "
        f"all items in {items_s:.1f} s"
    )
    print(f"memory: {held / count:.0f} bytes an item kept, {peak / count:.0f} at the peak of listing")
    return {
        "files": count,
        "listed_s": listed_s,
        "items_s": items_s,
        "bytes_kept": held / count,
        "bytes_peak": peak / count,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-engine-"))
    try:
        figures = {"per item": per_item(args.items, args.rounds, work), "listing": million(args.million, work)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"version": __version__, "machine": platform.processor() or platform.machine(), **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
