"""`--rig`: a preset, a YAML file, or the rig.json of an earlier run."""

from collections import Counter
from pathlib import Path
from typing import Any

from lightmill.errors import UsageError
from lightmill.export.rigfile import read_rig_json
from lightmill.ops.cover import coverage
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import PRESETS, preset, rig_from_mapping
from lightmill.types import Size

_SAMPLES = 100_000  # directions; every figure that is shown is the same with more, and a list should come at once


def names_a_file(wanted: str) -> bool:
    """Whether `--rig` names a file, not a preset."""
    return Path(wanted).suffix.lower() in (".json", ".yaml", ".yml")


def rig_of(wanted: str, size: Size) -> Rig:
    """The rig with views of that size. Raises UsageError."""
    path = Path(wanted)
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = read_rig_json(_read(path), source=wanted)
        return Rig(name=found.name, size=size, cameras=found.cameras)
    if suffix in (".yaml", ".yml"):
        return Rig(name=path.stem, size=size, cameras=rig_from_mapping(_yaml(path), source=wanted))
    return Rig(name=wanted, size=size, cameras=preset(wanted))


def stated_size(wanted: str) -> Size | None:
    """The size of the views, where the rig is a rig.json, which says it."""
    return read_rig_json(_read(Path(wanted)), source=wanted).size if wanted.lower().endswith(".json") else None


def refuse_ambiguous(cameras: tuple[Camera, ...]) -> None:
    """With --layout flat, x_cam and x + _cam must not be one file: no camera's name may end with _another's."""
    names = [camera.name for camera in cameras]
    for one in names:
        for other in names:
            if one != other and one.lower().endswith(f"_{other.lower()}"):
                raise UsageError(f"--layout flat cannot tell cameras {one!r} and {other!r} apart: rename one of them")


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise UsageError(f"--rig {path}: {' '.join(str(error).split())}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--rig {path}: {' '.join(str(error).split())}") from error


def rig_table() -> list[str]:
    """`lightmill rigs`: every preset with the share of the sphere that it sees and how often a direction is seen."""
    lines = [f"{'rig':16} {'views':>5}  {'square views':>17}  {'16:9 views':>17}  rings (count@pitch, hfov)"]
    for name, cameras in PRESETS.items():
        square, wide = (coverage(cameras, aspect=aspect, samples=_SAMPLES) for aspect in (1, 16 / 9))
        shown = (f"{seen.share:8.1%} x{seen.mean_overlap:5.2f}" for seen in (square, wide))
        lines.append(f"{name:16} {len(cameras):5}  {'  '.join(f'{text:>17}' for text in shown)}  {rings_of(cameras)}")
    return [*lines, "share of the sphere that is seen, and how many views see a direction on average"]


def rings_of(cameras: tuple[Camera, ...]) -> str:
    """>>> rings_of(preset("tile8"))
    '4@+45 4@-45, 90°'
    """
    rings = Counter((camera.pitch, camera.hfov) for camera in cameras)
    counts = " ".join(f"{count}@{pitch:+g}" for (pitch, _), count in rings.items())
    return f"{counts}, {'/'.join(f'{hfov:g}°' for hfov in sorted({hfov for _, hfov in rings}))}"
