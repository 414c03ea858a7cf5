"""Shadow patterns: the same at every size and aspect ratio, and the same bytes after a way through JSON."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from lightmill.ops.patterns import Json, Pattern, draw_pattern, render_pattern
from lightmill.ops.patterns.plane import Plane, penumbra, sun_blur

PLAIN: dict[str, Json] = {"rotation_deg": 0, "scale": 1, "shift_x": 0, "shift_y": 0}
# the mean shadow of every draw lies between these; seen over 50 seeds at 1:1, 1:2 and 2:1, with a margin
COVERAGE = {
    Pattern.FOLIAGE: (0.45, 0.9),
    Pattern.VENETIAN: (0.35, 0.7),
    Pattern.WINDOW: (0.2, 0.85),
    Pattern.BRANCH: (0.03, 0.4),
    Pattern.CURTAIN: (0.15, 0.88),
    Pattern.FENCE: (0.2, 0.8),
    Pattern.VORONOI: (0.15, 0.7),
    Pattern.LATTICE: (0.28, 0.8),
    Pattern.CLOUD: (0.1, 0.9),
    Pattern.SCREEN: (0.25, 0.72),
}
every_kind = pytest.mark.parametrize("kind", list(Pattern))


def drawn(kind: Pattern, seed: int) -> dict[str, Json]:
    return draw_pattern(kind, np.random.default_rng(seed))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@every_kind
def test_shadows_are_from_0_to_1_and_neither_empty_nor_full(kind: Pattern) -> None:
    low, high = COVERAGE[kind]
    for seed in range(50):
        shadow = render_pattern(kind, drawn(kind, seed), size_hw=[(128, 128), (96, 192), (192, 96)][seed % 3])
        assert shadow.dtype == np.float32
        assert np.isfinite(shadow).all()
        assert shadow.min() >= 0
        assert shadow.max() <= 1
        assert low < shadow.mean() < high, seed
        assert np.ptp(shadow) > 0.8, seed


@every_kind
def test_a_pattern_is_the_same_at_every_size(kind: Pattern) -> None:
    for seed in range(4):
        params = drawn(kind, seed)
        half, full = (render_pattern(kind, params, size_hw=(side, side)) for side in (512, 1024))
        assert correlation(cv2.resize(full, (512, 512), interpolation=cv2.INTER_AREA), half) > 0.995
        assert correlation(cv2.resize(half, (1024, 1024), interpolation=cv2.INTER_LINEAR), full) > 0.99


@every_kind
def test_a_wide_and_a_tall_picture_show_other_parts_of_the_same_plane(kind: Pattern) -> None:
    """Pictures of equal diagonals agree where they overlap: nothing is stretched by the aspect ratio."""
    square, wide, tall = (1024, 1024), (600, 1318), (1318, 600)
    assert math.hypot(*square) == pytest.approx(math.hypot(*wide), rel=1e-3)
    params = drawn(kind, 5)
    whole = render_pattern(kind, params, size_hw=square)
    assert correlation(render_pattern(kind, params, size_hw=wide)[:, 147:1171], whole[212:812]) > 0.98
    assert correlation(render_pattern(kind, params, size_hw=tall)[147:1171], whole[:, 212:812]) > 0.98


@every_kind
def test_the_same_parameters_give_the_same_bytes_also_after_json(kind: Pattern) -> None:
    params = drawn(kind, 3)
    replayed = json.loads(json.dumps(params))
    assert replayed == params
    once, again = (render_pattern(kind, p, size_hw=(150, 200)) for p in (params, replayed))
    assert once.tobytes() == again.tobytes()


def test_threads_give_the_same_bytes() -> None:
    jobs = [(kind, drawn(kind, seed)) for kind in Pattern for seed in range(2)]
    alone = [render_pattern(kind, params, size_hw=(256, 256)).tobytes() for kind, params in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: render_pattern(*job, size_hw=(256, 256)).tobytes(), jobs))
    assert together == alone


def test_the_threads_of_opencv_give_the_same_bytes() -> None:
    before = cv2.getNumThreads()
    rendered = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            rendered.append([render_pattern(kind, drawn(kind, 1), size_hw=(700, 900)).tobytes() for kind in Pattern])
    finally:
        cv2.setNumThreads(before)
    assert rendered[0] == rendered[1]


@every_kind
def test_two_draws_differ(kind: Pattern) -> None:
    shadows = [render_pattern(kind, drawn(kind, seed), size_hw=(96, 96)) for seed in range(8)]
    for index, shadow in enumerate(shadows):
        assert all(correlation(shadow, other) < 0.9 for other in shadows[:index])


@pytest.mark.parametrize("kind", [Pattern.FOLIAGE, Pattern.BRANCH, Pattern.CURTAIN, Pattern.VORONOI, Pattern.CLOUD])
def test_the_seed_alone_makes_another_pattern(kind: Pattern) -> None:
    params = drawn(kind, 0)
    one, other = (render_pattern(kind, params | {"seed": seed}, size_hw=(128, 128)) for seed in (1, 2))
    assert correlation(one, other) < 0.8


@pytest.mark.parametrize("kind", [Pattern.FOLIAGE, Pattern.CLOUD])
def test_the_larger_a_part_of_it_the_stronger(kind: Pattern) -> None:
    """Power a frequency falls from octave to octave, and a blur of 5 % of the side leaves most of the contrast."""
    side, power = 512, np.zeros((512, 512))
    taper = np.hanning(side)[:, None] * np.hanning(side)
    for seed in range(6):
        shadow = render_pattern(kind, drawn(kind, seed), size_hw=(side, side))
        power += np.abs(np.fft.fft2((shadow - shadow.mean()) * taper)) ** 2
        assert cv2.blur(shadow, (25, 25)).std() > (0.9 if kind is Pattern.CLOUD else 0.6) * shadow.std()
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2))
    density = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (2, 4, 8, 16, 32, 64)]
    assert density == sorted(density, reverse=True)
    assert power[frequency < 32].sum() > 0.95 * power.sum()
    assert power[frequency >= 64].sum() < 0.003 * power.sum()


@every_kind
def test_no_edge_is_a_jump(kind: Pattern) -> None:
    """A penumbra is 4 px wide or more at 1024 px: two neighbours differ by less than a clipped half."""
    for seed in range(3):
        shadow = render_pattern(kind, drawn(kind, seed), size_hw=(1024, 1024))
        assert max(np.abs(np.diff(shadow, axis=axis)).max() for axis in (0, 1)) < 0.5


def test_a_blind_is_the_analytic_one() -> None:
    """Level slats of known width: shadow by the distance to the nearest slat's edge."""
    params = PLAIN | {"softness": 0.01, "spacing": 0.08, "ratio": 0.5, "direction": "horizontal", "converge": 0}
    shadow = render_pattern("venetian", params | {"cord": 0.3}, size_hw=(724, 724))
    y = ((np.arange(724) + 0.5) / 724 - 0.5) * math.sqrt(0.5)
    inside = 0.02 - np.abs((y + 0.04) % 0.08 - 0.04)
    t = np.clip(inside / 0.01 + 0.5, 0, 1)
    np.testing.assert_allclose(shadow[:, 460], 3 * t**2 - 2 * t**3, atol=1e-3)  # a column between two cords


