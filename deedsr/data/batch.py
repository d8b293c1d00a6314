"""What a training step is given: tensors that belong together, as a dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from deedsr.nested import mapped

B = TypeVar("B", bound="Batch")


@dataclass(frozen=True, eq=False)
class Batch:
    """Fields are tensors whose first dimension counts samples, dataclasses of such, or None for what is not there.

    One sample, as a data set gives it, lacks that dimension; `stack` makes a batch of several. stays: the fields that
    decide what is done, and so are needed on the CPU.
    """

    stays: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def stack(samples: Sequence[B]) -> B:
        """Samples as a batch: what a DataLoader takes as its ``collate_fn``."""
        return mapped(lambda *tensors: torch.stack(tensors), *samples)

    def to(self: B, device: torch.device | str, non_blocking: bool = False) -> B:
        """The same on another device, but for what `stays`."""
        moved = mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking), self)
        return replace(moved, **{name: getattr(self, name) for name in self.stays})

    def pin_memory(self: B) -> B:
        """The same in page-locked memory, from which a GPU copies faster."""
        return mapped(Tensor.pin_memory, self)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a field that is a dataclass are called ``FIELD.NAME``."""
        return _named(self)


def _named(value: Any, prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for field in fields(value):
        part, name = getattr(value, field.name), f"{prefix}{field.name}"
        if is_dataclass(part):
            found |= _named(part, f"{name}.")
        elif part is not None:
            found[name] = part
    return found


@dataclass(frozen=True, eq=False)
class Crops(Batch):
    """HR crops, uint8 (B, 3, S, S), and where there are texts, those of their photographs, embedded.

    tokens: (B, T, D) and pooled: (B, P), as in `deedsr.models.contract.Text`. Where there are pairs, paired: (B,) bool,
    the rows that are of pairs; lr: their LR, uint8 (B, 3, S/4, S/4); other: for stage 1, the LR of a place in another
    picture of the same folder, of the same size. In the other rows these two mean nothing.
    """

    stays = ("paired",)

    hr: Tensor
    tokens: Tensor | None = None
    pooled: Tensor | None = None
    lr: Tensor | None = None
    other: Tensor | None = None
    paired: Tensor | None = None
