"""The student: it learns what comes out of sampling, beside a critic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.coherence import coherent
from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.diffusion.sampler import sample
from deedsr.geometry import upsample
from deedsr.metrics.perceptual import shifted
from deedsr.models import load_model
from deedsr.models.card import KEY
from deedsr.training.fit import fit
from deedsr.training.photographs import Photographs
from deedsr.training.run import BAD_BATCH
from stage2.distill import student as distill
from stage2.distill.adversary import NOISE, Adversary
from stage2.from_config import train, trainable_model
from stage2.objective import Fidelity, FidelityLoss

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
    return train(cfg, distill.student_run)


def test_two_and_two_steps_equal_four(
    config: Callable, tmp_path: Path, power_cut: Callable, assert_same_runs: Callable
) -> None:
    distilled(config(tmp_path / "whole", ["steps=4"]))
    parts = config(tmp_path / "parts", ["steps=4", "checkpoint_every=2"])
    with power_cut(3, 64):
        distilled(parts)
    distilled(parts)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    kept = weights.load_checkpoint(tmp_path / "parts" / "last.ckpt")["state_dict"].keys()
    trained = {f"model.{name}" for name, _ in load_model(tmp_path / "parts" / "model").trainable()}
    assert {name for name in kept if name.startswith("model.")} == trained
    assert {name.split(".")[0] for name in kept} == {"adversary", "model"}


def test_a_run_of_before_there_was_a_choice_of_critics_goes_on(config: Callable, tmp_path: Path) -> None:
    distilled(config(tmp_path, ["steps=1"]))
    checkpoint = weights.load_checkpoint(tmp_path / "last.ckpt")
    for word in ("of", "rise"):
        del checkpoint[KEY]["configuration"]["adversary"][word]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    (tmp_path / "old.ckpt").replace(tmp_path / "last.ckpt")  # which is still being read from
    with pytest.raises(ValueError, match=r"of another run: adversary\.of: latents → pixels; "):
        distilled(config(tmp_path, ["steps=2", "adversary.of=pixels"]))
    distilled(config(tmp_path, ["steps=2"]))
    assert weights.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


def test_the_critic_begins_as_the_seed_says(config: Callable, tmp_path: Path) -> None:
    model = load_model("built-in")
    critics = []
    for seed in (2, 2, 3):
        torch.rand(1)  # whatever was drawn before
        run = distill.student_run(config(tmp_path, [f"seed={seed}"]), model)
        critics.append(torch.cat([parameter.flatten() for parameter in run.adversary.parameters()]))
    assert torch.equal(critics[0], critics[1])
    assert not torch.equal(critics[0], critics[2])


def test_guidance_by_the_degradation_trains_the_null_vector(config: Callable, tmp_path: Path) -> None:
    model = load_model("built-in")
    for scale in (1, 2):
        model.defaults = model.defaults.with_(degradation=FreeGuidance(scale))
        model.freeze()
        distill.student_run(config(tmp_path, ["vector.dropout=0"]), model)
        assert model.adapter.null.requires_grad == (scale == 2)


def test_all_that_is_trained_changes_and_nothing_else(config: Callable, tmp_path: Path) -> None:
    cfg = config(tmp_path, ["steps=3", "optimizer.lr=0.01", "trainer.precision=bf16-mixed"])
    run = distill.student_run(cfg, trainable_model(cfg).model)
    before = {name: value.clone() for name, value in run.state_dict().items()}
    fit(cfg, run, Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data), tmp_path, cfg.steps)
    changed = {name for name, value in run.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("model.")} == run.saved() & {
        f"model.{name}" for name, _ in run.model.trainable()
    }
    assert {name.split(".")[0] for name in changed} == {"adversary", "model"}


def test_the_student_samples_in_training_as_later_in_use(config: Callable, tmp_path: Path) -> None:
    """What is compared is what the restorer's sampler gives with the defaults in the header: steps, start and more."""
    numbers = "+model.overrides.defaults={steps:2,start:0.6,guidance:[0.3,1],coherence:1}"
    cfg = config(tmp_path, ["steps=1", numbers, "adversary=null"])
    trainable = trainable_model(cfg)
    run, model, settings = distill.student_run(cfg, trainable.model), trainable.model, trainable.model.defaults
    assert (settings.steps, settings.start, settings.guidance.weight) == (2, 0.6, 0.3)
    assert trainable.header["defaults"]["start"] == 0.6
    lr = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    z_lr = model.encode(upsample(lr))
    condition = model.condition(lr, z_lr)
    clean = run.sampled(condition, torch.Generator().manual_seed(2))
    noise = torch.randn(z_lr.shape, generator=torch.Generator().manual_seed(2))
    expected = sample(lambda x, t: model.denoise(x, t, condition), model.process, z_lr, settings, noise)
    assert torch.allclose(clean, expected, atol=1e-6)
    picture = run.finished(clean)
    assert torch.equal(picture, coherent(model.decode(clean), 1)) and not torch.equal(picture, model.decode(clean))
    picture.square().mean().backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable())


def test_what_can_not_be_sampled_keeps_its_batch(config: Callable, tmp_path: Path) -> None:
    cfg = config(tmp_path, ["steps=1"])
    run = distill.student_run(cfg, trainable_model(cfg).model)
    with torch.no_grad():
        next(iter(run.model.trainable()))[1].fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0: .*this batch is in .*bad_batch"):
        fit(cfg, run, Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data), tmp_path, cfg.steps)
    assert (tmp_path / BAD_BATCH).is_file()


