"""The terms of stage 2's loss, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from omegaconf import DictConfig

from deedsr.degradation import Recipe
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings, sample
from deedsr.metrics.perceptual import shifted
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.deedsr.sizes import model_size
from stage2.module import RestorationRun
from stage2.objective import Fidelity, FidelityLoss, Objective, draw_times, local_energies, snr_weight, unevenness
from stage2.vector import Vector

CONFIG = model_size("sd21").scheduler
FLOW = Process.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
EPSILON, VELOCITY = (Process.from_config({**CONFIG, "prediction_type": kind}) for kind in ("epsilon", "v_prediction"))


def test_times_are_uniform_without_a_bias_and_noisier_with_one() -> None:
    plain = draw_times(EPSILON, 20_000, 1.0, torch.Generator().manual_seed(0)).double()
    noisy = draw_times(EPSILON, 20_000, 0.5, torch.Generator().manual_seed(0)).double()
    assert 0 <= plain.min() <= plain.max() <= 999
    assert plain.mean() == pytest.approx(499.5, abs=10)
    assert noisy.mean() == pytest.approx(1000 * 2 / 3 - 0.5, abs=10)  # density 2u on [0, 1)


def test_times_of_a_flow_are_real_and_may_be_logit_normal() -> None:
    """The quantiles that the shift of 3 gives: σ of 1, 25, 50, 75 and 99 % of the samples."""
    t = draw_times(FLOW, 200_000, "logit_normal", torch.Generator().manual_seed(0))
    levels = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=torch.float64)
    expected = torch.tensor([0.23, 0.61, 0.75, 0.86, 0.97], dtype=torch.float64)
    assert torch.allclose((t / 1000).quantile(levels), expected, atol=0.01)
    uniform = draw_times(FLOW, 20_000, 1.0, torch.Generator().manual_seed(0))
    assert 0 < uniform.min() < 1
    assert (uniform % 1).any()
    for process, word in ((FLOW, "cosine"), (EPSILON, "logit_normal")):
        with pytest.raises(ValueError, match=f"time_bias is '{word}'"):
            draw_times(process, 1, word, torch.Generator())


def test_the_error_can_be_weighted_by_the_noise(tiny_model: DeeDSR) -> None:
    generator = torch.Generator().manual_seed(0)
    z, noise, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    t = torch.tensor([700, 100])
    terms = Objective(weight="sigma_squared")(tiny_model, output, z, t, z, noise, None, step=1)
    error = (output - tiny_model.process.target(z, noise, t)).square().mean((1, 2, 3))
    assert torch.allclose(terms["mse"], (tiny_model.process.levels(t)[1].square() * error).mean().float())
    with pytest.raises(ValueError, match=r"objective\.weight 'heavy'; there are: plain, sigma_squared"):
        Objective(weight="heavy")


def test_min_snr_weights_are_those_of_the_paper() -> None:
    t = torch.tensor([10, 500, 990])
    snr = ((EPSILON.alphas / EPSILON.sigmas) ** 2)[t].float()
    limited = snr.clamp(max=5.0)
    assert torch.allclose(snr_weight(EPSILON, t, 5.0), limited / snr)
    assert torch.allclose(snr_weight(VELOCITY, t, 5.0), limited / (snr + 1))
    assert torch.equal(snr_weight(EPSILON, t, None), torch.ones(3))
    limited, odds = torch.tensor([5.0, 1.0, 1 / 81]), torch.tensor([9.0, 1.0, 1 / 9])  # (1−σ)/σ
    assert torch.allclose(snr_weight(FLOW, torch.tensor([100, 500, 900]), 5.0), limited / (1 + odds) ** 2)


@torch.no_grad()
def test_a_perfect_answer_costs_nothing_but_what_the_autoencoder_loses(tiny_model: DeeDSR) -> None:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, 32, 32, generator=generator)
    z = tiny_model.encode(hr)
    noise, t = torch.randn(z.shape, generator=generator), torch.tensor([700, 100])
    target = tiny_model.process.target(z, noise, t)
    objective = Objective(fidelity=Fidelity(latent=0.5, pixel=2.0, perceptual=0.0))
    x_t = tiny_model.process.noised(z, noise, t)
    terms = objective(tiny_model, target, x_t, t, z, noise, hr, step=2)
    assert terms.keys() == {"mse", "latent", "pixel"}
    assert terms["mse"] == 0
    assert terms["latent"] < 1e-5
    assert terms["pixel"] == pytest.approx(2 * float((tiny_model.decode(z) - hr).abs().mean()), rel=1e-3)
    assert objective(tiny_model, target, x_t, t, z, noise, None, step=1).keys() == {"mse", "latent"}
    assert objective(tiny_model, target, x_t, t, z, None, None, step=1).keys() == {"latent"}


@torch.no_grad()
def test_without_fidelity_it_is_the_plain_squared_error(tiny_model: DeeDSR) -> None:
    generator = torch.Generator().manual_seed(0)
    z, noise, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    t, hr = torch.tensor([700, 100]), torch.rand(2, 3, 32, 32, generator=generator)
    terms = Objective()(tiny_model, output, z, t, z, noise, hr, step=0)
    expected = (output - tiny_model.process.target(z, noise, t)).square().mean()
    assert terms.keys() == {"mse"}
    assert torch.allclose(terms["mse"], expected)


def test_rolling_out_without_fidelity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout=0.5 needs objective\.fidelity"):
        Objective(rollout=0.5)


@torch.no_grad()
def test_its_own_estimate_is_one_step_of_the_sampler(tiny_model: DeeDSR) -> None:
    generator = torch.Generator().manual_seed(0)
    lr, (noise, z_lr) = torch.rand(1, 3, 16, 16), torch.randn(2, 1, 4, 16, 16, generator=generator)
    condition = tiny_model.condition(lr, z_lr)
    run = RestorationRun(tiny_model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector())
    settings = Settings("ddim", steps=2)
    states = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        states.append((x, t))
        return tiny_model.denoise(x, t, condition)

    sample(denoise, tiny_model.process, z_lr, settings, noise)
    x, t = states[1]
    assert torch.allclose(run.rolled_out(noise, t, condition), x, atol=1e-5)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_grid_is_seen_from_all_its_places_whichever_steps_count(every: int) -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    seen = {(8 - view.shape[-2], 8 - view.shape[-1]) for view in (shifted(image, every * n) for n in range(100))}
    assert seen == {(top, left) for top in range(4) for left in range(4)}
    assert all(
        torch.equal(shifted(image, n), image[..., 8 - shifted(image, n).shape[-2] :, -shifted(image, n).shape[-1] :])
        for n in range(16)
    )


def test_a_grid_costs_more_as_edges_than_a_shade() -> None:
    """Both are .02 off everywhere: pixels can't tell them apart."""
    plain = torch.full((1, 3, 32, 32), 0.5)
    grid = plain + 0.04 * (torch.arange(32) % 2) - 0.02
    loss = FidelityLoss(Fidelity(latent=0.0, pixel=1.0, perceptual=0.0, edges=1.0))
    of_grid, of_shade = (loss.picture(made, plain, 0) for made in (grid, plain + 0.02))
    torch.testing.assert_close(of_grid["pixel"], of_shade["pixel"])
    torch.testing.assert_close(of_grid["edges"], torch.tensor(0.04))
    assert of_shade["edges"] < 1e-6


