"""`evaluate segment`: whole numbers over the set, by the path that `mask` takes; what is missing is not background."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.data.trees import age
from tests.models.students import HW, colour_student, config_of, random_student
from tests.recipes.colours import GREEN, RED, is_colour, painted
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall

import lightmill
from lightmill.data.index import open_index
from lightmill.data.labels import open_labels
from lightmill.data.segment_augment import SegmentAugment
from lightmill.data.segments import SegmentData
from lightmill.data.splits import split_rows
from lightmill.engine.run import RunResult
from lightmill.errors import ChangedConfig, InputError, ModelError, UsageError
from lightmill.models.student import load_student, read_student
from lightmill.ops.segment_metrics import boundary_counts, boundary_f1, confusion, map_of_logits, scores
from lightmill.recipes.evaluate_segment import EvaluateSegment
from lightmill.recipes.train_segment import TrainSegment

NAMES = ("background", "red", "green")
VOID = 9  # as it is stored


@dataclass(frozen=True)
class Done:
    """A run that has ended."""

    result: RunResult

    @property
    def out(self) -> Path:
        return self.result.out

    @cached_property
    def scores(self) -> Any:
        return json.loads((self.out / "scores.json").read_text("utf-8"))

    @cached_property
    def rows(self) -> dict[str, Any]:
        lines = (self.out / "manifest.jsonl").read_text("utf-8").splitlines()
        return {row["key"]: row for row in map(json.loads, lines)}

    def prediction(self, key: str) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.out / self.rows[key]["outputs"]["prediction"]).convert("L"))


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., Done]:
    def run(data: Path, checkpoint: Path, out: str = "out", **options: Any) -> Done:
        given = {"checkpoint": str(checkpoint), "progress": "none", "threads": 2, "device": "cpu"} | options
        return Done(EvaluateSegment.from_values(given).run(data, tmp_path / out))

    return run


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_student(tmp_path_factory.mktemp("colours") / "best")


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_student(tmp_path_factory.mktemp("random") / "best", config_of())


def truth_of(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Where it is red and green, a strip that is void, and a block that is labelled wrong."""
    truth = np.zeros(picture.shape[:2], np.uint8)
    truth[is_colour(picture, RED)], truth[is_colour(picture, GREEN)] = 1, 2
    truth[:, -5:] = VOID
    left = 5 * seed % 30
    truth[10:20, left : left + 12] = seed % 3
    return truth


