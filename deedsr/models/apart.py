"""The trained tensors of a model, taken apart: what works beside its base, and what becomes part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from deedsr.models.frozen import lora


@dataclass(frozen=True)
class Apart:
    """The trained tensors of a model, taken apart, each by its name.

    beside: what works beside the base. added: to its matrices, as LoRA is, float32. instead: of its tensors, as a
    decoder that was trained is. The names of these two are PART.NAME.
    """

    beside: dict[str, Tensor] = field(default_factory=dict)
    added: dict[str, Tensor] = field(default_factory=dict)
    instead: dict[str, Tensor] = field(default_factory=dict)


def apart(tensors: Mapping[str, Tensor]) -> Apart:
    """Take the trained `tensors` of a model apart."""
    instead = {name: tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    beside = {name: tensor for name, tensor in tensors.items() if name not in instead and not lora.is_lora(name)}
    return Apart(beside, lora.changes(tensors), instead)
