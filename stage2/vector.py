"""What a run tells its model of the degradation: how much the vector sees, and the null vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deedsr.geometry import SCALE


@dataclass(frozen=True)
class Vector:
    """Of the degradation vectors that a model is trained with.

    context: they are those of at least so many patches of the size that stage 1 saw, of one degraded photograph, around
    the part that the network sees; 0: of that part alone. dropout: share of samples that get the null vector. Raises
    ValueError for a negative context and for what is no share.
    """

    context: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ValueError(f"vector.context is {self.context}; it must be a number of patches, 0 for the crop alone")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"vector.dropout is {self.dropout}; it must be at least 0 and below 1")

    def side(self, crop: int, tile: int | None) -> int:
        """HR pixels of the square that is degraded for a network that sees `crop`; tile: of the encoder, LR pixels.

        Raises ValueError where the size of the encoder's patches is not known.
        """
        if not self.context:
            return crop
        if tile is None:
            raise ValueError(
                f"vector.context={self.context} counts patches of the size that stage 1 saw, and this encoder doesn't "
                "say which that is: train it with encoder.overrides.tile=64, or take vector.context=0"
            )
        return max(crop, math.ceil(math.sqrt(self.context)) * tile * SCALE)


def places(batch: int, side: int, crop: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Where the part of each degraded picture lies that the network sees: (top, left), HR pixels, multiples of 4."""
    count = (side - crop) // SCALE + 1
    return [tuple(row) for row in (SCALE * torch.randint(count, (batch, 2), generator=generator)).tolist()]


def cut(pictures: Tensor, places: list[tuple[int, int]], crop: int) -> Tensor:
    """(B, C, S, S) → (B, C, crop, crop)."""
    parts = (one[:, top : top + crop, left : left + crop] for one, (top, left) in zip(pictures, places, strict=True))
    return torch.stack(list(parts))
