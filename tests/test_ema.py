"""The moving average against its formula, and through a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deedsr.ema import Average


def moved(average: Average, parameter: nn.Parameter, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            parameter.fill_(value)
        average.update()


def test_follows_the_formula() -> None:
    parameter = nn.Parameter(torch.full((3,), 5.0, dtype=torch.float64))
    average, expected = Average([("p", parameter)], 0.6), 5.0
    values = [1.0, -2.0, 4.0, 8.0, 0.5, 3.0, 1.0, 1.0]
    for step, value in enumerate(values):
        moved(average, parameter, [value])
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(average.tensors["p"], torch.full((3,), expected, dtype=torch.float64))
    assert (1 + len(values)) / (10 + len(values)) < 0.6 < (1 + 20) / (10 + 20), "the bound was never reached"
    moved(average, parameter, [1.0] * 200)
    torch.testing.assert_close(average.tensors["p"], torch.ones(3, dtype=torch.float64))


def test_a_decay_of_0_is_no_average() -> None:
    parameter = nn.Parameter(torch.zeros(1000))
    average = Average([("p", parameter)], 0)
    for seed in range(3):
        with torch.no_grad():
            parameter.copy_(torch.randn(1000, generator=torch.Generator().manual_seed(seed)))
        average.update()
        assert torch.equal(average.tensors["p"], parameter.detach())


def test_keeps_only_what_it_is_given() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    average = Average((name, p) for name, p in module.named_parameters() if p.requires_grad)
    assert average.tensors.keys() == {"1.weight", "1.bias"}
    assert all(tensor.data_ptr() != p.data_ptr() for tensor in average.tensors.values() for p in module.parameters())
    assert not any(tensor.requires_grad for tensor in average.tensors.values())


def test_swapped_gives_the_parameters_back() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average = Average([("p", parameter)], 0.5)
    moved(average, parameter, [1.0, 2.0])
    with pytest.raises(RuntimeError, match="inside"), average.swapped():
        assert torch.equal(parameter.detach(), average.tensors["p"])
        raise RuntimeError("inside")
    assert torch.equal(parameter.detach(), torch.full((2,), 2.0))
    assert not torch.equal(average.tensors["p"], parameter.detach())


def test_goes_on_from_its_state() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    whole, first = Average([("p", parameter)]), Average([("p", parameter)])
    for step in range(10):
        with torch.no_grad():
            parameter.fill_(step**2)
        whole.update()
        if step == 5:
            state = first.state_dict()
            first = Average([("p", parameter)])
            first.load_state_dict(state)
        first.update()
    assert torch.equal(whole.tensors["p"], first.tensors["p"])
    assert first.updates == 10


def test_its_state_is_a_copy() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average = Average([("p", parameter)], 0.5)
    state = average.state_dict()
    moved(average, parameter, [4.0])
    assert torch.equal(state["tensors"]["p"], torch.zeros(2))


def test_refuses_a_state_of_other_parameters() -> None:
    state = Average([("a", nn.Parameter(torch.zeros(1)))]).state_dict()
    with pytest.raises(ValueError, match="not those that are trained now"):
        Average([("b", nn.Parameter(torch.zeros(1)))]).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_the_decay_must_be_below_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        Average([], decay)
