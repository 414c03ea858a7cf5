"""Class maps as pictures for people: colours that are told apart, and mistakes exactly where they are."""

import io

import numpy as np
from PIL import Image

from lightmill.recipes.segment_pictures import mistakes, painted, palette, strip

RED = (255, 48, 48)


def test_colours_of_neighbouring_classes_are_told_apart() -> None:
    colours = palette()[:24].astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(24, dtype=int)
    assert apart.min() > 40
    assert len(np.unique(palette(), axis=0)) > 200


def test_what_is_ignored_or_plain_keeps_its_colours() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    classes = rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 30))
    got = painted(image, classes, plain=(0,))
    stays = (classes == 0) | (classes == 255)
    assert np.array_equal(got[stays], image[stays])
    mixed = 0.45 * image[classes == 1] + 0.55 * palette()[1]
    assert np.abs(got[classes == 1] - mixed).max() <= 1


def test_mistakes_are_red_and_nothing_else_is() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (20, 30))
    predicted = rng.integers(0, 2, (20, 30)).astype(np.uint8)
    red = (mistakes(image, truth, predicted) == RED).all(axis=2)
    assert np.array_equal(red, (truth != predicted) & (truth != 255))


def test_a_strip_holds_four_panels_of_one_height() -> None:
    image = np.full((60, 90, 3), (10, 120, 240), np.uint8)
    truth = np.zeros((60, 90), np.uint8)
    predicted = truth.copy()
    predicted[:, :45] = 1
    panels = np.asarray(Image.open(io.BytesIO(strip(image, truth, predicted, plain=(0,), height_px=120))))
    assert panels.shape == (120, 4 * 180 + 3 * 4, 3)
    picture, there, found, wrong = (panels[30:90, at + 20 : at + 160].astype(int) for at in (0, 184, 368, 552))
    assert np.abs(picture - there).max() < 12
    assert np.abs(found[:, 90:] - picture[:, 90:]).max() < 12
    assert np.abs(found[:, :50] - picture[:, :50]).mean() > 20
    assert np.abs(wrong[:, :50] - RED).max() < 12
    assert np.ptp(wrong[:, 90:], axis=2).max() < 12  # grey
