"""The single operations of the degradation; each is a plain function of its parameters and generators.

All take and return float32 RGB (1,3,H,W) in [0,1]. Where an operation takes several images, each may have a size of its
own and comes out as it would alone, to the bit on a CPU: what they share are the calls, which on a GPU take longer than
the work.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.degradation.kernels import make_kernel
from deedsr.devices import upload
from deedsr.nested import join

MODES = ("area", "bilinear", "bicubic")
"""Interpolation modes of the random resizes; a `Degradation` stores positions in this tuple."""

FFT_MULTIPLE = 32


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel of a batch (B,3,H,W) with one kernel (size,size), odd; see `filter_each`."""
    return _correlated(_continued(image, kernel.shape[-1]), kernel)[..., : image.shape[-2], : image.shape[-1]]


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A batch (B,3,H,W), or one of planes, blurred by a Gaussian; as it is up to a tenth of a pixel."""
    if sigma <= 0.1:
        return image
    return filter2d(image, upload(make_kernel(0, 2 * int(3 * sigma) + 3, sigma, sigma, 0, 0, 0), image.device))


def filter_each(images: Sequence[Tensor], kernels: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Correlate every channel of each image with its kernel; the results may leave [0,1] (sinc overshoots).

    kernels: (N,S,S), each in the first `sizes` rows and columns, odd, and zero beyond. Edges are reflected, or
    replicated where a side is at most size//2 pixels. Goes through the FFT: for kernels of 7 to 21 pixels it costs less
    than a direct convolution on a CPU, and on a GPU it isn't subject to TF32.
    """
    padded = [_continued(image, size) for image, size in zip(images, sizes, strict=True)]
    alike = defaultdict(list)
    for row, image in enumerate(padded):
        alike[image.shape].append(row)
    result = list(images)
    for rows in alike.values():
        kernel = join([kernels[row : row + 1] for row in rows])[:, None]
        filtered = _correlated(join([padded[row] for row in rows]), kernel)
        for row, image in zip(rows, filtered.split(1), strict=True):
            result[row] = image[..., : images[row].shape[-2], : images[row].shape[-1]]
    return result


def _continued(image: Tensor, size: int) -> Tensor:
    """With its edges continued for a kernel of `size`, and zeros to the right and below: sides that suit the FFT."""
    margin = size // 2
    mode = "reflect" if margin < min(image.shape[-2:]) else "replicate"
    padded = F.pad(image, (margin,) * 4, mode=mode)
    return F.pad(padded, (0, -padded.shape[-1] % FFT_MULTIPLE, 0, -padded.shape[-2] % FFT_MULTIPLE))


def _correlated(images: Tensor, kernel: Tensor) -> Tensor:
    """(B,3,H,W), (size,size) or (B,1,size,size) → (B,3,H,W): circular, each place from there to the right and below."""
    shape = images.shape[-2:]
    response = torch.fft.rfft2(kernel, s=shape).conj()  # conj: correlation, as F.conv2d
    return torch.fft.irfft2(torch.fft.rfft2(images).mul_(response), s=shape)


def unsharp(image: Tensor, strength: float) -> Tensor:
    """Sharpen by an unsharp mask where there is something to sharpen (Real-ESRGAN, arXiv 2107.10833).

    (B,3,H,W) in [0,1] → the same. What a Gaussian of σ 8 takes away is added again, `strength` times, near places where
    that is more than 10/255.
    """
    kernel = upload(make_kernel(0, 51, 8, 8, 0, 0, 0), image.device)
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


def poisson_noise(
    images: Sequence[Tensor], scales: Sequence[float], grey: Sequence[bool], generators: Sequence[torch.Generator]
) -> list[Tensor]:
    """Add shot noise and clamp to [0,1] (Real-ESRGAN's definition).

    With v the least power of two that isn't below the number of distinct 8-bit values in the image x:
    noise = Poisson(v x)/v − x, out = image + scale · noise. It depends on the signal, so two patches of one photograph
    that share all parameters still have different noise strength. grey: noise from the luma, the same for the three
    channels. generators: on the images' device.
    """
    signals = [luma(image) if plain else image for image, plain in zip(images, grey, strict=True)]
    sizes = [signal.numel() for signal in signals]
    steps = join([signal.flatten() for signal in signals]).mul(255).round_().clamp_(0, 255)
    levels = level_counts(steps.split(sizes))
    parts = steps.div_(255).split(sizes)
    result = []
    for image, signal, part, count, scale, generator in zip(
        images, signals, parts, levels, scales, generators, strict=True
    ):
        part = part.view(signal.shape)
        noise = torch.poisson(part * count, generator=generator).div_(count).sub_(part)
        result.append(torch.add(image, noise, alpha=scale).clamp_(0, 1))
    return result


def level_counts(steps: Sequence[Tensor]) -> Tensor:
    """Of each, integers 0…255, the least power of two that isn't below the number of distinct values: (N,) float32."""
    present = torch.zeros(len(steps), 256, dtype=torch.bool, device=steps[0].device)
    for row, values in zip(present, steps, strict=True):
        row.index_fill_(0, values.long(), True)
    powers = 2 ** torch.arange(9, device=present.device)
    return (2 ** (powers < present.sum(1, keepdim=True)).sum(1)).float()


def luma(image: Tensor) -> Tensor:
    """(B,3,H,W) → (B,1,H,W) with the weights of ITU-R BT.601, 0.2989/0.587/0.114 as torchvision has them."""
    red, green, blue = image.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def quantize(image: Tensor) -> Tensor:
    """Clamp to [0,1] and round to multiples of 1/255."""
    return (image * 255).round_().clamp_(0, 255).div_(255)
