"""Pictures fitted to a size: reduced or enlarged, cropped or padded; and where each pixel then comes from.

The plan is made from the size of the original alone, before a pixel is decoded: so a JPEG may be decoded smaller
(`decode(at_least=mapping.resized)`), and boxes and masks can follow the same way.
"""

import math
from collections.abc import Callable
from collections.abc import Mapping as Fields
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.buckets import Bucket
from lightmill.types import Size

Pixels: TypeAlias = NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]  # sRGB levels
Box: TypeAlias = tuple[float, float, float, float]  # x, y, w, h in px; pixel centres at +0.5

CENTRE = (0.5, 0.5)

_AS_GOOD = 0.97  # of the most that a window can hold
_FITS = 0.9  # of all saliency, in a window that what stands out fits in
_LOBES = 3  # of the Lanczos filter
_SMOOTH_FROM = 1.25  # times smaller: then four pixels do as well as eight, and in a third of the time
_GAP = 3  # what is reduced 2 * _GAP times and more is first averaged by a whole number, to _GAP times at the least


class Fit(StrEnum):
    """How a picture comes to its size."""

    NONE = "none"  # it stays as it is
    INSIDE = "inside"  # all of it, no side longer than the size
    COVER = "cover"  # the size is filled, what sticks out is cut off
    PAD = "pad"  # all of it, with bars
    BUCKET = "bucket"  # as cover, to the bucket that suits its aspect ratio


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where a fitted picture comes from: resized as a whole, then laid on a canvas of another size.

    Along x: `output = source * resized_width / source_width + offset_x`, in px, with pixel centres at +0.5.
    """

    source: tuple[int, int]  # (width, height) of the original, upright
    resized: tuple[int, int]  # (width, height) of all of it in pixels of the output
    offset: tuple[int, int]  # (x, y) of its corner on the canvas: below 0 where it is cropped, above where padded
    size: tuple[int, int]  # (width, height) of the output

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the output for one of the source, along x and y; they differ by rounding only."""
        return self.resized[0] / self.source[0], self.resized[1] / self.source[1]

    @property
    def crop(self) -> Box:
        """The part of the source that is seen in the output."""
        whole: Box = (0.0, 0.0, float(self.size[0]), float(self.size[1]))
        (x, y, w, h), (width, height) = self.box_in(whole), self.source
        left, top = max(0.0, x), max(0.0, y)
        return left, top, min(float(width), x + w) - left, min(float(height), y + h) - top

    @property
    def changes_nothing(self) -> bool:
        """Whether the output is the source, pixel for pixel."""
        return self.source == self.resized == self.size

    def box_out(self, box: Box) -> Box:
        """A box of the source in pixels of the output; not clipped."""
        (x, y, w, h), (sx, sy), (dx, dy) = box, self.scale, self.offset
        return x * sx + dx, y * sy + dy, w * sx, h * sy

    def box_in(self, box: Box) -> Box:
        """A box of the output in pixels of the source; not clipped."""
        (x, y, w, h), (sx, sy), (dx, dy) = box, self.scale, self.offset
        return (x - dx) / sx, (y - dy) / sy, w / sx, h / sy

    def to_json(self) -> dict[str, Any]:
        """The fields, and `scale` and `crop` for readers who do not want to work them out."""
        return {**asdict(self), "scale": self.scale, "crop": self.crop}

    @classmethod
    def from_json(cls, fields: Fields[str, Any]) -> Self:
        """The mapping that `to_json` wrote."""
        source, resized, offset, size = (tuple(fields[name]) for name in ("source", "resized", "offset", "size"))
        return cls(source, resized, offset, size)


def fit(
    pixels: Pixels,
    *,
    how: Fit,
    size: Size | Bucket | None = None,
    focus: tuple[float, float] = CENTRE,
    matte: Colour | None = None,
    no_upscale: bool = False,
) -> tuple[Pixels, Mapping]:
    """`plan_fit` and `apply_fit` in one: for pixels that are the original's."""
    mapping = plan_fit((pixels.shape[1], pixels.shape[0]), how=how, size=size, focus=focus, no_upscale=no_upscale)
    return apply_fit(pixels, mapping, matte=matte), mapping


