"""Embeddings of boxes, and of the crops of packs: made once, kept in OUT, and read back whenever labels are given."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.header import Header
from lightmill.data.pack import CropPack
from lightmill.engine.items import MADE, Item, Json, Notes, Settled
from lightmill.engine.journal import Journal
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.stages import Batch, Each, Save, To
from lightmill.errors import DecodeError, OutputError
from lightmill.models.embedder import CropEmbedder
from lightmill.ops.boxes import areas, places_in
from lightmill.ops.colour_histogram import LENGTH, colour_histogram
from lightmill.ops.quality import sharpness
from lightmill.recipes.pictures import PREVIEW_PX, decode_whole, read_picture
from lightmill.recipes.previews import preview
from lightmill.sources.boxes import FrameRef

Pixels: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.int64]

STORED = ".lightmill/embeddings/{name}.npz"
LABEL = "embeddings"  # of that file, in the manifest
DROPPED = "dropped"  # in an item's meta: number of a row, from 1 -> why it has no embedding
_HELD_PER_PIXEL = 8  # bytes: a decoded frame, and crops of it
COLOURS = "colours"  # in the file of an item
CROPS_TOGETHER = 64  # on a CPU, of one item
_CROPS_A_PART = 64
_FRAMES_A_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """What is to be embedded of an item: some rows, and for each a crop [h, w, 3] of any size."""

    rows: tuple[int, ...]
    pixels: list[Pixels]

    @property
    def nbytes(self) -> int:
        """What it holds, for the queues between stages."""
        return sum(crop.nbytes for crop in self.pixels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutter:
    """Cuts the boxes of a frame out of it, as the crops of the gallery were cut."""

    boxes: NDArray[np.float64]  # [N, 4] of the whole table
    expand: float
    whole: bool  # the files are crops: never cut again
    max_pixels: int

    def __call__(self, data: bytes, ref: FrameRef, notes: Notes) -> Crops:
        """The crops of a frame; what becomes of rows without one is noted in the item's meta. Raises DecodeError."""
        frame = decode_whole(data, notes, self.max_pixels)
        preview(notes, "input", frame, PREVIEW_PX)
        found = dict(self.cut(frame, ref.rows))
        why = "it has no area" if self.whole else "it is outside of its frame, or has no area"
        if dropped := {str(row + 1): f"the box cannot be used: {why}" for row in ref.rows if row not in found}:
            notes.meta[DROPPED] = dict(dropped)
        return Crops(tuple(found), list(found.values()))

    def cut(self, frame: Pixels, rows: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """(row, crop) for every box that can be used."""
        boxes = self.boxes[list(rows)]
        if self.whole:
            yield from ((row, frame) for row, area in zip(rows, areas(boxes), strict=True) if area > 0)
            return
        cuts = places_in(boxes, frame.shape[:2], expand=self.expand)
        for row, inside, (left, top, width, height) in zip(rows, cuts.inside, cuts.places.tolist(), strict=True):
            if inside:
                yield row, np.ascontiguousarray(frame[top : top + height, left : left + width])


def held_bytes(header: Header) -> int:
    """What a frame holds in memory while it is cut."""
    return header.width * header.height * _HELD_PER_PIXEL


class EmbedAll:
    """Several models, each of which embeds every crop.

    On a CPU the crops of an item go through together, and no others with them: what they get hangs on the item alone,
    to the last bit, and not on which items came in one batch. On CUDA all go together.
    """

    def __init__(self, models: Sequence[CropEmbedder]) -> None:
        self._models = models
        self._together = False

    def load(self, device: str) -> None:
        self._together = device.startswith("cuda")
        for model in self._models:
            model.load(device)

    def unload(self) -> None:
        for model in self._models:
            model.unload()

    def __call__(self, crops: Sequence[Crops]) -> list[list[NDArray[np.float32]]]:
        """For every item, [n, D] of each model."""
        if not self._together and len(crops) > 1:
            return [made for one in crops for made in self([one])]
        pixels = [crop for one in crops for crop in one.pixels]
        ends = np.cumsum([len(one.pixels) for one in crops])[:-1]
        by_model = []
        for model in self._models:
            found = model(pixels)
            width = len(found[0]) if found else 0
            by_model.append(np.split(np.array(found, np.float32).reshape(len(found), width), ends))
        return [list(parts) for parts in zip(*by_model, strict=True)]


def stored(crops: Crops, embedded: list[NDArray[np.float32]], colours: bool) -> bytes:  # noqa: FBT001 (bound by name)
    """The file of an item: an npz of `rows`, `sharpness`, `model_0`, `model_1`, …, and `colours` where asked for."""
    file = io.BytesIO()
    sharp = np.array([sharpness(crop) for crop in crops.pixels], np.float32)
    models: Mapping[str, Any] = {f"model_{number}": one for number, one in enumerate(embedded)}
    if colours:
        of = [colour_histogram(crop) for crop in crops.pixels]
        models = {**models, COLOURS: np.array(of, np.float32).reshape(len(of), LENGTH)}
    np.savez(file, rows=np.array(crops.rows, np.int64), sharpness=sharp, **models)
    return file.getvalue()


def embed_stages(models: Sequence[CropEmbedder], *, colours: bool) -> tuple[Batch, Each, Save]:
    """From `crops` to files in OUT. `colours`: with histograms, to be compared with."""
    return (
        Batch(EmbedAll(models), makes="embedded", name="embed", size=_FRAMES_A_BATCH),
        Each(stored, makes="file", name="measure", colours=colours),
        Save(file=To(STORED, label=LABEL)),
    )


def frame_pipeline(models: Sequence[CropEmbedder], cutter: Cutter, *, colours: bool) -> Pipeline:
    """From frames, each of which is decoded once, to embeddings."""
    cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
    return Pipeline(
        Each(read_picture, makes=("data", "header"), name="read"),
        Each(cutter, makes="crops", name="cut", weight=held_bytes),
        *embed_stages(models, colours=colours),
    )


# --- packs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackPart:
    """Some crops of a pack. Its rows are numbered through all packs of a gallery."""

    path: Path
    crops: tuple[int, ...]
    first: int  # the number of the pack's first crop


@dataclass
class PackSource:
    """Chosen crops of packs; its items are parts of 64."""

    packs: Sequence[CropPack]
    chosen: Indices  # numbers of crops, through all packs
    described: str
    streams: bool = field(default=False, init=False)
    warnings: list[str] = field(default_factory=list, init=False)

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each part."""
        first = 0
        for number, pack in enumerate(self.packs, 1):
            own = self.chosen[(self.chosen >= first) & (self.chosen < first + len(pack))] - first
            for start in range(0, len(own), _CROPS_A_PART):
                part = tuple(own[start : start + _CROPS_A_PART].tolist())
                yield Item(f"pack {number}, crop {part[0]}", PackPart(pack.path, part, first))
            first += len(pack)

    def estimated_count(self) -> int:
        """How many items there are, about."""
        return -(-len(self.chosen) // _CROPS_A_PART)


class ReadPack:
    """Reads the crops of a part. A pack is opened once for all parts."""

    def __init__(self) -> None:
        self._packs: dict[Path, CropPack] = {}

    def __call__(self, ref: PackPart, notes: Notes) -> Crops:
        """The crops of a part, as they were cut, but for those that are damaged, which the meta names."""
        pack = self._packs.get(ref.path)
        if pack is None:
            pack = self._packs.setdefault(ref.path, CropPack.open(ref.path))
        found: dict[int, Pixels] = {}
        dropped: dict[str, Json] = {}
        for crop in ref.crops:
            try:
                found[ref.first + crop] = pack.pixels(crop)
            except DecodeError as error:
                dropped[str(crop + 1)] = str(error)
        if dropped:
            notes.meta[DROPPED] = dropped
        notes.pixels = sum(crop.shape[0] * crop.shape[1] for crop in found.values())
        return Crops(tuple(found), list(found.values()))


def pack_pipeline(models: Sequence[CropEmbedder]) -> Pipeline:
    """From crops of packs to embeddings."""
    cv2.setNumThreads(1)
    return Pipeline(Each(ReadPack(), makes="crops", name="read"), *embed_stages(models, colours=True))


# --- read back -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What is known of n rows of a table, or crops of a gallery, ascending."""

    rows: Indices  # [n]
    sharpness: NDArray[np.float32]  # [n]
    embeddings: tuple[NDArray[np.float32], ...]  # of every model, [n, D]
    colours: NDArray[np.float32] | None = None  # [n, D] histograms, where all have one


def read_seen(out: Path, journal: Journal, *, models: int) -> Seen:
    """All that a run has stored in OUT. Raises OutputError for a file that is gone, or not as it was written."""
    rows, sharp = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    embedded: list[list[NDArray[np.float32]]] = [[] for _ in range(models)]
    colours: list[NDArray[np.float32]] = []
    for row in journal.rows(*MADE):
        path = out / row.paths[LABEL]
        try:
            with np.load(path, allow_pickle=False) as file:
                if not len(file["rows"]):
                    continue
                rows.append(file["rows"])
                sharp.append(file["sharpness"])
                for number in range(models):
                    embedded[number].append(file[f"model_{number}"])
                if COLOURS in file:
                    colours.append(file[COLOURS])
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(f"{path} is gone or damaged: remove it, and the same command makes it again") from error
    every = np.concatenate(rows)
    order = np.argsort(every, kind="stable")
    return Seen(
        rows=every[order],
        sharpness=np.concatenate(sharp)[order],
        embeddings=tuple(np.concatenate(one or [np.empty((0, 0), np.float32)])[order] for one in embedded),
        colours=np.concatenate(colours)[order] if sum(map(len, colours)) == len(order) > 0 else None,
    )
