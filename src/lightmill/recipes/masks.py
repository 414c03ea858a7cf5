"""Masks that lie in a folder beside the pictures, under the names that people give them."""

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode_mask
from lightmill.engine.items import Notes
from lightmill.errors import DecodeError, UsageError
from lightmill.ops.sphere import continue_poles, inner, padded_shape

ALPHA = "alpha"
ALL_KEPT = np.full((2, 4), 255, np.uint8)
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


class MaskFolder:
    """Finds the mask of a picture: `x.png`, `x.jpg.png`, `x_mask.png` or `x.mask.png`, in the picture's sub-folder or
    at the top. Raises UsageError where the folder holds no picture at all."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(
                f"--masks {folder}: there is no such folder (or write `--masks alpha` for the input's own alpha)"
            )
        self._folder = folder
        self._paths = {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in _SUFFIXES
        }
        if not self._paths:
            raise UsageError(f"--masks {folder}: there is no picture in it")

    def load(self, key: str, name: str, notes: Notes) -> NDArray[np.uint8]:
        """[H + 2 MARGIN, W] uint8, 255 = keep, continued over the poles.

        Where a picture has no mask all of it is kept, and the manifest says so. Raises DecodeError for a damaged one.
        """
        path = self.find(key, name)
        if path is None:
            notes.meta["mask"] = "none found, all kept"
            return padded_mask(ALL_KEPT)
        try:
            return padded_mask(decode_mask(path.read_bytes()))
        except (OSError, DecodeError) as error:
            raise DecodeError(f"its mask {path.relative_to(self._folder)} cannot be read: {error}") from error

    def find(self, key: str, name: str) -> Path | None:
        """The mask of the item with that key and output name."""
        stem = PurePosixPath(key).with_suffix("").as_posix()
        names = () if name.isdigit() else (name,)  # a row number says nothing of which picture it is
        whole = (key, stem, *names)
        for base in dict.fromkeys((*whole, *(PurePosixPath(path).name for path in whole))):
            for candidate in (base, f"{base}_mask", f"{base}.mask"):
                if candidate in self._paths:
                    return self._paths[candidate]
        return None


def padded_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W] to [H + 2 MARGIN, W], with its rows continued over the poles."""
    padded = np.empty(padded_shape(*mask.shape)[:2], np.uint8)
    inner(padded)[:] = mask
    continue_poles(padded)
    return padded
