"""PSNR and SSIM, exactly as published super-resolution results compute them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from deedsr.geometry import dimensions

Channel = Literal["y", "rgb"]

_LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601, 8-bit limited range: black is 16, white is 235
_EPSILON = 1e-8
_WINDOW = 11
_SIGMA = 1.5


def luma(image: Tensor) -> Tensor:
    """Limited-range BT.601 luma of an RGB image in [0, 1]: (B, 3, H, W) -> (B, 1, H, W) float64 in [16/255, 235/255].

    ``Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255``. Full-range luma differs from it by the factor 255/219, so a
    PSNR on full-range luma reads exactly 20·log10(255/219) = 1.3219 dB lower.
    """
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=image.device).view(1, 3, 1, 1)
    return ((image.double() * weights).sum(1, keepdim=True) + 16) / 255


def psnr(image: Tensor, reference: Tensor, channel: Channel = "y") -> Tensor:
    """Peak signal-to-noise ratio in dB of RGB images (B, 3, H, W) in [0, 1]: (B,) float64, higher is better.

    No border is cropped and nothing is rounded; 1e-8 is added to the mean squared error, so equal images give 80 dB.
    """
    _check(image, reference)
    x, y = (luma(image), luma(reference)) if channel == "y" else (image.double(), reference.double())
    error = (x - y).square().mean((1, 2, 3))
    return -10 * torch.log10(error + _EPSILON)


def ssim(image: Tensor, reference: Tensor, channel: Channel = "y") -> Tensor:
    """Structural similarity of RGB images (B, 3, H, W) in [0, 1], at least 11 pixels a side: (B,) float64 in [0, 1].

    On values of 0..255 rounded to integers; Gaussian window 11×11 with σ 1.5 where it fits (no padding); the contrast
    term is clamped at 0; the mean over pixels and channels. Wang et al., "Image quality assessment: from error
    visibility to structural similarity", 2004, equation 13 with K1 = .01 and K2 = .03.
    """
    _check(image, reference)
    if min(image.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} pixels a side, got {dimensions(image)}")
    x, y = (luma(image), luma(reference)) if channel == "y" else (image.double(), reference.double())
    x, y = (x * 255).round_(), (y * 255).round_()
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack((x, y, x * x, y * y, x * y)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = square_x + square_y - mean_x.square() - mean_y.square()
    contrast = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * contrast.clamp_(min=0)).mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """The Gaussian window over the last two axes, valid positions only: (..., H, W) -> (..., H-10, W-10)."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).tolist()
    for axis in (-2, -1):  # sums of shifted slices: no library has a fast float64 convolution on the CPU
        length = x.shape[axis] - _WINDOW + 1
        out = x.narrow(axis, 0, length) * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            out.add_(x.narrow(axis, i, length), alpha=weight)
        x = out
    return x


def _check(image: Tensor, reference: Tensor) -> None:
    """Raises ValueError unless both are RGB images of one size."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"expected RGB images (B, 3, H, W), got a tensor of shape {tuple(image.shape)}")
    if image.shape != reference.shape:
        raise ValueError(f"image and reference differ in size: {dimensions(image)} and {dimensions(reference)}")
