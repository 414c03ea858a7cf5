"""Epochs of segmentation with samples that are kept, beside a plain data set of cv2 in workers; the same nano student.

    python benchmarks/bench_segment_data.py [--sets camvid,hd,square,phone] [--pictures 200] [--rounds 3] [--json F]

Sets of real photographs (none comes with the project; one whose folder is not there is left out):

    camvid   pictures of CamVid/train as they are: JPEG 480x360 with PNG class maps; trained on at 480x360
    hd       made here: windows of the given photographs enlarged to 1920x1080, JPEG of quality 92, with PNG class maps
             of 11 classes (levels of the blurred picture); trained on at 480x270
    square   as hd, trained on at 224x224
    phone    as hd, 4000x3000 (12 MP), trained on at 480x360; a quarter as many

and three ways through an epoch, batches of 16, two workers:

    plain    torch's DataLoader over cv2.imread, cvtColor, resize, flip, scale and crop, colours, blur, normalising,
             one sample after the other in the workers, as such data sets are commonly written
    first    SegmentData, the epoch in which samples are made and kept; augmentation here, on the batch
    second   the same, in the epochs after that

Each is run alone (`load`: batches are taken, varied and normalised, and dropped) and with training (`train`: a step of
StudentNetwork nano a batch, cross entropy and Dice, AdamW, in bf16 where the CPU has AMX). Wall and CPU time, medians
of rounds that go in turn; CPU time is that of this process and its workers. `waits`: the share of the epoch in which
training waited for a batch, that of the first one, which the pipeline has to be filled for, apart.

What can be saved is what `plain` loads for, so the ratio of `train` hangs on how long a step takes beside that.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see lightmill/train/threads.py

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightmill.data.index import open_index
from lightmill.data.labels import open_labels
from lightmill.data.segment_augment import SegmentAugment
from lightmill.data.segments import SegmentData
from lightmill.models.student import StudentConfig, make_student
from lightmill.train.segment_losses import SegmentLoss, total
from lightmill.train.threads import keep_memory

BATCH, WORKERS, CLASSES = 16, 2, 11
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
SETS = {  # (width, height) of what is made, None for CamVid; size_hw that is trained on; how many, of those asked for
    "camvid": (None, (360, 480), 1.0),
    "hd": ((1920, 1080), (270, 480), 1.0),
    "square": ((1920, 1080), (224, 224), 1.0),
    "phone": ((4000, 3000), (360, 480), 0.25),
}
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


# --- input -----------------------------------------------------------------------------------------------------------


def copy_camvid(camvid: Path, root: Path, pictures: int) -> None:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        for path in sorted((camvid / "train" / kind).iterdir())[:pictures]:
            shutil.copyfile(path, root / kind / path.name)


def make_large(photos: Path, root: Path, pictures: int, size: tuple[int, int]) -> None:
    """Windows of the photographs, enlarged to `size` (width, height)."""
    rng = np.random.default_rng(0)
    originals = [cv2.imread(str(path)) for path in sorted(photos.glob("*.jpg"))]
    aspect = size[0] / size[1]
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(pictures):
        whole = originals[number % len(originals)]
        height = min(whole.shape[0], whole.shape[1] / aspect) * rng.uniform(0.7, 1)
        seen = int(height), int(height * aspect)
        top, left = (int(rng.integers(0, have - need + 1)) for have, need in zip(whole.shape, seen, strict=False))
        picture = cv2.resize(whole[top : top + seen[0], left : left + seen[1]], size, interpolation=cv2.INTER_CUBIC)
        smooth = cv2.blur(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (61, 61))
        cv2.imwrite(str(root / f"images/{number:04d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(str(root / f"masks/{number:04d}.png"), smooth // 24)


# --- a plain data set ------------------------------------------------------------------------------------------------


class Plain(Dataset):
    def __init__(self, root: Path, size_hw: tuple[int, int]) -> None:
        self.images = sorted(str(path) for path in (root / "images").iterdir())
        self.masks = sorted(str(path) for path in (root / "masks").iterdir())
        self.size_hw = size_hw

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.cvtColor(cv2.imread(self.images[index]), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(self.masks[index], cv2.IMREAD_UNCHANGED)
        image = cv2.resize(image, self.size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, self.size_hw[::-1], interpolation=cv2.INTER_NEAREST)
        mask[mask >= CLASSES] = 255
        image, mask = self.varied(image, mask, np.random.default_rng())
        levels = (image.astype(np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(levels.transpose(2, 0, 1).copy()), torch.from_numpy(mask)

    def varied(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.size_hw
        if rng.random() < 0.5:
            image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
        scale = 2.0 ** rng.uniform(-1, 1)
        move = np.array(
            [[scale, 0, rng.random() * width * (1 - scale)], [0, scale, rng.random() * height * (1 - scale)]]
        )
        size = (width, height)
        image = cv2.warpAffine(image, move, size, flags=cv2.INTER_LINEAR, borderValue=(124, 116, 104))
        mask = cv2.warpAffine(mask, move, size, flags=cv2.INTER_NEAREST, borderValue=255)
        gain = (1 + rng.uniform(-0.2, 0.2)) * (1 + rng.uniform(-0.1, 0.1, 3))
        image = np.clip(image * gain.astype(np.float32) + np.float32(rng.uniform(-51, 51)), 0, 255).astype(np.uint8)
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (5, 5), 1)
        return image, mask


# --- ways through an epoch -------------------------------------------------------------------------------------------


class Way:
    """A loader whose workers live on; how long was waited for it."""

    def __init__(self, loader: object, batches: Callable[[object], Batches]) -> None:
        self.loader, self._batches = loader, batches
        self.waits: list[float] = []

    def __iter__(self) -> Batches:
        self.waits = []
        return self._batches(self)

    def next_of(self, iterator: Iterator[object]) -> object | None:
        began = time.perf_counter()
        found = next(iterator, None)
        self.waits.append(time.perf_counter() - began)
        return found

    def workers_cpu_s(self) -> float:
        iterator = getattr(self.loader, "_loader", self.loader)._iterator
        return sum(cpu_of(worker.pid) for worker in iterator._workers) if iterator else 0.0


def plain_way(root: Path, size_hw: tuple[int, int]) -> Way:
    loader = DataLoader(
        Plain(root, size_hw), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=WORKERS,
        persistent_workers=True,
    )  # fmt: skip

    def batches(way: Way) -> Batches:
        iterator = iter(loader)
        while (found := way.next_of(iterator)) is not None:
            yield found[0].contiguous(memory_format=torch.channels_last), found[1]

    return Way(loader, batches)


def our_way(root: Path, size_hw: tuple[int, int], kept: Path) -> Way:
    index = open_index(root)
    labels = open_labels(index, classes=[str(number) for number in range(CLASSES)], ignore=[11])
    data = SegmentData(
        index, labels, train=index.usable, size_hw=size_hw, batch_size=BATCH, workers=WORKERS, cache_folder=kept
    )
    loader, augment, generator = data.train_dataloader(), SegmentAugment(), torch.Generator().manual_seed(0)

    def batches(way: Way) -> Batches:
        iterator = iter(loader)
        while (found := way.next_of(iterator)) is not None:
            yield augment(found.images, found.maps, generator)

    return Way(loader, batches)


def cpu_of(pid: int) -> float:
    """Seconds of user and system time of a process, as Linux counts them."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Training:
    """Steps of a nano student."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        torch.manual_seed(0)
        config = StudentConfig(size="nano", names=tuple(f"c{number}" for number in range(CLASSES)), size_hw=size_hw)
        self.network = make_student(config).to(memory_format=torch.channels_last).train()
        self.loss, self.chances = SegmentLoss(), torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        self.bf16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))

    def step(self, images: torch.Tensor, maps: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = self.network.outputs(images)
        self.optimizer.zero_grad(set_to_none=True)
        total(self.loss.supervised(outputs.coarse, [], maps, chances=self.chances)).backward()
        self.optimizer.step()


def an_epoch(way: Way, step: Callable[[torch.Tensor, torch.Tensor], None]) -> dict[str, float]:
    """Milliseconds a picture, and the share of the time that was waited."""
    before = way.workers_cpu_s(), time.process_time(), time.perf_counter()
    count = 0
    for images, maps in way:
        step(images, maps)
        count += len(images)
    wall = time.perf_counter() - before[2]
    cpu = way.workers_cpu_s() - before[0] + time.process_time() - before[1]
    first, rest = way.waits[0], sum(way.waits[1:])
    return {"wall_ms": 1000 * wall / count, "cpu_ms": 1000 * cpu / count, "waits": rest / (wall - first)}


def measure(root: Path, size_hw: tuple[int, int], work: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}

    def note(name: str, result: dict[str, float]) -> None:
        for what, value in result.items():
            found.setdefault(name, {}).setdefault(what, []).append(value)

    training = Training(size_hw)
    steps = {"load": lambda *_: None, "train": training.step}
    plain, second = plain_way(root, size_hw), our_way(root, size_hw, work / f"kept-{root.name}")
    an_epoch(plain, steps["train"])  # warm: page cache, workers, oneDNN
    an_epoch(second, steps["train"])
    for number in range(rounds):
        for what, step in steps.items():
            note(f"plain, {what}", an_epoch(plain, step))
            note(f"second, {what}", an_epoch(second, step))
            kept = work / f"kept-{root.name}-{number}-{what}"
            first = our_way(root, size_hw, kept)
            note(f"first, {what}", an_epoch(first, step))
            del first
            shutil.rmtree(kept)
    batch = torch.zeros((BATCH, 3, *size_hw)).contiguous(memory_format=torch.channels_last)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        training.step(batch, torch.zeros((BATCH, *size_hw), dtype=torch.uint8))
    scale = 1000 / 5 / BATCH
    note(
        "step alone", {"wall_ms": scale * (time.perf_counter() - began), "cpu_ms": scale * (time.process_time() - cpu)}
    )
    return found


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    medians = {name: {what: statistics.median(values) for what, values in each.items()} for name, each in found.items()}
    ratios = {
        f"{one} / {other}, {what}": medians[f"{one}, {what}"]["wall_ms"] / medians[f"{other}, {what}"]["wall_ms"]
        for what in ("load", "train")
        for one, other in (("plain", "second"), ("plain", "first"))
    }
    ratios |= {
        f"plain / second, {what}, CPU": medians[f"plain, {what}"]["cpu_ms"] / medians[f"second, {what}"]["cpu_ms"]
        for what in ("load", "train")
    }
    return medians | {"ratios": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--camvid", type=Path, default=shared / "camvid")
    parser.add_argument("--photos", type=Path, default=shared / "photos")
    parser.add_argument("--sets", default="camvid,hd,square,phone")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    keep_memory()  # as a training does; all three ways have it
    report: dict[str, object] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report |= {"torch": torch.__version__, "pictures": args.pictures, "rounds": args.rounds}
    work = Path(tempfile.mkdtemp(prefix="bench-segments-"))
    try:
        for name in args.sets.split(","):
            size, size_hw, share = SETS[name]
            source, pictures = args.photos if size else args.camvid, int(args.pictures * share)
            if not source.is_dir():
                print(f"{name} is left out: there is no {source}")
                continue
            if size:
                make_large(source, work / name, pictures, size)
            else:
                copy_camvid(source, work / name, pictures)
            found = summary(measure(work / name, size_hw, work, args.rounds))
            report[name] = found
            print(f"{name}, {pictures} pictures, at {size_hw[1]}x{size_hw[0]}")
            for what, each in found.items():
                print(f"  {what:<16} " + "  ".join(f"{key} {value:.3f}" for key, value in each.items()))
            shutil.rmtree(work / name)
    finally:
        shutil.rmtree(work)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
