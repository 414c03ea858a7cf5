"""A small match on disk, drawn by the tests: frames, a pack, loose files, and what each crop has to look like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from lightmill.data.pack import COLUMNS, CropRow, PackWriter
from lightmill.ops.boxes import places_in

FRAME_HW = (180, 240)


@dataclass(frozen=True)
class Match:
    """Frames of smooth noise under `images`, their boxes cut at `expand`."""

    folder: Path
    frames: dict[str, np.ndarray]  # what a decoder gives of each
    rows: list[CropRow]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def pack(self) -> Path:
        return self.folder / "crops.arrow"

    @property
    def table(self) -> pl.DataFrame:
        """Of the boxes, for crops that are still in their frames."""
        names = [name for name in COLUMNS if name != "crop"]
        return pl.DataFrame([{name: getattr(row, name) for name in names} for row in self.rows], strict=False)

    def cut(self, number: int) -> np.ndarray:
        """What numpy cuts out of the decoded frame."""
        row = self.rows[number]
        return self.frames[row.frame][row.top : row.top + row.height, row.left : row.left + row.width]


def make_match(folder: Path, *, players=4, instants=3, views=("side", "top"), backgrounds=4, expand=1.2) -> Match:
    """Every player in every view at every instant, then negatives; the pack holds JPEGs of quality 95."""
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    frames, rows = {}, []
    for time in range(instants):
        for view in views:
            name = f"Q1__{view}__{time:02d}.jpg"
            coarse = rng.integers(0, 256, (FRAME_HW[0] // 12, FRAME_HW[1] // 12, 3), np.uint8)
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(coarse.repeat(12, 0).repeat(12, 1)), quality=90)
            (folder / "images" / name).write_bytes(data)
            frames[name] = simplejpeg.decode_jpeg(data)
            about = {"frame": name, "group": f"Q1/{time // 2}", "view": view, "time": float(time)}
            boxes = np.stack([rng.uniform(0, 190, players), rng.uniform(0, 110, players)], 1).round(2)
            for player, (x, y) in enumerate(boxes):
                rows.append(
                    a_crop(frames[name], (x, y, 30.5, 60.25), expand, label=f"p{player}", row=len(rows), **about)
                )
            if time == 0:
                for number in range(backgrounds):
                    box = (10.0 * number, 100.0, 20.0, 40.0)
                    rows.append(a_crop(frames[name], box, 1.0, kind="background", **about))
    with PackWriter(folder / "crops.arrow", store="jpeg", expand=expand) as writer:
        writer.add(rows)
    return Match(folder, frames, rows)


def a_crop(picture: np.ndarray, box: tuple[float, float, float, float], expand: float, **about) -> CropRow:
    left, top, width, height = places_in(box, picture.shape[:2], expand=expand).places[0].tolist()
    pixels = np.ascontiguousarray(picture[top : top + height, left : left + width])
    return CropRow(
        crop=simplejpeg.encode_jpeg(pixels, quality=95),
        **dict(zip("xywh", map(float, box), strict=True)),
        left=left,
        top=top,
        width=width,
        height=height,
        **about,
    )


def write_files(match: Match, folder: Path) -> Path:
    """The same crops as loose files, with their table."""
    (folder / "crops").mkdir(parents=True)
    for number, row in enumerate(match.rows):
        (folder / f"crops/{number}.jpg").write_bytes(row.crop)
    names = pl.Series("crop", [f"crops/{number}.jpg" for number in range(len(match.rows))])
    match.table.insert_column(0, names).write_csv(folder / "crops.csv")
    return folder
