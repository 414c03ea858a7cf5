"""rig.json: written, read back bit for bit, and refused where it is not whole."""

import copy
import json
from typing import Any

import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.export.rigfile import read_rig_json, rig_json
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import PRESETS
from lightmill.types import Size

PAIR = Rig(
    name="pair",
    size=Size(640, 480),
    cameras=(Camera(name="a", yaw=30, pitch=-20, roll=10, hfov=70), Camera(name="b", yaw=200, pitch=45)),
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_round_trip(name: str) -> None:
    rig = Rig(name=name, size=Size(1920, 1080), cameras=PRESETS[name])
    assert read_rig_json(json.dumps(rig_json(rig)), source="rig.json") == rig


@given(
    yaw=st.floats(-360, 360),
    pitch=st.floats(-90, 90),
    roll=st.floats(-360, 360),
    hfov=st.floats(1, 179),
    size=st.builds(Size, st.integers(1, 65500), st.integers(1, 65500)),
    name=st.text(min_size=1).filter(str.strip),
)
def test_any_rig_survives_the_round_trip(size: Size, name: str, **angles: float) -> None:
    rig = Rig(name=name, size=size, cameras=(Camera(name="a", **angles),))
    assert read_rig_json(json.dumps(rig_json(rig), ensure_ascii=False), source="rig.json") == rig


def test_fields_are_those_of_the_contract() -> None:
    whole = rig_json(PAIR)
    assert list(whole) == ["name", "size", "cameras"]
    assert whole["size"] == [640, 480]
    entries: Any = whole["cameras"]
    fields = ["name", "yaw", "pitch", "roll", "hfov", "fx", "fy", "cx", "cy", "pano_from_cam"]
    assert [list(entry) for entry in entries] == [fields, fields]


def test_numbers_are_pycolmaps() -> None:
    """A ray through a corner of the view, by pycolmap's PINHOLE and the rotation of the file."""
    entry: Any = rig_json(PAIR)["cameras"][0]  # type: ignore[index]
    model = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[entry[k] for k in ("fx", "fy", "cx", "cy")])
    assert np.degrees(2 * np.arctan(model.cam_from_img(np.array([[640.0, 240.0]]))[0, 0])) == pytest.approx(70)
    turned = pycolmap.Rotation3d(np.array(entry["pano_from_cam"])).matrix()
    ahead = turned @ [0, 0, 1]
    assert np.degrees(np.arctan2(ahead[0], ahead[2])) == pytest.approx(30)
    assert np.degrees(np.arcsin(-ahead[1])) == pytest.approx(-20)


def broken(path: list[str | int], value: Any) -> str:
    whole: Any = copy.deepcopy(rig_json(PAIR))
    at = whole
    for step in path[:-1]:
        at = at[step]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(whole)


FIRST: list[str | int] = ["cameras", 0]
WRONG: dict[str, tuple[str, str]] = {
    "empty": ("", r"^out/rig\.json: no JSON that can be read \(.*\); wanted the rig\.json of a split360 run"),
    "cut short": (json.dumps(rig_json(PAIR))[:100], r"no JSON that can be read"),
    "deep": ("[" * 100_000, r"no JSON that can be read"),
    "not a number": (json.dumps(rig_json(PAIR)).replace("640", "NaN", 1), r"NaN is no number"),
    "a list": ("[]", r"^out/rig\.json: wanted fields as in `yaw: 0`, got \[\]"),
    "no name": (broken(["name"], KeyError), r"^out/rig\.json: name is missing"),
    "blank name": (broken(["name"], "  "), r"name must be text"),
    "no size": (broken(["size"], KeyError), r"^out/rig\.json: size is missing"),
    "size as text": (broken(["size"], "640x480"), r"size must be \[width, height\] in whole pixels"),
    "half a pixel": (broken(["size"], [640.5, 480]), r"size must be \[width, height\] in whole pixels"),
    "size of nothing": (broken(["size"], [0, 480]), r"size is out of bounds: a size is from 1x1 .*, got 0x480"),
    "no cameras": (broken(["cameras"], []), r"cameras must be a list with at least one entry"),
    "more": (broken(["colour"], 1), r"unknown field 'colour'; there are `name`, `size`, `cameras`"),
    "more in a camera": (broken([*FIRST, "k1"], 0), r"^out/rig\.json, cameras\[0\]: unknown field 'k1'"),
    "unsafe name": (broken([*FIRST, "name"], "../a"), r"cameras\[0\]: name becomes a folder name"),
    "same name": (broken(["cameras", 1, "name"], "A"), r"must differ, got 'a' and 'A'"),
    "no yaw": (broken([*FIRST, "yaw"], KeyError), r"cameras\[0\]: yaw is missing"),
    "no focal length": (broken([*FIRST, "fy"], KeyError), r"cameras\[0\]: fy is missing"),
    "an angle that was edited": (
        broken([*FIRST, "yaw"], 31),
        r"cameras\[0\]: pano_from_cam does not follow from size, yaw",
    ),
    "a field of view that was edited": (broken([*FIRST, "hfov"], 71), r"cameras\[0\]: fx does not follow from size"),
    "a size that was edited": (broken(["size"], [640, 482]), r"cameras\[0\]: cy does not follow from size"),
    "matrix of text": (broken([*FIRST, "pano_from_cam"], "abc"), r"pano_from_cam must be 3 rows of 3 numbers"),
    "ragged matrix": (broken([*FIRST, "pano_from_cam"], [[1, 0], [0]]), r"pano_from_cam must be 3 rows of 3 numbers"),
    "small matrix": (broken([*FIRST, "pano_from_cam"], [[1, 0], [0, 1]]), r"pano_from_cam must be 3 rows of 3 numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_rig_json_is_refused(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(UsageError, match=message):
        read_rig_json(text, source="out/rig.json")


def test_fewer_digits_are_forgiven() -> None:
    whole: Any = json.loads(json.dumps(rig_json(PAIR)), parse_float=lambda text: float(f"{float(text):.8g}"))
    assert read_rig_json(json.dumps(whole), source="rig.json") == PAIR
