"""split360 from pictures to views: what the views show, how they are named, and what their files say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

import lightmill
from lightmill.errors import InputError, NameCollision, UsageError
from lightmill.ops.rig import Camera
from lightmill.ops.rigs import PRESETS
from lightmill.sample.render import pinhole
from lightmill.types import Size

Base, GPS, IFD = ExifTags.Base, ExifTags.GPS, ExifTags.IFD

# linear interpolation of waves 6 rad/rad long in steps of 2 pi / 256 errs by 110 (6 x 0.0245)^2 / 8 = 0.3 levels, and
# fixed-point positions, to 1/64 px, by 110 x 6 x 0.0245 / 64 = 0.25; both pictures are rounded
MOST_OFF = 2.0


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """pano_from_cam = Ry(yaw) Rx(pitch) Rz(roll), by Rodrigues' formula."""
    about = (
        cv2.Rodrigues(np.radians(angle) * axis)[0] for angle, axis in zip((pitch, yaw, roll), np.eye(3), strict=True)
    )
    about_x, about_y, about_z = about
    product: NDArray[np.float64] = about_y @ about_x @ about_z
    return product


def focal_by_colmap(path: Path) -> float:
    import pycolmap  # after Pillow: the other way round its zlib would take the place of Pillow's, which then crashes

    bitmap = pycolmap.Bitmap.read(path, True)
    assert bitmap is not None
    focal = bitmap.exif_focal_length()
    assert focal is not None
    return float(focal)


def off(made: Any, key: str, waves: Any, camera: dict[str, Any]) -> NDArray[np.float64]:
    width, height = made.rig["size"]
    return np.abs(made.view(key, camera["name"]) - waves.view(camera, width, height))


# --- what the views show ---------------------------------------------------------------------------------------------


def test_views_are_what_a_pinhole_camera_sees_of_the_scene(courtyard: Any, split: Callable[..., Any]) -> None:
    """The renderer knows the scene, not the panorama: it draws each view on its own."""
    made = split(courtyard.path, rig="cube6", size="160x120", format="png", masks=str(courtyard.masks))
    assert made.result.ok == 1
    for entry in made.rig["cameras"]:
        camera = Camera(**{field: entry[field] for field in ("name", "yaw", "pitch", "roll", "hfov")})
        truth = pinhole(courtyard.scene, camera, Size(160, 120), time_s=0)
        view = made.view("courtyard.png", camera.name).astype(np.float64)
        difference = np.abs(view - truth.pixels)
        assert difference.mean() < 2.5
        assert np.median(difference) <= 1
        if camera.pitch <= 0:  # the sky has no detail
            by_a_pixel = np.abs(np.roll(view, 1, axis=1) - truth.pixels)
            assert by_a_pixel.mean() > 2 * difference.mean()

        mask = made.mask("courtyard.png", f"{camera.name}_mask")
        assert set(np.unique(mask)) <= {0, 255}
        border = cv2.dilate(truth.mask, np.ones((3, 3))) != cv2.erode(truth.mask, np.ones((3, 3)))
        assert (mask != truth.mask).mean() < 0.005
        assert (mask != truth.mask)[~border].mean() < 0.0005  # slits between the legs, narrower than a pixel
    assert (made.mask("courtyard.png", "cam01_mask") == 0).mean() > 0.1  # who walks behind the camera is in sight


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shows_what_its_rig_json_says(
    name: str, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=3)
    made = split(tmp_path / "a.png", rig=name, format="png")
    assert (made.rig["name"], made.rig["size"]) == (name, [64, 48])
    assert len(made.rig["cameras"]) == len(PRESETS[name])
    assert list(made.rows["a.png"]["outputs"]) == [camera["name"] for camera in made.rig["cameras"]]
    for camera in made.rig["cameras"]:
        assert off(made, "a.png", waves, camera).max() < MOST_OFF
        angles = (camera["yaw"], camera["pitch"], camera["roll"])
        np.testing.assert_allclose(camera["pano_from_cam"], rotation(*angles), atol=1e-12)
        assert camera["fx"] == camera["fy"] == pytest.approx(32 / np.tan(np.radians(camera["hfov"]) / 2))
        assert (camera["cx"], camera["cy"]) == (32, 24)


