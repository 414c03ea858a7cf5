"""rig_config.json: read, applied to a database and taken apart by COLMAP itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pycolmap.panorama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import NameCollision
from lightmill.export.colmap import check_names, rig_config
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import PRESETS, preset
from lightmill.types import Size

SIZE = Size(640, 360)
MIXED = Rig(
    name="mixed",
    size=SIZE,
    cameras=(
        Camera(name="left", yaw=-70, pitch=12, roll=8, hfov=80),
        Camera(name="cam1", yaw=180, pitch=0, hfov=90),
        Camera(name="cam10", yaw=110, pitch=-90, roll=-30, hfov=110),
        Camera(name="up", yaw=15, pitch=80, roll=170, hfov=65),
    ),
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    pycolmap.logging.minloglevel = 2


def read(rig: Rig, folder: Path) -> Any:
    path = folder / "rig_config.json"
    path.write_text(json.dumps(rig_config(rig)), encoding="utf-8")
    return pycolmap.read_rig_config(str(path))


def rotation_error(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max())


@pytest.mark.parametrize("rig", [MIXED, *(Rig(name=name, size=SIZE, cameras=preset(name)) for name in PRESETS)])
def test_colmap_reads_the_rig(rig: Rig, tmp_path: Path) -> None:
    (config,) = read(rig, tmp_path)
    assert [camera.image_prefix for camera in config.cameras] == [f"{camera.name}/" for camera in rig.cameras]
    assert [camera.ref_sensor for camera in config.cameras] == [True] + [False] * (len(rig.cameras) - 1)
    reference = rig.cameras[0].pano_from_cam()
    for found, camera in zip(config.cameras[1:], rig.cameras[1:], strict=True):
        wanted = camera.pano_from_cam().T @ reference
        assert rotation_error(found.cam_from_rig.rotation.matrix(), wanted) < 1e-12
        assert not np.any(found.cam_from_rig.translation)
    assert config.cameras[0].cam_from_rig is None


def test_the_rig_is_the_one_that_pycolmap_makes_of_its_own_views(tmp_path: Path) -> None:
    options = pycolmap.panorama.PANO_RENDER_OPTIONS[pycolmap.panorama.PanoRenderType.PERSPECTIVE_OVERLAPPING]
    rotations = pycolmap.panorama.get_virtual_rotations(options.num_steps_yaw, options.pitches_deg)
    wanted: Any = pycolmap.panorama.create_pano_rig_config(rotations).cameras
    rig = Rig(name="colmap12", size=Size(512, 512), cameras=preset("colmap12"))
    (found,) = read(rig, tmp_path)
    for ours, theirs in zip(found.cameras[1:], wanted[1:], strict=True):
        assert rotation_error(ours.cam_from_rig.rotation.matrix(), theirs.cam_from_rig.rotation.matrix()) < 1e-12


def test_colmap_groups_the_views_of_a_panorama_and_takes_the_intrinsics(tmp_path: Path) -> None:
    config = read(MIXED, tmp_path)
    database = pycolmap.Database.open(str(tmp_path / "database.db"))
    for camera in MIXED.cameras:
        guess = pycolmap.Camera(model="SIMPLE_RADIAL", width=640, height=360, params=[700.0, 320.0, 180.0, 0.0])
        number = database.write_camera(guess)
        for name in ("one.jpg", "walk/two.jpg", "cam1.jpg"):
            database.write_image(pycolmap.Image(name=f"{camera.name}/{name}", camera_id=number))
    pycolmap.apply_rig_config(config, database)

    names = {image.image_id: image.name for image in database.read_all_images()}
    frames = [{names[sensor.id] for sensor in frame.data_ids} for frame in database.read_all_frames()]
    wanted = [{f"{camera.name}/{name}" for camera in MIXED.cameras} for name in ("one.jpg", "walk/two.jpg", "cam1.jpg")]
    assert sorted(map(sorted, frames)) == sorted(map(sorted, wanted))

    models = sorted(database.read_all_cameras(), key=lambda model: model.camera_id)
    database.close()
    for model, camera in zip(models, MIXED.cameras, strict=True):
        f = 640 / (2 * np.tan(np.radians(camera.hfov) / 2))
        assert model.model_name == "PINHOLE"
        np.testing.assert_allclose(model.params, [f, f, 320, 180], rtol=1e-12)


def views_a_frame(names: list[str], folder: Path) -> list[int]:
    """How many views COLMAP groups to each panorama, if every camera of MIXED has made all of `names`."""
    database = pycolmap.Database.open(str(folder / "database.db"))
    for camera in MIXED.cameras:
        number = database.write_camera(pycolmap.Camera(model="PINHOLE", width=640, height=360, params=[9, 9, 320, 180]))
        for name in names:
            database.write_image(pycolmap.Image(name=f"{camera.name}/{name}", camera_id=number))
    pycolmap.apply_rig_config(read(MIXED, folder), database)
    counts = [len(frame.data_ids) for frame in database.read_all_frames()]
    database.close()
    return counts


@pytest.mark.parametrize(
    "names", [["a.jpg"], ["cam1.jpg", "left"], ["cam11/a.jpg"], ["walk/up.jpg", "walk/down/a.jpg"]]
)
def test_names_that_colmap_groups_rightly_are_allowed(names: list[str], tmp_path: Path) -> None:
    check_names(MIXED, names)
    assert views_a_frame(names, tmp_path) == [len(MIXED.cameras)] * len(names)


@pytest.mark.parametrize("names", [["cam1/a.jpg"], ["b.jpg", "cam10/a.jpg", "cam1/a.jpg"], ["walk-up/a.jpg"]])
def test_names_that_colmap_groups_wrongly_are_refused(names: list[str], tmp_path: Path) -> None:
    assert views_a_frame(names, tmp_path) != [len(MIXED.cameras)] * len(names)
    with pytest.raises(
        NameCollision, match=r"a\.jpg: COLMAP would take '\w+/' for the folder of the camera .* --naming stem"
    ):
        check_names(MIXED, names)


def test_a_direction_is_seen_where_the_database_says(tmp_path: Path) -> None:
    """Through pycolmap alone: a point on the axis of one camera is projected by another."""
    (config,) = read(MIXED, tmp_path)
    up, reference = config.cameras[3], MIXED.cameras[0].pano_from_cam()
    inside = MIXED.cameras[3].pano_from_cam() @ np.array([0.2, -0.1, 1.0])  # in panorama axes
    seen = up.cam_from_rig.rotation.matrix() @ reference.T @ inside
    pixel = up.camera.img_from_cam(seen[None])[0]
    f = 640 / (2 * np.tan(np.radians(65) / 2))
    np.testing.assert_allclose(pixel, [320 + 0.2 * f, 180 - 0.1 * f], atol=1e-9)


@given(
    angles=st.lists(st.tuples(st.floats(-360, 360), st.floats(-90, 90), st.floats(-360, 360)), min_size=2, max_size=2)
)
def test_quaternions_are_the_rotations(angles: list[tuple[float, float, float]]) -> None:
    cameras = tuple(Camera(name=f"c{i}", yaw=y, pitch=p, roll=r) for i, (y, p, r) in enumerate(angles))
    config: Any = rig_config(Rig(name="two", size=SIZE, cameras=cameras))
    w, x, y, z = config[0]["cameras"][1]["cam_from_rig_rotation"]
    assert w >= 0
    assert np.linalg.norm([w, x, y, z]) == pytest.approx(1, abs=1e-12)
    found = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()  # Eigen's order
    assert rotation_error(found, cameras[1].pano_from_cam().T @ cameras[0].pano_from_cam()) < 1e-12


def test_the_first_camera_carries_no_pose() -> None:
    config: Any = rig_config(MIXED)
    first, *others = config[0]["cameras"]
    assert set(first) == {"image_prefix", "ref_sensor", "camera_model_name", "camera_params"}
    wanted = {"image_prefix", "cam_from_rig_rotation", "cam_from_rig_translation", "camera_model_name", "camera_params"}
    assert all(set(other) == wanted for other in others)
