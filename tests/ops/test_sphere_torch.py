"""Views cut with torch, against those cut with OpenCV, a float64 renderer and what must hold whatever the pixels."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightmill.errors import RunError, UsageError
from lightmill.ops import sphere_torch
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, inner, padded_shape
from lightmill.ops.sphere_torch import Kernel, ViewCutter
from lightmill.types import Size

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

KERNELS: list[Kernel] = ["linear", "cubic", "lanczos"]
SIZES_HW = [(96, 192), (81, 160), (70, 191)]  # 2:1; a hair off; odd both ways
CAMERAS = (
    Camera(name="front", yaw=0, pitch=0),
    Camera(name="seam", yaw=180, pitch=0, hfov=100),
    Camera(name="turned", yaw=-161, pitch=23, roll=31, hfov=75),
    Camera(name="up", yaw=40, pitch=90, hfov=120),
    Camera(name="down", yaw=0, pitch=-90, roll=10),
)
RIG = Rig(name="test", size=Size(57, 43), cameras=CAMERAS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small gain nothing from threads, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn. LIGHTMILL_REQUIRE_CUDA=1 says that one without a GPU is a fault of the machine."""
    name: str = request.param
    if name == "cuda":
        need_cuda()
    return name


def need_cuda() -> None:
    if torch.cuda.is_available():
        return
    if os.environ.get("LIGHTMILL_REQUIRE_CUDA") == "1":
        pytest.fail("LIGHTMILL_REQUIRE_CUDA=1, but torch finds no CUDA device")
    pytest.skip("torch finds no CUDA device")


@pytest.fixture
def loaded(device: str) -> Callable[..., ViewCutter]:
    """A cutter of RIG, loaded on the device."""

    def make(interpolation: Kernel = "linear", *, rig: Rig = RIG, **options: Any) -> ViewCutter:
        cutter = ViewCutter(rig, interpolation=interpolation, **options)
        cutter.load(device)
        return cutter

    return make


# ---------------------------------------------------------------------------------------------------------------------
# panoramas


def noise(pano_hw: tuple[int, int], seed: int = 1) -> Pixels:
    """Every pixel for itself."""
    return np.random.default_rng(seed).integers(0, 256, (*pano_hw, 3), dtype=np.uint8)


def smooth_noise(pano_hw: tuple[int, int], seed: int = 1) -> Pixels:
    """Noise without slopes above about 70 levels a pixel, smooth across the seam and over the poles too."""
    blurred = cv2.GaussianBlur(beyond_edges(noise(pano_hw, seed), 16).astype(np.float32), (0, 0), 2.0)[16:-16, 16:-16]
    return np.clip(128 + (blurred - 128) * 4, 0, 255).astype(np.uint8)


def black_and_white(pano_hw: tuple[int, int], seed: int = 1) -> Pixels:
    """Every pixel and channel 0 or 255: the steepest slopes there are."""
    return np.random.default_rng(seed).integers(0, 2, (*pano_hw, 3), dtype=np.uint8) * 255


