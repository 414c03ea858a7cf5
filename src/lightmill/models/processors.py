"""Processors of transformers without torchvision: pictures and words to what a model takes, one picture at a time.

Pictures go through the processors that compute with Pillow, at the size and with the kernel that the model's folder
says (JoyCaption's square of 384 is squashed with Lanczos if the folder says so). Video processors need torchvision even
where no video is met, so a processor that has one is made without it.

A picture is prepared alone, exactly as transformers does for a batch of one, and put together with others afterwards
(`groups`, `merged`). So what a model is shown for a picture does not depend on what else is in the batch, but for the
padding on the left, which attention masks take out again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lightmill.errors import MissingExtra, ModelError
from lightmill.models.florence import DEFAULT_TASK
from lightmill.models.hub import Found
from lightmill.models.kinds import Image

if TYPE_CHECKING:
    import torch

DEFAULT_PROMPT = "Describe this picture in detail."  # of chat models that are given no prompt
Row: TypeAlias = dict[str, Any]  # what a model takes for one picture: tensors of one row, or of one picture's patches

_VOCABULARIES = "tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json"
_OWN_FILES = "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"
_SEQUENCES = "input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"  # [1, tokens]
_PACKAGES = "torchvision", "num2words", "sentencepiece", "tiktoken"
_PROBE = "lightmill"
_MOST_PADDING = 2  # no row is made longer than so many times its own length


class Preparer:
    """Makes of a picture and a prompt what the model `found` takes. Holds no weights; on the CPU."""

    def __init__(self, found: Found) -> None:
        """Raises ModelError or MissingExtra, with what to do, where the processor cannot be had or takes no picture."""
        self._found = found
        self.processor = _processor(found)
        self.chats = bool(getattr(self.processor, "chat_template", None))
        self._form = self._probed()

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def __call__(self, image: Image, prompt: str) -> Row:
        """[H, W, 3] uint8 and words -> tensors, on the CPU.

        An empty prompt is DEFAULT_PROMPT for a model with a chat template, DEFAULT_TASK for Florence-2, and no words at
        all for others. Models that take no words (vision-encoder-decoder) are shown the picture alone.
        """
        from PIL import Image as Pictures

        picture = Pictures.fromarray(np.ascontiguousarray(image))
        if self.chats:
            return self._of_chat(picture, prompt or DEFAULT_PROMPT, self._form)
        return self._of_words(picture, prompt)

    def decode(self, tokens: Sequence[int], *, after: Sequence[int]) -> str:
        """Tokens as words, without special ones and without the words of the tokens `after` which they came.

        Both are decoded together, since a token may go on with the last word of a prompt.
        """
        lead = self.tokenizer.decode(after, skip_special_tokens=True) if after else ""
        text: str = self.tokenizer.decode([*after, *tokens], skip_special_tokens=True)
        return text.removeprefix(lead).strip()

    def _of_chat(self, picture: Any, prompt: str, form: str) -> Row:
        from transformers import ProcessorMixin

        token = getattr(self.processor, "image_token", "<image>")
        contents: dict[str, Any] = {
            "parts": [{"type": "image"}, {"type": "text", "text": prompt}],
            "words": prompt,
            "token": f"{token}\n{prompt}",
        }
        turns = [{"role": "user", "content": contents[form]}]
        # the template alone: what processors add to it of their own is about video and sound
        text = ProcessorMixin.apply_chat_template(self.processor, turns, add_generation_prompt=True, tokenize=False)
        if prompt == _PROBE and "'type'" in text:  # a template of plain words prints what it does not know
            raise ValueError("the template takes no parts")
        begun = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        special = {"add_special_tokens": False} if begun else {}
        return dict(self.processor(images=[[picture]], text=[text], return_tensors="pt", **special))

    def _of_words(self, picture: Any, prompt: str) -> Row:
        if self._found.model_type == "florence2":
            prompt = prompt or DEFAULT_TASK
        if not prompt or isinstance(self.processor, _Pair):
            return dict(self.processor(images=picture, return_tensors="pt"))
        row = dict(self.processor(images=picture, text=prompt, return_tensors="pt"))
        if self._found.model_type == "git":  # it goes on from the prompt, which must not be closed
            return {name: value[:, :-1] if name in _SEQUENCES else value for name, value in row.items()}
        return row

    def _probed(self) -> str:
        """How the chat template wants the picture: as a part of the content, by itself, or as a token in the words.

        Raises ModelError where no way works; that is also how a model that needs a chat template and has none is found.
        """
        from jinja2 import TemplateError
        from PIL import Image as Pictures

        picture = Pictures.new("RGB", (64, 64), (127, 127, 127))
        met: list[Exception] = []
        for form in ("parts", "words", "token") if self.chats else ("",):
            try:
                _ = self._of_chat(picture, _PROBE, form) if self.chats else self._of_words(picture, _PROBE)
            except (TemplateError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
                met.append(error)
            else:
                return form
        lines = str(met[0]).strip().splitlines() or [""]
        template = (
            "its chat template" if self.chats else "it has no chat template (chat_template.jinja), and its processor"
        )
        raise ModelError(
            f"the model {self._found.name} cannot be asked about a picture: {template} does not place one "
            f"({type(met[0]).__name__}: {lines[0]}); get the model once more"
        ) from met[0]


class _Pair:
    """The tokenizer and the image processor of a model that takes pictures only."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    def __call__(self, *, images: Any, return_tensors: str) -> Any:
        return self.image_processor(images, return_tensors=return_tensors)


