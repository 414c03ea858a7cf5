"""A teacher's masks and features, computed once, and a student that learns from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import tiny
from tests.recipes.test_train_segment import OPTIONS, SIZE_HW, write_pictures

from lightmill.codecs.decode import decode
from lightmill.data.labels import read_values
from lightmill.errors import ChangedConfig, UsageError
from lightmill.models.kinds import Instances
from lightmill.models.sam2 import Sam2
from lightmill.models.student import read_student
from lightmill.recipes.teaching import class_levels, class_map, reduced_features
from lightmill.recipes.train_segment import TrainSegment

torch.set_num_threads(1)
POINTS = ("0.5,0.5",)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pictures(folder / "train", 8, seed=0, values=(0, 255))
    write_pictures(folder / "val", 4, seed=1, values=(0, 255))
    return folder


def trained(data: Path, out: Path, sam2: Path, **options: Any) -> Any:
    asked = {"teacher": str(sam2), "teacher_points": POINTS}
    return TrainSegment.from_values(OPTIONS | asked | options).run(data, out)


@pytest.fixture(scope="module")
def taught(data: Path, sam2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a SAM 2 and of masks."""
    out = tmp_path_factory.mktemp("taught")
    ended = trained(data, out, sam2, epochs=3)
    assert ended.exit_code == 0
    assert [remark.partition(":")[0] for remark in ended.remarks[-2:]] == ["agreement with teacher", "teacher on masks"]
    return out


def test_masks_and_features_are_those_of_the_teacher(taught: Path, data: Path, sam2: Path) -> None:
    model = Sam2(str(sam2), points=[(0.5, 0.5, 1)])
    model.load("cpu")
    picture = decode((data / "train" / "images" / "003.png").read_bytes()).pixels
    (found,), (seen,) = model.with_features([picture])
    assert model([picture])[0].scores == found.scores
    folder = taught / ".lightmill" / "teacher"
    mask = read_values((folder / "masks" / "train" / "images" / "003.png").read_bytes())
    wanted = np.zeros(SIZE_HW, np.uint8) if not found.masks else found.masks[0]
    assert np.array_equal(mask, wanted >= 128)
    levels = np.load(folder / "levels" / "train" / "images" / "003.npy")
    assert np.array_equal(levels[0], wanted)  # as small as it is, it is kept whole
    features = np.load(folder / "features" / "train" / "images" / "003.npy")
    assert features.shape == seen.shape == (32, 8, 8)
    assert np.abs(features.astype(np.float32).mean(0)).max() < 1e-2
    assert np.corrcoef(features[:, 3, 3], seen[:, 3, 3])[0, 1] > 0.999


def test_both_losses_are_learnt_from_and_both_agreements_told(taught: Path) -> None:
    header = (taught / "steps.csv").read_text().splitlines()[0].split(",")
    assert {"teacher", "teacher_features"} <= {*header}
    rows = [line.split(",") for line in (taught / "epochs.csv").read_text().splitlines()[1:]]
    column = (taught / "epochs.csv").read_text().splitlines()[0].split(",").index("teacher_features")
    assert float(rows[-1][column]) < float(rows[0][column])
    told = json.loads((taught / "scores.json").read_text())
    for name in ("held_out", "agreement_with_teacher", "teacher_on_masks"):
        assert 0 <= told[name]["mean_iou"] <= 1, name
    html = (taught / "report.html").read_text()
    assert "teacher" in html
    saved = read_student(taught / "best")
    assert saved.names == ("foreground",)


def test_nothing_is_asked_twice_and_a_resumed_training_is_the_same(
    taught: Path, data: Path, sam2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightmill.train.segment_module import SegmentModule

    plain = SegmentModule.losses

    def interrupted(self: SegmentModule, batch: Any) -> Any:
        if self.step == 3:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentModule, "losses", interrupted)
        assert trained(data, tmp_path, sam2, epochs=3).exit_code == 130
    monkeypatch.setattr(Sam2, "load", None)  # it would be needed to ask
    assert trained(data, tmp_path, sam2, epochs=3).exit_code == 0
    name = "last/model.safetensors"
    assert (taught / name).read_bytes() == (tmp_path / name).read_bytes()


def test_pictures_without_masks_are_learnt_from_a_teacher_alone(data: Path, sam2: Path, tmp_path: Path) -> None:
    ended = trained(
        data / "train" / "images", tmp_path, sam2, labels="teacher", classes="thing", val_share=0.25, size="nano"
    )
    assert ended.exit_code == 0
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["pictures"] == {"train": 6, "val": 2}
    assert told["held_out"]["mean_iou"] == pytest.approx(told["agreement_with_teacher"]["mean_iou"])
    assert "teacher_on_masks" not in told
    assert read_student(tmp_path / "best").names == ("thing",)


def test_another_teacher_or_question_is_refused(taught: Path, data: Path, sam2: Path) -> None:
    with pytest.raises(ChangedConfig):
        trained(data, taught, sam2, epochs=3, teacher_points=("0.1,0.1",))
    with pytest.raises(ChangedConfig, match=r"with --teacher .*, not "):
        TrainSegment.from_values(OPTIONS | {"epochs": 3}).run(data, taught)


def test_a_teacher_that_finds_nothing_of_the_classes_is_refused(data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    write_pictures(flat, 3, seed=5, values=(0, 1, 2))
    with pytest.raises(UsageError, match="finds nothing of 0, 1, 2; see --teacher-prompt"):
        TrainSegment.from_values(OPTIONS | {"teacher": "builtin:salient"}).run(flat, tmp_path / "out")


def test_levels_of_classes_add_up_and_background_has_the_rest() -> None:
    square, stripe = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    square[:2, :2], stripe[:, 1] = 255, 128
    found = Instances([square, stripe], [0.9, 0.8], ["Cat", "dog"])
    levels = class_levels(found, ("background", "cat", "dog", "bird"), size_hw=(4, 6))
    assert np.abs(levels.sum(0).astype(int) - 255).max() <= 2
    assert class_map(levels).tolist() == [[1, 1, 0, 0, 0, 0]] * 2 + [[0, 2, 0, 0, 0, 0]] * 2
    without = class_levels(found, ("cat", "dog"), size_hw=(4, 6))
    assert class_map(without).tolist() == [[0, 0, 255, 255, 255, 255]] * 2 + [[255, 1, 255, 255, 255, 255]] * 2
    one = class_levels(found, ("anything",), size_hw=(4, 6))
    assert np.array_equal(one[0], np.maximum(square, stripe))


def test_features_are_reduced_by_their_means() -> None:
    seen = np.random.default_rng(0).normal(size=(5, 64, 63)).astype(np.float32)
    small = reduced_features(seen, 32)
    assert small.shape == (5, 32, 31)
    np.testing.assert_allclose(small[:, 3, 7], seen[:, 6:8, 14:16].mean((1, 2)), atol=1e-6)
