"""Exports in a ZIP file, unpacked by zipfile and taken in by our own source; ZIP64 as zipfile reads it."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.export.gallery import files, growth, hostile

from lightmill.engine.outputs import Outputs
from lightmill.errors import OutputError, UsageError
from lightmill.export import zipped
from lightmill.export.aitoolkit import export_aitoolkit
from lightmill.export.imagefolder import export_imagefolder
from lightmill.export.kohya import Layout, export_kohya
from lightmill.export.listing import export_csv, export_jsonl
from lightmill.export.sidecar import export_sidecar
from lightmill.export.webdataset import export_webdataset
from lightmill.export.zipped import EXPORTS, export_zip
from lightmill.sources.zips import ZipSource

EXPORTERS: dict[str, Callable[..., list[str]]] = {
    "sidecar": export_sidecar,
    "kohya": export_kohya,
    "imagefolder": export_imagefolder,
    "jsonl": export_jsonl,
    "csv": export_csv,
    "webdataset": export_webdataset,
    "aitoolkit": export_aitoolkit,
}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def wanted_files(outputs: Outputs, export: str) -> dict[str, bytes]:
    if export in ("sidecar", "jsonl", "csv"):
        keep = {"sidecar": "images/", "jsonl": "listing.jsonl", "csv": "listing.csv"}[export]
        return {path: data for path, data in files(outputs.root).items() if path.startswith((keep, "images/"))}
    return files(outputs.root, below=export)


@pytest.mark.parametrize("export", EXPORTS)
def test_all_files_of_an_export_come_back(outputs, export):
    EXPORTERS[export](outputs, hostile(outputs.root))
    wanted = wanted_files(outputs, export)
    assert export_zip(outputs, export=export) == [f"{export}.zip"]
    with zipfile.ZipFile(outputs.root / f"{export}.zip") as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == wanted
        for info in archive.infolist():
            stored = info.filename.endswith((".jpg", ".png", ".tar"))
            assert info.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
            assert (info.date_time, info.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0o100644)
            assert not info.flag_bits & 0x8  # sizes stand before the data


def test_the_pictures_go_along_with_metadata_about_them(outputs):
    export_kohya(outputs, hostile(outputs.root), layout=Layout.METADATA)
    export_zip(outputs, export="kohya")
    with zipfile.ZipFile(outputs.root / "kohya.zip") as archive:
        assert set(archive.namelist()) == {*files(outputs.root, below="images"), "kohya/meta_cap.json"}


def test_an_archive_is_an_input_again(outputs):
    export_sidecar(outputs, hostile(outputs.root))
    export_zip(outputs, export="sidecar")
    items = list(ZipSource(outputs.root / "sidecar.zip").items())
    pictures = {path: data for path, data in files(outputs.root).items() if path.endswith((".jpg", ".png"))}
    assert {item.key: item.ref.read() for item in items} == pictures


def test_the_same_bytes_again_wherever_out_is(tmp_path):
    archives = []
    for name in ("one", "two"):
        outputs = Outputs(tmp_path / name)
        pictures = hostile(outputs.root)
        export_sidecar(outputs, pictures)
        export_zip(outputs, export="sidecar")
        before = (outputs.root / "sidecar.zip").stat().st_mtime_ns
        export_zip(outputs, export="sidecar")
        assert (outputs.root / "sidecar.zip").stat().st_mtime_ns == before
        archives.append((outputs.root / "sidecar.zip").read_bytes())
    assert archives[0] == archives[1]


def test_nothing_but_the_archive_is_left(outputs):
    export_sidecar(outputs, hostile(outputs.root))
    before = set(os.listdir(outputs.root / ".lightmill")), set(files(outputs.root))
    export_zip(outputs, export="sidecar")
    assert set(os.listdir(outputs.root / ".lightmill")) == before[0]
    assert set(files(outputs.root)) == before[1] | {"sidecar.zip"}


def test_what_cannot_be_zipped_is_told(outputs):
    with pytest.raises(UsageError, match="there is no export 'png'; there are sidecar"):
        export_zip(outputs, export="png")
    with pytest.raises(OutputError, match="there is no export kohya in"):
        export_zip(outputs, export="kohya")
    pictures = hostile(outputs.root)
    export_imagefolder(outputs, pictures)
    (outputs.root / "imagefolder/quotes.jpg").unlink()
    with pytest.raises(OutputError, match=r"imagefolder/quotes\.jpg of the export imagefolder is gone"):
        export_zip(outputs, export="imagefolder")
    assert not (outputs.root / "imagefolder.zip").exists()


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"before")
    member = zipped._measured(str(path), name=b"a.jpg", method=0)
    path.write_bytes(b"after!")
    with pytest.raises(OutputError, match=r"a\.jpg changed while"):
        list(zipped._data(str(path), member))


class Sparse(io.RawIOBase):
    """A file of any size that is zeros but for a few pieces: what an archive of 5 GB is to a reader."""

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self._pieces = pieces
        self._size = max(start + len(piece) for start, piece in pieces.items())
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._place + size)
        data = bytearray(max(0, end - self._place))
        for start, piece in self._pieces.items():
            low, high = max(start, self._place), min(start + len(piece), end)
            if low < high:
                data[low - self._place : high - self._place] = piece[low - start : high - start]
        self._place = max(self._place, end)
        return bytes(data)


def test_more_than_four_gigabytes_are_read_by_zipfile():
    large, small = zipped._Member(b"large.tar", 0, 0, 5 << 30, 5 << 30), zipped._Member(b"s.txt", 0, 0, 0, 0)
    header = zipped._local_header(large)
    offset = len(header) + large.packed
    second = zipped._local_header(small)
    directory = zipped._directory_entry(large, 0) + zipped._directory_entry(small, offset)
    end = zipped._end(count=2, size=len(directory), offset=offset + len(second))
    file: Any = Sparse({0: header, offset: second, offset + len(second): directory + end})
    with zipfile.ZipFile(file) as archive:
        assert [(info.filename, info.file_size, info.header_offset) for info in archive.infolist()] == [
            ("large.tar", 5 << 30, 0),
            ("s.txt", 0, offset),
        ]
        assert archive.read("s.txt") == b""
        with archive.open("large.tar") as member:
            assert member.read(10) == bytes(10)
    assert struct.unpack_from("<H2Q", header, len(header) - 18) == (16, 5 << 30, 5 << 30)


def test_more_members_than_plain_zip_counts_are_read_by_zipfile():
    member = zipped._Member(b"a", 0, 0, 0, 0)
    count = 70_000
    body = zipped._local_header(member)
    directory = zipped._directory_entry(member, 0) * count
    end = zipped._end(count=count, size=len(directory), offset=len(body))
    with zipfile.ZipFile(io.BytesIO(body + directory + end)) as archive:
        assert len(archive.infolist()) == count


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    def export(outputs: Outputs, pictures: Any) -> None:
        export_sidecar(outputs, pictures)
        export_zip(outputs, export="sidecar")

    assert growth(tmp_path, export) < 250_000  # the directory stays in memory up to 1 MB, then goes to the disk
