"""Memory is used again, and only when nobody looks at it any more."""

import threading

import numpy as np

from lightmill.engine.buffers import Buffers, MemoryBudget, free_memory_bytes, nbytes


def test_memory_comes_back_with_the_last_view_and_not_before():
    buffers = Buffers()
    first = buffers.take((1000, 100, 3))
    address = first.ctypes.data
    view = first[10:20, ::2]
    del first
    assert buffers.idle_bytes == 0
    other = buffers.take((1000, 100, 3))
    assert other.ctypes.data != address  # the view still stands on the first
    del view
    assert buffers.idle_bytes == 300_000
    assert buffers.take((300_000,)).ctypes.data == address


def test_arrays_are_contiguous_writable_and_of_the_type_asked_for():
    array = Buffers().take((300, 200), np.float32)
    assert array.shape == (300, 200)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    array[:] = 2.5
    assert array.sum() == 150_000


def test_not_more_than_asked_for_lies_idle():
    buffers = Buffers(keep_bytes=250_000)
    arrays = [buffers.take((200_000,)) for _ in range(3)]
    del arrays
    assert buffers.idle_bytes == 200_000


def test_threads_never_get_the_same_memory():
    buffers, wrong = Buffers(), []

    def work(number):
        for _ in range(300):
            array = buffers.take((70_000,))
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_budget_admits_what_fits_and_always_one():
    budget, most, now, lock = MemoryBudget(100), [0], [0], threading.Lock()

    def work(amount):
        with budget.hold(amount):
            with lock:
                now[0] += amount
                most[0] = max(most[0], now[0])
            with lock:
                now[0] -= amount

    threads = [threading.Thread(target=work, args=(60,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert most[0] == 60
    with budget.hold(1000):  # larger than the whole budget: passes when nothing else is held
        pass


def test_sizes_of_fields():
    array = np.zeros((10, 10), np.float32)
    assert nbytes(array) == 400
    assert nbytes({"a": array, "b": [b"123", array]}) == 803
    assert free_memory_bytes() > 0