def test_each_side_of_the_contest_learns_from_its_own_term() -> None:
    torch.manual_seed(0)
    adversary = Adversary(weight=0.5, width=4, channels=3)
    clean, z_lr = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    terms = adversary(clean, torch.randn(2, 3, 16, 16), z_lr, torch.Generator())
    terms["adversarial"].backward()
    assert clean.grad is not None and clean.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in adversary.parameters())
    clean.grad = None
    terms["critic"].backward()
    assert clean.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_a_critic_of_pixels_learns_beside_the_student_and_its_weight_rises(config: Callable, tmp_path: Path) -> None:
    words = ["adversary.of=pixels", "adversary.rise=4", "steps=3", "optimizer.lr=0.01"]
    cfg = config(tmp_path, words)
    run = distill.student_run(cfg, trainable_model(cfg).model)
    before = {name: value.clone() for name, value in run.adversary.state_dict().items()}
    fit(cfg, run, Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data), tmp_path, cfg.steps)
    assert any(not torch.equal(value, before[name]) for name, value in run.adversary.state_dict().items())
    pair = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), torch.zeros(2, 3, 4, 4)
    terms = [run.adversary(*pair, torch.Generator(), step)["adversarial"] for step in (0, 2, 4, 9)]
    assert terms[0] == 0 and torch.allclose(2 * terms[1], terms[2]) and terms[2] == terms[3] != 0


def test_a_critic_of_something_else_is_refused(config: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown adversary\.of 'sounds'; choose one of latents, pixels"):
        distilled(config(tmp_path, ["adversary.of=sounds"]))


def contest(real: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Adversary, list[float]]:
    """A critic after a few steps of telling `real`(z_lr) from noise, and its losses."""
    torch.manual_seed(0)
    adversary = Adversary(weight=1.0, width=8, channels=3)
    optimizer = torch.optim.Adam(adversary.parameters(), 4e-3)
    losses = []
    for _ in range(60):
        z_lr = torch.randn(4, 3, 16, 16)
        terms = adversary(torch.randn(4, 3, 16, 16), real(z_lr), z_lr, torch.Generator())
        optimizer.zero_grad()
        terms["critic"].backward()
        optimizer.step()
        losses.append(float(terms["critic"].detach()))
    return adversary, losses


def test_the_critic_learns_to_tell_noise_from_stripes() -> None:
    stripes = torch.arange(16).remainder(2).float().expand(4, 3, 16, 16)
    adversary, losses = contest(lambda z_lr: stripes)
    assert losses[-1] < 0.5 * losses[0]
    noise, chance = torch.randn(4, 3, 16, 16), torch.Generator()
    worse = adversary(noise, stripes, noise, chance)["adversarial"]
    assert adversary(stripes, stripes, noise, chance)["adversarial"] < worse


def test_the_critic_sees_whether_a_latent_belongs_to_its_lr() -> None:
    """Alone, real and restored are the same noise."""
    _, losses = contest(lambda z_lr: z_lr)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("shown", ["combed", "soft"])
def test_a_critic_of_pixels_makes_much_of_little(shown: str) -> None:
    """Real pictures, and the same with a comb of a hundredth, or a fifth softer: it tells others of them apart.

    Noise, which it must not care for, moves it by little beside that.
    """
    torch.manual_seed(0)
    adversary = Adversary(weight=1.0, width=8, channels=3, of="pixels")
    optimizer = torch.optim.Adam(adversary.parameters(), 1e-3)
    comb, chance = 0.01 * torch.arange(32).remainder(2).float(), torch.Generator().manual_seed(0)
    spoil = {"combed": lambda real: real + comb, "soft": lambda real: real.lerp(coarser(real, 3), 0.2)}[shown]
    for _ in range(40):
        real = coarser(torch.rand(4, 3, 32, 32), 5)
        loss = adversary(spoil(real), real, real, chance)["critic"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real = coarser(torch.rand(4, 3, 32, 32), 5)
    with torch.no_grad():
        apart = adversary.critic(real) - adversary.critic(spoil(real))
        moved = adversary.critic(real) - adversary.critic(real + NOISE * torch.randn(real.shape, generator=chance))
    assert (apart > 0).float().mean() > 0.8
    assert moved.square().mean() < apart.square().mean()


def coarser(picture: torch.Tensor, side: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(picture, side, 1, side // 2, count_include_pad=False)


def test_terms_are_weighted_and_dists_comes_at_its_steps(needs_weights: Callable[[str], None]) -> None:
    one, other = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    plain = FidelityLoss(Fidelity(latent=0.5, pixel=2.0, perceptual=0.0))
    assert plain.latent(one, other) == {"latent": torch.tensor(0.25)}
    assert plain.picture(one, other, 4) == {"pixel": torch.tensor(1.0)}
    needs_weights("dists")
    loss = FidelityLoss(Fidelity(latent=0.5, pixel=2.0, perceptual=0.0, structure=3.0, structure_every=2))
    assert loss.picture(one, other, 4)["structure"] == 3 * loss.structure(shifted(one, 4), shifted(other, 4))
    assert "structure" not in loss.picture(one, other, 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.overrides.defaults.steps=5", "5 steps, all of them with gradients, are too many: .* at most 4"),
        ("+model.overrides.defaults.guidance=[1,1]", "weight 1 for 1 of 1 steps never asks the network"),
        ("+model.overrides.defaults.sampler=euler", "'euler' is not of this model"),
        ("objective.fidelity=null", r"distilling needs objective\.fidelity"),
    ],
)
def test_what_can_not_be_learned_is_refused(config: Callable, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distilled(config(tmp_path, [override]))


def test_a_model_is_not_split_among_gpus(config: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't split a model among GPUs"):
        distilled(config(tmp_path, ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1"]))
