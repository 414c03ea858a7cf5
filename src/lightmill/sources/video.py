"""A video as a source: frames in order, taken at a rate, the same ones however often the run was interrupted."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePath

from lightmill.engine.items import Item, Json, Settled
from lightmill.errors import InputError, UsageError
from lightmill.sources import files
from lightmill.sources.frames import Clip, Frame, Losses, frame_at, open_clip, sound_frames
from lightmill.sources.options import Pick, SourceOptions

_MILLISECONDS_UP_TO_FPS = 500  # above, keys have microseconds
_LOST_END_S = 0.5  # less than this is rounding in what a file declares


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Where a frame of a video is."""

    clip: Clip
    stamp: int

    def frame(self) -> Frame:
        """The frame, decoded anew from the key frame before it. Raises SourceError."""
        return frame_at(self.clip, self.stamp)

    def read(self) -> bytes:
        """The frame's RGB pixels as a binary PPM file. Raises SourceError."""
        rgb = self.frame().to_rgb()
        height, width = rgb.shape[:2]
        return b"P6\n%d %d\n255\n" % (width, height) + rgb.tobytes()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which moments of a video are wanted: all in [start, end), or one of each [start + k/fps, start + (k+1)/fps).

    Stamps are rounded to the time base (a millisecond in Matroska), so a frame counts as up to half a unit later:
    one at 0.033 s belongs to 1/30 s.
    """

    start: Fraction
    end: Fraction | None
    fps: Fraction | None
    slack: Fraction  # s
    pick: Pick = "first"

    @classmethod
    def of(cls, options: SourceOptions, time_base: Fraction) -> "Sampling":
        """Raises UsageError: options that contradict each other."""
        start, end, fps = (_exact(value) for value in (options.start_s or 0.0, options.end_s, options.fps))
        if fps is not None and fps <= 0:
            raise UsageError(f"--fps is above 0, got {options.fps:g}")
        if start is None or start < 0 or (end is not None and end <= start):
            raise UsageError(f"--start is at least 0 and before --end, got {options.start_s} and {options.end_s}")
        if options.pick == "sharpest" and (fps is None or options.sharpness is None):
            raise UsageError("--pick sharpest chooses among the frames of each interval: it needs --fps")
        slack = min(time_base / 2, Fraction(1, 2000)) + Fraction(1, 10**9)
        return cls(start=start, end=end, fps=fps, slack=slack, pick=options.pick)

    def interval(self, time: Fraction, stamp: int) -> int:
        """The number of the interval that a moment lies in; negative before the start. Without fps, its stamp."""
        since_start = time + self.slack - self.start
        if self.fps is None:
            return stamp if since_start >= 0 else -1
        return math.floor(since_start * self.fps)

    def begin(self, interval: int) -> Fraction:
        """The earliest time, in seconds, of a frame in an interval (with fps)."""
        return self.start + (interval / self.fps if self.fps else 0) - self.slack

    def is_over(self, time: Fraction) -> bool:
        return self.end is not None and time + self.slack >= self.end


@dataclass(frozen=True, slots=True)
class _Taken:
    interval: int
    stamp: int
    time: Fraction
    frame: Frame


@dataclass
class _Progress:
    losses: Losses = field(default_factory=Losses)
    time: Fraction = Fraction(0)  # s, of the last sound frame
    is_through: bool = False  # the file, and not only what was wanted of it


class VideoSource:
    """The frames of a video, decoded one after the other.

    Keys are `clip.mp4#00012.400`: the time of presentation in seconds from the start of the stream (its first frame,
    but for files that declare an earlier start), with microseconds where milliseconds would not tell frames apart. An
    item brings its decoded picture in the field `frame` (a `Frame`), and `time_s`, `pts` and `time_base` in its meta.
    After a settled item decoding starts at the key frame before, and gives what an uninterrupted run gives.
    Damaged data cost frames, never the run: what is damaged is left out, and so is what follows in the file up to the
    next key frame, since it is built on it. Warnings say how much.
    Raises InputError: no video, or none that can be decoded; UsageError: options that contradict each other.
    """

    streams = True

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._clip = open_clip(path)
        self._sampling = Sampling.of(options, self._clip.time_base)
        self._sharpness = options.sharpness
        self._threads = options.threads
        self.described = f"video {files.shown(path)}"
        self.warnings: list[str] = []
        if self.estimated_count() == 0:
            raise InputError(
                f"{files.shown(path)} is {self._clip.duration_s:.1f} s long: there is no frame at or after "
                f"--start {float(self._sampling.start):g}"
            )
        if not self._clip.is_square:
            self._warn("has pixels that are not square; its frames are taken as they are stored")

    def items(self, after: Settled | None = None) -> Iterator[Item]:
        """All items, or those after a settled one."""
        count, previous = 0, None
        if after is not None:
            count, previous = after.position + 1, self._clip.time(self._stamp_of(after))
        progress = _Progress()
        with closing(self._taken(after, progress)) as taken:
            for one in taken if self._sampling.fps is None else self._one_of_each(taken):
                key = self._key(one.time, previous)
                count, previous = count + 1, one.time
                yield self._item(key, one)
        self._say(progress, count)

    def estimated_count(self) -> int | None:
        """From the declared duration and the rate; None where the file declares none."""
        rate, duration_s = self._clip.rate, self._clip.duration_s
        if rate is None or duration_s is None:
            return None
        sampling = self._sampling
        end_s = min(duration_s, float(sampling.end) if sampling.end is not None else math.inf)
        wanted = min(rate, float(sampling.fps) if sampling.fps is not None else math.inf)
        return max(0, math.ceil(round((end_s - float(sampling.start)) * wanted, 3)))

    def _item(self, key: str, one: _Taken) -> Item:
        clip = self._clip
        meta: dict[str, Json] = {
            "time_s": round(float(one.time), 6),
            "pts": one.stamp,
            "time_base": f"{clip.time_base.numerator}/{clip.time_base.denominator}",
        }
        stem, _, seconds = key.rpartition("#")
        name = f"{PurePath(stem).stem}_{seconds.replace('.', '_')}"
        return Item(key, FrameRef(clip, one.stamp), fields={"frame": one.frame}, meta=meta, name=name)

    def _key(self, time: Fraction, previous: Fraction | None) -> str:
        seconds = f"{float(time):09.3f}"
        is_fast = max(self._clip.rate or 0, float(self._sampling.fps or 0)) > _MILLISECONDS_UP_TO_FPS
        if is_fast or (previous is not None and seconds == f"{float(previous):09.3f}"):
            seconds = f"{float(time):012.6f}"
        return f"{self._clip.name}#{seconds}"

    def _stamp_of(self, after: Settled) -> int:
        pts = after.meta.get("pts")
        return pts if isinstance(pts, int) else self._clip.stamp(Fraction(str(after.meta["time_s"])))

    def _taken(self, after: Settled | None, progress: "_Progress") -> Generator[_Taken, None, None]:
        """All sound frames that are wanted, each with its interval."""
        clip, sampling = self._clip, self._sampling
        done, since = self._resumed(after)
        with closing(sound_frames(clip, threads=self._threads, since=since, losses=progress.losses)) as frames:
            for stamp, frame in frames:
                time = clip.time(stamp)
                if sampling.is_over(time):
                    return
                progress.time = time
                interval = sampling.interval(time, stamp)
                if interval > done and (since is None or stamp >= since):
                    yield _Taken(interval, stamp, time, frame)
        progress.is_through = True

    def _resumed(self, after: Settled | None) -> tuple[int, int | None]:
        """The last interval that is done, and the stamp of the first frame that matters (None: from the beginning)."""
        clip, sampling = self._clip, self._sampling
        if after is None:
            return -1, clip.stamp(sampling.begin(0)) if sampling.start > 0 else None
        stamp = self._stamp_of(after)
        done = sampling.interval(clip.time(stamp), stamp)
        return done, stamp + 1 if sampling.fps is None else clip.stamp(sampling.begin(done + 1))

    def _one_of_each(self, taken: Iterable[_Taken]) -> Iterator[_Taken]:
        """One frame of each interval: the first, or the sharpest (of equally sharp ones the first)."""
        judge = self._sharpness if self._sampling.pick == "sharpest" else None
        for _, ones in groupby(taken, key=attrgetter("interval")):
            if judge is None:
                yield next(ones)
            else:
                yield max(ones, key=lambda one: judge(one.frame.luma()))

    def _say(self, progress: "_Progress", count: int) -> None:
        losses, end_s = progress.losses, float(progress.time)
        if losses.left_out:
            self._warn(f"is damaged: {losses.left_out} frames are left out")
        if losses.timeless:
            self._warn(f"has {losses.timeless} frames that are shown no later than the one before; they are left out")
        declared_s = self._clip.duration_s or 0.0
        if not progress.is_through:
            return
        if losses.at_the_end:
            self._warn(f"is damaged after {end_s:.1f} s: the {count} frames before are used")
        elif end_s + 1 / (self._clip.rate or 25) + _LOST_END_S < declared_s:
            self._warn(f"ends after {end_s:.1f} s and declares {declared_s:.1f} s: the {count} frames there are used")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._clip.name} {text}")


def _exact(value: float | None) -> Fraction | None:
    """The decimal number that was written: 29.97 is 2997/100."""
    return None if value is None else Fraction(str(value))
