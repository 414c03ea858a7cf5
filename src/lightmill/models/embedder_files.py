"""An embedder on the disk: a folder with `config.json` and `model.safetensors`, whole or not at all.

What is read from config.json is checked before anything is made of it, and the weights' names and shapes before they
are read, so a damaged or hostile folder ends in a ModelError that names the file.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightmill import __version__
from lightmill.engine.outputs import temporary_name, writing
from lightmill.errors import ModelError

if TYPE_CHECKING:
    from lightmill.models.embedder_network import EmbedderNetwork

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "lightmill-embedder"
_MOST_BYTES = 16 << 20  # of a config.json: one with 100,000 labels takes 3

Side = Annotated[int, Field(ge=8, le=4096)]
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
    from safetensors.torch import save

    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        growing = folder.parent / temporary_name(folder.name)
        shutil.rmtree(growing, ignore_errors=True)
        growing.mkdir()
        try:
            weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            (growing / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
            (growing / CONFIG).write_bytes(_as_json(config))
            _replace_folder(growing, folder)
        except BaseException:
            shutil.rmtree(growing, ignore_errors=True)
            raise


def update_config(folder: Path, config: EmbedderConfig) -> None:
    """Replaces config.json alone, at once: for thresholds that are chosen after the training."""
    with writing(folder):
        growing = folder / temporary_name(CONFIG)
        growing.write_bytes(_as_json(config))
        os.replace(growing, folder / CONFIG)


def read_config(folder: Path) -> EmbedderConfig:
    """What config.json says. Raises ModelError, naming it, where it is none of an embedder."""
    restore_folder(folder)
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has more than {_MOST_BYTES >> 20} MiB and is no embedder's")
        return EmbedderConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{folder} holds no embedder: {path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            f"{path} is not that of an embedder ({place}: {first['msg']}); "
            "give a folder that `lightmill train reid` made"
        ) from None


def load_network(folder: Path, config: EmbedderConfig | None = None) -> "EmbedderNetwork":
    """The network of a folder with its weights, on the CPU, in eval mode.

    Raises ModelError, naming the file, where the settings make no network or the weights do not fill it.
    """
    import torch
    from safetensors.torch import load_file

    config = config or read_config(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            network = make_network(config)
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from None
    path = folder / WEIGHTS
    _check_shapes(path, network)
    network.load_state_dict(load_file(path))
    return network.eval()


def make_network(config: EmbedderConfig) -> "EmbedderNetwork":
    """A network as `config` has it, with random weights. Raises ModelError for settings that make none."""
    from lightmill.models.backbones import build_backbone
    from lightmill.models.embedder_network import EmbedderNetwork

    backbone = build_backbone(config.backbone)
    return EmbedderNetwork(backbone, embedding=config.embedding, pooling=config.pooling)


def restore_folder(folder: Path) -> None:
    """Puts back what a process was replacing when it was killed between two renames."""
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def _replace_folder(growing: Path, folder: Path) -> None:
    """A folder that is not empty cannot be replaced at once: the old one steps aside for as long as one rename takes.

    Killed in between, the old one lies aside, whole; `restore_folder` puts it back.
    """
    aside = _aside(folder)
    restore_folder(folder)
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    growing.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.before"


def _check_shapes(path: Path, network: "EmbedderNetwork") -> None:
    """Raises ModelError where a file has not just the weights of a network; only its head is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({error}); get the embedder once more") from None
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
    if wrong:
        raise ModelError(
            f"{path} does not fill the network of its {CONFIG}: {wrong[0]} is {stored.get(wrong[0], 'missing')}, "
            f"wanted {wanted.get(wrong[0], 'none')} ({len(wrong)} in all)"
        )


def _as_json(config: EmbedderConfig) -> bytes:
    return (json.dumps(config.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n").encode()
