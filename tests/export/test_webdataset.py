"""Shards, read back by `webdataset`, by `datasets` and by tarfile."""

import gc
import io
import json
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.export.gallery import TEXTS, captioned, files, growth, hostile, many, picture

from lightmill.engine.outputs import Outputs
from lightmill.errors import OutputError, UsageError
from lightmill.export.captioned import record
from lightmill.export.captions_file import Layer
from lightmill.export.webdataset import export_webdataset


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def samples(outputs: Outputs, shards: list[str]) -> list[dict[str, Any]]:
    webdataset = pytest.importorskip("webdataset", reason="the reader of shards, `webdataset`, is not installed")
    paths = [os.fspath(outputs.root / shard) for shard in shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its shards open, until nobody knows them
        read = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
        gc.collect()
    return read


def test_webdataset_gives_every_picture_its_text_and_its_record(outputs):
    pictures = hostile(outputs.root)
    read = samples(outputs, export_webdataset(outputs, iter(pictures), per_shard=4))
    assert [sample["txt"].decode() for sample in read] == list(TEXTS.values())
    assert [json.loads(sample["json"]) for sample in read] == [record(wanted) for wanted in pictures]
    for sample, wanted in zip(read, pictures, strict=True):
        assert sample["__key__"] == Path(wanted.key).stem
        assert sample[wanted.image[-3:]] == (outputs.root / wanted.image).read_bytes()


def test_names_are_such_as_every_reader_takes(outputs):
    names = [
        "a.b.jpg",
        "a_b.jpg",
        "sub/a.jpg",
        "sub_a.jpg",
        "__x__.jpg",
        ".dot.jpeg",
        "日本.jpg",
        "é 1.JPG",
        "n" * 99 + ".jpg",
    ]
    pictures = [picture(outputs.root, name, Layer("caption", name)) for name in names]
    shards = export_webdataset(outputs, pictures)
    read = samples(outputs, shards)
    assert [json.loads(sample["json"])["key"] for sample in read] == names
    assert all({"jpg", "txt", "json"} < set(sample) for sample in read)
    assert len({sample["__key__"].lower() for sample in read}) == len(names)
    members = [member.name for member in _members(outputs, shards[0])]
    assert all(name.isascii() and name.count(".") == 1 and "/" not in name and name[0] not in "._" for name in members)
    plain = [sample["__key__"] for sample, name in zip(read, names, strict=True) if sample["__key__"] == name[:-4]]
    assert plain == ["a_b", "sub_a"]  # what needs no change has none


def test_datasets_reads_them_as_a_table(outputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="`datasets` is not installed")
    pictures = [picture(outputs.root, f"{name}.jpg", Layer("caption", text)) for name, text in TEXTS.items()]
    shards = export_webdataset(outputs, pictures, per_shard=3)
    paths = [os.fspath(outputs.root / shard) for shard in shards]
    table = datasets.load_dataset("webdataset", data_files={"train": paths}, cache_dir=str(tmp_path / "cache"))["train"]
    assert [row["txt"] for row in table] == list(TEXTS.values())
    assert [row["json"] for row in table] == [record(wanted) for wanted in pictures]
    assert [row["jpg"].size for row in table] == [(12, 8)] * len(TEXTS)


def test_headers_are_the_same_everywhere(outputs):
    (name,) = export_webdataset(outputs, hostile(outputs.root))
    size = (outputs.root / name).stat().st_size
    assert size % tarfile.RECORDSIZE == 0
    with tarfile.open(outputs.root / name) as shard:
        members = shard.getmembers()
        assert shard.format == tarfile.USTAR_FORMAT or all(not member.pax_headers for member in members)
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode, m.type) for m in members} == {
            (0, 0, "", "", 0, 0o644, tarfile.REGTYPE)
        }
        for member in members:
            if member.name.endswith((".jpg", ".png")):
                Image.open(io.BytesIO(shard.extractfile(member).read())).load()


def test_shards_end_where_they_are_told_to(outputs):
    pictures = list(many(outputs.root, 10))

    def counts(**limit: int) -> list[int]:
        return [len(_members(outputs, name)) // 3 for name in export_webdataset(outputs, pictures, **limit)]

    assert counts(per_shard=4) == [4, 4, 2]
    assert counts(shard_bytes=1) == [1] * 10
    assert counts() == [10]
    sample = _members(outputs, "webdataset/shard-000000.tar")[3].offset  # where the second one begins
    assert counts(shard_bytes=3 * sample) == [3, 3, 3, 1]
    assert counts(shard_bytes=3 * sample - 1) == [2] * 5


def _members(outputs: Outputs, name: str) -> list[tarfile.TarInfo]:
    with tarfile.open(outputs.root / name) as shard:
        return shard.getmembers()


def test_fewer_shards_leave_no_old_ones_behind(outputs):
    pictures = hostile(outputs.root)
    export_webdataset(outputs, pictures, per_shard=2)
    export_webdataset(outputs, pictures[:3], per_shard=2)
    assert sorted(files(outputs.root, below="webdataset")) == [f"webdataset/shard-00000{n}.tar" for n in (0, 1)]
    assert export_webdataset(outputs, []) == []
    assert files(outputs.root, below="webdataset") == {}


def test_an_error_half_way_leaves_the_old_shard_whole(outputs):
    pictures = hostile(outputs.root)
    export_webdataset(outputs, pictures)
    before = files(outputs.root)
    with pytest.raises(OutputError, match=r"images/gone\.jpg is in captions\.jsonl"):
        export_webdataset(outputs, [*pictures[:3], captioned("gone.jpg", "x")])
    assert files(outputs.root) == before


def test_the_same_bytes_again(outputs):
    pictures = hostile(outputs.root)
    (name,) = export_webdataset(outputs, pictures)
    before = (outputs.root / name).stat()
    export_webdataset(outputs, pictures)
    after = (outputs.root / name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("limit", [{"per_shard": 0}, {"shard_bytes": 0}])
def test_shards_of_nothing_are_refused(outputs, limit):
    with pytest.raises(UsageError, match="a shard holds 1 picture"):
        export_webdataset(outputs, [], **limit)


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    assert growth(tmp_path, export_webdataset) < 60_000  # 400 pictures more are 1.2 MB of members
