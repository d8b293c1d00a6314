"""``stage1.probe`` on the encoder of a tiny run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from stage1.probe import run
from stage1.train import train

Compose = Callable[..., DictConfig]


def test_probes_a_trained_encoder_beside_an_untrained_one(tiny: Compose, tmp_path: Path) -> None:
    weights = train(tiny(tmp_path, "steps=3"))
    cfg = tiny(tmp_path, f"weights={weights}", "crop=64", "fit.crops=5", "test.crops=4", config="probe")
    report = run(cfg)
    assert (report["fit"], report["test"]) == (20, 8)
    assert report["trained"].keys() == report["untrained"].keys()
    assert report["trained"]["photos"] == 2
    assert report["trained"] != report["untrained"]


def test_missing_weights_are_named(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, f"weights={tmp_path / 'none.safetensors'}", config="probe")
    with pytest.raises(ValueError, match=r"none\.safetensors"):
        run(cfg)
