"""A table that says which mask belongs to which picture: image_path, mask_path, and maybe split and group."""

import os
from pathlib import Path

from lightmill.data.listing import ABSENT, GONE, Listing, Stamp, stamp_of
from lightmill.data.problems import Problem, said
from lightmill.data.rows import Rows
from lightmill.data.split_lists import official
from lightmill.errors import InputError
from lightmill.sources import files
from lightmill.sources.table import read_text, refuse_columns

IMAGE, MASK, SPLIT = "image_path", "mask_path", "split"


def read_table(path: Path, listing: Listing, *, group_column: str) -> tuple[Rows, Stamp]:
    """(the rows, the table's own stamp); every file that it names is looked up, and their folders are noted.

    Paths go on from the table's folder. `group_column` may be absent only if it is the default `group`. Values of
    `split` that mean train, val or test become that; others stay as they are. Raises InputError.
    """
    stamp = stamp_of(str(path))
    table = read_text(path, wanted=(IMAGE, MASK))
    refuse_columns(path, table, (IMAGE, MASK))
    if group_column != "group" and group_column not in table.columns:
        raise InputError(
            f"the table {files.shown(path)} has no column {group_column}; it has: {', '.join(table.columns)}"
        )
    empty = [""] * len(table.rows)
    splits, groups = (table.column(name) if name in table.columns else empty for name in (SPLIT, group_column))
    rows = Rows()
    seen: dict[str, int] = {}
    for image, mask, split, group in zip(table.column(IMAGE), table.column(MASK), splits, groups, strict=True):
        image, mask = _relative(listing, image), _relative(listing, mask)
        problem = _looked_up(listing, image, mask)
        if image and seen.setdefault(image, len(rows)) != len(rows):
            problem = problem or said(Problem.DUPLICATE, f"{image} is in row {seen[image] + 1} already")
        rows.add(image, mask, split=official(split) or split.strip(), group=group.strip(), problem=problem)
    return rows, stamp


def _relative(listing: Listing, cell: str) -> str:
    if not cell.strip():
        return ""
    path = os.path.normpath(os.path.join(listing.root, cell.strip()))
    return os.path.relpath(path, listing.root).replace(os.sep, "/")


def _looked_up(listing: Listing, image: str, mask: str) -> str:
    """What is wrong with the two names of a row."""
    if not image or _note(listing, image) == ABSENT:
        return said(Problem.MISSING_PICTURE, f"there is no file {image}" if image else f"{IMAGE} is empty")
    if not mask or _note(listing, mask) == ABSENT:
        return said(Problem.MISSING_MASK, f"there is no file {mask}" if mask else f"{MASK} is empty")
    return ""


def _note(listing: Listing, path: str) -> Stamp:
    found = listing.stamps.get(path)
    if found is None:
        found = listing.stamps[path] = stamp_of(os.path.join(listing.root, path))
        folder = path.rpartition("/")[0]
        if folder not in listing.folders:
            try:
                listing.folders[folder] = os.stat(os.path.join(listing.root, folder)).st_mtime_ns
            except OSError:
                listing.folders[folder] = GONE
    return found
