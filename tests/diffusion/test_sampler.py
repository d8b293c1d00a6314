"""Our one loop against diffusers' schedulers driven by hand, and what noise guidance promises."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.diffusion.guidance import NoiseGuidance
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings, make_scheduler, sample
from deedsr.models.deedsr.sizes import model_size

CONFIG = model_size("sd21").scheduler
EPSILON, VELOCITY = (Process.from_config({**CONFIG, "prediction_type": kind}) for kind in ("epsilon", "v_prediction"))
FLOW = Process.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler"})


def network(x: Tensor, t: Tensor) -> Tensor:
    """Some smooth function of both."""
    return torch.tanh(x * 0.7 + t.view(-1, 1, 1, 1).to(x) / 1000)


def latents(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("process", [EPSILON, VELOCITY, FLOW], ids=lambda process: process.prediction)
def test_predictions_and_clean_images_are_inverse(process: Process) -> None:
    x0, noise = latents()
    t = torch.tensor([900, 30])
    x_t = process.noised(x0, noise, t)
    output = process.target(x0, noise, t)
    assert torch.allclose(process.clean(output, x_t, t), x0)
    assert torch.allclose(process.output(x0, x_t, t), output)


def test_velocity_is_the_rotation_of_noise_and_image() -> None:
    x0, noise = latents()
    t = torch.tensor([400, 400])
    alpha, sigma = VELOCITY.alphas[400], VELOCITY.sigmas[400]
    assert torch.allclose(alpha**2 + sigma**2, torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(VELOCITY.target(x0, noise, t), alpha * noise - sigma * x0)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'sample'"):
        Process.from_config({**CONFIG, "prediction_type": "sample"})


def by_hand(kind: type, process: Process, spacing: str, steps: int, noise: Tensor, **step: object) -> Tensor:
    """A stock scheduler driven as its documentation says."""
    config = {key: value for key, value in process.config.items() if key != "_class_name"}
    scheduler = kind.from_config({**config, "timestep_spacing": spacing})
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, time)
        x = scheduler.step(network(model_input, time.expand(2)), time, x, **step).prev_sample
    return x


@pytest.mark.parametrize("process", [EPSILON, VELOCITY], ids=lambda process: process.prediction)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 25, 50])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddim", diffusers.DDIMScheduler),
        ("dpm++", diffusers.DPMSolverMultistepScheduler),
        ("unipc", diffusers.UniPCMultistepScheduler),
    ],
)
def test_without_guidance_the_loop_is_diffusers(
    process: Process, spacing: str, steps: int, name: str, kind: type
) -> None:
    z_lr, noise = latents()
    ours = sample(network, process, z_lr, Settings(name, steps=steps, spacing=spacing), noise)
    theirs = by_hand(kind, process, spacing, steps, noise)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_added_noise_is_that_of_diffusers() -> None:
    """The reference preset without its guidance: 50 steps, η = 1, leading."""
    z_lr, noise = latents()
    settings = Settings.from_dict({**model_size("sd21").defaults, "guidance": [0.0, 0]})
    ours = sample(network, EPSILON, z_lr, settings, noise, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    theirs = by_hand(diffusers.DDIMScheduler, EPSILON, "leading", 50, noise, eta=1.0, generator=generator)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("process", [EPSILON, VELOCITY], ids=lambda process: process.prediction)
@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_every_step_hands_out_its_clean_image(process: Process, name: str) -> None:
    z_lr, noise = latents()
    answers: list[tuple[int, Tensor]] = []
    seen: list[tuple[int, Tensor]] = []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        output = network(x, t)
        answers.append((int(t[0]), process.clean(output, x, t)))
        return output

    settings = Settings(name, steps=4, guidance=NoiseGuidance(0.25, 1))
    sample(recorded, process, z_lr, settings, noise, on_step=lambda time, clean: seen.append((time, clean)))
    assert [time for time, _ in seen] == [time for time, _ in answers]
    assert torch.allclose(seen[0][1], 0.75 * answers[0][1] + 0.25 * z_lr)
    assert torch.allclose(seen[3][1], answers[3][1])


def test_ddim_without_noise_is_the_closed_form() -> None:
    """x_s = α_s x̂0 + σ_s ε̂."""
    z_lr, noise = latents()
    result = sample(network, EPSILON, z_lr, Settings("ddim", steps=5), noise)
    times = make_scheduler(EPSILON, Settings("ddim", steps=5)).timesteps.tolist()
    x = noise
    for time, after in zip(times, [*times[1:], None], strict=True):
        t = torch.tensor([time, time])
        epsilon = network(x, t)
        clean = EPSILON.clean(epsilon, x, t)
        last = EPSILON.alphas[0], EPSILON.sigmas[0]  # set_alpha_to_one is off
        alpha, sigma = last if after is None else (EPSILON.alphas[after], EPSILON.sigmas[after])
        x = alpha * clean + sigma * epsilon
    assert torch.allclose(result, x, atol=1e-6)


def test_the_reference_preset_visits_981_to_1() -> None:
    settings = Settings.from_dict(model_size("sd21").defaults)
    assert make_scheduler(EPSILON, settings).timesteps.tolist() == list(range(981, 0, -20))
    assert (settings.eta, settings.guidance) == (1.0, NoiseGuidance(1.0, 1))


def test_few_steps_start_at_the_noisiest_time() -> None:
    for steps in (1, 4, 8):
        assert make_scheduler(EPSILON, Settings(steps=steps)).timesteps[0] == 999


def test_the_reference_guidance_replaces_the_first_answer_and_saves_the_call() -> None:
    z_lr, noise = latents()
    asked: list[int] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return network(x, t)

    settings = Settings("ddim", steps=50, spacing="leading", guidance=NoiseGuidance(1.0, 1))
    result = sample(counted, EPSILON, z_lr, settings, noise)
    assert asked == list(range(961, 0, -20))
    alpha, sigma = EPSILON.alphas[981], EPSILON.sigmas[981]
    epsilon = (noise - alpha * z_lr) / sigma
    x = EPSILON.alphas[961] * z_lr + EPSILON.sigmas[961] * epsilon
    scheduler = make_scheduler(EPSILON, settings)
    for time in scheduler.timesteps[1:]:
        x = scheduler.step(network(x, time.expand(2)), time, x).prev_sample
    assert torch.allclose(result, x, atol=1e-6)


@pytest.mark.parametrize("process", [EPSILON, VELOCITY], ids=lambda process: process.prediction)
def test_full_guidance_to_the_end_gives_z_lr_without_asking(process: Process) -> None:
    z_lr, noise = latents()

    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    settings = Settings("ddim", steps=6, guidance=NoiseGuidance(1.0, 6))
    result = sample(never, process, z_lr, settings, noise)
    expected = process.alphas[0] * z_lr
    assert (result - expected).abs().max() < 5 * process.sigmas[0]


def test_a_part_of_guidance_blends_clean_images() -> None:
    z_lr, noise = latents()
    t = torch.tensor([700, 700])
    guided = NoiseGuidance(0.25, 2).guide(network, VELOCITY, noise, t, z_lr, index=1)
    blend = 0.75 * VELOCITY.clean(network(noise, t), noise, t) + 0.25 * z_lr
    assert torch.allclose(VELOCITY.clean(guided, noise, t), blend)
    assert torch.equal(NoiseGuidance(0.25, 2).guide(network, VELOCITY, noise, t, z_lr, index=2), network(noise, t))


def test_added_noise_follows_the_generator() -> None:
    z_lr, noise = latents()
    settings = Settings("ddim", steps=4, eta=1.0)
    first, again, other = (
        sample(network, EPSILON, z_lr, settings, noise, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nan_stops_with_the_step() -> None:
    z_lr, noise = latents()
    with pytest.raises(ValueError, match="step 1 of 3 gave NaN"):
        sample(lambda x, t: x * float("nan"), EPSILON, z_lr, Settings(steps=3), noise)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "heun"}, "'heun'.*ddim, dpm"),
        ({"steps": 0}, "at least 1, not 0"),
        ({"start": 0.0}, "start must be"),
        ({"noise": 1.5}, "noise must be 0 to 1, not 1.5"),
        ({"noise": 0.0}, "noise 0 leaves 50 steps nothing to begin with: start below 1.0"),
        ({"noise": 0.0, "start": 0.9, "steps": 1}, "noise 0 leaves 1 steps nothing to begin with: start below 0.9"),
        ({"tile": 0}, "tile must be a number of pixels, not 0"),
        ({"spacing": "x"}, "'x'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_guidance_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], not 1.5"):
        NoiseGuidance(1.5, 1)
    with pytest.raises(ValueError, match="-1 steps"):
        NoiseGuidance(1.0, -1)


def test_a_flow_has_real_times_up_to_pure_noise() -> None:
    x0, noise = latents()
    assert (FLOW.last, EPSILON.last) == (1000, 999)
    assert torch.equal(FLOW.noised(x0, noise, torch.tensor([1000, 1000])), noise)
    t = torch.tensor([250.5, 250.5])
    assert torch.allclose(FLOW.noised(x0, noise, t), 0.7495 * x0 + 0.2505 * noise)


@pytest.mark.parametrize("steps", [1, 4, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_diffusers_and_the_closed_form(steps: int, shift: float) -> None:
    """x_s = α(s)·x̂0 + σ(s)·ε̂ = x_t + (σ(s) − σ(t))·u."""
    process = Process.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift})
    z_lr, noise = latents()
    ours = sample(network, process, z_lr, Settings("euler", steps=steps), noise)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    theirs, closed = noise, noise
    for index, time in enumerate(scheduler.timesteps):
        theirs = scheduler.step(network(theirs, time.expand(2)), time, theirs).prev_sample
        t, after = time.expand(2), scheduler.sigmas[index + 1]
        clean = process.clean(network(closed, t), closed, t)
        epsilon = network(closed, t) + clean
        closed = (1 - after) * clean + after * epsilon
    assert torch.equal(ours, theirs)
    assert (ours - closed).norm() / closed.norm() < 1e-6


@pytest.mark.parametrize(("process", "name", "other"), [(FLOW, "ddim", "euler"), (EPSILON, "euler", "ddim or dpm")])
def test_a_sampler_of_another_process_is_refused(process: Process, name: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not of this model; choose {other}"):
        make_scheduler(process, Settings(name))


def test_settings_come_from_plain_values() -> None:
    settings = Settings.from_dict({"sampler": "euler", "text": [8.0, 0.5, 0.9], "guidance": [0.5, 2]})
    assert settings == Settings("euler", guidance=NoiseGuidance(0.5, 2), text=FreeGuidance(8.0, 0.5, 0.9))


@pytest.mark.parametrize("steps", [61, 103, 244])
def test_no_step_goes_below_the_cleanest_time(steps: int) -> None:
    """diffusers makes one time too many of these numbers, at −1."""
    times = make_scheduler(EPSILON, Settings("ddim", steps=steps)).timesteps
    assert len(times) == steps and int(times.min()) >= 0
    for sampler in ("dpm++", "unipc"):
        with pytest.raises(ValueError, match=f"can't spread {steps} times evenly; choose another number of steps"):
            make_scheduler(EPSILON, Settings(sampler, steps=steps))


def test_steps_that_do_not_fit_into_a_part_of_the_noise_levels_are_refused() -> None:
    assert len(make_scheduler(EPSILON, Settings("ddim", steps=250, start=0.25)).timesteps) == 1000
    with pytest.raises(ValueError, match=r"251 steps were asked for, but the process has only 250 from 0\.25"):
        make_scheduler(EPSILON, Settings("ddim", steps=251, start=0.25))


def test_latents_are_never_clipped() -> None:
    """DDIM would, unless it is told not to, and schedulers of other kinds don't say."""
    config = {name: value for name, value in CONFIG.items() if name != "clip_sample"}
    process = Process.from_config({**config, "_class_name": "EulerDiscreteScheduler"})
    assert not make_scheduler(process, Settings("ddim", steps=5)).config.clip_sample
