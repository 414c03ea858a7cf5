"""Cut views are held against a float64 renderer written from the formulas, pycolmap and py360convert."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from lightmill.ops import sphere
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import MARGIN, Interpolation, ViewMaps, continue_poles, inner, padded_shape
from lightmill.types import Size

CAMERAS = [
    Camera(name="front", yaw=0, pitch=0),
    Camera(name="right", yaw=45, pitch=0, hfov=75),
    Camera(name="back", yaw=180, pitch=0, hfov=60),
    Camera(name="left", yaw=-90, pitch=0),
    Camera(name="rolled", yaw=30, pitch=0, roll=15),
    Camera(name="seam", yaw=170, pitch=20, roll=-15, hfov=60),
    Camera(name="ground", yaw=-100, pitch=-75, roll=15, hfov=120),
    Camera(name="zenith", yaw=30, pitch=90, roll=-15, hfov=75),
    Camera(name="nadir", yaw=-100, pitch=-90, hfov=60),
    Camera(name="steep", yaw=170, pitch=75, hfov=100),
    Camera(name="oblique", yaw=-170, pitch=40, roll=-15),
]
SIZES = [Size(128, 72), Size(65, 91)]
names = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)


# --- the reference, in float64 ----------------------------------------------------------------------------------------


def rays_of(camera: Camera, size: Size) -> np.ndarray:
    focal = size.width / (2 * np.tan(np.radians(camera.hfov) / 2))
    x, y = np.meshgrid(np.arange(size.width) + 0.5 - size.width / 2, np.arange(size.height) + 0.5 - size.height / 2)
    return np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1) @ camera.pano_from_cam().T


def indices_of(camera: Camera, size: Size, pano_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = np.moveaxis(rays_of(camera, size), -1, 0)
    column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * pano_hw[1] - 0.5
    return column, (0.5 + np.arcsin(y / np.sqrt(x * x + y * y + z * z)) / np.pi) * pano_hw[0] - 0.5


def texel(pano: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    height, width = pano.shape[:2]
    row = row % (2 * height)  # a whole turn over both poles
    beyond = row >= height
    row = np.where(beyond, 2 * height - 1 - row, row)
    return pano[row, (column + np.where(beyond, width // 2, 0)) % width].astype(np.float64)


def linear_weights(t: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(t))


def cubic_weights(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    t = np.abs(t)
    near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t < 1, near, np.where(t < 2, far, 0))


def lanczos_weights(t: np.ndarray) -> np.ndarray:
    return np.where(np.abs(t) < 4, np.sinc(t) * np.sinc(t / 4), 0)


KERNELS = {
    Interpolation.LINEAR: (linear_weights, 1),
    Interpolation.CUBIC: (cubic_weights, 2),
    Interpolation.LANCZOS: (lanczos_weights, 4),
}


def sampled(pano: np.ndarray, column: np.ndarray, row: np.ndarray, kernel: Interpolation) -> np.ndarray:
    weights, reach = KERNELS[kernel]
    taps = range(1 - reach, reach + 1)
    whole_column, whole_row = np.floor(column).astype(int), np.floor(row).astype(int)
    across = np.stack([weights(column - whole_column - i) for i in taps])
    down = np.stack([weights(row - whole_row - j) for j in taps])
    across, down = across / across.sum(axis=0), down / down.sum(axis=0)
    total = sum(
        texel(pano, whole_column + i, whole_row + j) * (across[a] * down[b])[..., None]
        for a, i in enumerate(taps)
        for b, j in enumerate(taps)
    )
    return np.clip(total, 0, 255)


def reference(pano: np.ndarray, camera: Camera, size: Size, kernel: Interpolation) -> np.ndarray:
    return sampled(pano, *indices_of(camera, size, pano.shape[:2]), kernel)


# --- pictures ---------------------------------------------------------------------------------------------------------


def noise(height: int, width: int, *, sigma: float, seed: int = 0) -> np.ndarray:
    """Smoothed noise that goes on at the seam; three independent channels."""
    field = np.random.default_rng(seed).standard_normal((height, width, 3))
    field = np.concatenate([field, field, field], axis=1)
    field = cv2.GaussianBlur(field, (0, 0), sigma)[:, width : 2 * width]
    return np.clip(np.rint(128 + 45 * field / field.std()), 0, 255).astype(np.uint8)


def padded(pano: np.ndarray) -> np.ndarray:
    height, width = pano.shape[:2]
    buffer = np.zeros(padded_shape(height, width)[: pano.ndim], np.uint8)
    inner(buffer)[:] = pano
    continue_poles(buffer)
    return buffer


def rig_of(*cameras: Camera, size: Size) -> Rig:
    return Rig(name="test", size=size, cameras=cameras)


def cut(pano: np.ndarray, camera: Camera, size: Size, kernel: Interpolation = Interpolation.LINEAR) -> np.ndarray:
    return ViewMaps(rig_of(camera, size=size)).cut(padded(pano), camera, interpolation=kernel)


def errors(view: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    off = np.abs(view.astype(np.float64) - wanted)
    return {"mean": float(off.mean()), "p999": float(np.percentile(off, 99.9)), "max": float(off.max())}


def around(a: np.ndarray, b: np.ndarray, width: int) -> np.ndarray:
    """The distance between columns, the short way round."""
    return np.abs((a - b + width / 2) % width - width / 2)


# --- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 10, 3), (7, 9, 3), (5, 8), (2, 5, 3), (1, 4)])
def test_poles_continue_on_the_other_side(shape: tuple[int, ...]) -> None:
    pano = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    buffer = padded(pano)
    assert np.array_equal(inner(buffer), pano)
    height, width = shape[:2]
    for i in range(min(MARGIN, height)):
        for column in range(width):
            opposite = (column + width // 2) % width
            assert np.array_equal(buffer[MARGIN - 1 - i, column], pano[i, opposite])
            assert np.array_equal(buffer[MARGIN + height + i, column], pano[height - 1 - i, opposite])


def test_inner_is_a_contiguous_view_that_a_decoder_can_write_into() -> None:
    buffer = np.zeros(padded_shape(20, 40), np.uint8)
    assert inner(buffer).shape == (20, 40, 3)
    assert inner(buffer).flags.c_contiguous
    assert np.shares_memory(inner(buffer), buffer)


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@names
def test_places_are_within_a_five_hundredth_of_a_pixel_at_16k(camera: Camera, size: Size) -> None:
    pano_hw = 8192, 16384
    places = sphere._places(camera, size, pano_hw)
    column = sphere._column_indices(places, slice(None), yaw=camera.yaw, pano_width=pano_hw[1])
    wanted_column, wanted_row = indices_of(camera, size, pano_hw)
    assert np.abs(places.row - MARGIN - wanted_row).max() < 0.002
    along_the_sphere = np.cos((wanted_row + 0.5) / pano_hw[0] * np.pi - np.pi / 2)  # columns crowd at the poles
    assert (around(column, wanted_column, pano_hw[1]) * along_the_sphere).max() < 0.002
    assert column.min() >= -0.501
    assert column.max() < pano_hw[1] - 0.499


@pytest.mark.parametrize("pano_hw", [(1024, 2048), (1021, 2050)])
@names
def test_places_agree_with_pycolmap(camera: Camera, pano_hw: tuple[int, int]) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    if not hasattr(pycolmap.CameraModelId, "EQUIRECTANGULAR"):
        pytest.skip("this pycolmap has no equirectangular camera")
    size = SIZES[0]
    focal = camera.focal_px(size.width)
    view = pycolmap.Camera(
        model="PINHOLE",
        width=size.width,
        height=size.height,
        params=[focal, focal, size.width / 2, size.height / 2],
    )
    pano = pycolmap.Camera(model="EQUIRECTANGULAR", width=pano_hw[1], height=pano_hw[0], params=pano_hw[::-1])
    x, y = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    rays = view.cam_ray_from_img(np.column_stack([x.ravel(), y.ravel()])) @ camera.pano_from_cam().T
    wanted = pano.img_from_cam(rays).reshape(size.height, size.width, 2)
    places = sphere._places(camera, size, pano_hw)
    column = sphere._column_indices(places, slice(None), yaw=camera.yaw, pano_width=pano_hw[1])
    latitude = ((wanted[..., 1] / pano_hw[0]) - 0.5) * np.pi
    assert (around(column + 0.5, wanted[..., 0], pano_hw[1]) * np.cos(latitude)).max() < 1e-3
    assert np.abs(places.row - MARGIN + 0.5 - wanted[..., 1]).max() < 1e-3


@pytest.mark.parametrize("pano_hw", [(1021, 2050), (40, 60001)])
@names
def test_view_positions_are_the_places_in_whole_32nds(camera: Camera, pano_hw: tuple[int, int]) -> None:
    positions = sphere.view_positions(camera, SIZES[0], pano_hw)
    assert (positions.shape, positions.dtype) == ((72, 128, 2), np.float32)
    assert np.array_equal(positions * 32, np.rint(positions * 32))
    assert positions.min() >= -0.5
    assert (positions.max(axis=(0, 1)) <= np.array(pano_hw[::-1]) - 0.5).all()
    wanted_column, wanted_row = indices_of(camera, SIZES[0], pano_hw)
    assert np.abs(positions[..., 1] - wanted_row).max() < 1 / 64 + 0.002
    along_the_sphere = np.cos((wanted_row + 0.5) / pano_hw[0] * np.pi - np.pi / 2)
    off = around(positions[..., 0], wanted_column, pano_hw[1])
    assert (off * along_the_sphere).max() < 1 / 64 + 0.008


@names
def test_view_positions_are_what_views_are_cut_by(camera: Camera) -> None:
    pano = np.random.default_rng(4).integers(0, 2, (63, 130, 3), dtype=np.uint8) * 255
    column, row = np.moveaxis(sphere.view_positions(camera, SIZES[0], (63, 130)).astype(np.float64), -1, 0)
    exact = sampled(pano, column, row, Interpolation.LINEAR)
    assert np.abs(cut(pano, camera, SIZES[0]) - exact).max() <= 0.5


def test_cameras_that_differ_in_yaw_by_whole_columns_see_the_turned_panorama() -> None:
    pano = noise(128, 256, sigma=1.0)
    size = Size(120, 80)
    for pitch, roll in ((0.0, 0.0), (-35.0, 0.0), (50.0, 20.0)):
        first = cut(pano, Camera(name="a", yaw=0, pitch=pitch, roll=roll), size)
        turned = cut(np.roll(pano, 32, axis=1), Camera(name="b", yaw=45, pitch=pitch, roll=roll), size)
        # a rounding to 1/32 px may fall to either side, which costs a level or two where noise is steep
        assert errors(first, turned)["mean"] < 0.02


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@names
def test_linear_views_of_a_smooth_panorama(camera: Camera, size: Size) -> None:
    pano = noise(512, 1024, sigma=2.0)
    off = errors(cut(pano, camera, size), reference(pano, camera, size, Interpolation.LINEAR))
    assert off["mean"] < 0.45
    assert off["p999"] < 2.0


@pytest.mark.parametrize("kernel", Interpolation)
@pytest.mark.parametrize(("height", "width"), [(128, 256), (32, 64), (20, 41), (3, 8)])
def test_every_kernel_goes_on_over_seam_and_poles(kernel: Interpolation, height: int, width: int) -> None:
    pano = noise(height, width, sigma=1.0)
    size = Size(96, 72)
    judged = 0
    for camera in CAMERAS:
        column, row = indices_of(camera, size, (height, width))
        reach = KERNELS[kernel][1]
        crossing = (column < reach) | (column > width - 1 - reach) | (row < reach) | (row > height - 1 - reach)
        if crossing.sum() < 30:
            continue
        judged += 1
        view = cut(pano, camera, size, kernel)
        off = errors(view[crossing], sampled(pano, column[crossing], row[crossing], kernel))
        assert off["mean"] < 0.8, camera.name
        assert off["max"] < 8, camera.name
    assert judged >= 6


@pytest.mark.parametrize("kernel", Interpolation)
def test_white_stays_white_and_black_black(kernel: Interpolation) -> None:
    for level in (255, 0, 128):
        pano = np.full((64, 128, 3), level, np.uint8)
        for camera in CAMERAS:
            assert (cut(pano, camera, Size(160, 90), kernel) == level).all()


@pytest.mark.parametrize("kernel", [Interpolation.CUBIC, Interpolation.LANCZOS])
def test_overshoots_are_clamped(kernel: Interpolation) -> None:
    size = Size(96, 54)
    row, column = np.indices((256, 512)) // 4 % 2
    one = np.where(np.arange(256)[:, None] < 128, column, row) * 255
    pano = np.repeat(one[..., None], 3, axis=2).astype(np.uint8)
    for camera in CAMERAS:
        off = errors(cut(pano, camera, size, kernel), reference(pano, camera, size, kernel))
        assert off["mean"] < 1.2
        assert off["p999"] < 8
        assert off["max"] < 40  # a sample that wrapped round would be off by 200


def test_views_of_a_panorama_that_is_not_quite_two_to_one() -> None:
    pano = noise(505, 1024, sigma=2.0)
    for camera in CAMERAS:
        off = errors(cut(pano, camera, SIZES[0]), reference(pano, camera, SIZES[0], Interpolation.LINEAR))
        assert off["mean"] < 0.45


@pytest.mark.parametrize("camera", [CAMERAS[1], CAMERAS[5], CAMERAS[10]], ids=lambda camera: camera.name)
def test_py360convert_renders_the_same_view(camera: Camera) -> None:
    py360convert = pytest.importorskip("py360convert")
    pano = noise(256, 512, sigma=3.0)
    size = Size(160, 90)
    # its field of view reaches from the first pixel's centre to the last one's
    fov = [
        np.degrees(2 * np.arctan(np.tan(np.radians(whole) / 2) * (side - 1) / side))
        for whole, side in (
            (camera.hfov, size.width),
            (np.degrees(2 * np.arctan(size.height / 2 / camera.focal_px(size.width))), size.height),
        )
    ]
    other = py360convert.e2p(
        pano, tuple(fov), camera.yaw, camera.pitch, (size.height, size.width), in_rot_deg=camera.roll
    )
    assert errors(cut(pano, camera, size), other.astype(np.float64))["mean"] < 0.8


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [Size(161, 91), Size(160, 90)], ids=str)
@names
def test_masks_are_cut_by_the_pixel_that_contains_the_point(camera: Camera, size: Size) -> None:
    labels = np.random.default_rng(3).integers(0, 256, (127, 254), dtype=np.uint8)
    view = ViewMaps(rig_of(camera, size=size)).cut_mask(padded(labels), camera)
    column, row = indices_of(camera, size, labels.shape)
    wanted = labels[np.floor(row + 0.5).astype(int).clip(0, 126), np.floor(column + 0.5).astype(int) % 254]
    to_border = np.minimum(np.abs((column % 1) - 0.5), np.abs((row % 1) - 0.5))
    clear = to_border > 1e-4  # nearer, the last bit of the arithmetic decides
    assert clear.mean() > 0.95
    assert np.array_equal(view[clear], wanted[clear])
    assert view.shape == (size.height, size.width)


def test_a_point_on_the_border_between_columns_belongs_to_the_right_one() -> None:
    labels = np.tile(np.arange(6, dtype=np.uint8), (3, 1))
    camera = Camera(name="a", yaw=0, pitch=0)
    view = ViewMaps(rig_of(camera, size=Size(3, 3))).cut_mask(padded(labels), camera)
    assert view[1, 1] == 3  # straight ahead is column 3.0, where pixel 3 begins


# --- panoramas that cv2.remap refuses ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(150, 40000), (33000, 61), (33000, 7)], ids=str)
def long_pano(request: pytest.FixtureRequest) -> np.ndarray:
    """[H, W] smoothed noise, so that a shift of a pixel anywhere shows."""
    height, width = request.param
    field = np.random.default_rng(5).integers(0, 256, (height, width), dtype=np.uint8)
    field = np.concatenate([field[:, -7:], field, field[:, :7]], axis=1) if width > 14 else np.tile(field, 3)
    smooth = cv2.GaussianBlur(field, (0, 0), 1.2)
    left = (smooth.shape[1] - width) // 2
    return np.clip((smooth[:, left : left + width].astype(np.float32) - 128) * 2.5 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kernel", Interpolation)
def test_panoramas_with_sides_too_long_for_cv2(long_pano: np.ndarray, kernel: Interpolation) -> None:
    buffer, size = padded(long_pano), Size(75, 50)
    for camera in (CAMERAS[2], CAMERAS[4], CAMERAS[6], CAMERAS[7], CAMERAS[10]):
        view = ViewMaps(rig_of(camera, size=size)).cut(buffer, camera, interpolation=kernel)
        off = errors(view, reference(long_pano[..., None], camera, size, kernel)[..., 0])
        assert off["mean"] < 0.8, camera.name
        assert off["max"] < 8, camera.name


def test_long_panoramas_equal_short_ones_where_both_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pano = noise(300, 700, sigma=1.0)
    size = Size(160, 90)
    for camera in CAMERAS:
        whole = cut(pano, camera, size, Interpolation.LANCZOS)
        mask = ViewMaps(rig_of(camera, size=size)).cut_mask(padded(pano[..., 0]), camera)
        with monkeypatch.context() as patch:
            patch.setattr(sphere, "LONGEST_SIDE", 167)
            pieces = cut(pano, camera, size, Interpolation.LANCZOS)
            mask_pieces = ViewMaps(rig_of(camera, size=size)).cut_mask(padded(pano[..., 0]), camera)
        assert np.array_equal(pieces, whole)
        # float32 holds positions inside a part more finely, so the border between two pixels may differ here and there
        assert (mask != mask_pieces).mean() < 1e-3


# --- ViewMaps ---------------------------------------------------------------------------------------------------------

RING = [Camera(name=f"cam{i:02d}", yaw=30 * i, pitch=-20) for i in range(12)]


def test_out_is_written_and_returned() -> None:
    size = Size(60, 40)
    maps = ViewMaps(rig_of(*RING, size=size))
    buffer = padded(noise(64, 128, sigma=1.0))
    out = np.zeros((40, 60, 3), np.uint8)
    view = maps.cut(buffer, RING[2], interpolation=Interpolation.LINEAR, out=out)
    assert view is out
    assert np.array_equal(out, maps.cut(buffer, RING[2], interpolation=Interpolation.LINEAR))


def test_wrong_arrays_are_refused() -> None:
    maps = ViewMaps(rig_of(*RING, size=Size(60, 40)))
    buffer = padded(noise(64, 128, sigma=1.0))
    kernel: dict[str, Any] = {"interpolation": Interpolation.LINEAR}
    with pytest.raises(ValueError, match=r"out must be C-contiguous uint8 \[40, 60, 3\], got uint8 \[60, 40, 3\]"):
        maps.cut(buffer, RING[0], out=np.zeros((60, 40, 3), np.uint8), **kernel)
    with pytest.raises(ValueError, match="C-contiguous"):
        maps.cut(buffer, RING[0], out=np.zeros((40, 120, 3), np.uint8)[:, ::2], **kernel)
    with pytest.raises(ValueError, match=r"uint8 \[H \+ 8, W, 3\] or \[H \+ 8, W\], got float32"):
        maps.cut(buffer.astype(np.float32), RING[0], **kernel)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got uint8 \[8, 128, 3\]"):
        maps.cut(buffer[:8], RING[0], **kernel)
    with pytest.raises(ValueError, match=r"at most 32766 px .*, got 40000x2; ask for a smaller size"):
        ViewMaps(rig_of(*RING, size=Size(40000, 2))).cut(buffer, RING[0], **kernel)


def test_many_threads_share_maps_and_make_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real_whole, real_places = sphere._whole, sphere._places
    monkeypatch.setattr(sphere, "_whole", lambda *a, **k: made.append(("map", k["yaw"])) or real_whole(*a, **k))
    monkeypatch.setattr(sphere, "_places", lambda *a: made.append("places") or real_places(*a))
    size = Size(120, 80)
    buffer = padded(noise(64, 128, sigma=1.0))
    maps = ViewMaps(rig_of(*RING, size=size))
    start = threading.Barrier(8)

    def cut_all(_: int) -> list[np.ndarray]:
        start.wait()
        return [maps.cut(buffer, camera, interpolation=Interpolation.LINEAR) for camera in RING]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(cut_all, range(8)))
    assert sorted(made, key=str) == sorted([("map", camera.yaw) for camera in RING] + ["places"], key=str)
    for views in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(views, results[0], strict=True))


def test_maps_are_bounded_in_bytes_and_right_when_there_is_no_room() -> None:
    size = Size(120, 80)
    one_map = size.width * size.height * 6
    panos = [padded(noise(64, 128, sigma=1.0)), padded(noise(100, 200, sigma=1.0))]
    roomy = ViewMaps(rig_of(*RING, size=size))
    for capacity in (0, one_map, 5 * one_map):
        tight = ViewMaps(rig_of(*RING, size=size), capacity_bytes=capacity)
        for _ in range(2):
            for pano in panos:
                for camera in RING:
                    view = tight.cut(pano, camera, interpolation=Interpolation.CUBIC)
                    assert np.array_equal(view, roomy.cut(pano, camera, interpolation=Interpolation.CUBIC))
                    assert tight.used_bytes <= capacity
    assert roomy.used_bytes >= 2 * len(RING) * one_map


def test_a_camera_from_outside_the_rig_can_be_cut() -> None:
    pano = noise(256, 512, sigma=2.0)
    size = Size(120, 80)
    maps = ViewMaps(rig_of(*RING, size=size))
    view = maps.cut(padded(pano), CAMERAS[5], interpolation=Interpolation.LINEAR)
    assert errors(view, reference(pano, CAMERAS[5], size, Interpolation.LINEAR))["mean"] < 0.45
