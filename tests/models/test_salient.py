"""`builtin:salient`: sample portraits with exact masks, and photographs."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightmill.models.kinds import Segmenter
from lightmill.models.salient import Salient
from lightmill.sample.portraits import portrait


def iou(found: np.ndarray, true: np.ndarray) -> float:
    found, true = found >= 128, true >= 128
    return float((found & true).sum() / (found | true).sum())


def segment(image: np.ndarray) -> np.ndarray:
    """The mask; empty where nothing stands out."""
    (found,) = Salient()([image])
    return found.masks[0] if found.masks else np.zeros(image.shape[:2], np.uint8)


def scores(seeds: range) -> list[float]:
    made = (portrait(seed, size_wh=(512, 512)) for seed in seeds)
    return [iou(segment(each.pixels), each.mask) for each in made]


def test_it_is_a_segmenter_that_can_be_pickled() -> None:
    model: Segmenter = pickle.loads(pickle.dumps(Salient()))
    assert (model.name, model.on_device) == ("builtin:salient", False)
    model.check("cpu")
    model.load("cpu")
    image = portrait(1, size_wh=(160, 160)).pixels
    one, other = model([image, image[:, ::-1].copy()])
    model.unload()
    assert one.masks[0].shape == (160, 160)
    assert one.masks[0].dtype == np.uint8
    assert len(one.scores) == len(one.labels) == 1
    assert 0 < one.scores[0] <= 1
    assert iou(other.masks[0], one.masks[0][:, ::-1]) > 0.9


def test_sample_portraits() -> None:
    assert np.mean(scores(range(8))) >= 0.8


@pytest.mark.slow
def test_more_sample_portraits() -> None:
    assert np.mean(scores(range(24))) >= 0.85


@pytest.mark.parametrize("level", [0, 120, 255])
def test_nothing_stands_out_of_one_colour(level: int) -> None:
    image = np.full((300, 400, 3), level, np.uint8)
    image[150:] ^= 3  # as a camera's noise might
    (found,) = Salient()([image])
    assert (found.masks, found.scores, found.labels) == ([], [], [])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (40, 7), (3, 500)])
def test_small_and_thin_pictures(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (found,) = Salient()([image])
    assert all(mask.shape == shape for mask in found.masks)


def test_masks_depend_on_no_thread_and_no_order() -> None:
    images = [portrait(seed, size_wh=(200, 240)).pixels for seed in range(6)]
    alone = [segment(image) for image in images]

    def later(i: int) -> np.ndarray:
        cv2.setRNGSeed(17 * i + 1)
        return segment(images[i])

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(later, (5, 3, 1, 0, 2, 4)))
    for i, mask in zip((5, 3, 1, 0, 2, 4), together, strict=True):
        assert np.array_equal(mask, alone[i])


# (top, bottom, left, right) in shares of the picture: all of it is the subject, or none of it
@pytest.mark.parametrize(
    ("name", "subject", "elsewhere"),
    [
        ("alpaca", (0.3, 0.7, 0.3, 0.65), (0, 1, 0.85, 1)),
        ("corgi", (0.53, 0.65, 0.55, 0.75), (0, 0.4, 0, 1)),
        ("horses", (0.65, 0.7, 0.48, 0.55), (0, 0.4, 0, 1)),
        ("man", (0.8, 1, 0.2, 0.8), (0, 0.4, 0, 0.1)),
        ("smile", (0.3, 0.7, 0.4, 0.6), (0, 0.7, 0, 0.15)),
        ("truck", (0.35, 0.5, 0.4, 0.85), (0.75, 1, 0, 1)),
        ("two_men", (0.75, 0.95, 0.2, 0.3), (0, 0.3, 0, 0.3)),
    ],
)
def test_photographs(shared_data: Path, name: str, subject: tuple[float, ...], elsewhere: tuple[float, ...]) -> None:
    image = cv2.imread(str(shared_data / "photos" / f"{name}.jpg"), cv2.IMREAD_REDUCED_COLOR_2)
    assert image is not None
    mask = segment(np.ascontiguousarray(image[..., ::-1]))

    def share(box: tuple[float, ...]) -> float:
        (top, bottom), (left, right) = np.array(box).reshape(2, 2) * np.array(mask.shape)[:, None]
        return float((mask[int(top) : int(bottom), int(left) : int(right)] >= 128).mean())

    assert share(subject) > 0.95
    assert share(elsewhere) < 0.02
