"""Edges that are smoothed along themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deedsr import coherence
from deedsr.coherence import coherent
from deedsr.models import load_model
from deedsr.options import Options
from deedsr.pictures.picture import read
from deedsr.restorer import Restorer


def slanted(width: float, side: int = 96) -> Tensor:
    """An edge that is `width` pixels wide and rises by one in three, (1, 3, side, side)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    away = (rows - side / 2 - (columns - side / 2) / 3) * 3 / 10**0.5
    return (0.2 + 0.6 * (away / width).sigmoid())[None, None].expand(1, 3, -1, -1).contiguous()


def toothed(width: float) -> Tensor:
    """The same with teeth of four pixels, as a decoder's grid gives."""
    edge = slanted(width)
    teeth = ((torch.arange(96) // 2) % 2 * 2 - 1) * 0.1
    return (edge + teeth * 4 * (edge - 0.2) * (0.8 - edge) / 0.36).clamp(0, 1)


def inner(picture: Tensor) -> Tensor:
    return picture[..., 24:-24, 24:-24]


def test_teeth_go_and_the_edge_stays() -> None:
    before = inner(toothed(1.0) - slanted(1.0)).abs().mean()
    after = inner(coherent(toothed(1.0), 1) - coherent(slanted(1.0), 1)).abs().mean()
    assert after < before / 3


def test_a_soft_edge_becomes_steeper_without_a_halo() -> None:
    soft, made = slanted(2.0), coherent(slanted(2.0), 1)
    steepest = [inner(picture).diff(dim=-2).abs().max() for picture in (soft, made)]
    assert steepest[1] > 1.2 * steepest[0]
    assert inner(made).min() >= 0.2 and inner(made).max() <= 0.8


def test_what_is_faint_or_has_no_direction_stays() -> None:
    faint = 0.5 + 0.02 * (slanted(1.0) - 0.5)
    assert (coherent(faint, 1) - faint).abs().max() < 1e-3
    noise = 0.5 + 0.1 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert inner(coherent(noise, 1) - noise).abs().mean() < 0.1 * 0.1


def test_nothing_of_it_gives_the_picture_itself_and_half_lies_between() -> None:
    picture = toothed(1.0)
    assert coherent(picture, 0) is picture
    half, whole = ((coherent(picture, strength) - picture).abs().mean() for strength in (0.5, 1))
    assert 0.2 * whole < half < 0.8 * whole


def test_parts_of_a_large_picture_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.cat([toothed(1.0), slanted(2.0)], -1).repeat(2, 1, 2, 1)
    whole = coherent(picture, 1)
    monkeypatch.setattr(coherence, "PART", 80)
    assert torch.allclose(coherent(picture, 1), whole, atol=1e-5)


def test_it_can_be_trained_through() -> None:
    picture = toothed(1.0)[..., :32, :32].repeat(2, 1, 1, 1).requires_grad_()
    coherent(picture, 1).square().sum().backward()
    assert picture.grad is not None and picture.grad.isfinite().all() and picture.grad.abs().sum() > 0


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_what_is_no_share_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=f"coherence is {value:g}; choose 0 to 1"):
        Options(coherence=value)


def test_the_built_in_model_restores_with_it() -> None:
    lr = read(Path(__file__).parent / "data" / "rooftops.png").rgb[..., :64, :96]
    model = load_model("built-in")
    own, whole, none = (Restorer(model, Options(coherence=value)).restore(lr) for value in (None, 1, 0))
    assert torch.equal(own, whole) and not torch.equal(whole, none)
    assert torch.allclose(coherent(none, 1), whole, atol=1e-5)
