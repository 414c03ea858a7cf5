"""What outputs are called. Names come from keys, so that the same item has the same name in every run."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from enum import StrEnum
from hashlib import blake2b

from lightmill.errors import NameCollision

MAX_NAME_BYTES = 255  # of one path component, on every file system in use
_PLAIN = re.compile(r"[\w -]+(\.[\w -]+)*")  # nothing to make safe: most file names
_DRIVE = re.compile(r"^([A-Za-z]):")
_TIME = re.compile(r"\d+\.\d+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")


class Naming(StrEnum):
    """Where the names of outputs come from."""

    KEY = "key"  # the key: sub-folders kept, the suffix only where it tells two keys apart
    STEM = "stem"  # the file name of the key, folders dropped
    INDEX = "index"  # the row number, five digits or more


def plan_names(keys: Iterable[str], naming: Naming) -> Callable[[str, int], str]:
    """A function (key, row number) -> output name, without suffix, that gives every key its own.

    Raises NameCollision where two keys would share a name, also after case folding or Unicode normalisation (file
    systems differ in that), naming both.
    """
    if naming is Naming.INDEX:
        return lambda _, number: f"{number:05d}"
    plain = _from_stem if naming is Naming.STEM else _from_key
    if naming is Naming.STEM:
        _refuse_collisions((key, plain(key)) for key in keys)
        return lambda key, _: plain(key)
    keys = list(keys)
    suffixed = _ambiguous(keys)

    def name_of(key: str, _: int) -> str:
        return _safe_path(key) if _comparable(plain(key)) in suffixed and _only_suffix(key, suffixed) else plain(key)

    _refuse_collisions((key, name_of(key, 0)) for key in keys)
    return name_of


def _ambiguous(keys: list[str]) -> dict[str, set[str]]:
    """Names that several keys share, with the exact (not folded) names found for each."""
    exact: dict[str, set[str]] = {}
    seen: dict[str, str] = {}
    doubled: set[str] = set()
    for key in keys:
        name = _from_key(key)
        folded = _comparable(name)
        if folded in seen:
            doubled.add(folded)
        else:
            seen[folded] = name
    for key in keys:
        folded = _comparable(_from_key(key))
        if folded in doubled:
            exact.setdefault(folded, set()).add(_from_key(key))
    return exact


def _only_suffix(key: str, ambiguous: dict[str, set[str]]) -> bool:
    """Whether the keys that share this name are alike but for their suffixes; otherwise no suffix helps."""
    return len(ambiguous[_comparable(_from_key(key))]) == 1


def _refuse_collisions(named: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for key, name in named:
        other = seen.setdefault(_comparable(name), key)
        if other != key:
            raise NameCollision(
                f"{printable(other)} and {printable(key)} would both be written as {printable(name)}; "
                "rename one of them, or use --naming index"
            )


def _from_key(key: str) -> str:
    folder, slash, name = _safe_path(key).rpartition("/")
    return folder + slash + _stem(name)


def _from_stem(key: str) -> str:
    return _stem(_safe_path(key).rpartition("/")[2])


def _stem(name: str) -> str:
    """The file name without its suffix; a frame of a video (`clip.mp4#00012.400`) loses its dots as well.

    Some readers take everything after the first dot for a suffix: all frames of one second would be one to them.
    """
    if "#" in name:
        file, _, tail = name.rpartition("#")
        if file and _TIME.fullmatch(tail):
            return f"{_without_suffix(file)}_{tail.replace('.', '_')}"
        if file and tail.isdigit():  # the second of two members of one name keeps its number
            return f"{_without_suffix(file)}#{tail}"
    return _without_suffix(name)


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem.strip(".") and suffix else name


def _safe_path(key: str) -> str:
    """The key as a path that cannot leave its folder and that file systems take."""
    if _PLAIN.fullmatch(key):
        return key
    parts = (_DRIVE.sub(r"\1_", _UNSAFE.sub("_", part)) for part in key.split("/"))
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def _comparable(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def fitted(path: str) -> str:
    """The path with every component cut to what file systems take; a cut one keeps its end and gets a hash.

    >>> len(fitted("images/" + "x" * 300 + ".jpg").split("/")[1])
    255
    """
    return "/".join(_fitted_part(part) for part in path.split("/"))


def _fitted_part(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return part
    mark = "~" + blake2b(encoded, digest_size=5).hexdigest()
    tail = encoded[-40:].decode(errors="ignore")
    head = encoded[: MAX_NAME_BYTES - len(mark) - len(tail.encode())].decode(errors="ignore")
    return head + mark + tail


def printable(text: str) -> str:
    """One line that any terminal takes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
