"""Baseline JPEG with 4:2:0 chroma as libjpeg does it, batched, with a quality per image.

Every rounding of the real codec is a true rounding, with libjpeg's rule for ties: colour planes, coefficients and
decoded samples. Differentiable codecs round softly, and so are milder than files of the same quality; and in flat
areas ties are frequent, so that their rule shows. `nearest_jpeg` is such a codec, as the papers' authors train with it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.devices import upload
from deedsr.nested import join

# ITU-T T.81, Annex K, tables K.1 and K.2
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
BLOCK = 8
MCU = 16
TIE = 1e-3
"""Chroma this near to a tie is taken as one: more than float32's error, of no account otherwise."""


CHROMA = ("smooth", "nearest")
"""How chroma is made large again: as libjpeg does it, or each value twice along both sides, see `nearest_jpeg`."""


@torch.no_grad()
def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress: (B,3,H,W) → (B,3,H,W), multiples of 1/255 in [0,1]. No gradient.

    image: float32 RGB in [0,1] of any size; rounded to 8 bits first, as a file would be. quality: (B,) in [1,100],
    libjpeg's scale, on any device; fractions are allowed.
    """
    return compress([image], upload(quantization_tables(quality), image.device))[0]


@torch.no_grad()
def nearest_jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress as basicsr's ``DiffJPEG(differentiable=False)``: (B,3,H,W) → (B,3,H,W) in [0,1].

    Nothing but the coefficients is rounded; chroma is made large by repeating it; what is missing of a block is black;
    and the luma's table is turned, its rows for columns. No gradient. image: float32 RGB, clamped to [0,1]. quality: as
    for `jpeg`.
    """
    return compress([image], upload(nearest_tables(quality), image.device), nearest=True)[0]


