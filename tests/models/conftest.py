"""A tiny DiT4SR: the numbers of the golden files, and an autoencoder of two levels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deedsr.models.sd3.dit4sr import SD35, DiT4SR, DiT4SRConfig, random_model


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
