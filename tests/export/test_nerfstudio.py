"""transforms.json: what nerfstudio's parser needs, and axes held against definitions."""

import itertools
import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

from lightmill.errors import RunError
from lightmill.export.nerfstudio import WORLD_FROM_PANO, View, transforms
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import preset
from lightmill.types import Size

RIG = Rig(
    name="three",
    size=Size(800, 450),
    cameras=(
        Camera(name="ahead", yaw=0, pitch=0, hfov=90),
        Camera(name="right", yaw=90, pitch=0, roll=90, hfov=60),
        Camera(name="up", yaw=20, pitch=70, roll=-5, hfov=100),
    ),
)


def parsed(*views: View, rig: Rig = RIG) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads("".join(transforms(rig, views)))
    return whole


def pose(camera: str) -> Any:
    return np.array(parsed(View("a.jpg", camera))["frames"][0]["transform_matrix"])


def test_every_view_has_what_the_parser_asks_for() -> None:
    views = [View(f"images/{camera.name}/a.jpg", camera.name) for camera in RIG.cameras]
    whole = parsed(*views)
    assert whole["camera_model"] == "PINHOLE"
    assert [frame["file_path"] for frame in whole["frames"]] == [view.file_path for view in views]
    for frame, camera in zip(whole["frames"], RIG.cameras, strict=True):
        focal = 400 / math.tan(math.radians(camera.hfov) / 2)
        assert (frame["fl_x"], frame["fl_y"]) == (pytest.approx(focal), pytest.approx(focal))
        assert (frame["cx"], frame["cy"], frame["w"], frame["h"]) == (400, 225, 800, 450)
        assert set(frame) == {"file_path", "fl_x", "fl_y", "cx", "cy", "w", "h", "transform_matrix"}


def test_the_world_is_z_up_and_right_handed() -> None:
    assert np.linalg.det(WORLD_FROM_PANO) == 1
    np.testing.assert_array_equal(WORLD_FROM_PANO @ [0, -1, 0], [0, 0, 1])  # the panorama's y points down


def test_camera_axes_are_opengls() -> None:
    ahead = pose("ahead")
    np.testing.assert_allclose(ahead[:3, 0], [1, 0, 0], atol=1e-15)  # right
    np.testing.assert_allclose(ahead[:3, 1], [0, 0, 1], atol=1e-15)  # up
    np.testing.assert_allclose(ahead[:3, 2], [0, -1, 0], atol=1e-15)  # backward
    turned = pose("right")  # a quarter to the right, and clockwise: its upper side points to what is right of it
    np.testing.assert_allclose(-turned[:3, 2], [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(turned[:3, 1], [0, -1, 0], atol=1e-15)


def test_a_view_that_looks_up_looks_to_plus_z() -> None:
    forward = -pose("up")[:3, 2]
    assert math.degrees(math.asin(forward[2])) == pytest.approx(70)
    assert math.degrees(math.atan2(forward[0], forward[1])) == pytest.approx(20)


@pytest.mark.parametrize("camera", ["ahead", "right", "up"])
def test_poses_are_proper_and_at_the_origin(camera: str) -> None:
    found = pose(camera)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-14)
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1, abs=1e-14)
    np.testing.assert_array_equal(found[:, 3], [0, 0, 0, 1])
    np.testing.assert_array_equal(found[3], [0, 0, 0, 1])


def test_two_views_turn_as_the_rig_does() -> None:
    flip = np.diag([1.0, -1, -1])
    for a, b in itertools.combinations(RIG.cameras, 2):
        wanted = flip @ a.pano_from_cam().T @ b.pano_from_cam() @ flip
        np.testing.assert_allclose(pose(a.name)[:3, :3].T @ pose(b.name)[:3, :3], wanted, atol=1e-14)


def test_time_and_masks_are_there_where_given() -> None:
    (frame,) = parsed(View('é "1".jpg', "up", time_s=12.4, mask_path="masks/up/1.png"))["frames"]
    assert (frame["file_path"], frame["time_s"], frame["mask_path"]) == ('é "1".jpg', 12.4, "masks/up/1.png")


@pytest.mark.parametrize("masks", [("m.png", None), (None, "m.png")])
def test_masks_for_some_views_only_are_refused(masks: tuple[str | None, str | None]) -> None:
    views = [View(f"{i}.jpg", "up", mask_path=mask) for i, mask in enumerate(masks)]
    with pytest.raises(RunError, match=r"^1\.jpg: nerfstudio takes masks for all views or for none"):
        parsed(*views)


def test_a_camera_that_is_not_in_the_rig_is_refused() -> None:
    with pytest.raises(RunError, match=r"^a\.jpg: the rig three has no camera 'down'"):
        parsed(View("a.jpg", "down"))


def test_no_views_are_still_json() -> None:
    assert parsed()["frames"] == []


def test_the_file_says_that_positions_are_unknown() -> None:
    assert "all views are at the origin" in parsed()["note"]


def test_views_are_streamed() -> None:
    """10 000 views need no more memory than a few, and come as they are read."""
    rig = Rig(name="colmap12", size=Size(100, 100), cameras=preset("colmap12"))
    taken = 0

    def views() -> Any:
        nonlocal taken
        for i in range(10_000):
            taken += 1
            yield View(f"images/{i}.jpg", f"cam{i % 12:02d}")

    text = transforms(rig, views())
    assert len(list(itertools.islice(text, 4))) == 4
    assert taken == 3
    tracemalloc.start()
    length = sum(map(len, text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken == 10_000
    assert length > 3e6
    assert peak < 200_000
