"""`lightmill train segment` from files to a checkpoint, its scores and its report."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from lightmill.cli import run_command_line
from lightmill.errors import ChangedConfig, InputError, TooManyFailures, UsageError
from lightmill.models.student import load_student, read_student
from lightmill.recipes.by_data import class_weights
from lightmill.recipes.train_segment import TrainSegment

torch.set_num_threads(1)

SIZE_HW = (40, 56)
OPTIONS: dict[str, Any] = {
    "size": "nano",
    "batch": 4,
    "epochs": 2,
    "readers": 0,
    "amp": "off",
    "device": "cpu",
    "tensorboard": False,
    "progress": "none",
    "seed": 1,
}


def write_pictures(folder: Path, count: int, *, seed: int, values: tuple[int, ...]) -> None:
    """`count` pictures, and masks that hold `values`: the first as ground, then a box of each."""
    chance = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        mask = np.full(SIZE_HW, values[0], np.uint8)
        for value in values[1:]:
            top, left = chance.integers(0, 25, 2)
            mask[top : top + 15, left : left + 20] = value
        shown = np.stack([mask * 7, mask * 31, 255 - mask], -1).astype(np.float64)
        picture = (shown + chance.normal(0, 9, shown.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number:03d}.png"), picture)
        cv2.imwrite(str(folder / "masks" / f"{number:03d}.png"), mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official splits, three classes and a value that stands for nothing."""
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "train", 12, seed=0, values=(0, 1, 2, 9))
    write_pictures(folder / "val", 5, seed=1, values=(0, 1, 2, 9))
    return folder


def trained(data: Path, out: Path, **options: Any) -> Any:
    return TrainSegment.from_values(OPTIONS | {"classes": "ground,box,bag", "ignore": "9"} | options).run(data, out)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    ended = trained(data, out, epochs=6)
    assert ended.exit_code == 0
    assert "done: 6 epochs, 18 steps (epochs)" in ended.summary
    assert "held out: mean_iou" in ended.remarks[-1]
    return out


def test_what_is_left(done: Path) -> None:
    left = {path.relative_to(done).as_posix() for path in done.rglob("*") if path.is_file()}
    kept = {f"{kind}/{name}" for kind in ("best", "last") for name in ("config.json", "model.safetensors")}
    state = {f".lightmill/{name}" for name in ("index.arrow", "lock", "training.ckpt", "samples/samples.pack")}
    assert kept | state | {"epochs.csv", "steps.csv", "scores.json", "report.html"} <= left
    told = json.loads((done / "scores.json").read_text())
    assert told["pictures"] == {"train": 12, "val": 5}
    config = read_student(done / "best")
    assert config.names == ("ground", "box", "bag")
    assert config.size_hw == SIZE_HW
    assert config.scores == told["held_out"]
    assert config.scores.keys() > {"mean_iou", "mean_boundary_f1", "iou/bag"}
    load_student(done / "best")


