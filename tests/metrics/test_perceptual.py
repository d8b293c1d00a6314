"""Metrics through pyiqa against a published log, without a network; LPIPS and DISTS as losses."""

from __future__ import annotations

import csv

import pytest
import torch

from deedsr.data.pairs import read_rgb
from deedsr.metrics.catalogue import METRICS
from deedsr.metrics.loading import Unavailable
from deedsr.metrics.perceptual import dists_loss, load_perceptual, lpips_loss

WITHOUT_WEIGHTS = [metric for metric in METRICS.values() if metric.package == "pyiqa" and not metric.of_a_set]


@pytest.mark.parametrize(("name", "tolerance", "count"), [("lpips", 1e-3, 5), ("dists", 1e-3, 1), ("niqe", 2e-2, 5)])
def test_published_log(shared, needs_weights, name, tolerance, count):
    needs_weights(name)
    score = load_perceptual(METRICS[name])
    pairs = shared / "data" / "pairs"
    with open(pairs / "osediff.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[:: len(rows) // count]:
        image, reference = read_rgb(pairs / "osediff" / row["file"]), read_rgb(pairs / "hr" / row["file"])
        assert score(image, reference) == pytest.approx(float(row[name]), abs=tolerance), row["file"]


@pytest.mark.parametrize("metric", WITHOUT_WEIGHTS, ids=lambda metric: metric.name)
def test_missing_weights_are_a_reason_at_once(metric, tmp_path, monkeypatch):
    pytest.importorskip("pyiqa")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        load_perceptual(metric)
    message = str(caught.value)
    assert message.startswith(metric.label)
    assert str(tmp_path) in message
    assert "allow the download once with `download`" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "make"), [("lpips", lpips_loss), ("dists", dists_loss)])
def test_a_loss_is_the_metric_and_differentiable(draw, needs_weights, name, make):
    needs_weights(name)
    loss = make().train()
    assert not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    image = torch.cat([draw(64, 64, 1), draw(64, 64, 2)]).requires_grad_()
    reference = torch.cat([draw(64, 64, 3), draw(64, 64, 4)])
    value = loss(image, reference)
    value.backward()
    assert value.shape == ()
    assert image.grad.abs().sum() > 0
    score = load_perceptual(METRICS[name])
    pairs = zip(image.detach().split(1), reference.split(1), strict=True)
    assert value.item() == pytest.approx(sum(score(*pair) for pair in pairs) / 2, abs=1e-6)
    assert float(loss(reference, reference)) == pytest.approx(0, abs=1e-6)


def test_losses_without_weights(tmp_path, monkeypatch):
    pytest.importorskip("pyiqa")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Unavailable, match=r"LPIPS needs weights .*alexnet.* or put the files there"):
        lpips_loss()
    with pytest.raises(Unavailable, match=r"DISTS needs weights .*vgg16.* or put the files there"):
        dists_loss()
    with pytest.raises(ValueError, match="no LPIPS on 'squeeze'"):
        lpips_loss("squeeze")
