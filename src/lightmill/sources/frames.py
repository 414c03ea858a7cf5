"""Frames of a video file, one after the other from any moment on: FFmpeg's decoders, through PyAV."""

import errno
import math
from collections.abc import Generator, Iterator, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import InputError, SourceError
from lightmill.sources import files

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

_STEPS_BACK_S = (0, 2, 10, 60)  # how far before a moment to look for a key frame, before starting at the beginning
_SEEKABLE = frozenset({"mov", "mp4", "matroska", "webm", "mpegts", "flv", "asf"})  # MPEG-PS finds other stamps then
_PROBED_PACKETS = 50
_SQUARE_ENOUGH = 0.02  # of the aspect ratio of a pixel: encoders that rounded a size correct it that way
_FAILED_READS = 16  # in a row, before the rest of a file is given up


class Frame:
    """A decoded frame as the decoder left it; converted by whoever wants its pixels, in that thread."""

    __slots__ = ("_frame",)

    def __init__(self, frame: "av.VideoFrame") -> None:
        self._frame = frame

    @property
    def nbytes(self) -> int:
        """How much memory it holds."""
        return sum(plane.buffer_size for plane in self._frame.planes)

    def to_rgb(self) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 full-range RGB, C-contiguous, turned upright as the file asks.

        The frame's colour matrix and range are honoured; where it names none, FFmpeg's assumption holds (BT.601,
        limited range). Transfer curve and primaries stay as they are. Values lie within 3 levels of the exact
        conversion, whose flags would take six times as long.
        """
        rgb = cast("NDArray[np.uint8]", self._frame.to_ndarray(format="rgb24", threads=1))
        quarters, rest = divmod(self._frame.rotation, 90)  # counter-clockwise
        return rgb if rest or quarters % 4 == 0 else np.ascontiguousarray(np.rot90(rgb, quarters))

    def luma(self) -> NDArray[np.uint8]:
        """[H, W] uint8 brightness, not turned; a view of the frame's own memory where that is 8-bit planar YUV."""
        frame = self._frame
        form = frame.format
        if form.is_planar and form.name.startswith("yuv") and form.components[0].bits == 8:
            plane = frame.planes[0]
            lines = np.frombuffer(cast("memoryview", plane), np.uint8).reshape(-1, plane.line_size)
            return lines[: frame.height, : frame.width]
        return cast("NDArray[np.uint8]", frame.to_ndarray(format="gray", threads=1))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What the decoder made of one moment: a frame, or nothing where the data are damaged."""

    stamp: int | None  # presentation time in units of the time base; None: unknown
    order: int  # in which its data lie in the file: nothing is built on data of a higher order
    awaits: int | None  # the last stamp, beyond its own, of what it may be built on
    frame: "av.VideoFrame | None"

    @property
    def is_sound(self) -> bool:
        return self.frame is not None and not self.frame.is_corrupt

    @property
    def is_key(self) -> bool:
        return self.frame is not None and bool(self.frame.key_frame)


@dataclass
class Losses:
    """Frames that a video should have and does not give."""

    left_out: int = 0  # damaged, or built on damaged ones; sound ones followed
    at_the_end: int = 0  # the same, and nothing sound has followed
    timeless: int = 0  # shown no later than the frame before


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video file, and how its frames are timed. Small and picklable."""

    path: str
    name: str  # for keys and messages
    time_base: Fraction  # s
    origin: int  # the stamp of 0.0 s: the start that the stream declares, or its first frame where that is earlier
    has_stamps: bool  # otherwise (AVI) frames are counted
    is_seekable: bool  # otherwise everything is decoded from the beginning
    duration_s: float | None  # as declared
    rate: float | None  # frames a second, on average
    is_square: bool  # whether its pixels are

    def time(self, stamp: int) -> Fraction:
        """In seconds from the origin."""
        return (stamp - self.origin) * self.time_base

    def stamp(self, time: Fraction) -> int:
        """The first stamp that is not before a time in seconds."""
        return self.origin + math.ceil(time / self.time_base)


def open_clip(path: Path) -> Clip:
    """Reads what a video says of itself, and decodes its first frame. Raises InputError: there is none."""
    where, name = str(path.absolute()), files.shown(path)
    with _opened(where, threads=1) as (container, stream):
        has_stamps = _has_stamps(container, stream)
        time_base = stream.time_base if has_stamps else 1 / (stream.average_rate or Fraction(25))
        if time_base is None:
            raise InputError(f"{name} holds a video without a clock; convert it to .mp4 first")
        declared = stream.start_time if has_stamps else None
        clip = Clip(
            path=where,
            name=files.shown(path.name),
            time_base=Fraction(time_base),
            origin=declared or 0,
            has_stamps=has_stamps,
            is_seekable=has_stamps and _is_any(container, _SEEKABLE),
            duration_s=_duration_s(container, stream),
            rate=float(stream.average_rate) if stream.average_rate else None,
            is_square=abs(float(stream.sample_aspect_ratio or 1) - 1) < _SQUARE_ENOUGH,
        )
    with closing(_decoded(clip, threads=1)) as moments:
        first = next((moment.stamp for moment in moments if moment.is_sound and moment.stamp is not None), None)
    if first is None:
        raise InputError(f"no frame of {name} can be decoded: it is damaged, or of a kind that FFmpeg does not know")
    if declared is None or first < declared:
        clip = Clip(**{**vars(clip), "origin": first})
    return clip