def test_a_training_that_is_done_is_exported_for_programs_without_torch(data: Path, done: Path, tmp_path: Path) -> None:
    """Another reader, ONNX Runtime, finds what the saved network does."""
    shutil.copytree(done, tmp_path / "run")
    weights = (done / "best/model.safetensors").read_bytes()
    ended = trained(data, tmp_path / "run", epochs=6, onnx=True)
    assert "best.onnx, whose logits are within" in ended.remarks[-2]
    assert (tmp_path / "run/best/model.safetensors").read_bytes() == weights
    session = onnxruntime.InferenceSession(tmp_path / "run/best.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == ["ground", "box", "bag"]
    pixels = torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = load_student(done / "best")(pixels)
    np.testing.assert_allclose(session.run(None, {"pixels": pixels.numpy()})[0], wanted.numpy(), rtol=0, atol=1e-4)
    assert not (done / "best.onnx").exists()


def test_the_report_shows_curves_classes_and_pictures(done: Path) -> None:
    html = (done / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles[:2] == ["Losses", "Held-out pictures, epoch by epoch"]
    assert "The best epoch, on 5 held-out pictures" in titles
    assert html.count("data:image/jpeg;base64") == 10  # the worst and the best of five
    assert all(f'<th scope="row">{name}</th>' in html for name in ("ground", "box", "bag", "mean"))
    assert not re.search(r'(src|href)="http', html)


def test_a_kill_and_the_same_command_end_as_one_run(
    data: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4.14, from files: cache, order and chances included."""
    from lightmill.train.segment_module import SegmentModule

    plain = SegmentModule.losses

    def interrupted(self: SegmentModule, batch: Any) -> Any:
        if self.step == 10:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentModule, "losses", interrupted)
        ended = trained(data, tmp_path, epochs=6)
    assert ended.exit_code == 130
    assert "interrupted: the same command goes on" in ended.summary
    assert trained(data, tmp_path, epochs=6, readers=1).exit_code == 0
    for name in ("last/model.safetensors", "best/model.safetensors", "best/config.json", "steps.csv"):
        assert (done / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_other_options_are_refused(data: Path, done: Path) -> None:
    with pytest.raises(ChangedConfig, match=r"--rate 0\.002, not 0\.01"):
        trained(data, done, epochs=6, rate=0.01)
    with pytest.raises(ChangedConfig, match=r"--batch 4, not 3"):
        trained(data, done, epochs=6, batch=3)
    with pytest.raises(ChangedConfig, match="--classes "):
        trained(data, done, epochs=6, classes="ground,box,car")
    with pytest.raises(InputError, match="DATA and OUT are the same folder"):
        trained(data, data)


def test_masks_of_0_and_255_make_a_student_of_one_class(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 10, seed=2, values=(0, 255))
    ended = trained(tmp_path / "data", tmp_path / "out", classes="", ignore="", val_share=0.3, cache="off")
    assert any("drawn picture by picture" in remark for remark in ended.remarks)
    config = read_student(tmp_path / "out" / "best")
    assert config.names == ("foreground",)
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert told["pictures"] == {"train": 7, "val": 3}
    assert set(told["held_out"]) >= {"mean_iou", "mean_dice", "accuracy"}


def test_a_missing_mask_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """B4.5: never background."""
    write_pictures(tmp_path / "data", 6, seed=3, values=(0, 1))
    (tmp_path / "data" / "masks" / "002.png").unlink()
    with pytest.raises(UsageError, match="missing mask: 1 of 6"):
        trained(tmp_path / "data", tmp_path / "out", classes="", ignore="")
    assert not (tmp_path / "out" / "best").exists()


def test_pictures_that_cannot_be_read_end_it_above_max_bad(tmp_path: Path) -> None:
    """B4.6, B4.9: a truncated file is replaced by another one and named, or ends the training; it is never black."""
    write_pictures(tmp_path / "data", 12, seed=4, values=(0, 1))
    broken = tmp_path / "data" / "images" / "003.png"
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(TooManyFailures, match="003"):
        trained(tmp_path / "data", tmp_path / "out", classes="", ignore="", val_share=0.2)
    again = trained(tmp_path / "data", tmp_path / "out", classes="", ignore="", val_share=0.2, max_bad="2")
    assert again.exit_code == 0


def test_weights_of_classes_are_counted(done: Path, data: Path) -> None:
    """Median frequency (Eigen and Fergus, 2015) by a loop over the masks."""
    shares: dict[int, list[int]] = {}
    for path in sorted((data / "train" / "masks").iterdir()):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        known = int((mask != 9).sum())
        for number in range(3):
            if (mask == number).any():
                here, around = shares.setdefault(number, [0, 0])
                shares[number] = [here + int((mask == number).sum()), around + known]
    frequency = {number: here / around for number, (here, around) in shares.items()}
    middle = float(np.median(list(frequency.values())))
    wanted = [(middle / frequency[number]) ** 0.5 for number in range(3)]
    state = torch.load(done / ".lightmill" / "training.ckpt", weights_only=True)
    found = state["lightmill"]["options"].get("weights")
    assert found is None  # they follow from the data: not compared when it is resumed
    assert class_weights(frequency, 3, power=0.5) == pytest.approx(wanted, abs=1e-6)


def test_the_command_line_says_how_far_it_is(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """B4.13: options of the command line reach the training."""
    words = "--size nano --batch 4 --epochs 3 --limit-train 2 --rate 0.005 --amp off --readers 0 --ignore 9"
    code = run_command_line(["train", "segment", str(data), str(tmp_path), *words.split(), "--device", "cpu"])
    printed = "".join(capfd.readouterr())
    assert code == 0
    assert "12 pictures to train on, 5 held out; 3 classes; 56x40 px" in printed
    assert re.search(r"epoch 2 of 3 \(.*left\): loss \d", printed)
    state = torch.load(tmp_path / ".lightmill" / "training.ckpt", weights_only=True)
    assert state["lightmill"]["options"]["rate"] == 0.005
    assert state["lightmill"]["counters"]["step"] == 6


@pytest.mark.slow
def test_camvid_as_it_lies_there(shared_data: Path, tmp_path: Path) -> None:
    words = {"classes": "", "ignore": "11", "epochs": 1, "limit_train": 4, "batch": 8}
    assert trained(shared_data / "camvid", tmp_path, **words).exit_code == 0
    assert len(read_student(tmp_path / "best").names) == 11
