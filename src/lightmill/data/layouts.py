"""Which files of DATA belong together: pictures, their masks or labels, and the split that each is in.

DATA is one of

    images/ + masks/             same stems, sub-folders kept; or train/images, train/masks, val/images, ...
    a table                      image_path, mask_path, and maybe split and group
    images/ + labels/*.txt       YOLO polygons; splits as above, or images/train, labels/train, ...
    pictures + COCO JSON         beside them, or in annotations/

The mask of `x.jpg` is `x.png`, `x.jpg.png`, `x_mask.png` or `x.mask.png`. Where one cannot be told, the row says so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from lightmill.data.coco_files import coco_jsons, read_coco
from lightmill.data.listing import Listing, Stamp, list_files, note_folder
from lightmill.data.problems import Problem, said
from lightmill.data.rows import Rows
from lightmill.data.split_lists import apply_lists, official
from lightmill.data.table_layout import read_table
from lightmill.engine.wording import count_of
from lightmill.errors import InputError
from lightmill.sources import files

Kind: TypeAlias = Literal["masks", "yolo", "coco"]

_LABELS = frozenset({"txt"})
_NO_LABELS = frozenset({"classes.txt", "labels.txt", "names.txt"})  # of YOLO's labels/: the names of the classes
_SHOWN = 5


@dataclass(slots=True)
class Layout:
    """What was found in DATA; nothing of it was opened but tables, lists and JSON."""

    kind: Kind
    root: str  # the folder that paths are relative to
    rows: Rows
    listing: Listing
    sources: dict[str, Stamp] = field(default_factory=dict)  # files that say what belongs together, by relative path
    remarks: list[str] = field(default_factory=list)


def find_layout(data: Path, *, group_column: str = "group") -> Layout:
    """Raises InputError where DATA is none of the above, or cannot be read."""
    if not data.exists():
        raise InputError(f"there is no {files.shown(data)}")
    if data.is_file():
        return _of_table(data, group_column)
    root = str(data.absolute())
    listing = Listing(root)
    places = _places(listing)
    found = _beside(listing, places, "masks") or _beside(listing, places, "labels") or _coco(listing)
    if found is None:
        raise InputError(f"{files.shown(data)} holds no pictures with masks; {_wanted(data)}")
    if not found.rows.images:
        raise InputError(f"{files.shown(data)}: there are no pictures in it ({files.picture_suffixes()})")
    found.remarks += listing.remarks + _others(listing.others)
    found.remarks += apply_lists(listing, found.rows, found.sources)
    return found


def _wanted(data: Path) -> str:
    also = " (give the folder above it?)" if data.name.lower() in ("images", "masks", "labels") else ""
    return (
        "DATA is a folder with images/ and masks/ (or train/images, train/masks, val/images, ...), with images/ and "
        f"YOLO's labels/, with COCO JSON files, or a table with image_path and mask_path{also}"
    )


def _others(others: Counter[str]) -> list[str]:
    foreign = {suffix: others[suffix] for suffix in sorted(others) if suffix in files.FOREIGN_SUFFIXES | {"npy", "npz"}}
    if not foreign:
        return []
    return [f"left out, of kinds that are not read: {', '.join(f'{n} .{suffix}' for suffix, n in foreign.items())}"]


# --- folders beside each other ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A folder that may hold images/ and something beside them."""

    home: str  # relative; "" or with `/` at its end
    split: str
    folders: Mapping[str, str]  # lower case -> as it is written


def _places(listing: Listing) -> list[_Place]:
    top = _folders(note_folder(listing, ""))
    below = [name for name in top.values() if official(name)]
    return [
        _Place("", "", top),
        *(_Place(f"{name}/", official(name), _folders(note_folder(listing, name))) for name in below),
    ]


def _folders(entries: Iterable[tuple[str, bool]]) -> dict[str, str]:
    return {name.lower(): name for name, is_folder in entries if is_folder}


def _beside(listing: Listing, places: Sequence[_Place], what: Literal["masks", "labels"]) -> Layout | None:
    """images/ with masks/ or labels/ beside them, in any of the places; None where no place has both."""
    if not any({"images", what} <= place.folders.keys() for place in places):
        return None
    kind: Kind = "masks" if what == "masks" else "yolo"
    layout = Layout(kind, listing.root, Rows(), listing)
    spare: list[str] = []
    for place in places:
        if "images" in place.folders:
            spare += _add_place(layout, place, what)
    if spare:
        layout.remarks.append(f"{count_of(len(spare), what[:-1])} without a picture: {shown_few(spare)}")
    return layout


