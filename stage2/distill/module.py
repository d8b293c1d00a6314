"""The LightningModule of `stage2.distill`: the sampler's result itself is compared with the ground truth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from deedsr.data.batch import Crops
from deedsr.devices import upload
from deedsr.diffusion.sampler import run
from deedsr.models.contract import Condition
from deedsr.training.optimizer import scheduled
from stage2.cache.samples import Samples
from stage2.module import DIFFUSION, RestorationRun


class Adversary(nn.Module):
    """A critic that tells latents of restored from those of real pictures (hinge loss, arXiv 1705.02894).

    It sees each beside the latent of the LR image, and judges patches. On latents it costs next to nothing, and tells
    the student to stay where the decoder knows its way.

    weight: of the student's term. width: channels of the critic's finest level. channels: of the latents.
    """

    def __init__(self, weight: float, width: int, channels: int) -> None:
        super().__init__()
        self.weight = weight
        layers: list[nn.Module] = []
        widths = [2 * channels, width, width, 2 * width, 2 * width, 2 * width]
        for (below, above), stride in zip(pairwise(widths), (1, 1, 2, 1, 2), strict=True):
            layers += [spectral_norm(nn.Conv2d(below, above, 3, stride, 1)), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, clean: Tensor, z: Tensor, z_lr: Tensor) -> dict[str, Tensor]:
        """The term of the student and that of the critic, of restored, real and LR latents (B, C, h, w)."""
        self.critic.requires_grad_(False)
        adversarial = -self.weight * self.judged(clean, z_lr).mean()
        self.critic.requires_grad_(True)
        real, restored = self.judged(z, z_lr), self.judged(clean.detach(), z_lr)
        critic = (functional.relu(1 - real) + functional.relu(1 + restored)).mean()
        return {"adversarial": adversarial, "critic": critic}

    def judged(self, latent: Tensor, z_lr: Tensor) -> Tensor:
        return self.critic(torch.cat([latent, z_lr], 1)).float()


class StudentRun(RestorationRun):
    """Samples as the model's defaults say, all steps with gradients, and compares the result with the ground truth.

    run: of `RestorationRun`; of the objective only the terms of fidelity count. adversary: weight, width, and lr, the
    critic's learning rate; None for none.
    """

    def __init__(self, adversary: dict[str, Any] | None, **run: Any) -> None:
        super().__init__(**run)
        torch.manual_seed(self.seed)  # the critic's first weights, too, are a function of it
        self.adversary = Adversary(adversary["weight"], adversary["width"], self.model.channels) if adversary else None
        self.critic_lr = adversary["lr"] if adversary else None

    def asks_null(self) -> bool:
        return super().asks_null() or self.model.guidance(self.model.defaults).scale != 1

    def saved(self) -> set[str]:
        return super().saved() | {name for name in self.state_dict() if name.startswith("adversary.")}

    def training_step(self, batch: Crops | Samples) -> Tensor:
        fidelity = self.objective.fidelity
        hr, z, condition = self.conditioned(batch, self.model.guidance(self.model.defaults))
        assert hr is not None and fidelity is not None
        clean = self.sampled(condition, self.generator(DIFFUSION))
        picture = self.model.decode(clean).float()
        terms = fidelity.latent(clean, z) | fidelity.picture(picture, hr, self.global_step)
        if self.adversary is not None:
            terms |= self.adversary(clean, z, condition.z_lr)
        return self.total(terms)

    def sampled(self, condition: Condition, generator: torch.Generator) -> Tensor:
        """What the sampler gives, (B, C, h, w), from noise that `generator` draws; differentiable."""
        model, z_lr = self.model, condition.z_lr
        noise = upload(torch.randn(z_lr.shape, generator=generator), z_lr.device).to(z_lr)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return model.denoise(x_t, t, condition).float()

        return run(denoise, model.process, z_lr, model.defaults, noise, generator)

    def configure_optimizers(self) -> dict:
        groups: list[dict[str, Any]] = [{"params": [parameter for _, parameter in self.model.trainable()]}]
        if self.adversary is not None:
            groups.append({"params": list(self.adversary.parameters()), "lr": self.critic_lr, "weight_decay": 0.0})
        return scheduled(groups, steps=self.steps, **self.optimizer_config)
