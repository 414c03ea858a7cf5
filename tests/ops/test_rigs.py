"""Rigs by name and rigs that a user writes, against pycolmap, nerfstudio's listing and arithmetic."""

from typing import Any

import numpy as np
import pycolmap.panorama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.ops.rig import Camera
from lightmill.ops.rigs import PRESETS, Ring, numbered_rings, preset, rig_from_mapping


def angles(cameras: tuple[Camera, ...]) -> list[tuple[float, float, float]]:
    return [(camera.yaw, camera.pitch, camera.hfov) for camera in cameras]


def test_presets_are_those_that_are_documented() -> None:
    counts = {name: len(cameras) for name, cameras in PRESETS.items()}
    assert counts == {
        "ring8": 8,
        "ring8-110": 8,
        "ring16-dome": 16,
        "cube6": 6,
        "tile8": 8,
        "horizon4": 4,
        "colmap12": 12,
        "ns8": 8,
        "ns14": 14,
        "full18": 18,
        "photogrammetry": 17,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_preset_cameras_are_numbered_in_order_and_level(name: str) -> None:
    cameras = preset(name)
    assert [camera.name for camera in cameras] == [f"cam{i:02d}" for i in range(len(cameras))]
    assert {camera.roll for camera in cameras} == {0}


def test_ring8_and_cube6_are_as_the_contract_says() -> None:
    assert angles(preset("ring8")) == [(45.0 * i, 0, 90) for i in range(8)]
    assert angles(preset("cube6")) == [(0, 0, 90), (90, 0, 90), (180, 0, 90), (270, 0, 90), (0, 90, 90), (0, -90, 90)]


def test_tile8_is_read_like_a_page() -> None:
    assert angles(preset("tile8")) == [(90.0 * (i % 4), 45 if i < 4 else -45, 90) for i in range(8)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("colmap12", pycolmap.panorama.PanoRenderType.PERSPECTIVE_OVERLAPPING),
        ("horizon4", pycolmap.panorama.PanoRenderType.PERSPECTIVE_NON_OVERLAPPING),
    ],
)
def test_colmap_presets_are_pycolmaps_views(name: str, kind: Any) -> None:
    options = pycolmap.panorama.PANO_RENDER_OPTIONS[kind]
    wanted = pycolmap.panorama.get_virtual_rotations(options.num_steps_yaw, options.pitches_deg)
    cameras = preset(name)
    assert {camera.hfov for camera in cameras} == {options.hfov_deg} == {options.vfov_deg}
    assert len(wanted) == len(cameras)
    for cam_from_pano, camera in zip(wanted, cameras, strict=True):
        np.testing.assert_allclose(camera.pano_from_cam().T, cam_from_pano, atol=1e-15)


@pytest.mark.parametrize(("name", "steps", "hfov"), [("ns8", (90, 180), 120), ("ns14", (60, 90), 110)])
def test_nerfstudio_presets_are_its_yaw_pitch_pairs(name: str, steps: tuple[int, int], hfov: int) -> None:
    # as in nerfstudio/process_data/equirect_utils.py: the horizon, then up, then down, each from -180 on
    rings = [(0, steps[0]), (45, steps[1]), (-45, steps[1])]
    assert angles(preset(name)) == [(yaw, pitch, hfov) for pitch, step in rings for yaw in range(-180, 180, step)]


def test_unknown_preset_names_all_and_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"no rig is called 'Colmap-12'\. Did you mean colmap12\? There are ring8, .*photogrammetry"
    ):
        preset("Colmap-12")
    with pytest.raises(UsageError, match=r"no rig is called 'xyzzy'\. There are ring8"):
        preset("xyzzy")


def test_names_grow_wider_from_101_cameras_on() -> None:
    assert numbered_rings(Ring(count=100))[-1].name == "cam99"
    assert [numbered_rings(Ring(count=101))[i].name for i in (0, 100)] == ["cam000", "cam100"]


def test_rings_of_a_file() -> None:
    data = {"rings": [{"count": 3, "pitch": -10, "yaw": 15, "roll": 5, "hfov": 70.5}, {"count": 1}]}
    cameras = rig_from_mapping(data, source="rig.yaml")
    assert cameras == (
        Camera(name="cam00", yaw=15, pitch=-10, roll=5, hfov=70.5),
        Camera(name="cam01", yaw=135, pitch=-10, roll=5, hfov=70.5),
        Camera(name="cam02", yaw=255, pitch=-10, roll=5, hfov=70.5),
        Camera(name="cam03", yaw=0, pitch=0, roll=0, hfov=90),
    )


def test_cameras_of_a_file() -> None:
    data = {"cameras": [{"name": "left_1", "yaw": -90, "roll": 2}, {"name": "Up.2-x", "pitch": 90, "hfov": 110}]}
    assert rig_from_mapping(data, source="rig.yaml") == (
        Camera(name="left_1", yaw=-90, pitch=0, roll=2, hfov=90),
        Camera(name="Up.2-x", yaw=0, pitch=90, roll=0, hfov=110),
    )


