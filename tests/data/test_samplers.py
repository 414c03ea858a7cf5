"""Oracle of the samplers, peers.md B4.4: P x K exactly, all identities in every epoch, equal seeds equal order."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightmill.data.samplers import IdentitySampler
from lightmill.errors import UsageError


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=9),
    identities=st.integers(1, 5),
    samples=st.integers(1, 5),
    groups=st.integers(1, 4),
    use_within=st.booleans(),
    use_spread=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_batch_is_p_identities_by_k_samples(counts, identities, samples, groups, use_within, use_spread, seed):
    """Against counting, with every option: exact batches, all identities in each epoch, repeats only where short."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    labels = rng.permutation(np.concatenate([labels, np.full(4, -1)]))
    group = rng.integers(0, groups, len(labels))
    identities = min(identities, len(counts))
    sampler = IdentitySampler(
        labels,
        identities=identities,
        samples=samples,
        within=group if use_within else None,
        spread=group if use_spread else None,
        pool=np.flatnonzero(labels < 0),
        negatives=2,
        seed=seed,
    )
    for number in range(2):
        seen = set()
        for batch in epoch(sampler, number):
            players, others = batch[:-2], batch[-2:]
            assert all(labels[index] == -1 for index in others)
            assert len(set(others)) == 2
            found = Counter(labels[players].tolist())
            assert len(found) == identities
            assert set(found.values()) == {samples}
            assert [labels[index] for index in players] == np.repeat(list(found), samples).tolist()  # side by side
            for label in found:
                own = [index for index in players if labels[index] == label]
                assert len(set(own)) == min(samples, np.count_nonzero(labels == label))
                assert max(Counter(own).values()) <= -(-samples // len(set(own)))
            seen |= found.keys()
        assert seen == set(labels[labels >= 0].tolist())


def test_equal_seeds_give_equal_order_and_epochs_differ():
    labels = np.arange(400) % 20

    def make(seed):
        return IdentitySampler(labels, identities=4, samples=3, seed=seed, spread=np.arange(400) % 3)

    assert epoch(make(1), 5) == epoch(make(1), 5) == epoch(pickle.loads(pickle.dumps(make(1))), 5)
    assert epoch(make(1), 5) != epoch(make(1), 6)
    assert epoch(make(1), 5) != epoch(make(2), 5)
    np.random.seed(3)  # noqa: NPY002 (the state of the process, which others depend on, must not matter)
    before = epoch(make(1), 5)
    np.random.seed(4)  # noqa: NPY002 (as above)
    assert before == epoch(make(1), 5)


def test_samples_and_identities_are_dealt_evenly():
    """Of equal identities each sample comes once an epoch; of unequal ones each identity equally often."""
    labels = np.repeat(np.arange(12), 16)
    sampler = IdentitySampler(labels, identities=4, samples=4)
    assert len(sampler) == 12
    for number in range(3):
        assert np.array_equal(np.sort(np.concatenate(epoch(sampler, number))), np.arange(len(labels)))
    labels = np.concatenate([np.repeat(np.arange(10), 3), np.repeat(np.arange(10, 13), 200)])
    batches = epoch(IdentitySampler(labels, identities=4, samples=2))
    often = Counter(int(label) for batch in batches for label in set(labels[batch].tolist()))
    assert max(often.values()) - min(often.values()) <= 1


def test_the_samples_of_an_identity_come_from_different_groups():
    rng = np.random.default_rng(0)
    labels, views = np.arange(600) % 10, rng.choice(["side", "top", "far"], 600, p=[0.9, 0.07, 0.03])
    for batch in epoch(IdentitySampler(labels, identities=5, samples=4, spread=views)):
        for first in range(0, 20, 4):
            own = batch[first : first + 4]
            found, has = Counter(views[own].tolist()), set(views[labels == labels[own[0]]].tolist())
            assert set(found) == has
            assert len(has) == 1 or max(found.values()) == 2
    plain = epoch(IdentitySampler(labels, identities=5, samples=4))
    assert any(set(views[batch[:4]]) == {"side"} for batch in plain)


def test_a_group_that_is_too_small_gives_what_it_has():
    """Five samples of two views, one of which has a single picture: four come from the other one."""
    views = np.array(["side"] * 6 + ["top"])
    (batch,) = epoch(IdentitySampler(np.zeros(7), identities=1, samples=5, spread=views, batches=1))
    assert Counter(views[batch].tolist()) == {"side": 4, "top": 1}
    assert len(set(batch)) == 5


def test_a_batch_stays_within_a_group_that_has_enough():
    """The sampler grouped by action of peers.md B2: negatives of one scene are the hard ones."""
    rng = np.random.default_rng(1)
    labels, group = rng.integers(0, 20, 2000), rng.integers(0, 8, 2000)
    batches = epoch(IdentitySampler(labels, identities=6, samples=3, within=group))
    used = [group[batch] for batch in batches]
    assert all(len(set(one.tolist())) == 1 for one in used[:-2])  # the last ones may owe someone a place
    visits = Counter(int(one[0]) for one in used)
    assert len(visits) == 8
    assert max(visits.values()) - min(visits.values()) <= 2


def test_a_batch_of_a_small_group_is_filled_from_others():
    """Group a has two identities: a batch of three takes both from it, and one more from elsewhere."""
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 0])
    group = np.array(list("aaaabbbbbb"))
    sampler = IdentitySampler(labels, identities=3, samples=2, within=group, batches=10)
    small = [batch for batch in epoch(sampler) if "".join(group[batch][:4]) == "aaaa"]
    assert small
    assert all(set(labels[batch[:4]]) == {0, 1} and labels[batch[4]] in (2, 3) for batch in small)


