"""Boxes cut out of their frames: which, where, and with what beside them; one frame at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.codecs.header import Header
from lightmill.data.crops import resize_into
from lightmill.data.pack import Kind
from lightmill.engine.items import Json, Notes
from lightmill.ops.boxes import Cleaned, Flags, Floats, Places, places_in
from lightmill.ops.negatives import Negatives, draw_background, draw_partial
from lightmill.recipes.pictures import decode_whole
from lightmill.recipes.previews import preview
from lightmill.sources.boxes import FrameRef
from lightmill.types import Size

Pixels: TypeAlias = NDArray[np.uint8]

HELD_PER_PIXEL = 8  # bytes: a frame as decoded, and what is cut of it
_FRAME_PX = 640  # in the report
_STRIP = (8, 120)  # crops, px high: likewise
_COLOURS: dict[Kind, tuple[int, int, int]] = {
    "player": (60, 220, 90),
    "background": (70, 130, 255),
    "partial": (255, 170, 40),
}


class Cut(NamedTuple):
    """One crop of a frame, without its pixels."""

    kind: Kind
    row: int  # of the table, from 0; -1 for negatives
    parent: int  # row of the box that a partial was cut from; -1
    overlap: float
    box: tuple[float, float, float, float]  # x, y, w, h in px, not enlarged
    place: tuple[int, int, int, int]  # left, top, width, height in px: what was cut


@dataclass(frozen=True, kw_only=True)
class NegativeRule:
    """Which negatives are cut beside players, and from where."""

    background: int = 0  # a frame
    partial: int = 0  # a box
    share: tuple[float, float] = (0.1, 0.25)
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutter:
    """What is cut of every frame; its methods are stages."""

    boxes: Floats  # [N, 4] of the whole table, as --clean leaves them
    given: Floats  # [N, 4] as the table has them
    outlier: Flags  # [N]
    dropped: Flags  # [N] outliers that could not be mended
    ratio: Floats  # [N] area over the median of the track
    expand: float
    negatives: NegativeRule
    max_pixels: int

    @classmethod
    def of(
        cls, given: Floats, cleaned: Cleaned, *, expand: float, negatives: NegativeRule, max_pixels: int
    ) -> "Cutter":
        """For the boxes of a table."""
        return cls(
            boxes=cleaned.boxes,
            given=given,
            outlier=cleaned.outlier,
            dropped=cleaned.dropped,
            ratio=cleaned.ratio,
            expand=expand,
            negatives=negatives,
            max_pixels=max_pixels,
        )

    # --- stages ------------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, notes: Notes) -> Pixels:
        """[H, W, 3] sRGB, upright. Raises DecodeError, also for a frame of which a part is missing."""
        return decode_whole(data, notes, self.max_pixels)

    def cut(self, image: Pixels, key: str, ref: FrameRef, notes: Notes) -> list[Cut]:
        """What is cut of a frame: its boxes in the order of their rows, then background, then partials."""
        rows = np.array(ref.rows, np.int64)
        found = places_in(self.boxes[rows], image.shape[:2], expand=self.expand)
        whys = self._whys(rows, found, image)
        kept = np.array([not why for why in whys], np.bool_)
        cuts = [
            Cut("player", row, -1, 0.0, _four(box), _four(place))
            for row, box, place in zip(
                rows[kept].tolist(), self.boxes[rows[kept]].tolist(), found.places[kept].tolist(), strict=True
            )
        ]
        cuts += self._negatives(rows, kept, image, key, notes)
        _note(notes, cuts, found.clamped & kept)
        _name(notes, "dropped", {row: why for row, why in zip(ref.rows, whys, strict=True) if why})
        mended = rows[kept & self.outlier[rows]].tolist()
        _name(
            notes, "interpolated", {row: f"{self._outlier(row)}; interpolated between its neighbours" for row in mended}
        )
        _show(notes, image, cuts)
        return cuts

    # --- boxes -------------------------------------------------------------------------------------------------------

    def _whys(self, rows: NDArray[np.int64], found: Places, image: Pixels) -> list[str]:
        """[n] why each box is dropped; empty where it is not."""
        height, width = image.shape[:2]
        whys = []
        for row, inside in zip(rows.tolist(), found.inside.tolist(), strict=True):
            w, h = self.boxes[row, 2:]
            if self.dropped[row]:
                whys.append(self._outlier(row))
            elif w <= 0 or h <= 0:
                whys.append(f"no area: the box is {w:g} px wide and {h:g} px high")
            else:
                whys.append("" if inside else f"outside the frame, which has {width}x{height} pixels")
        return whys

    def _outlier(self, row: int) -> str:
        return f"outlier: its area is {self.ratio[row]:.3g} times the median of its track"

    def _negatives(self, rows: NDArray[np.int64], kept: Flags, image: Pixels, key: str, notes: Notes) -> list[Cut]:
        """Drawn by the frame's key, as `lightmill negatives` draws them for the whole table.

        Outliers are no players, but somebody is there: background keeps away from them, as the table has them, too.
        """
        rule, size_hw = self.negatives, image.shape[:2]
        drawn: list[tuple[Kind, Negatives]] = []
        where, players = _inside(self.boxes[rows], size_hw)
        if rule.background:
            mended = self.outlier[rows] & ~self.dropped[rows]
            _, old = _inside(self.given[rows[mended]], size_hw)
            everybody = np.concatenate([players, old])
            like = np.concatenate([kept[where], np.zeros(len(old), np.bool_)])
            found = draw_background(
                [size_hw], everybody, np.zeros(len(everybody), np.int64), keys=[key], per_frame=rule.background,
                seed=rule.seed, expand=self.expand, like=like,
            )  # fmt: skip
            drawn.append(("background", found))
        if rule.partial:
            found = draw_partial(
                players, np.zeros(len(players), np.int64), keys=[key], per_box=rule.partial, share=rule.share,
                seed=rule.seed, of=kept[where],
            )  # fmt: skip
            drawn.append(("partial", found))
        missing = {kind: int(found.missing.sum()) for kind, found in drawn}
        if any(missing.values()):
            notes.meta["no_room"] = {kind: count for kind, count in missing.items() if count}
        return [cut for kind, found in drawn for cut in _negative_cuts(kind, found, rows[where].tolist())]


def _inside(boxes: Floats, size_hw: tuple[int, ...]) -> tuple[NDArray[np.int64], Floats]:
    """(places of the boxes of which a part lies in the frame, that part of each, not rounded)."""
    limit = np.array(size_hw[::-1], np.float64)
    first, last = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, :2] + boxes[:, 2:], limit)
    where = np.flatnonzero((last > first).all(axis=1))
    return where, np.concatenate([first, last - first], axis=1)[where]


def _negative_cuts(kind: Kind, found: Negatives, rows: list[int]) -> Iterator[Cut]:
    """`rows`: of the table, by the places that `found` counts parents by."""
    for box, parent, overlap in zip(found.box.tolist(), found.parent.tolist(), found.overlap.tolist(), strict=True):
        yield Cut(kind, -1, rows[parent] if parent >= 0 else -1, overlap, _four(box), _four(map(int, box)))


def held_bytes(header: Header) -> int:
    """What a frame holds in memory while it is worked on."""
    return header.width * header.height * HELD_PER_PIXEL


def _four(values: object) -> tuple[int, int, int, int]:
    return tuple(values)  # type: ignore[arg-type,return-value]  # of numpy's lists nobody knows the length


# --- pixels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How crops are kept; a stage."""

    store: Literal["jpeg", "raw", "files"]
    quality: int
    size: Size | None  # of raw ones

    def __call__(self, image: Pixels, cuts: list[Cut]) -> list[bytes]:
        """The bytes of each: a JPEG file, or [h, w, 3] levels."""
        return [self._bytes(pixels_of(image, cut)) for cut in cuts]

    def _bytes(self, pixels: Pixels) -> bytes:
        if self.size is None:
            # the frame's colours were halved once: halving them again, out of step, would smear numbers on shirts
            return encode(np.ascontiguousarray(pixels), format=ImageFormat.JPG, quality=self.quality, subsampling="444")
        out = np.empty((self.size.height, self.size.width, 3), np.uint8)
        resize_into(pixels, out)
        return out.tobytes()


