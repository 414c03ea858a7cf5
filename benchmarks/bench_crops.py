"""Crops from a pack, beside whole frames, beside loose files, and beside the bare loop of its own calls.

    python benchmarks/bench_crops.py [--frames 80] [--players 12] [--crops 4000] [--rounds 5] [--workers 2]
                                     [--json F]

Input is made here: textured 1080p frames (JPEG of quality 92), boxes of players of about 60 x 150 px, cut 1.2 times as
large; the crops are kept in a pack and as loose files, the same JPEG bytes of quality 95 in both. Everybody takes the
crops in one random order, and makes uint8 RGB [256, 128, 3] of each; all files are in the page cache.

    pack         CropDataset over the pack, batches of 64, one process
    frame        cv2.imread of the whole frame, a slice, BGR to RGB, cv2.resize
    pillow       Image.open of a loose file, convert, resize as Pillow does by default (bicubic)
    bilinear     likewise, with its bilinear filter
    bare         simplejpeg and cv2.resize on encoded crops held in memory, into batches of 64, four of them in turn
    dropped      likewise, every crop into the same place: what no loader can do, as a batch has to be somewhere
    epoch        one epoch of ReidData, `--workers` processes, batches of 8 x 8, received here
    bare apart, dropped apart   in as many processes, each with its share, from a common start to the last one's end

One process: CPU time. Several: wall time, and the CPU time of all processes together, which other programs on the
machine disturb less: where there are as many cores as workers, what the training process takes is in it too. Ratios are
medians over rounds that go in turn. The bare loops have no file, no index and no checks.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from lightmill.data.crops import CropDataset, begin_work
from lightmill.data.pack import CropPack, CropRow, PackWriter
from lightmill.data.reid import ReidData

FRAME_HW, HW = (1080, 1920), (256, 128)
EXPAND = 1.2
WANTED = {"frame / pack": 20.0, "pillow / pack": 3.0, "epoch / bare apart": 0.9}


def texture(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Detail of every size, as a picture of the world has it, and the grain of a sensor."""
    total = np.zeros((*hw, 3), np.float32)
    for cells in (8, 32, 128, 512):
        coarse = rng.normal(0, 1, (max(1, hw[0] * cells // hw[1]), cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, hw[::-1], interpolation=cv2.INTER_CUBIC) * (60 / cells**0.4)
    total += rng.normal(0, 3, (*hw, 3)).astype(np.float32)
    return np.clip(total + 120, 0, 255).astype(np.uint8)


def make_input(work: Path, frames: int, players: int) -> None:
    rng = np.random.default_rng(1)
    (work / "frames").mkdir()
    (work / "loose").mkdir()
    with PackWriter(work / "crops.arrow", store="jpeg", expand=EXPAND) as writer:
        for number in range(frames):
            pixels = texture(FRAME_HW, rng)
            name = f"{number:04d}.jpg"
            (work / "frames" / name).write_bytes(simplejpeg.encode_jpeg(pixels, quality=92))
            for player in range(players):
                writer.add([a_player(pixels, name, player, number, rng)])
    pack = CropPack.open(work)
    for index in range(len(pack)):
        (work / f"loose/{index:06d}.jpg").write_bytes(pack.encoded(index))


def a_player(pixels: np.ndarray, frame: str, player: int, number: int, rng: np.random.Generator) -> CropRow:
    w, h = rng.uniform(45, 75), rng.uniform(120, 180)
    x, y = rng.uniform(0, FRAME_HW[1] - 2 * w) + w / 2, rng.uniform(0, FRAME_HW[0] - 2 * h) + h / 2
    left, top = int(x - w * (EXPAND - 1) / 2), int(y - h * (EXPAND - 1) / 2)
    width, height = round(w * EXPAND), round(h * EXPAND)
    crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return CropRow(
        crop=simplejpeg.encode_jpeg(crop, quality=95),
        frame=frame,
        label=str(player),
        view="side",
        time=float(number),
        x=x,
        y=y,
        w=w,
        h=h,
        left=left,
        top=top,
        width=width,
        height=height,
    )


# --- who reads them: each gives how many crops it read ---------------------------------------------------------------


def read_pack(work: Path, order: np.ndarray) -> int:
    dataset = CropDataset(CropPack.open(work), size_hw=HW)
    return sum(len(dataset.__getitems__(order[first : first + 64].tolist())) for first in range(0, len(order), 64))


def read_frames(work: Path, order: np.ndarray) -> int:
    pack = CropPack.open(work)
    names = pack.table["frame"].to_list()
    order = order[: max(20, len(order) // 40)]  # enough for a ratio
    for index in order.tolist():
        left, top, width, height = pack.place(index).cut
        frame = cv2.imread(str(work / "frames" / names[index]))
        crop = cv2.cvtColor(frame[top : top + height, left : left + width], cv2.COLOR_BGR2RGB)
        cv2.resize(crop, HW[::-1])
    return len(order)


def read_loose(work: Path, order: np.ndarray, filter_: Image.Resampling | None = None) -> int:
    for index in order.tolist():
        with Image.open(work / f"loose/{index:06d}.jpg") as opened:
            np.asarray(opened.convert("RGB").resize(HW[::-1], filter_))
    return len(order)


def read_bare(work: Path, order: np.ndarray, *, places: int = 256) -> int:
    pack = CropPack.open(work)
    return bare_loop([bytes(pack.encoded(index)) for index in range(len(pack))], order, places=places)


def bare_loop(held: list[bytes], order: np.ndarray, *, places: int) -> int:
    out = np.zeros((places, *HW, 3), np.uint8)
    for number, index in enumerate(order.tolist()):
        cv2.resize(simplejpeg.decode_jpeg(held[index]), HW[::-1], dst=out[number % places])
    return len(order)


ALONE: dict[str, Callable[[Path, np.ndarray], int]] = {
    "pack": read_pack,
    "frame": read_frames,
    "pillow": read_loose,
    "bilinear": partial(read_loose, filter_=Image.Resampling.BILINEAR),
    "bare": read_bare,
    "dropped": partial(read_bare, places=1),
}


def per_crop(read: Callable[[Path, np.ndarray], int], work: Path, order: np.ndarray) -> float:
    """CPU seconds."""
    began = time.process_time()
    count = read(work, order)
    return (time.process_time() - began) / count


# --- several processes -----------------------------------------------------------------------------------------------


class Epochs:
    """ReidData over all crops; its workers live from round to round, as in training."""

    def __init__(self, work: Path, crops: int, workers: int) -> None:
        pack = CropPack.open(work)
        rows = np.resize(np.arange(len(pack)), crops)
        self.data = ReidData(pack, train=rows, size_hw=HW, identities=8, samples=8, spread=None, workers=workers)
        self.loader = self.data.train_dataloader()
        self.number = 0

    def per_crop(self) -> tuple[float, float]:
        """(wall, CPU) seconds of an epoch a crop, from asking for the first batch to having the last."""
        self.data.set_epoch(self.number)
        self.number += 1
        began, cpu, count = time.perf_counter(), self.cpu_s(), 0
        for _, rows in self.loader:
            count += len(rows)
        return (time.perf_counter() - began) / count, (self.cpu_s() - cpu) / count

    def cpu_s(self) -> float:
        """Of this process and its workers."""
        workers = self.loader._iterator._workers if self.loader._iterator else []
        return time.process_time() + sum(cpu_of(worker.pid) for worker in workers)


def cpu_of(pid: int) -> float:
    """Seconds of user and system time of a process, as Linux counts them."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bare_share(
    work: Path, order: np.ndarray, places: int, ready: Semaphore, go: Event, times: "SimpleQueue[float]"
) -> None:
    begin_work(0)
    pack = CropPack.open(work)
    held = [bytes(pack.encoded(index)) for index in range(len(pack))]
    bare_loop(held, order[:20], places=1)
    ready.release()
    go.wait()
    began = time.process_time()
    bare_loop(held, order, places=places)
    times.put(time.process_time() - began)


def bare_apart(work: Path, order: np.ndarray, workers: int, *, places: int) -> tuple[float, float]:
    """(wall, CPU) seconds a crop."""
    context = multiprocessing.get_context("fork")
    ready, go, times = context.Semaphore(0), context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=_bare_share, args=(work, share, places, ready, go, times))
        for share in np.array_split(order, workers)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    cpu = sum(times.get() for _ in processes)
    took = time.perf_counter() - began
    for process in processes:
        process.join()
    return took / len(order), cpu / len(order)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, work: Path) -> dict[str, list[float]]:
    make_input(work, args.frames, args.players)
    total = args.frames * args.players
    order = np.random.default_rng(2).integers(0, total, args.crops)
    epochs = Epochs(work, args.crops, args.workers)
    for read in ALONE.values():
        read(work, order[:100])
    epochs.per_crop()
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, read in ALONE.items():
            found.setdefault(name, []).append(per_crop(read, work, order))
        several = {
            "epoch": epochs.per_crop(),
            "bare apart": bare_apart(work, order, args.workers, places=256),
            "dropped apart": bare_apart(work, order, args.workers, places=1),
        }
        for name, (wall, cpu) in several.items():
            found.setdefault(name, []).append(wall)
            found.setdefault(f"{name}, CPU", []).append(cpu)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--players", type=int, default=12)
    parser.add_argument("--crops", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    work = Path(tempfile.mkdtemp(prefix="bench-crops-"))
    try:
        found = measure(args, work)
        bytes_each = sum(path.stat().st_size for path in (work / "loose").iterdir()) / (args.frames * args.players)
    finally:
        shutil.rmtree(work)
    report = summary(found)
    for name, value in report["us_per_crop"].items():
        print(f"{name:<20} {value:10.1f} us a crop")
    for name, value in report["ratios"].items():
        wanted = f"   wanted: {WANTED[name]:g}" if name in WANTED else ""
        print(f"{name:<28} {value:8.2f}{wanted}")
    if args.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        about |= {"crops": args.crops, "workers": args.workers, "jpeg_bytes": round(bytes_each)}
        args.json.write_text(json.dumps(about | report, indent=2) + "\n")
    return 0


def summary(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians, and the ratios of what was taken in the same round."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    return {
        "us_per_crop": {name: statistics.median(values) * 1e6 for name, values in found.items()},
        "ratios": {
            "frame / pack": ratio("frame", "pack"),
            "pillow / pack": ratio("pillow", "pack"),
            "bilinear / pack": ratio("bilinear", "pack"),
            "bare / pack": ratio("bare", "pack"),
            "epoch / bare apart": ratio("bare apart", "epoch"),
            "epoch / bare apart, CPU": ratio("bare apart, CPU", "epoch, CPU"),
            "epoch / dropped apart": ratio("dropped apart", "epoch"),
            "epoch / dropped apart, CPU": ratio("dropped apart, CPU", "epoch, CPU"),
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
