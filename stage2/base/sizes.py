"""Small bases before anything is trained on them: their numbers, and a denoiser without a text."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.models.deedsr.sizes import merged
from deedsr.models.frozen import configs


@dataclass(frozen=True)
class BaseConfig:
    """Configurations of diffusers classes. part: the folder of the denoiser, ``unet`` or ``transformer``."""

    part: str
    denoiser: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]


BASES = {"small": configs.SMALL, "dit4sr_small": configs.SMALL_DIT}


def base_config(name: str, overrides: Mapping[str, Any]) -> BaseConfig:
    """The base of the size `name`, with other numbers where `overrides` has some, as {part: {name: number}}.

    Raises ValueError for an unknown size, part or name.
    """
    if name not in BASES:
        raise ValueError(f"unknown model size {name!r}; there are: {', '.join(BASES)}")
    parts = copy.deepcopy(BASES[name])
    for part, numbers in overrides.items():
        if part not in parts:
            raise ValueError(f"there is nothing to override in {part!r} here; there are: {', '.join(parts)}")
        parts[part] = merged(part, parts[part], getattr(diffusers, parts[part]["_class_name"]), numbers)
    return BaseConfig(next(iter(parts)), *parts.values())


def unconditional(denoiser: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
    """A denoiser's prediction for x_t (B, C, h, w) at times t (B,) where its text is one token of zeros."""
    config, batch = denoiser.config, len(x_t)
    if isinstance(denoiser, SD3Transformer2DModel):
        tokens = x_t.new_zeros(batch, 1, config.joint_attention_dim)
        pooled = x_t.new_zeros(batch, config.pooled_projection_dim)
        return denoiser(x_t, tokens, pooled, t.float(), return_dict=False)[0]
    return denoiser(x_t, t, x_t.new_zeros(batch, 1, config.cross_attention_dim)).sample
