"""Pictures of the scene against closed forms, pycolmap's rays and py360convert's views."""

import math

import numpy as np
import py360convert
import pycolmap
import pytest
from numpy.typing import NDArray

from lightmill.errors import UsageError
from lightmill.ops.rig import Camera
from lightmill.sample.courtyard import CAMERA_HEIGHT_M, GROUND, PERSON, SKY, person
from lightmill.sample.render import Rendered, camera_centre, panorama, pinhole, to_srgb, world_from_pano
from lightmill.sample.scene import Scene, trace
from lightmill.sample.shapes import Ball, Capsule
from lightmill.types import Size

WIDTH = 512
BALL, SMALL_BALL = ((0.0, -1.27, 0.0), 0.72), ((0.60, -0.81, -0.62), 0.26)


@pytest.fixture(scope="module")
def pano() -> Rendered:
    return panorama(Scene(1), time_s=1.5, width=WIDTH)


@pytest.fixture(scope="module")
def wide() -> Rendered:
    return panorama(Scene(1), time_s=1.5, width=2 * WIDTH, supersample=1)


def pano_rays(width: int) -> NDArray[np.float64]:
    """[H, W, 3] from the definition: column (atan2(x, z)/2pi + 1/2) W, row (1/2 + asin(y)/pi) H."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(width // 2) + 0.5)
    yaw, down = (column / width - 0.5) * 2 * np.pi, (row / (width // 2) - 0.5) * np.pi
    rays = np.stack([np.sin(yaw) * np.cos(down), np.sin(down), np.cos(yaw) * np.cos(down)], axis=-1)
    return rays @ world_from_pano(0).T


def ball_depth(
    ball: tuple[tuple[float, ...], float], centre: NDArray[np.float64], rays: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Smaller root of |centre + t ray - at|^2 = r^2, nan where there is none above 0."""
    off = centre - np.array(ball[0])
    b, c = rays @ off, off @ off - ball[1] ** 2
    with np.errstate(invalid="ignore"):
        depth = -b - np.sqrt(b * b - c)
    return np.where(depth > 0, depth, np.nan)


def check_ball_and_ground(rendered: Rendered, rays: NDArray[np.float64], centre: NDArray[np.float64]) -> int:
    """Returns the number of pixels on the ball."""
    depth = ball_depth(BALL, centre, rays)
    grown = [(at, radius + 0.02) for at, radius in (BALL, SMALL_BALL)]
    small = np.isnan(ball_depth(grown[1], centre, rays))
    on_ball = np.isfinite(depth) & small & (depth < np.linalg.norm(centre - BALL[0]) - 0.2)
    np.testing.assert_allclose(rendered.depth[on_ball], depth[on_ball], atol=2e-5)
    steep = rays[..., 1] > 0.95  # straight down there is nothing but the ground and, in the mask, the person
    steep &= rendered.mask == 255
    np.testing.assert_allclose(rendered.depth[steep], CAMERA_HEIGHT_M / rays[..., 1][steep], rtol=1e-5)
    return int(on_ball.sum())


