"""The student: it learns what comes out of sampling, beside a critic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.diffusion.sampler import sample
from deedsr.models import load_model
from stage2 import distill
from stage2.fidelity import Fidelity, FidelityLoss
from stage2.student import Adversary
from stage2.train import assemble, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
QUICK = ["objective.fidelity.structure=0", "adversary.width=4", "optimizer.schedule=constant"]


@pytest.fixture
def config(
    composed: Composed, stage2_options: Options, tiny_model_folder: Path
) -> Callable[[Path, list[str]], DictConfig]:
    start = f"init={tiny_model_folder}"
    return lambda output, more: composed("distill", stage2_options(output, start, *QUICK, *more))


def distilled(cfg: DictConfig) -> Path:
    return train(cfg, distill.build)


def test_two_and_two_steps_equal_four(
    config: Callable, tmp_path: Path, power_cut: Callable, assert_same_runs: Callable
) -> None:
    distilled(config(tmp_path / "whole", ["steps=4"]))
    parts = config(tmp_path / "parts", ["steps=4", "checkpoint_every=2"])
    with power_cut(3, 64):
        distilled(parts)
    distilled(parts)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    kept = weights.load_checkpoint(tmp_path / "parts" / "last.ckpt")["state_dict"]
    assert any(name.startswith("adversary.critic.") for name in kept)
    assert all(name.startswith(("adversary.", "model.")) for name in kept)


def test_all_that_is_trained_changes_and_nothing_else(config: Callable, tmp_path: Path) -> None:
    cfg = config(tmp_path, ["steps=3", "optimizer.lr=0.01"])
    before = assemble(cfg).model.state_dict()
    after = load_model(distilled(cfg))
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in after.trainable()}


def test_the_student_samples_in_training_as_later_in_use(config: Callable, tmp_path: Path) -> None:
    """The latent that is compared is that of the sampler with the defaults in the header: steps, start, guidance."""
    numbers = "+model.overrides.defaults={steps:2,start:0.6,guidance:[0.3,1]}"
    cfg = config(tmp_path, ["steps=1", numbers, "adversary=null"])
    fresh = assemble(cfg)
    run = distill.build(cfg, fresh.model)
    seen = {}
    run.fidelity.latent = lambda clean, z: seen.update(clean=clean) or {"latent": clean.mean()}
    run.log = lambda *_, **__: None
    run.generator = lambda stream: torch.Generator().manual_seed(stream)
    hr = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    run.training_step(hr)
    settings = fresh.model.defaults
    assert (settings.steps, settings.start, settings.guidance.weight) == (2, 0.6, 0.3)
    assert fresh.header["defaults"]["start"] == 0.6
    made = run.degrade(hr, run.generator(1))
    model, z_lr = fresh.model, made["z_lr"]
    condition = model.condition(made["lr"].float() / 255, z_lr)
    noise = torch.randn(z_lr.shape, generator=run.generator(2))
    expected = sample(lambda x, t: model.denoise(x, t, condition), model.process, z_lr, settings, noise)
    assert torch.allclose(seen["clean"], expected, atol=1e-6)
    assert seen["clean"].requires_grad


def test_each_side_of_the_contest_learns_from_its_own_term() -> None:
    torch.manual_seed(0)
    adversary = Adversary(weight=0.5, width=4)
    picture = torch.rand(2, 3, 32, 32, requires_grad=True)
    terms = adversary(picture, torch.rand(2, 3, 32, 32))
    terms["adversarial"].backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adversary.parameters())
    picture.grad = None
    terms["critic"].backward()
    assert picture.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_the_critic_learns_to_tell_noise_from_stripes() -> None:
    torch.manual_seed(0)
    adversary = Adversary(weight=1.0, width=4)
    optimizer = torch.optim.Adam(adversary.parameters(), 2e-3)
    stripes = torch.arange(32).remainder(2).float().expand(4, 3, 32, 32)
    losses = []
    for _ in range(30):
        terms = adversary(torch.rand(4, 3, 32, 32), stripes)
        optimizer.zero_grad()
        terms["critic"].backward()
        optimizer.step()
        losses.append(float(terms["critic"].detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert adversary(stripes, stripes)["adversarial"] < adversary(torch.rand(4, 3, 32, 32), stripes)["adversarial"]


def test_terms_are_weighted_and_dists_comes_at_its_steps(needs_weights: Callable[[str], None]) -> None:
    one, other = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    plain = FidelityLoss(Fidelity(latent=0.5, pixel=2.0, perceptual=0.0))
    assert plain.latent(one, other) == {"latent": torch.tensor(0.25)}
    assert plain.picture(one, other, 4) == {"pixel": torch.tensor(1.0)}
    needs_weights("dists")
    loss = FidelityLoss(Fidelity(latent=0.5, pixel=2.0, perceptual=0.0, structure=3.0, structure_every=2))
    assert loss.picture(one, other, 4)["structure"] == 3 * loss.structure(one, other)
    assert "structure" not in loss.picture(one, other, 5)


def test_many_steps_are_refused(config: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in 5 steps, all of them with gradients; give it at most 4"):
        distilled(config(tmp_path, ["+model.overrides.defaults.steps=5"]))


def test_a_model_is_not_split_among_gpus(config: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't split a model among GPUs"):
        distilled(config(tmp_path, ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1"]))
