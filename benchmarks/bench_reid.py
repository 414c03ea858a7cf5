"""Who is who in a sample match: `crop`, `train reid`, `identify`, beside a colour histogram and beside chance.

    python benchmarks/bench_reid.py [--work DIR] [--match DIR] [--time 10m] [--size 64x128] [--json F]

The match: 30 players, 2 views, 4 quarters, about 20,000 boxes. The packs and the training see the first three quarters
and 22 players; the last quarter is identified, where 8 more play who are in no gallery. Of the three quarters one is
held out, with four players, for the choice of the best epoch and of the thresholds.

What the network is held against, `identify` says itself where the table has the truth: a colour histogram that goes
through the same gallery, tracklets and assignment, at the threshold that is best for it on these boxes; and chance.
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
    told = json.loads((out / "identities.json").read_text())
    scores = json.loads((run / "scores.json").read_text())
    by = {"network": told["against_truth"], **told["beside"]}
    return {"seconds": times, "training": {key: scores[key] for key in ("epochs", "steps", "ended", "held_out")}, **by}


def line(name: str, found: dict[str, object]) -> str:
    told = found["dir_at_fpir"]["dir"]  # type: ignore[index]
    return f"{name:<17} rank-1 {found['rank_1']:.3f}   DIR at FPIR 1 % {told:.3f}   macro F1 {found['macro_f1']:.3f}"


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
    for name in ("network", "colour_histogram", "chance"):
        print(line(name, found[name]))  # type: ignore[arg-type]
    if args.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), **found}
        args.json.write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
