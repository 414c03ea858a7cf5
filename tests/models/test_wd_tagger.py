"""With tiny ONNX models, whose scores are worked out again in numpy. No test here uses a network."""

import csv
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from huggingface_hub import constants

from lightmill.errors import MissingExtra, ModelError, UsageError
from lightmill.models.kinds import Ask
from lightmill.models.wd_tagger import CATEGORIES, WDTagger, as_written, prepared, read_tags

SIZE = 16
ROWS = [  # name, category
    ("general", 9), ("sensitive", 9), ("questionable", 9), ("explicit", 9), ("long_hair", 0), ("o_o", 0), ("1girl", 0),
    ('"quoted",_tag', 0), ("red_theme", 0), ("blue_theme", 0), ("nier_(series)", 3), ("2b_(nier)", 4), ("9s_(nier)", 4),
    ("absurdres", 5), ("unheard_of", 17),
]  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights() -> np.ndarray:
    """[3, tags] from the mean colour (blue, green, red; 0..1) to logits."""
    return np.random.default_rng(3).normal(0, 4, (3, len(ROWS))).astype(np.float32)


def save(
    folder: Path, *, batch: int | str = "batch", layout: tuple[Any, ...] = (SIZE, SIZE, 3), outputs: int = 0
) -> Path:
    """A model of one layer: the sigmoid of `weights` times the mean colour less one half."""
    onnx = pytest.importorskip("onnx", reason="no onnx: it comes with the extra dev")
    from onnx import TensorProto, helper, numpy_helper

    matrix = weights() if not outputs else np.ones((layout[-1], outputs), np.float32)
    constants = {"w": matrix, "scale": np.float32(255), "half": np.float32(0.5)}
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["mean", "scale"], ["share"]),
        helper.make_node("Sub", ["share", "half"], ["centred"]),
        helper.make_node("MatMul", ["centred", "w"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *layout])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, matrix.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    save_tags(folder)
    return folder


def save_tags(folder: Path) -> None:
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows((number, name, category, 1000) for number, (name, category) in enumerate(ROWS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime", reason="no onnxruntime: it comes with the extra tagger")
    return save(tmp_path_factory.mktemp("wd"))


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(48, 64), (64, 30), (SIZE, SIZE), (9, 9), (1, 40)]
    return [
        np.clip(rng.integers(0, 256, (*shape, 3)) * rng.uniform(0, 1.5, 3), 0, 255).astype(np.uint8) for shape in shapes
    ]


def asks(count: int) -> list[Ask]:
    return [Ask("", seed=number) for number in range(count)]


def seen(picture: np.ndarray) -> np.ndarray:
    """A picture pasted into a white square and resized, all by Pillow; blue first."""
    image = PIL.Image.fromarray(picture)
    side = max(image.size)
    square = PIL.Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC), np.float32)[..., ::-1]


def expected(picture: np.ndarray) -> np.ndarray:
    """The scores of the tiny model."""
    share = seen(picture).mean(axis=(0, 1)) / 255
    return 1 / (1 + np.exp(-(share - 0.5) @ weights()))


def loaded(name: object, **options: Any) -> WDTagger:
    model = WDTagger(str(name), **options)
    model.load("cpu")
    return model


def test_pictures_are_seen_as_the_models_were_trained() -> None:
    for picture in pictures():
        given = prepared(picture, size=SIZE)
        assert given.dtype == np.float32
        np.testing.assert_array_equal(given, seen(picture))


def test_a_long_strip_does_not_fill_the_memory() -> None:
    strip = np.zeros((400, 40_000, 3), np.uint8)  # 4.8 GB as a square
    strip[:, :20_000] = 255, 0, 0
    given = prepared(strip, size=1000)
    assert given.shape == (1000, 1000, 3)
    assert (given[500, 100] == (0, 0, 255)).all()  # blue, green, red
    assert (given[500, -100] == 0).all()
    assert (given[490] == 255).all()


