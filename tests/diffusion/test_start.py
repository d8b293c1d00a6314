"""What sampling starts from: noise, or z_lr with less noise, or with none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings, sample
from deedsr.models.deedsr.sizes import model_size

VELOCITY = Process.from_config({**model_size("sd21").scheduler, "prediction_type": "v_prediction"})


def latents() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_a_late_start_noises_z_lr_to_the_first_time(name: str) -> None:
    z_lr, noise = latents()
    seen: list[tuple[int, Tensor]] = []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        seen.append((int(t[0]), x))
        return 0.5 * x

    sample(recorded, VELOCITY, z_lr, Settings(name, steps=4, start=0.5), noise)
    times = [time for time, _ in seen]
    assert len(seen) == 4
    assert 480 < times[0] < 520
    assert torch.allclose(seen[0][1], VELOCITY.noised(z_lr, noise, torch.tensor(times[:1]).expand(2)))


def test_a_start_may_be_without_noise() -> None:
    z_lr, noise = latents()
    seen: list[Tensor] = []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return 0.5 * x

    for share in (0.0, 0.5):
        sample(recorded, VELOCITY, z_lr, Settings(steps=1, start=0.5, noise=share), noise)
    first = VELOCITY.noised(z_lr, torch.zeros_like(noise), torch.tensor([499, 499]))
    assert torch.equal(seen[0], first)
    assert torch.allclose(seen[1], VELOCITY.noised(z_lr, 0.5 * noise, torch.tensor([499, 499])))
    sample(recorded, VELOCITY, z_lr, Settings(steps=1, noise=0.5), noise)
    assert torch.equal(seen[2], 0.5 * noise)


def test_a_late_start_of_a_flow_is_below_pure_noise() -> None:
    process = Process.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    z_lr, noise = latents()
    seen: list[tuple[Tensor, Tensor]] = []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        seen.append((t, x))
        return 0.5 * x

    sample(recorded, process, z_lr, Settings("euler", steps=4, start=0.5), noise)
    t, x = seen[0]
    sigma = float(t[0]) / 1000
    assert len(seen) == 4
    assert sigma == pytest.approx(0.694, abs=1e-3)  # the fifth of eight
    assert torch.allclose(x, (1 - sigma) * z_lr + sigma * noise)
