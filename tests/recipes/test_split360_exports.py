"""The exports of a whole run, read by the programs they are for, or as their references say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lightmill.errors import NameCollision, UsageError

XCR = "{http://www.capturingreality.com/ns/xcr/1.1#}"
RIG = """\
cameras:
- {name: ahead, yaw: 0, hfov: 100}
- {name: right, yaw: 60, pitch: 10, hfov: 100}
- {name: up, yaw: 30, pitch: 70, roll: 20, hfov: 110}
- {name: back, yaw: 180, pitch: -15, roll: -40, hfov: 80}
"""


@pytest.fixture
def two(write_waves: Callable[..., Any], tmp_path: Path) -> Path:
    """A folder with one.jpg and walk/two.jpg, and the rig beside it."""
    write_waves(tmp_path / "in" / "one.jpg", seed=1, quality=95)
    write_waves(tmp_path / "in" / "walk" / "two.jpg", seed=2, quality=95)
    (tmp_path / "rig.yaml").write_text(RIG)
    return tmp_path / "in"


def rays_of(camera: dict[str, Any], size: list[int]) -> NDArray[np.float64]:
    """[h, w, 3] unit directions in panorama axes of a view's pixel centres."""
    x = (np.arange(size[0]) + 0.5 - camera["cx"]) / camera["fx"]
    y = ((np.arange(size[1]) + 0.5 - camera["cy"]) / camera["fy"])[:, None]
    rays = np.stack(np.broadcast_arrays(x, y, 1.0), axis=-1) @ np.array(camera["pano_from_cam"]).T
    unit: NDArray[np.float64] = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return unit


def owner(cameras: list[dict[str, Any]], size: list[int], rays: NDArray[np.float64]) -> NDArray[np.int64]:
    """[h, w] which camera sees each direction nearest to its axis, by trying them all; -1 where it is a close call."""
    nearness = []
    doubt = np.zeros(rays.shape[:2], bool)
    for camera in cameras:
        x, y, z = np.moveaxis(rays @ np.array(camera["pano_from_cam"]), -1, 0)
        beyond = np.maximum(
            np.abs(x) * camera["fx"] - size[0] / 2 * z, np.abs(y) * camera["fy"] - size[1] / 2 * z
        )  # px, where z is near 1
        nearness.append(np.where((z > 0) & (beyond <= 0), z, -2.0))
        doubt |= (z > 0) & (np.abs(beyond) < 1e-6)
    ordered = np.sort(nearness, axis=0)
    doubt |= (ordered[-1] - ordered[-2] < 1e-9) & (ordered[-2] > -2)
    return np.where(doubt, -1, np.argmax(nearness, axis=0))


def test_colmap_groups_the_files_that_are_there(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    import pycolmap

    pycolmap.logging.minloglevel = 2
    made = split(two, rig=str(tmp_path / "rig.yaml"), export="colmap")
    config = pycolmap.read_rig_config(str(made.out / "colmap" / "rig_config.json"))
    images = sorted(path.relative_to(made.out / "images").as_posix() for path in (made.out / "images").rglob("*.jpg"))
    assert len(images) == 8
    with pycolmap.Database.open(str(tmp_path / "database.db")) as database:
        numbers: dict[str, int] = {}
        for image in images:
            folder = image.split("/")[0]
            if folder not in numbers:  # as COLMAP's reader does it, one camera a folder, from the EXIF focal length
                bitmap = pycolmap.Bitmap.read(str(made.out / "images" / image), True)
                params = [bitmap.exif_focal_length(), bitmap.width / 2, bitmap.height / 2, 0.0]
                guess = pycolmap.Camera(model="SIMPLE_RADIAL", width=bitmap.width, height=bitmap.height, params=params)
                numbers[folder] = database.write_camera(guess)
            database.write_image(pycolmap.Image(name=image, camera_id=numbers[folder]))
        pycolmap.apply_rig_config(config, database)
        names = {image.image_id: image.name for image in database.read_all_images()}
        frames = sorted(sorted(names[one.id] for one in frame.data_ids) for frame in database.read_all_frames())
        rigs = database.read_all_rigs()
        models = {camera.camera_id: camera for camera in database.read_all_cameras()}
    cameras = [camera["name"] for camera in made.rig["cameras"]]
    assert frames == sorted(sorted(f"{name}/{file}" for name in cameras) for file in ("one.jpg", "walk/two.jpg"))
    (rig,) = rigs
    assert rig.num_sensors() == 4
    assert rig.ref_sensor_id.id == numbers["ahead"]
    reference = np.array(made.rig["cameras"][0]["pano_from_cam"])
    for camera in made.rig["cameras"]:
        number = numbers[camera["name"]]
        assert models[number].model_name == "PINHOLE"
        np.testing.assert_allclose(models[number].params, [camera["fx"], camera["fy"], camera["cx"], camera["cy"]])
        if camera["name"] != "ahead":
            sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, number)
            found = rig.sensor_from_rig(sensor)
            wanted = np.array(camera["pano_from_cam"]).T @ reference
            np.testing.assert_allclose(found.rotation.matrix(), wanted, atol=1e-9)
            assert not found.translation.any()


