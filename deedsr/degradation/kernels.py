"""Filter kernels of the degradation: six blurs and the sinc of Real-ESRGAN (arXiv 2107.10833, 3.2, 3.5), sharpening."""

import math

import torch
from torch import Tensor

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc", "sharpen")
"""Names of the kernel kinds. A `Degradation` stores positions, so names are only appended; even ones are isotropic."""

SINC, SHARPEN = KINDS.index("sinc"), KINDS.index("sharpen")


def make_kernel(
    kind: int, size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float, omega: float
) -> Tensor:
    """One kernel from its parameters, float32 (size, size), which sums to 1; nothing is drawn.

    kind: position in `KINDS`. size: odd side in pixels. sigma_x: standard deviation along the first axis, pixels
    (unused by sinc). sigma_y: the same along the second axis (anisotropic kinds alone). rotation: angle of the axes,
    radians (anisotropic kinds alone). beta: shape of the generalised Gaussian and the plateau kinds; 1 gives the
    Gaussian for the former. Of the sharpening, an unsharp mask, the strength: how much of what the Gaussian takes away
    is added. omega: cut-off of the sinc kind, radians per pixel, at most π.
    """
    assert size % 2 == 1, f"kernel size {size} is even"
    if kind == SINC:
        return _normalised(_sinc(size, omega))
    if kind == SHARPEN:
        kernel = -beta * make_kernel(0, size, sigma_x, sigma_x, 0, 0, 0)
        kernel[size // 2, size // 2] += 1 + beta
        return kernel
    square = _square(size, sigma_x, sigma_x, 0) if kind % 2 == 0 else _square(size, sigma_x, sigma_y, rotation)
    if kind < 2:
        return _normalised((-square / 2).exp())
    power = square**beta
    return _normalised((-power / 2).exp() if kind < 4 else 1 / (1 + power))


def _normalised(kernel: Tensor) -> Tensor:
    return (kernel / kernel.sum()).float()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Columns x and rows y around the middle, float64 (size, size)."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _square(size: int, sigma_x: float, sigma_y: float, rotation: float) -> Tensor:
    """xᵀ Σ⁻¹ x of each pixel, Σ the covariance with these axes turned by `rotation` (equation 2)."""
    x, y = _grid(size)
    along = x * math.cos(rotation) + y * math.sin(rotation)
    across = y * math.cos(rotation) - x * math.sin(rotation)
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _sinc(size: int, omega: float) -> Tensor:
    """ω J₁(ω r) / (2π r), the ideal circular low-pass; ω² / 4π in the middle (equation 6)."""
    radius = torch.hypot(*_grid(size))
    kernel = omega * torch.special.bessel_j1(omega * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = omega**2 / (4 * math.pi)
    return kernel
