"""What a model gets to see is what transformers' own image processors (through Pillow) would show it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.tiny import pictures
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from lightmill.errors import ModelError
from lightmill.models.pixels import PixelSpec, batches, mask_levels, read_pixel_spec, upsampled

MOST_LEVELS = {"nearest-exact": 0, "bilinear": 1, "bicubic": 2}
SIZES = [(90, 120), (150, 100), (301, 77), (64, 64)]
PROCESSORS = {
    "square": SegformerImageProcessorPil(size={"height": 64, "width": 64}),
    "as it is": SegformerImageProcessorPil(do_resize=False),
    "not normalised": SegformerImageProcessorPil(size={"height": 70, "width": 50}, do_normalize=False),
    "levels": SegformerImageProcessorPil(size={"height": 64, "width": 200}, do_rescale=False, do_normalize=False),
    "nearest": SegformerImageProcessorPil(size={"height": 64, "width": 192}, resample=0),
    "edges": Mask2FormerImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 133}, size_divisor=32),
    "edges, other": MaskFormerImageProcessorPil(size={"shortest_edge": 50, "longest_edge": 90}, size_divisor=0),
    "cropped": CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48}),
    "one scale": DPTImageProcessorPil(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3
    ),
    "two scales": DPTImageProcessorPil(size={"height": 70, "width": 99}, ensure_multiple_of=32),
}


def spec_of(folder: Path, settings: dict[str, Any]) -> PixelSpec:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")
    return read_pixel_spec(folder)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    processor, image = PROCESSORS[name], pictures(size)[0]
    processor.save_pretrained(tmp_path)
    spec = read_pixel_spec(tmp_path)
    theirs = torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"]))
    ((indices, ours),) = batches([image], spec, device="cpu", dtype=torch.float32)
    assert indices == [0]
    assert ours.shape == theirs.shape
    level = spec.scale / torch.tensor(spec.std)[:, None, None]  # one of 255
    off = ((ours - theirs) / level).abs()
    assert off.max() <= MOST_LEVELS[spec.kernel] + 1e-3
    assert off.mean() < 0.3


def test_both_places_of_the_settings(tmp_path: Path) -> None:
    settings = {"image_processor_type": "Sam3ImageProcessor", "size": {"height": 112, "width": 96}, "image_mean": 0.5}
    flat = spec_of(tmp_path, settings)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": settings, "target_size": 5}), "utf-8"
    )
    assert read_pixel_spec(tmp_path) == flat
    assert flat.hw == (112, 96)
    assert flat.mean == (0.5, 0.5, 0.5)


def test_sizes_as_older_settings_have_them(tmp_path: Path) -> None:
    assert spec_of(tmp_path, {"size": 384}).hw == (384, 384)
    old = spec_of(tmp_path, {"size": 800, "max_size": 1333, "size_divisibility": 32})
    assert (old.shortest_edge, old.longest_edge, old.divisor) == (800, 1333, 32)
    assert spec_of(tmp_path, {"size": {"max_height": 100, "max_width": 60}}).target_hw(100, 120) == (50, 60)


def test_what_is_left_out_comes_from_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "X", "image_mean": null}', "utf-8")
    spec = read_pixel_spec(tmp_path, defaults={"size": {"height": 8, "width": 9}, "image_mean": [0.1, 0.2, 0.3]})
    assert spec.hw == (8, 9)
    assert spec.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 8, "resample": 4}, "resample 4"),
        ({"size": 8, "do_split_image": True}, "do_split_image"),
        ({"size": 8, "pad_size": {"height": 9, "width": 9}}, "pad_size"),
        ({"size": {"longest_edge": 1024}}, "the size {'longest_edge': 1024}"),
        ({"size": 8, "do_center_crop": True, "crop_size": 9}, "crop_size"),
    ],
)
def test_what_nothing_here_does_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        spec_of(tmp_path, settings)


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no preprocessor_config\.json"):
        read_pixel_spec(tmp_path)


def test_pictures_of_one_size_share_a_batch() -> None:
    images = pictures((90, 120), (150, 100), (45, 60), (90, 120))
    spec = PixelSpec(shortest_edge=32)
    got = list(batches(images, spec, device="cpu", dtype=torch.float16))
    assert [indices for indices, _ in got] == [[0, 2, 3], [1]]
    assert [tuple(batch.shape) for _, batch in got] == [(3, 3, 32, 42), (1, 3, 48, 32)]
    assert all(batch.dtype == torch.float16 for _, batch in got)
    for indices, batch in got:
        for index, pixels in zip(indices, batch, strict=True):
            ((_, alone),) = batches([images[index]], spec, device="cpu", dtype=torch.float16)
            assert torch.equal(alone[0], pixels)


def test_pictures_that_may_not_be_written_to_or_lie_oddly() -> None:
    image = pictures((90, 120))[0]
    frozen = image.copy()
    frozen.flags.writeable = False
    padded = np.zeros((90, 130, 3), np.uint8)
    padded[:, 5:125] = image
    spec = PixelSpec(hw=(20, 30))
    ((_, one),) = batches([image, frozen, padded[:, 5:125]], spec, device="cpu", dtype=torch.float32)
    assert torch.equal(one[0], one[1])
    assert torch.equal(one[0], one[2])


def test_levels_pass_one_half_where_the_decision_does() -> None:
    half = np.nextafter(np.float32(0.5), np.float32(1))
    probability = torch.tensor([[0.0, 0.25, 0.4999, 0.5, float(half), 0.75, 1.0]])
    assert mask_levels(probability, probability > 0.5).tolist() == [[0, 64, 127, 127, 128, 191, 255]]
    assert mask_levels(probability, probability >= 0.5).tolist() == [[0, 64, 127, 128, 128, 191, 255]]
    chance = torch.rand(200, 300, generator=torch.Generator().manual_seed(0))
    levels = mask_levels(chance, chance > 0.5)
    assert np.abs(levels / 255 - chance.numpy()).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(levels >= 128, (chance > 0.5).numpy())


def test_upsampling_is_linear_between_pixel_centres() -> None:
    ramp = torch.arange(4.0)[None, None].expand(1, 3, 4)
    wanted = np.clip((np.arange(12) + 0.5) / 3 - 0.5, 0, 3)
    np.testing.assert_allclose(upsampled(ramp, (6, 12))[0], np.broadcast_to(wanted, (6, 12)), atol=1e-6)
