"""The two sizes of DeeDSR, as plain numbers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import diffusers

from deedsr.diffusion.sampler import Settings
from deedsr.models import authors
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.frozen import configs


@dataclass(frozen=True)
class DeeDSRConfig:
    """All hyper-parameters of one DeeDSR.

    unet, vae, scheduler: configurations of the diffusers classes named by their ``_class_name``. `unet` is the *stock*
    base; its ``cross_attention_dim`` is replaced by the width of the adapter's tokens. encoder: arguments of
    `DegradationEncoder`. sft_hidden: width inside the modulation layers. defaults: arguments of `sampler.Settings`.
    """

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    encoder: dict[str, Any]
    adapter: AdapterConfig
    sft_hidden: int = 128
    defaults: dict[str, Any] = field(default_factory=dict)


SD21 = DeeDSRConfig(
    name="sd21",
    **configs.SD21,
    encoder={"layers": [3, 4, 6, 3], "widths": [128, 256, 512, 1024], "stem": 64},
    adapter=AdapterConfig(4, 256, (1, 1, 2, 2), (True, True, True, False), heads=4, maps=256, vector=1024),
    defaults={name: authors.DEEDSR[name] for name in ("sampler", "steps", "eta", "spacing", "guidance")},
)

SMALL = DeeDSRConfig(
    name="small",
    **configs.SMALL,
    encoder={"layers": [1, 1, 1, 1], "widths": [16, 48, 96, 160], "stem": 16, "tile": 64, "vector": 64},
    adapter=AdapterConfig(8, 64, (1, 1, 2), (False, False, True), heads=4, maps=64, vector=64),
    sft_hidden=48,
    defaults={"sampler": "ddim", "steps": 1, "eta": 0.0, "spacing": "trailing", "guidance": [0.2, 1]},
)

SIZES = {size.name: size for size in (SD21, SMALL)}
PARTS = ("unet", "vae", "scheduler", "encoder", "adapter", "sft_hidden", "defaults")


def model_size(name: str, overrides: Mapping[str, Any] | None = None, parts: Collection[str] = PARTS) -> DeeDSRConfig:
    """The size called `name`, with other numbers where `overrides` has some, as {part: {name: number}}.

    parts: those that may be overridden. Raises ValueError for an unknown size, part or name.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model size {name!r}; there are: {', '.join(SIZES)}")
    config = copy.deepcopy(SIZES[name])
    changes: dict[str, Any] = {}
    for part, numbers in (overrides or {}).items():
        if part not in parts:
            raise ValueError(f"there is nothing to override in {part!r} here; there are: {', '.join(parts)}")
        if part == "sft_hidden":
            changes[part] = int(numbers)
        elif part == "adapter":
            changes[part] = AdapterConfig(**merged(part, asdict(config.adapter), AdapterConfig, numbers))
        else:
            current = getattr(config, part)
            takes = {"encoder": DegradationEncoder, "defaults": Settings}.get(part)
            changes[part] = merged(part, current, takes or getattr(diffusers, current["_class_name"]), numbers)
    return replace(config, **changes)


def merged(part: str, current: dict[str, Any], takes: type, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """`current` with `numbers` in it; ValueError for a name that `takes` does not take."""
    if not isinstance(numbers, Mapping):
        raise ValueError(f"{part} is overridden by name, {part}: {{NAME: VALUE}}, not by {numbers!r}")
    unknown = sorted(set(numbers) - current.keys() - inspect.signature(takes).parameters.keys())
    if unknown:
        raise ValueError(f"{part} has no {unknown[0]!r} to override; there are: {', '.join(current)}")
    return {**current, **numbers}
