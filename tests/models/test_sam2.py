"""SAM 2 by points, boxes and grids, held against transformers' own model and post-processing."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import tiny
from transformers import Sam2Model

from lightmill.errors import ModelError, UsageError
from lightmill.models.kinds import Image, Instances
from lightmill.models.pixels import batches, read_pixel_spec
from lightmill.models.sam2 import Sam2, distinct, grid_masks, grid_points, sam2_mask

BOXES = [(0.1, 0.1, 0.6, 0.7), (0.3, 0.2, 0.95, 0.9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    with tiny.quiet():
        return Sam2Model.from_pretrained(folder).eval()


def loaded(folder: Path, **prompts: Any) -> Sam2:
    model = Sam2(str(folder), **prompts)
    model.check("cpu")
    model.load("cpu")
    return model


def asked(plain: Any, folder: Path, image: Image, **prompts: Any) -> Any:
    """What transformers' own model answers, and its processor makes of it: masks [things, answers, H, W], IoUs."""
    ((_, pixels),) = batches([image], read_pixel_spec(folder), device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        answer = plain(pixel_values=pixels, **prompts)
    (masks,) = tiny.processor_of("sam2").post_process_masks(answer.pred_masks, [image.shape[:2]])
    return masks.numpy(), answer.iou_scores[0].numpy()


@pytest.mark.parametrize("size", [(90, 120), (20, 31), (32, 32)], ids=str)
def test_masks_are_those_of_transformers_on_the_same_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (theirs,) = tiny.processor_of("sam2").post_process_masks(logits, [size])
    for one, wanted in zip(logits[0].flatten(0, 1), theirs.flatten(0, 1), strict=True):
        assert np.array_equal(sam2_mask(one, size) >= 128, wanted.numpy())


def test_one_point_has_the_best_of_three_answers(plain: Any, folder: Path) -> None:
    model = loaded(folder, points=[(0.25, 0.5, 1)])
    images = tiny.pictures((90, 120), (150, 100))
    for image, ours in zip(images, model(images), strict=True):
        point = torch.tensor([[[[32.0, 64.0]]]])  # in pixels of the 128 that the model sees
        masks, expected = asked(plain, folder, image, input_points=point, input_labels=torch.ones(1, 1, 1).long())
        best = int(expected[0].argmax())
        assert ours.labels == ["points"]
        assert ours.scores[0] == pytest.approx(float(expected[0, best]), abs=1e-5)
        assert np.array_equal(ours.masks[0] >= 128, masks[0, best])


def test_several_points_are_one_thing(plain: Any, folder: Path) -> None:
    (image,) = tiny.pictures((90, 120))
    model = loaded(folder, points=[(0.25, 0.5, 1), (0.75, 0.5, 0)])
    points, labels = torch.tensor([[[[32.0, 64.0], [96.0, 64.0]]]]), torch.tensor([[[1, 0]]])
    masks, _ = asked(plain, folder, image, input_points=points, input_labels=labels, multimask_output=False)
    (ours,) = model([image])
    assert np.array_equal(ours.masks[0] >= 128, masks[0, 0])
    (other,) = loaded(folder, points=[(0.25, 0.5, 1), (0.75, 0.5, 1)])([image])
    assert not np.array_equal(ours.masks[0], other.masks[0])


def test_each_box_is_a_thing(plain: Any, folder: Path) -> None:
    (image,) = tiny.pictures((90, 120))
    masks, expected = asked(plain, folder, image, input_boxes=torch.tensor([BOXES]) * 128, multimask_output=False)
    (ours,) = loaded(folder, boxes=BOXES)([image])
    assert sorted(ours.labels) == ["box 1", "box 2"]
    assert ours.scores == sorted(ours.scores, reverse=True)
    for label, score, mask in zip(ours.labels, ours.scores, ours.masks, strict=True):
        number = int(label[-1]) - 1
        assert score == pytest.approx(float(expected[number, 0]), abs=1e-5)
        assert np.array_equal(mask >= 128, masks[number, 0])


def test_a_score_drops_what_the_model_doubts(folder: Path) -> None:
    (image,) = tiny.pictures((90, 120))
    (all_of_them,) = loaded(folder, boxes=BOXES)([image])
    (best,) = loaded(folder, boxes=BOXES, score=sum(all_of_them.scores) / 2)([image])
    assert best.labels == all_of_them.labels[:1]


def discs(count: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits [n, 64, 64] of discs, some of them twice and some of them with soft edges, and their scores."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    logits, scores = [], []
    for _ in range(count):
        (cx, cy), radius, slope = chance.uniform(10, 54, 2), chance.uniform(6, 20), chance.choice([0.1, 1.0, 8.0])
        for _ in range(3):
            off = np.hypot(x - cx - chance.uniform(-1, 1), y - cy - chance.uniform(-1, 1))
            logits.append((radius - off) * slope)
            scores.append(chance.uniform(0.8, 1))
    return torch.tensor(np.array(logits)).float(), torch.tensor(scores).float()


def test_what_a_grid_keeps_is_what_transformers_keeps_less_what_overlaps() -> None:
    logits, scores = discs(16)
    size = (90, 120)
    processor = tiny.processor_of("sam2")
    (full,) = processor.post_process_masks(logits[None, None], [size], binarize=False)
    runs, kept_scores, _ = processor.filter_masks(full, scores[None], size, [0, 0, size[1], size[0]], 0.88)
    theirs = {round(float(score), 6): counted["counts"] for score, counted in zip(kept_scores, runs, strict=True)}
    expected = scores > 0.88
    ours = list(grid_masks(logits[expected], scores[expected], size))
    assert 2 < len(ours) < len(theirs) < int(expected.sum())
    for score, mask in ours:
        assert runs_of(mask >= 128) == theirs[round(score, 6)]
    assert [score for score, _ in ours] == sorted((score for score, _ in ours), reverse=True)


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, ... down the columns."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return [int(length) for length in np.diff(edges, prepend=0, append=flat.size)]


def test_of_two_that_overlap_the_better_stays() -> None:
    masks = discs(20, seed=1)[0] > 0
    wanted = [number % 7 != 3 for number in range(len(masks))]
    kept: list[int] = []
    for number in range(len(masks)):  # brute force, on sets of pixels
        mine = set(masks[number].flatten().nonzero().flatten().tolist())
        others = [set(masks[other].flatten().nonzero().flatten().tolist()) for other in kept]
        if wanted[number] and all(len(mine & other) <= 0.7 * len(mine | other) for other in others):
            kept.append(number)
    assert distinct(masks, wanted) == kept
    assert 5 < len(kept) < 40


def test_a_grid_finds_each_thing_once(folder: Path) -> None:
    model = loaded(folder, grid=4, score=0.0)
    images = tiny.pictures((90, 120), (150, 100))
    found = model(images)
    for image, ours in zip(images, found, strict=True):
        assert ours.masks
        assert set(ours.labels) == {"grid"}
        assert all(mask.shape == image.shape[:2] for mask in ours.masks)
        assert tiny.overlap(ours, model([image])[0]) >= 0.999


def test_no_more_than_64_points_of_a_grid_are_asked_at_once(folder: Path) -> None:
    model = loaded(folder, grid=12, score=0.0)
    counts: list[int] = []
    model._model.mask_decoder.register_forward_hook(lambda _, __, answer: counts.append(answer[0].shape[1]))
    model(tiny.pictures((90, 120)))
    assert counts == [64, 64, 16]


def test_a_grid_is_the_middles_of_equal_cells() -> None:
    points = grid_points(2)
    assert points.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_nothing_is_found_where_nothing_is_good_enough(folder: Path) -> None:
    assert loaded(folder, grid=3, score=1.0)(tiny.pictures((90, 120))) == [Instances()]
    assert loaded(folder, boxes=BOXES, score=1.0)(tiny.pictures((90, 120))) == [Instances()]


@pytest.mark.parametrize("prompts", [{"points": [(0.4, 0.6, 1)]}, {"boxes": BOXES}], ids=str)
def test_a_picture_alone_and_in_a_batch(folder: Path, prompts: dict[str, Any]) -> None:
    model = loaded(folder, **prompts)
    images = tiny.pictures((90, 120), (150, 100), (64, 64), (90, 120))
    for image, together in zip(images, model(images), strict=True):
        assert tiny.overlap(model([image])[0], together) >= 0.999


def test_in_half_precision_points_stay_where_they_are(folder: Path) -> None:
    """bfloat16 has steps of up to 2 px of 1024 in the range that places are brought to."""
    model = loaded(folder, points=[(0.4, 0.6, 1)])
    model._model.bfloat16().prompt_encoder.shared_embedding.float()  # as load does
    place, label = torch.tensor([[[[803.0, 611.0]]]]) / 8, torch.ones(1, 1, 1).long()
    encoder = model._model.prompt_encoder
    (here, _), (beside, _) = encoder(place, label, None, None), encoder(place + 0.5 / 8, label, None, None)
    assert here.dtype == torch.float32
    moved = (here - beside).abs()[..., 0, :]  # the second of the two tokens is a filler
    assert (moved > 1e-4).float().mean() > 0.8
    seen = model._model.get_image_embeddings(torch.zeros(1, 3, 128, 128, dtype=torch.bfloat16))
    answer = model._model(image_embeddings=seen, input_points=place, input_labels=label)
    assert answer.pred_masks.dtype == torch.bfloat16


def test_as_the_published_settings_are(folder: Path, tmp_path: Path) -> None:
    """They are those of the video model, which has more to it."""
    published = shutil.copytree(folder, tmp_path / "published")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    more = {"model_type": "sam2_video", "architectures": ["Sam2VideoModel"], "num_maskmem": 7, "image_size": 128}
    (published / "config.json").write_text(json.dumps(config | more), "utf-8")
    images = tiny.pictures((90, 120))
    assert tiny.overlap(loaded(published, boxes=BOXES)(images)[0], loaded(folder, boxes=BOXES)(images)[0]) == 1


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({}, "give exactly one of these"),
        ({"grid": 4, "boxes": BOXES}, "give exactly one of these"),
        ({"points": [(0.5, 1.2, 1)]}, "shares of width and height from 0 to 1"),
        ({"points": [(0.5, 0.2, 2)]}, r"1 \(on the thing\) or 0"),
        ({"points": [(0.5, 0.2, 0)]}, "at least one point must lie on the thing"),
        ({"boxes": [(0.5, 0.2, 0.4, 0.9)]}, "left < right"),
        ({"grid": -1}, "1 to 256 points a side, got -1"),
        ({"grid": 4, "score": 2}, "--score is from 0 to 1, got 2"),
    ],
)
def test_prompts_that_make_no_sense(prompts: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sam2("facebook/sam2.1-hiera-tiny", **prompts)


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of type segformer, not SAM 2"):
        Sam2(str(tiny.segformer(tmp_path)), grid=4).check("cpu")


def test_pickled_loaded_and_unloaded(folder: Path) -> None:
    model = pickle.loads(pickle.dumps(Sam2(str(folder), grid=2)))
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        model([])
    model.load("cpu")
    assert model([]) == []
    model.unload()
    assert pickle.loads(pickle.dumps(model)).version == model.version
