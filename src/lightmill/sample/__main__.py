"""`python -m lightmill.sample`: pictures with exact ground truth, to try Lightmill on."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lightmill.errors import LightmillError
from lightmill.sample.clip import write_clip
from lightmill.sample.portraits import TABLE, write_portraits
from lightmill.types import Size

_PORTRAITS = "portraits"
_CLIP_HELP = "Write FOLDER/clip.mp4: 360-degree video of a courtyard; and FOLDER/masks: where its walker is."
_PORTRAITS_HELP = (
    f"Write FOLDER/portrait_000.jpg and so on, their exact masks in FOLDER/masks, and a table of them, FOLDER/{TABLE}."
)
_MORE = f"`python -m lightmill.sample {_PORTRAITS} FOLDER` writes portraits instead; see its --help."


def main(arguments: list[str]) -> int:
    """Write what is asked for and say where it is; returns the exit code."""
    write = _portraits if arguments[:1] == [_PORTRAITS] else _clip
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
