"""What every source knows of files: which are pictures, how names are ordered, how keys are made, how bytes are read.

Order is natural: numbers count by value (`frame2` before `frame10`), case does not count, and what is still equal goes
by the exact name. Paths are compared folder by folder: files and subfolders of one folder stand among each other.
"""

import errno
import os
import posixpath
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lightmill.errors import InputError, SourceError

# fmt: off
PICTURE_SUFFIXES = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "tif", "tiff", "bmp", "dib", "gif", "avif",
    "jp2", "j2k", "jpf", "jpx", "jpc", "j2c", "ppm", "pgm", "pbm", "pnm", "tga",
})
FOREIGN_SUFFIXES = frozenset({  # pictures of kinds that nothing here reads: said aloud, never silently left out
    "heic", "heif", "hif", "jxl", "psd", "exr", "hdr",
    "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "pef", "srw",
})
VIDEO_SUFFIXES = frozenset({
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv",
})
# fmt: on
UNSTITCHED_SUFFIXES = frozenset({"insv", "insp", "360"})  # the single lenses of one camera, to be stitched first
TABLE_SUFFIXES = frozenset({"csv", "tsv", "parquet"})
CAPTION_LISTS = (  # files that say something of several pictures: of image folders, of kohya's tools, of caption apps
    "metadata.jsonl", "captions.jsonl", "meta_clean.json", "meta_lat.json", "meta_cap_dd.json", "meta_cap.json",
    "captions.json", "metadata.json",
)  # fmt: skip
MAX_FILE_BYTES = 4 << 30  # of one picture; TIFF itself ends here

_IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_NUMBER = re.compile(r"[0-9]+")
_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "is a link that leads to itself",
    errno.EISDIR: "is a folder",
    errno.EIO: "the disk reports a read error",
    errno.ENAMETOOLONG: "its name is too long",
}


def suffix_of(name: str) -> str:
    """The suffix in lower case without its dot; empty where there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_ignored(name: str) -> bool:
    """Whether a file or folder name is hidden, or is what operating systems leave behind. `..` is not hidden."""
    if name.startswith("."):
        return name not in (".", "..")
    return name.lower() in _IGNORED


def picture_suffixes() -> str:
    """The suffixes that count as pictures, for messages."""
    return ", ".join(f".{suffix}" for suffix in sorted(PICTURE_SUFFIXES))


def natural_key(path: str) -> str:
    """A text whose plain order is the natural order of a relative posix path.

    Each part of the path becomes `folded NUL exact NUL`; in `folded` a number becomes `0`, a letter for how many digits
    it has, and its digits without leading zeros. NUL is in no file name, so it ends a part before any letter does.

    >>> sorted(["b10.jpg", "B9/x.jpg", "b9.jpg", "a.jpg"], key=natural_key)
    ['a.jpg', 'B9/x.jpg', 'b9.jpg', 'b10.jpg']
    """
    folded = _NUMBER.sub(_by_value, path.casefold())
    if "/" not in path:
        return f"{folded}\0{path}\0"
    return "".join([f"{low}\0{exact}\0" for low, exact in zip(folded.split("/"), path.split("/"), strict=True)])


def _by_value(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"0{chr(len(digits) + 1)}{digits}"


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text that any encoding takes: bytes that are no UTF-8 become `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def odd_keys(names: Iterable[str]) -> dict[str, str]:
    """The keys of those names that are not UTF-8, or whose key another name has already (then `#2`, `#3`, …)."""
    names = list(names)
    odd = [name for name in names if not _is_utf8(name)]
    if not odd:
        return {}
    taken = set(names).difference(odd)
    return {name: unused(shown(name), taken) for name in odd}


def unused(key: str, taken: set[str]) -> str:
    """The key, or the key with the first free `#2`, `#3`, …; it is taken from then on."""
    free, count = key, 1
    while free in taken:
        count += 1
        free = f"{key}#{count}"
    taken.add(free)
    return free


def _is_utf8(name: str) -> bool:
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def reason_of(error: OSError) -> str:
    """Why the system refused, in words for people."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


def refused(path: str | os.PathLike[str], error: OSError) -> InputError:
    """The error for an INPUT that the system does not let us read."""
    return InputError(f"cannot read {shown(path)}: {reason_of(error)}")


@runtime_checkable
class Accompanied(Protocol):
    """A reference to a picture that other files may lie beside: its caption, a list of captions."""

    @property
    def folder(self) -> str:
        """What tells the folder that it lies in from all others."""
        ...

    def companion(self, name: str, *, most: int) -> bytes | None:
        """The bytes of the file `name` in the picture's folder (`../name`: in the one above); None where there is none.

        Raises SourceError where it cannot be read or has more than `most` bytes.
        """
        ...


def refuse_long(name: str, size: int, most: int) -> None:
    """Raises SourceError for a companion that is larger than it may be."""
    if size > most:
        raise SourceError(f"{name} has {size} bytes, more than the {most} that are read of such a file")


@dataclass(frozen=True, slots=True)
class FileRef:
    """A picture's bytes in a file."""

    path: str  # as the system knows it
    key: str  # as people know it
    listed: bool = True  # found in a folder; otherwise somebody only said that it is there

    def read(self) -> bytes:
        """All bytes. Raises SourceError."""
        try:
            found = os.stat(self.path)
            self._refuse_unfit(found)
            with open(self.path, "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise SourceError(f"cannot read {self.key}: {self._why(error)}") from error
        except ValueError as error:  # NUL in the path
            raise SourceError(f"cannot read {self.key!r}: this is no file name") from error

    @property
    def folder(self) -> str:
        """The folder that it lies in."""
        return os.path.dirname(self.path)

    def companion(self, name: str, *, most: int) -> bytes | None:
        """The bytes of a file beside it, as `Accompanied` says; links are followed."""
        path = os.path.normpath(os.path.join(self.folder, name))
        key = posixpath.normpath(posixpath.join(posixpath.dirname(self.key), name))
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                return None
            refuse_long(key, found.st_size, most)
            with open(path, "rb", buffering=0) as file:
                data = file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                return None
            raise SourceError(f"cannot read {key}: {reason_of(error)}") from error
        refuse_long(key, len(data), most)
        return data

    def _refuse_unfit(self, found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            raise SourceError(f"cannot read {self.key}: it is a folder")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise SourceError(f"cannot read {self.key}: it is no ordinary file")
        if found.st_size > MAX_FILE_BYTES:
            size = f"{found.st_size / (1 << 30):.1f} GiB"
            raise SourceError(f"{self.key} has {size}, more than the {MAX_FILE_BYTES >> 30} GiB a picture may have")

    def _why(self, error: OSError) -> str:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return reason_of(error)
        if os.path.islink(self.path):
            return f"it is a broken link, to {shown(os.readlink(self.path))}"
        if self.listed:
            return "it has vanished since it was listed"
        return f"there is no such file{self._hint()}"

    def _hint(self) -> str:
        if re.search(r"https?://", self.path):
            return "; web addresses are not fetched: download the pictures first"
        if "\\" in self.path and os.sep == "/" and os.path.exists(self.path.replace("\\", "/")):
            return "; there is one when \\ is written as /"
        return f": {shown(self.path)}"
