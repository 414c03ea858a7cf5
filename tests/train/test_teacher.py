"""What a teacher said is looked up where the batch looks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightmill.data.segment_augment import SegmentAugment, Span
from lightmill.data.segment_samples import Part
from lightmill.train.teacher import Teacher, View, looked_up, views_of

SIZE_HW = (48, 64)
WHOLE = Part(0, 0, *SIZE_HW)
AUGMENT = replace(SegmentAugment(), brightness=0.0, contrast=0.0, gain=0.0, blur=0.0, mean=(0, 0, 0), std=(1, 1, 1))


def ramps() -> torch.Tensor:
    """[48, 64, 3] smooth pictures of where one is."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    return torch.stack([y * 5, x * 3, 100 + y + x], -1).to(torch.uint8)


def test_a_teacher_is_seen_through_the_same_window_as_the_picture() -> None:
    """Holds `views_of` to what SegmentAugment does: the chances, their order, flips, scales and bars."""
    images, maps = ramps().expand(40, -1, -1, -1).contiguous(), torch.zeros(40, *SIZE_HW, dtype=torch.uint8)
    varied = AUGMENT(images, maps, torch.Generator().manual_seed(3))
    views = views_of(AUGMENT, 40, SIZE_HW, torch.Generator().manual_seed(3))
    assert {view.flip for view in views} == {True, False}
    levels = ramps().permute(2, 0, 1).float()
    for shown, known, view in zip(varied.images, varied.maps != 255, views, strict=True):
        found, inside = looked_up(levels, view, WHOLE, sample_hw=SIZE_HW, size_hw=SIZE_HW)
        assert torch.equal(inside, known)
        differences = (found / 255 - shown).abs()[:, known]
        assert float(differences.mean()) < 0.006  # roundings to whole levels, and at the edges of windows
        assert float(differences.max()) < 0.03


def test_a_picture_with_bars_is_looked_up_within_them() -> None:
    part = Part(12, 0, 24, 64)
    plain = View(Span(0, 48, 0, 48), Span(0, 64, 0, 64), flip=False)
    whole = torch.arange(4.0)[None, :, None].expand(1, 4, 8) * 10 + 5
    found, known = looked_up(whole, plain, part, sample_hw=SIZE_HW, size_hw=(8, 8))
    assert known.any(1).tolist() == [False, False, True, True, True, True, False, False]
    assert found[0, 2:6, 0].tolist() == pytest.approx([5, 15, 25, 35])
    assert not found[0, :2].any()


def test_what_was_not_said_does_not_count(tmp_path: Path) -> None:
    levels = np.zeros((2, 4, 4), np.uint8)
    levels[0, :2], levels[1, :, 2:] = 200, 55
    levels[1, 2:, :2] = 0
    np.save(tmp_path / "0.npy", levels)
    teacher = Teacher(
        levels={7: tmp_path / "0.npy"}, features={}, parts={7: WHOLE}, size_hw=SIZE_HW, classes=2, channels=0
    )
    plain = View(Span(0, 48, 0, 48), Span(0, 64, 0, 64), flip=False)
    shares, known = teacher.said([7, 8], [plain, plain], torch.device("cpu"), size_hw=(12, 16))
    assert shares.shape == (2, 2, 12, 16)
    assert not known[1].any()  # nothing is known of it
    assert known[0, 1, 1]
    assert not known[0, -2, 1]  # neither class
    torch.testing.assert_close(shares[0].sum(0)[known[0]], torch.ones(int(known[0].sum())))
    assert float(shares[0, 1, 1, -2]) == pytest.approx(55 / 255)
