"""What CMC, mAP and mINP cost beside the bare products of embeddings, and in how much memory.

    python benchmarks/bench_retrieval.py [--sizes 10000 20000] [--dim 256] [--people 30] [--device cpu]

N queries against N items, the rule of cameras on. Each side is measured in a process of its own, so that its peak
memory is its own: `bare` multiplies tile by tile and throws the scores away, `retrieval` is Lightmill's; what both hold
before they begin is counted apart. The rate is 2 N^2 D operations over the CPU time, for both. Prints a table,
and the same as JSON. Queries do not know of each other, so the last line takes 2,000 of them against 100,000 items and
says what 50 times that is: the whole 100,000 x 100,000 is not measured.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import numpy as np

from lightmill import __version__
from lightmill.ops.identities import Items
from lightmill.ops.retrieval import retrieval
from lightmill.ops.similarity import MEMORY_BYTES, Cosine

FAR, SOME = 100_000, 2_000


def embeddings(count: int, dim: int, people: int, rng: np.random.Generator) -> tuple[np.ndarray, Items]:
    labels = rng.integers(0, people, count)
    centres = np.random.default_rng(0).standard_normal((people, dim), np.float32)
    vectors = rng.standard_normal((count, dim), np.float32)
    for part in np.split(np.arange(count), range(1000, count, 1000)):  # in parts: the peak belongs to what is measured
        vectors[part] = 2 * vectors[part] + centres[labels[part]]
        vectors[part] /= np.linalg.norm(vectors[part], axis=1, keepdims=True)
    return vectors, Items(labels=labels, cameras=rng.integers(0, 2, count))


def bare(scores: Cosine, step: int) -> None:
    for first in range(0, scores.shape[0], step):
        scores.rows(slice(first, first + step))


def measure(what: str, size: tuple[int, int], args: argparse.Namespace) -> dict[str, float]:
    """One side, in this process."""
    rng = np.random.default_rng(1)
    (q, queries), (g, gallery) = (embeddings(count, args.dim, args.people, rng) for count in size)
    if args.device == "cpu":
        scores = Cosine(q, g)
    else:
        import torch

        scores = Cosine(torch.as_tensor(q, device=args.device), torch.as_tensor(g, device=args.device))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    figures: dict[str, float] = {}
    if what == "retrieval":
        found = retrieval(scores, queries=queries, gallery=gallery)
        figures = {"mean_ap": found.mean_ap, "rank_1": float(found.cmc[0])}
    elif what == "bare":
        bare(scores, max(1, MEMORY_BYTES // (16 * size[1])))
    if args.device != "cpu":
        torch.cuda.synchronize()
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "held_mb": held / 1024,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **figures,
    }


def apart(what: str, size: tuple[int, int], args: argparse.Namespace) -> dict[str, float]:
    """One side, in a process of its own: the best of several rounds by wall time."""
    command = [sys.executable, __file__, "--sizes", *map(str, size), "--dim", str(args.dim), "--only", what]
    command += ["--people", str(args.people), "--device", args.device]
    runs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(args.rounds))
    return min((json.loads(run.stdout) for run in runs), key=lambda figures: figures["wall_s"])


def show(what: str, size: tuple[int, int], side: dict[str, float], dim: int) -> None:
    pairs = size[0] * size[1]
    rate, each = 2e-9 * pairs * dim / side["cpu_s"], 1e9 * side["cpu_s"] / pairs
    print(
        f"{size[0]:9,} {size[1]:9,} {what:9} {side['wall_s']:8.2f} {side['cpu_s']:8.2f} {rate:8.1f} {each:8.2f} "
        f"{side['peak_mb'] - side['held_mb']:8.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["bare", "retrieval"])
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, (args.sizes[0], args.sizes[1]), args)))
        return 0
    print(f"{args.dim} numbers an embedding, {args.people} people, 2 cameras, {args.device}")
    print(f"tiles of {MEMORY_BYTES >> 20} MiB at most\n")
    heads = " ".join(f"{head:>8}" for head in ("wall s", "CPU s", "GFLOP/s", "ns/score", "more MiB"))
    print(f"{'queries':>9} {'items':>9} {'':9} {heads}")
    figures = {}
    for size in [(count, count) for count in args.sizes] + [(SOME, FAR)]:
        sides = figures[f"{size[0]}x{size[1]}"] = {what: apart(what, size, args) for what in ("bare", "retrieval")}
        for what, side in sides.items():
            show(what, size, side, args.dim)
    whole_s = figures[f"{SOME}x{FAR}"]["retrieval"]["cpu_s"] * FAR / SOME
    print(f"\n{FAR:,} x {FAR:,}, at the rate of the last line: {whole_s:.0f} s of CPU time")
    machine = platform.processor() or platform.machine()
    print(json.dumps({"version": __version__, "machine": machine, "dim": args.dim, "people": args.people, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