def compress(images: Sequence[Tensor], tables: Tensor, nearest: bool = False) -> list[Tensor]:
    """`jpeg`, or `nearest_jpeg`, of images (b,3,h,w) of different sizes together, each as alone.

    tables: of `quantization_tables`, or `nearest_tables`, for all rows, (Σb,2,8,8), on the images' device.
    """
    sizes, counts = [(image.shape[-2], image.shape[-1]) for image in images], [len(image) for image in images]
    height, width = (-(-max(sides) // MCU) * MCU for sides in zip(*sizes, strict=True))
    margins = [(0, width - w, 0, height - h) for h, w in sizes]
    mode = "constant" if nearest else "replicate"
    pixels = join([F.pad(image, margin, mode=mode) for image, margin in zip(images, margins, strict=True)])
    if nearest:
        luma, chroma = _to_real_planes(pixels.clamp(0, 1) * 255)
        luma, chroma = _quantised(luma, tables[:, 0]), _quantised(chroma, tables[:, 1])
        rgb = _mixed(luma, F.interpolate(chroma, scale_factor=2)).clamp_(0, 255)
    else:
        luma, chroma = _to_planes(pixels.mul(255).round_().clamp_(0, 255))
        luma, chroma = _round_trip(luma, tables[:, 0]), _round_trip(chroma, tables[:, 1])
        for planes, (h, w) in zip(chroma.split(counts), sizes, strict=True):
            _continue(planes, -(-h // MCU) * BLOCK, -(-w // MCU) * BLOCK)
        rgb = _to_rgb(luma, chroma)
    return [part[..., :h, :w].div(255) for part, (h, w) in zip(rgb.split(counts), sizes, strict=True)]


def _continue(chroma: Tensor, height: int, width: int) -> None:
    """Repeat, in place, the last row and column of a picture that ends within its planes: it is up-sampled alone."""
    if width < chroma.shape[-1]:
        chroma[..., width] = chroma[..., width - 1]
    if height < chroma.shape[-2]:
        chroma[..., height, :] = chroma[..., height - 1, :]


def quantization_tables(quality: Tensor) -> Tensor:
    """libjpeg's tables of luma and chroma: floor((base · s + 50)/100) in 1…255, s = 5000/q below 50, else 200 − 2q.

    quality: q, (...) in [1,100]. Gives (...,2,8,8) whole numbers, float32, on the CPU.
    """
    base = torch.tensor((LUMA_TABLE, CHROMA_TABLE), dtype=torch.float32)
    return ((base * _scale(quality).floor() + 50) / 100).floor_().clamp_(1, 255)


def nearest_tables(quality: Tensor) -> Tensor:
    """The same of `nearest_jpeg`, real numbers."""
    base = torch.stack([torch.tensor(LUMA_TABLE).T, torch.tensor(CHROMA_TABLE)])
    return base * (_scale(quality) / 100)


def _scale(quality: Tensor) -> Tensor:
    """(...,1,1,1) float32, on the CPU: hundredths of the table for quality 50."""
    quality = quality.float().cpu()[..., None, None, None]
    return torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)


def _to_real_planes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`_to_planes` without rounding."""
    red, green, blue = pixels.split(1, dim=1)
    luma = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    cb = (red * -0.168736).add_(green, alpha=-0.331264).add_(blue, alpha=0.5)
    cr = (red * 0.5).add_(green, alpha=-0.418688).add_(blue, alpha=-0.081312)
    return luma - 128, F.avg_pool2d(torch.cat([cb, cr], dim=1), 2)


def _to_planes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """RGB 0…255 (B,3,H,W) → Y (B,1,H,W) and CbCr (B,2,H/2,W/2), both minus 128 and whole (ITU-T T.871)."""
    red, green, blue = pixels.split(1, dim=1)
    luma = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    cb = (blue - luma).mul_(0.5 / (1 - 0.114))
    cr = (red - luma).mul_(0.5 / (1 - 0.299))
    chroma = torch.cat([cb, cr], dim=1).sub_(0.5 + TIE).ceil_()  # ties down; they are frequent in near-grey
    chroma = F.avg_pool2d(chroma, 2)
    chroma = chroma.add_((1 + _odd_columns(chroma)) / 4).floor_()  # ties up and down by turns
    return luma.round_().sub_(128), chroma


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Y (B,1,H,W) and CbCr (B,2,H/2,W/2), both minus 128 → RGB 0…255 (B,3,H,W), whole."""
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)  # in sixteenths
    chroma = chroma.add_((8 - _odd_columns(chroma)) / 16).floor_()
    return _mixed(luma, chroma).round_().clamp_(0, 255)


def _mixed(luma: Tensor, chroma: Tensor) -> Tensor:
    """Y (B,1,H,W) and CbCr (B,2,H,W), both minus 128 → RGB (B,3,H,W), about 0…255."""
    cb, cr = chroma.split(1, dim=1)
    red = luma.add(cr, alpha=1.402)
    green = luma.add(cb, alpha=-0.344136).add_(cr, alpha=-0.714136)
    blue = luma.add(cb, alpha=1.772)
    return torch.cat([red, green, blue], dim=1).add_(128)


def _odd_columns(planes: Tensor) -> Tensor:
    """(W,) 0, 1, 0, 1, …"""
    return torch.arange(planes.shape[-1], device=planes.device) % 2


def _round_trip(planes: Tensor, table: Tensor) -> Tensor:
    """DCT, quantise by `table` (B,8,8), dequantise, inverse DCT.

    planes: (B,C,H,W) in [-128,127], sides multiples of 8; the same, whole, come back.
    """
    basis = _basis(planes.device)
    coefficients, steps = _blocks(_separable(planes, basis)), _steps(table)
    whole = (coefficients * BLOCK).round_() / (steps * BLOCK)  # eighths, as libjpeg's integers, so that ties are exact
    coefficients = whole.add_(whole.sign(), alpha=0.5).trunc_().mul_(steps)  # ties away from zero
    return _separable(coefficients.view(planes.shape), basis.T).add_(0.5).floor_().clamp_(-128, 127)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """As `_round_trip`, ties to even, the result as it is."""
    basis = _basis(planes.device)
    coefficients, steps = _blocks(_separable(planes, basis)), _steps(table)
    return _separable((coefficients / steps).round_().mul_(steps).view(planes.shape), basis.T)


def _blocks(planes: Tensor) -> Tensor:
    """(B,C,H,W) → (B,C,H/8,8,W/8,8)."""
    return planes.view(*planes.shape[:2], planes.shape[2] // BLOCK, BLOCK, -1, BLOCK)


def _steps(table: Tensor) -> Tensor:
    """(B,8,8) → what `_blocks` are divided by."""
    return table.reshape(-1, 1, 1, BLOCK, 1, BLOCK)


def _separable(planes: Tensor, basis: Tensor) -> Tensor:
    """M X Mᵀ for each 8×8 block X of (B,C,H,W), in place in the image's layout; (B,C,H,W) in float32."""
    batch, channels, height, width = planes.shape
    rows = basis @ planes.to(basis.dtype).reshape(-1, BLOCK, width)
    return (rows.view(-1, BLOCK) @ basis.T).view(batch, channels, height, width).float()


@lru_cache
def _basis(device: torch.device) -> Tensor:
    """Orthonormal DCT-II matrix (8,8). float64 where there is such: float32 products may be set to TF32 or bfloat16."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    index = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos((2 * index + 1) * index[:, None] * (math.pi / (2 * BLOCK))) / 2
    basis[0] /= math.sqrt(2)
    return basis.to(device=device, dtype=dtype)
