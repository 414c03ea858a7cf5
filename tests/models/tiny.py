"""Tiny models with random weights, saved to a folder as transformers saves real ones: one function a model."""

import __future__

import ast
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers
from transformers.utils import logging as reports

from lightmill.models.kinds import Image, Instances

torch.set_num_threads(1)  # models of this size gain nothing from more, and wait for them where the machine is busy

CLASSES = "wall", "person, human", "Sky", "tripod"


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and without remarks on vocabularies that are smaller than CLIP's."""
    level = reports.get_verbosity()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        reports.enable_progress_bar()


def saved(folder: Path, model: Callable[[], Any], pixels: dict[str, Any], *, spread: float = 0.0) -> Path:
    """The model that `model()` makes, with seed 0, and its pre-processing, in `folder`; weights times 1 + `spread`."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        made = model().eval()
        with torch.no_grad():
            for weights in made.parameters():
                weights.mul_(1 + spread)
        made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), "utf-8")
    return folder


def clip_tokenizer(folder: Path) -> Path:
    """A tokenizer of CLIP's kind that knows every byte, its end-of-word twin, and the word `person`; 519 tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = ["pe", "per", "pers", "perso", "person</w>"]
    merges = [("p", "e"), ("pe", "r"), ("per", "s"), ("pers", "o"), ("perso", "n</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    return folder


def sam3(folder: Path) -> Path:
    """Sam3Model for pictures of 112 px, masks of 32 px, 10 queries."""
    small: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2}
    layers = small | {"num_layers": 1, "intermediate_size": 64}
    vit = {"model_type": "sam3_vit_model", "num_hidden_layers": 2, "intermediate_size": 64, "image_size": 112}
    vit |= small | {"window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56}
    text = small | {"model_type": "clip_text_model", "vocab_size": 520, "intermediate_size": 64, "projection_dim": 16}
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": vit,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=text
        | {"num_hidden_layers": 1, "max_position_embeddings": 32, "bos_token_id": 517, "eos_token_id": 518},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {"num_layers": 2, "num_queries": 10},
        mask_decoder_config=small,
    )
    pixels: dict[str, Any] = {"size": {"height": 112, "width": 112}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    clip_tokenizer(folder)
    return saved(folder, lambda: transformers.Sam3Model(config), pixels, spread=2.0)


def sam2_config(kind: type[Any] = transformers.Sam2Config, **more: Any) -> Any:
    """Of a SAM 2 for pictures of 128 px and masks of 32 px."""
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [128, 128],
        "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [2],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": hiera,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    return kind(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        **more,
    )


def sam2(folder: Path) -> Path:
    """Sam2Model for pictures of 128 px."""
    pixels = {"image_processor_type": "Sam2ImageProcessor", "size": {"height": 128, "width": 128}}

    def model() -> Any:
        made = transformers.Sam2Model(sam2_config())
        for layers in made.mask_decoder.output_hypernetworks_mlps:
            layers.proj_out.weight.data.mul_(20)  # so that some masks are as clear-cut as a grid wants them
        return made

    return saved(folder, model, pixels, spread=4.0)


def segformer(folder: Path) -> Path:
    """SegformerForSemanticSegmentation for pictures of 64 px and the four CLASSES."""
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(CLASSES)),
    )
    pixels = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 64}}
    return saved(folder, lambda: transformers.SegformerForSemanticSegmentation(config), pixels, spread=4.0)


def _swin() -> Any:
    return transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, drop_path_rate=0.0
    )


def mask2former(folder: Path) -> Path:
    """Mask2FormerForUniversalSegmentation with 8 queries and the four CLASSES; sides from 64 px, multiples of 32."""
    swin = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=8,
        id2label=dict(enumerate(CLASSES)),
    )
    pixels = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 96}}
    return saved(
        folder,
        lambda: transformers.Mask2FormerForUniversalSegmentation(config),
        pixels | {"size_divisor": 32},
        spread=1.0,
    )


def maskformer(folder: Path) -> Path:
    """MaskFormerForInstanceSegmentation with 8 queries and the four CLASSES."""
    detr = transformers.DetrConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=8,
    )
    config = transformers.MaskFormerConfig(
        backbone_config=_swin(),
        decoder_config=detr,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=dict(enumerate(CLASSES)),
    )
    pixels = {"image_processor_type": "MaskFormerImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 96}}
    return saved(
        folder,
        lambda: transformers.MaskFormerForInstanceSegmentation(config),
        pixels | {"size_divisor": 32},
        spread=3.0,
    )


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Image]:
    """Blotches of colour, uint8 [H, W, 3], one for each (H, W)."""
    chance = np.random.default_rng(seed)
    blotches = [chance.normal(128, 80, (6, 8, 3)).astype(np.float32) for _ in sizes]
    return [
        np.clip(cv2.resize(blotch, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
        for blotch, (height, width) in zip(blotches, sizes, strict=True)
    ]


def processor_of(kind: str) -> Any:
    """The image processor of a model as transformers wrote it, for its post-processing, without torchvision.

    Its module imports torchvision, which is not there, for steps that post-processing does not take; so its functions
    and its class's methods are taken out of the source.
    """
    folder = Path(transformers.__file__).parent / "models" / kind
    tree = ast.parse((folder / f"image_processing_{kind}.py").read_text("utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("ImageProcessor")]
    methods = [node for made in classes for node in made.body if isinstance(node, ast.FunctionDef)]
    for node in (*functions, *methods):
        node.decorator_list = []
    body = ast.ClassDef("Processor", [], [], [node for node in methods if node.name != "__init__"], [], type_params=[])
    module = ast.fix_missing_locations(ast.Module([*functions, body], []))
    names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "np": np}
    exec(compile(module, kind, "exec", flags=__future__.annotations.compiler_flag), names)
    return names["Processor"]()


def overlap(first: Instances, second: Instances) -> float:
    """The lowest IoU of masks at the same place in two results of the same labels; 1 where both are empty."""
    assert first.labels == second.labels
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
    pairs = [(one >= 128, other >= 128) for one, other in zip(first.masks, second.masks, strict=True)]
    return min(((one & other).sum() / max((one | other).sum(), 1) for one, other in pairs if one.any()), default=1.0)
