"""The pictures of docs/mask.md and docs/relight.md: what `mask` and `relight` make of sample portraits."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import HUES, IMAGES, INK, PAPER, frame
from PIL import Image, ImageDraw, ImageFont

import lightmill
from lightmill.models.salient import Salient
from lightmill.ops.patterns import Pattern, draw_pattern, render_pattern
from lightmill.ops.srgb import to_levels
from lightmill.sample.portraits import portrait

_WIDTH, _GAP = 1200, 6

# seed of a sample portrait -> kinds of light, each with the variant that shows it well
_LIT: Mapping[int, tuple[tuple[str, int], ...]] = {
    13: (("hard", 6), ("specular", 1), ("foliage", 1), ("window", 2)),
    12: (("soft", 3), ("advanced", 4), ("venetian", 2), ("branch", 5)),
    36: (("advanced", 0), ("specular", 5), ("foliage", 5), ("lattice", 2)),
    49: (("soft", 1), ("hard", 5), ("specular", 7), ("venetian", 7)),
}
_PATTERN_SEED = 4
_MASKED = (13, 49, 29, 16, 22, 28, 51, 25, 24)  # seeds of sample portraits: five that succeed, four that do not

# what became of each photograph, as looked at
_VERDICTS: Mapping[str, str] = {
    "alpaca": "good",
    "man": "good",
    "corgi": "good; a paw is lost",
    "smile": "good; shoulders and\na few curls are lost",
    "truck": "good, with a strip\nof the road",
    "bike": "a blob: wheels filled,\nand the path with it",
    "two_men": "partial: the chest of\none man is lost",
    "horses": "partial: with the hill,\nlegs ragged",
    "horse": "partial: with a strip\nof forest",
    "bus": "partial: with most of\nwho walks before it",
    "cars": "partial: the lower\nhalves are lost",
    "groceries": "partial: all of the\nboot, half of the car",
}


def make_portrait_pictures(work: Path) -> Iterator[str]:
    """Yields what could not be made, in words."""
    _relit(work)
    _patterns()
    _salient()
    yield from _salient_photos(IMAGES.parents[2] / "shared" / "data" / "photos")


def _relit(work: Path) -> None:
    """A row a portrait: the photograph, its mask and albedo, and four lights."""
    columns = 3 + len(_LIT[13])
    side = (_WIDTH - (columns - 1) * _GAP) // columns
    sheet = Image.new("RGB", (_WIDTH, len(_LIT) * (side + _GAP) - _GAP), PAPER)
    for row, (seed, lights) in enumerate(_LIT.items()):
        (work / "portraits").mkdir(exist_ok=True)
        photograph = work / "portraits" / f"p{seed}.png"
        Image.fromarray(portrait(seed, size_wh=(384, 384)).pixels).save(photograph)
        for column, (label, path) in enumerate(_files(photograph, lights)):
            small = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            frame(small, None, label)
            sheet.paste(small, (column * (side + _GAP), row * (side + _GAP)))
    sheet.save(IMAGES / "relight.jpg", quality=80, optimize=True)


def _files(photograph: Path, lights: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, Path]]:
    """What `relight` writes for it, with labels."""
    yield "photograph", photograph
    for kind, variant in lights:
        out = photograph.with_name(f"{photograph.stem}-{kind}")
        run = lightmill.relight(photograph, out, degrade=kind, variants=variant + 2, seed=1, progress="none")
        assert run.ok == 1
        if (kind, variant) == lights[0]:
            yield from ((label, out / f"{photograph.stem}_{label}.png") for label in ("mask", "albedo"))
        yield kind, out / f"{photograph.stem}_v{variant:02d}_output.png"


def _patterns() -> None:
    """The ten patterns on a wall, lit through each of them."""
    columns = 5
    side = (_WIDTH - (columns - 1) * _GAP) // columns
    sheet = Image.new("RGB", (_WIDTH, 2 * side + _GAP), PAPER)
    for i, kind in enumerate(Pattern):
        drawn = draw_pattern(kind, np.random.default_rng([_PATTERN_SEED, i]))
        shadow = render_pattern(kind, drawn, size_hw=(2 * side, 2 * side))[..., None]
        wall = np.array([0.62, 0.57, 0.50], np.float32) * (0.25 + 0.75 * (1 - 0.85 * shadow))
        picture = Image.fromarray(to_levels(wall)).resize((side, side), Image.Resampling.LANCZOS)
        frame(picture, None, str(kind))
        sheet.paste(picture, (i % columns * (side + _GAP), i // columns * (side + _GAP)))
    sheet.save(IMAGES / "patterns.jpg", quality=72, optimize=True)


def _salient() -> None:
    """Sample portraits beside what `builtin:salient` finds in them; the outline is that of the exact mask."""
    pairs, side, between = 3, 188, 18
    rows = len(_MASKED) // pairs
    size = pairs * (2 * side + 2) + (pairs - 1) * between, rows * (side + _GAP) - _GAP
    sheet = Image.new("RGB", size, PAPER)
    for i, seed in enumerate(_MASKED):
        made = portrait(seed, size_wh=(512, 512))
        mask = _found(made.pixels)
        inside, exact = mask >= 128, made.mask >= 128
        iou = (inside & exact).sum() / (inside | exact).sum()
        left, top = i % pairs * (2 * side + 2 + between), i // pairs * (side + _GAP)
        photograph, outlined = (
            Image.fromarray(each).resize((side, side), Image.Resampling.LANCZOS)
            for each in (made.pixels, _outlined(mask, exact))
        )
        frame(photograph, None, f"IoU {iou:.3f}")
        sheet.paste(photograph, (left, top))
        sheet.paste(outlined, (left + side + 2, top))
    sheet.save(IMAGES / "mask.jpg", quality=76, optimize=True)


def _found(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    [found] = Salient()([pixels])
    return found.masks[0] if found.masks else np.zeros(pixels.shape[:2], np.uint8)


def _outlined(mask: NDArray[np.uint8], exact: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[H, W, 3] the mask, with a line where another begins, 5 px wide."""
    edge = np.zeros_like(exact)
    for shift in range(-2, 3):
        for axis in (0, 1):
            edge |= np.roll(exact, shift, axis) != exact
    edge[:2], edge[-2:], edge[:, :2], edge[:, -2:] = False, False, False, False
    picture = np.dstack([mask] * 3)
    picture[edge] = HUES[0]
    return picture


