"""Taggers in the layout of SmilingWolf's WD models: model.onnx and selected_tags.csv, run by ONNX Runtime.

Pictures go in as those models were trained (the apps that their author publishes do the same): in the middle of a
white square, resized bicubically to the model's size, as float32 [n, size, size, 3] of 0..255 in the order blue, green,
red. What comes out is one probability for each row of selected_tags.csv.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lightmill.errors import MissingExtra, ModelError, UsageError
from lightmill.models.hub import hub_error
from lightmill.models.kinds import Answer, Ask, Image

Scores: TypeAlias = NDArray[np.float32]  # 0..1

CATEGORIES = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta", "9": "rating"}
_MODEL, _TAGS = "model.onnx", "selected_tags.csv"
_LARGEST_SQUARE = 4096  # px a side: longer pictures are averaged down first, so that a strip does not fill the memory
_INSTALL = "run: pip install 'lightmill[tagger]'"


@dataclass(frozen=True, slots=True)
class Tag:
    """A row of selected_tags.csv."""

    text: str  # as it is written in captions; of ratings, `rating:NAME`
    category: str  # a value of CATEGORIES, or the number in the file


class WDTagger:
    """Tags with their probabilities: `name` is a folder, or a hub id ORG/NAME[@REVISION] such as
    SmilingWolf/wd-swinv2-tagger-v3.

    A tag is given from `threshold` on, a character from `character_threshold` on, where its category is one of
    `categories` (values of CATEGORIES). A rating is no tag among others but one choice of four: with "rating" among the
    categories, the most probable one is given, whatever its probability, as `rating:NAME`.

    In tags, underscores are spaces, except in emoticons. An answer's text is its tags, most probable first; the prompt
    and the seed of an ask make no difference.
    """

    on_device = True

    def __init__(
        self,
        name: str,
        *,
        threshold: float = 0.35,
        character_threshold: float = 0.85,
        categories: Iterable[str] = ("general", "character"),
    ) -> None:
        """Raises UsageError for a category that there is not, and thresholds outside 0..1."""
        self.name = name
        self.categories = frozenset(categories)
        if unknown := sorted(self.categories - set(CATEGORIES.values())):
            raise UsageError(f"{unknown[0]} is no category of tags; there are {', '.join(CATEGORIES.values())}")
        for given in (threshold, character_threshold):
            if not 0 <= given <= 1:
                raise UsageError(f"a threshold of tags is 0 to 1, got {given}")
        self._threshold, self._character_threshold = threshold, character_threshold
        self._found: tuple[Path, str] | None = None
        self._session: Any = None
        self._tags: list[Tag] = []
        self._least = np.zeros(0, np.float32)  # by tag: the score from which on it is given

    @property
    def version(self) -> str:
        """The commit on the hub, or `blake2:` and a hash of the folder's two files. Raises as `check`."""
        return self._located()[1]

    def check(self, device: str) -> None:
        """Raises MissingExtra without ONNX Runtime, ModelError where the files or the device cannot be had."""
        if find_spec("onnxruntime") is None:
            raise MissingExtra(f"WD taggers need onnxruntime; {_INSTALL}")
        folder, _ = self._located()
        read_tags(folder / _TAGS)
        _providers(device)

    def load(self, device: str) -> None:
        """Brings the model onto a device. Raises as `check`, and ModelError where it is of another layout."""
        self.check(device)
        folder, _ = self._located()
        onnxruntime: Any = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; what it warns of is its own business
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / _MODEL), sess_options=options, providers=_providers(device)
            )
        except Exception as error:  # onnxruntime has no class of its own for all that it raises
            lines = str(error).strip().splitlines() or [""]
            raise ModelError(f"{self.name}: {_MODEL} cannot be loaded: {lines[0]}; get the model once more") from error
        self._tags = read_tags(folder / _TAGS)
        self._least = np.array([self._threshold_of(tag) for tag in self._tags], np.float32)
        self._check_layout()

    def unload(self) -> None:
        """Gives the device's memory back."""
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]:
        """An answer a picture, in order. Raises RuntimeError before `load`."""
        if self._session is None:
            raise RuntimeError(f"the model {self.name} was called before it was loaded")
        if len(image) != len(ask):
            raise ValueError(f"there is one ask a picture, got {len(image)} pictures and {len(ask)} asks")
        return [self._answer(scores) for batch in self._batches(image) for scores in batch]

    def _batches(self, images: Sequence[Image]) -> Iterator[Scores]:
        """[n, tags] for some pictures after the other: all at once, unless the model has a batch size of its own."""
        (given,) = self._session.get_inputs()
        own, size = given.shape[:2]
        at_once = own if isinstance(own, int) else max(len(images), 1)
        for start in range(0, len(images), at_once):
            chunk = images[start : start + at_once]
            batch = np.zeros((at_once, size, size, 3), np.float32)
            for index, image in enumerate(chunk):
                batch[index] = prepared(image, size=size)
            (scores,) = self._session.run(None, {given.name: batch})
            yield scores[: len(chunk)]

    def _answer(self, scores: Scores) -> Answer:
        chosen: list[int] = np.flatnonzero(scores >= self._least).tolist()
        ratings = [index for index, tag in enumerate(self._tags) if tag.category == "rating"]
        if "rating" in self.categories and ratings:
            chosen.append(max(ratings, key=scores.__getitem__))
        chosen.sort(key=scores.__getitem__, reverse=True)  # stable: equal ones stay in the order of the file
        tags = tuple((self._tags[index].text, float(scores[index])) for index in chosen)
        return Answer(", ".join(text for text, _ in tags), tags=tags)

    def _threshold_of(self, tag: Tag) -> float:
        if tag.category not in self.categories or tag.category == "rating":
            return np.inf
        return self._character_threshold if tag.category == "character" else self._threshold

    def _located(self) -> tuple[Path, str]:
        """The folder with the two files, and its version."""
        if self._found is None or not self._found[0].is_dir():  # pickled here, loaded on another machine
            self._found = _located(self.name)
        return self._found

    def _check_layout(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = list(inputs[0].shape)
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[3] != 3
            or not isinstance(shape[1], int)
            or shape[1] != shape[2]
        ):
            raise ModelError(f"{self.name} is no WD tagger: it takes {shape}, and these take [n, size, size, 3]")
        if len(outputs) != 1 or outputs[0].shape[-1] != len(self._tags):
            given = [list(output.shape) for output in outputs]
            raise ModelError(f"{self.name} gives {given}, and {_TAGS} has {len(self._tags)} tags; get both once more")


