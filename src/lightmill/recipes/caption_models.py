"""Captioners by the names that `--model` and `--tagger` give them."""

import copy
from dataclasses import dataclass
from pathlib import Path

from lightmill.models.captioners import DType, Quantize, open_captioner
from lightmill.models.kinds import Captioner
from lightmill.recipes.masking import located

TEMPLATE = "template"
_SERVER, _TAGGER = "openai:", "wd:"
_DRAWING = 0.6  # temperature of another try, where the first one was to draw nothing


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of whichever model it is; each takes what concerns it."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    dtype: DType = "auto"
    quantize: Quantize | None = None
    concurrency: int = 8
    timeout_s: float = 120.0
    threshold: float = 0.35
    character_threshold: float = 0.85
    categories: tuple[str, ...] = ("general", "character")


def is_tagger(name: str) -> bool:
    """Whether a model gives tags: `wd:NAME`, or a folder with a model.onnx."""
    return name.startswith(_TAGGER) or (Path(name).expanduser() / "model.onnx").is_file()


def is_server(name: str) -> bool:
    """Whether a model is asked over the network: `openai:URL#MODEL`."""
    return name.startswith(_SERVER)


def open_by_name(name: str, wishes: Wishes) -> Captioner:
    """The model; nothing is loaded. Raises UsageError for names and values that are none."""
    if is_tagger(name):
        from lightmill.models.wd_tagger import WDTagger

        return WDTagger(
            located(name.removeprefix(_TAGGER)),
            threshold=wishes.threshold,
            character_threshold=wishes.character_threshold,
            categories=wishes.categories,
        )
    if is_server(name):
        return _server(name, wishes)
    return open_captioner(
        located(name),
        max_tokens=wishes.max_tokens,
        temperature=wishes.temperature,
        top_p=wishes.top_p,
        top_k=wishes.top_k,
        repetition_penalty=wishes.repetition_penalty,
        dtype=wishes.dtype,
        quantize=wishes.quantize,
    )


def for_another_try(captioner: Captioner, wishes: Wishes) -> Captioner:
    """What to ask when an answer was no caption: the same loaded model, but one that draws.

    A model that always takes the likeliest words says the same again, whatever the seed. One that draws already, or
    that gives tags, is itself what to ask.
    """
    if wishes.temperature or is_tagger(captioner.name):
        return captioner
    from lightmill.models.openai_server import OpenAIServer
    from lightmill.models.sampling import Sampling
    from lightmill.models.vision_language import VisionLanguage

    if isinstance(captioner, OpenAIServer):
        return captioner.drawing(_DRAWING)
    if not isinstance(captioner, VisionLanguage):
        return captioner
    other = copy.copy(captioner)  # shares the weights
    other.sampling = Sampling(temperature=_DRAWING, top_k=wishes.top_k, top_p=wishes.top_p)
    return other


def _server(name: str, wishes: Wishes) -> Captioner:
    from lightmill.models.openai_server import OpenAIServer

    return OpenAIServer(
        name,
        max_tokens=wishes.max_tokens,
        temperature=wishes.temperature,
        concurrency=wishes.concurrency,
        timeout_s=wishes.timeout_s,
    )
