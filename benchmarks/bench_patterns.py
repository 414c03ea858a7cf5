"""CPU time of each shadow pattern on one thread, drawing the parameters included; the wanted bound is 40 ms at 1024².

PYTHONPATH=src python benchmarks/bench_patterns.py [SIDE_PX] [SEEDS]
"""

import statistics
import sys
from time import thread_time

import cv2
import numpy as np

from lightmill.ops.patterns import Pattern, draw_pattern, render_pattern


def milliseconds(kind: Pattern, seed: int, side_px: int) -> float:
    began = thread_time()
    render_pattern(kind, draw_pattern(kind, np.random.default_rng(seed)), size_hw=(side_px, side_px))
    return 1000 * (thread_time() - began)


def main(side_px: int = 1024, seeds: int = 10) -> None:
    cv2.setNumThreads(1)
    print(f"CPU ms a pattern at {side_px} x {side_px}, one thread, {seeds} seeds")
    print(f"{'pattern':12}{'median':>8}{'worst':>8}")
    for kind in Pattern:
        milliseconds(kind, 0, side_px)  # the first call of a kind pays for what OpenCV sets up
        took = [milliseconds(kind, seed, side_px) for seed in range(seeds)]
        print(f"{kind:12}{statistics.median(took):8.1f}{max(took):8.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
