"""`mask` on odd, broken and hostile inputs: nothing is lost, mixed up, black without reason, or written elsewhere."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.recipes.colours import RED, Colours, painted
from tests.recipes.odd import LONG, READABLE, RECOVERED, UNREADABLE, files_below, write_odd

import lightmill
from lightmill.cli import run_command_line
from lightmill.engine.run import run
from lightmill.errors import InputError, NameCollision
from lightmill.recipes.mask import Mask

PICTURE = painted(96, 96, (0.5, 0.5, 0.3, RED))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., "Made"]:
    """`made(source, out="out", **options)`: what is red in it."""

    def do(source: Path, out: str = "out", **options: Any) -> Made:
        recipe = Mask.from_values({"progress": "none", "threads": 2, "device": "cpu"} | options)
        result = run(recipe.job_with(Colours(), source, tmp_path / out), recipe.run_options())
        return Made(tmp_path / out, result.exit_code)

    return do


class Made:
    """A run that has ended."""

    def __init__(self, out: Path, code: int) -> None:
        self.out, self.code = out, code
        lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
        self.rows: dict[str, Any] = {row["key"]: row for row in map(json.loads, lines)}

    def mask(self, key: str, output: str = "mask") -> Any:
        return np.asarray(Image.open(self.out / self.rows[key]["outputs"][output]).convert("L"))


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remove", [False, True])
def test_odd_pictures_get_upright_masks_and_broken_ones_fail_alone(
    remove: bool, tmp_path: Path, made: Callable[..., Made]
) -> None:
    source = write_odd(tmp_path / "in", PICTURE)
    before = files_below(source)
    got = made(source, cutout=True, overlay=True, instances="each", remove=remove, max_pixels=400_000_000)
    assert got.code == 3
    assert files_below(source) == before
    assert sorted(got.rows) == sorted([*READABLE, *RECOVERED, *UNREADABLE])
    for key, (width, height) in (READABLE | RECOVERED).items():
        assert got.rows[key]["status"] == ("recovered" if key in RECOVERED else "ok"), key
        mask = got.mask(key)
        assert mask.shape == (height, width), key
        assert set(np.unique(mask)) <= {0, 255}
        if not got.rows[key]["meta"]["found"]:
            assert (mask == (255 if remove else 0)).all(), key
    for key, why in UNREADABLE.items():
        row = got.rows[key]
        assert (row["status"], row["outputs"]) == ("failed", {})
        assert why in row["error"]
        assert "\n" not in row["error"]


def test_the_mask_lies_where_the_thing_is_however_it_is_written(tmp_path: Path, made: Callable[..., Made]) -> None:
    """The same disc, by one formula, in every file whose colours are those of the picture."""
    got = made(write_odd(tmp_path / "in", PICTURE))
    y, x = np.mgrid[:96, :96] + 0.5
    disc = np.hypot(x - 48, y - 48) < 0.3 * 96
    lossy = {"wrong_suffix.png", LONG, "-dash.jpg"}  # the first is a JPEG as well
    for key in ("sixteen.png", "palette.png", "alpha.png", "moves.gif", "wrong_suffix.png", LONG, "-dash.jpg"):
        assert ((got.mask(key) == 255) ^ disc).mean() < (0.04 if key in lossy else 0.01), key
    upright = np.rot90(disc[:64], -1)  # EXIF 6: turn it to the right
    assert ((got.mask("turned.jpg") == 255) ^ upright).mean() < 0.04


def test_frames_of_a_gif_and_what_was_left_of_a_picture_are_told(tmp_path: Path, made: Callable[..., Made]) -> None:
    got = made(write_odd(tmp_path / "in", PICTURE))
    assert got.rows["moves.gif"]["meta"]["frames"] == 2
    assert got.rows["cut_off.jpg"]["error"].startswith("the JPEG is damaged")


@pytest.mark.parametrize("panorama", ["auto", "yes", "no"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (4, 2), (12, 6), (1, 40), (300, 3)])
def test_tiny_pictures_with_every_option_at_its_end(
    size: tuple[int, int], panorama: str, tmp_path: Path, made: Callable[..., Made]
) -> None:
    width, height = size
    (tmp_path / "in").mkdir()
    Image.new("RGB", size, RED).save(tmp_path / "in" / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "in" / "b.png")  # a picture as others are, beside it
    ends = {"grow": 0.5, "feather": 0.5, "fill_holes": True, "min_area": 0.999, "instances": "each"}
    got = made(tmp_path / "in", panorama=panorama, overlay=True, cutout=True, **ends)
    assert (got.mask("a.png") == 255).all()
    assert got.mask("a.png").shape == (height, width)
    shrunk = made(tmp_path / "in", "shrunk", panorama=panorama, grow=-0.5)
    assert (shrunk.mask("a.png") == 255).all()  # the border of a picture is no edge


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_naming", ["stem", "colmap"])
def test_every_picture_has_a_mask_of_its_own(mask_naming: str, tmp_path: Path, made: Callable[..., Made]) -> None:
    """Names that look like other pictures' outputs; the disc of each picture lies elsewhere."""
    names = ["a.jpg", "a.png", "x.jpg", "x_mask.jpg", "b.png", "b.png.png", "b_00.png", "walk/b.png", "b.jpg.png"]
    for number, name in enumerate(names):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = painted(60, 80, (0.1 + 0.1 * number, 0.5, 0.15, RED))
        Image.fromarray(picture).save(path)
    got = made(tmp_path / "in", cutout=True, instances="largest", mask_naming=mask_naming)
    written = [path for row in got.rows.values() for path in row["outputs"].values()]
    assert len(set(map(str.casefold, written))) == len(written) == 2 * len(names)
    for number, name in enumerate(names):
        columns = np.flatnonzero(got.mask(name)[30])
        assert columns.mean() == pytest.approx(80 * (0.1 + 0.1 * number), abs=2), name