def test_colmaps_masks_give_every_direction_to_one_camera(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    made = split(two, rig=str(tmp_path / "rig.yaml"), export="colmap")
    cameras, size = made.rig["cameras"], made.rig["size"]
    shares = []
    for index, camera in enumerate(cameras):
        mask = made.mask("one.jpg", f"{camera['name']}_colmap_mask")
        assert made.rows["one.jpg"]["outputs"][f"{camera['name']}_colmap_mask"] == (
            f"colmap/masks/{camera['name']}/one.jpg.png"
        )
        owners = owner(cameras, size, rays_of(camera, size))
        sure = owners >= 0
        assert sure.mean() > 0.99
        assert np.array_equal((mask == 255)[sure], (owners == index)[sure])
        assert set(np.unique(mask)) <= {0, 255}
        shares.append(float((mask == 255).mean()))
    assert all(0.2 < share < 0.999 for share in shares[:3])
    assert shares[3] == 1  # nobody else looks back


def test_colmaps_masks_leave_out_what_the_user_has_masked(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    kept = np.zeros((128, 256), np.uint8)
    kept[:, 110:200] = 255
    Image.fromarray(kept).save(tmp_path / "masks" / "one.png")
    rig = str(tmp_path / "rig.yaml")
    plain = split(two, "plain", rig=rig, export="colmap")
    made = split(two, "masked", rig=rig, export="colmap", masks=str(tmp_path / "masks"), mask_polarity="keep-black")
    for camera in (camera["name"] for camera in made.rig["cameras"]):
        owned, cut = plain.mask("one.jpg", f"{camera}_colmap_mask"), made.mask("one.jpg", f"{camera}_mask")
        both = (owned == 255) & (cut == 0)  # cut is keep-black
        assert np.array_equal(made.mask("one.jpg", f"{camera}_colmap_mask") == 255, both)
        unmasked = made.mask("walk/two.jpg", f"{camera}_colmap_mask")
        assert np.array_equal(unmasked, owned)
    assert 0.1 < (made.mask("one.jpg", "ahead_mask") == 0).mean() < 0.9


def test_transforms_json_lists_every_view_in_order(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    made = split(two, rig=str(tmp_path / "rig.yaml"), export="nerfstudio")
    whole = json.loads((made.out / "transforms.json").read_text("utf-8"))
    names = [camera["name"] for camera in made.rig["cameras"]]
    wanted = [f"images/{name}/{stem}.jpg" for stem in ("one", "walk/two") for name in names]
    assert [frame["file_path"] for frame in whole["frames"]] == wanted
    assert all((made.out / frame["file_path"]).is_file() for frame in whole["frames"])
    assert all("mask_path" not in frame for frame in whole["frames"])
    for frame, camera in zip(whole["frames"], made.rig["cameras"] * 2, strict=True):
        assert [frame[field] for field in ("fl_x", "fl_y", "cx", "cy", "w", "h")] == [
            camera["fx"],
            camera["fy"],
            camera["cx"],
            camera["cy"],
            *made.rig["size"],
        ]
        pose = np.array(frame["transform_matrix"])
        down, forward = -pose[:3, 1], -pose[:3, 2]  # OpenGL: y up, z backward
        x, y, z = np.array(camera["pano_from_cam"])[:, 2]
        np.testing.assert_allclose(forward, [x, z, -y], atol=1e-12)  # nerfstudio: z up
        x, y, z = np.array(camera["pano_from_cam"])[:, 1]
        np.testing.assert_allclose(down, [x, z, -y], atol=1e-12)


def test_transforms_json_names_the_masks_and_leaves_failed_items_out(
    two: Path, split: Callable[..., Any], tmp_path: Path
) -> None:
    (two / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "masks").mkdir()
    Image.new("L", (256, 128), 255).save(tmp_path / "masks" / "one.png")
    options = {"export": "nerfstudio", "masks": str(tmp_path / "masks"), "mask_naming": "colmap", "layout": "flat"}
    made = split(two, rig=str(tmp_path / "rig.yaml"), **options)
    assert made.result.failed == 1
    frames = json.loads((made.out / "transforms.json").read_text("utf-8"))["frames"]
    assert len(frames) == 8
    for frame in frames:
        assert frame["mask_path"] == frame["file_path"].replace("images/", "masks/") + ".png"
        assert (made.out / frame["mask_path"]).is_file()


@pytest.mark.parametrize("layout", ["by-camera", "flat"])
def test_realityscan_finds_a_sidecar_beside_every_view(
    layout: str, two: Path, split: Callable[..., Any], tmp_path: Path
) -> None:
    made = split(two, rig=str(tmp_path / "rig.yaml"), export="realityscan", layout=layout)
    views = list((made.out / "images").rglob("*.jpg"))
    assert len(views) == 8
    rigs, instances = set(), {}
    for key, row in made.rows.items():
        for index, camera in enumerate(made.rig["cameras"]):
            sidecar = (made.out / row["outputs"][camera["name"]]).with_suffix(".xmp")
            assert row["outputs"][f"{camera['name']}_xmp"] == sidecar.relative_to(made.out).as_posix()
            (entry,) = (
                ElementTree.parse(sidecar).getroot().iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
            )
            rotation = np.array((entry.findtext(f"{XCR}Rotation") or "").split(), float).reshape(3, 3)
            np.testing.assert_allclose(rotation, np.array(camera["pano_from_cam"]).T, atol=1e-12)
            focal_35mm = float(entry.attrib[f"{XCR}FocalLength35mm"])
            assert focal_35mm / 36 * 64 == pytest.approx(camera["fx"])
            assert entry.attrib[f"{XCR}RigPoseIndex"] == str(index)
            rigs.add(entry.attrib[f"{XCR}Rig"])
            instances.setdefault(key, set()).add(entry.attrib[f"{XCR}RigInstance"])
    assert len(rigs) == 1
    assert all(len(one) == 1 for one in instances.values())
    assert instances["one.jpg"] != instances["walk/two.jpg"]


def test_exports_are_said_in_the_report(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    made = split(two, rig=str(tmp_path / "rig.yaml"), export="colmap,nerfstudio,realityscan")
    report = json.loads((made.out / "report.json").read_text("utf-8"))
    wanted = ["colmap/rig_config.json", "rig.json", "transforms.json"]
    assert sorted(report["exports"]) == wanted
    assert set(wanted) <= set(made.files)


def test_without_exports_there_are_none(two: Path, split: Callable[..., Any]) -> None:
    made = split(two, rig="horizon4")
    beside = [name for name in made.files if not name.startswith("images/")]
    assert beside == ["manifest.csv", "manifest.jsonl", "rig.json"]


def test_colmap_needs_folders_of_cameras(two: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--export colmap needs --layout by-camera: COLMAP tells the cameras of a rig"):
        split(two, export="colmap", layout="flat")
    (two / "cam02").mkdir()
    (two / "walk" / "two.jpg").rename(two / "cam02" / "two.jpg")
    with pytest.raises(
        NameCollision, match=r"cam02/two: COLMAP would take 'cam02/' for the folder of the camera 'cam02'"
    ):
        split(two, export="colmap", rig="horizon4")
    assert not (tmp_path / "out" / "images").exists()
    assert split(two, "stems", export="colmap", rig="horizon4", naming="stem").result.ok == 2
