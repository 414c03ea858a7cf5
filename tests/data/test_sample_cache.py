"""The pack of samples: what is found again, what is not, and what a kill, another process or a full disk does to it."""

import errno
import multiprocessing
import os
import pickle
import signal
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from lightmill.data import sample_cache
from lightmill.data.sample_cache import KEY_BYTES, PACK_NAME, SampleCache, open_cache

BYTES = 1000


def keys(*names: object) -> list[bytes]:
    return [blake2b(str(name).encode(), digest_size=KEY_BYTES).digest() for name in names]


def sample(name: object) -> np.ndarray:
    return np.random.default_rng(list(str(name).encode())).integers(0, 256, BYTES, np.uint8)


def opened(folder: Path, *names: object, rules: str = "a", reserve: int = 0) -> SampleCache:
    cache, remark = open_cache(folder, keys(*names), mode="auto", sample_bytes=BYTES, rules=rules, reserve=reserve)
    assert remark == ""
    assert cache is not None
    return cache


def found(cache: SampleCache, number: int) -> np.ndarray | None:
    out = np.zeros(BYTES, np.uint8)
    return out if cache.read(number, out) else None


def holds(cache: SampleCache, *names: object) -> list[bool]:
    """Whether each is there; what is there has to be right."""
    there = []
    for number, name in enumerate(names):
        got = found(cache, number)
        there.append(got is not None)
        if got is not None:
            np.testing.assert_array_equal(got, sample(name))
    return there


def test_samples_are_found_again_here_and_after_a_new_start(tmp_path: Path) -> None:
    cache = opened(tmp_path, "a", "b", "c")
    assert holds(cache, "a", "b", "c") == [False] * 3
    assert cache.write(1, sample("b"))
    assert cache.write(2, sample("c"))
    assert holds(cache, "a", "b", "c") == [False, True, True]
    assert cache.kept == 2
    cache.close()
    cache.close()
    assert holds(opened(tmp_path, "a", "b", "c"), "a", "b", "c") == [False, True, True]


def test_changed_files_are_made_anew_and_the_others_stay(tmp_path: Path) -> None:
    """Files come, go and change places; a place that is free is used again."""
    cache = opened(tmp_path, "a", "b", "c")
    for number, name in enumerate("abc"):
        cache.write(number, sample(name))
    now = "new", "c", "a", "b, written to"
    after = opened(tmp_path, *now)
    assert holds(after, *now) == [False, True, True, False]
    after.write(3, sample(now[3]))
    after.write(0, sample(now[0]))
    assert holds(opened(tmp_path, *now), *now) == [True] * 4
    assert holds(opened(tmp_path, "b"), "b") == [False]  # its place was free, and is another's now


def test_other_rules_and_sizes_begin_anew_and_leave_who_reads_alone(tmp_path: Path) -> None:
    cache = opened(tmp_path, "a")
    cache.write(0, sample("a"))
    assert holds(opened(tmp_path, "a", rules="b"), "a") == [False]
    assert holds(cache, "a") == [True]
    again, _ = open_cache(tmp_path, keys("a"), mode="auto", sample_bytes=8, rules="b", reserve=0)
    assert again is not None
    assert not again.read(0, np.zeros(8, np.uint8))
    (tmp_path / PACK_NAME).write_bytes(b"no pack at all")
    assert holds(opened(tmp_path, "a"), "a") == [False]


def test_samples_that_are_the_same_share_a_place(tmp_path: Path) -> None:
    cache = opened(tmp_path, "a", "b", "a")
    cache.write(2, sample("a"))
    assert holds(cache, "a", "b", "a") == [True, False, True]


def test_more_samples_than_a_group_has_places_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_cache, "_GROUP", 4)
    cache = opened(tmp_path, *range(6))
    for number in range(6):
        cache.write(number, sample(number))
    more = opened(tmp_path, *range(13))
    assert holds(more, *range(13)) == [True] * 6 + [False] * 7
    for number in range(6, 13):
        more.write(number, sample(number))
    assert holds(opened(tmp_path, *range(13)), *range(13)) == [True] * 13


@pytest.mark.parametrize("at", [0, 500, BYTES - 1])
def test_what_is_half_written_never_counts(tmp_path: Path, at: int) -> None:
    """As a power cut leaves it: the table says that the sample is there, and a page of it never reached the disk."""
    cache = opened(tmp_path, "a", "b")
    cache.write(0, sample("a"))
    cache.write(1, sample("b"))
    whole = (tmp_path / PACK_NAME).read_bytes()
    start = whole.index(sample("a").tobytes())
    broken = bytearray(whole)
    broken[start + at] ^= 1
    (tmp_path / PACK_NAME).write_bytes(broken)
    again = opened(tmp_path, "a", "b")
    assert holds(again, "a", "b") == [False, True]
    again.write(0, sample("a"))  # and is made anew
    assert holds(opened(tmp_path, "a", "b"), "a", "b") == [True, True]
    (tmp_path / PACK_NAME).write_bytes(whole[: start + at])  # cut off
    assert holds(opened(tmp_path, "a", "b"), "a", "b") == [False, False]