def test_rings_and_cameras_of_a_yaml_file(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=4)
    (tmp_path / "tower.yaml").write_text("rings: [{count: 3, yaw: 10, pitch: -20, roll: 5, hfov: 70}, {count: 1}]\n")
    rings = split(tmp_path / "a.png", "rings", rig=str(tmp_path / "tower.yaml"), format="png")
    assert rings.rig["name"] == "tower"
    found = [
        tuple(camera[field] for field in ("name", "yaw", "pitch", "roll", "hfov")) for camera in rings.rig["cameras"]
    ]
    assert found == [
        ("cam00", 10, -20, 5, 70),
        ("cam01", 130, -20, 5, 70),
        ("cam02", 250, -20, 5, 70),
        ("cam03", 0, 0, 0, 90),
    ]
    (tmp_path / "two.yml").write_text("cameras:\n- {name: left, yaw: -80, roll: 30}\n- {name: up, yaw: 9, pitch: 90}\n")
    cameras = split(tmp_path / "a.png", "cameras", rig=str(tmp_path / "two.yml"), format="png")
    assert list(cameras.rows["a.png"]["outputs"]) == ["left", "up"]
    for made in (rings, cameras):
        for camera in made.rig["cameras"]:
            assert off(made, "a.png", waves, camera).max() < MOST_OFF


def test_a_rig_json_makes_the_same_views_again_also_of_another_size(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=5)
    (tmp_path / "odd.yaml").write_text("rings: [{count: 2, yaw: 33.3, pitch: 12.7, roll: -4.1, hfov: 77.7}]\n")
    first = split(tmp_path / "a.png", "first", rig=str(tmp_path / "odd.yaml"))
    again = split(tmp_path / "a.png", "again", rig=str(first.out / "rig.json"))
    assert again.contents == first.contents
    other = split(tmp_path / "a.png", "other", rig=str(first.out / "rig.json"), size="40x80", format="png")
    assert other.rig["size"] == [40, 80]
    for camera in other.rig["cameras"]:
        assert off(other, "a.png", waves, camera).max() < MOST_OFF


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "lanczos"])
def test_a_panorama_that_is_a_hair_off_is_read_at_its_true_size(
    interpolation: str, split: Callable[..., Any], tmp_path: Path, write_waves: Callable[..., Any]
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=6)
    Image.fromarray(waves.panorama(318, 160)).save(tmp_path / "a.png")
    made = split(tmp_path / "a.png", rig="cube6", format="png", interpolation=interpolation)
    assert all(off(made, "a.png", waves, camera).max() < MOST_OFF for camera in made.rig["cameras"])


