import gc
import json
import pickle
import shutil
import weakref
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pictures
from tests.models.tiny_captioners import CHAT, CLIP_PIXELS, SAVED, ends_with, quiet, save_llava
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from lightmill.engine.buffers import free_memory_bytes
from lightmill.errors import MissingExtra, ModelError, UsageError
from lightmill.models.captioners import open_captioner
from lightmill.models.hub import find_model
from lightmill.models.kinds import Answer, Ask
from lightmill.models.processors import DEFAULT_PROMPT, Preparer, groups, merged
from lightmill.models.sampling import Picker, Sampling, drawn

TOKENS = 8
GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": TOKENS}
SIZES = (40, 60), (70, 30), (33, 33), (64, 48), (90, 120), (32, 100), (50, 50), (120, 40)
PROMPTS = "", "a cat", "what is it", "a much longer prompt than the others have", "dog", "a cat", "x", "two words"
TASKS = (
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "",
    "<CAPTION>",
    "what is it",
    "<OCR>",
    "<MORE_DETAILED_CAPTION>",
    "<CAPTION>",
)


def pictures() -> list[np.ndarray]:
    """Eight that differ in size, colour and texture."""
    made = []
    for seed, (height, width) in enumerate(SIZES):
        random = np.random.default_rng(seed)
        across = np.linspace(0, 1, width)[None, :, None] * random.integers(0, 256, 3)
        noise = random.integers(-40, 40, (height, width, 3))
        made.append((across + noise + random.integers(0, 100, 3)).clip(0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {kind: save(root / kind) for kind, save in SAVED.items()}


@pytest.fixture(autouse=True)
def numbers_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM's processor wants num2words, for the frames of videos only; which is not installed here."""
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)


def loaded(folder: Path, **options: Any) -> Any:
    model = open_captioner(str(folder), **{"max_tokens": TOKENS} | options)
    model.check("cpu")
    model.load("cpu")
    return model


@cache
def greedy(folder: Path) -> Any:
    """As `loaded` without options; shared, since a call leaves nothing behind."""
    return loaded(folder)


def asks(prompts: Sequence[str], *, seed: int = 0) -> list[Ask]:
    return [Ask(prompt, seed + number) for number, prompt in enumerate(prompts)]


def prompts_of(kind: str) -> Sequence[str]:
    return TASKS if kind == "florence2" else PROMPTS


# what transformers says, one picture at a time


@cache
def model_of(folder: Path) -> Any:
    with quiet():
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    model.generation_config.forced_eos_token_id = None
    return model


@cache
def processor_of(folder: Path) -> Any:
    with quiet():
        return transformers.AutoProcessor.from_pretrained(folder)


@cache
def tokenizer_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def generated(folder: Path, inputs: dict[str, Any], **more: Any) -> torch.Tensor:
    """The whole of what transformers' own `generate` gives, greedy."""
    with torch.inference_mode(), quiet():
        return model_of(folder).generate(**inputs, **GREEDY, **more)[0]


def words(folder: Path, tokens: torch.Tensor) -> str:
    return tokenizer_of(folder).decode(tokens, skip_special_tokens=True).strip()


def by_processor(folder: Path, picture: Any, prompt: str) -> str:
    """BLIP, BLIP-2 and Florence-2 as their pages show: processor, generate, decode; less the words of the prompt."""
    processor = processor_of(folder)
    florence = type(processor).__name__ == "Florence2Processor"
    text = (prompt or "<MORE_DETAILED_CAPTION>") if florence else (prompt or None)
    said = words(folder, generated(folder, dict(processor(images=picture, text=text, return_tensors="pt"))))
    return said if florence else said.removeprefix(prompt).strip()


def by_git(folder: Path, picture: Any, prompt: str) -> str:
    """GIT as its page shows: the prompt begins with [CLS] and has no end."""
    processor = processor_of(folder)
    inputs = dict(processor(images=picture, return_tensors="pt"))
    if prompt:
        letters = processor.tokenizer(prompt, add_special_tokens=False).input_ids
        inputs["input_ids"] = torch.tensor([[processor.tokenizer.cls_token_id, *letters]])
    return words(folder, generated(folder, inputs)).removeprefix(prompt).strip()


def by_chat(folder: Path, picture: Any, prompt: str) -> str:
    """LLaVA as its page shows: processor.apply_chat_template with the picture in it."""
    processor = processor_of(folder)
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": prompt or DEFAULT_PROMPT}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": parts}], **how)
    return words(folder, generated(folder, dict(inputs))[inputs["input_ids"].shape[1] :])


