"""The pictures in a ZIP file as a source. Members are read in place; nothing is extracted, and no size is believed.

Layout: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.4.4 (flags), 4.4.5 (methods), 5.8 (LZMA).
"""

import bz2
import errno
import lzma
import os
import posixpath
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from lightmill.engine.items import Item, Settled
from lightmill.errors import InputError, SourceError
from lightmill.sources import files
from lightmill.types import parse_bytes

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # plain, strong, masked headers
_STORED, _DEFLATED, _BZIP2, _LZMA, _AES = 0, 8, 12, 14, 99
_FOREIGN_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_RATIO_FROM = 64 << 20  # a member below this size may be packed as tightly as it likes: black pictures are
_LIMITS: dict[str, Callable[[str], float]] = {"count": int, "size": parse_bytes, "ratio": float}
_TEXTS = frozenset({"txt", "caption", "json", "jsonl"})  # what may say something of a picture
_UNSAFE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")


@dataclass(frozen=True, kw_only=True)
class ZipLimit:
    """What a ZIP file may ask for before it is taken for an attack."""

    count: int = 1_000_000  # members
    size: int = 1 << 30  # bytes of one member, unpacked
    ratio: float = 200.0  # unpacked to packed, of a member above 64 MiB

    def __post_init__(self) -> None:
        if not (self.count >= 1 and self.size >= 1 and self.ratio >= 1):
            raise ValueError(f"a limit for ZIP files is at least 1, got {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Some of `count`, `size` and `ratio`, or a size alone; the others stay as they are by default.

        >>> ZipLimit.parse("4GB").size, ZipLimit.parse("count=2000000,ratio=500").count
        (4000000000, 2000000)
        """
        limits: dict[str, float] = {"count": cls.count, "size": cls.size, "ratio": cls.ratio}
        for part in text.split(","):
            name, found, value = (word.strip() for word in part.rpartition("="))
            name = name if found else "size"
            try:
                limits[name] = _LIMITS[name](value)
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"limits for ZIP files are written as in size=4GB,count=2000000,ratio=500, got {text!r}"
                ) from error
        return cls(count=int(limits["count"]), size=int(limits["size"]), ratio=limits["ratio"])

    def __str__(self) -> str:
        return f"size={self.size},count={self.count},ratio={self.ratio:g}"


class _Decoder(Protocol):
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A picture's bytes in a ZIP file. Sizes, checksum, method and flags are those of the central directory."""

    archive: str  # as the system knows it
    key: str
    limit: ZipLimit
    offset: int  # of the local header
    packed: int  # bytes
    size: int  # bytes, unpacked
    checksum: int
    method: int
    flags: int
    beside: tuple["MemberRef", ...] = ()  # the texts that may belong to it

    @property
    def folder(self) -> str:
        """The ZIP file and the folder in it."""
        return f"{self.archive}\0{posixpath.dirname(self.key)}"

    def companion(self, name: str, *, most: int) -> bytes | None:
        """The bytes of a member beside it, as `files.Accompanied` says."""
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(self.key), name))
        found = next((ref for ref in self.beside if ref.key == wanted), None)
        if found is None:
            return None
        files.refuse_long(found.key, max(found.size, found.packed), most)
        return found.read()

    def read(self) -> bytes:
        """All bytes, unpacked; never more are held than are declared and allowed.

        Raises SourceError: encrypted, packed in an unknown way, above a limit, damaged, or the file has changed.
        """
        self._refuse_unfit()
        self._refuse_large()
        try:
            packed = self._packed()
        except OSError as error:
            raise SourceError(f"cannot read {self.key} from {self._name}: {files.reason_of(error)}") from error
        data = packed if self.method == _STORED else self._unpacked(packed)
        if len(data) != self.size:
            has = "more" if len(data) > self.size else f"only {len(data)}"
            raise SourceError(f"{self.key} is damaged: it declares {self.size} bytes and has {has}")
        if zlib.crc32(data) != self.checksum:
            raise SourceError(f"{self.key} is damaged: its checksum in {self._name} is wrong")
        return data

    @property
    def _name(self) -> str:
        return files.shown(os.path.basename(self.archive))

    def _refuse_unfit(self) -> None:
        if self.flags & _ENCRYPTED or self.method == _AES:
            raise SourceError(f"{self.key} is encrypted; unpack {self._name} with its password first")
        if self.method not in (_STORED, _DEFLATED, _BZIP2, _LZMA):
            method = _FOREIGN_METHODS.get(self.method, f"number {self.method}")
            raise SourceError(f"{self.key} is packed in a way that is not read here ({method}); pack it with Deflate")

    def _refuse_large(self) -> None:
        largest = max(self.size, self.packed)
        if largest > self.limit.size:
            raise SourceError(
                f"{self.key} has {largest} bytes, above the limit of {self.limit.size}; "
                "raise it with --zip-limit size=…"
            )
        if self.size > _RATIO_FROM and self.size > self.limit.ratio * self.packed:
            raise SourceError(
                f"{self.key} unpacks to {self.size} bytes, above the limit of {self.limit.ratio:g} times its packed "
                "size; raise it with --zip-limit ratio=…"
            )

    def _packed(self) -> bytes:
        with open(self.archive, "rb", buffering=0) as file:
            file.seek(self.offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise SourceError(f"{self.key} is damaged: {self._name} has no member where its directory says")
            *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            begins = file.seek(name_length + extra_length, os.SEEK_CUR)
            if begins + self.packed > os.fstat(file.fileno()).st_size:  # asked first: reading makes room for all of it
                raise SourceError(f"{self.key} is damaged: {self._name} ends within it")
            pieces, missing = [], self.packed
            while missing and (piece := file.read(missing)):  # a raw file may give less than it was asked for
                pieces.append(piece)
                missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _unpacked(self, packed: bytes) -> bytes:
        """As many bytes as declared, or one more where there are more."""
        try:
            if self.method == _LZMA:  # without a mark at its end LZMA goes on past the last byte, so none is asked for
                decoder, packed = _lzma_decoder(packed, self.size)
                return decoder.decompress(packed, self.size)
            decoder = zlib.decompressobj(-zlib.MAX_WBITS) if self.method == _DEFLATED else bz2.BZ2Decompressor()
            return decoder.decompress(packed, self.size + 1)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, struct.error) as error:
            raise SourceError(f"{self.key} is damaged: it cannot be unpacked ({error})") from error


