"""The experiments of stage 2 on Stable Diffusion 2.1 say what the authors' code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(params=["deedsr_sd21", "deedsr_sd21_24gb"])
def settings(request: pytest.FixtureRequest) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("stage2", [f"experiment={request.param}", "data.roots=[photos]"])


def test_they_are_the_authors(settings: DictConfig) -> None:
    assert (settings.model.size, settings.model.overrides) == ("sd21", {})
    assert (settings.crop, settings.recipe) == (512, "light")
    optimizer = {name: settings.optimizer[name] for name in ("lr", "warmup", "schedule", "weight_decay")}
    assert optimizer == {"lr": 1e-5, "warmup": 0, "schedule": "constant", "weight_decay": 0.01}
    assert settings.objective == {
        "rollout": 0.0,
        "weight": "plain",
        "min_snr": None,
        "time_bias": 1.0,
        "fidelity": None,
    }


def test_a_step_takes_128_crops(settings: DictConfig) -> None:
    trainer = settings.trainer
    assert settings.batch * trainer.devices * trainer.num_nodes * trainer.accumulate_grad_batches == 128


def test_frozen_parts_are_stored_as_the_run_computes(settings: DictConfig) -> None:
    assert (settings.trainer.precision, settings.frozen_dtype) == ("bf16-mixed", "bfloat16")
    assert settings.trainer.gradient_clip_val == 1.0
