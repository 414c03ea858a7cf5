"""Tiny captioners with random weights, saved to a folder as transformers saves real ones: one function a family."""

import json
from pathlib import Path
from typing import Any

import transformers
from tests.models.tiny import quiet, saved
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CLIP_PIXELS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"height": 32, "width": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_BYTES = "Ġ", "Ċ", *map(chr, range(33, 127))  # space, new line and the rest of ASCII, as tokenizers of bytes write them
_SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def byte_tokenizer(folder: Path, *specials: str, **named: Any) -> dict[str, int]:
    """A tokenizer of ASCII, a letter a token, after <s>, <pad>, </s> and `specials`; returns its vocabulary."""
    tokens = ["<s>", "<pad>", "</s>", *specials, *_BYTES]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", *specials])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", **named
    ).save_pretrained(folder)
    return vocabulary


def bert_tokenizer(folder: Path) -> dict[str, int]:
    """A tokenizer of letters, as BLIP and GIT have one of words: each letter begins a word or goes on with one."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789."
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return vocabulary


def _names(folder: Path, file: str, **settings: Any) -> None:
    (folder / file).write_text(json.dumps(settings), "utf-8")


def save_blip(folder: Path) -> Path:
    """BlipForConditionalGeneration for pictures of 32 px."""
    known = bert_tokenizer(folder)
    start = len(known)  # [DEC], which the tokenizer does not know
    text = _SMALL | {"vocab_size": start + 1, "max_position_embeddings": 64, "encoder_hidden_size": 32}
    text |= {"bos_token_id": start, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    vision = _SMALL | {"image_size": 32, "patch_size": 8, "initializer_range": 0.02}
    config = transformers.BlipConfig(text_config=text, vision_config=vision)
    pixels = CLIP_PIXELS | {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    return saved(folder, lambda: transformers.BlipForConditionalGeneration(config), pixels, spread=4.0)


def save_git(folder: Path) -> Path:
    """GitForCausalLM for pictures of 32 px."""
    known = bert_tokenizer(folder)
    vision = _SMALL | {"image_size": 32, "patch_size": 8}
    config = transformers.GitConfig(
        vision_config=vision,
        vocab_size=len(known),
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        **_SMALL,
    )
    pixels = CLIP_PIXELS | {"processor_class": "GitProcessor"}
    return saved(folder, lambda: transformers.GitForCausalLM(config), pixels, spread=4.0)


def save_blip2(folder: Path) -> Path:
    """Blip2ForConditionalGeneration with an OPT that speaks, for pictures of 32 px and 4 query tokens."""
    known = byte_tokenizer(folder, "<image>")
    opt = {"model_type": "opt", "vocab_size": len(known), "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64}
    opt |= {"num_attention_heads": 2, "word_embed_proj_dim": 32, "max_position_embeddings": 128}
    config = transformers.Blip2Config(
        vision_config=_SMALL | {"image_size": 32, "patch_size": 8, "initializer_range": 0.02},
        qformer_config=_SMALL | {"encoder_hidden_size": 32, "vocab_size": 32},
        text_config=opt | {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
        num_query_tokens=4,
        image_token_index=known["<image>"],
    )
    pixels = CLIP_PIXELS | {"image_processor_type": "BlipImageProcessor"}
    _names(folder, "processor_config.json", processor_class="Blip2Processor", num_query_tokens=4)
    return saved(folder, lambda: transformers.Blip2ForConditionalGeneration(config), pixels, spread=4.0)


def save_llava(folder: Path, *, template: str | None = None) -> Path:
    """LlavaForConditionalGeneration (Llama and CLIP) for pictures of 32 px: 16 image tokens."""
    known = byte_tokenizer(folder, "<image>", extra_special_tokens={"image_token": "<image>"}, padding_side="right")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = transformers.LlavaConfig(
        vision_config=_SMALL | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        text_config=_SMALL | {"model_type": "llama", "vocab_size": len(known), "max_position_embeddings": 512} | ids,
        image_token_index=known["<image>"],
        vision_feature_layer=-2,
        **ids,
    )
    (folder / "chat_template.jinja").write_text(template or CHAT.replace("IMAGE", "<image>\n"), "utf-8")
    shape = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    _names(folder, "processor_config.json", processor_class="LlavaProcessor", image_token="<image>", **shape)
    return saved(folder, lambda: transformers.LlavaForConditionalGeneration(config), CLIP_PIXELS, spread=4.0)


def save_florence(folder: Path) -> Path:
    """Florence2ForConditionalGeneration for pictures of 64 px: 4 + 1 image tokens; asks for 3 beams."""
    known = byte_tokenizer(folder, "<image>", extra_special_tokens={"image_token": "<image>"})
    bart = {"model_type": "bart", "vocab_size": len(known), "d_model": 32, "max_position_embeddings": 256}
    bart |= {f"{side}_layers": 2 for side in ("encoder", "decoder")}
    bart |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    bart |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    stages: dict[str, Any] = {"depths": [1] * 4, "embed_dim": [16] * 4, "num_heads": [2] * 4, "num_groups": [2] * 4}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.Florence2Config(
        vision_config={**stages, "projection_dim": 32, "window_size": 4},
        text_config=bart | ids,
        image_token_id=known["<image>"],
        **ids,
    )
    pixels = CLIP_PIXELS | {"size": {"height": 64, "width": 64}, "image_seq_length": 5}
    parsing = {"pure_text": {}, "description_with_bboxes": {"PATTERN": None}}
    _names(folder, "processor_config.json", processor_class="Florence2Processor", post_processor_config=parsing)
    saved(folder, lambda: transformers.Florence2ForConditionalGeneration(config), pixels, spread=4.0)
    rules = {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "num_beams": 3, "early_stopping": True}
    _names(folder, "generation_config.json", **ids, **rules, no_repeat_ngram_size=3)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    """Qwen2VLForConditionalGeneration; patches of 8 px, four to an image token, so pictures differ in their tokens."""
    vision_tokens = {"<|vision_start|>": "vision_bos", "<|vision_end|>": "vision_eos"}
    known = byte_tokenizer(folder, *vision_tokens, "<|image_pad|>", "<|video_pad|>")
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2},
        text_config=_SMALL | {"vocab_size": len(known), "num_key_value_heads": 2, "rope_parameters": rope} | ids,
        image_token_id=known["<|image_pad|>"],
        video_token_id=known["<|video_pad|>"],
        vision_start_token_id=known["<|vision_start|>"],
        vision_end_token_id=known["<|vision_end|>"],
        **ids,
    )
    placed = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace("{{ bos_token }}", "")
    (folder / "chat_template.jinja").write_text(placed, "utf-8")
    pixels = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor", "patch_size": 8}
    pixels |= {"size": {"shortest_edge": 256, "longest_edge": 4096}}
    saved(folder, lambda: transformers.Qwen2VLForConditionalGeneration(config), pixels, spread=4.0)
    drawing = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05}
    _names(folder, "generation_config.json", **ids | {"eos_token_id": [2, 1]}, **drawing)  # as the real one
    return folder


def save_smolvlm(folder: Path) -> Path:
    """SmolVLMForConditionalGeneration; tiles of 32 px, 4 image tokens each, so pictures differ in their tiles."""
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    specials = "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>", *tiles
    known = byte_tokenizer(folder, *specials)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = transformers.SmolVLMConfig(
        vision_config=_SMALL | {"image_size": 32, "patch_size": 8},
        text_config=_SMALL | {"model_type": "llama", "vocab_size": len(known), "max_position_embeddings": 512} | ids,
        image_token_id=known["<image>"],
        scale_factor=2,
        **ids,
    )
    (folder / "chat_template.jinja").write_text(CHAT.replace("IMAGE", "<image>"), "utf-8")
    _names(folder, "processor_config.json", processor_class="SmolVLMProcessor", image_seq_len=4)
    pixels = {"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 64}}
    pixels |= {"max_image_size": {"longest_edge": 32}, "resample": 1}
    return saved(folder, lambda: transformers.SmolVLMForConditionalGeneration(config), pixels, spread=4.0)


def save_vit_gpt2(folder: Path) -> Path:
    """VisionEncoderDecoderModel of ViT and GPT-2 for pictures of 32 px: it takes no words."""
    known = byte_tokenizer(folder)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(image_size=32, patch_size=8, **_SMALL),
        transformers.GPT2Config(vocab_size=len(known), n_embd=32, n_layer=2, n_head=2, n_positions=64, **ids),
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    pixels = CLIP_PIXELS | {"image_processor_type": "ViTImageProcessor"}
    saved(folder, lambda: transformers.VisionEncoderDecoderModel(config=config), pixels, spread=4.0)
    _names(folder, "generation_config.json", **ids, decoder_start_token_id=0)
    return folder


def ends_with(folder: Path, token: int) -> Path:
    """Makes `token` the one that ends what the model in `folder` generates."""
    for file in ("generation_config.json", "config.json"):
        path = folder / file
        if path.is_file():
            settings = json.loads(path.read_text("utf-8"))
            settings |= {"eos_token_id": token} if file == "generation_config.json" else {}
            if "text_config" in settings:  # BLIP and BLIP-2 have it there
                settings["text_config"] |= {"eos_token_id": token, "sep_token_id": token}
            path.write_text(json.dumps(settings), "utf-8")
    return folder


SAVED = {
    "blip": save_blip,
    "git": save_git,
    "blip-2": save_blip2,
    "llava": save_llava,
    "florence2": save_florence,
    "qwen2_vl": save_qwen2_vl,
    "smolvlm": save_smolvlm,
    "vision-encoder-decoder": save_vit_gpt2,
}
__all__ = ["CHAT", "CLIP_PIXELS", "SAVED", "ends_with", "quiet", "save_llava"]
