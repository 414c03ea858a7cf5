import cv2
import numpy as np
import pytest
import torch

from lightmill.data.augment import Augment, binomial_blur, moved

OFF = dict.fromkeys(("shift", "zoom", "brightness", "contrast", "gain", "blur", "erase", "mirror"), 0.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crops(count: int = 6, height: int = 64, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Blotches, uint8 [B, h, w, 3]."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (count, 8, 4, 3)).astype(np.float32)
    return torch.from_numpy(
        np.stack([cv2.resize(one, (width, height)) for one in coarse]).clip(0, 255).astype(np.uint8)
    )


def levels(result: torch.Tensor) -> torch.Tensor:
    """Normalised crops back as 0..1, [B, 3, h, w]."""
    return result * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def varied(seed: int = 0, batch: torch.Tensor | None = None, **options: object) -> torch.Tensor:
    made = Augment(**(OFF | options))  # type: ignore[arg-type]
    return levels(made(crops() if batch is None else batch, torch.Generator().manual_seed(seed)))


def plain(batch: torch.Tensor) -> torch.Tensor:
    return batch.permute(0, 3, 1, 2) / 255


def test_off_normalises_and_nothing_else() -> None:
    batch = crops()
    wanted = (batch.numpy().astype(np.float64) / 255 - MEAN) / STD
    for made in (Augment.off(), Augment().plain(), Augment().strength(0.0)):
        result = made(batch)
        assert result.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(result.permute(0, 2, 3, 1), wanted, atol=1e-6)


def test_same_seed_gives_the_same_crops_and_another_others() -> None:
    batch, make = crops(), Augment()
    first, again, other = (make(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert batch.equal(crops())  # what came in stays as it was


def test_what_one_crop_gets_does_not_depend_on_the_others() -> None:
    batch, mixed = crops(), crops(seed=7)
    mixed[2] = batch[2]
    make = Augment(blur=1.0, erase=1.0)
    one, other = (make(each, torch.Generator().manual_seed(3)) for each in (batch, mixed))
    torch.testing.assert_close(one[2], other[2], atol=1e-6, rtol=0)
    assert not torch.allclose(one[1], other[1], atol=0.1)


def test_crops_are_not_mirrored_unless_asked_for() -> None:
    """A4.22: a mirrored number is another one."""
    batch = torch.zeros((64, 32, 16, 3), dtype=torch.uint8)
    batch[:, :, :8] = 255  # white on the left
    left_minus_right = levels(Augment()(batch, torch.Generator().manual_seed(0)))
    assert (left_minus_right[..., :8].mean((1, 2, 3)) > left_minus_right[..., 8:].mean((1, 2, 3))).all()
    torch.testing.assert_close(varied(batch=batch, mirror=1.0), plain(batch).flip(-1), atol=1e-5, rtol=0)
    shares = (varied(batch=batch, mirror=0.5)[..., 0].mean((1, 2)) < 0.5).float().mean()
    assert 0.3 < shares < 0.7


def test_a_box_moves_by_whole_pixels_as_slices_do() -> None:
    pixels = plain(crops())
    height, width = pixels.shape[-2:]
    down, right = 5, 3
    step = torch.tensor([[1.0, 0, 2 * right / width], [0, 1, 2 * down / height]]).expand(len(pixels), 2, 3)
    result = moved(pixels, step)
    torch.testing.assert_close(result[..., :-down, :-right], pixels[..., down:, right:], atol=1e-5, rtol=0)
    border = pixels[..., -1:, right:].expand(-1, -1, down, -1)  # beyond the crop its border goes on
    torch.testing.assert_close(result[..., -down:, :-right], border, atol=1e-5, rtol=0)


def test_boxes_stay_within_what_shift_and_zoom_allow() -> None:
    ramp = torch.arange(64, dtype=torch.uint8)[None, None, :, None].expand(200, 64, 64, 3) * 3
    result = varied(batch=ramp.contiguous(), shift=0.1, zoom=0.0)[:, 0, 32, 20:40] * 255 / 3
    offsets = (result - torch.arange(20, 40)).mean(1) / 64
    assert offsets.abs().max() <= 0.1 + 1e-3
    assert offsets.max() > 0.08
    assert offsets.min() < -0.08
    result = varied(batch=ramp.contiguous(), shift=0.0, zoom=0.12)[:, 0, 32, 20:44] * 255 / 3
    scales = (result[:, -1] - result[:, 0]) / 23
    assert (scales - 1).abs().max() <= 1.12 * 1.04 - 1 + 1e-3  # the height and width have a third of it for themselves
    assert scales.std() > 0.04


def test_colours_follow_their_formula() -> None:
    batch = torch.full((300, 8, 8, 3), 128, dtype=torch.uint8)
    grey = 128 / 255
    bright = varied(batch=batch, brightness=0.2)[:, :, 0, 0]
    assert torch.allclose(bright[:, 0], bright[:, 2], atol=1e-5)
    assert (bright - grey).abs().max() <= 0.2 + 1e-5
    assert (bright[:, 0] - grey).std() == pytest.approx(0.2 / 3**0.5, rel=0.1)  # uniform
    half = torch.cat([batch[:, :4] - 60, batch[:, 4:] + 60], dim=1)
    contrast = varied(batch=half, contrast=0.3)
    steps = (contrast[:, 0, 7, 0] - contrast[:, 0, 0, 0]) * 255 / 120
    assert 0.7 - 1e-3 <= steps.min() < 0.75 < 1.25 < steps.max() <= 1.3 + 1e-3
    torch.testing.assert_close(contrast.mean((1, 2, 3)), torch.full((300,), grey), atol=1e-4, rtol=0)
    gains = varied(batch=half, gain=0.1)
    assert not torch.allclose(gains[:, 0], gains[:, 1], atol=1e-3)
    extreme = varied(batch=torch.full((50, 8, 8, 3), 250, dtype=torch.uint8), brightness=0.3)
    assert extreme.max() <= 1 + 1e-5


def test_blur_is_that_of_opencv() -> None:
    pixels = plain(crops())
    line = np.array([1, 4, 6, 4, 1], np.float32) / 16
    wanted = [
        cv2.sepFilter2D(one.permute(1, 2, 0).numpy(), -1, line, line, borderType=cv2.BORDER_REPLICATE) for one in pixels
    ]
    np.testing.assert_allclose(binomial_blur(pixels).permute(0, 2, 3, 1), wanted, atol=1e-5)


def test_blur_comes_as_often_as_asked_for_and_lies_between_sharp_and_blurred() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 16, 8, 3), dtype=np.uint8))
    result, sharp = varied(batch=noise, blur=0.25), plain(noise)
    touched = (result - sharp).abs().amax((1, 2, 3)) > 1e-3
    assert 0.15 < touched.float().mean() < 0.35
    low, high = torch.minimum(sharp, binomial_blur(sharp)), torch.maximum(sharp, binomial_blur(sharp))
    assert (result >= low - 1e-4).all()
    assert (result <= high + 1e-4).all()


def test_erasing_is_one_rectangle_of_one_grey_inside_the_crop() -> None:
    batch = torch.zeros((200, 64, 32, 3), dtype=torch.uint8)
    batch[..., 0] = 200  # red, which no grey is
    result, before = varied(batch=batch, erase=0.5, erase_area=(0.05, 0.2)), plain(batch)
    shares = []
    for one, was in zip(result, before, strict=True):
        changed = ((one - was).abs() > 1e-3).any(0)
        if not changed.any():
            continue
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = one[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (box - box[0, 0, 0]).abs().max() < 1e-4
        shares.append(changed.float().mean())
    assert 70 < len(shares) < 130
    assert 0.03 < min(shares) < 0.08
    assert 0.15 < max(shares) < 0.24


@pytest.mark.parametrize(
    "options", [{"shift": 1.0}, {"blur": 1.5}, {"erase_area": (0.3, 0.1)}, {"std": (0.2, 0.0, 0.2)}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"from 0 to|small to large"):
        Augment(**options)  # type: ignore[arg-type]


def test_other_batches_and_a_missing_generator_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[B, h, w, 3\], got torch.float32"):
        Augment.off()(torch.zeros(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"got torch.uint8 \[2, 3, 8, 8\]"):
        Augment.off()(torch.zeros((2, 3, 8, 8), dtype=torch.uint8))
    with pytest.raises(ValueError, match="needs a generator"):
        Augment()(crops())
