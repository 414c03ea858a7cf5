"""Models with a list of classes, held against transformers' own models and post-processing."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.models import tiny
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from lightmill.errors import ModelError, UsageError
from lightmill.models.classes import (
    InstanceSegmenter,
    SemanticSegmenter,
    instance_masks,
    open_transformers_segmenter,
    semantic_masks,
)
from lightmill.models.pixels import batches, read_pixel_spec
from lightmill.models.sam2 import Sam2
from lightmill.models.sam3 import Sam3

CLASSES = ["wall", "person", "sky", "tripod"]
SIZES = [(90, 120), (33, 20), (32, 32)]
INSTANCES = {"mask2former": Mask2FormerImageProcessorPil(), "maskformer": MaskFormerImageProcessorPil()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = getattr(tiny, kind)(tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def opened(folder: Path, **options: Any) -> Any:
    model = open_transformers_segmenter(str(folder), **options)
    model.check("cpu")
    model.load("cpu")
    return model


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_classes_are_those_of_transformers_on_the_same_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(1, 21, 32, 32, generator=torch.Generator().manual_seed(0)) * 2
    (theirs,) = SegformerImageProcessorPil().post_process_semantic_segmentation(SimpleNamespace(logits=logits), [size])
    ours = {number: mask for number, _, mask in semantic_masks(logits[0], size, wanted=range(21))}
    assert set(ours) == set(theirs.unique().tolist())
    for number, mask in ours.items():
        assert np.array_equal(mask >= 128, (theirs == number).numpy())


def test_between_two_classes_a_level_is_the_softmax() -> None:
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)) * 2
    wanted = logits.softmax(0).numpy()
    for number, score, mask in semantic_masks(logits, (16, 16), wanted=[0, 1]):
        assert np.abs(mask / 255 - wanted[number]).max() < 1 / 255
        assert score == pytest.approx(wanted[number][wanted[number] > 0.5].mean(), abs=1e-6)


def test_equal_logits_are_the_first_class() -> None:
    logits = torch.zeros(3, 4, 4)
    assert [number for number, _, _ in semantic_masks(logits, (8, 8), wanted=[0, 1, 2])] == [0]


@pytest.mark.parametrize("kind", INSTANCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_instances_are_those_of_transformers_on_the_same_logits(kind: str, size: tuple[int, int]) -> None:
    chance = torch.Generator().manual_seed(0)
    classes = torch.randn(1, 30, 5, generator=chance) * 4
    masks = torch.randn(1, 30, 8, 8, generator=chance) * 3
    masks[0, :3] = -5  # nothing inside
    found = theirs_of(kind, SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks), size, 0.5)
    assert 5 < len(found) < 27
    small = masks
    if kind == "mask2former":  # its processor does this before it decides
        small = torch.nn.functional.interpolate(masks, size=(384, 384), mode="bilinear", align_corners=False)
    ours = list(instance_masks(classes[0], small[0], size, wanted=range(4), score=0.5))
    assert [number for number, _, _ in ours] == [number for number, _, _ in found]
    np.testing.assert_allclose([score for _, score, _ in ours], [score for _, score, _ in found], atol=1e-6)
    for (_, _, mask), (_, _, wanted) in zip(ours, found, strict=True):
        assert np.array_equal(mask >= 128, wanted)
    assert [part[0] for part in instance_masks(classes[0], small[0], size, wanted=[2], score=0.5)] == [
        number for number, _, _ in found if number == 2
    ]


def theirs_of(kind: str, outputs: Any, size: tuple[int, int], score: float) -> list[tuple[int, float, np.ndarray]]:
    """Class, score and mask of what transformers' own processor finds, in its order."""
    (found,) = INSTANCES[kind].post_process_instance_segmentation(
        outputs, threshold=score, target_sizes=[size], return_binary_maps=True
    )
    infos = found["segments_info"]
    masks = found["segmentation"].bool().numpy() if infos else []
    return [(info["label_id"], info["score"], mask) for info, mask in zip(infos, masks, strict=True)]


@pytest.mark.parametrize("kind", INSTANCES)
def test_things_are_those_of_the_plain_model(kind: str, folders: Callable[[str], Path]) -> None:
    model = opened(folders(kind), prompts=CLASSES, score=0.1)
    with tiny.quiet():
        plain = transformers.AutoModelForUniversalSegmentation.from_pretrained(folders(kind)).eval()
    images = tiny.pictures((90, 120), (150, 100))
    for image, ours in zip(images, model(images), strict=True):
        ((_, pixels),) = batches([image], read_pixel_spec(folders(kind)), device="cpu", dtype=torch.float32)
        with torch.inference_mode():
            theirs = theirs_of(kind, plain(pixel_values=pixels), image.shape[:2], 0.1)
        assert len(ours.masks) == len(theirs) > 1
        theirs.sort(key=lambda part: -part[1])
        np.testing.assert_allclose(ours.scores, [score for _, score, _ in theirs], atol=1e-5)
        by_size = sorted(int((mask >= 128).sum()) for mask in ours.masks)  # equal scores may stand in any order
        assert by_size == sorted(int(mask.sum()) for _, _, mask in theirs)


