"""What one training step compares: two degraded patches that share a degradation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deedsr.data.photos import seeded
from deedsr.degradation import Mixture, Recipe, apply

Positives = Literal["same_image", "same_degradation"]

GRID = 8
"""LR pixels: patches begin at multiples of it in their quadrant, where JPEG's blocks do."""


def degrade(hr: Tensor, recipe: Recipe | Mixture, positives: Positives, *numbers: int) -> tuple[Tensor, Tensor]:
    """The LR pictures that queries and keys are cut from, under one draw of parameters for each row.

    `same_image`: twice the same picture, so that its two patches share content, too; signal-dependent (Poisson) noise
    still differs between them. `same_degradation`: the second picture is the next crop in the batch under the same
    parameters, with noise of its own, so that only the degradation is shared.

    Args:
        hr: (B, 3, S, S) in [0, 1].
        recipe: what the parameters are drawn from.
        positives: see above.
        numbers: seed, step, rank; row i is a pure function of them and i.

    Returns:
        Two tensors (B, 3, S/4, S/4) in [0, 1], multiples of 1/255.

    Raises:
        ValueError: an unknown `positives`, or a single crop where two are needed.
    """
    degradation = recipe.sample(seeded(*numbers, 0, 1), len(hr))  # the crops' own numbers are one less
    first = apply(hr, degradation)
    if positives == "same_image":
        return first, first
    if positives != "same_degradation":
        raise ValueError(f"positives must be same_image or same_degradation, got {positives!r}")
    if len(hr) < 2:
        raise ValueError(f"positives=same_degradation needs at least 2 photographs a batch, got {len(hr)}")
    return first, apply(hr.roll(-1, 0), degradation.reseeded(seeded(*numbers, 0, 2)))


@dataclass(frozen=True)
class Cut:
    """Where the patches of a batch lie.

    `quadrants` (B, 2): 0 to 3, row by row, of query and key, never the same in a row; `places` (B, 2, 2) in [0, 1):
    vertical and horizontal place within it; `sides` (2,): LR pixels of the queries and of the keys, None for whole
    quadrants.
    """

    quadrants: Tensor
    places: Tensor
    sides: tuple[int, int] | None

    @classmethod
    def draw(cls, batch: int, sides: Sequence[int] | None, *numbers: int) -> Cut:
        """For `batch` samples; sample i's is a pure function of `numbers` (seed, step, rank) and i."""
        generator = seeded(*numbers, 0, 3)
        chosen = torch.randint(2**31, (2,), generator=generator).tolist()
        rows = torch.rand(batch, 5, generator=seeded(*numbers, 0, 4), dtype=torch.float64)
        pair = (rows[:, 0] * 12).long()
        first = pair // 3
        quadrants = torch.stack([first, (first + 1 + pair % 3) % 4], 1)
        picked = (sides[chosen[0] % len(sides)], sides[chosen[1] % len(sides)]) if sides else None
        return cls(quadrants, rows[:, 1:].view(batch, 2, 2), picked)

    def patches(self, lr: Tensor, column: int) -> Tensor:
        """The queries (column 0) or keys (1) of pictures (B, 3, h, w): (B, 3, side, side).

        Raises ValueError if a side is longer than the quadrant's.
        """
        height, width = lr.shape[-2] // 2, lr.shape[-1] // 2
        side_y, side_x = (height, width) if self.sides is None else (self.sides[column],) * 2
        if side_y > height or side_x > width:
            raise ValueError(f"sides={side_y} is more than the quadrant of {height} pixels that a crop gives")
        parts = []
        for image, quadrant, place in zip(lr, self.quadrants[:, column].tolist(), self.places[:, column], strict=True):
            top = quadrant // 2 * height + int(place[0] * ((height - side_y) // GRID + 1)) * GRID
            left = quadrant % 2 * width + int(place[1] * ((width - side_x) // GRID + 1)) * GRID
            parts.append(image[:, top : top + side_y, left : left + side_x])
        return torch.stack(parts)
