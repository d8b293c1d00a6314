"""What one training step compares: two degraded patches that share a degradation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deedsr.data.photos import seeded
from deedsr.degradation import Degradation, Recipe, apply

Positives = Literal["same_image", "same_degradation"]


@dataclass(frozen=True)
class Draw:
    """All that chance decides about a batch: one degradation an image, and the two quadrants that are compared.

    `quadrants` is (B, 2), of 0 to 3, row by row, never twice the same in a row; `noise` is (B,), the seeds of the
    noise of the second patch where that comes from another image.
    """

    degradation: Degradation
    quadrants: Tensor
    noise: Tensor


def draw(recipes: Sequence[Recipe], batch: int, *numbers: int) -> Draw:
    """The draws of `batch` samples; sample i's are a pure function of `numbers` (seed, step, rank) and i.

    Each sample takes one of the `recipes`, all equally likely.
    """
    states, quadrants, noise = [], [], []
    for sample in range(batch):
        generator = seeded(*numbers, sample, 1)  # the 1 sets it apart from the crop's own generator
        chosen = recipes[int(torch.randint(len(recipes), (), generator=generator))]
        states.append(chosen.sample(generator, 1).state())
        quadrants.append(torch.randperm(4, generator=generator)[:2])
        noise.append(torch.randint(2**62, (), generator=generator))
    degradation = Degradation.from_state({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return Draw(degradation, torch.stack(quadrants), torch.stack(noise))


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
    degradation = drawn.degradation.to(hr.device)
    first, second = drawn.quadrants.unbind(1)
    if positives == "same_image":
        lr = apply(hr, degradation)
        return quadrant(lr, first), quadrant(lr, second)
    if positives != "same_degradation":
        raise ValueError(f"positives must be same_image or same_degradation, got {positives!r}")
    if len(hr) < 2:
        raise ValueError(f"positives=same_degradation needs at least 2 photographs a batch, got {len(hr)}")
    other = dataclasses.replace(degradation, seed=drawn.noise.to(hr.device))
    return apply(quadrant(hr, first), degradation), apply(quadrant(hr.roll(-1, 0), second), other)
