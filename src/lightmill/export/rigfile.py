"""`rig.json`: the cameras of a run, exactly, for scripts and for the way back from views to panoramas."""

import json
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lightmill.engine.items import Json
from lightmill.errors import UsageError
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import Entry, check_names
from lightmill.types import Size

_ANGLES = ("yaw", "pitch", "roll", "hfov")
_DERIVED = ("fx", "fy", "cx", "cy", "pano_from_cam")
_TOLERANCE = 1e-6  # relative: files pass through tools that print fewer digits


def rig_json(rig: Rig) -> dict[str, Json]:
    """What `rig.json` holds, ready for `json.dumps`.

    `size` is [w, h] of every view in pixels; yaw, pitch, roll, hfov are degrees; fx, fy, cx, cy are pixels, the first
    pixel's centre at (0.5, 0.5); `pano_from_cam` is the 3 x 3 rotation, row by row. Signs and axes as in
    `lightmill.ops.rig`.
    """
    cameras: list[Json] = [_camera_json(camera, rig.size) for camera in rig.cameras]
    return {"name": rig.name, "size": [rig.size.width, rig.size.height], "cameras": cameras}


def read_rig_json(text: str, *, source: str) -> Rig:
    """The rig that `rig_json` wrote: equal to it in every bit.

    `source` names the file in messages. The angles, the field of view and the size say what a camera is; the numbers
    that follow from them must be there too and agree to 1e-6, so that a file that was edited in one place is noticed.
    Raises UsageError, naming the file, the entry and the field, for all that is not such a file.
    """
    top = Entry.of(_parse(text, source), where=source)
    top.allow("name", "size", "cameras")
    name, size = top.text("name"), _read_size(top)
    cameras = tuple(_read_camera(entry, size) for entry in top.entries("cameras"))
    check_names((camera.name for camera in cameras), where=source)
    return Rig(name=name, size=size, cameras=cameras)


def _camera_json(camera: Camera, size: Size) -> dict[str, Json]:
    return {"name": camera.name, **camera_angles(camera), **_derived(camera, size)}


def camera_angles(camera: Camera) -> dict[str, Json]:
    """`yaw`, `pitch`, `roll` and `hfov` in degrees, all as float: a rig reads the same whoever wrote it."""
    return {field: float(getattr(camera, field)) for field in _ANGLES}


def _derived(camera: Camera, size: Size) -> dict[str, Json]:
    focal_px = camera.focal_px(size.width)
    rotation: list[Json] = [list(row) for row in (camera.pano_from_cam() + 0.0).tolist()]  # no -0.0
    return {"fx": focal_px, "fy": focal_px, "cx": size.width / 2, "cy": size.height / 2, "pano_from_cam": rotation}


def _parse(text: str, source: str) -> object:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{source}: no JSON that can be read ({exc}); wanted the rig.json of a split360 run") from exc


def _read_size(top: Entry) -> Size:
    size = top.value("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        raise top.fail("size", "must be [width, height] in whole pixels")
    try:
        return Size(*size)
    except ValueError as exc:
        raise top.fail("size", f"is out of bounds: {exc}") from exc


def _read_camera(entry: Entry, size: Size) -> Camera:
    entry.allow("name", *_ANGLES, *_DERIVED)
    for field in _ANGLES:
        entry.value(field)  # a default would hide that the file is not whole
    camera = Camera(
        name=entry.camera_name(),
        yaw=entry.angle("yaw"),
        pitch=entry.angle("pitch"),
        roll=entry.angle("roll"),
        hfov=entry.hfov(),
    )
    for field, wanted in _derived(camera, size).items():
        found = _matrix(entry) if field == "pano_from_cam" else np.array(entry.number(field))
        if not np.allclose(found, np.array(wanted, float), rtol=_TOLERANCE, atol=_TOLERANCE):
            raise entry.fail(
                field, "does not follow from size, yaw, pitch, roll and hfov; take the rig.json as split360 wrote it"
            )
    return camera


def _matrix(entry: Entry) -> NDArray[np.float64]:
    rows: Any = entry.value("pano_from_cam")
    try:
        matrix = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise entry.fail("pano_from_cam", "must be 3 rows of 3 numbers") from exc
    if matrix.shape != (3, 3):
        raise entry.fail("pano_from_cam", "must be 3 rows of 3 numbers")
    return matrix
