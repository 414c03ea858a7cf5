"""Views cut out of a panorama and joined again give the panorama back."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lightmill.ops.join import JoinMaps, PanoJoin, join_masks, join_views
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, Pixels, ViewMaps, continue_poles, inner, padded_shape
from lightmill.types import Size

PANO_HW = 256, 512


def rig_of(*angles: tuple[float, ...], size: Size = Size(192, 192)) -> Rig:  # noqa: B008 (frozen)
    cameras = (
        Camera(name=f"cam{i:02d}", yaw=yaw, pitch=pitch, roll=roll, hfov=hfov)
        for i, (yaw, pitch, roll, hfov) in enumerate(angles)
    )
    return Rig(name="test", size=size, cameras=tuple(cameras))


CUBE = rig_of(*((90.0 * i, 0, 0, 90) for i in range(4)), (0, 90, 0, 90), (0, -90, 0, 90))
FULL = rig_of(
    *((45.0 * i, 0, 0, 90) for i in range(8)),
    *((90.0 * i, pitch, 0, 90) for pitch in (45, -45) for i in range(4)),
    (0, 90, 0, 90),
    (0, -90, 0, 90),
)


def smooth_pano(pano_hw: tuple[int, int]) -> np.ndarray:
    """A smooth function of the direction, so that seam and poles are no special places of it."""
    longitude = ((np.arange(pano_hw[1]) + 0.5) / pano_hw[1] - 0.5) * 2 * np.pi
    latitude = ((np.arange(pano_hw[0]) + 0.5) / pano_hw[0] - 0.5)[:, None] * np.pi
    x, y, z = (
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude) + 0 * longitude,
        np.cos(latitude) * np.cos(longitude),
    )
    waves = [np.sin(5 * x + 3 * y), np.cos(7 * z - 2 * x), np.sin(6 * y + 4 * z)]
    return np.rint(127.5 + 110 * np.stack(waves, axis=-1)).astype(np.uint8)


def padded(pano: np.ndarray) -> np.ndarray:
    buffer = np.zeros(padded_shape(*pano.shape[:2])[: pano.ndim], np.uint8)
    inner(buffer)[:] = pano
    continue_poles(buffer)
    return buffer


def views_of(pano: np.ndarray, rig: Rig) -> dict[str, Pixels]:
    maps, buffer = ViewMaps(rig), padded(pano)
    return {c.name: maps.cut(buffer, c, interpolation=Interpolation.LINEAR) for c in rig.cameras}


@pytest.mark.parametrize("rig", [CUBE, FULL], ids=["cube6", "full18"])
@pytest.mark.parametrize("pano_hw", [PANO_HW, (251, 506)], ids=str)
def test_there_and_back_again(rig: Rig, pano_hw: tuple[int, int]) -> None:
    pano = smooth_pano(pano_hw)
    joined = join_views(rig, pano_hw, views_of(pano, rig))
    assert (joined.covered == 255).all()
    off = np.abs(joined.pixels.astype(np.float64) - pano)
    assert off.mean() < 0.15
    assert off[:, [0, 1, -2, -1]].mean() < 0.15  # at the seam
    assert off[[0, 1, -2, -1]].mean() < 0.4  # at the poles
    assert off.max() <= 2


def test_what_no_camera_sees_is_black_and_not_covered() -> None:
    rig = rig_of((170, 30, 10, 70), size=Size(160, 90))
    joined = join_views(rig, PANO_HW, views_of(smooth_pano(PANO_HW), rig))
    camera = rig.cameras[0]
    longitude = ((np.arange(512) + 0.5) / 512 - 0.5) * 2 * np.pi
    latitude = ((np.arange(256) + 0.5) / 256 - 0.5)[:, None] * np.pi
    rays = np.stack(
        [np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude, np.cos(latitude) * np.cos(longitude)],
        -1,
    )
    x, y, z = np.moveaxis(rays @ camera.pano_from_cam(), -1, 0)
    focal = camera.focal_px(160)
    beyond = np.maximum(np.abs(focal * x / z) - 80, np.abs(focal * y / z) - 45)
    seen, border = (z > 0) & (beyond <= 0), (z > 0) & (np.abs(beyond) < 1 / 32)
    assert np.array_equal(joined.covered[~border], np.where(seen, 255, 0)[~border])
    assert (joined.pixels[joined.covered == 0] == 0).all()
    assert 0.02 < seen.mean() < 0.2


def test_there_is_no_step_where_a_view_ends() -> None:
    """Two overlapping views of different brightness: the blend goes from one to the other gently."""
    rig = rig_of((0, 0, 0, 90), (45, 0, 0, 90))
    size = rig.size
    views = {"cam00": np.full((size.height, size.width, 3), 100, np.uint8)}
    views["cam01"] = np.full_like(views["cam00"], 200)
    row = join_views(rig, PANO_HW, views).pixels[PANO_HW[0] // 2, :, 0].astype(int)
    covered = row[row > 0]
    assert covered[0] == 100
    assert covered[-1] == 200
    assert (np.diff(covered) >= 0).all()
    assert np.diff(covered).max() <= 6


def test_views_may_come_one_at_a_time_and_in_any_order() -> None:
    views = views_of(smooth_pano(PANO_HW), CUBE)
    join = PanoJoin(CUBE, PANO_HW)
    results = []
    for cameras in (CUBE.cameras, CUBE.cameras[::-1]):
        for camera in cameras:
            join.add(camera, views[camera.name])
        results.append(join.result().pixels)
        join.clear()
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1  # float32 sums depend on the order
    assert (join.result().covered == 0).all()


def test_masks_by_the_majority_of_weights() -> None:
    pano = np.zeros(PANO_HW, np.uint8)
    pano[60:200, 100:380] = 255
    maps, buffer = ViewMaps(FULL), padded(pano)
    masks = {camera.name: maps.cut_mask(buffer, camera) for camera in FULL.cameras}
    joined = join_masks(FULL, PANO_HW, masks)
    assert set(np.unique(joined.pixels)) == {0, 255}
    wrong = joined.pixels != pano
    assert wrong.mean() < 0.004  # along the border only:
    assert not wrong[64:196, 104:376].any()
    assert not wrong[:56].any()
    assert not wrong[204:].any()


def test_masks_at_exactly_one_half_are_kept() -> None:
    rig = rig_of((0, 0, 0, 90), (0, 0, 0, 90))
    half = join_masks(
        rig, PANO_HW, {"cam00": np.zeros((192, 192), np.uint8), "cam01": np.full((192, 192), 255, np.uint8)}
    )
    assert (half.pixels == half.covered).all()


def test_maps_are_shared_by_threads() -> None:
    views = views_of(smooth_pano(PANO_HW), FULL)
    maps = JoinMaps(FULL)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: join_views(FULL, PANO_HW, views, maps=maps).pixels, range(4)))
    without_room = join_views(FULL, PANO_HW, views, maps=JoinMaps(FULL, capacity_bytes=0)).pixels
    assert all(np.array_equal(result, without_room) for result in results)


def test_wrong_views_are_refused() -> None:
    join = PanoJoin(CUBE, PANO_HW)
    with pytest.raises(ValueError, match=r"camera cam00 must be uint8 \[192, 192, 3\], got uint8 \[192, 192\]"):
        join.add(CUBE.cameras[0], np.zeros((192, 192), np.uint8))
    with pytest.raises(ValueError, match="has no camera 'cam99'; it has cam00, cam01"):
        join_views(CUBE, PANO_HW, {"cam99": np.zeros((192, 192, 3), np.uint8)})
    with pytest.raises(ValueError, match="at most 32766 px, got 40000x20"):
        JoinMaps(rig_of((0, 0, 0, 90), size=Size(40000, 20)))