def test_a_window_is_light_in_shadow_where_it_was_put() -> None:
    params = PLAIN | {"softness": 0.01, "columns": 2, "rows": 3, "width": 0.5, "height": 0.45, "mullion": 0.02}
    shadow = render_pattern("window", params | {"lean": 0, "shift_x": 0.1, "scale": 1.2}, size_hw=(1000, 1000))
    column = round((0.1 / math.sqrt(0.5) + 0.5) * 1000)  # of the middle
    half = 1.2 * (0.5 - 0.02) / 2 / math.sqrt(0.5) * 1000  # half of the frame's bar lies within
    assert shadow[500, column] == 1  # the upright between two columns
    assert (shadow[480:520, column + 40 : column + 60] == 0).all()
    edge = round(column - half)
    assert shadow[500, edge] == pytest.approx(0.5, abs=0.08)
    assert (shadow[:, : edge - 20] > 1 - 1e-6).all()
    crossings = np.count_nonzero(np.diff(shadow[:, column + 100] > 0.5))
    assert crossings == 6  # in and out of three rows


def test_no_light_comes_around_the_frame_of_a_window() -> None:
    """With a penumbra wider than the bars, light falls all the way from a pane to the outside."""
    params = PLAIN | {"softness": 0.02, "columns": 2, "rows": 2, "width": 0.5, "height": 0.5, "mullion": 0.012}
    shadow = render_pattern("window", params | {"lean": 0}, size_hw=(724, 724))
    outwards = shadow[300, 362 + 128 :]  # from the middle of a pane, 128 px from the upright
    assert outwards[0] == 0
    assert outwards[-1] == 1
    assert (np.diff(outwards) >= -1e-6).all()


