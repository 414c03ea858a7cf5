"""The pictures of docs/caption.md, docs/identify.md and docs/train_segment.md: the jobs done on sample material.

Two networks are trained for them, in two minutes at most on a CPU that has little else to do, with the extra `train`;
without it their pictures stay.
"""

import csv
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pictures import HUES, IMAGES, INK, PAPER, frame
from PIL import Image, ImageDraw, ImageFont, ImageOps

import lightmill
from lightmill.data.pack import CropPack
from lightmill.errors import MissingExtra
from lightmill.sample import match
from lightmill.sample.portraits import portrait, write_portraits
from lightmill.sample.render import panorama
from lightmill.sample.scene import Scene

_WIDTH, _MARGIN, _GAP, _TEXT = 1176, 12, 6, 17
_GREY, _RED = (150, 150, 155), (205, 0, 20)
_PEOPLE = [*HUES[1:], (235, 110, 180), (120, 75, 40), (0, 110, 105), (95, 105, 20), (20, 45, 130), (190, 30, 110)]

_NORTH, _EAST = {"name": "north", "hfov": 80}, {"name": "east", "yaw": 84, "pitch": 2, "hfov": 42}
_VIEWS = {"courtyard/DSC12_checkeredBall.jpg": (_NORTH, "960x540"), "courtyard/walkingMan.jpg": (_EAST, "480x800")}
_ORIENTATION, _DATE = 0x0112, 0x0132  # EXIF
_SHRUNK = 0.68  # what `caption` gives, in the picture

_PLAYERS, _NEVER_SEEN = 16, 4
_MATCH: Mapping[str, Any] = {"sessions": 10, "frames": 4, "size": (1280, 720)}
_COLUMNS: Mapping[str, Any] = {
    "path": match.PATH, "label": "name", "group": ("quarter", "session"), "view": "angle", "time": "frame",
}  # fmt: skip
_REID: Mapping[str, Any] = {"backbone": "random:resnet10-slim", "size": "64x128", "epochs": 20}

_TRAINED, _HELD_OUT, _SIDE = 160, 40, 160  # portraits, and px of their sides
_SEGMENT: Mapping[str, Any] = {"size": "nano", "epochs": 30}
_SHOWN = 6  # held-out portraits


def make_training_pictures(work: Path) -> Iterator[str]:
    """Yields what could not be made, in words."""
    _captioned(work)
    try:
        _named(work)
        _segmented(work)
    except MissingExtra as error:
        yield f"docs/images/identify.jpg and train_segment.jpg stay as they are: {error}"


def _save(sheet: Image.Image, name: str, *, quality: int) -> None:
    ImageOps.expand(sheet, _MARGIN, PAPER).save(IMAGES / name, quality=quality, optimize=True)


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Text broken between words, so that it is no wider."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(filter(None, lines))


# --- caption ---------------------------------------------------------------------------------------------------------


def _captioned(work: Path) -> None:
    """A column a picture: as it lies in the ZIP, and as `caption` gives it, with its text."""
    pile = _pile(work / "pile")
    with zipfile.ZipFile(work / "pile.zip", "w") as archive:
        for path in sorted(pile.rglob("*.*")):
            archive.write(path, path.relative_to(pile))
    options: dict[str, Any] = {"fit": "bucket", "resolution": 256, "bucket_min": 128, "bucket_step": 32}
    run = lightmill.caption(work / "pile.zip", work / "lora", trigger="ohwx", **options)
    lines = [json.loads(line) for line in (work / "lora" / "captions.jsonl").read_text("utf-8").splitlines()]
    assert run.ok == len(lines)
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    _columns(work, lines, command=f"lightmill caption pile.zip lora --trigger ohwx {given}")


