"""Where the time of a student's training step goes, part by part, beside its convolutions alone.

    python benchmarks/bench_student.py [--sizes nano,tiny,small,base] [--resolution 480x360] [--batch 16] [--classes 11]
                                       [--steps 12] [--json F]

Random pictures and maps, as a loader gives them, go through what `train segment` does with a batch: varied and
normalised, the network with its deep heads, cross entropy and Dice, backward, clipping and AdamW, the average of the
weights; in bf16 where the CPU has AMX. Medians over the steps, in wall time, milliseconds a picture.

`convolutions` is the limit: each convolution of the network by itself, forward and backward, on the input that it had
in a step; no norm, no ReLU, no loss.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see lightmill/train/threads.py

import argparse
import json
import platform
import statistics
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the name that torch's documents give it)

from lightmill.data.segment_augment import SegmentAugment
from lightmill.models.student import StudentConfig, make_student
from lightmill.models.student_heads import DeepHeads
from lightmill.models.student_network import StudentNetwork
from lightmill.train.ema import average_in
from lightmill.train.segment_losses import SegmentLoss, total
from lightmill.train.threads import keep_memory


class Step:
    """What is done with a batch; `parts` holds how long each part took, a number a step."""

    def __init__(self, size: str, args: argparse.Namespace, *, bf16: bool) -> None:
        torch.manual_seed(0)
        width, height = map(int, args.resolution.split("x"))
        names = tuple(f"c{number}" for number in range(args.classes))
        config = StudentConfig(size=size, names=names, size_hw=(height, width))
        self.network = make_student(config, dropout=0.1).to(memory_format=torch.channels_last).train()
        self.average, self.deep = deepcopy(self.network).requires_grad_(False), DeepHeads(self.network)
        self.weights = [*self.network.parameters(), *self.deep.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-3)
        self.loss, self.augment = SegmentLoss(class_weights=(1.0,) * args.classes), SegmentAugment()
        self.chances, self.bf16 = torch.Generator().manual_seed(0), bf16
        self.images = torch.randint(0, 256, (args.batch, height, width, 3), dtype=torch.uint8)
        self.maps = torch.randint(0, args.classes, (args.batch, height, width), dtype=torch.uint8)
        self.parts: dict[str, list[float]] = {}

    def __call__(self) -> None:
        began = time.perf_counter()

        def note(part: str) -> None:
            nonlocal began
            now = time.perf_counter()
            self.parts.setdefault(part, []).append(1000 * (now - began) / len(self.images))
            began = now

        varied = self.augment(self.images, self.maps, self.chances)
        note("vary")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = self.network.outputs(varied.images)
            deep = self.deep(outputs)
        note("forward")
        loss = total(self.loss.supervised(outputs.coarse, deep, varied.maps, chances=self.chances))
        note("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        note("backward")
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.optimizer.step()
        average_in(self.average, self.network, decay=0.99)
        note("learn")


def convolutions_alone(network: StudentNetwork, pixels: torch.Tensor, *, bf16: bool, rounds: int) -> float:
    """Milliseconds a picture."""
    met: list[tuple[nn.Conv2d, torch.Tensor]] = []
    hooks = [
        each.register_forward_hook(lambda conv, given, _: met.append((conv, given[0].detach())))
        for each in network.modules()
        if isinstance(each, nn.Conv2d)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        network(pixels)
    for hook in hooks:
        hook.remove()
    times = []
    for _ in range(rounds):
        spent = 0.0
        for number, (conv, given) in enumerate(met):
            given = given.to(torch.bfloat16 if bf16 else torch.float32).requires_grad_(number > 0)
            weight = conv.weight.detach().to(given.dtype).requires_grad_()
            began = time.perf_counter()
            found = F.conv2d(given, weight, stride=conv.stride, padding=conv.padding)
            spent += time.perf_counter() - began
            slope = torch.ones_like(found)
            began = time.perf_counter()
            torch.autograd.grad(found, [weight, *([given] if number else [])], slope)
            spent += time.perf_counter() - began
        times.append(1000 * spent / len(pixels))
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="nano,tiny,small,base")
    parser.add_argument("--resolution", default="480x360")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_memory()
    bf16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    report: dict[str, object] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report |= {"torch": torch.__version__, "bf16": bf16, "resolution": args.resolution, "batch": args.batch}
    print(f"{args.resolution}, batches of {args.batch}, {'bf16' if bf16 else 'float32'}: ms a picture")
    for size in args.sizes.split(","):
        step = Step(size, args, bf16=bf16)
        for _ in range(args.steps):
            step()
        found = {part: statistics.median(times[2:]) for part, times in step.parts.items()}
        found["all"] = statistics.median(map(sum, zip(*(times[2:] for times in step.parts.values()), strict=True)))
        pixels = step.augment.plain()(step.images, step.maps).images
        found["convolutions"] = convolutions_alone(step.network, pixels, bf16=bf16, rounds=5)
        found["weights"] = sum(each.numel() for each in step.network.parameters())
        report[size] = found
        print(f"  {size:<6}" + "  ".join(f"{part} {value:,.1f}" for part, value in found.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
