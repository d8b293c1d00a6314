"""Colour matching against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from deedsr import colour


def wave(frequency: float, size: int = 256) -> torch.Tensor:
    """cos(frequency · x) along both sides, (1, 1, size, size)."""
    line = torch.cos(frequency * torch.arange(size, dtype=torch.float64))
    return (line[:, None] * line[None, :])[None, None]


@pytest.mark.parametrize("frequency", [0.02, 0.1, 0.3, 1.0, 3.0])
def test_low_pass_has_its_closed_form_gain(frequency):
    """Each level multiplies a cosine by cos²(ω 2^i / 2) a side: [1 2 1]/4 is (1 + cos ω 2^i)/2."""
    gain = math.prod((1 + math.cos(frequency * 2**level)) / 2 for level in range(5)) ** 2
    inner = slice(31, -31)
    low = colour.low_pass(wave(frequency))[..., inner, inner]
    assert torch.allclose(low, gain * wave(frequency)[..., inner, inner], atol=1e-12)


def test_low_pass_reaches_31_pixels():
    point = torch.zeros(1, 1, 101, 101)
    point[..., 50, 50] = 1
    low = colour.low_pass(point)
    assert torch.isclose(low.sum(), torch.tensor(1.0))
    assert low[0, 0, 50 - 31, 50] > 0
    assert low[0, 0, 50 - 32, 50] == 0
    assert low[0, 0, 50, 50] == low.max()


def test_wavelet_takes_low_frequencies_from_the_reference_and_high_ones_from_the_image():
    torch.manual_seed(0)
    image, reference = torch.rand(2, 3, 70, 90, dtype=torch.float64), torch.rand(2, 3, 70, 90, dtype=torch.float64)
    expected = image - colour.low_pass(image) + colour.low_pass(reference)
    assert torch.allclose(colour.wavelet(image, reference), expected, atol=1e-12)


def test_wavelet_swaps_a_constant():
    image, reference = torch.full((1, 3, 40, 40), 0.3), torch.full((1, 3, 40, 40), 0.7)
    assert torch.allclose(colour.match(image, reference, "wavelet"), reference, atol=1e-6)


@pytest.mark.parametrize("method", ["wavelet", "adain", "none"])
@pytest.mark.parametrize("size", [(40, 50), (5, 3), (1, 1)])
def test_an_image_matched_to_itself_stays(method, size):
    image = torch.rand(1, 3, *size)
    assert torch.allclose(colour.match(image, image.clone(), method), image, atol=1e-6)


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_a_tint_is_removed(method):
    torch.manual_seed(1)
    reference = 0.3 + 0.4 * torch.rand(1, 3, 64, 64)
    tinted = reference + torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    assert torch.allclose(colour.match(tinted, reference, method), reference, atol=1e-5)


def test_adain_gives_mean_and_deviation_of_the_reference():
    """1e-5 is added to both variances, so what is left of the deviation is √(v·(w + 1e-5)/(v + 1e-5))."""
    torch.manual_seed(2)
    image, reference = torch.rand(2, 3, 33, 47), 0.5 + 0.1 * torch.randn(2, 3, 33, 47)
    result = colour.adain(image, reference)
    assert torch.allclose(result.mean((2, 3)), reference.mean((2, 3)), atol=1e-5)
    given, wanted = image.var((2, 3)), reference.var((2, 3))
    assert torch.allclose(result.var((2, 3)), given * (wanted + 1e-5) / (given + 1e-5), rtol=1e-4)
    assert torch.allclose(result.std((2, 3)), reference.std((2, 3)), rtol=1e-3)


def test_adain_of_a_flat_image_is_the_mean():
    reference = torch.rand(1, 3, 20, 20)
    result = colour.adain(torch.full((1, 3, 20, 20), 0.2), reference)
    assert torch.allclose(result, reference.mean((2, 3), keepdim=True).expand_as(result), atol=1e-6)


def test_the_result_is_clamped_and_the_arguments_stay():
    image, reference = torch.rand(1, 3, 40, 40).round(), torch.rand(1, 3, 40, 40)
    before = image.clone()
    result = colour.match(image, reference, "wavelet")
    assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(image, before)


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown colour method 'ycc'; choose one of wavelet, adain, none"):
        colour.match(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "ycc")
