"""RealityScan (RealityCapture): one XMP sidecar a view, beside it and of its name (`a_cam00.jpg`, `a_cam00.xmp`).

Sources: the program's help on XMP metadata files, and its reference on coordinate systems in the import, estimation
and export of camera geometry (M. Hornáček, RealityScan, 2026-06-08, appendix B). From there: the rotation takes world
to camera axes (x right, y down, z forward) and is written row by row; the position is the camera's centre; a principal
point is measured from the middle of the picture; `perspective` is a lens without distortion.
"""

import json
import uuid
from typing import Final, Literal, TypeAlias

from lightmill.export.rigfile import camera_angles
from lightmill.ops.rig import Camera, Rig

# component: the views of a panorama are tied by poses alone. rig: they are declared a camera rig as well
Tie: TypeAlias = Literal["component", "rig"]

_NAMESPACE: Final = uuid.UUID("e5e06502-ef53-4e93-91a4-cf2ed4835d67")  # drawn once; a change renames every rig
_FILM_WIDTH_MM: Final = 36.0


def rig_guid(rig: Rig) -> str:
    """A GUID in braces that stays the same for the same name, size and cameras, on every machine."""
    # of what defines the rig only: sines differ in their last bit from one machine to the next
    cameras = [[camera.name, camera_angles(camera)] for camera in rig.cameras]
    return _braced(uuid.uuid5(_NAMESPACE, json.dumps([rig.name, str(rig.size), cameras], sort_keys=True)))


def instance_guid(rig_id: str, key: str) -> str:
    """A GUID in braces for the panorama `key` that was cut with the rig `rig_id`, the same in every run."""
    return _braced(uuid.uuid5(uuid.UUID(rig_id), key))


def xmp(camera: Camera, rig: Rig, *, rig_id: str, instance_id: str, pose_index: int, tie: Tie = "rig") -> str:
    """The sidecar of one view.

    `rig_id` and `instance_id` are GUIDs in braces, of the rig and of the panorama; `pose_index` is the camera's place
    in the rig, from 0. The pose is exact but relative: it holds within one panorama, whose views share one centre; how
    the panoramas stand to each other is for the program to find. Its world axes are the panorama's (x right, y down,
    z forward). The calibration is exact: the views are computed, without distortion.

    With `tie="rig"` the views are declared a rig too. RealityScan 2.2 is reported to refuse such files where no rig
    definition (`.rcrx`) lies beside them; `tie="component"` leaves the declaration out and keeps the rest.
    """
    attributes = {
        "Version": "3",
        "PosePrior": "exact",
        "Coordinates": "relative",
        "ComponentId": instance_id,
        "CalibrationPrior": "exact",
        "CalibrationGroup": "-1",
        "DistortionGroup": "-1",
        "DistortionModel": "perspective",
        "FocalLength35mm": repr(_focal_35mm(camera, rig)),
        "Skew": "0",
        "AspectRatio": "1",
        "PrincipalPointU": "0",
        "PrincipalPointV": "0",
        "InTexturing": "1",
        "InMeshing": "1",
    }
    if tie == "rig":
        attributes |= {"Rig": rig_id, "RigInstance": instance_id, "RigPoseIndex": str(pose_index)}
    written = "".join(f'\n      xcr:{name}="{_escaped(value)}"' for name, value in attributes.items())
    cam_from_pano = camera.pano_from_cam().T + 0.0  # no -0.0
    rotation = " ".join(map(repr, cam_from_pano.ravel().tolist()))
    return f"""\
<x:xmpmeta xmlns:x="adobe:ns:meta/">
  <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
    <rdf:Description xmlns:xcr="http://www.capturingreality.com/ns/xcr/1.1#"{written}>
      <xcr:Rotation>{rotation}</xcr:Rotation>
      <xcr:Position>0 0 0</xcr:Position>
      <xcr:DistortionCoeficients>0 0 0 0 0 0</xcr:DistortionCoeficients>
    </rdf:Description>
  </rdf:RDF>
</x:xmpmeta>
"""  # the program's own spelling: DistortionCoeficients


def _escaped(text: str) -> str:
    """For an attribute in double quotes. The library's own function would bring the network packages with it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _focal_35mm(camera: Camera, rig: Rig) -> float:
    """In mm, for a picture whose longer side is 36 mm: what the program scales by, also where views are upright."""
    return _FILM_WIDTH_MM * camera.focal_px(rig.size.width) / max(rig.size.width, rig.size.height)


def _braced(guid: uuid.UUID) -> str:
    return f"{{{str(guid).upper()}}}"
