import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deedsr.degradation import jpeg
from deedsr.degradation.jpeg import CHROMA_TABLE, LUMA_TABLE, quantization_table


def encode(image: Tensor, quality: int) -> Image.Image:
    """uint8 (3,H,W) → the opened file of libjpeg at 4:2:0."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file)


def psnr(image: Tensor, other: Tensor) -> float:
    error = (image.double() - other.double()).square().mean()
    return float(10 * torch.log10(255**2 / error)) if error else float("inf")


def compare(image: Tensor, quality: int) -> tuple[float, float]:
    """PSNR to the original of our codec minus libjpeg's, and PSNR between the two, dB; uint8 (3,H,W)."""
    theirs = torch.from_numpy(np.array(encode(image, quality))).permute(2, 0, 1)
    ours = (jpeg(image[None].float() / 255, torch.tensor([float(quality)]))[0] * 255).round()
    return psnr(image, ours) - psnr(image, theirs), psnr(ours, theirs)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_as_harsh_as_libjpeg_on_photographs(quality: int, photographs: Tensor) -> None:
    gaps, agreement = zip(*(compare(photo, quality) for photo in photographs), strict=True)
    assert max(map(abs, gaps)) < 0.3
    assert abs(np.mean(gaps)) < 0.02
    assert min(agreement) > 42


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("size", [(128, 128), (75, 101)])
def test_as_harsh_as_libjpeg_on_drawings(quality: int, size: tuple[int, int], textured: Callable[..., Tensor]) -> None:
    gap, agreement = compare((textured(1, *size)[0] * 255).byte(), quality)
    assert abs(gap) < 0.3
    assert agreement > 42


def test_tables_are_those_of_libjpeg(textured: Callable[..., Tensor]) -> None:
    image = (textured(1, 16, 16)[0] * 255).byte()
    for quality in range(1, 101):
        stored = encode(image, quality).quantization
        for index, base in enumerate((LUMA_TABLE, CHROMA_TABLE)):
            ours = quantization_table(torch.tensor([float(quality)]), base)
            assert ours.flatten().int().tolist() == list(stored[index]), quality


def test_a_batch_with_its_own_qualities_equals_single_images(textured: Callable[..., Tensor]) -> None:
    images, quality = textured(5, 43, 70), torch.tensor([12.0, 30.5, 60.0, 95.0, 100.0])
    together = jpeg(images, quality)
    alone = torch.cat([jpeg(images[i : i + 1], quality[i : i + 1]) for i in range(5)])
    assert torch.equal(together, alone)
    assert together.shape == images.shape
    assert torch.equal(together, (together * 255).round() / 255)
    errors = (together - images).abs().mean(dim=(1, 2, 3))
    assert errors[0] > 3 * errors[4]


def test_precision_settings_of_a_training_run_do_not_matter(textured: Callable[..., Tensor]) -> None:
    images, quality = textured(2), torch.tensor([40.0, 90.0])
    expected = jpeg(images, quality)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(jpeg(images, quality), expected)
    finally:
        torch.set_float32_matmul_precision(before)
