"""What rigs see and own, against solid angles, published figures and a direct computation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightmill.ops.cover import coverage, fibonacci_sphere, owners, ownership_mask
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import PRESETS, Ring, numbered_rings, preset
from lightmill.types import Size


def solid_angle_share(hfov: float, aspect: float) -> float:
    """The share of the sphere that a view covers: the solid angle of a rectangular pyramid."""
    a = math.tan(math.radians(hfov) / 2)
    b = a / aspect
    return 4 * math.asin(a * b / math.sqrt((1 + a * a) * (1 + b * b))) / (4 * math.pi)


@pytest.mark.parametrize(
    ("name", "share", "overlap"),
    [  # measured with other code on other samples (Monte Carlo) for the tools these rigs come from
        ("ring8", 0.698, 1.33),
        ("horizon4", 0.667, 0.67),
        ("cube6", 1.0, 1.0),
        ("colmap12", 0.9808, 2.0),
        ("ns8", 1.0, 2.16),
        ("ns14", 1.0, 3.28),
        ("full18", 1.0, 3.0),
        ("ring16-dome", 1.0, 3.75),
    ],
)
def test_coverage_of_presets_is_as_published(name: str, share: float, overlap: float) -> None:
    found = coverage(preset(name), samples=100_000)
    assert found.share == pytest.approx(share, abs=1e-3)
    assert found.mean_overlap == pytest.approx(overlap, abs=6e-3)


@pytest.mark.parametrize("aspect", [1.0, 16 / 9, 0.5])
@pytest.mark.parametrize("name", PRESETS)
def test_mean_overlap_is_the_sum_of_solid_angles(name: str, aspect: float) -> None:
    wanted = sum(solid_angle_share(camera.hfov, aspect) for camera in preset(name))
    assert coverage(preset(name), aspect=aspect, samples=50_000).mean_overlap == pytest.approx(wanted, rel=1e-3)


def test_a_cube_covers_the_sphere_without_a_gap() -> None:
    assert coverage(preset("cube6"), samples=400_000).share == 1


def test_roll_turns_what_a_wide_view_sees() -> None:
    tall = coverage(numbered_rings(Ring(count=4, roll=90)), aspect=2.0)
    assert tall.share == pytest.approx(4 * solid_angle_share(90, 2.0), abs=1e-3)
    assert coverage(numbered_rings(Ring(count=4)), aspect=2.0).share == pytest.approx(tall.share, abs=1e-3)


def test_fibonacci_samples_are_unit_and_even() -> None:
    rays = fibonacci_sphere(10_000)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(rays.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(rays.T @ rays / len(rays), np.eye(3) / 3, atol=1e-4)


def pixel_rays(camera: Camera, size: Size) -> NDArray[np.float64]:
    """[h, w, 3] unit rays of the pixel centres in panorama axes, from the definition of the camera."""
    focal = size.width / (2 * math.tan(math.radians(camera.hfov) / 2))
    x, y = np.meshgrid(np.arange(size.width) + 0.5 - size.width / 2, np.arange(size.height) + 0.5 - size.height / 2)
    rays = np.stack([x, y, np.full_like(x, focal)], axis=-1)
    turned: NDArray[np.float64] = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ camera.pano_from_cam().T
    return turned


def directly_owned(rig: Rig, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[h, w] whether camera `index` owns each of its pixels, by looking at all cameras; and where it is close."""
    rays = pixel_rays(rig.cameras[index], rig.size)
    aspect = rig.size.width / rig.size.height
    distance, edge = [], []
    for camera in rig.cameras:
        x, y, z = np.moveaxis(rays @ camera.pano_from_cam(), -1, 0)
        half = math.tan(math.radians(camera.hfov) / 2)
        inside = np.minimum(z * half - np.abs(x), z * half / aspect - np.abs(y))
        distance.append(np.where(inside >= -1e-12, np.arctan2(np.hypot(x, y), z), np.inf))
        edge.append(np.abs(inside))
    angle = np.array(distance)
    second, first = np.sort(angle, axis=0)[1::-1]
    gap = np.where(np.isinf(second), np.inf, second - np.where(np.isinf(second), 0, first))
    close = (gap < 1e-7) | (np.delete(np.array(edge), index, axis=0).min(axis=0) < 1e-9)
    return np.argmin(angle, axis=0) == index, close


MIXED = (
    Camera(name="a", yaw=10, pitch=5, roll=15, hfov=100),
    Camera(name="b", yaw=60, pitch=-20, roll=-40, hfov=70),
    Camera(name="c", yaw=-35, pitch=80, hfov=120),
    Camera(name="d", yaw=200, pitch=0, hfov=50),
)


