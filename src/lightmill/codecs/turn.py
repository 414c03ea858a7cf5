"""Pictures turned upright by their EXIF orientation."""

import cv2
import numpy as np

from lightmill.codecs.picture import Pixels


def turn(stored: Pixels, orientation: int, *, out: Pixels | None = None) -> Pixels:
    """`stored` ([H, W] or [H, W, 3]) as it has to be seen, for an EXIF orientation of 2 to 8, written into `out`.

    The meaning of the numbers: EXIF 2.32, tag Orientation (where the 0th row and the 0th column of the file lie).
    """
    height, width = stored.shape[:2]
    upright = (width, height) if orientation > 4 else (height, width)
    if out is None:
        out = np.empty((*upright, *stored.shape[2:]), np.uint8)
    match orientation:
        case 2:
            cv2.flip(stored, 1, out)
        case 3:
            cv2.rotate(stored, cv2.ROTATE_180, out)
        case 4:
            cv2.flip(stored, 0, out)
        case 5:
            cv2.transpose(stored, out)
        case 6:
            cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE, out)
        case 7:
            cv2.transpose(stored, out)
            cv2.rotate(out, cv2.ROTATE_180, out)
        case 8:
            cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE, out)
        case _:
            raise ValueError(f"an EXIF orientation that turns is 2 to 8, got {orientation}")
    return out
