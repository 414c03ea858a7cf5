"""From embeddings to names: tracklets, the gallery, labels for all boxes, and what they are worth where it is known."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.data.pack import CropPack
from lightmill.engine.items import Json
from lightmill.errors import InputError, UsageError
from lightmill.ops.crop_quality import covered, quality
from lightmill.ops.identities import Labels
from lightmill.ops.open_set import auroc, classified, dir_at_fpir
from lightmill.ops.recognition import NOBODY, Gallery, Recognised, mean_thresholds, recognise, tracklet_embeddings
from lightmill.ops.thresholds import F1, POOLED, choose_threshold
from lightmill.ops.tracking import Tracking, tracklets
from lightmill.recipes.identifying import Seen
from lightmill.sources.boxes import BoxTable

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

COLUMNS = ("label", "score", "runner_up", "runner_up_score", "tracklet", "status", "error")
FPIR = 0.01  # at which the rate of identification is told
_DRAWS = 20  # of labels by chance


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How labels are given once there are embeddings."""

    threshold: float | None  # for all views, instead of those of the checkpoints
    crops: bool  # every file is a crop of its own
    track: bool
    max_gap: float
    appearance: float
    points: int  # of a label and view
    nobodies: int  # how many of the nearest crops of nobody are looked at; 0: none


