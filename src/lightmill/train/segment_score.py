"""A trained student looked at once more, over the whole validation: scores by class, boundaries, best and worst.

What is judged is the checkpoint, opened as whoever serves it opens it, in float32.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.segment_metrics import (
    IGNORE,
    Scores,
    boundary_counts,
    boundary_f1,
    confusion,
    map_of_logits,
    mean,
    scores,
)

if TYPE_CHECKING:
    from lightmill.data.segment_loader import SegmentBatch

Map = NDArray[np.uint8]
_KEPT = 6  # pictures of the best, and of the worst


@dataclass(frozen=True, eq=False)
class Shown:
    """One picture of the validation."""

    row: int  # of the index
    score: float  # mean IoU of the classes that it shows or was said to show
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    truth: Map  # [H, W]
    predicted: Map

    def copied(self) -> "Shown":
        """The same, without holding a whole batch."""
        return Shown(self.row, self.score, self.image.copy(), self.truth.copy(), self.predicted.copy())


@dataclass(eq=False)
class Judged:
    """What came out. `classes`: of class maps, so a foreground has a background beside it."""

    names: tuple[str, ...]  # as the checkpoint has them
    classes: tuple[str, ...]
    confused: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    taught: NDArray[np.int64] | None = None  # what the teacher says against what was predicted
    teacher: NDArray[np.int64] | None = None  # the masks against what the teacher says
    pictures: int = 0
    best: list[Shown] = field(default_factory=list)  # the best first
    worst: list[Shown] = field(default_factory=list)  # the worst first

    @property
    def scores(self) -> Scores:
        """By class."""
        return scores(self.confused)

    @property
    def boundary_f1(self) -> NDArray[np.float64]:
        """By class."""
        return boundary_f1(self.boundaries)

    @property
    def figures(self) -> dict[str, float]:
        """What epochs are told by, and the mean boundary F1."""
        from lightmill.train.segment_module import figures

        looked_for = slice(1, None) if len(self.names) == 1 else slice(None)
        found = figures(self.confused, self.names)
        edges = mean(self.boundary_f1[looked_for])
        return found if np.isnan(edges) else found | {"mean_boundary_f1": edges}

    @property
    def agreement(self) -> dict[str, dict[str, float]]:
        """With a teacher: of what was predicted, and of the teacher itself with the masks; {} without one."""
        from lightmill.train.segment_module import figures

        found = {"agreement_with_teacher": self.taught, "teacher_on_masks": self.teacher}
        return {name: figures(counts, self.names) for name, counts in found.items() if counts is not None}


def judge(
    folder: Path,
    batches: "Iterable[SegmentBatch]",
    *,
    device: str,
    threads: int,
    teacher: Callable[[int], Map] | None = None,
) -> Judged:
    """A checkpoint on all that the loader gives. `teacher`: row of the index -> what one says, as samples have it.

    Raises ModelError where the checkpoint cannot be opened.
    """
    import torch

    from lightmill.data.segment_augment import SegmentAugment
    from lightmill.models.student import load_student, read_student
    from lightmill.train.segment_module import counted

    config = read_student(folder)
    classes = counted(config.names)
    network = load_student(folder, config).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    plain = SegmentAugment.off(mean=config.mean, std=config.std)
    found = Judged(
        config.names, classes, np.zeros((len(classes),) * 2, np.int64), np.zeros((len(classes), 4), np.int64)
    )
    if teacher is not None:
        found.taught, found.teacher = np.zeros_like(found.confused), np.zeros_like(found.confused)
    ranks = _Ranks()
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        for batch in batches:
            moved = batch.to(device)
            logits = network(plain(moved.images, moved.maps).images)
            predicted = map_of_logits(logits, threshold=config.threshold).cpu().numpy()
            for one in pool.map(lambda each: _looked_at(each, len(classes)), _pictures(batch, predicted)):
                found.confused += one.confused
                if teacher is not None:
                    _compare(found, one.shown, teacher(one.shown.row))
                found.boundaries += one.boundaries
                found.pictures += 1
                ranks.add(one)
    found.best, found.worst = ranks.best, ranks.worst
    return found


@dataclass(frozen=True, eq=False)
class _LookedAt:
    shown: Shown
    confused: NDArray[np.int64]
    boundaries: NDArray[np.int64]


def _compare(found: Judged, shown: Shown, said: Map) -> None:
    """Adds what a teacher says of a picture; the bars around it count for nothing."""
    number = len(found.classes)
    assert found.taught is not None, "set where there is a teacher"
    assert found.teacher is not None, "likewise"
    found.taught += confusion(said, shown.predicted, classes=number)
    known = np.where(said == IGNORE, np.uint8(IGNORE), shown.truth)
    found.teacher += confusion(known, np.where(said == IGNORE, np.uint8(0), said), classes=number)


def _pictures(batch: "SegmentBatch", predicted: Map) -> Iterator[Any]:
    images, maps, rows = batch.images.cpu().numpy(), batch.maps.cpu().numpy(), batch.rows.tolist()
    return zip(rows, images, maps, predicted, strict=True)


def _looked_at(each: "tuple[int, NDArray[np.uint8], Map, Map]", classes: int) -> _LookedAt:
    row, image, truth, predicted = each
    confused = confusion(truth, predicted, classes=classes)
    return _LookedAt(
        Shown(row, mean(scores(confused).iou), image, truth, predicted),
        confused,
        boundary_counts(truth, predicted, classes=classes),
    )


class _Ranks:
    """The best and the worst so far; of equals, the first."""

    def __init__(self) -> None:
        self._best: list[tuple[float, int, Shown]] = []
        self._worst: list[tuple[float, int, Shown]] = []
        self._number = 0

    def add(self, one: _LookedAt) -> None:
        """Pictures of which nothing is known have no score."""
        self._number += 1
        score = one.shown.score
        if np.isnan(score):
            return
        for heap, key in ((self._best, score), (self._worst, -score)):
            entry = (key, -self._number)
            if len(heap) < _KEPT or entry > heap[0][:2]:
                heapq.heappush(heap, (*entry, one.shown.copied()))
                if len(heap) > _KEPT:
                    heapq.heappop(heap)

    @property
    def best(self) -> list[Shown]:
        """The best first."""
        return [shown for *_, shown in sorted(self._best, key=lambda entry: entry[:2], reverse=True)]

    @property
    def worst(self) -> list[Shown]:
        """The worst first."""
        return [shown for *_, shown in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)]