def by_hand(folder: Path, text: str, inputs: dict[str, Any]) -> str:
    tokens = tokenizer_of(folder)(text, return_tensors="pt")
    said = generated(folder, {**tokens, **inputs})
    return words(folder, said[tokens.input_ids.shape[1] :])


def by_qwen(folder: Path, picture: Any, prompt: str) -> str:
    """The processor cannot be made without torchvision, so the turn is written out: a token for each four patches."""
    pixels = Qwen2VLImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")
    _, rows, columns = pixels["image_grid_thw"][0].tolist()
    places = "<|image_pad|>" * (rows * columns // 4)
    text = f"USER: <|vision_start|>{places}<|vision_end|>{prompt or DEFAULT_PROMPT} ASSISTANT:"
    ids = tokenizer_of(folder)(text).input_ids
    place = tokenizer_of(folder).convert_tokens_to_ids("<|image_pad|>")
    types = torch.tensor([[int(token == place) for token in ids]])
    return by_hand(folder, text, {**pixels, "mm_token_type_ids": types})


def by_smolvlm(folder: Path, picture: Any, prompt: str) -> str:
    """Likewise: tiles row by row, then the whole picture."""
    processor = SmolVLMImageProcessorPil.from_pretrained(folder)
    pixels = processor([[picture]], return_tensors="pt", return_row_col_info=True)
    (rows,), (columns,) = pixels.pop("rows")[0], pixels.pop("cols")[0]
    tile = "<image>" * 4
    around = "<fake_token_around_image>"
    text = "".join(
        "".join(f"{around}<row_{row + 1}_col_{column + 1}>{tile}" for column in range(columns)) + "\n"
        for row in range(rows)
    )
    text += ("\n" if rows else "") + f"{around}<global-img>{tile}{around}"
    return by_hand(folder, f"<s>USER: {text}{prompt or DEFAULT_PROMPT} ASSISTANT:", dict(pixels))


def by_picture(folder: Path, picture: Any, prompt: str) -> str:
    """A vision-encoder-decoder as its page shows; it takes no words."""
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt")
    return words(folder, generated(folder, dict(pixels)))


ORACLES = {
    "blip": by_processor,
    "git": by_git,
    "blip-2": by_processor,
    "llava": by_chat,
    "florence2": by_processor,
    "qwen2_vl": by_qwen,
    "smolvlm": by_smolvlm,
    "vision-encoder-decoder": by_picture,
}


LESS_USED = "git", "vision-encoder-decoder"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LESS_USED else kind for kind in SAVED]
)
def test_captions_are_those_of_transformers_alone_and_in_a_batch(kind: str, folders: dict[str, Path]) -> None:
    images, prompts = pictures(), prompts_of(kind)
    expected = [
        ORACLES[kind](folders[kind], Pictures.fromarray(image), prompt)
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert len(set(expected)) >= 5  # they depend on pictures and prompts
    model = greedy(folders[kind])
    together = model(images, asks(prompts))
    assert [answer.text for answer in together] == expected
    for place in (0, 3, 4):
        assert model([images[place]], [asks(prompts)[place]]) == [together[place]]


@pytest.mark.parametrize("kind", ["blip", "llava", "florence2"])
def test_captions_are_those_of_the_pipeline(kind: str, folders: dict[str, Path]) -> None:
    """In a batch of 8, but for chats, of which the pipeline takes one at a time where a tokenizer pads on the right."""
    images, prompt = pictures(), {"blip": "a cat", "llava": "what is it", "florence2": "<CAPTION>"}[kind]
    shown = [Pictures.fromarray(image) for image in images]
    with quiet():
        pipe = transformers.pipeline(
            "image-text-to-text", model=model_of(folders[kind]), processor=processor_of(folders[kind])
        )
        how: dict[str, Any] = {"return_full_text": False, "generate_kwargs": GREEDY}
        if kind == "llava":
            parts = [[{"type": "image", "image": one}, {"type": "text", "text": prompt}] for one in shown]
            said = [pipe([{"role": "user", "content": content}], **how)[0] for content in parts]
        else:
            said = pipe(images=shown, text=[prompt] * 8, **how)
    expected = [one["generated_text"].strip() for one in said]
    assert [answer.text for answer in greedy(folders[kind])(images, asks([prompt] * 8))] == expected


@pytest.mark.parametrize("kind", ["blip", "blip-2", "llava", "florence2"])
def test_an_answer_without_an_end_is_cut_off(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A token that the model says on its way is made the one that ends; what comes before it is the answer."""
    image, ask = pictures()[3], asks(prompts_of(kind)[3:4])
    model = greedy(folders[kind])
    free, tokens = model([image], ask)[0], said_by(model, image, ask[0].prompt)
    assert free.cut_off
    assert free.tokens == len(tokens) == TOKENS
    ended = loaded(ends_with(shutil.copytree(folders[kind], tmp_path / kind), tokens[5]))([image], ask)[0]
    first = tokens.index(tokens[5])
    assert ended.tokens == first
    assert not ended.cut_off
    just = loaded(tmp_path / kind, max_tokens=first + 1)([image], ask)[0]  # the end is the last that fits
    assert just == ended


def said_by(model: Any, image: np.ndarray, prompt: str) -> list[int]:
    """The tokens of an answer."""
    picker = Picker([0], Sampling())
    (tokens,) = model._generated(merged([model._prepare(image, prompt)], pad_token=0), picker)
    return tokens[picker.start :]


def test_pictures_are_drawn_for_with_seeds_of_their_own(folders: dict[str, Path]) -> None:
    images, prompts = pictures()[:5], PROMPTS[:5]
    folder = folders["llava"]
    model = loaded(folder, temperature=1.5, top_k=40, top_p=0.95)
    together = model(images, asks(prompts, seed=7))
    alone = [model([image], [ask])[0] for image, ask in zip(images, asks(prompts, seed=7), strict=True)]
    assert alone == together
    assert model(images[::-1], asks(prompts, seed=7)[::-1])[::-1] == together
    likeliest = greedy(folder)(images, asks(prompts))
    for other in (model(images, asks(prompts, seed=1007)), likeliest):
        assert all(one != another for one, another in zip(together, other, strict=True))
    assert loaded(folder, temperature=1.5, top_k=1)(images, asks(prompts, seed=7)) == likeliest


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    scores = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)) * 2
    shares = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for sampling in (
        Sampling(temperature=1.0),
        Sampling(temperature=0.6, top_p=0.9),
        Sampling(temperature=2.0, top_k=5),
        Sampling(temperature=1.3, top_k=12, top_p=0.7),
    ):
        expected = TemperatureLogitsWarper(sampling.temperature)(None, scores)
        if sampling.top_k is not None:
            expected = TopKLogitsWarper(sampling.top_k)(None, expected)
        if sampling.top_p is not None:
            expected = TopPLogitsWarper(sampling.top_p)(None, expected)
        chosen = drawn(scores.expand(20_000, -1), shares, sampling)[:, 0]
        often = torch.bincount(chosen, minlength=30) / 20_000
        torch.testing.assert_close(often, expected.softmax(-1)[0], atol=1e-4, rtol=0)


def test_the_ends_of_the_draw_stay_inside_what_may_be_drawn() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 3.0, -torch.inf]])
    for share, token in ((0.0, 2), (1 - 2**-53, 0)):
        assert drawn(scores, torch.tensor([share], dtype=torch.float64), Sampling(temperature=1.0)).item() == token
    only = Sampling(temperature=1.0, top_p=1e-9)
    assert drawn(scores, torch.tensor([1 - 2**-53], dtype=torch.float64), only).item() == 2


def test_repetition_is_penalised_as_transformers_does(folders: dict[str, Path]) -> None:
    image, folder = pictures()[0], folders["blip-2"]
    processor = processor_of(folder)
    inputs = dict(processor(images=Pictures.fromarray(image), text="a cat", return_tensors="pt"))
    expected = words(folder, generated(folder, inputs, repetition_penalty=5.0))
    answer = loaded(folder, repetition_penalty=5.0)([image], asks(["a cat"]))[0]
    assert "a cat" + answer.text == expected.replace("a cat ", "a cat")
    assert answer != greedy(folder)([image], asks(["a cat"]))[0]


def test_rows_of_one_batch_differ_little_in_length_and_not_in_shape() -> None:
    def row(length: int, *, size: int = 4) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.full((1, length), length), "pixel_values": torch.zeros(1, 3, size, size)}

    rows = [row(9), row(30), row(5), row(10), row(9, size=8), row(11)]
    assert sorted(groups(rows, pads=True)) == [[1], [2, 0, 3], [4], [5]]  # 11 is more than twice 5
    assert sorted(sorted(group) for group in groups(rows, pads=False)) == [[0], [1], [2], [3], [4], [5]]
    batch = merged([rows[2], rows[0]], pad_token=1)
    assert batch["input_ids"].tolist() == [[1] * 4 + [5] * 5, [9] * 9]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_pictures_are_squashed_with_the_kernel_that_the_folder_names(kernel: int, tmp_path: Path) -> None:
    """1 is Lanczos, as JoyCaption wants it: the square of a picture, whatever its shape, by Pillow itself."""
    folder = save_llava(tmp_path / "llava")
    pixels = CLIP_PIXELS | {"image_processor_type": "SiglipImageProcessor", "resample": kernel}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), "utf-8")
    image = pictures()[4]
    expected = np.asarray(Pictures.fromarray(image).resize((32, 32), kernel), np.float32) / 255
    shown = Preparer(find_model(str(folder)))(image, "a cat")["pixel_values"]
    np.testing.assert_allclose(shown[0].permute(1, 2, 0).numpy(), (expected - 0.5) / 0.5, atol=1e-6)


WORDS_ONLY = "{{ bos_token }}{% for m in messages %}<image>\n{{ m['content'] | trim }}{% endfor %} SAY:"
NO_PICTURE = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{% endfor %} SAY:"


@pytest.mark.parametrize("template", [WORDS_ONLY, NO_PICTURE])
def test_templates_of_plain_words_are_given_plain_words(template: str, tmp_path: Path) -> None:
    """One places the picture by itself, the other leaves it to the caller: both come to the same tokens."""
    folder = save_llava(tmp_path / "llava", template=template)
    prepare = Preparer(find_model(str(folder)))
    text = prepare.tokenizer.decode(prepare(pictures()[0], "a 'type' of cat")["input_ids"][0])
    assert text == "<s>" + "<image>" * 16 + "\na 'type' of cat SAY:"


def test_a_model_that_cannot_be_asked_about_a_picture_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path / "llava")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('not today') }}", "utf-8")
    with pytest.raises(ModelError, match=r"cannot be asked about a picture: its chat template .* not today"):
        open_captioner(str(folder)).check("cpu")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"it has no chat template .*, and its processor does not place one"):
        open_captioner(str(folder)).check("cpu")


def test_what_is_no_captioner_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path / "llava")

    def said(**config: Any) -> str:
        path = folder / "config.json"
        path.write_text(json.dumps(config), "utf-8")
        with pytest.raises(ModelError) as caught:
            open_captioner(str(folder)).check("cpu")
        return str(caught.value)

    assert "no captioner that transformers knows (its type is sam3)" in said(model_type="sam3")
    assert "code of its own, which is never run" in said(model_type="moondream1", auto_map={"AutoModel": "x.Y"})
    assert "florence-community/Florence-2-base" in said(model_type="florence2", vision_config={"model_type": "davit"})
    assert "florence2" in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def test_what_a_processor_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("torchvision") is None:
        folder = save_llava(tmp_path / "llava")
        pixels = CLIP_PIXELS | {"image_processor_type": "Llama4ImageProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels), "utf-8")
        with pytest.raises(MissingExtra, match="with torchvision; run: pip install torchvision"):
            open_captioner(str(folder)).check("cpu")
    # as where it is not installed
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    monkeypatch.setattr("lightmill.models.processors.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"type smolvlm .* with num2words; run: pip install num2words"):
        open_captioner(str(SAVED["smolvlm"](tmp_path / "smolvlm"))).check("cpu")


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    folder = save_llava(tmp_path / "llava")
    (folder / "preprocessor_config.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"the processor of .* cannot be read: .* get the model once more"):
        open_captioner(str(folder)).check("cpu")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer.json\)"):
        open_captioner(str(folder)).check("cpu")


def test_weights_are_measured_as_they_will_be(tmp_path: Path) -> None:
    """Half of the free memory holds weights of 16 bits once with room, and not those of 32."""
    folder = save_llava(tmp_path / "llava")
    config = json.loads((folder / "config.json").read_text("utf-8")) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with (folder / "more.safetensors").open("wb") as sparse:
        sparse.truncate(free_memory_bytes() // 2)
    with pytest.raises(ModelError, match=r"needs about .* GiB in this machine's memory"):
        open_captioner(str(folder)).check("cpu")
    open_captioner(str(folder), dtype="bfloat16").check("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="torch finds no CUDA device for cuda; give --device cpu"):
        open_captioner(str(save_llava(tmp_path / "llava"))).check("cuda")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantizing_needs_bitsandbytes(folders: dict[str, Path]) -> None:
    with pytest.raises(MissingExtra, match=r"--quantize 4bit needs bitsandbytes.* pip install bitsandbytes accelerate"):
        open_captioner(str(folders["llava"]), quantize="4bit").check("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "--max-tokens is 1 or more, got 0"),
        ({"temperature": -1.0}, "--temperature is 0 or more, got -1.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "--top-p is above 0 and at most 1, got 1.5"),
        ({"temperature": 1.0, "top_k": 0}, "--top-k is 1 or more, got 0"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty is above 0, got 0.0"),
        ({"dtype": "int8"}, "--dtype is one of auto, float32, bfloat16, float16, got int8"),
        ({"quantize": "2bit"}, "--quantize is 4bit or 8bit, got 2bit"),
        ({"top_p": 0.9}, "give --temperature as well"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_captioner("org/name", **options)


def test_weights_are_held_in_the_numbers_asked_for(folders: dict[str, Path]) -> None:
    images, folder = pictures()[:2], folders["llava"]
    model = loaded(folder, dtype="bfloat16")
    assert {weights.dtype for weights in model._model.parameters()} == {torch.bfloat16}
    assert all(answer.tokens for answer in model(images, asks(PROMPTS[:2])))
    assert {weights.dtype for weights in greedy(folder)._model.parameters()} == {torch.float32}


def test_unloaded_it_is_gone_and_can_be_pickled(folders: dict[str, Path]) -> None:
    model = loaded(folders["blip"])
    before = model(pictures()[:1], asks([""]))
    weights = weakref.ref(model._model)
    model.unload()
    gc.collect()
    assert weights() is None
    with pytest.raises(RuntimeError, match="was called before it was loaded"):
        model(pictures()[:1], asks([""]))
    other = pickle.loads(pickle.dumps(model))
    other.load("cpu")
    assert other(pictures()[:1], asks([""])) == before
    assert model.version == find_model(str(folders["blip"])).version
    assert model.on_device


def test_nothing_asked_is_nothing_answered(folders: dict[str, Path]) -> None:
    model = greedy(folders["llava"])
    assert model([], []) == []
    with pytest.raises(ValueError, match="zip"):
        model(pictures()[:2], asks(["a cat"]))


def test_florence_names_the_regions_that_it_finds(folders: dict[str, Path]) -> None:
    from lightmill.models.florence import has_regions, labels_in

    processor = Preparer(find_model(str(folders["florence2"]))).processor
    found = "<s>dog<loc_1><loc_2><loc_30><loc_40>cat<loc_5><loc_6><loc_70><loc_80><loc_1><loc_1><loc_9><loc_9></s>"
    assert has_regions(processor, "<OD>")
    assert not has_regions(processor, "<CAPTION>")
    assert labels_in(processor, found, task="<OD>", size_hw=(30, 40)) == "dog, cat"
    answer = greedy(folders["florence2"])(pictures()[:1], asks(["<OD>"]))[0]
    assert answer == Answer("", tokens=TOKENS, cut_off=True)  # it says no places, so nothing was found


def test_the_prompt_of_a_chat_is_framed_by_the_template(folders: dict[str, Path]) -> None:
    assert "ASSISTANT:" in CHAT
    prepare = Preparer(find_model(str(folders["llava"])))
    row = prepare(pictures()[0], "")
    assert prepare.tokenizer.decode(row["input_ids"][0]) == (
        "<s>USER: " + "<image>" * 16 + f"\n{DEFAULT_PROMPT} ASSISTANT:"
    )
