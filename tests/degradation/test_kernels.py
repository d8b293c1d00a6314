import math

import pytest
import torch

from deedsr.degradation import kernels, operations
from deedsr.degradation.kernels import KINDS, make_kernel

BLURS = range(6)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("size", [7, 13, 21])
def test_kernels_sum_to_one_and_are_symmetric(kind: int, size: int) -> None:
    kernel = make_kernel(kind, size, 1.4, 0.5, 0.7, 1.3, 2.0)
    assert kernel.shape == (size, size) and kernel.dtype == torch.float32
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(kernel, kernel.rot90(2), atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", BLURS, ids=KINDS[:6])
def test_blurs_equal_their_formula(kind: int) -> None:
    size, first, second, angle, beta = 15, 2.0, 0.8, 0.5, 1.4
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kind % 2 == 0:
        second, angle = first, 0.0
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    square = (along / first) ** 2 + (across / second) ** 2
    shapes = (torch.exp(-square / 2), torch.exp(-(square**beta) / 2), 1 / (1 + square**beta))
    expected = shapes[kind // 2] / shapes[kind // 2].sum()
    torch.testing.assert_close(
        make_kernel(kind, size, first, second, angle, beta, 0), expected.float(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("omega", [math.pi / 3, 2.2])
def test_sinc_passes_low_frequencies_and_stops_high_ones(omega: float) -> None:
    kernel = make_kernel(kernels.SINC, 21, 0, 0, 0, 0, omega)
    response = torch.fft.fft2(kernel, s=(128, 128)).abs()
    frequency = torch.fft.fftfreq(128) * 2 * math.pi
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    assert (response[radius < omega - 0.4] - 1).abs().max() < 0.15
    assert response[(radius > omega + 0.4) & (radius < math.pi)].max() < 0.15
    assert kernel.min() < 0


def test_sharpening_adds_what_a_gaussian_takes_away() -> None:
    strength, sigma = 1.2, 1.1
    kernel = make_kernel(kernels.SHARPEN, 13, sigma, sigma, 0, strength, 0)
    gaussian = make_kernel(0, 13, sigma, sigma, 0, 0, 0)
    delta = torch.zeros(13, 13)
    delta[6, 6] = 1
    torch.testing.assert_close(kernel, delta + strength * (delta - gaussian))
    edge = torch.cat([torch.zeros(16), torch.ones(16)]).expand(1, 3, 32, 32)
    sharpened = operations.filter2d(edge, kernel)
    assert sharpened[..., 16].min() > 1.2 and sharpened[..., 15].max() < -0.2, "halos on both sides"
    torch.testing.assert_close(sharpened[..., 24:], edge[..., 24:])
