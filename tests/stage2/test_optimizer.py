"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from stage2.optimizer import adamw


def stepped(kind: str, steps: int = 3) -> torch.Tensor:
    parameter = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = adamw([parameter], 0.1, 0, 10, 0.01, "constant", kind)["optimizer"]
    for _ in range(steps):
        optimizer.zero_grad()
        parameter.pow(3).sum().backward()
        optimizer.step()
    return parameter.detach()


def test_fused_steps_are_plain_steps() -> None:
    assert torch.allclose(stepped("adamw"), stepped("fused"), atol=1e-6)
    assert not torch.allclose(stepped("adamw"), stepped("adamw", 2), atol=1e-3)
    assert adamw([nn.Parameter(torch.zeros(1))], 1, 0, 1, kind="fused")["optimizer"].defaults["fused"]


def rates(schedule: str) -> list[float]:
    course = adamw([nn.Parameter(torch.zeros(1))], 2.0, 4, 8, 0.01, schedule)
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


def test_eight_bits_without_bitsandbytes_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # makes the import fail
    with pytest.raises(ValueError, match=r"optimizer\.kind=8bit needs bitsandbytes: run `pip install bitsandbytes`"):
        adamw([nn.Parameter(torch.zeros(1))], 1e-3, 0, 1, kind="8bit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_eight_bits_go_on_from_their_state() -> None:
    pytest.importorskip("bitsandbytes")
    parameter = nn.Parameter(torch.randn(64, 128, device="cuda"))
    optimizer = adamw([parameter], 0.1, 0, 10, kind="8bit")["optimizer"]
    parameter.square().sum().backward()
    optimizer.step()
    other = nn.Parameter(parameter.detach().clone())
    again = adamw([other], 0.1, 0, 10, kind="8bit")["optimizer"]
    again.load_state_dict(optimizer.state_dict())
    other.grad = parameter.grad.clone()
    for one in (optimizer, again):
        one.step()
    assert torch.equal(parameter, other)
