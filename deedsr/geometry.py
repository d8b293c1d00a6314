"""Sizes of images (B, C, H, W): what a network asks of them, padding, and resampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 4
"""HR pixels per LR pixel, of the networks and of the degradations."""


@dataclass(frozen=True)
class SizeRequirement:
    """What a network asks of an image's height and width, in pixels: a multiple and a least size."""

    multiple: int
    minimum: int

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The least (height, width) not under the given one that meets the requirement."""
        return self._fit(height), self._fit(width)

    def _fit(self, length: int) -> int:
        """Of one side."""
        return -(-max(length, self.minimum) // self.multiple) * self.multiple


def dimensions(image: Tensor) -> str:
    """The size of an image as people write it: WIDTH×HEIGHT."""
    return f"{image.shape[-1]}×{image.shape[-2]}"


def pad_to(image: Tensor, requirement: SizeRequirement, margin: int = 0) -> Tensor:
    """Mirror an image (B, C, H, W) at its edges until it meets the requirement.

    margin: how many pixels are added at the top and the left, and at least at the bottom and the right, where what
    the requirement asks for comes on top. An image that meets it is returned as it is without a margin. Padding wider
    than the image mirrors again and again.
    """
    height, width = image.shape[-2:]
    target = requirement.fit(height + 2 * margin, width + 2 * margin)
    if target == (height, width):
        return image
    rows = _mirrored(height, target[0], margin, image.device)
    columns = _mirrored(width, target[1], margin, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def _mirrored(length: int, target: int, margin: int, device: torch.device) -> Tensor:
    """Indices …, 1, 0, 1, …, n-1, n-2, …, 1, 0, 1, …, the edge pixel not repeated; 0 comes after `margin` others."""
    period = max(2 * length - 2, 1)
    index = torch.arange(-margin, target - margin, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def upsample(image: Tensor, factor: int = SCALE) -> Tensor:
    """Bicubic up-sampling (a = -0.75, no antialiasing, as the degradations use) clamped to [0, 1]: (B, C, fH, fW)."""
    return functional.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False).clamp_(0, 1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resampling (a = -0.5) to exactly ``size`` = (height, width), clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return functional.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 1)
