"""An export as one ZIP file: `OUT/kohya.zip`. Written as a stream, whole or not at all, the same bytes on every run.

Layout: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its ends),
4.5.3 (ZIP64). Sizes and check sums stand before the data, for readers that do not seek: every file is read twice.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from lightmill.engine.journal import STATE
from lightmill.engine.outputs import Outputs
from lightmill.errors import OutputError, UsageError
from lightmill.export.captioned import made_files

EXPORTS: Final = ("sidecar", "kohya", "imagefolder", "jsonl", "csv", "webdataset", "aitoolkit")
_STORED, _DEFLATED = 0, 8
_UTF8 = 0x800
_MIDNIGHT, _NEW_YEAR = 0, 0x21  # 1980-01-01, where ZIP's time begins
_REGULAR_FILE = 0o100644 << 16
_PLAIN, _ZIP64 = 20, 45  # version needed to read it
_UNIX = 3 << 8
_FULL, _MANY = 0xFFFF_FFFF, 0xFFFF
_PIECE = 1 << 20


class _Member(NamedTuple):
    name: bytes
    method: int
    check: int
    packed: int  # bytes in the ZIP file
    size: int  # bytes of the file


def export_zip(outputs: Outputs, *, export: str) -> list[str]:
    """Write `<export>.zip` of the files that this export last made, under their paths in OUT; pictures are stored.

    The pictures themselves go along where the export speaks of them. Returns the path.

    Raises UsageError for an unknown export; OutputError where it was not made yet, where one of its files is gone, and
    where one changes while it is read.
    """
    if export not in EXPORTS:
        raise UsageError(f"there is no export {export!r}; there are {', '.join(EXPORTS)}")
    if next(made_files(outputs, export), None) is None:
        raise OutputError(f"there is no export {export} in {outputs.root} that could be put into a ZIP file; make it")
    path = f"{export}.zip"
    outputs.write_if_changed(path, _archive(outputs, export))
    return [path]


def _archive(outputs: Outputs, export: str) -> Iterator[bytes]:
    offset, count = 0, 0
    with tempfile.SpooledTemporaryFile(max_size=_PIECE, dir=os.fspath(outputs.root / STATE)) as directory:
        for path, method in _chosen(outputs, export):
            file = os.fspath(outputs.root / path)
            member = _measured(file, name=path.encode(), method=method)
            header = _local_header(member)
            yield header
            yield from _data(file, member)
            directory.write(_directory_entry(member, offset))
            offset += len(header) + member.packed
            count += 1
        size = directory.tell()
        directory.seek(0)
        yield from _pieces(directory)
    yield _end(count=count, size=size, offset=offset)


def _chosen(outputs: Outputs, export: str) -> Iterator[tuple[str, int]]:
    """(path, method) of what goes in."""
    for path, kind in made_files(outputs, export):
        if os.path.isfile(outputs.root / path):
            yield path, _STORED if kind in ("link", "picture") or path.endswith(".tar") else _DEFLATED
        elif kind != "text":
            raise OutputError(f"{path} of the export {export} is gone; make the export again")


def _measured(file: str, *, name: bytes, method: int) -> _Member:
    check, size, packed = 0, 0, 0
    with open(file, "rb") as opened:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        for piece in _pieces(opened):
            check = zlib.crc32(piece, check)
            size += len(piece)
            packed += len(packer.compress(piece)) if method == _DEFLATED else len(piece)
        packed += len(packer.flush()) if method == _DEFLATED else 0
    return _Member(name, method, check, packed, size)


def _data(file: str, member: _Member) -> Iterator[bytes]:
    check = 0
    with open(file, "rb") as opened:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        for piece in _pieces(opened):
            check = zlib.crc32(piece, check)
            yield packer.compress(piece) if member.method == _DEFLATED else piece
        if member.method == _DEFLATED:
            yield packer.flush()
    if check != member.check:
        raise OutputError(f"{file} changed while it was put into a ZIP file; give the same command again")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _local_header(member: _Member) -> bytes:
    large = max(member.size, member.packed) >= _FULL
    extra = struct.pack("<2H2Q", 1, 16, member.size, member.packed) if large else b""
    sizes = (_FULL, _FULL) if large else (member.packed, member.size)
    fixed = struct.pack(
        "<4s5H3I2H",
        b"PK\x03\x04",
        _ZIP64 if large else _PLAIN,
        _UTF8,
        member.method,
        _MIDNIGHT,
        _NEW_YEAR,
        member.check,
        *sizes,
        len(member.name),
        len(extra),
    )
    return fixed + member.name + extra


def _directory_entry(member: _Member, offset: int) -> bytes:
    """In ZIP64, what is too large for its field stands in the extra field, in the order of the fields."""
    large = [number for number in (member.size, member.packed, offset) if number >= _FULL]
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _ZIP64 if large else _PLAIN
    fixed = struct.pack(
        "<4s6H3I5H2I",
        b"PK\x01\x02",
        _UNIX | version,
        version,
        _UTF8,
        member.method,
        _MIDNIGHT,
        _NEW_YEAR,
        member.check,
        min(member.packed, _FULL),
        min(member.size, _FULL),
        len(member.name),
        len(extra),
        0,  # comment
        0,  # disk
        0,  # internal attributes
        _REGULAR_FILE,
        min(offset, _FULL),
    )
    return fixed + member.name + extra


def _end(*, count: int, size: int, offset: int) -> bytes:
    plain = struct.pack(
        "<4s4H2IH",
        b"PK\x05\x06",
        0,
        0,
        min(count, _MANY),
        min(count, _MANY),
        min(size, _FULL),
        min(offset, _FULL),
        0,
    )
    if count < _MANY and size < _FULL and offset < _FULL:
        return plain
    large = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, _UNIX | _ZIP64, _ZIP64, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, offset + size, 1)
    return large + locator + plain
