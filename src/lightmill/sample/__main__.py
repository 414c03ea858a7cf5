"""`python -m lightmill.sample`: pictures with exact ground truth, to try Lightmill on."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lightmill.errors import LightmillError
from lightmill.sample.clip import write_clip
from lightmill.sample.match import IMAGES, TEST, TRAIN, TRUTH, write_match
from lightmill.sample.match_camera import ANGLES
from lightmill.sample.portraits import TABLE, write_portraits
from lightmill.types import Size

_PORTRAITS, _MATCH = "portraits", "match"
_CLIP_HELP = "Write FOLDER/clip.mp4: 360-degree video of a courtyard; and FOLDER/masks: where its walker is."
_PORTRAITS_HELP = (
    f"Write FOLDER/portrait_000.jpg and so on, their exact masks in FOLDER/masks, and a table of them, FOLDER/{TABLE}."
)
_MATCH_HELP = (
    f"Write FOLDER/{IMAGES}: a ball game from two cameras; and the boxes of its players: FOLDER/{TRAIN}, and of the "
    f"last quarter FOLDER/{TEST}, with the truth in FOLDER/{TRUTH}."
)
_MORE = (
    f"`python -m lightmill.sample {_PORTRAITS} FOLDER` writes portraits instead, `{_MATCH} FOLDER` a ball game; "
    "see their --help."
)


def main(arguments: list[str]) -> int:
    """Write what is asked for and say where it is; returns the exit code."""
    write = {_PORTRAITS: _portraits, _MATCH: _match}.get(arguments[0] if arguments else "", _clip)
    try:
        print(write(arguments))
    except LightmillError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


def _clip(arguments: list[str]) -> str:
    parser = argparse.ArgumentParser(prog="python -m lightmill.sample", description=_CLIP_HELP, epilog=_MORE)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the clip (%(default)s)")
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second (%(default)s)")
    parser.add_argument("--mask-fps", type=float, default=2.0, help="masks a second (%(default)s)")
    parser.add_argument("--width", type=int, default=1536, help="of the panorama in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of textures and clouds (%(default)s)")
    asked = parser.parse_args(arguments)
    clip = write_clip(
        asked.folder,
        seconds=asked.seconds,
        fps=asked.fps,
        mask_fps=asked.mask_fps,
        width=asked.width,
        seed=asked.seed,
    )
    masks = len(list((asked.folder / "masks").glob("clip_*.png")))
    return f"wrote {clip} and {masks} masks in {asked.folder / 'masks'}"


def _portraits(arguments: list[str]) -> str:
    parser = argparse.ArgumentParser(prog=f"python -m lightmill.sample {_PORTRAITS}", description=_PORTRAITS_HELP)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=_number(1), default=12, help="how many (%(default)s)")
    parser.add_argument("--size", type=_size, default="768x768", metavar="WxH", help="of each in pixels (%(default)s)")
    parser.add_argument("--seed", type=_number(0), default=0, help="of the first; the next is one more (%(default)s)")
    asked = parser.parse_args(arguments[1:])
    size: Size = asked.size
    written = write_portraits(asked.folder, asked.count, seed=asked.seed, size=(size.width, size.height))
    return f"wrote {len(written)} portraits, {asked.folder / TABLE}, and their masks in {asked.folder / 'masks'}"


def _match(arguments: list[str]) -> str:
    parser = argparse.ArgumentParser(prog=f"python -m lightmill.sample {_MATCH}", description=_MATCH_HELP)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--players", type=_number(2), default=30, help="of both teams (%(default)s)")
    parser.add_argument("--unknown", type=_number(0), default=8, help="of them in the last quarter only (%(default)s)")
    parser.add_argument("--quarters", type=_number(2), default=4, help="the last one is the test (%(default)s)")
    parser.add_argument("--sessions", type=_number(1), default=25, help="a quarter (%(default)s)")
    parser.add_argument("--frames", type=_number(1), default=10, help="a session, 5 a second (%(default)s)")
    parser.add_argument("--players-per-frame", type=_number(1), default=10, help="at most (%(default)s)")
    parser.add_argument("--size", type=_size, default="1920x1080", metavar="WxH", help="of frames in px (%(default)s)")
    parser.add_argument("--quality", type=_number(1), default=90, help="of the JPEGs, to 100 (%(default)s)")
    parser.add_argument("--seed", type=_number(0), default=0, help="of everything (%(default)s)")
    parser.add_argument(
        "--dirt", action=argparse.BooleanOptionalAction, default=True, help="a few boxes far too large (yes)"
    )
    asked = parser.parse_args(arguments[1:])
    options = vars(asked) | {"size": (asked.size.width, asked.size.height)}
    write_match(options.pop("folder"), **options)
    frames = asked.quarters * asked.sessions * asked.frames * len(ANGLES)
    return f"wrote {frames} frames in {asked.folder / IMAGES}, {asked.folder / TRAIN} and {asked.folder / TEST}"


def _number(least: int) -> Callable[[str], int]:
    """A whole number from `least` on, for argparse."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number from {least} on is wanted, got {text!r}")
        return int(text)

    return parse


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
