"""nerfstudio: `transforms.json`, one entry a view, as a stream of text.

World axes: z up, as nerfstudio has them; x is the panorama's right, y the way it looks (yaw 0). Camera axes: OpenGL's,
x right, y up, z backward.

Where each panorama was taken is not known here, so all views stand at the origin and only turn: the file says how the
views of one panorama lie to each other. Until poses are filled in, nerfstudio must be told not to scale by the distance
between the cameras, which is zero (`--auto-scale-poses False`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from lightmill.engine.items import Json
from lightmill.errors import RunError
from lightmill.ops.rig import Camera, Rig

WORLD_FROM_PANO: Final = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
_CAM_FROM_OPENGL: Final = np.diag([1.0, -1.0, -1.0])
_NOTE: Final = (
    "Poses are relative to the panorama that a view was cut from: all views are at the origin, because where the "
    "panoramas were taken is not known."
)


@dataclass(frozen=True, slots=True)
class View:
    """One picture that was cut out of a panorama."""

    file_path: str  # relative to transforms.json, with forward slashes
    camera: str  # its name in the rig
    time_s: float | None = None  # since the beginning of the video
    mask_path: str | None = None  # as file_path; white is kept


def transforms(rig: Rig, views: Iterable[View]) -> Iterator[str]:
    """The text of `transforms.json`, in pieces of a few hundred bytes, a line a view: 800 000 views need no memory.

    Each entry has `file_path`, `mask_path` (where given), the intrinsics fl_x, fl_y, cx, cy, w, h in pixels,
    `transform_matrix` (4 x 4, camera to world) and `time_s` (where given; nerfstudio does not read it).

    Raises RunError for a view of a camera that the rig does not have, and where some views have a mask and others none:
    nerfstudio takes masks for all or for none.
    """
    fixed = {camera.name: json.dumps(_fixed_part(camera, rig))[1:] for camera in rig.cameras}
    yield f'{{"camera_model": "PINHOLE", "note": {json.dumps(_NOTE)}, "frames": ['
    masked: bool | None = None
    for view in views:
        if view.camera not in fixed:
            raise RunError(f"{view.file_path}: the rig {rig.name} has no camera {view.camera!r}")
        if masked not in (None, view.mask_path is not None):
            raise RunError(f"{view.file_path}: nerfstudio takes masks for all views or for none; this one differs")
        yield f"{'' if masked is None else ','}\n{json.dumps(_own_part(view))[:-1]}, {fixed[view.camera]}"
        masked = view.mask_path is not None
    yield "\n]}\n"


def _own_part(view: View) -> dict[str, Json]:
    own: dict[str, Json] = {"file_path": view.file_path, "mask_path": view.mask_path, "time_s": view.time_s}
    return {field: value for field, value in own.items() if value is not None}


def _fixed_part(camera: Camera, rig: Rig) -> dict[str, Json]:
    """What all views of one camera share."""
    focal_px = camera.focal_px(rig.size.width)
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = WORLD_FROM_PANO @ camera.pano_from_cam() @ _CAM_FROM_OPENGL + 0.0  # no -0.0
    return {
        "fl_x": focal_px,
        "fl_y": focal_px,
        "cx": rig.size.width / 2,
        "cy": rig.size.height / 2,
        "w": rig.size.width,
        "h": rig.size.height,
        "transform_matrix": [list(row) for row in world_from_cam.tolist()],
    }
