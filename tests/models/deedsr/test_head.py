"""The head that reads a degradation vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deedsr import weights
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.head import DIAGNOSIS, FAMILIAR, DiagnosisHead, load_head, to_scale
from deedsr.options import Dials


@pytest.fixture
def head() -> DiagnosisHead:
    """One with random weights that reads 16 numbers."""
    torch.manual_seed(0)
    head = DiagnosisHead(16, 32, 8)
    head.centre.copy_(to_scale(torch.tensor([1.5, 12.0, 50.0])))
    head.spread.fill_(0.1)
    head.whiten.copy_(torch.eye(16))
    head.reach.fill_(2.0)
    return head.requires_grad_(False)


@pytest.mark.parametrize("value", [-0.1, 2.5, float("nan")])
def test_a_dial_out_of_range_is_named(value: float) -> None:
    with pytest.raises(ValueError, match="dejpeg is"):
        Dials(dejpeg=value)
    assert Dials().neutral
    assert not Dials(dejpeg=0.9).neutral


def test_a_head_from_before_there_was_strangeness_loads_and_says_so(head: DiagnosisHead, tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in head.state_dict().items() if name not in FAMILIAR}
    file = weights.save(tmp_path / DIAGNOSIS, old, head.config())
    found = load_head(file, DegradationEncoder((1, 1, 1, 1), (8, 8, 8, 16), 8))
    vector = torch.randn(2, 16)
    assert torch.equal(found(vector)[0], head(vector)[0])
    assert head.judges and not found.judges
    with pytest.raises(ValueError, match=rf"{file}: knows no strangeness yet.*python -m stage1\.head weights="):
        found.strangeness(vector)
