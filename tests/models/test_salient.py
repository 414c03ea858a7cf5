"""`builtin:salient`: sample portraits with exact masks, photographs, and the steps from a guess to a soft mask."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage

from lightmill.models.kinds import Segmenter
from lightmill.models.salient import Salient
from lightmill.ops.matting import grab_cut, guided, upsampled, without_specks
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


def test_grab_cut_finds_what_the_guess_left_out() -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:120, :160]
    disc = np.hypot(x - 80, y - 60) < 35
    image = np.where(disc[..., None], (180, 60, 40), (60, 110, 170)) + rng.normal(0, 12, (120, 160, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    trimap = np.full((120, 160), cv2.GC_PR_BGD, np.uint8)
    trimap[40:80, 55:90] = cv2.GC_PR_FGD
    found = grab_cut(image, trimap)
    assert (found != disc).mean() < 0.002
    assert (trimap[40:80, 55:90] == cv2.GC_PR_FGD).all()  # the guess is left as it was


@pytest.mark.parametrize("colours", [1, 2, 3])
def test_grab_cut_of_few_colours(colours: int) -> None:
    palette = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
    image = palette[np.arange(40 * 40).reshape(40, 40) // 500 % colours]
    trimap = np.full((40, 40), cv2.GC_PR_BGD, np.uint8)
    trimap[10:30, 10:30] = cv2.GC_FGD
    assert grab_cut(image, trimap)[10:30, 10:30].all()


@pytest.mark.parametrize(("label", "expected"), [(cv2.GC_PR_BGD, False), (cv2.GC_FGD, True)])
def test_grab_cut_with_nothing_to_tell_apart(label: int, expected: bool) -> None:
    found = grab_cut(np.zeros((5, 5, 3), np.uint8), np.full((5, 5), label, np.uint8))
    assert (found == expected).all()


def test_specks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(6)
    mask = scipy.ndimage.gaussian_filter(rng.normal(size=(150, 150)), 3) > 0.04
    found = without_specks(mask, share=0.1)

    def pieces(of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, count = scipy.ndimage.label(of)
        return number, np.bincount(number.ravel(), minlength=count + 1)[1:]

    number, size = pieces(mask)
    least = 0.1 * size.max()
    expected = np.isin(number, 1 + np.flatnonzero(size >= least))
    number, size = pieces(~expected)
    expected |= np.isin(number, 1 + np.flatnonzero(size < least))
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, mask)


def test_guided_coefficients_are_those_of_each_window() -> None:
    rng = np.random.default_rng(8)
    guide, target = rng.random((12, 11, 3)).astype(np.float32), rng.random((12, 11)).astype(np.float32)
    radius = 2
    fits = np.zeros((12, 11, 4))
    for y in range(2, 10):
        for x in range(2, 9):
            window = np.s_[y - 2 : y + 3, x - 2 : x + 3]
            colours, values = guide[window].reshape(-1, 3).astype(float), target[window].ravel().astype(float)
            system = np.cov(colours.T, bias=True) + 1e-4 * np.eye(3)
            slope = np.linalg.solve(system, ((colours - colours.mean(0)) * (values - values.mean())[:, None]).mean(0))
            fits[y, x] = (*slope, values.mean() - slope @ colours.mean(0))
    expected = fits[4 - 2 : 4 + 3, 5 - 2 : 5 + 3].mean(axis=(0, 1))
    np.testing.assert_allclose(guided(guide, target, radius)[4, 5], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", [102, 103])  # 2 px of the picture beside its edge, to both sides
def test_upsampling_snaps_to_the_edge_of_the_picture(start: int) -> None:
    image = np.full((400, 800, 3), (60, 90, 120), np.uint8)
    image[:, 410:] = (200, 150, 90)
    small = cv2.resize(image, (200, 100), interpolation=cv2.INTER_AREA)
    mask = np.zeros((100, 200), bool)
    mask[:, start:] = True
    alpha = upsampled(mask, small, image)
    crossing = np.argmax(alpha >= 128, axis=1)
    assert np.abs(crossing - 410).max() <= 1
    assert alpha[:, :390].max() == 0
    assert alpha[:, 430:].min() == 255
