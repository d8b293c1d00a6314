"""What a training step is given: tensors that belong together, as a dataclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound="Batch")


@dataclass(frozen=True, eq=False)
class Batch:
    """Fields are tensors whose first dimension counts samples, dataclasses of such, or None for what is not there.

    One sample, as a data set gives it, lacks that dimension; `stack` makes a batch of several.
    """

    @classmethod
    def stack(cls: type[B], samples: Sequence[B]) -> B:
        """Samples as a batch: what a DataLoader takes as its ``collate_fn``."""
        first = samples[0]
        return cls(**{f.name: _stacked([getattr(sample, f.name) for sample in samples]) for f in fields(first)})

    def to(self: B, device: torch.device | str, non_blocking: bool = False) -> B:
        """The same on another device."""
        moved = {name: _moved(value, device, non_blocking) for name, value in self._present().items()}
        return replace(self, **moved)

    def pin_memory(self: B) -> B:
        """The same in page-locked memory, from which a GPU copies faster."""
        pinned = {name: value.pin_memory() for name, value in self._present().items() if isinstance(value, Tensor)}
        return replace(self, **pinned)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a field that is a dataclass are called ``FIELD.NAME``."""
        return _flat(self._present())

    def _present(self) -> dict[str, Any]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, eq=False)
class Crops(Batch):
    """HR crops, uint8 (B, 3, S, S), and where there are texts, those of their photographs, embedded.

    tokens: (B, T, D) and pooled: (B, P), as in `deedsr.models.Text`.
    """

    hr: Tensor
    tokens: Tensor | None = None
    pooled: Tensor | None = None


def _stacked(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    named = {field.name: [getattr(value, field.name) for value in values] for field in fields(values[0])}
    return type(values[0])(**{name: torch.stack(parts) for name, parts in named.items()})


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value.to(device)


def _flat(named: Mapping[str, Any]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, value in named.items():
        if is_dataclass(value):
            result |= {f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)}
        else:
            result[name] = value
    return result
