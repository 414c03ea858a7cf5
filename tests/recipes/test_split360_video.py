"""split360 of videos: which frames, what they are called, and the same bytes however often it was interrupted."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lightmill
from lightmill.errors import UsageError


@pytest.fixture(scope="session")
def clip(shared_data: Path) -> Path:
    """640 x 322, 30000/1001 frames a second, 1202 frames."""
    return shared_data / "pano" / "theta.mp4"


@pytest.fixture(scope="module")
def six(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The first six of `--fps 2 --pick sharpest`, made in one go."""
    out = tmp_path_factory.mktemp("six")
    return lightmill.split360(clip, out, **OPTIONS, limit=6)


OPTIONS: dict[str, Any] = {"rig": "horizon4", "size": "64x48", "fps": 2, "pick": "sharpest", "threads": 2}


def decoded(clip: Path, stamps: list[int]) -> dict[int, Any]:
    """Frames by PyAV alone: stamp -> [H, W, 3] RGB."""
    import av

    found = {}
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if frame.pts in stamps:
                found[frame.pts] = frame.to_ndarray(format="rgb24")
            if len(found) == len(stamps):
                break
    return found


def deliverables(out: Path) -> dict[str, bytes]:
    paths = (path for path in out.rglob("*") if path.is_file() and ".lightmill" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.stem != "report"}


def rows_of(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_keys_names_and_times(six: Any) -> None:
    assert six.ok == 6
    rows = rows_of(six.out)
    for interval, row in enumerate(rows):
        time_s = row["meta"]["time_s"]
        assert interval / 2 <= time_s + 0.001 < (interval + 1) / 2 + 0.001
        assert time_s == pytest.approx(row["meta"]["pts"] * float(Fraction(row["meta"]["time_base"])), abs=1e-6)
        assert row["key"] == f"theta.mp4#{time_s:09.3f}"
        name = f"theta_{f'{time_s:09.3f}'.replace('.', '_')}"
        assert row["outputs"] == {f"cam0{i}": f"images/cam0{i}/{name}.jpg" for i in range(4)}
        assert name.count(".") == 0


def test_views_are_cut_out_of_that_frame(six: Any, clip: Path, split: Callable[..., Any], tmp_path: Path) -> None:
    """The frame of each key, decoded by PyAV and saved as PNG, gives the same views."""
    rows = rows_of(six.out)[1:3]
    frames = decoded(clip, [row["meta"]["pts"] for row in rows])
    (tmp_path / "frames").mkdir()
    for row in rows:
        pixels = frames[row["meta"]["pts"]]
        assert pixels.shape == (322, 640, 3)
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{row['meta']['pts']}.png")
    made = split(tmp_path / "frames", rig="horizon4")
    for row in rows:
        for camera, path in row["outputs"].items():
            from_video = np.asarray(Image.open(six.out / path)).astype(float)
            from_frame = made.view(f"{row['meta']['pts']}.png", camera).astype(float)
            assert np.abs(from_video - from_frame).mean() < 1.5  # two converters from YUV


def test_interrupted_and_continued_gives_the_same_bytes(six: Any, clip: Path, tmp_path: Path) -> None:
    for limit in (2, 3, 6):
        run = lightmill.split360(clip, tmp_path / "out", **OPTIONS, limit=limit)
        assert run.ok == limit
    assert deliverables(tmp_path / "out") == deliverables(six.out)
    journal_before = deliverables(tmp_path / "out")
    assert lightmill.split360(clip, tmp_path / "out", **OPTIONS, limit=6).ok == 6
    assert deliverables(tmp_path / "out") == journal_before


def test_a_lost_view_is_made_again_as_it_was(six: Any, clip: Path, tmp_path: Path) -> None:
    lightmill.split360(clip, tmp_path / "out", **OPTIONS, limit=6)
    lost = rows_of(tmp_path / "out")[2]["outputs"]["cam01"]
    (tmp_path / "out" / lost).unlink()
    assert lightmill.split360(clip, tmp_path / "out", **OPTIONS, limit=6).ok == 6
    assert deliverables(tmp_path / "out") == deliverables(six.out)


def test_sharpest_is_at_least_as_sharp_as_first(six: Any, clip: Path, tmp_path: Path) -> None:
    """Judged by another measure than the recipe's: the mean step from pixel to pixel."""
    first = lightmill.split360(clip, tmp_path / "first", **OPTIONS | {"pick": "first"}, limit=6)
    stamps = [[row["meta"]["pts"] for row in rows_of(run.out)] for run in (first, six)]
    frames = decoded(clip, [stamp for each in stamps for stamp in set(each)])

    def steps(stamp: int) -> float:
        grey = frames[stamp].astype(float).mean(axis=2)
        return float(np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=0)).mean())

    assert stamps[0] != stamps[1]
    assert sum(map(steps, stamps[1])) >= sum(map(steps, stamps[0]))


def test_start_and_end(clip: Path, tmp_path: Path) -> None:
    run = lightmill.split360(clip, tmp_path / "out", rig="horizon4", size="64x48", fps=4, start=1.5, end=2.5)
    times = [row["meta"]["time_s"] for row in rows_of(run.out)]
    assert run.ok == 4
    for wanted, time_s in zip((1.5, 1.75, 2.0, 2.25), times, strict=True):
        assert wanted - 0.001 <= time_s < wanted + 1 / 29  # the first frame of each quarter of a second


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": 3, "end": 2}, "--end 2 must be after --start 3"),
        ({"pick": "sharpest"}, "--pick sharpest needs --fps: it takes the sharpest frame of each 1/fps"),
        ({"fps": 0}, "--fps 0: input should be greater than 0"),
        ({"start": -1}, "--start -1: input should be greater than or equal to 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        lightmill.split360(clip, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_transforms_json_has_the_time_of_every_view(clip: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"pick": "first", "export": "nerfstudio", "limit": 2}
    run = lightmill.split360(clip, tmp_path / "out", **options)
    frames = json.loads((run.out / "transforms.json").read_text("utf-8"))["frames"]
    wanted = [row["meta"]["time_s"] for row in rows_of(run.out) for _ in range(4)]
    assert [frame["time_s"] for frame in frames] == wanted
    assert len(frames) == 8
