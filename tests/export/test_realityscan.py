"""XMP sidecars, parsed back and used as RealityScan's reference defines them."""

import re
import uuid
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lightmill.export.realityscan import instance_guid, rig_guid, xmp
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import preset
from lightmill.types import Size

XCR = "{http://www.capturingreality.com/ns/xcr/1.1#}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
MIXED = Rig(
    name="mixed",
    size=Size(1920, 1080),
    cameras=(
        Camera(name="a", yaw=0, pitch=0, hfov=90),
        Camera(name="b", yaw=120, pitch=-35, roll=12, hfov=75),
        Camera(name="c", yaw=-80, pitch=90, roll=-170, hfov=110),
    ),
)


def sidecar(index: int, rig: Rig = MIXED, *, key: str = "one.jpg", **more: Any) -> ElementTree.Element:
    rig_id = rig_guid(rig)
    ids: Any = {"rig_id": rig_id, "instance_id": instance_guid(rig_id, key), "pose_index": index}
    root = ElementTree.fromstring(xmp(rig.cameras[index], rig, **ids, **more))
    assert root.tag == "{adobe:ns:meta/}xmpmeta"
    (description,) = root.findall(f"{RDF}RDF/{RDF}Description")
    return description


def numbers(description: ElementTree.Element, name: str) -> Any:
    text = description.findtext(f"{XCR}{name}")
    assert text is not None
    return np.array([float(part) for part in text.split()])


@pytest.mark.parametrize("index", range(3))
def test_rotation_takes_the_panorama_to_the_camera(index: int) -> None:
    rotation = numbers(sidecar(index), "Rotation").reshape(3, 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-14)
    np.testing.assert_array_equal(rotation, MIXED.cameras[index].pano_from_cam().T)
    np.testing.assert_array_equal(numbers(sidecar(index), "Position"), [0, 0, 0])


def test_a_direction_is_projected_to_its_pixel() -> None:
    """By the reference's formulas: X_cam = R X, x_px = max(w, h) f x + w / 2, with f = FocalLength35mm / 36."""
    for size in (Size(1920, 1080), Size(1080, 1920), Size(500, 500)):
        rig = Rig(name="any", size=size, cameras=MIXED.cameras)
        description = sidecar(1, rig)
        rotation = numbers(description, "Rotation").reshape(3, 3)
        scaled = max(size.width, size.height) * float(description.attrib[f"{XCR}FocalLength35mm"]) / 36
        yaw, pitch = np.radians([120 + 10, -35])
        x, y, z = rotation @ [np.cos(pitch) * np.sin(yaw), -np.sin(pitch), np.cos(pitch) * np.cos(yaw)]
        found = np.array([scaled * x / z + size.width / 2, scaled * y / z + size.height / 2])
        # the other way round, through the definition of the camera: the pixel's ray is that direction again
        f = size.width / (2 * np.tan(np.radians(75) / 2))
        ray = np.array([(found[0] - size.width / 2) / f, (found[1] - size.height / 2) / f, 1.0])
        back = rig.cameras[1].pano_from_cam() @ ray
        assert np.arctan2(back[0], back[2]) % (2 * np.pi) == pytest.approx(yaw)
        assert -np.arctan2(back[1], np.hypot(back[0], back[2])) == pytest.approx(pitch)


@pytest.mark.parametrize(("hfov", "focal"), [(90, 18.0), (53.13010235415598, 36.0)])
def test_focal_length_is_of_a_frame_36_mm_wide(hfov: float, focal: float) -> None:
    rig = Rig(name="one", size=Size(1000, 800), cameras=(Camera(name="a", yaw=0, pitch=0, hfov=hfov),))
    assert float(sidecar(0, rig).attrib[f"{XCR}FocalLength35mm"]) == pytest.approx(focal)


def test_priors_are_exact_and_relative_and_without_distortion() -> None:
    description = sidecar(2)
    found = {name.removeprefix(XCR): value for name, value in description.attrib.items()}
    instance = instance_guid(rig_guid(MIXED), "one.jpg")
    del found["FocalLength35mm"]
    assert found == {
        "Version": "3",
        "PosePrior": "exact",
        "Coordinates": "relative",
        "ComponentId": instance,
        "CalibrationPrior": "exact",
        "CalibrationGroup": "-1",
        "DistortionGroup": "-1",
        "DistortionModel": "perspective",
        "Skew": "0",
        "AspectRatio": "1",
        "PrincipalPointU": "0",
        "PrincipalPointV": "0",
        "InTexturing": "1",
        "InMeshing": "1",
        "Rig": rig_guid(MIXED),
        "RigInstance": instance,
        "RigPoseIndex": "2",
    }
    np.testing.assert_array_equal(numbers(description, "DistortionCoeficients"), np.zeros(6))


def test_a_component_declares_no_rig_and_is_else_the_same() -> None:
    rig, component = sidecar(1), sidecar(1, tie="component")
    dropped = {f"{XCR}{name}" for name in ("Rig", "RigInstance", "RigPoseIndex")}
    assert {name: value for name, value in rig.attrib.items() if name not in dropped} == component.attrib
    assert [(part.tag, part.text) for part in rig] == [(part.tag, part.text) for part in component]


def test_views_of_a_panorama_share_what_they_must() -> None:
    views = [sidecar(i, key="one.jpg").attrib for i in range(3)] + [sidecar(0, key="two.jpg").attrib]
    assert len({view[f"{XCR}Rig"] for view in views}) == 1
    assert [view[f"{XCR}RigInstance"] == views[0][f"{XCR}RigInstance"] for view in views] == [True, True, True, False]
    assert [view[f"{XCR}RigPoseIndex"] for view in views] == ["0", "1", "2", "0"]


def test_guids_are_of_the_form_that_the_program_writes_and_stay_the_same() -> None:
    rig = Rig(name="ring8", size=Size(1920, 1080), cameras=preset("ring8"))
    guids = [rig_guid(rig), instance_guid(rig_guid(rig), "tour/ä.jpg")]
    for guid in guids:
        assert re.fullmatch(r"\{[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}\}", guid)
        assert uuid.UUID(guid).version == 5
    # a change here would split the rig of everyone who adds to an old project
    assert guids == ["{70B987D6-1DE6-5E1E-91E9-F03AD3435729}", "{0852CDE3-DD6B-52EB-B643-CE5CB1086349}"]


def test_another_rig_has_another_guid() -> None:
    rigs = [
        MIXED,
        Rig(name="mixed", size=Size(1920, 1081), cameras=MIXED.cameras),
        Rig(name="mixed", size=MIXED.size, cameras=MIXED.cameras[:2]),
        Rig(name="other", size=MIXED.size, cameras=MIXED.cameras),
    ]
    assert len({rig_guid(rig) for rig in rigs}) == 4
