"""The single operations of the degradation on one image; each is a plain function of its parameters and a generator.

All take and return float32 RGB (1,3,H,W) in [0,1]. They are defined for one image, because sizes and counts of
grey values differ per image; `pipeline.apply` loops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.degradation.kernels import make_kernel

MODES = ("area", "bilinear", "bicubic")
"""Interpolation modes of the random resizes; a `Degradation` stores positions in this tuple."""

FFT_MULTIPLE = 32


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with one kernel (size,size), odd; the result may leave [0,1] (sinc overshoots).

    Edges are reflected, or replicated where a side is at most size//2 pixels. Goes through the FFT: for kernels of 7 to
    21 pixels it costs less than a direct convolution on a CPU, and on a GPU it isn't subject to TF32.
    """
    height, width = image.shape[-2:]
    margin = kernel.shape[-1] // 2
    mode = "reflect" if margin < min(height, width) else "replicate"
    padded = F.pad(image, (margin,) * 4, mode=mode)
    shape = [-(-side // FFT_MULTIPLE) * FFT_MULTIPLE for side in padded.shape[-2:]]
    response = torch.fft.rfft2(kernel, s=shape).conj()  # conj: correlation, as F.conv2d
    spectrum = torch.fft.rfft2(padded, s=shape).mul_(response)
    return torch.fft.irfft2(spectrum, s=shape)[..., :height, :width]


def unsharp(image: Tensor, strength: float) -> Tensor:
    """Sharpen by an unsharp mask where there is something to sharpen (Real-ESRGAN, arXiv 2107.10833, section 3.6).

    (B,3,H,W) in [0,1] → the same. What a Gaussian of σ 8 takes away is added again, `strength` times, near places where
    that is more than 10/255.
    """
    kernel = make_kernel(0, 51, 8, 8, 0, 0, 0).to(image.device)
    detail = image - filter2d(image, kernel)
    share = filter2d((detail.abs() * 255 > 10).to(image.dtype), kernel)
    return image + share * (torch.add(image, detail, alpha=strength).clamp(0, 1) - image)


def resize_by(image: Tensor, scale: float, mode: str) -> Tensor:
    """`F.interpolate` by a factor, without antialiasing; sides are rounded down, at least 1 pixel."""
    if scale == 1:
        return image
    height, width = image.shape[-2:]
    if min(height, width) * scale < 1:
        return resize_to(image, (max(1, int(height * scale)), max(1, int(width * scale))), mode)
    return F.interpolate(image, scale_factor=scale, mode=mode, align_corners=None if mode == "area" else False)


def resize_to(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """`F.interpolate` to (height, width), without antialiasing."""
    return F.interpolate(image, size=size, mode=mode, align_corners=None if mode == "area" else False)


def gaussian_noise(image: Tensor, sigma: float, grey: bool, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise and clamp to [0,1].

    sigma: standard deviation in steps of 1/255. grey: one field for the three channels instead of one each. generator:
    on the image's device.
    """
    channels = 1 if grey else 3
    noise = torch.randn(1, channels, *image.shape[-2:], generator=generator, device=image.device)
    return torch.add(image, noise, alpha=sigma / 255).clamp_(0, 1)


def poisson_noise(image: Tensor, scale: float, grey: bool, generator: torch.Generator) -> Tensor:
    """Add shot noise and clamp to [0,1] (Real-ESRGAN's definition).

    With v the least power of two that isn't below the number of distinct 8-bit values in the image x:
    noise = Poisson(v x)/v − x, out = image + scale · noise. It depends on the signal, so two patches of one photograph
    that share all parameters still have different noise strength. grey: noise from the luma, the same for the three
    channels. generator: on the image's device.
    """
    signal = luma(image) if grey else image
    steps = (signal * 255).round_().clamp_(0, 255)
    levels = level_count(steps)
    signal = steps.div_(255)
    noise = torch.poisson(signal * levels, generator=generator).div_(levels).sub_(signal)
    return torch.add(image, noise, alpha=scale).clamp_(0, 1)


def level_count(steps: Tensor) -> Tensor:
    """Least power of two that isn't below the number of distinct values in `steps` (integers 0…255): () float32."""
    present = torch.zeros(256, dtype=torch.bool, device=steps.device)
    present.index_fill_(0, steps.flatten().long(), True)
    powers = 2 ** torch.arange(9, device=steps.device)
    return (2 ** (powers < present.sum()).sum()).float()


def luma(image: Tensor) -> Tensor:
    """(B,3,H,W) → (B,1,H,W) with the weights of ITU-R BT.601, 0.2989/0.587/0.114 as torchvision has them."""
    red, green, blue = image.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def quantize(image: Tensor) -> Tensor:
    """Clamp to [0,1] and round to multiples of 1/255."""
    return (image * 255).round_().clamp_(0, 255).div_(255)
