"""Backbones of embedders: models of transformers that turn a batch of crops into a map of features.

`--backbone` names one in three ways: `random:NAME`, a small one of `RANDOM` with weights yet to be learnt; a folder in
the layout of transformers; or a hub id. Only models of the types in `TYPES` are made, and only from settings that
`backbone_config` has looked at, so a config.json from elsewhere can neither run code nor ask for absurd sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from lightmill.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

Triple = tuple[float, float, float]

CONVOLUTIONAL = "convnext", "convnextv2", "mobilenet_v2", "regnet", "resnet"  # they give maps
TRANSFORMER = "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "vit"  # they give tokens
TYPES = (*CONVOLUTIONAL, *TRANSFORMER)

_BASIC = {"layer_type": "basic", "embedding_size": 32, "hidden_sizes": [32, 64, 128, 256]}
# `random:NAME`: type and settings; what is left out is as transformers has it
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet-tiny": ("resnet", _BASIC | {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1] * 4}),
    "resnet10-slim": ("resnet", _BASIC | {"depths": [1] * 4}),
    "resnet18-slim": ("resnet", _BASIC | {"depths": [2] * 4}),
    "resnet18": ("resnet", _BASIC | {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4}),
    "resnet50": ("resnet", {}),
    "convnext-tiny": ("convnext", {}),
    "dinov2-small": ("dinov2", {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}),
}

_MAX_NUMBER = 1 << 20  # of any setting: the largest embedding tables have some 100,000 rows
_MAX_LAYERS = 1024
_LAYERS = "depths", "num_hidden_layers", "num_layers", "num_stages"
# what makes transformers fetch something, run code or report more than is used
_NEVER = (
    "_name_or_path",
    "auto_map",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone with its weights, and the colours that it wants to see."""

    model: "torch.nn.Module"  # of transformers, float32, on the CPU
    settings: dict[str, Any]  # what `backbone_config` makes its configuration of
    mean: Triple  # of sRGB levels as 0..1
    std: Triple


def open_backbone(name: str) -> Backbone:
    """The backbone that `name` means: `random:NAME`, a folder or a hub id. Random weights come from torch's generator.

    Raises UsageError for a name of no random backbone, ModelError for a model that is no backbone here, and as
    `lightmill.models.hub.find_model`.
    """
    from lightmill.models.hub import need_transformers
    from lightmill.models.pixels import IMAGENET_MEAN, IMAGENET_STD

    if not name.startswith("random:"):
        return _stored(name)
    need_transformers()
    kind, settings = _random(name.removeprefix("random:"))
    settings = {"model_type": kind, **settings}
    return Backbone(build_backbone(settings), settings, IMAGENET_MEAN, IMAGENET_STD)


def build_backbone(settings: Mapping[str, Any]) -> "torch.nn.Module":
    """A backbone of random weights, float32. Raises ModelError for settings that no backbone here has."""
    from transformers import AutoModel

    config = backbone_config(settings)
    try:
        made: torch.nn.Module = without_pooler(AutoModel.from_config(config, trust_remote_code=False).float())
        return made
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError, IndexError) as error:
        raise ModelError(f"no backbone can be made of these settings: {_first_line(error)}") from error


def backbone_config(settings: Mapping[str, Any]) -> Any:
    """The configuration of transformers that `settings` (its `model_type` and what differs from that) describe.

    Raises ModelError for a type that is not in `TYPES` and for numbers that no such model has.
    """
    from transformers import AutoConfig

    kind = settings.get("model_type")
    if kind not in TYPES:
        raise ModelError(f"a model of type {kind or 'unknown'} is no backbone here; those are {', '.join(TYPES)}")
    for key, value in settings.items():
        _check_size(key, value)
    kept = {key: value for key, value in settings.items() if key != "model_type" and key not in _NEVER}
    try:
        return AutoConfig.for_model(str(kind), **kept)
    except Exception as error:  # transformers and its validators have errors of their own
        raise ModelError(f"no {kind} has these settings: {_first_line(error)}") from error