@pytest.mark.parametrize("size", [Size(96, 54), Size(61, 61), Size(40, 90)])
@pytest.mark.parametrize(
    "cameras", [*(preset(name) for name in ("ring8", "cube6", "colmap12", "ns14", "full18")), MIXED]
)
def test_masks_are_what_looking_at_every_camera_gives(cameras: tuple[Camera, ...], size: Size) -> None:
    rig = Rig(name="any", size=size, cameras=cameras)
    for index in range(len(cameras)):
        mask = ownership_mask(rig, index)
        assert mask.dtype == np.uint8
        assert mask.shape == (size.height, size.width)
        assert set(np.unique(mask)) <= {0, 255}
        owned, close = directly_owned(rig, index)
        np.testing.assert_array_equal((mask == 255)[~close], owned[~close])


camera_strategy = st.builds(
    Camera,
    name=st.just("x"),
    yaw=st.floats(-180, 180),
    pitch=st.floats(-90, 90),
    roll=st.floats(-180, 180),
    hfov=st.floats(20, 150),
)


@settings(max_examples=60)
@given(cameras=st.lists(camera_strategy, min_size=2, max_size=5), size=st.sampled_from([Size(24, 16), Size(9, 31)]))
def test_masks_of_any_rig(cameras: list[Camera], size: Size) -> None:
    rig = Rig(name="any", size=size, cameras=tuple(cameras))
    for index in range(len(cameras)):
        owned, close = directly_owned(rig, index)
        np.testing.assert_array_equal((ownership_mask(rig, index) == 255)[~close], owned[~close])


@pytest.mark.parametrize("size", [Size(400, 400), Size(480, 270)])
@pytest.mark.parametrize("name", ["ring8-110", "cube6", "colmap12", "ns8", "full18"])
def test_every_direction_that_is_seen_has_one_owner(name: str, size: Size) -> None:
    rig = Rig(name=name, size=size, cameras=preset(name))
    rays = fibonacci_sphere(40_000)
    owner = owners(rig.cameras, rays, aspect=size.width / size.height)
    claims = np.zeros(len(rays), int)
    seen = np.zeros(len(rays), bool)
    unsure = np.zeros(len(rays), bool)
    for index, camera in enumerate(rig.cameras):
        mask = ownership_mask(rig, index)
        x, y, z = (rays @ camera.pano_from_cam()).T
        ahead = z > 1e-3
        depth = np.where(ahead, z, 1)
        focal = camera.focal_px(size.width)
        column = np.floor(x / depth * focal + size.width / 2).astype(int)
        row = np.floor(y / depth * focal + size.height / 2).astype(int)
        inside = ahead & (column >= 0) & (column < size.width) & (row >= 0) & (row < size.height)
        around = np.pad(mask, 1)  # a pixel at a border may show a direction that its centre does not own
        near = [around[row[inside] + dy, column[inside] + dx] for dy in range(3) for dx in range(3)]
        unsure[inside] |= np.ptp(near, axis=0) > 0
        claims[inside] += mask[row[inside], column[inside]] == 255
        seen |= inside
        certain = inside & ~unsure
        np.testing.assert_array_equal(
            mask[row[certain], column[certain]] == 255, owner[certain] == index, err_msg=camera.name
        )
    certain = ~unsure
    assert certain.mean() > 0.6
    np.testing.assert_array_equal(claims[certain], seen[certain])
    np.testing.assert_array_equal(owner[certain] >= 0, seen[certain])


def test_of_two_equal_cameras_the_first_owns_all() -> None:
    twin = Camera(name="a", yaw=20, pitch=10, hfov=80)
    rig = Rig(name="twins", size=Size(30, 20), cameras=(twin, twin))
    assert ownership_mask(rig, 0).min() == 255
    assert ownership_mask(rig, 1).max() == 0
    rays = pixel_rays(twin, rig.size).reshape(-1, 3)
    assert set(owners(rig.cameras, rays, aspect=1.5)) == {0}


def test_a_column_of_pixels_that_is_equally_near_to_two_cameras_goes_to_the_first() -> None:
    # half the angle between the axes has the tangent 0.3: in a view of f = 5 px that is the centre of column 6 (or 3)
    turn = math.degrees(math.atan(0.3))
    cameras = tuple(Camera(name=f"cam{i}", yaw=yaw, pitch=0, hfov=90) for i, yaw in enumerate((-turn, turn)))
    rig = Rig(name="pair", size=Size(10, 4), cameras=cameras)
    np.testing.assert_array_equal(ownership_mask(rig, 0)[1], [255] * 7 + [0] * 3)
    np.testing.assert_array_equal(ownership_mask(rig, 1)[1], [0] * 4 + [255] * 6)
    shared = pixel_rays(cameras[0], rig.size)[1, 6]
    assert owners(cameras, shared[None], aspect=2.5) == 0
    assert owners(cameras[::-1], shared[None], aspect=2.5) == 0


def test_nobody_owns_what_nobody_sees() -> None:
    assert set(owners(preset("horizon4"), np.array([[0.0, 1, 0], [0, -1, 0], [0, 0, 1]]))) == {-1, 0}
