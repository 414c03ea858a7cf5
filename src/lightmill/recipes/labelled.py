"""What commands share whose INPUT is pictures with masks: how masks are read, the index, and its rows as items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from lightmill.data.index import Index, open_index
from lightmill.data.labels import Labels
from lightmill.data.splits import is_pattern
from lightmill.engine.items import Item, Settled
from lightmill.engine.journal import Journal
from lightmill.engine.lock import RunLock
from lightmill.engine.run import STATE_FOLDER
from lightmill.errors import InputError, UsageError
from lightmill.recipes.base import Options, listed
from lightmill.recipes.checking import LOOKED_AT, PairRef
from lightmill.recipes.training import whole_numbers
from lightmill.sources import files

INDEX = "index.arrow"


class MaskOptions(Options):
    """How the masks of DATA are read."""

    input_name: ClassVar[str] = "data"
    input_help: ClassVar[str] = (
        "A folder with images/ and masks/, or train/images, train/masks, ...; or a table with image_path, mask_path."
    )

    classes: tuple[str, ...] = Field(
        (), description="Names of the classes in the order of their values, with commas: sky,building,road."
    )
    ignore: tuple[int, ...] = Field((), description="Values that stand for nothing, besides 255, with commas.")
    binary: bool = Field(
        False, description="Masks are levels: 128 and more is class 1 (default: where all are 0 and 255)."
    )
    boxes_as_masks: bool = Field(False, description="Take boxes of YOLO and COCO that have no outline as filled ones.")

    _names = listed("classes")
    _values = field_validator("ignore", mode="before")(whole_numbers)


def index_of(input: Path, out: Path, *, group: str, threads: int) -> Index:
    """The index of DATA, kept in OUT. `group`: a table's column, or a rule as of `groups_of`; "" for neither.

    Raises InputError and UsageError before anything is written: where there is no DATA, where it is OUT, and for a
    column of a folder.
    """
    refuse_missing(input)
    if out.exists() and out.resolve() == input.resolve():
        raise InputError(f"DATA and OUT are the same folder, {files.shown(out)}; give OUT a folder of its own")
    column = group if group and not is_pattern(group) else ""
    if column and input.is_dir():
        raise UsageError(
            f"--group {group}: a folder has no columns; write folder, or a pattern with brackets on the path"
        )
    return open_index(input, cache=out / STATE_FOLDER / INDEX, threads=threads or 2, group_column=column or "group")


def renewed_index_of(input: Path, out: Path, *, group: str, threads: int) -> Index:
    """As the disk is now: what is only checked in the background otherwise is checked first."""
    index = index_of(input, out, group=group, threads=threads)
    return index.renewed() if index.origin == "loaded" else index


def refuse_missing(input: Path) -> None:
    """Raises InputError where there is no DATA; to be called before OUT is made."""
    if not input.exists():
        raise InputError(f"there is no {files.shown(input)}")


@dataclass
class PairSource:
    """Rows of an index as items, in their order; the key is the path of the picture."""

    index: Index
    labels: Labels
    rows: Sequence[int]
    remarks: Sequence[str] = ()  # how they were chosen
    streams: ClassVar[bool] = False
    by_key: dict[str, PairRef] = field(init=False)

    def __post_init__(self) -> None:
        taken: set[str] = set()
        root, rules = str(self.index.root), self.labels.rules
        images, masks, problems = (self.index.arrow[name].to_pylist() for name in ("image", "mask", "problem"))
        self.by_key = {}
        for row in self.rows:
            known = (rules, self.labels.key(row), self.index.pictures.stamp(row), problems[row])
            identity = blake2b(repr(known).encode(), digest_size=8).hexdigest()
            key = files.unused(images[row] or f"row {row + 1} (no image_path)", taken)
            self.by_key[key] = PairRef(root, row, images[row], masks[row], problems[row], identity)

    @property
    def described(self) -> str:
        """For people."""
        return f"data set {files.shown(self.index.root)}"

    @property
    def warnings(self) -> list[str]:
        """What the layout left out, and how rows were chosen."""
        return [*self.index.remarks, *self.remarks]

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each row."""
        return (Item(key, ref) for key, ref in self.by_key.items())

    def estimated_count(self) -> int:
        """How many there are."""
        return len(self.rows)

    def reopen_changed(self, out: Path) -> None:
        """Take up again what was looked at as another file, or with another mask; to be called before a run.

        What DATA no longer has, or is no longer asked for, is taken up, too: whatever has not ended and is not there
        any more, a run forgets.
        """
        if not Journal.is_in(out):
            return
        now = {key: ref.identity for key, ref in self.by_key.items()}
        with RunLock(out / STATE_FOLDER), Journal.open(out) as journal:
            changed = [row.key for row in journal.rows() if now.get(row.key) != row.meta.get(LOOKED_AT)]
            if changed:
                journal.reopen(changed)
