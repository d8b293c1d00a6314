"""Filter kernels of the degradation: six blurs and the sinc of Real-ESRGAN (arXiv 2107.10833, 3.2, 3.5), sharpening."""

import torch
from torch import Tensor

from deedsr.degradation._basicsr import (
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    circular_lowpass_kernel,
)

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc", "sharpen")
"""Names of the kernel kinds; a `Degradation` stores positions in this tuple."""

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
        return torch.from_numpy(circular_lowpass_kernel(omega, size)).float()
    if kind == SHARPEN:
        kernel = -beta * bivariate_Gaussian(size, sigma_x, sigma_y, rotation, isotropic=True)
        kernel[size // 2, size // 2] += 1 + beta
        return torch.from_numpy(kernel).float()
    isotropic = kind % 2 == 0
    if kind < 2:
        kernel = bivariate_Gaussian(size, sigma_x, sigma_y, rotation, isotropic=isotropic)
    elif kind < 4:
        kernel = bivariate_generalized_Gaussian(size, sigma_x, sigma_y, rotation, beta, isotropic=isotropic)
    else:
        kernel = bivariate_plateau(size, sigma_x, sigma_y, rotation, beta, isotropic=isotropic)
    return torch.from_numpy(kernel).float()
