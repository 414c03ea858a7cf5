"""From what a run has said of its pictures to `captions.jsonl` and everything that is made of it; hand edits survive.

What the run itself said is kept in `.lightmill/captions/made.jsonl`. Where `captions.jsonl` says something else, or a
text file beside a picture does, somebody has changed it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from lightmill.engine.items import MADE, Json
from lightmill.engine.journal import Journal, Row
from lightmill.engine.naming import printable
from lightmill.engine.outputs import Outputs
from lightmill.engine.wording import count_of
from lightmill.errors import InputError, OutputError
from lightmill.export.aitoolkit import export_aitoolkit
from lightmill.export.captions_file import (
    FILE,
    HISTORY,
    MAIN_ORDER,
    Captioned,
    CaptionsFile,
    Layer,
    caption_lines,
    main_text,
    read_captions,
    write_captions,
)
from lightmill.export.imagefolder import export_imagefolder
from lightmill.export.kohya import export_kohya
from lightmill.export.listing import export_csv, export_jsonl
from lightmill.export.sidecar import Edits, appended, edited_sidecars, export_sidecar
from lightmill.export.webdataset import export_webdataset
from lightmill.export.zipped import export_zip
from lightmill.recipes.captioning import LAYERS
from lightmill.recipes.preparing import IMAGE, size_of

Export: TypeAlias = Literal["sidecar", "kohya", "imagefolder", "jsonl", "csv", "webdataset", "aitoolkit", "zip"]
EXPORTS: tuple[Export, ...] = get_args(Export)
EDITED = "edited"
_MADE = f"{HISTORY}/made.jsonl"


@dataclass(frozen=True, kw_only=True)
class ExportRule:
    """Which exports are made, and how."""

    exports: tuple[Export, ...] = ("sidecar",)
    edits: Edits = Edits.KEEP
    suffix: str = ".txt"
    order: tuple[str, ...] = MAIN_ORDER
    trigger: str = ""
    repeats: int = 1
    concept: str = "pictures"
    by_folder: bool = False
    per_shard: int = 10_000
    bucketed: bool = False  # pictures have the sizes of buckets

    def make(self, outputs: Outputs) -> list[str]:
        """All exports, of `captions.jsonl` as it is. Returns the files and folders, relative to OUT."""
        zips = "zip" in self.exports
        names = [name for name in EXPORTS if name in self.exports and name != "zip"]
        if zips and not names:
            names = ["sidecar"]
        pictures = partial(read_captions, outputs.root / FILE)
        made = [path for name in names for path in self._makers[name](outputs, pictures())]
        return made + [path for name in names if zips for path in export_zip(outputs, export=name)]

    @property
    def _makers(self) -> dict[str, Callable[[Outputs, Iterable[Captioned]], list[str]]]:
        columns: dict[str, Any] = {"order": self.order}
        texts: dict[str, Any] = {"suffix": self.suffix, "edits": self._file_edits, "order": self.order}
        return {
            "sidecar": lambda outputs, pictures: export_sidecar(outputs, pictures, **texts),
            "kohya": lambda outputs, pictures: export_kohya(
                outputs,
                pictures,
                repeats=self.repeats,
                concept=self.concept,
                by_folder=self.by_folder,
                train_resolution=self.bucketed,
                **texts,
            ),
            "imagefolder": lambda outputs, pictures: export_imagefolder(outputs, pictures, **columns),
            "jsonl": lambda outputs, pictures: export_jsonl(outputs, pictures, **columns),
            "csv": lambda outputs, pictures: export_csv(outputs, pictures, **columns),
            "webdataset": lambda outputs, pictures: export_webdataset(
                outputs, pictures, per_shard=self.per_shard, **columns
            ),
            "aitoolkit": lambda outputs, pictures: export_aitoolkit(outputs, pictures, trigger=self.trigger, **texts),
        }

    @property
    def _file_edits(self) -> Edits:
        """Edits are in captions.jsonl by now: files have what is kept, and are given what was added to."""
        return Edits.KEEP if self.edits is Edits.KEEP else Edits.OVERWRITE


def write_all(outputs: Outputs, journal: Journal, rule: ExportRule) -> list[str]:
    """`captions.jsonl` of all that the run made, with what people changed since the last run; and the exports.

    With `Edits.KEEP` what was changed stays, with APPEND it stays and the new caption is added to it, with OVERWRITE
    it goes. Raises InputError where captions.jsonl was changed into something that cannot be read, and what the exports
    raise.
    """
    changed = {} if rule.edits is Edits.OVERWRITE else changed_by_people(outputs)
    pictures = (_merged(picture, changed.get(picture.key), rule) for picture in _said(journal))
    write_captions(outputs, pictures)
    outputs.write_if_changed(_MADE, caption_lines(_said(journal)))
    return [FILE, *rule.make(outputs)]


def changed_by_people(outputs: Outputs) -> dict[str, tuple[Layer, ...]]:
    """Key -> layers of every picture whose captions are not as a run left them, in captions.jsonl or a text file."""
    changed = dict(_changed_lines(outputs.root))
    hand = _hand_edits(outputs)
    if hand:
        for picture in read_captions(outputs.root / FILE):
            if picture.key in hand:
                changed[picture.key] = _by_hand(changed.get(picture.key, picture.layers), hand[picture.key])
    return changed


def edited_lines(out: Path, edits: Edits) -> list[str]:
    """For a dry run: of how many pictures people changed the captions in OUT, and what would become of that.

    Raises InputError and OutputError where the run would stop at them.
    """
    try:
        count = count_of(len(changed_by_people(Outputs(out))), "picture")
    except (InputError, OutputError):
        if edits is not Edits.OVERWRITE:
            raise
        count = "pictures"
    if count == "0 pictures":
        return []
    what = {
        Edits.KEEP: "would stay",
        Edits.OVERWRITE: "would go",
        Edits.APPEND: "would stay, with the new ones added to them",
    }[edits]
    return [f"  captions of {count} were edited in OUT since the last run", f"  --captions {edits}: they {what}"]


def take_over_hand_edits(out: Path) -> int | None:
    """Make text files that were edited by hand an edit of `captions.jsonl`, before others. Returns its number."""
    hand = _hand_edits(Outputs(out))
    if not hand:
        return None
    return CaptionsFile(out).edit(
        lambda picture: _by_hand(picture.layers, hand[picture.key]) if picture.key in hand else picture.layers,
        what="text files edited by hand",
    )


def _hand_edits(outputs: Outputs) -> dict[str, str]:
    """Key -> text of every text file that was edited by hand. Raises OutputError where two say different things."""
    hand: dict[str, str] = {}
    for key, text in edited_sidecars(outputs):
        if hand.setdefault(key, text) != text:
            raise OutputError(
                f"the text files of {printable(key)} were edited by hand in two exports, differently; "
                "make them the same, or give --captions overwrite"
            )
    return hand


def _said(journal: Journal) -> Iterator[Captioned]:
    """What the run said, in the order of the source."""
    for row in journal.rows(*MADE):
        width, height = size_of(row)
        yield Captioned(row.key, row.paths[IMAGE], width, height, layers_of(row))


def layers_of(row: Row) -> tuple[Layer, ...]:
    """The layers in an item's meta."""
    found: Any = row.meta.get(LAYERS, [])
    return tuple(Layer(one["layer"], one["text"], one["origin"]) for one in found)


