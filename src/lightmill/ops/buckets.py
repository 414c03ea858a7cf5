"""Aspect-ratio buckets: the sizes that a trainer cuts its pictures to, so that the pictures of a batch are of one size.

The rule is that of sd-scripts (kohya-ss, `make_bucket_resolutions` and `BucketManager.select_bucket`), so that pictures
that were fitted here go into its buckets without being resized or cropped a second time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightmill.errors import ItemError
from lightmill.types import Size

_LONGEST = 65500  # px of a side, of `Size`


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a picture goes: it is resized to `resized`, and cut to `size`."""

    size: Size
    resized: Size  # at least `size` along both sides


def bucket_sizes(resolution: int | Size, *, step: int = 64, least: int = 512, most: int = 2048) -> list[Size]:
    """The sizes whose area is at most that of `resolution` and whose sides are multiples of `step`, narrowest first.

    For every width from `least` to `most` the tallest such height up to `most`, where that is not below `least`; each
    also lying on its side; and the largest square. As in sd-scripts, `least` is rounded down to a multiple of `step`
    and `most` up.

    Raises ValueError where `resolution` is not between `least` and `most`, or `least` is below one `step`.

    >>> [str(size) for size in bucket_sizes(512, step=128, least=384, most=640)]
    ['384x640', '512x512', '640x384']
    """
    full = _as_size(resolution)
    if step < 1 or least < step:
        raise ValueError(f"a bucket's sides are one step or longer, got a step of {step} and sides from {least}")
    least, most = least - least % step, most + -most % step
    if min(full.width, full.height) < least or max(full.width, full.height) > most:
        raise ValueError(f"the resolution {full} has to lie between the shortest and longest side, {least} and {most}")
    area = full.width * full.height
    square = math.isqrt(area) // step * step
    found = {(square, square)}
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            found |= {(width, height), (height, width)}
    return [Size(*size) for size in sorted(found)]


def bucket_for(
    size_wh: tuple[int, int],
    buckets: Sequence[Size],
    *,
    no_upscale: bool = False,
    step: int = 64,
    resolution: int | Size = 1024,
) -> Bucket:
    """The bucket that a picture of `size_wh` px goes to.

    The one of its very size, else the first whose aspect ratio differs least; it is filled, and what sticks out is cut
    off. With `no_upscale` the list is left aside: a picture above the area of `resolution` is reduced to about that
    area, with the side that keeps its aspect ratio better a multiple of `step`, a smaller one stays as it is; both are
    cut to multiples of `step`.

    Raises ItemError for a picture that is too small or too narrow for any bucket.

    >>> bucket_for((4000, 3000), bucket_sizes(1024))
    Bucket(size=Size(width=1152, height=896), resized=Size(width=1195, height=896))
    >>> bucket_for((700, 500), [], no_upscale=True)
    Bucket(size=Size(width=640, height=448), resized=Size(width=700, height=500))
    """
    if no_upscale:
        return _without_upscaling(size_wh, step, _as_size(resolution))
    return _of_the_list(size_wh, buckets)


def _of_the_list(size_wh: tuple[int, int], buckets: Sequence[Size]) -> Bucket:
    width, height = size_wh
    if Size(width, height) in buckets:
        return Bucket(Size(width, height), Size(width, height))
    aspect = width / height
    size = min(buckets, key=lambda bucket: abs(bucket.width / bucket.height - aspect))  # of equals, the first
    scale = size.height / height if aspect > size.width / size.height else size.width / width
    resized = _round(width * scale), _round(height * scale)
    if max(resized) > _LONGEST:
        raise ItemError(f"{width}x{height} pixels are too narrow: no bucket is anywhere near their aspect ratio")
    return Bucket(size, Size(*resized))


def _without_upscaling(size_wh: tuple[int, int], step: int, resolution: Size) -> Bucket:
    width, height = _reduced(size_wh, step, resolution.width * resolution.height)
    if min(width, height) < step:
        raise ItemError(_too_small(size_wh, step))
    return Bucket(Size(width - width % step, height - height % step), Size(width, height))


def _reduced(size_wh: tuple[int, int], step: int, area: int) -> tuple[int, int]:
    """The size of about `area` pixels with one side a multiple of `step`: that with the better aspect ratio."""
    width, height = size_wh
    if width * height <= area:
        return size_wh
    aspect = width / height
    ideal_width = math.sqrt(area * aspect)
    by_width, by_height = _snap(ideal_width, step), _snap(area / ideal_width, step)
    height_of, width_of = _snap(by_width / aspect, step), _snap(by_height * aspect, step)  # once they are cut
    if not height_of or not by_height:
        raise ItemError(_too_small(size_wh, step))
    if abs(by_width / height_of - aspect) < abs(width_of / by_height - aspect):
        return by_width, _round(by_width / aspect)
    return _round(by_height * aspect), by_height


def _snap(length: float, step: int) -> int:
    return _round(length) // step * step


def _round(length: float) -> int:
    return int(length + 0.5)


def _as_size(resolution: int | Size) -> Size:
    return resolution if isinstance(resolution, Size) else Size(resolution, resolution)


def _too_small(size_wh: tuple[int, int], step: int) -> str:
    return (
        f"{size_wh[0]}x{size_wh[1]} pixels are too few, or too narrow, for a bucket with sides of {step} px or more; "
        "allow upscaling, or lower the step"
    )