def beyond_edges(pano: NDArray[Any], margin: int) -> NDArray[Any]:
    """The panorama continued by numpy's pad and roll: over the poles first, then around the seam."""
    turned = np.roll(pano, -(pano.shape[1] // 2), axis=1)
    tall = np.concatenate((turned[:margin][::-1], pano, turned[-margin:][::-1]))
    return np.pad(tall, ((0, 0), (margin, margin), (0, 0)), mode="wrap")


# ---------------------------------------------------------------------------------------------------------------------
# the reference: float64, from the formulas


def reference_positions(camera: Camera, *, size: Size, pano_hw: tuple[int, int]) -> tuple[Floats, Floats]:
    """Columns and rows [h, w] in px at which a view's pixel centres lie, in longitude and latitude of turned rays."""
    yaw, pitch, roll = np.radians([camera.yaw, camera.pitch, camera.roll])
    half_width = np.tan(np.radians(camera.hfov) / 2)
    u, v = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    x = (2 * u / size.width - 1) * half_width
    y = (2 * v - size.height) / size.width * half_width
    x, y = np.cos(roll) * x - np.sin(roll) * y, np.sin(roll) * x + np.cos(roll) * y
    y, z = np.cos(pitch) * y - np.sin(pitch), np.sin(pitch) * y + np.cos(pitch)
    x, z = np.cos(yaw) * x + np.sin(yaw) * z, -np.sin(yaw) * x + np.cos(yaw) * z
    latitude = np.arctan2(y, np.hypot(x, z))
    return (np.arctan2(x, z) / (2 * np.pi) + 0.5) * pano_hw[1], (0.5 + latitude / np.pi) * pano_hw[0]


def keys_cubic(distance: Floats) -> Floats:
    """Cubic convolution with a = -0.75."""
    a, d = -0.75, np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, np.where(d < 2, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a, 0))


def lanczos4(distance: Floats) -> Floats:
    """4 sin(πd) sin(πd / 4) / (πd)², the limit 1 at 0."""
    d = np.where(np.abs(distance) < 1e-9, 1e-9, distance)
    weights: Floats = np.where(np.abs(d) < 4, 4 * np.sin(np.pi * d) * np.sin(np.pi * d / 4) / (np.pi * d) ** 2, 0)
    return weights


def triangle(distance: Floats) -> Floats:
    weights: Floats = np.maximum(1 - np.abs(distance), 0)
    return weights


REACH: dict[Kernel, tuple[int, Callable[[Floats], Floats]]] = {
    "linear": (1, triangle),
    "cubic": (2, keys_cubic),
    "lanczos": (4, lanczos4),
}


def reference_view(pano: Pixels, camera: Camera, *, size: Size, interpolation: Kernel) -> Floats:
    """The view in float64 [h, w, 3], not rounded, clamped to 0..255. Pixels are looked up one tap at a time."""
    height, width = pano.shape[:2]
    columns, rows = reference_positions(camera, size=size, pano_hw=(height, width))
    reach, kernel = REACH[interpolation]
    left, top = np.floor(columns - 0.5), np.floor(rows - 0.5)
    total, weight_sum = np.zeros((size.height, size.width, 3)), np.zeros((size.height, size.width, 1))
    for down in range(1 - reach, reach + 1):
        for right in range(1 - reach, reach + 1):
            row, column = (top + down).astype(int), (left + right).astype(int)
            over_pole = (row < 0) | (row >= height)
            row = np.where(row < 0, -1 - row, np.where(row >= height, 2 * height - 1 - row, row))
            column = (column + np.where(over_pole, width // 2, 0)) % width
            weight = kernel(rows - 0.5 - top - down) * kernel(columns - 0.5 - left - right)
            total += pano[row, column] * weight[..., None]
            weight_sum += weight[..., None]
    return np.clip(total / weight_sum, 0, 255)


# ---------------------------------------------------------------------------------------------------------------------
# pixels


def cut_on_cpu(pano: Pixels, camera: Camera, *, interpolation: Kernel, samples: int = 1, rig: Rig = RIG) -> Pixels:
    padded = np.empty(padded_shape(*pano.shape[:2]), np.uint8)
    inner(padded)[:] = pano
    continue_poles(padded)
    return ViewMaps(rig).cut(padded, camera, interpolation=Interpolation(interpolation), samples=samples)


def levels_off(view: Pixels, expected: Pixels) -> int:
    return int(np.abs(view.astype(int) - expected).max())


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize("pano_hw", SIZES_HW, ids=str)
def test_views_equal_those_of_the_cpu(
    loaded: Callable[..., ViewCutter], interpolation: Kernel, pano_hw: tuple[int, int]
) -> None:
    """On black and white noise, where a position that is 1/32 px off would show as up to 16 levels."""
    pano = black_and_white(pano_hw)
    for numbers in ((1, 1, 1, 1, 1), (2, 3, 2, 3, 2), (3, 2, 3, 2, 3)):
        samples = dict(zip(CAMERAS, numbers, strict=True))
        views = loaded(interpolation, samples=lambda camera, size, width: samples[camera])([pano])[0]  # noqa: B023
        for camera in CAMERAS:
            expected = cut_on_cpu(pano, camera, interpolation=interpolation, samples=samples[camera])
            assert levels_off(views[camera.name], expected) <= 1, (camera.name, samples[camera])


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize("pano_hw", [(64, 16384), (8192, 64), (3, 65500)], ids=str)
def test_large_panoramas_too(
    loaded: Callable[..., ViewCutter], interpolation: Kernel, pano_hw: tuple[int, int]
) -> None:
    """What grid_sample's float32 makes of places is felt most where numbers are large."""
    pano = black_and_white(pano_hw)
    rig = Rig(name="wide", size=Size(150, 100), cameras=CAMERAS)
    views = loaded(interpolation, rig=rig)([pano])[0]
    allowed = 2 if pano_hw[1] == 65500 and interpolation == "cubic" else 1
    for camera in CAMERAS:
        expected = cut_on_cpu(pano, camera, interpolation=interpolation, rig=rig)
        assert levels_off(views[camera.name], expected) <= allowed, camera.name


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize("pano_hw", SIZES_HW, ids=str)
def test_views_equal_the_reference(
    loaded: Callable[..., ViewCutter], interpolation: Kernel, pano_hw: tuple[int, int]
) -> None:
    pano = smooth_noise(pano_hw)
    (views,) = loaded(interpolation)([pano])
    assert list(views) == [camera.name for camera in CAMERAS]
    for camera in CAMERAS:
        expected = reference_view(pano, camera, size=RIG.size, interpolation=interpolation)
        view = views[camera.name]
        assert (view.shape, view.dtype.name, view.flags.c_contiguous) == ((43, 57, 3), "uint8", True)
        off = np.abs(view - expected)
        # half a level of rounding, and 1/64 px along both axes of slopes of 70 levels a pixel
        assert off.max() <= 0.5 + 2 / 64 * 70, camera.name
        assert off.mean() < 0.4, camera.name


@pytest.mark.parametrize("samples", [2, 3])
def test_samples_are_the_mean_of_a_finer_view(loaded: Callable[..., ViewCutter], samples: int) -> None:
    pano = noise((96, 192))
    fine_rig = Rig(name="fine", size=Size(57 * samples, 43 * samples), cameras=CAMERAS)
    (fine,) = loaded("cubic", rig=fine_rig)([pano])
    asked = []

    def ask(camera: Camera, size: Size, pano_width: int) -> int:
        asked.append((camera, size, pano_width))
        return samples

    (views,) = loaded("cubic", samples=ask)([pano])
    assert set(asked) == {(camera, RIG.size, 192) for camera in CAMERAS}
    for name, view in views.items():
        means = fine[name].reshape(43, samples, 57, samples, 3).mean(axis=(1, 3))
        assert np.abs(view - means).max() <= 0.5, name


@pytest.mark.parametrize("interpolation", KERNELS)
def test_white_stays_white(loaded: Callable[..., ViewCutter], interpolation: Kernel) -> None:
    (views,) = loaded(interpolation)([np.full((48, 96, 3), 255, np.uint8)])
    assert {int(view.min()) for view in views.values()} == {255}


@pytest.mark.parametrize("interpolation", ["cubic", "lanczos"])
def test_overshoot_is_clamped_not_wrapped(loaded: Callable[..., ViewCutter], interpolation: Kernel) -> None:
    pano = np.zeros((96, 192, 3), np.uint8)
    pano[:, (np.arange(192) // 12) % 2 == 1] = 255
    (views,) = loaded(interpolation)([pano])
    linear = loaded("linear")([pano])[0]
    for name in ("front", "seam", "turned"):
        away_from_edges = cv2.erode(((linear[name] == 0) | (linear[name] == 255)).astype(np.uint8), np.ones((3, 3)))
        off = np.abs(views[name].astype(int) - linear[name])[away_from_edges > 0]
        assert len(off) > 500
        assert off.max() < 30, "a value beyond 0 or 255 came out at the other end"


@pytest.mark.parametrize("interpolation", KERNELS)
def test_tiny_panoramas_repeat_around_the_sphere(loaded: Callable[..., ViewCutter], interpolation: Kernel) -> None:
    colours = np.array([[[10, 20, 30], [10, 20, 30]]], np.uint8)
    (views,) = loaded(interpolation)([colours])
    assert all((view == [10, 20, 30]).all() for view in views.values())


# ---------------------------------------------------------------------------------------------------------------------
# batches


@pytest.mark.parametrize("interpolation", KERNELS)
def test_a_batch_is_its_panoramas_one_by_one(loaded: Callable[..., ViewCutter], interpolation: Kernel) -> None:
    panos = [noise((96, 192), seed) for seed in range(3)]
    options: dict[str, Any] = {"samples": lambda camera, size, width: 2 if camera.name == "up" else 1}
    together = loaded(interpolation, **options)(panos)
    alone = [loaded(interpolation, **options)([pano])[0] for pano in panos]
    assert_same(together, alone)


def test_chunks_and_blocks_change_no_pixel(loaded: Callable[..., ViewCutter], monkeypatch: pytest.MonkeyPatch) -> None:
    panos = [noise((96, 192), seed) for seed in range(3)]
    options: dict[str, Any] = {"samples": lambda camera, size, width: 2 if camera.name in ("seam", "up") else 1}
    whole = [loaded(kernel, **options)(panos) for kernel in KERNELS]
    monkeypatch.setattr(sphere_torch, "CHUNK_BYTES", 2 * 12 * 96 * 192)
    monkeypatch.setattr(sphere_torch, "BLOCK_PX", 24 * RIG.size.width)
    for kernel, expected in zip(KERNELS, whole, strict=True):
        for views, others in zip(loaded(kernel, **options)(panos), expected, strict=True):
            for name in views:  # sine of the same angle may differ in its last bit with its place in a block
                assert np.abs(views[name].astype(int) - others[name]).max() <= (kernel == "lanczos")


def test_sizes_may_be_mixed_and_keep_their_order(loaded: Callable[..., ViewCutter]) -> None:
    panos = [noise(SIZES_HW[place], seed=place) for place in (0, 1, 0, 2, 1)]
    cutter = loaded()
    assert_same(cutter(panos), [cutter([pano])[0] for pano in panos])


def test_an_empty_batch_has_no_views(loaded: Callable[..., ViewCutter]) -> None:
    assert loaded()([]) == []


def test_arrays_and_tensors_of_every_kind_are_taken(loaded: Callable[..., ViewCutter], device: str) -> None:
    pano = noise((96, 192))
    read_only = pano.copy()
    read_only.flags.writeable = False
    strided = beyond_edges(pano, 3)[3:-3, 3:-3]
    flipped = pano[::-1, ::-1].copy()[::-1, ::-1]
    tensors = [torch.from_numpy(pano), torch.from_numpy(pano).to(device), torch.from_numpy(strided)]
    (expected, *others) = loaded()([pano, read_only, strided, flipped, *tensors])
    assert_same(others, [expected] * 6)
    assert np.array_equal(pano, noise((96, 192))), "the caller's pixels were changed"


def test_views_are_the_callers_to_keep_and_change(loaded: Callable[..., ViewCutter]) -> None:
    cutter, pano = loaded(), noise((96, 192))
    first = cutter([pano, pano])
    kept = {name: view.copy() for name, view in first[1].items()}
    for view in first[0].values():
        view[:] = 0
    cutter([noise((96, 192), seed=5)])
    assert_same([first[1]], [kept])


def assert_same(views: list[dict[str, Pixels]], expected: list[dict[str, Pixels]]) -> None:
    """Bit for bit."""
    assert [list(of_pano) for of_pano in views] == [list(of_pano) for of_pano in expected]
    for of_pano, others in zip(views, expected, strict=True):
        for name, view in of_pano.items():
            assert np.array_equal(view, others[name]), name


# ---------------------------------------------------------------------------------------------------------------------
# memory


def test_grids_are_kept_within_their_bound(loaded: Callable[..., ViewCutter]) -> None:
    pano, one_grid = noise((96, 192)), 57 * 43 * 2 * 4
    unbounded = loaded()
    expected = unbounded([pano])
    assert unbounded.cached_bytes == len(CAMERAS) * one_grid
    unbounded([pano, pano])
    assert unbounded.cached_bytes == len(CAMERAS) * one_grid, "a grid was made twice"
    unbounded([noise((81, 160))])
    assert unbounded.cached_bytes == 2 * len(CAMERAS) * one_grid
    for bound, kept in ((0, 0), (2 * one_grid + 1, 2 * one_grid)):
        bounded = loaded(grid_bytes=bound)
        assert_same(bounded([pano]), expected)
        assert bounded.cached_bytes == kept
    unbounded.unload()
    assert unbounded.cached_bytes == 0


@pytest.mark.parametrize("interpolation", KERNELS)
@pytest.mark.parametrize(("samples", "block_px"), [(1, 2**19), (3, 12000)])
def test_bytes_needed_bounds_what_is_taken(
    interpolation: Kernel, samples: int, block_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, by torch's own account of what it allocates and frees."""
    monkeypatch.setattr(sphere_torch, "BLOCK_PX", block_px)
    pano_hw, n = (100, 200), 3
    rig = Rig(name="test", size=Size(80, 60), cameras=CAMERAS[:2])
    cutter = ViewCutter(rig, interpolation=interpolation, samples=lambda *_: samples)
    cutter.load("cpu")
    tensors = [torch.from_numpy(noise(pano_hw, seed)) for seed in range(n)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        cutter(tensors)
    assert profile.profiler is not None
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(changes) > 20
    views_of_the_host = n * len(rig.cameras) * 80 * 60 * 3
    needed = cutter.bytes_needed(pano_hw, n) - cutter.cached_bytes  # the grids are numpy's here
    taken = max(accumulate(changes)) - views_of_the_host
    assert needed / 1.5 < taken <= needed


@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", KERNELS)
def test_bytes_needed_bounds_what_cuda_takes(interpolation: Kernel) -> None:
    need_cuda()
    pano_hw = (1024, 2048)
    rig = Rig(name="test", size=Size(640, 480), cameras=CAMERAS)
    cutter = ViewCutter(rig, interpolation=interpolation, samples=lambda camera, *_: 2 if camera.name == "up" else 1)
    cutter.load("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cutter([noise(pano_hw)] * 4)
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * cutter.bytes_needed(pano_hw, 4)


@pytest.mark.gpu
def test_out_of_memory_comes_out_as_it_is_and_a_smaller_batch_goes_on() -> None:
    need_cuda()
    cutter, pano = ViewCutter(RIG), noise((1024, 2048))
    cutter.load("cuda")
    expected = cutter([pano])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200 * 2**20) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            cutter([pano] * 64)
        torch.cuda.empty_cache()
        assert_same(cutter([pano]), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


class OnOneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a tensor of another device takes part in an operation, or the host waits for a value."""

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device_type = device_type
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **kwargs or {})
        for leaf in tree_leaves((args, kwargs, made)):
            # a number that torch has wrapped (no dimensions) is handed to a kernel as it is
            if isinstance(leaf, torch.Tensor) and leaf.ndim > 0:
                assert leaf.device.type == self.device_type, f"{func} has a tensor on {leaf.device}"
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits for a value"
        self.calls += 1
        return made


@pytest.mark.parametrize("interpolation", KERNELS)
def test_nothing_waits_for_the_host(interpolation: Kernel) -> None:
    """On torch's device without memory: what would be a hidden upload or wait on CUDA cannot be done there at all."""
    meta = torch.device("meta")
    with OnOneDevice("meta") as watch:
        panos = torch.empty((2, 96, 192, 3), dtype=torch.uint8, device=meta)
        padded = sphere_torch.with_margin(panos, interpolation=interpolation)
        grid = torch.empty((2 * 43, 2 * 57, 2), device=meta)
        views = sphere_torch.sampled(padded, grid, interpolation=interpolation, samples=2)
    assert watch.calls > 40
    assert (views.device, views.dtype, tuple(views.shape)) == (meta, torch.uint8, (2, 43, 57, 3))


# ---------------------------------------------------------------------------------------------------------------------
# life and errors


def test_it_can_be_loaded_again_and_pickled_between(loaded: Callable[..., ViewCutter], device: str) -> None:
    cutter, pano = loaded("cubic"), noise((96, 192))
    expected = cutter([pano])
    cutter.unload()
    with pytest.raises(RuntimeError, match=r"only after load\(device\)"):
        cutter([pano])
    other: ViewCutter = pickle.loads(pickle.dumps(cutter))
    other.load(device)
    assert_same(other([pano]), expected)


@pytest.mark.parametrize(
    ("pano", "met"),
    [
        (np.zeros((8, 16), np.uint8), r"got uint8 \[8, 16\]"),
        (np.zeros((8, 16, 4), np.uint8), r"got uint8 \[8, 16, 4\]"),
        (np.zeros((0, 16, 3), np.uint8), r"got uint8 \[0, 16, 3\]"),
        (np.zeros((8, 16, 3), np.float32), r"got float32 \[8, 16, 3\]"),
        (torch.zeros((8, 16, 3)), r"got float32 \[8, 16, 3\]"),
    ],
)
def test_other_arrays_are_refused(pano: Any, met: str) -> None:
    cutter = ViewCutter(RIG)
    cutter.load("cpu")
    with pytest.raises(ValueError, match=rf"panorama 1 of the batch must be uint8 \[H, W, 3\], {met}"):
        cutter([noise((8, 16)), pano])


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="one of linear, cubic, lanczos, got 'nearest'"):
        ViewCutter(RIG, interpolation="nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", ""])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"cpu, cuda or cuda:N, got '{name}'"):
        ViewCutter(RIG).load(name)


def test_absent_device_is_refused() -> None:
    with pytest.raises(RunError, match=r"no CUDA device for 'cuda:99': torch .* finds \d+; use --device cpu"):
        ViewCutter(RIG).load("cuda:99")


def test_import_loads_no_torch() -> None:
    program = "import sys, lightmill.ops.sphere_torch; assert 'torch' not in sys.modules"
    source = str(Path(sphere_torch.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": source}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_missing_torch_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from lightmill.ops.sphere_torch import find_device\n"
        "from lightmill.errors import MissingExtra\n"
        "try: find_device('cpu')\n"
        "except MissingExtra as error: print(error)"
    )
    source = str(Path(sphere_torch.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": source}, capture_output=True, check=False
    )
    assert b"pip install 'lightmill[models]'" in done.stdout, done.stderr.decode()