@given(
    count=st.integers(1, 40),
    yaw=st.floats(-360, 360),
    pitch=st.floats(-90, 90),
    hfov=st.floats(1, 179),
    roll=st.floats(-360, 360),
)
def test_a_ring_written_as_cameras_is_the_same_rig(count: int, **ring: float) -> None:
    by_ring = rig_from_mapping({"rings": [{"count": count, **ring}]}, source="a")
    turned = [{**ring, "name": f"cam{i:02d}", "yaw": (ring["yaw"] + i * 360 / count) % 360} for i in range(count)]
    by_camera = rig_from_mapping({"cameras": turned}, source="b")
    assert [camera.name for camera in by_ring] == [camera.name for camera in by_camera]
    for a, b in zip(by_ring, by_camera, strict=True):
        np.testing.assert_allclose(a.pano_from_cam(), b.pano_from_cam(), atol=1e-12)


WRONG: dict[str, tuple[object, str]] = {
    "nothing": (None, r"^r\.yaml: wanted fields as in `yaw: 0`, got None"),
    "a list": ([1, 2], r"^r\.yaml: wanted fields as in `yaw: 0`, got \[1, 2\]"),
    "neither": ({}, r"^r\.yaml: a rig has either `rings` or `cameras`, got neither"),
    "both": (
        {"rings": [], "cameras": []},
        r"^r\.yaml: a rig has either `rings` or `cameras`, got `rings`, `cameras`",
    ),
    "misspelt": ({"ring": []}, r"^r\.yaml: unknown field 'ring'; did you mean `rings`\?"),
    "not a list": ({"rings": {"count": 4}}, r"^r\.yaml: rings must be a list with at least one entry, got \{'count'"),
    "empty": ({"rings": []}, r"^r\.yaml: rings must be a list with at least one entry, got \[\]"),
    "text for a list": ({"cameras": "abc"}, r"^r\.yaml: cameras must be a list .*, got 'abc'"),
    "not an entry": ({"rings": [4]}, r"^r\.yaml, rings\[0\]: wanted fields as in `yaw: 0`, got 4"),
    "no count": ({"rings": [{"pitch": 3}]}, r"^r\.yaml, rings\[0\]: count is missing"),
    "no cameras": ({"rings": [{"count": 0}]}, r"count must be a whole number from 1 to 1000, got 0"),
    "half a camera": ({"rings": [{"count": 1.5}]}, r"count must be a whole number from 1 to 1000, got 1\.5"),
    "yes": ({"rings": [{"count": True}]}, r"count must be a whole number from 1 to 1000, got True"),
    "other field": (
        {"rings": [{"count": 1}, {"count": 1, "fov": 90}]},
        r"^r\.yaml, rings\[1\]: unknown field 'fov'; did you mean `hfov`\?",
    ),
    "no word": ({"rings": [{1: 2}]}, r"unknown field 1; there are `count`, `yaw`, `pitch`, `roll`, `hfov`"),
    "text": ({"rings": [{"count": 1, "yaw": "90"}]}, r"yaw must be a finite number, got '90'"),
    "nan": ({"rings": [{"count": 1, "roll": float("nan")}]}, r"roll must be a finite number, got nan"),
    "infinite": ({"rings": [{"count": 1, "hfov": float("inf")}]}, r"hfov must be a finite number, got inf"),
    "huge": ({"rings": [{"count": 1, "yaw": 10**5000}]}, r"yaw must be a finite number, got a huge number"),
    "pitch": ({"rings": [{"count": 1, "pitch": 90.5}]}, r"pitch must be from -90 to 90 degrees, got 90\.5"),
    "yaw": ({"rings": [{"count": 1, "yaw": -361}]}, r"yaw must be from -360 to 360 degrees, got -361"),
    "hfov": ({"rings": [{"count": 1, "hfov": 180}]}, r"hfov must be above 0 and below 180 degrees, got 180"),
    "no hfov": ({"rings": [{"count": 1, "hfov": 0}]}, r"hfov must be above 0 and below 180 degrees, got 0"),
    "too many": ({"rings": [{"count": 600}] * 2}, r"^r\.yaml: a rig has at most 1000 cameras, got 1200"),
    "far too many": ({"cameras": [{}] * 1001}, r"^r\.yaml: a rig has at most 1000 cameras, got 1001"),
    "nameless": ({"cameras": [{"yaw": 0}]}, r"^r\.yaml, cameras\[0\]: name is missing"),
    "number for a name": (
        {"cameras": [{"name": 7}]},
        r"name must be text, in quotes where it looks like a number, got 7",
    ),
    "twice": (
        {"cameras": [{"name": "a"}, {"name": "b"}, {"name": "a"}]},
        r"^r\.yaml: camera names become folder names and must differ, got 'a' twice",
    ),
    "twice but for case": ({"cameras": [{"name": "Up"}, {"name": "uP"}]}, r"must differ, got 'Up' and 'uP'"),
    "device": ({"cameras": [{"name": "aux.1"}]}, r"Windows keeps 'aux\.1' for a device"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_rig_is_refused(case: str) -> None:
    data, message = WRONG[case]
    with pytest.raises(UsageError, match=message):
        rig_from_mapping(data, source="r.yaml")


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b", "a\\b", "a b", "Ü", "a:", "end.", "x" * 65, "a\n"])
def test_unsafe_camera_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"r\.yaml, cameras\[0\]: name becomes a folder name: 1 to 64 ASCII letters"):
        rig_from_mapping({"cameras": [{"name": name}]}, source="r.yaml")


def test_a_message_stays_short() -> None:
    bomb: list[Any] = ["lol"]
    for _ in range(60):
        bomb = [bomb] * 9
    with pytest.raises(UsageError) as refused:
        rig_from_mapping({"rings": [bomb]}, source="r.yaml")
    assert len(str(refused.value)) < 200
