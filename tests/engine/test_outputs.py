"""A file appears under its final name only when it is complete."""

import errno
import os
import shutil

import pytest

from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs, folded, writing
from lightmill.errors import OutputError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_whole_below_new_folders(tmp_path, durable):
    outputs = Outputs(tmp_path, durable=durable)
    data = os.urandom(300_000)
    assert outputs.write("images/cam00/a.bin", data) == len(data)
    assert (tmp_path / "images/cam00/a.bin").read_bytes() == data
    assert outputs.holds("images/cam00/a.bin", len(data))
    assert not outputs.holds("images/cam00/a.bin", len(data) + 1)
    assert not outputs.holds("images/cam00/b.bin", 0)
    assert [path.name for path in (tmp_path / "images/cam00").iterdir()] == ["a.bin"]


def test_the_same_content_is_not_written_again(tmp_path):
    outputs = Outputs(tmp_path)
    assert outputs.write_if_changed("rig.json", iter([b"ab", b"cd"]))
    before = (tmp_path / "rig.json").stat()
    assert not outputs.write_if_changed("rig.json", iter([b"abcd"]))
    after = (tmp_path / "rig.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert outputs.write_if_changed("rig.json", iter([b"abce"]))
    assert (tmp_path / "rig.json").read_bytes() == b"abce"


def test_an_error_half_way_leaves_the_old_file_and_no_temporary(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.write("manifest.csv", b"old")

    def chunks():
        yield b"new"
        raise RuntimeError("broken source")

    with pytest.raises(RuntimeError, match="broken source"):
        outputs.write_if_changed("manifest.csv", chunks())
    assert (tmp_path / "manifest.csv").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["manifest.csv"]


def test_what_a_killed_run_left_is_removed_and_the_users_files_are_not(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.write("images/a.jpg", b"a")
    (tmp_path / "images/.lm-0123456789abcdef-4711.tmp").write_bytes(b"half")
    (tmp_path / "images/.notes.tmp").write_bytes(b"the user's own")
    assert outputs.remove_temporaries() == 1
    assert sorted(os.listdir(tmp_path / "images")) == [".notes.tmp", "a.jpg"]


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "the disk is full.*make room"), (errno.EROFS, "the file system is read-only")]
)
def test_errors_that_no_other_file_would_escape_end_the_run(number, says):
    with pytest.raises(OutputError, match=says), writing("/out/x.jpg"):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are():
    with pytest.raises(PermissionError), writing("/out/x.jpg"):
        raise PermissionError(errno.EACCES, "denied")


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    refused = pytest.raises(OutputError, match=rf"another run is already at work in .* \(process {os.getpid()}\)")
    with RunLock(tmp_path / ".lightmill"), refused:
        RunLock(tmp_path / ".lightmill").__enter__()
    with RunLock(tmp_path / ".lightmill"):
        pass  # and let go of at the end


def test_an_out_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot write to OUT: Not a directory: .*a-file"):
        RunLock(tmp_path / "a-file" / "out" / ".lightmill").__enter__()


# --- one file under two names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_link_is_the_same_file_and_made_only_once(tmp_path, durable):
    outputs = Outputs(tmp_path, durable=durable)
    outputs.write("images/a.png", b"first")
    assert outputs.link("images/a.png", "pairs/images/a.png") == 5
    assert os.path.samefile(tmp_path / "images/a.png", tmp_path / "pairs/images/a.png")
    before = os.stat(tmp_path / "pairs").st_mtime_ns, os.stat(tmp_path / "pairs/images").st_mtime_ns
    assert outputs.link("images/a.png", "pairs/images/a.png") == 5
    assert before == (os.stat(tmp_path / "pairs").st_mtime_ns, os.stat(tmp_path / "pairs/images").st_mtime_ns)
    assert os.listdir(tmp_path / "pairs/images") == ["a.png"]


def test_a_link_takes_the_place_of_what_was_there_and_leaves_all_else(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.write("a.png", b"first")
    outputs.write("other.png", b"other")
    outputs.link("other.png", "linked.png")
    outputs.link("a.png", "linked.png")
    assert (tmp_path / "other.png").read_bytes() == b"other"
    assert (tmp_path / "linked.png").read_bytes() == b"first"
    outputs.write("a.png", b"second")  # a new file under the name: what is linked keeps the old one until it is linked
    assert (tmp_path / "linked.png").read_bytes() == b"first"
    assert outputs.link("a.png", "linked.png") == 6
    assert (tmp_path / "linked.png").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["a.png", "linked.png", "other.png"]


@pytest.mark.parametrize("durable", [False, True])
def test_where_there_are_no_links_a_copy_is_made_only_when_it_differs(tmp_path, monkeypatch, durable):
    def refused(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    outputs = Outputs(tmp_path, durable=durable)
    data = os.urandom(3_000_000)
    outputs.write("a.bin", data)
    assert outputs.link("a.bin", "copies/a.bin") == len(data)
    copy = tmp_path / "copies/a.bin"
    assert copy.read_bytes() == data
    assert not os.path.samefile(tmp_path / "a.bin", copy)
    before = copy.stat()
    assert outputs.link("a.bin", "copies/a.bin") == len(data)
    assert (before.st_ino, before.st_mtime_ns) == (copy.stat().st_ino, copy.stat().st_mtime_ns)
    outputs.write("a.bin", b"new")
    assert outputs.link("a.bin", "copies/a.bin") == 3
    assert copy.read_bytes() == b"new"
    assert os.listdir(tmp_path / "copies") == ["a.bin"]


def test_a_full_disk_while_linking_ends_the_run_and_keeps_what_was_there(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    outputs = Outputs(tmp_path)
    outputs.write("a.png", b"new")
    outputs.write("linked.png", b"old")
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match=r"the disk is full: cannot write .*linked\.png"):
        outputs.link("a.png", "linked.png")
    assert (tmp_path / "linked.png").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.png", "linked.png"]


def test_a_link_to_nothing_is_told_and_leaves_what_was_there(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.write("linked.png", b"old")
    with pytest.raises(FileNotFoundError, match="gone"):
        outputs.link("gone.png", "linked.png")
    assert (tmp_path / "linked.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["linked.png"]


def test_spellings_of_one_file_fold_to_one():
    assert folded("Straße/É.csv") == folded("STRASSE/e\u0301.CSV")
    assert folded("a.csv") != folded("a_2.csv")
