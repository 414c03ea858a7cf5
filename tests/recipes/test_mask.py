"""`mask`: names, polarity, which of several things, lengths as shares, panoramas, devices, tables and refusals."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import tiny
from tests.recipes.colours import GREEN, RED, Colours, is_colour, painted

import lightmill
from lightmill.cli import run_command_line
from lightmill.engine.run import run
from lightmill.errors import ChangedConfig, ModelError, UsageError
from lightmill.models.segmenters import open_segmenter
from lightmill.recipes.mask import Mask

BOTH = {"red": (RED, 0.6), "green": (GREEN, 0.9)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """in/two.png: a large red disc and a small green one; in/walk/none.jpg: nothing."""
    folder = tmp_path / "in"
    (folder / "walk").mkdir(parents=True)
    two = painted(60, 80, (0.3, 0.5, 0.3, RED), (0.8, 0.3, 0.12, GREEN))
    Image.fromarray(two).save(folder / "two.png")
    Image.fromarray(painted(40, 50)).save(folder / "walk" / "none.jpg")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Any]:
    """`made(source, segmenter, out="out", **options)`: rows of the manifest, and how to open an output of one."""

    def do(source: Path, segmenter: Any, out: str = "out", **options: Any) -> Made:
        recipe = Mask.from_values({"progress": "none", "threads": 2, "device": "cpu"} | options)
        result = run(recipe.job_with(segmenter, source, tmp_path / out), recipe.run_options())
        assert result.failed == 0, (tmp_path / out / "manifest.csv").read_text("utf-8")
        return Made(tmp_path / out)

    return do


class Made:
    """A run that has ended."""

    def __init__(self, out: Path) -> None:
        lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
        self.out = out
        self.rows: dict[str, Any] = {row["key"]: row for row in map(json.loads, lines)}

    def open(self, key: str, output: str = "mask") -> Any:
        return np.asarray(Image.open(self.out / self.rows[key]["outputs"][output]))

    def mask(self, key: str, output: str = "mask") -> Any:
        """[H, W] its levels, also where the file has one bit a pixel."""
        return np.asarray(Image.open(self.out / self.rows[key]["outputs"][output]).convert("L"))

    def outputs(self, key: str) -> dict[str, str]:
        return dict(self.rows[key]["outputs"])

    @property
    def contents(self) -> dict[str, bytes]:
        folders = ("masks", "instances", "cutouts", "overlays")
        files = [path for folder in folders for path in (self.out / folder).rglob("*") if path.is_file()]
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in files}


# --- every picture gets a mask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("remove", "inside", "outside"), [(False, 255, 0), (True, 0, 255)])
def test_every_picture_gets_a_mask_of_its_size(
    remove: bool, inside: int, outside: int, pictures: Path, made: Callable[..., Any]
) -> None:
    got = made(pictures, Colours(), remove=remove)
    two = np.asarray(Image.open(pictures / "two.png"))
    assert np.array_equal(got.mask("two.png"), np.where(is_colour(two, RED), inside, outside))
    assert (got.mask("walk/none.jpg") == outside).all()
    assert got.mask("walk/none.jpg").shape == (40, 50)
    share = round(is_colour(two, RED).mean(), 6)
    assert got.rows["two.png"]["meta"] == {"found": 1, "coverage": share, "scores": [0.9]}
    assert got.rows["walk/none.jpg"]["meta"] == {"found": 0, "coverage": 0.0, "scores": []}


def test_masks_are_laid_out_like_the_pictures(pictures: Path, made: Callable[..., Any]) -> None:
    plain = made(pictures, Colours())
    assert plain.outputs("walk/none.jpg") == {"mask": "masks/walk/none.png"}
    assert plain.outputs("two.png") == {"mask": "masks/two.png"}
    colmap = made(pictures, Colours(), "colmap", mask_naming="colmap")
    assert colmap.outputs("walk/none.jpg") == {"mask": "masks/walk/none.jpg.png"}
    assert colmap.outputs("two.png") == {"mask": "masks/two.png.png"}
    assert colmap.mask("two.png").tolist() == plain.mask("two.png").tolist()
    Image.fromarray(painted(40, 50)).save(pictures / "two.jpg")  # now the suffix is part of the name
    alike = made(pictures, Colours(), "alike", mask_naming="colmap")
    assert alike.outputs("two.png") == {"mask": "masks/two.png.png"}
    assert alike.outputs("two.jpg") == {"mask": "masks/two.jpg.png"}


def test_a_table_comes_back_with_its_masks(pictures: Path, made: Callable[..., Any]) -> None:
    (pictures / "list.csv").write_text("image_path,who\ntwo.png,Ada\nwalk/none.jpg,\n", encoding="utf-8")
    got = made(pictures / "list.csv", Colours())
    table = (got.out / "list_with_masks.csv").read_text("utf-8").splitlines()
    assert table[0].startswith("image_path,who,output_image_path,status,error")
    assert table[1].startswith("two.png,Ada,masks/two.png,ok,")


def test_frames_of_a_video_get_masks(shared_data: Path, made: Callable[..., Any]) -> None:
    clip = shared_data / "pano" / "theta.mp4"
    got = made(clip, Colours(), fps=2, end=1)
    assert [row["outputs"]["mask"] for row in got.rows.values()] == [
        "masks/theta_00000_000.png",
        "masks/theta_00000_500.png",
    ]
    assert got.mask("theta.mp4#00000.500").shape == (322, 640)
    with pytest.raises(UsageError, match="--mask-naming colmap names masks after picture files, and a video has none"):
        made(clip, Colours(), "refused", mask_naming="colmap")
    assert not (got.out.parent / "refused").exists()


# --- which things, and their outlines --------------------------------------------------------------------------------


def test_of_several_things_all_one_or_each(pictures: Path, made: Callable[..., Any]) -> None:
    two = np.asarray(Image.open(pictures / "two.png"))
    red, green = is_colour(two, RED), is_colour(two, GREEN)
    wanted = {"union": red | green, "largest": red, "best": green, "each": red | green}
    scores = {"union": [0.9, 0.6], "largest": [0.6], "best": [0.9], "each": [0.9, 0.6]}
    for instances, inside in wanted.items():
        got = made(pictures, Colours(BOTH), instances, instances=instances)
        assert np.array_equal(got.mask("two.png") == 255, inside), instances
        assert got.rows["two.png"]["meta"]["scores"] == scores[instances]
    each = made(pictures, Colours(BOTH), "each", instances="each")  # goes on: all is there
    files = {name: path for name, path in each.outputs("two.png").items() if name != "mask"}
    assert files == {"instance_00": "instances/two_00.png", "instance_01": "instances/two_01.png"}
    assert np.array_equal(each.mask("two.png", "instance_00") == 255, green)
    assert np.array_equal(each.mask("two.png", "instance_01") == 255, red)
    assert list(each.outputs("walk/none.jpg")) == ["mask"]


def test_instances_are_white_whatever_the_polarity(pictures: Path, made: Callable[..., Any]) -> None:
    got = made(pictures, Colours(BOTH), instances="each", remove=True)
    two = np.asarray(Image.open(pictures / "two.png"))
    assert np.array_equal(got.mask("two.png", "instance_01") == 255, is_colour(two, RED))
    assert np.array_equal(got.mask("two.png") == 0, is_colour(two, RED) | is_colour(two, GREEN))


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("grow", [0.03, -0.03])
def test_growth_is_a_share_of_the_diagonal(scale: int, grow: float, tmp_path: Path, made: Callable[..., Any]) -> None:
    height, width = 120 * scale, 160 * scale
    Image.fromarray(painted(height, width, (0.5, 0.5, 0.25, RED))).save(tmp_path / "disc.png")
    got = made(tmp_path / "disc.png", Colours(), grow=grow)
    radius = 0.25 * height + grow * math.hypot(height, width)
    area = (got.mask("disc.png") == 255).sum()
    assert math.sqrt(area / math.pi) == pytest.approx(radius, abs=0.5)


def test_feathered_edges_keep_their_place(pictures: Path, made: Callable[..., Any]) -> None:
    hard = made(pictures, Colours(), "hard").mask("two.png")
    soft = made(pictures, Colours(), "soft", feather=0.08).mask("two.png")
    assert np.array_equal(soft >= 128, hard == 255)
    assert len(np.unique(soft)) > 8
    width = 0.08 * math.hypot(60, 80)
    row = soft[30].astype(float)  # through the middle of the disc: the slope of the edge
    assert np.abs(np.diff(row)).max() == pytest.approx(255 / width, rel=0.15)


def test_soft_masks_are_those_of_the_model(pictures: Path, made: Callable[..., Any]) -> None:
    ((instances,),) = ([Colours()([np.asarray(Image.open(pictures / "two.png"))])[0]],)
    got = made(pictures, Colours(), "soft", soft=True)
    assert np.array_equal(got.mask("two.png"), instances.masks[0])
    grown = made(pictures, Colours(), "grown", soft=True, grow=0.02).mask("two.png")
    hard = made(pictures, Colours(), "hard", grow=0.02).mask("two.png")
    assert np.array_equal(grown >= 128, hard == 255)
    assert (grown >= instances.masks[0]).all()
    shrunk = made(pictures, Colours(), "shrunk", soft=True, grow=-0.02).mask("two.png")
    assert (shrunk <= instances.masks[0]).all()
    assert (shrunk >= 128).sum() < (instances.masks[0] >= 128).sum()


def test_holes_and_small_things(tmp_path: Path, made: Callable[..., Any]) -> None:
    picture = painted(60, 60, (0.5, 0.5, 0.35, RED), (0.5, 0.5, 0.15, GREEN), (0.06, 0.06, 0.05, RED))
    Image.fromarray(picture).save(tmp_path / "ring.png")
    plain = made(tmp_path / "ring.png", Colours(), "plain")
    assert plain.rows["ring.png"]["meta"]["found"] == 2
    got = made(tmp_path / "ring.png", Colours(), "clean", fill_holes=True, min_area=0.02)
    assert got.rows["ring.png"]["meta"]["found"] == 1
    disc = is_colour(painted(60, 60, (0.5, 0.5, 0.35, RED)), RED)
    assert np.array_equal(got.mask("ring.png") == 255, disc)
    gone = made(tmp_path / "ring.png", Colours(), "gone", min_area=0.9, remove=True)
    assert gone.rows["ring.png"]["meta"] == {"found": 0, "coverage": 0.0, "scores": []}
    assert (gone.mask("ring.png") == 255).all()


# --- beside the masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remove", [False, True])
def test_cutouts_are_the_picture_with_its_mask(remove: bool, pictures: Path, made: Callable[..., Any]) -> None:
    got = made(pictures, Colours(), cutout=True, remove=remove, feather=0.02)
    cutout = got.open("two.png", "cutout")
    assert got.outputs("two.png")["cutout"] == "cutouts/two.png"
    assert np.array_equal(cutout[..., :3], np.asarray(Image.open(pictures / "two.png")))
    assert np.array_equal(cutout[..., 3], got.mask("two.png"))


def test_overlays_show_what_was_found(tmp_path: Path, made: Callable[..., Any]) -> None:
    Image.fromarray(painted(900, 2000, (0.5, 0.5, 0.3, RED))).save(tmp_path / "wide.png")
    got = made(tmp_path / "wide.png", Colours(), overlay=True, panorama="no")
    shown = got.open("wide.png", "overlay").astype(int)
    assert got.outputs("wide.png")["overlay"] == "overlays/wide.jpg"
    assert shown.shape == (720, 1600, 3)
    assert np.abs(shown[360, 800] - RED).max() > 60
    assert np.abs(shown[20, 20] - shown[700, 1500]).max() < 6


# --- panoramas -------------------------------------------------------------------------------------------------------

ROUND = (
    (0.02, 0.5, 0.2, RED),  # across the seam
    (0.99, 0.85, 0.05, RED),  # across the seam, small
    (0.125, 0.15, 0.06, RED),  # at the edge of what a panorama is continued by
    (0.5, 0.5, 0.1, RED),
)
CLEAN = {"grow": 0.01, "feather": 0.02, "fill_holes": True, "min_area": 0.001, "instances": "each"}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("shift", [37, 128, 255])
def test_a_turned_panorama_gives_the_turned_mask(
    shift: int, on_device: bool, tmp_path: Path, made: Callable[..., Any]
) -> None:
    picture = painted(128, 256, *ROUND)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(np.roll(picture, shift, axis=1)).save(tmp_path / "b.png")
    options = CLEAN | {"cutout": True}
    first = made(tmp_path / "a.png", Colours(on_device=on_device), "first", **options)
    turned = made(tmp_path / "b.png", Colours(on_device=on_device), "turned", **options)
    assert np.array_equal(turned.mask("b.png"), np.roll(first.mask("a.png"), shift, axis=1))
    for got, key in ((first, "a.png"), (turned, "b.png")):
        meta = got.rows[key]["meta"]
        assert (meta["found"], len(meta["scores"])) == (4, 4)
    assert turned.rows["b.png"]["meta"]["coverage"] == first.rows["a.png"]["meta"]["coverage"]


def test_a_thing_across_the_seam_is_one_instance(tmp_path: Path, made: Callable[..., Any]) -> None:
    picture = painted(128, 256, (0.02, 0.5, 0.2, RED))
    Image.fromarray(picture).save(tmp_path / "a.png")
    got = made(tmp_path / "a.png", Colours(), instances="each")
    assert list(got.outputs("a.png")) == ["mask", "instance_00"]
    assert np.array_equal(got.mask("a.png", "instance_00") == 255, is_colour(picture, RED))
    flat = made(tmp_path / "a.png", Colours(), "flat", instances="each", panorama="no")
    assert flat.rows["a.png"]["meta"]["found"] == 2


def test_which_pictures_are_panoramas(tmp_path: Path, made: Callable[..., Any]) -> None:
    Image.fromarray(painted(100, 180, (0.0, 0.5, 0.2, RED))).save(tmp_path / "photo.png")
    for panorama, found in (("auto", 2), ("no", 2), ("yes", 1)):
        got = made(tmp_path / "photo.png", Colours(), panorama, panorama=panorama)
        assert got.rows["photo.png"]["meta"]["found"] == found
    Image.fromarray(painted(100, 199, (0.0, 0.5, 0.2, RED))).save(tmp_path / "near.png")
    assert made(tmp_path / "near.png", Colours(), "near").rows["near.png"]["meta"]["found"] == 1


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_on_the_device_gets_batches_and_gives_the_same_files(tmp_path: Path, made: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(20):
        size = (64, 128) if number % 3 else (60, 80)
        picture = painted(*size, (number / 20, 0.5, 0.2, RED), (0.3, number / 20, 0.1, GREEN))
        Image.fromarray(picture).save(tmp_path / "in" / f"{number:02d}.png")
    options = {"instances": "each", "overlay": True, "cutout": True, "grow": 0.01}
    on_cpu = made(tmp_path / "in", Colours(BOTH), "cpu", **options)
    segmenter = Colours(BOTH, on_device=True)
    on_device = made(tmp_path / "in", segmenter, "device", **options)
    assert on_device.contents == on_cpu.contents
    assert len(on_cpu.contents) > 20 * 4
    assert on_device.rows == on_cpu.rows
    assert sum(segmenter.batches) == 20
    assert segmenter.checked == ["cpu"]
    short = Colours(BOTH, on_device=True, most=2)
    assert made(tmp_path / "in", short, "short", **options).contents == on_cpu.contents
    assert max(short.batches) <= 2


def test_files_do_not_depend_on_the_threads(tmp_path: Path, made: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.fromarray(painted(64, 128, (number / 6, 0.5, 0.3, RED))).save(tmp_path / "in" / f"{number}.png")
    alone, together = (
        made(tmp_path / "in", open_segmenter("builtin:salient"), f"{n}", threads=n, overlay=True, soft=True)
        for n in (1, 3)
    )
    assert alone.contents == together.contents


def test_without_a_prompt_what_stands_out_is_found(tmp_path: Path) -> None:
    picture = painted(200, 260, (0.5, 0.5, 0.3, RED))
    Image.fromarray(picture).save(tmp_path / "a.png")
    result = lightmill.mask(tmp_path / "a.png", tmp_path / "out", threads=1)
    assert result.ok == 1
    found = Made(tmp_path / "out").mask("a.png") == 255
    wanted = is_colour(picture, RED)
    assert (found & wanted).sum() / (found | wanted).sum() > 0.9


def test_the_model_is_part_of_the_config(pictures: Path, tmp_path: Path, made: Callable[..., Any]) -> None:
    made(pictures, Colours())
    made(pictures, Colours())  # goes on
    newer = Colours()
    newer.version = "2"
    with pytest.raises(ChangedConfig, match="model_version was 1, now 2"):
        made(pictures, newer)
    job = Mask.from_values({}).job(pictures, tmp_path / "x")
    assert (job.config["model"], job.config["model_version"]) == ("builtin:salient", lightmill.__version__)
    assert (job.device, job.config["device"]) == ("cpu", "cpu")


def test_models_of_transformers_are_opened_by_their_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.segformer(tmp_path / "segformer")
    monkeypatch.chdir(tmp_path)
    recipe = Mask.from_values({"model": "segformer", "prompt": "person, tripod", "device": "cpu", "progress": "none"})
    job = recipe.job(pictures, tmp_path / "out")
    assert job.config["model"] == str(folder)
    assert job.command["options"] == {"model": str(folder), "prompt": ["person", "tripod"], "device": "cpu"}
    assert run(job, recipe.run_options()).ok == 2
    got = Made(tmp_path / "out")
    two = np.asarray(Image.open(pictures / "two.png"))
    segmenter = open_segmenter(str(folder), prompts=("person", "tripod"))
    segmenter.load("cpu")
    (instances,) = segmenter([two])
    wanted = np.max([*instances.masks, np.zeros((60, 80), np.uint8)], axis=0)
    assert np.array_equal(got.mask("two.png") == 255, wanted >= 128)
    assert got.rows["two.png"]["meta"]["found"] == len(instances.masks)
    assert set(got.rows["two.png"]["meta"]["labels"]) <= {"person, human", "person", "tripod"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "builtin:salient", "prompt": "person"}, "builtin:salient finds what stands out and takes no prompt"),
        ({"model": "builtin:salient", "points": "0.5,0.5"}, "takes no prompt, point, box or grid"),
        ({"score": 0.3}, "builtin:salient gives one thing or none, whatever its score; leave --score out"),
        ({"model": "builtin:saliend"}, "no model is called builtin:saliend; did you mean builtin:salient?"),
        ({"model": "builtin:zzz"}, "no model is called builtin:zzz; there is builtin:salient"),
        ({"points": "0.5,0.5"}, "--points, --boxes and --grid need a model that takes them: --model facebook/sam2"),
        ({"boxes": "0.5,0.1,0.2,0.9", "model": "x"}, "a box is left,top,right,bottom, with left < right"),
        ({"boxes": "0.5,0.1,0.2", "model": "x"}, "--boxes "),
        ({"points": "1.5,0.5", "model": "x"}, "--points .*: input should be less than or equal to 1"),
        ({"points": "0.5,0.5,2", "model": "x"}, "--points "),
        ({"pick": "sharpest"}, "--pick sharpest needs --fps"),
        ({"grow": 0.7}, "--grow 0.7: input should be less than or equal to 0.5"),
        ({"min_area": 1}, "--min-area 1: input should be less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: dict[str, Any], says: str, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        lightmill.mask(pictures, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_told_before_the_first_picture(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*mine.safetensors; give a folder that `lightmill"):
        lightmill.mask(pictures, tmp_path / "out", model="mine.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_had_is_told_before_the_first_picture(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="facebook/sam3"):
        lightmill.mask(pictures, tmp_path / "out", prompt="person")
    assert not (tmp_path / "out").exists()


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["person, tripod", ["person", "tripod"], ["person,tripod"], ("person ", " tripod,")])
def test_prompts_by_commas_and_one_by_one(given: Any) -> None:
    assert Mask.from_values({"prompt": given}).prompt == ("person", "tripod")


@pytest.mark.parametrize("given", ["0.5,0.4", ["0.5,0.4"], [[0.5, 0.4, 1]], [0.5, 0.4], ["0.5,0.4,1"]])
def test_points_as_texts_and_numbers(given: Any) -> None:
    recipe = Mask.from_values({"points": given, "model": "org/sam2"})
    assert recipe.points == ((0.5, 0.4, 1),)
    again: Any = json.loads(json.dumps(recipe.command(Path("in"))))
    assert Mask.from_values(again["options"]) == recipe


def test_the_command_line(pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def command(out: str, *options: str) -> tuple[int, str]:
        code = run_command_line(["mask", str(pictures), str(tmp_path / out), *options, "--progress", "none"])
        return code, capfd.readouterr().err

    code, said = command("keep", "--keep")
    assert code == 0
    assert said.startswith("warning: masks are by builtin:salient")
    assert said.count("\n") == 1
    assert command("remove", "--remove", "--grow", "-0.01")[0] == 0
    keep, remove = Made(tmp_path / "keep"), Made(tmp_path / "remove")
    assert 255 in keep.mask("two.png")
    assert not (keep.mask("two.png") == remove.mask("two.png")).all()
    assert command("keep")[0] == 0  # the default: the same run
    code, said = command("both", "--keep", "--remove")
    assert code == 2
    assert "--remove specified multiple times" in said
    code, said = command("words", "--prompt", "person", "--prompt", "tripod", "--model", "builtin:salient")
    assert code == 2
    assert "takes no prompt" in said
    assert command("points", "--points", "-0.5,0.5", "--model", "x")[0] == 2


def test_options_of_the_command_line_reach_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Mask] = []

    def stop(recipe: Mask, *_: Any, **__: Any) -> Any:
        taken.append(recipe)
        raise UsageError("enough")

    monkeypatch.setattr(Mask, "run", stop)
    prompts = ["--prompt", "person", "--prompt", "red bag"]
    points = ["--points", "0.5,0.4", "--points", "0.1,0.2,0"]
    assert run_command_line(["mask", "in", "out", *prompts, *points, "--model", "x", "--remove"]) == 2
    assert taken[0].prompt == ("person", "red bag")
    assert taken[0].points == ((0.5, 0.4, 1), (0.1, 0.2, 0))
    assert taken[0].remove


def test_the_job_can_be_pickled_to_other_processes(pictures: Path, tmp_path: Path) -> None:
    import pickle

    job = Mask.from_values({"instances": "each"}).job(pictures, tmp_path / "out")
    make_pipeline: partial[Any] = pickle.loads(pickle.dumps(job.make_pipeline))
    assert [stage.name for stage in make_pipeline().stages] == [
        "read",
        "decode",
        "widen",
        "segment",
        "mask",
        "encode",
        "encode instances",
        "save",
    ]
