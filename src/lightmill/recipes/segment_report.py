"""What a training of a student shows at its end: curves, scores by class, and the best and worst pictures."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightmill.data.labels import BACKGROUND
from lightmill.engine.wording import count_of
from lightmill.recipes.segment_pictures import palette, strip
from lightmill.train.report import History, Section, curves, table, text, training_page
from lightmill.train.segment_score import Judged, Shown

_NO_CURVE = {"epoch", "step", "seconds", "rate"}
_SCORES = {
    "mean IoU": "val_mean_iou",
    "mean Dice": "val_mean_dice",
    "mean precision": "val_mean_precision",
    "mean recall": "val_mean_recall",
    "accuracy": "val_accuracy",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentReport:
    """All that there is to show of it."""

    judged: Judged | None
    names: tuple[str, ...]
    history: History
    agreement: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # with a teacher
    remarks: tuple[str, ...] = ()

    def html(self, *, options: Any, pictures: int) -> str:
        """report.html. `pictures`: how many were trained on."""
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        losses = [name for name in columns if not name.startswith("val_") and name not in _NO_CURVE]
        sections: list[Section] = [
            ("Losses", curves(self.history, losses)),
            ("Held-out pictures, epoch by epoch", curves(_renamed(self.history, _SCORES), [*_SCORES])),
            ("Learning rate, thousandths", curves(_renamed(self.history, {"rate": "rate"}, times=1000), ["rate"])),
            ("The teacher", self._agreement()),
            *self._held_out(),
            ("Remarks", table([(number, remark) for number, remark in enumerate(self.remarks, 1)])),
        ]
        return training_page(
            title="Training of a segmenter",
            lead=f"{count_of(len(self.history), 'epoch')} on {count_of(pictures, 'picture')}; {self._classes}",
            sections=sections,
            options=options.model_dump(mode="json"),
        )

    @property
    def _classes(self) -> str:
        if len(self.names) == 1:
            return f"one class, {self.names[0]}"
        return count_of(len(self.names), "class", "classes")

    def _agreement(self) -> str:
        """Student, teacher and masks, each with the others."""
        if not self.agreement:
            return ""
        kinds = {"mean_iou": "IoU", "mean_dice": "Dice", "accuracy": "accuracy of pixels"}
        words = {"agreement_with_teacher": "student and teacher", "teacher_on_masks": "teacher and masks"}
        figures = self.judged.figures if self.judged else {}
        rows = {words[name]: of for name, of in self.agreement.items()}
        if len(rows) > 1:
            rows["student and masks"] = figures
        cells = [(name, *(_score(of.get(kind, math.nan)) for kind in kinds)) for name, of in rows.items()]
        return table(cells, head=("", *kinds.values()))

    def _held_out(self) -> list[Section]:
        judged = self.judged
        if judged is None:
            return []
        plain = [number for number, name in enumerate(judged.classes) if name == BACKGROUND]
        legend = _legend(judged.classes, plain)
        return [
            (f"The best epoch, on {count_of(judged.pictures, 'held-out picture')}", _by_class(judged)),
            ("The worst pictures", legend + "".join(_figure(shown, plain) for shown in judged.worst)),
            ("The best pictures", "".join(_figure(shown, plain) for shown in judged.best)),
        ]


def _renamed(history: History, names: Mapping[str, str], *, times: float = 1.0) -> History:
    """With columns under shorter names."""
    rows = []
    for row in history:
        values = {name: row.get(column) for name, column in names.items()}
        scaled = {name: None if value is None else value * times for name, value in values.items()}
        rows.append({"epoch": row["epoch"], **scaled})
    return rows


def _by_class(judged: Judged) -> str:
    """Scores of each class, and the means of those that are looked for."""
    found, edges = judged.scores, judged.boundary_f1
    total = max(int(found.pixels.sum()), 1)
    columns = (found.iou, found.dice, found.precision, found.recall, edges)
    rows: list[Sequence[object]] = [
        (name, f"{100 * int(found.pixels[number]) / total:.3g} %", *(_score(column[number]) for column in columns))
        for number, name in enumerate(judged.classes)
    ]
    looked_for = slice(1, None) if len(judged.names) == 1 else slice(None)
    means = [column[looked_for][~np.isnan(column[looked_for])] for column in columns]
    rows.append(("mean", "", *(_score(float(each.mean()) if each.size else float("nan")) for each in means)))
    head = ("class", "pixels", "IoU", "Dice", "precision", "recall", "boundary F1")
    return (
        table(rows, head=head) + f"<p>{text(f'{100 * found.accuracy:.1f} % of all pixels are right.')} "
        "A dash: the class is neither in the masks nor in what was predicted.</p>"
    )


def _score(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _figure(shown: Shown, plain: Sequence[int]) -> str:
    """Picture, mask, prediction and errors side by side."""
    data = b64encode(strip(shown.image, shown.truth, shown.predicted, plain=plain)).decode("ascii")
    words = f"mean IoU {shown.score:.3f}: picture, mask, prediction, errors"
    return (
        f'<figure style="margin:0 0 14px"><img alt="{words}" src="data:image/jpeg;base64,{data}" '
        'style="display:block;width:100%;max-width:1000px;height:auto;border-radius:4px">'
        f'<figcaption style="font-size:12px">{words}</figcaption></figure>'
    )


def _legend(classes: tuple[str, ...], plain: Sequence[int]) -> str:
    """The colours of classes, as they are laid over pictures."""
    shown = [_patch(palette()[number], name) for number, name in enumerate(classes) if number not in plain]
    return f"<p>{' '.join(shown)}</p>"


def _patch(colour: NDArray[np.uint8], name: str) -> str:
    red, green, blue = colour.tolist()
    return (
        f'<span style="white-space:nowrap;margin-right:12px"><span style="display:inline-block;width:12px;height:12px;'
        f'border-radius:3px;background:rgb({red},{green},{blue});margin-right:5px"></span>{text(name)}</span>'
    )
