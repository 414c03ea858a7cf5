"""Tiny models of random weights, saved as the published ones are: Marigold, Depth-Anything, CLIP.

One function a model; each writes a folder and returns it. Weights depend on the seed alone.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LCMScheduler,
    MarigoldIntrinsicsPipeline,
    MarigoldNormalsPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
)

LATENT = 4  # channels of a latent
# as the two published checkpoints have them in model_index.json
LIGHTING: dict[str, Any] = {
    "target_names": ["albedo", "shading", "residual"],
    "albedo": {"prediction_space": "linear", "up_to_scale": False},
    "shading": {"prediction_space": "linear", "up_to_scale": True},
    "residual": {"prediction_space": "linear", "up_to_scale": True},
}
APPEARANCE: dict[str, Any] = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
    "roughness": {"prediction_space": "linear", "up_to_scale": False},
    "metallicity": {"prediction_space": "linear", "up_to_scale": False},
}
WORDS = ["good", "light", "dark", "face", "a", "photo", "of"]


def save_marigold_normals(
    folder: Path, *, scheduler: str = "ddim", steps: int = 2, resolution: int = 32, full_z: bool = True
) -> Path:
    """A MarigoldNormalsPipeline; `scheduler`: ddim or lcm."""
    parts = _parts(folder, targets=1, scheduler=scheduler)
    pipeline = MarigoldNormalsPipeline(
        **parts,
        prediction_type="normals",
        use_full_z_range=full_z,
        default_denoising_steps=steps,
        default_processing_resolution=resolution,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_marigold_intrinsics(
    folder: Path, properties: dict[str, Any], *, scheduler: str = "ddim", steps: int = 2, resolution: int = 32
) -> Path:
    """A MarigoldIntrinsicsPipeline; `properties`: LIGHTING or APPEARANCE."""
    parts = _parts(folder, targets=len(properties["target_names"]), scheduler=scheduler)
    pipeline = MarigoldIntrinsicsPipeline(
        **parts,
        prediction_type="intrinsics",
        target_properties=properties,
        default_denoising_steps=steps,
        default_processing_resolution=resolution,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_depth_anything(folder: Path, *, metric: bool = False, max_depth: int = 20) -> Path:
    """A DepthAnythingForDepthEstimation on a DINOv2 backbone, for pictures of 70 px."""
    torch.manual_seed(3)
    backbone = Dinov2Config(
        image_size=70,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="metric" if metric else "relative",
        max_depth=max_depth if metric else 1,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    for weight in model.head.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # as drawn by the library the map is nearly 0 everywhere
    torch.nn.init.constant_(model.head.conv3.bias, 0.0 if metric else 2.0)  # relative: few pixels end at ReLU's 0
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "DPTImageProcessor",
        "do_resize": True,
        "size": {"height": 70, "width": 70},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": False,
        "size_divisor": None,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIPModel with a tokenizer of a few words, for pictures of 32 px."""
    torch.manual_seed(4)
    tokenizer = save_tokenizer(folder)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval().save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows letters and WORDS, with room for 12 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    merges = list(dict.fromkeys(merges))
    entries = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    vocab = {entry: place for place, entry in enumerate(dict.fromkeys([*entries, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=12)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _parts(folder: Path, *, targets: int, scheduler: str) -> dict[str, Any]:
    """What every Marigold pipeline is made of."""
    torch.manual_seed(7)
    vae = AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=4,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT * (1 + targets),
        out_channels=LATENT * targets,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
        cross_attention_dim=16,
    )
    tokenizer = save_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    made = DDIMScheduler if scheduler == "ddim" else LCMScheduler
    return {
        "vae": vae.eval(),
        "unet": unet.eval(),
        "scheduler": made(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
    }
