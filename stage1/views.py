"""What one training step compares: two degraded patches that share a degradation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deedsr.data.batch import Batch, Crops
from deedsr.data.pair_crops import degraded
from deedsr.degradation import Degradation, Mixture, Recipe
from deedsr.randomness import seeded

Positives = Literal["same_image", "same_degradation"]


@dataclass(frozen=True, eq=False)
class Patches(Batch):
    """What is compared: query and key (B, 3, h, w), uint8, or in [0, 1]; row i of both has row i of the degradation.

    paired: (B,) bool, rows of pairs: both have the real degradation of their folder instead. None: there are none.
    """

    stays = ("degradation", "paired")

    query: Tensor
    key: Tensor
    degradation: Degradation
    paired: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pairs(Batch):
    """LR pictures (B, 3, h, w) in [0, 1]; row i of both has row i of the degradation; paired: as in `Patches`."""

    first: Tensor
    second: Tensor
    degradation: Degradation
    paired: Tensor | None = None


def degrade(
    hr: Tensor, recipe: Recipe | Mixture, positives: Positives, *numbers: int, given: Crops | None = None
) -> Pairs:
    """The LR pictures that queries and keys are cut from, under one draw of parameters for each row.

    `same_image`: twice the same picture, so that its two patches share content, too; signal-dependent (Poisson) noise
    still differs between them. `same_degradation`: the second picture is the next crop of the batch under the same
    parameters, with noise of its own, so that only the degradation is shared.

    hr: (B, 3, S, S) in [0, 1]; the pictures have S/4 pixels, multiples of 1/255. numbers: seed, step, rank; row i is a
    pure function of them and i. given: the crops, where there may be pairs among them; the LR pictures of those are
    their own, and with `same_degradation` the second is of another picture of the folder: a folder is one camera or
    scanner. (Negatives of the queue and of neighbours may be, too, no oftener than they come: that lessens the loss's
    range, and leaves its best encoder, the ratio of how often two are a pair to how often they meet, as it is.) Raises
    ValueError for an unknown `positives`, and a single crop where two are needed.
    """
    degradation = recipe.sample(seeded(*numbers, 0, 1), len(hr))  # the crops' own numbers are one less
    given = given or Crops(hr)
    first = degraded(hr, degradation, given.lr, given.paired)
    if positives == "same_image":
        return Pairs(first, first, degradation, given.paired)
    if positives != "same_degradation":
        raise ValueError(f"positives must be same_image or same_degradation, got {positives!r}")
    if len(hr) < 2:
        raise ValueError(f"positives=same_degradation needs at least 2 photographs a batch, got {len(hr)}")
    noise = degradation.reseeded(seeded(*numbers, 0, 2))
    second = degraded(hr.roll(-1, 0), noise, given.other, given.paired)
    return Pairs(first, second, degradation, given.paired)


def quadrants(batch: int, generator: torch.Generator) -> Tensor:
    """(B, 2) in 0 … 3, row by row of the picture: of query and key, never the same, all pairs equally probable."""
    pair = (torch.rand(batch, generator=generator, dtype=torch.float64) * 12).long()
    first = pair // 3
    return torch.stack([first, (first + 1 + pair % 3) % 4], 1)


def cut(pictures: Tensor, chosen: Tensor) -> Tensor:
    """One quadrant of each picture: (B, 3, h, w), (B,) -> (B, 3, h/2, w/2)."""
    height, width = pictures.shape[-2] // 2, pictures.shape[-1] // 2
    corners = [(number // 2 * height, number % 2 * width) for number in chosen.tolist()]
    parts = (p[:, top : top + height, left : left + width] for p, (top, left) in zip(pictures, corners, strict=True))
    return torch.stack(list(parts))
