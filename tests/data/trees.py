"""Small data sets on disk for the tests of indices and layouts, made by Pillow."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

OLD_NS = 1_600_000_000_000_000_000  # long ago: no test has to wait until a time is no longer young


def write_picture(
    path: Path, size: tuple[int, int] = (8, 6), *, seed: int = 0, exif: int = 0, **options: object
) -> Path:
    """A picture of noise; size: (width, height) as stored; exif: an orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    if exif:
        tags = Image.Exif()
        tags[0x0112] = exif
        options["exif"] = tags
    Image.fromarray(levels).save(path, **options)
    return path


def write_mask(path: Path, size: tuple[int, int] = (8, 6), *, classes: int = 3, seed: int = 0) -> Path:
    """A grey PNG of class numbers; all of them occur where there is room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).permutation(np.arange(size[0] * size[1]) % classes)
    Image.fromarray(levels.reshape(size[1], size[0]).astype(np.uint8)).save(path)
    return path


def write_pairs(root: Path, names: list[str], *, size: tuple[int, int] = (8, 6)) -> Path:
    """images/NAME.jpg and masks/NAME.png of every name."""
    for seed, name in enumerate(names):
        write_picture(root / "images" / f"{name}.jpg", size, seed=seed)
        write_mask(root / "masks" / f"{name}.png", size, seed=seed)
    return root


def age(root: Path, ns: int = OLD_NS) -> None:
    """Gives every file and folder an old time, folders last and from the deepest up."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            os.utime(os.path.join(folder, name), ns=(ns, ns))
        os.utime(folder, ns=(ns, ns))
