"""Edges of a restored picture, made smooth along themselves and steep across: small decoders draw them with teeth.

After coherence-enhancing shock filters (Weickert, DAGM 2003): the structure tensor says where edges run, the picture is
smoothed along them, and sharpened where it was. No network takes part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

from deedsr.pictures.picture import luma
from deedsr.tiling import around, windows

PART, REACH = 1024, 48
"""Side of the parts that large pictures are worked on in, and how far a pixel's surroundings can reach, pixels."""
GRADIENT, AGREED = 1.0, 5.0
"""Standard deviations, pixels: of what gradients are taken of, and of the window that agrees on a direction."""
ALONG, APART = 7.0, 3
"""Standard deviation of the smoothing along an edge, and how far apart its samples lie, pixels."""
STRONG = 0.07
"""Slope of an edge, of 1 a pixel, from which on it is smoothed fully; it is sharpened half there."""
FAINT = 0.025
"""What counts for less is not smoothed."""
STEEPER, NEAR = 5.0, 3
"""How many times as steep an edge becomes at most, and from how many pixels around it takes its two sides."""


def coherent(picture: Tensor, strength: float) -> Tensor:
    """A picture (B, 3, H, W) in [0, 1] with edges that are smooth along themselves and steep across; differentiable.

    strength: 0 to 1; 0 gives the picture itself. What has no direction, and what is faint, stays.
    """
    if not strength:
        return picture
    height, width = picture.shape[-2:]
    made = torch.empty_like(picture)
    for place in windows(height, width, PART, 0):
        outer, inner = around(place, height, width, REACH)
        parts = [_coherent(part, strength)[inner.slices] for part in picture[outer.slices].split(1)]
        made[place.slices] = torch.cat(parts)
    return made


def between(picture: Tensor, near: int) -> Callable[[Tensor], Tensor]:
    """Holds images between the darkest and the brightest pixel of `picture` (B, C, H, W) at most `near` away."""
    brightest, darkest = _brightest(picture, near), -_brightest(-picture, near)
    return lambda image: torch.minimum(torch.maximum(image, darkest), brightest)


def _brightest(picture: Tensor, near: int) -> Tensor:
    """The greatest of the pixels around each, by rows, then columns: on a CPU max_pool2d takes ten times as long."""
    for axis, border in ((-2, (0, 0, near, near)), (-1, (near, near, 0, 0))):
        shifted = functional.pad(picture, border, "replicate").unfold(axis, 2 * near + 1, 1).unbind(-1)
        picture = functools.reduce(torch.maximum, shifted)
    return picture


def _coherent(picture: Tensor, strength: float) -> Tensor:
    """`coherent` of one picture (1, 3, H, W), or of a part with its surroundings."""
    share, along = _edges(picture.detach())
    smooth = torch.lerp(picture, _smoothed(picture, along, share[0, 0] > FAINT), strength * (2 * share).clamp(max=1))
    calm = _blurred(smooth, 0.7)
    steep = between(smooth, NEAR)(smooth + STEEPER * (calm - _blurred(calm, 2.0)))
    return torch.lerp(smooth, steep, strength * share).clamp(0, 1)


def _edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Of (1, 3, H, W): how far each pixel is of an edge, (1, 1, H, W) in [0, 1), and its direction, (1, 2, H, W): x, y.

    The structure tensor's coherence, ((λ1 − λ2) / (λ1 + λ2))², times λ1 / (λ1 + `STRONG`²).
    """
    grey = functional.pad(_blurred(luma(picture), GRADIENT), (1, 1, 1, 1), "replicate")
    across = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    products = torch.cat([across.square(), across * down, down.square()], 1)
    xx, xy, yy = _blurred(products, AGREED).split(1, 1)
    apart = ((xx - yy).square() + 4 * xy.square()).sqrt()
    largest = (xx + yy + apart) / 2
    share = (apart / (xx + yy).clamp_min(1e-8)).square() * largest / (largest + STRONG**2)
    angle = torch.atan2(2 * xy, xx - yy) / 2
    return share, torch.cat([-angle.sin(), angle.cos()], 1)


def _smoothed(picture: Tensor, along: Tensor, chosen: Tensor) -> Tensor:
    """(1, 3, H, W) where the `chosen` pixels (H, W) are a Gaussian mean along their directions (1, 2, H, W)."""
    rows, columns = chosen.nonzero(as_tuple=True)
    steps = torch.arange(-int(2 * ALONG), int(2 * ALONG) + 1, APART, device=picture.device)
    weights = (-0.5 * (steps / ALONG).square()).exp()
    here = torch.stack([columns, rows], 1).float()
    places = here + steps[:, None, None] * along[0][:, rows, columns].T
    sides = picture.new_tensor([picture.shape[-1] - 1, picture.shape[-2] - 1]).clamp_min(1)
    grid = (2 * places / sides - 1)[None]  # (1, samples, pixels, 2)
    samples = functional.grid_sample(picture, grid, padding_mode="border", align_corners=True)
    mean = (samples * (weights / weights.sum())[:, None]).sum(2)
    return picture.flatten(2).index_copy(2, rows * picture.shape[-1] + columns, mean).view_as(picture)


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    side = 2 * int(3 * sigma + 0.5) + 1
    return gaussian_blur2d(planes, (side, side), (sigma, sigma), "replicate")