@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """The crops of all packs of a gallery, by columns; C crops."""

    packs: Sequence[CropPack]
    labels: NDArray[np.str_]  # [C]; empty: nobody known
    views: NDArray[np.str_]
    frames: NDArray[np.str_]  # no two packs share one
    boxes: Floats  # [C, 4]
    players: NDArray[np.bool_]  # [C] not background, nor a part of a player

    @classmethod
    def of(cls, packs: Sequence[CropPack], *, unknown: str) -> "Album":
        """Raises InputError where no crop has a label."""
        tables = [pack.table for pack in packs]
        players = np.concatenate([(table["kind"] == "player").to_numpy() for table in tables])
        labels = _texts([table["label"].to_list() for table in tables])
        labels = np.where((labels == unknown) | ~players, NOBODY, labels)
        if not (labels != NOBODY).any():
            raise InputError("no crop of the gallery has a label; cut it with `lightmill crop META.csv OUT --label …`")
        return cls(
            packs=packs,
            labels=labels,
            views=_texts([table["view"].to_list() for table in tables]),
            frames=_texts([[f"{n}/{frame}" for frame in table["frame"].to_list()] for n, table in enumerate(tables)]),
            boxes=np.concatenate([table.select("x", "y", "w", "h").to_numpy() for table in tables]),
            players=players,
        )

    def chosen(self, most: int) -> Indices:
        """[n] up to `most` crops of each label and view, evenly spread, and as many of nobody as of ten such."""
        found = []
        for label in np.unique(self.labels).tolist():
            for view in np.unique(self.views).tolist():
                own = np.flatnonzero((self.labels == label) & (self.views == view))
                limit = most if label != NOBODY else 10 * most
                if len(own) > limit:
                    own = own[np.arange(limit) * len(own) // limit]
                found.append(own)
        return np.sort(np.concatenate(found)).astype(np.int64)

    def pixels(self, crop: int) -> NDArray[np.uint8]:
        """[h, w, 3] a crop by its number through all packs."""
        for pack in self.packs:
            if crop < len(pack):
                return pack.pixels(crop)
            crop -= len(pack)
        raise IndexError(f"there is no crop {crop}")


def _texts(parts: Sequence[Sequence[str]]) -> NDArray[np.str_]:
    return np.array([text for part in parts for text in part], np.str_)


@dataclass(frozen=True, kw_only=True, eq=False)
class Identities:
    """Who is who, of the n boxes of a table that have an embedding; `place` leads from them to T tracklets."""

    rows: Indices  # [n]
    place: Indices  # [n] tracklet
    labels: tuple[str, ...]  # who is known
    views: NDArray[np.str_]  # [T]
    thresholds: Floats  # [T] that were to be reached
    similarity: Floats  # [T, L]
    found: Recognised
    by_view: Mapping[str, float]  # thresholds as they were chosen

    def name(self, label: int) -> str:
        """Of a place in `labels`; -1 is nobody."""
        return self.labels[label] if label >= 0 else NOBODY

    @property
    def names(self) -> NDArray[np.str_]:
        """[T] labels; empty where nobody known is seen."""
        found: NDArray[np.str_] = np.array([*self.labels, NOBODY])[self.found.label]
        return found

    @property
    def nearest(self) -> NDArray[np.str_]:
        """[T] labels that each is most like, however little."""
        found: NDArray[np.str_] = np.array(self.labels)[self.similarity.argmax(axis=1)]
        return found


def thresholds_for(
    views: Iterable[str], of_models: Sequence[Mapping[str, float]], *, said: float | None
) -> dict[str, float]:
    """View -> least similarity, `""` for all others: what was `said`, else the mean of what the models say.

    Raises UsageError where there is none for a view.
    """
    if said is not None:
        return {POOLED: said}
    try:
        found = mean_thresholds(of_models)
    except ValueError as error:
        raise UsageError(f"the checkpoints do not go together: {error}; give --threshold") from None
    if lacking := [view for view in sorted(set(views)) if view not in found and POOLED not in found]:
        raise UsageError(f"the checkpoint has no threshold for the view {lacking[0]!r}; give --threshold")
    return found


def identify(
    table: BoxTable, seen: Seen, album: Album, kept: Seen, *, rules: Rules, thresholds: Sequence[Mapping[str, float]]
) -> Identities:
    """Labels for all boxes that have an embedding.

    seen: of the table; kept: of the album's crops. thresholds: view -> least similarity, of every model. Raises
    UsageError where there is none for a view, InputError for a gallery of which nothing can be read.
    """
    boxes, views = table.boxes[seen.rows], np.array(table.views, np.str_)[seen.rows]
    frames = _moments(table, seen.rows) if rules.crops else table.frame[seen.rows]
    worth = quality(boxes, views=views, hidden=covered(boxes, frames=frames), sharpness=seen.sharpness)
    place = _tracklets(table, seen, boxes, frames, rules) if rules.track else np.arange(len(boxes))
    first = np.unique(place, return_index=True)[1]
    views = views[first]
    galleries = _galleries(album, kept, points=rules.points)
    means = [tracklet_embeddings(one, place, worth) for one in seen.embeddings]
    pairs = list(zip(galleries, means, strict=True))
    similarity = np.mean([gallery.similarity(one, views=views) for gallery, one in pairs], axis=0)
    by_view = thresholds_for(views.tolist(), thresholds, said=rules.threshold)
    least = np.array([by_view.get(view, by_view.get(POOLED)) for view in views.tolist()], np.float64)
    if rules.nobodies:
        nobody = [gallery.likeness_to_nobody(one, nearest=rules.nobodies) for gallery, one in pairs]
        least = np.maximum(least, np.mean(nobody, axis=0))
    return Identities(
        rows=seen.rows,
        place=place,
        labels=galleries[0].labels,
        views=views,
        thresholds=least,
        similarity=similarity,
        found=recognise(similarity, thresholds=least, tracklets=place, frames=frames),
        by_view=by_view,
    )


def _moments(table: BoxTable, rows: Indices) -> Indices:
    """[n] which picture each box is of, told by group, view and time, where every file is a crop of its own.

    Of a box without a time nothing is known: it is alone.
    """
    numbers: dict[tuple[object, ...], int] = {}
    told = [
        numbers.setdefault((row,) if np.isnan(time) else (table.groups[row], table.views[row], time), len(numbers))
        for row, time in zip(rows.tolist(), table.times[rows].tolist(), strict=True)
    ]
    return np.array(told, np.int64)


def _tracklets(table: BoxTable, seen: Seen, boxes: Floats, frames: Indices, rules: Rules) -> Indices:
    looks = np.concatenate(seen.embeddings, axis=1) / np.sqrt(len(seen.embeddings))
    return tracklets(
        boxes,
        sequences=[f"{table.groups[row]}\0{table.views[row]}" for row in seen.rows.tolist()],
        frames=frames,
        times=table.times[seen.rows],
        embeddings=looks,
        options=Tracking(max_steps=rules.max_gap, appearance=rules.appearance),
    )


def _galleries(album: Album, kept: Seen, *, points: int) -> list[Gallery]:
    """For every model. A crop counts by its quality, for which all boxes of its frame are looked at.

    Raises InputError where none with a label could be read.
    """
    every = np.flatnonzero(album.players)
    hidden = np.zeros(len(album.labels))
    hidden[every] = covered(album.boxes[every], frames=album.frames[every])
    rows = kept.rows
    if not (album.labels[rows] != NOBODY).any():
        raise InputError("no crop of the gallery that has a label can be read; cut it again with `lightmill crop`")
    worth = quality(album.boxes[rows], views=album.views[rows], hidden=hidden[rows], sharpness=kept.sharpness)
    return [
        Gallery.of(
            one,
            labels=album.labels[rows],
            views=album.views[rows],
            weights=worth,
            points=points,
        )
        for one in kept.embeddings
    ]


# --- told ------------------------------------------------------------------------------------------------------------


def cells(identities: Identities, *, unknown: str) -> dict[int, tuple[str, ...]]:
    """Row -> label, score, runner_up, runner_up_score, tracklet, as the table has them."""
    found = identities.found
    of_tracklet = []
    for one, name in enumerate(identities.names.tolist()):
        second = identities.name(int(found.runner_up[one]))
        score = "" if second == NOBODY else f"{found.runner_up_score[one]:.4f}"
        of_tracklet.append((name or unknown, f"{found.score[one]:.4f}", second, score, str(one)))
    return {row: of_tracklet[one] for row, one in zip(identities.rows.tolist(), identities.place.tolist(), strict=True)}


def figures(identities: Identities, *, truth: Labels | None) -> dict[str, Json]:
    """What identities.json says; with `truth` ([n], empty for nobody known) also what the labels are worth."""
    names = identities.names
    boxes = names[identities.place]
    counted: dict[str, Json] = {}
    for label in (*identities.labels, NOBODY):
        counted[label] = {"boxes": int((boxes == label).sum()), "tracklets": int((names == label).sum())}
    told: dict[str, Json] = {
        "boxes": len(boxes),
        "tracklets": len(names),
        "unknown_boxes": int((boxes == NOBODY).sum()),
        "thresholds": dict(identities.by_view),
        "labels": counted,
    }
    return told if truth is None else {**told, "against_truth": _worth(identities, np.asarray(truth))}


def _worth(identities: Identities, truth: NDArray[np.str_]) -> dict[str, Json]:
    """Box by box. Labels that the gallery does not have are unknown; `rank_1` and DIR look at the nearest label."""
    place = identities.place
    truth = np.where(np.isin(truth, identities.labels), truth, NOBODY)
    score = identities.similarity.max(axis=1)[place]
    nearest, known = identities.nearest[place], truth != NOBODY
    table = classified(truth=truth, predicted=identities.names[place])
    told: dict[str, Json] = {
        "known_boxes": int(known.sum()),
        "unknown_boxes": int((~known).sum()),
        "rank_1": _rounded(float((nearest == truth)[known].mean())) if known.any() else None,
        "accuracy": _rounded(table.accuracy),
        "macro_f1": _rounded(table.macro_f1),
    }
    if known.any() and not known.all():
        at = dir_at_fpir(score, predicted=nearest, truth=truth, fpir=FPIR)
        told["auroc"] = _rounded(auroc(score[known], score[~known]))
        told["dir_at_fpir"] = {"dir": _rounded(at.dir), "fpir": _rounded(at.fpir), "threshold": _rounded(at.threshold)}
    return told


def beside(
    table: BoxTable, seen: Seen, album: Album, kept: Seen, *, rules: Rules, truth: NDArray[np.str_]
) -> dict[str, Json]:
    """What labels by colour, and labels by chance, are worth; empty where there are no histograms.

    colour_histogram: the same gallery, tracklets and assignment, with histograms for embeddings, and at the threshold
    that is best for them on these very boxes. chance: every label drawn as often as any other, and nobody as often as
    nobody is there.
    """
    if seen.colours is None or kept.colours is None:
        return {}
    by_colour = replace(seen, embeddings=(seen.colours,)), album, replace(kept, embeddings=(kept.colours,))
    every = identify(table, *by_colour, rules=replace(rules, threshold=-1.0, nobodies=0), thresholds=[])
    truth = np.where(np.isin(truth, every.labels), truth, NOBODY)
    best = choose_threshold(
        every.similarity.max(axis=1)[every.place], predicted=every.nearest[every.place], truth=truth, target=F1()
    )
    found = identify(table, *by_colour, rules=replace(rules, threshold=best.threshold, nobodies=0), thresholds=[])
    return {"colour_histogram": _worth(found, truth), "chance": _by_chance(truth, every.labels)}


def _by_chance(truth: NDArray[np.str_], labels: Sequence[str]) -> dict[str, Json]:
    rng = np.random.default_rng(0)
    strange = float((truth == NOBODY).mean())
    told = [
        np.where(rng.random(len(truth)) < strange, NOBODY, np.array(labels)[rng.integers(0, len(labels), len(truth))])
        for _ in range(_DRAWS)
    ]
    means = [classified(truth=truth, predicted=one) for one in told]
    return {
        "rank_1": _rounded(1 / len(labels)),
        "accuracy": _rounded(float(np.mean([one.accuracy for one in means]))),
        "macro_f1": _rounded(float(np.mean([one.macro_f1 for one in means]))),
        "auroc": 0.5,
        "dir_at_fpir": {"dir": _rounded(FPIR / len(labels)), "fpir": FPIR, "threshold": None},
    }


def _rounded(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None


def as_json(told: Mapping[str, Json]) -> bytes:
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
