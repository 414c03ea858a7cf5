"""Decoding, held against Pillow, LittleCMS and formulas; damaged files, limits, buffers and threads."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from lightmill.codecs.decode import decode, decode_mask
from lightmill.codecs.header import read_header
from lightmill.errors import DamagedImage, DecodeError, NotAnImage, TooManyPixels, UnsupportedImage

Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112


def smooth(width: int = 96, height: int = 48, seed: int = 1) -> Pixels:
    """[H, W, 3] soft colours without symmetry."""
    colours = np.random.default_rng(seed).uniform(0, 255, (5, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def noise(*shape: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(2).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def saved(picture: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def by_pillow(data: bytes, mode: str = "RGB") -> Pixels:
    """Upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def png_file(width: int, height: int, depth: int, kind: int, raw: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


# ---------------------------------------------------------------------------------------------------------------------
# formats


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 80}),
        ("JPEG2000", {"irreversible": False}),
        ("JPEG", {"quality": 92}),
        ("JPEG", {"quality": 92, "progressive": True}),
        ("JPEG", {"quality": 75, "subsampling": "4:4:4"}),
        ("JPEG", {"quality": 75, "restart_marker_blocks": 3}),
    ],
)
def test_colours_are_those_of_pillow(form: str, options: dict[str, Any]) -> None:
    data = saved(smooth(), form, **options)
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, by_pillow(data))
    assert (decoded.alpha, decoded.recovered, decoded.meta) == (None, None, {})


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    data = saved(smooth()[..., 0], form)
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_alpha_is_kept_apart(form: str, orientation: int) -> None:
    rgba = np.dstack([smooth(), noise(48, 96)])
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = saved(rgba, form, exif=exif(orientation), **options)
    decoded, wanted = decode(data), by_pillow(data, "RGBA")
    np.testing.assert_array_equal(decoded.pixels, wanted[..., :3])
    np.testing.assert_array_equal(decoded.alpha, wanted[..., 3])


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
@pytest.mark.parametrize("transparency", [None, 1])
def test_palettes(colours: int, transparency: int | None) -> None:
    image = Image.fromarray(smooth()).quantize(colours)
    data = saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))
    decoded, wanted = decode(data), by_pillow(data, "RGBA")
    np.testing.assert_array_equal(decoded.pixels, wanted[..., :3])
    if transparency is None:
        assert decoded.alpha is None
    else:
        np.testing.assert_array_equal(decoded.alpha, wanted[..., 3])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [None, 1])
