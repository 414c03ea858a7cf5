"""What `evaluate segment` does with a picture and its mask, and how counts of all of them become scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.encode import encode_mask
from lightmill.data.index import Index
from lightmill.data.labels import Labels
from lightmill.data.segment_samples import resized_map
from lightmill.data.split_lists import official
from lightmill.data.splits import split_rows
from lightmill.engine.items import Json, Notes
from lightmill.engine.journal import Row
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.stages import Batch, Each, Save, To
from lightmill.engine.wording import count_of
from lightmill.errors import DamagedImage, UsageError
from lightmill.models.kinds import Image
from lightmill.models.student_segmenter import Predicted, StudentSegmenter
from lightmill.ops.segment_metrics import boundary_counts, boundary_f1, confusion, mean, scores
from lightmill.recipes.checking import Checker, begin, held_bytes
from lightmill.recipes.masking import BATCH, OnDevice
from lightmill.recipes.pictures import PREVIEW_PX, read_picture
from lightmill.recipes.previews import preview
from lightmill.recipes.segment_pictures import painted

ClassMap: TypeAlias = NDArray[np.uint8]
Counts: TypeAlias = NDArray[np.int64]

PREDICTION = "prediction"  # the output, in the manifest

# in an item's meta
CONFUSION, EDGES, SAMPLE = "confusion", "boundary", "in_sample"
IOU, ACCURACY = "mean_iou", "accuracy"


# --- which pictures --------------------------------------------------------------------------------------------------


def rows_of_split(
    index: Index, split: str, *, group: str, val_share: float, seed: int
) -> tuple[list[int], tuple[str, ...]]:
    """The rows of a split, and what there is to say of it; those with problems too, so that they are told.

    `all`: every row. Where DATA does not say what is held out, `val` and `train` are drawn as `train segment` draws
    them. Raises UsageError where there is no such split.
    """
    names = [official(name) or name for name in index.arrow["split"].to_pylist()]
    if split == "all":
        return list(range(len(index))), ()
    wanted = official(split) or split
    if wanted in ("train", "val") and "val" not in names and {*names} & {"", "train"}:
        drawn = split_rows(index, group=group, val_share=val_share, seed=seed)
        remark = (
            f"DATA does not say what is held out, so {wanted} is drawn as `train segment` draws it; --group, "
            "--val-share and --seed have to be those of the training, else it is judged on what it was trained on"
        )
        return (drawn.val if wanted == "val" else drawn.train).tolist(), (remark,)
    rows = [row for row, name in enumerate(names) if name == wanted]
    if not rows:
        met = {name: names.count(name) for name in dict.fromkeys(names) if name}
        there = ", ".join(f"{name} ({count_of(number, 'picture')})" for name, number in met.items()) or "none"
        raise UsageError(f"--split {split}: DATA has no such split; there is {there}; --split all takes every picture")
    return rows, ()


# --- one picture -----------------------------------------------------------------------------------------------------


class ClassesBatch(OnDevice):
    """The class maps of several pictures at once: what `mask` makes its masks of."""

    def __call__(self, image: list[Image]) -> list[Predicted]:
        assert isinstance(self.segmenter, StudentSegmenter)
        return self.segmenter.classes(image)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Its methods are stages."""

    labels: Labels
    binary: bool  # of two classes, the second alone is looked for
    plain: tuple[int, ...]  # classes that are not coloured in pictures
    max_pixels: int

    def pipeline(self, segmenter: StudentSegmenter) -> Pipeline:
        """Decode a picture and its mask; predict; count; save."""
        truth = Checker(labels=self.labels, max_pixels=self.max_pixels).mask
        return Pipeline(
            Each(begin, name="begin"),
            Each(read_picture, makes=("data", "header"), name="read"),
            Each(decode_whole, makes="image", name="picture", weight=held_bytes, max_pixels=self.max_pixels),
            Each(truth, makes="truth", name="mask"),
            Batch(ClassesBatch(segmenter), makes="predicted", name="segment", size=BATCH),
            Each(self.count, name="count"),
            Each(prediction_file, makes="file", name="encode"),
            Save(file=To("predictions/{name}.png", PREDICTION)),
        )

    def count(self, image: Image, truth: ClassMap, predicted: Predicted, notes: Notes) -> None:
        """Write into the item's meta how many pixels of each class were taken for each, and how boundaries agree."""
        classes = len(self.labels.names)
        confused = confusion(truth, predicted.whole, classes=classes)
        notes.meta[CONFUSION] = sparse(confused)
        notes.meta[EDGES] = sparse(boundary_counts(truth, predicted.whole, classes=classes))
        if predicted.sample is not None:
            small = resized_map(truth, predicted.sample.shape)
            notes.meta[SAMPLE] = sparse(confusion(small, predicted.sample, classes=classes))
        found = scores(confused)
        looked_for = mean(found.iou[1:] if self.binary else found.iou)
        notes.meta[IOU], notes.meta[ACCURACY] = rounded(looked_for), rounded(found.accuracy)
        if notes.sampled:
            for label, classes_shown in (("truth", truth), ("predicted", predicted.whole)):
                preview(notes, label, painted(image, classes_shown, plain=self.plain), PREVIEW_PX)


