"""Pairs for instruction tuning: from the picture in bad light to the photograph, and what was wrong, in plain words.

An image folder that `datasets` reads: `metadata.jsonl` beside the pictures, with the columns that trainers of
InstructPix2Pix use by default: `input_image`, `edited_image`, `edit_prompt`.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightmill.ops.lights import Light

FOLDER = "instructpix2pix"

_CASTS = {
    "self": "the hard shadows that it casts on itself",
    "occluder": "the hard shadow of something outside the picture",
    "foliage": "the dappled shadow of leaves",
    "venetian": "the shadow of a venetian blind",
    "window": "the shadow of a window frame",
    "branch": "the shadow of branches",
    "curtain": "the shadow of a curtain",
    "fence": "the shadow of a fence",
    "voronoi": "the broken, cell-like shadow",
    "lattice": "the shadow of a lattice",
    "cloud": "the soft shadow of clouds",
    "screen": "the shadow of a pierced screen",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures and the words between them; paths relative to the folder."""

    degraded: str
    original: str
    instruction: str


def instruction(light: "Light") -> str:
    """What an editor would be told to undo, from the light's numbers alone.

    >>> from lightmill.ops.lights import Lamp, Light
    >>> lamp = Lamp(direction=(-0.8, 0.0, 0.6))
    >>> instruction(Light(kind="soft", ambient=(0.3, 0.3, 0.3), lamps=(lamp,)))
    'replace the dim light from the left with even, natural light'
    """
    wrong = [_lamp_words(light)]
    if light.shadow:
        wrong.append(_CASTS[light.shadow.caster])
    if light.gloss:
        wrong.append("the glare on the skin and other surfaces" if light.gloss > 0.15 else "the shine")
    listed = wrong[0] if len(wrong) == 1 else f"{', '.join(wrong[:-1])} and {wrong[-1]}"
    return f"replace {listed} with even, natural light"


def _lamp_words(light: "Light") -> str:
    if light.surroundings:
        return f"the {light.surroundings} light {from_where(light.lamps[0].direction)}"
    brightness = "dim" if light.ambient[0] < 0.4 else "flat"
    return f"the {brightness} light {from_where(light.lamps[0].direction)}"


def from_where(direction: tuple[float, float, float]) -> str:
    """A direction (x right, y up, z towards the viewer) in words, in eight steps around the picture.

    >>> from_where((0.5, 0.5, 0.7)), from_where((0.1, 0.0, 0.99))
    ('from the upper right', 'from the front')
    """
    x, y, z = direction
    if z > math.cos(math.radians(25)):
        return "from the front"
    names = ("right", "upper right", "above", "upper left", "left", "lower left", "below", "lower right")
    where = names[round(math.degrees(math.atan2(y, x)) / 45) % 8]
    return f"from {where}" if where in ("above", "below") else f"from the {where}"


def metadata_lines(pairs: Iterator[Pair]) -> Iterator[bytes]:
    """`metadata.jsonl`, line by line."""
    for pair in pairs:
        row = {
            "input_image_file_name": pair.degraded,
            "edited_image_file_name": pair.original,
            "edit_prompt": pair.instruction,
        }
        yield (json.dumps(row, ensure_ascii=False) + "\n").encode()
