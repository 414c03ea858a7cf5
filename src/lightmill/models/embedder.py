"""The embedder as `identify` runs it: crops in, embeddings out. Trained by `lightmill train reid`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightmill.data.augment import Augment
from lightmill.data.crops import resize_into
from lightmill.errors import ModelError
from lightmill.models.embedder_files import MODEL_TYPE, EmbedderConfig, load_network, read_config
from lightmill.models.kinds import Image
from lightmill.models.weights import HubModel, check_fits

if TYPE_CHECKING:
    import torch

    from lightmill.models.embedder_network import EmbedderNetwork

Embedding = NDArray[np.float32]  # [D], of length 1

_ZOOMS = 1.0, 0.92, 0.85  # what is looked at with `views`: the whole crop, and its middle


class CropEmbedder(HubModel):
    """Gives crops embeddings: float32 [D], of length 1; their dot product is the cosine, the score of two crops.

    `name`: a folder of `lightmill train reid` (its `best` or `last`), or a hub id that holds one. `views`: the mean of
    three embeddings a crop, of all of it and of its middle at two zooms, brought back to length 1; never mirrored, as
    numbers are not. That takes three times as long.

    `at_once`: crops that go through together on a CPU. One at a time, what a crop gets does not depend on its batch, to
    the last bit; together they take a half to a quarter of the time.
    """

    def __init__(self, name: str | Path, *, views: bool = False, at_once: int = 1) -> None:
        super().__init__(str(name))
        self.views, self.at_once = views, at_once
        self._config: EmbedderConfig | None = None

    @property
    def config(self) -> EmbedderConfig:
        """Its config.json: size, expand, thresholds, labels. Raises as `find_model`, ModelError where it is none."""
        if self._config is None:
            found = self.found
            if found.model_type != MODEL_TYPE:
                raise ModelError(
                    f"{self.name} is a model of type {found.model_type or 'unknown'}, not one that "
                    "`lightmill train reid` made; give the folder `best` of such a run"
                )
            self._config = read_config(found.folder)
        return self._config

    def check(self, device: str) -> None:
        """Raises MissingExtra or ModelError where it cannot be had, is of another kind or does not fit."""
        from lightmill.models.backbones import backbone_config

        try:
            backbone_config(self.config.backbone)
        except ModelError as error:
            raise ModelError(f"{self.found.folder / 'config.json'}: {error}") from None
        check_fits(self.found, device)

    def load(self, device: str) -> None:
        """Brings the weights onto a device. Raises as `check`."""
        import torch

        self.unload()
        network = load_network(self.found.folder, self.config).to(device)
        if device.startswith("cuda"):
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
        self._model, self._device = network, device

    def __call__(self, crops: Sequence[Image]) -> list[Embedding]:
        """Crops uint8 [h, w, 3] RGB of any sizes -> for each, float32 [D]. Raises RuntimeError before `load`."""
        network: EmbedderNetwork = self._loaded()
        at_once = len(crops) if self._device.startswith("cuda") else self.at_once
        found: list[Embedding] = []
        for start in range(0, len(crops), max(at_once, 1)):
            found.extend(self._embedded(network, crops[start : start + at_once]))
        return found

    def _embedded(self, network: "EmbedderNetwork", crops: Sequence[Image]) -> list[Embedding]:
        import torch
        from torch.nn.functional import normalize

        sizes = self.config.size_hw
        with (
            torch.inference_mode(),
            torch.autocast(self._device.partition(":")[0], enabled=self._half, dtype=self._dtype),
        ):
            total = None
            for zoom in _ZOOMS if self.views else _ZOOMS[:1]:
                seen = torch.empty((len(crops), *sizes, 3), dtype=torch.uint8)
                for crop, place in zip(crops, seen.numpy(), strict=True):
                    resize_into(middle(crop, zoom=zoom), place)
                embedded = network.embed(self._pixels(seen.to(self._device)))
                total = embedded if total is None else total + embedded
            assert total is not None, "there is at least one zoom"
            return list(normalize(total, dim=1).cpu().numpy())

    def _pixels(self, batch: "torch.Tensor") -> "torch.Tensor":
        return Augment.off(mean=self.config.mean, std=self.config.std)(batch)

    @property
    def _half(self) -> bool:
        return self._device.startswith("cuda")

    @property
    def _dtype(self) -> "torch.dtype":
        import torch

        return torch.float16 if self._half else torch.bfloat16


def middle(crop: Image, *, zoom: float) -> Image:
    """The middle of a crop [h, w, 3]: `zoom` of its height and width, at least 1 px; a view of it."""
    height, width = (max(1, round(side * zoom)) for side in crop.shape[:2])
    top, left = (crop.shape[0] - height) // 2, (crop.shape[1] - width) // 2
    return crop[top : top + height, left : left + width]
