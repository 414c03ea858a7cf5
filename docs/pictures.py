"""The pictures of the documents, made by the product itself from its sample material: docs/images/*.jpg and *.png.

Four need what may not be there, and stay as they are without it: the report's picture, a browser (`chromium`); the
masks of photographs, the photographs (`../shared/data/photos` beside the checkout; only their masks go into the
picture); those of identify and train segment, the extra `train`: for each of them a network is trained.
"""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import lightmill
from lightmill.ops.antialias import Antialias, samples_per_side
from lightmill.ops.rig import Camera, Rig
from lightmill.ops.rigs import preset
from lightmill.ops.sphere import Interpolation, ViewMaps, continue_poles, inner, padded_shape
from lightmill.types import Size

IMAGES = Path(__file__).resolve().parent / "images"
INK, PAPER = (30, 30, 34), (255, 255, 255)
HUES = [(230, 85, 60), (240, 170, 40), (150, 190, 40), (40, 160, 90), (30, 160, 190), (60, 100, 220), (140, 80, 210)]
_TIME_S = 1.5


def make_pictures() -> list[str]:
    """Returns what could not be made, in words."""
    from portrait_pictures import make_portrait_pictures
    from training_pictures import make_training_pictures

    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pano, mask = _sample(work)
        _hero(work, pano)
        for rig, columns in (("colmap12", 4), ("cube6", 3)):
            _contact_sheet(work, rig, columns)
        _masks(work, pano, mask)
        _zone_plates()
        _joined(work)
        return [*_report(work), *make_portrait_pictures(work), *make_training_pictures(work)]


def _sample(work: Path) -> tuple[Image.Image, Image.Image]:
    """The panorama that all pictures show, and its mask, below work/panos and work/masks."""
    from lightmill.sample.render import panorama
    from lightmill.sample.scene import Scene

    rendered = panorama(Scene(1), time_s=_TIME_S, width=2048)
    pano, mask = Image.fromarray(rendered.pixels), Image.fromarray(rendered.mask)
    for name, picture in (("panos/courtyard.png", pano), ("masks/courtyard.png", mask)):
        (work / name).parent.mkdir(exist_ok=True)
        picture.save(work / name)
    return pano, mask


def _split(work: Path, rig: str, size: str, **options: Any) -> Path:
    out = work / f"{rig}-{size}"
    run = lightmill.split360(work / "panos", out, rig=rig, size=size, format="png", **options)
    assert run.ok == 1
    return out


