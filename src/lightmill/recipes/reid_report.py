"""What a training of an embedder shows at its end: curves, held-out figures, thresholds with their plots, the split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.data.folds import Fold
from lightmill.data.pack import CropPack
from lightmill.errors import ItemError
from lightmill.ops.threshold_plot import threshold_svg
from lightmill.ops.thresholds import POOLED, Chosen
from lightmill.recipes.reid_judge import Answers, Judge
from lightmill.train.report import History, Section, curves, note, picture, table, training_page

_ERRORS = 24  # crops that are shown
_MEANING = (
    "Crops by themselves, and tracklets as identify makes them, of groups that were not trained on. rank_1: share of "
    "the known whose nearest player is right. auroc: how well scores tell known from unknown (0.5: not at all). oscr: "
    "both at once. dir: share of the known named rightly where no more unknown ones are taken for somebody than the "
    "target says (1 % where it says no rate). cmc_K, mAP, mINP: known crops against single crops of the gallery."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidReport:
    """All that there is to show of it."""

    fold: Fold
    judge: Judge
    crops: Answers
    tracklets: Answers
    chosen: Mapping[str, Chosen]
    figures: Mapping[str, Mapping[str, float]]

    def plots(self) -> dict[str, str]:
        """File name -> SVG: of each threshold, how known and unknown tracklets score."""
        made = {}
        for view, one in self.chosen.items():
            own = self.tracklets.views == view if view != POOLED else np.ones(len(self.tracklets.views), bool)
            known = self.tracklets.known
            made[f"threshold_{_file_name(view)}.svg"] = threshold_svg(
                self.tracklets.scores[own & known],
                self.tracklets.scores[own & ~known],
                threshold=one.threshold,
                title=f"Tracklets of held-out groups, {f'view {view}' if view else 'all views'}",
            )
        return made

    def html(self, history: History, *, options: Any, pack: CropPack) -> str:
        """report.html."""
        names = [name for row in history for name in row]
        losses = [name for name in dict.fromkeys(names) if not name.startswith("val_") and name not in _NO_CURVE]
        scores = [name for name in dict.fromkeys(names) if name.startswith("val_")]
        sections: list[Section] = [
            ("Losses", curves(history, losses)),
            ("Held-out crops, epoch by epoch", curves(history, scores)),
            ("Held out", self._held_out()),
            ("Thresholds", self._thresholds()),
            ("The hardest errors", self._errors(pack)),
            ("Split", self._split()),
        ]
        return training_page(
            title="Training of an embedder",
            lead=f"{len(history)} epochs on {len(self.fold.train):,} crops of "
            f"{len(set(self.judge.people.tolist()) - set(self.fold.unknown_labels)):,} players",
            sections=sections,
            options=options.model_dump(mode="json"),
        )

    def _held_out(self) -> str:
        names = list(dict.fromkeys(name for of in self.figures.values() for name in of))
        rows: list[Sequence[object]] = [(name, *(of.get(name) for of in self.figures.values())) for name in names]
        return table(rows, head=("", *self.figures)) + note(_MEANING)

    def _thresholds(self) -> str:
        rows = [
            (view or "all", one.threshold, *(float(of[one.at]) for of in _rates(one)), one.known, one.unknown)
            for view, one in self.chosen.items()
        ]
        shown = table(rows, head=("view", "threshold", "FPIR", "DIR", "macro F1", "known", "unknown"))
        return shown + "".join(self.plots().values())

    def _errors(self, pack: CropPack) -> str:
        """Crops that are wrong with the highest scores: taken for another, or known where nobody is."""
        wrong = np.flatnonzero(self.crops.nearest != self.crops.truth)
        wrong = wrong[np.argsort(-self.crops.scores[wrong], kind="stable")][:_ERRORS]
        shown = []
        for one in wrong.tolist():
            place = self.judge.gallery + one
            try:
                pixels = pack.pixels(int(self.judge.rows[place]))
            except ItemError:
                continue
            stranger = "" if self.crops.truth[one] else " (unknown)"
            shown.append(
                picture(
                    encode(pixels, format=ImageFormat.JPG, quality=85),
                    f"{self.judge.people[place]}{stranger}, taken for {self.crops.nearest[one]}: "
                    f"{self.crops.scores[one]:.2f}, {self.crops.views[one]}",
                )
            )
        return "".join(shown)

    def _split(self) -> str:
        fold = self.fold
        parts = {name: len(getattr(fold, name)) for name in ("train", "train_negatives", "val_known", "val_unknown")}
        rows: list[Sequence[object]] = [(name.replace("_", " "), f"{count:,} crops") for name, count in parts.items()]
        rows += [("held-out groups", fold.held_out_groups), ("unknown players", fold.unknown_labels)]
        return table([*rows, *(("remark", remark) for remark in fold.remarks)])


def _rates(chosen: Chosen) -> tuple[Any, ...]:
    return chosen.sweep.fpir, chosen.sweep.dir, chosen.sweep.macro_f1


_NO_CURVE = {"epoch", "step", "seconds", "rate"}


def _file_name(view: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in view) or "all"