def plan_fit(
    source: tuple[int, int],
    *,
    how: Fit,
    size: Size | Bucket | None = None,
    focus: tuple[float, float] = CENTRE,
    no_upscale: bool = False,
) -> Mapping:
    """How a picture of `source` (width, height) px, upright, comes to `size`.

    `size` is what `bucket_for` gave where `how` is BUCKET, and nothing where it is NONE. `focus` (x, y), shares of the
    picture from its upper left corner, is what a crop keeps in its middle as far as the picture reaches. With
    `no_upscale` a smaller picture keeps its pixels: it stays as it is with INSIDE, gets wider bars with PAD, and with
    COVER only what is longer than the size is cut off. A bucket has that decided already.

    Raises ValueError where `size` is not of the kind that `how` needs.
    """
    match how, size:
        case Fit.NONE, _:
            return Mapping(source, source, (0, 0), source)
        case Fit.BUCKET, Bucket():
            return _cropped(source, _pair(size.resized), _pair(size.size), focus)
        case ((Fit.INSIDE | Fit.PAD), Size()):
            canvas = _pair(size)
            resized = _resized(source, canvas, min, no_upscale=no_upscale)
            resized = min(resized[0], canvas[0]), min(resized[1], canvas[1])
            return _padded(source, resized, canvas if how is Fit.PAD else resized)
        case Fit.COVER, Size():
            wanted = _pair(size)
            resized = _resized(source, wanted, max, no_upscale=no_upscale)
            return _cropped(source, resized, (min(wanted[0], resized[0]), min(wanted[1], resized[1])), focus)
    raise ValueError(f"to fit by {how} takes a {'Bucket' if how is Fit.BUCKET else 'Size'}, got {size!r}")