def test_grey_png_of_few_bits(depth: int, clear: int | None) -> None:
    raw = b"".join(b"\0" + row.tobytes() for row in noise(21, (37 * depth + 7) // 8))
    more = [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
    data = png_file(37, 21, depth, 0, raw, *more)
    decoded, wanted = decode(data), by_pillow(data)
    np.testing.assert_array_equal(decoded.pixels, wanted)
    if clear is None:
        assert decoded.alpha is None
    else:  # Pillow holds the stored level against the scaled ones, so only 8 bits would agree with it
        np.testing.assert_array_equal(decoded.alpha == 0, wanted[..., 0] == clear * 255 // (2**depth - 1))


def test_one_clear_colour_of_an_rgb_png() -> None:
    picture = noise(9, 7, 3)
    data = saved(picture, "PNG", transparency=tuple(int(v) for v in picture[3, 4]))
    decoded = decode(data)
    assert decoded.alpha is not None
    np.testing.assert_array_equal(np.argwhere(decoded.alpha == 0), [[3, 4]])
    np.testing.assert_array_equal(decoded.pixels, picture)


def test_all_16_bit_levels_are_scaled() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    wanted = np.round(levels / 257)
    for form in (".png", ".tiff"):
        grey = decode(cv2.imencode(form, levels)[1].tobytes()).pixels
        np.testing.assert_array_equal(grey, np.repeat(wanted[..., None], 3, 2))
        bgr = np.dstack([levels, levels[::-1], levels[:, ::-1]])
        rgb = decode(cv2.imencode(form, bgr)[1].tobytes()).pixels
        np.testing.assert_array_equal(rgb, np.round(bgr[..., ::-1] / 257))


@pytest.mark.parametrize("form", [".png", ".tiff"])
def test_16_bits_with_alpha(form: str) -> None:
    bgra = noise(21, 37, 4, dtype=np.uint16)
    decoded = decode(cv2.imencode(form, bgra)[1].tobytes())
    np.testing.assert_array_equal(decoded.pixels, np.round(bgra[..., 2::-1] / 257))
    np.testing.assert_array_equal(decoded.alpha, np.round(bgra[..., 3] / 257))


def test_16_bit_pgm() -> None:
    levels = np.arange(65536, dtype=">u2").reshape(256, 256)
    pixels = decode(b"P5 256 256 65535\n" + levels.tobytes()).pixels
    np.testing.assert_array_equal(pixels[..., 1], np.round(levels / 257))


def test_bilevel_tiff() -> None:
    bits = noise(48, 96) > 100
    data = saved(Image.fromarray(bits), "TIFF", compression="group4")
    np.testing.assert_array_equal(decode(data).pixels[..., 0], bits * 255)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first(form: str) -> None:
    frames = [Image.fromarray(smooth(seed=seed)) for seed in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert decoded.meta == {"frames": 3}
    np.testing.assert_array_equal(decoded.pixels, by_pillow(data))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_floats_and_32_bits_have_no_known_white(mode: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"TIFF with pixels of kind {mode}; save it"):
        decode(saved(Image.new(mode, (8, 8)), "TIFF"))


def test_bytes_after_the_end_are_fine() -> None:
    for form in ("JPEG", "PNG"):
        data = saved(smooth(), form)
        assert decode(data + bytes(range(256)) * 9).recovered is None


def test_real_panorama_is_that_of_pillow(shared_data: Path) -> None:
    data = (shared_data / "pano" / "petra.jpg").read_bytes()
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


# ---------------------------------------------------------------------------------------------------------------------
# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_upright(form: str, orientation: int) -> None:
    data = saved(smooth(), form, exif=exif(orientation))
    decoded, header = decode(data), read_header(data)
    np.testing.assert_array_equal(decoded.pixels, by_pillow(data))
    assert decoded.pixels.shape[1::-1] == header.upright_size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_tiff_stands_upright(orientation: int) -> None:
    bgr = noise(21, 37, 3, dtype=np.uint16)
    data = cv2.imencode(".tiff", bgr)[1].tobytes()
    place = data.index(struct.pack("<HHI", ORIENTATION, 3, 1)) if orientation > 1 and _has_tag(data) else None
    data = _with_orientation(data, orientation, place)
    eight = Image.fromarray(np.round(bgr[..., ::-1] / 257).astype(np.uint8))
    wanted = by_pillow(saved(eight, "TIFF", exif=exif(orientation)))
    np.testing.assert_array_equal(decode(data).pixels, wanted)


def _has_tag(data: bytes) -> bool:
    return struct.pack("<HHI", ORIENTATION, 3, 1) in data


def _with_orientation(data: bytes, orientation: int, place: int | None) -> bytes:
    """The TIFF with that orientation: the entry changed where there is one, else one put into its directory."""
    if place is not None:
        return data[: place + 8] + struct.pack("<HH", orientation, 0) + data[place + 12 :]
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    entries = [data[at : at + 12] for at in range(first + 2, first + 2 + 12 * count, 12)]
    entries.append(struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


# ---------------------------------------------------------------------------------------------------------------------
# colour


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2, made of `tags`."""
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\5Test\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1, 0.8249),
    } | tags
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, contents in tags.items():
        contents += b"\0" * (-len(contents) % 4)
        table += name + struct.pack(">II", at + len(body), len(contents))
        body += contents
    pcs, kind = (b"Lab ", b"prtr") if space == b"CMYK" else (b"XYZ ", b"mntr")
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"", 0x02100000, kind, space, pcs)
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + xyz(0.9642, 1, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"


def wide_rgb() -> bytes:
    """Adobe RGB's primaries and gamma."""
    primaries = {
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
    }
    return profile(b"RGB ", primaries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2)))


def linear_grey() -> bytes:
    return profile(b"GRAY", {b"kTRC": gamma(1.0)})


def some_cmyk() -> bytes:
    """A printer that is made up: a lut8 of two points a side, from ink to Lab."""
    ink = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    light = (1 - 0.9 * ink[:, 3]) * (1 - ink[:, :3] @ [0.3, 0.4, 0.1])
    lab = np.stack([255 * light, 128 + 60 * (ink[:, 1] - ink[:, 0]), 128 + 70 * (ink[:, 2] - 0.5 * ink[:, 0])], -1)
    straight = bytes(range(256))
    matrix = b"".join(struct.pack(">i", 65536 * int(at % 4 == 0)) for at in range(9))
    lut = b"mft1\0\0\0\0\4\3\2\0" + matrix + straight * 4 + lab.round().astype(np.uint8).tobytes() + straight * 3
    return profile(b"CMYK", {b"A2B0": lut})


def managed(image: Image.Image, icc: bytes) -> Pixels:
    """The picture in sRGB, by LittleCMS."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_icc_colours_become_srgb(form: str, orientation: int) -> None:
    icc = wide_rgb()
    data = saved(smooth(1500, 800), form, icc_profile=icc, exif=exif(orientation))  # several strips
    plain = by_pillow(data)
    wanted = managed(Image.fromarray(plain), icc)
    assert np.abs(wanted.astype(float) - plain).mean() > 4
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, wanted)
    assert decoded.recovered is None


def test_16_bit_png_with_a_profile() -> None:
    wide = noise(21, 37, 3)
    made = cv2.imencode(".png", wide[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    packed = b"x\0\0" + zlib.compress(wide_rgb())
    chunk = struct.pack(">I", len(packed)) + b"iCCP" + packed + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
    pixels = decode(made[:33] + chunk + made[33:]).pixels
    np.testing.assert_array_equal(pixels, managed(Image.fromarray(wide), wide_rgb()))


def test_grey_profiles() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = levels[..., None] / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    for data in (saved(levels, "PNG", icc_profile=linear_grey()), saved(levels, "TIFF", icc_profile=linear_grey())):
        assert np.abs(decode(data).pixels - 255 * srgb).max() <= 1


def test_srgb_profiles_change_nothing() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(saved(smooth(), "PNG", icc_profile=icc)).pixels, smooth())


@pytest.mark.parametrize(
    ("icc", "says"),
    [
        (b"no profile at all", "colour profile cannot be read"),
        (wide_rgb()[:200], "colour profile cannot be read"),
        (wide_rgb()[:16] + b"\x84" + wide_rgb()[17:], "colour profile cannot be read"),
        (linear_grey(), "colour profile is for grey pictures"),
        (some_cmyk(), "colour profile is for CMYK pictures"),
    ],
)
def test_profiles_that_do_not_fit_are_said(icc: bytes, says: str) -> None:
    decoded = decode(saved(smooth(), "JPEG", quality=92, icc_profile=icc))
    assert says in (decoded.recovered or "")
    np.testing.assert_array_equal(decoded.pixels, by_pillow(saved(smooth(), "JPEG", quality=92)))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile(form: str) -> None:
    ink = cv2.resize(noise(4, 6, 4), (96, 48), interpolation=cv2.INTER_LINEAR)
    data = saved(Image.fromarray(ink, "CMYK"), form, **({"quality": 100} if form == "JPEG" else {}))
    stored = np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255
    wanted = 255 * (1 - stored[..., :3]) * (1 - stored[..., 3:])
    assert np.abs(decode(data).pixels - wanted).max() <= 0.501


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_through_its_profile(form: str) -> None:
    ink = Image.fromarray(cv2.resize(noise(4, 6, 4), (96, 48)), "CMYK")
    data = saved(ink, form, icc_profile=some_cmyk())
    stored = Image.open(io.BytesIO(data))
    stored.load()
    wanted = managed(stored, some_cmyk())
    assert np.abs(decode(data).pixels.astype(int) - wanted).max() <= 1
    assert decode(data).recovered is None


def test_cmyk_with_a_profile_for_something_else() -> None:
    ink = Image.fromarray(noise(48, 96, 4), "CMYK")
    assert "not one for CMYK" in (decode(saved(ink, "JPEG", icc_profile=wide_rgb())).recovered or "")


# ---------------------------------------------------------------------------------------------------------------------
# buffers and limits


@pytest.mark.parametrize("data", [
    saved(smooth(), "JPEG"), saved(smooth(), "JPEG", exif=exif(6)), saved(smooth(), "PNG"), saved(smooth(), "WEBP"),
    saved(smooth(), "TIFF", exif=exif(8)), saved(smooth(), "JPEG", icc_profile=wide_rgb()),
    saved(Image.fromarray(noise(48, 96, 4), "CMYK"), "JPEG"), saved(smooth(), "JPEG")[:-2],
    saved(smooth(), "PNG")[:-20],
    cv2.imencode(".tiff", noise(48, 96, 3, dtype=np.uint16))[1].tobytes(),
])  # fmt: skip
def test_pixels_are_the_buffer_that_was_given(data: bytes) -> None:
    width, height = read_header(data).upright_size
    pool, given_out = np.full((height + 7, width, 3), 99, np.uint8), []

    def allocate(rows: int, columns: int) -> Pixels:
        assert (rows, columns) == (height, width)
        given_out.append(pool[3 : 3 + rows])
        return given_out[-1]

    decoded = decode(data, allocate=allocate)
    assert len(given_out) == 1
    assert decoded.pixels is given_out[0]
    np.testing.assert_array_equal(decoded.pixels, decode(data).pixels)
    assert (pool[:3] == 99).all()
    assert (pool[3 + height :] == 99).all()


def test_a_buffer_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allocate\(48, 96\) has to give .* got uint8 \[96, 48, 3\]"):
        decode(saved(smooth(), "JPEG"), allocate=lambda height, width: np.empty((width, height, 3), np.uint8))
    with pytest.raises(ValueError, match="C-contiguous"):
        decode(saved(smooth(), "JPEG"), allocate=lambda height, width: np.empty((height, width, 4), np.uint8)[..., :3])


def never(height: int, width: int) -> Pixels:
    raise AssertionError("a picture above the limit must not be allocated")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_pixels_are_limited_by_the_header(form: str) -> None:
    data = saved(smooth(), form)
    with pytest.raises(TooManyPixels, match=r"^96x48 pixels are more than the limit of 0\.004607 MP; raise it with"):
        decode(data, max_pixels=96 * 48 - 1, allocate=never)
    with pytest.raises(TooManyPixels):
        decode_mask(data, max_pixels=96 * 48 - 1)
    assert decode(data, max_pixels=96 * 48).pixels.shape == (48, 96, 3)


def test_bombs_are_stopped() -> None:
    with pytest.raises(TooManyPixels, match="60000x60000 pixels are more than the limit of 400 MP"):
        decode(png_file(60000, 60000, 1, 0, bytes(1000)), allocate=never)
    data = bytearray(saved(smooth(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(TooManyPixels, match="65000x65000"):
        decode(bytes(data), allocate=never)


def test_pillow_neither_warns_nor_refuses_below_our_limit() -> None:
    data = saved(Image.new("1", (20000, 9000)), "TIFF", compression="group4")  # 180 MP: Pillow's own limit is 89 MP
    assert read_header(data).width == 20000
    with pytest.raises(TooManyPixels, match="limit of 100 MP"):
        decode(data, max_pixels=100_000_000)


# ---------------------------------------------------------------------------------------------------------------------
# damage


def flipped(jpeg: bytes, seed: int) -> bytes:
    """Nineteen bytes of the compressed data changed, and a restart marker where there should be none."""
    rng, data = np.random.default_rng(seed), bytearray(jpeg)
    places = rng.choice(np.arange(jpeg.index(b"\xff\xda") + 200, len(jpeg) - 100, 2), 20, replace=False)
    for place in places[1:]:
        data[place] ^= int(rng.integers(1, 256))
    data[places[0] : places[0] + 2] = b"\xff\xd3"
    return bytes(data)


DETAILED = np.clip(smooth(256, 128).astype(int) + noise(128, 256, 3) // 8, 0, 255).astype(np.uint8)
JPEG = saved(DETAILED, "JPEG", quality=92)
PNG = saved(DETAILED, "PNG")
PROGRESSIVE = saved(DETAILED, "JPEG", progressive=True)
CMYK_JPEG = saved(Image.fromarray(DETAILED).convert("CMYK"), "JPEG")
DAMAGED_JPEGS = [
    JPEG[: len(JPEG) // 2],
    JPEG[:-2],
    PROGRESSIVE[: len(PROGRESSIVE) // 3],
    CMYK_JPEG[: len(CMYK_JPEG) // 2],
    *(flipped(JPEG, seed) for seed in range(4)),
]


@pytest.mark.parametrize("data", DAMAGED_JPEGS)
def test_damaged_jpegs_are_recovered_and_say_so(data: bytes) -> None:
    decoded = decode(data)
    assert decoded.pixels.shape == DETAILED.shape
    assert (decoded.recovered or "").startswith("the JPEG is damaged (")
    assert not {"Traceback", "0x", "tj"} & set((decoded.recovered or "").split())


def test_what_is_there_of_half_a_jpeg_is_right() -> None:
    pixels = decode(JPEG[: len(JPEG) // 2]).pixels
    np.testing.assert_array_equal(pixels[:40], by_pillow(JPEG)[:40])
    np.testing.assert_array_equal(decode(JPEG[:-2]).pixels, by_pillow(JPEG))


@pytest.mark.parametrize("data", [*DAMAGED_JPEGS, PNG[: len(PNG) // 2]])
def test_recovered_pixels_do_not_depend_on_what_came_before(data: bytes) -> None:
    seen = set()
    for before in (0, 200):
        buffer = np.full(DETAILED.shape, before, np.uint8)
        decode(saved(np.full((128, 256, 3), before, np.uint8), "JPEG"))
        seen.add(decode(data, allocate=lambda height, width, buffer=buffer: buffer).pixels.tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("end", ["header", "scan header", "end of image"])
def test_a_jpeg_without_compressed_data_is_damaged(end: str) -> None:
    scan = JPEG.index(b"\xff\xda")
    behind = scan + 2 + int.from_bytes(JPEG[scan + 2 : scan + 4], "big")
    data = {"header": JPEG[:scan], "scan header": JPEG[:behind], "end of image": JPEG[:behind] + b"\xff\xd9"}[end]
    with pytest.raises(DamagedImage, match="no compressed pixels"):
        decode(data)


def test_a_jpeg_with_broken_tables_is_damaged() -> None:
    table = JPEG.index(b"\xff\xc4")
    with pytest.raises(DamagedImage, match="the JPEG cannot be decoded: "):
        decode(JPEG[: table + 5] + b"\xff" * 16 + JPEG[table + 21 :])


@pytest.mark.parametrize(("marker", "what"), [(0xC3, "lossless"), (0xF7, "JPEG-LS")])
def test_jpegs_of_other_kinds(marker: int, what: str) -> None:
    with pytest.raises(UnsupportedImage, match=what):
        decode(JPEG.replace(b"\xff\xc0", bytes([0xFF, marker]), 1))


def test_a_jpeg_of_12_bits() -> None:
    frame = JPEG.index(b"\xff\xc0")
    with pytest.raises(UnsupportedImage, match="12 bits a channel"):
        decode(JPEG[: frame + 4] + b"\x0c" + JPEG[frame + 5 :])


def chunk_at(png: bytes, name: bytes) -> tuple[int, int]:
    """(first, end) byte of a chunk's contents."""
    at = png.index(name) + 4
    return at, at + int.from_bytes(png[at - 8 : at - 4], "big")


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def test_a_png_with_a_wrong_checksum_is_recovered() -> None:
    _, end = chunk_at(PNG, b"IDAT")
    decoded = decode(with_byte(PNG, end, PNG[end] ^ 0xFF))
    assert decoded.recovered == (
        "the PNG is damaged (its chunk IDAT has a wrong checksum); 100% of its pixels were kept"
    )
    np.testing.assert_array_equal(decoded.pixels, DETAILED)


def test_a_png_with_a_damaged_text_loses_only_that() -> None:
    text = b"\0\0\0\3tEXtabc\0\0\0\0"
    decoded = decode(PNG[:33] + text + PNG[33:])
    assert "its chunk tEXt has a wrong checksum" in (decoded.recovered or "")
    np.testing.assert_array_equal(decoded.pixels, DETAILED)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "16"])
def test_half_a_png_keeps_its_upper_part(mode: str) -> None:
    if mode == "16":
        data = cv2.imencode(".png", noise(128, 256, 3, dtype=np.uint16))[1].tobytes()
    else:
        data = saved(Image.fromarray(DETAILED).convert(mode), "PNG")
    whole, decoded = decode(data), decode(data[: len(data) // 2])
    assert "is cut off" in (decoded.recovered or "")
    np.testing.assert_array_equal(decoded.pixels[:40], whole.pixels[:40])
    assert (decoded.pixels[-8:] == decoded.pixels[-1, -1]).all()


def test_an_interlaced_png_that_is_cut_off() -> None:
    # Pillow writes none: seven passes over a picture of one colour, each row with filter 0
    width, height, colour = 13, 10, bytes((10, 200, 30))
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    raw = b"".join((b"\0" + colour * len(range(x, width, dx))) * len(range(y, height, dy)) for x, y, dx, dy in passes)
    data = bytearray(png_file(width, height, 8, 2, raw))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    np.testing.assert_array_equal(decode(bytes(data)).pixels, np.broadcast_to(list(colour), (height, width, 3)))
    recovered = decode(bytes(data[:-12]))
    assert "its end is missing" in (recovered.recovered or "")
    np.testing.assert_array_equal(recovered.pixels, decode(bytes(data)).pixels)


@pytest.mark.parametrize("fault", ["deflate", "short", "filter"])
def test_faults_that_no_checksum_tells(fault: str) -> None:
    raw = b"".join(b"\0" + row.tobytes() for row in DETAILED)
    if fault == "short":
        data = png_file(256, 128, 8, 2, raw[: len(raw) // 2])
    elif fault == "filter":
        half = 64 * (1 + 3 * 256)
        data = png_file(256, 128, 8, 2, with_byte(raw, half, 9))
    else:
        first, end = chunk_at(png_file(256, 128, 8, 2, raw), b"IDAT")
        body = bytearray(png_file(256, 128, 8, 2, raw)[first:end])
        body[len(body) // 2 : len(body) // 2 + 40] = bytes(range(40))
        data = PNG[:33] + struct.pack(">I", len(body)) + b"IDAT" + bytes(body)
        data += struct.pack(">I", zlib.crc32(b"IDAT" + bytes(body))) + PNG[-12:]
    decoded = decode(data)
    assert "its compressed pixels" in (decoded.recovered or "")
    np.testing.assert_array_equal(decoded.pixels[:50], DETAILED[:50])


@pytest.mark.parametrize("data", [PNG[:33], PNG[:33] + PNG[-12:], PNG[:41]])
def test_a_png_without_compressed_data_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedImage, match="no compressed pixels"):
        decode(data)


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM"])
def test_other_formats_that_are_cut_off_are_damaged(form: str) -> None:
    data = saved(DETAILED, form)
    with pytest.raises(DamagedImage, match=r"cannot be decoded|is damaged, cut off"):
        decode(data[: len(data) // 2])


def test_what_is_no_picture() -> None:
    with pytest.raises(NotAnImage, match=r"empty file \(0 bytes\)"):
        decode(b"")
    with pytest.raises(NotAnImage, match="is no picture"):
        decode_mask(b"This is not a picture.\n")


SMALL = smooth(24, 16)
SEEDS = [
    saved(SMALL, "JPEG", exif=exif(6)),
    saved(SMALL, "JPEG", progressive=True, icc_profile=wide_rgb()),
    saved(SMALL, "PNG", exif=exif(3)),
    saved(Image.fromarray(SMALL).quantize(9), "PNG", transparency=2),
    saved(SMALL, "WEBP"),
    saved(SMALL, "BMP"),
    saved(SMALL, "GIF"),
]


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0.1, 1),
)
@example(SEEDS[0], [], 1.0)
def test_any_damage_ends_in_a_picture_or_a_decode_error(
    seed: bytes, changes: list[tuple[float, int]], length: float
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value
    data = data[: int(length * len(data))]
    ends = []
    for before in (0, 255):
        try:
            decoded = decode(
                bytes(data),
                max_pixels=1_000_000,
                allocate=lambda height, width, before=before: np.full((height, width, 3), before, np.uint8),
            )
            ends.append((decoded.recovered, decoded.pixels.tobytes()))
        except DecodeError as error:
            ends.append((type(error).__name__, str(error)))
    assert ends[0] == ends[1]


def test_many_threads_decode_the_same() -> None:
    jobs = [*SEEDS, JPEG, PNG, *DAMAGED_JPEGS, saved(DETAILED, "JPEG", icc_profile=wide_rgb(), exif=exif(7))] * 6
    alone = [decode(data).pixels.tobytes() for data in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: decode(data).pixels.tobytes(), jobs)) == alone


# ---------------------------------------------------------------------------------------------------------------------
# masks


MASK = np.where(smooth()[..., 0] > 120, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        saved(MASK, "PNG"),
        saved(Image.fromarray(MASK).convert("1"), "PNG"),
        saved(np.dstack([MASK] * 3), "PNG"),
        saved(np.dstack([MASK] * 3), "BMP"),
        saved(MASK, "TIFF"),
        saved(MASK, "WEBP", lossless=True),
        saved(Image.fromarray(MASK).convert("P"), "PNG"),
        saved(np.dstack([np.full((*MASK.shape, 3), 7, np.uint8), MASK]), "PNG"),  # only the alpha says anything
        saved(MASK, "PNG", icc_profile=linear_grey()),  # a mask is data: no colour management
        cv2.imencode(".png", MASK.astype(np.uint16) * 257)[1].tobytes(),
    ],
)
def test_masks_of_every_kind(data: bytes) -> None:
    mask = decode_mask(data)
    assert mask.flags.c_contiguous
    np.testing.assert_array_equal(mask, MASK)


def test_all_levels_of_a_grey_mask_are_kept() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_mask(saved(levels, "PNG")), levels)
    np.testing.assert_array_equal(decode_mask(saved(np.dstack([levels] * 3), "PNG")), levels)
    varied = np.dstack([levels, levels, levels, levels[::-1]])  # its colours are not constant: they are the mask
    np.testing.assert_array_equal(decode_mask(saved(varied, "PNG")), levels)


def test_colours_of_a_mask_give_their_luminance() -> None:
    mask = decode_mask(saved(smooth(), "PNG")).astype(float)
    assert np.abs(mask - smooth() @ [0.299, 0.587, 0.114]).max() <= 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_stand_upright(orientation: int) -> None:
    for form in ("PNG", "TIFF"):
        data = saved(MASK, form, exif=exif(orientation))
        np.testing.assert_array_equal(decode_mask(data), by_pillow(data, "L"))


def test_half_a_mask_is_no_mask() -> None:
    data = saved(MASK, "PNG")
    with pytest.raises(DamagedImage, match="a mask has to be whole: the PNG is damaged"):
        decode_mask(data[:-20])


def test_strict_decoding_is_bare_simplejpeg() -> None:
    np.testing.assert_array_equal(decode(JPEG).pixels, simplejpeg.decode_jpeg(JPEG))


# ---------------------------------------------------------------------------------------------------------------------
# reduced


@pytest.mark.parametrize(
    ("size", "at_least", "wanted"),
    [
        ((800, 640), (100, 80), (100, 80)),
        ((800, 640), (101, 80), (200, 160)),
        ((800, 640), (300, 10), (300, 240)),
        ((800, 640), (400, 320), (400, 320)),
        ((800, 640), (401, 1), (800, 640)),  # from 5/8 on nothing is won
        ((800, 640), (9000, 9000), (800, 640)),
        ((803, 640), (200, 100), (301, 240)),  # 3/8 of 803 is 301.125; 2/8 is 200.75
        ((803, 643), (400, 300), (803, 643)),  # one half is 401.5 x 321.5
        ((803, 643), (100, 80), (201, 161)),  # a quarter is 200.75 x 160.75: an eighth of a pixel of what is wanted
        ((9, 7), (1, 1), (1, 1)),
        ((5, 7), (1, 1), (5, 7)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_jpegs_come_reduced(
    size: tuple[int, int], at_least: tuple[int, int], wanted: tuple[int, int], orientation: int
) -> None:
    data = saved(smooth(*size), "JPEG", quality=95, exif=exif(orientation))
    turned = orientation > 4
    made = []

    def allocate(height: int, width: int) -> Pixels:
        made.append(np.full((height, width, 3), 7, np.uint8))
        return made[-1]

    decoded = decode(data, at_least=at_least[::-1] if turned else at_least, allocate=allocate)
    assert decoded.pixels is made[-1]
    assert decoded.recovered is None
    assert decoded.pixels.shape == (*(wanted if turned else wanted[::-1]), 3)
    if min(wanted) >= 80:
        whole = Image.fromarray(by_pillow(data))
        by_box = whole.resize(decoded.pixels.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(decoded.pixels.astype(float) - np.asarray(by_box)).mean() < 1


def test_reduced_pictures_do_not_shift() -> None:
    """A bar near the far edge stays where it is, for sides that are no multiples of 8."""
    pixels = np.zeros((643, 803, 3), np.uint8)
    pixels[:, 700:740] = 255
    pixels[600:620] = 255
    reduced = decode(saved(pixels, "JPEG", quality=95), at_least=(301, 241)).pixels[..., 0].astype(float)
    assert reduced.shape == (241, 301)
    columns, rows = np.arange(301) + 0.5, np.arange(241) + 0.5
    across, down = reduced[:200].sum(0) / reduced[:200].sum(), reduced[:, :250].sum(1) / reduced[:, :250].sum()
    assert abs(columns @ across * 803 / 301 - 720) < 0.5
    assert abs(rows @ down * 643 / 241 - 610) < 0.5


def test_other_formats_come_in_full() -> None:
    for form in ("PNG", "WEBP", "TIFF", "BMP"):
        assert decode(saved(smooth(), form), at_least=(8, 8)).pixels.shape == (48, 96, 3)


def test_cmyk_grey_and_profiles_come_reduced() -> None:
    cmyk = saved(Image.fromarray(smooth(800, 640)).convert("CMYK"), "JPEG", quality=95)
    grey = saved(smooth(800, 640)[..., 0], "JPEG", quality=95)
    wide = saved(smooth(800, 640), "JPEG", quality=95, icc_profile=wide_rgb())
    for data in (cmyk, grey, wide):
        whole = cv2.resize(decode(data).pixels, (200, 160), interpolation=cv2.INTER_AREA)
        reduced = decode(data, at_least=(150, 150))
        assert reduced.recovered is None
        assert np.abs(reduced.pixels.astype(float) - whole).mean() < 1


def test_a_reduced_jpeg_that_is_cut_off_is_recovered() -> None:
    data = saved(smooth(800, 640), "JPEG", quality=95)
    decoded = decode(data[: len(data) // 2], at_least=(200, 160))
    assert decoded.recovered
    assert decoded.pixels.shape == (160, 200, 3)
    whole = decode(data, at_least=(200, 160)).pixels
    np.testing.assert_array_equal(decoded.pixels[:60], whole[:60])
    with pytest.raises(TooManyPixels, match="800x640"):
        decode(data, at_least=(100, 80), max_pixels=500_000)
