"""A teacher asked once about every picture: its masks, soft, as class maps and as levels, and its features.

It is a run of the engine, in a folder of its own below the training's OUT: what is done stays, and a run that was
stopped goes on. Pictures of which the teacher cannot be asked are said, and learnt from without it.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill import __version__
from lightmill.codecs.encode import encode_mask
from lightmill.data.index import Index
from lightmill.data.labels import BACKGROUND, IGNORE, read_values
from lightmill.data.segment_samples import Part, part_of, resized_map
from lightmill.data.splits import Splits
from lightmill.engine.items import Item, Json, Notes, Settled
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunOptions, RunResult, run
from lightmill.engine.stages import Batch, Each, Save, To
from lightmill.errors import UsageError
from lightmill.models.kinds import Image, Instances, Segmenter
from lightmill.recipes.masking import BATCH, OnDevice, ready, segment_stage
from lightmill.recipes.pictures import picture_stages
from lightmill.sources import SourceOptions, open_source
from lightmill.sources.files import FileRef
from lightmill.train.segment_options import SegmentOptions

if TYPE_CHECKING:
    from lightmill.train.teacher import Teacher

Levels = NDArray[np.uint8]
Features = NDArray[np.float32]


def one_or_several(value: Any) -> Any:
    """One point alone needs no list around it."""
    is_one = isinstance(value, str) or (
        isinstance(value, list | tuple) and value and all(isinstance(part, int | float) for part in value)
    )
    return (value,) if is_one else value


LabelsFrom: TypeAlias = Literal["masks", "teacher"]

TABLE = "pictures.csv"
MASK, LEVELS, FEATURES = "mask", "levels", "features"  # outputs, in the manifest
_LONGEST = 160  # px of the longer side of levels
_MOST_FEATURES = 32  # places a side: finer maps of a teacher are reduced to that
_MOST_PIXELS = 400_000_000


@runtime_checkable
class Seeing(Protocol):
    """A segmenter that also tells what its encoder saw."""

    def with_features(self, image: Sequence[Image]) -> tuple[list[Instances], list[Features]]:
        """What a call gives, and a map [D, h, w] of the whole of each picture."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """What came out, by the keys of pictures: files."""

    folder: Path
    version: str
    paths: Mapping[str, Path]  # the pictures
    masks: Mapping[str, Path]
    levels: Mapping[str, Path]
    features: Mapping[str, Path]
    remarks: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Of features; 0 where there are none."""
        for path in self.features.values():
            return int(np.load(path, mmap_mode="r").shape[0])
        return 0

    def table(self, outputs: Outputs) -> Path:
        """A data set of the pictures and what the teacher says they show, as `index` reads it."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image_path", "mask_path"])
        rows.writerows((str(self.paths[key].absolute()), str(mask.absolute())) for key, mask in self.masks.items())
        outputs.write(TABLE, text.getvalue().encode())
        return self.folder / TABLE


@dataclass(frozen=True)
class Pictures:
    """Files to be asked about, as a source of the engine."""

    paths: Mapping[str, Path]
    described: str
    streams: ClassVar[bool] = False
    warnings: ClassVar[list[str]] = []

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each."""
        return (Item(key, FileRef(str(path), key)) for key, path in self.paths.items())

    def estimated_count(self) -> int:
        """How many there are."""
        return len(self.paths)


def pictures_of(input: Path, out: Path, *, threads: int) -> Pictures:
    """All pictures of a folder, or that a table names. Raises InputError, UsageError for a ZIP or a video."""
    source = open_source(input, SourceOptions(exclude=out, threads=threads))
    found = {item.key: item.ref for item in source.items()} if not source.streams else {}
    if not all(isinstance(ref, FileRef) for ref in found.values()) or source.streams:
        raise UsageError("--labels teacher takes a folder of pictures, or a table that names them")
    return Pictures({key: Path(ref.path) for key, ref in found.items()}, source.described)


