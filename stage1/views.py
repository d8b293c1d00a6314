"""What one training step compares: two degraded patches that share a degradation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deedsr.data.photos import seeded
from deedsr.degradation import Degradation, Mixture, Recipe, apply

Positives = Literal["same_image", "same_degradation"]


@dataclass(frozen=True)
class Draw:
    """All that chance decides about a batch of B crops.

    `query` and `key` hold the same parameters, one draw an image, and differ in the seeds of their noise. `quadrants`
    is (B, 2), of 0 to 3, row by row, never twice the same in a row.
    """

    query: Degradation
    key: Degradation
    quadrants: Tensor


def draw(recipe: Recipe | Mixture, batch: int, *numbers: int) -> Draw:
    """The draws of `batch` samples; sample i's are a pure function of `numbers` (seed, step, rank) and i."""
    generators = [seeded(*numbers, 0, stream) for stream in (1, 2, 3)]  # crops have (seed, step, rank, sample)
    degradation = recipe.sample(generators[0], batch)
    pair = torch.randint(12, (batch,), generator=generators[2])
    first, offset = pair // 3, pair % 3
    quadrants = torch.stack([first, (first + 1 + offset) % 4], 1)
    return Draw(degradation, degradation.reseeded(generators[1]), quadrants)


def quadrant(images: Tensor, which: Tensor) -> Tensor:
    """One quarter of each picture: (B, 3, H, W), (B,) of 0 to 3 -> (B, 3, H/2, W/2)."""
    height, width = images.shape[-2] // 2, images.shape[-1] // 2
    corners = [(number // 2 * height, number % 2 * width) for number in which.tolist()]
    parts = [
        image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, corners, strict=True)
    ]
    return torch.stack(parts)


def views(hr: Tensor, drawn: Draw, positives: Positives) -> tuple[Tensor, Tensor]:
    """Query and key patches, each (B, 3, S/8, S/8) in [0, 1], of HR crops (B, 3, S, S) in [0, 1].

    `same_image`: two quadrants of one degraded crop. They share content, too, and signal-dependent (Poisson) noise
    still differs between them. `same_degradation`: a quadrant of the crop and one of the next crop in the batch, under
    the same degradation with noise of its own, so that only the degradation is shared.
    """
    first, second = drawn.quadrants.unbind(1)
    if positives == "same_image":
        lr = apply(hr, drawn.query)
        return quadrant(lr, first), quadrant(lr, second)
    if positives != "same_degradation":
        raise ValueError(f"positives must be same_image or same_degradation, got {positives!r}")
    if len(hr) < 2:
        raise ValueError(f"positives=same_degradation needs at least 2 photographs a batch, got {len(hr)}")
    return apply(quadrant(hr, first), drawn.query), apply(quadrant(hr.roll(-1, 0), second), drawn.key)
