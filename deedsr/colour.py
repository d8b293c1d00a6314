"""Colours of a restored image, which are the input's: the networks shift them. And colours for hidden pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deedsr.options import COLOURS, one_of

LEVELS = 5
EPSILON = 1e-5  # of variances, as in the authors' code: noise in a flat picture is not blown up


def match(image: Tensor, reference: Tensor, method: str = "wavelet") -> Tensor:
    """Colours of ``reference`` for ``image``, both (B, C, H, W) in [0, 1]; the result is clamped to [0, 1].

    method: ``wavelet``, ``adain`` or ``none``. Raises ValueError for another.
    """
    one_of("colour method", method, COLOURS)
    assert image.shape == reference.shape, f"{tuple(image.shape)} and {tuple(reference.shape)}"
    if method == "none":
        return image
    return (wavelet if method == "wavelet" else adain)(image, reference).clamp_(0, 1)


def wavelet(image: Tensor, reference: Tensor, levels: int = LEVELS) -> Tensor:
    """High frequencies of the image and low ones of the reference, split by the à-trous wavelet transform.

    The low-pass L is linear, so image − L image + L reference = image + L(reference − image): one channel at a time
    needs one blurred plane. L reaches 2^levels − 1 pixels.
    """
    result = torch.empty_like(image)
    for channel in range(image.shape[1]):
        part = slice(channel, channel + 1)
        result[:, part] = low_pass(reference[:, part] - image[:, part], levels).add_(image[:, part])
    return result


def low_pass(image: Tensor, levels: int = LEVELS) -> Tensor:
    """À-trous low-pass: [1 2 1]/4 along both sides with gaps of 1, 2, 4 … pixels; edges repeat the last pixel."""
    for level in range(levels):
        for side in (-2, -1):
            image = _blurred(image, 2**level, side)
    return image


def _blurred(image: Tensor, gap: int, side: int) -> Tensor:
    """x[i]/2 + x[i − gap]/4 + x[i + gap]/4 along one side."""
    length = image.shape[side]
    inner, outer = max(length - gap, 0), min(gap, length)
    result = image / 2
    result.narrow(side, outer, inner).add_(image.narrow(side, 0, inner), alpha=0.25)
    result.narrow(side, 0, outer).add_(image.narrow(side, 0, 1), alpha=0.25)
    result.narrow(side, 0, inner).add_(image.narrow(side, outer, inner), alpha=0.25)
    result.narrow(side, inner, outer).add_(image.narrow(side, length - 1, 1), alpha=0.25)
    return result


def filled(image: Tensor, seen: Tensor) -> Tensor:
    """An image (B, C, H, W) whose pixels outside `seen` (B, 1, H, W), a mask, have the colours of those near them.

    Pull and push: each unseen pixel is drawn from the first halved copy of the image in which something is seen around
    it. An image of which nothing is seen, or all, comes back as it is.
    """
    if bool(seen.all()) or not bool(seen.any()):
        return image
    weight = functional.avg_pool2d(seen.to(image.dtype), 2, ceil_mode=True)
    colours = functional.avg_pool2d(image * seen, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = filled(colours, weight > 0)
    around = functional.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(seen, image, around)


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """Adaptive instance normalisation (arXiv 1703.06868, eq. 8): the reference's mean and deviation, by channel.

    EPSILON is added to both variances.
    """
    result = torch.empty_like(image)
    for row in range(image.shape[0]):
        for channel in range(image.shape[1]):
            correction = int(image[row, channel].numel() > 1)
            variance, mean = torch.var_mean(image[row, channel], correction=correction)
            wanted, wanted_mean = torch.var_mean(reference[row, channel], correction=correction)
            scale = ((wanted + EPSILON) / (variance + EPSILON)).sqrt()
            torch.sub(image[row, channel], mean, out=result[row, channel]).mul_(scale).add_(wanted_mean)
    return result
