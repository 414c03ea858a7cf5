"""Negatives of a large table, and its folds: how long each step takes on one core.

    python benchmarks/bench_negatives.py [--frames 70000] [--players 10] [--rounds 3] [--json F]

A table of frames of 1920x1080 with players anywhere is written as CSV. Measured are, in CPU seconds of this process:
reading it, drawing a background box a frame and a partial a player, the file that `lightmill negatives` makes of them;
then reading that file with polars, the median of ten; and folds with their leak test. Drawing is done in one thread;
what polars does in several counts as the sum of them.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lightmill.data.folds import open_set_folds
from lightmill.data.leaks import check_leaks
from lightmill.ops.boxes import clean_tracks
from lightmill.ops.negatives import draw_background, draw_partial
from lightmill.recipes.negative_boxes import draw_of_table
from lightmill.sources.boxes import BoxColumns, read_boxes

COLUMNS = BoxColumns(
    path="{quarter}__{angle}__{session:02d}__{frame:02d}.jpg",
    label="label_id",
    group=("quarter", "session"),
    view="angle",
    time="frame",
)


def match_table(frames: int, players: int) -> pl.DataFrame:
    """Four quarters, two views, sessions of 50 instants."""
    rng = np.random.default_rng(0)
    count = frames * players
    instant = np.repeat(np.arange(frames), players) // 2
    w, h = rng.integers(40, 90, count), rng.integers(100, 180, count)
    return pl.DataFrame(
        {
            "quarter": [f"Q{number}-000" for number in (instant * 8 // max(1, frames)).tolist()],
            "angle": np.where(np.repeat(np.arange(frames), players) % 2, "top", "side"),
            "session": instant // 50,
            "frame": instant % 50,
            "x": rng.integers(0, 1920 - w),
            "y": rng.integers(0, 1080 - h),
            "w": w,
            "h": h,
            "label_id": rng.permuted(np.tile(np.arange(3 * players), (frames, 1)), axis=1)[:, :players].ravel(),
        }
    )


def timed(results: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; the CPU seconds that it took, the least of all rounds, are kept."""
    began = time.process_time()
    found = work()
    results[name] = min(results.get(name, np.inf), time.process_time() - began)
    return found


def one_round(path: Path, results: dict[str, float]) -> dict[str, Any]:
    table = timed(results, "read META.csv", lambda: read_boxes(path, COLUMNS))
    sizes = np.tile([1080.0, 1920.0], (len(table.frames), 1))
    known = {"keys": table.frames}
    background = timed(results, "draw background", lambda: draw_background(sizes, table.boxes, table.frame, **known))
    partial = timed(results, "draw partials", lambda: draw_partial(table.boxes, table.frame, **known))
    clean = timed(results, "clean tracks", lambda: clean_tracks(table.boxes, table.tracks, table.times, how="drop"))
    drawn = draw_of_table(table, sizes, cleaned=clean, expand=1.2, per_frame=1, per_box=1, share=(0.1, 0.25), seed=0)
    file = path.with_name("negatives.parquet")
    file.write_bytes(timed(results, "make negatives.parquet", lambda: drawn.parquet(COLUMNS)))
    loads = []
    for _ in range(10):
        wall, cpu = time.perf_counter(), time.process_time()
        pl.read_parquet(file)
        loads.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    samples = pl.DataFrame(
        {"label": table.labels, "group": table.groups, "frame": [table.frames[at] for at in table.frame.tolist()],
         "time": table.times, **{name: table.boxes[:, at] for at, name in enumerate("xywh")}}
    )  # fmt: skip
    folds = timed(results, "five folds", lambda: open_set_folds(samples, folds=5, unknown_per_fold=2))
    timed(results, "leak test of a fold", lambda: check_leaks(folds[0], samples))
    return {
        "background": len(background),
        "partial": len(partial),
        "no place": int(background.missing.sum() + partial.missing.sum()),
        "load_ms": dict(zip(("wall", "cpu"), map(statistics.median, zip(*loads, strict=True)), strict=True)),
        "file_mb": file.stat().st_size / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=70_000)
    parser.add_argument("--players", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-negatives-") as folder:
        path = Path(folder) / "meta.csv"
        match_table(asked.frames, asked.players).write_csv(path)
        for _ in range(asked.rounds):
            found = one_round(path, seconds)
    print(f"{asked.frames} frames of {asked.players} players, the best of {asked.rounds} rounds, CPU time")
    for name, took in seconds.items():
        print(f"  {name:<24} {took:6.2f} s")
    drawing = seconds["draw background"] + seconds["draw partials"]
    print(f"  drawing alone {drawing:.2f} s; {found['background']} background, {found['partial']} partials")
    print(f"  no place for {found['no place']}; the file has {found['file_mb']:.1f} MB")
    print(f"  reading it back: {found['load_ms']['wall']:.0f} ms ({found['load_ms']['cpu']:.0f} ms of CPU time)")
    if asked.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        asked.json.write_text(json.dumps(about | {"cpu_s": seconds} | found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
