"""Restoration models: the contract, the systems, and where weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from deedsr.models.contract import Condition, RestorationModel, Text
from deedsr.models.deedsr import folder
from deedsr.models.resolver import BUILT_IN, BUILT_IN_DIT, resolve
from deedsr.models.sd3 import folder as sd3_folder
from deedsr.models.trained import Fresh, header_of

__all__ = ["Condition", "Fresh", "RestorationModel", "Text", "assemble", "build", "describe", "export", "load_model"]

SYSTEMS = {folder.SYSTEM: folder, **dict.fromkeys(sd3_folder.KINDS, sd3_folder)}
"""Each has `load`, `skeleton`, `counts`, `export`, `fresh` (which takes `WORDS`), and `SIZES`: by name, what makes
a model without files."""


def load_model(
    name: str | Path = BUILT_IN, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> RestorationModel:
    """The model called `name`, ready for inference: ``built-in``, a model folder, a checkpoint of stage 2, or a hub id.

    Raises ValueError, with the way out, for a model that does not exist, has no weights, or is damaged.
    """
    if str(name) in _sizes() and not Path(name).exists():
        raise ValueError(
            f"{name} is a size, and no trained part of it is published with this package; train one with `python -m "
            f"stage2.train model={name}`, then give the folder that stage 2 wrote"
        )
    place = resolve(str(name))
    return _system(place).load(place).to(device, dtype).requires_grad_(False)


def describe(name: str = BUILT_IN) -> dict[str, int]:
    """Parameters by part of a built-in model, a model folder, a checkpoint, or a size (see `build`)."""
    if name in (BUILT_IN, BUILT_IN_DIT) or Path(name).exists():
        place = resolve(name)
        return _system(place).counts(_system(place).skeleton(place))
    with torch.device("meta"):
        model = build(name)
    return next(system for system in SYSTEMS.values() if name in system.SIZES).counts(model)


def build(name: str) -> RestorationModel:
    """The model of a size, ``small``, ``sd21``, ``dit4sr`` …, with random weights. ValueError for an unknown name."""
    if name not in _sizes():
        raise ValueError(f"unknown model size {name!r}; there are: {', '.join(_sizes())}")
    return _sizes()[name]()


def assemble(config: Mapping[str, Any], seed: int) -> Fresh:
    """A model to train, from plain words: its `system`, and what `fresh` of that system takes.

    Raises ValueError for an unknown system and for words that it doesn't take.
    """
    name = config["system"]
    if name not in SYSTEMS:
        raise ValueError(f"unknown model.system {name!r}; there are: {', '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    if strange := sorted(config.keys() - {"system", *system.WORDS}):
        raise ValueError(
            f"model.{strange[0]} means nothing to the system {name}, which takes {', '.join(system.WORDS)}: choose "
            "model=… and experiment=… of one system"
        )
    return system.fresh(config, seed)


def export(source: Path, target: Path, with_base: bool, dtype: torch.dtype | None = None) -> None:
    """Write the model in `source` to the folder `target`, its floating-point tensors in `dtype` if one is given.

    source: a model folder or a checkpoint. With the base, `target` needs nothing else; without it, it points to the
    base that `source` uses. Raises ValueError where `source` is damaged or `target` exists.
    """
    _system(source).export(source, target, with_base, dtype)


def _system(place: Path) -> ModuleType:
    return SYSTEMS.get(header_of(place).get("system"), folder)  # which says what is wrong with an unknown one


def _sizes() -> dict[str, Any]:
    return {name: make for system in SYSTEMS.values() for name, make in system.SIZES.items()}
