"""Contact sheets: which pictures, which crop, what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deedsr.metrics import sheet
from deedsr.metrics.evaluation import Evaluator
from deedsr.metrics.outputs import Sample, bicubic


def test_extremes():
    scores = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 5.0, "e": 4.0}
    assert sheet.extremes(scores, "lower") == {"b": "best", "a": "median", "d": "worst"}
    assert sheet.extremes(scores, "higher") == {"d": "best", "a": "median", "b": "worst"}
    assert sheet.extremes({"a": 1.0}, "lower") == {"a": "best"}
    assert sheet.extremes({"a": 1.0, "b": 2.0}, "lower") == {"a": "best", "b": "worst"}


def test_the_crop_is_where_the_detail_is():
    image = torch.full((1, 3, 300, 400), 0.5)
    image[..., 160:280, 240:390] = torch.rand(1, 3, 120, 150, generator=torch.Generator().manual_seed(0))
    [(top, left, side)] = sheet.detailed(image)
    assert side == 128
    assert 140 <= top <= 172
    assert 240 <= left <= 272
    assert sheet.detailed(torch.rand(1, 3, 40, 60))[0][2] == 40


def test_further_crops_lie_apart():
    """The weaker texture is the second place, not the neighbourhood of the stronger one."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    image = torch.full((1, 3, 192, 256), 0.5)
    image[..., :64, :64], image[..., 128:, 192:] = noise, 0.5 * noise
    assert sheet.detailed(image, side=64, count=2) == [(0, 0, 64), (128, 192, 64)]
    assert len(sheet.detailed(image, side=128, count=5)) == 2
    assert len(sheet.detailed(image, side=192, count=5)) == 1


def test_sheet_of_a_report(draw):
    samples = {f"s{i}": Sample(f"s{i}", draw(160, 200, i), draw(160, 200, i + 1), draw(40, 50, i)) for i in range(5)}
    report = Evaluator(metrics=["psnr"]).run(samples.values())
    picture = np.asarray(sheet.of_report(report, samples.__getitem__))
    assert picture.shape == (3 * (384 + 2 * 20 + 3 * 12) + 12, 4 * (384 + 12) + 12, 3)
    best = max(samples, key=lambda stem: report.rows["restored"].images[stem]["psnr"])
    [(top, left, side)] = sheet.detailed(samples[best].hr)
    crop = (samples[best].restored[0, :, top : top + side, left : left + side].permute(1, 2, 0) * 255).round().byte()
    drawn = picture[44 : 44 + 384, 12 + 2 * 396 : 12 + 2 * 396 + 384]
    assert (drawn[1::3, 1::3] == crop.numpy()).all()


def test_small_pictures_and_no_input(draw):
    sample = Sample("s", draw(20, 30, 0), draw(20, 30, 1))
    report = Evaluator(metrics=["psnr"]).run([sample])
    assert sheet.of_report(report, lambda _: sample).size == (3 * 396 + 12, 472)


def test_nothing_to_rank(draw):
    sample = Sample("s", draw(20, 30, 0))
    report = Evaluator(metrics=["psnr"]).run([sample])
    with pytest.raises(ValueError, match="no metric could be computed"):
        sheet.of_report(report, lambda _: sample)


def test_a_line_of_pictures(draw):
    sample = Sample("s", draw(16, 20, 0), draw(16, 20, 1), draw(4, 5, 2))
    line = sheet.line(sample)
    assert line.shape == (3, 16, 60)
    assert torch.equal(line[:, :, :20], bicubic(sample.lr, (16, 20))[0])
    assert torch.equal(line[:, :, 20:40], sample.restored[0])
