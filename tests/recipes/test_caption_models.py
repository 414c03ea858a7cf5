"""`caption` with models: loaded from folders by the real code, asked over HTTP, and a tagger beside them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import test_wd_tagger as tagger_models
from tests.models.test_openai_server import KEY, Reply, Server, colour_of, completion
from tests.models.tiny_captioners import ends_with, save_blip, save_florence, save_llava
from tests.recipes.conftest import Made

import lightmill
from lightmill.cli import run_command_line
from lightmill.errors import ModelError
from lightmill.models.captioners import open_captioner
from lightmill.models.kinds import Ask
from lightmill.recipes.caption_models import Wishes, for_another_try, open_by_name
from lightmill.recipes.captioning import Describe, Told


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Three pictures, each of one colour."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, colour in (("r", (250, 10, 10)), ("g", (10, 250, 10)), ("b", (10, 10, 250))):
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    return folder


def captions(out: Path) -> dict[str, list[dict[str, Any]]]:
    rows = map(json.loads, (out / "captions.jsonl").read_text("utf-8").splitlines())
    return {row["key"]: row["layers"] for row in rows}


def test_another_try_draws_with_the_weights_that_are_loaded(tmp_path: Path) -> None:
    """A model of random weights never comes to an end: every try is cut off, and every try says something else."""
    wishes = Wishes(max_tokens=8)
    model = open_by_name(str(save_blip(tmp_path / "blip")), wishes)
    describe = Describe(model, lambda one: for_another_try(one, wishes), retries=0, script="any")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    describe.load("cpu")

    def tried(retries: int) -> Told:
        again = Describe(model, lambda one: for_another_try(one, wishes), retries=retries, script="any")
        return again([pixels], [(Ask("", 7),)])[0][0]

    told = [tried(retries) for retries in range(3)]
    describe.unload()
    assert [one.tries for one in told] == [1, 2, 3]
    assert len({one.text for one in told}) == 3
    assert told[0].ask.seed == 7
    assert for_another_try(model, Wishes(temperature=1.0)) is model


@pytest.mark.parametrize("save", [save_blip, save_llava])
def test_models_of_folders_are_named_in_full_and_by_the_hash_of_their_weights(
    tmp_path: Path, squares: Path, save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What random weights say is no caption; each picture fails for itself, and says why."""
    save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    made = Made(lightmill.caption(squares, tmp_path / "out", model="model", max_tokens=6, retries=1, batch=2))
    assert {row["stage"] for row in made.rows.values()} <= {"caption", ""}
    assert made.result.failed + made.result.ok == 3
    config = json.loads((tmp_path / "out" / "report.json").read_text())
    assert str(tmp_path / "model") in json.dumps(config)


@pytest.mark.parametrize(("save", "prompt"), [(save_llava, "What is {name}?"), (save_florence, "<CAPTION>")])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_models_by_the_command_line_say_what_they_say_by_themselves(
    tmp_path: Path, squares: Path, save: Any, prompt: str, dtype: Any
) -> None:
    """A letter that the model says on its way is made the end; what comes before it is the caption."""
    folder = save(tmp_path / "model")
    model = open_captioner(str(folder), max_tokens=12, dtype=dtype)
    model.check("cpu")
    model.load("cpu")
    pixels = np.full((48, 64, 3), (250, 10, 10), np.uint8)
    free = model([pixels], [Ask(prompt.format(name="r"), 0)])[0].text
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    end = max("".join(free.split()), key=free.index)  # the last that was not there before
    ends_with(folder, vocabulary[end])
    wanted = free[: free.index(end)]
    assert len(wanted) > 2
    options = ["--model", folder, "--prompt", prompt, "--dtype", dtype, "--max-tokens", 12, "--retries", 0]
    options += ["--device", "cpu", "--script", "any", "--progress", "none"]
    arguments = ["caption", squares / "r.png", tmp_path / "out", *options]
    assert run_command_line([str(argument) for argument in arguments]) == 0
    ((layer,),) = captions(tmp_path / "out").values()
    assert layer["text"].split() == wanted.split()
    assert layer["origin"]["prompt"] == prompt.format(name="r")


def test_a_model_that_cannot_be_had_is_told_before_anything_is_written(tmp_path: Path, squares: Path) -> None:
    with pytest.raises(ModelError):
        lightmill.caption(squares, tmp_path / "out", model="openai:http://127.0.0.1:9/v1#none")
    assert not (tmp_path / "out").exists()


def test_a_server_is_asked_for_all_and_again_for_what_is_no_caption(
    tmp_path: Path, squares: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTMILL_OPENAI_KEY", KEY)

    def replies(asked: dict[str, Any], _: int) -> Reply | None:
        if colour_of(asked) == "green":
            return Reply(400, {"error": {"message": "no green here"}})
        if colour_of(asked) == "blue" and not asked.get("temperature"):
            return Reply(body=completion("I'm sorry, but I can't help with that."))
        return None

    server.replies = replies
    made = Made(
        lightmill.caption(squares, tmp_path / "out", model=f"openai:{server.url}#tiny-vl", prompt="What is {name}?")
    )
    found = captions(tmp_path / "out")
    assert {key: layers[0]["text"] for key, layers in found.items()} == {
        "b.png": "a blue square",
        "r.png": "a red square",
    }
    assert found["b.png"][0]["origin"]["tries"] == 2
    assert "no green here" in made.rows["g.png"]["error"]
    prompts = [one.asked["messages"][0]["content"][0]["text"] for one in server.seen if one.asked]
    assert set(prompts) == {"What is r?", "What is g?", "What is b?"}
    assert not any(KEY.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    server.replies = lambda *_: None
    assert run_command_line(["retry", str(tmp_path / "out"), "--progress", "none"]) == 0
    assert captions(tmp_path / "out")["g.png"][0]["text"] == "a green square"


def test_tags_are_a_layer_of_their_own_and_words_for_the_prompt(tmp_path: Path, squares: Path, server: Server) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "tagger"
    folder.mkdir()
    tagger_models.save(folder)
    options: dict[str, Any] = {"threshold": 0.0, "export": "kohya"}
    alone = lightmill.caption(squares, tmp_path / "alone", model=str(folder), trigger="ohwx", **options)
    (tags,) = captions(alone.out)["r.png"]
    assert tags["layer"] == "tags"
    assert tags["text"].startswith("ohwx, ")
    both = lightmill.caption(
        squares,
        tmp_path / "both",
        model=f"openai:{server.url}#tiny-vl",
        tagger=str(folder),
        prompt="{tags}?",
        **options,
    )
    layers = captions(both.out)["r.png"]
    assert [layer["layer"] for layer in layers] == ["caption", "tags"]
    assert layers[1]["text"] == tags["text"].removeprefix("ohwx, ")
    assert layers[1]["origin"]["version"] == tags["origin"]["version"]
    assert layers[0]["origin"]["prompt"] == f"{layers[1]['text']}?"
    kohya = json.loads((both.out / "kohya" / "meta_cap.json").read_text())
    assert kohya["kohya/1_pictures/r.jpg"]["tags"] == layers[1]["text"]