def test_pixels_are_those_of_the_plain_model(folders: Callable[[str], Path]) -> None:
    folder = folders("segformer")
    model = opened(folder, prompts=["Person", "TRIPOD"])
    with tiny.quiet():
        plain = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    images = tiny.pictures((90, 120), (150, 100))
    for image, ours in zip(images, model(images), strict=True):
        theirs = SegformerImageProcessorPil.from_pretrained(folder)
        pixels = torch.tensor(np.array(theirs(image, return_tensors="np")["pixel_values"])).float()
        with torch.inference_mode():
            (wanted,) = theirs.post_process_semantic_segmentation(plain(pixel_values=pixels), [image.shape[:2]])
        assert sorted(ours.labels) == ["Person", "TRIPOD"]
        assert ours.scores == sorted(ours.scores, reverse=True)
        for label, mask in zip(ours.labels, ours.masks, strict=True):
            same = (mask >= 128) == (wanted.numpy() == (1 if label == "Person" else 3))
            assert same.mean() > 0.99  # the pixels went in by Pillow there: up to one level apart


@pytest.mark.parametrize("kind", ["segformer", "mask2former", "maskformer"])
def test_a_picture_alone_and_in_a_batch(kind: str, folders: Callable[[str], Path]) -> None:
    model = opened(folders(kind), prompts=CLASSES, **({} if kind == "segformer" else {"score": 0.1}))
    images = tiny.pictures((90, 120), (150, 100), (64, 64), (90, 120))
    for image, together in zip(images, model(images), strict=True):
        (alone,) = model([image])
        assert all(mask.shape == image.shape[:2] for mask in alone.masks)
        assert len(alone.masks) == len(together.masks) > 0
        assert tiny.overlap(alone, together) >= 0.999


def test_laid_out_for_convolutions_the_answer_is_the_same(folders: Callable[[str], Path]) -> None:
    """As on a CUDA device."""
    for kind in ("segformer", "mask2former", "maskformer"):
        with tiny.quiet():
            plain = getattr(transformers, opened(folders(kind), prompts=["sky"]).architecture)
            model = plain.from_pretrained(folders(kind)).eval()
        pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            one = model(pixel_values=pixels)
            other = model.to(memory_format=torch.channels_last)(
                pixel_values=pixels.contiguous(memory_format=torch.channels_last)
            )
        for key in ("logits", "masks_queries_logits"):
            if key in one:
                assert (one[key] - other[key]).abs().max() < 0.01 * one[key].std()


def test_names_of_classes(folders: Callable[[str], Path]) -> None:
    folder = str(folders("segformer"))
    for name in ("Human", "person", "PERSON,  human"):
        SemanticSegmenter(folder, prompts=[name]).check("cpu")
    with pytest.raises(UsageError, match=r"knows no class 'persons'; near it: person, .* \(6 in all\)"):
        SemanticSegmenter(folder, prompts=["sky", "persons"]).check("cpu")
    with pytest.raises(UsageError, match=r"knows no class 'xyz'; near it: wall"):
        SemanticSegmenter(folder, prompts=["xyz"]).check("cpu")
    with pytest.raises(UsageError, match="give --prompt"):
        SemanticSegmenter(folder, prompts=[])
    with pytest.raises(UsageError, match="--score is from 0 to 1, got -1"):
        InstanceSegmenter(folder, prompts=["sky"], score=-1)


def test_a_class_that_a_picture_does_not_show(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("segformer"), tmp_path / "model")
    model = opened(folder, prompts=["person"])
    with torch.no_grad():
        model._model.decode_head.classifier.bias[1] = -1e4
    assert [found.masks for found in model(tiny.pictures((90, 120)))] == [[]]


def test_a_model_that_sees_the_middle_only(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("segformer"), tmp_path / "model")
    settings = {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ModelError, match="the middle of a picture only"):
        SemanticSegmenter(str(folder), prompts=["sky"]).check("cpu")


def test_pickled_loaded_and_unloaded(folders: Callable[[str], Path]) -> None:
    model = pickle.loads(pickle.dumps(open_transformers_segmenter(str(folders("mask2former")), prompts=["sky"])))
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        model([])
    model.load("cpu")
    assert model([]) == []
    model.unload()
    assert len(pickle.dumps(model)) < 100_000


def test_the_class_that_fits_a_model(folders: Callable[[str], Path]) -> None:
    for kind, options, wanted in (
        ("sam3", {"prompts": ["person"]}, Sam3),
        ("sam2", {"grid": 4}, Sam2),
        ("segformer", {"prompts": ["sky"]}, SemanticSegmenter),
        ("maskformer", {"prompts": ["sky"], "score": 0.3}, InstanceSegmenter),
    ):
        model = open_transformers_segmenter(str(folders(kind)), **options)
        assert type(model) is wanted
        assert model.on_device
        assert model.name == str(folders(kind))
        assert model.version.startswith("blake2:")
    assert open_transformers_segmenter(str(folders("sam3")), prompts=["person"]).score == 0.5
    assert open_transformers_segmenter(str(folders("sam2")), grid=4).score == 0.88


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("sam2", {"prompts": ["person"]}, r"\(SAM 2\) knows no words; give points, boxes or a grid"),
        ("sam3", {"prompts": ["person"], "grid": 3}, "is asked by prompts, in words; grid are for SAM 2"),
        ("segformer", {"prompts": ["sky"], "score": 0.3}, "gives every pixel a class and takes no score"),
    ],
)
def test_options_that_a_model_does_not_take(
    kind: str, options: dict[str, Any], said: str, folders: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=said):
        open_transformers_segmenter(str(folders(kind)), **options)


def test_a_type_that_is_not_supported(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("segformer"), tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "oneformer"}', "utf-8")
    with pytest.raises(
        UsageError, match=r"of type oneformer, which does not segment here; supported: beit, .*segformer"
    ):
        open_transformers_segmenter(str(folder), prompts=["sky"])
