"""What stage 2 writes of any system: ``adapter.safetensors`` in a model folder, and checkpoints.

Both say in a header what they are: ``system``, the base, and the numbers of that system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr import weights
from deedsr.models.contract import RestorationModel

ADAPTER, HEADER = "adapter.safetensors", "model"  # HEADER: key of a checkpoint


@dataclass(frozen=True)
class Fresh:
    """A model to train. header: what its files say of it. save: (folder, trained tensors) → a model folder."""

    model: RestorationModel
    header: dict[str, Any]
    save: Callable[[Path, Mapping[str, Tensor]], None]


def header_of(place: Path) -> dict[str, Any]:
    """What the model folder or the checkpoint `place` says of itself; ValueError for one that is missing or damaged."""
    if place.is_file():
        return weights.load_checkpoint(place).get(HEADER, {})
    return weights.header(place / ADAPTER)


def tensors_of(place: Path) -> dict[str, Tensor]:
    """All that is trained of the folder or checkpoint `place`, by name; of a checkpoint, the averaged values."""
    if place.is_file():
        averages = weights.load_checkpoint(place).get("average", {}).get("tensors", {})
        return {name: tensor.clone() for name, tensor in averages.items()}
    return weights.load(place / ADAPTER).tensors


def file_of(place: Path) -> Path:
    """The file of a folder or checkpoint that holds what is trained."""
    return place if place.is_file() else place / ADAPTER


def beside(place: Path, name: str) -> list[Path]:
    """Where the file `name` of the folder or checkpoint `place` may be."""
    return [place.parent / "model" / name, place.parent / name] if place.is_file() else [place / name]


def pointer(reference: str, base: Path, place: Path) -> str:
    """What the model in the folder `place` calls its base when it is handed on: a hub id, or the whole path."""
    found = (place / reference).exists() or Path(reference).exists()
    return str(base.resolve()) if found or "snapshots" not in base.parts else reference


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Floating-point tensors in `dtype`, if there is one; all others as they are."""
    return {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