def _pile(folder: Path) -> Path:
    """Two views of the sample panorama, and three portraits: one with EXIF, one with alpha, one with a text."""
    pano = folder.with_name("courtyard.png")
    Image.fromarray(panorama(Scene(1), time_s=1.5, width=2048).pixels).save(pano)
    for name, (camera, size) in _VIEWS.items():
        rig = folder.with_name(f"{camera['name']}.yaml")
        rig.write_text(json.dumps({"cameras": [camera]}), encoding="utf-8")  # JSON is YAML
        out = folder.with_name(f"view-{camera['name']}")
        assert lightmill.split360(pano, out, rig=str(rig), size=size).ok == 1
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        next((out / "images").rglob("*.jpg")).rename(folder / name)
    for name in ("people", "pets", "things"):
        (folder / name).mkdir()
    turned = Image.Exif()
    turned[_ORIENTATION], turned[_DATE] = 6, "2021:05:03 14:22:11"  # 6: it lies on its side
    upright = portrait(13, size_wh=(480, 640)).pixels
    Image.fromarray(np.rot90(upright)).save(folder / "people/IMG_2041_redShirt.jpg", quality=92, exif=turned)
    cat = portrait(49, size_wh=(512, 512))
    Image.fromarray(np.dstack([cat.pixels, cat.mask])).save(folder / "pets/orangeCat.png")
    Image.fromarray(portrait(22, size_wh=(640, 480)).pixels).save(folder / "things/IMG_0007.jpg", quality=92)
    (folder / "things/IMG_0007.txt").write_text("a striped vase and two oranges\n", encoding="utf-8")
    return folder


def _columns(work: Path, lines: Sequence[Mapping[str, Any]], *, command: str) -> None:
    between, floor, lower, font = 20, 224, 587, ImageFont.load_default(_TEXT)  # both rows of pictures stand on a floor
    width = (_WIDTH - (len(lines) - 1) * between) // len(lines)
    sheet = Image.new("RGB", (_WIDTH, lower + 74), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 0), "pile.zip", font=font, fill=INK)
    draw.line((0, floor + 107, _WIDTH, floor + 107), fill=_GREY)
    draw.text((0, floor + 113), command, font=font, fill=INK)
    for i, line in enumerate(lines):
        left = i * (width + between)
        before, about = _as_it_lies(work / "pile", line["key"])
        shown = ImageOps.contain(before, (width, floor - 28), Image.Resampling.LANCZOS)
        sheet.paste(shown, (left, floor - shown.height))
        draw.multiline_text((left, floor + 6), _lines(about, font, width), font=font, fill=INK)
        made = work / "lora" / line["image"]
        after = Image.open(made)
        shown = ImageOps.scale(after, _SHRUNK, Image.Resampling.LANCZOS)
        ImageDraw.Draw(shown).rectangle((0, 0, shown.width - 1, shown.height - 1), outline=_GREY)
        sheet.paste(shown, (left, lower - shown.height))
        text = made.with_suffix(".txt").read_text("utf-8").strip()
        words = f"{after.width}x{after.height}\n{_lines(text, font, width)}"
        draw.multiline_text((left, lower + 6), words, font=font, fill=INK)
    _save(sheet, "caption.jpg", quality=74)


def _as_it_lies(pile: Path, key: str) -> tuple[Image.Image, str]:
    """A picture as its file has it, transparent parts as checks; and what is to be said of it."""
    picture = Image.open(pile / key)
    about = f"{key.replace('/', '/ ') if len(key) > 25 else key} {picture.width}x{picture.height}"
    if (said := picture.getexif()).get(_ORIENTATION, 1) != 1:
        about += f", EXIF: {said[_DATE][:10]}, to be turned"
    if picture.mode == "RGBA":
        about += ", with alpha"
        y, x = np.mgrid[: picture.height, : picture.width] // 24
        checks = Image.fromarray(np.dstack([np.where((x + y) % 2, 225, 190).astype(np.uint8)] * 3)).convert("RGBA")
        checks.alpha_composite(picture)
        picture = checks
    if (text := (pile / key).with_suffix(".txt")).exists():
        about += f', .txt: "{text.read_text("utf-8").strip()}"'
    return picture.convert("RGB"), about


# --- identify --------------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    """A box of a frame, px; who is in it, and who was found; "" is nobody known."""

    x: float
    y: float
    w: float
    h: float
    is_: str
    found: str

    def overlap(self, other: "Box") -> float:
        """px² that both cover."""
        wide = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        high = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        return max(wide, 0) * max(high, 0)


