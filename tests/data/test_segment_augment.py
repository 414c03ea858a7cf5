"""Pictures and maps go the same way: a picture that says its own map is varied, and still says it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from lightmill.data.segment_augment import SegmentAugment, Span, seen, span_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STILL = {"flip": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "gain": 0.0, "blur": 0.0}
HW = (48, 64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 4, hw: tuple[int, int] = HW) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return (
        torch.from_numpy(rng.integers(0, 256, (count, *hw, 3), np.uint8)),
        torch.from_numpy(rng.integers(0, 12, (count, *hw), np.uint8)),
    )


def blocks(count: int = 40, hw: tuple[int, int] = HW, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of blocks of one class each, and pictures that say the class: 20 levels a class in green."""
    coarse = np.random.default_rng(1).integers(0, 10, (count, hw[0] // side, hw[1] // side), np.uint8)
    maps = torch.from_numpy(coarse.repeat(side, axis=1).repeat(side, axis=2))
    return torch.stack([torch.full_like(maps, 255), maps * 20 + 30, torch.full_like(maps, 128)], dim=-1), maps


def levels(images: torch.Tensor) -> torch.Tensor:
    """[B, h, w, 3] 0 to 255, as floats."""
    return (images.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)) * 255


def test_off_normalises_and_nothing_else() -> None:
    images, maps = noise()
    wanted = (images.numpy() / 255.0 - MEAN) / STD
    for made in (SegmentAugment.off(), SegmentAugment().plain(), SegmentAugment().strength(0.0)):
        found = made(images, maps)
        assert found.images.dtype == torch.float32
        assert found.images.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(found.images.permute(0, 2, 3, 1), wanted, atol=2e-6)
        assert torch.equal(found.maps, maps)
        assert found.maps.dtype == torch.uint8


def test_views_of_a_block_are_taken_as_they_come() -> None:
    """As batches come from the loader: strided, and not to be written to."""
    images, maps = noise()
    block = torch.cat([images.flatten(1), maps.flatten(1)], dim=1)
    before = block.clone()
    views = block[:, : 3 * 48 * 64].view(-1, *HW, 3), block[:, 3 * 48 * 64 :].view(-1, *HW)
    one, other = SegmentAugment()(*views, generator()), SegmentAugment()(images, maps, generator())
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(block, before)


def test_same_seed_gives_the_same_batch_and_another_another() -> None:
    images, maps = noise()
    first, again, other = (SegmentAugment()(images, maps, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.maps, again.maps)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("size_hw", [None, (32, 32), (80, 100)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 0.9), (1.1, 3.0), (0.5, 2.0)])
def test_pictures_and_maps_go_the_same_way(scale: tuple[float, float], size_hw: tuple[int, int] | None) -> None:
    """B4.8. Away from the borders of blocks, where colours are mixed, the picture says just what the map holds."""
    images, maps = blocks()
    made = SegmentAugment(**STILL | {"scale": scale, "flip": 0.5, "size_hw": size_hw})
    found = made(images, maps, generator())
    assert found.maps.shape == (40, *(size_hw or HW))
    said = (levels(found.images)[..., 1] - 30) / 20
    numbers = found.maps.float()[:, None]
    pure = (max_pool2d(numbers, 5, 1, 2) == -max_pool2d(-numbers, 5, 1, 2))[:, 0] & (found.maps != 255)
    assert pure.float().mean() > 0.05
    np.testing.assert_allclose(said[pure], found.maps[pure], atol=0.03)  # half a level of 20
    seen_classes = torch.unique(found.maps)
    assert set(seen_classes.tolist()) <= {*range(10), 255}  # no class that was not there
    if scale[1] < 1 and size_hw is None:
        beside = found.maps == 255
        assert beside.any(dim=(1, 2)).all()
        mean = torch.tensor(MEAN) * 255
        torch.testing.assert_close(levels(found.images)[beside], mean.expand(int(beside.sum()), 3), atol=1e-3, rtol=0)
    elif scale[0] >= 1 and size_hw is None:
        assert not (found.maps == 255).any()


def test_middles_of_pixels_meet_in_pictures_and_maps() -> None:
    """A ramp, enlarged: the level of a pixel and the column that its map was picked from are never apart by more than
    half a pixel, to neither side."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(60, 48, 64)
    found = SegmentAugment(**STILL | {"scale": (1.3, 3.0)})(torch.stack([ramp * 3] * 3, dim=-1), ramp, generator())
    apart = levels(found.images)[..., 0] / 3 - found.maps
    assert apart.abs().max() <= 0.5 + 0.18  # half a level in three
    assert abs(float(apart.mean())) < 0.02


def test_flips_are_exact_and_as_frequent_as_asked_for() -> None:
    images, maps = noise(200, (8, 10))
    found = SegmentAugment(**STILL | {"flip": 0.3})(images, maps, generator())
    flipped = (found.maps == maps.flip(2)).all(dim=(1, 2))
    assert torch.equal(~flipped, (found.maps == maps).all(dim=(1, 2)))
    assert 0.2 < flipped.float().mean() < 0.4
    wanted = torch.where(flipped[:, None, None, None], images.flip(2), images).float()
    torch.testing.assert_close(levels(found.images), wanted, atol=1e-3, rtol=0)


def test_windows_lie_anywhere_and_scales_are_as_asked_for() -> None:
    rows = torch.arange(200, dtype=torch.uint8)[None, :, None].expand(300, 200, 4)
    images = rows[..., None].expand(300, 200, 4, 3)
    found = SegmentAugment(**STILL | {"scale": (0.5, 2.0)})(images, rows, generator()).maps
    tops, lengths = [], []
    for one in found:
        column = one[:, one.amin(0).argmin()]
        inside = torch.nonzero(column != 255)[:, 0]
        lengths.append(len(inside) / (int(column[inside[-1]]) - int(column[inside[0]]) + 1))
        tops.append(int(inside[0]) - int(column[inside[0]]))
    logs = np.log2(lengths)
    assert logs.min() == pytest.approx(-1, abs=0.1)
    assert logs.max() == pytest.approx(1, abs=0.1)
    assert np.std(logs) == pytest.approx(2 / 12**0.5, rel=0.15)  # uniform in the exponent
    assert min(tops) < -80
    assert max(tops) > 80


@pytest.mark.parametrize(("before", "after", "scale"), [(100, 100, 1.0), (37, 50, 0.7), (50, 37, 1.9), (9, 500, 60.0)])
def test_spans_stay_within_both(before: int, after: int, scale: float) -> None:
    starts = set()
    for chance in np.linspace(0, 1 - 1e-9, 200).tolist():
        span = span_of(before, after, scale=scale, chance=chance)
        assert 0 <= span.source <= span.source + span.source_length <= before
        assert 0 <= span.target <= span.target + span.target_length <= after
        starts.add(span.source - span.target)
        if min(span.source_length, span.target_length) > 10:
            assert span.target_length / span.source_length == pytest.approx(scale, rel=0.05)
    room = abs(before - span.source_length) + abs(after - span.target_length)
    assert len(starts) == min(room + 1, 200)


def test_whole_levels_are_resized_as_torch_resizes_floats() -> None:
    images, maps = noise(1)
    rows, columns = Span(5, 31, 2, 40), Span(0, 50, 0, 60)
    out, classes = torch.zeros(48, 64, 3), torch.zeros(48, 64, dtype=torch.uint8)
    seen(images[0], rows, columns, flip=False, into=out)
    seen(maps[0], rows, columns, flip=False, into=classes)
    window = images[0, 5:36, :50].permute(2, 0, 1)[None].double()
    wanted = interpolate(window, size=(40, 60), mode="bilinear")[0].permute(1, 2, 0)
    assert (out[2:42, :60].double() - wanted).abs().max() <= 1.01  # torch rounds twice
    assert not out[42:].any()
    at_y, at_x = (((np.arange(n) + 0.5) * (m / n)).astype(int) for n, m in ((40, 31), (60, 50)))
    np.testing.assert_array_equal(classes[2:42, :60], maps[0].numpy()[5:36, :50][at_y][:, at_x])


def test_colours_follow_their_formula() -> None:
    batch, maps = torch.full((300, 8, 8, 3), 128, dtype=torch.uint8), torch.zeros((300, 8, 8), dtype=torch.uint8)
    bright = levels(SegmentAugment(**STILL | {"brightness": 0.2})(batch, maps, generator()).images)[:, 0, 0] / 255
    grey = 128 / 255
    torch.testing.assert_close(bright[:, 0], bright[:, 2], atol=1e-5, rtol=0)
    assert (bright - grey).abs().max() <= 0.2 + 1e-5
    assert (bright[:, 0] - grey).std() == pytest.approx(0.2 / 3**0.5, rel=0.1)  # uniform
    half = torch.cat([batch[:, :4] - 60, batch[:, 4:] + 60], dim=1)
    found = levels(SegmentAugment(**STILL | {"contrast": 0.3})(half, maps, generator()).images)
    steps = (found[:, 7, 0, 0] - found[:, 0, 0, 0]) / 120
    assert 0.7 - 1e-3 <= steps.min() < 0.75 < 1.25 < steps.max() <= 1.3 + 1e-3
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((300,), 128.0), atol=0.01, rtol=0)
    gains = levels(SegmentAugment(**STILL | {"gain": 0.1})(half, maps, generator()).images)
    assert not torch.allclose(gains[..., 0], gains[..., 1], atol=1)
    extreme = torch.full((50, 8, 8, 3), 250, dtype=torch.uint8)
    clipped = levels(SegmentAugment(**STILL | {"brightness": 0.3})(extreme, maps[:50], generator()).images)
    assert clipped.max() <= 255.001
    assert clipped.max() > 254.99


def test_contrast_spreads_from_the_picture_and_not_from_what_lies_beside_it() -> None:
    """A dark picture, at half its size amid bars of the mean colour, stays as dark as it was on average."""
    batch = torch.full((60, 32, 32, 3), 60, dtype=torch.uint8)
    batch[:, :, ::2] = 20
    maps = torch.zeros((60, 32, 32), dtype=torch.uint8)
    made = SegmentAugment(**STILL | {"scale": (0.5, 0.5), "flip": 0.5, "contrast": 0.3})
    found = made(batch, maps, generator())
    inside = found.maps != 255
    assert inside.float().mean() == pytest.approx(0.25)
    means = [float(each[there].mean()) for each, there in zip(levels(found.images), inside, strict=True)]
    assert means == pytest.approx([40.0] * 60, abs=0.01)
    beside = torch.stack([each[~there][0] for each, there in zip(levels(found.images), inside, strict=True)])
    assert beside.std(0).min() > 5  # the contrast of all of it does change


def test_blur_takes_detail_as_often_as_asked_for_and_moves_nothing() -> None:
    images, maps = noise(200, (32, 32))
    found = SegmentAugment(**STILL | {"blur": 0.3, "blur_by": 2.0})(images, maps, generator())
    assert torch.equal(found.maps, maps)
    spread, before = levels(found.images).std((1, 2, 3)), images.float().std((1, 2, 3))
    touched = (spread - before).abs() > 0.5
    assert 0.2 < touched.float().mean() < 0.4
    assert (spread[touched] < before[touched]).all()
    edge = torch.zeros((100, 32, 32, 3), dtype=torch.uint8)
    edge[:, :, 16:] = 200
    soft = levels(SegmentAugment(**STILL | {"blur": 1.0})(edge, maps[:100], generator()).images)[..., 0]
    assert float(soft.mean()) == pytest.approx(100, abs=2.5)


@pytest.mark.parametrize(
    "options",
    [{"flip": 1.5}, {"brightness": 1.0}, {"scale": (2.0, 1.0)}, {"scale": (0.0, 1.0)}, {"std": (0.2, 0.0, 0.2)},
     {"blur_by": 0.5}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"from 0 to|small to large"):
        SegmentAugment(**options)  # type: ignore[arg-type]


def test_other_batches_and_a_missing_generator_are_refused() -> None:
    images, maps = noise()
    with pytest.raises(ValueError, match=r"uint8 \[B, H, W, 3\], got torch.float32"):
        SegmentAugment.off()(images.float(), maps)
    with pytest.raises(ValueError, match=r"maps are uint8 \[4, 48, 64\], got torch.int64"):
        SegmentAugment.off()(images, maps.long())
    with pytest.raises(ValueError, match="needs a generator"):
        SegmentAugment()(images, maps)
