"""Filter kernels of the degradation: six blurs and the sinc of Real-ESRGAN (arXiv 2107.10833, 3.2, 3.5), sharpening."""

import math
from collections import defaultdict
from collections.abc import Sequence

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
    return make_kernels([(kind, size, sigma_x, sigma_y, rotation, beta, omega)])[0]


def make_kernels(parameters: Sequence[Sequence[float]]) -> Tensor:
    """`make_kernel` of each row of parameters: (N,S,S), each in its first `size` rows and columns and zero beyond.

    Where the size is 0 there is no kernel. Kernels of one formula and size are computed together, to the same bits.
    """
    most = max((int(size) for _, size, *_ in parameters), default=0)
    made, alike = torch.zeros(len(parameters), most, most), defaultdict(list)
    for row, (kind, size, *_) in enumerate(parameters):
        assert size == 0 or size % 2 == 1, f"kernel size {size} is even"
        if size:
            alike[min(int(kind) // 2 * 2, SINC) if kind != SHARPEN else SHARPEN, int(size)].append(row)
    for (formula, size), rows in alike.items():
        made[rows, :size, :size] = _alike(formula, size, [parameters[row] for row in rows])
    return made


def _alike(formula: int, size: int, parameters: Sequence[Sequence[float]]) -> Tensor:
    """Kernels of one size and formula, which is that of a kind and the next: (N,size,size)."""
    kinds, _, first, second, angles, beta, omega = (list(column) for column in zip(*parameters, strict=True))
    if formula == SINC:
        return _normalised(_sinc(size, _column(omega)))
    if formula == SHARPEN:
        plain = _normalised((-_square(size, first, first, [0.0] * len(first)) / 2).exp())
        kernel = -_column(beta).float() * plain
        kernel[:, size // 2, size // 2] += (1 + _column(beta)).float()[:, 0, 0]
        return kernel
    even = [kind % 2 == 0 for kind in kinds]
    second = [x if alike else y for x, y, alike in zip(first, second, even, strict=True)]
    square = _square(size, first, second, [0.0 if alike else angle for angle, alike in zip(angles, even, strict=True)])
    if formula == 0:
        return _normalised((-square / 2).exp())
    power = square ** _column(beta)
    return _normalised((-power / 2).exp() if formula == 2 else 1 / (1 + power))


def _column(values: Sequence[float]) -> Tensor:
    """(N,1,1) float64"""
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def _normalised(kernels: Tensor) -> Tensor:
    return (kernels / kernels.flatten(1).sum(1)[:, None, None]).float()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Columns x and rows y around the middle, float64 (size, size)."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _square(size: int, sigma_x: Sequence[float], sigma_y: Sequence[float], rotation: Sequence[float]) -> Tensor:
    """xᵀ Σ⁻¹ x of each pixel, Σ the covariance with these axes turned by `rotation` (equation 2)."""
    x, y = _grid(size)
    cos, sin = (_column([function(angle) for angle in rotation]) for function in (math.cos, math.sin))
    along, across = x * cos + y * sin, y * cos - x * sin
    return (along / _column(sigma_x)) ** 2 + (across / _column(sigma_y)) ** 2


def _sinc(size: int, omega: Tensor) -> Tensor:
    """ω J₁(ω r) / (2π r), the ideal circular low-pass; ω² / 4π in the middle (equation 6)."""
    radius = torch.hypot(*_grid(size))
    kernel = omega * torch.special.bessel_j1(omega * radius) / (2 * math.pi * radius)
    kernel[:, size // 2, size // 2] = omega[:, 0, 0] ** 2 / (4 * math.pi)
    return kernel
