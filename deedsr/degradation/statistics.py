"""Hand-made statistics of a picture, that know of sharpness, noise and JPEG: what a learned vector has to surpass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.devices import upload

COUNT = 18  # of the statistics
LEAST = 32  # pixels of a side: smaller pictures are continued by their edges
BLOCK = 8
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
MAD = 0.6745  # median of |x| for x ~ N(0, 1)


def statistics(lr: Tensor) -> Tensor:
    """Eighteen numbers a picture: (B, 3, h, w) in [0, 1] -> (B, 18).

    Of the luma, 0-255, at full, half and quarter size: the logarithms of the Laplacian's variance and of the
    gradient's energy; `noise_sigma` of luma, Cb and Cr, and of the luma at half size; `blockiness` of luma and
    chroma; the shares of DCT coefficients near 0, of low and of high frequencies; the logarithms of three quantiles of
    the local variance. Nothing waits for a GPU.
    """
    height, width = lr.shape[-2:]
    if min(height, width) < LEAST:
        lr = F.pad(lr, (0, max(LEAST - width, 0), 0, max(LEAST - height, 0)), mode="replicate")
    planes = torch.einsum("kc,bchw->bkhw", _constant(TO_YCBCR, lr), lr) * 255
    luma, chroma = planes[:, :1], planes[:, 1:]
    half = F.avg_pool2d(luma, 2)
    scales = (luma, half, F.avg_pool2d(half, 2))
    numbers = [
        *(_log(laplacian(scale).flatten(1).var(1)) for scale in scales),
        *(_log(_gradient(scale)) for scale in scales),
        *noise_sigma(planes).unbind(1),
        *noise_sigma(half).unbind(1),
        blockiness(luma, BLOCK)[:, 0],
        blockiness(chroma, 2 * BLOCK).mean(1),
        *_zeros(luma).unbind(1),
        *_log(_local_variance(luma)).unbind(1),
        _log(chroma.flatten(1).var(1)),
    ]
    return torch.stack(numbers, 1)


def laplacian(plane: Tensor) -> Tensor:
    """Four neighbours less four times the pixel: (B, 1, h, w) -> (B, 1, h - 2, w - 2)."""
    kernel = _constant(((0, 1, 0), (1, -4, 1), (0, 1, 0)), plane)
    return F.conv2d(plane, kernel[None, None])


def noise_sigma(planes: Tensor) -> Tensor:
    """Standard deviation of white noise in each plane (B, C, h, w): (B, C), in the planes' unit.

    The median of |diagonal coefficients of the finest Haar wavelet| over .6745 (Donoho and Johnstone 1994, section
    5.1), at all four phases of the transform.
    """
    diagonal = (planes[..., 1:, 1:] - planes[..., 1:, :-1] - planes[..., :-1, 1:] + planes[..., :-1, :-1]) / 2
    return diagonal.abs().flatten(2).median(2).values / MAD


def blockiness(planes: Tensor, grid: int) -> Tensor:
    """How much larger steps are between blocks of `grid` pixels than within them: (B, C, h, w) -> (B, C).

    The logarithm of the ratio of the mean steps, of rows and columns together; 0 for a picture that was never coded.
    """
    between = within = planes.new_zeros(planes.shape[:2])
    for direction in (planes, planes.transpose(-1, -2)):
        steps = direction.diff(dim=-1).abs().mean(-2)  # (B, C, w - 1)
        edge = torch.arange(1, steps.shape[-1] + 1) % grid == 0
        between, within = between + _chosen(steps, edge).mean(-1), within + _chosen(steps, ~edge).mean(-1)
    return _log(between) - _log(within)


def _gradient(plane: Tensor) -> Tensor:
    """(B, 1, h, w) -> (B,)"""
    return sum(plane.diff(dim=dim).square().mean((1, 2, 3)) for dim in (-1, -2))


def _blocks(plane: Tensor) -> Tensor:
    """Whole 8x8 blocks from the top left corner on: (B, 1, h, w) -> (B, n, 8, 8)."""
    parts = plane[:, 0].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)  # (B, h/8, w/8, 8, 8)
    return parts.flatten(1, 2)


def _zeros(plane: Tensor) -> Tensor:
    """Shares of DCT coefficients below 1/2 in size, where the sum of indices is 1 to 4, and above: (B, 2)."""
    index = torch.arange(BLOCK, dtype=plane.dtype)
    basis = torch.cos((2 * index + 1) * index[:, None] * (torch.pi / (2 * BLOCK))) / 2
    basis[0] /= 2**0.5
    basis = upload(basis, plane.device)
    near = (basis @ _blocks(plane) @ basis.T).abs().lt(0.5).to(plane.dtype).mean(1)  # (B, 8, 8)
    frequency = (index[:, None] + index).flatten()
    parts = ((frequency > 0) & (frequency <= 4), frequency > 4)
    return torch.stack([_chosen(near.flatten(1), part).mean(1) for part in parts], 1)


def _local_variance(plane: Tensor) -> Tensor:
    """The 10 %, 50 % and 90 % quantiles of the blocks' variances: (B, 3)."""
    variance = _blocks(plane).flatten(2).var(2)
    return torch.quantile(variance, _constant((0.1, 0.5, 0.9), variance), dim=1).T


def _constant(numbers: Sequence, like: Tensor) -> Tensor:
    return upload(torch.tensor(numbers, dtype=like.dtype), like.device)


def _chosen(values: Tensor, mask: Tensor) -> Tensor:
    """Of the last dimension; how many a mask on a GPU chooses would have to be waited for."""
    return values.index_select(-1, upload(mask.nonzero()[:, 0], values.device))


def _log(value: Tensor) -> Tensor:
    """Finite in flat pictures, which the 8 bits of a file make frequent."""
    return (value + 0.01).log()