def _hero(work: Path, pano: Image.Image) -> None:
    """The panorama with the borders of three views, and the three views."""
    shown = {"cam00": HUES[0], "cam02": HUES[3], "cam04": HUES[5]}
    out = _split(work, "ring8", "960x540")
    width, gap = 1200, 8
    cell = ((width - 2 * gap) // 3, (width - 2 * gap) // 3 * 9 // 16)
    sheet = Image.new("RGB", (width, width // 2 + gap + cell[1]), PAPER)
    wide = pano.resize((2 * width, width), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(wide)
    cameras = {camera.name: camera for camera in preset("ring8")}
    for name, colour in shown.items():
        for piece in _border_in_pano(cameras[name], aspect=16 / 9, pano_width=2 * width):
            draw.line(piece, fill=colour, width=7, joint="curve")
    sheet.paste(wide.resize((width, width // 2), Image.Resampling.LANCZOS), (0, 0))
    for place, (name, colour) in enumerate(shown.items()):
        view = Image.open(out / "images" / name / "courtyard.png").resize(cell, Image.Resampling.LANCZOS)
        frame(view, colour, name)
        sheet.paste(view, (place * (cell[0] + gap), width // 2 + gap))
    sheet.save(IMAGES / "split360.jpg", quality=80, optimize=True)


def _border_in_pano(camera: Camera, *, aspect: float, pano_width: int) -> Iterator[list[tuple[float, float]]]:
    """The border of a view as lines in the panorama, cut where it leaves at the seam."""
    across = math.tan(math.radians(camera.hfov) / 2)
    t = np.linspace(-1, 1, 200)
    one = np.ones_like(t)
    x = np.concatenate([t, one, -t, -one]) * across
    y = np.concatenate([-one, t, one, -t]) * across / aspect
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.pano_from_cam().T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    column = (np.arctan2(rays[:, 0], rays[:, 2]) / math.tau + 0.5) * pano_width
    row = (0.5 + np.arcsin(rays[:, 1]) / math.pi) * pano_width / 2
    cuts = np.flatnonzero(np.abs(np.diff(column)) > pano_width / 2) + 1
    for piece in np.split(np.stack([column, row], axis=-1), cuts):
        yield [(float(x), float(y)) for x, y in piece]


def _contact_sheet(work: Path, rig: str, columns: int) -> None:
    """Every view of a rig, by rows, with its name and where it looks."""
    out = _split(work, rig, "384x384")
    cameras = preset(rig)
    cell, gap = 1200 // columns - 6, 6
    rows = math.ceil(len(cameras) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) - gap, rows * (cell + gap) - gap), PAPER)
    for i, camera in enumerate(cameras):
        view = Image.open(out / "images" / camera.name / "courtyard.png").resize((cell, cell), Image.Resampling.LANCZOS)
        frame(view, None, f"{camera.name}  yaw {camera.yaw:g}  pitch {camera.pitch:g}")
        sheet.paste(view, (i % columns * (cell + gap), i // columns * (cell + gap)))
    sheet.thumbnail((900, 900), Image.Resampling.LANCZOS)
    sheet.save(IMAGES / f"rig-{rig}.jpg", quality=80, optimize=True)


def _masks(work: Path, pano: Image.Image, mask: Image.Image) -> None:
    """The panorama and its mask; below, the view that shows the person, its mask, and COLMAP's mask of it."""
    out = _split(work, "ring8", "640x360", masks=str(work / "masks"), export="colmap")
    name = "cam02"  # who walks there stands in the middle of it
    gap = 8
    half, third = (476, 238), (314, 177)
    pictures = [
        (pano, half, "panorama"),
        (mask, half, "its mask"),
        (Image.open(out / "images" / name / "courtyard.png"), third, f"images/{name}"),
        (Image.open(out / "masks" / name / "courtyard.png"), third, f"masks/{name}"),
        (Image.open(out / "colmap" / "masks" / name / "courtyard.png.png"), third, f"colmap/masks/{name}"),
    ]
    sheet = Image.new("RGB", (960, half[1] + gap + third[1]), PAPER)
    for i, (picture, size, label) in enumerate(pictures):
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        frame(small, (150, 150, 155), label)
        place = (i * (half[0] + gap), 0) if i < 2 else ((i - 2) * (third[0] + 9), half[1] + gap)
        sheet.paste(small, place)
    sheet.save(IMAGES / "masks.jpg", quality=82, optimize=True)


def _zone_plates() -> None:
    """Rings that get finer outwards, seen by a view four times as coarse: cut plainly, and averaged."""
    width, size, front = 4096, Size(320, 320), Camera(name="front", yaw=0, pitch=0)
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * math.tau
    latitude = ((np.arange(width // 2) + 0.5) / (width // 2) - 0.5) * math.pi
    radius = np.hypot(longitude[None, :], latitude[:, None])
    rings = np.where(radius < math.pi / 4, 127.5 + 120 * np.cos(0.45 * width / (math.pi / 2) * radius**2), 127.5)
    padded = np.zeros(padded_shape(width // 2, width), np.uint8)
    inner(padded)[:] = np.rint(rings)[..., None]
    continue_poles(padded)
    maps = ViewMaps(Rig(name="one", size=size, cameras=(front,)))
    sheet = Image.new("RGB", (2 * size.width + 8, size.height), PAPER)
    for place, antialias in enumerate((Antialias.OFF, Antialias.AUTO)):
        samples = samples_per_side(antialias, front, size, pano_width=width)
        view = Image.fromarray(maps.cut(padded, front, interpolation=Interpolation.LINEAR, samples=samples))
        frame(view, None, f"--antialias {antialias}")
        sheet.paste(view, (place * (size.width + 8), 0))
    sheet.save(IMAGES / "antialias.jpg", quality=82, optimize=True)


def _joined(work: Path) -> None:
    """What `join360` makes of twelve views; the caps that none of them sees are checkered."""
    views = _split(work, "colmap12", "384x384")
    run = lightmill.join360(views / "images", work / "joined", rig=str(views / "rig.json"), width=960)
    assert run.ok + run.recovered == 1
    joined = Image.open(work / "joined" / "courtyard.png").convert("RGBA")
    y, x = np.mgrid[: joined.height, : joined.width] // 12
    checks = np.where((x + y) % 2, 225, 190).astype(np.uint8)
    sheet = Image.fromarray(np.dstack([checks] * 3)).convert("RGBA")
    sheet.alpha_composite(joined)
    sheet.convert("RGB").save(IMAGES / "join360.jpg", quality=80, optimize=True)


def frame(picture: Image.Image, colour: tuple[int, int, int] | None, label: str) -> None:
    """A border, where there is a colour, and words in the lower left corner."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    _, _, right, bottom = draw.textbbox((0, 0), label, font=font)
    height = bottom + 8
    draw.rectangle((0, picture.height - height, right + 14, picture.height), fill=INK)
    draw.text((7, picture.height - height + 3), label, font=font, fill=PAPER)
    if colour:
        draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=colour, width=4)


def _report(work: Path) -> Iterator[str]:
    """The report of a small run with a failure, light and dark, beside each other; or why there is none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        yield "no chromium here: docs/images/report.jpg stays as it is"
        return
    from lightmill.sample.clip import write_stills

    write_stills(work / "tour", count=8, width=1024)
    shutil.rmtree(work / "tour" / "masks")
    broken = work / "tour" / "courtyard_003.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    (work / "tour" / "notes.jpg").write_text("no picture\n", encoding="utf-8")
    lightmill.split360(work / "tour", work / "report", size="960x540", export="colmap")
    pictures = [_photographed(browser, work, scheme) for scheme in ("light", "dark")]
    sheet = Image.new("RGB", (2 * pictures[0].width + 8, pictures[0].height), PAPER)
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * (picture.width + 8), 0))
    sheet.save(IMAGES / "report.jpg", quality=77, optimize=True)


def _photographed(browser: str, work: Path, scheme: str) -> Image.Image:
    """The report's first screen, 600 px wide, with no path of this machine on it."""
    page = (work / "report" / "report.html").read_text(encoding="utf-8").replace(f"{work}/", "")
    (work / f"{scheme}.html").write_text(page, encoding="utf-8")
    shot = work / f"{scheme}.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    if scheme == "dark":
        options.append("--blink-settings=preferredColorScheme=0")
    command = [browser, *options, "--window-size=1000,1500", f"--screenshot={shot}", f"file://{work}/{scheme}.html"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    picture: NDArray[np.uint8] = np.asarray(Image.open(shot).convert("RGB"))
    return Image.fromarray(picture).resize((600, 900), Image.Resampling.LANCZOS)
