"""Videos as sources. PyAV's own demuxer and decoder, and pictures of known numbers, are the oracles."""

import os
import pickle
from collections.abc import Iterable, Sequence
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lightmill.engine.items import Item, Settled
from lightmill.errors import InputError, SourceError, UsageError
from lightmill.sources import SourceOptions, open_source
from lightmill.sources.frames import Frame
from lightmill.sources.video import Sampling, VideoSource

HEIGHT, WIDTH, BITS = 64, 160, 10


def numbered(number: int) -> NDArray[np.uint8]:
    """[64, 160, 3] a picture that shows a number as ten black or white bars."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    bars = np.repeat(np.array(bits, np.uint8) * 255, WIDTH // BITS)
    return np.broadcast_to(bars[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_in(picture: NDArray[np.uint8]) -> int:
    bars = picture[HEIGHT // 4 : -HEIGHT // 4, :, 1].reshape(HEIGHT // 2, BITS, -1).mean((0, 2))
    return sum(int(bar > 128) << bit for bit, bar in enumerate(bars))


def write_clip(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    rate: int = 30,
    codec: str = "libx264",
    pts: Sequence[int] | None = None,
    clock: int = 1000,
    gop: int = 250,
    params: str = "bframes=3:b-adapt=0:scenecut=0",
) -> Path:
    """`pts` in 1/clock s; otherwise one frame each 1/rate s."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"x264-params": params}
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, clock)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, rate if pts is None else clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(items: Iterable[Item]) -> list[int]:
    return [number_in(item.fields["frame"].to_rgb()) for item in items]


def taken(path: Path, after: Settled | None = None, limit: int | None = None, **options: Any) -> list[Any]:
    """Key, meta, name and pixels of each item."""
    items = islice(VideoSource(path, SourceOptions(**options)).items(after), limit)
    return [(i.key, i.meta, i.name, sha256(i.fields["frame"].to_rgb().tobytes()).hexdigest()) for i in items]


def settled(entry: Any, position: int) -> Settled:
    return Settled(entry[0], position, entry[1])


