"""How lights are asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.ops.lights import KINDS, PATTERN_SHARES
from lightmill.recipes.light_options import parse_range, parse_weights, spread_patterns
from lightmill.recipes.relight import Relight


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("degrade", "sofd=1", "there is no kind of light 'sofd'; did you mean 'soft'"),
        ("degrade", "soft=-1", "the weight of soft is a number from 0 on"),
        ("degrade", "soft=nan", "the weight of soft is a number from 0 on"),
        ("degrade", "soft=0", "at least one weight must be above 0"),
        ("degrade", "soft=1,soft=2", "'soft' is given twice"),
        ("ambient", "0.6-0.2", "from the lower to the higher"),
        ("ambient", "0.2-1.5", "it lies between 0 and 1, got 0.2-1.5"),
        ("elevation", "low", "a range is written LOW-HIGH"),
        ("elevation", "10-95", "between 0 and 90"),
        ("shininess", "0-5", "between 1 and 1000"),
        ("background", "#12345", "a background is gray, original or a colour as in #7f7f7f"),
        ("background", "blurry", "a background is gray, original or a colour as in #7f7f7f"),
        ("write", "output,masks", "--write"),
        ("variants", "0", "--variants"),
    ],
)
def test_what_cannot_be_meant_is_refused(option: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Relight.from_values({option: value})


def test_options_that_need_each_other() -> None:
    with pytest.raises(UsageError, match="--export instructpix2pix needs --write with input and output"):
        Relight.from_values({"export": "instructpix2pix", "write": "albedo"})
    with pytest.raises(UsageError, match="--score-model and --score-prompt go together"):
        Relight.from_values({"score_model": "some/clip"})


def test_texts_come_back_as_texts() -> None:
    """The config in the journal, and the command that `retry` gives again, hold what a user would write."""
    given_ = {"degrade": "soft=0.5,foliage=0.25", "ambient": "0.1-0.3", "elevation": "45", "background": "#00ff80"}
    recipe = Relight.from_values(given_)
    shown = recipe.model_dump(mode="json", include=set(given_))
    assert shown == given_ | {"elevation": "45-45"}
    assert Relight.from_values(shown) == recipe


@given(st.dictionaries(st.sampled_from([*KINDS, "patterns"]), st.floats(0.01, 100), min_size=1))
def test_spreading_patterns_keeps_the_sum(weights: dict[str, float]) -> None:
    parsed = parse_weights(",".join(f"{kind}={weight!r}" for kind, weight in weights.items()))
    assert parsed == weights
    spread = spread_patterns(parsed)
    assert sum(spread.values()) == pytest.approx(sum(weights.values()))
    assert set(spread) <= set(KINDS)


def test_the_shares_of_the_patterns_are_whole() -> None:
    assert sum(PATTERN_SHARES.values()) == pytest.approx(1)
    assert set(PATTERN_SHARES) == set(KINDS[4:])


def test_one_number_is_a_range() -> None:
    assert parse_range("0.4") == (0.4, 0.4)
