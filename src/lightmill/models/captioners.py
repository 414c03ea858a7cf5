"""Captioners of transformers, by the names that `--model` gives them; nothing is loaded here."""

from typing import TYPE_CHECKING, Literal, get_args

from lightmill.errors import UsageError

if TYPE_CHECKING:
    from lightmill.models.kinds import Captioner

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]


def open_captioner(
    name: str,
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
    dtype: DType = "auto",
    quantize: Quantize | None = None,
) -> "Captioner":
    """The model `name`, a folder or a hub id of any image-text-to-text or image-to-text model of transformers.

    `max_tokens`: at most that many are generated for a picture. `temperature`: 0 takes the likeliest token each time;
    above it tokens are drawn, with each picture's own seed, from all of them, or from the `top_k` likeliest, or from
    the likeliest that together have the probability `top_p`. `repetition_penalty`: above 1 makes tokens that were there
    less likely (None: what the model's own configuration says, often 1). `dtype`: of the weights; `auto` is float32 on
    the CPU and bfloat16, or else float16, on a CUDA device. `quantize`: weights in 4 or 8 bits, with bitsandbytes.

    Raises UsageError for a value out of its range. What the name means is found out by `check`.
    """
    _check("--max-tokens", max_tokens, "1 or more", fits=max_tokens >= 1)
    _check("--temperature", temperature, "0 or more", fits=temperature >= 0)
    _check("--top-p", top_p, "above 0 and at most 1", fits=top_p is None or 0 < top_p <= 1)
    _check("--top-k", top_k, "1 or more", fits=top_k is None or top_k >= 1)
    penalised = repetition_penalty is None or repetition_penalty > 0
    _check("--repetition-penalty", repetition_penalty, "above 0", fits=penalised)
    _check("--dtype", dtype, f"one of {', '.join(get_args(DType))}", fits=dtype in get_args(DType))
    _check("--quantize", quantize, "4bit or 8bit", fits=quantize in (None, *get_args(Quantize)))
    if not temperature and (top_p is not None or top_k is not None):
        raise UsageError("--top-p and --top-k are of drawing; give --temperature as well, such as 0.6")
    from lightmill.models.sampling import Sampling
    from lightmill.models.vision_language import VisionLanguage

    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    return VisionLanguage(
        name,
        max_tokens=max_tokens,
        sampling=sampling,
        repetition_penalty=repetition_penalty,
        dtype=dtype,
        quantize=quantize,
    )


def _check(option: str, value: object, wanted: str, *, fits: bool) -> None:
    if not fits:
        raise UsageError(f"{option} is {wanted}, got {value}")
