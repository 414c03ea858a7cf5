import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.tiny_diffusion import save_clip, save_depth_anything
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lightmill.errors import ModelError, UsageError
from lightmill.models.clip import MEANING, open_clip
from lightmill.models.pixels import batches, read_pixel_spec

PROMPTS = ["a photo of good light", "dark face"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def photograph(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def cosines(folder: Path, pixels: torch.Tensor) -> np.ndarray:
    """transformers' logits_per_image / logit_scale, [pictures, prompts]."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(pixel_values=pixels, **tokens).logits_per_image
        return (logits / model.logit_scale.exp()).numpy()


def test_scores_are_the_logits_of_transformers_without_their_scale(folder: Path) -> None:
    images = [photograph(48, 64), photograph(64, 40, seed=1), photograph(32, 32, seed=2)]
    model = open_clip(str(folder), prompts=PROMPTS)
    model.load("cpu")
    scores = model(images)
    pixels = torch.cat(
        [
            batch
            for image in images
            for _, batch in batches([image], read_pixel_spec(folder), device="cpu", dtype=torch.float32)
        ]
    )
    assert pixels.shape == (3, 3, 32, 32)
    given = np.array([list(score.values()) for score in scores])
    np.testing.assert_allclose(given, cosines(folder, pixels), atol=1e-6)
    assert np.ptp(given, axis=0).min() > 1e-4  # pictures differ
    assert [list(score) for score in scores] == [["clip:a photo of good light", "clip:dark face"]] * 3


def test_pictures_are_seen_as_the_processor_of_transformers_shows_them(folder: Path) -> None:
    images = [photograph(96, 70), photograph(41, 90, seed=1)]
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    expected = cosines(folder, processor(images, return_tensors="pt").pixel_values)
    model = open_clip(str(folder), prompts=PROMPTS)
    model.load("cpu")
    given = np.array([list(score.values()) for score in model(images)])
    np.testing.assert_allclose(given, expected, atol=2e-3)  # pixels are 1 level apart at most


def test_a_score_does_not_depend_on_the_batch(folder: Path) -> None:
    images = [photograph(48, 64), photograph(64, 40, seed=1), photograph(48, 64, seed=2)]
    model = open_clip(str(folder), prompts=PROMPTS)
    model.load("cpu")
    assert [model([image])[0] for image in images] == model(images)
    assert model([]) == []


def test_prompts_are_refused_before_anything_is_loaded(folder: Path) -> None:
    for wrong in ([], ["light", " "]):
        with pytest.raises(UsageError, match="at least one prompt, and none that is empty"):
            open_clip(str(folder), prompts=wrong)
    with pytest.raises(UsageError, match="'light' is given twice"):
        open_clip(str(folder), prompts=["light", "light "])
    open_clip(str(folder), prompts=["a photo of a face"]).check("cpu")
    with pytest.raises(UsageError, match=r"is 14 tokens long, .* reads 12; shorten it"):
        open_clip(str(folder), prompts=["a " * 12]).check("cpu")


def test_a_model_that_cannot_score_is_refused_before_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    depth = save_depth_anything(tmp_path / "depth")
    with pytest.raises(ModelError, match=r"is no CLIP model \(its type is depth_anything\)"):
        open_clip(str(depth), prompts=PROMPTS).check("cpu")
    mute = save_clip(tmp_path / "mute")
    for file in mute.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer.json or vocab.json\)"):
        open_clip(str(mute), prompts=PROMPTS).check("cpu")


def test_it_is_pickled_before_it_is_loaded_and_called_after(folder: Path) -> None:
    model = open_clip(str(folder), prompts=PROMPTS)
    model.check("cpu")
    copied = pickle.loads(pickle.dumps(model))
    assert copied.version == model.version
    assert copied.on_device
    with pytest.raises(RuntimeError, match="before it was loaded"):
        copied([photograph(32, 32)])
    copied.load("cpu")
    assert set(copied([photograph(32, 32)])[0]) == {f"clip:{prompt}" for prompt in PROMPTS}
    copied.unload()
    assert pickle.loads(pickle.dumps(copied)).prompts == tuple(PROMPTS)


def test_what_scores_mean_is_said() -> None:
    assert "not to how good a picture is" in MEANING
