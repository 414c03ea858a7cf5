import math

import pytest

from lightmill.train.schedule import rate_scale, share_done


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_a_rate_rises_to_its_height_and_falls_to_a_hundredth(warmup: float) -> None:
    scales = [rate_scale(step / 1000, warmup=warmup) for step in range(1001)]
    top = round(warmup * 1000)
    assert scales[top] == pytest.approx(1.0)
    assert scales[-1] == pytest.approx(0.01)
    assert scales[: top + 1] == sorted(set(scales[: top + 1]))
    assert scales[top:] == sorted(set(scales[top:]), reverse=True)


def test_it_falls_as_a_cosine() -> None:
    for share in (0.1, 0.25, 0.5, 0.9):
        wanted = 0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2
        assert rate_scale(0.2 + 0.8 * share, warmup=0.2) == pytest.approx(wanted)


def test_the_clock_counts_where_it_is_ahead_of_the_steps() -> None:
    assert share_done(30, steps=100, elapsed_s=10, limit_s=100) == 0.3
    assert share_done(30, steps=100, elapsed_s=90, limit_s=100) == 0.9
    assert share_done(30, steps=100, elapsed_s=500, limit_s=100) == 1.0
    assert share_done(30, steps=100, elapsed_s=500, limit_s=None) == 0.3
