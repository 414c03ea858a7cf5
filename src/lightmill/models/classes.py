"""Segmenters of transformers that know a fixed list of classes, asked by class name; and the one that fits a model."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lightmill.errors import ModelError, UsageError
from lightmill.models.hub import Found, find_model
from lightmill.models.kinds import Image, Instances, Mask, Segmenter
from lightmill.models.pixels import PixelSpec, batches, mask_levels, read_pixel_spec, upsampled
from lightmill.models.sam2 import SAM2_TYPES, Box, Point, Sam2
from lightmill.models.sam3 import SAM3_TYPES, Sam3, in_order
from lightmill.models.weights import HubModel, check_fits, load_weights, torch_dtype_for

if TYPE_CHECKING:
    import torch

SEMANTIC_TYPES = "beit", "data2vec-vision", "dpt", "segformer", "upernet"
INSTANCE_TYPES = "mask2former", "maskformer"
_DEFAULTS: dict[str, dict[str, Any]] = {
    "beit": {"size": {"height": 256, "width": 256}, "image_mean": 0.5, "image_std": 0.5},
    "data2vec-vision": {"size": {"height": 256, "width": 256}, "image_mean": 0.5, "image_std": 0.5},
    "dpt": {"size": {"height": 384, "width": 384}, "image_mean": 0.5, "image_std": 0.5},
    "segformer": {"size": {"height": 512, "width": 512}},
    "upernet": {"size": {"height": 512, "width": 512}},
    "mask2former": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "size_divisor": 32},
    "maskformer": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "size_divisor": 32},
}
_MAP_HW = 384, 384  # what the processor of Mask2Former brings mask logits to before it decides
_CHUNK = 8  # classes brought to the picture's size at once: 150 of them would take 7 GB for a 12 MP photograph


class _ByClass(HubModel):
    """A model whose config.json lists its classes (`id2label`); `prompts` name the wanted ones, in any case."""

    types: tuple[str, ...]
    architecture: str  # the class of transformers that loads it
    factor = 2.0

    def __init__(self, name: str, *, prompts: Sequence[str]) -> None:
        """Raises UsageError for no prompt or an empty one."""
        super().__init__(name)
        self.prompts = tuple(" ".join(prompt.split()) for prompt in prompts)
        if not all(self.prompts) or not self.prompts:
            raise UsageError(f"the model {name} finds classes by name; give --prompt, such as --prompt person")
        self._spec: PixelSpec | None = None
        self._classes: dict[int, str] = {}  # number -> the prompt that names it

    def check(self, device: str) -> None:
        """Raises ModelError where it cannot be had or does not fit, UsageError for a class that it does not know."""
        found = self.found
        if found.model_type not in self.types:
            raise ModelError(f"{self.name} is a model of type {found.model_type or 'unknown'}, not {self.types}")
        wanted_classes(found, self.prompts)
        self._read_spec()
        check_fits(found, device, factor=self.factor)

    def load(self, device: str) -> None:
        import transformers

        self._classes = wanted_classes(self.found, self.prompts)
        self._spec = self._read_spec()
        self._model = load_weights(getattr(transformers, self.architecture), self.found, device, channels_last=True)
        self._device = device

    def unload(self) -> None:
        self._spec = None
        super().unload()

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        """[H, W, 3] uint8 of any sizes -> for each, what was found of the wanted classes, best score first."""
        import torch

        model, spec = self._loaded(), self._spec
        assert spec is not None, "set by load, with the model"
        found = [Instances() for _ in image]
        with torch.inference_mode():
            for indices, pixels in batches(
                image, spec, device=self._device, dtype=torch_dtype_for(self._device), channels_last=True
            ):
                answer = model(pixel_values=pixels)
                for row, index in enumerate(indices):
                    found[index] = in_order(list(self._found_in(answer, row, image[index].shape[:2])))
        return found

    def _read_spec(self) -> PixelSpec:
        spec = read_pixel_spec(self.found.folder, defaults=_DEFAULTS[self.found.model_type])
        if spec.crop_hw:
            raise ModelError(f"{self.name} looks at the middle of a picture only (do_center_crop); take another model")
        return spec

    def _found_in(self, answer: Any, row: int, size_hw: tuple[int, ...]) -> Iterator[tuple[float, Mask, str]]:
        """Score, mask and label of everything in one picture of an answer; each kind of model has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its answers are read")


