"""What lies in folders: names, sizes and times, in one pass of the system's own listing, and nothing opened."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lightmill.sources import files


class Stamp(NamedTuple):
    """What a file was like when it was listed: a file with another stamp has other contents, as far as one can tell."""

    size: int  # bytes; NOWHERE where there is no ordinary file
    mtime_ns: int


NOWHERE = -1
ABSENT = Stamp(NOWHERE, 0)
GONE = 0  # the time of a folder that a table names and that is not there


@dataclass(slots=True)
class Listing:
    """What was found below one root; paths are relative to it, with `/`."""

    root: str
    stamps: dict[str, Stamp] = field(default_factory=dict)  # of the files that were asked for; ABSENT: a broken link
    folders: dict[str, int] = field(default_factory=dict)  # every folder that was read -> its mtime_ns before that
    others: Counter[str] = field(default_factory=Counter)  # suffix -> how many files that nobody asked for
    remarks: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)


def list_files(listing: Listing, top: str, *, suffixes: frozenset[str]) -> list[str]:
    """Adds the files below the folder `top` that have one of `suffixes` to `listing`; returns their paths, unsorted.

    Hidden names are left out. Links to folders are followed, after all real folders, unless they were read already.
    A folder that cannot be read is left out with a remark.
    """
    found: list[str] = []
    links: list[str] = []
    waiting = [top]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        path = os.path.join(listing.root, folder)
        try:
            if not _is_new(listing, folder, path):
                continue
            with os.scandir(path) as entries:
                _sort_in(listing, entries, folder, suffixes, (found, waiting, links))
        except OSError as error:
            listing.remarks.append(
                f"the folder {files.shown(folder)} cannot be read and is left out: {files.reason_of(error)}"
            )
        links.sort(key=files.natural_key)
    return found


def note_folder(listing: Listing, folder: str) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what is directly in a folder, in natural order; the folder is noted as read.

    Empty where there is no such folder.
    """
    path = os.path.join(listing.root, folder)
    try:
        listing.folders[folder] = os.stat(path).st_mtime_ns
        with os.scandir(path) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not files.is_ignored(entry.name)]
    except OSError:
        return []
    return sorted(found, key=lambda pair: files.natural_key(pair[0]))


def stamp_of(path: str) -> Stamp:
    """Of one file; ABSENT where there is no ordinary file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: NUL in the path
        return ABSENT
    return Stamp(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else ABSENT


def _is_new(listing: Listing, folder: str, path: str) -> bool:
    """Notes a folder, with its time from before it is read: what comes into it meanwhile is noticed the next time."""
    about = os.stat(path)
    identity = about.st_dev, about.st_ino
    if identity in listing.seen:
        return False
    listing.seen.add(identity)
    listing.folders[folder] = about.st_mtime_ns
    return True


def _sort_in(
    listing: Listing,
    entries: Iterator[os.DirEntry[str]],
    folder: str,
    suffixes: frozenset[str],
    into: tuple[list[str], list[str], list[str]],
) -> None:
    found, waiting, links = into
    prefix = f"{folder}/" if folder else ""
    for entry in entries:
        name = entry.name
        if files.is_ignored(name):
            continue
        if entry.is_dir():
            (links if entry.is_symlink() else waiting).append(prefix + name)
        elif (suffix := files.suffix_of(name)) in suffixes:
            found.append(prefix + name)
            listing.stamps[prefix + name] = _stamp_of_entry(entry)
        else:
            listing.others[suffix] += 1


def _stamp_of_entry(entry: os.DirEntry[str]) -> Stamp:
    try:
        about = entry.stat()
    except OSError:  # a broken link, or gone since
        return ABSENT
    return Stamp(about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else ABSENT