def test_names_that_would_be_one_file_are_refused_before_anything_is_written(
    tmp_path: Path, made: Callable[..., Made]
) -> None:
    for folder in ("in/one", "in/two"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(PICTURE).save(tmp_path / folder / "a.png")
    with pytest.raises(NameCollision, match=r"one/a.png and two/a.png would both be written as a; .* --naming index"):
        made(tmp_path / "in", naming="stem")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lightmill"]
    assert sorted(row["outputs"]["mask"] for row in made(tmp_path / "in", naming="index").rows.values()) == [
        "masks/00000.png",
        "masks/00001.png",
    ]


def test_members_of_a_zip_stay_in_out(tmp_path: Path, made: Callable[..., Made]) -> None:
    data = io.BytesIO()
    Image.fromarray(PICTURE).save(data, "PNG")
    (tmp_path / "here").mkdir()
    with zipfile.ZipFile(tmp_path / "here" / "pile.zip", "w") as pile:
        for name in ("../up.png", "/root.png", "c:\\win\\x.png", "twice.png", "empty.png"):
            pile.writestr(name, data.getvalue() if name != "empty.png" else b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            pile.writestr("twice.png", data.getvalue())
    got = made(tmp_path / "here" / "pile.zip", "here/out")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["out", "pile.zip"]
    assert sorted(path.relative_to(got.out).as_posix() for path in got.out.rglob("*.png")) == [
        "masks/c_/win/x.png",
        "masks/root.png",
        "masks/twice#2.png",
        "masks/twice.png",
        "masks/up.png",
    ]
    assert got.rows["empty.png"]["error"] == "empty file (0 bytes)"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_as_spreadsheets_write_it_comes_back_cell_for_cell(tmp_path: Path, made: Callable[..., Made]) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a;b.png")
    text = (
        '\ufeffid;image_path;"a ""note""";status;output_image_path\r\n'
        '1;"a;b.png";"x;y\r\nz";mine;\r\n'
        "2;;;;\r\n"
        '3;"a;b.png";again;;p\r\n'
        "4;../gone.png;;;\r\n"
    )
    (tmp_path / "t.csv").write_bytes(text.encode())
    got = made(tmp_path / "t.csv")
    back = (got.out / "t_with_masks.csv").read_bytes()
    assert back.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in back
    rows = list(csv.reader(io.StringIO(back.decode("utf-8-sig"), newline=""), delimiter=";"))
    before = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=";"))
    assert [row[:5] for row in rows] == before
    assert rows[0][5:] == ["output_image_path_2", "status_2", "error"]
    assert rows[1][5:] == rows[3][5:] == ["masks/a;b.png", "ok", ""]
    assert rows[2][5:7] == rows[4][5:7] == ["", "failed"]
    assert "image_path is empty in row 2" in rows[2][7]
    assert "there is no such file" in rows[4][7]


def test_paths_that_lead_elsewhere_are_read_there_and_written_here(tmp_path: Path, made: Callable[..., Made]) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "far" / "away" / "a.png")
    (tmp_path / "here" / "t.csv").write_text(f"image_path\n../far/away/a.png\n{tmp_path / 'far/away/a.png'}\n")
    before = files_below(tmp_path)
    got = made(tmp_path / "here" / "t.csv")
    after = files_below(tmp_path)
    assert {name for name in after if not name.startswith("out/")} == set(before)
    assert [path.name for path in got.out.rglob("*.png")] == ["a.png"]
    with open(got.out / "t_with_masks.csv", newline="") as file:
        first, second = (row["output_image_path"] for row in csv.DictReader(file))
    assert first == second
    assert (got.out / first).is_file()


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--grow", "much"], 2, 'unable to convert "much" into float'),
        (["--grow", "0.6"], 2, "--grow 0.6: input should be less than or equal to 0.5"),
        (["--panorama", "perhaps"], 2, 'Choose from: "auto", "yes", "no"'),
        (["--feathers", "0.1"], 2, "Did you mean --feather?"),
        (["--score", "0.5"], 2, "leave --score out"),
        (["--model", "./nowhere"], 1, "there is no such folder"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(
    options: list[str], code: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert run_command_line(["mask", str(tmp_path / "a.png"), str(tmp_path / "out"), *options]) == code
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_one_tiny_picture_is_a_whole_run(tmp_path: Path) -> None:
    """With so few pixels a second that every rate of the report is next to nothing."""
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    result = lightmill.mask(tmp_path / "dot.png", tmp_path / "out")
    assert (result.ok, result.failed) == (1, 0)
    assert (tmp_path / "out" / "report.html").exists()


def test_out_is_not_the_folder_of_the_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image_path\na.png\n")
    for source in ("a.png", "t.csv"):
        with pytest.raises(InputError, match="give OUT a folder of its own"):
            lightmill.mask(tmp_path / source, tmp_path)