def test_panorama_depth_is_exact(pano: Rendered) -> None:
    assert pano.pixels.shape == (WIDTH // 2, WIDTH, 3)
    assert (pano.pixels.dtype, pano.mask.dtype, pano.depth.dtype) == (np.uint8, np.uint8, np.float32)
    assert check_ball_and_ground(pano, pano_rays(WIDTH), camera_centre(1.5)) > 400
    assert np.isinf(pano.depth[0]).all()


CAMERAS = [
    Camera(name="ahead", yaw=0, pitch=-12, hfov=80),
    Camera(name="person", yaw=80, pitch=-20, roll=15, hfov=95),
    Camera(name="seam", yaw=-175, pitch=5, roll=-30, hfov=70),
    Camera(name="down", yaw=30, pitch=-88, hfov=90),
]


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_pinhole_depth_is_exact_along_pycolmaps_rays(camera: Camera) -> None:
    size, time_s = Size(120, 90), 1.5
    view = pinhole(Scene(1), camera, size, time_s=time_s, supersample=1)
    focal = camera.focal_px(size.width)
    colmap = pycolmap.Camera(model="SIMPLE_PINHOLE", width=120, height=90, params=[focal, 60, 45])
    column, row = np.meshgrid(np.arange(120) + 0.5, np.arange(90) + 0.5)
    flat = colmap.cam_from_img(np.stack([column.ravel(), row.ravel()], axis=1))
    rays = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ camera.pano_from_cam().T
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).reshape(90, 120, 3)
    on_ball = check_ball_and_ground(view, rays @ world_from_pano(time_s).T, camera_centre(time_s))
    assert on_ball > 400 or camera.name != "ahead"


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_pinhole_agrees_with_py360convert_views_of_the_panorama(camera: Camera, wide: Rendered) -> None:
    size = Size(128, 96)
    view = pinhole(Scene(1), camera, size, time_s=1.5)
    vfov = 2 * math.degrees(math.atan(math.tan(math.radians(camera.hfov / 2)) * size.height / size.width))

    def cut(picture: NDArray[np.generic], mode: str) -> NDArray[np.generic]:
        where = {"u_deg": camera.yaw, "v_deg": camera.pitch, "out_hw": (96, 128), "in_rot_deg": camera.roll}
        return py360convert.e2p(picture, fov_deg=(camera.hfov, vfov), mode=mode, **where)

    far = np.abs(cut(wide.pixels, "bilinear").astype(int) - view.pixels)
    assert np.median(far) <= 3
    assert far.mean() < 9  # edges, which differ by up to a pixel
    assert (cut(wide.mask, "nearest") == view.mask).mean() > 0.98
    finite = np.isfinite(view.depth)
    with np.errstate(invalid="ignore"):
        ratio = (cut(wide.depth, "nearest")[finite] / view.depth[finite]).astype(np.float64)
    assert np.percentile(np.abs(ratio - 1), 80) < 0.03


def person_gap(rays: NDArray[np.float64], centre: NDArray[np.float64], time_s: float) -> NDArray[np.float64]:
    """[...] how far rays pass outside of the person, m, by points along its bones."""
    gap = np.full(rays.shape[:-1], np.inf)
    for solid in person(time_s):
        ends = (solid.at, solid.at) if isinstance(solid, Ball) else (solid.start, solid.end)
        assert isinstance(solid, Ball | Capsule)
        for share in np.linspace(0, 1, 1 if isinstance(solid, Ball) else 30):
            off = np.array(ends[0]) * (1 - share) + np.array(ends[1]) * share - centre
            along = rays @ off
            passes = np.linalg.norm(off - np.maximum(along, 0)[..., None] * rays, axis=-1)
            gap = np.minimum(gap, passes - solid.radius)
    return gap


@pytest.mark.parametrize("time_s", [1.3, 9.7])
def test_the_mask_is_the_person(time_s: float) -> None:
    rendered = panorama(Scene(1), time_s=time_s, width=256, supersample=1)
    gap = person_gap(pano_rays(256), camera_centre(time_s), time_s)
    assert set(np.unique(rendered.mask)) == {0, 255}
    assert 300 < (rendered.mask == 0).sum() < 2500
    assert (rendered.mask[gap < -1e-3] == 0).all()
    assert (rendered.mask[gap > 1e-3] == 255).all()


def test_the_person_stays_near_and_the_camera_walks() -> None:
    for time_s in np.arange(0, 30, 0.7):
        centre = camera_centre(time_s)
        assert np.linalg.norm(camera_centre(time_s + 0.1) - centre) == pytest.approx(0.0725, abs=1e-3)
        for solid in person(time_s):
            middle = solid.bound[0][:, 0] - centre
            assert 0.8 < math.hypot(middle[0], middle[2]) < 1.9
            assert solid.bound[0][1, 0] + solid.bound[1][1, 0] < 0.05  # on the ground, not in it


