"""Weaknesses of research B4 that no other test looks for: what a step waits for, what is learnt, what is asked.

B4.19: a device that is waited for several times a step, each time that a number of it is asked for.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, get_args

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tests.train.fields import OPTIONS as SEGMENT
from tests.train.fields import Fields, batch_of
from tests.train.people import OPTIONS as REID
from tests.train.people import People
from torch.utils._python_dispatch import TorchDispatchMode

import lightmill
from lightmill.models.backbones import open_backbone
from lightmill.models.embedder_network import EmbedderNetwork
from lightmill.models.student import StudentConfig
from lightmill.models.student_network import SIZES
from lightmill.train.batches import Epochs
from lightmill.train.module import LoopModule, Losses
from lightmill.train.reid_module import ReidModule
from lightmill.train.segment import fit, made
from lightmill.train.segment_module import SegmentModule
from lightmill.train.segment_options import SegmentSettings
from lightmill.train.trainer import quiet

META = torch.device("meta")  # its tensors have shapes and no values: whoever wants one gets an error
NO_VALUE = r"cannot be called on meta tensors|out of meta tensor"

Module: TypeAlias = LoopModule[Any]
Make: TypeAlias = Callable[[type[Module]], Module]


def segments(kind: type[Module], **other: Any) -> Module:
    network, _, options = made(SEGMENT.model_copy(update=other))
    return kind(network, options, steps=8)


def reid(kind: type[Module], **other: Any) -> Module:
    network = EmbedderNetwork(open_backbone(REID.backbone).model, embedding=16, pooling="gem")
    data = People(nobody=8)
    options = REID.model_copy(update={"consistency_weight": 0.5, **other})
    return kind(network, options, data.batches(), steps=8)


def pictures() -> Any:
    return batch_of(Fields(count=4), np.arange(4))


def crops() -> Any:
    rows = torch.arange(72, 96)  # the last of them show nobody
    return People(nobody=8).crops[rows], rows


def asking(kind: type[Module]) -> type[Module]:
    """The same, written as it should not be: it looks at the loss in every step."""

    class Asks(kind):  # type: ignore[misc, valid-type]  # a class that is given
        def losses(self, batch: Any) -> Losses:
            found = super().losses(batch)
            self.met = float(next(iter(found.values())).detach())
            return found

    return Asks


def step_without_values(module: Module, batch: Any) -> None:
    """Loss, gradients and average of a step, on a device that has no values."""
    module.to(META)
    on_device = batch.to(META) if hasattr(batch, "to") else tuple(each.to(META) for each in batch)
    module.training_step(on_device, 0).backward()
    assert all(each.grad is not None for each in module.network.parameters() if each.requires_grad)
    module.on_train_batch_end(None, on_device, 0)
    assert module.step == 1


@pytest.fixture(autouse=True)
def _exact_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch knows no autocast for META; with amp "off" it would do nothing anyway."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


class NoNumbers(TorchDispatchMode):
    """Refuses `item`, `float(tensor)`, `if tensor:` and all else that makes one of Python's numbers of a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a number was asked for")
        return func(*args, **(kwargs or {}))


def within_hooks(kind: type[Module]) -> type[Module]:
    """The same, with no numbers to be had in what Lightning calls for every batch."""

    class Watched(kind):  # type: ignore[misc, valid-type]  # a class that is given
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            with NoNumbers():
                super().on_train_batch_start(batch, batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            with NoNumbers():
                return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: object, batch: Any, batch_idx: int) -> None:
            with NoNumbers():
                super().on_train_batch_end(outputs, batch, batch_idx)

    return Watched


