"""Portraits in other light: every fault of the program that inspired it has a test that says ours does not have it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import lightmill
from lightmill.errors import ModelError, RunError, UsageError
from lightmill.models.normals import Inflate
from lightmill.sample.portraits import portrait, write_portraits

SIZE = (160, 160)
LABELS = {"output", "input", "albedo", "degraded_fg", "foreground", "background", "mask", "metadata"}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sample portraits with their masks and a table."""
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, 5, seed=2, size=SIZE)
    return folder


@pytest.fixture
def lit(portraits: Path, relight: Callable[..., Any]) -> Callable[..., Any]:
    """`lit(source, out="out", **options)`: relight with the exact masks, unless told otherwise."""
    return lambda source, out="out", **options: relight(source, out, **{"masks": str(portraits / "masks")} | options)


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def metadata(made: Any, key: str, label: str = "metadata") -> Any:
    return json.loads((made.out / made.rows[key]["outputs"][label]).read_text("utf-8"))


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def decoded(levels: NDArray[Any]) -> NDArray[np.float64]:
    """IEC 61966-2-1, written anew."""
    v = levels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def encoded(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    v = np.clip(linear, 0, 1)
    return 255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


# --- files and table -------------------------------------------------------------------------------------------------


def test_every_portrait_gets_all_files_and_the_table_says_where(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portraits.csv")
    assert (made.result.ok, made.result.failed) == (5, 0)
    for key, row in made.rows.items():
        stem = Path(key).stem
        assert row["outputs"] == {
            label: f"{stem}_{label}.{'json' if label == 'metadata' else 'png'}" for label in row["outputs"]
        }
        assert set(row["outputs"]) == LABELS
    before, after = table_of(portraits / "portraits.csv"), table_of(made.out / "portraits_with_relighting_outputs.csv")
    assert [{name: row[name] for name in before[0]} for row in after] == before
    assert [row["output_image_path"] for row in after] == [f"portrait_{i:03d}_output.png" for i in range(5)]
    assert {row["status"] for row in after} == {"ok"}


def test_cutouts_hold_what_the_mask_says_and_nothing_else(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_001.jpg")
    out = made.out
    picture, mask = pixels(portraits / "portrait_001.jpg"), pixels(portraits / "masks" / "portrait_001.png")
    assert np.array_equal(pixels(out / "portrait_001_input.png"), picture)
    assert np.array_equal(pixels(out / "portrait_001_mask.png"), mask)
    for name, alpha in (("foreground", mask), ("background", 255 - mask)):
        cut = pixels(out / f"portrait_001_{name}.png")
        assert np.array_equal(cut[..., 3], alpha)
        assert np.array_equal(cut[alpha > 0][:, :3], picture[alpha > 0])
        assert not cut[alpha == 0].any()


def test_write_chooses(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_001.jpg", write="output,albedo")
    assert set(made.rows["portrait_001.jpg"]["outputs"]) == {"output", "albedo", "metadata"}


@pytest.mark.parametrize(("background", "level"), [("gray", (128, 128, 128)), ("#10f0a0", (16, 240, 160))])
def test_outside_the_mask_is_the_colour_that_was_asked_for(
    portraits: Path, lit: Callable[..., Any], background: str, level: tuple[int, int, int]
) -> None:
    made = lit(portraits / "portrait_000.jpg", background=background)
    mask = pixels(made.out / "portrait_000_mask.png")
    outside = pixels(made.out / "portrait_000_output.png")[mask == 0]
    assert (outside == level).all()


def test_the_original_background_is_not_touched(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_000.jpg", background="original")
    mask = pixels(made.out / "portrait_000_mask.png")
    picture = pixels(portraits / "portrait_000.jpg")
    assert np.array_equal(pixels(made.out / "portrait_000_output.png")[mask == 0], picture[mask == 0])


def test_soft_edges_are_blended_in_linear_light(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_000.jpg", feather=0.02)
    mask = pixels(made.out / "portrait_000_mask.png")
    foreground, alpha = pixels(made.out / "portrait_000_degraded_fg.png"), mask[..., None] / 255
    edge = (mask > 20) & (mask < 235)
    assert edge.sum() > 100
    expected = encoded(decoded(foreground[..., :3]) * alpha + decoded(np.array(128)) * (1 - alpha))
    output = pixels(made.out / "portrait_000_output.png")
    assert np.abs(output - expected)[edge].max() <= 1.01


# --- the light -------------------------------------------------------------------------------------------------------


def test_the_picture_is_albedo_times_shading_plus_highlight(portraits: Path, lit: Callable[..., Any]) -> None:
    """From the albedo's file and the metadata alone, in float64, written anew: fault 16, 8-bit steps and gamma."""
    made = lit(portraits / "portrait_003.jpg", degrade="specular", seed=5)
    found = metadata(made, "portrait_003.jpg")
    light, mask = found["light"], pixels(made.out / "portrait_003_mask.png")
    relief = Inflate()([pixels(portraits / "portrait_003.jpg")], [mask])[0]
    normals, towards = relief.normals.astype(np.float64), np.array(light["lamps"][0]["direction"])
    halfway = towards + np.array([0, 0, 1])
    halfway /= np.linalg.norm(halfway)
    facing = np.maximum(normals @ towards, 0)
    n = light["shininess"]
    energy = (n + 2) * (n + 4) / (8 * (2 ** (-n / 2) + n))
    glow = light["gloss"] * energy * np.maximum(normals @ halfway, 0) ** n * facing
    shading = light["ambient"][0] + light["lamps"][0]["colour"][0] * facing
    expected = decoded(pixels(made.out / "portrait_003_albedo.png")) * shading[..., None]
    expected += (glow * light["lamps"][0]["colour"][0])[..., None]
    inside = (mask == 255) & (expected.max(axis=2) < 1)
    shown = pixels(made.out / "portrait_003_degraded_fg.png")[..., :3]
    assert inside.mean() > 0.1
    assert (
        np.abs(shown - encoded(expected))[inside].max() <= 1.5
    )  # half a level of the albedo's file, half of the output's
    assert found["clipped_share"] == pytest.approx((expected[mask >= 128].max(axis=1) > 1).mean(), abs=0.01)


@pytest.mark.parametrize("kind", ["soft", "hard", "specular", "advanced", "foliage", "venetian", "screen"])
def test_no_picture_is_ok_without_the_light_that_was_asked_for(
    portraits: Path, lit: Callable[..., Any], kind: str
) -> None:
    """Faults 4 and 5: pictures without any degradation, and highlights that were none."""
    made = lit(portraits, degrade=kind)
    for key in made.rows:
        light = metadata(made, key)["light"]
        assert light["kind"] == kind
        assert bool(light["gloss"]) or kind != "specular"
        assert (light["shadow"] is None) == (kind in ("soft", "specular", "advanced"))
        mask = made.mask(key, "mask") == 255
        after, before = made.view(key, "output")[mask], made.view(key, "input")[mask]
        assert np.abs(after.astype(int) - before).mean() > 2


def test_a_highlight_only_adds(portraits: Path, lit: Callable[..., Any]) -> None:
    dull = lit(portraits / "portrait_003.jpg", "dull", degrade="specular", gloss="0")
    glossy = lit(portraits / "portrait_003.jpg", "glossy", degrade="specular", gloss="0.1")
    difference = glossy.view("portrait_003.jpg", "output").astype(int) - dull.view("portrait_003.jpg", "output")
    assert difference.min() >= 0
    assert difference.max() > 10


def test_a_shadow_only_takes_away(portraits: Path, lit: Callable[..., Any]) -> None:
    plain = lit(portraits / "portrait_003.jpg", "lit", degrade="venetian", opacity="0")
    shaded = lit(portraits / "portrait_003.jpg", "shaded", degrade="venetian", opacity="0.9")
    difference = shaded.view("portrait_003.jpg", "output").astype(int) - plain.view("portrait_003.jpg", "output")
    assert difference.max() <= 0
    assert difference.min() < -30


def test_lights_differ_and_are_those_of_the_seed(portraits: Path, lit: Callable[..., Any]) -> None:
    """Fault 7: workers that repeat each other's draws, and nothing that can be had again."""
    one, two, other = (lit(portraits, name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    lights = [json.dumps(metadata(one, key)["light"]) for key in one.rows]
    assert len(set(lights)) == len(lights)
    assert one.contents == two.contents
    assert [json.dumps(metadata(other, key)["light"]) for key in other.rows] != lights


def test_files_do_not_depend_on_threads(portraits: Path, lit: Callable[..., Any]) -> None:
    assert lit(portraits, "one", threads=1).contents == lit(portraits, "four", threads=4).contents


def test_variants_share_mask_and_albedo(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portraits.csv", variants=3)
    outputs = made.rows["portrait_000.jpg"]["outputs"]
    assert set(outputs) == {"input", "albedo", "foreground", "background", "mask"} | {
        f"v{i:02d}_{label}" for i in range(3) for label in ("output", "degraded_fg", "metadata")
    }
    lights = [metadata(made, "portrait_000.jpg", f"v{i:02d}_metadata")["light"] for i in range(3)]
    assert len({json.dumps(light) for light in lights}) == 3
    row = table_of(made.out / "portraits_with_relighting_outputs.csv")[0]
    assert [row[f"output_image_path{end}"] for end in ("", "_v01", "_v02")] == [
        f"portrait_000_v{i:02d}_output.png" for i in range(3)
    ]


def test_more_variants_leave_the_first_as_it_was(portraits: Path, lit: Callable[..., Any]) -> None:
    one, three = lit(portraits, "one"), lit(portraits, "three", variants=3)
    key = "portrait_002.jpg"
    assert metadata(one, key)["light"] == metadata(three, key, "v00_metadata")["light"]


# --- albedo ----------------------------------------------------------------------------------------------------------


def test_the_background_does_not_reach_the_albedo(tmp_path: Path, lit: Callable[..., Any]) -> None:
    """Fault 6: black around the foreground made its albedo white."""
    truth = portrait(3, size_wh=SIZE)
    (tmp_path / "masks").mkdir()
    inside = (truth.mask > 0)[..., None]
    for name, behind in (("black", 0), ("white", 255), ("own", truth.pixels)):
        Image.fromarray(np.where(inside, truth.pixels, behind).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(truth.mask).save(tmp_path / "masks" / f"{name}.png")
    made = lit(tmp_path, masks=str(tmp_path / "masks"), limit=None, write="output,albedo")
    sure = cv2.erode(truth.mask, np.ones((3, 3))) == 255
    albedos = [made.view(key, "albedo")[sure].astype(int) for key in ("black.png", "white.png", "own.png")]
    assert max(np.abs(albedos[0] - other).max() for other in albedos[1:]) <= 1


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["soft", "hard", "specular", "advanced", "foliage", "window", "voronoi"])
def test_replay_makes_the_same_bytes(tmp_path: Path, portraits: Path, lit: Callable[..., Any], kind: str) -> None:
    made = lit(portraits, degrade=kind, variants=2, feather=0.01, background="original")
    key, label = "portrait_004.jpg", "v01_metadata"
    again = lightmill.relight(made.out / made.rows[key]["outputs"][label], tmp_path / "again", replay=True)
    assert again.remarks[0].startswith("made again, byte for byte: output, degraded_fg, input, albedo")
    for name in ("output", "degraded_fg"):
        first = (made.out / made.rows[key]["outputs"][f"v01_{name}"]).read_bytes()
        assert (tmp_path / "again" / f"portrait_004_{name}.png").read_bytes() == first


def test_replay_of_a_zip_member(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    shutil.make_archive(str(tmp_path / "pile"), "zip", portraits, ".")
    made = lit(tmp_path / "pile.zip", masks=None, min_foreground=0)
    key = next(key for key, row in made.rows.items() if row["outputs"] and "mask" not in key)
    path = made.out / made.rows[key]["outputs"]["metadata"]
    again = lightmill.relight(path, tmp_path / "again", replay=True)
    assert again.remarks[0].startswith("made again, byte for byte")


def test_replay_says_what_has_changed(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    picture = tmp_path / "portrait_000.jpg"
    shutil.copy(portraits / "portrait_000.jpg", picture)
    made = lit(picture)
    shutil.copy(portraits / "portrait_001.jpg", picture)
    path = made.out / "portrait_000_metadata.json"
    with pytest.raises(RunError, match="the picture itself has changed since"):
        lightmill.relight(path, tmp_path / "again", replay=True)
    picture.unlink()
    with pytest.raises(RunError, match="is gone"):
        lightmill.relight(path, tmp_path / "gone", replay=True)


@pytest.mark.parametrize(
    ("text", "said"), [("no", "is no JSON"), ("[]", "is no metadata of relight"), ("{}", "it says no lightmill")]
)
def test_replay_of_something_else(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RunError, match=said):
        lightmill.relight(tmp_path / "x.json", tmp_path / "again", replay=True)


def test_replay_takes_no_other_options(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_000.jpg")
    with pytest.raises(UsageError, match="takes its options from the metadata; leave out --seed"):
        lightmill.relight(made.out / "portrait_000_metadata.json", tmp_path / "again", replay=True, seed=3)


# --- tables ----------------------------------------------------------------------------------------------------------


def write_table(path: Path, images: list[str]) -> Path:
    path.write_text("n,image_path\n" + "".join(f"{i},{image}\n" for i, image in enumerate(images)))
    return path


def test_one_picture_is_one_file_whatever_its_row(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """Fault 2: the row number was the identity, so another order or table mixed pictures up."""
    names = [f"portrait_{i:03d}.jpg" for i in range(5)]
    for name in names:
        shutil.copy(portraits / name, tmp_path)
    first = lit(write_table(tmp_path / "first.csv", names), "one")
    second = lit(write_table(tmp_path / "second.csv", [*names[::-1], names[0]]), "two")
    images = {name: data for name, data in first.contents.items() if name.endswith(".png")}
    assert images == {name: data for name, data in second.contents.items() if name.endswith(".png")}
    rows = table_of(second.out / "second_with_relighting_outputs.csv")
    assert [Path(row["image_path"]).stem + "_output.png" for row in rows] == [row["output_image_path"] for row in rows]


def test_two_tables_share_one_out(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    names = [f"portrait_{i:03d}.jpg" for i in range(4)]
    for name in names:
        shutil.copy(portraits / name, tmp_path)
    train, val = write_table(tmp_path / "train.csv", names[:3]), write_table(tmp_path / "val.csv", names[2:])
    lit(train, naming="index")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    both = lit(val, naming="index")
    assert {name: (both.out / name).stat().st_mtime_ns for name in before} == before
    for table, numbers in (("train", (0, 1, 2)), ("val", (2, 3))):
        rows = table_of(both.out / f"{table}_with_relighting_outputs.csv")
        assert [row["output_image_path"] for row in rows] == [f"{n:05d}_output.png" for n in numbers]


def test_a_broken_row_costs_only_itself(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """Faults 10 and 13: one unreadable file took its batch along, and the last rows lost their paths."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    shutil.copy(portraits / "portrait_001.jpg", tmp_path)
    table = write_table(tmp_path / "t.csv", ["broken.jpg", "portrait_001.jpg", "gone.jpg", "", "portrait_001.jpg"])
    made = lit(table)
    assert made.result.exit_code == 3
    rows = table_of(made.out / "t_with_relighting_outputs.csv")
    assert [row["status"] for row in rows] == ["failed", "ok", "failed", "failed", "ok"]
    assert [row["output_image_path"] for row in rows] == [
        "",
        "portrait_001_output.png",
        "",
        "",
        "portrait_001_output.png",
    ]
    assert all(row["error"] for row in rows if row["status"] == "failed")


def test_the_report_says_that_salient_is_not_sam(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portrait_000.jpg", masks=None)
    assert "is not SAM" in made.result.warnings[0]
    assert "is not SAM" in (made.out / "report.html").read_text("utf-8")
    assert lit(portraits / "portrait_000.jpg", "given").result.warnings == ()


def test_no_foreground_is_no_success(tmp_path: Path, lit: Callable[..., Any]) -> None:
    """Fault 11: where nothing was found, an all-gray picture counted as made."""
    Image.new("RGB", SIZE, (90, 120, 150)).save(tmp_path / "wall.png")
    made = lit(tmp_path / "wall.png", masks=None)
    assert (made.result.filtered, made.result.ok) == (1, 0)
    assert made.rows["wall.png"]["error"] == "no foreground was found in it"
    assert made.rows["wall.png"]["outputs"] == {}


def test_a_picture_without_a_mask_is_filtered(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    shutil.copy(portraits / "portrait_000.jpg", tmp_path / "other.jpg")
    made = lit(tmp_path / "other.jpg")
    assert made.rows["other.jpg"]["error"] == "it has no mask in the folder of --masks"
    alpha = lit(tmp_path / "other.jpg", "alpha", masks="alpha")
    assert "it has no alpha channel" in alpha.rows["other.jpg"]["error"]


def test_alpha_as_the_foreground(tmp_path: Path, lit: Callable[..., Any]) -> None:
    truth = portrait(3, size_wh=SIZE)
    Image.fromarray(np.dstack([truth.pixels, truth.mask])).save(tmp_path / "a.png")
    made = lit(tmp_path / "a.png", masks="alpha")
    assert np.array_equal(made.mask("a.png", "mask"), truth.mask)


def test_the_folder_of_the_table_is_only_read(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """Fault 14: the table came out beside the input as well, which failed where that could not be written."""
    before = sorted(path.name for path in portraits.iterdir())
    lit(portraits / "portraits.csv")
    assert sorted(path.name for path in portraits.iterdir()) == before


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"albedo": "builtin:retinx"}, UsageError, "there is builtin:retinex, builtin:msr"),
        ({"normals": "builtin:depth"}, UsageError, "there is builtin:inflate"),
        ({"mask_model": "builtin:salient", "mask_prompt": ["dog"], "masks": None}, UsageError, "takes no prompt"),
        ({"mask_prompt": "person"}, UsageError, "--masks gives the foreground"),
        ({"albedo": "./nowhere"}, ModelError, "there is no such folder"),
        ({"by": "beauty", "keep_top": 2}, UsageError, "there is no such score"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_before_anything_is_written(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any], options: Any, error: type[Exception], said: str
) -> None:
    """Faults 3, 12 and 17: workers that died in silence, and other models than the named ones."""
    with pytest.raises(error, match=said):
        lit(portraits, **options)
    assert not list((tmp_path / "out").glob("*.png")) if (tmp_path / "out").exists() else True


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_columns(portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits / "portraits.csv", score=True)
    for row in table_of(made.out / "portraits_with_relighting_outputs.csv"):
        picture = cv2.imread(str(portraits / row["image_path"]), cv2.IMREAD_GRAYSCALE)
        assert float(row["contrast"]) == pytest.approx(picture.std() / 255, rel=0.02)
        assert 0 < float(row["evenness"]) <= 1
        assert float(row["sharpness"]) > 0
        assert 0 <= float(row["clipped_share"]) <= 1


def test_only_the_best_are_lit(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """Fault 18: one unreadable picture threw all scores away."""
    for i in range(4):
        blurred = cv2.GaussianBlur(cv2.imread(str(portraits / "portrait_001.jpg")), (0, 0), 0.3 + i)
        cv2.imwrite(str(tmp_path / f"blur{i}.png"), blurred)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shutil.copy(portraits / "masks" / "portrait_001.png", tmp_path / "m.png")
    (tmp_path / "masks").mkdir()
    for i in range(4):
        shutil.move(shutil.copy(tmp_path / "m.png", tmp_path / f"m{i}.png"), tmp_path / "masks" / f"blur{i}.png")
    table = write_table(tmp_path / "t.csv", [*(f"blur{i}.png" for i in (3, 1, 2, 0)), "broken.png"])
    made = lit(table, masks=str(tmp_path / "masks"), keep_top=2, by="sharpness")
    status = {key: row["status"] for key, row in made.rows.items()}
    assert status == {
        "blur3.png": "filtered",
        "blur1.png": "ok",
        "blur2.png": "filtered",
        "blur0.png": "ok",
        "broken.png": "failed",
    }
    assert "is number 4 of 4; --keep-top 2" in made.rows["blur3.png"]["error"]
    rows = table_of(made.out / "t_with_relighting_outputs.csv")
    assert float(rows[0]["sharpness"]) < float(rows[2]["sharpness"]) < float(rows[1]["sharpness"])
    again = lit(table, masks=str(tmp_path / "masks"), keep_top=2, by="sharpness")
    assert again.contents == made.contents


# --- export ----------------------------------------------------------------------------------------------------------


def test_instructpix2pix_is_read_by_datasets(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = lit(portraits / "portraits.csv", variants=2, export="instructpix2pix")
    import datasets

    datasets.disable_progress_bars()
    folder = made.out / "instructpix2pix"
    read = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == 10
    assert set(read.column_names) == {"input_image", "edited_image", "edit_prompt"}
    first = read[0]
    assert np.array_equal(np.asarray(first["edited_image"]), made.view("portrait_000.jpg", "input"))
    assert np.array_equal(np.asarray(first["input_image"]), made.view("portrait_000.jpg", "v00_output"))
    assert first["edit_prompt"] == metadata(made, "portrait_000.jpg", "v00_metadata")["instruction"]
    assert all("rror" not in text for text in read["edit_prompt"])  # fault 20: an error's text was an instruction