def _add_place(layout: Layout, place: _Place, what: str) -> list[str]:
    """Adds the rows of one place; returns the masks that belong to no picture."""
    home, suffixes = f"{place.home}{place.folders['images']}", files.PICTURE_SUFFIXES
    images = sorted(list_files(layout.listing, home, suffixes=suffixes), key=files.natural_key)
    other, others = "", list[str]()
    if what in place.folders:
        other = f"{place.home}{place.folders[what]}"
        others = list_files(layout.listing, other, suffixes=_LABELS if what == "labels" else suffixes)
    inside = [path[len(home) + 1 :] for path in images]
    pairs = pair_by_stem(inside, [path[len(other) + 1 :] for path in others])
    for path, name, (mask, problem) in zip(images, inside, pairs, strict=True):
        first, slash, _ = name.partition("/")
        split = place.split or (official(first) if slash else "")
        layout.rows.add(path, f"{other}/{mask}" if mask else "", split=split, problem=problem)
    used, stems = {mask for mask, _ in pairs}, {_stem(name) for name in inside}
    names = ((path, path[len(other) + 1 :]) for path in others)
    left = [path for path, name in names if name not in used and _stem(name) not in stems]
    return [path for path in left if not (what == "labels" and path.rpartition("/")[2] in _NO_LABELS)]


def pair_by_stem(images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """(its mask or "", what is wrong) of every picture; names are relative to their folders, with `/`.

    >>> pair_by_stem(["a/1.jpg", "2.jpg", "3.jpg"], ["a/1.png", "2_mask.png"])
    [('a/1.png', ''), ('2_mask.png', ''), ('', 'missing mask: there is none called 3')]
    """
    by_stem: dict[str, list[str]] = {}
    for mask in masks:
        by_stem.setdefault(_stem(mask), []).append(mask)
    twins: dict[str, list[str]] = {}
    for image in images:
        twins.setdefault(_stem(image), []).append(image)
    return [_mask_of(image, by_stem, twins) for image in images]


def _mask_of(image: str, by_stem: Mapping[str, list[str]], twins: Mapping[str, list[str]]) -> tuple[str, str]:
    stem = _stem(image)
    # a name that is the stem of another picture is the name of that picture's mask
    own, *others = (None if name in twins else by_stem.get(name) for name in (image, f"{stem}_mask", f"{stem}.mask"))
    if own is None and len(twins[stem]) > 1:
        return "", said(Problem.DUPLICATE, f"{' and '.join(sorted(twins[stem]))} would share one mask")
    found = own or by_stem.get(stem) or next(filter(None, others), None)
    if not found:
        return "", said(Problem.MISSING_MASK, f"there is none called {stem.rpartition('/')[2]}")
    if len(found) > 1:
        return "", said(Problem.DUPLICATE, f"its mask may be {' or '.join(sorted(found))}")
    return found[0], ""


def _stem(path: str) -> str:
    return path.rpartition(".")[0] if "." in path.rpartition("/")[2] else path


# --- COCO and tables -------------------------------------------------------------------------------------------------


def _coco(listing: Listing) -> Layout | None:
    jsons = coco_jsons(listing)
    if not jsons:
        return None
    images = sorted(list_files(listing, "", suffixes=files.PICTURE_SUFFIXES), key=files.natural_key)
    rows, remarks = read_coco(listing, jsons, images)
    return Layout("coco", listing.root, rows, listing, sources=jsons, remarks=remarks)


def _of_table(path: Path, group_column: str) -> Layout:
    if files.suffix_of(path.name) not in files.TABLE_SUFFIXES:
        raise InputError(f"{files.shown(path)} is neither a folder nor a table; {_wanted(path)}")
    listing = Listing(str(path.parent.absolute()))
    rows, stamp = read_table(path, listing, group_column=group_column)
    return Layout("masks", listing.root, rows, listing, sources={path.name: stamp}, remarks=listing.remarks)


def shown_few(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(files.shown, names[:_SHOWN])) + more
