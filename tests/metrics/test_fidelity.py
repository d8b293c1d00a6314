"""PSNR and SSIM against a slow implementation of their own, pyiqa's, and a published log."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from deedsr.data.pairs import read_rgb
from deedsr.metrics.fidelity import luma, psnr, ssim

# (PSNR, SSIM) of GOLDEN_PAIR, as `slow` printed them
GOLDEN = {"y": (19.93574353, 0.74583246), "rgb": (16.15670388, 0.78855440)}
ROWS, COLUMNS, CHANNELS = np.mgrid[:24, :20, :3]
GOLDEN_PAIR = (
    ((9 * ROWS + 5 * COLUMNS + 31 * CHANNELS + ROWS * COLUMNS % 7) % 256).astype(np.uint8),  # by whole numbers alone
    ((9 * ROWS + 5 * COLUMNS + 29 * CHANNELS + ROWS * COLUMNS % 23) % 256).astype(np.uint8),
)


def slow(image: np.ndarray, reference: np.ndarray, channel: str) -> tuple[float, float]:
    """PSNR and SSIM of two uint8 pictures (H, W, 3), window by window, from their definitions."""
    x, y = image.astype(np.float64), reference.astype(np.float64)
    if channel == "y":
        x, y = ((65.481 * z[..., :1] + 128.553 * z[..., 1:2] + 24.966 * z[..., 2:]) / 255 + 16 for z in (x, y))
    psnr = 10 * math.log10(1 / (np.mean(((x - y) / 255) ** 2) + 1e-8))
    x, y = np.round(x), np.round(y)
    weights = np.array([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)])
    weights /= weights.sum()
    values = []
    for c in range(x.shape[2]):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                p, q = x[top : top + 11, left : left + 11, c], y[top : top + 11, left : left + 11, c]
                m, n = (weights * p).sum(), (weights * q).sum()
                v, w = (weights * (p - m) ** 2).sum(), (weights * (q - n) ** 2).sum()
                s = (weights * (p - m) * (q - n)).sum()
                contrast = (2 * s + 58.5225) / (v + w + 58.5225)
                values.append((2 * m * n + 6.5025) / (m * m + n * n + 6.5025) * max(contrast, 0))
    return psnr, float(np.mean(values))


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_equals_the_slow_implementation(channel):
    image, reference = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 for pixels in GOLDEN_PAIR)
    ours = float(psnr(image, reference, channel)), float(ssim(image, reference, channel))
    assert ours == pytest.approx(slow(*GOLDEN_PAIR, channel), abs=1e-6)
    assert ours == pytest.approx(GOLDEN[channel], abs=1e-6)


def test_luma_is_limited_range():
    black_and_white = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    assert luma(black_and_white).flatten().tolist() == pytest.approx([16 / 255, 235 / 255])


def test_full_range_luma_reads_a_constant_lower(draw):
    """The identity behind a well-known failure to reproduce: 20·log10(255/219) = 1.3219 dB."""
    image, reference = draw(32, 32, 1), draw(32, 32, 2)
    full = [(luma(x) - 16 / 255) * 255 / 219 for x in (image, reference)]
    full_range = -10 * torch.log10((full[0] - full[1]).square().mean())
    assert float(psnr(image, reference) - full_range) == pytest.approx(20 * math.log10(255 / 219), abs=1e-5)
    assert 20 * math.log10(255 / 219) == pytest.approx(1.3219, abs=5e-5)


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_equals_pyiqa(draw, channel):
    pytest.importorskip("pyiqa")
    from pyiqa.archs.psnr_arch import PSNR
    from pyiqa.archs.ssim_arch import SSIM

    image, reference = torch.cat([draw(40, 50, 1), draw(40, 50, 2)]), torch.cat([draw(40, 50, 3), draw(40, 50, 4)])
    options = {"test_y_channel": channel == "y", "color_space": "ycbcr"}
    torch.testing.assert_close(
        psnr(image, reference, channel).float(), PSNR(**options)(image, reference), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ssim(image, reference, channel), SSIM(**options)(image, reference), atol=1e-6, rtol=0)


def test_equal_pictures(draw):
    image = draw(16, 16, 1)
    assert float(psnr(image, image)) == pytest.approx(80)
    assert float(ssim(image, image)) == pytest.approx(1)


def test_opposite_structure_is_clamped():
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 3, 16, 16)
    assert float(ssim(stripes, 1 - stripes)) == 0


def test_published_log(shared):
    """Every picture's PSNR and SSIM of OSEDiff's published outputs, to four decimals."""
    pairs = shared / "data" / "pairs"
    with open(pairs / "osediff.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30
    for row in rows:
        image, reference = read_rgb(pairs / "osediff" / row["file"]), read_rgb(pairs / "hr" / row["file"])
        assert float(psnr(image, reference)) == pytest.approx(float(row["psnr"]), abs=5e-5), row["file"]
        assert float(ssim(image, reference)) == pytest.approx(float(row["ssim"]), abs=5e-6), row["file"]


def test_bad_shapes(draw):
    with pytest.raises(ValueError, match="differ in size: 20×16 and 16×16"):
        psnr(draw(16, 20, 1), draw(16, 16, 1))
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 10×16"):
        ssim(draw(16, 10, 1), draw(16, 10, 2))
    with pytest.raises(ValueError, match="expected RGB"):
        psnr(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