def test_a_pattern_is_turned_about_the_middle() -> None:
    """Turned by cv2 or by the parameter (positive: clockwise as seen): the same."""
    params = drawn(Pattern.FENCE, 1) | PLAIN
    upright, turned = (
        render_pattern("fence", params | {"rotation_deg": angle}, size_hw=(600, 600)) for angle in (0, 12)
    )
    matrix = cv2.getRotationMatrix2D((299.5, 299.5), -12, 1)
    wanted = cv2.warpAffine(upright, matrix, (600, 600), flags=cv2.INTER_LINEAR)
    assert correlation(wanted[150:450, 150:450], turned[150:450, 150:450]) > 0.995


def test_outlines_are_drawn_where_the_fields_are_evaluated() -> None:
    """The raster of a drawn disc has its centre of gravity and its area where `places` says."""
    params = {"rotation_deg": 9.0, "scale": 0.9, "shift_x": 0.05, "shift_y": -0.07}
    plane = Plane.of(params, (300, 500))
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    disc = np.array([0.13, 0.06]) + 0.1 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    assert plane.seen(disc[None]).all()
    assert not plane.seen(disc[None] + 2).any()
    x, y = plane.places()
    for convex in (True, False):
        share = plane.fill([disc], convex=convex) / 255
        assert (share * x).sum() / share.sum() == pytest.approx(0.13, abs=3e-4)
        assert (share * y).sum() / share.sum() == pytest.approx(0.06, abs=3e-4)
        # OpenCV's smooth outline reaches up to half a pixel beyond the edge
        assert share.sum() / (math.pi * plane.length_px(0.1 * 0.9) ** 2) == pytest.approx(1, abs=0.02)
    assert not plane.fill([], convex=True).any()


def test_a_small_gap_becomes_an_image_of_the_sun() -> None:
    """Whatever the shape of a gap: round, of the sun's size, and as bright as the gap's share of the disc."""
    drawing = np.zeros((101, 101), np.uint8)
    drawing[50, 49:52] = 255  # long and thin
    light = sun_blur(drawing, 21.0)
    rows, columns = np.nonzero(light > 0.5 * light.max())
    assert np.ptp(rows) + 1 == pytest.approx(21, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(21, abs=2)
    assert light.max() == pytest.approx(3 / (math.pi * 10.5**2), rel=0.02)
    assert light.sum() == pytest.approx(3, rel=1e-4)


def test_a_penumbra_is_half_shadow_at_the_edge_and_ends_at_its_width() -> None:
    distance = np.array([-0.02, -0.01, 0, 0.005, 0.01, 0.02], np.float32)
    np.testing.assert_allclose(penumbra(distance, 0.02), [0, 0, 0.5, 0.84375, 1, 1], atol=1e-6)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 700), (700, 1), (3, 5), (2000, 30)], ids=str)
def test_any_size_is_rendered(size_hw: tuple[int, int]) -> None:
    for kind in Pattern:
        shadow = render_pattern(kind, drawn(kind, 2), size_hw=size_hw)
        assert shadow.shape == size_hw
        assert ((shadow >= 0) & (shadow <= 1)).all()


@every_kind
def test_a_missing_parameter_is_named(kind: Pattern) -> None:
    params = drawn(kind, 0)
    for name in params:
        with pytest.raises(ValueError, match=f"the pattern {kind} needs '{name}': "):
            render_pattern(kind, {key: value for key, value in params.items() if key != name}, size_hw=(8, 8))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": math.nan}, "'scale' of the pattern fence must be a number from 0.8 to 1.2, got nan"),
        ({"scale": "1"}, "'scale' .* got '1'"),
        ({"scale": True}, "'scale' .* got True"),
        ({"picket": 10**400}, "'picket' .* from 0.035 to 0.06, got 1000"),
        ({"rails": 2.0}, "'rails' of the pattern fence must be a whole number from 1 to 3, got 2.0"),
        ({"colour": 1}, "the pattern fence has no 'colour'; it has rotation_deg, "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Json], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_pattern("fence", drawn(Pattern.FENCE, 0) | wrong, size_hw=(8, 8))


def test_a_wrong_word_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"'layout' .* must be one of grid, diagonal, cross, got 'round'"):
        render_pattern("lattice", drawn(Pattern.LATTICE, 0) | {"layout": "round"}, size_hw=(8, 8))


def test_an_unknown_kind_is_answered_with_all_there_are() -> None:
    message = "no shadow pattern 'tree'; there are foliage, venetian, window, .*, screen"
    with pytest.raises(ValueError, match=message):
        draw_pattern("tree", np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        render_pattern("tree", {}, size_hw=(8, 8))


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="1 x 1 px or more, got 0 x 8"):
        render_pattern("cloud", drawn(Pattern.CLOUD, 0), size_hw=(0, 8))
