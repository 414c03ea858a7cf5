"""`caption`: what is said of pictures, by whom, checked how, kept where, and what people changed afterwards."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.recipes.captioners import Say, Scripted
from tests.recipes.conftest import Made

import lightmill
from lightmill.cli import run_command_line
from lightmill.engine.journal import Row
from lightmill.engine.run import run
from lightmill.errors import InputError, OutputError, UsageError
from lightmill.models.kinds import Answer, Ask
from lightmill.recipes.caption import Caption
from lightmill.recipes.caption_options import Voices
from lightmill.sample.clip import write_clip

Captioner = Callable[..., Made]
KOHYA = {"a": {"caption": "of kohya", "tags": "x, y"}, "other/a": {"caption": "of another folder"}}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (48, 32), **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize(size)
    pixels.save(path, **how)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def caption(tmp_path: Path) -> Captioner:
    """`caption(source, out="out", say=..., tags=..., **options)`: with models that say what the test tells them to."""

    def do(
        source: Path,
        out: str = "out",
        *,
        say: Say | Scripted | None = None,
        retry: Callable[[Row], bool] | None = None,
        **options: Any,
    ) -> Made:
        options = {"threads": 2, "progress": "none"} | options
        if say is None:
            return Made(lightmill.caption(source, tmp_path / out, **options))
        model = say if isinstance(say, Scripted) else Scripted(say)
        recipe = Caption.from_values({"model": model.name} | options)
        return Made(
            run(recipe.job_with(Voices(model, None), source, tmp_path / out), recipe.run_options(), retry=retry)
        )

    return do


def said(made: Made) -> dict[str, list[tuple[str, str]]]:
    """Key -> (layer, text) of all layers, from captions.jsonl."""
    lines = (made.out / "captions.jsonl").read_text("utf-8").splitlines()
    return {row["key"]: [(one["layer"], one["text"]) for one in row["layers"]] for row in map(json.loads, lines)}


def origins(made: Made, key: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (made.out / "captions.jsonl").read_text("utf-8").splitlines())
    return [layer["origin"] for row in lines if row["key"] == key for layer in row["layers"]]


def sidecar(made: Made, name: str = "a") -> str:
    return (made.out / "images" / f"{name}.txt").read_text("utf-8")


# --- without a model -------------------------------------------------------------------------------------------------


def test_words_that_are_there_already_make_a_caption(tmp_path: Path, caption: Captioner) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2021:05:03 14:22:11"
    picture(tmp_path / "in" / "10_red foxes" / "IMG_1234_atDawn.jpg", exif=exif)
    made = caption(tmp_path / "in", trigger="ohwx", forbid="landscape")
    assert said(made) == {"10_red foxes/IMG_1234_atDawn.jpg": [("caption", "ohwx, red foxes, at dawn, 3 May 2021")]}
    assert sidecar(made, "10_red foxes/IMG_1234_atDawn") == "ohwx, red foxes, at dawn, 3 May 2021"
    assert origins(made, "10_red foxes/IMG_1234_atDawn.jpg")[0]["tokens"] > 5


def test_trigger_and_words_around(tmp_path: Path, caption: Captioner) -> None:
    """A trigger that only begins another word is put there; ordinary words are never touched."""
    picture(tmp_path / "in" / "caterpillar.jpg")
    made = caption(tmp_path / "in", trigger="cat", template="{name} on a leaf", suffix=", macro")
    assert sidecar(made, "caterpillar") == "cat, caterpillar on a leaf, macro"
    text(tmp_path / "in" / "caterpillar.txt", "A European man under the Eiffel Tower")
    made = caption(tmp_path / "in", "again", trigger="man")
    assert sidecar(made, "caterpillar") == "man, A European man under the Eiffel Tower"


def test_a_template_without_words_for_a_picture_fails_that_picture(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "in" / "IMG_0001.jpg")
    picture(tmp_path / "in" / "dog.jpg")
    made = caption(tmp_path / "in", template="{name}")
    assert made.rows["IMG_0001.jpg"]["stage"] == "caption"
    assert "has no words for this picture" in made.rows["IMG_0001.jpg"]["error"]
    assert sidecar(made, "dog") == "dog"


# --- what is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "wanted"),
    [
        ("a.txt", "a red car", ["a red car"]),
        ("a.jpg.txt", "a red car", ["a red car"]),
        ("a.caption", "a red car\r\n", ["a red car"]),
        ("a.txt", "ein grünes Haus".encode("utf-16"), ["ein grünes Haus"]),
        ("a.txt", "ein grünes Haus".encode("cp1252"), ["ein grünes Haus"]),
        ("a.txt", b"\xef\xbb\xbfmarked", ["marked"]),
        ("a.json", json.dumps({"caption": "a car", "tags": ["car", "red"]}), ["a car", "car, red"]),
        ("a.json", json.dumps({"text": "a car"}), ["a car"]),
        ("a.json", json.dumps("a car"), ["a car"]),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": "of the list"}\n', ["of the list"]),
        ("meta_cap.json", json.dumps(KOHYA), ["of kohya", "x, y"]),
        ("captions.json", json.dumps({"metadata": {}, "captions": {"a.jpg": {"caption": "of an app"}}}), ["of an app"]),
        ("a.txt", "Error generating caption: CUDA out of memory", []),
        ("a.txt", "", []),
        ("a.json", "{broken", []),
        ("a.json", "[" * 100_000, []),
        ("a.txt", b"x" * ((1 << 20) + 1), []),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_captions_beside_a_picture_are_taken_along(
    tmp_path: Path, caption: Captioner, *, file: str, content: str | bytes, wanted: list[str], zipped: bool
) -> None:
    source = tmp_path / "in"
    picture(source / "sub" / "a.jpg")
    picture(source / "sub" / "b.jpg", seed=1)
    text(source / "sub" / file, content)
    if zipped:
        with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(source.rglob("*.*")):
                archive.write(path, path.relative_to(source).as_posix())
        source = tmp_path / "in.zip"
    made = caption(source)
    assert [text for layer, text in said(made)["sub/a.jpg"] if layer == "existing"] == wanted
    assert [text for layer, text in said(made)["sub/b.jpg"] if layer == "existing"] == []
    if content in ("{broken", b"x" * ((1 << 20) + 1)) or b"Error" in bytes(str(content), "latin-1", "replace"):
        assert file in str(made.rows["sub/a.jpg"]["meta"]["existing_left_out"])


def test_a_list_speaks_of_pictures_below_it_by_their_paths(tmp_path: Path, caption: Captioner) -> None:
    """One name in two folders: each picture has its own caption, never the other's."""
    for folder in ("one", "two", "three"):
        picture(tmp_path / "in" / folder / "a.jpg")
    lines = [{"file_name": "one/a.jpg", "text": "first"}, {"file_name": "two/a.jpg", "text": "second"}]
    text(tmp_path / "in" / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    layers = said(caption(tmp_path / "in", template="{folder}"))
    assert layers["one/a.jpg"][0] == ("caption", "first")
    assert layers["two/a.jpg"][0] == ("caption", "second")
    assert layers["three/a.jpg"] == [("caption", "three")]


def test_columns_of_a_table_are_captions(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.jpg", seed=1)
    text(tmp_path / "a.txt", "of the file")
    text(tmp_path / "set.csv", 'image_path,caption,tags,artist\na.jpg,of the table,,me\nb.jpg,,"x, y",you\n')
    made = caption(tmp_path / "set.csv", template="{artist}: {caption}{tags}")
    assert [text for _, text in said(made)["a.jpg"]] == ["me: of the table", "of the table", "of the file"]
    assert [text for _, text in said(made)["b.jpg"]] == ["you: x, y", "x, y"]
    table = (made.out / "set_with_captions.csv").read_text().splitlines()
    assert table[0].endswith("status,error,output_caption,width,height")
    assert table[1].endswith(",ok,,me: of the table,48,32")


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        ("layer", [("caption", "a cat"), ("existing", "a dog")]),
        ("use", [("caption", "a dog"), ("existing", "a dog")]),
        ("ignore", [("caption", "a cat")]),
    ],
)
def test_what_becomes_of_captions_that_are_there(
    tmp_path: Path, caption: Captioner, existing: str, wanted: list[tuple[str, str]]
) -> None:
    picture(tmp_path / "in" / "a.jpg")
    picture(tmp_path / "in" / "b.jpg", seed=1)
    text(tmp_path / "in" / "a.txt", "a dog")
    model = Scripted(lambda *_: "a cat")
    layers = said(caption(tmp_path / "in", say=model, existing=existing))
    assert layers == {"a.jpg": wanted, "b.jpg": [("caption", "a cat")]}
    assert len(model.asked) == (1 if existing == "use" else 2)