def prepared(image: Image, *, size: int) -> Scores:
    """A picture [H, W, 3] as the models see it: [size, size, 3] float32, 0..255, blue first, white beside it.

    Pictures longer than six times the size are averaged by a whole number first, to three times the size or more.
    """
    factor = -(-max(image.shape[:2]) // _LARGEST_SQUARE)
    if factor > 1:
        image = np.asarray(PIL.Image.fromarray(image).reduce(factor))
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    if side != size:
        square = np.asarray(
            PIL.Image.fromarray(square).resize((size, size), PIL.Image.Resampling.BICUBIC, reducing_gap=3)
        )
    return square[..., ::-1].astype(np.float32)


def read_tags(path: Path) -> list[Tag]:
    """The tags of a selected_tags.csv (columns name and category, and others), in its order. Raises ModelError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_tag(row["name"], row["category"]) for row in csv.DictReader(file)]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"{path} is no list of tags ({error}); it has the columns name and category") from None


def _tag(name: str, number: str) -> Tag:
    category = CATEGORIES.get(number, number)
    return Tag(f"rating:{name}" if category == "rating" else as_written(name), category)


def as_written(tag: str) -> str:
    """A tag with spaces for underscores; emoticons, in which no two letters or digits stand together, as they are.

    >>> as_written("long_hair"), as_written("o_o"), as_written("<|>_<|>"), as_written("2b_(nier)")
    ('long hair', 'o_o', '<|>_<|>', '2b (nier)')
    """
    has_word = any(one.isalnum() and other.isalnum() for one, other in pairwise(tag))
    return tag.replace("_", " ") if has_word else tag


def _providers(device: str) -> list[Any]:
    """What ONNX Runtime computes with on a device."""
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in import_module("onnxruntime").get_available_providers():
        raise ModelError(
            f"the onnxruntime that is installed cannot use {device}; "
            "run: pip uninstall onnxruntime && pip install onnxruntime-gpu, or give --device cpu"
        )
    _, _, number = device.partition(":")
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def _located(name: str) -> tuple[Path, str]:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if missing := _missing(folder):
            raise ModelError(f"{name} is no WD tagger: it has no {missing[0]}; such a folder has {_MODEL} and {_TAGS}")
        return folder, _hash_of(folder)
    return _snapshot(name)


def _missing(folder: Path) -> list[str]:
    return [file for file in (_MODEL, _TAGS) if not (folder / file).is_file()]


def _hash_of(folder: Path) -> str:
    total = blake2b(digest_size=16)
    for file in (_MODEL, _TAGS):
        total.update(f"{file}\0{(folder / file).stat().st_size}\0".encode())
        with (folder / file).open("rb") as opened:
            while piece := opened.read(1 << 20):
                total.update(piece)
    return f"blake2:{total.hexdigest()}"


def _snapshot(name: str) -> tuple[Path, str]:
    """The two files of a hub's model in the cache, fetched where they are not there; the commit is the version."""
    if find_spec("huggingface_hub") is None:
        raise MissingExtra(f"there is no folder {name}, and models of a hub need huggingface_hub; {_INSTALL}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")

    def get(*, on_disk: bool) -> Path:
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=[_MODEL, _TAGS], local_files_only=on_disk)
        )

    try:
        folder = get(on_disk=True)
    except (LocalEntryNotFoundError, HFValidationError):
        folder = None
    if folder is None or _missing(folder):
        try:
            folder = get(on_disk=False)
        except Exception as error:  # every way in which a network fails; the message names it
            raise hub_error(name, error) from error
    if missing := _missing(folder):
        raise ModelError(
            f"{name} is no WD tagger: the hub has no {missing[0]} of it; such a model has {_MODEL} and {_TAGS}"
        )
    return folder, folder.name
