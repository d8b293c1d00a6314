"""Sizes of images (B, C, H, W): what a network asks of them, padding, and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deedsr.pictures.picture import Picture, from_pil

SCALE = 4
"""HR pixels per LR pixel, of the networks and of the degradations."""
LEAST_SIDE = 8
"""Pixels of a side of an LR image that can be restored."""
LEAST, EIGHT = 128, 8
"""DiT4SR's authors enlarge LR images with a shorter side first, and cut HR sides to multiples of the other."""


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


def check_size(image: Tensor) -> None:
    """Raise ValueError for an image (1, 3, H, W) with a side of fewer than 8 pixels."""
    height, width = image.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"the picture is {width}x{height} pixels; each side must be at least {LEAST_SIDE}")


def pad_to(image: Tensor, requirement: SizeRequirement, margin: int = 0, more: bool = False) -> Tensor:
    """Mirror an image (B, C, H, W) at its edges until it meets the requirement.

    margin: how many pixels are added at the top and the left, and at least at the bottom and the right, where what
    the requirement asks for comes on top. An image that meets it is returned as it is without a margin. Padding wider
    than the image mirrors again and again. more: where one side has to be padded, the other is as well, by a whole
    multiple if need be, as DeeDSR's authors do.
    """
    height, width = image.shape[-2:]
    target = requirement.fit(height + 2 * margin, width + 2 * margin)
    if target == (height, width):
        return image
    if more:
        target = requirement.fit(height + 2 * margin + 1, width + 2 * margin + 1)
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
    return unbounded(image, factor).clamp_(0, 1)


def unbounded(image: Tensor, factor: int = SCALE) -> Tensor:
    """`upsample`, but values outside [0, 1] stay."""
    return functional.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)


def enlarged(lr: Tensor, way: str) -> Tensor:
    """An LR image (1, 3, H, W) in [0, 1] as large as the network's output, about (1, 3, 4H, 4W).

    way: ``float``, as `upsample`. ``deedsr``, as DeeDSR's authors do: the same, but values outside [0, 1] stay.
    ``dit4sr``, as DiT4SR's authors do, by Pillow in 8 bits: first to 128 pixels a side where one is shorter, then four
    times larger, then to sides that are multiples of 8, none larger than before.
    """
    if way == "deedsr":
        return unbounded(lr)
    if way == "float":
        return upsample(lr, SCALE)
    shortest = min(lr.shape[-2:])
    if shortest < LEAST:
        lr = resize_8bit(lr, [int(LEAST / shortest * side) for side in lr.shape[-2:]])
    large = resize_8bit(lr, [SCALE * side for side in lr.shape[-2:]])
    return resize_8bit(large, [side // EIGHT * EIGHT for side in large.shape[-2:]])


def resize_8bit(image: Tensor, size: Sequence[int]) -> Tensor:
    """Pillow's bicubic resampling of (1, 3, H, W) to exactly ``size`` = (height, width), rounded to 8 bits."""
    height, width = size
    resized = Picture(image).to_pil().resize((width, height), Image.Resampling.BICUBIC)
    return from_pil(resized).rgb.to(image)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resampling (a = -0.5) to exactly ``size`` = (height, width), clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return functional.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 1)


def turned(image: Tensor, view: int) -> Tensor:
    """One of the eight views of (1, C, H, W): turned by 0, 90, 180 or 270 degrees, each as it is and mirrored."""
    image = image.rot90(view // 2, (-2, -1))
    return image.flip(-1) if view % 2 else image


def turned_back(image: Tensor, view: int) -> Tensor:
    """Inverse of `turned`."""
    return (image.flip(-1) if view % 2 else image).rot90(-(view // 2), (-2, -1))
