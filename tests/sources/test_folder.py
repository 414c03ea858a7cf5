"""Folders and single pictures as sources, and how INPUT is chosen."""

import os
import pickle
from pathlib import Path

import pytest

from lightmill.engine.items import Source
from lightmill.errors import InputError, SourceError
from lightmill.sources import SourceOptions, open_source


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def keys(source: Source) -> list[str]:
    return [item.key for item in source.items()]


def test_pictures_in_natural_order_without_the_rest(tmp_path: Path) -> None:
    wanted = ["B2.JPG", "b3/x1.png", "b3/x10.webp", "b10.jpeg", "two words.tif", "two/deep/er/z.bmp"]
    hidden = [".h.jpg", "._B2.JPG", "__MACOSX/a.jpg", ".git/a.jpg", "two/Thumbs.db", "desktop.ini"]
    fill(tmp_path, *wanted[::-1], *hidden, "notes.txt", "jpg", "b3/a.txt")
    source = open_source(tmp_path)
    items = list(source.items())
    assert [item.key for item in items] == ["B2.JPG", "b3/x1.png", "b3/x10.webp", "b10.jpeg", *sorted(wanted[4:])[::-1]]
    assert [item.ref.read() for item in items] == [item.key.encode() for item in items]
    assert pickle.loads(pickle.dumps(items[0])) == items[0]
    assert source.estimated_count() == 6
    assert source.described == f"folder {tmp_path}"
    assert source.streams is False
    assert source.warnings == []


def test_the_same_order_each_time_and_as_a_path_relative_to_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "in", *(f"{n % 7}/{n}.jpg" for n in range(50)))
    monkeypatch.chdir(tmp_path)
    source = open_source(Path("in"))
    monkeypatch.chdir("/")
    assert [item.ref.read() for item in source.items()] == [key.encode() for key in keys(open_source(tmp_path / "in"))]


def test_links(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", "b/1.jpg", "b/2.jpg")
    outside = fill(tmp_path / "elsewhere", "3.jpg", "deep/4.jpg")
    (source / "file.jpg").symlink_to(outside / "3.jpg")
    (source / "a").symlink_to("b")  # sorts before the real folder, which keeps its pictures all the same
    (source / "loop").symlink_to(".")
    (source / "far").symlink_to(outside)
    (source / "far again").symlink_to(outside / "deep")
    (outside / "back").symlink_to(source)
    (source / "dangling.jpg").symlink_to("nowhere")
    (source / "self.jpg").symlink_to("self.jpg")
    (source / "dangling.txt").symlink_to("nowhere")
    os.mkfifo(source / "pipe.jpg")
    found = open_source(source)
    assert keys(found) == [
        "b/1.jpg", "b/2.jpg", "dangling.jpg", "far/3.jpg", "far/deep/4.jpg", "file.jpg", "self.jpg"
    ]  # fmt: skip
    assert found.warnings == [
        "links to folders that are read already are not followed: a, far again, loop, far/back",
    ]
    readable = {item.key: item.ref for item in found.items()}
    assert readable["file.jpg"].read() == b"3.jpg"
    with pytest.raises(SourceError, match=r"dangling.jpg: it is a broken link"):
        readable["dangling.jpg"].read()


def test_out_inside_input_is_no_input(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "out/images/a.jpg", "other/out/b.jpg")
    (tmp_path / "link").symlink_to("out/images")
    options = SourceOptions(exclude=tmp_path / "out")
    assert keys(open_source(tmp_path, options)) == ["a.jpg", "other/out/b.jpg"]
    assert keys(open_source(tmp_path, SourceOptions(exclude=tmp_path / "absent"))) == keys(open_source(tmp_path))
    assert keys(open_source(tmp_path / "out", SourceOptions(exclude=tmp_path))) == ["images/a.jpg"]
    with pytest.raises(InputError, match="INPUT and OUT are the same folder"):
        open_source(tmp_path, SourceOptions(exclude=tmp_path / "other" / ".."))


def test_names_of_any_bytes(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "new\nline.jpg", "caf\\xe9.jpg")
    odd = os.fsdecode(b"caf\xe9.jpg")
    try:
        (tmp_path / odd).write_bytes(b"odd")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    read = {item.key: item.ref.read() for item in open_source(tmp_path).items()}
    assert read.keys() == {"a.jpg", "new\nline.jpg", "caf\\xe9.jpg", "caf\\xe9.jpg#2"}
    assert read["caf\\xe9.jpg#2"] == b"odd"
    assert all(key.encode() for key in read)


def test_one_picture(tmp_path: Path) -> None:
    fill(tmp_path, "scene 0.JPG", "other.jpg")
    source = open_source(tmp_path / "scene 0.JPG")
    assert [(item.key, item.ref.read()) for item in source.items()] == [("scene 0.JPG", b"scene 0.JPG")]
    assert source.estimated_count() == 1


def test_folders_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = str(tmp_path)
    for _ in range(1100):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "a.jpg").touch()
    assert keys(open_source(tmp_path)) == ["d/" * 1100 + "a.jpg"]
    os.unlink(f"{deep}/a.jpg")
    os.removedirs(deep)  # pytest's own cleaning recurses


def test_pictures_of_foreign_kinds_are_said_aloud(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.HEIC", "c.heic", "d.dng")
    assert open_source(tmp_path).warnings == [
        "pictures of kinds that cannot be read are left out: 1 .dng, 2 .heic; convert them to PNG, TIFF or JPEG first"
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"no pictures in .*void; it is empty$"),
        (("a.mp4", "b.MOV", "c.txt"), r"it holds 2 videos: give one of them as INPUT; pictures are .*\.jpg"),
        (("a.zip", "b.csv"), r"it holds 1 ZIP file and 1 table: give one of them"),
        (("a.heic",), r"left out: 1 \.heic; convert"),
        (("a.txt",), r"no pictures in .*; pictures are \.apng, .*\.webp$"),
    ],
)
def test_a_folder_without_pictures(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match=message):
        open_source(fill(tmp_path / "void", *names))


def test_what_is_no_input(tmp_path: Path) -> None:
    fill(tmp_path, "letter.docx", "a.insv", "a.heic", "none")
    (tmp_path / "broken.zip").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, message in (
        ("absent-folder", "there is no .*absent-folder$"),
        ("absent.zip", r"there is no .*absent\.zip$"),
        ("broken.zip", r"broken\.zip: it is a broken link"),
        ("letter.docx", r"letter\.docx is of no known kind; INPUT is a folder, a picture .*video"),
        ("none", "none is of no known kind"),
        ("a.insv", "stitch it into an .mp4"),
        ("a.heic", "convert it"),
        ("pipe.jpg", "neither a folder nor an ordinary file"),
        ("letter.docx/x.jpg", "cannot read .*not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_without_permission(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        source = open_source(tmp_path)
        assert keys(source) == ["a.jpg"]
        assert source.warnings == ["the folder closed/ cannot be read and is left out: permission denied"]
        with pytest.raises(InputError, match=r"cannot read .*closed: permission denied"):
            open_source(tmp_path / "closed")
    finally:
        (tmp_path / "closed").chmod(0o755)
