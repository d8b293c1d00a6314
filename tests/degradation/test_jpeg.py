import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deedsr.degradation import jpeg
from deedsr.degradation.jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    compress,
    nearest_jpeg,
    nearest_tables,
    quantization_tables,
)


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
        for index, ours in enumerate(quantization_tables(torch.tensor(float(quality)))):
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


def test_images_of_several_sizes_together_are_as_alone(textured: Callable[..., Tensor]) -> None:
    sizes = [(64, 64), (43, 70), (5, 128), (112, 16), (1, 1), (64, 43)]
    images = [textured(1, *size) for size in sizes]
    quality = torch.tensor([20.0, 40.0, 60.0, 80.0, 30.0, 95.0])
    together = compress(images, quantization_tables(quality))
    nearest = compress(images, nearest_tables(quality), nearest=True)
    for row, image in enumerate(images):
        one = quality[row : row + 1]
        assert torch.equal(together[row], jpeg(image, one)), sizes[row]
        assert torch.equal(nearest[row], nearest_jpeg(image, one)), sizes[row]


def test_precision_settings_of_a_training_run_do_not_matter(textured: Callable[..., Tensor]) -> None:
    images, quality = textured(2), torch.tensor([40.0, 90.0])
    expected = jpeg(images, quality)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(jpeg(images, quality), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def by_hand(image: np.ndarray, quality: float) -> np.ndarray:
    """float64 (H, W, 3) in [0, 1], sides multiples of 16: the codec block by block, coefficient by coefficient."""
    x, u = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    wave = np.cos((2 * x + 1) * u * np.pi / 16) * np.where(u == 0, 8**-0.5, 0.5)  # (pixel, frequency)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    planes = np.moveaxis(255 * image @ to_ycc.T, -1, 0)
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    decoded = []
    for index, plane in enumerate(planes):
        half = index > 0
        if half:
            plane = (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4
        table = factor * np.array(CHROMA_TABLE if half else LUMA_TABLE, dtype=float).T
        plane = plane - (0 if half else 128)
        for top in range(0, plane.shape[0], 8):
            for left in range(0, plane.shape[1], 8):
                block = plane[top : top + 8, left : left + 8]
                kept = np.round(wave.T @ block @ wave / table) * table
                plane[top : top + 8, left : left + 8] = wave @ kept @ wave.T
        decoded.append(plane.repeat(2, 0).repeat(2, 1) if half else plane + 128)
    y, cb, cr = decoded
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return rgb.clip(0, 255) / 255


@pytest.mark.parametrize("quality", [30.5, 60.0, 95.0])
def test_nearest_chroma_is_that_of_the_authors(quality: float, textured: Callable[..., Tensor]) -> None:
    image = textured(1, 64, 48)
    expected = by_hand(image[0].permute(1, 2, 0).double().numpy(), quality)
    ours = nearest_jpeg(image, torch.tensor([quality]))[0].permute(1, 2, 0).double().numpy()
    assert np.abs(ours - expected).max() < 1e-5
    assert np.abs(ours * 255 - np.round(ours * 255)).max() > 0.4
    assert np.abs(jpeg(image, torch.tensor([quality]))[0].permute(1, 2, 0).numpy() - expected).max() > 0.02


def test_nearest_chroma_of_any_size(textured: Callable[..., Tensor]) -> None:
    image, quality = textured(3, 43, 70), torch.tensor([30.0, 60.0, 90.0])
    padded = torch.nn.functional.pad(image, (0, 10, 0, 5))  # black
    together = nearest_jpeg(image * 1.5 - 0.2, quality)
    assert torch.equal(together[1:2], nearest_jpeg(image[1:2] * 1.5 - 0.2, quality[1:2]))
    assert torch.equal(nearest_jpeg(image, quality), nearest_jpeg(padded, quality)[..., :43, :70])
    assert together.min() >= 0 and together.max() <= 1
