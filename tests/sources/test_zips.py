"""ZIP files as sources. Sound ones come from zipfile; hostile ones are written byte by byte."""

import io
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightmill.errors import InputError, SourceError
from lightmill.sources import SourceOptions, ZipLimit, open_source

PICTURE = bytes(range(256)) * 40


@dataclass
class Member:
    """One entry, written as told, sense or not."""

    name: bytes
    data: bytes  # as it lies in the file
    method: int = zipfile.ZIP_STORED
    size: int | None = None
    checksum: int | None = None
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644


def write_zip(path: Path, *members: Member) -> Path:
    body, directory = io.BytesIO(), io.BytesIO()
    for member in members:
        size = len(member.data) if member.size is None else member.size
        checksum = zlib.crc32(member.data) if member.checksum is None else member.checksum
        sizes = (checksum, len(member.data), size, len(member.name), 0)
        common = struct.pack("<5H3I2H", 20, member.flags, member.method, 0, 0x21, *sizes)
        at = body.tell()
        body.write(b"PK\3\4" + common + member.name + member.data)
        directory.write(b"PK\1\2\24\3" + common + struct.pack("<3H2I", 0, 0, 0, member.mode << 16, at) + member.name)
    entries = directory.getvalue()
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(members), len(members), len(entries), body.tell(), 0)
    path.write_bytes(body.getvalue() + entries + end)
    return path


def read_all(path: Path, **limits: float) -> dict[str, bytes | str]:
    """Key -> bytes, or the message of the error."""
    read: dict[str, bytes | str] = {}
    for item in open_source(path, SourceOptions(zip_limit=ZipLimit(**limits))).items():  # type: ignore[arg-type]
        try:
            read[item.key] = item.ref.read()
        except SourceError as error:
            read[item.key] = str(error)
    return read


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_as_zipfile_reads_it(tmp_path: Path, method: int) -> None:
    names = ["root_10.jpg", "root_2.JPG", "left/l 1.png", "right/deep/ü.webp", "empty.jpg"]
    path = tmp_path / "ordinary.zip"
    with open(path, "wb") as file:
        file.write(b"#!/bin/sh\n")  # as in archives that unpack themselves
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.mkdir("left")
            for name in names:
                archive.writestr(name, b"" if "empty" in name else os.urandom(300) * 300 + name.encode())
                archive.writestr(f"__MACOSX/._{name.replace('/', '_')}", b"x")
            for name in ("left/.DS_Store", "left/Thumbs.db", "readme.txt", "left/.hidden.jpg", ".dot/a.jpg"):
                archive.writestr(name, b"x")
    before = path.read_bytes()
    source = open_source(path)
    items = pickle.loads(pickle.dumps(list(source.items())))
    assert [item.key for item in items] == [
        "empty.jpg",
        "left/l 1.png",
        "right/deep/ü.webp",
        "root_2.JPG",
        "root_10.jpg",
    ]
    with zipfile.ZipFile(path) as archive:
        assert {item.key: item.ref.read() for item in items} == {name: archive.read(name) for name in names}
    assert path.read_bytes() == before
    assert source.estimated_count() == 5
    assert source.warnings == []


def test_sizes_after_the_data_and_zip64(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.jpg", "w", force_zip64=True) as file,
    ):
        file.write(PICTURE)
    (tmp_path / "a.zip").write_bytes(pipe.data)
    assert read_all(tmp_path / "a.zip") == {"a.jpg": PICTURE}


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(60):
            archive.writestr(f"{number}.jpg", bytes([number]) * 100_000)
    items = list(open_source(tmp_path / "a.zip").items()) * 4
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda item: item.ref.read(), items))
    assert read == [bytes([int(item.key.split(".")[0])]) * 100_000 for item in items]


