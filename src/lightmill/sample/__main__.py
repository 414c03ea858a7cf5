"""`python -m lightmill.sample FOLDER`: a 360-degree clip with masks, to try Lightmill on."""

import argparse
import sys
from pathlib import Path

from lightmill.errors import LightmillError
from lightmill.sample.clip import write_clip


def main() -> int:
    """Write the clip and say where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lightmill.sample", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the clip (%(default)s)")
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second (%(default)s)")
    parser.add_argument("--mask-fps", type=float, default=2.0, help="masks a second (%(default)s)")
    parser.add_argument("--width", type=int, default=1536, help="of the panorama in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of textures and clouds (%(default)s)")
    asked = parser.parse_args()
    try:
        clip = write_clip(
            asked.folder,
            seconds=asked.seconds,
            fps=asked.fps,
            mask_fps=asked.mask_fps,
            width=asked.width,
            seed=asked.seed,
        )
    except LightmillError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    masks = len(list((asked.folder / "masks").glob("clip_*.png")))
    print(f"wrote {clip} and {masks} masks in {asked.folder / 'masks'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
