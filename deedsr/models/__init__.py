"""Restoration models: the contract, DeeDSR, and where weights come from."""

from __future__ import annotations

from pathlib import Path

import torch

from deedsr.models.base import Condition, RestorationModel
from deedsr.models.deedsr import build, counts
from deedsr.models.folder import load, placed, skeleton
from deedsr.models.presets import preset
from deedsr.models.resolver import ASSETS, BUILT_IN, resolve

__all__ = ["Condition", "RestorationModel", "describe", "load_model"]


def load_model(
    name: str | Path = BUILT_IN, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> RestorationModel:
    """The model called `name`, ready for inference: ``built-in``, a model folder, a checkpoint of stage 2, or a hub id.

    Raises ValueError, with the way out, for a model that does not exist, has no weights, or is damaged.
    """
    name = str(name)
    if name == "sd21":
        raise ValueError(
            "no adapter weights for Stable Diffusion 2.1 are published; train them with "
            "`python -m stage1.train experiment=stage1_deedsr` and `python -m stage2.train model=sd21`, "
            "then give the folder that stage 2 wrote"
        )
    return placed(load(ASSETS / BUILT_IN if name == BUILT_IN else resolve(name)), device, dtype)


def describe(name: str = BUILT_IN) -> dict[str, int]:
    """Parameters by part of ``built-in``, a preset (``small``, ``sd21``), a model folder or a checkpoint."""
    if name == BUILT_IN or Path(name).exists():
        return counts(skeleton(ASSETS / BUILT_IN if name == BUILT_IN else Path(name)))
    with torch.device("meta"):
        return counts(build(preset(name)))
