"""COLMAP: the rig as its `rig_configurator` reads it.

The views must lie in one folder a camera (`cam00/`, `cam01/`, …), because a camera is known by the beginning of its
image names, and the rest of the name says which images were taken together.
"""

import math
import re
from collections.abc import Iterable
from functools import reduce
from typing import TypeAlias

from lightmill.engine.items import Json
from lightmill.errors import NameCollision
from lightmill.ops.rig import Camera, Rig

Quaternion: TypeAlias = tuple[float, float, float, float]  # w, x, y, z, length 1


def rig_config(rig: Rig) -> list[Json]:
    """What `rig_config.json` holds, ready for `json.dumps`: one rig.

    The first camera is the reference sensor, so the rig's axes are its axes; the others carry their `cam_from_rig`, a
    rotation [w, x, y, z] and a translation that is always zero, because the views of a panorama share one centre. A
    pose is read only where both are there, and the reference sensor must have neither (colmap/src/colmap/scene/rig.cc).
    `camera_params` are fx, fy, cx, cy in pixels; COLMAP too has the first pixel's centre at (0.5, 0.5).
    """
    reference = rig.cameras[0]
    cameras: list[Json] = [
        {
            "image_prefix": f"{camera.name}/",
            **({"ref_sensor": True} if camera is reference else _pose(camera, reference)),
            **_intrinsics(camera, rig),
        }
        for camera in rig.cameras
    ]
    return [{"cameras": cameras}]


def check_names(rig: Rig, names: Iterable[str]) -> None:
    """Refuses names that COLMAP would group wrongly, without a word.

    `names` are those of the views inside their camera's folder (`walk/a.jpg` of `cam00/walk/a.jpg`). COLMAP takes what
    follows the last `cam00/` of the whole for the name of the panorama (4.2.1: StringGetAfter), so none may hold a
    camera's name and a slash once more. Raises NameCollision for the first that does.
    """
    again = re.compile("(" + "|".join(re.escape(camera.name) for camera in rig.cameras) + ")/")
    for name in names:
        if found := again.search(name):
            raise NameCollision(
                f"{name}: COLMAP would take {found[0]!r} for the folder of the camera {found[1]!r} and group the wrong "
                "views; rename that folder, name the rig's cameras otherwise, or use --naming stem or index"
            )


def _pose(camera: Camera, reference: Camera) -> dict[str, Json]:
    w, x, y, z = _pano_from_cam(camera)
    cam_from_rig = _times((w, -x, -y, -z), _pano_from_cam(reference))
    sign = -1 if cam_from_rig[0] < 0 else 1  # q and -q are one rotation
    rotation: list[Json] = [sign * part + 0.0 for part in cam_from_rig]  # no -0.0
    return {"cam_from_rig_rotation": rotation, "cam_from_rig_translation": [0.0, 0.0, 0.0]}


def _intrinsics(camera: Camera, rig: Rig) -> dict[str, Json]:
    focal_px = camera.focal_px(rig.size.width)
    params: list[Json] = [focal_px, focal_px, rig.size.width / 2, rig.size.height / 2]
    return {"camera_model_name": "PINHOLE", "camera_params": params}


def _pano_from_cam(camera: Camera) -> Quaternion:
    """Ry(yaw) Rx(pitch) Rz(roll), from the angles: no matrix has to be taken apart near a half turn."""
    halves = [math.radians(angle) / 2 for angle in (camera.yaw, camera.pitch, camera.roll)]
    (cy, cp, cr), (sy, sp, sr) = map(math.cos, halves), map(math.sin, halves)
    return reduce(_times, [(cy, 0.0, sy, 0.0), (cp, sp, 0.0, 0.0), (cr, 0.0, 0.0, sr)])


def _times(a: Quaternion, b: Quaternion) -> Quaternion:
    """Hamilton's product: b first, then a."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a, b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
