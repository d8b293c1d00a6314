"""How blurred a degradation leaves a picture, measured on the edge of a disc."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.degradation import NOISE, Degradation, apply
from deedsr.geometry import SCALE

SIDE = 32  # LR pixels of the picture of the disc
RADIUS = 8.0  # LR pixels
DARK, BRIGHT = 0.25, 0.75  # far enough from black and white for the overshoot of sharp filters
FINE = 9  # samples of the templates for each LR pixel; odd, so that one lies in its middle
SIGMAS = tuple(0.1 * 1.04**step for step in range(108))  # 0.1 to 6.6 LR pixels


def disc(side: int, radius: float, oversampling: int = 4) -> Tensor:
    """A bright disc in the middle of a dark picture: (1, 3, side, side), its edge pixels covered in part."""
    place = (torch.arange(side * oversampling) + 0.5) / oversampling - side / 2
    inside = (place[:, None].square() + place.square() <= radius**2).float()[None, None]
    covered = F.avg_pool2d(inside, oversampling)
    return (DARK + (BRIGHT - DARK) * covered).repeat(1, 3, 1, 1)


def edge_sigma(lr: Tensor) -> Tensor:
    """σ, in pixels, of the Gaussian that makes the disc look most like each picture (B, 3, 32, 32): (B,).

    Directions are averaged, and so are the rings of a sharpening filter. A disc that was only sampled gives 0.1, one
    averaged over each pixel 0.3.
    """
    plane = lr.mean(1).flatten(1).double()
    distance = torch.cdist(plane, _templates())  # (B, 108)
    return torch.tensor(SIGMAS)[distance.argmin(1)]


@lru_cache
def _templates() -> Tensor:
    """The disc under each of `SIGMAS`, sampled in the middle of the pixels: (108, 32·32), float64."""
    fine = disc(SIDE * FINE, RADIUS * FINE)[0, 0].double()
    vertical = torch.fft.fftfreq(SIDE * FINE, 1 / FINE, dtype=torch.float64)  # periods per LR pixel
    horizontal = torch.fft.rfftfreq(SIDE * FINE, 1 / FINE, dtype=torch.float64)
    squared = vertical[:, None].square() + horizontal.square()
    spectrum = torch.fft.rfft2(fine)
    rows = []
    for sigma in SIGMAS:
        blurred = torch.fft.irfft2(spectrum * torch.exp(-2 * torch.pi**2 * sigma**2 * squared), s=fine.shape)
        rows.append(blurred[FINE // 2 :: FINE, FINE // 2 :: FINE].flatten())
    return torch.stack(rows)


def blur_of(degradation: Degradation) -> Tensor:
    """`edge_sigma` of what each row of a degradation makes of the disc, without its noise and JPEG: (B,), LR pixels."""
    still = degradation.without(*NOISE, "quality")
    picture = disc(SIDE * SCALE, RADIUS * SCALE)
    return edge_sigma(torch.cat([apply(picture, still[row]) for row in range(len(still))]))
