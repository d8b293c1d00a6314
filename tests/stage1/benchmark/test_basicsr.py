"""basicsr, which the benchmark compares with, and which our kernels equal."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch

from deedsr.degradation.jpeg import nearest_jpeg
from deedsr.degradation.kernels import KINDS, SINC, make_kernel
from deedsr.degradation.operations import unsharp

if importlib.util.find_spec("basicsr") is None:
    pytest.skip("basicsr isn't installed: it can't be on Python 3.13", allow_module_level=True)

from stage1.benchmark._basicsr import MISSING, DiffJPEG, USMSharp, degradations


def test_the_module_that_basicsr_misses_is_there() -> None:
    grey = sys.modules[MISSING].rgb_to_grayscale(torch.tensor([1.0, 0, 0]).view(3, 1, 1), num_output_channels=1)
    assert grey.item() == pytest.approx(0.2989)


@pytest.mark.parametrize("size", [7, 13, 21])
@pytest.mark.parametrize("kind", range(6), ids=KINDS[:6])
def test_blurs_are_basicsrs(kind: int, size: int) -> None:
    name = ("bivariate_Gaussian", "bivariate_generalized_Gaussian", "bivariate_plateau")[kind // 2]
    shape = (size, 2.3, 0.6, 0.9, *([] if kind < 2 else [1.7]))
    theirs = getattr(degradations, name)(*shape, isotropic=kind % 2 == 0)
    ours = make_kernel(kind, size, 2.3, 0.6, 0.9, 1.7, 0)
    assert np.abs(ours.numpy() - theirs.astype(np.float32)).max() <= 2**-24


@pytest.mark.parametrize("omega", [math.pi / 3, 2.2, math.pi])
def test_the_sinc_is_basicsrs(omega: float) -> None:
    theirs = degradations.circular_lowpass_kernel(omega, 21).astype(np.float32)
    assert np.abs(make_kernel(SINC, 21, 0, 0, 0, 0, omega).numpy() - theirs).max() <= 2**-24


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 48), (43, 70)])
def test_nearest_chroma_is_basicsrs(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([37.5, 80.0])
    theirs = DiffJPEG(differentiable=False)(image, quality=quality.clone())
    differences = (nearest_jpeg(image, quality) - theirs).abs()
    assert differences.median() < 1e-6 and (differences > 1e-4).float().mean() < 0.01  # but for ties


def test_the_unsharp_mask_is_basicsrs() -> None:
    image = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    image[:, :, 20:40] = image[:, :, 20:40].mean()
    assert (unsharp(image, 0.5) - USMSharp()(image)).abs().max() < 1e-5