def channels_of(backbone: "torch.nn.Module") -> int:
    """How many features a backbone gives for each place of its map."""
    config: Any = backbone.config
    sizes = getattr(config, "hidden_sizes", None)
    if config.model_type == "mobilenet_v2":  # its last convolution, whose width follows from other settings
        return int(backbone.conv_1x1.convolution.out_channels)  # type: ignore[union-attr, arg-type]  # a submodule
    return int(sizes[-1] if sizes else config.hidden_size)


def feature_map(backbone: "torch.nn.Module", pixels: "torch.Tensor") -> "torch.Tensor":
    """[B, 3, h, w], normalised -> the last features as a map [B, C, h', w'], whatever the backbone."""
    config: Any = backbone.config
    more = {"interpolate_pos_encoding": True} if config.model_type == "vit" else {}
    hidden: torch.Tensor = backbone(pixel_values=pixels, **more).last_hidden_state
    if hidden.ndim == 4:
        return hidden
    patch = getattr(config, "patch_size", None) or 32  # a ConvNeXt halves five times
    high, wide = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    tokens = hidden[:, 1 + getattr(config, "num_register_tokens", 0) :]  # the first tokens stand for no place
    # not `reshape`: of that, a tracer for ONNX writes down the features of the one picture that it sees
    found: torch.Tensor = tokens.transpose(1, 2).unflatten(2, (high, wide))  # type: ignore[no-untyped-call]  # torch's
    return found


def without_pooler(model: Any) -> Any:
    """The same model without a pooler that has weights: its answer is not looked at."""
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None
    return model


class _Headless:
    """What loads a backbone for `load_weights`: weights of a pooler may be missing, as nothing looks at it."""

    @staticmethod
    def from_pretrained(folder: Any, **options: Any) -> Any:
        from transformers import AutoModel

        model, info = AutoModel.from_pretrained(folder, **options)
        missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
        return without_pooler(model), {**info, "missing_keys": missing}


def _stored(name: str) -> Backbone:
    from lightmill.models.hub import find_model
    from lightmill.models.weights import load_weights

    found = find_model(name)
    try:
        backbone_config(found.config)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    mean, std = _colours(found.folder)
    model = load_weights(_Headless, found, "cpu").float().train()
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in _NEVER}
    return Backbone(model, settings, mean, std)


def _colours(folder: Any) -> tuple[Triple, Triple]:
    """Mean and standard deviation as the folder's pre-processing has them; ImageNet's where it has none."""
    from lightmill.models.pixels import IMAGENET_MEAN, IMAGENET_STD, read_pixel_spec

    names = "preprocessor_config.json", "processor_config.json"
    if not any((folder / name).is_file() for name in names):
        return IMAGENET_MEAN, IMAGENET_STD
    spec = read_pixel_spec(folder, defaults={"size": {"height": 224, "width": 224}})
    return spec.mean, spec.std


def _random(name: str) -> tuple[str, dict[str, Any]]:
    if name not in RANDOM:
        near = get_close_matches(name, RANDOM, n=1, cutoff=0)[0]
        raise UsageError(f"no random backbone {name!r}; did you mean {near}? There are {', '.join(RANDOM)}")
    return RANDOM[name]


def _check_size(key: str, value: Any) -> None:
    """Refuses what would take the memory of the machine, or hours, to build."""
    most = _MAX_LAYERS if key in _LAYERS else _MAX_NUMBER
    if isinstance(value, Mapping):
        for inner, content in value.items():
            _check_size(str(inner), content)
    elif isinstance(value, (list, tuple)):
        if len(value) > _MAX_LAYERS:
            raise ModelError(f"{key} has {len(value)} entries, and {_MAX_LAYERS} are the most")
        for content in value:
            _check_size(key, content)
    elif isinstance(value, (int, float)) and not -most <= value <= most:
        raise ModelError(f"{key} is {value}, and {most} is the most")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
