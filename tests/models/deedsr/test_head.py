"""The head that reads a degradation vector, and its dials."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deedsr import weights
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.head import (
    CLEAN,
    DIAGNOSIS,
    STEERING,
    DiagnosisHead,
    from_scale,
    load_head,
    to_scale,
    wanted,
)
from deedsr.models.deedsr.model import DeeDSR
from deedsr.options import Dials


@pytest.fixture
def head() -> DiagnosisHead:
    """One with random weights that reads 16 numbers and knows directions."""
    torch.manual_seed(0)
    head = DiagnosisHead(16, 32, 8)
    torch.nn.init.normal_(head.directions)
    head.centre.copy_(to_scale(torch.tensor([1.5, 12.0, 50.0])))
    head.spread.fill_(0.1)
    head.whiten.copy_(torch.eye(16))
    head.reach.fill_(2.0)
    return head.requires_grad_(False)


def test_neutral_dials_change_no_bit(head: DiagnosisHead) -> None:
    vector = torch.randn(4, 16)
    assert torch.equal(head.turned(vector, Dials().tensor()), vector)
    rows = torch.tensor([[1.0, 1, 1], [1, 0, 1], [2, 1, 1], [1, 1, 1]])
    turned = head.turned(vector, rows)
    assert (turned == vector).all(1).tolist() == [True, False, False, True]


def test_a_dial_moves_its_own_direction_by_what_the_head_reads(head: DiagnosisHead) -> None:
    vector = torch.randn(3, 16)
    mean, std, _ = head(vector)
    measured, _ = from_scale(mean, std)
    for number, (dials, value) in enumerate(
        [
            (Dials(deblur=0), measured[:, 0].clamp_max(CLEAN[0])),
            (Dials(denoise=2), 2 * measured[:, 1]),
            (Dials(dejpeg=0.5), (100 + measured[:, 2]) / 2),
        ]
    ):
        goal = measured.clone()
        goal[:, number] = value
        shift = (to_scale(goal) - to_scale(measured))[:, number]
        moved = head.turned(vector, dials.tensor()) - vector
        assert torch.allclose(moved, shift[:, None] * head.directions[number], atol=1e-5)


def test_what_is_wanted_stays_within_bounds() -> None:
    measured = torch.tensor([0.2, 3.0, 20.0])
    assert wanted(measured, torch.tensor([2.0, 0, 2])).tolist() == pytest.approx([0.2, 0.0, 1.0])
    assert wanted(measured, torch.tensor([0.0, 2, 0])).tolist() == pytest.approx([0.2, 6.0, 100.0])


@pytest.mark.parametrize("value", [-0.1, 2.5, float("nan")])
def test_a_dial_out_of_range_is_named(value: float) -> None:
    with pytest.raises(ValueError, match="dejpeg is"):
        Dials(dejpeg=value)
    assert Dials().neutral
    assert not Dials(dejpeg=0.9).neutral
    assert Dials(0.1, 0.2, 0.3).tensor().tolist() == pytest.approx([0.2, 0.1, 0.3])


def test_a_head_from_before_there_were_dials_loads_and_says_so(head: DiagnosisHead, tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in head.state_dict().items() if name not in STEERING}
    file = weights.save(tmp_path / DIAGNOSIS, old, head.config())
    found = load_head(file, DegradationEncoder((1, 1, 1, 1), (8, 8, 8, 16), 8))
    vector = torch.randn(2, 16)
    assert torch.equal(found(vector)[0], head(vector)[0])
    for call in (lambda: found.turned(vector, Dials().tensor()), lambda: found.strangeness(vector)):
        with pytest.raises(ValueError, match=rf"{file}: was fitted before .*python -m stage1\.head weights="):
            call()


def test_a_model_turns_its_vectors_with_a_head_that_is_no_part_of_it(tiny_model: DeeDSR, head: DiagnosisHead) -> None:
    vector, dials = torch.randn(2, 16), Dials(denoise=0).tensor()
    with pytest.raises(ValueError, match=r"no diagnosis\.safetensors, which dials need"):
        tiny_model.turned(vector, dials)
    before = tiny_model.state_dict().keys(), tiny_model.counts(), dict(tiny_model.trainable()).keys()
    tiny_model.take_head(head)
    assert before == (tiny_model.state_dict().keys(), tiny_model.counts(), dict(tiny_model.trainable()).keys())
    assert torch.equal(tiny_model.turned(vector, dials), head.turned(vector, dials))
    tiny_model.to(torch.bfloat16)
    assert tiny_model.turned(vector.bfloat16(), dials).dtype == torch.bfloat16
    assert head.reach.dtype == torch.float32