# --- by a model ------------------------------------------------------------------------------------------------------


def test_a_model_sees_the_prepared_picture_and_the_prompt_of_each(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "in" / "red fox.jpg", size=(200, 100))
    text(tmp_path / "in" / "red fox.txt", "a fox")
    model = Scripted(lambda *_: '  "It  runs." ')
    made = caption(
        tmp_path / "in", say=model, prompt="Is {caption} a {name}?", fit="inside", size="50x50", prefix="Look:"
    )
    assert [ask.prompt for ask in model.asked] == ["Is a fox a red fox?"]
    assert model.sizes == [(50, 25)]
    assert model.loads == 1
    assert sidecar(made, "red fox") == "Look: It runs."
    origin = origins(made, "red fox.jpg")[0]
    assert (origin["model"], origin["version"], origin["prompt"]) == ("test/scripted", "1", "Is a fox a red fox?")
    assert origin["seed"] == model.asked[0].seed


@pytest.mark.parametrize(
    ("bad", "error_class"),
    [
        ("", "Empty"),
        ("I'm sorry, but I can't help with that.", "Refusal"),
        ("Error generating caption: out of memory", "ErrorText"),
        ("a dog and a dog and a dog and a dog and a dog and a dog and a dog and a dog and", "Looping"),
        ("Describe this picture as well as you can", "Echo"),
        ("Это очень длинное описание картинки на русском языке", "WrongScript"),
        (Answer("a dog that runs over the", cut_off=True), "CutOff"),
    ],
)
def test_what_is_no_caption_is_asked_for_again_and_then_fails_alone(
    tmp_path: Path, caption: Captioner, bad: Any, error_class: str
) -> None:
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", seed=number, size=(20 + number, 20))
    stubborn: list[Ask] = []

    tried: list[Ask] = []

    def say(image: Any, ask: Ask) -> Any:
        """Of the first picture a caption at once, of the second never, of the third at the second try."""
        if image.shape[1] == 20:
            return "a cat"
        asked = stubborn if image.shape[1] == 21 else tried
        asked.append(ask)
        return "a cat" if asked is tried and len(tried) > 1 else bad

    made = caption(tmp_path / "in", say=say, prompt="Describe this picture as well as you can", retries=2)
    assert len({ask.seed for ask in stubborn}) == 3
    row = made.rows["1.png"]
    assert (row["status"], row["stage"], row["outputs"]) == ("failed", "caption", {})
    assert said(made) == {"0.png": [("caption", "a cat")], "2.png": [("caption", "a cat")]}
    assert origins(made, "2.png")[0]["tries"] == 2
    assert [name for name in made.files if name.startswith("images/")] == [
        "images/0.jpg", "images/0.txt", "images/2.jpg", "images/2.txt",
    ]  # fmt: skip
    report = json.loads((made.out / "report.json").read_text())
    assert f"caption:{error_class}" in json.dumps(report)