def sound_frames(
    clip: Clip, *, threads: int, since: int | None = None, losses: Losses | None = None
) -> Generator[tuple[int, Frame], None, None]:
    """(stamp, frame) of each sound frame in order of presentation; with `since`, from a key frame at or before it on.

    The frames are the same, bit for bit, whatever `since` and `threads` are. Where several threads meet damage, what
    they lose around it depends on their number, so from there on one thread does the work.
    Closing the generator closes the file. Raises InputError: the disk fails.
    """
    losses = losses or Losses()
    last: int | None = None
    if threads != 1:
        sieve = _Sieve(losses, since)
        with closing(_decoded(clip, threads=threads, since=since)) as moments:
            for moment in moments:
                if not moment.is_sound:
                    break
                for last, frame in sieve.add(moment):
                    yield last, frame
            else:
                yield from sieve.rest()
                return
    since = since if last is None else last + 1
    sieve = _Sieve(losses, since)
    with closing(_decoded(clip, threads=1, since=since)) as moments:
        for moment in moments:
            yield from (pair for pair in sieve.add(moment) if last is None or pair[0] > last)
    yield from (pair for pair in sieve.rest() if last is None or pair[0] > last)


class _Sieve:
    """Lets sound frames through, but for those that are built on damaged ones: all up to the next key frame.

    A frame may be built on one that is shown after it, and is held until that one is seen.
    """

    def __init__(self, losses: Losses, since: int | None) -> None:
        self._losses = losses
        self._since = since  # what lies before is followed and not counted
        self._broken = math.inf  # the order from which on frames are built on damaged ones
        self._held: list[_Decoded] = []
        self._reached = self._last = -math.inf  # stamps

    def add(self, moment: _Decoded) -> list[tuple[int, Frame]]:
        """The frames that are known to be sound now."""
        if moment.is_key and moment.is_sound and moment.order > self._broken:
            self._broken = math.inf
            self._losses.left_out += self._losses.at_the_end
            self._losses.at_the_end = 0
        if moment.is_sound and moment.order < self._broken:
            self._held.append(moment)
        else:
            self._drop(moment)
        if moment.frame is not None and moment.stamp is not None:
            self._reached = max(self._reached, moment.stamp)
        waiting = (at for at, held in enumerate(self._held) if held.awaits is not None and held.awaits > self._reached)
        return self._release(next(waiting, len(self._held)))

    def rest(self) -> list[tuple[int, Frame]]:
        """What is held at the end."""
        return self._release(len(self._held))

    def _drop(self, moment: _Decoded) -> None:
        self._broken = min(self._broken, moment.order)
        lost = [moment, *(held for held in self._held if held.order > self._broken)]
        self._held = [held for held in self._held if held.order < self._broken]
        self._losses.at_the_end += sum(map(self._counts, lost))

    def _counts(self, moment: _Decoded) -> bool:
        return self._since is None or moment.stamp is None or moment.stamp >= self._since

    def _release(self, count: int) -> list[tuple[int, Frame]]:
        released = []
        for moment in self._held[:count]:
            if moment.frame is None or moment.stamp is None or moment.stamp <= self._last:
                self._losses.timeless += self._counts(moment)
            else:
                self._last = moment.stamp
                released.append((moment.stamp, Frame(moment.frame)))
        del self._held[:count]
        return released


def _decoded(clip: Clip, *, threads: int, since: int | None = None) -> Generator[_Decoded, None, None]:
    """Everything that the decoder gives, in order of presentation; damage where it is met.

    Several threads lose the last frames without a word when one of them fails at the end: damage is reported then.
    """
    orders: dict[int, int] = {}  # stamp -> order, of what is not shown yet
    shown, order = 0, -1
    with _opened_at(clip, threads, since) as (container, stream):
        for order, packet in enumerate(_packets(container, stream, clip)):
            if packet is not None and packet.pts is not None and clip.has_stamps:
                orders[packet.pts] = order
            for frame in _frames(packet, stream):
                stamp = _stamp(clip, shown, packet, frame)
                shown += 1
                made_of, awaits = order, None
                if frame is not None and stamp is not None:
                    orders = {later: its for later, its in orders.items() if later >= stamp}
                    made_of = orders.pop(stamp, order)
                    awaits = max((later for later, its in orders.items() if its < made_of), default=None)
                yield _Decoded(stamp, made_of, awaits, frame)
        is_short = bool(orders) if clip.has_stamps else shown < order  # the last packet is the empty one
        if threads != 1 and is_short:
            yield _Decoded(None, order, None, None)


