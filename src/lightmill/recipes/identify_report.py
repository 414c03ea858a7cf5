"""What a report shows of identities: people beside the gallery, scores, the table of confusion, the hardest errors.

Everything here is a fragment of HTML; `_text` is the only way for words of a user into it.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.encode import ImageFormat, encode
from lightmill.engine.items import Json
from lightmill.engine.wording import count_of
from lightmill.errors import ItemError
from lightmill.ops.open_set import classified
from lightmill.ops.recognition import NOBODY
from lightmill.ops.threshold_plot import threshold_svg
from lightmill.recipes.identified import Album, Identities
from lightmill.recipes.identifying import Cutter
from lightmill.sources.boxes import BoxTable, FrameRef
from lightmill.sources.files import natural_key

Pixels: TypeAlias = NDArray[np.uint8]
Section: TypeAlias = tuple[str, str]  # title, HTML

_HIGH = 120  # px of a crop in the report
_OF_GALLERY, _OF_LABEL, _OF_NOBODY = 3, 6, 12  # crops that are shown
_ERRORS = 24
_MOST_LABELS = 60  # people that are shown, and columns of the table of confusion
_CROP = f'style="display:inline-block;margin:0 8px 8px 0;vertical-align:top;max-width:{2 * _HIGH}px;font-size:12px"'
_NUMBER = 'style="padding:2px 0 2px 32px;text-align:right"'
_NAME = 'style="padding:2px 0;text-align:left;font-weight:normal"'
_STYLE = f'style="display:block;height:{_HIGH}px;width:auto;border-radius:4px"'


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Where the report's crops come from. A frame is read again for those that are shown, and no other."""

    table: BoxTable
    cutter: Cutter
    album: Album

    def box(self, row: int) -> Pixels | None:
        """The crop of a row; None where its frame cannot be read any more."""
        key = self.table.frames[self.table.frame[row]]
        try:
            frame = decode(FrameRef(self.table.path_of(key), key, (row,)).read(), max_pixels=self.cutter.max_pixels)
        except ItemError:
            return None
        return dict(self.cutter.cut(frame.pixels, [row])).get(row)

    def member(self, crop: int) -> Pixels | None:
        """A crop of the gallery; None where it is damaged."""
        try:
            return self.album.pixels(crop)
        except ItemError:
            return None


def sections(
    identities: Identities, pictures: Pictures, *, truth: NDArray[np.str_] | None, told: Mapping[str, Json]
) -> list[Section]:
    """Titles and HTML. `truth`: [n] of every box that has an embedding, empty where nobody known is seen."""
    found = [("People", _people(identities, pictures)), ("Scores", _scores(identities, truth))]
    if truth is not None:
        truth = np.where(np.isin(truth, identities.labels), truth, NOBODY)
        found.append(("Verdict", _verdict(told) + _confusion(identities.names[identities.place], truth)))
        found.append(("Hardest errors", _errors(identities, pictures, truth)))
    return [section for section in found if section[1]]


# --- people ----------------------------------------------------------------------------------------------------------


def _people(identities: Identities, pictures: Pictures) -> str:
    shown = _shown_row(identities, pictures.table)
    names = identities.names
    present = sorted({label for label in identities.labels if (names == label).any()}, key=natural_key)
    parts = [_person(label, identities, pictures, shown) for label in present[:_MOST_LABELS]]
    absent = [label for label in identities.labels if label not in set(present)]
    if absent:
        parts.append(f'<p class="note">Not seen: {_text(", ".join(absent))}.</p>')
    unknown = _spread(np.flatnonzero(names == NOBODY), identities.found.score, _OF_NOBODY)
    if len(unknown):
        crops = "".join(
            _figure(pictures.box(shown[one]), f"most like {_said(identities, one)}") for one in unknown.tolist()
        )
        parts.append(f"<h3>Unknown: {count_of(int((names == NOBODY).sum()), 'tracklet')}</h3><div>{crops}</div>")
    return "\n".join(parts)