class SemanticSegmenter(_ByClass):
    """Which class each pixel is of (SegFormer, ...): one mask for every wanted class that a picture holds.

    A pixel belongs to the class of the highest logit at the size of the picture, as in transformers'
    `post_process_semantic_segmentation`. A mask's level is 255 * sigmoid(logit - highest logit of another class), so it
    passes one half where the decision changes; its score is the mean of that share over its pixels.
    """

    types = SEMANTIC_TYPES
    architecture = "AutoModelForSemanticSegmentation"

    def _found_in(self, answer: Any, row: int, size_hw: tuple[int, ...]) -> Iterator[tuple[float, Mask, str]]:
        for number, score, mask in semantic_masks(answer.logits[row], size_hw, wanted=list(self._classes)):
            yield score, mask, self._classes[number]


class InstanceSegmenter(_ByClass):
    """Things one by one, each of a class (Mask2Former, MaskFormer).

    Those of transformers' `post_process_instance_segmentation` that are of a wanted class, as its binary maps have
    them: they may overlap. `score`: what scores at least that is kept. Between the decisions, which are taken on the
    model's small map, levels follow the probability brought to the picture's size (bilinear).
    """

    types = INSTANCE_TYPES
    architecture = "AutoModelForUniversalSegmentation"

    def __init__(self, name: str, *, prompts: Sequence[str], score: float = 0.5) -> None:
        """Raises UsageError for no prompt, an empty one, or a score outside 0..1."""
        super().__init__(name, prompts=prompts)
        self.score = score
        if not 0 <= score <= 1:
            raise UsageError(f"--score is from 0 to 1, got {score}")

    def _found_in(self, answer: Any, row: int, size_hw: tuple[int, ...]) -> Iterator[tuple[float, Mask, str]]:
        from torch.nn.functional import interpolate

        masks = answer.masks_queries_logits[row].float()
        if self.found.model_type == "mask2former":
            masks = interpolate(masks[None], size=_MAP_HW, mode="bilinear", align_corners=False)[0]
        classes = answer.class_queries_logits[row].float()
        for number, score, mask in instance_masks(
            classes, masks, size_hw, wanted=list(self._classes), score=self.score
        ):
            yield score, mask, self._classes[number]


def wanted_classes(found: Found, prompts: Sequence[str]) -> dict[int, str]:
    """The numbers of the classes that prompts name, each with its prompt; a class named `a, b` or `a; b` has two names.

    Raises UsageError for a name that the model does not know, with the nearest it knows.
    """
    numbers: dict[str, int] = {}
    for number, label in (found.config.get("id2label") or {}).items():
        for part in (str(label), *re.split("[,;]", str(label))):
            numbers.setdefault(" ".join(part.split()).lower(), int(number))
    wanted = {}
    for prompt in prompts:
        if prompt.lower() not in numbers:
            near = get_close_matches(prompt.lower(), numbers, n=5, cutoff=0.5) or list(numbers)[:5]
            raise UsageError(
                f"the model {found.name} knows no class {prompt!r}; near it: {', '.join(near)} ({len(numbers)} in all)"
            )
        wanted[numbers[prompt.lower()]] = prompt
    return wanted


def semantic_masks(
    logits: "torch.Tensor", size_hw: tuple[int, ...], *, wanted: Sequence[int]
) -> Iterator[tuple[int, float, Mask]]:
    """Number, score and mask [H, W] of each wanted class that has any pixel; `logits` [classes, h, w]."""
    import torch

    size = size_hw[0], size_hw[1]
    first, best, second = _two_highest(logits, size)
    for number in wanted:
        decision = first == number
        if bool(decision.any()):
            own = upsampled(logits[number : number + 1], size)[0]
            share = (own - torch.where(decision, second, best)).sigmoid()
            yield number, float(share[decision].mean()), mask_levels(share, decision)