def frame_at(clip: Clip, stamp: int) -> Frame:
    """The frame of one moment. Raises SourceError: there is none any more."""
    try:
        with closing(sound_frames(clip, threads=1, since=stamp)) as frames:
            at, frame = next((pair for pair in frames if pair[0] >= stamp), (None, None))
    except InputError as error:
        raise SourceError(str(error)) from error
    if at != stamp or frame is None:
        raise SourceError(f"{clip.name} has no frame at {float(clip.time(stamp)):.3f} s any more")
    return frame


def _stamp(
    clip: Clip, count: int, packet: "av.Packet[VideoStream] | None", frame: "av.VideoFrame | None"
) -> int | None:
    if not clip.has_stamps:
        return count
    if frame is not None:
        return frame.pts
    return packet.pts if packet is not None else None


@contextmanager
def _opened(path: str, *, threads: int) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    import av

    name = files.shown(path)
    try:
        container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise InputError(f"cannot open {name} as a video: {_reason(error)}") from error
    with container:
        attached = av.stream.Disposition.attached_pic  # the cover of a song
        stream = next((stream for stream in container.streams.video if not stream.disposition & attached), None)
        if stream is None:
            raise InputError(f"{name} holds no video")
        if stream.codec_context is None:
            raise InputError(f"{name} holds a video of a kind that FFmpeg does not know; convert it to .mp4 first")
        stream.thread_type = "FRAME"  # slices of one frame are mended without a word
        stream.codec_context.thread_count = threads
        if threads != 1:  # what several threads mend may not be marked; an error is
            stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


@contextmanager
def _opened_at(clip: Clip, threads: int, since: int | None) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    with _opened(clip.path, threads=threads) as opened:
        if since is None or _sought(clip, *opened, since):
            yield opened
            return
    with _opened(clip.path, threads=threads) as opened:
        yield opened


def _sought(clip: Clip, container: "InputContainer", stream: "VideoStream", since: int) -> bool:
    """Whether the file now stands at a key frame that is shown at `since` or before.

    What follows such a key frame in presentation never needs what lies before it. Where a search ends is up to the
    format, so it is tried: some go by decoding time and end too late, and some streams need many frames to recover.
    """
    import av

    for back_s in _STEPS_BACK_S if clip.is_seekable else ():
        target = since - math.ceil(back_s / clip.time_base)
        if target <= clip.origin:
            return False
        try:
            container.seek(target, stream=stream)
            if _has_key(container.decode(stream), since):
                container.seek(target, stream=stream)
                return True
        except av.error.FFmpegError:
            continue
    return False


def _has_key(frames: "Iterator[av.VideoFrame]", since: int) -> bool:
    for frame in frames:
        if frame.pts is None or frame.pts > since:
            return False
        if frame.key_frame and not frame.is_corrupt:
            return True
    return False


def _packets(
    container: "InputContainer", stream: "VideoStream", clip: Clip
) -> Iterator["av.Packet[VideoStream] | None"]:
    """All packets, the empty one at the end too; None for a place that cannot be read."""
    import av

    failed = 0
    while failed < _FAILED_READS:
        try:
            for packet in container.demux(stream):
                failed = 0
                yield packet
            return
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            if error.errno in (errno.EIO, errno.EACCES, errno.ESTALE):
                raise InputError(f"cannot read on in {clip.name}: {_reason(error)}") from error
            failed += 1
            yield None
    end = av.Packet()  # asks for what the decoder still holds
    end.stream = stream
    yield cast("av.Packet[VideoStream]", end)


def _frames(packet: "av.Packet[VideoStream] | None", stream: "VideoStream") -> "list[av.VideoFrame] | list[None]":
    """The frames that a packet completes; one None where its data are damaged."""
    import av

    if packet is None or packet.is_corrupt:
        return [None]
    try:
        return stream.decode(packet)
    except av.error.EOFError:
        return []
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        return [None]


def _has_stamps(container: "InputContainer", stream: "VideoStream") -> bool:
    """Whether packets say when they are shown. Those of AVI do not; what FFmpeg makes up is wrong with B-frames."""
    import av

    if _is_any(container, {"avi"}):
        return False
    try:
        packets = (packet for packet in container.demux(stream) if packet.size)
        return all(packet.pts is not None for packet in islice(packets, _PROBED_PACKETS))
    except av.error.FFmpegError:
        return True


def _is_any(container: "InputContainer", formats: Set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _duration_s(container: "InputContainer", stream: "VideoStream") -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:  # another stream may last longer
        return container.duration / 1_000_000
    return None


def _reason(error: "av.error.FFmpegError") -> str:
    import av

    if isinstance(error, av.error.InvalidDataError):
        return "its data are no video, or it is cut off and lacks its index"
    return (error.strerror or str(error)).lower()