def test_chroma_is_told_from_brightness() -> None:
    """A darker grey costs nothing, a shift of red by .1 what it changes beside its luma."""
    truth = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    red = truth + torch.tensor([0.1, 0, 0]).view(1, 3, 1, 1)
    loss = FidelityLoss(Fidelity(latent=0.0, pixel=0.0, perceptual=0.0, chroma=2.0))
    costs = [loss.picture(made, truth, 0)["chroma"] for made in (truth - 0.2, red)]
    torch.testing.assert_close(torch.stack(costs), torch.tensor([0, 0.2 * (0.701 + 2 * 0.299) / 3]))


def test_soft_pictures_lack_energy_whatever_they_show() -> None:
    """Half the contrast is log(4) less energy, brighter or darker, and costs as much as twice the contrast."""
    truth = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fine = local_energies(truth)
    assert fine.shape == (1, 6, 15, 15)
    torch.testing.assert_close(
        fine - local_energies(truth / 2 + 0.3), torch.full_like(fine, math.log(4)), atol=0.1, rtol=0
    )
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) / 20
    of_colour, of_light = (
        local_energies(0.5 + kind)[:, 1:3].mean() for kind in (noise, noise[:, :1].expand(1, 3, -1, -1))
    )
    assert of_colour > of_light + 4, "noise of each colour by itself is no sharpness"
    loss = FidelityLoss(Fidelity(latent=0.0, pixel=0.0, perceptual=0.0, energy=1.0))
    costs = [loss.picture(made, truth, 0)["energy"] for made in (truth, truth / 2 + 0.3, 2 * truth - 0.5)]
    torch.testing.assert_close(torch.stack(costs), torch.tensor([0, math.log(4), math.log(4)]), atol=0.05, rtol=0)


def test_a_grid_is_told_from_what_there_is_to_see() -> None:
    """Stripes of every fourth column are uneven; slanted lines of the same strength are not, and a plane is not."""
    place = torch.arange(64.0)
    stripes = (0.5 + 0.1 * (place % 4 == 0)).expand(1, 3, 64, 64)
    lines = (0.5 + 0.1 * ((place + 3 * place[:, None]) % 7 == 0)).expand(1, 3, 64, 64)
    assert unevenness(stripes).shape == (1, 3, 3)
    assert float(unevenness(stripes).min()) > 0.5
    assert float(unevenness(lines).max()) < 0.05 > float(unevenness(torch.full((1, 3, 64, 64), 0.3)).max())
    loss = FidelityLoss(Fidelity(latent=0.0, pixel=0.0, perceptual=0.0, grid=1.0))
    assert loss.picture(stripes, lines, 0)["grid"] > 0.5
    assert loss.picture(lines, stripes, 0)["grid"] == 0 == loss.picture(lines, lines, 0)["grid"]
