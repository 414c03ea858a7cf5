"""An embedder on the disk: a folder with `config.json` (below) and `model.safetensors` (models/network_folder.py)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lightmill import __version__
from lightmill.models.network_folder import load_network_of, read_settings, save_folder, save_settings

if TYPE_CHECKING:
    from lightmill.models.embedder_network import EmbedderNetwork

MODEL_TYPE = "lightmill-embedder"
_WHAT = "embedder"

SIDES = 8, 4096  # px, of crops: the least and the most
Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Annotated[float, Field(allow_inf_nan=False)]


class EmbedderConfig(BaseModel):
    """What config.json holds: what is needed to make the network, to feed it and to judge what it gives."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    model_type: Literal["lightmill-embedder"] = "lightmill-embedder"
    version: Literal[1] = 1  # of this layout
    lightmill: str = __version__  # that wrote it
    backbone: dict[str, Any]  # `model_type` of transformers and its settings
    embedding: int = Field(256, ge=0, le=65536, description="Numbers in an embedding; 0: as many as the backbone has.")
    pooling: Literal["gem", "mean"] = "gem"
    size_hw: tuple[Side, Side] = (256, 128)  # of the crops that it takes
    mean: tuple[Level, Level, Level]  # of sRGB levels as 0..1
    std: tuple[Spread, Spread, Spread]
    expand: float = Field(1.2, ge=1, le=10)  # how much larger than their boxes its crops were
    thresholds: dict[str, Level] = {}  # view -> least cosine of somebody known; "" for all views
    labels: tuple[str, ...] = ()  # whom it was trained on
    scores: dict[str, float | None] = {}  # of the validation when it was written

    def threshold(self, view: str) -> float | None:
        """The threshold of a view, or that of all; None where none has been chosen."""
        return self.thresholds.get(view, self.thresholds.get(""))


def save_embedder(folder: Path, network: "EmbedderNetwork", config: EmbedderConfig) -> None:
    """Puts an embedder into `folder`, instead of what was there; a folder is whole whenever it has that name.

    Raises OutputError where nothing can be written any more.
    """
    save_folder(folder, network, config)


def update_config(folder: Path, config: EmbedderConfig) -> None:
    """Replaces config.json alone, at once: for thresholds that are chosen after the training."""
    save_settings(folder, config)


def read_config(folder: Path) -> EmbedderConfig:
    """What config.json says. Raises ModelError, naming it, where it is none of an embedder."""
    return read_settings(folder, EmbedderConfig, what=_WHAT, made_by="lightmill train reid")


def load_network(folder: Path, config: EmbedderConfig | None = None) -> "EmbedderNetwork":
    """The network of a folder with its weights, on the CPU, in eval mode.

    Raises ModelError, naming the file, where the settings make no network or the weights do not fill it.
    """
    return load_network_of(folder, partial(make_network, config or read_config(folder)), what=_WHAT)


def make_network(config: EmbedderConfig) -> "EmbedderNetwork":
    """A network as `config` has it, with random weights. Raises ModelError for settings that make none."""
    from lightmill.models.backbones import build_backbone
    from lightmill.models.embedder_network import EmbedderNetwork

    backbone = build_backbone(config.backbone)
    return EmbedderNetwork(backbone, embedding=config.embedding, pooling=config.pooling)
