"""Rigs by name, and rigs that a user writes down.

All angles are in degrees, with the signs of `lightmill.ops.rig`: yaw > 0 looks right, pitch > 0 looks up, roll > 0
turns the camera clockwise. Shares of the sphere below are for square views; a view wider than high sees less of it.
"""

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from lightmill.errors import UsageError
from lightmill.ops.rig import Camera

MOST_CAMERAS: Final = 1000

_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
# folders of these names cannot be made on Windows, whatever follows their first dot
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_ANGLES: Final = {"yaw": (0.0, 360.0), "pitch": (0.0, 90.0), "roll": (0.0, 360.0)}  # field: default, largest either way
_HFOV_DEG: Final = 90.0


@dataclass(frozen=True, kw_only=True)
class Ring:
    """`count` cameras of one pitch, evenly turned: camera i looks to `yaw + i * 360 / count` degrees."""

    count: int
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    hfov: float = _HFOV_DEG


def numbered_rings(*rings: Ring) -> tuple[Camera, ...]:
    """The cameras of all rings, one ring after the other, named cam00, cam01, … (wider from 101 cameras on)."""
    turns = [(ring, ring.yaw + i * 360 / ring.count) for ring in rings for i in range(ring.count)]
    digits = max(2, len(str(len(turns) - 1)))
    return tuple(
        Camera(name=f"cam{i:0{digits}d}", yaw=yaw, pitch=ring.pitch, roll=ring.roll, hfov=ring.hfov)
        for i, (ring, yaw) in enumerate(turns)
    )


PRESETS: Final[dict[str, tuple[Camera, ...]]] = {
    # 69.8 % of the sphere: no sky above 45 degrees, no ground below
    "ring8": numbered_rings(Ring(count=8)),
    "ring8-110": numbered_rings(Ring(count=8, hfov=110)),
    "ring16-dome": numbered_rings(
        Ring(count=8, hfov=110), Ring(count=4, pitch=45, hfov=110), Ring(count=4, pitch=-45, hfov=110)
    ),
    # front, right, back, left, up, down: the sphere exactly once
    "cube6": numbered_rings(Ring(count=4), Ring(count=1, pitch=90), Ring(count=1, pitch=-90)),
    # two rows of four tiles, read like a page: upper row first; each front, right, back, left; 96.9 %
    "tile8": numbered_rings(Ring(count=4, pitch=45), Ring(count=4, pitch=-45)),
    "horizon4": numbered_rings(Ring(count=4)),
    # COLMAP's overlapping views (pycolmap.panorama): the upper ring is turned by half a step; no caps, 98.1 %
    "colmap12": numbered_rings(Ring(count=4, pitch=-35), Ring(count=4), Ring(count=4, pitch=35, yaw=45)),
    # the 8 and 14 views of nerfstudio's ns-process-data, in its order
    "ns8": numbered_rings(
        Ring(count=4, yaw=-180, hfov=120),
        Ring(count=2, yaw=-180, pitch=45, hfov=120),
        Ring(count=2, yaw=-180, pitch=-45, hfov=120),
    ),
    "ns14": numbered_rings(
        Ring(count=6, yaw=-180, hfov=110),
        Ring(count=4, yaw=-180, pitch=45, hfov=110),
        Ring(count=4, yaw=-180, pitch=-45, hfov=110),
    ),
    # every direction about three times
    "full18": numbered_rings(
        Ring(count=8),
        Ring(count=4, pitch=45),
        Ring(count=4, pitch=-45),
        Ring(count=1, pitch=90),
        Ring(count=1, pitch=-90),
    ),
    "photogrammetry": numbered_rings(
        Ring(count=9, hfov=120), Ring(count=4, pitch=30, hfov=120), Ring(count=4, pitch=-30, hfov=120)
    ),
}


def preset(name: str) -> tuple[Camera, ...]:
    """The cameras of a preset.

    Raises UsageError for a name that is none, with the nearest spelling and all that there are.

    >>> [camera.yaw for camera in preset("horizon4")]
    [0.0, 90.0, 180.0, 270.0]
    """
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name.lower(), PRESETS, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(f"no rig is called {_shown(name)}.{meant} There are {', '.join(PRESETS)}")


def rig_from_mapping(data: object, *, source: str) -> tuple[Camera, ...]:
    """The cameras that a rig file means.

    `data` is what the file holds once parsed: `{"rings": [{count, pitch, yaw, roll, hfov}, …]}`, whose cameras are
    named cam00, cam01, … in order, or `{"cameras": [{name, yaw, pitch, roll, hfov}, …]}`. Only `count` and `name` must
    be there; yaw, pitch and roll are 0 and hfov is 90 where they are left out. `source` names the file in messages.

    Raises UsageError, which names the file, the entry and the field, for anything else: unknown or missing fields,
    numbers out of bounds, names that are no safe folder names or differ only by case, more than 1000 cameras.
    """
    top = Entry.of(data, where=source)
    top.allow("rings", "cameras")
    if len(top.data) != 1:
        raise UsageError(f"{source}: a rig has either `rings` or `cameras`, got {_listed(top.data) or 'neither'}")
    if "cameras" in top.data:
        cameras = tuple(_camera(entry) for entry in top.entries("cameras"))
    else:
        rings = [_ring(entry) for entry in top.entries("rings")]
        _limit(sum(ring.count for ring in rings), where=source)
        cameras = numbered_rings(*rings)
    check_names((camera.name for camera in cameras), where=source)
    return cameras


