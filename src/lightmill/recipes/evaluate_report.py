"""What the report of `evaluate segment` shows: scores, classes, what is taken for what, the worst and best pictures.

Everything here is a fragment of HTML; `text` is the only way for words of a user into it.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lightmill.codecs.decode import decode
from lightmill.data.labels import Labels, read_values
from lightmill.engine.journal import Row
from lightmill.engine.outputs import Outputs
from lightmill.errors import ItemError
from lightmill.recipes.checking import PairRef
from lightmill.recipes.evaluating import IOU, PREDICTION, Totals
from lightmill.recipes.segment_pictures import palette, strip
from lightmill.train.report import table, text

Section: TypeAlias = tuple[str, str]  # title, HTML

_WORST, _BEST = 8, 4
_MOST_CLASSES = 40  # rows and columns of what is taken for what
_WORDS = {
    "mean_iou": "IoU",
    "mean_dice": "Dice",
    "mean_precision": "precision",
    "mean_recall": "recall",
    "mean_boundary_f1": "boundary F1",
    "accuracy": "accuracy of pixels",
}
_CELL = "padding:3px 8px;text-align:right;font-variant-numeric:tabular-nums"
_KINDS = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall", "boundary_f1": "boundary F1"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Where the report's pictures come from: they are read again, and no others."""

    outputs: Outputs
    by_key: Mapping[str, PairRef]
    labels: Labels
    plain: tuple[int, ...]

    def figure(self, row: Row) -> str:
        """The panels of one picture; empty where something of it is gone."""
        ref = self.by_key[row.key]
        try:
            image = decode(ref.read()).pixels
            truth = self.labels.read(ref.row, (image.shape[0], image.shape[1])).map
            predicted = read_values((self.outputs.root / row.paths[PREDICTION]).read_bytes())
        except (ItemError, OSError, KeyError):
            return ""
        data = b64encode(strip(image, truth, predicted, plain=self.plain)).decode("ascii")
        words = f"{row.key}: IoU {_shown(row.meta.get(IOU))}"
        return (
            f'<figure style="margin:0 0 14px"><img loading="lazy" decoding="async" alt="{text(words)}" '
            f'style="display:block;width:100%;max-width:1000px;height:auto;border-radius:4px" '
            f'src="data:image/jpeg;base64,{data}">'
            f'<figcaption style="font-size:12px">{text(words)}</figcaption></figure>'
        )


def sections(
    totals: Totals, rows: Sequence[Row], shown: Shown, *, logged: Mapping[str, float | None], sample: str
) -> list[Section]:
    """Titles and HTML. `logged`: the checkpoint's own scores; `sample`: the training's size, in words."""
    found = [
        ("Scores", _scores(totals, logged, sample)),
        ("Classes", _classes(totals)),
        ("What is taken for what", _confusion(totals)),
        *_pictures(rows, shown),
    ]
    return [section for section in found if section[1]]


def _scores(totals: Totals, logged: Mapping[str, float | None], sample: str) -> str:
    here, small = totals.figures, totals.figures_in_sample
    head = ["", "of the picture's size"]
    columns: list[Mapping[str, float | None]] = [here]
    if small is not None and any(small[name] != here[name] for name in small):
        head.append(f"at {sample}, as validation counts")
        columns.append(small)
    if logged:
        head.append("logged by the training")
        columns.append(logged)
    rows = [[words, *(_shown(column.get(name)) for column in columns)] for name, words in _WORDS.items()]
    note = f"Means {totals.whose}" if not totals.binary else f"All {totals.whose}"
    note += ", from counts of pixels over all pictures. A class that is nowhere has no score."
    return f'{table(rows, head=head)}<p class="note">{text(note)}</p>'


def _classes(totals: Totals) -> str:
    head = "".join(f'<th style="{_CELL}">{words}</th>' for words in _KINDS.values())
    pixels = max(sum(one["pixels"] for one in totals.classes), 1)
    lines = []
    for number, one in enumerate(totals.classes):
        cells = "".join(f'<td style="{_CELL}">{_shown(one[name])}</td>' for name in _KINDS)
        bar = f'<div class="track"><i style="width:{100 * (one["iou"] or 0):.1f}%"></i></div>'
        lines.append(
            f'<tr><th scope="row">{_swatch(number)}{text(one["name"])}</th>'
            f'<td style="{_CELL}">{100 * one["pixels"] / pixels:.3g} %</td>'
            f'<td style="width:26%;padding:9px 16px 0 0">{bar}</td>{cells}</tr>'
        )
    return (
        '<div style="overflow-x:auto"><table><thead><tr><th>class</th>'
        f'<th style="{_CELL}">share of pixels</th><th></th>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _confusion(totals: Totals) -> str:
    """Rows are what it is, columns what it was taken for, in shares of the row."""
    if len(totals.names) > _MOST_CLASSES:
        return f'<p class="note">{len(totals.names)} classes are too many for a table; scores.json has it.</p>'
    head = "".join(f'<th style="{_CELL}">{text(name)}</th>' for name in totals.names)
    lines = []
    for name, counts in zip(totals.names, totals.confused.tolist(), strict=True):
        whole = sum(counts)
        cells = "".join(_share(count / whole) if whole else "<td></td>" for count in counts)
        lines.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        '<div style="overflow-x:auto"><table style="width:auto;font-size:13px"><thead><tr><th>is \\ taken for</th>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _share(share: float) -> str:
    shade = f"background:color-mix(in srgb,var(--accent) {70 * share:.0f}%,transparent);"
    shown = f"{100 * share:.0f}" if share >= 0.005 else ""
    return f'<td style="{shade if shown else ""}{_CELL};min-width:36px">{shown}</td>'


def _pictures(rows: Sequence[Row], shown: Shown) -> list[Section]:
    ranked = sorted((row for row in rows if row.meta.get(IOU) is not None), key=lambda row: (_iou(row), row.key))
    worst = ranked[:_WORST]
    best = ranked[max(len(worst), len(ranked) - _BEST) :][::-1]
    note = '<p class="note">The picture, its mask, what was predicted, and in red where they differ.</p>'
    return [
        (title, note + figures)
        for title, some in (("Worst pictures", worst), ("Best pictures", best))
        if (figures := "".join(map(shown.figure, some)))
    ]


def _iou(row: Row) -> float:
    found: Any = row.meta[IOU]
    return float(found)


def _swatch(number: int) -> str:
    red, green, blue = palette()[number].tolist()
    return (
        f'<i style="display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;'
        f'background:rgb({red},{green},{blue})"></i>'
    )


def _shown(value: Any) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.4f}"