def teach(
    segmenter: Segmenter,
    pictures: Pictures,
    out: Path,
    *,
    names: tuple[str, ...],
    device: str,
    options: RunOptions,
) -> tuple[Taught, RunResult]:
    """Asks about all pictures, or what is left of them. `names`: the classes of the student; one: the foreground.

    Raises what `segmenter.check` and `run` raise, and UsageError where the teacher finds nothing of these classes.
    """
    device = ready(segmenter, device)
    version = f"{segmenter.name} {segmenter.version}"
    config: dict[str, Json] = {"teacher": version, "asked": _asked(segmenter), "names": list(names)}
    job = Job(
        recipe="teach",
        version=__version__,
        config=config,
        command=config,
        source=pictures,
        out=out,
        make_pipeline=partial(_pipeline, segmenter, names),
        device=device,
    )
    result = run(job, options)
    taught = _taught(out, pictures, version, result)
    looked_for = [number for number, name in enumerate(names) if len(names) == 1 or name != BACKGROUND]
    if result.outcome == "finished" and not any(_says(path, looked_for) for path in taught.levels.values()):
        wanted = ", ".join(names[number] for number in looked_for)
        raise UsageError(
            f"the teacher {segmenter.name} finds nothing of {wanted}; see --teacher-prompt, and {result.report}"
        )
    return taught, result


def _asked(segmenter: Segmenter) -> str:
    """What decides its answers, beside its name and version."""
    parts = ("prompts", "points", "boxes", "grid", "score")
    return repr([(name, getattr(segmenter, name)) for name in parts if hasattr(segmenter, name)])


def _says(path: Path, classes: Sequence[int]) -> bool:
    return bool((np.load(path, mmap_mode="r")[classes] >= 128).any())


def _taught(out: Path, pictures: Pictures, version: str, result: RunResult) -> Taught:
    with Journal.open(out) as journal:
        rows = {row.key: row.paths for row in journal.rows() if row.paths}
    done = {key: rows[key] for key in pictures.paths if key in rows}
    lost = len(pictures.paths) - len(done)
    remark = f"of {lost:,} pictures the teacher has said nothing: {result.report}"
    kinds = {kind: {key: out / paths[kind] for key, paths in done.items() if kind in paths} for kind in _KINDS}
    return Taught(
        folder=out,
        version=version,
        paths=pictures.paths,
        masks=kinds[MASK],
        levels=kinds[LEVELS],
        features=kinds[FEATURES],
        remarks=(remark,) if lost else (),
    )


_KINDS = MASK, LEVELS, FEATURES


# --- the work --------------------------------------------------------------------------------------------------------


def _pipeline(segmenter: Segmenter, names: tuple[str, ...]) -> Pipeline:
    """Read and decode; ask; make class maps, levels and features of the answer; save."""
    cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
    saved = {"mask_file": To("masks/{name}.png", MASK), "levels_file": To("levels/{name}.npy", LEVELS)}
    said: list[Each] = [Each(_said, makes=("mask_file", "levels_file"), name="levels", names=names)]
    ask: Each | Batch = segment_stage(segmenter)
    if isinstance(segmenter, Seeing):
        ask = Batch(_SeenBatch(segmenter), makes=("instances", "seen"), name="segment", size=BATCH)
        said.append(Each(_features_file, makes="features_file", name="features"))
        saved["features_file"] = To("features/{name}.npy", FEATURES)
    return Pipeline(*picture_stages(video=False, max_pixels=_MOST_PIXELS), ask, *said, Save(**saved))


class _SeenBatch(OnDevice):
    """Masks and features of several pictures at once."""

    def __call__(self, image: list[Image]) -> tuple[list[Instances], list[Features]]:
        assert isinstance(self.segmenter, Seeing)
        return self.segmenter.with_features(image)


