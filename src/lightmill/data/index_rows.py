"""The columns of an index: rows as a layout pairs them, completed by stamps and, where not known, by headers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from lightmill.data.heads import Head, read_heads
from lightmill.data.layouts import Layout
from lightmill.data.listing import ABSENT, Stamp
from lightmill.data.problems import Problem, kind_of, said, worst
from lightmill.sources import files

if TYPE_CHECKING:
    import pyarrow as pa

_PAIRING = frozenset(
    {Problem.MISSING_PICTURE, Problem.MISSING_MASK, Problem.DUPLICATE, Problem.TWO_SPLITS, Problem.ODD_NAME}
)  # what needs no header, and may be otherwise the next time
_NOTHING = Head()


class Known:
    """What an earlier index knows of rows whose files are the same by size and time."""

    def __init__(self, arrow: "pa.Table | None" = None, *, before_ns: int = 0) -> None:
        """Files written to at `before_ns` or later are not taken as known: they may have changed within a tick."""
        self._heads: dict[tuple[Any, ...], tuple[int, int, str]] = {}
        if arrow is None:
            return
        names = ("image", "size", "mtime_ns", "mask", "mask_size", "mask_mtime_ns", "width", "height", "problem")
        for row in zip(*(arrow[name].to_pylist() for name in names), strict=True):
            *key, width, height, problem = row
            if max(key[2], key[5]) < before_ns and kind_of(problem) not in _PAIRING:
                self._heads[tuple(key)] = (width, height, problem)

    def of(self, image: str, stamp: Stamp, mask: str, mask_stamp: Stamp) -> tuple[int, int, str] | None:
        """(width, height, problem)."""
        return self._heads.get((image, *stamp, mask, *mask_stamp))


@dataclass(slots=True)
class _Columns:
    """What is said of every row besides its names."""

    stamps: list[Stamp] = field(default_factory=list)
    mask_stamps: list[Stamp] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def complete(layout: Layout, known: Known, *, threads: int) -> "dict[str, pa.Array]":
    """The columns of the index, by name and in order."""
    import pyarrow as pa

    rows, columns = layout.rows, _columns(layout, known, threads)
    text, whole, small = pa.large_string(), pa.int64(), pa.int32()
    return {
        "image": pa.array(map(_storable, rows.images), text),
        "mask": pa.array(map(_storable, rows.masks), text),
        "size": pa.array([stamp.size for stamp in columns.stamps], whole),
        "mtime_ns": pa.array([stamp.mtime_ns for stamp in columns.stamps], whole),
        "mask_size": pa.array([stamp.size for stamp in columns.mask_stamps], whole),
        "mask_mtime_ns": pa.array([stamp.mtime_ns for stamp in columns.mask_stamps], whole),
        "width": pa.array([size[0] for size in columns.sizes], small),
        "height": pa.array([size[1] for size in columns.sizes], small),
        "split": pa.array(map(_storable, rows.splits), text),
        "group": pa.array(map(_storable, rows.groups), text),
        "problem": pa.array(map(_storable, columns.problems), text),
    }


def _columns(layout: Layout, known: Known, threads: int) -> _Columns:
    rows, columns = layout.rows, _Columns()
    stamps = {**layout.listing.stamps, **layout.sources}
    columns.stamps = [stamps.get(image, ABSENT) for image in rows.images]
    columns.mask_stamps = [stamps.get(mask, ABSENT) for mask in rows.mask_files()]
    before = [
        known.of(image, stamp, mask, mask_stamp)
        for image, stamp, mask, mask_stamp in zip(
            rows.images, columns.stamps, rows.masks, columns.mask_stamps, strict=True
        )
    ]
    heads = _heads(layout, columns.stamps, before, rows.images, threads)
    masks = rows.masks if layout.kind == "masks" else [""] * len(rows)
    mask_heads = _heads(layout, columns.mask_stamps, before, masks, threads)
    for number, found in enumerate(before):
        head = next(heads) if found is None else None
        mask_head = next(mask_heads) if found is None else None
        if head is None or mask_head is None:
            assert found is not None, "what is not known was read"
            columns.sizes.append(found[:2])
            columns.problems.append(worst([rows.problems[number], found[2]]))
            continue
        columns.sizes.append((head.width, head.height))
        stamp, mask_stamp = columns.stamps[number], columns.mask_stamps[number]
        own = [_of(head, stamp, rows.images[number], "the picture", Problem.MISSING_PICTURE)]
        if layout.kind == "masks" and rows.masks[number]:
            own.append(_of(mask_head, mask_stamp, rows.masks[number], "its mask", Problem.MISSING_MASK))
            own.append(_differing(head, mask_head))
        columns.problems.append(worst([rows.problems[number], *own]))
    return columns


def _heads(
    layout: Layout, stamps: list[Stamp], before: list[tuple[int, int, str] | None], names: list[str], threads: int
) -> Iterator[Head]:
    """The heads of the rows that are not known, in order; nothing is opened that is empty, absent or oddly named."""
    wanted = [known is None for known in before]
    paths = list(compress(names, wanted))
    worth = [
        bool(name) and stamp.size > 0 and _storable(name) == name
        for name, stamp in zip(paths, compress(stamps, wanted), strict=True)
    ]
    found = iter(read_heads([f"{layout.root}/{name}" for name in compress(paths, worth)], threads=threads))
    return (next(found) if asked else _NOTHING for asked in worth)


def _of(head: Head, stamp: Stamp, name: str, who: str, missing: Problem) -> str:
    """What is wrong with one file."""
    if _storable(name) != name:
        return said(Problem.ODD_NAME, f"the name of {who} is not UTF-8; rename it")
    if stamp == ABSENT:
        return said(missing, f"{name} is a broken link, or no ordinary file")
    if stamp.size == 0:
        return said(Problem.EMPTY, f"{who} has 0 bytes")
    kind, _, words = head.problem.partition(": ")
    return f"{kind}: {who} is {words}" if kind == Problem.EXTENSION else f"{kind}: {who}: {words}" if kind else ""


def _differing(head: Head, mask: Head) -> str:
    if not head.width or not mask.width or (head.width, head.height) == (mask.width, mask.height):
        return ""
    words = f"the picture is {head.width}x{head.height} px, its mask {mask.width}x{mask.height}"
    if head.turned and (head.height, head.width) == (mask.width, mask.height):
        words += ", as the picture is stored: its EXIF orientation turns it"
    return said(Problem.SIZES, words)


def _storable(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text if text.isascii() else files.shown(text)