def _two_highest(logits: "torch.Tensor", size_hw: tuple[int, int]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """At the size of a picture [H, W]: the class of the highest logit (the first of equals), it, and the second."""
    import torch

    first = torch.zeros(size_hw, dtype=torch.long, device=logits.device)
    best = torch.full(size_hw, -torch.inf, device=logits.device)
    second = best.clone()
    for start in range(0, len(logits), _CHUNK):
        for number, own in enumerate(upsampled(logits[start : start + _CHUNK], size_hw), start):
            higher = own > best
            second = torch.where(higher, best, torch.maximum(second, own))
            best, first = torch.where(higher, own, best), torch.where(higher, number, first)
    return first, best, second


def instance_masks(
    classes: "torch.Tensor", masks: "torch.Tensor", size_hw: tuple[int, ...], *, wanted: Sequence[int], score: float
) -> Iterator[tuple[int, float, Mask]]:
    """Class, score and mask [H, W] of the things of the wanted classes that score at least `score`.

    `classes` [Q, classes + 1]: logits of the queries, the last of them for nothing; `masks` [Q, h, w]: mask logits. A
    score is the class's probability times the mean probability inside the mask (Cheng et al. 2022).
    """
    from torch.nn.functional import interpolate

    size = size_hw[0], size_hw[1]
    probability = classes.softmax(-1)[:, :-1]
    scores, pairs = probability.flatten().topk(len(classes), sorted=False)
    for class_score, pair in zip(scores, pairs.tolist(), strict=True):
        query, number = divmod(pair, probability.shape[1])
        if number not in wanted:
            continue
        inside = (masks[query] > 0).float()
        share = masks[query].sigmoid()
        total = float(class_score * ((share * inside).sum() / (inside.sum() + 1e-6)))
        decision = interpolate(inside[None, None], size=size, mode="nearest")[0, 0] == 1
        if total >= score and bool(decision.any()):
            yield number, total, mask_levels(upsampled(share[None], size)[0], decision)


def open_transformers_segmenter(
    name: str,
    *,
    prompts: Sequence[str] = (),
    points: Sequence[Point] = (),
    boxes: Sequence[Box] = (),
    grid: int = 0,
    score: float | None = None,
) -> Segmenter:
    """The segmenter for what `name` (a folder or a hub id) holds; a model of a hub that is not here yet is fetched.

    `prompts` are words for SAM 3 and class names for models with classes; SAM 2 takes `points`, `boxes` or `grid`.
    `score` None is the model's own: 0.5, or 0.88 for a grid. Models that name the class of each pixel take none.

    Raises UsageError for a model of a type that is not supported and for options that its kind does not take, and as
    `find_model`.
    """
    kind = find_model(name).model_type
    shown = [option for option, value in (("points", points), ("boxes", boxes), ("grid", grid)) if value]
    if kind in SAM2_TYPES:
        if prompts:
            raise UsageError(
                f"the model {name} (SAM 2) knows no words; give points, boxes or a grid instead of prompts"
            )
        return Sam2(name, points=points, boxes=boxes, grid=grid, score=score)
    if kind not in (*SAM3_TYPES, *SEMANTIC_TYPES, *INSTANCE_TYPES):
        supported = ", ".join(sorted((*SAM3_TYPES, *SAM2_TYPES, *SEMANTIC_TYPES, *INSTANCE_TYPES)))
        raise UsageError(
            f"{name} is a model of type {kind or 'unknown'}, which does not segment here; supported: {supported}"
        )
    if shown:
        raise UsageError(f"the model {name} ({kind}) is asked by prompts, in words; {shown[0]} are for SAM 2")
    if kind in SEMANTIC_TYPES:
        if score is not None:
            raise UsageError(f"the model {name} ({kind}) gives every pixel a class and takes no score")
        return SemanticSegmenter(name, prompts=prompts)
    if kind in SAM3_TYPES:
        return Sam3(name, prompts=prompts, score=0.5 if score is None else score)
    return InstanceSegmenter(name, prompts=prompts, score=0.5 if score is None else score)
