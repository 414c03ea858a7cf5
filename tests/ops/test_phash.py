"""The perceptual hash: held against its formula, and against copies of real photographs."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from lightmill.ops.duplicates import NEAR
from lightmill.ops.phash import distance, phash

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[Image.Image]:
    images = [Image.open(path).convert("RGB") for path in sorted((shared_data / "photos").glob("*.jpg"))]
    for image in images:
        image.thumbnail((1200, 1200))
    return images


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def of(image: Image.Image) -> int:
    return phash(np.asarray(image))


def by_formula(image: Image.Image) -> int:
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX)).astype(float)
    low = dctn(small - 127.5, norm="ortho")[:8, :8].ravel()
    above = low > max(np.median(low), 0) + 2
    return sum(1 << place for place in range(64) if above[place])


def test_it_is_its_formula(photographs: list[Image.Image]) -> None:
    for image in photographs:
        assert distance(of(image), by_formula(image)) <= 1  # Pillow rounds grey and area a little differently


COPIES = {
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "tiny": lambda image: image.resize((128, 96), Image.Resampling.BICUBIC),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "quality 50": lambda image: compressed(image, 50),
    "quality 20": lambda image: compressed(image, 20),
    "brighter": lambda image: image.point(lambda level: min(255, level * 1.12 + 4)),
    "darker": lambda image: image.point(lambda level: level * 0.85),
    "all of it": lambda image: compressed(image.resize((400, 300)), 50).point(lambda level: min(255, level * 1.05)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near(name: str, photographs: list[Image.Image]) -> None:
    apart = [distance(of(image), of(COPIES[name](image))) for image in photographs]
    assert max(apart) <= NEAR - 2
    assert np.mean(apart) < 2


def test_other_photographs_are_far(photographs: list[Image.Image]) -> None:
    hashes = [of(image) for image in photographs]
    hashes += [of(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for image in photographs]
    apart = [distance(one, other) for place, one in enumerate(hashes) for other in hashes[:place]]
    assert min(apart) > 2 * NEAR
    assert 28 < np.mean(apart) < 36


def test_colours_and_alpha() -> None:
    grey = np.asarray(Image.radial_gradient("L"))
    rgb = np.dstack([grey] * 3)
    assert phash(grey) == phash(rgb) == phash(np.dstack([rgb, 255 - grey]))


def test_flat_pictures_are_alike_however_noisy() -> None:
    noise = np.random.default_rng(1).normal(0, 4, (300, 400, 3))
    hashes = {phash(np.clip(level + noise * on, 0, 255).astype(np.uint8)) for level in (20, 100, 240) for on in (0, 1)}
    assert hashes <= {0, 1}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 33), (7, 5)])
def test_any_size(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert 0 <= phash(pixels) < 2**64
