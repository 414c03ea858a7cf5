"""What `lightmill train segment` made, as a segmenter: pictures of any size in, a mask a class out.

What is served is what validation scored: the network of the checkpoint, on a picture that is laid into the size of the
training as samples of the training are. Where that is too coarse, the picture is looked at in tiles of that size, with
`tile`. Probabilities, not decisions, are brought to the size of the picture, and joined.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import ModelError, UsageError
from lightmill.models.kinds import Image, Instances, Mask
from lightmill.models.network_folder import WEIGHTS
from lightmill.models.sam3 import in_order
from lightmill.models.student import MODEL_TYPE, StudentConfig, load_student, read_student
from lightmill.models.student_views import Rows, SizeHW, Tile, rows_of, sample_of, tiles_of, working_size
from lightmill.models.weights import HubModel, check_fits, torch_dtype_for

if TYPE_CHECKING:
    import torch

    from lightmill.models.student_network import StudentNetwork

ClassMap: TypeAlias = NDArray[np.uint8]  # [H, W] class numbers

BACKGROUND = "background"  # class 0 of what tells one thing from all else
_AT_ONCE = 8  # samples or tiles that a device is given; the CPU is given one


@dataclass(frozen=True, slots=True)
class Predicted:
    """The classes of a picture."""

    whole: ClassMap  # of the picture's size
    sample: ClassMap | None  # as validation saw it, of the size that the picture has in a sample; None of tiles

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return self.whole.nbytes + (0 if self.sample is None else self.sample.nbytes)


class StudentSegmenter(HubModel):
    """A checkpoint of `lightmill train segment`: one mask for each wanted class that a picture holds.

    `name`: its folder, or a hub id that holds one. `prompts`: names of classes, in any case; none: all that are not
    background. `tile`: `off` lays the whole picture into the size of the training; `auto` looks at a picture that is
    larger in tiles of that size; a number, likewise, once its longer side has been reduced to so many pixels. `flips`:
    the mean of the picture and its mirror image, in twice the time.

    A pixel belongs to the class with the highest probability, or, where there is only one, from the checkpoint's
    threshold on. Levels of masks pass one half where that decision changes. Where two wanted classes meet no edge is
    soft: levels say how probable it is that a pixel is of any of them. A mask's score is the mean probability of its
    class over its pixels.

    On the CPU tiles and pictures go through one at a time, so what one gets does not depend on its batch.
    """

    def __init__(self, name: str, *, prompts: Sequence[str] = (), tile: Tile = "off", flips: bool = False) -> None:
        super().__init__(name)
        self.prompts, self.tile, self.flips = tuple(prompts), tile, flips
        self._config: StudentConfig | None = None

    @property
    def config(self) -> StudentConfig:
        """Its config.json. Raises as `find_model`, ModelError where it is none of a student."""
        if self._config is None:
            if self.found.model_type != MODEL_TYPE:
                raise ModelError(
                    f"{self.name} is a model of type {self.found.model_type or 'unknown'}, not one that "
                    "`lightmill train segment` made; give the folder `best` of such a run"
                )
            self._config = read_student(self.found.folder)
        return self._config

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers in its class maps."""
        return (BACKGROUND, *self.config.names) if self.config.binary else self.config.names

    def check(self, device: str) -> None:
        """Raises UsageError for a class that it does not know; MissingExtra or ModelError where it cannot be had.

        All of it is read once, and dropped again: damage is found before the first picture.
        """
        wanted_classes(self.config, self.prompts, model=self.name)
        check_fits(self.found, device)
        self._read()

    def load(self, device: str) -> None:
        """Brings the weights onto a device. Raises as `check`."""
        import torch

        self.unload()
        self._model = self._read().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
        self._device = device

    def _read(self) -> "StudentNetwork":
        network = load_student(self.found.folder, self.config)
        if wrong := next((key for key, value in network.state_dict().items() if not value.isfinite().all()), ""):
            raise ModelError(
                f"{self.found.folder / WEIGHTS} holds what is no number ({wrong}): its training went astray; "
                "take another checkpoint, or train again with a smaller learning rate"
            )
        return network

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        """[H, W, 3] uint8 of any sizes -> for each, what is there of the wanted classes, best score first."""
        wanted = wanted_classes(self.config, self.prompts, model=self.name)
        return [
            _Masks(self.config, wanted, size_hw=_size_of(picture)).filled(parts)
            for picture, (parts, _) in zip(image, self._seen(image), strict=True)
        ]

    def classes(self, image: Sequence[Image]) -> list[Predicted]:
        """The class map of each; of the same probabilities, and by the same decisions, as the masks."""
        threshold = self.config.threshold
        found = []
        for picture, (parts, sample) in zip(image, self._seen(image), strict=True):
            whole = np.empty(_size_of(picture), np.uint8)
            for first, shares in parts:
                whole[first : first + shares.shape[1]] = _class_map(shares, threshold=threshold)
            found.append(Predicted(whole, None if sample is None else _class_map(sample, threshold=threshold)))
        return found

    # --- what the network sees ---------------------------------------------------------------------------------------

    def _seen(self, images: Sequence[Image]) -> "Iterator[tuple[Rows, torch.Tensor | None]]":
        """For each picture its shares at its own size; and those in the sample, [C, h, w], if it was laid into one."""
        sizes = [working_size(_size_of(each), size_hw=self.config.size_hw, tile=self.tile) for each in images]
        samples = self._samples([image for image, size in zip(images, sizes, strict=True) if size is None])
        for image, size in zip(images, sizes, strict=True):
            if size is None:
                sample = next(samples)
                seen_hw = int(sample.shape[1]), int(sample.shape[2])
                yield rows_of(iter([(0, sample)]), working_hw=seen_hw, size_hw=_size_of(image)), sample
            else:
                tiled = tiles_of(image, size, tile_hw=self.config.size_hw, look=self._shares, at_once=self._at_once)
                yield rows_of(tiled, working_hw=size, size_hw=_size_of(image)), None

    def _samples(self, images: Sequence[Image]) -> "Iterator[torch.Tensor]":
        """[C, h, w] of each picture, without the bars beside it."""
        for start in range(0, len(images), self._at_once):
            laid = [sample_of(image, self.config.size_hw) for image in images[start : start + self._at_once]]
            shares = self._shares(np.stack([pixels for pixels, _ in laid]))
            for own, (_, part) in zip(shares, laid, strict=True):
                yield own[:, part.top : part.top + part.height, part.left : part.left + part.width]

    @property
    def _at_once(self) -> int:
        return _AT_ONCE if self._device.startswith("cuda") else 1

    def _shares(self, pixels: NDArray[np.uint8]) -> "torch.Tensor":
        """Probabilities float32 [B, C, h, w], on the device, of pictures uint8 [B, h, w, 3]."""
        import torch

        network: StudentNetwork = self._loaded()
        kind = self._device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, enabled=kind == "cuda", dtype=torch_dtype_for(self._device)):
            seen = self._normalised(torch.from_numpy(pixels).to(self._device))
            return self._with_mirror(network, seen)

    def _with_mirror(self, network: "StudentNetwork", seen: "torch.Tensor") -> "torch.Tensor":
        from lightmill.models.student_network import probabilities

        shares = probabilities(network(seen))
        if not self.flips:
            return shares
        return (shares + probabilities(network(seen.flip(-1))).flip(-1)) / 2

    def _normalised(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """As validation does, to the last bit."""
        from lightmill.data.segment_augment import SegmentAugment

        unused = pixels[..., 0]
        return SegmentAugment.off(mean=self.config.mean, std=self.config.std)(pixels, unused).images


# --- classes ---------------------------------------------------------------------------------------------------------


def wanted_classes(config: StudentConfig, prompts: Sequence[str], *, model: str) -> dict[int, str]:
    """The numbers, in class maps, of the classes that prompts name, or of all that are not background, with names.

    Raises UsageError for a name that the checkpoint does not know, and where nothing is named and nothing background.
    """
    names = {1: config.names[0]} if config.binary else dict(enumerate(config.names))
    if not prompts:
        found = {number: name for number, name in names.items() if name not in config.background}
        if not found or (len(found) == len(names) and not config.binary):
            raise UsageError(
                f"every pixel is of one of the classes of {model}, and none is background; "
                f"say with --prompt which are looked for: {', '.join(names.values())}"
            )
        return found
    numbers = {_plain(name): number for number, name in reversed(names.items())}
    for prompt in prompts:
        if _plain(prompt) not in numbers:
            near = get_close_matches(_plain(prompt), numbers, n=1)
            meant = f" (did you mean {names[numbers[near[0]]]}?)" if near else ""
            raise UsageError(f"{model} knows no class {prompt!r}{meant}; its classes: {', '.join(names.values())}")
    return {number: names[number] for number in sorted({numbers[_plain(prompt)] for prompt in prompts})}


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _class_map(shares: "torch.Tensor", *, threshold: float) -> ClassMap:
    """uint8 [n, W] of [C, n, W], as `map_of_probabilities` has it, in a seventh of the time on a CPU."""
    import torch

    found = shares[0] >= threshold if len(shares) == 1 else shares.max(0).indices
    numbers: ClassMap = found.to(torch.uint8).cpu().numpy()
    return numbers


class _Masks:
    """The masks of a picture as they grow downwards."""

    def __init__(self, config: StudentConfig, wanted: dict[int, str], *, size_hw: SizeHW) -> None:
        self._config, self._wanted = config, wanted
        self._masks: dict[int, Mask] = {number: np.zeros(size_hw, np.uint8) for number in wanted}  # only zero pages
        self._pixels = dict.fromkeys(wanted, 0)
        self._sums = dict.fromkeys(wanted, 0)  # the sum, over those pixels, of probabilities as levels

    def filled(self, parts: "Iterator[tuple[int, torch.Tensor]]") -> Instances:
        """Of all rows of a picture."""
        for first, shares in parts:
            self._add(first, _two_classes(shares, self._config) if self._config.binary else shares)
        return in_order(
            [
                (self._sums[number] / 255 / self._pixels[number], self._masks[number], name)
                for number, name in self._wanted.items()
                if self._pixels[number]
            ]
        )

    def _add(self, first: int, shares: "torch.Tensor") -> None:
        """Probabilities [C, n, W], in which the decision is the highest."""
        import torch

        numbers = list(self._wanted)
        own = shares[numbers]
        total = own.sum(0)
        # `argmax` takes seven times as long on a CPU
        nearest = own.max(0).indices.to(torch.uint8) if len(numbers) > 1 else torch.zeros_like(total, dtype=torch.uint8)
        wins = torch.isin(torch.arange(len(shares)), torch.tensor(numbers)).to(shares.device)[shares.max(0).indices]
        level = _levels(total)
        level = torch.where(wins, level.clamp(min=128), level.clamp(max=127))
        for place, number in enumerate(numbers):
            if float(own[place].max()) * 255 < 0.5:
                continue
            near, alone = nearest == place, _levels(own[place])
            found = torch.where(near, level, alone.clamp(max=127))
            self._masks[number][first : first + len(found)] = found.cpu().numpy()
            here = near & wins
            self._pixels[number] += int(torch.count_nonzero(here))
            # whole numbers: their sum does not hang on the order in which threads add
            self._sums[number] += int((alone * here).sum(dtype=torch.int64))


def _levels(shares: "torch.Tensor") -> "torch.Tensor":
    import torch

    return (shares * 255).round_().clamp_(0, 255).to(torch.uint8)


def _two_classes(shares: "torch.Tensor", config: StudentConfig) -> "torch.Tensor":
    """[1, n, W] -> [2, n, W], the foreground's last; the threshold is moved to one half, and equals are foreground."""
    import torch

    own, least = shares[0], config.threshold
    moved = torch.where(own >= least, (1 + (own - least) / (1 - least)) / 2, own / least / 2)
    moved = torch.where(own >= least, moved.clamp(min=0.5 + 1e-6), moved.clamp(max=0.5 - 1e-6))
    return torch.stack([1 - moved, moved])


def _size_of(image: Image) -> SizeHW:
    return int(image.shape[0]), int(image.shape[1])