def plate(width: int) -> NDArray[np.uint8]:
    """A zone plate: rings about the forward direction that get finer to the side, up to one panorama pixel."""
    yaw = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    down = ((np.arange(width // 2) + 0.5) / width - 0.25)[:, None] * 2 * np.pi
    angle = np.arccos(np.cos(down) * np.cos(yaw))
    levels = 127.5 + 120 * np.cos(angle**2 * width / (2 * np.pi))
    return np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, axis=2)


def test_antialias_takes_the_moire_out_of_a_zone_plate(split: Callable[..., Any], tmp_path: Path) -> None:
    """The truth: the mean of 12 x 12 exact points of the panorama's own function inside each pixel of the view."""
    width, (w, h), hfov = 1024, (48, 48), 90.0
    Image.fromarray(plate(width)).save(tmp_path / "plate.png")
    (tmp_path / "one.yaml").write_text("cameras: [{name: ahead, yaw: 0}]\n")
    focal, fine = w / 2 / np.tan(np.radians(hfov) / 2), 12
    x = ((np.arange(w * fine) + 0.5) / fine - w / 2) / focal
    angle = np.arctan(np.hypot(x, x[:, None]))
    truth = (127.5 + 120 * np.cos(angle**2 * width / (2 * np.pi))).reshape(h, fine, w, fine).mean(axis=(1, 3))
    error = {}
    for choice in ("auto", "off"):
        made = split(
            tmp_path / "plate.png",
            choice,
            rig=str(tmp_path / "one.yaml"),
            size=f"{w}x{h}",
            format="png",
            antialias=choice,
        )
        error[choice] = float(np.sqrt(np.mean((made.view("plate.png", "ahead")[..., 0] - truth) ** 2)))
    assert error["off"] > 40
    assert error["auto"] < error["off"] / 5
    # a view as fine as the panorama is left alone
    fine_views = [
        split(tmp_path / "plate.png", f"fine-{choice}", rig="horizon4", size="320x240", antialias=choice).contents
        for choice in ("auto", "off")
    ]
    assert fine_views[0] == fine_views[1]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "shows", "mean_off"), [("jpg", "JPEG", 3), ("png", "PNG", 0.5), ("webp", "WEBP", 3), ("tiff", "TIFF", 0.5)]
)
def test_formats(
    form: str, shows: str, mean_off: float, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "a.png", seed=7)
    made = split(tmp_path / "a.png", rig="horizon4", format=form)
    for camera in made.rig["cameras"]:
        path = f"images/{camera['name']}/a.{form}"
        assert made.rows["a.png"]["outputs"][camera["name"]] == path
        picture = made.open("a.png", camera["name"])
        assert (picture.format, picture.mode, picture.size) == (shows, "RGB", (64, 48))
        assert off(made, "a.png", waves, camera).mean() < mean_off
        exif = picture.getexif()
        assert exif[Base.Make] == "Lightmill"
        assert exif[Base.Model] == "Lightmill horizon4"
        assert exif[Base.Software] == f"Lightmill {lightmill.__version__}"
        assert Base.FocalLengthIn35mmFilm not in exif.get_ifd(IFD.Exif)
        if form != "webp":  # COLMAP reads no EXIF there
            assert focal_by_colmap(made.out / path) == pytest.approx(camera["fx"], rel=1e-6)


def test_every_camera_has_its_own_focal_length(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    rig = tmp_path / "rig.yaml"
    rig.write_text("cameras: [{name: wide, yaw: 0, hfov: 120}, {name: long, yaw: 0, hfov: 30}]\n")
    made = split(tmp_path / "a.png", rig=str(rig))
    for camera, focal in (("wide", 32 / np.tan(np.radians(60))), ("long", 32 / np.tan(np.radians(15)))):
        assert focal_by_colmap(made.out / f"images/{camera}/a.jpg") == pytest.approx(focal, rel=1e-6)


def test_quality_and_subsampling_of_jpeg(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    sampling, size = {}, {}
    for subsampling, quality in (("420", 95), ("444", 95), ("420", 30)):
        made = split(
            tmp_path / "a.png", f"{subsampling}-{quality}", rig="horizon4", subsampling=subsampling, quality=quality
        )
        picture: Any = made.open("a.png")
        sampling[subsampling] = [layer[1:3] for layer in picture.layer]
        size[subsampling, quality] = (made.out / "images/cam00/a.jpg").stat().st_size
    assert sampling == {"420": [(2, 2), (1, 1), (1, 1)], "444": [(1, 1)] * 3}
    assert size["420", 30] < size["420", 95] < size["444", 95]


def test_date_and_place_of_the_source_are_in_every_view(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    tags = Image.Exif()
    tags[Base.Make], tags[Base.DateTime] = "Theta", "2024:05:06 07:08:11"
    tags.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: "2024:05:06 07:08:09", Base.FocalLengthIn35mmFilm: 12})
    place = {GPS.GPSLatitudeRef: "S", GPS.GPSLatitude: (33.0, 51.0, 24.5), GPS.GPSAltitude: 12.5}
    tags.get_ifd(IFD.GPSInfo).update(place)
    write_waves(tmp_path / "in" / "placed.jpg", exif=tags, quality=95)
    write_waves(tmp_path / "in" / "unplaced.jpg", quality=95)
    made = split(tmp_path / "in", rig="horizon4")
    for camera in made.rig["cameras"]:
        exif = made.open("placed.jpg", camera["name"]).getexif()
        assert (exif[Base.DateTime], exif[Base.Make]) == ("2024:05:06 07:08:11", "Lightmill")
        assert exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] == "2024:05:06 07:08:09"
        assert {number: exif.get_ifd(IFD.GPSInfo)[number] for number in place} == place
        assert focal_by_colmap(made.out / f"images/{camera['name']}/placed.jpg") == pytest.approx(32, rel=1e-6)
        bare = made.open("unplaced.jpg", camera["name"]).getexif()
        assert Base.DateTime not in bare
        assert not bare.get_ifd(IFD.GPSInfo)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "naming", "wanted"),
    [
        ("by-camera", "key", "images/cam01/walk/two.jpg"),
        ("by-camera", "stem", "images/cam01/two.jpg"),
        ("by-camera", "index", "images/cam01/00001.jpg"),
        ("flat", "key", "images/walk/two_cam01.jpg"),
        ("flat", "stem", "images/two_cam01.jpg"),
        ("flat", "index", "images/00001_cam01.jpg"),
    ],
)
def test_layout_and_naming(
    layout: str, naming: str, wanted: str, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "one.png", seed=1)
    waves = write_waves(tmp_path / "in" / "walk" / "two.png", seed=2)
    made = split(tmp_path / "in", rig="horizon4", layout=layout, naming=naming)
    assert list(made.rows) == ["one.png", "walk/two.png"]
    assert made.rows["walk/two.png"]["outputs"]["cam01"] == wanted
    assert off(made, "walk/two.png", waves, made.rig["cameras"][1]).mean() < 3
    written = {path for row in made.rows.values() for path in row["outputs"].values()}
    assert len(written) == 8
    assert set(made.files) == written | {"rig.json", "manifest.csv", "manifest.jsonl"}


