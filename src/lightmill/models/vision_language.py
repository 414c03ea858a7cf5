"""Captions by vision-language models of transformers: BLIP, BLIP-2, GIT, Florence-2, LLaVA (JoyCaption), Qwen-VL, …

Held token for token against transformers' own generation, on small models with random weights: BLIP, BLIP-2, GIT,
Florence-2, LLaVA, Qwen2-VL, SmolVLM and a vision-encoder-decoder. Other types that AutoModelForImageTextToText knows go
the same way, through their processor and its chat template, and have not been tried.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from inspect import signature
from typing import Any

from lightmill.errors import MissingExtra, ModelError
from lightmill.models.florence import has_regions, labels_in, task_in
from lightmill.models.hub import Found
from lightmill.models.kinds import Answer, Ask, Image
from lightmill.models.processors import Preparer, groups, merged
from lightmill.models.sampling import Picker, Sampling
from lightmill.models.weights import HubModel, check_fits, load_weights, torch_dtype_for

_VOICES = {"blip": "text_decoder", "blip-2": "language_model", "instructblip": "language_model"}  # the part that speaks
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.1, "4bit": 0.65}  # a weight, with its scales
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_length": None,
    "forced_eos_token_id": None,  # an end that is put there says nothing of whether the model had ended
    **dict.fromkeys(("early_stopping", "length_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p")),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff")),
}


class VisionLanguage(HubModel):
    """Says what pictures show: prompt and picture in, generated words out.

    A picture's answer depends on the picture, its prompt and its seed alone: not on the batch, but for the rounding of
    sums, which may decide between tokens that are as good as equal. Beams and sampling that a model's own configuration
    asks for are not followed; its n-gram and repetition rules are.
    """

    def __init__(
        self,
        name: str,
        *,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        repetition_penalty: float | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
    ) -> None:
        """See `open_captioner`, which checks the values."""
        super().__init__(name)
        self.max_tokens, self.sampling = max_tokens, sampling or Sampling()
        self.repetition_penalty, self.dtype, self.quantize = repetition_penalty, dtype, quantize
        self._prepare: Preparer | None = None
        self._ends: frozenset[int] = frozenset()
        self._pad = 0
        self._takes: frozenset[str] = frozenset()

    def check(self, device: str) -> None:
        """Raises MissingExtra or ModelError where it cannot be had, is of another kind, or does not fit."""
        found = self.found
        _check_kind(found)
        if self.quantize:
            _check_quantize(self.quantize)
        Preparer(found)
        check_fits(found, device, factor=1.5 * self._growth(device))

    def load(self, device: str) -> None:
        """Brings the weights onto a device. Raises as `check`."""
        from transformers import AutoModelForImageTextToText

        self.unload()
        prepare = Preparer(self.found)
        options = self._options(device)
        model = load_weights(_With(AutoModelForImageTextToText, options), self.found, device)
        self._takes = frozenset(signature(model.forward).parameters)
        self._settle(getattr(model, _VOICES.get(self.found.model_type, ""), model), model, prepare.tokenizer)
        self._model, self._prepare, self._device = model, prepare, device

    def unload(self) -> None:
        self._prepare = None
        super().unload()

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]:
        """[H, W, 3] uint8 of any sizes, and what is asked of each -> what the model says of each.

        `tokens` counts what was generated up to the end, without it; `cut_off` is true where there is no end within
        `max_tokens`. Special tokens and the prompt are not in the text. Raises RuntimeError before `load`, and
        ValueError where the two lists do not match.
        """
        import torch

        self._loaded()
        prepare = self._prepare
        assert prepare is not None, "set by load, with the model"
        rows = [prepare(picture, asked.prompt) for picture, asked in zip(image, ask, strict=True)]
        answers: dict[int, Answer] = {}
        with torch.inference_mode():
            for indices in groups(rows, pads=prepare.chats):
                picker = Picker([ask[index].seed for index in indices], self.sampling)
                said = self._generated(merged([rows[index] for index in indices], pad_token=self._pad), picker)
                for index, tokens in zip(indices, said, strict=True):
                    generated = tokens[: picker.start], tokens[picker.start :]
                    answers[index] = self._answer(generated, ask[index].prompt, image[index].shape[:2])
        return [answers[index] for index in range(len(rows))]

    def _generated(self, batch: dict[str, Any], picker: Picker) -> list[list[int]]:
        import torch

        dtype = self._dtype(self._device)
        if "token_type_ids" not in self._takes:  # a tokenizer may give them to a model that knows no types
            batch.pop("token_type_ids", None)
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                batch[name] = value.to(self._device, dtype if value.is_floating_point() else None)
        sequences = self._model.generate(**batch, max_new_tokens=self.max_tokens, logits_processor=[picker])
        tokens: list[list[int]] = sequences.tolist()
        return tokens

    def _answer(self, generated: tuple[list[int], list[int]], prompt: str, size_hw: tuple[int, ...]) -> Answer:
        """`generated`: what of the prompt was given back, and what came after it."""
        prepare = self._prepare
        assert prepare is not None, "set by load, with the model"
        lead, tokens = generated
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        said = tokens[:end]
        if self.found.model_type == "florence2" and has_regions(prepare.processor, task := task_in(prompt)):
            with_places = prepare.tokenizer.decode(said, skip_special_tokens=False)
            text = labels_in(prepare.processor, with_places, task=task, size_hw=(size_hw[0], size_hw[1]))
        else:
            text = prepare.decode(said, after=[] if prepare.chats else lead)
        return Answer(text, tokens=len(said), cut_off=end is None)

    def _settle(self, voice: Any, model: Any, tokenizer: Any) -> None:
        """Makes the model's generation what this one promises; notes which tokens end it."""
        rules = voice.generation_config
        for name, value in _GREEDY.items():
            setattr(rules, name, value)
        if self.repetition_penalty is not None:
            rules.repetition_penalty = self.repetition_penalty
        ends = model.config.text_config.sep_token_id if self.found.model_type == "blip" else rules.eos_token_id
        if ends is None:
            ends = rules.eos_token_id = tokenizer.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, (list, tuple)) else [ends])
        if rules.pad_token_id is None:
            rules.pad_token_id = min(self._ends) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._pad = int(rules.pad_token_id)

    def _dtype(self, device: str) -> Any:
        import torch

        return torch_dtype_for(device) if self.dtype == "auto" else getattr(torch, self.dtype)

    def _options(self, device: str) -> dict[str, Any]:
        """What goes to `from_pretrained` beside what all models are loaded with."""
        options: dict[str, Any] = {"dtype": self._dtype(device)}
        if self.quantize:
            from transformers import BitsAndBytesConfig

            bits = {"load_in_8bit": True} if self.quantize == "8bit" else {"load_in_4bit": True}
            how = BitsAndBytesConfig(**bits, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"])
            options |= {"quantization_config": how, "device_map": {"": device}}
        return options

    def _growth(self, device: str) -> float:
        """How much larger the weights are on the device than as they are stored."""
        stored = self.found.config.get("dtype") or self.found.config.get("torch_dtype") or "float32"
        wanted = self.quantize or str(self._dtype(device)).removeprefix("torch.")
        return _BYTES[wanted] / _BYTES.get(str(stored), 4.0)


class _With:
    """A model class whose `from_pretrained` is given `options` as well."""

    def __init__(self, model_class: Any, options: dict[str, Any]) -> None:
        self._model_class, self._options = model_class, options

    def from_pretrained(self, folder: Any, **given: Any) -> Any:
        return self._model_class.from_pretrained(folder, **given | self._options)


def _check_kind(found: Found) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    kind = found.model_type or str(found.config.get("_class_name", "")) or "not stated"
    if kind not in KNOWN:
        own = "it comes with code of its own, which is never run; " if "auto_map" in found.config else ""
        raise ModelError(
            f"{found.name} is no captioner that transformers knows (its type is {kind}); {own}"
            "take one such as Salesforce/blip-image-captioning-base or fancyfeast/llama-joycaption-beta-one-hf-llava"
        )
    if kind == "florence2" and (found.config.get("vision_config") or {}).get("model_type") == "davit":
        raise ModelError(
            f"{found.name} is a Florence-2 in the layout of its own code, which is never run; take the same weights "
            "in the layout of transformers: florence-community/Florence-2-base or -large, or their -ft"
        )


def _check_quantize(quantize: str) -> None:
    missing = [package for package in ("bitsandbytes", "accelerate") if find_spec(package) is None]
    if missing:
        raise MissingExtra(
            f"--quantize {quantize} needs {' and '.join(missing)}; run: pip install bitsandbytes accelerate"
        )
