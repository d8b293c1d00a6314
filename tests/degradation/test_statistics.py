"""Hand-made statistics of pictures about which all is known."""

import pytest
import torch

from deedsr.degradation import jpeg
from deedsr.degradation.kernels import make_kernel
from deedsr.degradation.operations import filter2d
from deedsr.degradation.statistics import blockiness, laplacian, noise_sigma, statistics


@pytest.fixture
def smooth() -> torch.Tensor:
    """A smooth colour picture (1, 3, 128, 128) in [0.2, 0.8]."""
    small = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, size=128, mode="bicubic", align_corners=False)
    return (0.2 + 0.6 * large).clamp(0, 1)


@pytest.mark.parametrize("sigma", [5.0, 15.0, 40.0])
def test_noise_on_a_flat_picture_is_found_within_a_tenth(sigma: float) -> None:
    noise = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * sigma
    noisy = (128 + noise).round()
    assert noise_sigma(noisy).sub(sigma).abs().max() < 0.1 * sigma


def test_noise_is_found_in_a_picture(smooth: torch.Tensor) -> None:
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1)) * 10
    assert noise_sigma(smooth * 255).max() < 2
    assert noise_sigma(smooth * 255 + noise).sub(10).abs().max() < 1.5


def test_blockiness_rises_as_the_quality_falls(smooth: torch.Tensor) -> None:
    measured = [float(blockiness(jpeg(smooth, torch.tensor([q]))[:, :1] * 255, 8)) for q in (95.0, 60.0, 30.0, 10.0)]
    assert measured == sorted(measured)
    assert measured[0] < 0.1 < 0.5 < measured[-1]
    assert abs(float(blockiness(smooth[:, :1] * 255, 8))) < 0.1


def test_blockiness_sees_its_own_grid_alone(smooth: torch.Tensor) -> None:
    coded = jpeg(smooth, torch.tensor([15.0]))[:, :1] * 255
    assert blockiness(coded, 8) > 0.5
    assert blockiness(coded[..., 4:, 4:], 8) < 0.1


def test_sharpness_falls_with_blur(smooth: torch.Tensor) -> None:
    textured = smooth[:, :1] + 0.1 * torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    blurred = filter2d(textured, make_kernel(0, 13, 1.5, 1.5, 0, 0, 0))
    assert laplacian(blurred).var() < 0.1 * laplacian(textured).var()


def test_a_row_does_not_depend_on_its_batch_and_is_finite() -> None:
    assert statistics(torch.rand(2, 3, 8, 9)).isfinite().all()  # smaller than the least
    pictures = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(3))
    pictures[1] = 0.5
    numbers = statistics(pictures)
    assert numbers.shape == (3, 18)
    assert numbers.isfinite().all()
    assert torch.allclose(numbers[2:], statistics(pictures[2:]), atol=1e-4)
