"""How soon a data set of 70,700 files can be trained on: the index, beside what people do instead.

    python benchmarks/bench_index.py [--files 70700] [--folder DIR] [--sample 2000] [--rounds 3]

Makes images/ and masks/ (half of the files each): JPEG photographs of 480x360 px and PNG class maps. With `--links`
they are hard links to a few files, which takes seconds to make and little room: listing, stat and open cost the same,
and so do headers once a file is in memory, but all of them share a few inodes and their pages, so that no disk is ever
waited for. Without it, every file is its own. Everything is measured warm, in this process, after its imports, whose
time is said apart: first start (listing, headers, the file that is kept), second start (nothing changed), third (a
picture came in), the background's look at all files, a Python loop of exists and stat, and cv2.imread of a sample of
the files, multiplied. Wall and CPU time; the best of the rounds by wall time. Prints a table, and the same as JSON.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightmill import __version__

DIFFERENT = 16  # pictures, each of them linked or copied many times
SIZE = (480, 360)
OLD_S = 1_600_000_000  # the time of all files: what is young is looked at again at every start


def make_tree(root: Path, count: int, *, links: bool) -> None:
    """images/000000.jpg and masks/000000.png, and so on; nothing where they are there already."""
    if (root / "images").is_dir():
        return
    rng = np.random.default_rng(0)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (root / kind).mkdir(parents=True)
        made = [encoded(kind, suffix, rng) for _ in range(DIFFERENT)]
        first: list[Path] = []
        for number in range(count // 2):
            path = root / kind / f"{number:06d}.{suffix}"
            if links and len(first) == DIFFERENT:
                os.link(first[number % DIFFERENT], path)
                continue
            path.write_bytes(made[number % DIFFERENT])
            os.utime(path, (OLD_S, OLD_S))
            first.append(path)
        age(root / kind)
    age(root)


def age(folder: Path) -> None:
    os.utime(folder, (OLD_S, OLD_S))


def encoded(kind: str, suffix: str, rng: np.random.Generator) -> bytes:
    """Soft shapes with some grain: about 55 KB as JPEG, 20 KB as a class map."""
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    soft = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
    levels = soft[..., 0] // 24 if kind == "masks" else cv2.add(soft, rng.integers(0, 12, soft.shape, np.uint8))
    return cv2.imencode(f".{suffix}", levels)[1].tobytes()


def timed(function: Callable[[], Any], rounds: int, before: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """(wall, CPU) seconds of the quickest round; CPU of all threads."""
    found = []
    for _ in range(rounds):
        before()
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def look_for_each(paths: list[str]) -> int:
    """The loop that is written first: is it there, and is anything in it?"""
    return sum(os.path.exists(path) and os.stat(path).st_size > 0 for path in paths)


def imread_each(paths: list[str]) -> int:
    return sum(cv2.imread(path, cv2.IMREAD_UNCHANGED) is not None for path in paths)


def measure(root: Path, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """What each way takes, in seconds."""
    from lightmill.data.index import open_index
    from lightmill.data.layouts import find_layout

    cache = root.parent / "index.arrow"
    new = [root / "images" / "new.jpg", root / "masks" / "new.png"]

    def start(wanted: str) -> None:
        index = open_index(root, cache=cache, threads=args.threads)
        if index.origin != wanted or index.problem_counts:
            raise SystemExit(f"not as it should be: {index.origin}, not {wanted}; {index.problem_counts}")

    def come_and_go() -> None:
        """As if a picture had come in since, or gone again."""
        for path, one in zip(new, ("images/000000.jpg", "masks/000000.png"), strict=True):
            if path.exists():
                path.unlink()
            else:
                os.link(root / one, path)
            age(path.parent)
            os.utime(path.parent, (OLD_S + come_and_go.number, OLD_S + come_and_go.number))
        come_and_go.number += 1

    come_and_go.number = 1
    paths = [entry.path for kind in ("images", "masks") for entry in os.scandir(root / kind)]
    rounds = args.rounds
    figures = {"listing and pairing alone": timed(lambda: find_layout(root), rounds)}
    figures["first start"] = timed(lambda: start("made"), rounds, lambda: cache.unlink(missing_ok=True))
    figures["second start"] = timed(lambda: start("loaded"), rounds)
    figures["start after a picture came in"] = timed(lambda: start("renewed"), 2 * ((rounds + 1) // 2), come_and_go)
    figures["in the background, all files"] = timed(open_index(root, cache=cache, threads=args.threads).renewed, rounds)
    figures["loop of exists + stat"] = timed(lambda: look_for_each(paths), rounds)
    sample = [paths[at] for at in np.linspace(0, len(paths) - 1, min(args.sample, len(paths))).astype(int)]
    wall, cpu = timed(lambda: imread_each(sample), rounds)
    times = len(paths) / len(sample)
    figures["cv2.imread of all *"] = (wall * times, cpu * times)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=70_700)
    parser.add_argument("--folder", type=Path, help="where the tree is made and kept (default: a temporary folder)")
    parser.add_argument("--links", action="store_true", help="hard links to a few files, instead of files")
    parser.add_argument("--sample", type=int, default=2000, help="files that cv2.imread reads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    began = time.perf_counter(), time.process_time()
    import pyarrow.ipc  # noqa: F401 (what a start needs)

    import lightmill.data.index

    imports = time.perf_counter() - began[0], time.process_time() - began[1]
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.folder or Path(temporary)) / ("linked" if args.links else "files")
        make_tree(root, args.files, links=args.links)
        figures = measure(root, args)
    figures["imports, once a process"] = imports
    kind = f"hard links to {2 * DIFFERENT} files" if args.links else "files of their own"
    print(f"{args.files:,} {kind}, half of them masks; {args.threads} threads, warm, {lightmill.data.index.__name__}\n")
    print(f"{'':32} {'wall s':>9} {'CPU s':>9} {'wall µs/file':>13} {'CPU µs/file':>12}")
    for what, (wall, cpu) in figures.items():
        each = "" if what.startswith("imports") else f" {1e6 * wall / args.files:13.2f} {1e6 * cpu / args.files:12.2f}"
        print(f"{what:32} {wall:9.3f} {cpu:9.3f}{each}")
    print(f"\n* measured on {min(args.sample, args.files):,} files, and multiplied")
    about = {"version": __version__, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    seconds = {what: {"wall_s": wall, "cpu_s": cpu} for what, (wall, cpu) in figures.items()}
    print(json.dumps({**about, "files": args.files, "links": args.links, "threads": args.threads, **seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
