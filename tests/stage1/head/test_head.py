"""The head of a diagnosis: what it is told, and its fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr.degradation import Recipe, apply
from deedsr.degradation.kernels import make_kernel
from deedsr.degradation.operations import filter2d
from deedsr.geometry import SCALE
from deedsr.models.deedsr.folder import load_encoder
from deedsr.models.deedsr.head import DIAGNOSIS, ENCODER, from_scale, load_head
from deedsr.randomness import seeded
from stage1.from_config import train
from stage1.head.fit import fit, fit_and_judge, judge
from stage1.head.sharpness import RADIUS, SIDE, blur_of, disc, edge_sigma
from stage1.head.truth import Truth, direct, drawn
from stage1.probe.exam import single_recipes

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def hr() -> torch.Tensor:
    """Twelve smooth colour crops, uint8 (12, 3, 64, 64)."""
    small = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, size=64, mode="bicubic", align_corners=False)
    return ((0.2 + 0.6 * large).clamp(0, 1) * 255).byte()


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_the_blur_of_a_gaussian_is_its_sigma(sigma: float) -> None:
    kernel = make_kernel(0, 61, sigma * SCALE, sigma * SCALE, 0, 0, 0)
    blurred = filter2d(disc(SIDE * SCALE, RADIUS * SCALE), kernel)
    lr = torch.nn.functional.avg_pool2d(blurred, SCALE)
    assert float(edge_sigma(lr)) == pytest.approx((sigma**2 + 0.29**2) ** 0.5, rel=0.04)


def test_the_blur_of_a_degradation_is_that_of_its_kernel_in_lr_pixels() -> None:
    drawn_blur = single_recipes()["blur"].sample(seeded(0), 60)
    wide = (drawn_blur.sigma_x[:, 0] > 1.2) & (drawn_blur.kernel_size[:, 0] > 6 * drawn_blur.sigma_x[:, 0])
    assert wide.any()
    kernel, measured = drawn_blur.sigma_x[wide, 0] / SCALE, blur_of(drawn_blur)[wide]
    averaged = (kernel.square() + 0.3**2).sqrt()  # where the resize to LR averages over each pixel
    assert ((measured > kernel - 0.03) & (measured < averaged + 0.03)).all()


def test_blur_does_not_hang_on_noise_and_jpeg() -> None:
    heavy = Recipe.named("heavy").sample(seeded(1), 4)
    assert torch.equal(blur_of(heavy), blur_of(heavy.without("noise_sigma", "poisson_scale", "quality")))


def test_what_is_said_of_drawn_degradations(hr: torch.Tensor) -> None:
    truth = drawn(hr, Recipe.named("varied"), 3)
    degradation = Recipe.named("varied").sample(seeded(3), len(hr))
    assert torch.equal(truth.pictures, (apply(hr.float() / 255, degradation) * 255).round().byte())
    noiseless = ~(degradation.noise_sigma.any(1) | degradation.poisson_scale.any(1))
    assert noiseless.any()
    assert torch.equal(truth.values[:, 1] == 0, noiseless)
    last = degradation.quality[:, 1]
    assert torch.equal(truth.values[last > 0, 2], last[last > 0])
    assert (truth.values[~degradation.quality.any(1), 2] == 100).all()
    assert torch.equal(truth.level, degradation.level)


def test_what_is_said_of_direct_damage(hr: torch.Tensor) -> None:
    truth = direct(hr.repeat(8, 1, 1, 1), 5)
    assert truth.pictures.shape == (96, 3, 16, 16)
    blur, noise, jpeg = truth.values.T
    clean = (blur < 0.35) & (noise == 0) & (jpeg == 100)
    assert 0 < int(clean.sum()) < 40
    assert (truth.level[clean] == 0).all()
    assert torch.equal(truth.level == 0, (blur <= 1.2) & (noise <= 15) & (jpeg >= 60))
    assert torch.equal(truth.level == 2, (blur > 1.6) | (noise > 22.5) | (jpeg < 45))
    assert float(noise.max()) > 15
    assert float(blur.max()) > 1.5
    assert float(jpeg.min()) < 40
    assert torch.equal(direct(hr, 5).pictures, truth.pictures[:12]), "a row depends on its number alone"


@pytest.fixture(scope="module")
def told() -> tuple[torch.Tensor, Truth, torch.Tensor]:
    """Vectors of which the scaled quantities are linear functions, with noise that grows with another component."""
    generator = torch.Generator().manual_seed(6)
    vectors = torch.randn(1500, 12, generator=generator)
    noise = torch.randn(1500, 3, generator=generator) * (0.5 * vectors[:, :1]).exp() * torch.tensor([0.15, 0.15, 0.1])
    scaled = torch.tensor([1.0, 2.5, 3.5]) + torch.tensor([0.5, 0.5, 0.3]) * vectors[:, 1:4] + noise
    level = (vectors[:, 4] > 0).long() * 2
    return vectors, Truth(torch.empty(1500, 0), from_scale(scaled, noise)[0], level), torch.arange(1500) % 5 == 4


def test_a_head_finds_what_is_in_the_vector_and_how_sure_that_is(
    told: tuple[torch.Tensor, Truth, torch.Tensor],
) -> None:
    vectors, truth, held = told
    head = fit(vectors, truth, held, epochs=80, lr=3e-3, hidden=16, seed=0)
    report = judge(head, vectors[held], Truth(truth.pictures[held], truth.values[held], truth.level[held]))
    for name in ("blur", "noise", "jpeg"):
        assert report[name]["r2"] > 0.75, name
        assert 0.58 < report[name]["within_1_std"] < 0.8, name
        assert 0.9 < report[name]["within_2_std"] < 0.99, name
    assert report["level"] > 0.9
    _, std, _ = head(vectors)
    quiet, loud = vectors[:, 0] < -0.7, vectors[:, 0] > 0.7
    assert (std[loud].mean(0) > 1.2 * std[quiet].mean(0)).all()


def test_strange_vectors_are_told(
    told: tuple[torch.Tensor, Truth, torch.Tensor],
) -> None:
    vectors, truth, held = told
    head = fit(vectors, truth, held, epochs=2, lr=3e-3, hidden=16, seed=0)
    assert 0 < float((head.strangeness(vectors[held]) > 1).float().mean()) < 0.02
    assert (head.strangeness(vectors + 6) > 1).all()
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in head.state_dict().values()), "as it is stored"
    lengths = torch.linalg.vecdot(vectors - head.mean, (vectors - head.mean) @ vectors[~held].T.cov().inverse()).sqrt()
    assert torch.allclose(head.strangeness(vectors), lengths / lengths[held].quantile(0.99), rtol=0.02)


def test_the_command_writes_a_small_head_that_loads(tiny: Compose, tmp_path: Path) -> None:
    file = train(tiny(tmp_path, "steps=2"))
    assert file.name == ENCODER
    output = tmp_path / DIAGNOSIS
    overrides = [f"weights={file}", f"output={output}", "crop=64", "crops=5", "epochs=2"]
    report = fit_and_judge(tiny(tmp_path, *overrides, config="head"))
    assert report.keys() >= {"drawn", "direct"}
    assert output.stat().st_size < 200_000
    head = load_head(output, load_encoder(file))
    assert head.vector == load_encoder(file).dimension
    assert torch.isfinite(head.widen).all()
    assert head.judges
    with pytest.raises(ValueError, match=r"none\.safetensors"):
        fit_and_judge(tiny(tmp_path, f"weights={tmp_path / 'none.safetensors'}", f"output={output}", config="head"))
