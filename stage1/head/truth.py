"""Degraded pictures with what a diagnosis shall say of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deedsr.degradation import NOISE, Degradation, Mixture, Recipe, apply, jpeg
from deedsr.degradation.operations import blurred, gaussian_noise, quantize
from deedsr.geometry import SCALE, resize
from deedsr.models.deedsr.head import CLEAN
from deedsr.nested import join
from deedsr.randomness import seeded
from stage1.head.sharpness import blur_of

SHARP = CLEAN[0]
LIMITS = ((1.2, 15.0, 60.0), (1.6, 22.5, 45.0))
"""The most blur and noise and the least JPEG quality that count as light, and as medium.

Noise and quality are the bounds of the levels' first order; blur is what 98 % of their pictures stay below.
"""


@dataclass(frozen=True, eq=False)
class Truth:
    """N pictures and what is wrong with them.

    pictures: uint8 (N, 3, h, w). values: (N, 3), blur σ in pixels, noise σ on 0-255, JPEG quality (100: never
    compressed). level: (N,), position in `LEVELS`.
    """

    pictures: Tensor
    values: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


def drawn(crops: Tensor, recipe: Recipe | Mixture, seed: int) -> Truth:
    """Crops, uint8 (N, 3, S, S), under the whole random degradation: pictures of S/4.

    Blur is measured on an edge (`blur_of`), noise as the difference that leaving it out makes.
    """
    degradation = recipe.sample(seeded(seed), len(crops))
    still = degradation.without(*NOISE)
    pictures, noise = [], []
    for row, crop in enumerate(crops):
        hr = crop[None].float() / 255
        pictures.append(apply(hr, degradation[row]))
        noise.append((pictures[-1] - apply(hr, still[row])).std() * 255)
    values = torch.stack([blur_of(degradation), torch.stack(noise), _last_quality(degradation)], 1)
    return Truth((torch.cat(pictures) * 255).round().byte(), values, degradation.level)


def _last_quality(degradation: Degradation) -> Tensor:
    first, last = degradation.quality.unbind(1)
    quality = torch.where(last > 0, last, first)
    return torch.where(quality > 0, quality, 100.0)


def direct(crops: Tensor, seed: int) -> Truth:
    """Crops, uint8 (N, 3, S, S), made small and then spoilt as a person would do it: pictures of S/4.

    Down-sampled without aliasing by 1.5 to 4; then, each now and then, Gaussian blur up to σ 5, Gaussian noise up to
    σ 60, JPEG from 5 to 98. The level is the mildest whose `LIMITS` hold all three.
    """
    rows = [_spoil(crop[None].float() / 255, seeded(seed, row)) for row, crop in enumerate(crops)]
    return join(rows)


def _spoil(crop: Tensor, generator: torch.Generator) -> Truth:
    chances = torch.rand(4, generator=generator)
    scale, blur, noise, quality = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    blurry, noisy, compressed = (chances[:3] < torch.tensor([0.5, 0.6, 0.6])).tolist()
    side = crop.shape[-1] // SCALE
    source = int(side * (1.5 + 2.5 * scale))
    picture = resize(crop[..., :source, :source], (side, side))
    sigma = 5 * blur**1.5 if blurry else 0.0
    still = picture = quantize(blurred(picture, sigma))
    if noisy:
        picture = quantize(gaussian_noise(picture, 60 * noise**2, bool(chances[3] < 0.3), generator))
    if compressed:
        q = torch.tensor([5 + 93 * quality**0.7])
        picture, still = jpeg(picture, q), jpeg(still, q)
    value = ((sigma**2 + SHARP**2) ** 0.5, float((picture - still).std() * 255), float(q) if compressed else 100.0)
    level = sum(value[0] > blur or value[1] > noise or value[2] < quality for blur, noise, quality in LIMITS)
    return Truth((picture * 255).round().byte(), torch.tensor([value]), torch.tensor([level]))