def test_odd_members_end_for_themselves(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "odd.zip",
        Member(b"sound.jpg", PICTURE),
        Member(b"link.jpg", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
        Member(b"locked.jpg", os.urandom(5000), size=4988, flags=1),
        Member(b"strong.jpg", os.urandom(5000), method=99),
        Member("café.jpg".encode("cp437"), b"cp437"),
        Member("naïve.jpg".encode(), b"utf-8", flags=0x800),
        Member(b"checksum.jpg", PICTURE[:-1] + b"\0", checksum=zlib.crc32(PICTURE)),
        Member(b"method.jpg", PICTURE, method=9),
        Member(b"unknown.jpg", PICTURE, method=77),
        Member(b"garbage.jpg", b"\xff" * 500, method=8, size=500),
        Member(b"lzma.jpg", b"\xff" * 500, method=14, size=500),
        Member(b"bzip2.jpg", b"\xff" * 500, method=12, size=500),
        Member(b"tiny.jpg", b"\xff", method=14, size=500),
        Member(b"short.jpg", zlib.compress(PICTURE, wbits=-15)[:-30], method=8, size=len(PICTURE)),
        Member(b"longer.jpg", zlib.compress(PICTURE, wbits=-15), method=8, size=5000),
    )
    read = read_all(path)
    expected = {
        "sound.jpg": PICTURE,
        "café.jpg": b"cp437",
        "naïve.jpg": b"utf-8",
        "locked.jpg": "locked.jpg is encrypted; unpack odd.zip with its password first",
        "strong.jpg": "strong.jpg is encrypted; unpack odd.zip with its password first",
        "checksum.jpg": "checksum.jpg is damaged: its checksum in odd.zip is wrong",
        "method.jpg": "method.jpg is packed in a way that is not read here (Deflate64); pack it with Deflate",
        "unknown.jpg": "unknown.jpg is packed in a way that is not read here (number 77); pack it with Deflate",
        "longer.jpg": "longer.jpg is damaged: it declares 5000 bytes and has more",
    }
    damaged = {"garbage.jpg", "lzma.jpg", "bzip2.jpg", "tiny.jpg", "short.jpg"}
    assert {key: read[key] for key in expected} == expected
    assert read.keys() == expected.keys() | damaged
    assert all(str(read[key]).startswith(f"{key} is damaged: it ") for key in damaged)
    assert open_source(path).warnings == ["links in a ZIP file are not followed, these members are left out: link.jpg"]


def test_members_of_one_name_are_all_used(tmp_path: Path) -> None:
    names = [b"twice.jpg", b"once.jpg", b"twice.jpg", b"a\\b.jpg", b"a/b.jpg", b"twice.jpg"]
    path = write_zip(tmp_path / "d.zip", *(Member(name, b"%d" % number) for number, name in enumerate(names)))
    assert read_all(path) == {
        "twice.jpg": b"0",
        "once.jpg": b"1",
        "twice.jpg#2": b"2",
        "a/b.jpg": b"3",
        "a/b.jpg#2": b"4",
        "twice.jpg#3": b"5",
    }


def test_names_that_lead_elsewhere_are_used_and_said(tmp_path: Path) -> None:
    names = [
        b"../up.jpg",
        b"/etc/absolute.jpg",
        b"sub/../../inner.jpg",
        b"..\\windows.jpg",
        b"C:\\drive.jpg",
        b"a..b.jpg",
    ]
    path = write_zip(tmp_path / "escaping.zip", *(Member(name, name) for name in names))
    assert sorted(read_all(path)) == [
        "../up.jpg", "../windows.jpg", "/etc/absolute.jpg", "C:/drive.jpg", "a..b.jpg", "sub/../../inner.jpg"
    ]  # fmt: skip
    (warning,) = open_source(path).warnings
    assert warning.startswith(
        "members whose paths lead out of the ZIP file are used; what is made of them stays in OUT"
    )
    assert "a..b.jpg" not in warning
    assert warning.count(".jpg") == 5


def zeros_deflated(count: int, piece: int = 1 << 22) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = press.compress(bytes(piece)) + press.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    return block * (count // piece) + rest.compress(bytes(count % piece)) + rest.flush()


def test_bombs_are_refused_and_take_no_memory(tmp_path: Path) -> None:
    data, size = zeros_deflated(2200 << 20), 2200 << 20
    lzma_4gib_window = struct.pack("<HHBI", 9, 5, 93, 0xFFFFFFFF) + bytes(1000)
    path = write_zip(
        tmp_path / "swollen.zip",
        Member(b"open.jpg", data, 8, size),
        Member(b"denied.jpg", data, 8, 5000, zlib.crc32(bytes(5000))),
        Member(b"tight.jpg", data, 8, 500 << 20),
        Member(b"window.jpg", lzma_4gib_window, 14, 5000),
    )
    tracemalloc.start()
    try:
        read = read_all(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read["open.jpg"] == (
        f"open.jpg has {size} bytes, above the limit of 1073741824; raise it with --zip-limit size=…"
    )
    assert read["denied.jpg"] == "denied.jpg is damaged: it declares 5000 bytes and has more"
    assert str(read["tight.jpg"]).endswith(
        "above the limit of 200 times its packed size; raise it with --zip-limit ratio=…"
    )
    assert "is damaged" in str(read["window.jpg"])
    assert peak < 3 * len(data) + (2 << 20)


def test_limits(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", Member(b"a.jpg", PICTURE), Member(b"b.jpg", b"x"))
    assert read_all(path, size=100) == {
        "a.jpg": "a.jpg has 10240 bytes, above the limit of 100; raise it with --zip-limit size=…",
        "b.jpg": b"x",
    }
    with pytest.raises(InputError, match=r"has 2 members, above the limit of 1; raise it with --zip-limit count=…"):
        read_all(path, count=1)
    black = write_zip(
        tmp_path / "black.zip", Member(b"a.bmp", zeros_deflated(60 << 20), 8, 60 << 20, zlib.crc32(bytes(60 << 20)))
    )
    assert read_all(black) == {"a.bmp": bytes(60 << 20)}  # packed a thousand times smaller, and honest


def test_limits_are_parsed() -> None:
    assert ZipLimit.parse("4GB") == ZipLimit(size=4_000_000_000)
    assert ZipLimit.parse("size=4GiB, count=2000000,ratio=500") == ZipLimit(size=4 << 30, count=2_000_000, ratio=500)
    assert ZipLimit.parse(str(ZipLimit(ratio=3.5))) == ZipLimit(ratio=3.5)
    for text in ("", "size", "depth=3", "count=many", "ratio=x", "4 apples"):
        with pytest.raises(ValueError, match="written as in size=4GB,count=2000000,ratio=500"):
            ZipLimit.parse(text)
    for text in ("count=0", "ratio=0.5", "ratio=nan", "size=0"):
        with pytest.raises(ValueError, match="at least 1"):
            ZipLimit.parse(text)


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", Member(b"one.jpg", PICTURE), Member(b"two.jpg", PICTURE)).read_bytes()
    bad_name = write_zip(tmp_path / "name.zip", Member(b"\xff.jpg", PICTURE, flags=0x800)).read_bytes()
    nothing_in_it = write_zip(tmp_path / "none.zip", Member(b"a.txt", b"x")).read_bytes()
    for name, data, message in (
        ("cut.zip", whole[: len(whole) * 6 // 10], r"cut\.zip is no ZIP file, or it is damaged or cut off"),
        ("text.zip", b"This is not a ZIP file.\n" * 50, r"text\.zip is no ZIP file"),
        ("nothing.zip", b"", r"nothing\.zip is no ZIP file"),
        ("version.zip", whole.replace(b"PK\1\2\24\3\24", b"PK\1\2\24\3\xff"), r"version\.zip is no ZIP file"),
        ("name.zip", bad_name, r"name\.zip has a member whose name is not UTF-8"),
        ("none.zip", nothing_in_it, r"no pictures in .*none\.zip. Pictures are \.apng"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)


def test_a_file_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", Member(b"x" * 50 + b".jpg", PICTURE))
    (item,) = open_source(path).items()
    for data, message in (
        (path.read_bytes()[:5000], r"is damaged: a\.zip ends within it"),
        (bytes(20_000), r"is damaged: a\.zip has no member where its directory says"),
        (b"", r"a\.zip has no member where"),
    ):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=message):
            item.ref.read()
    path.unlink()
    with pytest.raises(SourceError, match=r"from a\.zip: no such file"):
        item.ref.read()
