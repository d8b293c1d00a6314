"""The experiments of stage 2 on Stable Diffusion 2.1 say what the authors' code does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from deedsr.models.sd3.dit4sr import SMALL
from deedsr.models.sd3.lr_stream import LRStream

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


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("separate_attention", {"lr_attention": "self", "qk_init": "clone"}),
        ("no_residual", {"lr_residual": False}),
        ("no_convolution", {"injection": "none"}),
        ("linear", {"injection": "linear"}),
    ],
)
def test_each_ablation_of_dit4sr_changes_one_thing(name: str, changed: dict) -> None:
    experiments = f"experiment=[dit4sr_sd35,dit4sr_ablation_{name}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("stage2", ["experiment=dit4sr_sd35", "data.roots=[photos]", "model.texts=t"])
        cfg = compose("stage2", [experiments, "data.roots=[photos]", "model.texts=t"])
    assert LRStream(**cfg.model.beside) == replace(LRStream(), **changed)
    for part in ("optimizer", "objective", "trainer", "recipe", "crop", "batch"):
        assert cfg[part] == whole[part]
    assert cfg.model.texts == whole.model.texts


@pytest.mark.parametrize("name", ["dit4sr_sd35", "dit4sr_sd35_24gb"])
def test_dit4sr_is_trained_as_its_authors_do(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("stage2", [f"experiment={name}", "data.roots=[photos]", "model.texts=t"])
    trainer, optimizer = cfg.trainer, cfg.optimizer
    assert cfg.batch * trainer.devices * trainer.num_nodes * trainer.accumulate_grad_batches == 64
    assert (optimizer.lr, optimizer.weight_decay, optimizer.schedule, optimizer.warmup) == (5e-5, 0.01, "constant", 0)
    assert (cfg.objective.weight, cfg.objective.time_bias, cfg.null_text) == ("sigma_squared", "logit_normal", 0.2)
    assert (cfg.crop, cfg.recipe, trainer.gradient_clip_val) == (512, "heavy", 1.0)
    assert (trainer.precision, cfg.frozen_dtype) == ("bf16-mixed", "bfloat16")
    assert LRStream(**cfg.model.beside) == LRStream()


def test_the_small_base_is_trained_on_the_autoencoder_there_is() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("base", ["experiment=dit4sr_small_base", "data.roots=[photos]"])
    assert (cfg.size, cfg.autoencoder.given) == ("dit4sr_small", "deedsr/assets/built-in/base/vae")
    assert cfg.denoiser.crop == 128 == 4 * 2 * SMALL.transformer["pos_embed_max_size"]
