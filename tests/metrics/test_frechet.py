"""FID: the distance against its textbook form, the network's input against pyiqa's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from deedsr.metrics.frechet import distance, inception_input


def textbook(a: np.ndarray, b: np.ndarray) -> float:
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("n", "m"), [(50, 60), (200, 9), (8, 200)])
def test_equals_the_textbook(n, m):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(n, 7)), generator.normal(0.3, 2, size=(m, 7))
    assert distance(a, b) == pytest.approx(textbook(a, b), rel=1e-9)


def test_fewer_pictures_than_dimensions():
    """Singular covariances: sets that differ by a shift are exactly its square apart."""
    a = np.random.default_rng(0).normal(size=(5, 300))
    assert distance(a, a) == pytest.approx(0, abs=1e-9)
    assert distance(a, a[::-1] + 0.1) == pytest.approx(300 * 0.01, rel=1e-9)


def test_two_pictures_at_least():
    with pytest.raises(ValueError, match="at least two pictures"):
        distance(np.zeros((1, 4)), np.zeros((3, 4)))


def test_input_equals_pyiqa(draw, tmp_path):
    pytest.importorskip("pyiqa")
    from pyiqa.archs.fid_arch import ResizeDataset

    image = draw(64, 96, 1)
    path = tmp_path / "a.png"
    Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    theirs = (ResizeDataset([path], "clean")[0] - 128) / 128
    torch.testing.assert_close(inception_input(image)[0], theirs, atol=1e-6, rtol=0)