def decode_whole(data: bytes, notes: Notes, max_pixels: int) -> Image:
    """The pixels. Raises DamagedImage for a picture of which only a part can be decoded: it would count as wrong."""
    decoded = decode(data, max_pixels=max_pixels)
    if decoded.recovered:
        raise DamagedImage(f"what is judged has to be whole: {decoded.recovered}")
    notes.meta.update(decoded.meta)
    preview(notes, "input", decoded.pixels, PREVIEW_PX)
    return decoded.pixels


def prediction_file(predicted: Predicted) -> bytes:
    """A grey PNG of class numbers."""
    return encode_mask(predicted.whole)


# --- all of them -----------------------------------------------------------------------------------------------------


def sparse(counts: Counts) -> list[Json]:
    """[row, column, number] of what is not 0."""
    return [[int(row), int(column), int(counts[row, column])] for row, column in np.argwhere(counts)]


@dataclass(frozen=True)
class Totals:
    """Whole numbers, added up over pictures."""

    names: tuple[str, ...]  # of the classes
    confused: Counts  # [C, C] rows: the truth
    edges: Counts  # [C, 4] see `boundary_counts`
    sample: Counts | None  # [C, C] at the size of the training; None where any picture was looked at in tiles
    pictures: int
    binary: bool  # of two classes, the second alone is looked for

    @classmethod
    def of(cls, rows: Sequence[Row], names: tuple[str, ...], *, binary: bool) -> "Totals":
        """Of items that ended well."""
        classes = len(names)
        found = {CONFUSION: (classes, classes), EDGES: (classes, 4), SAMPLE: (classes, classes)}
        totals = {name: np.zeros(shape, np.int64) for name, shape in found.items()}
        for row in rows:
            for name, total in totals.items():
                entries: Any = row.meta.get(name, [])
                for at, column, number in entries:
                    total[at, column] += number
        whole = all(SAMPLE in row.meta for row in rows)
        return cls(names, totals[CONFUSION], totals[EDGES], totals[SAMPLE] if whole else None, len(rows), binary)

    @property
    def figures(self) -> dict[str, float | None]:
        """Means over the classes, of one foreground its own, as training tells them; and the boundary's."""
        found = self._means(self.confused)
        found["mean_boundary_f1"] = rounded(mean(self._looked_for(boundary_f1(self.edges))))
        return found

    @property
    def figures_in_sample(self) -> dict[str, float | None] | None:
        """The same at the size of the training: what its validation counts."""
        return None if self.sample is None else self._means(self.sample)

    @property
    def whose(self) -> str:
        """What the means are of, in words."""
        return f"of {self.names[1]}" if self.binary else f"over {count_of(len(self.names), 'class', 'classes')}"

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Every class, by its number."""
        found = scores(self.confused)
        edges = boundary_f1(self.edges)
        return [
            {
                "name": name,
                "pixels": int(found.pixels[number]),
                "iou": rounded(found.iou[number]),
                "dice": rounded(found.dice[number]),
                "precision": rounded(found.precision[number]),
                "recall": rounded(found.recall[number]),
                "boundary_f1": rounded(edges[number]),
            }
            for number, name in enumerate(self.names)
        ]

    def _means(self, confused: Counts) -> dict[str, float | None]:
        found = scores(confused)
        kinds = {"iou": found.iou, "dice": found.dice, "precision": found.precision, "recall": found.recall}
        told = {f"mean_{kind}": rounded(mean(self._looked_for(values))) for kind, values in kinds.items()}
        return told | {"accuracy": rounded(found.accuracy)}

    def _looked_for(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[1:] if self.binary else values


def rounded(value: float) -> float | None:
    """None for NaN: JSON has none."""
    return None if np.isnan(value) else round(float(value), 6)
