"""`caption` on ZIP files, sound and hostile: every picture of every folder is used, nothing lands outside of OUT."""

import io
import json
import os
import stat
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.sources.test_zips import Member, write_zip

import lightmill
from lightmill.engine.run import RunResult
from lightmill.errors import InputError


def jpeg(seed: int, **how: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((48, 36)).save(buffer, "JPEG", quality=92, **how)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def texts(run: RunResult) -> dict[str, str]:
    """Key -> what the text file beside its picture says."""
    pictures = map(json.loads, (run.out / "captions.jsonl").read_text("utf-8").splitlines())
    return {row["key"]: (run.out / row["image"]).with_suffix(".txt").read_text("utf-8") for row in pictures}


def statuses(run: RunResult) -> dict[str, str]:
    rows = map(json.loads, (run.out / "manifest.jsonl").read_text("utf-8").splitlines())
    return {row["key"]: row["status"] for row in rows}


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_every_folder_is_used_and_so_are_the_captions_in_it(tmp_path: Path) -> None:
    """Pictures at the root and in folders, as macOS and Windows pack them; folders called like this tool's own."""
    names = ["root.jpg", "b/1.jpg", "a/1.jpg", "a/deep/2.jpg", "my_processed_images/3.jpg", "images/4.jpg"]
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("empty")
        for number, name in enumerate(names):
            archive.writestr(name, jpeg(number))
            archive.writestr(f"__MACOSX/{name.replace('/', '/._')}", b"\0\5\26\7" + bytes(100))
        archive.writestr("a/1.txt", "of a")
        archive.writestr("b\\1.txt", "of b")  # as Windows writes it
        archive.writestr("__MACOSX/a/._1.txt", "of nobody")
        archive.writestr("a/Thumbs.db", b"x")
        archive.writestr("readme.txt", "of nobody")
    before = path.read_bytes()
    run = lightmill.caption(path, tmp_path / "out")
    assert statuses(run) == dict.fromkeys(names, "ok")
    assert path.read_bytes() == before
    found = texts(run)
    assert (found["a/1.jpg"], found["b/1.jpg"]) == ("of a", "of b")
    assert not any("nobody" in text for text in found.values())
    pixels = {name: np.asarray(Image.open(run.out / "images" / name)) for name in names}
    for number, name in enumerate(names):
        np.testing.assert_array_equal(pixels[name], np.asarray(Image.open(io.BytesIO(jpeg(number)))))


def test_nothing_is_written_outside_of_out(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "c" / "out"
    out.parent.mkdir(parents=True)
    names = [b"../" * ups + b"up%d.jpg" % ups for ups in range(1, 6)]
    names += [
        os.fsencode(tmp_path / "absolute.jpg"),
        b"sub/../../../../inner.jpg",
        b"..\\..\\windows.jpg",
        b"C:/drive.jpg",
    ]
    members = [Member(name, jpeg(number)) for number, name in enumerate(names)]
    sidecars = [Member(name[:-4] + b".txt", b"its words") for name in names]
    path = write_zip(tmp_path / "escaping.zip", Member(b"sound.jpg", jpeg(50)), *members, *sidecars)
    before = files_of(tmp_path)
    run = lightmill.caption(path, out, export="sidecar,kohya,imagefolder,aitoolkit,webdataset")
    assert all(new.is_relative_to(out) for new in files_of(tmp_path) - before)
    assert len(statuses(run)) == len(names) + 1
    assert run.failed == 0
    assert texts(run)["sound.jpg"] == "sound, landscape"


def test_captions_of_other_places_are_not_read(tmp_path: Path) -> None:
    """A member that leads out of the ZIP file finds only members beside it, never files of this machine."""
    (tmp_path / "secret.txt").write_text("secret words")
    path = write_zip(
        tmp_path / "set.zip", Member(os.fsencode(tmp_path / "secret.jpg"), jpeg(0)), Member(b"a.jpg", jpeg(1))
    )
    run = lightmill.caption(path, tmp_path / "out", template="none")
    assert set(texts(run).values()) == {"none"}


def test_odd_members_end_for_themselves(tmp_path: Path) -> None:
    sound = jpeg(1)
    path = write_zip(
        tmp_path / "odd.zip",
        Member(b"sound.jpg", sound),
        Member(b"link.jpg", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
        Member(b"link.txt", b"/etc/passwd", mode=stat.S_IFLNK | 0o777),
        Member(b"locked.jpg", bytes(500), size=488, checksum=1, flags=1),
        Member(b"sound.txt", bytes(500), size=488, checksum=1, flags=1),
        Member("café.jpg".encode("cp437"), jpeg(2)),
        Member("naïve.jpg".encode(), jpeg(3), flags=0x800),
        Member(b"checksum.jpg", sound[:-1] + b"\x00", checksum=zlib.crc32(sound)),
        Member(b"method.jpg", sound, method=99),
    )
    run = lightmill.caption(path, tmp_path / "out")
    assert statuses(run) == {
        "café.jpg": "ok",
        "checksum.jpg": "failed",
        "locked.jpg": "failed",
        "method.jpg": "failed",
        "naïve.jpg": "ok",
        "sound.jpg": "ok",
    }
    rows = [json.loads(line) for line in (run.out / "manifest.jsonl").read_text().splitlines()]
    (sound_row,) = (row for row in rows if row["key"] == "sound.jpg")
    assert "sound.txt is encrypted" in sound_row["meta"]["existing_left_out"][0]
    assert set(texts(run)) == {"café.jpg", "naïve.jpg", "sound.jpg"}
    assert any("link.jpg" in warning for warning in run.warnings)


def test_two_members_of_one_name_are_both_used(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "twice.zip",
        Member(b"twice.jpg", jpeg(0)),
        Member(b"once.jpg", jpeg(1)),
        Member(b"twice.jpg", jpeg(2)),
        Member(b"twice.txt", b"of both"),
    )
    run = lightmill.caption(path, tmp_path / "out")
    assert texts(run) == {"once.jpg": "once, landscape", "twice.jpg": "of both", "twice.jpg#2": "of both"}
    assert len(list((run.out / "images").glob("*.jpg"))) == 3


def test_bombs_are_not_inflated(tmp_path: Path) -> None:
    """Pictures and captions that declare little, or much, and unpack to 300 MB."""
    bomb = deflated(bytes(300 << 20))
    path = write_zip(
        tmp_path / "bomb.zip",
        Member(b"sound.jpg", jpeg(0)),
        Member(b"open.jpg", bomb, zipfile.ZIP_DEFLATED, 300 << 20, 1),
        Member(b"denied.jpg", bomb, zipfile.ZIP_DEFLATED, 5000, 1),
        Member(b"sound.txt", bomb, zipfile.ZIP_DEFLATED, 300 << 20, 1),
        Member(b"metadata.jsonl", bomb, zipfile.ZIP_DEFLATED, 5000, 1),
        Member(b"sound.json", b"[" * 500_000),
    )
    run = lightmill.caption(path, tmp_path / "out")
    assert statuses(run) == {"denied.jpg": "failed", "open.jpg": "failed", "sound.jpg": "ok"}
    assert sum(path.stat().st_size for path in files_of(run.out)) < 5 << 20
    rows = [json.loads(line) for line in (run.out / "manifest.jsonl").read_text().splitlines()]
    left_out = "; ".join(rows[-1]["meta"]["existing_left_out"])
    assert "sound.txt has 314572800 bytes, more than the 1048576 that are read" in left_out
    assert "metadata.jsonl is damaged" in left_out
    assert "sound.json is no JSON" in left_out


@pytest.mark.parametrize("content", [b"", b"This is not a ZIP file.\n" * 50])
def test_what_is_no_zip_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.zip is no ZIP file"):
        lightmill.caption(tmp_path / "broken.zip", tmp_path / "out")


def test_the_data_set_that_was_made_can_be_packed_and_read_again(tmp_path: Path) -> None:
    """Out of `sidecar.zip` come the same pictures, to the byte, with the same captions."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for number, name in enumerate(["one fox.jpg", "sub/two cats.png", "sub/two cats.jpg"]):
            archive.writestr(name, jpeg(number, comment=b"private"))
    first = lightmill.caption(tmp_path / "in.zip", tmp_path / "first", trigger="ohwx", export="zip")
    second = lightmill.caption(first.out / "sidecar.zip", tmp_path / "second")
    again = {key.removeprefix("images/"): text for key, text in texts(second).items()}
    assert again == {row["image"].removeprefix("images/"): texts(first)[row["key"]] for row in _lines(first)}
    for name in again:
        data = (first.out / "images" / name).read_bytes()
        assert (second.out / "images" / "images" / name).read_bytes() == data
        assert b"private" not in data


def _lines(run: RunResult) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run.out / "captions.jsonl").read_text().splitlines()]