def pixels_of(image: Pixels, cut: Cut) -> Pixels:
    """[h, w, 3] a view of the frame."""
    left, top, width, height = cut.place
    return image[top : top + height, left : left + width]


def named_files(cuts: Sequence[Cut], crops: Sequence[bytes]) -> dict[str, bytes]:
    """What each crop's file is called behind its frame's name -> its bytes."""
    names, counts = [], dict[str, int]()
    for cut in cuts:
        stem = f"{cut.row}" if cut.kind == "player" else cut.kind if cut.parent < 0 else f"{cut.kind}{cut.parent}"
        number = counts[stem] = counts.get(stem, -1) + 1
        names.append(stem if cut.kind == "player" else f"{stem}-{number}")
    return dict(zip(names, crops, strict=True))


def note_places(cuts: Sequence[Cut], notes: Notes) -> None:
    """A stage for loose files: what the manifest has to know of each, in their order."""
    notes.meta["cuts"] = [
        {
            "kind": cut.kind,
            "row": cut.row,
            "parent": cut.parent,
            "overlap": round(cut.overlap, 6),
            "box": [*cut.box],
            "place": [*cut.place],
        }
        for cut in cuts
    ]


# --- what is said of a frame -----------------------------------------------------------------------------------------


def _note(notes: Notes, cuts: list[Cut], clamped: Flags) -> None:
    kinds = [cut.kind for cut in cuts]
    notes.meta["crops"] = kinds.count("player")
    counts = {"background": kinds.count("background"), "partial": kinds.count("partial"), "clamped": int(clamped.sum())}
    notes.meta.update({name: count for name, count in counts.items() if count})


def _name(notes: Notes, what: str, rows: dict[int, str]) -> None:
    if rows:
        named: dict[str, Json] = {str(row): why for row, why in rows.items()}
        notes.meta[what] = named


def _show(notes: Notes, image: Pixels, cuts: list[Cut]) -> None:
    """The frame with what is cut of it, and the first crops side by side, for the report."""
    if not notes.sampled:
        return
    height, width = image.shape[:2]
    scale = min(1.0, 2 * _FRAME_PX / width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    for cut in cuts:
        left, top, w, h = (round(number * scale) for number in cut.place)
        cv2.rectangle(small, (left, top), (left + w, top + h), _COLOURS[cut.kind], 2)
    preview(notes, "frame", small, _FRAME_PX)
    most, tall = _STRIP
    crops = [pixels_of(image, cut) for cut in cuts[:most]]
    if crops:
        shown = [cv2.resize(crop, (max(round(tall * crop.shape[1] / crop.shape[0]), 1), tall)) for crop in crops]
        strip = np.asarray(np.hstack(shown), np.uint8)
        preview(notes, "crops", strip, strip.shape[1])
