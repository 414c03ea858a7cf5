"""Out of memory is a size, not an end. The error is torch's real one, raised above a size on the CPU."""

import gc
import weakref

import pytest

from lightmill.engine.batching import REGROW_AFTER, LearntSizes, is_out_of_memory, run_in_batches, signature

torch = pytest.importorskip("torch")


class Model:
    """Doubles numbers; more than `fits` at once is out of memory, `poison` cannot be done at all."""

    def __init__(self, fits, poison=()):
        self.fits = fits
        self.poison = poison
        self.sizes = []

    def __call__(self, chunk):
        self.sizes.append(len(chunk))
        if len(chunk) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        if any(item in self.poison for item in chunk):
            raise ValueError(f"cannot do {[item for item in chunk if item in self.poison]}")
        return [2 * item for item in chunk]


def run(model, items, *, most=16, learnt=None, alone=None, freed=None):
    def no_cpu(item):
        raise torch.OutOfMemoryError("nor on the CPU")

    return run_in_batches(
        model,
        items,
        what="double on test: int[]",
        most=most,
        learnt=learnt or LearntSizes(),
        free_memory=lambda: freed.append(1) if freed is not None else None,
        alone=alone or no_cpu,
        failed=lambda item, error: f"{item}: {type(error).__name__}: {error}",
    )


def test_batches_are_halved_until_they_fit_and_no_item_is_lost_or_done_twice():
    model, freed, learnt = Model(fits=3), [], LearntSizes()
    assert run(model, list(range(14)), learnt=learnt, freed=freed) == [2 * i for i in range(14)]
    assert model.sizes[:3] == [14, 7, 3]
    assert len(freed) == 2
    assert learnt.sizes == {"double on test: int[]": 3}
    assert model.sizes[3:] == [3, 3, 3, 2]


def test_the_learnt_size_is_used_at_once_the_next_time():
    model, learnt = Model(fits=3), LearntSizes({"double on test: int[]": 3})
    run(model, list(range(9)), learnt=learnt)
    assert model.sizes == [3, 3, 3]


def test_it_grows_back_slowly_after_clean_batches():
    model, learnt = Model(fits=100), LearntSizes({"double on test: int[]": 4})
    run(model, list(range(4 * REGROW_AFTER + 5)), learnt=learnt)
    assert model.sizes == [4] * REGROW_AFTER + [5]
    assert learnt.sizes == {"double on test: int[]": 5}


def test_it_never_grows_above_what_was_asked_for():
    model, learnt = Model(fits=100), LearntSizes({"double on test: int[]": 15})
    run(model, list(range(400)), learnt=learnt, most=16)
    assert max(model.sizes) == 16


def test_one_item_that_does_not_fit_goes_to_the_cpu_and_the_next_is_tried_on_the_device():
    model = Model(fits=0)
    assert run(model, [1, 2, 3], alone=lambda item: -item) == [-1, -2, -3]
    assert model.sizes == [3, 1, 1, 1]


def test_and_fails_alone_where_the_cpu_cannot_either():
    assert run(Model(fits=0), [1]) == ["1: OutOfMemoryError: nor on the CPU"]


def test_a_batch_that_raises_is_retried_item_by_item_and_only_the_bad_one_fails():
    model = Model(fits=100, poison={3})
    assert run(model, [1, 2, 3, 4]) == [2, 4, "3: ValueError: cannot do [3]", 8]
    assert model.sizes == [4, 1, 1, 1, 1]


def test_the_handler_is_left_before_memory_is_freed():
    """The traceback of an out-of-memory error keeps the batch's tensors alive: they must be gone by then."""
    alive = []

    class Tensor:
        pass

    def work(chunk):
        held = Tensor()
        alive.append(weakref.ref(held))
        if len(chunk) > 1:
            raise torch.OutOfMemoryError("too many")
        return chunk

    def free():
        gc.collect()
        assert alive[-1]() is None

    run_in_batches(
        work, [1, 2], what="x", most=2, learnt=LearntSizes(), free_memory=free, alone=lambda i: i, failed=lambda i, e: e
    )
    assert len(alive) == 3


def test_which_errors_are_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("out of memory, says a text"))


def test_signatures_tell_shapes_and_types_apart():
    import numpy as np

    a, b = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)
    assert signature([a]) == signature([a + 1])
    assert len({signature([a]), signature([b]), signature([a[:2]]), signature([a, a])}) == 4
