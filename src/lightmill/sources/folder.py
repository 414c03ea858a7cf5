"""A folder of pictures, or one picture, as a source."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lightmill.engine.items import Item, Settled
from lightmill.errors import InputError
from lightmill.sources import files


class FolderSource:
    """All pictures under a folder, in natural order; the key is the path relative to it, with `/`.

    Listing happens when the source is made and asks the system for types only where the folder does not tell them.
    Hidden files and folders are left out. Linked folders are followed once, after all real ones, unless they were read
    already; broken links with a picture's name are items that fail when they are read.
    Raises InputError: the folder cannot be read, holds no pictures, or is OUT itself.
    """

    streams = False

    def __init__(self, path: Path, *, exclude: Path | None = None) -> None:
        walk = _Walk(os.path.abspath(path), exclude)
        if not walk.found:
            raise InputError(f"no pictures in {files.shown(path)}{_what_else(walk.others)}")
        walk.found.sort(key=files.natural_key)
        self._root = walk.root
        self._names = walk.found
        self._odd = files.odd_keys(walk.found)
        self.warnings = walk.warnings + _left_out(walk.others)
        self.described = f"folder {files.shown(path)}"

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each picture; made one at a time."""
        for name in self._names:
            key = self._odd.get(name, name)
            yield Item(key, files.FileRef(os.path.join(self._root, name), key))

    def estimated_count(self) -> int:
        """How many pictures there are, exactly."""
        return len(self._names)


class PictureSource:
    """One picture file; the key is its name."""

    streams = False

    def __init__(self, path: Path) -> None:
        self._ref = files.FileRef(os.path.abspath(path), files.shown(path.name))
        self.warnings: list[str] = []
        self.described = f"picture {files.shown(path)}"

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """The one item."""
        yield Item(self._ref.key, self._ref)

    def estimated_count(self) -> int:
        """One."""
        return 1


class _Walk:
    """What lies under a folder: relative paths with `/`, in no order yet."""

    def __init__(self, root: str, exclude: Path | None) -> None:
        self.root = root
        self.found: list[str] = []
        self.others: Counter[str] = Counter()  # suffix -> how many files that are no pictures
        self.warnings: list[str] = []
        self._links: list[str] = []  # linked folders
        self._seen: set[tuple[int, int]] = set()
        self._out = os.path.realpath(exclude) if exclude and os.path.exists(exclude) else None
        if self._out:
            self._exclude(self._out)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise files.refused(root, error) from error
        self._read("")
        self._follow_links()

    def _exclude(self, out: str) -> None:
        self._seen.add(_identity(out))
        if _identity(self.root) in self._seen:
            raise InputError(f"INPUT and OUT are the same folder, {files.shown(out)}; give OUT a folder of its own")

    def _read(self, top: str) -> bool:
        """A folder (relative; empty or with `/` at its end) and all real ones below. False: it is known already."""
        waiting, is_new = [top], True
        while waiting:
            folder = waiting.pop()
            path = os.path.join(self.root, folder)
            try:
                identity = _identity(path)
                if identity in self._seen:
                    is_new = is_new and folder != top
                    continue
                self._seen.add(identity)
                with os.scandir(path) as entries:
                    self._sort_in(entries, folder, waiting)
            except OSError as error:
                self.warnings.append(
                    f"the folder {files.shown(folder)} cannot be read and is left out: {files.reason_of(error)}"
                )
        return is_new

    def _sort_in(self, entries: Iterator[os.DirEntry[str]], folder: str, waiting: list[str]) -> None:
        for entry in entries:
            name = entry.name
            if files.is_ignored(name):
                continue
            if entry.is_file(follow_symlinks=False):
                self._add(folder + name, name)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(f"{folder}{name}/")
            elif entry.is_symlink():
                self._add_link(entry.path, folder + name, name)

    def _add(self, relative: str, name: str) -> None:
        suffix = files.suffix_of(name)
        if suffix in files.PICTURE_SUFFIXES:
            self.found.append(relative)
        else:
            self.others[suffix] += 1

    def _add_link(self, path: str, relative: str, name: str) -> None:
        try:
            mode = os.stat(path).st_mode
        except OSError:  # broken, or a loop: if it is called a picture, it fails alone when it is read
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            self._links.append(f"{relative}/")
        elif stat.S_ISREG(mode):
            self._add(relative, name)

    def _follow_links(self) -> None:
        again: list[str] = []
        while self._links:  # linked folders may hold links
            links, self._links = sorted(self._links, key=files.natural_key), []
            for link in links:
                path = os.path.join(self.root, link)
                if self._is_out(path):
                    continue
                if not self._read(link):
                    again.append(files.shown(link.rstrip("/")))
        if again:
            some = ", ".join(again[:5]) + (", …" if len(again) > 5 else "")
            self.warnings.append(f"links to folders that are read already are not followed: {some}")

    def _is_out(self, path: str) -> bool:
        return self._out is not None and os.path.commonpath([self._out, os.path.realpath(path)]) == self._out


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _what_else(others: Counter[str]) -> str:
    """What a folder without pictures holds, and what to do about it."""
    kinds = {
        "video": others.keys() & files.VIDEO_SUFFIXES,
        "ZIP file": others.keys() & {"zip"},
        "table": others.keys() & files.TABLE_SUFFIXES,
    }
    counts = {kind: sum(others[suffix] for suffix in suffixes) for kind, suffixes in kinds.items()}
    held = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    said = [f"it holds {' and '.join(held)}: give one of them as INPUT"] if held else []
    said += _left_out(others)
    said += [f"pictures are {files.picture_suffixes()}"] if others else ["it is empty"]
    return "; " + "; ".join(said)


def _left_out(others: Counter[str]) -> list[str]:
    foreign = {suffix: count for suffix, count in sorted(others.items()) if suffix in files.FOREIGN_SUFFIXES}
    if not foreign:
        return []
    listed = ", ".join(f"{count} .{suffix}" for suffix, count in foreign.items())
    return [f"pictures of kinds that cannot be read are left out: {listed}; convert them to PNG, TIFF or JPEG first"]