def _lzma_decoder(packed: bytes, size: int) -> tuple[_Decoder, bytes]:
    """The decoder that the member's own header asks for, and what follows that header."""
    properties_length, properties, window = struct.unpack_from("<2xHBI", packed)
    positions, literals = divmod(properties, 9)
    settings = {
        "id": lzma.FILTER_LZMA1,
        "lc": literals,
        "lp": positions % 5,
        "pb": positions // 5,
        "dict_size": max(4096, min(window, size)),  # never more than the member can use: 4 GiB may be declared
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[settings]), packed[4 + properties_length :]


class ZipSource:
    """The pictures in a ZIP file, in natural order of their names, as if they lay in a folder.

    The key is the member's name with `/` for `\\`; unflagged names are cp437. Of members with one name all are used,
    the second in the file as `name#2`. Hidden members and folders, `__MACOSX` and non-pictures are left out; links too,
    with a warning. Only the central directory is read here.
    Raises InputError: no ZIP, cut off, more members than allowed, no pictures.
    """

    streams = False

    def __init__(self, path: Path, *, limit: ZipLimit | None = None) -> None:
        self._path = path
        self._limit = limit or ZipLimit()
        self.warnings: list[str] = []
        self.described = f"ZIP file {files.shown(path)}"
        members = _members(path)
        if len(members) > self._limit.count:
            raise InputError(
                f"{files.shown(path)} has {len(members)} members, above the limit of {self._limit.count}; "
                "raise it with --zip-limit count=…"
            )
        self._refs = self._pictures(members)
        if not self._refs:
            raise InputError(f"no pictures in {files.shown(path)}. Pictures are {files.picture_suffixes()}")
        self._refs.sort(key=lambda ref: files.natural_key(ref.key))

    def items(self, after: Settled | None = None) -> Iterator[Item]:  # noqa: ARG002 (does not stream)
        """An item for each picture; made one at a time."""
        return (Item(ref.key, ref) for ref in self._refs)

    def estimated_count(self) -> int:
        """How many pictures there are, exactly."""
        return len(self._refs)

    def _pictures(self, members: list[zipfile.ZipInfo]) -> list[MemberRef]:
        archive, taken = os.path.abspath(self._path), set[str]()
        pictures: list[tuple[str, zipfile.ZipInfo]] = []
        texts: dict[str, MemberRef] = {}
        links: list[str] = []
        for member in members:
            name = member.filename.replace("\\", "/")
            suffix = files.suffix_of(name)
            is_picture = suffix in files.PICTURE_SUFFIXES
            if not (is_picture or suffix in _TEXTS) or any(map(files.is_ignored, name.split("/"))):
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                links.extend([name] if is_picture else ())
            elif is_picture:
                pictures.append((name, member))
            else:
                texts.setdefault(posixpath.normpath(name), _ref(archive, posixpath.normpath(name), self._limit, member))
        beside = _Texts(texts)
        refs = [
            _ref(archive, files.unused(name, taken), self._limit, member, beside.of(name)) for name, member in pictures
        ]
        self._warn("links in a ZIP file are not followed, these members are left out", links)
        unsafe = [ref.key for ref in refs if _UNSAFE.match(ref.key)]
        self._warn("members whose paths lead out of the ZIP file are used; what is made of them stays in OUT", unsafe)
        return refs

    def _warn(self, text: str, names: list[str]) -> None:
        if names:
            self.warnings.append(f"{text}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}")


