"""Clips and stills as PyAV and Pillow read them."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lightmill.errors import OutputError, UsageError
from lightmill.sample.clip import Codec, write_clip, write_stills
from lightmill.sample.render import panorama
from lightmill.sample.scene import Scene


def first_frames(count: int, rate: Fraction, fps: Fraction) -> list[Fraction]:
    """The time of the first frame in each interval [k / fps, (k + 1) / fps) that holds one."""
    times = [i / rate for i in range(count)]
    firsts: dict[int, Fraction] = {}
    for time in times:
        firsts.setdefault(time * fps // 1, time)
    return sorted(firsts.values())


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_clip_reads_back(tmp_path: Path, codec: Codec) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    clip = write_clip(tmp_path, seconds=0.25, fps=12, width=256, mask_fps=5, supersample=1, codec=codec)
    assert clip == tmp_path / "clip.mp4"
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.width, stream.height, stream.pix_fmt) == (256, 128, "yuv420p")
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(i, 12) for i in range(3)]
    for i, frame in enumerate(frames):
        true = panorama(Scene(1), time_s=i / 12, width=256, supersample=1).pixels.astype(int)
        seen = frame.to_ndarray(format="rgb24", src_colorspace="ITU709").astype(int)
        assert np.abs(seen - true).mean() < 5  # what half the colour resolution costs at this size
        assert np.abs((seen - true).mean(axis=(0, 1))).max() < 1.5  # the matrix is the one that the tags say


def test_the_clip_says_its_colours(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, seconds=0.25, fps=4, width=64)
    with av.open(str(clip)) as container:
        context = container.streams.video[0].codec_context
        next(container.decode(video=0))
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
    assert tags == (1, 1, 1, 1)


@pytest.mark.parametrize(("fps", "mask_fps"), [(12, 5), (4, 2), (5, 10), (29.97, 7), (3, 2)])
def test_masks_are_those_of_the_first_frames(tmp_path: Path, fps: float, mask_fps: float) -> None:
    seconds = 0.6
    write_clip(tmp_path, seconds=seconds, fps=fps, mask_fps=mask_fps, width=32, supersample=1)
    rate = Fraction(fps).limit_denominator(1001)
    firsts = first_frames(round(seconds * rate), rate, Fraction(mask_fps))
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [f"clip_{float(at):09.3f}.png".replace(".", "_", 1) for at in firsts]
    for name, at in zip(names, firsts, strict=True):
        mask = np.asarray(Image.open(tmp_path / "masks" / name))
        np.testing.assert_array_equal(mask, panorama(Scene(1), time_s=float(at), width=32, supersample=1).mask)


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / name, seconds=0.5, fps=4, width=64, seed=7)
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*.*"))]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_stills(tmp_path: Path) -> None:
    paths = write_stills(tmp_path, count=2, width=256, seed=2)
    assert [path.name for path in paths] == ["courtyard_000.jpg", "courtyard_001.jpg"]
    for i, path in enumerate(paths):
        true = panorama(Scene(2), time_s=1.5 * i, width=256)
        assert np.abs(np.asarray(Image.open(path)).astype(int) - true.pixels).mean() < 4  # as above
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{path.stem}.png")), true.mask)


def test_what_makes_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"seconds above 0 .* got seconds=0"):
        write_clip(tmp_path, seconds=0)
    with pytest.raises(UsageError, match=r"multiple of 4, .* got 1022"):
        write_clip(tmp_path, width=1022)
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"cannot make the folder .*taken.*choose another"):
        write_clip(tmp_path / "taken")


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightmill.sample", str(tmp_path), "--seconds", "0.5", "--width"]
    done = subprocess.run([*command, "64"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {tmp_path / 'clip.mp4'} and 1 masks in {tmp_path / 'masks'}\n"
    refused = subprocess.run([*command, "63"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "multiple of 4" in refused.stderr