def _said(image: Image, instances: Instances, notes: Notes, names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The class map as a PNG, and levels as .npy."""
    levels = class_levels(instances, names, size_hw=(image.shape[0], image.shape[1]))
    classes = class_map(levels)
    notes.meta["found"] = len(instances.masks)
    return encode_mask(classes), _npy(reduced(levels, _LONGEST))


def _features_file(seen: Features) -> bytes:
    """Every place by itself brought to mean 0 and variance 1 over the channels, in float16."""
    small = reduced_features(seen, _MOST_FEATURES)
    even = (small - small.mean(0)) / np.sqrt(small.var(0) + 1e-6)
    return _npy(even.astype(np.float16))


def class_levels(instances: Instances, names: tuple[str, ...], *, size_hw: tuple[int, int]) -> Levels:
    """[C, H, W] how sure a segmenter is of each class, 255 = certain.

    One name: of all that was found. Several: of instances with that label, in any case; `background` has what no
    other class has. They add up to 255; to 0 where there is no background and nothing was found.
    """
    if len(names) == 1:
        return _union(instances.masks, size_hw)[None]
    folded = [name.casefold() for name in names]
    by_name = [
        _union(
            [m for m, label in zip(instances.masks, instances.labels, strict=True) if label.casefold() == name], size_hw
        )
        for name in folded
    ]
    shares = np.stack(by_name).astype(np.float32)
    if BACKGROUND in folded:
        shares[folded.index(BACKGROUND)] = 255 - shares.max(0)
    whole = shares.sum(0)
    shares *= np.where(whole >= 128, 255 / np.maximum(whole, 1), 0)
    return np.round(shares).astype(np.uint8)


def class_map(levels: Levels) -> NDArray[np.uint8]:
    """[H, W] the class of each pixel; of one, 1 where its level is 128 or more; 255 where nothing is said."""
    if len(levels) == 1:
        return np.asarray(levels[0] >= 128, np.uint8)
    found = np.asarray(levels.argmax(0), np.uint8)
    found[~levels.any(0)] = IGNORE
    return found


def reduced(levels: Levels, longest: int) -> Levels:
    """Levels by mean over areas, with a longer side of at most `longest`."""
    height, width = levels.shape[1:]
    scale = longest / max(height, width)
    if scale >= 1:
        return levels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(level, size, interpolation=cv2.INTER_AREA) for level in levels])


def reduced_features(seen: Features, most: int) -> Features:
    """Features by mean over blocks, with at most `most` places a side."""
    by = max(1, -(-max(seen.shape[1:]) // most))
    high, wide = (side // by * by for side in seen.shape[1:])
    if by == 1 or not high or not wide:
        return seen
    blocks = seen[:, :high, :wide].reshape(len(seen), high // by, by, wide // by, by)
    return np.asarray(blocks.mean((2, 4)), np.float32)


def _union(masks: Sequence[NDArray[np.uint8]], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    whole = np.zeros(size_hw, np.uint8)
    for mask in masks:
        whole = np.maximum(whole, mask)
    return whole


def _npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


# --- what the training takes of it -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """By rows of an index: what is learnt from, and what held-out pictures are compared with."""

    teacher: "Teacher"
    masks: Mapping[int, Path]
    parts: Mapping[int, Part]

    def says(self, row: int) -> NDArray[np.uint8]:
        """The teacher's class map of a picture, as its sample has it; 255 where nothing is said."""
        found = np.full(self.teacher.size_hw, IGNORE, np.uint8)
        if row in self.masks:
            part = self.parts[row]
            rows, columns = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
            found[rows, columns] = resized_map(read_values(self.masks[row].read_bytes()), (part.height, part.width))
        return found


def lesson(taught: Taught, index: Index, splits: Splits, options: SegmentOptions, *, from_it: bool) -> Lesson:
    """What was taught, by the rows of an index. `from_it`: the index is that of `Taught.table`."""
    from lightmill.train.teacher import Teacher

    if from_it:
        by_path = {os.path.abspath(path): key for key, path in taught.paths.items()}
        keys = {row: by_path[os.path.abspath(index.pictures.path(row))] for row in index.usable.tolist()}
    else:
        keys = {row: index.pictures.name(row) for row in np.concatenate([splits.train, splits.val]).tolist()}
    sizes = (index.arrow[name].to_numpy() for name in ("height", "width"))
    native = list(zip(*(side.tolist() for side in sizes), strict=True))
    parts = {row: part_of(native[row], options.size_hw) for row in keys}

    def files(of: Mapping[str, Path]) -> dict[int, Path]:
        return {row: of[key] for row, key in keys.items() if key in of}

    teacher = Teacher(
        levels=files(taught.levels),
        features=files(taught.features),
        parts=parts,
        size_hw=options.size_hw,
        classes=len(options.names),
        channels=taught.channels,
    )
    return Lesson(teacher=teacher, masks=files(taught.masks), parts=parts)