def test_a_failed_caption_is_made_up_for_by_retry(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "in" / "a.jpg")
    assert caption(tmp_path / "in", say=lambda *_: "", retries=0).result.failed == 1
    made = caption(tmp_path / "in", say=lambda *_: "a cat", retries=0, retry=lambda row: row.error_class == "Empty")
    assert made.result.failed == 0
    assert sidecar(made) == "a cat"


def test_several_captions_of_a_picture_are_layers_with_seeds_of_their_own(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "in" / "a.jpg")
    numbers = iter(["one cat", "", "two cats", "two cats"])
    made = caption(tmp_path / "in", say=lambda *_: next(numbers), captions_per_image=4, temperature=0.6, retries=0)
    assert said(made)["a.jpg"] == [("caption", "one cat"), ("caption", "two cats")]
    assert len({origin["seed"] for origin in origins(made, "a.jpg")}) == 2
    assert sidecar(made) == "one cat"


def test_captions_do_not_depend_on_batches_and_threads(tmp_path: Path, caption: Captioner) -> None:
    for number in range(7):
        picture(tmp_path / "in" / f"{number}.jpg", seed=number)

    def say(_: Any, ask: Ask) -> str:
        return f"picture number {ask.seed}"

    made = [caption(tmp_path / "in", f"{b}{t}", say=say, batch=b, threads=t) for b, t in ((1, 1), (8, 4))]
    assert made[0].contents == made[1].contents


