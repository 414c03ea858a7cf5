"""Checkpoints as segmenters: what is served is what validation scored, in tiles where asked, and damage is told."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests.models import tiny
from tests.models.students import HW, colour_student, config_of, random_student
from tests.recipes.colours import GREEN, RED, is_colour, painted

from lightmill.data.segment_samples import place
from lightmill.errors import ModelError, UsageError
from lightmill.models.kinds import Image
from lightmill.models.segmenters import open_segmenter
from lightmill.models.student import load_student
from lightmill.models.student_segmenter import StudentSegmenter
from lightmill.models.student_views import enlarged, sample_of, working_size

MANY = tuple("abcdefg")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds red and green; all else is background."""
    return colour_student(tmp_path_factory.mktemp("colours") / "best")


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes, the first of them background, and no sense."""
    return random_student(tmp_path_factory.mktemp("random") / "best", config_of(MANY, background=("a",)))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class, red, from a probability of 0.8 on."""
    return colour_student(tmp_path_factory.mktemp("binary") / "best", config_of(("red",), threshold=0.8))


def loaded(folder: Path, **options: Any) -> StudentSegmenter:
    segmenter = StudentSegmenter(str(folder), **options)
    segmenter.check("cpu")
    segmenter.load("cpu")
    return segmenter


