"""What a model is to a recipe, one small protocol a kind, and what it gives.

A model is made cheaply (no weights are read), says by `check` whether it can be had, is loaded once per worker, called
with lists that have one entry an item, and unloaded once. While it is not loaded it can be pickled.

`on_device` tells the two sorts apart. A model on the device is called by one thread at a time, with batches. One
that is not is numpy and OpenCV on the CPU: `load` and `unload` do nothing, and any number of threads call it at once.

Pictures are uint8 [H, W, 3] sRGB. Masks are uint8 [H, W], 255 = foreground; levels between are soft edges. Light is
linear float32, 1 = white of the picture. Directions and normals: x right, y up, z towards the viewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import ItemError

Image: TypeAlias = NDArray[np.uint8]  # [H, W, 3] sRGB
Mask: TypeAlias = NDArray[np.uint8]  # [H, W]
Linear: TypeAlias = NDArray[np.float32]  # [H, W, 3] linear light


@dataclass(frozen=True, slots=True)
class Instances:
    """What a segmenter found in one picture, best score first."""

    masks: list[Mask] = field(default_factory=list)  # soft: 128 and more is the thing
    scores: list[float] = field(default_factory=list)  # 0..1
    labels: list[str] = field(default_factory=list)  # the prompt or class that each answers to

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return sum(mask.nbytes for mask in self.masks)


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A picture taken apart: picture = albedo * shading + residual, in linear light."""

    albedo: Linear
    shading: Linear  # [H, W, 3], or [H, W, 1] where light has no colour
    residual: Linear | None = None

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return self.albedo.nbytes + self.shading.nbytes + (0 if self.residual is None else self.residual.nbytes)


@dataclass(frozen=True, slots=True)
class Relief:
    """The shape that a picture shows."""

    normals: NDArray[np.float32]  # [H, W, 3] unit vectors: x right, y up, z towards the viewer
    height: NDArray[np.float32]  # [H, W] in pixels, towards the viewer; any offset

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return self.normals.nbytes + self.height.nbytes


class Model(Protocol):
    """What all kinds share."""

    @property
    def name(self) -> str:
        """As `--model` names it: `builtin:salient`, `facebook/sam3`, a folder."""
        ...

    @property
    def version(self) -> str:
        """What tells two states of one name apart: a release of Lightmill, a revision of a hub, a hash of weights."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether it is to be called with batches by one thread, or by any thread for one picture."""
        ...

    def check(self, device: str) -> None:
        """Raises UsageError, MissingExtra or ModelError where it cannot be had or does not fit, with what to do."""
        ...

    def load(self, device: str) -> None: ...

    def unload(self) -> None: ...


class Segmenter(Model, Protocol):
    """Finds things in pictures."""

    def __call__(self, image: Sequence[Image]) -> list[Instances]: ...


class Decomposer(Model, Protocol):
    """Takes pictures apart into albedo and light. `mask`: what counts; None for the whole picture."""

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Intrinsics]: ...


class NormalEstimator(Model, Protocol):
    """Says which way surfaces face. `mask`: what counts; None for the whole picture."""

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Relief]: ...


class Scorer(Model, Protocol):
    """Gives pictures numbers, by name."""

    def __call__(self, image: Sequence[Image]) -> list[dict[str, float]]: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked about one picture."""

    prompt: str  # empty for models that take none
    seed: int  # of what is drawn for it; another try is another seed


@dataclass(frozen=True, slots=True)
class Answer:
    """What a captioner says of one picture."""

    text: str  # without the prompt; tags are joined with ", "
    tokens: int = 0  # generated, as the model counts them; 0 where it does not say
    cut_off: bool = False  # the limit came before the end
    tags: tuple[tuple[str, float], ...] = ()  # a tagger's, with their scores, best first
    failure: ItemError | None = None  # why there is no answer about this picture, where others of the call have one


class Captioner(Model, Protocol):
    """Says in words what pictures show. `version` and `name` go into each caption's origin."""

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]: ...