def test_a_run_goes_on_and_asks_nothing_twice(tmp_path: Path, caption: Captioner) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.jpg", seed=number)
    first = Scripted(lambda *_: "a cat")
    caption(tmp_path / "in", say=first, limit=3)
    second = Scripted(lambda *_: "a cat")
    made = caption(tmp_path / "in", say=second)
    assert (len(first.asked), len(second.asked)) == (3, 1)
    assert list(said(made)) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


# --- what people change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "wanted"), [("keep", "my own words"), ("overwrite", "a"), ("append", "my own words, a")]
)
def test_a_text_file_that_was_edited_by_hand(tmp_path: Path, caption: Captioner, policy: str, wanted: str) -> None:
    picture(tmp_path / "in" / "a.jpg")
    picture(tmp_path / "in" / "b.jpg", seed=1)
    options = {"template": "{name}", "export": "sidecar,kohya,aitoolkit,jsonl"}
    made = caption(tmp_path / "in", **options)
    (made.out / "images" / "a.txt").write_text("my own words\n")
    for _ in range(2):
        made = caption(tmp_path / "in", captions=policy, **options)
        for place in ("images/a.txt", "kohya/1_pictures/a.txt", "aitoolkit/images/a.txt"):
            assert (made.out / place).read_text().strip() == wanted
        assert sidecar(made, "b") == "b"
    assert said(made)["a.jpg"][0] == (("caption", "a") if policy == "overwrite" else ("edited", wanted))
    assert json.loads((made.out / "listing.jsonl").read_text().splitlines()[0])["text"] == wanted


def test_what_was_edited_survives_other_captions(tmp_path: Path, caption: Captioner) -> None:
    """In captions.jsonl itself, by `lightmill captions`, and beside the picture: after a new run with other options."""
    for name in "abcd":
        picture(tmp_path / "in" / f"{name}.jpg")
    made = caption(tmp_path / "in", template="{name}")
    lines = (made.out / "captions.jsonl").read_text()
    (made.out / "captions.jsonl").write_text(lines.replace('"text": "a"', '"text": "in the file"'))
    assert run_command_line(["captions", str(made.out), "--set", "by command", "--where", "name:b"]) == 0
    (made.out / "images" / "c.txt").write_text("beside it")
    made = caption(tmp_path / "in", template="{name} again", fresh=True)
    assert [sidecar(made, name) for name in "abcd"] == ["in the file", "by command", "beside it", "d again"]