def sharpness(luma: NDArray[np.uint8]) -> float:
    return float(np.abs(np.diff(luma.astype(np.int16), axis=1)).mean())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ninety numbered frames at 30 a second: one long group with B-frames, and short open ones, in many formats."""
    folder = tmp_path_factory.mktemp("clips")
    long, short = "bframes=3:b-adapt=0:scenecut=0", "bframes=3:b-adapt=0:scenecut=0:open-gop=1:keyint=12:min-keyint=12"
    refresh = "intra-refresh=1:keyint=20:bframes=0"
    made = {
        "long.mp4": {"params": long},
        "short.mp4": {"params": short},
        "short.mkv": {"params": short},
        "short.ts": {"params": short},
        "refresh.mp4": {"params": refresh},
        "b.avi": {"params": long},
        "four.avi": {"codec": "mpeg4", "gop": 12},
        "two.mpg": {"codec": "mpeg2video", "gop": 12},
        "nine.webm": {"codec": "libvpx-vp9", "gop": 20},
    }
    pictures = [numbered(number) for number in range(90)]
    return {name: write_clip(folder / name, pictures, **options) for name, options in made.items()}  # type: ignore[arg-type]


CLIPS = ["long.mp4", "short.mp4", "short.mkv", "short.ts", "refresh.mp4", "b.avi", "four.avi", "two.mpg", "nine.webm"]


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_once_in_order_from_zero(clips: dict[str, Path], name: str) -> None:
    source = open_source(clips[name], SourceOptions(threads=2))
    items = list(source.items())
    assert numbers(items) == list(range(90))
    times = [float(item.meta["time_s"]) for item in items]  # type: ignore[arg-type]
    assert times == pytest.approx([number / 30 for number in range(90)], abs=0.000_6)
    assert [item.key for item in items] == [f"{name}#{time:09.3f}" for time in times]
    assert items[45].name == f"{name.split('.')[0]}_00001_500"
    assert source.streams is True
    assert source.warnings == []
    assert source.described == f"video {clips[name]}"
    assert source.estimated_count() == pytest.approx(90, abs=15)  # MPEG-PS declares too little


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": 7.5},
        {"fps": 10, "pick": "sharpest", "sharpness": sharpness},
        {"fps": 6, "start_s": 1.05, "end_s": 2.2},
    ],
    ids=["all", "first", "sharpest", "part"],
)
def test_interrupted_anywhere_it_goes_on_as_if_nothing_was(
    clips: dict[str, Path], name: str, options: dict[str, Any]
) -> None:
    whole = taken(clips[name], threads=2, **options)
    assert whole == taken(clips[name], threads=1, **options)
    for position in range(0, len(whole), 5 if len(whole) > 30 else 2):
        rest = taken(clips[name], settled(whole[position], position), 6, threads=1 + position % 2, **options)
        assert rest == whole[position + 1 : position + 7]
    assert taken(clips[name], settled(whole[-1], len(whole) - 1), **options) == []


def test_only_the_time_of_a_settled_item_is_needed(clips: dict[str, Path]) -> None:
    whole = taken(clips["short.mkv"], fps=10)
    assert taken(clips["short.mkv"], Settled(whole[7][0], 7, {"time_s": whole[7][1]["time_s"]}), fps=10) == whole[8:]


@pytest.mark.parametrize("name", ["long.mp4", "short.mkv", "b.avi"])
def test_the_first_frame_of_each_interval(clips: dict[str, Path], name: str) -> None:
    def first(**options: float) -> list[int]:
        return numbers(VideoSource(clips[name], SourceOptions(**options)).items())  # type: ignore[arg-type]

    assert first(fps=10) == list(range(0, 90, 3))
    assert first(fps=30) == list(range(90))  # Matroska rounds to milliseconds: no frame may be lost for that
    assert first(fps=100) == list(range(90))
    assert first(fps=0.5) == [0, 60]
    assert first(fps=8) == [-(-30 * number // 8) for number in range(24)]
    assert first(start_s=1, end_s=1.2) == list(range(30, 36))
    assert first(start_s=1, end_s=2, fps=2) == [30, 45]
    assert first(start_s=2.95) == [89]
    with pytest.raises(InputError, match=r"is 3\.0 s long: there is no frame at or after --start 5"):
        first(start_s=5)


def test_the_sharpest_frame_of_each_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    contrast = rng.permutation(60) * 4.0
    lines = np.arange(WIDTH) // 8 % 2 - 0.5
    pictures = [np.broadcast_to((128 + c * lines)[None, :, None], (HEIGHT, WIDTH, 3)) for c in contrast]
    path = write_clip(tmp_path / "a.mp4", [picture.astype(np.uint8) for picture in pictures])
    items = taken(path, fps=6, pick="sharpest", sharpness=sharpness)
    best = [start + int(np.argmax(contrast[start : start + 5])) for start in range(0, 60, 5)]
    assert [round(meta["time_s"] * 30) for _, meta, _, _ in items] == best
    even = taken(path, fps=6, pick="sharpest", sharpness=lambda _: 1.0)
    assert even == taken(path, fps=6)  # of equal ones the first


def test_the_judge_sees_the_decoders_own_luma(clips: dict[str, Path]) -> None:
    seen: list[NDArray[np.uint8]] = []

    def judge(luma: NDArray[np.uint8]) -> float:
        assert not luma.flags.owndata
        seen.append(luma.copy())
        return 0.0

    list(VideoSource(clips["long.mp4"], SourceOptions(fps=10, pick="sharpest", sharpness=judge)).items())
    with av.open(str(clips["long.mp4"])) as container:
        expected = [frame.to_ndarray()[:HEIGHT] for frame in container.decode(video=0)]
    assert len(seen) == len(expected)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(seen, expected, strict=True))


def test_variable_frame_rate(tmp_path: Path) -> None:
    pts = [0, 10, 11, 500, 520, 1700, 1733, 1767, 3000]
    path = write_clip(tmp_path / "v.mkv", [numbered(number) for number in range(len(pts))], pts=pts)
    every = list(VideoSource(path, SourceOptions()).items())
    assert [item.meta["time_s"] for item in every] == [time / 1000 for time in pts]
    assert numbers(every) == list(range(len(pts)))
    assert numbers(VideoSource(path, SourceOptions(fps=2)).items()) == [0, 3, 5, 8]


def test_keys_tell_close_frames_apart(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "fast.mp4", [numbered(number) for number in range(8)], rate=1000)
    fast = taken(path)
    assert [key for key, *_ in fast[:3]] == ["fast.mp4#00000.000000", "fast.mp4#00000.001000", "fast.mp4#00000.002000"]
    assert fast[2][2] == "fast_00000_002000"
    pts = [0, 3000, 3010, 3012, 6000]
    twins = write_clip(tmp_path / "twins.mp4", [numbered(n) for n in range(5)], pts=pts, clock=90_000)
    whole = taken(twins)
    assert [key.partition("#")[2] for key, *_ in whole] == [
        "00000.000", "00000.033", "00000.033444", "00000.033467", "00000.067"
    ]  # fmt: skip
    assert taken(twins, settled(whole[1], 1)) == whole[2:]
    assert taken(twins, settled(whole[2], 2)) == whole[3:]


def test_a_real_clip_has_the_frames_that_its_packets_announce(shared_data: Path) -> None:
    path = shared_data / "pano" / "theta.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base or Fraction(1)
        announced = sorted(packet.pts or 0 for packet in container.demux(stream) if packet.size)
    assert len(announced) == 1202
    source = VideoSource(path, SourceOptions(start_s=30, end_s=32.5, threads=2))
    items = list(source.items())
    assert [item.meta["pts"] for item in items] == [pts for pts in announced if 30 <= pts * base < 32.5]
    assert items[0].fields["frame"].to_rgb().shape == (322, 640, 3)
    assert VideoSource(path, SourceOptions(fps=2)).estimated_count() == 81
    assert VideoSource(path, SourceOptions()).estimated_count() == 1202
    part = {"start_s": 30, "end_s": 36, "fps": 5, "pick": "sharpest", "sharpness": sharpness}
    whole = taken(path, threads=2, **part)
    assert len(whole) == 30
    assert taken(path, settled(whole[21], 21), threads=1, **part) == whole[22:]


# ---------------------------------------------------------------------------------------------------------------------
# damage


def damaged(path: Path, source: Path, places: Iterable[tuple[int, int]]) -> Path:
    data = bytearray(source.read_bytes())
    for start, length in places:
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return path


def test_damage_in_the_middle_costs_frames_up_to_the_next_key(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "pano" / "theta.mp4"
    middle = original.stat().st_size // 2
    path = damaged(tmp_path / "theta.mp4", original, [(middle, 60), (middle + 90_000, 400)])
    options = {"start_s": 18, "end_s": 24, "threads": 2}
    sound, kept = taken(original, **options), taken(path, **options)
    source = VideoSource(path, SourceOptions(**options))  # type: ignore[arg-type]
    assert [item.key for item in source.items()] == [entry[0] for entry in kept]
    lost = len(sound) - len(kept)
    assert 0 < lost <= 45  # the groups have fifteen frames
    assert source.warnings == [f"theta.mp4 is damaged: {lost} frames are left out"]
    assert set(map(str, kept)) < set(map(str, sound))  # what is kept is right, to the bit
    assert kept == taken(path, **{**options, "threads": 1})
    for position in range(40, len(kept), 29):
        assert taken(path, settled(kept[position], position), 8, **options) == kept[position + 1 : position + 9]


def test_a_clip_that_is_cut_off(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "pano" / "theta.mp4"
    data = original.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 10])
    source = VideoSource(tmp_path / "cut.mp4", SourceOptions(threads=2))
    keys = [item.key for item in source.items()]
    last = f"{(len(keys) - 1) / 30:.1f}"
    assert 60 < len(keys) < 200
    assert source.warnings == [f"cut.mp4 is damaged after {last} s: the {len(keys)} frames before are used"]
    again = VideoSource(tmp_path / "cut.mp4", SourceOptions())
    assert [item.key for item in again.items(Settled(keys[9], 9, {"time_s": 0.3}))] == keys[10:]
    assert again.warnings == source.warnings
    for threads in (1, 4):  # the last frames are those that several threads lose
        assert [item.key for item in VideoSource(tmp_path / "cut.mp4", SourceOptions(threads=threads)).items()] == keys


def test_a_clip_that_ends_before_it_says(clips: dict[str, Path], tmp_path: Path) -> None:
    with av.open(str(clips["short.mkv"])) as container:
        announced = [packet.pos for packet in container.demux(video=0) if packet.size and packet.pos]
    data = clips["short.mkv"].read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: announced[48] - 12])
    source = VideoSource(tmp_path / "half.mkv", SourceOptions())
    count = len(list(source.items()))
    assert 40 <= count <= 48
    (warning,) = source.warnings
    assert f"the {count} frames" in warning
    assert "half.mkv ends after 1." in warning or "half.mkv is damaged after 1." in warning


def test_what_is_no_video(clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips["long.mp4"].read_bytes()
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, content, message in (
        ("text.mp4", b"This is no video.\n" * 50, r"cannot open .*text\.mp4 as a video: its data are no video"),
        ("empty.mov", b"", r"cannot open .*empty\.mov as a video"),
        ("cut.mp4", data[: len(data) // 2], r"cut\.mp4 as a video: its data are no video, or it is cut off"),
        ("sound.mp4", sound.read_bytes(), r"sound\.mp4 holds no video"),
        ("dark.mp4", data.replace(data[data.index(b"mdat") + 4 :][:2000], bytes(2000)), r"no frame of .*dark\.mp4 can"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "--fps is above 0, got 0"),
        ({"start_s": -1}, "--start is at least 0"),
        ({"start_s": 2, "end_s": 2}, "before --end, got 2 and 2"),
        ({"pick": "sharpest"}, "needs --fps"),
    ],
)
def test_options_that_contradict_each_other(clips: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(clips["long.mp4"], SourceOptions(**options))


# ---------------------------------------------------------------------------------------------------------------------
# files, references, pixels


def test_files_are_closed_on_every_path(clips: dict[str, Path], tmp_path: Path) -> None:
    def open_files() -> set[str]:
        paths = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return {os.readlink(path) for path in paths if os.path.islink(path) and os.path.exists(path)}

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc on this system")
    path = clips["long.mp4"]
    source = VideoSource(path, SourceOptions(threads=2))
    assert str(path) not in open_files()
    abandoned = source.items()
    next(abandoned)
    assert str(path) in open_files()
    abandoned.close()  # type: ignore[attr-defined]
    assert str(path) not in open_files()
    list(source.items(Settled("", 5, {"time_s": 1.0})))
    list(VideoSource(path, SourceOptions(end_s=1)).items())
    assert str(path) not in open_files()
    (tmp_path / "a.mp4").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"a\.mp4"):
        open_source(tmp_path / "a.mp4")
    assert str(tmp_path / "a.mp4") not in open_files()


def test_a_reference_finds_its_frame_again(clips: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "moved.mp4"
    path.write_bytes(clips["short.mp4"].read_bytes())
    item = list(VideoSource(path, SourceOptions()).items())[50]
    ref = pickle.loads(pickle.dumps(item.ref))
    assert len(pickle.dumps(item.ref)) < 500
    assert np.array_equal(ref.frame().to_rgb(), item.fields["frame"].to_rgb())
    assert number_in(np.asarray(Image.open(BytesIO(ref.read())))) == 50
    assert item.fields["frame"].nbytes >= HEIGHT * WIDTH * 3 // 2
    write_clip(path, [numbered(number) for number in range(5)])
    with pytest.raises(SourceError, match=r"moved\.mp4 has no frame at 1\.667 s any more"):
        ref.read()
    path.unlink()
    with pytest.raises(SourceError, match=r"cannot open .*moved\.mp4 as a video: no such file"):
        ref.read()


@pytest.mark.parametrize(("form", "scale"), [("yuv420p", 1), ("yuv420p10le", 4), ("yuv444p", 1)])
@pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
@pytest.mark.parametrize("is_full", [False, True])
def test_colours_follow_the_frames_matrix_and_range(
    form: str, scale: int, matrix: int, kr: float, kb: float, is_full: bool
) -> None:
    """ITU-T H.273, equations for MatrixCoefficients 1, 6 and 9 and VideoFullRangeFlag."""
    frame = av.VideoFrame(64, 32, form)
    for plane, value in zip(frame.planes, (150, 90, 170), strict=True):
        kind = np.uint8 if scale == 1 else np.uint16
        plane.update(np.full(plane.buffer_size // kind().itemsize, value * scale, kind).tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if is_full else 1
    y = 150 / 255 if is_full else (150 - 16) / 219
    u, v = ((value - 128) / (255 if is_full else 224) for value in (90, 170))
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    expected = np.array([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue]) * 255
    rgb = Frame(frame).to_rgb()
    assert rgb.shape == (32, 64, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert np.abs(rgb.reshape(-1, 3) - expected).max() < 3
    assert Frame(frame).luma().shape == (32, 64)


TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}  # clockwise, as tkhd has them


@pytest.mark.parametrize("clockwise", TURNS)
def test_turned_upright_as_the_file_asks(clips: dict[str, Path], tmp_path: Path, clockwise: int) -> None:
    """ISO/IEC 14496-12, 6.2.2: the matrix {a, b, u, c, d, v, x, y, w} of a track header, in 16.16."""
    data = bytearray(clips["long.mp4"].read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(value * 65536).to_bytes(4, "big", signed=True) for value in TURNS[clockwise])
    data[at : at + 36] = a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, "big")
    (tmp_path / "turned.mp4").write_bytes(data)
    plain = np.asarray(
        [i.fields["frame"].to_rgb() for i in islice(VideoSource(clips["long.mp4"], SourceOptions()).items(), 7)]
    )
    turned = [
        i.fields["frame"].to_rgb() for i in islice(VideoSource(tmp_path / "turned.mp4", SourceOptions()).items(), 7)
    ]
    assert np.array_equal(np.asarray(turned), np.rot90(plain, -clockwise // 90, axes=(1, 2)))
    assert turned[0].flags.c_contiguous


@given(
    st.integers(0, 10**6),
    st.sampled_from([Fraction(1, 15360), Fraction(1, 1000), Fraction(1, 30), Fraction(1, 90000)]),
    st.floats(0.1, 240),
    st.floats(0, 100),
)
def test_intervals_begin_where_they_say(stamp: int, time_base: Fraction, fps: float, start_s: float) -> None:
    sampling = Sampling.of(SourceOptions(fps=fps, start_s=start_s), time_base)
    interval = sampling.interval(stamp * time_base, stamp)
    assert sampling.begin(interval) <= stamp * time_base < sampling.begin(interval + 1)
    assert abs(sampling.begin(interval) - (Fraction(str(start_s)) + interval / Fraction(str(fps)))) < Fraction(1, 1000)


def test_names_of_any_bytes(clips: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 1.mp4")
    try:
        path.write_bytes(clips["long.mp4"].read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    assert next(iter(open_source(path).items())).key == "caf\\xe9 1.mp4#00000.000"


def test_a_start_behind_the_end_is_told_before_anything_is_decoded(shared_data):
    with pytest.raises(InputError, match=r"theta\.mp4 is 40\.1 s long: there is no frame at or after --start 100"):
        VideoSource(shared_data / "pano/theta.mp4", SourceOptions(start_s=100.0))
