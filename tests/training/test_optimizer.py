"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from deedsr.training.optimizer import scheduled


def stepped(kind: str, steps: int = 3) -> torch.Tensor:
    parameter = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = scheduled([parameter], 0.1, 0, 10, 0.01, "constant", kind)["optimizer"]
    for _ in range(steps):
        optimizer.zero_grad()
        parameter.pow(3).sum().backward()
        optimizer.step()
    return parameter.detach()


def test_fused_steps_are_plain_steps() -> None:
    assert torch.allclose(stepped("adamw"), stepped("fused"), atol=1e-6)
    assert not torch.allclose(stepped("adamw"), stepped("adamw", 2), atol=1e-3)
    assert scheduled([nn.Parameter(torch.zeros(1))], 1, 0, 1, kind="fused")["optimizer"].defaults["fused"]


def gradient_step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_muon_takes_orthogonal_steps_of_adamws_size() -> None:
    """Matrices and convolutions: singular values all alike, RMS 0.2 times the rate; a bias's first step has no size."""
    shapes = (16, 24), (8, 4, 3, 3), (5,)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    gradient_step(scheduled(parameters, 0.1, 0, 10, 0.0, "constant", "muon")["optimizer"], parameters, 0)
    for parameter in parameters[:2]:
        values = torch.linalg.svdvals(parameter.detach().flatten(1))
        assert values.min() > 0.6 * values.max()
        assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(0.02, rel=0.3)
        assert len(parameter.unique()) == parameter.numel()  # float32: bfloat16, which CPUs emulate, has too few values
    bias = parameters[2]
    assert torch.equal(bias.detach().sign(), -bias.grad.sign()) and float(bias.abs().max() / bias.abs().min()) < 1.001


def test_muon_goes_on_from_its_state() -> None:
    whole, broken = ([nn.Parameter(torch.ones(6, 3, 3, 3)), nn.Parameter(torch.ones(6))] for _ in range(2))
    first, second, again = (scheduled(part, 0.1, 0, 10, kind="muon")["optimizer"] for part in (whole, broken, broken))
    for optimizer, parameters in ((first, whole), (second, broken)):
        gradient_step(optimizer, parameters, 1)
    again.load_state_dict(second.state_dict())
    for optimizer, parameters in ((first, whole), (again, broken)):
        gradient_step(optimizer, parameters, 2)
    assert all(torch.equal(one, other) for one, other in zip(whole, broken, strict=True))


def rates(schedule: str) -> list[float]:
    course = scheduled([nn.Parameter(torch.zeros(1))], 2.0, 4, 8, 0.01, schedule)
    optimizer, scheduler, seen = course["optimizer"], course["lr_scheduler"]["scheduler"], []
    for _ in range(9):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_rate_rises_and_stays_or_falls_to_zero() -> None:
    assert rates("constant") == pytest.approx([0.5, 1, 1.5, *[2] * 6])
    cosine = rates("cosine")
    assert cosine[0] == pytest.approx(0.5)
    assert cosine[4] == pytest.approx(1)
    assert cosine[8] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_what_is_loaded_changes_no_option(kind: str) -> None:
    """The rate and the decay of the second are its own from the next step on, and so is the course of the rate."""
    parameters = [[nn.Parameter(torch.ones(4, 4))] for _ in range(2)]
    old = scheduled(parameters[0], 2.0, 4, 8, 0.01, "cosine", kind)
    new = scheduled(parameters[1], 3.0, 0, 16, 0.5, "cosine", kind)
    for _ in range(3):
        gradient_step(old["optimizer"], parameters[0], 1)
        old["lr_scheduler"]["scheduler"].step()
    new["optimizer"].load_state_dict(old["optimizer"].state_dict())
    scheduler = new["lr_scheduler"]["scheduler"]
    scheduler.load_state_dict(old["lr_scheduler"]["scheduler"].state_dict())
    (group,) = new["optimizer"].param_groups
    for step in (3, 4):
        assert group["lr"] == pytest.approx(1.5 * (1 + math.cos(math.pi * step / 16)))
        assert scheduler.get_last_lr() == [group["lr"]]
        assert (group["weight_decay"], group["initial_lr"]) == (0.5, 3.0)
        gradient_step(new["optimizer"], parameters[1], 1)
        scheduler.step()
    states = [one["optimizer"].state_dict()["state"][0] for one in (old, new)]
    assert states[0].keys() == states[1].keys(), "the moments have been loaded"


def test_eight_bits_without_bitsandbytes_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # makes the import fail
    with pytest.raises(ValueError, match=r"optimizer\.kind=8bit needs bitsandbytes: run `pip install bitsandbytes`"):
        scheduled([nn.Parameter(torch.zeros(1))], 1e-3, 0, 1, kind="8bit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_eight_bits_go_on_from_their_state() -> None:
    pytest.importorskip("bitsandbytes")
    parameter = nn.Parameter(torch.randn(64, 128, device="cuda"))
    optimizer = scheduled([parameter], 0.1, 0, 10, kind="8bit")["optimizer"]
    parameter.square().sum().backward()
    optimizer.step()
    other = nn.Parameter(parameter.detach().clone())
    again = scheduled([other], 0.1, 0, 10, kind="8bit")["optimizer"]
    again.load_state_dict(optimizer.state_dict())
    other.grad = parameter.grad.clone()
    for one in (optimizer, again):
        one.step()
    assert torch.equal(parameter, other)
