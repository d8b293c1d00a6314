"""Photographs and the real configurations, shrunk, on a GPU that isn't there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONF = Path(__file__).parents[2] / "conf"

ON_GPU = [
    "trainer=gpu",
    "trainer.precision=32-true",
    "trainer.devices=1",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
]
QUIET = [*ON_GPU, "data.workers=0", "checkpoint_every=1", "logger=csv"]
SHRUNK = {
    "stage1": ["+encoder.overrides={widths:[8,8,8,8],stem:8}", "crop=64", "batch=4", "contrast.queue=16"],
    "stage2": ["crop=64", "batch=2", "optimizer.warmup=0", "pictures.count=1"],
    "base": [
        "+overrides.unet={in_channels:4,out_channels:4,block_out_channels:[32,32,32]}",
        "+overrides.vae={latent_channels:4,encoder_block_out_channels:[8,8,16],decoder_block_out_channels:[8,8,16],"
        "encoder_layers_per_block:[0,1,1],decoder_layers_per_block:[0,1,1]}",
        *("autoencoder.crop=32", "autoencoder.batch=2", "autoencoder.steps=1"),
        *("denoiser.crop=48", "denoiser.batch=2", "denoiser.steps=1"),
    ],
}
SHRUNK |= dict.fromkeys(("distill", "cache"), SHRUNK["stage2"])


@pytest.fixture
def composed(photos: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """`composed("stage2", "steps=2", …)`: the configuration of a tiny run on the GPU, in ``tmp_path / "run"``."""

    def make(primary: str, *words: str) -> DictConfig:
        typed = [*QUIET, *SHRUNK[primary], f"data.roots=[{photos}]", f"output={tmp_path / 'run'}", *words]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(primary, typed)

    return make
