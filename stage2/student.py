"""The LightningModule of `stage2.distill`: the sampler's result itself is compared with the ground truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deedsr.diffusion.sampler import sample
from deedsr.models.base import Condition
from stage2.module import RestorationRun
from stage2.optimizer import adamw
from stage2.run import Batch


class Adversary(nn.Module):
    """A critic that tells restored from real pictures (hinge loss, arXiv 1705.02894), trained beside the student.

    The critic is the spectrally normalised U-Net of Real-ESRGAN (arXiv 2107.10833); it judges every pixel.
    weight: of the student's term. width: channels of the critic's finest level.
    """

    def __init__(self, weight: float, width: int) -> None:
        from basicsr.archs.discriminator_arch import UNetDiscriminatorSN  # deedsr.degradation makes basicsr importable

        super().__init__()
        self.weight = weight
        self.critic = UNetDiscriminatorSN(3, width)

    def forward(self, picture: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The term of the student and that of the critic, of pictures (B, 3, H, W) in [0, 1]."""
        self.critic.requires_grad_(False)
        adversarial = -self.weight * self.critic(picture).mean()
        self.critic.requires_grad_(True)
        real, restored = self.critic(hr), self.critic(picture.detach())
        critic = (functional.relu(1 - real) + functional.relu(1 + restored)).mean()
        return {"adversarial": adversarial, "critic": critic}


class StudentRun(RestorationRun):
    """Samples as the model's defaults say, all steps with gradients, and compares the result with the ground truth.

    run: of `RestorationRun`; of the objective only the terms of fidelity count. adversary: weight, width, and lr, the
    critic's learning rate; None for none.
    """

    def __init__(self, adversary: dict[str, Any] | None, **run: Any) -> None:
        super().__init__(**run)
        self.adversary = Adversary(adversary["weight"], adversary["width"]) if adversary else None
        self.critic_lr = adversary["lr"] if adversary else None

    def saved(self) -> set[str]:
        return super().saved() | {name for name in self.state_dict() if name.startswith("adversary.")}

    def training_step(self, batch: Batch) -> Tensor:
        fidelity = self.objective.fidelity
        hr, z, condition = self.conditioned(batch, self.model.defaults.text)
        assert hr is not None and fidelity is not None
        clean = self.sampled(condition, self.generator(2))
        picture = self.model.decode(clean).float()
        terms = fidelity.latent(clean, z) | fidelity.picture(picture, hr, self.global_step)
        if self.adversary is not None:
            terms |= self.adversary(picture, hr)
        return self.total(terms)

    def sampled(self, condition: Condition, generator: torch.Generator) -> Tensor:
        """What the sampler gives, (B, C, h, w), from noise that `generator` draws; differentiable."""
        model, z_lr = self.model, condition.z_lr
        noise = torch.randn(z_lr.shape, generator=generator).to(z_lr)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return model.denoise(x_t, t, condition).float()

        try:
            return sample(denoise, model.process, z_lr, model.defaults, noise, generator)
        except ValueError:  # a step gave NaN or inf
            raise self.broken("sampling gave NaN or inf") from None

    def configure_optimizers(self) -> dict:
        groups: list[dict[str, Any]] = [{"params": [parameter for _, parameter in self.model.trainable()]}]
        if self.adversary is not None:
            groups.append({"params": list(self.adversary.parameters()), "lr": self.critic_lr, "weight_decay": 0.0})
        return adamw(groups, steps=self.steps, **self.optimizer_config)
