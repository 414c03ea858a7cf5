"""SAM 3 (Meta, 2025) by words: every instance of what a prompt names."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lightmill.errors import ModelError, UsageError
from lightmill.models.hub import need_transformers
from lightmill.models.kinds import Image, Instances, Mask
from lightmill.models.pixels import PixelSpec, batches, mask_levels, read_pixel_spec, upsampled
from lightmill.models.weights import HubModel, check_fits, load_weights, torch_dtype_for

if TYPE_CHECKING:
    import torch

SAM3_TYPES = "sam3", "sam3_video"  # the published weights are those of the video model, which hold this one
_TOKENS = 32  # what the model's text side takes, start and end included
_HALF = (0.5, 0.5, 0.5)
_DEFAULTS = {"size": {"height": 1008, "width": 1008}, "image_mean": _HALF, "image_std": _HALF}


class Sam3(HubModel):
    """Finds what `prompts` name, one noun phrase each; the score of an instance is sigmoid(logit) * sigmoid(presence).

    `score`: what scores above it is kept; 0.5, as in Meta's own code (transformers' default is 0.3). Prompts are
    encoded once, at `load`, and a picture once for all prompts. Two prompts may find one and the same thing.

    Masks are those of transformers' `post_process_instance_segmentation`: probabilities are brought to the picture's
    size (bilinear), and a pixel belongs to the thing where its probability is above one half.
    """

    def __init__(self, name: str, *, prompts: Sequence[str], score: float = 0.5) -> None:
        """Raises UsageError for no prompt, an empty one, or a score outside 0..1."""
        super().__init__(name)
        self.prompts = tuple(" ".join(prompt.split()) for prompt in prompts)
        self.score = score
        if not all(self.prompts) or not self.prompts:
            raise UsageError(f"the model {name} finds what words name; give --prompt, such as --prompt person")
        if not 0 <= score <= 1:
            raise UsageError(f"--score is from 0 to 1, got {score}")
        self._spec: PixelSpec | None = None
        self._texts: list[dict[str, Any]] = []

    def check(self, device: str) -> None:
        """Raises ModelError where it cannot be had or does not fit, UsageError for a prompt of more than 32 tokens."""
        found = self.found
        if found.model_type not in SAM3_TYPES:
            raise ModelError(f"{self.name} is a model of type {found.model_type or 'unknown'}, not SAM 3")
        read_pixel_spec(found.folder, defaults=_DEFAULTS)
        tokenizer = self._tokenizer()
        for prompt in self.prompts:
            if (count := len(tokenizer(prompt).input_ids)) > _TOKENS:
                raise UsageError(
                    f"the prompt {prompt!r} is too long: {count} tokens, and the model reads {_TOKENS}; "
                    "name the thing in fewer words"
                )
        check_fits(found, device)

    def load(self, device: str) -> None:
        from transformers import Sam3Model

        self._spec = read_pixel_spec(self.found.folder, defaults=_DEFAULTS)
        self._model = load_weights(Sam3Model, self.found, device)
        self._device = device
        self._texts = list(self._encoded())

    def unload(self) -> None:
        self._spec, self._texts = None, []
        super().unload()

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        """[H, W, 3] uint8 of any sizes -> for each, the instances of all prompts, best score first."""
        import torch

        model, spec = self._loaded(), self._spec
        assert spec is not None, "set by load, with the model"
        found: list[list[tuple[float, Mask, str]]] = [[] for _ in image]
        dtype = torch_dtype_for(self._device)
        with torch.inference_mode():
            for indices, pixels in batches(image, spec, device=self._device, dtype=dtype):
                seen = model.get_vision_features(pixel_values=pixels)
                for prompt, text in zip(self.prompts, self._texts, strict=True):
                    answer = model(vision_embeds=seen, **_for_batch(text, len(indices)))
                    for row, index in enumerate(indices):
                        kept = sam3_instances(_row(answer, row), image[index].shape[:2], score=self.score)
                        found[index] += [(score, mask, prompt) for score, mask in kept]
        return [in_order(parts) for parts in found]

    def _tokenizer(self) -> Any:
        need_transformers()
        from transformers import AutoTokenizer

        folder = self.found.folder
        if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):  # it would be an empty one
            raise ModelError(f"the model {self.name} has no tokenizer: tokenizer.json is missing; get it once more")
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"the tokenizer of {self.name} cannot be read; get the model once more") from error

    def _encoded(self) -> "Iterator[dict[str, torch.Tensor]]":
        """What the model makes of each prompt: features [1, 32, D], and which of its 32 tokens count."""
        import torch

        words = self._tokenizer()(list(self.prompts), padding="max_length", max_length=_TOKENS, return_tensors="pt")
        words = words.to(self._device)
        with torch.inference_mode():
            features = self._model.get_text_features(
                input_ids=words.input_ids, attention_mask=words.attention_mask
            ).pooler_output
        for number in range(len(self.prompts)):
            one = slice(number, number + 1)
            yield {"features": features[one], "attention_mask": words.attention_mask[one]}


def _for_batch(text: dict[str, Any], count: int) -> dict[str, Any]:
    """A prompt's features for each of `count` pictures, as Sam3Model takes them."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    features = text["features"].expand(count, -1, -1)
    return {
        "text_embeds": BaseModelOutputWithPooling(pooler_output=features),
        "attention_mask": text["attention_mask"].expand(count, -1),
    }


def _row(answer: Any, row: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    return answer.pred_logits[row], answer.presence_logits[row], answer.pred_masks[row]


def sam3_instances(
    logits: "tuple[torch.Tensor, torch.Tensor, torch.Tensor]", size_hw: tuple[int, ...], *, score: float
) -> Iterator[tuple[float, Mask]]:
    """Scores and masks [H, W] of what is scored above `score`, in the order of the queries.

    `logits` of one picture: of the queries [Q], of the prompt's presence [1], of the masks [Q, h, w].
    """
    queries, presence, masks = (part.float() for part in logits)
    scores = queries.sigmoid() * presence.sigmoid()
    for query in (scores > score).nonzero().flatten().tolist():
        # one at a time: 200 masks of a large photograph would take gigabytes
        probability = upsampled(masks[query : query + 1].sigmoid(), (size_hw[0], size_hw[1]))[0]
        yield float(scores[query]), mask_levels(probability, probability > 0.5)


def in_order(parts: Sequence[tuple[float, Mask, str]]) -> Instances:
    """Scores, masks and labels as a result, best score first; equal scores stay in their order."""
    parts = sorted(parts, key=lambda part: -part[0])
    return Instances([mask for _, mask, _ in parts], [score for score, _, _ in parts], [label for _, _, label in parts])
