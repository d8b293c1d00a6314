"""Probes within a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from deedsr import weights
from stage1.from_config import train
from stage1.probe.while_training import evaluating

Compose = Callable[..., DictConfig]
SMALL = ["probe.crop=64", "probe.fit.crops=3", "probe.test.crops=2"]


def test_probes_are_logged_and_leave_the_weights_to_the_bit(tiny: Compose, tmp_path: Path) -> None:
    train(tiny(tmp_path / "plain", "steps=5"))
    train(tiny(tmp_path / "probed", "steps=5", "probe.every=2", *SMALL))
    plain, probed = (
        weights.load_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("plain", "probed")
    )
    assert plain.keys() == probed.keys()
    for name, tensor in plain.items():
        assert torch.equal(tensor, probed[name]), name
    log = EventAccumulator(str(tmp_path / "probed")).Reload()
    logged = {tag for tag in log.Tags()["scalars"] if tag.startswith("probe/")}
    assert {"probe/blur", "probe/noise", "probe/jpeg", "probe/level", "probe/content"} <= logged
    assert [event.step for event in log.Scalars("probe/noise")] == [2, 4]


def test_each_part_gets_its_own_mode_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with evaluating(module):
        module(torch.rand(8, 2))
    assert [part.training for part in (module, *module)] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_wrong_interval_is_named(tiny: Compose, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"probe\.every must be at least 1, got 0"):
        train(tiny(tmp_path, "steps=1", "probe.every=0"))
