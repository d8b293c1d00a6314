"""Tiny trained models: DeeDSR on the tiny base; DiT4SR with the numbers of the golden files and two levels of VAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from deedsr.models.deedsr.folder import DEEDSR, DeeDSRNumbers, load_encoder, model_on_base
from deedsr.models.deedsr.head import ENCODER
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.frozen.base import Base, write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SD35, DiT4SR, DiT4SRConfig, random_model
from deedsr.models.sd3.folder import DIT4SR
from deedsr.models.system import Header


class Made:
    """`made(name, seed, …)`: a tiny model folder on one base, nothing trained at zero; `model`: the last one."""

    model: DeeDSR

    def __init__(self, folder: Path, base: Path, encoder: Path, config: DeeDSRConfig) -> None:
        self.folder, self.base, self.encoder, self.config = folder, base, encoder, config

    def __call__(self, name: str, seed: int, base: Path | None = None, defaults: dict | None = None, **numbers) -> Path:
        place, folder, config = base or self.base, self.folder / name, self.config
        adapter = replace(config.adapter, **numbers)
        header = Header(str(place), DeeDSRNumbers(adapter, config.sft_hidden), {**config.defaults, **(defaults or {})})
        torch.manual_seed(seed)
        self.model = model = model_on_base(Base.open(place), load_encoder(self.encoder), header)
        for _, parameter in model.trainable():
            nn.init.normal_(parameter, std=0.05)
        DEEDSR.save(folder, dict(model.trainable()), header)
        (folder / ENCODER).write_bytes(self.encoder.read_bytes())
        return folder


@pytest.fixture
def made(tmp_path: Path, tiny_base: Path, tiny_encoder: Path, tiny_config: DeeDSRConfig) -> Made:
    return Made(tmp_path, tiny_base, tiny_encoder, tiny_config)


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