def _salient_photos(photographs: Path) -> Iterator[str]:
    """What it finds in photographs: the masks alone, with words for them; or why there are none."""
    if not photographs.is_dir():
        yield "no photographs beside the checkout: docs/images/salient_photos.png stays as it is"
        return
    columns, gap, font = 6, 12, ImageFont.load_default(15)
    side = (_WIDTH - (columns - 1) * gap) // columns
    cell = side + 70  # with three lines of words
    sheet = Image.new("L", (_WIDTH, 2 * cell), PAPER[0])
    draw = ImageDraw.Draw(sheet)
    for i, (name, verdict) in enumerate(_VERDICTS.items()):
        left, top = i % columns * (side + gap), i // columns * cell
        mask = Image.fromarray(_found(np.asarray(Image.open(photographs / f"{name}.jpg").convert("RGB"))))
        mask.thumbnail((side, side), Image.Resampling.LANCZOS)
        ImageDraw.Draw(mask).rectangle((0, 0, mask.width - 1, mask.height - 1), outline=150, width=2)
        sheet.paste(mask, (left, top + side - mask.height))
        draw.multiline_text((left, top + side + 5), f"{name}.jpg\n{verdict}", font=font, fill=INK[0], spacing=3)
    sheet.save(IMAGES / "salient_photos.png", optimize=True)
