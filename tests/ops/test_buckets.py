"""Buckets, held against the rule of sd-scripts written down once more, pixel by pixel."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightmill.errors import ItemError
from lightmill.ops.buckets import Bucket, bucket_for, bucket_sizes
from lightmill.types import Size

SIDES = st.integers(1, 12000)


def allowed(resolution: Size, step: int, least: int, most: int) -> set[tuple[int, int]]:
    """By looking at every pair of sides: the tallest for its width, or the widest for its height, or a square."""
    least, most = step * (least // step), step * math.ceil(most / step)
    area = resolution.width * resolution.height
    sides = range(least, most + 1, step)
    tallest = {w: max((h for h in sides if w * h <= area), default=0) for w in sides}
    found = {pair for w, h in tallest.items() if h for pair in ((w, h), (h, w))}
    side = max(side for side in range(step, 20000, step) if side * side <= area)
    return found | {(side, side)}


@pytest.mark.parametrize("resolution", [512, 768, 1024, 1536, Size(1024, 768), Size(832, 1216), 1000])
@pytest.mark.parametrize(("step", "least", "most"), [(64, 512, 2048), (64, 256, 1536), (32, 500, 1530), (8, 448, 1600)])
def test_the_list_is_every_size_that_the_rule_allows(resolution: int | Size, step: int, least: int, most: int) -> None:
    full = resolution if isinstance(resolution, Size) else Size(resolution, resolution)
    sizes = bucket_sizes(resolution, step=step, least=least, most=most)
    assert [(size.width, size.height) for size in sizes] == sorted(allowed(full, step, least, most))


def test_the_list_that_sdxl_is_trained_with() -> None:
    wide = (
        "1024x1024 1088x960 1152x896 1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1664x576 1728x576"
    )
    wide += " 1792x576 1856x512 1920x512 1984x512 2048x512"
    written = {str(size) for size in bucket_sizes(1024)}
    assert set(wide.split()) <= written
    assert {"x".join(reversed(size.split("x"))) for size in written} == written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 256}, "the resolution 256x256 has to lie between the shortest and longest side, 512 and 2048"),
        ({"resolution": Size(4096, 1024)}, "has to lie between the shortest and longest side"),
        ({"resolution": 1024, "step": 0}, "one step or longer, got a step of 0"),
        ({"resolution": 1024, "least": 32}, "got a step of 64 and sides from 32"),
    ],
)
def test_lists_that_cannot_be(options: dict[str, int | Size], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bucket_sizes(**options)  # type: ignore[arg-type] # a table of keyword arguments


@given(SIDES, SIDES)
@example(1024, 1024)
@example(1152, 896)
@example(4000, 3000)
@example(3000, 4000)
@example(2048, 512)
def test_a_picture_goes_where_its_aspect_differs_least(width: int, height: int) -> None:
    sizes = bucket_sizes(1024)
    if max(width / height, height / width) > 30:  # some of these would be resized beyond any size
        return
    bucket = bucket_for((width, height), sizes)
    assert bucket.size in sizes
    if Size(width, height) in sizes:
        assert bucket == Bucket(Size(width, height), Size(width, height))
        return
    off = {size: abs(size.width / size.height - width / height) for size in sizes}
    assert bucket.size == next(size for size in sizes if off[size] == min(off.values()))
    # the smallest scale that fills it, exactly
    scale = max(Fraction(bucket.size.width, width), Fraction(bucket.size.height, height))
    got, full = bucket.resized, bucket.size
    assert abs(got.width - width * scale) <= Fraction(1, 2) + Fraction(1, 10**6)
    assert abs(got.height - height * scale) <= Fraction(1, 2) + Fraction(1, 10**6)
    assert got.width >= full.width
    assert got.height >= full.height
    assert got.width == full.width or got.height == full.height


def test_a_picture_that_is_all_but_a_line() -> None:
    with pytest.raises(ItemError, match="12000x13 pixels are too narrow: no bucket is anywhere near"):
        bucket_for((12000, 13), bucket_sizes(1024))


def chosen_by_sd_scripts(width: int, height: int, step: int, area: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(bucket, resized) with no upscaling, as the trainer's rule says it in words; raises ZeroDivisionError as it."""

    def whole(length: float) -> int:
        nearest = math.floor(length + 0.5)
        return nearest - nearest % step

    resized = (width, height)
    if width * height > area:
        aspect = width / height
        w = math.sqrt(area * aspect)
        h = area / w
        candidates = []
        fixed = whole(w)
        candidates.append((abs(fixed / whole(fixed / aspect) - aspect), 1, (fixed, math.floor(fixed / aspect + 0.5))))
        fixed = whole(h)
        candidates.append((abs(whole(fixed * aspect) / fixed - aspect), 0, (math.floor(fixed * aspect + 0.5), fixed)))
        resized = min(candidates)[2]
    return (resized[0] // step * step, resized[1] // step * step), resized


@given(SIDES, SIDES, st.sampled_from([(64, 1024), (32, 512), (8, 768)]))
@example(4000, 3000, (64, 1024))
@example(1024, 1024, (64, 1024))
@example(63, 500, (64, 1024))
@example(12000, 13, (64, 1024))
def test_without_upscaling(width: int, height: int, rule: tuple[int, int]) -> None:
    step, resolution = rule
    try:
        size, resized = chosen_by_sd_scripts(width, height, step, resolution**2)
    except ZeroDivisionError:
        size, resized = (0, 0), (0, 0)
    if min(size) == 0:
        with pytest.raises(ItemError, match=f"{width}x{height} pixels are too few, or too narrow, for a bucket"):
            bucket_for((width, height), [], no_upscale=True, step=step, resolution=resolution)
        return
    bucket = bucket_for((width, height), [], no_upscale=True, step=step, resolution=resolution)
    assert bucket == Bucket(Size(*size), Size(*resized))
    assert bucket.resized.width <= width
    assert bucket.resized.height <= height