def _changed_lines(out: Path) -> Iterator[tuple[str, tuple[Layer, ...]]]:
    """What captions.jsonl and the run's own copy of it do not have in common. Both are in one order, but for edits."""
    if not (out / FILE).is_file() or not (out / _MADE).is_file():
        return
    made = read_captions(out / _MADE)
    ahead: dict[str, tuple[Layer, ...]] = {}
    for picture in read_captions(out / FILE):
        while picture.key not in ahead and (other := next(made, None)):
            ahead[other.key] = other.layers
        if ahead.pop(picture.key, None) != picture.layers:
            yield picture.key, picture.layers


def _merged(picture: Captioned, changed: tuple[Layer, ...] | None, rule: ExportRule) -> Captioned:
    if changed is None:
        return picture
    if rule.edits is Edits.KEEP:
        return replace(picture, layers=changed)
    old, new = main_text(replace(picture, layers=changed), rule.order), main_text(picture, rule.order)
    both = old if new in old else appended(old, new)
    return replace(picture, layers=_by_hand(picture.layers, both))


def _by_hand(layers: tuple[Layer, ...], text: str) -> tuple[Layer, ...]:
    origin: dict[str, Json] = {"by": "hand"}
    return (Layer(EDITED, text, origin), *(layer for layer in layers if layer.name != EDITED))