def noise(height: int, width: int, seed: int = 0) -> Image:
    """Patches of colours, so that classes have areas."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def network_shares(folder: Path, pixels: Image) -> NDArray[np.float32]:
    """[C, H, W]: the network asked as torch's own documents have it, without any part of the segmenter."""
    network = load_student(folder)
    levels = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    mean, std = (torch.tensor(three)[:, None, None] for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        logits = network(((levels - mean) / std).float())[0]
    return torch.softmax(logits, 0).numpy()


# --- what is served is what was trained ------------------------------------------------------------------------------


def test_masks_are_the_softmax_of_the_network(random_weights: Path) -> None:
    """B4.1, B4.4: the network that was trained, and one softmax."""
    picture = noise(*HW)
    shares = network_shares(random_weights, picture)
    found = loaded(random_weights)([picture])[0]
    decided = shares.argmax(0)
    assert set(found.labels) == {MANY[number] for number in np.unique(decided) if number > 0}
    assert len(found.labels) >= 4
    levels = 255 * shares[1:].sum(0)  # that a pixel is of any class that is looked for
    held = np.where(decided > 0, levels.clip(128, 255), levels.clip(0, 127))
    assert np.abs(np.maximum.reduce(found.masks) - held).max() < 0.51
    for mask, score, label in zip(found.masks, found.scores, found.labels, strict=True):
        number = MANY.index(label)
        assert np.array_equal(mask >= 128, decided == number)
        assert score == pytest.approx(shares[number][decided == number].mean(), abs=0.5 / 255)
    assert found.scores == sorted(found.scores, reverse=True)


def test_a_picture_of_another_shape_is_laid_into_the_training_size_as_samples_are(random_weights: Path) -> None:
    for size_hw in ((90, 64), (30, 100), (48, 65), (480, 640), (5, 3)):
        picture = noise(*size_hw)
        sample, part = sample_of(picture, HW)
        wanted, numbers = np.zeros((*HW, 3), np.uint8), np.zeros(HW, np.uint8)
        place(picture, np.zeros(size_hw, np.uint8), part, wanted, numbers)
        assert np.array_equal(sample, wanted)
        shares = network_shares(random_weights, sample)
        cut = shares[:, part.top : part.top + part.height, part.left : part.left + part.width]
        predicted = loaded(random_weights).classes([picture])[0]
        assert predicted.sample is not None
        assert np.array_equal(predicted.sample, cut.argmax(0))
        large = torch.nn.functional.interpolate(
            torch.from_numpy(cut)[None], size=size_hw, mode="bilinear", align_corners=False
        )[0]
        assert (predicted.whole == large.argmax(0).numpy()).mean() > 0.999  # equals may fall either way
        assert predicted.whole.shape == size_hw


@pytest.mark.parametrize("size_hw", [(7, 9), (100, 260), (48, 64), (33, 640)])
def test_rows_are_enlarged_as_torch_enlarges_the_whole(size_hw: tuple[int, int]) -> None:
    shares = torch.rand((3, 48, 64), generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(shares[None], size=size_hw, mode="bilinear", align_corners=False)[0]
    rows = [range(start, min(start + 10, size_hw[0])) for start in range(0, size_hw[0], 10)]
    got = torch.cat([enlarged(shares, size_hw=size_hw, rows=each) for each in rows], dim=1)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tile", ["off", "auto", 100])
@pytest.mark.parametrize("flips", [False, True])
def test_masks_and_class_maps_are_one_decision(tile: Any, flips: bool, random_weights: Path, binary: Path) -> None:
    pictures = [noise(*HW), noise(120, 161, 1)]
    for folder in (random_weights, binary):
        segmenter = loaded(folder, tile=tile, flips=flips)
        maps = segmenter.classes(pictures)
        for found, predicted in zip(segmenter(pictures), maps, strict=True):
            whole = np.zeros_like(predicted.whole)
            for mask, label in zip(found.masks, found.labels, strict=True):
                whole[mask >= 128] = segmenter.names.index(label)
            assert np.array_equal(whole, predicted.whole)


def test_answers_do_not_hang_on_the_batch(random_weights: Path) -> None:
    segmenter = loaded(random_weights, tile=100)
    pictures = [noise(*HW), noise(60, 80, 1), noise(150, 90, 2), noise(*HW, 3)]
    for together, picture in zip(segmenter(pictures), pictures, strict=True):
        alone = segmenter([picture])[0]
        assert together.labels == alone.labels
        assert together.scores == alone.scores
        assert all(map(np.array_equal, together.masks, alone.masks))
    assert segmenter([]) == []


def test_the_threshold_of_a_binary_checkpoint_is_a_probability(binary: Path) -> None:
    """B4.11: 0.8 is looked for in probabilities, whatever the range of the logits of a picture."""
    levels = np.linspace(0.25, 0.45, 64)  # of red above grey: logits from -2 to 6
    grey = 100 / 255
    picture = np.empty((*HW, 3), np.uint8)
    picture[:] = np.round(255 * np.stack([grey + levels, *[np.full(64, grey)] * 2], axis=1))
    red = picture[..., 0] / 255 - picture[..., 1] / 255
    share = 1 / (1 + np.exp(-40 * (red - 0.3)))
    found = loaded(binary)([picture])[0]
    assert found.labels == ["red"]
    clear = np.abs(share - 0.8) > 0.1
    assert np.array_equal((found.masks[0] >= 128)[clear], (share > 0.8)[clear])
    assert np.array_equal(found.masks[0] >= 128, loaded(binary).classes([picture])[0].whole == 1)
    assert (np.diff(found.masks[0].astype(int), axis=1) >= 0).all()  # levels rise with the share, through 128


def test_flips_are_the_mean_of_both_sides(random_weights: Path) -> None:
    picture = noise(*HW)
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    shares = (network_shares(random_weights, picture) + network_shares(random_weights, mirrored)[..., ::-1]) / 2
    segmenter = loaded(random_weights, flips=True)
    assert (segmenter.classes([picture])[0].whole == shares.argmax(0)).mean() > 0.999
    both = segmenter([picture, mirrored])
    for mask, other in zip(both[0].masks, both[1].masks, strict=True):
        assert np.abs(mask.astype(int) - other[:, ::-1]).max() <= 1


def test_two_wanted_classes_have_no_soft_edge_between_them(random_weights: Path) -> None:
    """All classes wanted: every pixel is of one of them, so their union is white, not grey where they meet."""
    found = loaded(random_weights, prompts=MANY)([noise(*HW)])[0]
    assert len(found.masks) > 2
    assert (np.maximum.reduce(found.masks) == 255).all()


# --- tiles -----------------------------------------------------------------------------------------------------------


def small_things() -> Image:
    """Discs of 9 to 14 px across a picture of ten times the training's area."""
    discs = [(x, y, 0.03 + 0.01 * ((7 * n) % 3), (RED, GREEN)[n % 2]) for n, (x, y) in enumerate(_places())]
    return painted(170, 233, *discs)


def _places() -> list[tuple[float, float]]:
    return [(x, y) for y in np.linspace(0.1, 0.9, 6).tolist() for x in np.linspace(0.07, 0.93, 9).tolist()]


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_tiles_see_what_is_small_and_leave_no_seam(colours: Path) -> None:
    picture = small_things()
    worth = {}
    for tile in ("off", "auto"):
        found = loaded(colours, tile=tile)([picture])[0]
        masks = dict(zip(found.labels, found.masks, strict=True))
        worth[tile] = [
            overlap(masks[name] >= 128, is_colour(picture, colour)) for name, colour in (("red", RED), ("green", GREEN))
        ]
    assert min(worth["auto"]) > 0.97
    assert max(worth["off"]) < 0.9


def test_what_fits_into_one_sample_is_no_tile(random_weights: Path) -> None:
    off = loaded(random_weights)
    for picture in (noise(*HW), noise(20, 64), noise(30, 31)):
        wanted = off.classes([picture])[0]
        got = loaded(random_weights, tile="auto").classes([picture])[0]
        assert np.array_equal(got.whole, wanted.whole)
        assert got.sample is not None
    reduced = loaded(random_weights, tile=64).classes([noise(480, 640)])[0]
    assert np.array_equal(reduced.whole, off.classes([noise(480, 640)])[0].whole)
    assert loaded(random_weights, tile=65).classes([noise(480, 640)])[0].sample is None


def test_the_working_size_never_enlarges() -> None:
    assert working_size((100, 200), size_hw=HW, tile=5000) == (100, 200)
    assert working_size((1, 10_000), size_hw=HW, tile=1000) == (1, 1000)


def test_a_picture_thinner_than_a_tile(colours: Path) -> None:
    picture = painted(20, 400, (0.5, 0.5, 0.4, RED))
    found = loaded(colours, tile="auto")([picture])[0]
    assert found.labels == ["red"]
    assert overlap(found.masks[0] >= 128, is_colour(picture, RED)) > 0.95


# --- classes by name -------------------------------------------------------------------------------------------------


def test_prompts_choose_classes_in_any_case(colours: Path, binary: Path) -> None:
    picture = painted(*HW, (0.3, 0.5, 0.3, RED), (0.8, 0.5, 0.2, GREEN))
    assert loaded(colours)([picture])[0].labels == ["red", "green"]
    assert loaded(colours, prompts=["GREEN "])([picture])[0].labels == ["green"]
    assert loaded(colours, prompts=["background"])([picture])[0].labels == ["background"]
    assert loaded(colours, prompts=["green"])([painted(*HW)])[0].labels == []
    assert loaded(binary, prompts=["Red"])([picture])[0].labels == ["red"]


def test_an_unknown_class_is_told_with_those_that_there_are(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'gren' \(did you mean green\?\); its classes: background, red, green"):
        StudentSegmenter(str(colours), prompts=["gren"]).check("cpu")
    street = random_student(tmp_path / "street", config_of(("sky", "road")))
    with pytest.raises(UsageError, match="none is background; say with --prompt which are looked for: sky, road"):
        StudentSegmenter(str(street)).check("cpu")
    StudentSegmenter(str(street), prompts=["road"]).check("cpu")


# --- how it is opened ------------------------------------------------------------------------------------------------


def test_it_is_opened_by_its_folder_or_its_weights(colours: Path, tmp_path: Path) -> None:
    by_folder = open_segmenter(str(colours))
    by_weights = open_segmenter(str(colours / "model.safetensors"), tile="auto", flips=True)
    assert isinstance(by_folder, StudentSegmenter)
    assert isinstance(by_weights, StudentSegmenter)
    assert by_folder.name == by_weights.name == str(colours)
    assert by_folder.version == by_weights.version
    assert by_folder.version != open_segmenter(str(random_student(tmp_path / "other", config_of()))).version
    assert by_weights.tile == "auto"
    assert by_weights.flips


def test_what_it_cannot_be_asked(colours: Path) -> None:
    for options, says in (
        ({"points": [(0.5, 0.5, 1)]}, "is asked for classes, with --prompt, and not by places"),
        ({"grid": 4}, "not by places"),
        ({"score": 0.5}, "gives every pixel a class; leave --score out"),
    ):
        with pytest.raises(UsageError, match=says):
            open_segmenter(str(colours), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--mask-flips is for checkpoints of `lightmill train segment`, and builtin:"):
        open_segmenter("builtin:salient", flips=True, options="--mask-")


def test_other_models_take_no_tiles(tmp_path: Path) -> None:
    folder = tiny.segformer(tmp_path / "segformer")
    assert open_segmenter(str(folder / "model.safetensors"), prompts=["sky"]).name == str(folder)
    with pytest.raises(UsageError, match="--tile is for checkpoints"):
        open_segmenter(str(folder), prompts=["sky"], tile="auto")


def test_it_travels_while_it_is_not_loaded(colours: Path) -> None:
    picture = painted(*HW, (0.3, 0.5, 0.3, RED))
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        StudentSegmenter(str(colours))([picture])
    first = loaded(colours)
    wanted = first([picture])[0]
    first.unload()
    second = pickle.loads(pickle.dumps(first))
    second.load("cpu")
    assert np.array_equal(second([picture])[0].masks[0], wanted.masks[0])


# --- what is wrong with a checkpoint: never a placeholder (B4.2, B4.3, B4.17) ----------------------------------------


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def with_config(**values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text("utf-8")) | values
        (folder / "config.json").write_text(json.dumps(found), "utf-8")

    return spoil


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def foreign_weights(folder: Path) -> None:
    save_file({"model.embed.weight": torch.zeros(4, 4)}, folder / "model.safetensors")


def pickled_weights(folder: Path) -> None:
    torch.save({"model_state_dict": {}}, folder / "model.safetensors")


def astray(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors")


HOSTILE = {"model_type": "resnet", "depths": [10**9] * 4}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("config.json"), "neither config.json nor model_index.json"),
        (without("model.safetensors"), "has no weights: no .safetensors"),
        (with_config(size="huge"), r"config.json is not that of a student \(size: .*`lightmill train segment` made"),
        (with_config(names=["red", "red"]), "two classes have the same name"),
        (with_config(run_this="rm -rf"), r"config.json is not that of a student \(run_this"),
        (with_config(size_hw=[10**9, 10**9]), r"config.json is not that of a student \(size_hw"),
        (with_config(std=[0, 1, 1]), r"config.json is not that of a student \(std"),
        (with_config(backbone=HOSTILE), "config.json: depths is 1000000000, and 1024 is the most"),
        (with_config(backbone={"model_type": "gpt2"}), "config.json: a model of type gpt2 is no backbone here"),
        (with_config(size="small"), "model.safetensors does not fill the network of its config.json"),
        (cut_weights, "model.safetensors cannot be read"),
        (pickled_weights, "model.safetensors cannot be read"),
        (foreign_weights, "model.safetensors does not fill the network of its config.json"),
        (astray, r"model.safetensors holds what is no number \(head.weight\): its training went astray"),
    ],
)
def test_a_damaged_checkpoint_is_told_before_the_first_picture(
    spoil: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    folder = random_student(tmp_path / "best", config_of())
    spoil(folder)
    with pytest.raises(ModelError, match=says) as caught:
        open_segmenter(str(folder)).check("cpu")
    assert str(folder) in str(caught.value)


def test_weights_without_their_folder_are_refused(colours: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((colours / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"not the model\.safetensors of a folder with a config\.json"):
        open_segmenter(str(alone))
    renamed = tmp_path / "mine.safetensors"
    alone.rename(renamed)
    with pytest.raises(ModelError, match="weights alone do not say of what network they are; give the folder"):
        open_segmenter(str(renamed))
    with pytest.raises(ModelError, match=r"there is no file .*gone\.safetensors; give a folder"):
        open_segmenter(str(tmp_path / "gone.safetensors"))


def test_another_model_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a model of type segformer, not one that `lightmill train segment` made"):
        StudentSegmenter(str(tiny.segformer(tmp_path / "segformer"))).check("cpu")
