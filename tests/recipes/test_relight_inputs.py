"""`relight` on odd, broken and hostile inputs, and with options at their ends: nothing is lost, mixed up, or hidden."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from tests.recipes.odd import READABLE, RECOVERED, UNREADABLE, files_below, write_odd

import lightmill
from lightmill.cli import run_command_line
from lightmill.errors import ChangedConfig, InputError, NameCollision, RunError, UsageError
from lightmill.ops.lights import KINDS, Ranges, draw_light
from lightmill.ops.radiance import Scene, light_up
from lightmill.recipes.relight import Relight
from lightmill.sample.portraits import write_portraits

SIZE = (96, 96)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sample portraits, a table of them, and their masks in a folder among them."""
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, 3, seed=2, size=SIZE)
    return folder


@pytest.fixture
def lit(portraits: Path, relight: Callable[..., Any]) -> Callable[..., Any]:
    """`lit(source, out="out", **options)`: relight with the exact masks, unless told otherwise."""
    return lambda source, out="out", **options: relight(source, out, **{"masks": str(portraits / "masks")} | options)


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def whole_masks(pictures: Path, folder: Path) -> str:
    """A folder with a square mask for every picture, 255 all over."""
    for path in sorted(pictures.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(pictures).with_suffix(path.suffix + ".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", SIZE, 255).save(target)
    return str(folder)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_odd_pictures_are_lit_and_broken_ones_fail_alone(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    """By their alpha; those without any are filtered with the reason, as others are that have no foreground."""
    source = write_odd(tmp_path / "in", pixels(portraits / "portrait_000.jpg"))
    before = files_below(source)
    made = lit(source, masks="alpha", min_foreground=0, write="input,output,mask")
    assert made.result.exit_code == 3
    assert files_below(source) == before
    assert sorted(made.rows) == sorted([*READABLE, *RECOVERED, *UNREADABLE])
    for key in (*READABLE, *RECOVERED):
        row = made.rows[key]
        assert row["status"] == ("ok" if key == "alpha.png" else "filtered"), key
        assert key == "alpha.png" or "it has no alpha channel" in row["error"]
    for key, why in UNREADABLE.items():
        row = made.rows[key]
        assert (row["status"], row["outputs"]) == ("failed", {})
        assert why in row["error"]
    assert np.array_equal(made.mask("alpha.png", "mask"), pixels(source / "alpha.png")[..., 3])


def test_every_odd_picture_is_its_own_input(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """All of it is foreground. The masks are squares: of a picture that is none, it fails with the reason."""
    source = write_odd(tmp_path / "in", pixels(portraits / "portrait_000.jpg"))
    made = lit(source, masks=whole_masks(source, tmp_path / "masks"), degrade="soft", variants=2)
    for key, (width, height) in (READABLE | RECOVERED).items():
        row = made.rows[key]
        if width != height:
            assert row["status"] == "failed"
            assert f"is 96x96, and the picture {width}x{height}: they are not of one shape" in row["error"], key
            continue
        assert row["status"] == ("recovered" if key in RECOVERED else "ok"), key
        assert len(row["outputs"]) == 11
        for label in ("input", "albedo", "v00_output", "v01_output"):
            assert made.view(key, label).shape == (height, width, 3), key
            assert made.view(key, label).any(), key
    whole = made.view("-dash.jpg", "input").astype(int)
    for key in ("100% {name} {part}.jpg", "two\nlines.jpg", "wrong_suffix.png"):
        assert np.array_equal(made.view(key, "input"), whole), key
    for key in ("sixteen.png", "moves.gif", "cmyk.jpg"):
        assert np.abs(made.view(key, "input") - whole).mean() < 6, key


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_do_not_know_each_other(kind: str) -> None:
    """Of one size or another: a scene of 3 x 3 and of 1 x 3 pixels, whose sides are as long as a colour has channels,
    looks like the same pixels of a larger one."""
    rng = np.random.default_rng(5)
    normals = rng.normal(size=(7, 8, 3)).astype(np.float32) + np.array([0, 0, 2])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    albedo = rng.uniform(0.1, 0.9, (7, 8, 3)).astype(np.float32)
    mask = np.full((7, 8), 255, np.uint8)
    dims = rng.uniform(0, 1, (2, 7, 8)).astype(np.float32)
    light = draw_light(kind, rng, ranges=Ranges())

    def shown(rows: slice, columns: slice) -> NDArray[np.uint8]:
        part = (rows, columns)
        scene = Scene(
            albedo[part], normals[part].astype(np.float32), mask[part], albedo[part], *(d[part] for d in dims)
        )
        return light_up(scene, light).composite

    whole = shown(slice(7), slice(8))
    for high, wide in ((3, 3), (1, 3), (3, 1), (1, 1), (7, 3)):
        part = (slice(2, 2 + high) if high < 7 else slice(7), slice(4, 4 + wide))
        assert np.array_equal(shown(*part), whole[part]), (high, wide)


@pytest.mark.parametrize("kind", ["soft", "hard", "specular", "advanced", "patterns"])
def test_tiny_pictures_in_every_light(kind: str, tmp_path: Path, lit: Callable[..., Any]) -> None:
    source, masks = tmp_path / "in", tmp_path / "masks"
    source.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(1)
    for width, height in ((1, 1), (3, 1), (1, 3), (3, 3), (2, 40), (500, 1), SIZE):
        name = f"{width}x{height}.png"
        Image.fromarray(rng.integers(60, 200, (height, width, 3), np.uint8)).save(source / name)
        Image.new("L", (width, height), 255).save(masks / name)
    made = lit(source, masks=str(masks), degrade=kind, variants=7, write="output")
    assert made.result.counts == {"ok": 7}
    assert all(made.view(key, "v06_output").shape[:2] == made.view(key, "v00_output").shape[:2] for key in made.rows)


def test_a_hundred_lights(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    Image.open(portraits / "portrait_000.jpg").resize((24, 24)).save(tmp_path / "a.png")
    Image.open(portraits / "masks" / "portrait_000.png").resize((24, 24)).save(tmp_path / "a_mask.png")
    (tmp_path / "m").mkdir()
    shutil.move(tmp_path / "a_mask.png", tmp_path / "m" / "a.png")
    made = lit(tmp_path / "a.png", masks=str(tmp_path / "m"), variants=100, write="output")
    lights = [(made.out / f"a_v{i:02d}_metadata.json").read_text() for i in range(100)]
    assert len({json.dumps(json.loads(text)["light"]) for text in lights}) == 100


# --- names -----------------------------------------------------------------------------------------------------------


def test_pictures_that_are_called_as_others_outputs(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """`b_output.png` beside `b.png`, whose output is `b_output.png`: every picture's files are its own."""
    names = ["b.png", "b_output.png", "b_v00.png", "b_v00_output.png", "b_input.png", "b_metadata.png", "b.jpg"]
    names += ["b_mask.png", "walk/b.png", "b_output_output.png"]
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(tmp_path / "in" / name)
    masks = whole_masks(tmp_path / "in", tmp_path / "masks")
    for variants in (1, 2):
        made = lit(tmp_path / "in", f"out{variants}", masks=masks, variants=variants)
        written = [path for row in made.rows.values() for path in row["outputs"].values()]
        assert len(set(map(str.casefold, written))) == len(written) == len(names) * (8 if variants == 1 else 11)
        for name in names:
            found = json.loads((made.out / _metadata(made, name)).read_text("utf-8"))
            assert found["picture"]["key"] == name
            assert np.array_equal(made.view(name, "input"), pixels_of(tmp_path / "in" / name)), name


def pixels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def _metadata(made: Any, key: str) -> str:
    outputs: dict[str, str] = made.rows[key]["outputs"]
    return outputs.get("metadata") or outputs["v00_metadata"]


def test_pictures_do_not_lie_among_the_pairs(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """The pairs of a.jpg and the outputs of instructpix2pix/images/a.jpg would have been the same files."""
    source = tmp_path / "in"
    for number, place in enumerate(("", "instructpix2pix/images", "InstructPix2Pix")):
        (source / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(portraits / f"portrait_{number:03d}.jpg", source / place / "a.jpg")
    masks = whole_masks(source, tmp_path / "masks")
    with pytest.raises(NameCollision, match=r"a would lie in OUT/instructpix2pix.*--naming index"):
        lit(source, masks=masks, export="instructpix2pix")
    assert not list((tmp_path / "out").glob("**/*.png"))
    assert lit(source, "plain", masks=masks).result.ok == 3
    made = lit(source, masks=masks, export="instructpix2pix", naming="index")
    lines = (made.out / "instructpix2pix" / "metadata.jsonl").read_text("utf-8").splitlines()
    pairs = [json.loads(line)["edited_image_file_name"] for line in lines]
    shown = [pixels(made.out / "instructpix2pix" / path) for path in pairs]
    assert [pixel.tobytes() for pixel in shown] == [made.view(key, "input").tobytes() for key in made.rows]


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masks_among_the_pictures_are_no_pictures(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits)
    assert list(made.rows) == [f"portrait_{i:03d}.jpg" for i in range(3)]
    (tmp_path / "link").symlink_to(portraits)
    assert list(lit(tmp_path / "link", "linked").rows) == list(made.rows)
    assert len(lit(portraits, "alpha", masks="alpha").rows) == 6
    with pytest.raises(UsageError, match="all pictures of INPUT lie in it; give the masks a folder of their own"):
        lit(portraits / "masks", "none")


def test_masks_of_another_size_are_fitted_and_of_another_shape_refused(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    whole = Image.open(portraits / "masks" / "portrait_000.png").convert("L")
    masks = {
        "half": whole.resize((48, 48)),
        "odd": whole.resize((67, 66)),
        "double": whole.resize((192, 192)),
        "wide": whole.crop((0, 0, 96, 64)),
        "ones": whole.point(lambda level: level // 255),
        "none": whole.point(lambda level: 0),
        "palette": whole.point(lambda level: 255 * (level > 127)).convert("P"),
        "colour": whole.convert("RGB"),
    }
    (tmp_path / "m").mkdir()
    (tmp_path / "in").mkdir()
    for name, mask in masks.items():
        mask.save(tmp_path / "m" / f"{name}.png")
        shutil.copy(portraits / "portrait_000.jpg", tmp_path / "in" / f"{name}.jpg")
    (tmp_path / "m" / "torn.png").write_bytes((tmp_path / "m" / "colour.png").read_bytes()[:90])
    shutil.copy(portraits / "portrait_000.jpg", tmp_path / "in" / "torn.jpg")
    made = lit(tmp_path / "in", masks=str(tmp_path / "m"))
    said = {Path(key).stem: row["error"] for key, row in made.rows.items()}
    for name in ("half", "odd", "double", "palette", "colour"):
        assert said[name] == ""
        assert ((made.mask(f"{name}.jpg", "mask") >= 128) ^ (np.asarray(whole) >= 128)).mean() < 0.02, name
    assert "is 96x64, and the picture 96x96: they are not of one shape" in said["wide"]
    assert said["ones"] == "its mask ones.png holds only 0 and 1; the foreground is 255"
    assert said["none"] == "no foreground was found in it"
    assert "its mask torn.png cannot be read" in said["torn"]


@pytest.mark.parametrize("given", ["folder", "alpha"])
def test_feather_softens_masks_that_were_given(
    given: str, tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    mask = pixels(portraits / "masks" / "portrait_001.png")
    hard = np.where(mask >= 128, np.uint8(255), np.uint8(0))
    Image.fromarray(np.dstack([pixels(portraits / "portrait_001.jpg"), hard])).save(tmp_path / "a.png")
    (tmp_path / "m").mkdir()
    Image.fromarray(hard).save(tmp_path / "m" / "a.png")
    masks = str(tmp_path / "m") if given == "folder" else "alpha"
    plain = lit(tmp_path / "a.png", "plain", masks=masks).mask("a.png", "mask")
    soft = lit(tmp_path / "a.png", "soft", masks=masks, feather=0.05).mask("a.png", "mask")
    assert np.array_equal(plain, hard)
    assert np.array_equal(soft >= 128, hard == 255)
    assert ((soft > 0) & (soft < 255)).mean() > 0.05


@pytest.mark.parametrize("more", [{"mask_score": 0.5}, {"instances": "best"}, {"mask_model": "builtin:salient"}])
def test_what_chooses_among_finds_does_not_go_with_masks_that_are_given(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--masks gives the foreground; leave out --mask-prompt"):
        Relight.from_values({"masks": "m"} | more)


def test_messages_name_the_options_of_this_command(portraits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --mask-score out"):
        lightmill.relight(portraits, tmp_path / "out", mask_score=0.3)
    with pytest.raises(UsageError, match="another model with --mask-model"):
        lightmill.relight(portraits, tmp_path / "out", mask_model="builtin:salient", mask_prompt="person")


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "label"),
    [
        ("output,input", "output"),
        ("input,output", "output"),
        ("degraded_fg,mask", "degraded_fg"),
        ("input,mask,albedo", "albedo"),
        ("input", None),
        ((), None),
    ],
)
@pytest.mark.parametrize("variants", [1, 2])
def test_the_table_never_gives_the_photograph_or_the_metadata_for_the_result(
    write: Any, label: str | None, variants: int, portraits: Path, lit: Callable[..., Any]
) -> None:
    made = lit(portraits / "portraits.csv", write=write, variants=variants)
    for number, row in enumerate(table_of(made.out / "portraits_with_relighting_outputs.csv")):
        of_a_light = variants == 2 and label in ("output", "degraded_fg", None)
        light = "v00_" if of_a_light else ""
        assert row["output_image_path"] == (f"portrait_{number:03d}_{light}{label}.png" if label else "")
        if of_a_light:
            second = row["output_image_path_v01"]
            assert second == (f"portrait_{number:03d}_v01_{label}.png" if label else "")


def test_columns_of_the_users_own_with_the_names_of_ours(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    text = '\ufeffimage_path;status;"sharp;ness";sharpness;output_image_path_v01\r\n'
    rows = "portrait_000.jpg;mine;1;2;3\r\nportrait_001.jpg;;;;\r\nportrait_000.jpg;again;;;\r\n"
    shutil.copytree(portraits, tmp_path / "data")
    (tmp_path / "data" / "t.csv").write_bytes((text + rows).encode())
    made = lit(tmp_path / "data" / "t.csv", score=True, variants=2, limit=1)
    lines = (made.out / "t_with_relighting_outputs.csv").read_text("utf-8-sig").splitlines()
    header, *cells = csv.reader(lines, delimiter=";")
    assert header[:5] == ["image_path", "status", "sharp;ness", "sharpness", "output_image_path_v01"]
    assert len(set(header)) == len(header)
    assert [row[:5] for row in cells] == [
        ["portrait_000.jpg", "mine", "1", "2", "3"],
        ["portrait_001.jpg", "", "", "", ""],
        ["portrait_000.jpg", "again", "", "", ""],
    ]
    assert cells[0][5:] == cells[2][5:]  # equal pictures, equal results
    assert not any(cells[1][5:])  # no run came to it yet


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"degrade": {"sotf": 1}}, "there is no kind of light 'sotf'; did you mean 'soft'"),
        ({"degrade": {"soft": -1, "hard": 2}}, "the weight of soft is a number from 0 on"),
        ({"degrade": {"soft": "much"}}, "the weight of soft is a number from 0 on"),
        ({"degrade": {"soft": 0}}, "at least one weight must be above 0"),
        ({"degrade": {}}, "at least one weight must be above 0"),
        ({"degrade": ["soft", "sfot"]}, "there is no kind of light 'sfot'"),
        ({"ambient": [0.4, 0.2]}, "from the lower to the higher number, got 0.4-0.2"),
        ({"ambient": (float("nan"), 1)}, "it lies between 0 and 1"),
        ({"elevation": [0, 91]}, "it lies between 0 and 90"),
        ({"background": 594}, "a background is gray, original or a colour as in #7f7f7f"),
    ],
)
def test_values_of_yaml_and_python_are_looked_at_as_texts_are(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Relight.from_values(options)


def test_values_of_yaml_and_python_mean_what_texts_mean() -> None:
    given = {"degrade": {"soft": 1, "hard": 0.5}, "ambient": [0.1, 0.3], "elevation": 45, "background": 808080}
    texts = {"degrade": "soft=1,hard=0.5", "ambient": "0.1-0.3", "elevation": "45-45", "background": "808080"}
    assert Relight.from_values(given) == Relight.from_values(texts)
    assert Relight.from_values({"degrade": ["soft", "hard=0.5"]}).degrade == {"soft": 1, "hard": 0.5}


def test_every_option_in_a_file(tmp_path: Path, portraits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = {
        "masks": str(portraits / "masks"),
        "min-foreground": 0.02,
        "feather": 0.01,
        "albedo": "builtin:retinex",
        "normals": "builtin:inflate",
        "degrade": {"soft": 1, "venetian": 0.5},
        "ambient": [0.2, 0.4],
        "elevation": "20-70",
        "opacity": 0.5,
        "gloss": "0.02-0.1",
        "shininess": "10-20",
        "variants": 2,
        "seed": 7,
        "background": "#102030",
        "write": ["output", "input"],
        "export": "instructpix2pix",
        "score": True,
        "keep_top": 2,
        "by": "contrast",
        "naming": "index",
        "absolute-paths": True,
        "threads": 2,
        "progress": "none",
        "device": "cpu",
    }
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(options))
    command = [
        "relight",
        str(portraits / "portraits.csv"),
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "all.yaml"),
    ]
    assert run_command_line(command) == 0
    rows = table_of(tmp_path / "out" / "portraits_with_relighting_outputs.csv")
    assert sorted(row["status"] for row in rows) == ["filtered", "ok", "ok"]
    for row in rows:
        if row["status"] == "ok":
            assert Path(row["output_image_path_v01"]).is_absolute()
            assert (pixels(Path(row["output_image_path"]))[0, 0] == (16, 32, 48)).all()
    capfd.readouterr()
    assert run_command_line([*command, "--seed", "8", "--ambient", "0.5"]) == 1
    said = capfd.readouterr().err
    assert "ambient was 0.2-0.4, now 0.5-0.5" in said
    assert "seed was 7, now 8" in said
    assert run_command_line([*command, "--seed", "8", "--fresh"]) == 0
    assert run_command_line([*command, "--seed", "8"]) == 0


@pytest.mark.parametrize(
    "ends",
    [
        {"elevation": "0", "degrade": "hard,branch", "ambient": "0"},
        {"elevation": "90", "degrade": "hard", "ambient": "1"},
        {"opacity": "0", "degrade": "patterns"},
        {"opacity": "1", "degrade": "patterns"},
        {"gloss": "0", "shininess": "1", "degrade": "specular"},
        {"gloss": "1", "shininess": "1000", "degrade": "specular"},
        {"feather": 0.5, "min_foreground": 0},
    ],
)
def test_ranges_at_their_ends(ends: dict[str, Any], portraits: Path, lit: Callable[..., Any]) -> None:
    made = lit(portraits, variants=3, write="output,albedo", **ends)
    assert made.result.counts == {"ok": 3}
    for key in made.rows:
        for label in ("v00_metadata", "v02_metadata"):
            found = json.loads((made.out / made.rows[key]["outputs"][label]).read_text("utf-8"))
            for lamp in found["light"]["lamps"]:
                assert np.linalg.norm(lamp["direction"]) == pytest.approx(1, abs=1e-9)
            if "elevation" in ends:
                height = found["light"]["lamps"][0]["direction"][2]
                assert height == pytest.approx(np.sin(np.radians(float(ends["elevation"]))), abs=1e-9)


def test_all_of_it_or_none(portraits: Path, lit: Callable[..., Any]) -> None:
    """--opacity 0 takes nothing away, --ambient 1 leaves the albedo as it is."""
    mask = pixels(portraits / "masks" / "portrait_001.png") == 255
    even = lit(portraits / "portrait_001.jpg", "even", ambient="1", degrade="soft")
    lit_, albedo = even.view("portrait_001.jpg", "output"), even.view("portrait_001.jpg", "albedo")
    assert np.abs(lit_[mask].astype(int) - albedo[mask]).max() <= 1
    for kind in ("venetian", "hard"):
        clear = lit(portraits / "portrait_001.jpg", f"clear {kind}", opacity="0", degrade=kind)
        dark = lit(portraits / "portrait_001.jpg", f"dark {kind}", opacity="1", ambient="0", degrade=kind)
        assert (
            clear.view("portrait_001.jpg", "output")[mask].mean() > dark.view("portrait_001.jpg", "output")[mask].mean()
        )


# --- replay ----------------------------------------------------------------------------------------------------------


def two_of_one_name(folder: Path, portraits: Path) -> tuple[Path, Path]:
    """in/a.jpg and in/walk/a.jpg, and their masks."""
    source, masks = folder / "in", folder / "m"
    for number, place in enumerate(("", "walk")):
        for below in (source, masks):
            (below / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(portraits / f"portrait_{number:03d}.jpg", source / place / "a.jpg")
        shutil.copy(portraits / "masks" / f"portrait_{number:03d}.png", masks / place / "a.png")
    return source, masks


def test_replay_finds_the_mask_of_a_picture_in_a_folder(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    source, masks = two_of_one_name(tmp_path, portraits)
    made = lit(source, masks=str(masks))
    again = lightmill.relight(made.out / "walk" / "a_metadata.json", tmp_path / "again", replay=True)
    assert again.remarks[0].startswith("made again, byte for byte: output")
    shutil.copy(masks / "a.png", masks / "walk" / "a.png")
    with pytest.raises(RunError, match=r"came out otherwise .*; its mask has changed since"):
        lightmill.relight(made.out / "walk" / "a_metadata.json", tmp_path / "other", replay=True)


def test_two_replays_do_not_share_an_out(tmp_path: Path, portraits: Path, lit: Callable[..., Any]) -> None:
    """The second would have been compared with the first one's files."""
    made = lit(portraits, variants=2)
    first, other, light = (made.out / f"portrait_{name}_metadata.json" for name in ("000_v00", "001_v00", "000_v01"))
    lightmill.relight(first, tmp_path / "again", replay=True)
    assert lightmill.relight(first, tmp_path / "again", replay=True).remarks[0].startswith("made again")
    for path in (other, light):
        with pytest.raises(ChangedConfig, match=f"replay was {first.name}, now {path.name}"):
            lightmill.relight(path, tmp_path / "again", replay=True)


def test_retry_makes_the_replay_again_and_nothing_else(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    source, masks = two_of_one_name(tmp_path, portraits)
    made = lit(source, masks=str(masks))
    (source / "a.jpg").write_text("gone bad")
    with pytest.raises(RunError, match="could not be made again: text that begins with 'gone bad' is no picture"):
        lightmill.relight(made.out / "a_metadata.json", tmp_path / "again", replay=True)
    shutil.copy(portraits / "portrait_000.jpg", source / "a.jpg")
    assert run_command_line(["retry", str(tmp_path / "again"), "--progress", "none"]) == 0
    assert (tmp_path / "again" / "a_output.png").read_bytes() == (made.out / "a_output.png").read_bytes()
    assert not (tmp_path / "again" / "walk").exists()


def test_replay_from_another_folder_with_a_relative_path_after_a_move(
    tmp_path: Path, portraits: Path, lit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lit(portraits / "portraits.csv", "a/out", variants=2)
    wanted = (made.out / "portrait_002_v01_output.png").read_bytes()
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    assert run_command_line(["relight", "--replay", "out/portrait_002_v01_metadata.json", "--progress", "none"]) == 0
    assert Path("portrait_002_v01_metadata_replay/portrait_002_output.png").read_bytes() == wanted


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found["light"]["lamps"].clear(), "it has no lamp"),
        (lambda found: found["light"].update(shadow={"caster": "cat", "opacity": 1}), "is called 'cat'"),
        (lambda found: found["light"]["lamps"][0].pop("direction"), "'direction'"),
        (lambda found: found.update(light=3), "is damaged, or of another release"),
        (lambda found: found.update(picture={}), "is damaged, or of another release"),
    ],
)
def test_damaged_metadata_is_told_before_anything_is_done(
    change: Callable[[Any], Any], says: str, tmp_path: Path, portraits: Path, lit: Callable[..., Any]
) -> None:
    made = lit(portraits / "portrait_000.jpg", degrade="soft")
    found = json.loads((made.out / "portrait_000_metadata.json").read_text("utf-8"))
    change(found)
    (tmp_path / "x.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=says):
        lightmill.relight(tmp_path / "x.json", tmp_path / "again", replay=True)
    assert not (tmp_path / "again").exists()
