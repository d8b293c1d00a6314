from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from deedsr.degradation import operations
from deedsr.degradation.kernels import make_kernel

Seeded = Callable[[int], torch.Generator]


@pytest.mark.parametrize("shape", [(128, 128), (57, 91), (11, 40)])
@pytest.mark.parametrize("size", [7, 21])
def test_filter_equals_a_direct_convolution(shape: tuple[int, int], size: int, textured: Callable[..., Tensor]) -> None:
    image, kernel = textured(1, *shape), make_kernel(1, size, 3.0, 0.7, 0.9, 0, 0)
    kernel[0, 1] += 0.1  # not symmetric
    padded = F.pad(image, (size // 2,) * 4, mode="reflect")
    expected = F.conv2d(padded, kernel.expand(3, 1, size, size), groups=3)
    torch.testing.assert_close(operations.filter2d(image, kernel), expected, atol=1e-6, rtol=0)


def test_filter_takes_images_smaller_than_the_kernel(textured: Callable[..., Tensor]) -> None:
    assert operations.filter2d(textured(1, 8, 9), make_kernel(0, 21, 2.0, 2.0, 0, 0, 0)).shape == (1, 3, 8, 9)


@pytest.mark.parametrize("mode", operations.MODES)
@pytest.mark.parametrize("scale", [0.313, 1.47])
def test_resizes_are_plain_interpolation(mode: str, scale: float, textured: Callable[..., Tensor]) -> None:
    image = textured(1, 101, 64)
    resized = operations.resize_by(image, scale, mode)
    assert resized.shape == (1, 3, int(101 * scale), int(64 * scale))
    assert torch.equal(resized, F.interpolate(image, scale_factor=scale, mode=mode))
    assert torch.equal(operations.resize_to(image, (30, 20), mode), F.interpolate(image, size=(30, 20), mode=mode))
    assert torch.equal(operations.resize_by(image, 1.0, mode), image)
    assert operations.resize_by(image[..., :2, :2], 0.3, mode).shape == (1, 3, 1, 1)


def test_gaussian_noise_has_its_strength_and_is_grey_if_asked(seeded: Seeded) -> None:
    image = torch.full((1, 3, 200, 200), 0.5)
    colour = operations.gaussian_noise(image, 12, False, seeded(1)) - image
    assert colour.std().item() * 255 == pytest.approx(12, rel=0.02)
    assert torch.corrcoef(colour.flatten(2)[0]).fill_diagonal_(0).abs().max() < 0.03
    grey = operations.gaussian_noise(image, 12, True, seeded(1)) - image
    assert grey.std().item() * 255 == pytest.approx(12, rel=0.02)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    strong = operations.gaussian_noise(image, 255, False, seeded(1))
    assert strong.min() == 0 and strong.max() == 1


@pytest.mark.parametrize("distinct, levels", [(1, 1), (2, 2), (3, 4), (129, 256), (256, 256)])
def test_level_count_is_the_next_power_of_two(distinct: int, levels: int) -> None:
    assert operations.level_counts([torch.arange(distinct).float().repeat(2), torch.zeros(3)]).tolist() == [levels, 1]


def test_poisson_noise_depends_on_the_signal(seeded: Seeded) -> None:
    steps = torch.linspace(100, 145, 10).round() / 255  # ten values: v = 16
    image = steps.view(1, 1, 10, 1).expand(1, 3, 10, 20000).contiguous()
    noise = operations.poisson_noise([image], [0.5], [False], [seeded(2)])[0] - image
    assert noise.mean().abs() < 1e-3
    expected = 0.5 * (steps / 16).sqrt()  # var[Poisson(v x)/v] = x/v
    torch.testing.assert_close(noise.std(dim=(0, 1, 3)), expected, rtol=0.02, atol=0)
    assert torch.corrcoef(noise.flatten(2)[0]).fill_diagonal_(0).abs().max() < 0.01


def test_grey_poisson_noise_comes_from_the_luma(seeded: Seeded, textured: Callable[..., Tensor]) -> None:
    image = textured(1) / 2 + 0.25
    noise = operations.poisson_noise([image], [0.05], [True], [seeded(3)])[0] - image
    torch.testing.assert_close(noise[:, 0], noise[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(noise[:, 0], noise[:, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(operations.luma(image), rgb_to_grayscale(image), atol=1e-6, rtol=0)


def test_quantize_gives_eight_bits() -> None:
    values = operations.quantize(torch.tensor([-0.2, 0.0, 0.5003, 1.3]))
    assert torch.equal(values, torch.tensor([0, 0, 128 / 255, 1]))


def test_the_unsharp_mask_leaves_flat_places_alone(textured: Callable[..., Tensor]) -> None:
    """By hand: blurred along one side and then the other, in float64, with the edges reflected."""
    image = textured(2, 96, 80)
    weights = torch.exp(-(torch.arange(-25.0, 26, dtype=torch.float64) ** 2) / 128)
    weights = weights / weights.sum()

    def blurred(plane: Tensor) -> Tensor:
        rows = torch.nn.functional.pad(plane, (25, 25, 25, 25), mode="reflect").unfold(2, 51, 1) @ weights
        return rows.unfold(3, 51, 1) @ weights

    detail = image.double() - blurred(image.double())
    share = blurred((detail.abs() > 10 / 255).double())
    expected = share * (image.double() + 0.5 * detail).clamp(0, 1) + (1 - share) * image.double()
    sharp = operations.unsharp(image, 0.5)
    assert (sharp - expected).abs().max() < 1e-5
    assert (sharp - image).abs().max() > 0.05
    flat = 0.5 + (image - 0.5) / 100
    torch.testing.assert_close(operations.unsharp(flat, 0.5), flat, atol=1e-6, rtol=0)
