"""How good an embedder is on held-out crops, where some players are nobody of the gallery; and the thresholds for it.

What is judged is what `identify` does: a gallery of points for every player and view, the nearest of them, and in the
end tracklets, since those are what thresholds are used on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.data.folds import Fold
from lightmill.ops.crop_quality import covered, quality
from lightmill.ops.identities import Items
from lightmill.ops.open_set import auroc, dir_at_fpir, oscr
from lightmill.ops.recognition import NOBODY, Gallery, tracklet_embeddings
from lightmill.ops.retrieval import retrieval
from lightmill.ops.similarity import Cosine
from lightmill.ops.thresholds import Chosen, Fpir, Target, choose_by_view
from lightmill.ops.tracking import Tracking, tracklets

if TYPE_CHECKING:
    import polars as pl

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Texts: TypeAlias = NDArray[np.str_]

GALLERY_MOST = 30  # crops of each player and view that a gallery is made of
QUICK_GALLERY, QUICK_HELD = 10, 1500  # likewise after each epoch, and how many held-out crops are looked at then
_FPIR = 0.01  # where the target names no rate


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Of n crops or tracklets: who is nearest, how near, and who it is."""

    scores: Floats  # [n] cosine to the nearest point
    nearest: Texts  # [n] label
    truth: Texts  # [n] label; empty: nobody of the gallery
    views: Texts  # [n]

    @property
    def known(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.truth != NOBODY
        return found

    def figures(self, *, fpir: float = _FPIR) -> dict[str, float]:
        """rank_1 of the known; and where there are unknown ones, auroc, oscr and dir (at `fpir`)."""
        known = self.known
        told = {"rank_1": float((self.nearest == self.truth)[known].mean()) if known.any() else float("nan")}
        if known.any() and not known.all():
            told["auroc"] = auroc(self.scores[known], self.scores[~known])
            told["oscr"] = oscr(self.scores, predicted=self.nearest, truth=self.truth)
            told["dir"] = dir_at_fpir(self.scores, predicted=self.nearest, truth=self.truth, fpir=fpir).dir
        return told


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """M crops by columns: those of the gallery first, then those of held-out groups."""

    rows: Indices  # [M] of the pack
    gallery: int  # how many are of the gallery
    labels: Texts  # [M]; empty: nobody of the gallery
    people: Texts  # [M] who it is, unknown players included
    views: Texts
    sequences: Texts  # group and view
    frames: Texts
    times: Floats
    boxes: Floats  # [M, 4]
    worth: Floats  # [M] how far a crop can be relied on

    @classmethod
    def of(cls, table: "pl.DataFrame", fold: Fold, *, most: int = GALLERY_MOST, held: int | None = None) -> "Judge":
        """Of a pack's table. The gallery has up to `most` crops of every player and view, evenly spread.

        held: about so many held-out crops are looked at, the same share of known and unknown ones (None: all).
        """
        people = _texts(table, "label")
        views = _texts(table, "view")
        kept = spread_rows(fold.gallery, people=people, views=views, most=most)
        share = 1.0 if held is None else min(1.0, held / max(len(fold.val_known) + len(fold.val_unknown), 1))
        rows = np.concatenate([kept, *(_spread(one, share) for one in (fold.val_known, fold.val_unknown))])
        boxes = table.select("x", "y", "w", "h").to_numpy().astype(np.float64)
        frames, players = _texts(table, "frame"), (table["kind"] == "player").to_numpy()
        hidden = np.zeros(table.height)
        hidden[players] = covered(boxes[players], frames=frames[players])
        groups = _texts(table, "group")
        return cls(
            rows=rows,
            gallery=len(kept),
            labels=np.where(np.isin(people[rows], fold.unknown_labels), NOBODY, people[rows]),
            people=people[rows],
            views=views[rows],
            sequences=np.array([f"{groups[row]}\0{views[row]}" for row in rows.tolist()], np.str_),
            frames=frames[rows],
            times=table["time"].to_numpy().astype(np.float64)[rows],
            boxes=boxes[rows],
            worth=quality(boxes[rows], views=views[rows], hidden=hidden[rows]),
        )

    @property
    def is_open(self) -> bool:
        """Whether some of the held-out players are unknown."""
        return bool((self.labels[self.gallery :] == NOBODY).any())

    def of_crops(self, embeddings: NDArray[np.float32]) -> Answers:
        """Each held-out crop by itself. embeddings: [M, D], of length 1."""
        own = slice(self.gallery, None)
        return self._answers(embeddings[own].astype(np.float64), self._gallery(embeddings), self.labels[own], own)

    def of_tracklets(self, embeddings: NDArray[np.float32]) -> Answers:
        """Tracklets of held-out crops, each the weighted mean of its crops; its truth is what most of them are."""
        own = slice(self.gallery, None)
        held = embeddings[own].astype(np.float64)
        place = tracklets(
            self.boxes[own],
            sequences=self.sequences[own],
            frames=self.frames[own],
            times=self.times[own],
            embeddings=held,
            options=Tracking(),
        )
        truth = np.array([_most(self.labels[own][place == one]) for one in range(int(place.max()) + 1)], np.str_)
        first = np.unique(place, return_index=True)[1]
        means = tracklet_embeddings(held, place, self.worth[own])
        return self._answers(means, self._gallery(embeddings), truth, self.gallery + first)

    def retrieval(self, embeddings: NDArray[np.float32]) -> dict[str, float]:
        """Closed-set figures: each held-out crop of a known player against the crops of the gallery, in all views."""
        held = np.flatnonzero(self.labels != NOBODY)
        held, kept = held[held >= self.gallery], np.arange(self.gallery)
        if not len(held):
            return {}
        found = retrieval(
            Cosine(embeddings[held], embeddings[kept]),
            queries=Items(labels=self.labels[held]),
            gallery=Items(labels=self.labels[kept]),
        )
        ranks = {f"cmc_{rank}": float(found.cmc[min(rank, len(found.cmc)) - 1]) for rank in (1, 5, 10)}
        return {**ranks, "mAP": found.mean_ap, "mINP": found.mean_inp}

    def _gallery(self, embeddings: NDArray[np.float32]) -> Gallery:
        own = slice(None, self.gallery)
        return Gallery.of(
            embeddings[own], labels=self.labels[own].tolist(), views=self.views[own].tolist(), weights=self.worth[own]
        )

    def _answers(self, held: Floats, gallery: Gallery, truth: Texts, which: "slice | Indices") -> Answers:
        views = self.views[which]
        similarity = gallery.similarity(held, views=views.tolist())
        return Answers(
            scores=similarity.max(axis=1),
            nearest=np.array(gallery.labels, np.str_)[similarity.argmax(axis=1)],
            truth=truth,
            views=views,
        )


def choose(answers: Answers, target: Target) -> Mapping[str, Chosen]:
    """Thresholds by view, `""` for all, that meet the target."""
    return choose_by_view(
        answers.scores, predicted=answers.nearest, truth=answers.truth, views=answers.views, target=target
    )


def rate_of(target: Target) -> float:
    """The rate of false positives at which figures are told."""
    return target.rate if isinstance(target, Fpir) else _FPIR


def spread_rows(rows: Indices, *, people: Texts, views: Texts, most: int) -> Indices:
    """Of `rows` up to `most` of every player and view, evenly spread, ascending."""
    found = []
    keys = np.array([f"{people[row]}\0{views[row]}" for row in rows.tolist()], np.str_)
    for key in np.unique(keys):
        own = rows[keys == key]
        found.append(own[np.arange(most) * len(own) // most] if len(own) > most else own)
    return np.sort(np.concatenate(found)).astype(np.int64)


def _spread(rows: Indices, share: float) -> Indices:
    """A share of them, evenly spread."""
    count = math.ceil(len(rows) * share)
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def _most(labels: Sequence[str] | Texts) -> str:
    names, counts = np.unique(labels, return_counts=True)
    return str(names[counts.argmax()])


def _texts(table: "pl.DataFrame", column: str) -> Texts:
    return table[column].fill_null("").to_numpy().astype(np.str_)