def test_tags_are_those_above_their_thresholds_best_first(folder: Path) -> None:
    model = loaded(folder, threshold=0.4, character_threshold=0.6)
    answers = model(pictures(), asks(5))
    names = [as_written(name) for name, _ in ROWS]
    some = 0
    for picture, answer in zip(pictures(), answers, strict=True):
        wanted = {
            names[index]: score
            for index, score in enumerate(expected(picture))
            if (ROWS[index][1] == 0 and score >= 0.4) or (ROWS[index][1] == 4 and score >= 0.6)
        }
        assert dict(answer.tags) == pytest.approx(wanted, abs=1e-5)
        assert list(answer.tags) == sorted(answer.tags, key=lambda tag: -tag[1])
        assert answer.text == ", ".join(name for name, _ in answer.tags)
        assert (answer.tokens, answer.cut_off) == (0, False)
        some += len(wanted)
    assert 5 < some < 5 * 8
    assert loaded(folder, threshold=1, character_threshold=1)(pictures()[:1], asks(1))[0].text == ""


@pytest.mark.parametrize("category", sorted(set(CATEGORIES.values()) - {"rating"}))
def test_categories_are_chosen(folder: Path, category: str) -> None:
    (answer,) = loaded(folder, threshold=0, character_threshold=0, categories=[category])(pictures()[:1], asks(1))
    numbers = {name: number for number, name in CATEGORIES.items()}
    assert {name for name, _ in answer.tags} == {
        as_written(name) for name, number in ROWS if str(number) == numbers.get(category)
    }


def test_a_rating_is_one_choice_whatever_its_score(folder: Path) -> None:
    model = loaded(folder, threshold=1, character_threshold=1, categories={"general", "rating"})
    for picture, answer in zip(pictures(), model(pictures(), asks(5)), strict=True):
        scores = expected(picture)[:4]
        assert answer.text == f"rating:{ROWS[int(scores.argmax())][0]}"
        assert answer.tags[0][1] == pytest.approx(scores.max(), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_models_with_a_batch_size_of_their_own_answer_alike(folder: Path, tmp_path: Path, batch: int) -> None:
    fixed, free = loaded(save(tmp_path, batch=batch)), loaded(folder)
    for ours, theirs in zip(fixed(pictures(), asks(5)), free(pictures(), asks(5)), strict=True):
        assert ours.text == theirs.text
        assert dict(ours.tags) == pytest.approx(dict(theirs.tags), abs=1e-6)
    assert fixed([], []) == free([], []) == []


def test_an_answer_does_not_depend_on_the_batch_prompt_or_seed(folder: Path) -> None:
    model = loaded(folder)
    alone = [model([picture], [Ask("what?", seed=9)])[0] for picture in pictures()]
    assert [answer.text for answer in alone] == [answer.text for answer in model(pictures(), asks(5))]
    with pytest.raises(ValueError, match="got 5 pictures and 4 asks"):
        model(pictures(), asks(4))


EMOTICONS = [
    *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^"),
    *("o_o", "u_u", "x_x", "|_|", "||_||"),  # all that the author of the models leaves as they are
]


@pytest.mark.parametrize("tag", EMOTICONS)
def test_emoticons_keep_their_underscores(tag: str) -> None:
    assert as_written(tag) == tag


@pytest.mark.parametrize(
    ("tag", "written"),
    [
        ("long_hair", "long hair"),
        ("head_tilt_(meme)", "head tilt (meme)"),
        ("d.va_(overwatch)", "d.va (overwatch)"),
        ("x-ray_vision", "x-ray vision"),
        ("1girl", "1girl"),
        (":d", ":d"),
        ("fate/stay_night", "fate/stay night"),
    ],
)
def test_underscores_of_words_are_spaces(tag: str, written: str) -> None:
    assert as_written(tag) == written


def test_the_list_of_tags_is_read(tmp_path: Path) -> None:
    save_tags(tmp_path)
    tags = read_tags(tmp_path / "selected_tags.csv")
    assert [tag.category for tag in tags[:5]] == ["rating"] * 4 + ["general"]
    assert tags[7].text == '"quoted", tag'
    assert tags[-1].category == "17"
    (tmp_path / "selected_tags.csv").write_text("name;category\nlong_hair;0\n", "utf-8")
    with pytest.raises(
        ModelError, match=r"selected_tags.csv is no list of tags .*; it has the columns name and category"
    ):
        read_tags(tmp_path / "selected_tags.csv")


def test_options_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match=r"^species is no category of tags; there are general, artist, copyright"):
        WDTagger("any", categories=["general", "species"])
    for options in ({"threshold": 1.5}, {"character_threshold": -0.1}):
        with pytest.raises(UsageError, match="a threshold of tags is 0 to 1, got"):
            WDTagger("any", **options)


