"""What is made once is kept within its bound, and a failure is not."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightmill.ops.cache import ByteCache


def get(cache: ByteCache[bytes], key: str, value: bytes, *, group: str = "one") -> bytes:
    return cache.get(key, group=group, make=lambda: value, nbytes=len)


def test_a_value_is_made_once() -> None:
    cache: ByteCache[bytes] = ByteCache(capacity_bytes=10)
    assert get(cache, "a", b"first") == b"first"
    assert get(cache, "a", b"second") == b"first"
    assert cache.used_bytes == 5


def test_the_longest_unused_of_other_groups_go_first() -> None:
    cache: ByteCache[bytes] = ByteCache(capacity_bytes=10)
    for key in "abc":
        get(cache, key, b"123", group="old")
    get(cache, "a", b"")
    get(cache, "d", b"1234", group="new")
    assert [cache.is_known(key) for key in "abcd"] == [True, False, True, True]
    assert cache.used_bytes == 10


def test_a_group_larger_than_the_cache_keeps_what_it_has() -> None:
    cache: ByteCache[bytes] = ByteCache(capacity_bytes=10)
    made: list[str] = []
    for _ in range(3):
        for key in "abcd":
            cache.get(key, group="one", make=lambda key=key: made.append(key) or b"123", nbytes=len)  # type: ignore[misc]
    assert made == ["a", "b", "c", "d", "d", "d"]


def test_a_failure_reaches_the_caller_and_the_next_one_tries_again() -> None:
    cache: ByteCache[bytes] = ByteCache(capacity_bytes=10)

    def fail() -> bytes:
        raise MemoryError("no room for the map")

    with pytest.raises(MemoryError, match="no room for the map"):
        cache.get("a", group="one", make=fail, nbytes=len)
    assert not cache.is_being_made("a")
    assert get(cache, "a", b"there") == b"there"


def test_others_wait_for_the_thread_that_makes_it() -> None:
    cache: ByteCache[bytes] = ByteCache(capacity_bytes=10)
    begun, may_end = threading.Event(), threading.Event()

    def make() -> bytes:
        begun.set()
        assert may_end.wait(10)
        return b"made"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: cache.get("a", group="one", make=make, nbytes=len))
        assert begun.wait(10)
        assert cache.is_being_made("a")
        second = pool.submit(get, cache, "a", b"other")
        assert get(cache, "b", b"meanwhile") == b"meanwhile"  # another key does not wait
        may_end.set()
        assert first.result() == second.result() == b"made"
