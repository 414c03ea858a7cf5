import torch
from torch import nn

from lightmill.train.ema import average_in, decay_at


def network(value: float) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for tensor in made.state_dict().values():
        tensor.fill_(value)
    return made


def test_an_average_follows_its_formula() -> None:
    average, steps = network(1.0), [2.0, 3.0, 5.0]
    wanted = 1.0
    for value in steps:
        average_in(average, network(value), decay=0.75)
        wanted = 0.75 * wanted + 0.25 * value
    state = average.state_dict()
    for name in ("0.weight", "1.weight", "1.running_var"):
        torch.testing.assert_close(state[name], torch.full_like(state[name], wanted))
    assert int(state["1.num_batches_tracked"]) == 5  # a counter is no average


def test_what_does_not_change_stays_to_the_last_bit() -> None:
    """A4.5: the average of a frozen backbone is the backbone."""
    average, still = network(0.1), network(0.1)
    for step in range(1, 200):
        average_in(average, still, decay=decay_at(step, decay=0.999))
    wanted = still.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in average.state_dict().items())


def test_an_average_forgets_its_start() -> None:
    average = network(100.0)
    for step in range(1, 300):
        average_in(average, network(1.0), decay=decay_at(step, decay=0.999))
    assert abs(float(average.state_dict()["0.weight"][0, 0]) - 1) < 1e-3
