"""A tiny DiT4SR: the numbers of the golden files, and an autoencoder of two levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deedsr.models.frozen.base import write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SD35, DiT4SR, DiT4SRConfig, random_model
from deedsr.models.sd3.folder import DIT4SR
from deedsr.models.system import Header


@pytest.fixture(scope="session")
def tiny_sd3() -> DiT4SRConfig:
    return replace(
        SD35,
        transformer={
            **SD35.transformer,
            "sample_size": 16,
            "num_layers": 4,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 48,
            "caption_projection_dim": 64,
            "pooled_projection_dim": 40,
            "pos_embed_max_size": 24,
            "dual_attention_layers": [0, 1],
        },
        vae={
            **SD35.vae,
            "block_out_channels": [8, 8],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
    )


@pytest.fixture
def tiny_dit4sr(tiny_sd3: DiT4SRConfig) -> DiT4SR:
    """Its LR stream random, so that every part has a say."""
    torch.manual_seed(0)
    model = random_model(tiny_sd3)
    for _, parameter in model.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """`write_model(folder, config, model)`: a model folder, base inside."""

    def write(folder: Path, config: DiT4SRConfig, model: DiT4SR) -> Path:
        tensors = {
            name: value
            for name, value in model.transformer.state_dict().items()
            if ".processor." not in name and ".net.1." not in name
        }
        write_part(folder / "base" / "transformer", tensors, config.transformer)
        write_part(folder / "base" / "vae", model.vae.state_dict(), config.vae)
        write_scheduler(folder / "base", config.scheduler)
        DIT4SR.save(folder, dict(model.trainable()), Header("base", model.transformer.stream, config.defaults))
        return folder

    return write
