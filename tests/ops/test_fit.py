"""Fitting: resampling held against formulas and Pillow, sizes against fractions, and where every pixel comes from."""

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lightmill.ops.buckets import Bucket, bucket_for, bucket_sizes
from lightmill.ops.fit import Fit, Mapping, apply_fit, fit, focus_of, on_matte, plan_fit
from lightmill.types import Size

Pixels = NDArray[np.uint8]
SIDES = st.integers(1, 5000)


def rgb(grey: NDArray[np.float64]) -> Pixels:
    return np.dstack([np.rint(np.clip(grey, 0, 255)).astype(np.uint8)] * 3)


def soft(width: int, height: int, seed: int = 1) -> Pixels:
    colours = np.random.default_rng(seed).uniform(0, 255, (5, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def rms(difference: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


# ---------------------------------------------------------------------------------------------------------------------
# resampling

N, SWING = 900, 100.0


def zone_plate(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(level, cycles per pixel of the N x N plate) at the pixel centres of a `side` x `side` copy, by the formula."""
    at = (np.arange(side) + 0.5) * N / side - N / 2
    radius = np.hypot(*np.meshgrid(at, at))
    return 127.5 + SWING * np.cos(np.pi / N * radius**2), radius / N


@pytest.mark.parametrize("side", [870, 750, 625, 450, 375, 300, 201, 150, 97])
def test_a_zone_plate_keeps_what_fits_and_loses_the_rest(side: int) -> None:
    plate, _ = zone_plate(N)
    true, frequency = zone_plate(side)
    fine = frequency * N / side  # cycles per new pixel: one half is the most that it can hold
    made, _ = fit(rgb(plate), how=Fit.INSIDE, size=Size(side, side))
    got, pillow = (
        levels[..., 0].astype(np.float64)
        for levels in (made, np.asarray(Image.fromarray(rgb(plate)).resize((side, side), Image.Resampling.LANCZOS)))
    )
    kept, finer, beyond = fine < 0.25, (fine > 0.25) & (fine < 0.4), fine > 0.75
    full = SWING / np.sqrt(2)
    assert rms(got[kept] - true[kept]) < 0.04 * full
    assert rms(got[finer] - true[finer]) < 0.12 * full
    if beyond.any():
        assert rms(got[beyond] - 127.5) < 0.12 * full
        assert rms(got[beyond] - 127.5) < 1.1 * rms(pillow[beyond] - 127.5) + 0.03 * full
    assert rms(got[finer] - true[finer]) < 1.3 * rms(pillow[finer] - true[finer]) + 0.01 * full


@pytest.mark.parametrize("size", [(1500, 1000), (1254, 836), (768, 512), (333, 222), (96, 64)])
def test_photographs_are_reduced_as_by_pillow(shared_data: Path, size: tuple[int, int]) -> None:
    image = Image.open(shared_data / "photos" / "bike.jpg").convert("RGB")
    wanted = np.asarray(image.resize(size, Image.Resampling.LANCZOS)).astype(np.float64)
    made, _ = fit(np.asarray(image), how=Fit.COVER, size=Size(*size))
    area = cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA)
    off = np.abs(made - wanted).mean()
    assert off < (0.35 if size[0] > 500 else 1.0)  # below, whole pixels are averaged first
    assert off < 0.5 * np.abs(area - wanted).mean()


@pytest.mark.parametrize("size", [(960, 480), (777, 401), (100, 300)])
def test_waves_are_enlarged_to_the_waves_that_they_are(size: tuple[int, int]) -> None:
    def waves(width: int, height: int) -> NDArray[np.float64]:
        x, y = ((np.arange(n) + 0.5) / n for n in (width, height))
        return 127.5 + 60 * np.cos(16 * np.pi * x) + 50 * np.sin(9 * np.pi * y)[:, None]

    made, mapping = fit(rgb(waves(96, 48)), how=Fit.COVER, size=Size(*size))
    whole = waves(*mapping.resized)
    (dx, dy), (width, height) = mapping.offset, mapping.size
    wanted = whole[-dy : height - dy, -dx : width - dx]
    inner = np.s_[30:-30, 30:-30]  # beyond the border nothing is known
    assert rms(made[..., 0][inner] - wanted[inner]) < 1


def test_even_colours_stay_and_steps_ring_as_pillows_do() -> None:
    flat = np.full((301, 403, 3), (7, 130, 250), np.uint8)
    for size in (Size(100, 75), Size(1000, 900), Size(17, 900)):
        made, _ = fit(flat, how=Fit.COVER, size=size)
        assert (made == flat[0, 0]).all()
    step = np.zeros((64, 200, 3), np.uint8)
    step[:, 100:] = 200
    made, _ = fit(step, how=Fit.COVER, size=Size(80, 26))
    wanted = np.asarray(Image.fromarray(step).resize((81, 26), Image.Resampling.LANCZOS))
    assert abs(int(made.max()) - int(wanted.max())) <= 3


def test_colours_under_transparent_pixels_never_show() -> None:
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[..., 1] = 255  # green wherever nothing is seen
    pixels[10:50, 20:60] = (200, 40, 90, 255)
    made, _ = fit(pixels, how=Fit.INSIDE, size=Size(33, 33))
    seen = made[made[..., 3] > 8]
    assert np.abs(seen[:, :3].astype(int) - (200, 40, 90)).max() <= 2
    pillow = np.asarray(Image.fromarray(pixels).resize((33, 25), Image.Resampling.LANCZOS))
    assert np.abs(made[..., 3].astype(int) - pillow[..., 3]).mean() < 1


def test_alpha_is_composited_as_by_pillow() -> None:
    pixels = np.dstack([soft(90, 50), soft(90, 50, seed=2)[..., 0]])
    behind = Image.new("RGBA", (90, 50), (255, 20, 130, 255))
    wanted = np.asarray(Image.alpha_composite(behind, Image.fromarray(pixels)).convert("RGB")).astype(int)
    assert np.abs(on_matte(pixels, (255, 20, 130)) - wanted).max() <= 1
    opaque = np.dstack([soft(90, 50), np.full((50, 90), 255, np.uint8)])
    np.testing.assert_array_equal(on_matte(opaque, (1, 2, 3)), soft(90, 50))


# ---------------------------------------------------------------------------------------------------------------------
# sizes


@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_sizes(width: int, height: int, wide: int, high: int, no_upscale: bool) -> None:
    source, size = (width, height), Size(wide, high)
    inside, cover, pad = (
        plan_fit(source, how=how, size=size, no_upscale=no_upscale) for how in (Fit.INSIDE, Fit.COVER, Fit.PAD)
    )
    tight, loose = sorted([Fraction(wide, width), Fraction(high, height)])
    if no_upscale:
        tight, loose = min(tight, Fraction(1)), min(loose, Fraction(1))
    for mapping, scale in ((inside, tight), (pad, tight), (cover, loose)):
        for side, whole in zip(mapping.resized, source, strict=True):
            assert side == 1 or abs(side - whole * scale) <= Fraction(1, 2) + Fraction(1, 10**6)
    assert inside.size == inside.resized == pad.resized
    assert pad.size == (wide, high)
    assert inside.size[0] <= wide
    assert inside.size[1] <= high
    if not no_upscale:
        assert cover.size == (wide, high)
        assert wide == inside.size[0] or high == inside.size[1]
    else:
        assert cover.size == (min(wide, cover.resized[0]), min(high, cover.resized[1]))
        assert all(new <= old for new, old in zip(cover.resized, source, strict=True))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("how", list(Fit))
@pytest.mark.parametrize("source", [(60, 40), (40, 61), (300, 200)])
def test_what_is_made_has_the_size_that_was_planned(source: tuple[int, int], how: Fit, channels: int) -> None:
    pixels = np.full((source[1], source[0], channels), 200, np.uint8)
    size = bucket_for(source, bucket_sizes(128, step=16, least=64, most=256)) if how is Fit.BUCKET else Size(128, 96)
    made, mapping = fit(pixels, how=how, size=size)
    assert made.shape == (mapping.size[1], mapping.size[0], channels)
    assert made.flags.c_contiguous
    if how is Fit.BUCKET:
        assert isinstance(size, Bucket)
        assert mapping.size == (size.size.width, size.size.height)
    if how is Fit.NONE:
        assert made is pixels
        assert mapping.changes_nothing


def test_the_crop_of_a_bucket_is_that_of_the_trainer() -> None:
    """sd-scripts cuts `excess // 2` off at the left and the top."""
    for source in ((4001, 3000), (3000, 4003), (999, 777)):
        bucket = bucket_for(source, bucket_sizes(1024))
        mapping = plan_fit(source, how=Fit.BUCKET, size=bucket)
        left = (bucket.resized.width - bucket.size.width) // 2
        top = (bucket.resized.height - bucket.size.height) // 2
        assert mapping.offset == (-left, -top)


def test_bars() -> None:
    pixels = np.dstack([soft(60, 20), np.full((20, 60), 255, np.uint8)])
    bare, mapping = fit(pixels[..., :3].copy(), how=Fit.PAD, size=Size(60, 41))
    assert mapping.offset == (0, 10)
    assert not bare[:10].any()
    assert not bare[30:].any()
    np.testing.assert_array_equal(bare[10:30], pixels[..., :3])
    clear, _ = fit(pixels, how=Fit.PAD, size=Size(60, 41))
    assert not clear[:10, :, 3].any()
    coloured, _ = fit(pixels, how=Fit.PAD, size=Size(60, 41), matte=(9, 8, 7))
    assert coloured.shape == (41, 60, 3)
    assert (coloured[30:] == (9, 8, 7)).all()
    small, mapping = fit(pixels, how=Fit.PAD, size=Size(100, 100), no_upscale=True)
    assert mapping.offset == (20, 40)
    np.testing.assert_array_equal(small[40:60, 20:80], pixels)


@pytest.mark.parametrize(("how", "size"), [(Fit.BUCKET, Size(9, 9)), (Fit.COVER, None), (Fit.PAD, None)])
def test_sizes_of_another_kind(how: Fit, size: Size | None) -> None:
    with pytest.raises(ValueError, match=f"to fit by {how} takes a (Bucket|Size), got"):
        plan_fit((10, 10), how=how, size=size)


# ---------------------------------------------------------------------------------------------------------------------
# where pixels come from


@pytest.mark.parametrize("how", [Fit.INSIDE, Fit.COVER, Fit.PAD])
@pytest.mark.parametrize("size", [Size(200, 150), Size(150, 260), Size(900, 700)])
def test_boxes_follow_the_picture(how: Fit, size: Size) -> None:
    pixels, box = np.zeros((400, 600, 3), np.uint8), (270.0, 150.0, 90.0, 120.0)
    pixels[150:270, 270:360] = 255
    made, mapping = fit(pixels, how=how, size=size, focus=(0.55, 0.5))
    rows, columns = np.nonzero(made[..., 0] > 127)
    x, y, w, h = mapping.box_out(box)
    assert abs(columns.min() - x) <= 1
    assert abs(rows.min() - y) <= 1
    assert abs(columns.max() + 1 - (x + w)) <= 1
    assert abs(rows.max() + 1 - (y + h)) <= 1
    np.testing.assert_allclose(mapping.box_in((x, y, w, h)), box, atol=1e-9)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([Fit.INSIDE, Fit.COVER, Fit.PAD]), st.floats(0, 1), st.floats(0, 1))
def test_the_crop_lies_in_the_source(
    width: int, height: int, wide: int, high: int, how: Fit, x: float, y: float
) -> None:
    mapping = plan_fit((width, height), how=how, size=Size(wide, high), focus=(x, y))
    left, top, w, h = mapping.crop
    assert min(left, top) >= 0
    assert min(w, h) > 0
    assert left + w <= width + 1e-6
    assert top + h <= height + 1e-6
    if how is not Fit.COVER:
        np.testing.assert_allclose(mapping.crop, (0, 0, width, height), atol=1e-6)
    assert Mapping.from_json(json.loads(json.dumps(mapping.to_json()))) == mapping


@pytest.mark.parametrize(("x", "left"), [(0.0, 0), (0.1, 0), (0.5, 100), (0.625, 150), (0.9, 200), (1.0, 200)])
def test_a_crop_keeps_its_focus_in_the_middle_as_far_as_the_picture_reaches(x: float, left: int) -> None:
    assert plan_fit((400, 200), how=Fit.COVER, size=Size(200, 200), focus=(x, 0.9)).offset == (-left, 0)


def test_a_reduced_copy_fits_as_its_original_does() -> None:
    original, half = soft(800, 600), soft(400, 300)
    mapping = plan_fit((800, 600), how=Fit.COVER, size=Size(300, 300))
    whole, reduced = (apply_fit(pixels, mapping).astype(int) for pixels in (original, half))
    assert np.abs(whole - reduced).max() <= 4


def test_focus_is_where_most_is_held() -> None:
    saliency = np.zeros((40, 100), np.float32)
    assert focus_of(saliency) == (0.5, 0.5)
    saliency[8:12, 9:15], saliency[8:12, 80:84] = 1, 1
    x, y = focus_of(saliency, window=(0.4, 1.0))
    assert x == pytest.approx(0.2, abs=0.12)  # at the larger of two things, not between them
    assert y == 0.5
    saliency[:] = 0
    saliency[30:34, 70:74] = 1
    assert focus_of(saliency, window=(0.2, 0.3)) == pytest.approx((0.72, 0.8), abs=0.02)
    assert focus_of(saliency) == (0.5, 0.5)  # all is kept


def test_focus_keeps_the_head_of_what_is_too_tall() -> None:
    portrait = np.zeros((90, 60), np.float32)
    portrait[6:40, 22:38], portrait[40:, 4:56] = 1, 0.95  # a head, and shoulders that are broader
    _, y = focus_of(portrait, window=(1.0, 0.4))
    top = y * 90 - 0.4 * 90 / 2
    assert 0 <= top <= 6


@pytest.mark.parametrize("seed", range(5))
def test_focus_against_every_window(seed: int) -> None:
    saliency = np.random.default_rng(seed).random((23, 31)).astype(np.float32) ** 3
    x, y = focus_of(saliency, window=(9 / 31, 8 / 23))
    columns, rows = saliency.sum(axis=0, dtype=np.float64), saliency.max(axis=1)
    for profile, at, length in ((columns, x * 31, 9), (rows, y * 23, 8)):
        begin = round(at - length / 2)
        best = max(profile[place : place + length].sum() for place in range(len(profile) - length + 1))
        assert profile[begin : begin + length].sum() >= 0.969 * best
