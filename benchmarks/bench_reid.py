"""Who is who in a sample match: `crop`, `train reid`, `identify`, beside a colour histogram and beside chance.

    python benchmarks/bench_reid.py [--work DIR] [--match DIR] [--time 10m] [--size 64x128] [--json F]

The match: 30 players, 2 views, 4 quarters, about 20,000 boxes. The packs and the training see the first three quarters
and 22 players; the last quarter is identified, where 8 more play who are in no gallery. Of the three quarters one is
held out, with four players, for the choice of the best epoch and of the thresholds.

The histogram (hue and saturation, and value, in three stripes; square roots, length 1) goes through the same gallery,
tracklets, assignment and choice of thresholds as the network: only the embedding differs. Chance names everybody at
random, and nobody as often as nobody is there.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

PATH = "{quarter}__{angle}__{session:02d}__{frame:02d}.jpg"
COLUMNS = ["--label", "label_id", "--group", "quarter,session", "--view", "angle", "--time", "frame"]
UNKNOWN = "-1"


def lightmill(*arguments: object) -> float:
    """Runs a command; seconds that it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lightmill", *map(str, arguments), "--progress", "none"], check=True)
    return time.perf_counter() - began


def with_truth(match: Path, table: Path) -> None:
    """The test table with the label of every row: what `identify` is judged by, and never uses."""
    with open(match / "test_labels.csv", newline="") as truth, open(match / "test_meta.csv", newline="") as test:
        labels = [row["label_id"] for row in csv.DictReader(truth)]
        rows = list(csv.DictReader(test))
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label_id"])
        writer.writeheader()
        writer.writerows({**row, "label_id": label} for row, label in zip(rows, labels, strict=True))


# --- the baseline ----------------------------------------------------------------------------------------------------


def histogram(crop: np.ndarray) -> np.ndarray:
    """[3 * 72] float32 of length 1: of each third of the height 8 x 8 bins of hue and saturation, and 8 of value."""
    parts = []
    for stripe in np.array_split(cv2.cvtColor(crop, cv2.COLOR_RGB2HSV), 3):
        colours = cv2.calcHist([stripe], [0, 1], None, [8, 8], [0, 180, 0, 256]).ravel()
        levels = cv2.calcHist([stripe], [2], None, [8], [0, 256]).ravel()
        parts += [colours / max(colours.sum(), 1), levels / max(levels.sum(), 1)]
    found = np.sqrt(np.concatenate(parts))
    return (found / np.linalg.norm(found)).astype(np.float32)


def histograms_identify(table: Path, images: Path, pack_path: Path, folds: Path) -> dict[str, object]:
    """The figures of `identify`, with histograms for embeddings."""
    from lightmill.codecs.decode import decode
    from lightmill.data.fold_file import load_folds
    from lightmill.data.pack import CropPack
    from lightmill.ops.quality import sharpness
    from lightmill.ops.thresholds import parse_target
    from lightmill.recipes.identified import Album, Rules, figures, identify
    from lightmill.recipes.identifying import Cutter, Seen
    from lightmill.recipes.reid_judge import Judge, choose
    from lightmill.sources.boxes import BoxColumns, open_boxes

    pack = CropPack.open(pack_path)
    judge = Judge.of(pack.table, load_folds(folds, pack.table)[0])
    held = judge.of_tracklets(np.stack([histogram(pack.pixels(row)) for row in judge.rows.tolist()]))
    thresholds = {view: one.threshold for view, one in choose(held, parse_target("fpir=0.01")).items()}
    columns = BoxColumns(path=PATH, label="label_id", group=("quarter", "session"), view="angle", time="frame")
    source = open_boxes(table, columns, images=images)
    cutter = Cutter(boxes=source.table.boxes, expand=pack.expand, whole=False, max_pixels=10**9)
    crops = {}
    for item in source.items():
        frame = decode(item.ref.read()).pixels
        crops |= {row: (histogram(crop), sharpness(crop)) for row, crop in cutter.cut(frame, item.ref.rows)}
    album = Album.of([pack], unknown=UNKNOWN)
    kept = album.chosen(200)
    gallery = [album.pixels(int(crop)) for crop in kept]
    rules = Rules(threshold=None, crops=False, track=True, max_gap=5.0, appearance=0.4, points=1, nobodies=0)
    rows = np.array(sorted(crops), np.int64)
    found = identify(
        source.table,
        Seen(
            rows=rows,
            sharpness=np.array([crops[row][1] for row in rows.tolist()], np.float32),
            embeddings=(np.stack([crops[row][0] for row in rows.tolist()]),),
        ),
        album,
        Seen(
            rows=kept,
            sharpness=np.array([sharpness(crop) for crop in gallery], np.float32),
            embeddings=(np.stack([histogram(crop) for crop in gallery]),),
        ),
        rules=rules,
        thresholds=[thresholds],
    )
    truth = np.array(source.table.labels, np.str_)[found.rows]
    return dict(figures(found, truth=np.where(truth == UNKNOWN, "", truth))["against_truth"])  # type: ignore[call-overload]


