"""Sample material on disk: a 360-degree clip or panoramas, with the masks of who walks through them."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.errors import OutputError, UsageError
from lightmill.sample.render import panorama
from lightmill.sample.scene import Scene

if TYPE_CHECKING:
    import av

Codec: TypeAlias = Literal["libx264", "mpeg4"]
_BT709, _LIMITED_RANGE = 1, 1  # as ITU-T H.273 and libav number them
_OPTIONS = {"libx264": {"crf": "17", "preset": "veryfast", "threads": "1"}, "mpeg4": {"qscale": "2", "threads": "1"}}
_STILLS_APART_S = 1.5


def write_clip(
    folder: Path,
    *,
    seconds: float = 6,
    fps: float = 4,
    width: int = 1536,
    seed: int = 1,
    mask_fps: float = 2,
    supersample: int = 2,
    codec: Codec | None = None,
) -> Path:
    """Write folder/clip.mp4 and folder/masks/clip_SSSSS_mmm.png; returns the path of the clip.

    Frame i is shown at i / fps s exactly; yuv420p, BT.709, limited range. There is a mask (255 keep, 0 person) for each
    frame that `split360 --fps mask_fps --pick first` takes. Equal arguments give equal files.
    codec: H.264 where PyAV was built with libx264, else MPEG-4 part 2.
    Raises UsageError for a length, a rate or a width that makes no clip, OutputError for a folder that cannot be made.
    """
    if not (seconds > 0 and 0.1 <= fps <= 240 and 0.1 <= mask_fps <= 240):
        given = f"seconds={seconds}, fps={fps}, mask_fps={mask_fps}"
        raise UsageError(f"a clip needs seconds above 0 and rates from 0.1 to 240, got {given}")
    if width % 4:
        raise UsageError(f"the width of a clip is a multiple of 4, so that its height is even too, got {width}")
    masks = _made(folder / "masks")
    rate, mask_rate = (Fraction(each).limit_denominator(1001) for each in (fps, mask_fps))
    count = max(1, round(seconds * rate))
    masked = {math.ceil(k * rate / mask_rate) for k in range(math.ceil(count * mask_rate / rate))}
    scene = Scene(seed)

    def frame(i: int) -> NDArray[np.uint8]:
        time_s = float(i / rate)
        rendered = panorama(scene, time_s=time_s, width=width, supersample=supersample)
        if i in masked:
            _write(masks / f"clip_{f'{time_s:09.3f}'.replace('.', '_')}.png", rendered.mask)
        return rendered.pixels

    clip = folder / "clip.mp4"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        _encode(clip, pool.map(frame, range(count)), width=width, rate=rate, codec=codec or _best_codec())
    return clip


def write_stills(folder: Path, *, count: int, width: int, seed: int = 1) -> list[Path]:
    """Write folder/courtyard_000.jpg and folder/masks/courtyard_000.png and so on, 1.5 s apart.

    Returns the paths of the JPEGs. Equal arguments give equal files.
    Raises UsageError for a width that makes no panorama, OutputError for a folder that cannot be made.
    """
    masks = _made(folder / "masks")

    def still(i: int) -> Path:
        rendered = panorama(Scene(seed), time_s=i * _STILLS_APART_S, width=width)
        path = folder / f"courtyard_{i:03d}.jpg"
        _write(path, np.ascontiguousarray(rendered.pixels[..., ::-1]))
        _write(masks / f"{path.stem}.png", rendered.mask)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(still, range(count)))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {folder}: {exc.strerror}; choose another one") from exc
    return folder


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    """A picture [H, W] or [H, W, 3] BGR, uint8, as the suffix says."""
    _, data = cv2.imencode(path.suffix, picture)
    path.write_bytes(data.tobytes())


def _best_codec() -> Codec:
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _encode(path: Path, frames: Iterator[NDArray[np.uint8]], *, width: int, rate: Fraction, codec: Codec) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=_OPTIONS[codec])
        stream.width, stream.height, stream.pix_fmt = width, width // 2, "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        for i, pixels in enumerate(frames):
            container.mux(stream.encode(_in_yuv(pixels, pts=i, time_base=1 / rate)))
        container.mux(stream.encode(None))


def _in_yuv(pixels: NDArray[np.uint8], *, pts: int, time_base: Fraction) -> "av.VideoFrame":
    """A frame in the colours that the stream says it is in; libswscale takes BT.601 where it is not told."""
    import av

    rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    frame = rgb.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
    frame.pts, frame.time_base = pts, time_base
    return frame