def write_pair(root: Path, name: str, size_hw: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    discs = [(*rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.3), (RED, GREEN)[n]) for n in range(2)]
    picture = painted(*size_hw, *discs)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(root / "images" / f"{name}.png")
    Image.fromarray(truth_of(picture, seed)).save(root / "masks" / f"{name}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """val/: seven pictures of the training's size; train/: one."""
    root = tmp_path / "data"
    for seed in range(7):
        write_pair(root / "val", f"p{seed}", HW, seed)
    write_pair(root / "train", "t0", HW, 99)
    age(root)
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """val/: pictures that are larger, wider, higher and smaller than the training's."""
    root = tmp_path / "mixed"
    for seed, size_hw in enumerate([(96, 128), (100, 90), (60, 200), (30, 40), HW]):
        write_pair(root / "val", f"p{seed}", size_hw, seed)
    age(root)
    return root


def pairs(root: Path, done: Done) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(truth with 255 for void, what was predicted) of all pictures, read by Pillow."""
    found = []
    for key in done.rows:
        truth = np.asarray(Image.open(root / key.replace("images", "masks"))).copy()
        truth[truth == VOID] = 255
        found.append((truth, done.prediction(key)))
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_torchmetrics_over_the_whole_set(data: Path, colours: Path, evaluate: Any) -> None:
    done = evaluate(data, colours, ignore=str(VOID))
    assert done.result.exit_code == 0
    assert done.scores["pictures"] == 7
    both = pairs(data, done)
    truth, predicted = (torch.from_numpy(np.concatenate([pair[n].ravel() for pair in both])).long() for n in (0, 1))
    options: dict[str, Any] = {"num_classes": 3, "ignore_index": 255}
    for name, metric in (
        ("iou", MulticlassJaccardIndex),
        ("dice", MulticlassF1Score),
        ("precision", MulticlassPrecision),
        ("recall", MulticlassRecall),
    ):
        by_class = metric(average="none", **options)(predicted, truth).numpy()
        assert [one[name] for one in done.scores["classes"]] == pytest.approx(by_class.tolist(), abs=2e-6)
        assert done.scores[f"mean_{name}"] == pytest.approx(by_class.mean(), abs=2e-6)
    counts = np.zeros((3, 3), int)
    for there, found in zip(truth.tolist(), predicted.tolist(), strict=True):
        if there != 255:
            counts[there, found] += 1
    assert done.scores["confusion"] == counts.tolist()
    assert done.scores["accuracy"] == pytest.approx(np.trace(counts) / counts.sum(), abs=1e-6)
    edges = sum(boundary_counts(truth, found, classes=3) for truth, found in both)
    assert [one["boundary_f1"] for one in done.scores["classes"]] == pytest.approx(
        boundary_f1(edges).tolist(), abs=1e-6
    )
    assert 0.5 < done.scores["mean_iou"] < 0.98


def validated(root: Path, checkpoint: Path) -> float:
    """The mean IoU that a training logs: batches of its loader through the network, counts over all of them."""
    config, network = read_student(checkpoint), load_student(checkpoint)
    index = open_index(root)
    labels = open_labels(index, classes=list(config.names), ignore=[VOID])
    rows = np.flatnonzero(np.array(index.arrow["split"].to_pylist()) == "val")
    data = SegmentData(index, labels, train=rows, val=rows, size_hw=config.size_hw, batch_size=3, workers=0)
    normalise = SegmentAugment.off(mean=config.mean, std=config.std)
    total = torch.zeros(3, 3, dtype=torch.int64)
    with torch.inference_mode():
        for batch in data.val_dataloader():
            plain = normalise(batch.images, batch.maps)
            total += confusion(plain.maps, map_of_logits(network(plain.images)), classes=3)
    return scores(total.numpy()).mean_iou


def test_it_equals_what_training_logged(data: Path, mixed: Path, random_weights: Path, evaluate: Any) -> None:
    """B4.1: what validation scored is what is served. Of pictures of the training's size, to the pixel; of others at
    that size."""
    same = evaluate(data, random_weights, ignore=str(VOID)).scores
    logged = validated(data, random_weights)
    assert same["mean_iou"] == pytest.approx(logged, abs=1e-6)
    assert same["in_sample"]["mean_iou"] == pytest.approx(logged, abs=1e-6)
    others = evaluate(mixed, random_weights, "others", ignore=str(VOID)).scores
    assert others["in_sample"]["mean_iou"] == pytest.approx(validated(mixed, random_weights), abs=1e-6)
    assert others["mean_iou"] == pytest.approx(others["in_sample"]["mean_iou"], abs=0.05)
    assert others["mean_iou"] != others["in_sample"]["mean_iou"]


def test_what_is_judged_is_what_mask_makes(mixed: Path, colours: Path, evaluate: Any, tmp_path: Path) -> None:
    for number, options in enumerate(({}, {"tile": "auto"}, {"tile": 100, "flips": True})):
        done = evaluate(mixed, colours, f"judged{number}", ignore=str(VOID), **options)
        masks = tmp_path / f"masks{number}"
        lightmill.mask(mixed / "val" / "images", masks, model=str(colours), prompt="green", device="cpu", **options)
        for key in done.rows:
            mask = np.asarray(Image.open(masks / "masks" / f"{Path(key).stem}.png").convert("L"))
            assert np.array_equal(mask == 255, done.prediction(key) == 2), (key, options)


def test_tiles_and_flips_are_told(mixed: Path, random_weights: Path, evaluate: Any) -> None:
    done = evaluate(mixed, random_weights, ignore=str(VOID), tile="auto", flips=True)
    assert done.scores["tile"] == "auto"
    assert done.scores["flips"] is True
    assert done.scores["in_sample"] is None  # no validation looked in tiles
    with pytest.raises(ChangedConfig, match="tile"):
        evaluate(mixed, random_weights, ignore=str(VOID), flips=True)


def test_one_foreground_is_scored_by_itself(tmp_path: Path, evaluate: Any) -> None:
    root, checkpoint = tmp_path / "food", colour_student(tmp_path / "best", config_of(("red",)))
    for folder in ("images", "masks"):
        (root / "val" / folder).mkdir(parents=True)
    for seed in range(3):
        picture = painted(*HW, (0.3 + 0.1 * seed, 0.5, 0.3, RED))
        Image.fromarray(picture).save(root / "val" / "images" / f"{seed}.png")
        truth = np.roll(is_colour(picture, RED), 4, axis=1)
        Image.fromarray(np.where(truth, 255, 0).astype(np.uint8)).save(root / "val" / "masks" / f"{seed}.png")
    done = evaluate(root, checkpoint)
    assert [one["name"] for one in done.scores["classes"]] == ["background", "red"]
    assert done.scores["mean_iou"] == done.scores["classes"][1]["iou"]
    both = [(np.asarray(Image.open(root / key.replace("images", "masks"))) > 0, done.prediction(key) == 1)
            for key in done.rows]  # fmt: skip
    right, either = (sum(int(op(a, b).sum()) for a, b in both) for op in (np.logical_and, np.logical_or))
    assert done.scores["mean_iou"] == pytest.approx(right / either, abs=1e-6)
    assert f"IoU {done.scores['mean_iou']} of red" in done.result.remarks[0]


def test_outlines_of_yolo_are_truth_as_well(tmp_path: Path, colours: Path, evaluate: Any) -> None:
    root = tmp_path / "yolo"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    picture = np.full((*HW, 3), 120, np.uint8)
    picture[12:36, 16:48] = RED
    Image.fromarray(picture).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n", "utf-8")
    done = evaluate(root, colours, split="all")
    by_name = {one["name"]: one for one in done.scores["classes"]}
    assert by_name["red"]["iou"] > 0.9
    assert by_name["green"]["iou"] is None  # neither there nor predicted
    assert done.scores["mean_iou"] == pytest.approx(
        (by_name["red"]["iou"] + by_name["background"]["iou"]) / 2, abs=1e-6
    )


def test_a_turned_jpeg_is_judged_upright(tmp_path: Path, colours: Path, evaluate: Any) -> None:
    """B4.24: EXIF orientation is applied once, before the network sees the picture."""
    root = tmp_path / "turned"
    upright = painted(64, 48, (0.3, 0.2, 0.15, RED), (0.7, 0.8, 0.15, GREEN))
    truth = np.zeros((64, 48), np.uint8)
    truth[is_colour(upright, RED)], truth[is_colour(upright, GREEN)] = 1, 2
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    tags = Image.Exif()
    tags[0x0112] = 6  # stored lying on its left side
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(root / "images" / "a.jpg", exif=tags, quality=95, subsampling=0)
    Image.fromarray(truth).save(root / "masks" / "a.png")
    done = evaluate(root, colours, split="all")
    assert done.result.exit_code == 0
    assert done.prediction("images/a.jpg").shape == (64, 48)
    assert done.scores["mean_iou"] > 0.9


# --- what cannot be judged -------------------------------------------------------------------------------------------


def test_what_cannot_be_read_fails_alone_and_counts_nowhere(data: Path, colours: Path, evaluate: Any) -> None:
    """B4.5, B4.8, B4.9: no mask is not background, and half a picture is no picture."""
    whole = evaluate(data, colours, "whole", ignore=str(VOID)).scores
    (data / "val" / "masks" / "p1.png").unlink()
    picture = data / "val" / "images" / "p2.png"
    picture.write_bytes(picture.read_bytes()[:-60])
    mask = data / "val" / "masks" / "p3.png"
    mask.write_bytes(mask.read_bytes()[:-30])
    Image.new("L", (10, 10)).save(data / "val" / "masks" / "p4.png")
    done = evaluate(data, colours, ignore=str(VOID))
    assert done.result.exit_code == 3
    assert (done.scores["pictures"], done.scores["not_judged"]) == (3, 4)
    errors = {key: row["error"] for key, row in done.rows.items() if row["status"] == "failed"}
    assert set(errors) == {f"val/images/p{number}.png" for number in (1, 2, 3, 4)}
    assert "missing mask" in errors["val/images/p1.png"]
    assert "10x10" in errors["val/images/p4.png"]
    kept = [f"val/images/p{number}.png" for number in (0, 5, 6)]
    assert sum(map(sum, done.scores["confusion"])) < sum(map(sum, whole["confusion"]))
    assert sum(map(sum, done.scores["confusion"])) == sum(
        count for key in kept for _, _, count in done.rows[key]["meta"]["confusion"]
    )


def test_values_that_are_no_class_are_told(data: Path, colours: Path, evaluate: Any) -> None:
    done = evaluate(data, colours)
    assert done.result.failed == 7
    assert "it holds 9" in done.rows["val/images/p0.png"]["error"]
    assert "--ignore" in done.rows["val/images/p0.png"]["error"]
    assert not (done.out / "scores.json").exists()


# --- which pictures --------------------------------------------------------------------------------------------------


def test_splits(data: Path, colours: Path, evaluate: Any) -> None:
    assert list(evaluate(data, colours, "t", ignore=str(VOID), split="train").rows) == ["train/images/t0.png"]
    assert len(evaluate(data, colours, "a", ignore=str(VOID), split="all").rows) == 8
    with pytest.raises(
        UsageError, match=r"--split test: DATA has no such split; there is train \(1 picture\), val \(7"
    ):
        evaluate(data, colours, "x", ignore=str(VOID), split="test")


def test_without_splits_what_training_drew_is_drawn_again(data: Path, colours: Path, evaluate: Any) -> None:
    whole = data / "val"  # one folder, of no split
    done = evaluate(whole, colours, ignore=str(VOID), val_share=0.4, seed=3)
    wanted = split_rows(open_index(whole), val_share=0.4, seed=3).val
    assert list(done.rows) == [f"images/p{row}.png" for row in wanted]
    assert 0 < len(done.rows) < 7
    assert any("--seed have to be those of the training" in warning for warning in done.result.warnings)


# --- again -----------------------------------------------------------------------------------------------------------


def test_the_same_command_again_judges_only_what_has_changed(data: Path, colours: Path, evaluate: Any) -> None:
    first = evaluate(data, colours, ignore=str(VOID))
    before = (first.out / "scores.json").read_bytes()
    prediction = first.out / first.rows["val/images/p5.png"]["outputs"]["prediction"]
    stamp = prediction.stat().st_mtime_ns
    again = evaluate(data, colours, ignore=str(VOID))
    assert (again.out / "scores.json").read_bytes() == before
    Image.fromarray(np.zeros(HW, np.uint8)).save(data / "val" / "masks" / "p0.png")
    (data / "val" / "images" / "p6.png").unlink()
    (data / "val" / "masks" / "p6.png").unlink()
    changed = evaluate(data, colours, ignore=str(VOID))
    assert changed.scores["pictures"] == 6
    assert changed.scores["mean_iou"] < json.loads(before)["mean_iou"]
    assert prediction.stat().st_mtime_ns == stamp
    fresh = evaluate(data, colours, "fresh", ignore=str(VOID))
    assert fresh.scores == changed.scores


def test_another_checkpoint_is_another_run(data: Path, random_weights: Path, evaluate: Any, tmp_path: Path) -> None:
    checkpoint = random_student(tmp_path / "best", config_of())
    evaluate(data, checkpoint, ignore=str(VOID))
    os.remove(checkpoint / "model.safetensors")
    random_student(checkpoint, config_of(), seed=4)
    with pytest.raises(ChangedConfig, match="checkpoint"):
        evaluate(data, checkpoint, ignore=str(VOID))


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_report_shows_scores_classes_and_pictures(data: Path, tmp_path: Path, evaluate: Any) -> None:
    logged = {"mean_iou": 0.123, "mean_boundary_f1": 0.4567, "accuracy": None}
    names = ("background", "red <b>", "green")
    checkpoint = colour_student(tmp_path / "best", config_of(names, scores=logged))
    done = evaluate(data, checkpoint, ignore=str(VOID))
    page = (done.out / "report.html").read_text("utf-8")
    for title in ("Scores", "Classes", "What is taken for what", "Worst pictures"):
        assert f"<h2>{title}</h2>" in page
    assert "0.1230" in page
    assert "0.4567" in page
    assert "red &lt;b&gt;" in page
    assert "red <b>" not in page
    ranked = sorted(done.rows.values(), key=lambda row: row["meta"]["mean_iou"])
    places = [page.index(f"{row['key']}: IoU") for row in ranked]
    assert places == sorted(places)
    manifest = (done.out / "manifest.csv").read_text("utf-8").splitlines()
    assert manifest[0] == "key,status,stage,error,output_prediction,mean_iou,accuracy"
    assert float(manifest[1].split(",")[5]) == pytest.approx(
        done.rows["val/images/p0.png"]["meta"]["mean_iou"], abs=1e-5
    )


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_refused(data: Path, colours: Path, evaluate: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--checkpoint is missing"):
        EvaluateSegment.from_values({"progress": "none"}).run(data, tmp_path / "out")
    with pytest.raises(ModelError, match="there is no such folder"):
        evaluate(data, tmp_path / "nowhere")
    with pytest.raises(ModelError, match="there is no file"):
        evaluate(data, tmp_path / "best" / "model.safetensors")
    with pytest.raises(InputError, match="are the same folder"):
        evaluate(data, colours, "data")
    with pytest.raises(UsageError, match="--tile '0': it is off, auto, or a number of pixels from 8"):
        EvaluateSegment.from_values({"tile": "0"})
    with pytest.raises(UsageError, match="a folder has no columns"):
        evaluate(data, colours, group="scene")
    assert not (tmp_path / "out").exists()


def test_labels_of_other_classes_are_refused(tmp_path: Path, colours: Path, evaluate: Any) -> None:
    root = tmp_path / "coco"
    root.mkdir()
    Image.fromarray(painted(*HW)).save(root / "a.png")
    told = {
        "images": [{"id": 1, "file_name": "a.png", "width": HW[1], "height": HW[0]}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    (root / "all.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(UsageError, match="red"):
        evaluate(root, colours, split="all")


def test_it_equals_what_train_segment_wrote(data: Path, evaluate: Any, tmp_path: Path) -> None:
    """B4.1, B4.17: a checkpoint is opened as it was written, and is worth what the training says; a drawn validation is
    drawn again."""
    options: dict[str, Any] = {"size": "nano", "epochs": 1, "batch": 2, "readers": 0, "cache": "off", "device": "cpu"}
    options |= {"tensorboard": False, "progress": "none", "classes": ",".join(NAMES), "ignore": str(VOID), "seed": 5}
    for number, (root, resolution) in enumerate(((data, "64x48"), (data / "val", "48x40"))):
        run = tmp_path / f"run{number}"
        ended = TrainSegment.from_values(options | {"resolution": resolution}).run(root, run)
        assert ended.exit_code == 0
        logged = read_student(run / "best").scores["mean_iou"]
        done = evaluate(root, run / "best", f"judged{number}", ignore=str(VOID), seed=5)
        assert done.scores["in_sample"]["mean_iou"] == pytest.approx(logged, abs=1e-6)
        assert done.scores["logged_by_training"]["mean_iou"] == logged