def _named(work: Path) -> None:
    """Players cut out, a network trained on them, and who it says that plays in the last quarter."""
    folder, crops, trained, out = (work / name for name in ("match", "crops", "reid", "named"))
    match.write_match(folder, players=_PLAYERS, unknown=_NEVER_SEEN, **_MATCH)
    _name_players(folder)
    columns = {"images": str(folder / match.IMAGES), **_COLUMNS}
    assert lightmill.crop(folder / match.TRAIN, crops, background_per_frame=1, **columns).failed == 0
    split = {"hold": "quarter", "folds": 3, "unknown": 2, "target": "f1", "tensorboard": False}
    assert lightmill.train_reid(crops, trained, **split, **_REID).exit_code == 0
    who = {"checkpoint": str(trained / "best"), "gallery": str(crops), "unknown": "-1"}
    assert lightmill.identify(folder / match.TRUTH, out, **who, **columns).failed == 0
    table = (folder / match.TRUTH).stem
    _draw_named(out / f"{table}_with_identities.csv", out / "identities.json", folder / match.IMAGES, crops)


def _name_players(folder: Path) -> None:
    """Another column in the tables: the number on the shirt, with the team where both have it; -1 as it is."""
    players = _rows(folder / match.PLAYERS)
    often = Counter(row["number"] for row in players)
    names = {
        row["label_id"]: row["number"] if often[row["number"]] == 1 else f"{row['number']} {row['team']}"
        for row in players
    } | {"-1": "-1"}
    for table in (match.TRAIN, match.TRUTH):
        rows = [row | {"name": names[row["label_id"]]} for row in _rows(folder / table)]
        with open(folder / table, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _draw_named(table: Path, told: Path, images: Path, crops: Path) -> None:
    """The frame on the left, two of its players as the gallery has them on the right, and the figures below."""
    score = json.loads(told.read_text("utf-8"))["against_truth"]
    name, boxes = _typical(table, score["accuracy"])
    colours = dict(zip(sorted({box.found for box in boxes} - {""}), _PEOPLE, strict=False))
    wide, high, foot = 808, 550, 56
    sheet = Image.new("RGB", (_WIDTH, high + foot), PAPER)
    sheet.paste(_boxed(Image.open(images / name), boxes, colours, (wide, high)), (0, 0))
    right = sorted((box for box in boxes if box.found == box.is_ != ""), key=lambda box: -box.w * box.h)
    cell = (high - _GAP) // 2
    for i, box in enumerate(right[:2]):
        sheet.paste(
            _gallery(crops, box.found, colours[box.found], (_WIDTH - wide - 12, cell)), (wide + 12, i * (cell + _GAP))
        )
    words = (
        "A frame of a quarter that is new to the network. Dashed, ?: somebody whom nobody knows. Red: wrong, with what "
        f"is right. Of all {score['known_boxes'] + score['unknown_boxes']} boxes of that quarter, "
        f"{score['unknown_boxes']} of strangers, {score['accuracy']:.0%} are right."
    )
    font = ImageFont.load_default(_TEXT)
    ImageDraw.Draw(sheet).multiline_text((0, high + 10), _lines(words, font, _WIDTH), font=font, fill=INK)
    _save(sheet, "identify.jpg", quality=72)


def _typical(table: Path, accuracy: float) -> tuple[str, list[Box]]:
    """Of the frames from the side with the most boxes, those right as often as all; of these, the least overlap."""
    frames: dict[str, list[Box]] = {}
    for row in _rows(table):
        if row["angle"] == "side" and row["status"] == "ok":
            numbers = {"session": int(row["session"]), "frame": int(row["frame"])}
            names = ("" if row[key] == "-1" else row[key] for key in ("name", "label"))
            box = Box(*(float(row[key]) for key in "xywh"), *names)
            frames.setdefault(match.PATH.format_map(row | numbers), []).append(box)

    def rank(name: str) -> tuple[int, float, float]:
        boxes = frames[name]
        right = sum(box.found == box.is_ for box in boxes) / len(boxes)
        overlap = sum(one.overlap(other) for one, other in combinations(boxes, 2))
        return -len(boxes), round(abs(right - accuracy), 3), overlap

    name = min(frames, key=rank)
    return name, frames[name]


def _boxed(
    picture: Image.Image, boxes: Sequence[Box], colours: Mapping[str, tuple[int, ...]], size: tuple[int, int]
) -> Image.Image:
    """The part of the frame in which they are, with boxes and names."""
    left, top, zoom = _part(picture.size, boxes, size)
    part = (left, top, left + size[0] / zoom, top + size[1] / zoom)
    shown = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=part)
    draw, font = ImageDraw.Draw(shown), ImageFont.load_default(_TEXT)
    for box in sorted(boxes, key=lambda box: box.y + box.h):  # who stands before others comes last
        x0, y0 = (box.x - left) * zoom, (box.y - top) * zoom
        x1, y1 = x0 + box.w * zoom, y0 + box.h * zoom
        colour = colours.get(box.found, _GREY)
        _outline(draw, (x0, y0, x1, y1), colour, dashed=not box.found)
        wrong = box.found != box.is_
        _tag(draw, (x0, y0), f"{box.found or '?'} is {box.is_ or '?'}" if wrong else box.found or "?", colour, font)
        if wrong:
            _outline(draw, (x0 + 3, y0 + 3, x1 - 3, y1 - 3), _RED, dashed=False)
    return shown