def test_editing_in_bulk_and_taking_it_back(
    tmp_path: Path, caption: Captioner, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.jpg")
    made = caption(tmp_path / "in", template="photo of {name}", export="sidecar,csv")
    (made.out / "images" / "b.txt").write_text("painting of b")
    before = made.contents
    edit = ["captions", str(made.out), "--find", "photo", "--replace", "picture"]
    assert run_command_line([*edit, "--dry-run"]) == 0
    assert Made(made.result).contents == before
    assert run_command_line(edit) == 0
    shown = capsys.readouterr().out
    assert "- photo of a\n+ picture of a\n" in shown
    assert [sidecar(made, name) for name in "ab"] == ["picture of a", "painting of b"]
    assert '"picture of a"' in (made.out / "listing.csv").read_text()
    assert run_command_line(["captions", str(made.out), "--undo"]) == 0
    assert [sidecar(made, name) for name in "ab"] == ["photo of a", "painting of b"]
    assert run_command_line(["captions", str(made.out), "--redo"]) == 0
    assert sidecar(made) == "picture of a"
    assert caption(tmp_path / "in", template="photo of {name}", export="sidecar,csv").result.ok == 2
    assert sidecar(made) == "picture of a"


def test_two_text_files_of_a_picture_that_were_edited_differently_stop_the_run(
    tmp_path: Path, caption: Captioner
) -> None:
    picture(tmp_path / "in" / "a.jpg")
    made = caption(tmp_path / "in", export="sidecar,aitoolkit")
    (made.out / "images" / "a.txt").write_text("one")
    (made.out / "aitoolkit" / "images" / "a.txt").write_text("two")
    with pytest.raises(OutputError, match=r"a\.jpg were edited by hand in two exports, differently"):
        caption(tmp_path / "in", export="sidecar,aitoolkit")
    assert sidecar(made) == "one"


# --- files -----------------------------------------------------------------------------------------------------------


def test_all_exports_at_once_and_others_later(tmp_path: Path, caption: Captioner) -> None:
    picture(tmp_path / "in" / "cats" / "a.jpg")
    picture(tmp_path / "in" / "cats" / "a.png", seed=1)
    exports = "sidecar,kohya,imagefolder,jsonl,csv,webdataset,aitoolkit"
    caption(tmp_path / "in")
    made = caption(tmp_path / "in", export=f"{exports},zip", repeats=10, concept_by_folder=True, trigger="")
    files = set(made.files)
    assert files >= {
        "captions.jsonl", "listing.jsonl", "listing.csv", "imagefolder/metadata.jsonl", "kohya/meta_cap.json",
        "kohya/10_cats/a.jpg.txt", "kohya/10_cats/a.png.txt", "webdataset/shard-000000.tar", "aitoolkit/config.yaml",
        "images/cats/a.jpg.txt", "images/cats/a.png.txt",
    }  # fmt: skip
    assert files >= {f"{export}.zip" for export in exports.split(",")}
    with zipfile.ZipFile(made.out / "sidecar.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [name for name in made.files if name.startswith("images/")]


def test_frames_of_a_video_are_captioned(tmp_path: Path, caption: Captioner) -> None:
    clip = write_clip(tmp_path / "clip", seconds=1, width=64, fps=4)
    made = caption(clip.rename(clip.with_name("red fox.mp4")), fps=2, trigger="ohwx")
    assert [layers[0][1] for layers in said(made).values()] == ["ohwx, red fox, landscape"] * 2


@pytest.mark.slow
def test_several_processes_make_the_same_files(tmp_path: Path, caption: Captioner) -> None:
    pytest.importorskip("ray")
    for number in range(4):
        picture(tmp_path / "in" / "sub" / f"{number}.jpg", seed=number)
        text(tmp_path / "in" / "sub" / f"{number}.txt", f"of {number}")
    options: dict[str, Any] = {"trigger": "ohwx", "drop_duplicates": "near", "fit": "inside", "size": "20x20"}
    assert (
        caption(tmp_path / "in", "two", workers=2, **options).contents == caption(tmp_path / "in", **options).contents
    )


def test_there_are_no_captions_without_pictures(tmp_path: Path, caption: Captioner) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        caption(tmp_path / "in")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"template": "{nmae}"}, r"\{nmae\} is no variable; did you mean \{name\}"),
        ({"model": "openai:http://127.0.0.1:9/v1"}, "names no model"),
        ({"model": "org/x", "prompt": "{capton}"}, "did you mean {caption}"),
        ({"prompt": "Describe"}, "--prompt is for models; the template is given by --template"),
        ({"captions_per_image": 2}, "--captions-per-image needs a model that draws"),
        ({"trigger": "cat", "forbid": "cat"}, "cat"),
        ({"script": "klingon"}, "klingon"),
        ({"export": "sidecar,lora"}, "--export"),
        ({"tagger": "org/tagger"}, "a tagger is wd:NAME"),
        ({"model": "org/x", "top_p": 0.5}, "--top-p and --top-k are of drawing"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, caption: Captioner, options: dict[str, Any], says: str
) -> None:
    picture(tmp_path / "in" / "a.jpg")
    with pytest.raises(UsageError, match=says):
        caption(tmp_path / "in", **options)
    assert not (tmp_path / "out").exists()
