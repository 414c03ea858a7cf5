"""What is said of a light agrees with its numbers."""

import json

import pytest

from lightmill.export.instructpix2pix import Pair, from_where, instruction, metadata_lines
from lightmill.ops.lights import KINDS, Lamp, Light, Shadow


def light(**more: object) -> Light:
    given = {"kind": "soft", "ambient": (0.3, 0.3, 0.3), "lamps": (Lamp(direction=(0.8, 0.0, 0.6)),)}
    return Light(**{**given, **more})


@pytest.mark.parametrize(
    ("direction", "words"),
    [
        ((1.0, 0.0, 0.0), "from the right"),
        ((-1.0, 0.0, 0.0), "from the left"),
        ((0.0, 1.0, 0.0), "from above"),
        ((0.0, -1.0, 0.0), "from below"),
        ((-0.6, 0.6, 0.52), "from the upper left"),
        ((0.0, 0.0, 1.0), "from the front"),
    ],
)
def test_a_direction_is_said_as_it_is_seen(direction: tuple[float, float, float], words: str) -> None:
    assert from_where(direction) == words


def test_what_is_not_in_the_light_is_not_said() -> None:
    assert instruction(light()) == "replace the dim light from the right with even, natural light"
    assert "shine" in instruction(light(gloss=0.1))
    assert "shine" not in instruction(light(gloss=0.0))


@pytest.mark.parametrize("caster", [*(kind for kind in KINDS if kind not in ("soft", "hard", "specular", "advanced"))])
def test_every_pattern_has_a_name_of_its_own(caster: str) -> None:
    words = instruction(light(shadow=Shadow(caster=caster, opacity=0.5)))
    others = {instruction(light(shadow=Shadow(caster=other, opacity=0.5))) for other in KINDS[4:] if other != caster}
    assert "shadow" in words
    assert words not in others


def test_lines_are_json_with_the_columns_of_the_trainers() -> None:
    (line,) = metadata_lines(iter([Pair("images/a_output.png", "images/a_input.png", "light – evenly")]))
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "input_image_file_name": "images/a_output.png",
        "edited_image_file_name": "images/a_input.png",
        "edit_prompt": "light – evenly",
    }