def chance(table: Path, *, seed: int = 0, times: int = 20) -> dict[str, object]:
    """Labels drawn at random: each known one as often as any other, nobody as often as nobody is there."""
    from lightmill.ops.open_set import macro_f1

    with open(table, newline="") as file:
        truth = np.array([row["label_id"] for row in csv.DictReader(file)])
    truth = np.where(truth == UNKNOWN, "", truth)
    known = np.unique(truth[truth != ""])
    rng = np.random.default_rng(seed)
    share = float((truth == "").mean())
    drawn = [
        np.where(rng.random(len(truth)) < share, "", known[rng.integers(0, len(known), len(truth))])
        for _ in range(times)
    ]
    f1 = float(np.mean([macro_f1(truth=truth.tolist(), predicted=one.tolist()) for one in drawn]))
    return {"rank_1": 1 / len(known), "macro_f1": f1, "dir_at_fpir": {"dir": 0.01 / len(known)}}


# --- all of it -------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, work: Path) -> dict[str, object]:
    match = args.match or work / "match"
    times: dict[str, float] = {}
    if not match.exists():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lightmill.sample", "match", str(match)], check=True)
        times["render"] = time.perf_counter() - began
    pack, run, out, table = work / "crops", work / "run", work / "identified", work / "test.csv"
    with_truth(match, table)
    frames = ["--images", match / "images", "--path", PATH, *COLUMNS]
    times["crop"] = lightmill("crop", match / "train_meta.csv", pack, *frames, "--background-per-frame", 1)
    training = ["--hold", "quarter", "--folds", 3, "--fold", 2, "--epochs", args.epochs, "--max-time", args.time]
    times["train"] = lightmill("train", "reid", pack, run, *training, "--size", args.size)
    who = ["--checkpoint", run / "best", "--gallery", pack / "crops.arrow", "--unknown", UNKNOWN]
    times["identify"] = lightmill("identify", table, out, *frames, *who)
    network = json.loads((out / "identities.json").read_text())["against_truth"]
    scores = json.loads((run / "scores.json").read_text())
    by = {
        "network": network,
        "histogram": histograms_identify(table, match / "images", pack, run / "folds.parquet"),
        "chance": chance(table),
    }
    return {"seconds": times, "training": {key: scores[key] for key in ("epochs", "steps", "ended", "held_out")}, **by}


def line(name: str, found: dict[str, object]) -> str:
    told = found["dir_at_fpir"]["dir"]  # type: ignore[index]
    return f"{name:<10} rank-1 {found['rank_1']:.3f}   DIR at FPIR 1 % {told:.3f}   macro F1 {found['macro_f1']:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--match", type=Path)
    parser.add_argument("--time", default="10m")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--size", default="64x128")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="bench-reid-"))
    work.mkdir(parents=True, exist_ok=True)
    found = measure(args, work)
    print("seconds:", {name: round(took, 1) for name, took in found["seconds"].items()})  # type: ignore[attr-defined]
    print("training:", found["training"])
    for name in ("network", "histogram", "chance"):
        print(line(name, found[name]))  # type: ignore[arg-type]
    if args.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), **found}
        args.json.write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