def apply_fit(pixels: Pixels, mapping: Mapping, *, matte: Colour | None = None) -> Pixels:
    """The output of a plan, C-contiguous; `pixels` themselves where nothing changes.

    pixels: uint8 [H, W, 3] RGB or [H, W, 4] with alpha that the colours are not multiplied by: the original, or a
    reduced copy of all of it. With `matte`, alpha is composited on that colour, bars get it, and the result has 3
    channels. Without, alpha is kept and bars are transparent; of a picture that has none they are black.

    Levels are averaged as they are (sRGB), as trainers and Pillow do. Colours count by their alpha, so that what lies
    under transparent pixels never shows.
    """
    if matte is not None:
        pixels = on_matte(pixels, matte)
    whole = _resample(pixels, mapping.resized)
    if mapping.resized == mapping.size:
        return np.ascontiguousarray(whole)
    (dx, dy), (width, height) = mapping.offset, mapping.size
    seen = whole[max(0, -dy) : height - dy, max(0, -dx) : width - dx]
    if seen.shape[:2] == (height, width):
        return np.ascontiguousarray(seen)
    canvas = np.zeros((height, width, pixels.shape[2]), np.uint8)
    if matte is not None:
        canvas[:] = matte
    left, top = max(0, dx), max(0, dy)
    canvas[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return canvas


def on_matte(pixels: Pixels, matte: Colour) -> Pixels:
    """[H, W, 3]: pixels with alpha laid on one colour, in sRGB levels as browsers do; without alpha, as they are."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = cv2.cvtColor(np.ascontiguousarray(pixels[..., 3]), cv2.COLOR_GRAY2RGB).astype(np.uint16)
    mixed = pixels[..., :3] * alpha + np.array(matte, np.uint16) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def focus_of(saliency: NDArray[np.float32], *, window: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """Where a crop should look, as `focus` (x, y): the middle of a window that holds about as much as any can.

    saliency: float [H, W], 0 and above, upright, of any resolution. window: the (width, height) that the crop keeps,
    as shares of the picture: of `plan_fit(...).crop`. Each direction is looked at by itself. Of windows that hold much
    the same the one nearest to the centre of mass is taken; but what is too tall is kept from its top, since heads are
    there, and a row counts by its highest saliency, lest shoulders outweigh them. Where nothing stands out it is the
    centre.
    """
    mass = np.maximum(saliency, 0, dtype=np.float64)
    if not mass.any():
        return CENTRE
    return _look(mass.sum(axis=0), window[0], from_start=False), _look(mass.max(axis=1), window[1], from_start=True)


def _look(profile: NDArray[np.float64], share: float, *, from_start: bool) -> float:
    """The middle, as a share, of the best window along one direction."""
    length = max(1, min(len(profile), round(len(profile) * share)))
    sums = np.concatenate([[0.0], profile.cumsum()])
    held = sums[length:] - sums[:-length]
    good = np.flatnonzero(held >= held.max() * _AS_GOOD)
    if from_start and held.max() < _FITS * sums[-1]:
        return float(good[0] + length / 2) / len(profile)
    centre = profile @ (np.arange(len(profile)) + 0.5) / sums[-1]
    return float(good[np.abs(good + length / 2 - centre).argmin()] + length / 2) / len(profile)


def _resample(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 3 or 4] resized to (width, height): Lanczos both ways, antialiased for any factor.

    OpenCV's own Lanczos reads 8 pixels whatever the factor, so it lets through what the smaller picture cannot hold:
    of a zone plate, reduced 2.4 times, 89 % of that, as moiré. Its area filter lets through 14 %, and takes a fifth
    from the finer half of what could be kept. A Lanczos window as wide as the new pixels, before OpenCV's, lets
    through 3 % and takes 5 %, as Pillow's Lanczos does: photographs differ from that by a quarter of a level.
    """
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    if pixels.shape[2] == 3:
        return np.asarray(_lanczos(pixels, size), np.uint8)
    weighted = pixels.astype(np.float32)
    weighted[..., :3] *= weighted[..., 3:] / 255
    levels = _lanczos(weighted, size)
    levels[..., :3] *= 255 / np.maximum(levels[..., 3:], 0.5)  # less alpha than that is written as none
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _lanczos(levels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """uint8 or float32 [H, W, channels], resized in its own type."""
    coarse = [max(1, int(old / new / _GAP)) for old, new in zip(levels.shape[1::-1], size, strict=True)]
    if max(coarse) > 1:
        reduced = [-(-old // factor) for old, factor in zip(levels.shape[1::-1], coarse, strict=True)]
        levels = cv2.resize(levels, reduced, interpolation=cv2.INTER_AREA)
    factors = [old / new for old, new in zip(levels.shape[1::-1], size, strict=True)]
    smooth = min(factors) >= _SMOOTH_FROM
    across, down = (_before_cubic(factor) if smooth else _low_pass(factor) for factor in factors)
    if max(across.size, down.size) > 1:
        levels = cv2.sepFilter2D(levels, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(levels, size, interpolation=cv2.INTER_CUBIC if smooth else cv2.INTER_LANCZOS4)


def _low_pass(factor: float) -> NDArray[np.float32]:
    """A Lanczos window for a reduction by `factor`, of sum 1; what is enlarged needs none."""
    if factor <= 1:
        return np.ones(1, np.float32)
    reach = int(_LOBES * factor)
    window = _lanczos_at(np.arange(-reach, reach + 1) / factor)
    return np.asarray(window / window.sum(), np.float32)


@lru_cache(maxsize=256)
def _before_cubic(factor: float) -> NDArray[np.float32]:
    """[taps], of sum 1: what lets OpenCV's cubic, four pixels instead of eight, end as a Lanczos window would.

    The taps are fitted by least squares: their response, times that of the cubic, to the response of the window. What
    the smaller picture cannot hold counts twice, what lies at its very limit a third.
    """
    waves = np.linspace(0, 0.5, 101)  # cycles per pixel of the larger picture
    order = np.arange(1, int(_LOBES * factor) + 1)
    cubic, wanted = _response(_cubic_at, waves), _response(_lanczos_at, waves * factor)
    weight = np.select([waves * factor < 0.42, waves * factor < 0.55], [1, 0.3], 2.0)
    columns = 2 * (np.cos(2 * np.pi * np.outer(waves, order)) - 1) * (cubic * weight)[:, None]
    side = np.linalg.lstsq(columns, (wanted - cubic) * weight, rcond=None)[0]
    return np.asarray([*side[::-1], 1 - 2 * side.sum(), *side], np.float32)


def _response(kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]], waves: NDArray[np.float64]) -> Any:
    """What is left of waves (cycles per unit of `kernel`), which is even and ends within 3."""
    at = (np.arange(3000) + 0.5) / 1000
    return 2 * np.cos(2 * np.pi * np.outer(waves, at)) @ kernel(at) / 1000


def _lanczos_at(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < _LOBES, np.sinc(x) * np.sinc(x / _LOBES), 0)


def _cubic_at(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981, with the -0.75 that OpenCV takes; for x >= 0."""
    near, far = (1.25 * x - 2.25) * x * x + 1, -0.75 * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _resized(
    source: tuple[int, int], size: tuple[int, int], pick: Callable[[float, float], float], *, no_upscale: bool
) -> tuple[int, int]:
    """The size that `source` has once its tighter (min) or looser (max) side is that of `size`."""
    scale = pick(size[0] / source[0], size[1] / source[1])
    if no_upscale:
        scale = min(1.0, scale)
    return max(1, int(source[0] * scale + 0.5)), max(1, int(source[1] * scale + 0.5))


def _cropped(
    source: tuple[int, int], resized: tuple[int, int], size: tuple[int, int], focus: tuple[float, float]
) -> Mapping:
    left, top = (
        min(max(0, math.floor(whole * share - seen / 2)), whole - seen)
        for whole, seen, share in zip(resized, size, focus, strict=True)
    )
    return Mapping(source, resized, (-left, -top), size)


def _padded(source: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]) -> Mapping:
    return Mapping(source, resized, ((size[0] - resized[0]) // 2, (size[1] - resized[1]) // 2), size)


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height