def check_names(names: Iterable[str], *, where: str) -> None:
    """Raises UsageError where two names are one folder on a file system that ignores case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            pair = f"{name!r} twice" if seen[name.lower()] == name else f"{seen[name.lower()]!r} and {name!r}"
            raise UsageError(f"{where}: camera names become folder names and must differ, got {pair}")
        seen[name.lower()] = name


@dataclass(frozen=True)
class Entry:
    """One mapping of a file that a user may have written, and where it stands, for messages."""

    data: Mapping[Any, Any]
    where: str  # file and entry, as in "rig.yaml, rings[2]"

    @classmethod
    def of(cls, data: object, *, where: str) -> "Entry":
        """Raises UsageError for what is no mapping."""
        if not isinstance(data, Mapping):
            raise UsageError(f"{where}: wanted fields as in `yaw: 0`, got {_shown(data)}")
        return cls(data, where)

    def allow(self, *fields: str) -> None:
        """Raises UsageError for a field that is none of these, with the nearest spelling."""
        for field in self.data:
            if field in fields:
                continue
            near = get_close_matches(str(field).lower(), fields, n=1)
            meant = f"did you mean `{near[0]}`?" if near else f"there are {_listed(fields)}"
            raise UsageError(f"{self.where}: unknown field {_shown(field)}; {meant}")

    def fail(self, field: str, problem: str) -> UsageError:
        """An error about one field, to be raised by the caller."""
        return UsageError(f"{self.where}: {field} {problem}")

    def value(self, field: str) -> Any:
        """Raises UsageError where the field is missing."""
        if field not in self.data:
            raise self.fail(field, "is missing")
        return self.data[field]

    def text(self, field: str) -> str:
        """Text that is not blank."""
        value = self.value(field)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(field, f"must be text, in quotes where it looks like a number, got {_shown(value)}")
        return value

    def whole(self, field: str, *, low: int, high: int) -> int:
        """A whole number, bounds included."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(field, f"must be a whole number from {low} to {high}, got {_shown(value)}")
        return value

    def number(self, field: str) -> float:
        """A finite number."""
        value = self.value(field)
        # compared before it is converted: float(10**400) overflows
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
            raise self.fail(field, f"must be a finite number, got {_shown(value)}")
        return float(value)

    def angle(self, field: str) -> float:
        """`yaw`, `pitch` or `roll`, in degrees; 0 where it is left out."""
        default, largest = _ANGLES[field]
        value = self.number(field) if field in self.data else default
        if abs(value) > largest:
            raise self.fail(field, f"must be from {-largest:g} to {largest:g} degrees, got {value:g}")
        return value

    def hfov(self) -> float:
        """`hfov` in degrees; 90 where it is left out."""
        value = self.number("hfov") if "hfov" in self.data else _HFOV_DEG
        if not 0 < value < 180:
            raise self.fail("hfov", f"must be above 0 and below 180 degrees, got {value:g}")
        return value

    def camera_name(self) -> str:
        """`name`, which will be a folder's name."""
        name = self.text("name")
        if not _SAFE_NAME.fullmatch(name) or name.endswith("."):
            raise self.fail(
                "name",
                "becomes a folder name: 1 to 64 ASCII letters, digits, '.', '_' or '-', "
                f"not beginning or ending with '.', got {_shown(name)}",
            )
        if _DEVICE_NAME.fullmatch(name):
            raise self.fail("name", f"becomes a folder name, and Windows keeps {name!r} for a device")
        return name

    def entries(self, field: str) -> Iterator["Entry"]:
        """The mappings of a list with at least one and at most 1000 of them."""
        rows = self.value(field)
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes) or not rows:
            raise self.fail(field, f"must be a list with at least one entry, got {_shown(rows)}")
        _limit(len(rows), where=self.where)
        return (Entry.of(row, where=f"{self.where}, {field}[{i}]") for i, row in enumerate(rows))


def _camera(entry: Entry) -> Camera:
    entry.allow("name", *_ANGLES, "hfov")
    yaw, pitch, roll = map(entry.angle, _ANGLES)
    return Camera(name=entry.camera_name(), yaw=yaw, pitch=pitch, roll=roll, hfov=entry.hfov())


def _ring(entry: Entry) -> Ring:
    entry.allow("count", *_ANGLES, "hfov")
    yaw, pitch, roll = map(entry.angle, _ANGLES)
    count = entry.whole("count", low=1, high=MOST_CAMERAS)
    return Ring(count=count, pitch=pitch, yaw=yaw, roll=roll, hfov=entry.hfov())


def _limit(count: int, *, where: str) -> None:
    if count > MOST_CAMERAS:
        raise UsageError(f"{where}: a rig has at most {MOST_CAMERAS} cameras, got {count}")


def _listed(fields: Iterable[object]) -> str:
    return ", ".join(f"`{field}`" for field in fields)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**20:
        return "a huge number"  # Python refuses to write out more than 4300 digits
    text = reprlib.repr(value)  # a few hundred bytes of YAML can unfold to gigabytes
    return text if len(text) <= 80 else f"{text[:77]}..."
