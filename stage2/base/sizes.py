"""Small bases before anything is trained on them: their numbers, and a denoiser that is told nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.models.deedsr import sizes
from deedsr.models.sd3 import dit4sr


@dataclass(frozen=True)
class BaseConfig:
    """Configurations of diffusers classes. part: the folder of the denoiser, ``unet`` or ``transformer``."""

    part: str
    denoiser: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]


def base_config(name: str, overrides: Mapping[str, Any]) -> BaseConfig:
    """The base of the size `name`, with other numbers where `overrides` has some, as {part: {name: number}}.

    Raises ValueError for an unknown size, part or name.
    """
    if name != dit4sr.SMALL.name:
        size = sizes.preset(name, overrides, ("unet", "vae", "scheduler"))
        return BaseConfig("unet", size.unet, size.vae, size.scheduler)
    parts = {part: dict(getattr(dit4sr.SMALL, part)) for part in ("transformer", "vae", "scheduler")}
    for part, numbers in overrides.items():
        if part not in parts:
            raise ValueError(f"there is nothing to override in {part!r} here; there are: {', '.join(parts)}")
        takes = getattr(diffusers, parts[part]["_class_name"])
        parts[part] = sizes.merged(part, parts[part], takes, numbers)
    return BaseConfig("transformer", *parts.values())


def unconditional(denoiser: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
    """A denoiser's prediction for x_t (B, C, h, w) at times t (B,) where its text is one token of zeros."""
    config, batch = denoiser.config, len(x_t)
    if isinstance(denoiser, SD3Transformer2DModel):
        tokens = x_t.new_zeros(batch, 1, config.joint_attention_dim)
        pooled = x_t.new_zeros(batch, config.pooled_projection_dim)
        return denoiser(x_t, tokens, pooled, t.float(), return_dict=False)[0]
    return denoiser(x_t, t, x_t.new_zeros(batch, 1, config.cross_attention_dim)).sample