def write_forever(cache: SampleCache, names: list[int]) -> None:
    while True:
        for number in names:
            cache.write(number, sample(number))


def write_all(cache: SampleCache, names: list[int]) -> None:
    for number in names:
        assert cache.write(number, sample(number))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_write_at_once_and_see_each_other(tmp_path: Path, start: str) -> None:
    cache = opened(tmp_path, *range(60))
    context = multiprocessing.get_context(start)
    parts = [list(range(40)), list(range(20, 60))]  # both write 20 to 39: the same bytes
    processes = [context.Process(target=write_all, args=(cache, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(holds(cache, *range(60)))
    assert all(holds(pickle.loads(pickle.dumps(cache)), *range(60)))


def test_a_process_that_is_killed_leaves_nothing_half_done(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        cache = opened(tmp_path, *range(40))
        process = multiprocessing.get_context("fork").Process(target=write_forever, args=(cache, list(range(40))))
        process.start()
        time.sleep(float(rng.uniform(0.005, 0.05)))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        holds(opened(tmp_path, *range(40)), *range(40))  # compares what is there
        os.remove(tmp_path / PACK_NAME)


def test_two_that_open_the_same_samples_agree_on_their_places(tmp_path: Path) -> None:
    """As the processes of a training on several devices do: the second comes when the first has begun to write."""
    one = opened(tmp_path, "a", "b", "c")
    one.write(2, sample("c"))
    other = opened(tmp_path, "a", "b", "c")
    other.write(0, sample("a"))
    one.write(1, sample("b"))
    assert holds(one, "a", "b", "c") == holds(other, "a", "b", "c") == [True] * 3


def test_who_lost_a_place_to_others_neither_reads_nor_writes_there(tmp_path: Path) -> None:
    one = opened(tmp_path, "a")
    one.write(0, sample("a"))
    assert holds(one, "a") == [True]
    other = opened(tmp_path, "b")
    other.write(0, sample("b"))
    assert holds(one, "a") == [False]
    assert not one.write(0, sample("a"))
    assert holds(other, "b") == [True]


def test_none_is_kept_where_the_disk_is_too_small(tmp_path: Path) -> None:
    cache, remark = open_cache(
        tmp_path, keys(*range(5)), mode="auto", sample_bytes=10**17, rules="", reserve=1_500_000_000
    )
    assert cache is None
    assert "samples are not kept, and made anew in every epoch: " in remark
    assert "they take 500000000.0 GB, and 1.5 GB are left alone; --cache off says so" in remark
    assert not (tmp_path / PACK_NAME).exists()
    assert open_cache(tmp_path, [], mode="off", sample_bytes=1, rules="") == (None, "")


def test_what_is_kept_already_needs_no_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path, "a", "b")
    cache.write(0, sample("a"))
    cache.write(1, sample("b"))
    full = os.statvfs(tmp_path)
    monkeypatch.setattr(sample_cache.shutil, "disk_usage", lambda _: type("", (), {"free": 0, "total": full.f_blocks}))
    assert holds(opened(tmp_path, "a", "b"), "a", "b") == [True, True]
    assert open_cache(tmp_path, keys("a", "c"), mode="auto", sample_bytes=BYTES, rules="a", reserve=0).cache is None


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache, remark = open_cache(tmp_path / "file", keys("a"), mode="auto", sample_bytes=BYTES, rules="")
    assert cache is None
    assert remark.startswith("samples are not kept, and made anew in every epoch: ")


def test_a_disk_that_gets_full_ends_writing_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path, "a", "b")
    cache.write(0, sample("a"))
    worker = pickle.loads(pickle.dumps(cache))
    whole = os.pwrite

    def full(file: int, data: memoryview, at: int) -> int:
        if len(data) == BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    assert not worker.write(1, sample("b"))
    monkeypatch.undo()
    assert cache.stopped  # for all processes
    assert not cache.write(1, sample("b"))
    assert holds(cache, "a", "b") == [True, False]
    assert cache.note().endswith(
        "samples.pack is full: 1 of 2 samples are kept, the others are made anew in every epoch"
    )
    assert not opened(tmp_path, "a", "b").stopped  # the next start tries again