def _person(label: str, identities: Identities, pictures: Pictures, shown: Sequence[int]) -> str:
    own = np.flatnonzero(identities.names == label)
    members = np.flatnonzero(pictures.album.labels == label)
    members = members[np.linspace(0, len(members) - 1, min(_OF_GALLERY, len(members))).astype(int)]
    gallery = "".join(_figure(pictures.member(crop), "gallery") for crop in members.tolist())
    some = _spread(own, identities.found.score, _OF_LABEL).tolist()
    boxes = "".join(_figure(pictures.box(shown[one]), f"{identities.found.score[one]:.2f}") for one in some)
    return f"<h3>{_text(label)}: {count_of(len(own), 'tracklet')}</h3><div>{gallery}{boxes}</div>"


def _shown_row(identities: Identities, table: BoxTable) -> list[int]:
    """Of every tracklet the row of its largest box."""
    area = table.boxes[identities.rows, 2:].prod(axis=1)
    order = np.lexsort((-area, identities.place))
    first = np.unique(identities.place[order], return_index=True)[1]
    found: list[int] = identities.rows[order[first]].tolist()
    return found


def _spread(places: NDArray[np.intp], score: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Some of the places from the highest score to the lowest: the doubtful are shown as well."""
    order = places[np.argsort(-score[places], kind="stable")]
    found: NDArray[np.intp] = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


def _scores(identities: Identities, truth: NDArray[np.str_] | None) -> str:
    """A histogram a view: of known and unknown people where that is known, else of all."""
    score = identities.similarity.max(axis=1)
    known = np.ones(len(score), np.bool_)
    names = ("everybody", "nobody")
    if truth is not None:
        first = np.unique(identities.place, return_index=True)[1]
        known, names = np.isin(truth[first], identities.labels), ("known people", "unknown people")
    charts = []
    for view in np.unique(identities.views).tolist():
        own = identities.views == view
        chart = threshold_svg(
            score[own & known],
            score[own & ~known],
            threshold=float(np.median(identities.thresholds[own])),
            title=f"Tracklets by their best score{f', {view}' if view else ''}",
            names=names,
        )
        charts.append(f"<figure>{chart}</figure>")
    return "\n".join(charts)


# --- where the truth is known ----------------------------------------------------------------------------------------


def _verdict(told: Mapping[str, Json]) -> str:
    worth = told.get("against_truth")
    if not isinstance(worth, dict):
        return ""
    others = told.get("beside")
    columns = {"identify": worth, **(others if isinstance(others, dict) else {})}
    figures = {name: _figures(of) for name, of in columns.items()}
    head = "".join(f'<th scope="col" {_NUMBER}>{_text(name.replace("_", " "))}</th>' for name in columns)
    rows = []
    for name in figures["identify"]:
        cells = "".join(f"<td {_NUMBER}>{_text(of.get(name, '–'))}</td>" for of in figures.values())
        rows.append(f'<tr><th scope="row" {_NAME}>{_text(name.replace("_", " "))}</th>{cells}</tr>')
    return (
        f'<table style="width:auto"><thead><tr><th scope="col"></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _figures(of: Json) -> dict[str, str]:
    """Figure -> as it is written; one that has parts, part by part."""
    found: dict[str, str] = {}
    for name, value in of.items() if isinstance(of, dict) else ():
        if isinstance(value, dict):
            found |= {f"{name}: {part}": written for part, written in _figures(value).items()}
        elif value is not None:
            found[name] = f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else ""
    return found


def _confusion(predicted: NDArray[np.str_], truth: NDArray[np.str_]) -> str:
    """Rows are who it is, columns who it was said to be; shares of the row as shades."""
    table = classified(truth=truth, predicted=predicted)
    if len(table.labels) > _MOST_LABELS:
        return f'<p class="note">{count_of(len(table.labels), "label")}: too many for a table of confusion.</p>'
    order = sorted(range(len(table.labels)), key=lambda place: natural_key(str(table.labels[place])))
    names = [str(table.labels[place]) or "unknown" for place in order]
    head = "".join(f'<th scope="col" style="padding:2px 6px;text-align:right">{_text(name)}</th>' for name in names)
    rows = []
    for name, counts in zip(names, table.confusion[np.ix_(order, order)].tolist(), strict=True):
        total = max(sum(counts), 1)
        cells = "".join(_cell(count, count / total) for count in counts)
        rows.append(f'<tr><th scope="row" style="text-align:right;padding:2px 6px">{_text(name)}</th>{cells}</tr>')
    return (
        "<h3>Confusion, in boxes</h3>"
        f'<div style="overflow-x:auto"><table class="confusion" style="width:auto;font-size:12px;text-align:right">'
        f'<thead><tr><th scope="col">is \\ called</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(count: int, share: float) -> str:
    shade = f"background:color-mix(in srgb,var(--accent) {60 * share:.0f}%,transparent);" if count else ""
    return f'<td style="{shade}padding:2px 6px;min-width:30px">{count or ""}</td>'


def _errors(identities: Identities, pictures: Pictures, truth: NDArray[np.str_]) -> str:
    """Tracklets whose label is not that of most of their boxes; those first that are farthest on the wrong side."""
    names, shown = identities.names, _shown_row(identities, pictures.table)
    true = _most_common(truth, identities.place)
    wrong = np.flatnonzero(names != true)
    by = {label: place for place, label in enumerate(identities.labels)}
    margins = []
    for one in wrong.tolist():
        known, least = identities.similarity[one], identities.thresholds[one]
        reached = identities.found.score[one] if names[one] else least
        wanted = known[by[true[one]]] if true[one] else least
        margins.append(reached - wanted)
    order = wrong[np.argsort(-np.array(margins), kind="stable")][:_ERRORS]
    if not len(order):
        return '<p class="note">None.</p>'
    parts = []
    for one in order.tolist():
        called, is_really = str(names[one]), str(true[one])
        words = f"is {is_really or 'unknown'}, called {called or 'unknown'}; most like {_said(identities, one)}"
        figures = _figure(pictures.box(shown[one]), f"row {shown[one] + 1}")
        for label in filter(None, (is_really, called)):
            member = _member(pictures.album, label, str(identities.views[one]))
            figures += _figure(pictures.member(member), f"{label} of the gallery")
        parts.append(f"<h3>{_text(words)}</h3><div>{figures}</div>")
    more = f'<p class="note">{count_of(len(wrong), "tracklet")} in all.</p>' if len(wrong) > len(order) else ""
    return "\n".join(parts) + more


def _member(album: Album, label: str, view: str) -> int:
    """A crop of somebody in the gallery, of that view where there is one."""
    own = np.flatnonzero(album.labels == label)
    there = own[album.views[own] == view]
    own = there if len(there) else own
    return int(own[len(own) // 2])


def _most_common(values: NDArray[np.str_], place: NDArray[np.int64]) -> NDArray[np.str_]:
    """[T] the value that most of each tracklet's boxes have; of equals the first by name."""
    found, number = np.unique(values, return_inverse=True)
    counts = np.zeros((int(place.max(initial=-1)) + 1, len(found)), np.int64)
    np.add.at(counts, (place, number), 1)
    common: NDArray[np.str_] = found[counts.argmax(axis=1)]
    return common


# --- words and pictures ----------------------------------------------------------------------------------------------


def _said(identities: Identities, one: int) -> str:
    best = int(identities.similarity[one].argmax())
    return f"{identities.labels[best]} ({identities.similarity[one, best]:.2f})"


def _figure(crop: Pixels | None, words: str) -> str:
    if crop is None:
        return ""
    width = max(1, min(round(crop.shape[1] * _HIGH / crop.shape[0]), 2 * _HIGH))
    kernel = cv2.INTER_AREA if crop.shape[0] > _HIGH else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(crop, (width, _HIGH), interpolation=kernel), np.uint8)
    jpeg = b64encode(encode(small, format=ImageFormat.JPG, quality=80)).decode("ascii")
    return (
        f'<figure {_CROP}><img loading="lazy" decoding="async" alt="{_text(words)}" {_STYLE} '
        f'src="data:image/jpeg;base64,{jpeg}"><figcaption>{_text(words)}</figcaption></figure>'
    )


def _text(value: object) -> str:
    return escape(" ".join(str(value).encode("utf-8", "backslashreplace").decode("utf-8").split()))