def _processor(found: Found) -> Any:
    if not any((found.folder / file).is_file() for file in _VOCABULARIES):  # transformers would make an empty one
        raise ModelError(f"the model {found.name} has no tokenizer ({_VOCABULARIES[0]}); get it once more")
    try:
        return _opened(found)
    except Exception as error:  # each processor has its own, also for packages that are missing
        package = next((package for package in _PACKAGES if package in str(error) and find_spec(package) is None), "")
        if package:
            kind = f"models of type {found.model_type}"
            raise MissingExtra(
                f"{kind} prepare pictures and words with {package}; run: pip install {package}"
            ) from error
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"the processor of {found.name} cannot be read: {type(error).__name__}: {lines[0]}; get the model once more"
        ) from error


def _opened(found: Found) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(found.folder, **where)
    image_processor = AutoImageProcessor.from_pretrained(found.folder, backend="pil", **where)
    kind = _class_of(found)
    if kind is None:
        return _Pair(image_processor, tokenizer)
    settings, _ = kind.get_processor_dict(found.folder, local_files_only=True)
    made = {"tokenizer": tokenizer, "image_processor": image_processor, "video_processor": None}
    if other := [part for part in kind.get_attributes() if part not in made]:
        raise ValueError(f"Lightmill does not make its {other[0]}")
    return _for_stills(kind).from_args_and_dict([made[part] for part in kind.get_attributes()], settings)


def _class_of(found: Found) -> Any:
    """The processor that the folder names, or that goes with the type of the model; None where there is none."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    for file in _OWN_FILES:
        if (found.folder / file).is_file():
            named = json.loads((found.folder / file).read_text("utf-8")).get("processor_class")
            if named and (kind := processor_class_from_name(named)) is not None:
                return kind
    config = AutoConfig.from_pretrained(found.folder, local_files_only=True, trust_remote_code=False)
    return PROCESSOR_MAPPING.get(type(config), None)


def _for_stills(kind: Any) -> Any:
    """The same class of processors, which may be made without a video processor."""

    def check(self: Any, name: str, argument: Any) -> Any:
        return None if argument is None else kind.check_argument_for_proper_class(self, name, argument)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})


def groups(rows: Sequence[Row], *, pads: bool) -> Iterator[list[int]]:
    """Which rows share a batch, as their indices, short ones first.

    Their tensors have the same shapes but for the number of tokens, and that is the same too where the model does not
    take padding. With padding, the longest of a batch has at most twice the tokens of the shortest.
    """
    alike: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault((_shapes(row), None if pads else _length(row)), []).append(index)
    for indices in alike.values():
        group: list[int] = []
        for index in sorted(indices, key=lambda index: _length(rows[index])):
            if group and _length(rows[index]) > _MOST_PADDING * _length(rows[group[0]]):
                yield group
                group = []
            group.append(index)
        yield group


def _length(row: Row) -> int:
    return int(row["input_ids"].shape[1]) if "input_ids" in row else 0


def _shapes(row: Row) -> Any:
    import torch

    others = {name: value for name, value in row.items() if name not in _SEQUENCES}
    if not all(isinstance(value, torch.Tensor) for value in others.values()):
        return id(row)  # of its own: how such values go together only its processor knows
    return tuple((name, value.shape[1:], value.dtype) for name, value in sorted(others.items()))


def merged(rows: Sequence[Row], *, pad_token: int) -> Row:
    """One batch of rows that `groups` puts together, their tokens padded on the left."""
    import torch

    longest = max(_length(row) for row in rows)
    fills: Mapping[str, int] = {"input_ids": pad_token}

    def column(name: str) -> Any:
        values = [row[name] for row in rows]
        if name in _SEQUENCES:
            values = [_padded(value, longest, fills.get(name, 0)) for value in values]
        return torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]

    return {name: column(name) for name in rows[0]}


def _padded(tokens: "torch.Tensor", length: int, fill: int) -> "torch.Tensor":
    from torch.nn.functional import pad

    return pad(tokens, (length - tokens.shape[1], 0), value=fill)
