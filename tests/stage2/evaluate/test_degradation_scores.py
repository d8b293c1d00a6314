"""Intervals, measures and response curves on numbers whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deedsr.degradation import jpeg
from deedsr.geometry import upsample
from stage2.evaluate.degradation.dials import MEASURES, Response, measures
from stage2.evaluate.degradation.scores import Scores


def test_a_paired_difference_is_over_photographs() -> None:
    """Content varies by 1 between photographs, the difference by 0.01; the pieces of a photograph are one value."""
    scores, random = Scores(), np.random.default_rng(0)
    for photo in range(24):
        level, shift = random.normal(0, 1), random.normal(0.05, 0.01)
        for _ in range(8):
            scores.add("own", photo, "lpips", level)
            scores.add("other", photo, "lpips", level + shift)
    found = scores.difference("other", "own", "lpips")
    low, high = found["interval"]
    assert found["photographs"] == 24
    assert low < 0.05 < high and low < found["difference"] < high
    assert high - low == pytest.approx(2 * 1.96 * 0.01 / 24**0.5, rel=0.35), "pieces of a photograph count once"
    wide = scores.mean("own", "lpips")["interval"]
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 / 24**0.5, rel=0.35)
    assert scores.difference("own", "own", "lpips")["interval"] == [0, 0]


def test_a_difference_needs_the_same_photographs() -> None:
    scores = Scores()
    scores.add("a", 0, "psnr", 1)
    scores.add("b", 1, "psnr", 1)
    with pytest.raises(AssertionError, match="not the same photographs"):
        scores.difference("a", "b", "psnr")


def test_measures_tell_noise_sharpness_and_blocks_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    small = upsample(torch.rand(1, 3, 32, 32, generator=generator) * 0.6 + 0.2, 4)  # (1, 3, 128, 128)
    noisy = (small + 0.04 * torch.randn(small.shape, generator=generator)).clamp(0, 1)
    versions = {"plain": small, "noisy": noisy, "coded": jpeg(small, torch.tensor([20.0]))}
    found = {
        name: dict(zip(MEASURES, measures(enlarged(image))[0].tolist(), strict=True))
        for name, image in versions.items()
    }
    assert found["noisy"]["noise"] > 4 + max(found["plain"]["noise"], found["coded"]["noise"])
    assert found["coded"]["blockiness"] > 0.1 + max(found["plain"]["blockiness"], found["noisy"]["blockiness"])
    blurred = torch.nn.functional.avg_pool2d(enlarged(small), 9, 1, 4)
    assert float(measures(blurred)[0, MEASURES.index("sharpness")]) < found["plain"]["sharpness"] - 0.1


def enlarged(image: torch.Tensor) -> torch.Tensor:
    """Four times, so that its mean over 4x4 pixels is what it was."""
    return image.repeat_interleave(4, -1).repeat_interleave(4, -2)


def curves(moves: list[list[float]], pictures: int = 6) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Outputs in which dial d moves measure m by moves[d][m] standard deviations a step."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(pictures, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 5
    change = torch.tensor(moves)[:, None] * torch.arange(5)[:, None]  # (dials, positions, measures)
    return truth[:, None, None] + change * truth.std(0), truth, [number // 2 for number in range(pictures)]


def test_a_dial_that_does_what_it_is_called() -> None:
    found = Response().found(*curves([[0.5, 0.1, 0], [0, -0.5, 0], [0.02, 0, -0.3]]))
    deblur, denoise, dejpeg = (found["dials"][name] for name in ("deblur", "denoise", "dejpeg"))
    assert [dial["spearman"] for dial in (deblur, denoise, dejpeg)] == [1, 1, 1]
    assert [dial["monotone"] for dial in (deblur, denoise, dejpeg)] == [1, 1, 1]
    assert deblur["selectivity"] == pytest.approx(5, rel=1e-3)
    assert dejpeg["selectivity"] == pytest.approx(15, rel=1e-3)
    assert deblur["moved"]["sharpness"] == pytest.approx(2, rel=1e-3)
    assert [at["mean"] for at in denoise["curves"]["noise"]] == pytest.approx([1, 0.5, 0, -0.5, -1], rel=1e-3)
    assert found["pictures"] == 6 and found["units"]["noise"] > found["units"]["blockiness"]


def test_a_dial_that_is_turned_the_wrong_way_or_does_nothing() -> None:
    found = Response().found(*curves([[-0.5, 0, 0], [0.5, 0, 0], [0, 0, 0]]))
    deblur, denoise, dejpeg = (found["dials"][name] for name in ("deblur", "denoise", "dejpeg"))
    assert (deblur["spearman"], deblur["monotone"]) == (-1, 0) and deblur["selectivity"] < 0
    assert (denoise["spearman"], denoise["monotone"]) == (0, 0) and denoise["selectivity"] == pytest.approx(0)
    assert (dejpeg["spearman"], dejpeg["monotone"], dejpeg["selectivity"]) == (0, 0, 0)