def _ref(
    archive: str, key: str, limit: ZipLimit, member: zipfile.ZipInfo, beside: tuple[MemberRef, ...] = ()
) -> MemberRef:
    return MemberRef(
        archive,
        key,
        limit,
        member.header_offset,
        member.compress_size,
        member.file_size,
        member.CRC,
        member.compress_type,
        member.flag_bits,
        beside,
    )


class _Texts:
    """The text members of a ZIP file, by the pictures that they may belong to."""

    def __init__(self, texts: Mapping[str, MemberRef]) -> None:
        self._of_stem: dict[str, list[MemberRef]] = {}
        self._lists: dict[str, list[MemberRef]] = {}  # folder -> texts that speak of several pictures
        for name, ref in texts.items():
            self._of_stem.setdefault(name.rpartition(".")[0], []).append(ref)
            if posixpath.basename(name) in files.CAPTION_LISTS:
                self._lists.setdefault(posixpath.dirname(name), []).append(ref)

    def of(self, picture: str) -> tuple[MemberRef, ...]:
        """Those called like it (`a.txt`, `a.jpg.txt`), and the lists in its folder and the ones above."""
        if not self._of_stem:
            return ()
        name = posixpath.normpath(picture)
        own = [*self._of_stem.get(name.rpartition(".")[0], ()), *self._of_stem.get(name, ())]
        folder = posixpath.dirname(name)
        lists = list(self._lists.get(folder, ()))
        while folder not in ("", "/"):
            folder = posixpath.dirname(folder)
            lists += self._lists.get(folder, ())
        return tuple(dict.fromkeys(own + lists))


def _members(path: Path) -> list[zipfile.ZipInfo]:
    name = files.shown(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} has a member whose name is not UTF-8, as it claims; pack it again") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # this one: it points to a place before its own beginning
            raise files.refused(path, error) from error
        raise InputError(_broken(name)) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise InputError(_broken(name)) from error


def _broken(name: str) -> str:
    return f"{name} is no ZIP file, or it is damaged or cut off: its list of members cannot be read; pack it again"