def train(module: Module, batch: Any) -> None:
    """Two steps, by Lightning."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    with quiet():
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, **dict.fromkeys(off, False))
        trainer.fit(module, Epochs([batch, batch], lambda: 0, limit=0))
    assert module.step == 2


@pytest.mark.parametrize("losses", [{}, {"focal": 0.5, "lovasz": 0.5, "weights": (0.5, 1.0, 2.0)}])
def test_no_number_leaves_the_device_in_a_step_of_a_segmenter(losses: dict[str, Any]) -> None:
    step_without_values(segments(SegmentModule, **losses), pictures())
    train(segments(within_hooks(SegmentModule), **losses), pictures())


def test_no_number_leaves_the_device_in_a_step_of_an_embedder() -> None:
    """But for the triplet loss: which anchors it has, pytorch-metric-learning asks the device."""
    step_without_values(reid(ReidModule, triplet_weight=0.0), crops())
    train(reid(within_hooks(ReidModule)), crops())


@pytest.mark.parametrize(
    ("make", "kind", "batch"),
    [(segments, SegmentModule, pictures), (partial(reid, triplet_weight=0.0), ReidModule, crops)],
)
def test_one_that_asks_would_be_found(make: Make, kind: type[Module], batch: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match=NO_VALUE):
        step_without_values(make(asking(kind)), batch())
    with pytest.raises(AssertionError, match="a number was asked for"):
        train(make(within_hooks(asking(kind))), batch())


# --- what is learnt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [None, "random:resnet-tiny"])
def test_what_is_optimised_is_what_is_trained_and_all_of_it_once(backbone: str | None) -> None:
    """B4.1: weights of a model that nobody asked were in the optimiser, and in every checkpoint."""
    module = segments(SegmentModule, backbone=backbone)
    told = [id(weights) for group in module.parameter_groups() for weights in group["params"]]
    learning = {id(weights) for weights in module.parameters() if weights.requires_grad}
    assert len(told) == len(set(told))
    assert set(told) == learning
    module.training_step(pictures(), 0).backward()
    served = {name for name, weights in module.network.named_parameters() if weights.grad is not None}
    lacking = {name for name, _ in module.network.named_parameters()} - served
    assert all(name.startswith("encoder.backbone.") for name in lacking)


def test_a_backbone_with_a_rate_of_its_own_is_resumed(tmp_path: Path) -> None:
    """B4.15: groups of other sizes in the optimiser made every second stage of a training fail."""

    class Stopped(Exception):  # noqa: N818 (no error: it stands for a process that ends)
        pass

    def stop(row: Mapping[str, float | None]) -> None:
        if row["epoch"] == 1:
            raise Stopped

    options = SEGMENT.model_copy(update={"backbone": "random:resnet-tiny", "backbone_rate": 0.2, "epochs": 2})
    data = Fields(count=12).batches(valid=Fields(count=4, seed=7))
    fit(options, data, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(options, data, tmp_path / "parts", on_epoch=stop)
    assert fit(options, data, tmp_path / "parts").epochs == 2
    for name in ("last/model.safetensors", "best/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_sizes_that_can_be_asked_for_are_those_that_can_be_made() -> None:
    """B4.3: the names that the command line took were not those that the code knew."""
    offered = get_args(SegmentSettings.model_fields["size"].annotation)
    assert set(offered) == set(get_args(StudentConfig.model_fields["size"].annotation)) == set(SIZES)


# --- what is asked, and what is touched ------------------------------------------------------------------------------


def test_nobody_is_asked_at_a_keyboard() -> None:
    """B4.18: a question on stdin, which a training that nobody watches waits for without end."""
    package = Path(lightmill.__file__).parent
    asked = [
        f"{file.relative_to(package)}:{node.lineno}"
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("input", "getpass.getpass", "sys.stdin.readline")
    ]
    assert not asked


def test_importing_makes_no_folder(tmp_path: Path) -> None:
    """B4.25: where an import made folders, in the place it was started from."""
    names = "cli", "data.segments", "recipes.train_segment", "recipes.evaluate_segment", "train.segment_module"
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    code = "import " + ", ".join(f"lightmill.{name}" for name in names)
    lines = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env={**os.environ, "HOME": str(home)}, capture_output=True, check=False
    )
    assert lines.returncode == 0, lines.stderr.decode()
    assert not [*here.iterdir(), *home.iterdir()]