def _part(full: tuple[int, int], boxes: Sequence[Box], size: tuple[int, int]) -> tuple[float, float, float]:
    """Left and top of a part of that shape with all boxes in it, and how many px of it one becomes."""
    margin = 0.04 * full[0]
    left, top = min(box.x for box in boxes) - margin, min(box.y for box in boxes) - margin
    right, low = max(box.x + box.w for box in boxes) + margin, max(box.y + box.h for box in boxes) + margin
    zoom = max(min(size[0] / (right - left), size[1] / (low - top)), size[0] / full[0], size[1] / full[1])
    wide, high = size[0] / zoom, size[1] / zoom
    middle_x, middle_y = (left + right) / 2, (top + low) / 2
    return min(max(middle_x - wide / 2, 0), full[0] - wide), min(max(middle_y - high / 2, 0), full[1] - high), zoom


def _outline(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, ...], *, dashed: bool) -> None:
    x0, y0, x1, y1 = box
    if not dashed:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=3)
        return
    for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
        start, end = np.array(a), np.array(b)
        steps = max(int(np.abs(end - start).sum() // 7), 1) | 1  # odd: it ends as it began
        for k in range(0, steps, 2):
            piece = (*(start + (end - start) * k / steps), *(start + (end - start) * (k + 1) / steps))
            draw.line(piece, fill=(235, 235, 235), width=3)


def _tag(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, ...], font: Any) -> None:
    """Words on top of a box."""
    fill = _RED if " is " in text else colour
    width, height = font.getlength(text) + 10, 23
    x, y = at[0], max(at[1] - height, 0)
    draw.rectangle((x, y, x + width, y + height), fill=fill)
    light = np.dot(fill, (0.3, 0.6, 0.1)) > 150
    draw.text((x + 5, y + 2), text, font=font, fill=INK if light else PAPER)


def _gallery(crops: Path, label: str, colour: tuple[int, ...], size: tuple[int, int]) -> Image.Image:
    """Of one player the largest crop of each quarter, under the name that the gallery has for them."""
    pack = CropPack.open(crops)
    table = pack.table.with_row_index("at")
    largest: dict[str, tuple[float, int]] = {}
    for row in table.select("at", "label", "view", "quarter", "w", "h").iter_rows(named=True):
        if row["label"] == label and row["view"] == "side":
            quarter = row["quarter"].partition("-")[0]
            largest[quarter] = max(largest.get(quarter, (0.0, 0)), (row["w"] * row["h"], row["at"]))
    cell = (size[0] - 2 * _GAP) // 3
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    _tag(draw, (0, 0), label, colour, font)
    draw.text((font.getlength(label) + 18, 2), "as the gallery knows them", font=font, fill=INK)
    for i, quarter in enumerate(sorted(largest)[:3]):
        crop = Image.fromarray(pack.pixels(largest[quarter][1]))
        shown = ImageOps.fit(crop, (cell, size[1] - 30), Image.Resampling.LANCZOS)
        ImageDraw.Draw(shown).rectangle((0, 0, shown.width - 1, shown.height - 1), outline=colour, width=3)
        sheet.paste(shown, (i * (cell + _GAP), 30))
    return sheet


# --- train segment ---------------------------------------------------------------------------------------------------


def _segmented(work: Path) -> None:
    """A student trained on exact masks of portraits, and what it finds in others."""
    data, trained, found = (work / name for name in ("portraits-with-masks", "student", "found"))
    for split, count, seed in (("train", _TRAINED, 1000), ("val", _HELD_OUT, 2000)):
        (data / split / "images").mkdir(parents=True)
        for path in write_portraits(data / split, count, seed=seed, size=(_SIDE, _SIDE), table=False):
            path.rename(data / split / "images" / path.name)
    size = {"resolution": f"{_SIDE}x{_SIDE}", "binary": True, "tensorboard": False}
    assert lightmill.train_segment(data, trained, **size, **_SEGMENT).exit_code == 0
    assert lightmill.mask(data / "val" / "images", found, model=str(trained / "best")).failed == 0
    scores = json.loads((trained / "scores.json").read_text("utf-8"))
    words = (
        f"{_HELD_OUT} portraits held out: IoU {scores['held_out']['mean_iou']:.3f}. Six of them, from the worst to the "
        f"best, after {scores['epochs']} epochs of train segment --size {_SEGMENT['size']} on {_TRAINED} others."
    )
    _draw_segmented(data / "val", found / "masks", words)


def _draw_segmented(data: Path, masks: Path, words: str) -> None:
    """Picture, exact outline, and what was found, of six at equal steps of rank."""
    pictures = sorted((data / "images").iterdir(), key=lambda path: _iou(data, masks, path.stem))
    ranks = np.linspace(0, len(pictures) - 1, _SHOWN).round().astype(int)
    between, columns, foot = 24, 6, 30
    side = (_WIDTH - between - 4 * 2) // columns
    sheet = Image.new("RGB", (_WIDTH, _SHOWN // 2 * (side + _GAP) + foot), PAPER)
    for i, rank in enumerate(ranks):
        path = pictures[rank]
        exact, mask = (_level(folder / f"{path.stem}.png") >= 128 for folder in (data / "masks", masks))
        photograph = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        black = Image.fromarray(mask).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        cells = [photograph, _lined(photograph, exact), _lined(black, exact)]
        frame(cells[2], None, f"IoU {_iou(data, masks, path.stem):.3f}")
        if i < 2:
            frame(cells[1], None, "exact outline")
            frame(cells[0], None, "held out")
        left = i % 2 * (3 * side + 2 * 2 + between)
        for column, cell in enumerate(cells):
            sheet.paste(cell, (left + column * (side + 2), i // 2 * (side + _GAP)))
    font = ImageFont.load_default(_TEXT)
    ImageDraw.Draw(sheet).text((0, sheet.height - foot + 8), words, font=font, fill=INK)
    _save(sheet, "train_segment.jpg", quality=74)


def _level(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("L"))


def _iou(data: Path, masks: Path, stem: str) -> float:
    exact, mask = (_level(folder / f"{stem}.png") >= 128 for folder in (data / "masks", masks))
    return float((exact & mask).sum() / max((exact | mask).sum(), 1))


def _lined(picture: Image.Image, exact: NDArray[np.bool_]) -> Image.Image:
    """It with the outline of a mask on it, 3 px wide."""
    whole = Image.fromarray(exact).convert("L").resize(picture.size, Image.Resampling.BICUBIC)
    inside = np.pad(np.asarray(whole) >= 128, 1, mode="edge")
    edge = np.zeros((picture.height, picture.width), bool)
    for y in range(3):
        for x in range(3):
            edge |= inside[y : y + picture.height, x : x + picture.width] != inside[1:-1, 1:-1]
    lined = np.array(picture)
    lined[edge] = HUES[0]
    return Image.fromarray(lined)