def test_the_suffix_is_in_the_name_only_where_two_keys_differ_by_it(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        write_waves(tmp_path / "in" / name)
    made = split(tmp_path / "in", rig="horizon4", layout="flat")
    assert [row["outputs"]["cam00"] for row in made.rows.values()] == [
        "images/a.jpg_cam00.jpg",
        "images/a.png_cam00.jpg",
        "images/b_cam00.jpg",
    ]
    with pytest.raises(NameCollision, match=r"a\.jpg and a\.png would both be written as a; .* --naming index"):
        split(tmp_path / "in", "stem", rig="horizon4", naming="stem")


def test_a_flat_layout_that_no_one_could_take_apart_is_refused(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    rig = tmp_path / "rig.yaml"
    rig.write_text("cameras: [{name: b_Up, yaw: 0}, {name: up, yaw: 90}]\n")
    with pytest.raises(UsageError, match="--layout flat cannot tell cameras 'b_Up' and 'up' apart: rename one of them"):
        split(tmp_path / "a.png", rig=str(rig), layout="flat")
    assert not (tmp_path / "out" / "images").exists()
    assert split(tmp_path / "a.png", rig=str(rig)).result.ok == 1  # in folders they are apart


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_is_no_panorama_fails_alone(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "in" / "good.jpg")
    Image.new("RGB", (300, 200)).save(tmp_path / "in" / "photo.jpg")
    upright = Image.Exif()
    upright[Base.Orientation] = 6
    Image.new("RGB", (200, 100)).save(tmp_path / "in" / "turned.jpg", exif=upright)
    (tmp_path / "in" / "text.jpg").write_text("no picture")
    made = split(tmp_path / "in", rig="horizon4")
    assert (made.result.ok, made.result.failed, made.result.filtered, made.result.exit_code) == (1, 3, 0, 3)
    photo = made.rows["photo.jpg"]
    assert (photo["status"], photo["stage"], photo["outputs"]) == ("failed", "read", {})
    assert photo["error"] == (
        "it is 300x200, and an equirectangular panorama is twice as wide as high (2:1, within 1 %); "
        "crop or pad it to the full sphere first"
    )
    assert made.rows["turned.jpg"]["error"].startswith("it is 100x200, and")  # as it is seen, not as it is stored
    assert made.rows["text.jpg"]["status"] == "failed"
    assert {path.name for path in (made.out / "images").rglob("*.jpg")} == {"good.jpg"}


@pytest.mark.parametrize(("width", "is_taken"), [(252, False), (254, True), (258, True), (260, False)])
def test_one_percent_off_is_still_two_to_one(
    width: int, is_taken: bool, split: Callable[..., Any], tmp_path: Path
) -> None:
    Image.new("RGB", (width, 128), "grey").save(tmp_path / "a.png")
    assert split(tmp_path / "a.png", rig="horizon4").result.ok == is_taken


def test_a_cut_jpeg_is_recovered_and_says_how(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    waves = write_waves(tmp_path / "in" / "cut.jpg", seed=8, width=512, quality=95)
    data = (tmp_path / "in" / "cut.jpg").read_bytes()
    (tmp_path / "in" / "cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    made = split(tmp_path / "in", rig="cube6", format="png")
    row = made.rows["cut.jpg"]
    assert (made.result.ok, made.result.recovered, made.result.exit_code) == (0, 1, 0)
    assert row["status"] == "recovered"
    assert row["error"]
    up = next(camera for camera in made.rig["cameras"] if camera["pitch"] == 90)
    assert off(made, "cut.jpg", waves, up).max() < 8  # the upper rows came first, and are whole


def test_a_picture_above_the_pixel_limit_fails_and_the_message_says_how_to_allow_it(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    made = split(tmp_path / "a.png", rig="horizon4", max_pixels=1000)
    assert "--max-pixels" in made.rows["a.png"]["error"]
    assert made.result.exit_code == 3


def test_grey_and_sixteen_bit_panoramas(split: Callable[..., Any], tmp_path: Path) -> None:
    level = np.tile(np.linspace(20, 230, 128).astype(np.uint8)[:, None], (1, 256))
    (tmp_path / "in").mkdir()
    Image.fromarray(level).save(tmp_path / "in" / "grey.png")
    Image.fromarray(level.astype(np.uint16) * 257).save(tmp_path / "in" / "deep.png")
    made = split(tmp_path / "in", rig="cube6", format="png")
    for camera in made.rows["grey.png"]["outputs"]:
        grey = made.view("grey.png", camera)
        assert (grey == grey[..., :1]).all()
        assert np.array_equal(grey, made.view("deep.png", camera))


# --- the Python call -------------------------------------------------------------------------------------------------


def test_the_call_returns_what_came_of_it(write_waves: Callable[..., Any], tmp_path: Path) -> None:
    write_waves(tmp_path / "in" / "a.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "in" / "b.png")
    run = lightmill.split360(str(tmp_path / "in"), str(tmp_path / "out"), rig="horizon4", size="64x48")
    assert (run.ok, run.failed, run.recovered, run.filtered, run.outcome) == (1, 1, 0, 0, "finished")
    assert run.manifest == tmp_path / "out" / "manifest.csv"
    assert run.manifest.is_file()
    assert run.report.is_file()
    assert run.warnings == ()


def test_options_may_be_values_or_texts(write_waves: Callable[..., Any], tmp_path: Path) -> None:
    write_waves(tmp_path / "a.png")
    texts = lightmill.split360(
        tmp_path / "a.png", tmp_path / "texts", rig="horizon4", size="64x48", quality="90", export="nerfstudio"
    )
    values = lightmill.split360(
        tmp_path / "a.png", tmp_path / "values", rig="horizon4", size=Size(64, 48), quality=90, export=["nerfstudio"]
    )
    for name in ("images/cam02/a.jpg", "transforms.json"):
        assert (texts.out / name).read_bytes() == (values.out / name).read_bytes()


def test_a_call_is_silent(write_waves: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_waves(tmp_path / "a.png")
    lightmill.split360(tmp_path / "a.png", tmp_path / "out", rig="horizon4", size="64x48")
    assert capfd.readouterr() == ("", "")


def test_names_that_are_no_recipe() -> None:
    assert {"split360", "join360"} <= set(dir(lightmill))
    assert lightmill.split360.__name__ == "split360"
    assert "--help" in (lightmill.split360.__doc__ or "")
    with pytest.raises(AttributeError, match="module 'lightmill' has no attribute 'split306'"):
        lightmill.split306  # noqa: B018


@pytest.mark.parametrize("name", ["absent", "empty", "notes.txt"])
def test_an_input_of_which_nothing_can_be_made_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=name):
        lightmill.split360(tmp_path / name, tmp_path / "out")
