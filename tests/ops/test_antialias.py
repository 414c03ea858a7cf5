"""What is done against aliasing, judged by a zone plate whose true views are known."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from lightmill.ops.antialias import Antialias, minification, samples_per_side
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, inner, padded_shape
from lightmill.types import Size

FRONT = Camera(name="front", yaw=0, pitch=0)
PANO_HW = 1024, 2048


def padded(pano: np.ndarray) -> np.ndarray:
    buffer = np.zeros(padded_shape(*pano.shape[:2])[: pano.ndim], np.uint8)
    inner(buffer)[:] = pano
    continue_poles(buffer)
    return buffer


def zone_plate(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Rings around (0, 0) that get finer outwards: 0.45 cycles per pixel of the panorama at 45 degrees."""
    phase = 0.45 * PANO_HW[1] / (2 * np.pi / 4) * (longitude**2 + latitude**2)
    inside = np.hypot(longitude, latitude) < np.pi / 4
    return np.where(inside, 127.5 + 120 * np.cos(phase), 127.5)


@cache
def zone_plate_pano() -> np.ndarray:
    height, width = PANO_HW
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    latitude = ((np.arange(height) + 0.5) / height - 0.5) * np.pi
    one = np.rint(zone_plate(longitude[None, :], latitude[:, None])).astype(np.uint8)
    return padded(np.repeat(one[..., None], 3, axis=2))


def true_view(size: Size, *, samples: int = 16) -> np.ndarray:
    """[h, w] the mean over each pixel's area, of samples x samples points, in float64."""
    focal = FRONT.focal_px(size.width)
    offset = (np.arange(samples) + 0.5) / samples
    x = ((np.arange(size.width)[:, None] + offset).ravel() - size.width / 2) / focal
    rows = []
    for row in range(size.height):
        y = (row + offset[:, None] - size.height / 2) / focal
        value = zone_plate(np.arctan(x)[None, :], np.arctan(y / np.sqrt(1 + x * x)))
        rows.append(value.reshape(samples, size.width, samples).mean(axis=(0, 2)))
    return np.array(rows)


def squared_error(size: Size, truth: np.ndarray, *, samples: int = 1) -> float:
    maps = ViewMaps(Rig(name="one", size=size, cameras=(FRONT,)))
    view = maps.cut(zone_plate_pano(), FRONT, interpolation=Interpolation.LINEAR, samples=samples)
    return float(((view[..., 0] - truth) ** 2).mean())


@pytest.mark.parametrize(("width", "gain"), [(260, 2), (205, 5), (160, 10), (120, 20)])
def test_zone_plate_comes_out_truer(width: int, gain: float, record_property: Callable[[str, object], None]) -> None:
    size = Size(width, width // 2)
    samples = samples_per_side(Antialias.AUTO, FRONT, size, pano_width=PANO_HW[1])
    truth = true_view(size)
    plain, better = squared_error(size, truth), squared_error(size, truth, samples=samples)
    record_property("squared error off", plain)
    record_property("squared error auto", better)
    assert plain > gain * better, (samples, plain, better)


def test_no_filter_where_no_pixel_is_skipped() -> None:
    """At a minification of 1.76 averaging makes the view no truer, and the panorama is read as it is."""
    size = Size(370, 185)
    assert minification(FRONT, size, pano_width=PANO_HW[1]) == pytest.approx(1.76, abs=0.005)
    assert samples_per_side(Antialias.AUTO, FRONT, size, pano_width=PANO_HW[1]) == 1
    truth = true_view(size)
    assert squared_error(size, truth) < 1.1 * squared_error(size, truth, samples=2)


def test_samples_are_the_mean_of_a_finer_view() -> None:
    coarse, fine = Size(50, 30), Size(150, 90)
    once = ViewMaps(Rig(name="fine", size=fine, cameras=(FRONT,)))
    view = once.cut(zone_plate_pano(), FRONT, interpolation=Interpolation.CUBIC)
    wanted = view.reshape(30, 3, 50, 3, 3).mean(axis=(1, 3))
    maps = ViewMaps(Rig(name="coarse", size=coarse, cameras=(FRONT,)))
    out = np.zeros((30, 50, 3), np.uint8)
    got = maps.cut(zone_plate_pano(), FRONT, interpolation=Interpolation.CUBIC, samples=3, out=out)
    assert got is out
    assert np.abs(got - wanted).max() <= 0.5


def test_minification_is_the_density_of_columns_at_the_centre() -> None:
    camera, size, width = Camera(name="a", yaw=0, pitch=0, hfov=75), Size(300, 200), 5000
    angle = math.atan(1 / camera.focal_px(size.width))  # between the centre and the point one pixel to its right
    assert minification(camera, size, pano_width=width) == pytest.approx(angle / (2 * math.pi) * width, rel=1e-4)


@pytest.mark.parametrize(
    ("width", "samples"),
    [
        (2607, 1),  # minification 1.00
        (1480, 1),  # 1.76: the acceptance check allows no filter here
        (1304, 1),  # 1.9997
        (1303, 2),  # 2.0012
        (652, 2),  # 3.9994
        (651, 3),  # 4.0056
        (200, 7),  # 13.04
    ],
)
def test_how_many_samples(width: int, samples: int) -> None:
    size = Size(width, width // 2)
    assert samples_per_side(Antialias.AUTO, FRONT, size, pano_width=8192) == samples
    assert samples_per_side(Antialias.OFF, FRONT, size, pano_width=8192) == 1


def test_no_more_samples_than_can_be_cut() -> None:
    wide = Camera(name="wide", yaw=0, pitch=0, hfov=179)
    samples = samples_per_side(Antialias.AUTO, wide, Size(4000, 2000), pano_width=60000)
    assert samples == 8
    maps = ViewMaps(Rig(name="one", size=Size(4000, 2000), cameras=(wide,)))
    with pytest.raises(ValueError, match=r"32766 px \(with 9 samples to a pixel's side, 3640\), got 4000x2000"):
        maps.cut(zone_plate_pano(), wide, interpolation=Interpolation.LINEAR, samples=9)
