"""How well pictures answer to words: CLIP (Radford et al., 2021), through transformers.

What the numbers are, and are not: see `MEANING`.
"""

from collections.abc import Sequence
from typing import Any

from lightmill.errors import ModelError, UsageError
from lightmill.models.depth import inputs, kind_of
from lightmill.models.kinds import Image
from lightmill.models.pixels import PixelSpec, read_pixel_spec
from lightmill.models.weights import HubModel, check_fits, load_weights

MEANING = (
    "A CLIP score is the cosine between what the model makes of a picture and of a prompt, -1 to 1. It says how well "
    "the prompt would do as the picture's caption: it answers to what can be seen, not to how good a picture is. Asked "
    "for good lighting over one large set of faces, CLIP put very dark and neon-lit ones first and normally lit ones "
    "last, with all scores between 0.157 and 0.263. So scores are for putting pictures in order, by one prompt and one "
    "model; look at both ends of that order before you cut it. Only the middle square of a picture is seen, at a few "
    "hundred pixels: sharpness, clipping, contrast and evenness have scores of their own."
)
_VOCABULARIES = "tokenizer.json", "vocab.json"
_DEFAULTS = {  # what CLIPImageProcessor takes for keys that a folder leaves out
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


def open_clip(name: str, *, prompts: Sequence[str]) -> "ClipScorer":
    """Scores by the CLIP model `name`, a folder or a hub id. Raises as ClipScorer."""
    return ClipScorer(name, prompts=prompts)


class ClipScorer(HubModel):
    """Scores pictures by prompts: `clip:PROMPT` is the cosine similarity of the two, -1..1.

    It is transformers' `logits_per_image` divided by its `logit_scale`. Prompts are encoded once, at `load`. `MEANING`
    says what such scores measure: what is in a picture, not how good it is.

    float16 on CUDA (the precision that the published weights were trained in), float32 for the last projection. On the
    CPU pictures go through one at a time, so a score does not depend on its batch, to the last bit.
    """

    def __init__(self, name: str, *, prompts: Sequence[str]) -> None:
        """Raises UsageError where there is no prompt, an empty one, or one twice."""
        self.prompts = tuple(prompt.strip() for prompt in prompts)
        if not self.prompts or not all(self.prompts):
            raise UsageError("CLIP scores need at least one prompt, and none that is empty: `good light`")
        twice = next((prompt for prompt in self.prompts if self.prompts.count(prompt) > 1), None)
        if twice is not None:
            raise UsageError(f"the prompt {twice!r} is given twice")
        super().__init__(name)

    def check(self, device: str) -> None:
        """Raises MissingExtra or ModelError where the model cannot be had, UsageError where a prompt is too long."""
        found = self.found
        if kind_of(found) != "clip":
            said = found.model_type or found.config.get("_class_name") or "not stated"
            raise ModelError(
                f"{self.name} is no CLIP model (its type is {said}); take one such as openai/clip-vit-base-patch32"
            )
        self._spec()
        self._tokens()
        check_fits(found, device)

    def load(self, device: str) -> None:
        """Brings the weights onto a device and encodes the prompts. Raises as `check`."""
        import torch
        from transformers import CLIPModel

        self.unload()
        tokens = self._tokens()
        model = load_weights(CLIPModel, self.found, "cpu")
        if device.startswith("cuda"):
            model.vision_model.half()
            model.text_model.half()
        model.to(device)
        with torch.inference_mode():
            seen = {name: values.to(device) for name, values in tokens.items()}
            pooled = model.text_model(**seen).pooler_output
            encoded = model.text_projection(pooled.float())
        # the text side is not needed any more
        self._model = model.vision_model, model.visual_projection, encoded / encoded.norm(dim=-1, keepdim=True)
        self._device = device

    def __call__(self, image: Sequence[Image]) -> list[dict[str, float]]:
        """For each picture, prompt by prompt, its score. Raises RuntimeError before `load`."""
        import torch

        (encoder, projection, prompts), spec = self._loaded(), self._spec()
        scores: list[dict[str, float]] = [{} for _ in image]
        names = [f"clip:{prompt}" for prompt in self.prompts]
        for indices, pixels in inputs(image, spec, device=self._device, dtype=encoder.dtype):
            with torch.inference_mode():
                seen = projection(encoder(pixel_values=pixels).pooler_output.float())
                rows = (seen / seen.norm(dim=-1, keepdim=True) @ prompts.mT).tolist()
            for index, row in zip(indices, rows, strict=True):
                scores[index] = dict(zip(names, row, strict=True))
        return scores

    def _spec(self) -> PixelSpec:
        return read_pixel_spec(self.found.folder, defaults=_DEFAULTS)

    def _tokens(self) -> Any:
        """The prompts as the text encoder takes them; UsageError where one is longer than it reads."""
        from transformers import AutoTokenizer

        folder = self.found.folder
        if not any((folder / file).is_file() for file in _VOCABULARIES):  # transformers would make an empty one
            raise ModelError(f"{self.name} has no tokenizer ({' or '.join(_VOCABULARIES)}); get the model once more")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = self.found.config.get("text_config") or {}
        room = int(text.get("max_position_embeddings", 77))
        for prompt in self.prompts:
            length = len(tokenizer(prompt).input_ids)
            if length > room:
                raise UsageError(f"the prompt {prompt!r} is {length} tokens long, {self.name} reads {room}; shorten it")
        return tokenizer(list(self.prompts), padding=True, return_tensors="pt")