def test_what_is_missing_is_said(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"it has no model.onnx; such a folder has model.onnx and selected_tags.csv"):
        WDTagger(str(tmp_path)).check("cpu")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"it has no selected_tags.csv"):
        WDTagger(str(tmp_path)).check("cpu")
    save_tags(tmp_path)
    with pytest.raises(ModelError, match=r"model.onnx cannot be loaded: .*; get the model once more"):
        WDTagger(str(tmp_path)).load("cpu")
    with pytest.raises(
        ModelError, match=r"the onnxruntime that is installed cannot use cuda:0; .* or give --device cpu"
    ):
        WDTagger(str(folder)).check("cuda:0")
    with pytest.raises(RuntimeError, match="was called before it was loaded"):
        WDTagger(str(folder))(pictures(), asks(5))


def test_onnxruntime_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"WD taggers need onnxruntime; run: pip install 'lightmill\[tagger\]'"):
        WDTagger(str(tmp_path)).check("cpu")


@pytest.mark.parametrize("layout", [(3, SIZE, SIZE), (SIZE, 8, 3), (SIZE, "width", 3)])
def test_models_of_another_layout_are_refused(folder: Path, tmp_path: Path, layout: tuple[Any, ...]) -> None:
    with pytest.raises(ModelError, match=r"is no WD tagger: it takes \[.*\], and these take \[n, size, size, 3\]"):
        loaded(save(tmp_path, layout=layout, outputs=len(ROWS)))


def test_tags_that_are_not_the_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gives \[\['batch', 7\]\], and selected_tags.csv has 15 tags"):
        loaded(save(tmp_path, outputs=7))


def test_the_version_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    same = shutil.copytree(folder, tmp_path / "same")
    (same / "README.md").write_text("changes no answer", "utf-8")
    version = WDTagger(str(folder)).version
    assert version.startswith("blake2:")
    assert WDTagger(str(same)).version == version
    (same / "selected_tags.csv").write_bytes((same / "selected_tags.csv").read_bytes() + b"15,more,0,1\n")
    assert WDTagger(str(same)).version != version


def test_a_model_of_a_hub_is_found_in_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--acme--tagger"
    shutil.copytree(folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT, "ascii")
    assert WDTagger("acme/tagger").version == COMMIT
    assert loaded(f"acme/tagger@{COMMIT}")(pictures(), asks(5)) == loaded(folder)(pictures(), asks(5))
    with pytest.raises(ModelError, match=r"the model acme/none is neither a folder nor on this disk"):
        WDTagger("acme/none").check("cpu")
    with pytest.raises(ModelError, match=r"no model ./nowhere: there is no such folder"):
        WDTagger("./nowhere").check("cpu")


def test_it_travels_between_processes_unloaded(folder: Path) -> None:
    model = loaded(folder)
    answers = model(pictures(), asks(5))
    copied = pickle.loads(pickle.dumps(model))
    assert copied.on_device
    with pytest.raises(RuntimeError, match="was called before it was loaded"):
        copied(pictures(), asks(5))
    copied.load("cpu")
    assert copied(pictures(), asks(5)) == answers
    copied.unload()
    with pytest.raises(RuntimeError, match="was called before it was loaded"):
        copied(pictures(), asks(5))