def test_equal_seeds_give_equal_pictures_and_others_differ_in_texture_only() -> None:
    one, again, other = (panorama(Scene(seed), time_s=0.4, width=128) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    np.testing.assert_array_equal(one.depth, other.depth)
    np.testing.assert_array_equal(one.mask, other.mask)
    assert (one.pixels != other.pixels).mean() > 0.3


def test_what_a_ray_meets_does_not_depend_on_the_others() -> None:
    rays = np.random.default_rng(3).normal(size=(4000, 3))
    whole = trace(Scene(1), rays, camera_centre(0), 0.0)
    for part in (slice(0, 1), slice(17, 40), slice(3000, 4000)):
        alone = trace(Scene(1), 3 * rays[part], camera_centre(0), 0.0)
        np.testing.assert_allclose(alone.depth, whole.depth[part], rtol=1e-5)
        np.testing.assert_array_equal(alone.object_id, whole.object_id[part])
        np.testing.assert_allclose(alone.rgb, whole.rgb[part], atol=2e-3)


def test_hits_are_consistent() -> None:
    rays = pano_rays(200)
    hits = trace(Scene(1), rays, camera_centre(2), 2.0)
    is_sky = hits.object_id == SKY
    np.testing.assert_array_equal(is_sky, np.isinf(hits.depth))
    assert {SKY, GROUND, PERSON} < set(np.unique(hits.object_id))
    assert len(np.unique(hits.object_id)) > 30
    np.testing.assert_allclose(np.linalg.norm(hits.normal, axis=-1), np.where(is_sky, 0, 1), atol=1e-4)
    facing = np.sum(hits.normal * rays, axis=-1)[~is_sky]
    assert facing.max() < 1e-3  # nothing is seen from inside
    assert np.isfinite(hits.rgb).all()
    assert hits.rgb.min() >= 0


def test_an_axis_aligned_ray_meets_what_its_neighbours_meet() -> None:
    rays = np.array([[0, 0, 1], [1e-6, 1e-6, 1], [0, 1, 0], [1e-6, 1, 1e-6], [0, -1, 0], [1, 0, 0], [1, 1e-6, 1e-6]])
    depth = trace(Scene(1), rays, (0.0, -2.2, -3.0), 0.0).depth
    np.testing.assert_allclose(depth[[0, 2, 5]], depth[[1, 3, 6]], rtol=1e-4)
    assert depth[2] == pytest.approx(2.2)
    assert np.isinf(depth[4])


def test_srgb_inverts_the_published_curve() -> None:
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    np.testing.assert_array_equal(to_srgb(linear.astype(np.float32)), np.arange(256))
    np.testing.assert_array_equal(to_srgb(np.array([-1, 7], np.float32)), [0, 255])


def test_supersampling_only_redraws_edges_and_comes_near_a_finer_picture(wide: Rendered) -> None:
    coarse, fine = (panorama(Scene(1), time_s=1.5, width=256, supersample=n).pixels.astype(int) for n in (1, 4))
    exact = ((wide.pixels / 255).reshape(128, 4, 256, 4, 3) ** 2.2).mean(axis=(1, 3)) ** (1 / 2.2) * 255
    changed = (coarse != fine).any(axis=2)
    assert 0.02 < changed.mean() < 0.5
    assert np.abs(fine - exact).mean() < 0.6 * np.abs(coarse - exact).mean()


@pytest.mark.parametrize("width", [0, 14, 255])
def test_a_width_that_makes_no_panorama_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match=rf"even and at least 16, got {width}"):
        panorama(Scene(), time_s=0, width=width)


def test_no_rays_are_refused() -> None:
    with pytest.raises(UsageError, match="1 or more, got 0"):
        panorama(Scene(), time_s=0, width=64, supersample=0)
