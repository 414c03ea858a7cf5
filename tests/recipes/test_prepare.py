"""`prepare`: pictures as trainers want them, held against Pillow and against what is known of how they were made."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from tests.recipes.conftest import Made

import lightmill
from lightmill.errors import UsageError
from lightmill.ops.buckets import bucket_sizes
from lightmill.ops.fit import Mapping
from lightmill.sample.clip import write_clip

GPS = {1: "N", 2: (48.0, 12.0, 0.0), 3: "E", 4: (11.0, 30.0, 0.0)}

Prepare = Callable[..., Made]
Pixels = NDArray[np.uint8]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """`prepare(source, out="out", **options)`: lightmill.prepare into a folder of the test."""

    def run(source: Path, out: str = "out", **options: Any) -> Made:
        return Made(lightmill.prepare(source, tmp_path / out, **{"threads": 2} | options))

    return run


def blobs(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth colours, and no two seeds alike."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: Pixels | Image.Image, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **how)
    return path


def with_gps(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x9003] = "2021:05:03 14:22:11"
    exif.get_ifd(0x8825).update(GPS)
    return exif


def opened(made: Made, key: str) -> Pixels:
    return np.asarray(made.open(key, "image").convert("RGB"))


def apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


# --- copied or encoded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["decode", "markers"])
def test_a_jpeg_that_needs_no_change_keeps_every_pixel_and_loses_what_it_tells(
    tmp_path: Path, prepare: Prepare, verify: str
) -> None:
    source = save(tmp_path / "in" / "a.jpg", blobs(320, 200), quality=60, exif=with_gps(), comment=b"secret")
    made = prepare(tmp_path / "in", verify=verify, reencode="auto")
    data = (made.out / "images" / "a.jpg").read_bytes()
    before, after = Image.open(source), Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
    scan = source.read_bytes()
    assert data.endswith(scan[scan.index(b"\xff\xda") :])  # the compressed pixels, byte for byte
    assert not after.getexif()
    assert b"secret" not in data
    assert b"2021" not in data
    assert made.rows["a.jpg"]["meta"]["copied"] is True


def test_encoding_again_is_asked_for(tmp_path: Path, prepare: Prepare) -> None:
    save(tmp_path / "in" / "a.jpg", blobs(320, 200), quality=60)
    made = prepare(tmp_path / "in", reencode="always", quality=90)
    assert "copied" not in made.rows["a.jpg"]["meta"]
    assert apart(opened(made, "a.jpg"), np.asarray(Image.open(tmp_path / "in" / "a.jpg"))) < 2


@pytest.mark.parametrize(("options", "place"), [({}, True), ({"reencode": "always"}, True), ({"format": "png"}, True)])
def test_metadata_is_kept_only_where_it_is_asked_for(
    tmp_path: Path, prepare: Prepare, options: dict[str, Any], place: bool
) -> None:
    save(tmp_path / "in" / "a.jpg", blobs(64, 48), exif=with_gps())
    without = prepare(tmp_path / "in", "without", **options).open("a.jpg", "image").getexif()
    kept = prepare(tmp_path / "in", "kept", keep_metadata=True, **options).open("a.jpg", "image").getexif()
    assert not without
    assert bool(kept.get_ifd(0x8825)) is place


@pytest.mark.parametrize("verify", ["decode", "markers"])
def test_a_jpeg_that_is_cut_off_is_never_copied(tmp_path: Path, prepare: Prepare, verify: str) -> None:
    data = save(tmp_path / "in" / "a.jpg", blobs(320, 200), quality=90).read_bytes()
    (tmp_path / "in" / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    made = prepare(tmp_path / "in", verify=verify)
    assert made.rows["a.jpg"]["status"] == "recovered"
    assert "copied" not in made.rows["a.jpg"]["meta"]


def test_a_jpeg_that_is_broken_inside_is_found_by_decoding(tmp_path: Path, prepare: Prepare) -> None:
    """Its markers are sound; its compressed pixels are not."""
    data = save(tmp_path / "in" / "a.jpg", blobs(320, 200), quality=90).read_bytes()
    scan = data.index(b"\xff\xda") + 100
    (tmp_path / "in" / "a.jpg").write_bytes(data[:scan] + data[scan + len(data[scan:]) // 2 :])
    assert prepare(tmp_path / "in", "walked").rows["a.jpg"]["meta"]["copied"] is True
    row = prepare(tmp_path / "in", "decoded", verify="decode").rows["a.jpg"]
    assert row["status"] == "recovered"
    assert "copied" not in row["meta"]


# --- colours, alpha, orientation -------------------------------------------------------------------------------------


KINDS = ["RGB jpg", "L jpg", "RGB png", "RGBA png", "P png", "RGB webp", "RGBA webp", "RGB tiff"]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_stand_upright_whatever_their_kind(tmp_path: Path, prepare: Prepare, kind: str) -> None:
    mode, suffix = kind.split()
    picture = Image.fromarray(blobs(60, 40)).convert(mode)
    save(tmp_path / "in" / f"a.{suffix}", picture, exif=with_gps(orientation=6))
    made = prepare(tmp_path / "in", format="png")
    wanted = ImageOps.exif_transpose(Image.open(tmp_path / "in" / f"a.{suffix}")).convert("RGB")
    assert wanted.size == (40, 60)
    assert made.open(f"a.{suffix}", "image").size == (40, 60)
    assert apart(opened(made, f"a.{suffix}"), np.asarray(wanted)) < 2
    assert not made.open(f"a.{suffix}", "image").getexif()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, prepare: Prepare) -> None:
    ramp = np.linspace(0, 65535, 256 * 8).reshape(8, 256).astype(np.uint16)
    save(tmp_path / "in" / "deep.png", Image.fromarray(ramp))
    levels = opened(prepare(tmp_path / "in", format="png"), "deep.png")[..., 0]
    assert len(np.unique(levels)) == 256
    assert apart(levels, ramp / 257) <= 1


@pytest.mark.parametrize("format", ["jpg", "png"])
def test_colours_of_a_profile_come_out_as_srgb(tmp_path: Path, prepare: Prepare, format: str) -> None:
    """Lab D50 to sRGB by LittleCMS is the oracle: a profile whose channels are swapped could not be missed."""
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = b"rXYZ", b"bXYZ"
    table = swapped.replace(red, b"\0tmp").replace(blue, red).replace(b"\0tmp", blue)
    pixels = blobs(64, 48)
    save(tmp_path / "in" / "a.jpg", pixels, quality=95, subsampling=0, icc_profile=table)
    picture = Image.open(tmp_path / "in" / "a.jpg")
    wanted = ImageCms.profileToProfile(
        picture, ImageCms.ImageCmsProfile(io.BytesIO(table)), ImageCms.createProfile("sRGB")
    )
    assert isinstance(wanted, Image.Image)
    made = prepare(tmp_path / "in", format=format, subsampling="444")
    assert apart(np.asarray(wanted), np.asarray(picture)) > 20
    assert apart(opened(made, "a.jpg"), np.asarray(wanted)) < 3
    assert "icc_profile" not in made.open("a.jpg", "image").info


def test_transparent_pictures_are_laid_on_the_matte_or_stay_transparent(tmp_path: Path, prepare: Prepare) -> None:
    pixels = np.dstack([blobs(40, 30), np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))])
    save(tmp_path / "in" / "a.png", pixels)
    hole = Image.fromarray(blobs(40, 30)).quantize(16)
    save(tmp_path / "in" / "p.png", hole, transparency=3)
    for matte, colour in (("white", "#ffffff"), ("#ff8000", "#ff8000")):
        made = prepare(tmp_path / "in", matte[-3:], format="png", matte=matte)
        for name in ("a.png", "p.png"):
            picture = Image.open(tmp_path / "in" / name).convert("RGBA")
            wanted = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")
            assert apart(opened(made, name), np.asarray(wanted)) < 1
    kept = prepare(tmp_path / "in", "kept", format="png", keep_alpha=True)
    np.testing.assert_array_equal(np.asarray(kept.open("a.png", "image")), pixels)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_buckets_are_the_trainers_and_pixels_are_where_the_manifest_says(tmp_path: Path, prepare: Prepare) -> None:
    pixels = np.full((300, 500, 3), 40, np.uint8)
    pixels[150:170, 300:330] = 255
    save(tmp_path / "in" / "a.png", pixels)
    save(tmp_path / "in" / "tall.png", np.ascontiguousarray(pixels.transpose(1, 0, 2)))
    options = {"fit": "bucket", "resolution": 256, "bucket_step": 32, "bucket_min": 128, "bucket_max": 512}
    made = prepare(tmp_path / "in", format="png", **options)
    sizes = {(size.width, size.height) for size in bucket_sizes(256, step=32, least=128, most=512)}
    for key, box in (("a.png", (300.0, 150.0, 30.0, 20.0)), ("tall.png", (150.0, 300.0, 20.0, 30.0))):
        picture = made.open(key, "image")
        assert picture.size in sizes
        x, y, w, h = Mapping.from_json(made.rows[key]["meta"]["mapping"]).box_out(box)
        ys, xs = np.nonzero(np.asarray(picture.convert("L")) > 150)
        assert (xs.min(), xs.max() + 1) == pytest.approx((x, x + w), abs=1)
        assert (ys.min(), ys.max() + 1) == pytest.approx((y, y + h), abs=1)


@pytest.mark.parametrize(("fit", "size"), [("inside", (100, 60)), ("cover", (100, 100)), ("pad", (100, 100))])
def test_sizes_are_what_was_asked_for(tmp_path: Path, prepare: Prepare, fit: str, size: tuple[int, int]) -> None:
    save(tmp_path / "in" / "a.jpg", blobs(500, 300))
    made = prepare(tmp_path / "in", fit=fit, size="100x100")
    assert made.open("a.jpg", "image").size == size
    assert made.rows["a.jpg"]["meta"]["mapping"]["source"] == [500, 300]


def test_small_pictures_are_not_enlarged_where_that_is_asked(tmp_path: Path, prepare: Prepare) -> None:
    save(tmp_path / "in" / "a.jpg", blobs(80, 60))
    made = prepare(tmp_path / "in", fit="inside", size="100x100", no_upscale=True)
    assert made.open("a.jpg", "image").size == (80, 60)
    assert made.rows["a.jpg"]["meta"]["copied"] is True


def test_a_crop_keeps_what_stands_out(tmp_path: Path, prepare: Prepare) -> None:
    pixels = np.full((120, 360, 3), (90, 110, 90), np.uint8)
    pixels[40:90, 280:330] = (250, 40, 30)
    save(tmp_path / "in" / "a.png", pixels)
    options = {"fit": "cover", "size": "120x120", "format": "png"}
    middle = opened(prepare(tmp_path / "in", "middle", **options), "a.png")
    aimed = opened(prepare(tmp_path / "in", "aimed", crop="salient", **options), "a.png")
    assert (middle[..., 0] > 200).sum() == 0
    assert (aimed[..., 0] > 200).sum() >= 50 * 50 * 0.95


def test_frames_of_a_video_are_prepared_too(tmp_path: Path, prepare: Prepare) -> None:
    clip = write_clip(tmp_path / "clip", seconds=1, width=128, fps=4)
    made = prepare(clip, fit="cover", size="32x32", fps=2)
    assert len(made.rows) == 2
    assert {made.open(key, "image").size for key in made.rows} == {(32, 32)}


# --- which pictures --------------------------------------------------------------------------------------------------


def test_doubles_go_and_the_largest_stays(tmp_path: Path, prepare: Prepare) -> None:
    pixels = blobs(240, 160, seed=1)
    save(tmp_path / "in" / "a.png", pixels)
    save(tmp_path / "in" / "same.png", pixels)
    save(tmp_path / "in" / "sub" / "larger.png", Image.fromarray(pixels).resize((480, 320)))
    save(tmp_path / "in" / "worse.jpg", pixels, quality=50)
    save(tmp_path / "in" / "other.png", blobs(240, 160, seed=2))
    exact = prepare(tmp_path / "in", "exact", drop_duplicates="exact").rows
    assert {key for key, row in exact.items() if row["status"] == "filtered"} == {"same.png"}
    assert exact["same.png"]["error"] == "the same picture as a.png; --drop-duplicates exact"
    near = prepare(tmp_path / "in", "near", drop_duplicates="near")
    assert {key for key, row in near.rows.items() if row["status"] == "ok"} == {"sub/larger.png", "other.png"}
    assert near.rows["a.png"]["error"] == "nearly the same picture as sub/larger.png; --drop-duplicates near"
    assert len(near.rows["a.png"]["meta"]["fingerprint"]["phash"]) == 16
    assert [name for name in near.files if name.startswith("images/")] == ["images/other.jpg", "images/sub/larger.jpg"]


def test_the_best_of_what_is_left(tmp_path: Path, prepare: Prepare) -> None:
    """Doubles are dropped before places are given: the second copy of the best takes none."""
    sharp = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for name, pixels in (("1.png", sharp), ("2.png", sharp), ("3.png", blobs(96, 64)), ("4.png", sharp // 2)):
        save(tmp_path / "in" / name, pixels)
    rows = prepare(tmp_path / "in", drop_duplicates="exact", keep_top=2).rows
    assert {key for key, row in rows.items() if row["status"] == "ok"} == {"1.png", "4.png"}
    assert "number 3 of 3; --keep-top 2" in rows["3.png"]["error"]


def test_small_and_narrow_pictures_are_left_out_by_name(tmp_path: Path, prepare: Prepare) -> None:
    for name, size in (("ok.jpg", (200, 150)), ("small.jpg", (200, 99)), ("narrow.jpg", (400, 100))):
        save(tmp_path / "in" / name, blobs(*size))
    rows = prepare(tmp_path / "in", min_side=100, max_aspect=2).rows
    assert {key: row["status"] for key, row in rows.items()} == {
        "narrow.jpg": "filtered",
        "ok.jpg": "ok",
        "small.jpg": "filtered",
    }
    assert rows["small.jpg"]["error"] == "200x99 px: the shorter side is below --min-side 100"
    assert rows["narrow.jpg"]["error"] == "400x100 px: one side is 4 times the other; --max-aspect 2"


def test_a_table_comes_back_with_sizes_and_scores(tmp_path: Path, prepare: Prepare) -> None:
    save(tmp_path / "a.jpg", blobs(200, 150))
    (tmp_path / "set.csv").write_text("image_path,who\na.jpg,me\nmissing.jpg,you\n")
    made = prepare(tmp_path / "set.csv", fit="inside", size="100x100", score=True)
    header, first, second = (made.out / "set_with_prepared.csv").read_text().splitlines()
    assert header.startswith("image_path,who,output_image_path,status,error,width,height,sharpness")
    assert first.startswith("a.jpg,me,images/a.jpg,ok,,100,75,")
    assert second.startswith("missing.jpg,you,,failed,")


# --- the run ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.jpg", blobs(200, 150))
    save(tmp_path / "in" / "b.png", blobs(300, 150))
    save(tmp_path / "in" / "c.png", blobs(30, 15))
    (tmp_path / "in" / "d.jpg").write_bytes(b"no picture")
    before = sorted(tmp_path.rglob("*"))
    options: dict[str, Any] = {"fit": "inside", "size": "200x200", "min_side": 20, "drop_duplicates": "exact"}
    dry = lightmill.prepare(tmp_path / "in", tmp_path / "out", dry_run=True, **options)
    assert sorted(tmp_path.rglob("*")) == before
    real = lightmill.prepare(tmp_path / "in", tmp_path / "out", **options)
    assert dry.counts == real.counts == {"ok": 2, "filtered": 1, "failed": 1}
    said = "\n".join(dry.remarks)
    assert "2 would be ok, 1 would be filtered, 1 would be failed" in said
    assert "1 copied as they are, 1 encoded" in said
    assert "200x150" in said
    assert "200x100" in said
    assert "c.png  30x15 px: the shorter side is below --min-side 20" in said


def test_bytes_do_not_depend_on_threads_and_a_second_run_does_nothing(tmp_path: Path, prepare: Prepare) -> None:
    for number in range(6):
        save(tmp_path / "in" / f"{number}.jpg", blobs(400, 300, seed=number))
    options = {"fit": "bucket", "resolution": 256, "bucket_min": 128, "drop_duplicates": "near", "crop": "salient"}
    one, four = (
        prepare(tmp_path / "in", "one", threads=1, **options),
        prepare(tmp_path / "in", "four", threads=4, **options),
    )
    assert one.contents == four.contents
    times = {path: path.stat().st_mtime_ns for path in (one.out / "images").iterdir()}
    again = prepare(tmp_path / "in", "one", threads=1, **options)
    assert again.contents == one.contents
    assert times == {path: path.stat().st_mtime_ns for path in (one.out / "images").iterdir()}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fit": "cover"}, "--fit cover needs --size"),
        ({"size": "10x10"}, "--size is for --fit inside, cover or pad, not none"),
        ({"keep_alpha": True}, "--keep-alpha: a JPEG holds no transparency"),
        ({"effort": 3}, "--effort is for PNG"),
        ({"matte": "pink"}, "a colour is white, black, gray or as in #ff8000, got 'pink'"),
        ({"fit": "bucket", "resolution": 256}, "resolution 256x256 has to lie between"),
        ({"score_prompt": "cat"}, "--score-model and --score-prompt go together"),
        ({"format": "tiff"}, "--format 'tiff'"),
        ({"keep_top": 1, "by": "beauty"}, "--by beauty: there is no such score"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    save(tmp_path / "in" / "a.png", blobs(20, 20))
    with pytest.raises(UsageError, match=says):
        lightmill.prepare(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out" / "images").exists()


def test_photographs_end_in_buckets(shared_data: Path, prepare: Prepare) -> None:
    made = prepare(shared_data / "photos", fit="bucket", resolution=512, bucket_min=256, bucket_max=1024)
    sizes = {(size.width, size.height) for size in bucket_sizes(512, least=256, most=1024)}
    assert {made.open(key, "image").size for key in made.rows} <= sizes
    assert all(json.loads(json.dumps(row["meta"]["mapping"])) for row in made.rows.values())
