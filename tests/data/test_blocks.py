"""Batches in shared places: nothing is overwritten that anybody still looks at, and places are used again."""

import gc
import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from lightmill.data.blocks import Sent, SharedBlocks
from lightmill.data.crops import Samples, begin_work, collate, read_samples

SHAPE = (4, 2, 3, 3)


def test_a_place_is_free_again_when_its_last_view_is_gone():
    """A slice of a batch keeps all of it, as it does with any tensor."""
    blocks = SharedBlocks(workers=2, each=2, length=72)
    first, second = blocks.take(1, SHAPE), blocks.take(1, SHAPE)
    assert (first.at, second.at) == (2, 3)
    assert blocks.take(1, SHAPE) is None
    assert blocks.take(0, SHAPE).at == 0
    first.tensor.fill_(7)
    pixels, rows = pickle.loads(pickle.dumps(Sent(first, np.arange(4))))
    assert pixels.shape == SHAPE
    assert torch.equal(pixels, torch.full(SHAPE, 7, dtype=torch.uint8))
    assert rows.tolist() == [0, 1, 2, 3]
    assert pixels.data_ptr() == first.tensor.data_ptr()
    part = pixels.permute(0, 3, 1, 2)[1:]
    del pixels
    gc.collect()
    assert blocks.take(1, SHAPE) is None
    assert (part == 7).all()
    del part
    gc.collect()
    assert blocks.take(1, SHAPE).at == 2


def test_a_batch_that_is_too_large_for_a_place_gets_none():
    blocks = SharedBlocks(workers=1, each=1, length=71)
    assert blocks.take(0, SHAPE) is None
    assert blocks.take(0, (3, *SHAPE[1:])).tensor.shape == (3, *SHAPE[1:])


def test_without_room_there_are_none():
    if not os.path.isdir("/dev/shm"):
        pytest.skip("this system keeps shared memory elsewhere")
    assert SharedBlocks.if_room(workers=2, each=4, length=1 << 45) is None
    assert isinstance(SharedBlocks.if_room(workers=2, each=4, length=100), SharedBlocks)


class Numbers:
    """A data set whose sample i is all i."""

    def __init__(self, *, size=4):
        self.blocks = None
        self.size = size

    def __len__(self):
        return 200

    def __getitems__(self, indices) -> Samples:
        return read_samples(self, indices, shape=(self.size, self.size, 3), seed=0)

    def read(self, index, out, draws):
        out[:] = index

    def another(self, index, rng):
        raise AssertionError


def loader_of(blocks, dataset):
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=8,
        num_workers=2,
        persistent_workers=True,
        collate_fn=collate,
        worker_init_fn=partial(begin_work, blocks=blocks),
    )


def check(pixels, rows):
    assert torch.equal(pixels, rows.to(torch.uint8)[:, None, None, None].expand_as(pixels))


def test_a_training_that_keeps_batches_finds_them_unchanged():
    """All of an epoch is held, far more than there are places: workers go on in memory of their own."""
    blocks = SharedBlocks(workers=2, each=2, length=8 * 48)
    loader = loader_of(blocks, Numbers())
    held = list(loader)
    more = list(loader)
    assert len(held) == len(more) == 25
    for pixels, rows in held + more:
        check(pixels, rows)
    assert torch.cat([rows for _, rows in held]).tolist() == list(range(200))


def test_places_are_used_again_epoch_after_epoch():
    blocks = SharedBlocks(workers=2, each=4, length=8 * 48)
    loader = loader_of(blocks, Numbers())
    first, end = blocks._places.data_ptr(), blocks._places.data_ptr() + blocks._places.numel()
    inside = 0
    for _ in range(3):
        for pixels, rows in loader:
            check(pixels, rows)
            inside += first <= pixels.data_ptr() < end
    del pixels
    gc.collect()
    assert inside == 75
    assert blocks._taken.sum() == 0


def test_an_epoch_that_is_left_half_way_gives_its_places_back():
    blocks = SharedBlocks(workers=2, each=4, length=8 * 48)
    loader = loader_of(blocks, Numbers())
    for _ in range(5):
        for number, (pixels, rows) in enumerate(loader):
            check(pixels, rows)
            if number == 3:
                break
    assert len(list(loader)) == 25
    del pixels
    gc.collect()
    assert blocks._taken.sum() == 0