def test_an_identity_short_in_a_group_is_completed_from_its_others_before_any_repeats():
    group = np.array(["a", "b", "b", "c"])
    for number in range(5):
        (batch,) = epoch(IdentitySampler(np.zeros(4), identities=1, samples=4, within=group, batches=1), number)
        assert sorted(batch) == [0, 1, 2, 3]


def test_torch_and_lightning_take_it():
    """Lightning looks for `set_epoch` on the sampler of the batch sampler; the loader gives our batches unchanged."""
    from lightning.fabric.utilities.data import _set_sampler_epoch

    sampler = IdentitySampler(np.arange(60) % 6, identities=3, samples=4)
    loader = torch.utils.data.DataLoader(torch.arange(60), batch_sampler=sampler)
    _set_sampler_epoch(loader, 7)
    assert sampler.epoch == 7
    assert [batch.tolist() for batch in loader] == epoch(sampler, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": 4, "samples": 2}, "a batch of 4 identities needs as many, and there are 3; ask for fewer"),
        ({"identities": 0, "samples": 2}, "1 or more identities with 1 or more samples each, got 0 x 2"),
        ({"identities": 2, "samples": 0}, "1 or more identities with 1 or more samples each, got 2 x 0"),
        ({"identities": 2, "samples": 2, "negatives": 3}, "3 negatives a batch are asked for, and there are none"),
        ({"identities": 2, "samples": 2, "batches": 1}, "1 batches of 2 identities cannot show all 3 of them"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        IdentitySampler([0, 0, 1, 2, -1], **options)


def test_values_to_go_by_must_match_the_labels():
    with pytest.raises(ValueError, match=r"there are 3 labels, and values of shape \(2,\) to go by"):
        IdentitySampler([0, 1, 2], identities=2, samples=1, spread=["a", "b"])


def test_of_a_short_pool_negatives_come_again():
    batches = epoch(IdentitySampler(np.arange(8) % 4, identities=2, samples=2, pool=[5, 7], negatives=3))
    assert all(set(batch[4:]) == {5, 7} for batch in batches)
