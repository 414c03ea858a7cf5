"""SAM 3 by words, held against transformers' own model and post-processing."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models import tiny
from transformers import CLIPTokenizer, Sam3Model

from lightmill.errors import ModelError, UsageError
from lightmill.models.kinds import Instances
from lightmill.models.pixels import batches, read_pixel_spec
from lightmill.models.sam3 import Sam3, sam3_instances

PROMPTS = "person", "a red thing"
SCORE = 0.25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3:
    model = Sam3(str(folder), prompts=PROMPTS, score=SCORE)
    model.check("cpu")
    model.load("cpu")
    return model


@pytest.mark.parametrize("size", [(90, 120), (33, 20), (32, 32)], ids=str)
def test_instances_are_those_of_transformers_on_the_same_logits(size: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(0)
    queries, presence = torch.randn(1, 40, generator=chance) * 2, torch.tensor([[1.5]])
    masks = torch.randn(1, 40, 32, 32, generator=chance) * 3
    outputs = SimpleNamespace(
        pred_logits=queries, presence_logits=presence, pred_masks=masks, pred_boxes=torch.rand(1, 40, 4)
    )
    (theirs,) = tiny.processor_of("sam3").post_process_instance_segmentation(outputs, 0.5, 0.5, [size])
    ours = list(sam3_instances((queries[0], presence[0], masks[0]), size, score=0.5))
    assert 3 < len(ours) < 37
    assert [score for score, _ in ours] == theirs["scores"].tolist()
    for (_, mask), wanted in zip(ours, theirs["masks"], strict=True):
        assert mask.dtype == np.uint8
        assert np.array_equal(mask >= 128, wanted.bool().numpy())


def test_a_score_is_that_of_query_and_presence() -> None:
    logits = torch.tensor([0.0, 3.0]), torch.tensor([1.0]), torch.zeros(2, 4, 4)
    scores = [score for score, _ in sam3_instances(logits, (4, 4), score=0.0)]
    np.testing.assert_allclose(scores, [0.5 / (1 + np.exp(-1)), 1 / (1 + np.exp(-3)) / (1 + np.exp(-1))], rtol=1e-6)


def test_results_are_those_of_the_plain_model(sam3: Sam3, folder: Path) -> None:
    images = tiny.pictures((90, 120), (150, 100))
    with tiny.quiet():
        model = Sam3Model.from_pretrained(folder).eval()
    words = CLIPTokenizer.from_pretrained(folder)(
        list(PROMPTS), padding="max_length", max_length=32, return_tensors="pt"
    )
    for image, ours in zip(images, sam3(images), strict=True):
        ((_, pixels),) = batches([image], read_pixel_spec(folder), device="cpu", dtype=torch.float32)
        with torch.inference_mode():  # one picture for two prompts: it is simply there twice
            outputs = model(pixel_values=pixels.expand(2, -1, -1, -1), **words)
        theirs = tiny.processor_of("sam3").post_process_instance_segmentation(
            outputs, SCORE, 0.5, [image.shape[:2]] * 2
        )
        wanted = [
            (float(score), (mask * 255).numpy().astype(np.uint8), prompt)
            for prompt, found in zip(PROMPTS, theirs, strict=True)
            for score, mask in zip(found["scores"], found["masks"], strict=True)
        ]
        wanted.sort(key=lambda part: -part[0])
        assert len(wanted) > 5
        assert set(ours.labels) == set(PROMPTS)
        assert tiny.overlap(ours, Instances(*map(list, zip(*[(m, s, p) for s, m, p in wanted], strict=True)))) >= 0.999


def test_a_picture_alone_and_in_a_batch(sam3: Sam3) -> None:
    images = tiny.pictures((90, 120), (150, 100), (90, 120))
    for image, together in zip(images, sam3(images), strict=True):
        (alone,) = sam3([image])
        assert alone.masks
        assert alone.masks[0].shape == image.shape[:2]
        assert tiny.overlap(alone, together) >= 0.999


def test_the_same_twice(sam3: Sam3) -> None:
    images = tiny.pictures((90, 120), (150, 100))
    for one, other in zip(sam3(images), sam3(images), strict=True):
        assert one.scores == other.scores
        assert [mask.tobytes() for mask in one.masks] == [mask.tobytes() for mask in other.masks]


def test_words_are_read_once_and_a_picture_once_for_all_words(folder: Path) -> None:
    model = Sam3(str(folder), prompts=("person", "sky", "tripod"))
    model.load("cpu")
    seen: list[str] = []
    model._model.text_encoder.register_forward_hook(lambda *_: seen.append("words"))
    model._model.vision_encoder.register_forward_hook(lambda *_: seen.append("pictures"))
    model(tiny.pictures((90, 120), (150, 100)))
    model(tiny.pictures((64, 64)))
    assert seen == ["pictures", "pictures"]  # one a call: all pictures come to one size


def test_best_score_first(sam3: Sam3) -> None:
    (found,) = sam3(tiny.pictures((90, 120)))
    assert found.scores == sorted(found.scores, reverse=True)
    assert all(SCORE < score < 1 for score in found.scores)
    assert {level for mask in found.masks for level in np.unique(mask)} - {0, 255}  # soft


def test_none_above_the_score(folder: Path) -> None:
    model = Sam3(str(folder), prompts=["person"], score=0.99)
    model.load("cpu")
    assert model(tiny.pictures((90, 120), (64, 64))) == [Instances(), Instances()]
    assert model([]) == []


def test_as_the_published_weights_lie(folder: Path, sam3: Sam3, tmp_path: Path) -> None:
    """They are those of the video model: settings and weights of this one are a part of it."""
    published = shutil.copytree(folder, tmp_path / "published")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (published / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": config}), "utf-8")
    weights = {f"detector_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights["tracker_model.unused"] = torch.zeros(3)
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    model = Sam3(str(published), prompts=PROMPTS, score=SCORE)
    model.check("cpu")
    model.load("cpu")
    images = tiny.pictures((90, 120))
    assert tiny.overlap(model(images)[0], sam3(images)[0]) == 1


def test_a_prompt_that_is_too_long(folder: Path) -> None:
    Sam3(str(folder), prompts=[" ".join(["person"] * 30)]).check("cpu")  # with its start and its end, 32 tokens
    long = Sam3(str(folder), prompts=["person", " ".join(["person"] * 31)])
    with pytest.raises(UsageError, match="too long: 33 tokens, and the model reads 32"):
        long.check("cpu")


@pytest.mark.parametrize("prompts", [[], ["person", " "]])
def test_no_prompt(prompts: list[str]) -> None:
    with pytest.raises(UsageError, match="give --prompt"):
        Sam3("facebook/sam3", prompts=prompts)


def test_a_score_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"--score is from 0 to 1, got 1\.5"):
        Sam3("facebook/sam3", prompts=["person"], score=1.5)


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of type segformer, not SAM 3"):
        Sam3(str(tiny.segformer(tmp_path)), prompts=["person"]).check("cpu")


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    poor = shutil.copytree(folder, tmp_path / "poor", ignore=shutil.ignore_patterns("tok*", "vocab*", "merges*"))
    with pytest.raises(ModelError, match=r"no tokenizer: tokenizer\.json"):
        Sam3(str(poor), prompts=["person"]).check("cpu")


def test_made_cheaply_pickled_loaded_and_unloaded(folder: Path, sam3: Sam3) -> None:
    model = pickle.loads(pickle.dumps(Sam3(str(folder), prompts=PROMPTS, score=SCORE)))
    images = tiny.pictures((90, 120))
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        model(images)
    model.load("cpu")
    assert model.on_device
    assert model.version == sam3.version
    assert tiny.overlap(model(images)[0], sam3(images)[0]) == 1
    model.unload()
    assert len(pickle.dumps(model)) < 100_000
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        model(images)
